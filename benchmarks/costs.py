"""What a save costs: the time its caller is held, the time until it is durable, the bytes."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import disk
import timing
from table import SaverRow, megabytes


class Saver(Protocol):
    """A way to save."""

    name: str
    path: Path
    """Where its files go: a file, or a directory."""

    def prepare(self) -> None:
        """What comes before a save and is not part of it."""

    def save(self) -> None:
        """Save; return as soon as the caller may go on and change what is saved."""

    def finish(self) -> None:
        """Return when everything is durable."""

    def clean(self) -> None:
        """Remove what the next save does not need."""


@dataclass(frozen=True)
class Cost:
    """One save."""

    stall_seconds: float
    durable_seconds: float
    cpu_seconds: float
    num_bytes: int


@dataclass
class Costs:
    """What one saver needed, round by round."""

    name: str
    samples: list[Cost] = field(default_factory=list)

    @property
    def stall(self) -> float:
        """Median time that the caller is held, in seconds."""
        return self._median("stall_seconds")

    @property
    def durable(self) -> float:
        """Median time until everything is on the disk, in seconds."""
        return self._median("durable_seconds")

    @property
    def num_bytes(self) -> float:
        """Median bytes written."""
        return self._median("num_bytes")

    def shown(self, key: str) -> str:
        """A time as text: the median, and the best."""
        return f"{timing.duration(self._median(key))} (best {timing.duration(self.least(key))})"

    def least(self, key: str) -> float:
        """The best of a time, in seconds."""
        return min(getattr(sample, key) for sample in self.samples)

    def row(self, work: str) -> SaverRow:
        """Everything measured of this saver."""
        return SaverRow(
            work,
            self.name,
            self.shown("stall_seconds"),
            self.shown("durable_seconds"),
            timing.duration(self._median("cpu_seconds")),
            megabytes(self.num_bytes),
        )

    def _median(self, key: str) -> float:
        return statistics.median(getattr(sample, key) for sample in self.samples)


def measure(saver: Saver) -> Cost:
    """One save, from a disk at rest until everything is durable.

    Bytes are what the process sent to the disk, or what the new files occupy on it, whichever is
    more: the first misses what a file system writes by itself, the second what was overwritten.
    """
    saver.prepare()
    before = disk.blocks(saver.path)
    os.sync()
    gc.collect()
    written, cpu, start = disk.written(), time.process_time(), time.perf_counter()
    saver.save()
    stall = time.perf_counter() - start
    saver.finish()
    durable, used = time.perf_counter() - start, time.process_time() - cpu
    written = disk.written() - written
    new = sum(size for inode, size in disk.blocks(saver.path).items() if inode not in before)
    saver.clean()
    return Cost(stall, durable, used, max(written, new))


def take_turns(
    savers: Sequence[Saver], rounds: int, advance: Callable[[], Any] = timing.nothing
) -> list[Costs]:
    """Let every saver save the same state in each round, after one round that does not count.

    Args:
        savers: In each round another one begins.
        rounds: How many count.
        advance: Changes the state before each round.
    """
    found = [Costs(saver.name) for saver in savers]
    for number in range(rounds + 1):
        advance()
        order = [(number + place) % len(savers) for place in range(len(savers))]
        for place in order:
            cost = measure(savers[place])
            if number:
                found[place].samples.append(cost)
    return found


def best(costs: Sequence[Costs], key: str) -> Costs:
    """The one whose median is least."""
    return min(costs, key=lambda item: getattr(item, key))

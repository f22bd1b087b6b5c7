"""How long something takes: several rounds in which everything measured takes its turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def nothing() -> None:
    """Nothing to prepare, or to clean up."""


@dataclass(frozen=True)
class Turn:
    """What is timed, and what comes before and after it untimed."""

    work: Callable[[], Any]
    before: Callable[[], Any] = nothing
    after: Callable[[], Any] = nothing


@dataclass(frozen=True)
class Timing:
    """How long one turn takes: medians and bests over the rounds."""

    seconds: float
    cpu_seconds: float
    least_seconds: float
    least_cpu_seconds: float

    def __str__(self) -> str:
        return f"{duration(self.seconds)} ({duration(self.cpu_seconds)})"


def take_turns(rounds: int, *turns: Turn) -> list[Timing]:
    """Run each turn once per round, after one round that does not count.

    Args:
        rounds: How many count.
        turns: What is measured.
    """
    samples: list[list[tuple[float, float]]] = [[] for _ in turns]
    for number in range(rounds + 1):
        for found, turn in zip(samples, turns, strict=True):
            turn.before()
            cpu, start = time.process_time(), time.perf_counter()
            result = turn.work()
            sample = time.perf_counter() - start, time.process_time() - cpu
            del result
            turn.after()
            if number:
                found.append(sample)
    return [_timing(found) for found in samples]


def _timing(samples: Sequence[tuple[float, float]]) -> Timing:
    seconds, cpu_seconds = zip(*samples, strict=True)
    return Timing(
        statistics.median(seconds), statistics.median(cpu_seconds), min(seconds), min(cpu_seconds)
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.3g} ms"

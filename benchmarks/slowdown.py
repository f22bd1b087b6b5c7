"""What a save in the background costs the training that goes on meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

_CALM_SECONDS = 0.3
_MOST_SECONDS = 120


class Background(Protocol):
    """A saver that can say whether its save is over, and save without a thread too."""

    def save(self) -> None:
        """Begin a save."""

    def is_done(self) -> bool:
        """Whether it is durable; asked between two steps of the training."""
        ...

    def finish(self) -> None:
        """Wait for it."""

    def save_here(self) -> None:
        """Save in the caller's thread."""


@dataclass(frozen=True)
class Slowdown:
    """Time lost by the training, and what the same save costs in its own thread: medians."""

    lost_seconds: float
    sync_seconds: float

    @property
    def share(self) -> float:
        """What is lost, as a part of what a save in the training's own thread costs."""
        return self.lost_seconds / self.sync_seconds


def measure(
    saver: Background, train: Callable[[], Any], advance: Callable[[], Any], rounds: int
) -> Slowdown:
    """Sum up how much longer the steps take while a save is under way.

    The time until the caller may go on is not counted: it is the stall, and has its own figure.

    Args:
        saver: Saves in both ways.
        train: One step of training.
        advance: Changes the state before each save.
        rounds: How many saves of each kind.
    """
    lost, sync = [], []
    for _ in range(rounds):
        advance()
        lost.append(_lost(saver, train))
        advance()
        start = time.perf_counter()
        saver.save_here()
        sync.append(time.perf_counter() - start)
    return Slowdown(statistics.median(lost), statistics.median(sync))


def _lost(saver: Background, train: Callable[[], Any]) -> float:
    calm = _steps(train, _CALM_SECONDS)
    saver.save()
    meanwhile: list[float] = []
    while not saver.is_done():
        meanwhile.append(_seconds(train))
        if sum(meanwhile) > _MOST_SECONDS:
            break
    saver.finish()
    calm += _steps(train, max(_CALM_SECONDS, sum(meanwhile)))
    return sum(meanwhile) - _usual(calm, len(meanwhile))


def _steps(train: Callable[[], Any], seconds: float) -> list[float]:
    """Durations of undisturbed steps."""
    found = [_seconds(train) for _ in range(3)][1:]  # the first is cold
    while sum(found) < seconds:
        found.append(_seconds(train))
    return found


def _usual(calm: list[float], count: int) -> float:
    """How long so many steps take undisturbed: the median of all that follow one another.

    Not a multiple of the median of one, because now and then a step takes long by itself.
    """
    sums = [sum(calm[start : start + count]) for start in range(len(calm) - count + 1)]
    return statistics.median(sums) if sums else statistics.mean(calm) * count


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

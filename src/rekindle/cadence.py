"""When a run saves: every so many steps, seconds or updates.

Only when is decided here, never what: a run ends the same, whenever it was saved.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from msgspec import Struct

from rekindle.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Every:
    """How often a run saves: whichever of these comes first.

    Steps and updates are counted from the run's start, so a save is due at the first call at or
    after each multiple, also after a resume. Seconds are counted from the moment at which the last
    save began, or at which the process resumed, by a clock that nobody can set back.

    Args:
        steps: Environment steps, summed over all environments.
        seconds: Seconds.
        updates: Gradient updates: `updates` of the tracked `progress`, or those of an SB3 model.
    """

    steps: int | None = None
    seconds: float | None = None
    updates: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            raise UnsupportedError(
                "Every(): expected steps=, seconds= or updates=, found none of them. "
                "Leave out every= to save only when run.save() is called."
            )
        for name, value in given.items():
            if name == "seconds":
                if not _is_number(value) or not 0 < value < math.inf:
                    raise UnsupportedError(
                        f"seconds={value!r}: expected a number of seconds greater than 0."
                    )
            else:
                object.__setattr__(self, name, count(name, value))

    def is_due(self, before: Moment, now: Moment) -> bool:
        """Whether a save is due now, when the last one was before."""
        for unit, start, end in (
            (self.steps, before.step, now.step),
            (self.updates, before.updates, now.updates),
        ):
            if unit is not None and end // unit > start // unit:
                return True
        return self.seconds is not None and now.seconds - before.seconds >= self.seconds


class Moment(Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    step: int
    updates: int = 0
    seconds: float
    """By `time.monotonic`."""


Cadence: TypeAlias = int | Every
"""What `every=` takes: a number of steps, or `Every`."""


def settled(every: Cadence | None) -> Every | None:
    """What `every=` says; a number is one of steps.

    Raises:
        UnsupportedError: It is neither a number of at least 1 nor an `Every`.
    """
    if every is None or isinstance(every, Every):
        return every
    return Every(steps=count("every", every))


def count(name: str, value: object) -> int:
    """A number of something as an integer; 1e5 is how people write a large one.

    Raises:
        UnsupportedError: It is not a whole number of at least 1.
    """
    if _is_number(value) and 1 <= value < math.inf and value == int(value):
        return int(value)
    raise UnsupportedError(
        f"{name}={value!r}: expected a whole number, at least 1. "
        "How often a run saves has other units too: every=rk.Every(seconds=600)."
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)

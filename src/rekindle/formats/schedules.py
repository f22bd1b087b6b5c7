"""Schedules that are plain numbers or straight lines, found in what a file says of a function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekindle.pickles.records import Recorded, RecordedFunction
from rekindle.state import Record

_MODULE = "stable_baselines3.common.utils"
_DEEPEST = 8


@dataclass(frozen=True)
class Constant:
    """The same value at all times."""

    value: float

    def at(self, progress_remaining: float) -> float:
        """The value when this part of the training, from 1 to 0, is still to come."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` to `end`, reached after `end_fraction` of the training."""

    start: float
    end: float
    end_fraction: float

    def at(self, progress_remaining: float) -> float:
        """The value when this part of the training, from 1 to 0, is still to come.

        Source: SB3 2.9, `LinearSchedule.__call__`, with its order of operations.
        """
        if (1 - progress_remaining) > self.end_fraction:
            return self.end
        slope = (1 - progress_remaining) * (self.end - self.start) / self.end_fraction
        return self.start + slope


def recognise(value: Any) -> Constant | Linear | None:
    """The schedule that a number, an object of SB3's or one of its closures is; None for others.

    Of a function only its name and captured values are looked at: those of SB3's own functions,
    whose meaning is known. A function of the user's own is not guessed at.
    """
    for _ in range(_DEEPEST):
        number = _number(value)
        if number is not None:
            return Constant(number)
        if not isinstance(value, Record):
            return None
        fields = value
        if isinstance(value, RecordedFunction):
            closure = value.get("closure")
            fields = closure if isinstance(closure, dict) else {}
        elif not isinstance(value, Recorded) or not value.is_object:
            return None
        name = _KNOWN.get(value.label)
        if name == "constant":
            value = next((fields[key] for key in ("val", "value") if key in fields), None)
            if _number(value) is None:
                return None
        elif name == "linear":
            return _linear(fields)
        elif name == "wrapper":
            value = fields.get("value_schedule")
        else:
            return None
    return None


def _linear(fields: Any) -> Linear | None:
    numbers = [_number(fields.get(key)) for key in ("start", "end", "end_fraction")]
    if None in numbers or numbers[2] == 0:
        return None
    start, end, fraction = numbers
    return Linear(start, end, fraction)  # type: ignore[arg-type]


def _number(value: Any) -> float | None:
    """A finite number, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    if isinstance(value, np.complexfloating):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


_KNOWN = {
    f"{_MODULE}:ConstantSchedule": "constant",
    f"{_MODULE}:constant_fn.<locals>.func": "constant",
    f"{_MODULE}:LinearSchedule": "linear",
    f"{_MODULE}:get_linear_fn.<locals>.func": "linear",
    f"{_MODULE}:FloatSchedule": "wrapper",
    f"{_MODULE}:get_schedule_fn.<locals>.<lambda>": "wrapper",
}
"""SB3's schedules from 1.8 to 2.9, as classes and as the functions that they were before."""

from __future__ import annotations

import abc
import enum
from typing import Any

import cloudpickle
import numpy as np

from rekindle import spans
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded, RecordedClass, RecordedFunction


def read(value: Any) -> Any:
    found = reading.read(spans.of_bytes(cloudpickle.dumps(value), "x"))
    assert found.notes == ()
    return found.value


def make(scale: float) -> Any:
    offset = np.arange(3)

    def schedule(progress: float, power: int = 2) -> float:
        return scale * progress**power + len(offset)

    return schedule


def test_a_function_shows_its_name_constants_and_what_it_captured() -> None:
    found = read(make(0.5))
    assert isinstance(found, RecordedFunction)
    assert found.label.endswith(":make.<locals>.schedule")
    assert found["closure"]["scale"] == 0.5
    assert np.array_equal(found["closure"]["offset"], np.arange(3))
    assert found["defaults"] == (2,)
    assert found["code"].label == "types:CodeType"
    assert found["code"]["co_name"] == "schedule"
    assert isinstance(found["code"]["co_code"], bytes)


def test_functions_that_call_themselves_close_their_circle() -> None:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    found = read(factorial)
    assert found["closure"]["factorial"] is found


def test_a_class_shows_its_bases_and_attributes_and_its_objects_its_name() -> None:
    class Base(abc.ABC):  # noqa: B024
        limit = 3

    class Own(Base):
        def __init__(self) -> None:
            self.step = 7

        def act(self) -> int:
            return self.step

    own = Own()
    found = read([Own, own])
    assert isinstance(found[0], RecordedClass)
    assert found[0].label.endswith(":Own") or found[0].label.endswith("<locals>.Own")
    assert isinstance(found[0]["attributes"]["act"], RecordedFunction)
    assert found[0]["bases"][0]["attributes"]["limit"] == 3
    assert isinstance(found[1], Recorded)
    assert found[1].label == found[0].label
    assert dict(found[1]) == {"step": 7}


def test_enumerations_and_types_of_the_script_are_data() -> None:
    class Colour(enum.Enum):
        RED = "red"

    found = read(Colour.RED)
    assert "red" in repr(found.arguments) or "RED" in repr(found)


def test_modules_are_names() -> None:
    assert read(np.linalg) == "numpy.linalg"

"""Live objects are filled past the code of their own classes."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

from rekindle.matching.filling import can_have, refill, refill_array, set_attribute


def refuse(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("code of the class was run")


REFUSING: dict[str, Any] = dict.fromkeys(
    ("clear", "append", "extend", "add", "update", "__setitem__", "__setattr__"), refuse
)

CONTENTS: dict[type, Any] = {
    list: [1, [2]],
    set: {3, 4},
    bytearray: bytearray(b"text"),
    collections.deque: collections.deque([5, 6]),
    dict: {"b": 1, "a": 2},
    collections.OrderedDict: collections.OrderedDict(b=1, a=2),
    collections.Counter: collections.Counter(b=1, a=2),
}


@pytest.mark.parametrize("base", CONTENTS, ids=lambda base: base.__name__)
def test_a_container_is_filled_without_code_of_its_class(base: Any) -> None:
    cls = type("Refusing", (base,), REFUSING)
    live = cls.__new__(cls)
    refill(live, CONTENTS[base])
    assert base.__eq__(live, CONTENTS[base])
    assert [*base.__iter__(live)] == [*CONTENTS[base]]
    refill(live, base())
    assert base.__len__(live) == 0


def test_a_default_factory_and_the_arguments_of_an_exception_come_with_the_items() -> None:
    live: collections.defaultdict[str, Any] = collections.defaultdict(int, a=1)
    refill(live, collections.defaultdict(list, b=2))
    assert (dict(live), live.default_factory) == ({"b": 2}, list)
    error = ValueError("one")
    refill(error, ("two", 3))
    assert error.args == ("two", 3)


def test_an_array_of_objects_holds_the_items_themselves() -> None:
    items: list[Any] = [[1, 2], (3,), None, "text"]
    live = np.empty((2, 2), dtype=object)
    refill_array(live, items)
    assert live.tolist() == [[[1, 2], (3,)], [None, "text"]]
    assert live[0, 0] is items[0]


class Slotted:
    __slots__ = ("a",)
    __setattr__ = refuse


class Open:
    __setattr__ = refuse


def test_attributes_are_set_where_there_is_a_place_for_them() -> None:
    for live in (Slotted(), Open()):
        assert can_have(live, "a")
        set_attribute(live, "a", 7)
        assert live.a == 7  # type: ignore[attr-defined]
    assert can_have(Open(), "b")
    assert not can_have(Slotted(), "b")

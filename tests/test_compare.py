"""Comparison of two checkpoints: value by value, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk


def state() -> dict[str, Any]:
    shared = np.arange(6, dtype=np.float32)
    return {
        "weights": {"a": shared, "b": shared[2:], "c": np.zeros(3)},
        "progress": {"step": 7, "history": [1.0, 2.5], "tags": ("x", None), "seen": {3: "y"}},
    }


def compared(tmp_path: Path, change: Any, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    first = rk.save(tmp_path / "first", **state())
    other = state()
    change(other)
    second = rk.save(tmp_path / "second", **other)
    return {item.component: item for item in first.compare(second, ignore=ignore)}


def test_equal_states_are_identical_and_every_value_is_counted(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda other: None)
    assert all(item.is_identical for item in found.values())
    assert found["weights"].num_values == 6 + 3
    assert found["progress"].num_values == 6


@pytest.mark.parametrize(
    ("change", "key", "distance"),
    [
        (lambda s: s["weights"]["c"].__setitem__(1, 1e-30), "weights/c", 1e-30),
        (lambda s: s["weights"]["c"].__setitem__(1, -0.0), "weights/c", 2.2250738585072014e-308),
        (lambda s: s["weights"]["a"].__setitem__(0, 2.0), "weights/a", 2.0),
        (lambda s: s["weights"].update(c=np.zeros(3, np.float32)), "weights/c", float("inf")),
        (lambda s: s["progress"].update(step=9), "progress/step", 2.0),
        (lambda s: s["progress"].update(step=7.0), "progress/step", 0.0),
        (lambda s: s["progress"]["history"].append(1.0), "progress/history.2", float("inf")),
        (lambda s: s["progress"]["seen"].update({3: "z"}), "progress/seen.3", float("inf")),
        (lambda s: s["progress"].update(tags=("x", 0)), "progress/tags.1", float("inf")),
    ],
)
def test_any_change_is_found_where_it_is(
    tmp_path: Path, change: Any, key: str, distance: float
) -> None:
    found = compared(tmp_path, change)
    different = [item for item in found.values() if not item.is_identical]
    assert [item.differences[0].key for item in different] == [key]
    assert different[0].largest_difference == distance


def test_a_lost_alias_is_a_difference(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda s: s["weights"].update(b=s["weights"]["b"].copy()))
    assert not found["weights"].is_identical


def test_ignored_paths_are_counted_and_not_compared(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda s: s["progress"].update(step=9), ignore=("step",))
    assert found["progress"].is_identical
    assert found["progress"].num_ignored == 1


def test_a_component_that_only_one_holds_differs(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda s: s.update(extra={"a": 1}))
    assert not found["extra"].is_identical


def chain(length: int, last: float) -> list[Any]:
    """A list in a list in a list, so deep that its end is written outside the root."""
    nested: list[Any] = [last]
    for _ in range(length):
        nested = [nested]
    return nested


def test_what_is_nested_deep_is_compared_too(tmp_path: Path) -> None:
    one = rk.save(tmp_path / "one", deep={"chain": chain(300, 1.0)})
    two = rk.save(tmp_path / "two", deep={"chain": chain(300, 1.0)})
    other = rk.save(tmp_path / "other", deep={"chain": chain(300, 1.5)})
    assert one.compare(two)[0].is_identical
    found = one.compare(other)[0]
    assert found.largest_difference == 0.5
    assert len(found.differences) == 1

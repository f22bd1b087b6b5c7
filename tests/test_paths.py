"""Places in plain data are found by their paths, and copies leave the data alone."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

from rekindle import paths
from rekindle.errors import NotFoundError, UnsafeError, UnsupportedError
from rekindle.pickles.records import Recorded


def record(**fields: Any) -> Recorded:
    made = Recorded("module:Class", is_object=True)
    made.adopt(fields)
    return made


def data() -> dict[str, Any]:
    return {
        "policy": {"0.weight": np.ones(2), "0.bias": np.zeros(1)},
        "agent": {
            "lr_schedule": record(value=3),
            "kwargs": {"act": [record(), "tanh"], "pair": (1, {"x": 2})},
            7: "seven",
            "a": {"b": 1},
            "a.b": 2,
        },
    }


def test_arrays_are_named_by_the_paths_to_them() -> None:
    inner = record(mean=np.ones(1))
    inner.arguments = (np.zeros(2),)
    held = {"state": {0: {"m": np.ones(3)}}, "rows": [np.ones(1), 5], "object": inner}
    held["boxes"] = np.array([np.ones(4), None], dtype=object)
    assert list(paths.arrays(held)) == [
        "state.0.m", "rows.0", "object.mean", "object.<arguments>.0", "boxes.0",
    ]  # fmt: skip
    assert list(paths.arrays(np.ones(1))) == [""]


def test_containers_in_circles_and_in_many_places_are_entered_once() -> None:
    held: dict[str, Any] = {"w": np.ones(1)}
    held["self"] = held
    wide: Any = [np.ones(1)]
    for _ in range(60):
        wide = [wide, wide]
    assert list(paths.arrays(held)) == ["w"]
    assert len(paths.arrays(wide)) == 1
    copy = paths.copied(held)
    assert copy["self"] is copy
    assert copy is not held
    twice = paths.copied(wide)
    assert twice[0] is twice[1]


def test_values_are_rows_where_they_are_plain() -> None:
    found = paths.values(
        {"betas": [0.9, 0.99], "deep": {"on": True}, "w": np.ones(1), "r": record()}
    )
    assert found == {"betas": [0.9, 0.99], "deep.on": True}


@pytest.mark.parametrize("path", ["agent.lr_schedule", "agent/lr_schedule"])
def test_a_value_is_replaced_and_the_data_stays(path: str) -> None:
    before = data()
    after = paths.replaced(before, path, 0.1, "x")
    assert after["agent"]["lr_schedule"] == 0.1
    assert isinstance(before["agent"]["lr_schedule"], Recorded)
    assert after["policy"] is before["policy"]


def test_paths_lead_through_rows_and_keys_with_points() -> None:
    after = paths.replaced(data(), "agent.kwargs.act[0]", "relu", "x")
    assert after["agent"]["kwargs"]["act"] == ["relu", "tanh"]
    after = paths.replaced(data(), "agent.kwargs.pair.1.x", 9, "x")
    assert after["agent"]["kwargs"]["pair"] == (1, {"x": 9})
    after = paths.replaced(data(), "policy.0.weight", 1, "x")
    assert after["policy"]["0.weight"] == 1
    assert paths.replaced(data(), "agent.7", 8, "x")["agent"][7] == 8
    assert paths.replaced(data(), "agent.a.b", 5, "x")["agent"]["a"] == {"b": 5}


def test_what_is_left_out_is_gone_from_a_copy() -> None:
    before = data()
    after = paths.without(before, "policy.0.*", "x")
    assert after["policy"] == {}
    assert len(before["policy"]) == 2
    assert "lr_schedule" not in paths.without(before, "agent.lr_*", "x")["agent"]
    assert list(paths.without(before, "policy", "x")) == ["agent"]


def test_what_is_not_there_is_an_error_with_what_is_near() -> None:
    with pytest.raises(NotFoundError, match=r"file: .* 'agent\.lr_shedule', found none\. Did you"):
        paths.replaced(data(), "agent.lr_shedule", 1, "file")
    with pytest.raises(NotFoundError, match="`rekindle show` prints the paths"):
        paths.without(data(), "zzzz.*", "file")
    with pytest.raises(NotFoundError):
        paths.replaced(data(), "agent.kwargs.act[5]", 1, "file")
    with pytest.raises(NotFoundError):
        paths.replaced(data(), "agent.lr_schedule.value", 1, "file")


def test_an_item_of_a_list_cannot_be_left_out() -> None:
    with pytest.raises(UnsupportedError, match="would move the others up"):
        paths.without(data(), "agent.kwargs.act[0]", "x")


def test_a_pattern_names_a_place_and_what_is_in_it() -> None:
    assert paths.matches("policy/0.weight", "policy.0.weight")
    assert paths.matches("policy.0", "policy.0.weight")
    assert paths.matches("*.weight", "policy.0.weight")
    assert not paths.matches("policy.0", "policy.01.weight")


def test_copies_keep_their_kinds() -> None:
    held = {
        "deque": collections.deque([1, [2]], 5),
        "ordered": collections.OrderedDict(a=1),
        "tuple": (1, [2]),
        "boxes": np.array([[1], None], dtype=object),
        "record": record(),
    }
    copy = paths.copied(held)
    assert copy["deque"].maxlen == 5
    assert copy["deque"][1] is not held["deque"][1]
    assert type(copy["ordered"]) is collections.OrderedDict
    assert copy["tuple"][1] is not held["tuple"][1]
    assert copy["boxes"][0] == [1]
    assert copy["boxes"][0] is not held["boxes"][0]
    assert copy["record"] is held["record"]


def test_arrays_are_converted_with_their_paths() -> None:
    met = []
    copy = paths.copied(data(), lambda array, path: met.append(path) or array.tolist())
    assert met == ["policy.0.weight", "policy.0.bias"]
    assert copy["policy"]["0.weight"] == [1.0, 1.0]


def test_what_is_nested_without_end_is_refused_or_cut() -> None:
    deep: Any = 1
    for _ in range(10_000):
        deep = (deep,)
    with pytest.raises(UnsafeError, match="nested at most 200 deep"):
        paths.copied(deep)
    chain: Any = np.ones(1)
    for _ in range(10_000):
        chain = {"k" * 500: chain}
    (name,) = paths.arrays(chain)
    assert len(name) <= 4000
    wide = paths.copied([(1, (2, (3,)))] * 500)
    assert len(wide) == 500


def test_anything_becomes_json() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    held = {"a": np.float32(2), "w": np.ones((2, 3)), "n": 1 << 80, "r": record(), 5: (None, b"x")}
    found = paths.as_json({**held, "deep": deep})
    assert found["a"] == 2.0
    assert found["w"] == {"dtype": "float64", "shape": [2, 3]}
    assert found["n"] == str(1 << 80)
    assert found["r"] == "<Class >" or found["r"].startswith("<Class")
    assert found["5"] == [None, "b'x'"]

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as gymnasium

from rekindle import spaces, spans
from rekindle.formats.recorded_spaces import describe
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded
from rekindle.state import Record, Reference

BOX = gymnasium.Box(-1, np.inf, (2,), np.float32)
SPACES = [
    BOX, gymnasium.Box(np.array([0, 1]), np.array([2, 3]), dtype=np.int64), gymnasium.Discrete(5),
    gymnasium.Discrete(3, start=-1), gymnasium.MultiDiscrete([2, 3]), gymnasium.MultiBinary(4),
    gymnasium.MultiBinary((2, 3)), gymnasium.Text(5), gymnasium.Sequence(BOX),
    gymnasium.Graph(BOX, gymnasium.Discrete(2)), gymnasium.Tuple((BOX, gymnasium.Discrete(2))),
    gymnasium.OneOf((BOX, gymnasium.Discrete(2))),
    gymnasium.Dict({"a": BOX, "b": gymnasium.Dict({"c": gymnasium.Discrete(2)})}),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_recorded_space_is_described_as_the_live_one(space: gymnasium.Space[Any]) -> None:
    space.seed(3)
    for protocol in (2, 5):
        record = reading.read(spans.of_bytes(pickle.dumps(space, protocol), "x")).value
        assert describe(record) == spaces.describe(space)


def record_of(label: str, **fields: object) -> Record:
    record = Recorded(label, is_object=True)
    record.adopt(fields)
    return record


def test_spaces_of_the_old_gym_are_described() -> None:
    box = record_of("gym.spaces.box:Box", low=np.zeros(2, np.float32), high=np.ones(2, np.float32),
                    shape=(2,), dtype=Reference("numpy:float32"))  # fmt: skip
    expected = {"type": "Box", "low": 0.0, "high": 1.0, "shape": [2], "dtype": "float32"}
    assert describe(box) == expected


@pytest.mark.parametrize(
    "record",
    [
        None, 3, "text", Record("os:system", {}), record_of("gymnasium.spaces.box:Box"),
        record_of("gymnasium.spaces.box:Box", low=1, high="x", _shape=(1,), dtype="float32"),
        record_of("gymnasium.spaces.discrete:Discrete", n="many", dtype=np.dtype("i8")),
        record_of("gymnasium.spaces.dict:Dict", spaces={"a": 7}),
        record_of("gymnasium.spaces.box:Box", low=np.broadcast_to(np.float32(0), (2**40,)),
                  high=np.float32(1), _shape=(2**40,), dtype=np.dtype("f4")),
    ],
)  # fmt: skip
def test_what_is_no_space_has_no_description(record: object) -> None:
    assert describe(record) is None


def test_a_space_that_contains_itself_has_no_description() -> None:
    parts: dict[str, object] = {}
    record = record_of("gymnasium.spaces.dict:Dict", spaces=parts)
    parts["again"] = record
    assert describe(record) is None

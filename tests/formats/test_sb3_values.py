"""Values of Stable-Baselines3, written from data: its own loader makes them again."""

from __future__ import annotations

import base64
import collections
import json
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import data_to_json, json_to_data
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from rekindle import spaces as descriptions
from rekindle import spans
from rekindle.errors import UnsupportedError
from rekindle.formats import sb3_values, torch_files
from rekindle.formats.schedules import Constant, Linear
from rekindle.limits import Budget
from rekindle.pickles.records import Recorded
from rekindle.state import Record, Reference
from rekindle.tensors import Tensors


def read(value: Any) -> Any:
    """What the reader makes of a value that SB3 pickles."""
    entry = json.loads(data_to_json({"x": value}))["x"]
    data = base64.b64decode(entry[":serialized:"])
    span = spans.of_bytes(data, "it")
    return torch_files.read_pickle(span, Budget(name="it"), tensors=Tensors()).value


def loaded(value: Any) -> Any:
    """What SB3 loads of a value that was written."""
    return json_to_data(sb3_values.dumps({"x": sb3_values.entry(value, "x", "file")}).decode())["x"]


OBJECTS: list[Any] = [
    TrainFreq(3, TrainFrequencyUnit.EPISODE),
    NormalActionNoise(np.zeros(2), np.ones(2)),
    VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.ones(1)), 2),
    FloatSchedule(LinearSchedule(1.0, 0.1, 0.5)),
    ConstantSchedule(0.2),
    ActorCriticPolicy,
    collections.deque([{"r": np.float64(1.5), "l": 3}], maxlen=9),
    {"activation_fn": pytest.importorskip("torch").nn.Tanh, "net_arch": [4, 4]},
    np.array([True, False]),
    spaces.Box(0, 255, (2, 2, 1), np.uint8, seed=3),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_what_was_read_is_made_again_by_sb3(value: Any) -> None:
    found = loaded(read(value))
    assert type(found) is type(value)
    assert sb3_values.same(read(found), read(value))


def test_schedules_that_were_recognised_are_sb3_s_again() -> None:
    assert loaded(Constant(0.25))(0.5) == 0.25
    line = loaded(sb3_values.schedule(Linear(1.0, 0.5, 0.5)))
    assert type(line) is FloatSchedule
    assert [line(left) for left in (1.0, 0.75, 0.0)] == [1.0, 0.75, 0.5]


def test_plain_values_are_json_that_people_can_read() -> None:
    plain = {"a": [1, 2.5, None, True], "b": {"c": "text"}}
    assert sb3_values.entry(plain, "x", "file") == plain
    entry = sb3_values.entry(read(OBJECTS[1]), "x", "file")
    assert entry[":type:"] == "<class 'stable_baselines3.common.noise.NormalActionNoise'>"
    assert "_mu" in entry


def test_a_name_of_code_is_never_taken_for_text() -> None:
    for value in (Reference("os:system"), [Reference("os:system")], {"a": Reference("posix:x")}):
        with pytest.raises(UnsupportedError, match=r"the name (os|posix)"):
            sb3_values.entry(value, "x", "file")


@pytest.mark.parametrize(
    "label",
    [
        "os:system", "stable_baselines3.common.utils:set_random_seed", "torch.hub:Load",
        "stable_baselines3.common.save_util:Os.system", "stable_baselines3evil.x:Class",
        "evil.stable_baselines3.x:Class", "torch.nn:Tanh.evil", "sb3_contrib:__import__",
    ],
)  # fmt: skip
def test_only_classes_of_sb3_and_torch_are_named(label: str) -> None:
    assert not sb3_values.is_class(label)
    call = Recorded(label)
    call.arguments = ("x",)
    for value in (Reference(label), Record(label, {}), call, Recorded(label, is_object=True)):
        assert sb3_values.known(value) is None


def test_a_call_of_a_class_of_sb3_is_not_made_again() -> None:
    call = Recorded("stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv")
    call.arguments = (["x"],)
    with pytest.raises(UnsupportedError, match="the record of"):
        sb3_values.entry(call, "x", "file")


def test_spaces_of_a_checkpoint_keep_their_generators() -> None:
    live = spaces.Dict({"a": spaces.Discrete(9, seed=2), "b": spaces.Box(0, 1, (2,))})
    state = live["a"].np_random.bit_generator.state
    stored = {
        "description": descriptions.describe(live),
        "generators": {
            name: {"bit_generator": state}
            for name, space in descriptions.subspaces(live)
            if space is live["a"]
        },
    }
    found = loaded(sb3_values.space(stored))
    assert found == live
    assert found["a"].np_random.bit_generator.state == state
    assert sb3_values.space("other") == "other"


def test_arrays_of_objects_are_written_by_what_they_hold() -> None:
    infos = np.array([[{}], [{"a": np.ones(2)}]], dtype=object)
    data = b"".join(
        part if isinstance(part, bytes) else part.tobytes()
        for part in sb3_values.pickled(infos, "x", "file")
    )
    found = pickle.loads(data)
    assert found.shape == (2, 1)
    assert found[1, 0]["a"].tolist() == [1, 1]
    with pytest.raises(UnsupportedError, match="object"):
        sb3_values.pickled(np.array([object()], dtype=object), "x", "file")


def test_values_are_the_same_only_to_the_last_bit() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    again: list[Any] = [1]
    again.append(again)
    assert sb3_values.same(circle, again)
    assert sb3_values.same({"a": float("nan")}, {"a": float("nan")})
    for one, other in (
        (1, 1.0), (1, True), ([1], (1,)), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1], [1, 2]),
        (np.zeros(2), np.zeros(2, np.float32)), (np.zeros(2), np.array([0.0, -0.0])),
        (Record("a:B", {"x": 1}), Record("a:C", {"x": 1})),
        (Record("a:B", {"x": 1}), Record("a:B", {"x": 2})),
        (Recorded("a:B"), Recorded("a:B", is_object=True)),
        (np.array([{}], object), np.array([{"a": 1}], object)),
        (collections.deque([1], 2), collections.deque([2], 2)),
    ):  # fmt: skip
        assert not sb3_values.same(one, other), one

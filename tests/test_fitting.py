"""Plain data goes into live containers and objects, in place; what does not fit says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle.fitting import Fit
from rekindle.pickles.records import Recorded
from rekindle.tensors import Tensors

GOLDEN = Path(__file__).parent / "golden"
FOLDER = GOLDEN / "sb3/v2.9.2/checkpoint_callback/ckpts"


def record(label: str = "module:Class") -> Recorded:
    return Recorded(label, is_object=True)


def fitted(value: Any, live: Any, *skip: str) -> list[str]:
    """Put a value into a live object where all of it fits; else what does not."""
    fit = Fit(Tensors(), skip)
    fit.component("part", value, live)
    if not fit.differences:
        fit.apply()
    return [str(difference) for difference in fit.differences]


class Statistics:
    """A running mean, as programs have them."""

    def __init__(self) -> None:
        self.mean = np.zeros(2)
        self.count = 0.0
        self.names: list[str] = []
        self.inner: Any = None


def test_containers_become_what_the_file_holds_and_stay_themselves() -> None:
    array = np.zeros(2)
    live = {"w": array, "old": 1, "list": [0, {"x": 1}], "n": 1}
    inner = live["list"]
    assert fitted({"w": np.ones(2), "list": [5, {"x": 2}, "new"], "n": 2.5}, live) == []
    assert live["w"] is array
    assert array.tolist() == [1, 1]
    assert live["list"] is inner
    assert live == {"w": array, "list": [5, {"x": 2}, "new"], "n": 2.5}


def test_objects_take_attributes_and_keep_what_the_file_does_not_tell_of() -> None:
    live = Statistics()
    mean = live.mean
    assert fitted({"mean": np.ones(2), "count": 3.0, "inner": [1, {"a": None}]}, live) == []
    assert live.mean is mean
    assert mean.tolist() == [1, 1]
    assert (live.count, live.names, live.inner) == (3.0, [], [1, {"a": None}])


def test_every_difference_is_listed_and_nothing_changes() -> None:
    live = {
        "a": np.zeros(2), "b": np.zeros(2, np.float32), "c": "text", "d": Statistics(), "e": 1,
        "f": [], "g": np.frombuffer(b"12345678", np.uint8),
    }  # fmt: skip
    before = repr(live)
    value = {
        "a": np.ones(3), "b": np.ones(2), "c": 5, "d": {"mean": np.ones(2), "other": 1},
        "e": record(), "f": [record()], "g": np.ones(8, np.uint8),
    }  # fmt: skip
    assert fitted(value, live) == [
        "part.a: expected an array float64 of shape (3,), found an array float64 of shape (2,)",
        "part.b: expected an array float64 of shape (2,), found an array float32 of shape (2,)",
        "part.c: expected int 5, found str 'text'",
        "part.d.other: expected an attribute for int 1, found no such attribute",
        "part.e: expected an object of class module:Class; its attributes are there, found int 1",
        "part.f.0: expected an object of class module:Class; its attributes are there, found "
        "nothing of its kind",
        "part.g: expected an array uint8 of shape (8,), found an array uint8 of shape (8,) that is "
        "read-only",
    ]
    assert repr(live) == before


def test_what_cannot_be_changed_in_place_says_so() -> None:
    for value, live in ((2, 1), ((1, 3), (1, 2)), ("other", "text"), (5, None)):
        (difference,) = fitted(value, live)
        assert "in place" in difference
        assert "Restore an object that holds it" in difference
    (difference,) = fitted({"a": 1}, 5)
    assert difference.startswith("part: expected an object of class builtins:dict, found int 5")


def test_places_that_are_skipped_stay() -> None:
    live = {"a": 1, "b": np.zeros(1), "c": {"x": 1, "y": 1}}
    value = {"a": record(), "b": np.ones(5), "c": {"x": 2, "y": 2}, "z": record()}
    assert fitted(value, live, "part.a", "part/b", "part.c.x", "part.z") == []
    assert live == {"a": 1, "b": np.zeros(1), "c": {"x": 1, "y": 2}}


def test_circles_and_shared_objects_end() -> None:
    live: dict[str, Any] = {"n": 1}
    live["self"] = live
    value: dict[str, Any] = {"n": 2}
    value["self"] = value
    assert fitted(value, live) == []
    assert live["n"] == 2
    assert live["self"] is live


def test_numbers_fit_numbers_of_other_kinds() -> None:
    live = {"count": 1, "scale": np.float32(2), "rate": np.array(0.5), "none": None, "on": True}
    value = {"count": np.int64(7), "scale": 3.0, "rate": 0.25, "none": 4, "on": False}
    assert fitted(value, live) == []
    assert (live["count"], live["scale"], live["none"], live["on"]) == (7, 3.0, 4, False)
    assert live["rate"].tolist() == 0.25


def test_new_values_are_copies(tmp_path: Path) -> None:
    source = np.ones(3)
    live: dict[str, Any] = {}
    assert fitted({"w": source, "deep": {"x": source}}, live) == []
    live["w"][0] = 9
    assert source[0] == 1


def test_buffer_and_normaliser_of_stable_baselines3_go_into_live_ones() -> None:
    gym = pytest.importorskip("gymnasium")
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = gym.make("Pendulum-v1")
    buffer = ReplayBuffer(300, env.observation_space, env.action_space, device="cpu")
    venv: Any = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    report = rk.restore(FOLDER, replay_buffer=buffer, normalizer=venv, skip=["normalizer.old_obs"])
    assert report.components == ("replay_buffer", "normalizer")
    expected: Any = VecNormalize.load(
        str(FOLDER / "rl_model_vecnormalize_200_steps.pkl"), venv.venv
    )
    assert venv.obs_rms.mean.tolist() == expected.obs_rms.mean.tolist()
    assert venv.ret_rms.count == expected.ret_rms.count
    held = rk.open(FOLDER).arrays("replay_buffer")
    assert buffer.pos == 199
    assert buffer.observations.tobytes() == held["observations"].tobytes()
    wide = gym.make("MountainCarContinuous-v0")
    other = ReplayBuffer(300, wide.observation_space, wide.action_space, device="cpu")
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(FOLDER, replay_buffer=other)
    found = {difference.key for difference in caught.value.differences}
    assert {"replay_buffer.observations", "replay_buffer.observation_space.shape"} <= found


def test_components_that_the_file_lacks_are_missing_or_reported(tmp_path: Path) -> None:
    with pytest.raises(rk.NotFoundError, match=r"env: a model of Stable-Baselines3 does not hold"):
        rk.restore(FOLDER, env={})
    live: dict[str, Any] = {}
    report = rk.restore(FOLDER, env={}, normalizer=live, strict=False)
    assert report.missing == ("env",)
    assert "obs_rms" in live
    assert "observation_space" not in live
    assert [item.key for item in report.differences] == [
        "normalizer.observation_space",
        "normalizer.action_space",
    ]

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.hostile import corpus

from rekindle import spaces
from rekindle.errors import DamagedError, FormatError, UnsafeError, UnsupportedError
from rekindle.formats import sb3_model
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.formats.recognition import recognise
from rekindle.formats.schedules import Constant, Linear
from rekindle.state import Record, Reference

GOLDEN = Path(__file__).parents[1] / "golden" / "sb3"
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/expected.json"))
IDS = [f"{case.parent.name}-{case.name}" for case in CASES]


def readings(case: Path) -> dict[str, Reading]:
    """Every file of a case, read by the format that is found for it, by its path."""
    files = [path for path in sorted(case.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(case)): recognise(path).read(path)
        for path in files
        if not path.name.startswith("expected")
    }


def model_of(found: dict[str, Reading], expected: dict[str, Any]) -> Reading:
    name = expected["checkpoint"]
    return (
        found[name]
        if name in found
        else found[next(n for n in found if n.endswith("200_steps.zip"))]
    )


def located(key: str, parts: dict[str, Any]) -> Any:
    """What stands in components where an array of `expected.npz` must be."""
    kind, _, rest = key.partition("/")
    if kind == "params":
        return parts["policy"][rest.removeprefix("policy/")]
    if kind == "optim":
        stem, _, index, name = rest.split("/", 3)
        component = stem.replace(".", "_").removeprefix("policy_")
        return parts[component]["state"][int(index)][name]
    if kind == "vars":
        return parts["agent"][rest]
    if kind == "runtime":
        value = parts["agent"]
    else:
        value = parts[{"buffer": "replay_buffer", "norm": "normalizer"}[kind]]
    for step in rest.split("/"):
        value = value[step]
    return value


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_array_is_there_bit_for_bit(case: Path) -> None:
    expected = np.load(case / "expected.npz")
    about = json.loads((case / "expected.json").read_text())
    found = readings(case)
    model = model_of(found, about)
    parts = {**model.components}
    for name, reading in found.items():
        if "100_steps" not in name and reading is not model:
            parts |= {key: reading.components[key] for key in reading.components if key != "policy"}
    checked = 0
    for key in expected.files:
        if key.startswith("probe/") or key == "norm/returns":
            continue  # what the policy answers; what VecNormalize does not save
        value, array = located(key, parts), expected[key]
        if isinstance(value, (int, float)):
            assert value == array, key
        else:
            assert value.dtype == array.dtype, key
            assert value.shape == array.shape, key
            assert value.tobytes() == array.tobytes(), key
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_value_that_the_file_holds_is_there(case: Path) -> None:
    about = json.loads((case / "expected.json").read_text())
    model = model_of(readings(case), about)
    agent = model.components["agent"]
    for name, value in about["scalars"].items():
        if name in ("train_freq", "start_time", "action_noise") or name not in agent:
            continue
        found = agent[name]
        if callable(getattr(found, "at", None)) or isinstance(found, Record):
            continue
        assert found == value, name
    assert model.step == about["scalars"]["num_timesteps"]
    assert model.counters["updates"] == about["scalars"]["_n_updates"]
    assert str(agent["policy_class"]).replace(":", ".") == about["policy_class"]
    assert model.version == about["versions"]["stable-baselines3"]
    assert model.environment["torch"] == about["versions"]["torch"]
    assert set(model.spaces) == {"observation", "action"}
    summary = spaces.summary(model.spaces["observation"])
    assert about["observation_space"].startswith(summary.partition("(")[0])
    for name in about["optim"]:
        component = name.replace(".", "_").removeprefix("policy_")
        groups = about["optim"][name]["param_groups"]
        assert json.loads(json.dumps(model.components[component]["param_groups"])) == groups


def test_schedules_of_sb3_are_numbers_and_lines() -> None:
    for case in CASES:
        about = json.loads((case / "expected.json").read_text())
        agent = model_of(readings(case), about).components["agent"]
        for name in ("lr_schedule", "clip_range", "exploration_schedule"):
            if name not in agent or f"{name}_at" not in about:
                continue
            schedule = agent[name]
            if isinstance(schedule, Record):
                assert "noise" in case.name or "lr_schedule" in case.name
                continue
            for remaining, value in about[f"{name}_at"].items():
                assert schedule.at(float(remaining)) == value
    qrdqn = sb3_model.FORMAT.read(GOLDEN / "v2.0.0" / "contrib_qrdqn" / "model.zip")
    assert isinstance(qrdqn.components["agent"]["exploration_schedule"], Linear)
    assert qrdqn.components["agent"]["lr_schedule"] == Constant(5e-05)


def test_a_function_of_the_user_s_own_is_shown_and_noted() -> None:
    reading = sb3_model.FORMAT.read(GOLDEN / "v2.0.0" / "td3_pendulum_noise" / "model.zip")
    schedule = reading.components["agent"]["lr_schedule"]
    assert schedule.label == "__main__:linear.<locals>.f"
    assert schedule["closure"] == {"initial": 0.001}
    inert = {note.key: note.text for note in reading.notes if note.kind is Kind.INERT}
    assert "never run" in inert["agent.lr_schedule"]
    assert "NormalActionNoise" in inert["agent.action_noise"]


def test_a_class_that_the_file_carries_is_shown() -> None:
    reading = sb3_model.FORMAT.read(GOLDEN / "v2.0.0" / "ppo_custom_extractor" / "model.zip")
    cls = reading.components["agent"]["policy_kwargs"]["features_extractor_class"]
    assert cls.label == "__main__:TinyExtractor"
    assert "forward" in cls["attributes"]


def test_what_the_file_does_not_hold_is_said() -> None:
    reading = sb3_model.FORMAT.read(GOLDEN / "v2.9.2" / "ddpg_pendulum" / "model.zip")
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert absent == {"replay_buffer", "normalizer", "env", "rng"}


def test_arrays_stay_in_the_nested_files() -> None:
    path = GOLDEN / "v2.9.2" / "contrib_tqc" / "model.zip"
    policy = sb3_model.FORMAT.read(path).components["policy"]
    base = policy["actor.mu.weight"]
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_a_model_of_the_installed_version_is_read(algorithm: Any, tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    model = algorithm("MlpPolicy", env, seed=1, device="cpu", policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "model.zip")
    reading = recognise(tmp_path / "model.zip").read(tmp_path / "model.zip")
    for name, tensor in model.policy.state_dict().items():
        assert reading.components["policy"][name].tobytes() == tensor.numpy().tobytes()
    assert reading.spaces["action"] == spaces.describe(model.action_space)
    assert reading.components["agent"]["gamma"] == model.gamma
    assert reading.components["agent"]["lr_schedule"] == Constant(0.0003)
    assert isinstance(reading.components["agent"]["policy_class"], Reference)
    if algorithm is SAC:
        variable = reading.components["agent"]["log_ent_coef"]
        about = reading.tensors.of(variable)
        assert about is not None
        assert about.requires_grad


def test_numbers_that_only_python_writes_are_kept() -> None:
    data = corpus._sb3({"a": float("nan"), "b": float("inf"), "c": 1e300, "d": 2**80})
    path = Path("x")
    found = sb3_model._data(_span(data), sb3_model.Budget(), sb3_model.Tensors(), [])
    assert found["a"] != found["a"]
    assert (found["b"], found["c"], found["d"]) == (float("inf"), 1e300, 2**80)
    assert path.name == "x"


def _span(archive: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return sb3_model.spans.of_bytes(file.read("data"), "data")


def test_what_is_no_model_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for data in (b"", b"PK", corpus._torch_zip(b"\x80\x02}."), b"text"):
        path.write_bytes(data)
        assert sb3_model.FORMAT.sniff(path) is None
    torch.save({"data": torch.ones(1)}, path)
    assert sb3_model.FORMAT.sniff(path) is None
    path.write_bytes(corpus._sb3({}))
    assert sb3_model.FORMAT.sniff(path) is Confidence.CERTAIN
    path.write_bytes(b"text")
    with pytest.raises(FormatError, match="ZIP archive"):
        sb3_model.FORMAT.read(path)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (corpus._sb3({"x": {":serialized:": "?"}}), FormatError),
        (corpus._sb3({"x": {":serialized:": ""}}), DamagedError),
        (corpus._sb3([1]), FormatError),
        (corpus._sb3({})[:-30], DamagedError),
        (corpus._deflated("data", b"{", {sb3_model.VERSION: b"2"}), FormatError),
    ],
)
def test_bad_models_have_errors_of_their_own(data: bytes, error: type, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(data)
    with pytest.raises(error, match=r"bad\.zip"):
        sb3_model.FORMAT.read(path)


def test_an_encrypted_model_says_so(tmp_path: Path) -> None:
    data = corpus._deflated("data", b"{}", {sb3_model.VERSION: b"2"})
    data = corpus._patched(data, b"PK\x01\x02", 8, b"\x01\x00")
    path = tmp_path / "locked.zip"
    path.write_bytes(corpus._patched(data, b"PK\x03\x04", 6, b"\x01\x00"))
    with pytest.raises(UnsupportedError, match="encrypted"):
        sb3_model.FORMAT.read(path)


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(corpus._sb3({"x": [0] * 100_000}))
    with pytest.raises(UnsafeError, match="max_bytes"):
        sb3_model.FORMAT.read(path, max_bytes=1_000_000)

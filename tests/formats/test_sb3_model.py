from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.fixtures import cases
from tests.hostile import corpus

import rekindle.sb3
from rekindle import spaces
from rekindle.converting import convert
from rekindle.errors import DamagedError, FormatError, UnsafeError, UnsupportedError
from rekindle.formats import sb3_model, sb3_values
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.formats.recognition import recognise
from rekindle.formats.schedules import Constant, Linear
from rekindle.state import Record, Reference

GOLDEN = Path(__file__).parents[1] / "golden" / "sb3"
CASES = cases("sb3")
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
    found, _ = sb3_model._data(_span(data), sb3_model.Budget(), sb3_model.Tensors(), [])
    assert found["a"] != found["a"]
    assert (found["b"], found["c"], found["d"]) == (float("inf"), 1e300, 2**80)


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


# --------------------------------------------------------------------------- writing


MODELS = [
    pytest.param(path, id=f"{path.parent.parent.name}-{path.parent.name}-{path.name}")
    for case in CASES
    for path in sorted(case.rglob("*"))
    if path.suffix in (".zip", ".bin")
]


def algorithm_of(path: Path) -> Any:
    case = next(folder for folder in path.parents if (folder / "expected.json").exists())
    name = json.loads((case / "expected.json").read_text())["algo"].rpartition(".")[2]
    return getattr(sb3_contrib, name, None) or getattr(stable_baselines3, name)


def actions(model: Any) -> bytes:
    model.observation_space.seed(0)
    observations = [model.observation_space.sample() for _ in range(4)]
    return b"".join(model.predict(each, deterministic=True)[0].tobytes() for each in observations)


@pytest.mark.parametrize("path", MODELS)
def test_what_is_written_again_is_the_same_and_acts_the_same(path: Path, tmp_path: Path) -> None:
    reading = sb3_model.FORMAT.read(path)
    sb3_model.FORMAT.write(reading, tmp_path / "again")
    again = recognise(tmp_path / "again").read(tmp_path / "again")
    assert sb3_values.same(dict(reading.components), dict(again.components))
    assert again.details == reading.details
    assert (again.version, again.environment) == (reading.version, reading.environment)
    assert (again.step, again.counters, again.spaces) == (
        reading.step, reading.counters, reading.spaces,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3's own, about functions of old versions of Python
        one, other = (
            algorithm_of(path).load(file, device="cpu") for file in (path, tmp_path / "again")
        )
    assert actions(one) == actions(other)
    for name, tensor in one.policy.state_dict().items():
        assert tensor.numpy().tobytes() == other.policy.state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize("path", MODELS)
def test_the_way_to_rekindle_and_back_is_exact(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="sb3")
    reading, back = sb3_model.FORMAT.read(path), sb3_model.FORMAT.read(tmp_path / "back")
    assert sb3_values.same(dict(reading.components), dict(back.components))
    assert back.details == reading.details


def test_pickled_entries_are_carried_as_they_were_and_never_run(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    evil = pickle.dumps(_Evil(str(fired)))
    entry = {":type:": "x", ":serialized:": base64.b64encode(evil).decode()}
    path = _with_entry(tmp_path, "learning_rate", entry)
    reading = sb3_model.FORMAT.read(path)
    assert isinstance(reading.components["agent"]["learning_rate"], Record)
    sb3_model.FORMAT.write(reading, tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert json.loads(archive.read("data"))["learning_rate"] == entry
    assert not fired.exists()
    with contextlib.suppress(Exception):
        PPO.load(tmp_path / "again.zip")
    assert fired.exists()  # it is live where a file is trusted


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def _with_entry(folder: Path, key: str, entry: Any) -> Path:
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(folder / "model.zip")
    with zipfile.ZipFile(folder / "model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["data"] = json.dumps({**json.loads(members["data"]), key: entry}).encode()
    with zipfile.ZipFile(folder / "changed.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return folder / "changed.zip"


def test_a_record_of_code_is_not_written_where_it_was_not_read_from(tmp_path: Path) -> None:
    evil = base64.b64encode(pickle.dumps(_Evil("x"))).decode()
    path = _with_entry(tmp_path, "gamma", {":serialized:": evil})
    reading = sb3_model.FORMAT.read(path)
    moved = {**reading.components["agent"], "clip_range": reading.components["agent"]["gamma"]}
    changed = dataclasses.replace(
        reading, components={**reading.components, "agent": moved | {"gamma": 0.5}}
    )
    with pytest.raises(UnsupportedError, match=r"agent.clip_range: the record of posix:mkdir"):
        sb3_model.FORMAT.write(changed, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()
    moved["clip_range"] = Constant(0.1)
    sb3_model.FORMAT.write(dataclasses.replace(
        reading, components={**reading.components, "agent": moved | {"gamma": 0.5}}
    ), tmp_path / "yes.zip")  # fmt: skip
    model = PPO.load(tmp_path / "yes.zip", device="cpu")
    assert model.gamma == 0.5
    assert model.clip_range(1.0) == 0.1  # type: ignore[operator]


OFF = {"buffer_size": 200, "learning_starts": 20, "batch_size": 16, "device": "cpu", "seed": 1}
ON = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu", "seed": 1}
SMALL = {"net_arch": [8]}


def _env(name: str) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(name)])


def _noise() -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), np.full(1, 0.1))


MAKERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "PPO": ("Pendulum-v1", lambda env: PPO("MlpPolicy", env, policy_kwargs={
        **SMALL, "activation_fn": torch.nn.ELU, "optimizer_class": torch.optim.AdamW}, **ON)),
    "PPO with schedules": ("CartPole-v1", lambda env: PPO(
        "MlpPolicy", env, learning_rate=LinearSchedule(1e-3, 1e-4, 0.5), clip_range_vf=0.1,
        policy_kwargs={**SMALL}, **ON)),
    "SAC": ("Pendulum-v1", lambda env: SAC("MlpPolicy", env, policy_kwargs={**SMALL}, **OFF)),
    "SAC by episodes": ("Pendulum-v1", lambda env: SAC(
        "MlpPolicy", env, ent_coef=0.1, train_freq=(1, "episode"), policy_kwargs={**SMALL}, **OFF)),
    "TD3 with noise": ("Pendulum-v1", lambda env: stable_baselines3.TD3(
        "MlpPolicy", env, action_noise=_noise(), policy_kwargs={**SMALL}, **OFF)),
    "DQN": ("CartPole-v1", lambda env: stable_baselines3.DQN(
        "MlpPolicy", env, policy_kwargs={**SMALL}, **OFF)),
    "QRDQN": ("CartPole-v1", lambda env: sb3_contrib.QRDQN(
        "MlpPolicy", env, policy_kwargs={**SMALL}, **OFF)),
    "CrossQ": ("Pendulum-v1", lambda env: sb3_contrib.CrossQ(
        "MlpPolicy", env, policy_kwargs={**SMALL}, **OFF)),
    "RecurrentPPO": ("Pendulum-v1", lambda env: sb3_contrib.RecurrentPPO(
        "MlpLstmPolicy", env, policy_kwargs={**SMALL, "lstm_hidden_size": 4}, **ON)),
    "ARS": ("CartPole-v1", lambda env: sb3_contrib.ARS(
        "LinearPolicy", env, n_delta=2, device="cpu", seed=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_of_ours_becomes_a_model_that_acts_and_trains_as_sb3_s_own(
    name: str, tmp_path: Path
) -> None:
    environment, make = MAKERS[name]
    model = make(_env(environment))
    model.learn(32)
    rekindle.sb3.save(model, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "ours.zip", to="sb3.model")
    model.save(tmp_path / "own.zip")
    own, ours = (
        type(model).load(tmp_path / f"{each}.zip", device="cpu") for each in ("own", "ours")
    )
    assert actions(ours) == actions(model)
    assert vars(ours).keys() == vars(own).keys()
    for each in (own, ours):
        each.set_env(_env(environment))
        each.set_random_seed(5)
        each.learn(32, reset_num_timesteps=False)
    assert ours.num_timesteps == own.num_timesteps > 32
    for key, tensor in own.policy.state_dict().items():
        assert tensor.numpy().tobytes() == ours.policy.state_dict()[key].numpy().tobytes(), key
    reading = sb3_model.FORMAT.read(tmp_path / "ours.zip")
    assert reading.spaces["action"] == spaces.describe(model.action_space)
    assert reading.step == model.num_timesteps


def test_a_function_of_the_program_is_refused_with_its_place_and_a_way_out(tmp_path: Path) -> None:
    def rate(progress: float) -> float:
        return 1e-3 * progress

    env = _env("CartPole-v1")
    model = PPO("MlpPolicy", env, learning_rate=rate, policy_kwargs={**SMALL}, **ON)
    rekindle.sb3.save(model, tmp_path / "ours")
    with pytest.raises(UnsupportedError, match=r"agent.learning_rate: .*\n.*\n.*rekindle.sb3.load"):
        convert(tmp_path / "ours", tmp_path / "no.zip", to="sb3.model")
    assert not (tmp_path / "no.zip").exists()
    live = rekindle.sb3.load(tmp_path / "ours", env, learning_rate=rate)
    live.save(tmp_path / "yes.zip")
    assert actions(PPO.load(tmp_path / "yes.zip", device="cpu")) == actions(model)


def test_what_is_no_model_of_sb3_is_not_written_as_one(tmp_path: Path) -> None:
    weights = {"a": np.zeros(1, np.float32)}
    for components in (
        {},
        {"policy": weights},
        {"policy": weights, "agent": {"gamma": 0.9}},
    ):
        reading = Reading(format="x", components=components)
        with pytest.raises(UnsupportedError, match="policy_class"):
            sb3_model.FORMAT.write(reading, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_components_that_a_model_does_not_hold_are_named(tmp_path: Path) -> None:
    path = GOLDEN / "v2.9.2" / "ddpg_pendulum" / "model.zip"
    reading = sb3_model.FORMAT.read(path)
    more = {**reading.components, "env": {}, "callbacks": []}
    with pytest.raises(UnsupportedError, match="env: a model of Stable") as caught:
        sb3_model.FORMAT.write(dataclasses.replace(reading, components=more), tmp_path / "x.zip")
    assert [key for key, _ in caught.value.refusals] == ["env", "callbacks"]

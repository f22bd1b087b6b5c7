from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rekindle.sb3
from rekindle import spaces, spans
from rekindle.converting import convert
from rekindle.errors import AlreadyExistsError, FormatError, UnsupportedError
from rekindle.formats import sb3_parts, sb3_values
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.formats.recognition import recognise
from rekindle.state import Record

GOLDEN = Path(__file__).parents[1] / "golden" / "sb3"


def test_a_replay_buffer_is_read_where_it_lies(tmp_path: Path) -> None:
    box = gym.spaces.Box(-1, 1, (60,), np.float32)
    buffer = ReplayBuffer(1000, box, box, device="cpu")
    buffer.observations[:] = 3.5
    path = tmp_path / "buffer"
    path.write_bytes(pickle.dumps(buffer, 5))
    reading = recognise(path).read(path)
    found = reading.components["replay_buffer"]
    assert reading.format == "sb3.replay_buffer"
    assert reading.details == {"class": "stable_baselines3.common.buffers:ReplayBuffer"}
    assert found["observations"].tobytes() == buffer.observations.tobytes()
    assert found["pos"] == 0
    assert reading.spaces["observation"] == spaces.describe(box)
    span = spans.of_file(path)
    again = sb3_parts.torch_files.read_pickle(span, sb3_parts.Budget(), tensors=sb3_parts.Tensors())
    assert np.shares_memory(again.value.observations, span.array())


def test_a_buffer_of_dictionaries_and_of_compressed_files_is_read(tmp_path: Path) -> None:
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    space = gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(3)})
    buffer = DictReplayBuffer(10, space, box, device="cpu")
    path = tmp_path / "buffer.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(buffer)))
    reading = recognise(path).read(path)
    assert set(reading.components["replay_buffer"]["observations"]) == {"a", "b"}
    assert reading.spaces["observation"] == spaces.describe(space)


def test_running_statistics_are_numbers_and_arrays(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    env.reset()
    env.step(env.action_space.sample()[None])
    path = tmp_path / "norm"
    env.save(str(path))
    reading = recognise(path).read(path)
    found = reading.components["normalizer"]
    statistics: Any = env.obs_rms
    assert found["obs_rms"]["mean"].tobytes() == statistics.mean.tobytes()
    assert found["ret_rms"]["count"] == env.ret_rms.count
    assert found["gamma"] == env.gamma
    assert "normalizer.returns" in {n.key for n in reading.notes if n.kind is Kind.ABSENT}


def test_statistics_by_key_are_read_by_key() -> None:
    path = GOLDEN / "v2.9.2" / "sac_dict_vecnorm" / "vecnormalize.pkl"
    found = sb3_parts.NORMALIZER.read(path).components["normalizer"]
    assert set(found["obs_rms"]["b"]) >= {"mean", "var", "count"}
    about = json.loads((path.parent / "expected.json").read_text())["vecnormalize"]
    for name, value in about.items():
        assert found[name] == value, name


def test_a_policy_by_itself_is_a_policy(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs={"net_arch": [4]})
    path = tmp_path / "policy"
    model.policy.save(str(path))
    reading = recognise(path).read(path)
    assert (reading.format, reading.kind) == ("sb3.policy", "policy")
    for name, tensor in model.policy.state_dict().items():
        assert reading.components["policy"][name].tobytes() == tensor.numpy().tobytes()
    arguments = reading.components["constructor"]["arguments"]
    assert arguments["net_arch"] == [4]
    assert reading.spaces["action"] == spaces.describe(model.action_space)


def test_other_pickles_are_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", pickle.dumps([1]), pickle.dumps(Path("x")), b"\x80", b"text"):
        path.write_bytes(data)
        for format_ in (sb3_parts.REPLAY_BUFFER, sb3_parts.NORMALIZER, sb3_parts.POLICY):
            assert format_.sniff(path) is None
            with pytest.raises(ValueError, match=str(path)):
                format_.read(path)


class OwnReplayBuffer:
    observations = actions = None


def test_a_buffer_of_a_class_of_the_user_s_own_needs_its_arrays(tmp_path: Path) -> None:
    path = tmp_path / "own.pkl"
    path.write_bytes(pickle.dumps(OwnReplayBuffer()))
    assert sb3_parts.REPLAY_BUFFER.sniff(path) is Confidence.LAYOUT
    with pytest.raises(FormatError, match="observations, actions"):
        sb3_parts.REPLAY_BUFFER.read(path)
    with pytest.raises(FormatError, match="VecNormalize"):
        sb3_parts.NORMALIZER.read(path)


# --------------------------------------------------------------------------- writing


PICKLES = sorted(GOLDEN.rglob("*.pkl"))


def loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of its name for itself
        return pickle.loads(path.read_bytes())


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """That two loaded objects are the same to the last attribute, and can be written to."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        assert other.flags.writeable, where
        same = one.tolist() == other.tolist() if one.dtype == object else np.array_equal(one, other)
        assert same, where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, np.random.Generator):
        assert one.bit_generator.state == other.bit_generator.state, where
    elif hasattr(one, "__dict__"):
        assert_equal(vars(one), vars(other), where)
    else:
        assert one == other, where


@pytest.mark.parametrize("path", PICKLES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_what_is_written_again_loads_as_the_very_same(path: Path, tmp_path: Path) -> None:
    format_ = recognise(path)
    reading = format_.read(path)
    format_.write(reading, tmp_path / "again")
    again = recognise(tmp_path / "again").read(tmp_path / "again")
    assert sb3_values.same(dict(reading.components), dict(again.components))
    assert again.details == reading.details
    assert_equal(loaded(path), loaded(tmp_path / "again"))


def _trained(folder: Path, **options: Any) -> Any:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=5.0)
    model = SAC("MlpPolicy", env, buffer_size=50, learning_starts=20, batch_size=8, seed=1,
                policy_kwargs={"net_arch": [4]}, device="cpu", **options)  # fmt: skip
    model.learn(60)
    rekindle.sb3.save(model, folder / "ours")
    return model


def test_the_buffer_and_statistics_of_a_checkpoint_of_ours_load_in_sb3(tmp_path: Path) -> None:
    model = _trained(tmp_path)
    report = convert(tmp_path / "ours", tmp_path / "buffer.pkl", to="sb3.replay_buffer")
    assert "policy" in {lost.key for lost in report.lost}
    convert(tmp_path / "ours", tmp_path / "normalize.pkl", to="sb3.normalizer")
    model.save_replay_buffer(tmp_path / "own.pkl")
    assert_equal(loaded(tmp_path / "own.pkl"), loaded(tmp_path / "buffer.pkl"))
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    model.learn(20, reset_num_timesteps=False)
    env = VecNormalize.load(
        str(tmp_path / "normalize.pkl"), DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    )
    rows = np.ones((1, 3), np.float32)
    live = model.get_vec_normalize_env()
    reading = sb3_parts.NORMALIZER.read(tmp_path / "normalize.pkl")
    assert reading.components["normalizer"]["clip_obs"] == env.clip_obs == 5.0
    model.env.obs_rms = env.obs_rms
    assert np.array_equal(live.normalize_obs(rows), env.normalize_obs(rows))  # type: ignore[arg-type]
    env.reset()
    env.step(np.zeros((1, 1), np.float32))


class Goals(gym.Env[Any, Any]):
    """The smallest environment with goals."""

    def __init__(self) -> None:
        box = gym.spaces.Box(-1, 1, (1,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = gym.spaces.Dict(dict.fromkeys(names, box))
        self.action_space = box
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.observation_space.sample(), 0.0, self.count == 5, False, {}

    def compute_reward(self, achieved: Any, desired: Any, infos: Any) -> Any:
        return np.zeros(len(achieved), np.float32)


@pytest.mark.parametrize("copies", [True, False])
def test_a_buffer_with_goals_goes_there_and_back(copies: bool, tmp_path: Path) -> None:
    model = SAC(
        "MultiInputPolicy", DummyVecEnv([Goals]), buffer_size=30, learning_starts=10, batch_size=4,
        policy_kwargs={"net_arch": [4]}, device="cpu", seed=1,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "copy_info_dict": copies},
    )  # fmt: skip
    model.learn(25)
    model.save_replay_buffer(tmp_path / "own.pkl")
    rekindle.sb3.save(model, tmp_path / "ours")
    reading = sb3_parts.REPLAY_BUFFER.read(tmp_path / "own.pkl")
    sb3_parts.REPLAY_BUFFER.write(reading, tmp_path / "again.pkl")
    convert(tmp_path / "ours", tmp_path / "ours.pkl", to="sb3.replay_buffer")
    for name in ("again.pkl", "ours.pkl"):
        live = loaded(tmp_path / name)
        assert type(live) is HerReplayBuffer
        own = vars(loaded(tmp_path / "own.pkl"))
        assert_equal(own, {key: vars(live)[key] for key in own})
        model.load_replay_buffer(tmp_path / name)
        model.learn(10, reset_num_timesteps=False)


def test_large_arrays_are_written_from_where_they_lie(tmp_path: Path) -> None:
    box = gym.spaces.Box(-1, 1, (250,), np.float32)
    buffer = ReplayBuffer(20_000, box, box, device="cpu")
    buffer.observations[:] = 1.5
    (tmp_path / "one").write_bytes(pickle.dumps(buffer, 5))
    reading = sb3_parts.REPLAY_BUFFER.read(tmp_path / "one")
    tracemalloc.start()
    sb3_parts.REPLAY_BUFFER.write(reading, tmp_path / "two")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "two").stat().st_size
    assert size > 60_000_000
    assert most < size / 2
    assert loaded(tmp_path / "two").observations.tobytes() == buffer.observations.tobytes()


def test_what_these_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = GOLDEN / "v2.9.2" / "dqn_memopt" / "replay_buffer.pkl"
    reading = sb3_parts.REPLAY_BUFFER.read(path)
    fields = reading.components["replay_buffer"]
    many: list[tuple[Any, Reading, str]] = [
        (sb3_parts.REPLAY_BUFFER, Reading(format="x", components={}), "alone, found none"),
        (sb3_parts.REPLAY_BUFFER, Reading(format="x", components={"replay_buffer": {}}), "without"),
        (sb3_parts.REPLAY_BUFFER, replace(reading, details={"class": "own:Buffer"}), "imported"),
        (sb3_parts.REPLAY_BUFFER, replace(reading, components={
            "replay_buffer": {**fields, "more": Record("os:system", {})}}),
         r"replay_buffer\.more: the record of os:system"),
        (sb3_parts.NORMALIZER, Reading(format="x", components={"normalizer": {"obs_rms": {}}}),
         "settings"),
    ]  # fmt: skip
    for format_, wrong, words in many:
        with pytest.raises(UnsupportedError, match=words):
            format_.write(wrong, tmp_path / "no.pkl")
    assert list(tmp_path.iterdir()) == []
    sb3_parts.REPLAY_BUFFER.write(reading, tmp_path / "yes.pkl")
    with pytest.raises(AlreadyExistsError):
        sb3_parts.REPLAY_BUFFER.write(reading, tmp_path / "yes.pkl")

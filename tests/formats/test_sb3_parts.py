from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rekindle import spaces, spans
from rekindle.errors import FormatError
from rekindle.formats import sb3_parts
from rekindle.formats.protocol import Confidence, Kind
from rekindle.formats.recognition import recognise

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

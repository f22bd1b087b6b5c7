"""Every replay buffer of Stable-Baselines3: each save holds what was live, at the cost of new rows.

The models are real, and their own loops fill the buffers.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.held_commits import held

import rekindle as rk
import rekindle.sb3
from rekindle import rowgroups, writer
from rekindle.adapters import sb3

Arrays = dict[str, np.ndarray]

# --------------------------------------------------------------------------- models


class Noise(gym.Env[Any, Any]):
    """Observations from a generator, in episodes of a fixed length."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any], length: int):
        self.observation_space = copy.deepcopy(observation)
        self.action_space = copy.deepcopy(action)
        self.length = length
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        ended = self.time == self.length
        is_terminal = ended and bool(self.np_random.integers(2))
        reward = float(self.np_random.random())
        return self.observation_space.sample(), reward, is_terminal, ended, {"time": self.time}


VECTOR = spaces.Box(-1, 1, (800,))
CONTINUOUS = spaces.Box(-1, 1, (3,))
FRAMES = spaces.Box(0, 255, (84, 84, 1), np.uint8)
MIXED = spaces.Dict({"counts": spaces.Box(0, 9, (20,), np.int64), "speed": VECTOR})


def noises(observation: spaces.Space[Any], action: spaces.Space[Any], count: int = 1) -> Any:
    lengths = [5 + 2 * index for index in range(count)]
    return DummyVecEnv([lambda n=n: Noise(observation, action, n) for n in lengths])


def bits(count: int) -> Any:
    lengths = [7 + 4 * index for index in range(count)]
    return DummyVecEnv([lambda n=n: BitFlippingEnv(n_bits=1000, max_steps=n) for n in lengths])


def goals(seed: int, count: int = 1, capacity: int = 200, **options: Any) -> Any:
    return DQN(
        "MultiInputPolicy", bits(count), seed=seed, buffer_size=capacity * count,
        replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=options, **common(),
    )  # fmt: skip


def common() -> dict[str, Any]:
    """Arguments of every model; it does not learn before it is told to."""
    return {
        "policy_kwargs": {"net_arch": [8]}, "batch_size": 16, "train_freq": 1,
        "learning_starts": 1 << 40, "device": "cpu",
    }  # fmt: skip


def vectors(seed: int, count: int = 1, capacity: int = 200, **options: Any) -> Any:
    env = noises(VECTOR, CONTINUOUS, count)
    return SAC("MlpPolicy", env, seed=seed, buffer_size=capacity * count, **options, **common())


def pictures(seed: int, count: int = 1, capacity: int = 200) -> Any:
    return DQN(
        "MlpPolicy", noises(FRAMES, spaces.Discrete(3), count), seed=seed,
        buffer_size=capacity * count, optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False}, **common(),
    )  # fmt: skip


def dictionaries(seed: int) -> Any:
    env = noises(MIXED, CONTINUOUS)
    return SAC("MultiInputPolicy", env, seed=seed, buffer_size=200, **common())


def without_timeouts(seed: int) -> Any:
    return vectors(seed, replay_buffer_kwargs={"handle_timeout_termination": False})


KINDS: dict[str, Callable[[int], Any]] = {
    "vectors": vectors,
    "vectors of three environments": lambda seed: vectors(seed, 3, 67),
    "without timeouts": without_timeouts,
    "frames": pictures,
    "frames of two environments": lambda seed: pictures(seed, 2, 100),
    "dictionaries": dictionaries,
    "n steps": lambda seed: vectors(seed, n_steps=3),
    "her future": lambda seed: goals(seed, goal_selection_strategy="future"),
    "her final": lambda seed: goals(seed, 2, 100, goal_selection_strategy="final"),
    "her episode": lambda seed: goals(seed, goal_selection_strategy="episode"),
    "her with infos": lambda seed: goals(seed, 2, 100, copy_info_dict=True),
}


def arrays_of(buffer: Any) -> Arrays:
    """The arrays of a buffer, live or loaded, by the names that they have in a checkpoint."""
    state = buffer if isinstance(buffer, dict) else vars(buffer)
    found: Arrays = {}
    for name, value in state.items():
        parts = value.items() if isinstance(value, dict) and name != "env" else [("", value)]
        for key, part in parts:
            if isinstance(part, np.ndarray):
                found[f"{name}.{key}" if key else name] = part
    return found


# --------------------------------------------------------------------------- runs


@dataclass
class Training:
    """A model, or a buffer alone, that a run saves in the background."""

    path: Path
    model: Any
    progress: rk.Progress = field(default_factory=rk.Progress)
    saved: dict[int, Arrays] = field(default_factory=dict)
    """What the buffer was at each save."""

    def __post_init__(self) -> None:
        self.run = rk.Run(self.path, every=1, background=True)
        if isinstance(self.model, ReplayBuffer):
            self.run.track(replay_buffer=self.model, progress=self.progress)
        else:
            self.run.track(**rekindle.sb3.components(self.model), progress=self.progress)
        self.report = self.run.resume()

    @property
    def buffer(self) -> Any:
        return self.model if isinstance(self.model, ReplayBuffer) else self.model.replay_buffer

    def add(self, rows: int) -> None:
        if isinstance(self.model, ReplayBuffer):
            put(self.model, rows)
        elif rows:
            self.model.learn(rows * self.model.n_envs, reset_num_timesteps=False)
        self.progress.step += rows * self.buffer.n_envs

    def begin(self) -> int:
        """Begin a save, and remember what has to be in it."""
        step = self.progress.step
        self.saved[step] = {name: array.copy() for name, array in arrays_of(self.buffer).items()}
        assert self.run.checkpoint()
        return step

    def save(self) -> dict[str, Any]:
        step = self.begin()
        self.run.wait()
        self.check(step)
        return self.run.entries()[-1]

    def check(self, step: int) -> None:
        """A checkpoint has what the buffer was."""
        path = self.path / f"step_{step:09d}"
        assert_equal(arrays_of(rk.load(path, ["replay_buffer"])["replay_buffer"]), self.saved[step])

    def close(self) -> None:
        """End, and look at every checkpoint once more."""
        self.run.close()
        assert self.run.steps == list(self.saved)
        for step in self.saved:
            self.check(step)


def put(buffer: Any, rows: int) -> None:
    """Add rows to a buffer that no model holds; what lies in each tells when it was added."""
    shape = (buffer.n_envs, *buffer.obs_shape)
    for _ in range(rows):
        number = buffer.number = getattr(buffer, "number", 0) + 1
        now, following = (np.full(shape, number % 250 + ahead) for ahead in (0, 1))
        action = np.full((buffer.n_envs, buffer.action_dim), number % 2)
        reward, done = np.full(buffer.n_envs, number), np.full(buffer.n_envs, number % 5 == 0)
        buffer.add(now, following, action, reward, done, [{}] * buffer.n_envs)


def assert_equal(loaded: Arrays, live: Arrays) -> None:
    assert set(loaded) == set(live) - ({"infos"} - set(loaded))
    for name, found in loaded.items():
        assert found.dtype == live[name].dtype
        if found.dtype == object:
            np.testing.assert_equal(found.tolist(), live[name][: len(found)].tolist())
            assert not any(info for row in live[name][len(found) :] for info in row)
        else:
            np.testing.assert_array_equal(found, live[name], err_msg=name)


def row_bytes(buffer: Any) -> int:
    found = arrays_of(buffer).values()
    return sum(a[0].nbytes for a in found if a.dtype != object and len(a) == buffer.buffer_size)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """The position tells what is new, however little there is."""
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    monkeypatch.setattr(rowgroups, "COMPARED_BYTES", 0)


@pytest.fixture
def few(by_position: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row alone is looked at to tell whether others changed, and few are copied."""
    monkeypatch.setattr(rowgroups, "_SAMPLE_ROWS", 1)
    monkeypatch.setattr(rowgroups, "STAGED_BYTES", 1)


@pytest.fixture
def by_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is compared, in small blocks."""
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    monkeypatch.setattr(rowgroups, "COMPARED_BYTES", 1 << 40)
    monkeypatch.setattr(rowgroups, "_BLOCK_BYTES", 1 << 16)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits that wait until they are let go."""
    return held(monkeypatch)


# --------------------------------------------------------------------------- saving


def fill(training: Training) -> Iterator[tuple[int, int]]:
    """Save again and again; how many rows were new each time, and how many bytes were written."""
    capacity = training.buffer.buffer_size
    # In part; to the last row; around the end; a few and many; more than once around; one.
    for rows in (25, 5, capacity - 30, 3, 30, capacity - 1, 2 * capacity + 7, 1):
        training.add(rows)
        yield rows, training.save()["written_bytes"]
    training.close()
    assert rk.verify(training.path).ok


def other_bytes(training: Training) -> int:
    """How much the newest save wrote beside new rows, at most."""
    found = training.run.latest().manifest.files
    whole = sum(entry.bytes for name, entry in found.items() if "/rows." not in name)
    return whole + getattr(training.buffer, "ep_length", np.zeros(0)).nbytes + 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_each_save_holds_what_was_live_and_writes_the_rows_that_are_new(
    tmp_path: Path, kind: str, by_position: None
) -> None:
    training = Training(tmp_path / "run", KINDS[kind](0))
    buffer = training.buffer
    assert row_bytes(buffer) * buffer.buffer_size > 1 << 20
    for rows, written in fill(training):
        # With the row before, which may be amended, and the next observation.
        count = min(rows + 2, buffer.buffer_size)
        assert written < count * row_bytes(buffer) + other_bytes(training)


@pytest.mark.parametrize("kind", ["frames", "her future", "vectors of three environments"])
def test_a_small_buffer_is_compared_and_only_blocks_that_changed_are_written(
    tmp_path: Path, kind: str, by_comparison: None
) -> None:
    training = Training(tmp_path / "run", KINDS[kind](0))
    for rows, written in fill(training):
        most = rows * row_bytes(training.buffer) + (4 << 16) + other_bytes(training)
        assert written < most


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_model_samples_the_same_and_goes_on_bit_for_bit(
    tmp_path: Path, kind: str
) -> None:
    first = Training(tmp_path / "run", KINDS[kind](0))
    first.add(first.buffer.buffer_size + 20)
    first.save()
    first.add(17)
    first.model.learning_starts = 0
    first.save()
    first.run.close()
    expected = [*batches(first.buffer), *batches(first.buffer)]
    first.add(6)

    second = Training(tmp_path / "run", KINDS[kind](1))
    held = second.buffer.rewards
    assert second.report is not None
    found = [*batches(second.buffer), *batches(second.buffer)]
    assert second.buffer.rewards is held
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)
    second.add(6)
    assert_equal(arrays_of(second.buffer), arrays_of(first.buffer))
    for one, two in zip(weights(first.model), weights(second.model), strict=True):
        assert torch.equal(one, two)
    second.run.close()


def batches(buffer: Any) -> Iterator[torch.Tensor]:
    for part in buffer.sample(64):
        yield from part.values() if isinstance(part, dict) else () if part is None else (part,)


def weights(model: Any) -> list[torch.Tensor]:
    return list(model.policy.state_dict().values())


# --------------------------------------------------------------------------- edits


@pytest.mark.parametrize("past_the_end", [9, 0])
def test_an_episode_that_her_truncates_after_a_save_is_in_the_next(
    tmp_path: Path, few: None, past_the_end: int
) -> None:
    training = Training(tmp_path / "run", goals(0, capacity=50))
    training.add(50 + past_the_end)
    training.save()
    with pytest.warns(UserWarning, match="truncated"):
        training.buffer.truncate_last_trajectory()
    training.progress.step += 1
    assert not np.array_equal(training.buffer.dones, training.saved[50 + past_the_end]["dones"])
    training.save()
    training.add(60)
    training.save()
    training.close()


@pytest.mark.parametrize("past_the_end", [9, 0])
def test_the_end_that_a_new_start_of_learning_marks_is_in_the_next(
    tmp_path: Path, few: None, past_the_end: int
) -> None:
    """Of a buffer that keeps next observations in the rows after."""
    training = Training(tmp_path / "run", pictures(0, capacity=40))
    training.add(40 + past_the_end)
    training.save()
    row = (past_the_end - 1) % 40
    training.buffer.dones[row] = False
    training.progress.step += 1
    training.save()
    with pytest.warns(UserWarning, match="truncated"):
        training.model.learn(3, reset_num_timesteps=True)
    assert training.buffer.dones[row].all()
    training.progress.step += 3
    training.save()
    training.close()


def test_lengths_of_episodes_change_in_rows_that_were_saved_long_ago(
    tmp_path: Path, few: None
) -> None:
    training = Training(tmp_path / "run", goals(0, capacity=50))
    training.add(10)  # an episode of 7, and 3 rows of the next
    training.save()
    assert training.buffer.ep_length[:10, 0].tolist() == [7] * 7 + [0] * 3
    training.add(3)
    training.save()
    training.add(1)
    training.save()
    assert training.buffer.ep_length[7:14, 0].tolist() == [7] * 7
    training.close()


def test_without_comparing_them_they_would_be_stale(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sb3.Replay, "_CHANGING", ())
    monkeypatch.setattr(sb3.Replay, "_SMALL", (*sb3.Replay._SMALL, "ep_length"))
    with pytest.raises(AssertionError, match="ep_length"):
        test_lengths_of_episodes_change_in_rows_that_were_saved_long_ago(tmp_path, few)


def test_an_edit_for_the_time_of_a_sample_is_not_seen_by_a_save_in_the_background(
    tmp_path: Path, few: None, gate: threading.Event
) -> None:
    """Of timeouts, as samples of n steps need it; they read rewards meanwhile."""
    buffer = NStepReplayBuffer(40, spaces.Box(-1, 1, (3,)), CONTINUOUS, "cpu")
    training = Training(tmp_path / "run", buffer)
    training.add(54)
    step = training.begin()
    seen: list[float] = []
    normalized = buffer._normalize_reward

    def reading(reward: np.ndarray, env: Any = None) -> np.ndarray:
        gate.set()
        training.run.wait()
        training.check(step)
        seen.append(buffer.timeouts[buffer.pos - 1, 0])
        return normalized(reward, env)

    vars(buffer)["_normalize_reward"] = reading
    buffer.sample(8)
    del vars(buffer)["_normalize_reward"]
    assert seen == [1.0]
    assert not buffer.timeouts.any()
    training.close()


# --------------------------------------------------------------------------- a race that none sees


def test_a_whole_round_during_a_save_is_noticed_though_the_position_is_the_same(
    tmp_path: Path, by_position: None, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups, "STAGED_BYTES", 1000)
    training = Training(tmp_path / "run", frames(50, 1))
    training.add(60)
    training.begin()
    put(training.buffer, 50)
    gate.set()
    training.run.wait()
    assert training.run.steps == []
    training.saved.clear()
    training.progress.step += 50
    gate.clear()
    step = training.begin()
    put(training.buffer, 100)
    gate.set()
    training.run.wait()
    training.check(step)
    training.close()


def test_without_its_witnesses_such_a_save_would_be_torn(
    tmp_path: Path, by_position: None, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups.Group, "_went_round", lambda _: False)
    monkeypatch.setattr(rowgroups, "STAGED_BYTES", 1000)
    training = Training(tmp_path / "run", frames(50, 1))
    training.add(60)
    training.begin()
    put(training.buffer, 50)
    gate.set()
    training.run.wait()
    assert training.run.steps == [60]
    with pytest.raises(AssertionError):
        training.check(60)
    training.run.close()


def frames(capacity: int, count: int) -> ReplayBuffer:
    """A buffer that keeps next observations in the rows after."""
    return ReplayBuffer(
        capacity * count, spaces.Box(0, 255, (5, 5), np.uint8), spaces.Discrete(2), "cpu", count,
        optimize_memory_usage=True, handle_timeout_termination=False,
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Capacity, number of environments, and per save: rows before it, and rows during it."""
    capacity = draw(st.integers(1, 12))
    rows = st.integers(0, 3) | st.integers(0, 2 * capacity + 2)
    saves = draw(st.lists(st.tuples(rows, rows), min_size=1, max_size=6))
    return capacity, draw(st.integers(1, 2)), saves


@settings(max_examples=40, deadline=None)
@given(histories())
def test_whatever_is_added_between_and_during_saves_each_holds_what_was_live(
    history: tuple[int, int, list[tuple[int, int]]],
) -> None:
    capacity, count, saves = history
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "LEAST_BYTES", 1)
        patch.setattr(rowgroups, "COMPARED_BYTES", 0)
        patch.setattr(rowgroups, "STAGED_BYTES", 100)
        training = Training(Path(path) / "run", frames(capacity, count))
        for before, during in saves:
            training.add(before)
            training.progress.step += 1
            step = training.begin()
            put(training.buffer, during)
            training.run.wait()
            training.progress.step += during * count
            if step not in training.run.steps:  # training was faster; the next one is a copy
                assert during
                del training.saved[step]
        training.close()


# --------------------------------------------------------------------------- what a buffer holds


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Discrete(5),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
    ],
    ids=["float32", "float64", "int64", "multi-discrete", "int8"],
)
def test_actions_of_every_type_come_back(
    tmp_path: Path, by_position: None, space: spaces.Space[Any]
) -> None:
    def made() -> ReplayBuffer:
        return ReplayBuffer(30, spaces.Box(-1, 1, (3,)), space, "cpu")

    buffer = made()
    put(buffer, 40)
    buffer.actions[3] = space.sample()
    rk.save(tmp_path / "a", replay_buffer=buffer)
    other = made()
    rk.restore(tmp_path / "a", replay_buffer=other)
    assert_equal(arrays_of(other), arrays_of(buffer))
    assert (other.pos, other.full) == (10, True)


def test_infos_come_back_where_the_buffer_keeps_them_and_stay_where_it_does_not(
    tmp_path: Path, by_position: None
) -> None:
    for kept in (True, False):
        first = goals(0, capacity=30, copy_info_dict=kept)
        first.learn(25)
        buffer = first.replay_buffer
        rk.save(tmp_path / f"{kept}", replay_buffer=buffer, env=first.env)
        loaded = rk.load(tmp_path / f"{kept}", ["replay_buffer"])["replay_buffer"]
        assert ("infos" in loaded) is kept
        second = goals(1, capacity=30, copy_info_dict=kept)
        second.learn(40)
        second.replay_buffer.infos[[3, 28], 0] = mark = {"mark": 1}
        rk.restore(tmp_path / f"{kept}", replay_buffer=second.replay_buffer, env=second.env)
        found = second.replay_buffer.infos
        if kept:
            np.testing.assert_equal(found.tolist(), buffer.infos.tolist())
            assert any("terminal_observation" in info for info in found[:, 0])
            assert not any(found[25:, 0])
        else:
            assert found[3, 0] is mark


def test_a_buffer_that_was_reset_samples_what_it_did(tmp_path: Path, by_position: None) -> None:
    """HER goes on to sample the episodes that it held."""
    first, second = goals(0, capacity=50), goals(1, capacity=50)
    first.learn(45)
    first.replay_buffer.reset()
    first.learn(2)
    assert first.replay_buffer.ep_length[2:, 0].any()
    parts = [{"replay_buffer": model.replay_buffer, "env": model.env} for model in (first, second)]
    rk.save(tmp_path / "a", **parts[0])
    rk.restore(tmp_path / "a", **parts[1])
    assert_equal(arrays_of(second.replay_buffer), arrays_of(first.replay_buffer))


class Prioritized(ReplayBuffer):
    """A buffer of a program's own, which amends what it holds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.priorities = np.ones((self.buffer_size, self.n_envs))


def test_a_class_of_ones_own_may_amend_rewards_and_add_arrays(tmp_path: Path, few: None) -> None:
    buffer = Prioritized(50, spaces.Box(-1, 1, (3,)), CONTINUOUS, "cpu")
    training = Training(tmp_path / "run", buffer)
    training.add(30)
    training.save()
    training.add(5)
    buffer.rewards[3] = 100
    buffer.timeouts[4] = 1
    buffer.priorities[5] = 2
    training.save()
    training.close()


def test_an_array_that_is_as_long_as_the_buffer_by_chance_is_stored_whole(
    tmp_path: Path, by_position: None
) -> None:
    env = bits(6)
    buffer = HerReplayBuffer(36, env.observation_space, env.action_space, env, "cpu", n_envs=6)
    assert len(buffer._current_ep_start) == buffer.buffer_size
    buffer._current_ep_start[4] = 3
    rk.save(tmp_path / "a", replay_buffer=buffer, env=env)
    loaded = rk.load(tmp_path / "a", ["replay_buffer"])["replay_buffer"]
    assert loaded["_current_ep_start"].tolist() == [0, 0, 0, 0, 3, 0]

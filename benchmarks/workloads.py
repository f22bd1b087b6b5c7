"""What is saved: two agents of Stable-Baselines3 with full replay buffers, and two sets of weights.

    python benchmarks/workloads.py                  record what is not recorded yet
    python benchmarks/workloads.py --data DIRECTORY

The rows of the buffers were really stepped: HalfCheetah under a noisy tanh-linear policy, and
SpaceInvaders (frame skip 4, 84 x 84, grey) under a random one. They are recorded once, in files of
10,000 rows that each begin with a seed of their own, so that what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

Arrays = dict[str, np.ndarray]
State = dict[str, torch.Tensor]

DATA = Path(tempfile.gettempdir()) / "rekindle-benchmarks"
NEW_ROWS = 10_000
"""Transitions between two saves, and rows in one file of a recording."""

NUM_TRANSITIONS = 1_000_000
NUM_STACKS = 100_000
NUM_MATRICES = 60
MATRIX_SHAPE = (2048, 2048)
NUM_SMALL = 2000
SMALL_LENGTH = 1024


# --------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class Recording:
    """Rows of an environment on disk, in files of `NEW_ROWS`."""

    directory: Path
    step: Callable[[int], Arrays]
    """Makes the rows of one file from its number, which is its seed."""
    num_files: int
    num_held_out: int
    """How many of the files are not in the buffer at first."""

    def path(self, number: int) -> Path:
        """The file of this number."""
        return self.directory / f"{number:03d}.npz"

    def record(self) -> None:
        """Step the environment for every file that is not there yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        missing = [n for n in range(self.num_files) if not self.path(n).exists()]
        for count, number in enumerate(missing, 1):
            print(f"  recording {self.directory.name} {count}/{len(missing)}", file=sys.stderr)
            partial = self.directory / f".{number:03d}.npz"
            np.savez_compressed(partial, allow_pickle=False, **self.step(number))
            partial.rename(self.path(number))

    def rows(self, number: int) -> Arrays:
        """The arrays of one file."""
        with np.load(self.path(number)) as file:
            return {name: file[name] for name in file.files}

    def filling(self) -> Iterator[tuple[slice, Arrays]]:
        """What the buffer holds at first, with its place there."""
        self.record()
        for number in range(self.num_files - self.num_held_out):
            yield slice(number * NEW_ROWS, (number + 1) * NEW_ROWS), self.rows(number)

    def held_out(self) -> Iterator[Arrays]:
        """What comes after, without end: the held-out files over and over."""
        while True:
            yield from map(self.rows, range(self.num_files - self.num_held_out, self.num_files))


def halfcheetah() -> gym.Env[Any, Any]:
    """HalfCheetah with observations as SB3's agents are given them: float32."""
    return gym.wrappers.DtypeObservation(gym.make("HalfCheetah-v5"), np.float32)


def step_halfcheetah(seed: int) -> Arrays:
    """Rows of HalfCheetah under a noisy tanh-linear policy."""
    env, random = halfcheetah(), np.random.default_rng(seed)
    weights = np.random.default_rng(0).normal(0, 0.3, (6, 17)).astype(np.float32)
    noise = random.normal(0, 0.4, (NEW_ROWS, 6)).astype(np.float32)
    rows: Arrays = {
        "observations": np.empty((NEW_ROWS, 17), np.float32),
        "next_observations": np.empty((NEW_ROWS, 17), np.float32),
        "actions": np.empty((NEW_ROWS, 6), np.float32),
        "rewards": np.empty(NEW_ROWS, np.float32),
        "dones": np.empty(NEW_ROWS, np.float32),
        "timeouts": np.empty(NEW_ROWS, np.float32),
    }
    observation, _ = env.reset(seed=seed)
    for row in range(NEW_ROWS):
        action = np.clip(np.tanh(weights @ observation) + noise[row], -1, 1)
        following, reward, terminated, truncated, _ = env.step(action)
        for name, value in (
            ("observations", observation), ("next_observations", following), ("actions", action),
            ("rewards", reward), ("dones", terminated or truncated), ("timeouts", truncated),
        ):  # fmt: skip
            rows[name][row] = value
        observation = env.reset()[0] if terminated or truncated else following
    return rows


def space_invaders() -> gym.Env[Any, Any]:
    """SpaceInvaders as SB3 wraps it: frame skip 4, the greater of two frames, 84 x 84, grey."""
    import ale_py

    gym.register_envs(ale_py)
    env = gym.make("ALE/SpaceInvaders-v5", frameskip=1, repeat_action_probability=0.0)
    return AtariWrapper(Monitor(env))


def step_space_invaders(seed: int) -> Arrays:
    """Rows of SpaceInvaders under a random policy: the newest frame of each stack."""
    env, random = space_invaders(), np.random.default_rng(seed)
    actions = random.integers(0, 6, NEW_ROWS)
    rows: Arrays = {
        "frames": np.empty((NEW_ROWS, 84, 84), np.uint8),
        "is_first": np.zeros(NEW_ROWS, bool),
        "actions": actions,
        "rewards": np.empty(NEW_ROWS, np.float32),
        "dones": np.empty(NEW_ROWS, np.float32),
    }
    observation, _ = env.reset(seed=seed)
    rows["is_first"][0] = True
    for row in range(NEW_ROWS):
        rows["frames"][row] = observation[..., 0]
        observation, reward, terminated, truncated, _ = env.step(actions[row])
        rows["rewards"][row], rows["dones"][row] = reward, terminated or truncated
        if terminated or truncated:
            observation, _ = env.reset()
            rows["is_first"][row + 1 : row + 2] = True
    return rows


def stacks(rows: Arrays) -> np.ndarray:
    """Stacks of four frames, the newest last, with zeros before an episode begins."""
    frames, count = rows["frames"], len(rows["frames"])
    starts = np.maximum.accumulate(np.where(rows["is_first"], np.arange(count), 0))
    age = np.arange(count) - starts
    found = np.zeros((count, 4, 84, 84), np.uint8)
    for lag in range(4):
        has_frame = np.flatnonzero(age >= lag)
        found[has_frame, 3 - lag] = frames[has_frame - lag]
    return found


def of_halfcheetah(data: Path) -> Recording:
    """1,000,000 transitions, and 200,000 to come."""
    return Recording(data / "halfcheetah", step_halfcheetah, 120, 20)


def of_space_invaders(data: Path) -> Recording:
    """100,000 frames, and 30,000 to come."""
    return Recording(data / "space_invaders", step_space_invaders, 13, 3)


# --------------------------------------------------------------------------- agents


class Agent:
    """A model of SB3 whose replay buffer is full, and what it goes on with.

    Args:
        model: Has learnt a little, so its optimizers and environment are under way.
        fill: Puts the recording into the buffer's arrays.
        fresh: Rows to come, as the arguments of `replay_buffer.add` for 10,000 calls.
    """

    def __init__(
        self, model: Any, fill: Callable[[Any], None], fresh: Iterator[dict[str, Any]]
    ) -> None:
        self.model = model
        self._fresh = fresh
        fill(model.replay_buffer)
        model.replay_buffer.pos, model.replay_buffer.full = 0, True
        model.num_timesteps = model.replay_buffer.buffer_size

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.model.num_timesteps

    def advance(self) -> None:
        """10,000 new transitions and one optimizer step.

        Most are recorded ones; the last come from the agent's own environment, by `learn`.
        """
        own = self.model.train_freq.frequency
        buffer, rows = self.model.replay_buffer, next(self._fresh)
        infos = rows.pop("infos")
        for row in range(NEW_ROWS - own):
            part = {key: value[row : row + 1] for key, value in rows.items()}
            buffer.add(**part, infos=infos[row])
        self.model.num_timesteps += NEW_ROWS - own
        self.model.learn(own, reset_num_timesteps=False)

    def train(self) -> None:
        """One gradient step: what a save in the background may slow down."""
        self.model.train(1, self.model.batch_size)

    def weights(self) -> State:
        """Networks and optimizers by name, sharing memory with the model."""
        _, variables = self.model._get_torch_save_params()
        found = {**self.model.get_parameters()}
        found |= {name: getattr(self.model, name) for name in variables}
        return {name: value.detach() for name, value in _leaves(found, torch.Tensor)}

    def state(self) -> State:
        """Weights and the buffer's arrays by name."""
        arrays = _leaves({"replay_buffer": vars(self.model.replay_buffer)}, np.ndarray)
        return self.weights() | {name: torch.from_numpy(array) for name, array in arrays}


def _leaves(holder: dict[Any, Any], kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in holder.items():
        if isinstance(value, kind):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _leaves(value, kind, f"{prefix}{key}.")


def sac(data: Path) -> Agent:
    """W1: SAC with 1,000,000 transitions of HalfCheetah, 175 MB."""
    recording = of_halfcheetah(data)
    model = sb3.SAC(
        "MlpPolicy", halfcheetah(), seed=0, device="cpu", buffer_size=NUM_TRANSITIONS
    ).learn(150)

    def fill(buffer: Any) -> None:
        for part, rows in recording.filling():
            for name, array in rows.items():
                getattr(buffer, name)[part, 0] = array

    def fresh() -> Iterator[dict[str, Any]]:
        for rows in recording.held_out():
            yield {
                "obs": rows["observations"],
                "next_obs": rows["next_observations"],
                "action": rows["actions"],
                "reward": rows["rewards"],
                "done": rows["dones"],
                "infos": [[{"TimeLimit.truncated": bool(late)}] for late in rows["timeouts"]],
            }

    return Agent(model, fill, fresh())


def dqn(data: Path) -> Agent:
    """W2: DQN with 100,000 stacks of four frames of SpaceInvaders, 2.85 GB."""
    recording = of_space_invaders(data)
    model = sb3.DQN(
        "CnnPolicy",
        VecFrameStack(DummyVecEnv([space_invaders]), 4),
        seed=0,
        device="cpu",
        buffer_size=NUM_STACKS,
        learning_starts=50,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ).learn(80)

    def fill(buffer: Any) -> None:
        for part, rows in recording.filling():
            buffer.observations[part, 0] = stacks(rows)
            buffer.actions[part, 0, 0] = rows["actions"]
            buffer.rewards[part, 0] = rows["rewards"]
            buffer.dones[part, 0] = rows["dones"]

    def fresh() -> Iterator[dict[str, Any]]:
        for rows in recording.held_out():
            found = stacks(rows)
            yield {
                "obs": found,
                "next_obs": np.roll(found, -1, axis=0),
                "action": rows["actions"],
                "reward": rows["rewards"],
                "done": rows["dones"],
                "infos": [[{}]] * NEW_ROWS,
            }

    return Agent(model, fill, fresh())


# --------------------------------------------------------------------------- weights


class Weights:
    """Tensors by name, all of which change at every step."""

    def __init__(self, tensors: State) -> None:
        self.tensors = tensors
        self.step = 0
        self._batch = torch.randn(64, MATRIX_SHAPE[0])

    def advance(self) -> None:
        """One optimizer step."""
        self.step += 1
        for tensor in self.tensors.values():
            tensor.add_(1e-3)

    def train(self) -> None:
        """Some work with them: what a save in the background may slow down."""
        for tensor in list(self.tensors.values())[:2]:
            torch.tanh(self._batch @ tensor)

    def weights(self) -> State:
        """The tensors."""
        return self.tensors

    state = weights


def matrices() -> State:
    """W3: 1 GB of weights, 60 float32 matrices."""
    return {f"layers.{i}.weight": torch.randn(MATRIX_SHAPE) for i in range(NUM_MATRICES)}


def vectors() -> State:
    """W4: 2000 tensors of 4 KB."""
    return {f"layers.{i}.bias": torch.randn(SMALL_LENGTH) for i in range(NUM_SMALL)}


def num_bytes(state: State) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in state.values())


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help=f"where (default {DATA})")
    data = parser.parse_args().data
    for recording in (of_halfcheetah(data), of_space_invaders(data)):
        recording.record()


if __name__ == "__main__":
    main()

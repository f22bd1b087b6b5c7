"""Small real agents of Stable-Baselines3: what a save costs the thread that trains, and a load."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk
import gymnasium as gym
import stable_baselines3 as sb3
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from table import Line, ratio
from timing import Turn, take_turns

import rekindle as rk
import rekindle.sb3


def ppo() -> Any:
    """PPO on CartPole with SB3's own sizes."""
    return sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_steps=256).learn(256)


def sac() -> Any:
    """SAC on HalfCheetah: two critics of 256 x 256, their targets, three optimizers."""
    model = sb3.SAC("MlpPolicy", "HalfCheetah-v5", seed=0, device="cpu", buffer_size=500)
    return model.learn(150)


def dqn() -> Any:
    """DQN on Atari frames: the convolutional network and its target."""
    import ale_py

    gym.register_envs(ale_py)

    def make() -> gym.Env:
        env = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
        return AtariWrapper(Monitor(env))

    env = VecFrameStack(DummyVecEnv([make]), 4)
    model = sb3.DQN(
        "CnnPolicy", env, seed=0, device="cpu", buffer_size=200, learning_starts=50, batch_size=8
    )
    return model.learn(80)


AGENTS: dict[str, Callable[[], Any]] = {
    "PPO/CartPole": ppo,
    "SAC/HalfCheetah": sac,
    "DQN/Atari": dqn,
}


def agents(root: Path, data: Path, rounds: int) -> list[Line]:
    """Every agent's save and restore, against SB3's own save and load."""
    lines: list[Line] = []
    for name, build in AGENTS.items():
        lines += _agent(f"{name} without its buffer", build(), root, rounds)
    return lines


def _agent(what: str, model: Any, root: Path, rounds: int) -> list[Line]:
    parts = rekindle.sb3.components(model)
    parts.pop("replay_buffer", None)
    zipped, run_path = root / "model.zip", root / "run"
    run = rk.Run(run_path, every=1, background=True, exclude=["agent.replay_buffer"])
    run.track(**parts)
    run.resume()
    steps = itertools.count(1)
    stall, peer = take_turns(
        rounds * 5,
        Turn(lambda: run.checkpoint(step=next(steps)), after=run.wait),
        Turn(lambda: model.save(zipped)),
    )
    run.close()
    restore, load = take_turns(
        rounds,
        Turn(lambda: rk.restore(run_path, **parts)),
        Turn(lambda: type(model).load(zipped, device="cpu")),
    )
    disk.remove(run_path)
    disk.remove(zipped)
    return [
        ratio("agent-stall", f"{what}: stall, vs SB3's save", stall, peer, 1.0),
        ratio("agent-restore", f"{what}: restore, vs SB3's load", restore, load, 2.0),
    ]


WORKS: dict[str, Callable[[Path, Path, int], list[Line]]] = {"agents": agents}

"""Small real agents of Stable-Baselines3, for what a save costs the thread that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import stable_baselines3 as sb3
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack


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

"""Environments: random actions in each, killed in the middle of an episode and gone on with.

python -m tests.exactness.environment_cases CASE RUN [--kill-at STEP] [--every N]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import rekindle as rk
from rekindle.replay import Replayable

Case = tuple[Callable[[], Any], int, int]
"""Makes the environment; total steps; steps between two checkpoints."""

SIMPLE = (
    "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1",
    "FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1",
)  # fmt: skip
MUJOCO = (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum",
    "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d",
)  # fmt: skip
ATARI = ("Pong", "Breakout", "SpaceInvaders", "MontezumaRevenge")
GRIDS = ("MiniGrid-DoorKey-8x8-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0", "BabyAI-GoToObj-v0")


def wrapped() -> gym.Env:
    """CartPole under every wrapper that keeps something from one step to the next."""
    env: gym.Env = gym.make("CartPole-v1")
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env = gym.wrappers.NormalizeObservation(env)
    env = gym.wrappers.NormalizeReward(env)
    env = gym.wrappers.TimeAwareObservation(env)
    return gym.wrappers.FrameStackObservation(env, 3)


def atari(name: str) -> gym.Env:
    """A game with sticky actions under the usual preprocessing."""
    import ale_py

    gym.register_envs(ale_py)
    env = gym.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.25)
    return gym.wrappers.FrameStackObservation(gym.wrappers.AtariPreprocessing(env), 4)


def grid(name: str) -> gym.Env:
    """A grid world, whose objects come and go."""
    import minigrid

    minigrid.register_minigrid_envs()
    return gym.make(name)


def of(make: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    """A maker with its arguments."""
    return lambda: make(*arguments, **options)


CASES: dict[str, Case] = {
    **{name: (of(gym.make, name), 900, 200) for name in SIMPLE},
    "wrappers": (wrapped, 900, 200),
    "sync vector": (of(gym.make_vec, "CartPole-v1", 3, "sync"), 600, 150),
    "async vector": (of(gym.make_vec, "CartPole-v1", 3, "async"), 600, 150),
    **{f"{name}-v5": (of(gym.make, f"{name}-v5"), 900, 200) for name in MUJOCO},
    **{f"ALE/{name}-v5": (of(atari, name), 600, 150) for name in ATARI},
    **{name: (of(grid, name), 600, 150) for name in GRIDS},
}


def lunar_lander() -> gym.Env:
    """The lander with its actions recorded, so that its native world can be built again."""
    return Replayable(gym.make("LunarLander-v3"))


try:
    import Box2D  # noqa: F401 - built from source; the case is there where it is installed
except ImportError:
    pass
else:
    CASES["LunarLander-v3 (Replayable)"] = (lunar_lander, 600, 150)


def digest(value: Any, hasher: Any) -> None:
    """Everything that a step gave, but how long it took."""
    if isinstance(value, dict):
        for key in sorted(value):
            if key not in ("t", "_t"):
                hasher.update(key.encode())
                digest(value[key], hasher)
    elif isinstance(value, (tuple, list)):
        for item in value:
            digest(item, hasher)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        hasher.update(value.tobytes())
    else:
        hasher.update(repr(value).encode())


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("run")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--every", type=int)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    make, total, every = CASES[arguments.case]
    env = make()
    env.reset(seed=0)
    env.action_space.seed(0)
    loop: Any = rk.Progress()
    loop.digests, loop.reward = [], 0.0
    is_vector = isinstance(env, gym.vector.VectorEnv)
    run = rk.Run(arguments.run, every=arguments.every or every)
    run.track(env=env, rng=rk.GlobalRNG(), progress=loop)
    run.resume()
    while loop.step < total:
        if arguments.kill_at is not None and loop.step >= arguments.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        run.checkpoint()
        result = env.step(env.action_space.sample())
        loop.step += 1
        hasher = hashlib.blake2b(digest_size=8)
        digest(result, hasher)
        if not is_vector and (result[2] or result[3]):
            loop.episodes += 1
            digest(env.reset(), hasher)
        loop.digests.append(hasher.hexdigest())
    run.save()
    run.close()
    env.close()


if __name__ == "__main__":
    main()

"""Environments that go on in another process; the tests of the adapters start this one twice.

python environments.py write FAMILY FOLDER CASE...   warm up, save, go on
python environments.py read FAMILY FOLDER            build anew, restore, go on

Both print a line of JSON: digests of all that came back, by case.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rekindle as rk
from rekindle.graph import Walk

NUM_WARM_STEPS = 230
NUM_STEPS = 620

MUJOCO = (
    "Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5",
    "Walker2d-v5",
)  # fmt: skip
MINIGRID = (
    "MiniGrid-DoorKey-8x8-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0", "MiniGrid-Fetch-8x8-N3-v0",
    "MiniGrid-FourRooms-v0", "MiniGrid-KeyCorridorS3R2-v0", "MiniGrid-LavaCrossingS9N2-v0",
    "MiniGrid-MemoryS7-v0", "MiniGrid-MultiRoom-N2-S4-v0", "MiniGrid-ObstructedMaze-1Dlhb-v0",
    "MiniGrid-PutNear-6x6-N2-v0", "BabyAI-BossLevel-v0", "BabyAI-GoToLocal-v0", "BabyAI-GoToSeq-v0",
    "BabyAI-OpenTwoDoors-v0", "BabyAI-SynthLoc-v0",
)  # fmt: skip
ATARI = ("Pong", "raw Breakout", "ram MsPacman", "SB3 Breakout")
LANDER = ("discrete", "wind", "continuous")
WORKERS = ("SubprocVecEnv", "AsyncVectorEnv", "AsyncVectorEnv without shared memory")

ABLATIONS: dict[str, list[tuple[str, str, str]]] = {
    "mujoco": [
        ("Ant-v5", "env/*.data", "the simulation"),
        ("Humanoid-v5", "env/*.data", "the simulation"),
        ("Ant-v5", "env/*._np_random", "the generator of the resets"),
    ],
    "atari": [
        ("Pong", "env/*.ale", "the console"),
        ("Pong", "env/obs_queue", "the stacked frames"),
        ("SB3 Breakout", "env/*.lives", "the lives"),
    ],
    "minigrid": [
        ("MiniGrid-DoorKey-8x8-v0", "env/*.grid", "the grid"),
        ("BabyAI-GoToLocal-v0", "env/*.mission", "the mission"),
        ("MiniGrid-FourRooms-v0", "env/*.agent_pos", "the place of the agent"),
    ],
    "box2d": [("discrete", "env/*.env.env.env.env", "the world")],
    "workers": [
        ("SubprocVecEnv", "env/venv.envs.1.*.state", "the physics of one"),
        ("SubprocVecEnv", "env/venv.workers.1.rng", "the global generators of one"),
        ("SubprocVecEnv", "env/venv.workers.0.reset_info", "what the last reset said"),
        ("AsyncVectorEnv", "env/workers.*.autoreset", "the pending reset"),
        ("AsyncVectorEnv", "env/envs.0.*_np_random", "a generator of one"),
        ("AsyncVectorEnv", "env/workers.2.rng", "the global generators of one"),
    ],
}  # fmt: skip

# --------------------------------------------------------------------------- what is tried


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards with noise from the global generators, and resets that say how many there were."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.num_resets = 0

    def reset(self, **options: Any) -> Any:
        self.num_resets += 1
        observation, info = self.env.reset(**options)
        return observation, info | {"resets": self.num_resets}

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) + random.random() + np.random.rand(), *rest


def _noisy(limit: int) -> Any:
    return Noisy(gym.make("CartPole-v1", max_episode_steps=limit))


def _subproc(method: str) -> Any:
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

    makers = [functools.partial(_noisy, limit) for limit in (500, 15)]
    return VecNormalize(SubprocVecEnv(makers, start_method=method))


def _async(method: str, **options: Any) -> Any:
    makers = [functools.partial(_noisy, limit) for limit in (9, 500, 33)]
    return gym.vector.AsyncVectorEnv(makers, context=method, **options)


def _workers(name: str) -> Any:
    import torch  # Whose generator is state too, where a worker has loaded it.

    torch.set_num_threads(1)
    method = "spawn" if name.endswith("spawned") else "fork"
    if name.startswith("SubprocVecEnv"):
        return _subproc(method)
    return _async(method, shared_memory="without" not in name)


def _mujoco(name: str) -> Any:
    return gym.make(name, max_episode_steps=150)


def _minigrid(name: str) -> Any:
    import minigrid  # noqa: F401 - registers its environments

    env = gym.make(name)
    env.unwrapped.max_steps = 60
    return env


def _atari(name: str) -> Any:
    import ale_py

    gym.register_envs(ale_py)
    kind, _, game = name.rpartition(" ")
    if kind:
        env = gym.make(f"ALE/{game}-v5", obs_type="ram" if kind == "ram" else "rgb")
        if kind == "SB3":
            from stable_baselines3.common.atari_wrappers import AtariWrapper

            return AtariWrapper(gym.make(f"{game}NoFrameskip-v4"))
        return gym.wrappers.TimeLimit(env, 200)
    env = gym.make(f"ALE/{game}-v5", frameskip=1)
    env = gym.wrappers.AtariPreprocessing(env, noop_max=10)
    return gym.wrappers.FrameStackObservation(gym.wrappers.TimeLimit(env, 200), 4)


def _lander(name: str) -> Any:
    from rekindle.replay import Replayable

    options = {"wind": {"enable_wind": True}, "continuous": {"continuous": True}}.get(name, {})
    env = gym.make("LunarLander-v3", **options)
    return gym.wrappers.NormalizeObservation(Replayable(env))


FAMILIES: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "mujoco": (_mujoco, MUJOCO),
    "minigrid": (_minigrid, MINIGRID),
    "atari": (_atari, ATARI),
    "box2d": (_lander, LANDER),
    "workers": (_workers, WORKERS),
}

# --------------------------------------------------------------------------- going on


def fold(hasher: Any, value: Any) -> None:
    """Add a value to a digest, without wall-clock times."""
    if isinstance(value, dict):
        for key in sorted(value):
            if key not in ("t", "_t"):
                hasher.update(key.encode())
                fold(hasher, value[key])
    elif isinstance(value, (tuple, list)):
        for item in value:
            fold(hasher, item)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        fold(hasher, value.tolist())
    elif isinstance(value, (np.ndarray, np.generic)):
        hasher.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    else:
        hasher.update(repr(value).encode())


def run(env: Any, num_steps: int) -> str:
    """Take random steps, resetting where an episode ends; a digest of all that came back."""
    hasher = hashlib.blake2b(digest_size=16)
    for _ in range(num_steps):
        if hasattr(env, "num_envs"):
            vector_step(env, hasher)
            continue
        *result, info = env.step(env.action_space.sample())
        fold(hasher, (result, info))
        if result[2] or result[3]:
            fold(hasher, env.reset())
    return hasher.hexdigest()


def vector_step(env: Any, hasher: Any) -> bool:
    """One step of a vector environment; whether an episode ended."""
    space = env.action_space
    is_sb3 = hasattr(env, "reset_infos")
    actions = np.array([space.sample() for _ in range(env.num_envs)]) if is_sb3 else space.sample()
    result = env.step(actions)
    fold(hasher, result)
    fold(hasher, getattr(env, "venv", env).reset_infos if is_sb3 else None)
    return bool(np.any(result[2]) or (not is_sb3 and np.any(result[3])))


def ready(family: str, name: str, seed: int, num_steps: int) -> Any:
    """An environment after some steps, in the middle of an episode."""
    env = FAMILIES[family][0](name)
    if hasattr(env, "reset_infos"):
        env.seed(seed)
        env.reset()
    else:
        env.reset(seed=seed)
    env.action_space.seed(seed + 1)
    run(env, num_steps)
    return env


def write(family: str, folder: Path, names: list[str]) -> dict[str, str]:
    """Warm up, save, with one part left out too, and go on."""
    digests = {}
    for name in names or FAMILIES[family][1]:
        env = ready(family, name, 11, NUM_WARM_STEPS)
        while name.startswith("Async") and not vector_step(env, hashlib.blake2b()):
            pass
        before = Walk().capture({"env": env}).documents
        rk.save(folder / name, env=env)
        for case, pattern, what in ABLATIONS[family]:
            if case == name:
                saved = rk.save(folder / f"{name} without {what}", exclude=[pattern], env=env)
                assert saved.manifest.excluded, (case, pattern)
        assert Walk().capture({"env": env}).documents == before, "a save changed it"
        digests[name] = run(env, NUM_STEPS)
        env.close()
    return digests


def read(family: str, folder: Path, names: list[str]) -> dict[str, str]:
    """Build anew, restore each that was saved, and go on."""
    found = {}
    for path in sorted(folder.iterdir()):
        env = ready(family, path.name.partition(" without the ")[0], 777, 35)
        rk.restore(path, env=env)
        found[path.name] = run(env, NUM_STEPS)
        env.close()
    return found


def main() -> None:
    """Do what the arguments say."""
    act, family, folder, *names = sys.argv[1:]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):  # Some environments print.
        digests = {"write": write, "read": read}[act](family, Path(folder), names)
    print(json.dumps(digests))


if __name__ == "__main__":
    main()

"""Gymnasium's environments go on exactly as they would have, in another process.

One process warms every case up, saves it in the middle of an episode and goes on; another, with
another hash seed, builds each anew, resets it with another seed, restores it and goes on. Both
write down digests of what the environments did.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.wrappers import vector
from tests.scripts.environments import fold

import rekindle as rk
from rekindle.graph import Walk

NUM_WARM_STEPS = 83
NUM_STEPS = 500

# --------------------------------------------------------------------------- what is tried


def _made(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: gym.make(name, **options)


def _halved(observation: Any) -> Any:
    return observation * np.float32(0.5)


def _pendulum(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: wrap(gym.make("Pendulum-v1", max_episode_steps=120))


def _cartpole(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: wrap(gym.make("CartPole-v1"))


def _tower() -> Any:
    """What a training script typically wraps around a continuous environment."""
    env = gym.make("Pendulum-v1", max_episode_steps=60)
    env = wrappers.RecordEpisodeStatistics(env, buffer_length=10)
    env = wrappers.ClipAction(env)
    env = wrappers.NormalizeObservation(env)
    env = wrappers.TransformObservation(env, lambda obs: np.clip(obs, -3, 3), env.observation_space)
    env = wrappers.NormalizeReward(env, gamma=0.97)
    return wrappers.TransformReward(env, lambda reward: float(np.clip(reward, -4, 4)))


def _closed_over() -> Any:
    """A reward function with a variable of its own, which changes as it is called."""
    count = 0

    def bonus(reward: float) -> float:
        nonlocal count
        count += 1
        return float(reward) + count % 7

    return wrappers.TransformReward(gym.make("CartPole-v1"), bonus)


def _vector() -> Any:
    makers = [functools.partial(gym.make, "CartPole-v1", max_episode_steps=n) for n in (9, 500, 33)]
    return gym.vector.SyncVectorEnv(makers)


def _vector_tower() -> Any:
    makers = [functools.partial(gym.make, "Pendulum-v1", max_episode_steps=n) for n in (25, 60)]
    env: Any = gym.vector.SyncVectorEnv(makers)
    env = vector.RecordEpisodeStatistics(env, buffer_length=10)
    env = vector.NormalizeObservation(env)
    env = vector.NormalizeReward(env)
    return vector.TransformReward(vector.ClipAction(env), lambda reward: reward * 0.5)


CASES: dict[str, Callable[[], Any]] = {
    "CartPole-v1": _made("CartPole-v1"),
    "MountainCar-v0": _made("MountainCar-v0"),
    "MountainCarContinuous-v0": _made("MountainCarContinuous-v0", max_episode_steps=150),
    "Pendulum-v1": _made("Pendulum-v1"),
    "Acrobot-v1": _made("Acrobot-v1", max_episode_steps=120),
    "FrozenLake-v1": _made("FrozenLake-v1"),
    "FrozenLake8x8-v1": _made("FrozenLake8x8-v1"),
    "Taxi-v3": _made("Taxi-v3" if "Taxi-v3" in gym.registry else "Taxi-v4"),
    "Taxi-rain": _made("Taxi-v3" if "Taxi-v3" in gym.registry else "Taxi-v4", is_rainy=True),
    "CliffWalking-v1": _made("CliffWalking-v1", max_episode_steps=90),
    "CliffWalking-slippery": _made("CliffWalking-v1", is_slippery=True, max_episode_steps=90),
    "Blackjack-v1": _made("Blackjack-v1"),
    "sutton_barto": _made("Blackjack-v1", sab=True),
    "RecordEpisodeStatistics": _cartpole(wrappers.RecordEpisodeStatistics),
    "NormalizeObservation": _pendulum(wrappers.NormalizeObservation),
    "NormalizeReward": _pendulum(wrappers.NormalizeReward),
    "ClipAction": _pendulum(wrappers.ClipAction),
    "RescaleAction": _pendulum(
        lambda env: wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    ),
    "TransformAction": _pendulum(
        lambda env: wrappers.TransformAction(env, lambda action: action / 2, env.action_space)
    ),
    "DiscretizeAction": _pendulum(lambda env: wrappers.DiscretizeAction(env, bins=5)),
    "TransformObservation": _pendulum(
        lambda env: wrappers.TransformObservation(env, _halved, env.observation_space)
    ),
    "TransformReward": _pendulum(lambda env: wrappers.TransformReward(env, lambda r: r / 8)),
    "ClipReward": _pendulum(lambda env: wrappers.ClipReward(env, -1, 1)),
    "FrameStackObservation": _cartpole(lambda env: wrappers.FrameStackObservation(env, 3)),
    "FlattenObservation": lambda: wrappers.FlattenObservation(gym.make("Blackjack-v1")),
    "TimeAwareObservation": _cartpole(wrappers.TimeAwareObservation),
    "DelayObservation": _cartpole(lambda env: wrappers.DelayObservation(env, delay=3)),
    "StickyAction": lambda: wrappers.StickyAction(gym.make("Acrobot-v1"), 0.9),
    "RepeatAction": _cartpole(lambda env: wrappers.RepeatAction(env, 2)),
    "MaxAndSkipObservation": _cartpole(lambda env: wrappers.MaxAndSkipObservation(env, 2)),
    "Autoreset": _cartpole(wrappers.Autoreset),
    "DtypeObservation": _cartpole(lambda env: wrappers.DtypeObservation(env, np.float64)),
    "RescaleObservation": lambda: wrappers.RescaleObservation(
        gym.make("MountainCar-v0"), np.float32(-1), np.float32(1)
    ),
    "ReshapeObservation": _cartpole(lambda env: wrappers.ReshapeObservation(env, (2, 2))),
    "DiscretizeObservation": lambda: wrappers.DiscretizeObservation(gym.make("MountainCar-v0"), 8),
    "TimeLimit": lambda: wrappers.TimeLimit(gym.make("FrozenLake8x8-v1"), 30),
    "tower": _tower,
    "closure": _closed_over,
    "SyncVectorEnv": _vector,
    "vector tower": _vector_tower,
}
if importlib.util.find_spec("pygame") is not None:
    CASES["drawn"] = _made("CartPole-v1", render_mode="rgb_array")
    CASES["drawn with pictures"] = _made("FrozenLake-v1", render_mode="rgb_array")

ABLATIONS = [
    ("CartPole-v1", "env/*.state", "the physics"),
    ("Pendulum-v1", "env/_elapsed_steps", "the time limit"),
    ("CartPole-v1", "env/*.env._np_random", "the environment's generator"),
    ("Pendulum-v1", "env/*action_space", "the action space's generator"),
    ("FrozenLake-v1", "env/*.s", "the cell it stands in"),
    ("Blackjack-v1", "env/*.player", "the hand"),
    ("RecordEpisodeStatistics", "env/episode_returns", "the return so far"),
    ("NormalizeObservation", "env/obs_rms", "the observations' moments"),
    ("NormalizeReward", "env/return_rms", "the returns' moments"),
    ("NormalizeReward", "env/discounted_reward", "the discounted return"),
    ("FrameStackObservation", "env/obs_queue", "the stacked frames"),
    ("TimeAwareObservation", "env/timesteps", "the time"),
    ("DelayObservation", "env/observation_queue", "the delayed observations"),
    ("StickyAction", "env/last_action", "the sticking action"),
    ("Autoreset", "env/autoreset", "the pending reset"),
    ("closure", "env/*func", "the function's own variable"),
    ("SyncVectorEnv", "env/_autoreset_envs", "the pending resets"),
    ("SyncVectorEnv", "env/envs.1.*_np_random", "a generator of one of several"),
    ("vector tower", "env/*obs_rms", "the moments over several"),
]

# --------------------------------------------------------------------------- the two processes


def run(env: Any, num_steps: int) -> str:
    """Take random steps, resetting where an episode ends; a digest of all that came back."""
    hasher = hashlib.blake2b(digest_size=16)
    resets_itself = hasattr(env, "num_envs") or isinstance(env, wrappers.Autoreset)
    for step in range(num_steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        fold(hasher, (observation, reward, terminated, truncated, info))
        if not resets_itself and (terminated or truncated):
            fold(hasher, env.reset())
        if getattr(env, "render_mode", None) == "rgb_array" and step % 100 == 0:
            fold(hasher, env.render())
    return hasher.hexdigest()


def _ready(name: str, seed: int, num_steps: int) -> Any:
    env = CASES[name]()
    env.reset(seed=seed)
    env.action_space.seed(seed + 1)
    run(env, num_steps)
    return env


def _is_reset_pending(env: Any) -> bool:
    return bool(np.any(getattr(env, "autoreset", getattr(env, "_autoreset_envs", True))))


def write_digests(folder: str) -> None:
    """The first process: warm up, save, go on."""
    digests = {}
    for name in CASES:
        env = _ready(name, 11, NUM_WARM_STEPS)
        while not _is_reset_pending(env):
            run(env, 1)
        before = Walk().capture({"env": env}).documents
        rk.save(f"{folder}/{name}", env=env)
        for case, pattern, what in ABLATIONS:
            if case == name:
                saved = rk.save(f"{folder}/{name} without {what}", exclude=[pattern], env=env)
                assert saved.manifest.excluded, (case, pattern)
        assert Walk().capture({"env": env}).documents == before, "a save changed it"
        digests[name] = run(env, NUM_STEPS)
    print(json.dumps(digests))


def read_digests(folder: str) -> None:
    """The second process: build anew, restore, go on."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        name = path.name.partition(" without ")[0]
        env = _ready(name, 777, 5)
        rk.restore(path, env=env)
        found[path.name] = run(env, NUM_STEPS)
    print(json.dumps(found))


def _child(function: str, folder: Path, hash_seed: str) -> dict[str, str]:
    root = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        f"from tests.adapters.test_gymnasium import {function} as act\nact({str(folder)!r})\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "SDL_VIDEODRIVER": "dummy"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    folder = tmp_path_factory.mktemp("environments")
    return _child("write_digests", folder, "1"), _child("read_digests", folder, "2")


@pytest.mark.parametrize("name", CASES)
def test_an_environment_goes_on_exactly_in_another_process(name: str, digests: Any) -> None:
    uninterrupted, resumed = digests
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS)
def test_an_environment_goes_another_way_without_one_part(
    name: str, pattern: str, what: str, digests: Any
) -> None:
    uninterrupted, resumed = digests
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


# --------------------------------------------------------------------------- in this process


def _everything(env: Any) -> Any:
    captured = Walk().capture({"env": env})
    return captured.documents, {
        name: item.raw.tobytes() for name, item in captured.arrays["env"].items()
    }


@pytest.mark.parametrize("name", ["tower", "vector tower", "Taxi-v3", "Blackjack-v1"])
def test_what_a_script_holds_of_an_environment_stays_the_same_object(
    name: str, tmp_path: Path
) -> None:
    env = _ready(name, 11, 40)
    rk.save(tmp_path / "saved", env=env)
    fresh = _ready(name, 777, 5)

    def held() -> list[Any]:
        parts = [fresh.unwrapped, fresh.action_space, fresh.observation_space]
        inner = getattr(fresh.unwrapped, "envs", [fresh])
        return [*parts, *inner, *(env.np_random for env in inner)]

    before = held()
    rk.restore(tmp_path / "saved", env=fresh)
    assert [id(part) for part in held()] == [id(part) for part in before]
    assert _everything(fresh) == _everything(env)


def test_the_spaces_generators_go_on(tmp_path: Path) -> None:
    def make(seed: int) -> Any:
        return gym.spaces.Dict(
            {
                "a": gym.spaces.Tuple([gym.spaces.Discrete(9), gym.spaces.MultiBinary(9)]),
                "b": gym.spaces.Box(-1, 1, (3,)),
                "c": gym.spaces.Text(9),
                "d": gym.spaces.Sequence(gym.spaces.Discrete(99)),
                "e": gym.spaces.Graph(gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(5)),
            },
            seed=seed,
        )

    space = make(1)
    space.sample()
    rk.save(tmp_path / "saved", agent={"space": space})
    expected = [repr(space.sample()) for _ in range(50)]
    other = make(2)
    rk.restore(tmp_path / "saved", agent={"space": other})
    assert [repr(other.sample()) for _ in range(50)] == expected
    assert [repr(make(2).sample()) for _ in range(50)] != expected


def _narrow() -> Any:
    env = gym.make("CartPole-v1")
    space = env.unwrapped.observation_space
    env.unwrapped.observation_space = gym.spaces.Box(space.low * 2, space.high, dtype=np.float32)
    return env


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "class": (_made("Acrobot-v1"), "env/env.env.env: expected an object of class .*CartPoleEnv"),
    "wrapper": (
        lambda: wrappers.ClipReward(gym.make("CartPole-v1"), -1, 1),
        "env: expected an object of class .*TimeLimit",
    ),
    "one wrapper less": (
        lambda: gym.make("CartPole-v1").env,
        "env: expected an object of class .*TimeLimit",
    ),
    "space": (_narrow, r"env/env\.env\.env\.observation_space"),
    "action space": (_made("MountainCarContinuous-v0"), "env/env.env.env: expected"),
    "spec": (_made("CartPole-v0"), "env/.*spec.id: expected 'CartPole-v1'"),
    "number of environments": (_vector, "env: expected an object of class .*TimeLimit"),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.filterwarnings("ignore:.*The environment CartPole-v0 is out of date")
def test_another_environment_does_not_fit_and_is_not_changed(name: str, tmp_path: Path) -> None:
    make, message = UNFIT[name]
    rk.save(tmp_path / "saved", env=_ready("CartPole-v1", 11, 20))
    other = make()
    other.reset(seed=5)
    before = _everything(other)
    with pytest.raises(rk.MismatchError, match=message):
        rk.restore(tmp_path / "saved", env=other)
    assert _everything(other) == before


def test_fewer_environments_than_were_saved_do_not_fit(tmp_path: Path) -> None:
    def make(count: int) -> Any:
        return gym.vector.SyncVectorEnv([_made("CartPole-v1")] * count)

    env, other = make(3), make(2)
    env.reset(seed=1)
    other.reset(seed=2)
    rk.save(tmp_path / "saved", env=env)
    before = _everything(other)
    with pytest.raises(rk.MismatchError, match=r"env/envs\.2"):
        rk.restore(tmp_path / "saved", env=other)
    with pytest.raises(rk.MismatchError):
        rk.restore(tmp_path / "saved", env=make(4))
    assert _everything(other) == before


def test_another_function_in_a_wrapper_is_a_difference(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", env=wrappers.TransformReward(gym.make("CartPole-v1"), _halved))
    other = wrappers.TransformReward(gym.make("CartPole-v1"), abs)
    with pytest.raises(rk.MismatchError, match=r"env/.*func: expected the function"):
        rk.restore(tmp_path / "saved", env=other)


def test_an_environment_that_was_never_reset_is_saved_too(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", env=gym.make("CartPole-v1"))
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    rk.restore(tmp_path / "saved", env=env)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)

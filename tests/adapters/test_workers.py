"""Environments in worker processes go on exactly, their global generators included."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tests.other_process import digests
from tests.scripts.environments import ABLATIONS, WORKERS

import rekindle as rk

pytestmark = [
    # Other tests in this process may have started threads of JAX or torch; the workers use neither.
    pytest.mark.filterwarnings("ignore:os.fork\\(\\) was called:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return digests("workers", tmp_path_factory.mktemp("workers"), list(WORKERS))


@pytest.mark.parametrize("name", WORKERS)
def test_workers_go_on_exactly_in_another_process(name: str, found: Any) -> None:
    uninterrupted, resumed = found
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS["workers"])
def test_workers_go_another_way_without_one_part(
    name: str, pattern: str, what: str, found: Any
) -> None:
    uninterrupted, resumed = found
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


@pytest.mark.exactness
def test_workers_that_were_spawned_go_on_exactly(tmp_path: Any) -> None:
    names = ["SubprocVecEnv spawned", "AsyncVectorEnv spawned"]
    uninterrupted, resumed = digests("workers", tmp_path, names)
    assert {name: resumed[name] for name in uninterrupted} == uninterrupted


# --------------------------------------------------------------------------- in one process


class Holder(gym.Wrapper[Any, Any, Any, Any]):
    """Holds something."""

    def __init__(self, env: Any, held: Any) -> None:
        super().__init__(env)
        self.held = held() if callable(held) else held


def _cartpole(held: Any = None) -> Any:
    return Holder(gym.make("CartPole-v1"), held)


def _generator() -> Any:
    return (number for number in range(3))


Made = Any


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes vector environments of some workers, and closes them in the end."""
    open_ones: list[Any] = []

    def make(kind: str, num_envs: int = 2, held: Any = None) -> Any:
        makers = [functools.partial(_cartpole, held)] * num_envs
        if kind == "subproc":
            env: Any = SubprocVecEnv(makers, start_method="fork")
            env.seed(3)
            env.reset()
        else:
            env = gym.vector.AsyncVectorEnv(makers, context="fork")
            env.reset(seed=3)
        open_ones.append(env)
        return env

    yield make
    for env in open_ones:
        env.close()


KINDS = pytest.mark.parametrize("kind", ["subproc", "async"])


def _rewards(env: Any, num_steps: int = 30) -> list[Any]:
    actions = np.zeros(env.num_envs, dtype=np.int64)
    return [np.asarray(env.step(actions)[0]).tolist() for _ in range(num_steps)]


@KINDS
def test_a_state_is_restored_any_number_of_times(kind: str, made: Made) -> None:
    env = made(kind)
    _rewards(env, 4)
    state = rk.capture_env(env)
    first = _rewards(env)
    for _ in range(2):
        rk.restore_env(env, state)
        assert _rewards(env) == first


@KINDS
def test_a_step_in_flight_is_refused_with_the_remedy(kind: str, made: Made) -> None:
    env = made(kind)
    state = rk.capture_env(env)
    env.step_async(np.zeros(2, dtype=np.int64))
    with pytest.raises(rk.UnsupportedError, match=r"step is in flight.*step_wait\(\)"):
        rk.capture_env(env)
    with pytest.raises(rk.MismatchError, match=r"step is in flight.*step_wait\(\)"):
        rk.restore_env(env, state)
    env.step_wait()
    rk.restore_env(env, state)


@KINDS
def test_another_number_of_environments_is_refused(kind: str, made: Made) -> None:
    with pytest.raises(rk.MismatchError, match="envs: expected 2 environments, found 3"):
        rk.restore_env(made(kind, 3), rk.capture_env(made(kind, 2)))


@KINDS
def test_what_a_worker_refuses_is_told_with_its_path(kind: str, made: Made) -> None:
    with pytest.raises(rk.UnsupportedError) as caught:
        rk.capture_env(made(kind, held=_generator))
    paths = [path for path, _ in caught.value.refusals]
    assert paths == ["env/envs.0.held", "env/envs.1.held"]


@KINDS
def test_what_differs_in_one_worker_changes_none(kind: str, made: Made) -> None:
    env = made(kind)
    _rewards(env, 3)
    state = rk.capture_env(env)
    other = made(kind, held=[1.0])
    pipes = other.remotes if kind == "subproc" else other.parent_pipes
    assert len(pipes) == 2
    before = rk.capture_env(other)
    document = json.loads(json.dumps(state["document"]))
    document["root"]["state"]["envs"][1]["attributes"]["env"]["$object"] = "somewhere:Else"
    with pytest.raises(rk.MismatchError, match=r"envs\.1\.env: .*somewhere:Else"):
        rk.restore_env(other, state | {"document": document})
    after = rk.capture_env(other)
    assert after["document"] == before["document"]
    for name, array in before["arrays"].items():
        np.testing.assert_array_equal(after["arrays"][name], array)


@KINDS
def test_a_capture_leaves_nothing_in_the_workers(kind: str, made: Made) -> None:
    env = made(kind)
    rk.restore_env(env, rk.capture_env(env))
    if kind == "subproc":
        left = env.env_method("__getattribute__", "__dict__")
    else:
        left = env.call("__getattribute__", "__dict__")
    assert not [key for held in left for key in held if "rekindle" in key]


def test_a_worker_that_has_ended_is_told(made: Made) -> None:
    env = made("async")
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(rk.UnsupportedError, match="the worker has ended"):
        rk.capture_env(env)
    env.close(terminate=True)


def test_shared_memory_is_restored_in_place(made: Made) -> None:
    env, other = made("async"), made("async")
    _rewards(env, 5)
    memory = other.observations.ctypes.data
    rk.restore_env(other, rk.capture_env(env))
    assert other.observations.ctypes.data == memory
    np.testing.assert_array_equal(other.observations, env.observations)
    other.step(np.zeros(2, dtype=np.int64))
    assert not np.array_equal(other.observations, env.observations)


def test_the_file_looks_as_if_the_environments_were_here(made: Made, tmp_path: Any) -> None:
    here = DummyVecEnv([_cartpole] * 2)
    here.seed(3)
    here.reset()
    there = made("subproc")
    documents = [
        rk.save(tmp_path / name, env=env).document("env")["root"]["state"]["envs"]
        for name, env in (("here", here), ("there", there))
    ]
    found = [[env["$object"] for env in envs] for envs in documents]
    assert found[0] == found[1]
    assert documents[0][1]["attributes"].keys() == documents[1][1]["attributes"].keys()
    loaded = rk.load(tmp_path / "there")["env"]
    assert len(loaded["envs"]) == len(loaded["workers"]) == 2


def test_deep_and_shared_values_survive_the_way_to_the_worker(made: Made) -> None:
    chain: Any = None
    for number in range(80):
        chain = [number, chain]
    env, other = made("subproc", held={"deep": chain, "again": chain}), made("subproc", held={})
    rk.restore_env(other, rk.capture_env(env))
    held = other.get_attr("held")
    assert held == [{"deep": chain, "again": chain}] * 2
    assert all(one["deep"] is one["again"] for one in held)

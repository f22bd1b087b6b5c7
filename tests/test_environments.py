"""An environment's state in memory, and environments that declare theirs."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rekindle as rk


class Counter(gym.Env[Any, Any], rk.Stateful):
    """Holds what cannot be captured, and says itself what its state is."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.native = (number for number in range(3))
        self.board = np.zeros(4)
        self.num_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.board[:] = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.board[self.num_steps % 4] += 1
        self.num_steps += 1
        return self.num_steps, float(self.board.prod()), False, False, {}

    def get_state(self) -> Any:
        return {"board": self.board, "num_steps": self.num_steps}

    def set_state(self, state: Any) -> None:
        self.board = state["board"]
        self.num_steps = state["num_steps"]


def _pendulum(num_steps: int, seed: int = 1) -> Any:
    env = gym.wrappers.NormalizeObservation(gym.make("Pendulum-v1", max_episode_steps=40))
    env.reset(seed=seed)
    env.action_space.seed(seed)
    _rewards(env, num_steps)
    return env


def _rewards(env: Any, num_steps: int = 60) -> list[float]:
    found = []
    for _ in range(num_steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        found.append(float(reward) + float(np.sum(observation)))
        if terminated or truncated:
            env.reset()
    return found


def test_a_state_is_a_snapshot_that_can_be_restored_any_number_of_times() -> None:
    env = _pendulum(25)
    state = rk.capture_env(env)
    before = copy.deepcopy(state)
    first = _rewards(env)
    for other in (env, _pendulum(7, seed=5), env):
        rk.restore_env(other, state)
        assert _rewards(other) == first
    assert state["document"] == before["document"]
    for name, array in before["arrays"].items():
        np.testing.assert_array_equal(state["arrays"][name], array)


def test_a_state_can_be_saved_and_loaded(tmp_path: Any) -> None:
    env = _pendulum(25)
    rk.save(tmp_path / "c", env_state=rk.capture_env(env))
    first = _rewards(env)
    rk.restore_env(env, rk.load(tmp_path / "c")["env_state"])
    assert _rewards(env) == first


def test_the_report_says_what_was_restored_and_left_out() -> None:
    env = _pendulum(25)
    report = rk.restore_env(env, rk.capture_env(env, exclude=["env/obs_rms"]))
    assert report.components == ("env",)
    assert report.excluded == ("env/obs_rms",)


def test_another_environment_is_refused_and_nothing_is_changed() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    before = rk.capture_env(env)["document"]
    with pytest.raises(rk.MismatchError, match="does not fit this environment"):
        rk.restore_env(env, rk.capture_env(_pendulum(3)))
    assert rk.capture_env(env)["document"] == before


@pytest.mark.parametrize("change", ["format", "version", "document", "arrays"])
def test_what_capture_env_did_not_return_is_refused(change: str) -> None:
    env = _pendulum(3)
    state = rk.capture_env(env)
    with pytest.raises(rk.FormatError):
        rk.restore_env(env, state | {change: {}})


@pytest.mark.parametrize("state", [None, 3, {}, [1]])
def test_what_is_no_state_at_all_is_refused(state: Any) -> None:
    with pytest.raises(rk.FormatError, match="expected a state that capture_env returned"):
        rk.restore_env(_pendulum(3), state)


# --------------------------------------------------------------------------- declared states


def test_a_declared_state_goes_on_exactly(tmp_path: Any) -> None:
    env, other = gym.wrappers.TimeLimit(Counter(), 90), gym.wrappers.TimeLimit(Counter(), 90)
    for one, num_steps in ((env, 30), (other, 3)):
        one.reset(seed=1)
        one.action_space.seed(2)
        _rewards(one, num_steps)
    rk.save(tmp_path / "c", env=env)
    first = _rewards(env, 200)
    rk.restore(tmp_path / "c", env=other)
    assert _rewards(other, 200) == first


def test_a_declared_state_is_a_snapshot_too() -> None:
    env = Counter()
    env.reset(seed=1)
    state = rk.capture_env(env)
    first = _rewards(env, 20)
    for _ in range(2):
        rk.restore_env(env, state)
        assert _rewards(env, 20) == first


def test_the_mark_alone_declares_a_state() -> None:
    class Marked:
        rekindle_state = True

        def __init__(self) -> None:
            self.value = 1
            self.native = (number for number in range(3))

        def get_state(self) -> Any:
            return self.value

        def set_state(self, state: Any) -> None:
            self.value = state

    one = Marked()
    state = rk.capture_env(one)
    one.value = 5
    rk.restore_env(one, state)
    assert one.value == 1
    assert isinstance(Counter(), rk.Stateful)


def test_methods_of_these_names_are_not_called_without_the_mark() -> None:
    class Unmarked:
        def __init__(self) -> None:
            self.value = 1

        def get_state(self) -> Any:
            raise AssertionError("called")

        set_state = get_state

    one = Unmarked()
    state = rk.capture_env(one)
    one.value = 5
    rk.restore_env(one, state)
    assert one.value == 1


def test_a_mark_without_the_methods_is_refused() -> None:
    class Half:
        rekindle_state = True

    with pytest.raises(rk.UnsupportedError, match="no get_state and no set_state"):
        rk.capture_env(Half())


@pytest.mark.parametrize(
    "make", [lambda env: {"env": env}, lambda env: [env.native], lambda env: np.random.default_rng]
)
def test_a_declared_state_that_is_not_plain_data_is_refused(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counter, "get_state", make)
    with pytest.raises(rk.UnsupportedError, match=r"get_state\(\)"):
        rk.capture_env(Counter())

"""MuJoCo simulations go on exactly in another process."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tests.other_process import digests
from tests.scripts.environments import ABLATIONS, MUJOCO

import rekindle as rk

mujoco = pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return digests("mujoco", tmp_path_factory.mktemp("mujoco"), list(MUJOCO))


@pytest.mark.parametrize("name", MUJOCO)
def test_an_environment_goes_on_exactly_in_another_process(name: str, found: Any) -> None:
    uninterrupted, resumed = found
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS["mujoco"])
def test_an_environment_goes_another_way_without_one_part(
    name: str, pattern: str, what: str, found: Any
) -> None:
    uninterrupted, resumed = found
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


def _ant(num_steps: int, **options: Any) -> Any:
    env = gym.make("Ant-v5", **options)
    env.reset(seed=3)
    env.action_space.seed(4)
    for _ in range(num_steps):
        env.step(env.action_space.sample())
    return env


def test_the_integration_state_alone_is_not_enough() -> None:
    kept, other = _ant(40), _ant(3)
    physics = mujoco.mjtState.mjSTATE_INTEGRATION
    model, data = kept.unwrapped.model, kept.unwrapped.data
    state = np.empty(mujoco.mj_stateSize(model, physics))
    mujoco.mj_getState(model, data, state, physics)
    mujoco.mj_setState(other.unwrapped.model, other.unwrapped.data, state, physics)
    mujoco.mj_forward(other.unwrapped.model, other.unwrapped.data)
    restored = _ant(3)
    rk.restore_env(restored, rk.capture_env(kept))
    action = kept.action_space.sample()
    reward = kept.step(action)[1]
    assert other.step(action)[1] != reward
    assert restored.step(action)[1] == reward


def test_a_changed_model_is_a_difference_and_nothing_is_changed() -> None:
    state = rk.capture_env(_ant(9))
    env = _ant(5)
    env.unwrapped.model.body_mass[1] *= 1.5
    before = env.unwrapped.data.qpos.copy()
    with pytest.raises(rk.MismatchError, match="the MuJoCo model that was simulated") as caught:
        rk.restore_env(env, state)
    assert [difference.key for difference in caught.value.differences] == ["env/env.env.env.model"]
    np.testing.assert_array_equal(env.unwrapped.data.qpos, before)


def test_another_simulation_is_refused_with_what_differs() -> None:
    hopper = gym.make("Hopper-v5")
    hopper.reset(seed=1)
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore_env(hopper.unwrapped.data, rk.capture_env(_ant(5).unwrapped.data))
    keys = [difference.key for difference in caught.value.differences]
    assert keys == ["env/model", "env/integration"]


def test_what_looks_into_the_simulation_still_does() -> None:
    env, other = _ant(20), _ant(2)
    for one in (env, other):
        one.unwrapped.torso = one.unwrapped.data.qpos[:3]
    memory = other.unwrapped.data.qpos.ctypes.data
    rk.restore_env(other, rk.capture_env(env))
    assert other.unwrapped.data.qpos.ctypes.data == memory
    assert other.unwrapped.mujoco_renderer.data is other.unwrapped.data
    assert np.shares_memory(other.unwrapped.torso, other.unwrapped.data.qpos)
    np.testing.assert_array_equal(other.unwrapped.torso, env.unwrapped.torso)
    other.step(other.action_space.sample())
    np.testing.assert_array_equal(other.unwrapped.torso, other.unwrapped.data.qpos[:3])


def test_every_array_has_a_name_that_can_be_read(tmp_path: Any) -> None:
    saved = rk.save(tmp_path / "c", env=_ant(5))
    assert saved.arrays("env")["env.env.env.data.qpos"].shape == (15,)

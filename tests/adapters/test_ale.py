"""Atari games go on exactly in another process, sticky actions included."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tests.other_process import digests
from tests.scripts.environments import ABLATIONS, ATARI

import rekindle as rk

ale_py = pytest.importorskip("ale_py")
pytest.importorskip("cv2")
gym.register_envs(ale_py)

GAMES = ("Asteroids", "Breakout", "MontezumaRevenge", "MsPacman", "Pong", "Qbert", "SpaceInvaders")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return digests("atari", tmp_path_factory.mktemp("atari"), list(ATARI))


@pytest.mark.parametrize("name", ATARI)
def test_a_game_goes_on_exactly_in_another_process(name: str, found: Any) -> None:
    uninterrupted, resumed = found
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS["atari"])
def test_a_game_goes_another_way_without_one_part(
    name: str, pattern: str, what: str, found: Any
) -> None:
    uninterrupted, resumed = found
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


@pytest.mark.exactness
@pytest.mark.parametrize("kind", ["", "raw ", "ram ", "SB3 "])
def test_every_game_goes_on_exactly_however_it_is_observed(kind: str, tmp_path: Any) -> None:
    uninterrupted, resumed = digests("atari", tmp_path, [kind + game for game in GAMES])
    assert {name: resumed[name] for name in uninterrupted} == uninterrupted


def _game(num_steps: int, name: str = "Breakout", **options: Any) -> Any:
    env = gym.make(f"ALE/{name}-v5", obs_type="ram", **options)
    env.reset(seed=1)
    env.action_space.seed(2)
    for _ in range(num_steps):
        env.step(env.action_space.sample())
    return env


def test_without_its_generator_the_sticky_actions_stick_elsewhere() -> None:
    env = _game(50)
    with_generator = rk.capture_env(env)
    without = env.unwrapped.clone_state()
    actions = [env.action_space.sample() for _ in range(60)]

    def frames() -> list[bytes]:
        return [env.step(action)[0].tobytes() for action in actions]

    first = frames()
    rk.restore_env(env, with_generator)
    assert frames() == first
    rk.restore_env(env, with_generator)
    env.unwrapped.ale.setInt("random_seed", 5)
    env.unwrapped.load_game()
    env.unwrapped.restore_state(without)
    assert frames() != first


def test_another_game_is_refused() -> None:
    with pytest.raises(rk.MismatchError, match="expected 'breakout', found 'pong'"):
        rk.restore_env(_game(5, "Pong"), rk.capture_env(_game(5)))


def test_another_stickiness_is_refused_and_nothing_is_changed() -> None:
    env = _game(30, repeat_action_probability=0.0)
    before = env.unwrapped.ale.getRAM()
    with pytest.raises(rk.MismatchError, match=r"repeat_action_probability: expected 0\.25"):
        rk.restore_env(env, rk.capture_env(_game(5)))
    np.testing.assert_array_equal(env.unwrapped.ale.getRAM(), before)


def test_the_console_is_stored_as_bytes_and_no_pickle(tmp_path: Any) -> None:
    saved = rk.save(tmp_path / "c", env=_game(5))
    [name] = [name for name in saved.arrays("env") if name.endswith(".ale.system")]
    assert saved.arrays("env")[name].dtype == np.uint8


def test_a_console_without_a_game_is_refused() -> None:
    with pytest.raises(rk.UnsupportedError, match="in which no game is loaded"):
        rk.capture_env({"ale": ale_py.ALEInterface()})


def test_the_vectorised_console_is_refused_with_a_remedy() -> None:
    vector = ale_py.AtariVectorEnv("pong", num_envs=1, num_threads=1)
    try:
        with pytest.raises(rk.UnsupportedError, match="use a SyncVectorEnv or an AsyncVectorEnv"):
            rk.capture_env(vector)
    finally:
        vector.close()


def _frames(env: Any, actions: list[int]) -> list[bytes]:
    return [env.step(action)[0].tobytes() for action in actions]


def test_the_action_that_may_stick_is_part_of_the_state() -> None:
    env = _game(31, "MontezumaRevenge", repeat_action_probability=0.9, frameskip=1)
    state = rk.capture_env(env.unwrapped.ale)
    console = state["document"]["root"]["state"]
    actions = [env.action_space.sample() for _ in range(40)]
    first = _frames(env, actions)
    kept = console["last_action"]
    others = []
    for action in range(18):
        console["last_action"] = action
        rk.restore_env(env.unwrapped.ale, state)
        others.append(_frames(env, actions) == first)
    assert others[kept]
    assert not all(others)


def test_a_capture_does_not_disturb_what_sticks() -> None:
    env, watched = (
        _game(31, "MontezumaRevenge", repeat_action_probability=0.9, frameskip=1) for _ in range(2)
    )
    for _ in range(30):
        actions = [env.action_space.sample() for _ in range(7)]
        rk.capture_env(watched)
        assert _frames(watched, actions) == _frames(env, actions)


def test_the_words_of_the_generator_draw_the_smallest_and_the_largest_number() -> None:
    from rekindle.adapters import ale

    for word, number in ((ale._ALWAYS, 0), (ale._NEVER, 0xFFFFFFFF)):
        bits = np.random.MT19937()
        key = np.full(624, word, np.uint32)
        bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 0}}
        assert bits.random_raw(624).tolist() == [number] * 624


def test_continuous_actions_that_stick_are_refused_with_the_remedy() -> None:
    with pytest.raises(rk.UnsupportedError, match="repeat_action_probability=0"):
        rk.capture_env(gym.make("ALE/Breakout-v5", continuous=True))
    env = gym.make("ALE/Breakout-v5", continuous=True, repeat_action_probability=0.0)
    env.reset(seed=1)
    rk.restore_env(env, rk.capture_env(env))

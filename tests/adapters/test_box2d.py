"""LunarLander goes on exactly when its episode is recorded; other Box2D worlds are refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from tests.other_process import digests
from tests.scripts.environments import ABLATIONS, LANDER

import rekindle as rk

pytest.importorskip("Box2D")
pytestmark = pytest.mark.filterwarnings(
    # The code that swig made for Box2D; Python 3.11 finds its types old-fashioned.
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return digests("box2d", tmp_path_factory.mktemp("box2d"), list(LANDER))


@pytest.mark.parametrize("name", LANDER)
def test_a_lander_goes_on_exactly_in_another_process(name: str, found: Any) -> None:
    uninterrupted, resumed = found
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS["box2d"])
def test_a_lander_goes_another_way_without_one_part(
    name: str, pattern: str, what: str, found: Any
) -> None:
    uninterrupted, resumed = found
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


def _lander(num_steps: int, **options: Any) -> Any:
    from rekindle.replay import Replayable

    env = Replayable(gym.make("LunarLander-v3", **options))
    env.reset(seed=5)
    for _ in range(num_steps):
        env.step(0)
    return env


@pytest.mark.parametrize("name", ["BipedalWalker-v3", "CarRacing-v3", "LunarLander-v3"])
def test_a_world_that_cannot_be_read_is_refused_by_name(name: str) -> None:
    env = gym.make(name)
    with pytest.raises(rk.UnsupportedError, match=f"{name[:6]}.*resume at an episode's end"):
        rk.capture_env(env)


def test_the_refusal_of_a_lander_says_how_to_record_it() -> None:
    with pytest.raises(rk.UnsupportedError, match=r"rekindle\.replay\.Replayable"):
        rk.capture_env(gym.make("LunarLander-v3"))


def test_a_restored_lander_can_be_saved_and_restored_again() -> None:
    first, second, third = _lander(20), _lander(1), _lander(2)
    rk.restore_env(second, rk.capture_env(first))
    assert first.step(2)[1] == second.step(2)[1]
    rk.restore_env(third, rk.capture_env(second))
    assert [first.step(3)[0].tolist(), first.step(1)[1]] == [
        third.step(3)[0].tolist(),
        third.step(1)[1],
    ]


def test_a_step_past_the_recording_is_noticed() -> None:
    env = _lander(20)
    env.unwrapped.step(2)
    with pytest.raises(rk.MismatchError, match="played again, went another way"):
        rk.restore_env(_lander(1), rk.capture_env(env))


def test_what_does_not_go_the_same_way_again_cannot_be_recorded() -> None:
    from rekindle.replay import Replayable

    with pytest.raises(rk.UnsupportedError, match="expected a LunarLander"):
        Replayable(gym.make("BipedalWalker-v3"))
    with pytest.raises(rk.UnsupportedError, match="render_mode"):
        Replayable(gym.make("LunarLander-v3", render_mode="rgb_array"))
    with pytest.raises(rk.UnsupportedError, match="directly around"):
        Replayable(gym.wrappers.StickyAction(gym.make("LunarLander-v3"), 0.1))

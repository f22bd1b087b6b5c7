"""MiniGrid and BabyAI go on exactly in another process, in a grid that the live one never had."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from tests.other_process import digests
from tests.scripts.environments import ABLATIONS, MINIGRID

import rekindle as rk

pytest.importorskip("minigrid")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return digests("minigrid", tmp_path_factory.mktemp("minigrid"), list(MINIGRID))


@pytest.mark.parametrize("name", MINIGRID)
def test_a_grid_goes_on_exactly_in_another_process(name: str, found: Any) -> None:
    uninterrupted, resumed = found
    assert resumed[name] == uninterrupted[name]


@pytest.mark.parametrize(("name", "pattern", "what"), ABLATIONS["minigrid"])
def test_a_grid_goes_another_way_without_one_part(
    name: str, pattern: str, what: str, found: Any
) -> None:
    uninterrupted, resumed = found
    assert resumed[f"{name} without {what}"] != uninterrupted[name]


@pytest.mark.exactness
def test_every_grid_that_is_registered_goes_on_exactly(tmp_path: Any) -> None:
    names = [name for name in gym.registry if name.startswith(("MiniGrid-", "BabyAI-"))]
    names = [name for name in names if "-WFC-" not in name]  # These need files not in the package.
    uninterrupted, resumed = digests("minigrid", tmp_path, names)
    assert {name: resumed[name] for name in uninterrupted} == uninterrupted


def _made(name: str, seed: int) -> Any:
    env = gym.make(name)
    env.reset(seed=seed)
    return env


def test_a_solved_instruction_is_solved_after_a_restore_too() -> None:
    env, other = _made("BabyAI-GoToLocal-v0", 1), _made("BabyAI-GoToLocal-v0", 2)
    rk.restore_env(other, rk.capture_env(env))
    described = other.unwrapped.instrs.desc
    assert all(one in other.unwrapped.grid.grid for one in described.obj_set)
    for one in (env, other):
        target = one.unwrapped.instrs.desc.obj_set[0]
        one.unwrapped.agent_pos = (target.cur_pos[0] - 1, target.cur_pos[1])
        one.unwrapped.agent_dir = 0
    last = [one.step(one.unwrapped.actions.done) for one in (env, other)]
    assert last[0][1] == last[1][1] > 0
    assert last[1][2]


def test_things_keep_their_identity() -> None:
    env, other = _made("MiniGrid-DoorKey-8x8-v0", 1), _made("MiniGrid-DoorKey-8x8-v0", 2)
    for one in (env, other):
        keys = [thing for thing in one.unwrapped.grid.grid if thing and thing.type == "key"]
        one.unwrapped.carrying = keys[0] if one is env else None
    rk.restore_env(other, rk.capture_env(env))
    assert other.unwrapped.carrying in other.unwrapped.grid.grid
    assert other.unwrapped.grid == env.unwrapped.grid


def test_only_minigrids_own_classes_are_made() -> None:
    state = rk.capture_env(_made("MiniGrid-DoorKey-8x8-v0", 1))

    def rename(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("$adapter") == "minigrid.object":
                node["class"] = "subprocess:Popen"
            node = list(node.values())
        for inner in node if isinstance(node, list) else ():
            rename(inner)

    rename(state["document"])
    with pytest.raises(rk.MismatchError, match="subprocess:Popen, one of MiniGrid's classes"):
        rk.restore_env(_made("MiniGrid-DoorKey-8x8-v0", 1), state)

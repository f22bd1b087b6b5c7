"""`rekindle.compatibility`: a level, every mismatch, and nothing changed."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC

import rekindle as rk
from rekindle.compatible import Kind, Level

GOLDEN = Path(__file__).parent / "golden"
SB3 = GOLDEN / "sb3" / "v2.9.2" / "checkpoint_callback" / "ckpts" / "rl_model_100_steps.zip"
METTA = GOLDEN / "metta" / "v2_production_minimal" / "production_model.pt"


def network(hidden: int = 8) -> Any:
    return torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(3, hidden),
                                           head=torch.nn.Linear(hidden, 2)))  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = network()
    module(torch.ones(1, 3)).sum().backward()
    rk.save(tmp_path / "x", policy=module)
    return tmp_path / "x"


def kinds(found: rk.Compatibility) -> list[Kind]:
    return [item.kind for item in found.mismatches if item.kind != Kind.VERSION]


def test_a_module_that_takes_all_of_it_is_full(checkpoint: Path) -> None:
    found = rk.compatibility(checkpoint, network())
    assert found.level == Level.FULL == "full"
    assert (found.num_fitting, found.num_arrays, kinds(found)) == (4, 4, [])
    assert "full, 4 of 4 arrays fit" in str(found)


def test_layers_missing_extra_and_of_another_shape_or_type_are_told(checkpoint: Path) -> None:
    other = network(9)
    other.more = torch.nn.Linear(2, 2, bias=False)
    other.head.bias = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    del other.body.bias
    found = rk.compatibility(checkpoint, other)
    assert found.level == "none"
    told = {item.key: item for item in found.mismatches}
    assert {key: item.kind for key, item in told.items() if item.kind != "version"} == {
        "policy/body.bias": "missing",
        "policy/body.weight": "shape",
        "policy/head.weight": "shape",
        "policy/head.bias": "dtype",
        "policy/more.weight": "extra",
    }
    assert told["policy/body.weight"].expected == "float32 (8, 3)"
    assert told["policy/body.weight"].found == "float32 (9, 3)"


def test_a_module_that_takes_some_of_it_is_partial(checkpoint: Path) -> None:
    other = network()
    other.head = torch.nn.Linear(8, 5)
    found = rk.compatibility(checkpoint, other)
    assert (found.level, found.num_fitting) == ("partial", 2)
    told = found.to_dict()
    assert told["level"] == "partial"
    assert told["mismatches"][0]["kind"] == "shape"


def test_wrappers_make_no_difference(checkpoint: Path) -> None:
    compiled = torch.compile(network(), backend="eager")
    assert rk.compatibility(checkpoint, compiled).level == "full"
    state = {f"module.{name}": value for name, value in network().state_dict().items()}
    assert rk.compatibility(checkpoint, {"policy": state}).level == "full"


def test_nothing_live_is_changed(checkpoint: Path) -> None:
    other = network()
    optimizer = torch.optim.Adam(other.parameters())
    rk.save(checkpoint.parent / "y", policy=other, optimizer=optimizer)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    live = network()
    kept = {name: value.clone() for name, value in live.state_dict().items()}
    target = {"policy": live, "optimizer": torch.optim.Adam(live.parameters(), lr=7.0)}
    assert rk.compatibility(checkpoint.parent / "y", target).level == "full"
    assert target["optimizer"].param_groups[0]["lr"] == 7.0
    assert not target["optimizer"].state
    for name, value in live.state_dict().items():
        assert torch.equal(value, kept[name])
        assert not torch.equal(value, before[name])


@pytest.mark.parametrize("source", ["ours", "theirs"])
def test_other_components_are_tried_as_restore_would(tmp_path: Path, source: str) -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    if source == "ours":
        path = tmp_path / "x"
        rk.save(path, policy=module, optimizer=optimizer)
    else:
        path = tmp_path / "x.pt"
        content = {"policy": module.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, path)
    wide = torch.optim.Adam([torch.zeros(2), torch.zeros(3)])
    found = rk.compatibility(path, {"policy": network(), "optimizer": wide})
    assert (found.level, kinds(found)) == ("partial", [Kind.STATE])
    assert "param_groups" in found.mismatches[0].key
    alone = rk.compatibility(path, {"optimizer": wide, "normalizer": {}})
    assert (alone.level, kinds(alone)) == ("none", [Kind.COMPONENT, Kind.STATE])


def test_a_model_of_stable_baselines3() -> None:
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "device": "cpu"}
    same = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, **options)
    found = rk.compatibility(SB3, same)
    assert (found.level, found.target, found.num_fitting) == ("full", "SAC", 22)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    found = rk.compatibility(SB3, other)
    assert found.level == "none"
    assert {Kind.SPACE, Kind.MISSING, Kind.EXTRA} <= set(kinds(found))


def test_the_algorithm_is_told(tmp_path: Path) -> None:
    rk.save(tmp_path / "sac", agent={"config": {"algorithm": "SAC"}}, policy={"w": np.zeros(1)})
    rk.save(tmp_path / "td3", agent={"config": {"algorithm": "TD3"}}, policy={"w": np.zeros(1)})
    found = rk.compatibility(tmp_path / "sac", tmp_path / "td3")
    assert (found.level, kinds(found)) == ("partial", [Kind.ALGORITHM])


def test_an_environment_is_held_against_the_spaces(tmp_path: Path) -> None:
    assert rk.compatibility(SB3, gym.make("Pendulum-v1")).level == "full"
    found = rk.compatibility(SB3, gym.make("CartPole-v1"))
    assert found.level == "none"
    assert found.mismatches[0].kind == "space"
    assert "action" in [item.key for item in found.mismatches]
    vector = gym.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")
    assert rk.compatibility(SB3, vector).level == "full"
    bounded = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    assert rk.compatibility(SB3, bounded).level == "partial"
    rk.save(tmp_path / "bare", policy={"w": np.zeros(1)})
    with pytest.raises(rk.UnsupportedError, match="tells of its spaces"):
        rk.compatibility(tmp_path / "bare", bounded)


def test_names_of_actions_are_compared() -> None:
    class Policy(torch.nn.Module):
        action_names = ("noop", "rotate", "move")

    found = rk.compatibility(METTA, Policy())
    (names,) = [item for item in found.mismatches if item.kind == Kind.ACTIONS]
    assert (names.expected, names.found) == ("noop, move, rotate", "noop, rotate, move")


def test_versions_of_libraries_are_told_and_do_not_lower_the_level(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", "0.0.1")
    found = rk.compatibility(checkpoint, network())
    assert found.level == "full"
    assert ("version", "numpy", "0.0.1") in [
        (item.kind, item.key, item.found) for item in found.mismatches
    ]


def test_another_checkpoint_may_be_the_target(checkpoint: Path, tmp_path: Path) -> None:
    rk.save(tmp_path / "y", policy=network(9), optimizer={"lr": 1.0})
    found = rk.compatibility(checkpoint, tmp_path / "y")
    assert found.target == str(tmp_path / "y")
    assert Kind.COMPONENT in kinds(found)
    assert found.level == "partial"  # the bias of the head fits


def test_replay_buffers_of_two_checkpoints_are_compared_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, width in (("a", 64), ("b", 65)):
        rows = np.ones((20_000, width), np.float32)
        rk.save(tmp_path / name, replay_buffer=rk.RingBuffer({"rows": rows}, added=20_000))
    monkeypatch.setattr("rekindle.rowgroups.Segmented.assemble", None)
    monkeypatch.setattr("rekindle.blocks.Rows.__getitem__", None)
    assert rk.compatibility(tmp_path / "a", tmp_path / "a").level == "full"
    found = rk.compatibility(tmp_path / "a", tmp_path / "b")
    assert (found.level, kinds(found)) == ("none", [Kind.SHAPE])


def test_what_is_no_target_is_refused(checkpoint: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match="found int"):
        rk.compatibility(checkpoint, 3)
    with pytest.raises(rk.NotFoundError, match="Name one with component="):
        rk.compatibility(checkpoint, network(), component="actor")

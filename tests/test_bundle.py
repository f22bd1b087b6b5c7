"""A policy alone: weights, spaces, names of actions, configuration, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

import rekindle as rk


def trained() -> Any:
    module: Any = torch.nn.Linear(4, 2)
    module(torch.ones(1, 4)).sum().backward()
    module.optimizer = torch.optim.Adam(module.parameters())  # some keep it there
    module.optimizer.step()
    module.schedule = torch.optim.lr_scheduler.StepLR(module.optimizer, 3)
    return module


def test_weights_spaces_names_and_configuration_are_all_there_is(tmp_path: Path) -> None:
    module = trained()
    saved = rk.save_policy(
        tmp_path / "policy",
        module,
        env=gym.make("CartPole-v1"),
        action_names=["left", "right"],
        config={"hidden": 0},
        step=7,
    )
    assert saved.manifest.kind == "policy"
    assert set(saved.arrays("policy")) == {"weight", "bias"}
    assert set(saved.manifest.spaces) == {"observation", "action"}
    found = rk.load(tmp_path / "policy")
    assert found["agent"] == {"action_names": ["left", "right"], "config": {"hidden": 0}}
    assert set(saved) == {"policy", "agent"}
    assert sorted(saved.manifest.excluded) == ["policy/optimizer", "policy/schedule"]
    document = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert "exp_avg" not in json.dumps(document)


def test_the_weights_go_into_a_module_of_the_same_class(tmp_path: Path) -> None:
    module, other = trained(), trained()
    rk.save_policy(tmp_path / "policy.zip", module)
    rate = other.optimizer.param_groups[0]["lr"] = 0.5
    rk.restore(tmp_path / "policy.zip", policy=other)
    assert torch.equal(other.weight, module.weight)
    assert other.optimizer.param_groups[0]["lr"] == rate  # what is not in the file stays


def test_it_is_much_smaller_than_what_training_needs(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=20_000, device="cpu")
    whole = rk.save(tmp_path / "whole", policy=model.policy, replay_buffer=model.replay_buffer,
                    optimizer=model.actor.optimizer)  # fmt: skip
    least = rk.save_policy(tmp_path / "least", model.policy, env=model.env)
    weights = sum(value.nbytes for value in model.policy.state_dict().values())
    assert weights < least.num_bytes < 1.2 * weights + 20_000
    assert least.num_bytes < whole.num_bytes
    fresh = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu")
    rk.restore(tmp_path / "least", policy=fresh.policy)
    seen = np.ones((1, 3), np.float32)
    expected, _ = model.predict(seen, deterministic=True)
    np.testing.assert_array_equal(fresh.predict(seen, deterministic=True)[0], expected)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for names in ("noop", [1, 2]):
        with pytest.raises(rk.UnsupportedError, match="action_names: expected names as text"):
            rk.save_policy(tmp_path / "x", trained(), action_names=names)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_nothing_is_replaced_unless_asked(tmp_path: Path) -> None:
    rk.save_policy(tmp_path / "x", trained())
    with pytest.raises(rk.AlreadyExistsError):
        rk.save_policy(tmp_path / "x", trained())
    rk.save_policy(tmp_path / "x", trained(), overwrite=True)

"""The layouts of torch files that libraries write, by the names in them, there and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import rekindle as rk
from rekindle.formats import torch_checkpoint
from rekindle.formats.protocol import Reading
from rekindle.formats.recognition import recognise


class Parts:
    """One network, what optimizes it and what normalises for it."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        self.optimizer = torch.optim.Adam(self.module.parameters())
        self.module(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.net = self.module.state_dict()
        self.opt = self.optimizer.state_dict()
        self.norm = {"_mean": torch.ones(2), "_var": torch.ones(2), "count": torch.tensor(3)}


class Case(NamedTuple):
    value: Callable[[Parts], Any]
    components: dict[str, Any]
    """The keys of the file that each component is made of."""
    step: int | None = None
    counters: dict[str, int] | None = None


CASES: dict[str, Case] = {
    "CleanRL PPO": Case(lambda p: p.net, {"policy": None}),
    "CleanRL C51": Case(
        lambda p: {"model_weights": p.net, "args": {"seed": 1, "env_id": "CartPole-v1"}},
        {"policy": "model_weights", "agent": ["args"]},
    ),
    "CleanRL DDPG": Case(lambda p: (p.net, p.net), {"policy": 0, "critic": 1}),
    "CleanRL TD3": Case(lambda p: (p.net,) * 3, {"policy": 0, "critic": 1, "critic2": 2}),
    "rsl_rl": Case(
        lambda p: {
            "model_state_dict": p.net,
            "optimizer_state_dict": p.opt,
            "iter": 7,
            "infos": None,
            "rnd_state_dict": p.net,
            "rnd_optimizer_state_dict": p.opt,
            "obs_norm_state_dict": p.norm,
            "privileged_obs_norm_state_dict": p.norm,
        },
        {
            "policy": "model_state_dict",
            "optimizer": "optimizer_state_dict",
            "progress": ["iter"],
            "agent": ["infos"],
            "rnd": "rnd_state_dict",
            "rnd_optimizer": "rnd_optimizer_state_dict",
            "normalizer": "obs_norm_state_dict",
            "privileged_normalizer": "privileged_obs_norm_state_dict",
        },
        counters={"updates": 7},
    ),
    "rsl_rl of two networks": Case(
        lambda p: {
            "actor_state_dict": p.net,
            "critic_state_dict": p.net,
            "optimizer_state_dict": p.opt,
            "iter": 1,
            "infos": {"env_state": {"common_step_counter": 5}},
        },
        {
            "policy": "actor_state_dict",
            "critic": "critic_state_dict",
            "optimizer": "optimizer_state_dict",
            "progress": ["iter"],
            "agent": ["infos"],
        },
        counters={"updates": 1},
    ),
    "skrl PPO": Case(
        lambda p: {
            "policy": p.net,
            "value": p.net,
            "optimizer": p.opt,
            "state_preprocessor": p.norm,
            "value_preprocessor": p.norm,
        },
        {
            "policy": "policy",
            "critic": "value",
            "optimizer": "optimizer",
            "normalizer": "state_preprocessor",
            "value_normalizer": "value_preprocessor",
        },
    ),
    "skrl SAC": Case(
        lambda p: {
            "policy": p.net,
            "critic_1": p.net,
            "critic_2": p.net,
            "target_critic_1": p.net,
            "target_critic_2": p.net,
            "policy_optimizer": p.opt,
            "critic_optimizer": p.opt,
            "log_entropy_coefficient": torch.tensor([0.5]),
            "entropy_optimizer": p.opt,
        },
        {
            "policy": "policy",
            "critic": "critic_1",
            "critic2": "critic_2",
            "target": ["target_critic_1", "target_critic_2"],
            "policy_optimizer": "policy_optimizer",
            "critic_optimizer": "critic_optimizer",
            "agent": ["log_entropy_coefficient"],
            "entropy_optimizer": "entropy_optimizer",
        },
    ),
    "skrl DQN": Case(
        lambda p: {"q_network": p.net, "target_q_network": p.net, "optimizer": p.opt},
        {"policy": "q_network", "target": "target_q_network", "optimizer": "optimizer"},
    ),
    "rl_games": Case(
        lambda p: {
            "model": p.net,
            "epoch": 3,
            "frame": 4096,
            "optimizer": p.opt,
            "assymetric_vf_nets": p.net,
            "last_mean_rewards": 1.5,
            "env_state": {"level": 2},
        },
        {
            "policy": "model",
            "progress": ["epoch", "frame", "last_mean_rewards"],
            "optimizer": "optimizer",
            "critic": "assymetric_vf_nets",
            "env": "env_state",
        },
        step=4096,
        counters={"epochs": 3},
    ),
    "rl_games SAC": Case(
        lambda p: {
            "actor": p.net,
            "critic": p.net,
            "critic_target": p.net,
            "actor_optimizer": p.opt,
            "critic_optimizer": p.opt,
            "log_alpha_optimizer": p.opt,
            "epoch": 1,
            "env_state": None,
        },
        {
            "policy": "actor",
            "critic": "critic",
            "target": "critic_target",
            "actor_optimizer": "actor_optimizer",
            "critic_optimizer": "critic_optimizer",
            "log_alpha_optimizer": "log_alpha_optimizer",
            "progress": ["epoch"],
            "agent": ["env_state"],
        },
        counters={"epochs": 1},
    ),
    "one of one's own": Case(
        lambda p: {
            "encoder": p.net,
            "discriminator_state_dict": p.net,
            "optimizer_actor": p.opt,
            "lr_scheduler": {"last_epoch": 4},
            "global_step": 12,
            "config": {"gamma": 0.99},
            "Encoder": p.net,
            "agent_head": p.net,
        },
        {
            "encoder": "encoder",
            "discriminator": "discriminator_state_dict",
            "actor_optimizer": "optimizer_actor",
            "lr_scheduler": "lr_scheduler",
            "progress": ["global_step"],
            "agent": ["config", "Encoder"],
            "agent_head": "agent_head",
        },
        step=12,
    ),
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", CASES)
def test_what_libraries_write_is_known_by_its_names(name: str, tmp_path: Path) -> None:
    case, parts = CASES[name], Parts()
    value = case.value(parts)
    torch.save(value, tmp_path / "x")
    assert recognise(tmp_path / "x").name == "torch"
    opened = rk.open(tmp_path / "x")
    found = opened.load(to="torch")
    assert set(found) == set(case.components)
    for component, keys in case.components.items():
        if isinstance(keys, list):
            assert list(found[component]) == keys
            assert all(equal(value[key], found[component][key]) for key in keys)
        else:
            assert equal(value if keys is None else value[keys], found[component]), component
    assert opened.step == case.step
    assert opened.counters == (case.counters or {})


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_is_written_as_it_was(name: str, tmp_path: Path) -> None:
    value = CASES[name].value(Parts())
    torch.save(value, tmp_path / "x")
    reading = torch_checkpoint.FORMAT.read(tmp_path / "x")
    torch_checkpoint.FORMAT.write(reading, tmp_path / "y")
    again = torch.load(tmp_path / "y", weights_only=True)
    assert equal(value, again)


def test_components_of_other_formats_are_written_under_their_names(tmp_path: Path) -> None:
    parts = Parts()
    policy = {name: tensor.numpy() for name, tensor in parts.net.items()}
    alone = Reading(format="velora", components={"policy": policy})
    torch_checkpoint.FORMAT.write(alone, tmp_path / "x")
    assert equal(dict(parts.net), dict(torch.load(tmp_path / "x", weights_only=True)))
    both = Reading(format="velora", components={"policy": policy, "progress": {"epoch": 2}})
    torch_checkpoint.FORMAT.write(both, tmp_path / "y")
    again = torch.load(tmp_path / "y", weights_only=True)
    assert equal(dict(parts.net), again["policy"])
    assert again["progress"] == {"epoch": 2}


def test_a_whole_module_among_the_items_becomes_its_state_dict(tmp_path: Path) -> None:
    parts = Parts()
    torch.save({"actor": parts.module, "target_actor": parts.module, "frame": 1}, tmp_path / "x")
    opened = rk.open(tmp_path / "x")
    assert list(opened) == ["policy", "target", "progress"]
    assert list(opened.arrays("target")) == list(parts.net)
    live: Any = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    rk.restore(tmp_path / "x", policy=live)
    assert torch.equal(live[0].weight, parts.net["0.weight"])

"""`Saveable`: constructed again with the same arguments, and put back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rekindle as rk


@dataclass
class Settings:
    rate: float = 0.1
    widths: tuple[int, ...] = (8, 8)


class Network(rk.Saveable, torch.nn.Module):
    def __init__(self, num_inputs: int, settings: Settings, *, activation: Any = None) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for width in settings.widths:
            layers += [torch.nn.Linear(num_inputs, width), (activation or torch.nn.Tanh)()]
            num_inputs = width
        self.body = torch.nn.Sequential(*layers)
        self.settings = settings
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.calls = 0


class Agent(rk.Saveable):
    def __init__(self, env: gym.Env, *widths: int, rate: float = 0.1, **more: Any) -> None:
        self.env = env
        self.widths = widths
        self.more = more
        self.network = torch.nn.Linear(4, widths[0])
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate)
        self.mean = np.zeros(3)
        self.episodes = 0

    def work(self) -> None:
        self.network(torch.ones(1, 4)).sum().backward()
        self.optimizer.step()
        self.mean += 0.5
        self.episodes += 1


def test_a_module_is_loaded_without_typing_its_arguments_again(tmp_path: Path) -> None:
    network = Network(3, Settings(widths=(5,)))
    network.scratch += 2
    network.calls = 7
    network.eval()
    network.save(tmp_path / "network", step=12)
    loaded = Network.load(tmp_path / "network")
    assert loaded.settings == Settings(widths=(5,))
    assert isinstance(loaded.settings, Settings)
    assert (loaded.calls, loaded.training) == (7, False)
    assert torch.equal(loaded.scratch, network.scratch)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert rk.open(tmp_path / "network").step == 12


def test_an_argument_that_is_not_data_must_be_passed_again(tmp_path: Path) -> None:
    Network(3, Settings(), activation=torch.nn.ReLU).save(tmp_path / "network")
    with pytest.raises(rk.MismatchError, match=r"activation: .*ReLU") as caught:
        Network.load(tmp_path / "network")
    assert "Network.load(path, activation=...)" in str(caught.value)
    loaded = Network.load(tmp_path / "network", activation=torch.nn.ReLU)
    assert isinstance(loaded.body[1], torch.nn.ReLU)


def test_a_plain_class_comes_back_with_its_environment_passed_in(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    agent = Agent(env, 6, 7, rate=0.25, note="x")
    agent.work()
    agent.save_for_training(tmp_path / "agent")
    with pytest.raises(rk.MismatchError, match=r"env: an object of gymnasium"):
        Agent.load_for_training(tmp_path / "agent")
    loaded = Agent.load_for_training(tmp_path / "agent", env=gym.make("CartPole-v1"))
    assert (loaded.widths, loaded.more, loaded.episodes) == ((6, 7), {"note": "x"}, 1)
    for one in (agent, loaded):
        one.work()
    assert torch.equal(loaded.network.weight, agent.network.weight)
    np.testing.assert_array_equal(loaded.mean, agent.mean)
    steps = [one.env.step(0)[0] for one in (agent, loaded)]
    np.testing.assert_array_equal(steps[0], steps[1])


def test_an_argument_can_be_overridden(tmp_path: Path) -> None:
    Network(3, Settings(widths=(5,))).save(tmp_path / "network")
    with pytest.raises(
        rk.MismatchError, match=r"body\.0\.weight: expected float32 of shape \(5, 3\)"
    ):
        Network.load(tmp_path / "network", num_inputs=4)


def test_restoring_in_place_keeps_the_object(tmp_path: Path) -> None:
    agent = Agent(gym.make("CartPole-v1"), 6)
    agent.work()
    agent.save(tmp_path / "agent")
    weight, mean = agent.network.weight, agent.mean
    expected = (weight.detach().clone(), mean.copy())
    agent.work()
    report = agent.restore(tmp_path / "agent")
    assert report.components == ("agent",)
    assert agent.network.weight is weight
    assert agent.mean is mean
    assert torch.equal(weight, expected[0])
    np.testing.assert_array_equal(mean, expected[1])


def test_another_class_is_refused(tmp_path: Path) -> None:
    Network(3, Settings()).save(tmp_path / "network")
    with pytest.raises(rk.MismatchError, match="Load it with the class that saved it"):
        Agent.load(tmp_path / "network")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    rk.save(tmp_path / "other", numbers={"a": 1})
    with pytest.raises(rk.NotFoundError, match=r"found one with numbers"):
        Network.load(tmp_path / "other")


def test_arguments_changed_after_construction_are_kept_as_they_were_given(tmp_path: Path) -> None:
    class Listed(rk.Saveable):
        def __init__(self, sizes: list[int]) -> None:
            self.total = sum(sizes)

    sizes = [1, 2]
    listed = Listed(sizes)
    sizes.append(100)
    listed.save(tmp_path / "listed")
    assert Listed.load(tmp_path / "listed").total == 3


class Memory:
    """A replay buffer of one's own, with a ring that says so."""

    def __init__(self, capacity: int) -> None:
        self.rows = np.zeros((capacity, 3))
        self.added = 0
        self.ring = rk.RingBuffer({"rows": self.rows}, added=lambda: self.added)

    def add(self, row: float) -> None:
        self.rows[self.added % len(self.rows)] = row
        self.added += 1


class Learner(rk.Saveable):
    def __init__(self, hidden: int = 4, *, note: str = "") -> None:
        self.network = torch.nn.Linear(3, hidden)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.memory = Memory(16)
        self.mean = np.zeros(3)

    def learn(self) -> None:
        self.optimizer.zero_grad()
        self.network(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        self.schedule.step()
        self.memory.add(5.0)
        self.mean += 1


@pytest.fixture
def learner() -> Learner:
    learner = Learner(note="n")
    for _ in range(5):
        learner.learn()
    return learner


def test_save_keeps_what_acting_needs_and_no_more(tmp_path: Path, learner: Learner) -> None:
    saved = learner.save(tmp_path / "x", step=5)
    assert saved.manifest.kind == "policy"
    assert set(saved.arrays("agent")) == {"network.weight", "network.bias", "mean"}
    assert set(saved.manifest.excluded) >= {"agent/optimizer", "agent/schedule", "agent/memory"}
    whole = learner.save_for_training(tmp_path / "y")
    assert any("exp_avg" in name for name in whole.arrays("agent"))
    assert any("grad" in name for name in whole.arrays("agent"))
    loaded = Learner.load(tmp_path / "x")
    assert torch.equal(loaded.network.weight, learner.network.weight)
    np.testing.assert_array_equal(loaded.mean, learner.mean)
    assert loaded.memory.added == 0
    assert not loaded.optimizer.state
    assert loaded.network.weight.grad is None


def test_save_for_training_goes_on_as_if_it_never_stopped(tmp_path: Path, learner: Learner) -> None:
    learner.save_for_training(tmp_path / "x")
    loaded = Learner.load_for_training(tmp_path / "x")
    assert loaded.network.weight.grad is not None
    for one in (learner, loaded):
        one.learn()
    assert torch.equal(loaded.network.weight, learner.network.weight)
    assert loaded.optimizer.param_groups[0]["lr"] == learner.optimizer.param_groups[0]["lr"]
    assert loaded.memory.added == learner.memory.added == 6
    np.testing.assert_array_equal(loaded.memory.rows, learner.memory.rows)


def test_what_was_saved_to_act_is_not_trained_on(tmp_path: Path, learner: Learner) -> None:
    learner.save(tmp_path / "x")
    with pytest.raises(rk.NotFoundError, match=r"saved to act \(left out: .*agent/optimizer"):
        Learner.load_for_training(tmp_path / "x")
    with pytest.raises(rk.NotFoundError, match="replay buffers"):
        Learner.load(tmp_path / "x", buffer=True)


def test_the_buffer_is_kept_and_put_back_when_asked(tmp_path: Path, learner: Learner) -> None:
    learner.save(tmp_path / "x", buffer=True, config=True)
    without = Learner.load(tmp_path / "x")
    assert (without.memory.added, float(without.memory.rows.sum())) == (0, 0.0)
    assert without.optimizer.state  # to learn on with
    loaded = Learner.load(tmp_path / "x", buffer=True)
    assert loaded.memory.added == 5
    np.testing.assert_array_equal(loaded.memory.rows, learner.memory.rows)
    assert loaded.network.weight.grad is None
    learner.save_for_training(tmp_path / "y", buffer=False)
    assert Learner.load_for_training(tmp_path / "y").memory.added == 0
    with pytest.raises(rk.NotFoundError, match="Save with buffer=True"):
        Learner.load(tmp_path / "y", buffer=True)


def test_a_buffer_of_an_unknown_class_is_named_by_the_class(tmp_path: Path) -> None:
    class Other(rk.Saveable):
        replay_buffers = ("seen",)

        def __init__(self) -> None:
            self.seen: list[np.ndarray[Any, Any]] = []
            self.weight = np.ones(2)

    other = Other()
    other.seen.append(np.arange(3.0))
    saved = other.save(tmp_path / "x")
    assert saved.manifest.excluded == ["agent/seen"]
    other.save(tmp_path / "y", buffer=True)
    assert Other.load(tmp_path / "y").seen == []
    assert len(Other.load(tmp_path / "y", buffer=True).seen) == 1


def test_metadata_reads_no_array(tmp_path: Path, learner: Learner) -> None:
    learner.save(tmp_path / "x", step=5, metrics={"return": 2.5})
    for file in (tmp_path / "x").glob("*.safetensors"):
        file.write_bytes(b"")
    told = Learner.metadata(tmp_path / "x")
    assert told["config"] == {"hidden": 4, "note": "n"}
    assert (told["step"], told["kind"], told["metrics"]) == (5, "policy", {"return": 2.5})
    assert told["class"].endswith(":Learner")


def test_a_configuration_is_a_component_for_people(tmp_path: Path, learner: Learner) -> None:
    learner.save(tmp_path / "x", config={"env": "Ant", "seed": 3})
    assert rk.load(tmp_path / "x", ["config"])["config"] == {"env": "Ant", "seed": 3}
    assert Learner.metadata(tmp_path / "x")["config"] == {"env": "Ant", "seed": 3}
    learner.save(tmp_path / "y", config=True)
    assert rk.load(tmp_path / "y", ["config"])["config"] == {"hidden": 4, "note": "n"}
    assert "config" not in learner.save(tmp_path / "z")

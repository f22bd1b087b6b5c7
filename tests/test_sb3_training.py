"""Models are built by names that are looked up with care, and may begin with another's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk

pytest.importorskip("stable_baselines3")

import torch
from stable_baselines3.common.vec_env import VecNormalize

from rekindle.sb3 import save
from rekindle.sb3_training import Curve, algorithm_class, build, start_from

SMALL = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20}


# --------------------------------------------------------------------------- a fresh model


@pytest.mark.parametrize(("typed", "meant"), [("PPOO", "PPO"), ("ppo", "PPO"), ("td33", "TD3")])
def test_an_unknown_algorithm_is_told_with_the_nearest_one(typed: str, meant: str) -> None:
    with pytest.raises(rk.UnsupportedError, match=f"Did you mean {meant}\\?"):
        algorithm_class(typed)


def test_an_algorithm_like_no_other_is_told_with_all_of_them() -> None:
    with pytest.raises(rk.UnsupportedError, match=r"A2C.*TD3"):
        algorithm_class("zzzzzz")


@pytest.mark.parametrize("name", ["CartPol-v1", "CartPole-v99", "nowhere:Thing-v0"])
def test_an_unknown_environment_is_not_found(name: str) -> None:
    with pytest.raises(rk.NotFoundError, match=name):
        build("PPO", name, steps=10, seed=0)


def test_an_algorithm_that_cannot_act_there_is_refused() -> None:
    with pytest.raises(rk.UnsupportedError, match="Discrete"):
        build("SAC", "CartPole-v1", steps=10, seed=0)


def test_the_policy_suits_what_is_observed() -> None:
    pytest.importorskip("sb3_contrib")
    model = build("RecurrentPPO", "CartPole-v1", steps=10, seed=0)
    assert type(model.policy).__name__ == "RecurrentActorCriticPolicy"


def test_a_replay_buffer_is_no_longer_than_the_run() -> None:
    model: Any = build("DQN", "CartPole-v1", steps=500, seed=0)
    assert model.buffer_size == 500
    model = build("DQN", "CartPole-v1", steps=500, seed=0, hyperparameters={"buffer_size": 70})
    assert model.buffer_size == 70


def test_hyper_parameters_reach_the_algorithm() -> None:
    given = {"gamma": 0.5, "policy_kwargs": {"net_arch": [5], "activation_fn": "ELU"}}
    model: Any = build("A2C", "CartPole-v1", steps=10, seed=0, n_envs=3, hyperparameters=given)
    assert (model.gamma, model.n_envs) == (0.5, 3)
    assert any(isinstance(part, torch.nn.ELU) for part in model.policy.modules())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rat": 1.0}, r"learning_rat\. Did you mean learning_rate\?"),
        ({"seed": 3}, "expected hyper-parameters among policy"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"policy_kwargs": {"activation_fn": "EL"}}, "found 'EL'"),
    ],
)
def test_a_hyper_parameter_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(rk.UnsupportedError, match=said):
        build("PPO", "CartPole-v1", steps=10, seed=0, hyperparameters=given)


def test_normalising_is_by_the_algorithm_s_discount() -> None:
    model = build(
        "PPO", "CartPole-v1", steps=10, seed=0, normalize=True, hyperparameters={"gamma": 0.5}
    )
    assert isinstance(model.env, VecNormalize)
    assert model.env.gamma == 0.5


def test_no_environment_is_refused() -> None:
    with pytest.raises(rk.UnsupportedError, match="n_envs=0"):
        build("PPO", "CartPole-v1", steps=10, seed=0, n_envs=0)


# --------------------------------------------------------------------------- another's weights


def sac(**changed: Any) -> Any:
    arguments = {"steps": 60, "seed": 0, "normalize": True, "hyperparameters": SMALL, **changed}
    return build("SAC", "Pendulum-v1", **arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = sac()
    model.learn(60)
    root = tmp_path_factory.mktemp("trained")
    save(model, root / "ours")
    model.save(root / "model.zip")
    return model, root


def weights(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def are_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_starts_with_all_that_another_has_learnt(trained: tuple[Any, Path]) -> None:
    source, root = trained
    model = sac(seed=5)
    assert not are_equal(weights(model), weights(source))
    start_from(model, root / "ours")
    assert are_equal(weights(model), weights(source))
    assert torch.equal(model.log_ent_coef, source.log_ent_coef)
    moments = model.critic.optimizer.state_dict()["state"], source.critic.optimizer.state_dict()
    assert torch.equal(moments[0][0]["exp_avg"], moments[1]["state"][0]["exp_avg"])
    assert model.replay_buffer.pos == source.replay_buffer.pos
    np.testing.assert_array_equal(model.replay_buffer.rewards, source.replay_buffer.rewards)
    np.testing.assert_array_equal(model.env.obs_rms.mean, source.env.obs_rms.mean)
    assert (model.num_timesteps, model._n_updates, model.seed) == (0, 0, 5)
    model.learn(30)
    assert model.num_timesteps == 30
    assert model._n_updates == 10


def test_a_model_starts_with_a_zip_of_sb3(trained: tuple[Any, Path]) -> None:
    source, root = trained
    model = sac(seed=5, normalize=False)
    start_from(model, root / "model.zip")
    assert are_equal(weights(model), weights(source))
    assert torch.equal(model.log_ent_coef, source.log_ent_coef)
    assert model.num_timesteps == model._n_updates == 0
    moments = model.critic.optimizer.state_dict()["state"], source.critic.optimizer.state_dict()
    assert torch.equal(moments[0][0]["exp_avg"], moments[1]["state"][0]["exp_avg"])


@pytest.mark.parametrize("name", ["ours", "model.zip"])
def test_another_configuration_is_refused_with_every_difference(
    name: str, trained: tuple[Any, Path]
) -> None:
    other = {**SMALL, "gamma": 0.5, "policy_kwargs": {"net_arch": [9]}}
    model = sac(hyperparameters=other, steps=70)
    before = weights(model)
    with pytest.raises(rk.MismatchError) as caught:
        start_from(model, trained[1] / name)
    keys = [difference.key for difference in caught.value.differences]
    normalizer = ["normalizer"] if name == "model.zip" else []
    assert keys == ["buffer_size", "gamma", "policy_kwargs", *normalizer]
    assert "gamma: expected 0.99, found 0.5" in str(caught.value)
    assert are_equal(before, weights(model))


def test_what_may_differ_is_taken_from_the_new_one(trained: tuple[Any, Path]) -> None:
    source, root = trained
    model = sac(hyperparameters={**SMALL, "learning_rate": 1e-2}, steps=70)
    start_from(model, root / "ours", allow=["learning_rate", "buffer_size"])
    assert model.lr_schedule(1.0) == model.learning_rate == 1e-2
    assert are_equal(weights(model), weights(source))
    assert (model.replay_buffer.buffer_size, model.replay_buffer.size()) == (70, 0)


def test_a_model_that_normalises_is_not_begun_without_statistics(
    trained: tuple[Any, Path],
) -> None:
    with pytest.raises(rk.MismatchError, match="normalizer: expected one, found none"):
        start_from(sac(normalize=False), trained[1] / "ours")
    with pytest.raises(rk.MismatchError, match="normalizer: expected none, found one"):
        start_from(sac(), trained[1] / "model.zip")


def test_another_algorithm_is_refused(trained: tuple[Any, Path]) -> None:
    model = build("TD3", "Pendulum-v1", steps=60, seed=0, normalize=True, hyperparameters=SMALL)
    for name in ("ours", "model.zip"):
        with pytest.raises(rk.MismatchError):
            start_from(model, trained[1] / name)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    rk.save(tmp_path / "x", weight=np.ones(3))
    with pytest.raises(rk.UnsupportedError, match="with policy and agent, found weight"):
        start_from(sac(), tmp_path / "x")
    with pytest.raises(rk.NotFoundError):
        start_from(sac(), tmp_path / "nothing")


def test_checkpoints_call_its_classes_by_this_module() -> None:
    assert Curve.__module__ == "rekindle.sb3_training"

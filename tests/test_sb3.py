"""Stable-Baselines3 PPO: killed and resumed it ends the same; saved, it is built from data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch
from blake3 import blake3
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tests.exactness import sb3_cases

import rekindle as rk
import rekindle.sb3
from rekindle import manifest, trail
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.sb3_training import build

SCRIPT = Path(__file__).parent / "scripts" / "ppo.py"


def train(run: Path, case: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(run), case, *options],
        capture_output=True,
        text=True,
        check=False,
    )


def differing(first: Path, second: Path) -> list[str]:
    """Components in which the ends of two runs differ, with the values compared counted."""
    one, two = rk.Run(first).latest(), rk.Run(second).latest()
    assert list(one.components) == list(two.components)
    found = one.compare(two, ignore=WALL_CLOCK)
    assert sum(item.num_values for item in found) > 1000
    return [item.component for item in found if not item.is_identical]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = {}
    for case in ("cartpole", "pendulum"):
        runs[case] = tmp_path_factory.mktemp("uninterrupted") / case
        done = train(runs[case], case)
        assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize(("case", "kill_at"), [("cartpole", 731), ("pendulum", 1003)])
def test_a_killed_run_ends_as_if_it_had_never_stopped(
    uninterrupted: dict[str, Path], tmp_path: Path, case: str, kill_at: int
) -> None:
    killed = train(tmp_path / "run", case, "--kill-at", str(kill_at))
    assert killed.returncode == -9, killed.stderr
    assert 0 < rk.Run(tmp_path / "run").steps[-1] < kill_at
    resumed = train(tmp_path / "run", case)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step" in resumed.stdout
    assert differing(uninterrupted[case], tmp_path / "run") == []


def test_a_run_that_is_asked_to_end_saves_before_the_next_rollout(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    case, kill_at = "pendulum", 1003
    asked = train(tmp_path / "run", case, "--kill-at", str(kill_at), "--kill-with", "SIGTERM")
    assert asked.returncode == 75, asked.stderr
    saved = rk.Run(tmp_path / "run").steps[-1]
    assert saved % 300, "where no save was due"
    assert kill_at <= saved < kill_at + 192, "at the end of the rollout"
    assert f"SIGTERM: saved at step {saved:,}" in asked.stderr
    resumed = train(tmp_path / "run", case)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {saved:,}" in resumed.stdout
    assert differing(uninterrupted[case], tmp_path / "run") == []


@pytest.mark.parametrize("part", ["rng", "env", "optimizer", "policy", "normalizer", "progress"])
def test_the_comparison_notices_when_a_part_is_left_out(
    uninterrupted: dict[str, Path], tmp_path: Path, part: str
) -> None:
    assert train(tmp_path / "run", "pendulum", "--kill-at", "1003").returncode == -9
    resumed = train(tmp_path / "run", "pendulum", "--disturb", part)
    assert resumed.returncode == 0, resumed.stderr
    assert differing(uninterrupted["pendulum"], tmp_path / "run")


def test_a_finished_run_started_again_does_nothing_and_says_so(
    uninterrupted: dict[str, Path],
) -> None:
    run = rk.Run(uninterrupted["cartpole"])
    before = (run.steps, run.latest().manifest.created)
    again = train(run.path, "cartpole")
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stdout
    assert (run.steps, run.latest().manifest.created) == before


def test_another_configuration_is_refused_with_every_difference(
    uninterrupted: dict[str, Path],
) -> None:
    again = train(uninterrupted["cartpole"], "pendulum", "--steps", "5000")
    assert again.returncode == 1
    assert "MismatchError" in again.stderr
    for name in ("environment", "n_steps", "total_timesteps", "use_sde", "policy_kwargs"):
        assert name in again.stderr


@pytest.mark.parametrize("algorithm", ["A2C", "DQN"])
def test_a_trail_does_not_depend_on_when_the_run_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.setenv(trail.TRAIL, "dense")
    for name, every in (("a", 60), ("b", rk.Every(updates=7)), ("c", 10_000)):
        model = build(algorithm, "CartPole-v1", steps=160, seed=1)
        callback = rekindle.sb3.Checkpoint(tmp_path / name, every=every, verbose=0)
        model.learn(160, callback=callback)
    assert len({tuple(rk.Run(tmp_path / name).steps) for name in "abc"}) == 3
    first, *others = (trail.merged(trail.read(tmp_path / name)) for name in "abc")
    assert any("progress" in record for record in first.records.values())
    for other in others:
        assert trail.parting(first, other) is None


# --------------------------------------------------------------------------- save and load


class Wide(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space, width: int = 8) -> None:
        super().__init__(observation_space, features_dim=width)
        self.layer = torch.nn.Linear(int(np.prod(observation_space.shape)), width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(observations))


class Swish(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * torch.sigmoid(values)


def pendulums() -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1") for _ in range(2)]))


def trained(**kwargs: object) -> PPO:
    model = PPO("MlpPolicy", pendulums(), n_steps=32, batch_size=32, seed=0, device="cpu", **kwargs)  # type: ignore[arg-type]
    return model.learn(128)


def test_a_model_is_built_again_from_data_to_play(tmp_path: Path) -> None:
    model = trained(policy_kwargs={"net_arch": [8, 8], "activation_fn": torch.nn.ReLU})
    rekindle.sb3.save(model, tmp_path / "model", metrics={"return": -1.5})
    loaded = rekindle.sb3.load(tmp_path / "model", device="cpu")
    observations = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    actions, _ = loaded.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, expected)
    assert loaded.num_timesteps == model.num_timesteps
    assert rk.open(tmp_path / "model").metrics == {"return": -1.5}


def test_a_loaded_model_goes_on_training_with_its_normalizer(tmp_path: Path) -> None:
    model = trained()
    rekindle.sb3.save(model, tmp_path / "model")
    env = pendulums()
    loaded = rekindle.sb3.load(tmp_path / "model", env=env, device="cpu")
    normalize = model.get_vec_normalize_env()
    assert normalize is not None
    np.testing.assert_array_equal(env.obs_rms.mean, normalize.obs_rms.mean)  # type: ignore[union-attr]
    moments = loaded.policy.optimizer.state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(
        moments, model.policy.optimizer.state_dict()["state"][0]["exp_avg"], rtol=0, atol=0
    )
    loaded.learn(128, reset_num_timesteps=False)
    assert loaded.num_timesteps == model.num_timesteps + 128


def test_loading_leaves_the_global_generators_as_they_are(tmp_path: Path) -> None:
    rekindle.sb3.save(trained(), tmp_path / "model")
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # type: ignore[index,union-attr]
    rekindle.sb3.load(tmp_path / "model", device="cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


def test_classes_that_are_not_sb3s_own_are_named_and_passed_in(tmp_path: Path) -> None:
    model = trained(
        learning_rate=lambda remaining: 1e-3 * remaining,
        policy_kwargs={
            "features_extractor_class": Wide,
            "features_extractor_kwargs": {"width": 4},
            "activation_fn": Swish,
        },
    )
    rekindle.sb3.save(model, tmp_path / "model")
    with pytest.raises(rk.UnsupportedError) as caught:
        rekindle.sb3.load(tmp_path / "model")
    assert {where.partition("[")[0] for where, _ in caught.value.refusals} == {
        "learning_rate",
        "policy_kwargs",
    }
    for name in ("Wide", "Swish", "learning_rate"):
        assert name in str(caught.value)
    loaded = rekindle.sb3.load(
        tmp_path / "model", classes=[Wide, Swish], learning_rate=1e-3, device="cpu"
    )
    observation = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0],
        model.predict(observation, deterministic=True)[0],
    )


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("class", "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv"),
        ("class", "torch.nn.modules.activation:Tanh"),
        ("class", "os:system"),
        ("policy", "stable_baselines3.common.save_util:recursive_setattr"),
        ("policy", "torch.nn_evil:Policy"),
    ],
)
def test_a_file_cannot_choose_what_is_called(tmp_path: Path, key: str, name: str) -> None:
    rekindle.sb3.save(trained(), tmp_path / "model")
    rewrite_agent(tmp_path / "model", key, name)
    with pytest.raises(rk.UnsupportedError, match=name.partition(":")[2]):
        rekindle.sb3.load(tmp_path / "model")


def rewrite_agent(path: Path, key: str, name: str) -> None:
    """Name another class in a saved model, as an attacker would, with digests that fit."""
    document = json.loads((path / "agent.json").read_bytes())
    holder = document["root"] if key == "class" else document["root"]["constructor"]
    holder[key] = name
    text = json.dumps(document).encode()
    (path / "agent.json").unlink()
    (path / "agent.json").write_bytes(text)
    record = manifest.read(path)
    entry = manifest.FileEntry(bytes=len(text), blake3=blake3(text).hexdigest())
    changed = msgspec.structs.replace(record, files={**record.files, "agent.json": entry})
    (path / manifest.NAME).write_bytes(manifest.encode(changed))


def test_an_environment_with_other_spaces_is_refused(tmp_path: Path) -> None:
    rekindle.sb3.save(trained(), tmp_path / "model")
    with pytest.raises(rk.MismatchError, match=r"observation\.shape: expected \[3\], found \[4\]"):
        rekindle.sb3.load(tmp_path / "model", env=gym.make("CartPole-v1"))


def test_a_network_of_another_size_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    model = trained(policy_kwargs={"net_arch": [8]})
    rekindle.sb3.save(model, tmp_path / "model")
    other = trained(policy_kwargs={"net_arch": [9]})
    before = {name: value.clone() for name, value in other.policy.state_dict().items()}
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "model", policy=other.policy)
    assert len(caught.value.differences) >= 6
    assert all(torch.equal(value, before[k]) for k, value in other.policy.state_dict().items())


SAVED_AND_LOADED = [
    "ppo", "ppo_gsde_normalized", "ppo_dict", "ppo_cnn_stack", "a2c_rms_normalized", "trpo",
    "maskable_ppo", "recurrent_ppo", "ars", "dqn", "dqn_memory_optimized", "qr_dqn", "sac_gsde",
    "sac_her", "td3_ou_two", "ddpg", "tqc", "crossq",
]  # fmt: skip


@pytest.mark.parametrize("case", SAVED_AND_LOADED)
def test_every_algorithm_is_built_again_from_data(tmp_path: Path, case: str) -> None:
    model = sb3_cases.CASES[case][0]()
    model.learn(200 if case != "ars" else 600)
    rekindle.sb3.save(model, tmp_path / "model")
    options = {"learning_rate": 1e-3} if case == "ppo_gsde_normalized" else {}
    if case == "sac_her":
        with pytest.raises(rk.UnsupportedError, match="HerReplayBuffer asks it for rewards"):
            rekindle.sb3.load(tmp_path / "model")
        options = {"env": sb3_cases.goals()}
    loaded = rekindle.sb3.load(tmp_path / "model", device="cpu", **options)
    assert type(loaded) is type(model)
    state, expected = loaded.policy.state_dict(), model.policy.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    observation = model.observation_space.sample()
    for one in (model, loaded):
        one.policy.set_training_mode(False)
    actions = [one.predict(observation, deterministic=True)[0] for one in (model, loaded)]
    np.testing.assert_array_equal(*actions)
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        assert loaded.replay_buffer.size() == buffer.size() > 0
        np.testing.assert_array_equal(loaded.replay_buffer.rewards, buffer.rewards)

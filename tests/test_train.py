"""One call trains, and goes on after a kill; names are looked up with care."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

import rekindle as rk

pytest.importorskip("stable_baselines3")

from rekindle import train as module
from rekindle.train import Curve, algorithm_class, build, main, train


def curve_of(path: Path) -> list[int]:
    for callback in rk.open(path)["callbacks"]["callbacks"]:
        if "returns" in callback:
            return list(callback["steps"])
    raise AssertionError("the checkpoint holds no learning curve")


def test_training_leaves_checkpoints_with_the_learning_curve(tmp_path: Path) -> None:
    checkpoint = train(algorithm="A2C", steps=300, every=100, run=tmp_path / "run")
    assert checkpoint.report is None
    assert checkpoint.run.steps == [100, 200, 300]
    steps = curve_of(tmp_path / "run")
    assert steps == sorted(set(steps))
    assert steps[-1] == 300
    assert curve_of(tmp_path / "run" / "step_000000100")[-1] == 100


def test_the_same_call_again_does_nothing_more(tmp_path: Path) -> None:
    train(algorithm="A2C", steps=50, every=20, run=tmp_path / "run")
    again = train(algorithm="A2C", steps=50, every=20, run=tmp_path / "run")
    assert again.report is not None
    assert again.report.step == 50
    assert again.model.num_timesteps == 50


def test_another_call_for_the_same_run_is_refused(tmp_path: Path) -> None:
    train(algorithm="A2C", steps=50, every=20, run=tmp_path / "run")
    with pytest.raises(rk.MismatchError, match="seed"):
        train(algorithm="A2C", steps=50, every=20, seed=1, run=tmp_path / "run")


def test_main_tells_its_progress_in_json_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--algo", "A2C", "--steps", "100", "--every", "50", "--run", str(tmp_path / "r")]
    assert main(arguments) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in told[:-1]] == list(range(1, 101))
    assert all(line["resumed_from"] is None for line in told)
    assert told[-1]["finished"] is True
    assert told[-1]["return"] > 0
    assert main(arguments) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["step"], line["resumed_from"]) for line in again] == [(100, 100)]


def test_main_tells_an_error_in_json_and_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--algo", "PPOO", "--run", str(tmp_path)]) == rk.UnsupportedError.exit_code
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["error"] == "unsupported"
    assert told["key"] == "algorithm"
    assert captured.err.strip() == told["message"]


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
    model = build("DQN", "CartPole-v1", steps=500, seed=0)
    assert model.buffer_size == 500  # type: ignore[attr-defined]


def test_points_of_the_curve_keep_their_distance(tmp_path: Path) -> None:
    train(algorithm="A2C", steps=2000, every=2000, run=tmp_path / "run")
    steps = curve_of(tmp_path / "run")
    assert min(b - a for a, b in itertools.pairwise(steps)) >= 10
    assert len(steps) <= 200


def test_checkpoints_call_its_classes_the_same_however_it_is_started() -> None:
    assert Curve.__module__ == module.__name__ == "rekindle.train"


def test_old_checkpoints_go_where_that_was_asked_for(tmp_path: Path) -> None:
    every, keep = rk.Every(updates=20), rk.Keep(last=2)
    checkpoint = train(algorithm="A2C", steps=450, every=every, keep=keep, run=tmp_path / "run")
    assert checkpoint.run.steps == [400, 450], "20 updates of 5 steps each, and the end"
    arguments = ["--algo", "A2C", "--steps", "100", "--every", "20", "--run", str(tmp_path / "r")]
    assert main([*arguments, "--keep-last", "1"]) == 0
    assert rk.Run(tmp_path / "r").steps == [100]


def test_a_training_that_is_asked_to_end_saves_and_ends_with_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write

    def ask(**fields: object) -> None:
        if fields.get("step") == 33 and not fields.get("finished"):
            os.kill(os.getpid(), signal.SIGTERM)
        write(**fields)

    arguments = ["--algo", "A2C", "--steps", "100", "--every", "20", "--run", str(tmp_path / "r")]
    monkeypatch.setattr(module, "_write", ask)
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 75
    assert rk.Run(tmp_path / "r").steps == [20, 35]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert main(arguments) == 0
    assert rk.Run(tmp_path / "r").steps == [20, 35, 40, 60, 80, 100]

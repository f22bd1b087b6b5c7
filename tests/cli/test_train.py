"""`rekindle train` for real: killed, and started again by the same command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.command import rekindle

import rekindle as rk
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.cli.train import parsed
from rekindle.cli.training import Training

pytest.importorskip("stable_baselines3")

SMALL = ["--algo", "A2C", "--steps", "60", "--model-checkpoint-freq", "20"]


# --------------------------------------------------------------------------- a real kill

CASES = {
    "SAC": [
        *("--env", "Pendulum-v1", "--steps", "200", "--normalize"),
        *("--set", "learning_starts=30", "--set", "batch_size=16"),
        *("--set", "policy_kwargs={'net_arch': [16]}"),
    ],
    "PPO": ["--env", "CartPole-v1", "--steps", "1536", "--set", "n_steps=64", "--n-envs", "2"],
}


def again(*command: str) -> str:
    """What the command prints in a process of its own, as people run it."""
    started = [sys.executable, "-m", "rekindle", *command]
    done = subprocess.run(started, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("algorithm", CASES)
def test_a_killed_training_ends_as_the_uninterrupted_one_by_the_same_command(
    algorithm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freq = {"SAC": 40, "PPO": 256}[algorithm]
    command = ["train", "--json-lines", "--algo", algorithm, *CASES[algorithm]]
    command += ["--model-checkpoint-freq", str(freq)]
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    with Training([sys.executable, "-m", "rekindle", *command]) as training:
        for step in training.follow():
            if step > 2.5 * freq and [*Path("runs").glob("*/step_*")]:
                training.kill()
                break
    assert training.was_killed
    ends = []
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        last = json.loads(again(*command).splitlines()[-1])
        assert (last["resumed_from"] is not None) == (name == "killed")
        (folder,) = (tmp_path / name / "runs").iterdir()
        ends.append(rk.Run(folder).latest())
    found = ends[1].compare(ends[0], ignore=WALL_CLOCK)
    assert all(item.is_identical for item in found), found
    assert {"policy", "configuration", "env", "rng", "progress"} <= {c.component for c in found}
    assert sum(item.num_values for item in found) > 5_000
    assert ends[0].counters["epochs"] == ends[1].counters["epochs"] > 9
    told = json.loads(again(*command))
    assert (told["was_finished"], told["run"]) == (True, f"runs/{ends[1].path.parent.name}")


# --------------------------------------------------------------------------- what it says


def test_it_says_what_it_does_in_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = rekindle(capsys, "train", *SMALL).out.splitlines()
    (folder,) = Path("runs").iterdir()
    assert said[0] == "A2C on CartPole-v1, 60 steps, a checkpoint every 20, seed 0"
    assert said[1] == f"  {folder}"
    assert [line.partition(",")[0] for line in said[2:-1]] == [
        f"  training: step {step}" for step in (15, 30, 45, 60)
    ]
    assert said[-1].startswith(f"{folder}: finished at step 60, epoch 12, return ")
    again = rekindle(capsys, "train", *SMALL).out.splitlines()
    assert again[-1].startswith(f"{folder}: finished already at step 60")


def test_json_is_one_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "train", *SMALL, "--run", tmp_path / "r", "--json")
    told = result.json
    assert told.pop("wall_time_seconds") > 0
    assert told.pop("return") > 0
    assert told == {
        "run": str(tmp_path / "r"), "step": 60, "epochs": 12, "resumed_from": None,
        "was_finished": False,
    }  # fmt: skip
    assert "step 30" in result.err


def test_json_lines_tell_the_progress_and_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, "train", *SMALL, "--run", tmp_path / "r", "--json-lines")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert [line["step"] for line in told] == [*range(61), 60]
    assert all(line["resumed_from"] is None for line in told)
    assert told[-1]["finished"] is True
    assert told[-1]["return"] > 0


def test_json_lines_tell_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "train", "--algo", "PPOO", "--run", tmp_path, "--json-lines")
    assert result.status == rk.UnsupportedError.exit_code
    told = json.loads(result.out)
    assert (told["error"], told["key"]) == ("unsupported", "algorithm")


def test_a_configuration_that_does_not_match_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", tmp_path / "r"]
    assert rekindle(capsys, "train", *SMALL, *run).status == 0
    result = rekindle(capsys, "train", *SMALL, *run, "--set", "gamma=0.5", "--seed", 4)
    assert result.status == rk.MismatchError.exit_code
    assert "configuration.gamma: expected 0.99, found 0.5" in result.err
    assert "configuration.seed: expected 0, found 4" in result.err


# --------------------------------------------------------------------------- what is typed


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("a=1e-3", 1e-3),
        ("a=5", 5),
        ("a=true", True),
        ("a=None", None),
        ("a=auto", "auto"),
        ("a=(1, 'episode')", (1, "episode")),
        ('a={"net_arch": [64, 64]}', {"net_arch": [64, 64]}),
        ("a=x=y", "x=y"),
        ("a=__import__('os')", "__import__('os')"),
    ],
)
def test_a_value_is_read_as_json_or_python_or_text(typed: str, value: Any) -> None:
    assert parsed([typed]) == {"a": value}


@pytest.mark.parametrize("typed", [["a"], ["=3"], ["a=1", "a=2"]])
def test_what_is_no_name_and_value_is_wrong_usage(typed: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="--set"):
        parsed(typed)


def test_old_checkpoints_go_where_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    assert rekindle(capsys, "train", *SMALL, "--run", run, "--keep-last", 1).status == 0
    assert rk.Run(run).steps == [60]

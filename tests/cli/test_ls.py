"""`rekindle ls` lists checkpoints, and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import rekindle

import rekindle as rk


def make_run(path: Path, steps: tuple[int, ...]) -> Path:
    with rk.Run(path, algorithm="PPO", environment="Ant-v5") as run:
        run.track(policy={"weight": np.arange(100.0)})
        for step in steps:
            run.save(step=step, metrics={"return": step / 8})
    return path


def test_a_run_is_listed_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "my run", (1000, 20_000))
    result = rekindle(capsys, "ls", run)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == f"{run}  PPO on Ant-v5"
    headings = ["step", "created", "size", "written", "stall", "durable", "in", "return"]
    assert lines[1].split() == headings
    assert [line.split()[0] for line in lines[2:]] == ["1,000", "20,000"]
    assert lines[3].split()[-1] == "2,500"


def test_a_run_as_json_has_an_entry_per_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = rekindle(capsys, "ls", make_run(tmp_path / "r", (1, 2)), "--json").json
    assert told["algorithm"] == "PPO"
    assert [entry["step"] for entry in told["checkpoints"]] == [1, 2]
    assert told["checkpoints"][1]["metrics"] == {"return": 0.25}


def test_a_directory_of_runs_is_listed_by_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", (5,))
    make_run(tmp_path / "b", (5, 12_345))
    (tmp_path / "no run").mkdir()
    result = rekindle(capsys, "ls", tmp_path)
    assert result.status == 0
    rows = [line.split() for line in result.out.splitlines()[2:]]
    assert [row[:5] for row in rows] == [
        ["a", "PPO", "Ant-v5", "1", "5"],
        ["b", "PPO", "Ant-v5", "2", "12,345"],
    ]
    told = rekindle(capsys, "ls", tmp_path, "--json").json
    assert [run["checkpoints"] for run in told["runs"]] == [1, 2]
    assert told["runs"][1]["step"] == 12_345


def test_a_damaged_checkpoint_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "r", (1, 2))
    (run / "step_000000002" / "checkpoint.json").write_text("{")
    (run / "checkpoints.jsonl").unlink()
    result = rekindle(capsys, "ls", run)
    assert result.status == 0
    assert "damaged" in result.out.splitlines()[3]
    assert "damaged" not in result.out.splitlines()[2]


def test_a_run_without_checkpoints_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rk.Run(tmp_path / "r")
    run.prepare()
    run.close()
    result = rekindle(capsys, "ls", run.path)
    assert result.status == 0
    assert "no checkpoints yet" in result.out


def test_a_checkpoint_is_not_listed_but_the_message_says_how_to_see_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "r", (1,))
    result = rekindle(capsys, "ls", run / "step_000000001")
    assert result.status == rk.NotFoundError.exit_code
    assert "rekindle show" in result.err


def test_listing_changes_nothing_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "r", (1,))
    (run / ".lock").unlink()
    before = sorted(run.rglob("*"))
    rekindle(capsys, "ls", run)
    assert sorted(run.rglob("*")) == before

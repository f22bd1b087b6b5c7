"""`rekindle prune` says what goes and why the others stay, and deletes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import rekindle, shell

import rekindle as rk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with six checkpoints, of which that at 20 has the best return."""
    with rk.Run(tmp_path / "my run") as run:
        run.track(policy={"weight": np.zeros(1000)})
        for step, value in zip(range(10, 70, 10), (1, 9, 2, 3, 4, 5), strict=True):
            run.save(step=step, metrics={"return": float(value), "loss": float(-value)})
        run.pin(30)
    return run.path


def test_what_no_rule_keeps_is_deleted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "prune", run, "--keep-last", 2, "--keep-best", 1)
    assert result.status == 0
    assert rk.Run(run).steps == [20, 30, 50, 60]
    lines = result.out.splitlines()
    assert lines[0] == str(run)
    rows = [line.rstrip().split(maxsplit=2) for line in lines[2:8]]
    assert [row[:2] for row in rows] == [
        ["10", "goes"], ["20", "stays"], ["30", "stays"], ["40", "goes"], ["50", "stays"],
        ["60", "stays"],
    ]  # fmt: skip
    assert rows[0][2] == "no rule keeps it"
    assert rows[1][2] == "among the best by return: 9"
    assert rows[2][2] == "pinned"
    assert rows[5][2] == "the newest, among the last 2"
    assert lines[8].startswith("2 checkpoints deleted, ")


def test_a_dry_run_only_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((file, file.stat().st_mtime_ns) for file in run.rglob("*"))
    result = rekindle(capsys, "prune", run, "--keep-last", 1, "--dry-run")
    assert result.status == 0
    assert "4 checkpoints would be deleted, " in result.out
    assert sorted((file, file.stat().st_mtime_ns) for file in run.rglob("*")) == before


def test_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--keep-best", 1, "--metric", "loss", "--mode", "min", "--every", 40, "--json")
    told = rekindle(capsys, "prune", run, *options, "--dry-run").json
    assert (told["path"], told["dry_run"]) == (str(run), True)
    assert [item["step"] for item in told["checkpoints"] if item["stays"]] == [20, 30, 40, 60]
    done = rekindle(capsys, "prune", run, *options).json
    assert done["checkpoints"] == told["checkpoints"]
    assert done["freed_bytes"] == told["freed_bytes"] > 0
    assert rk.Run(run).steps == [20, 30, 40, 60]


def test_a_budget(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "prune", run, "--budget-gb", 1)
    assert "0 checkpoints deleted, 0 B freed" in result.out
    result = rekindle(capsys, "prune", run, "--budget-gb", 1e-6)
    assert rk.Run(run).steps == [30, 60]
    assert "over the budget, all of it protected" in result.out


def test_a_metric_without_best_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "prune", run, "--keep-last", 1, "--metric", "loss")
    assert result.status == rk.UnsupportedError.exit_code
    assert "expected both of them or neither" in result.err
    assert len(rk.Run(run).steps) == 6


def test_what_is_no_run_is_not_pruned(tmp_path: Path) -> None:
    result = shell("prune", tmp_path, "--keep-last", 1)
    assert result.status == rk.NotFoundError.exit_code
    assert result.err.count("\n") == 1

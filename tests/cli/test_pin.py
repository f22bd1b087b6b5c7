"""`rekindle pin` keeps a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import rekindle

import rekindle as rk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with rk.Run(tmp_path / "my run") as run:
        run.track(policy={"a": 1})
        for step in (10, 20):
            run.save(step=step)
    return run.path


def test_a_checkpoint_is_pinned_and_listed_as_such(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "step_000000010"
    result = rekindle(capsys, "pin", path)
    assert (result.status, result.out) == (0, f"{path}: pinned. Pinned steps: 10\n")
    assert rk.Run(run).pins == [10]
    assert "pinned already" in rekindle(capsys, "pin", path).out
    listed = rekindle(capsys, "ls", run).out.splitlines()
    assert ["pinned" in line for line in listed[2:]] == [True, False]
    assert rekindle(capsys, "ls", run, "--json").json["pinned"] == [10]


def test_a_pin_is_taken_away(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "step_000000010"
    rekindle(capsys, "pin", path)
    assert rekindle(capsys, "pin", path, "--unpin").out.endswith("Pinned steps: none\n")
    assert rk.Run(run).pins == []


def test_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "step_000000010"
    told = [rekindle(capsys, "pin", path, *more, "--json").json for more in ((), (), ("--unpin",))]
    assert told == [
        {"path": str(path), "pinned": True, "changed": True},
        {"path": str(path), "pinned": True, "changed": False},
        {"path": str(path), "pinned": False, "changed": True},
    ]


def test_a_run_is_no_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "pin", run)
    assert result.status == rk.NotFoundError.exit_code
    assert "expected a checkpoint of a run" in result.err

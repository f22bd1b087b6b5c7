"""`rekindle fork` begins a run at a checkpoint of another."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import rekindle

import rekindle as rk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with rk.Run(tmp_path / "my run", algorithm="PPO") as run:
        run.track(policy={"a": 1})
        for step in (10, 20):
            run.save(step=step)
    return run.path


def test_a_run_begins_at_the_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, fork = run / "step_000000010", tmp_path / "fork"
    result = rekindle(capsys, "fork", source, fork)
    assert result.status == 0
    assert result.out.startswith(f"{fork}: begins at step 10 of {source}.")
    assert rk.Run(fork).steps == [10]
    assert rk.Run(fork).about["algorithm"] == "PPO"


def test_as_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = rekindle(capsys, "fork", run, tmp_path / "fork", "--json").json
    assert (told["path"], told["step"]) == (str(tmp_path / "fork"), 20)
    assert told["parent"]["path"] == "../my run/step_000000020"


def test_what_is_there_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").write_text("mine")
    result = rekindle(capsys, "fork", run, tmp_path / "there")
    assert result.status == rk.AlreadyExistsError.exit_code
    assert (tmp_path / "there").read_text() == "mine"

"""Pins: beside the checkpoint, and there until a person takes them away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.little_loop import loop

import rekindle as rk
from rekindle import pins


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at 10, 20 and 30."""
    with loop(tmp_path / "run", every=10) as made:
        made.run.resume()
        made.train(30)
    return tmp_path / "run"


def test_a_pin_is_a_file_beside_the_checkpoint_which_stays_as_it_is(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    rk.Run(run).pin(20)
    assert rk.Run(run).pins == [20]
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert after == before | {run / "step_000000020.pin": b""}
    rk.Run(run).unpin(20)
    assert rk.Run(run).pins == []
    assert {file for file in run.rglob("*") if file.is_file()} == set(before)


def test_pinning_twice_is_pinning_once(run: Path) -> None:
    directory = run / "step_000000010"
    assert [pins.pin(directory), pins.pin(directory)] == [True, False]
    assert pins.is_pinned(directory)
    assert [pins.unpin(directory), pins.unpin(directory)] == [True, False]
    assert not pins.is_pinned(directory)


def test_a_pin_survives_resuming_pruning_copying_and_a_lost_cache(
    run: Path, tmp_path: Path
) -> None:
    rk.Run(run).pin(10)
    with loop(run, every=10, keep=rk.Keep(last=1)) as made:
        made.run.resume()
        made.train(50)
    rk.Run(run).prune(rk.Keep(last=1))
    (run / "checkpoints.jsonl").unlink()
    (run / "run.json").unlink()
    shutil.copytree(run, tmp_path / "copy")
    assert rk.Run(tmp_path / "copy").pins == [10]
    assert rk.Run(tmp_path / "copy").steps == [10, 50]
    assert "pinned" in repr(rk.Run(tmp_path / "copy")).splitlines()[2]
    assert rk.verify(run)


def test_a_run_may_be_pinned_while_it_is_trained(run: Path) -> None:
    with loop(run, every=10, keep=rk.Keep(last=1)) as made:
        made.run.resume()
        rk.Run(run).pin(30)
        made.train(50)
    assert rk.Run(run).steps == [30, 50]


@pytest.mark.parametrize("name", ["step_000000099", "run.json", "step_best", "nothing/step_1", "."])
def test_what_is_no_checkpoint_of_a_run_cannot_be_pinned(run: Path, name: str) -> None:
    before = sorted(run.rglob("*"))
    for change in (pins.pin, pins.unpin):
        with pytest.raises(rk.NotFoundError, match="expected a checkpoint of a run"):
            change(run / name)
    assert sorted(run.rglob("*")) == before
    with pytest.raises(rk.NotFoundError):
        rk.Run(run).pin(15)


def test_a_checkpoint_that_goes_while_it_is_pinned_is_said_to_be_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = pins.files.flush

    def late(path: Path) -> None:
        flush(path)
        shutil.rmtree(run / "step_000000010", ignore_errors=True)

    monkeypatch.setattr(pins.files, "flush", late)
    with pytest.raises(rk.NotFoundError, match="found nothing"):
        rk.Run(run).pin(10)
    assert not list(run.glob("*.pin"))


def test_a_pin_without_its_checkpoint_can_be_taken_away(run: Path) -> None:
    rk.Run(run).pin(10)
    shutil.rmtree(run / "step_000000010")
    assert rk.Run(run).pins == []
    rk.Run(run).unpin(10)
    assert not list(run.glob("*.pin"))

"""A run: when it saves, what it resumes, who may write it, and what it refuses."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import little_loop, small_disk
from tests.little_loop import Loop, damage, loop

import rekindle as rk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def trained(path: Path) -> Path:
    """A run with checkpoints at 10, 20 and 30."""
    return little_loop.trained(path, every=10)


# --------------------------------------------------------------------------- cadence and resume


def test_a_fresh_run_has_nothing_to_resume(path: Path) -> None:
    with loop(path) as made:
        assert made.run.resume() is None
        assert made.progress.step == 0
    assert len(made.run) == 0
    assert made.run.steps == []
    with pytest.raises(rk.NotFoundError, match="expected a run with checkpoints, found none"):
        made.run.latest()
    with pytest.raises(rk.NotFoundError, match="expected an intact checkpoint, found none"):
        made.run.peek("progress")


def test_a_run_is_not_made_before_it_is_needed(path: Path) -> None:
    Loop(path)
    rk.Run(path).steps  # noqa: B018
    assert not path.exists()


def test_nothing_tracked_cannot_be_resumed(path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"run\.track"):
        rk.Run(path).resume()
    assert not path.exists()


@pytest.mark.parametrize(
    ("every", "by", "expected"),
    [(10, 1, [10, 20, 30]), (10, 4, [12, 20, 32]), (10, 25, [25, 50]), (1, 10, [10, 20, 30, 40]),
     (100, 1, []), (None, 1, [])],
)  # fmt: skip
def test_a_checkpoint_is_due_when_so_many_steps_have_passed(
    path: Path, every: int | None, by: int, expected: list[int]
) -> None:
    with loop(path, every=every) as made:
        made.run.resume()
        assert not made.run.checkpoint(), "nothing is due before the first step"
        assert made.train(35, by) == expected
        assert made.run.steps == expected


@pytest.mark.parametrize("every", [0, -1])
def test_a_cadence_must_be_a_number_of_steps(path: Path, every: int | None) -> None:
    with pytest.raises(rk.UnsupportedError, match="at least 1"):
        rk.Run(path, every=every)


def test_a_resumed_run_goes_on_where_it_was_and_saves_no_step_twice(trained: Path) -> None:
    inode = (trained / "step_000000030" / "checkpoint.json").stat().st_ino
    with loop(trained, every=10) as made:
        report = made.run.resume()
        assert report is not None
        assert (report.step, report.skipped) == (30, ())
        assert made.progress.step == 30
        assert made.policy["weights"].tolist() == [30, 30, 30]
        assert not made.run.checkpoint()
        assert made.run.save().step == 30
        assert made.train(45) == [40]
    assert (trained / "step_000000030" / "checkpoint.json").stat().st_ino == inode
    assert rk.Run(trained).steps == [10, 20, 30, 40]
    assert [entry["step"] for entry in rk.Run(trained).entries()] == [10, 20, 30, 40]


def test_a_checkpoint_names_the_one_before_it(trained: Path) -> None:
    parents = [checkpoint.manifest.parent for checkpoint in rk.Run(trained)]
    assert parents == [None, "step_000000010", "step_000000020"]
    with loop(trained, every=10) as made:
        made.run.resume()
        made.train(40)
    assert made.run.latest().manifest.parent == "step_000000030"


def test_the_time_spent_is_summed_over_starts(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rk.Run(trained).latest().manifest.elapsed_seconds
    assert before is not None
    with loop(trained) as made:
        made.run.resume()
        made.run._started -= 100
        made.progress.step += 1
        saved = made.run.save()
    assert saved.manifest.elapsed_seconds is not None
    assert before + 100 <= saved.manifest.elapsed_seconds < before + 160


def test_a_save_needs_to_know_the_step(path: Path) -> None:
    run = rk.Run(path, every=1)
    run.track(policy={"a": 1})
    with pytest.raises(rk.UnsupportedError, match=r"Track rk\.Progress"):
        run.checkpoint()
    with pytest.raises(rk.UnsupportedError, match=r"Track rk\.Progress"):
        run.save()
    with run:
        run.resume()
        assert run.save(step=5).step == 5
    run = rk.Run(path.with_name("other"), every=1)
    run.track(progress={"step": 3})
    with run:
        assert run.checkpoint()
        assert run.latest().step == 3


def test_a_run_with_checkpoints_must_be_resumed_before_it_is_saved(trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    with loop(trained, every=10) as made:
        made.progress.step = 50
        for save in (made.run.save, made.run.checkpoint):
            with pytest.raises(rk.AlreadyExistsError, match="up to step_000000030") as raised:
                save()
            assert "run.resume()" in str(raised.value)
    assert sorted(trained.rglob("*")) == before


def test_a_component_that_is_tracked_and_not_saved_is_said(trained: Path) -> None:
    with loop(trained) as made:
        made.run.track(critic={"a": 1})
        with pytest.raises(rk.NotFoundError, match="critic"):
            made.run.resume()
        assert made.progress.step == 0


# --------------------------------------------------------------------------- damage


def test_damaged_checkpoints_are_passed_over_and_said(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(trained / "step_000000030")
    (trained / "step_000000020" / "checkpoint.json").unlink()
    with caplog.at_level(logging.WARNING, "rekindle"), loop(trained) as made:
        report = made.run.resume()
    assert report is not None
    assert report.step == made.progress.step == 10
    assert [name for name, _ in report.skipped] == ["step_000000030", "step_000000020"]
    assert "policy.safetensors: expected blake3" in report.skipped[0][1]
    assert "a directory without one" in report.skipped[1][1]
    assert "passed over step_000000030: " in repr(report)
    said = [record.getMessage().partition(" is passed over: ")[0] for record in caplog.records]
    assert said == [str(trained / "step_000000030"), str(trained / "step_000000020")]


def test_a_run_of_damaged_checkpoints_is_not_started_afresh(trained: Path) -> None:
    for step in (10, 20, 30):
        damage(trained / f"step_{step:09d}")
    with loop(trained) as made:
        with pytest.raises(rk.DamagedError, match="3 damaged ones") as raised:
            made.run.resume()
        assert "step_000000010" in str(raised.value)
        assert not made.policy["weights"].any()
        with pytest.raises(rk.AlreadyExistsError):
            made.run.save()
        with pytest.raises(rk.NotFoundError):
            made.run.peek("progress")
    assert rk.Run(trained).steps == [10, 20, 30]


def test_a_damaged_checkpoint_is_replaced_when_training_reaches_its_step_again(
    trained: Path,
) -> None:
    damage(trained / "step_000000030")
    damage(trained / "step_000000020", "checkpoint.json")
    with loop(trained, every=10) as made:
        made.run.resume()
        assert made.train(35) == [20, 30]
    assert rk.verify(trained)
    assert [entry["step"] for entry in rk.Run(trained).entries()] == [10, 20, 30]
    assert rk.load(trained)["policy"]["weights"].tolist() == [30, 30, 30]
    assert sorted(file.name for file in trained.iterdir() if file.is_dir()) == [
        "step_000000010", "step_000000020", "step_000000030"
    ]  # fmt: skip


def test_an_intact_newer_checkpoint_is_never_replaced(trained: Path) -> None:
    with loop(trained) as made:
        made.run.resume()
        made.progress.step = 20
        with pytest.raises(rk.AlreadyExistsError):
            made.run.save()
    assert rk.verify(trained)


def test_peek_reads_one_component_of_the_newest_intact_checkpoint(trained: Path) -> None:
    damage(trained / "step_000000030")
    assert rk.Run(trained).peek("progress")["step"] == 20


def test_only_directories_named_by_a_step_are_checkpoints(trained: Path) -> None:
    (trained / "step_best").mkdir()
    (trained / "step_000000099").write_text("a file")
    (trained / "videos").mkdir()
    (trained / ".tmp-mine").mkdir()
    with loop(trained) as made:
        made.run.resume()
    assert rk.Run(trained).steps == [10, 20, 30]
    assert (trained / ".tmp-mine").is_dir(), "what no save could have left is not swept"


# --------------------------------------------------------------------------- a full disk


def room(monkeypatch: pytest.MonkeyPatch, free_bytes: int | None) -> None:
    """Let the file system say that it has so much room."""
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        status = real(path)
        blocks = None if free_bytes is None else free_bytes // status.f_frsize
        return types.SimpleNamespace(
            f_blocks=0 if blocks is None else status.f_blocks,
            f_bfree=blocks,
            f_bavail=blocks,
            f_frsize=status.f_frsize,
        )

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_a_save_without_room_is_refused_before_anything_is_written(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*"))
    with loop(trained, every=10) as made:
        made.run.resume()
        made.run.track(buffer={"rows": np.zeros(10**6)})
        room(monkeypatch, 9_000_000)
        made.progress.step = 40
        for save in (made.run.checkpoint, made.run.save):
            with pytest.raises(rk.NoSpaceError) as raised:
                save()
        assert raised.value.errno == errno.ENOSPC
        assert raised.value.path == str(trained / "step_000000040")
        said = "step_000000040: expected room for 9.0 MB, found 9.0 MB free. Every earlier"
        assert said in str(raised.value)
        assert "rekindle prune" in str(raised.value)
    unlocked = [item for item in before if not item[0].endswith(".lock")]
    after = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*"))
    assert [item for item in after if not item[0].endswith(".lock")] == unlocked
    assert rk.verify(trained)


def test_where_a_file_system_does_not_say_what_room_it_has_a_save_is_tried(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, None)
    with loop(trained, every=10) as made:
        made.run.resume()
        assert made.train(40) == [40]


@pytest.mark.parametrize("background", [False, True])
def test_training_goes_on_without_a_save_where_that_was_chosen(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    background: bool,
) -> None:
    with loop(trained, every=10, background=background, on_low_disk="continue") as made:
        made.run.resume()
        room(monkeypatch, 0)
        assert made.train(55) == []
        assert made.run.left_out == [40, 50]
        assert made.run.steps == [10, 20, 30]
        said = [record.getMessage() for record in caplog.records]
        assert [text.partition(".")[0] for text in said] == [
            f"{trained}: the save at step {step} is left out" for step in (40, 50)
        ]
        monkeypatch.undo()
        assert made.train(65) == [60]
        made.run.wait()
        assert made.run.left_out == []
        assert made.train(75) == [70]
    notes = {checkpoint.step: checkpoint.manifest.notes for checkpoint in rk.Run(trained)}
    (note,) = notes[60]
    assert note == "the disk was full: no save before this one at the step(s) 40, 50"
    assert notes[70] == []
    with loop(trained, every=10) as made:
        shutil.rmtree(trained / "step_000000070")
        assert f"note: {note}" in repr(made.run.resume())


def test_a_save_that_was_asked_for_is_never_left_out(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loop(trained, every=10, on_low_disk="continue") as made:
        made.run.resume()
        made.progress.step = 35
        room(monkeypatch, 0)
        with pytest.raises(rk.NoSpaceError):
            made.run.save()
        assert made.run.left_out == []


FILLING = """
import errno, shutil, sys
import numpy as np
import rekindle as rk
from rekindle import files

path, *options = sys.argv[1:]
if "unknown" in options:
    files.free_bytes = lambda path: None
policy = {"weights": np.zeros(125_000)}
progress = rk.Progress()
run = rk.Run(path, every=1, on_low_disk="continue", background="background" in options)
run.track(policy=policy, progress=progress)
run.resume()
while len(run.left_out) < 3:
    policy["weights"] += 1
    progress.step += 1
    run.checkpoint()
    run.wait()
saved = run.steps
assert saved == list(range(1, len(saved) + 1)) and len(saved) > 3, saved
assert run.left_out == [len(saved) + 1, len(saved) + 2, len(saved) + 3], run.left_out
assert rk.verify(path)
assert not list(run.path.glob(".tmp-*"))
try:
    run.save()
except rk.NoSpaceError as error:
    assert error.errno == errno.ENOSPC
    print(error)
shutil.rmtree(run.path / "step_000000001")
shutil.rmtree(run.path / "step_000000002")
progress.step += 1
run.checkpoint()
run.close()
assert run.steps == [*saved[2:], progress.step]
assert rk.verify(path)
assert run.latest().manifest.notes
live = {"weights": np.zeros(125_000)}
rk.restore(path, policy=live)
assert np.array_equal(live["weights"], policy["weights"])
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "expected room for 2.0 MB, found"), (("background",), "expected room for 2.0 MB, found"),
     (("unknown",), "found that the disk is full ([Errno 28] No space left"),
     (("unknown", "background"), "found that the disk is full ([Errno 28] No space left")],
    ids=["seen", "seen, background", "met", "met, background"],
)  # fmt: skip
def test_training_goes_on_on_a_disk_that_is_full(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """On a disk of 8 MB of its own, where the lack of room is seen before, or met while writing."""
    path = tmp_path / "disk" / "run"
    done = small_disk.run(tmp_path, 8, "-c", FILLING, str(path), *options)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stderr.count("is left out") == 3


# --------------------------------------------------------------------------- opening


def test_a_run_can_be_closed_and_opened_again(path: Path) -> None:
    made = Loop(path)
    made.run.resume()
    made.run.close()
    made.run.close()
    with loop(path) as other:
        other.run.resume()
        other.progress.step = 1
        other.run.save()
    with made.run:
        report = made.run.resume()
    assert report is not None
    assert report.step == 1


def test_leavings_of_killed_saves_are_swept_at_the_start(trained: Path) -> None:
    leaving = trained / ".tmp-step_000000040-4711-0123abcd"
    shutil.copytree(trained / "step_000000030", leaving)
    (trained / ".tmp-run.json-0123abcd").write_text("{")
    with loop(trained) as made:
        made.run.prepare()
        assert not leaving.exists()
        assert not (trained / ".tmp-run.json-0123abcd").exists()
    assert rk.verify(trained)

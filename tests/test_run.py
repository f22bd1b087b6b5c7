"""A run: when it saves, what it resumes, who may write it, and what it refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk


class Loop:
    """A little training loop: what it tracks, and the run that saves it."""

    def __init__(self, path: Path, every: int | None = None, **about: Any) -> None:
        self.progress = rk.Progress()
        self.policy = {"weights": np.zeros(3)}
        self.run = rk.Run(path, every=every, **about)
        self.run.track(policy=self.policy, progress=self.progress)

    def train(self, until: int, by: int = 1) -> list[int]:
        """Train; the steps at which it saved."""
        saved = []
        while self.progress.step < until:
            self.progress.step += by
            self.policy["weights"] += by
            if self.run.checkpoint(metrics={"return": float(self.progress.step)}):
                saved.append(self.progress.step)
        return saved


@contextmanager
def loop(path: Path, every: int | None = None, **about: Any) -> Iterator[Loop]:
    made = Loop(path, every, **about)
    with made.run:
        yield made


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def trained(path) -> Path:
    """A run with checkpoints at 10, 20 and 30."""
    with loop(path, every=10) as made:
        made.run.resume()
        made.train(35)
    return path


def damage(checkpoint: Path, name: str = "policy.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[-1] ^= 1
    (checkpoint / name).unlink()
    (checkpoint / name).write_bytes(data)


# --------------------------------------------------------------------------- cadence and resume


def test_a_fresh_run_has_nothing_to_resume(path):
    with loop(path) as made:
        assert made.run.resume() is None
        assert made.progress.step == 0
    assert len(made.run) == 0
    assert made.run.steps == []
    with pytest.raises(rk.NotFoundError, match="expected a run with checkpoints, found none"):
        made.run.latest()
    with pytest.raises(rk.NotFoundError, match="expected an intact checkpoint, found none"):
        made.run.peek("progress")


def test_a_run_is_not_made_before_it_is_needed(path):
    Loop(path)
    rk.Run(path).steps  # noqa: B018
    assert not path.exists()


def test_nothing_tracked_cannot_be_resumed(path):
    with pytest.raises(rk.UnsupportedError, match=r"run\.track"):
        rk.Run(path).resume()
    assert not path.exists()


@pytest.mark.parametrize(
    ("every", "by", "expected"),
    [(10, 1, [10, 20, 30]), (10, 4, [12, 20, 32]), (10, 25, [25, 50]), (1, 10, [10, 20, 30, 40]),
     (100, 1, []), (None, 1, [])],
)  # fmt: skip
def test_a_checkpoint_is_due_when_so_many_steps_have_passed(path, every, by, expected):
    with loop(path, every=every) as made:
        made.run.resume()
        assert not made.run.checkpoint(), "nothing is due before the first step"
        assert made.train(35, by) == expected
        assert made.run.steps == expected


@pytest.mark.parametrize("every", [0, -1])
def test_a_cadence_must_be_a_number_of_steps(path, every):
    with pytest.raises(rk.UnsupportedError, match="at least 1"):
        rk.Run(path, every=every)


def test_a_resumed_run_goes_on_where_it_was_and_saves_no_step_twice(trained):
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


def test_a_checkpoint_names_the_one_before_it(trained):
    parents = [checkpoint.manifest.parent for checkpoint in rk.Run(trained)]
    assert parents == [None, "step_000000010", "step_000000020"]
    with loop(trained, every=10) as made:
        made.run.resume()
        made.train(40)
    assert made.run.latest().manifest.parent == "step_000000030"


def test_the_time_spent_is_summed_over_starts(trained, monkeypatch):
    before = rk.Run(trained).latest().manifest.elapsed_seconds
    assert before is not None
    with loop(trained) as made:
        made.run.resume()
        made.run._started -= 100
        made.progress.step += 1
        saved = made.run.save()
    assert before + 100 <= saved.manifest.elapsed_seconds < before + 160


def test_a_save_needs_to_know_the_step(path):
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


def test_a_run_with_checkpoints_must_be_resumed_before_it_is_saved(trained):
    before = sorted(trained.rglob("*"))
    with loop(trained, every=10) as made:
        made.progress.step = 50
        for save in (made.run.save, made.run.checkpoint):
            with pytest.raises(rk.AlreadyExistsError, match="up to step_000000030") as raised:
                save()
            assert "run.resume()" in str(raised.value)
    assert sorted(trained.rglob("*")) == before


def test_a_component_that_is_tracked_and_not_saved_is_said(trained):
    with loop(trained) as made:
        made.run.track(critic={"a": 1})
        with pytest.raises(rk.NotFoundError, match="critic"):
            made.run.resume()
        assert made.progress.step == 0


# --------------------------------------------------------------------------- damage


def test_damaged_checkpoints_are_passed_over_and_said(trained, caplog):
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
    assert [record.args[0].name for record in caplog.records] == [
        "step_000000030", "step_000000020"
    ]  # fmt: skip


def test_a_run_of_damaged_checkpoints_is_not_started_afresh(trained):
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


def test_a_damaged_checkpoint_is_replaced_when_training_reaches_its_step_again(trained):
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


def test_an_intact_newer_checkpoint_is_never_replaced(trained):
    with loop(trained) as made:
        made.run.resume()
        made.progress.step = 20
        with pytest.raises(rk.AlreadyExistsError):
            made.run.save()
    assert rk.verify(trained)


def test_peek_reads_one_component_of_the_newest_intact_checkpoint(trained):
    damage(trained / "step_000000030")
    assert rk.Run(trained).peek("progress")["step"] == 20


def test_only_directories_named_by_a_step_are_checkpoints(trained):
    (trained / "step_best").mkdir()
    (trained / "step_000000099").write_text("a file")
    (trained / "videos").mkdir()
    (trained / ".tmp-mine").mkdir()
    with loop(trained) as made:
        made.run.resume()
    assert rk.Run(trained).steps == [10, 20, 30]
    assert (trained / ".tmp-mine").is_dir(), "what no save could have left is not swept"


# --------------------------------------------------------------------------- run.json


def test_a_run_says_what_is_trained(path):
    about = {"algorithm": "PPO", "environment": "Ant-v5", "configuration": {"lr": 1e-3}}
    with loop(path, **about) as made:
        made.run.resume()
    assert {**made.run.about, **about} == made.run.about
    with loop(path, configuration={"lr": 1e-3}) as again:
        again.run.describe(algorithm="PPO", environment="Ant-v5", configuration={"lr": 5})
        again.run.resume()


def test_another_configuration_is_refused_with_every_difference(trained):
    shutil.rmtree(trained)
    stored = {"lr": 1e-3, "net": {"layers": [64, 64], "act": "tanh"}, "seed": 3, "old": None}
    with loop(trained, algorithm="PPO", environment="Ant-v5", configuration=stored) as made:
        made.run.resume()
        made.progress.step = 5
        made.run.save()
    before = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*.json*"))

    other = {"lr": 1e-4, "net": {"layers": [64, 32], "act": "tanh"}, "seed": 3, "new": [1]}
    with loop(trained, algorithm="SAC", environment="Ant-v4", configuration=other) as made:
        for start in (made.run.resume, made.run.prepare, made.run.save):
            with pytest.raises(rk.MismatchError) as raised:
                start()
        assert made.progress.step == 0
        assert not made.run._lock.is_held, "another start may fix it"

    assert {str(difference) for difference in raised.value.differences} == {
        "algorithm: expected PPO, found SAC",
        "environment: expected Ant-v5, found Ant-v4",
        "configuration.lr: expected 0.001, found 0.0001",
        "configuration.net.layers: expected [64, 64], found [64, 32]",
        "configuration.new: expected nothing, found [1]",
        "configuration.old: expected None, found nothing",
    }
    after = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*.json*"))
    assert after == before


def test_a_configuration_that_is_no_data_is_refused(path):
    with pytest.raises(rk.UnsupportedError, match="configuration"):
        rk.Run(path, configuration={"env": object()})


@pytest.mark.parametrize(
    ("text", "error"),
    [("", rk.DamagedError), ("{", rk.DamagedError), ("[]", rk.FormatError),
     ('{"format": "other"}', rk.FormatError),
     ('{"format": "rekindle-run", "version": 2}', rk.VersionError),
     ('{"format": "rekindle-run", "version": "x"}', rk.FormatError)],
)  # fmt: skip
def test_a_description_that_cannot_be_read_is_refused(trained, text, error):
    (trained / "run.json").write_text(text)
    with loop(trained) as made, pytest.raises(error, match=r"run\.json"):
        made.run.resume()
    with pytest.raises(error):
        rk.Run(trained).about  # noqa: B018
    assert rk.Run(trained).latest().step == 30


def test_a_lost_description_is_written_anew(trained):
    (trained / "run.json").unlink()
    with pytest.raises(rk.NotFoundError, match=r"run\.json"):
        rk.Run(trained).about  # noqa: B018
    with loop(trained, algorithm="PPO") as made:
        assert made.run.resume() is not None
    assert made.run.about["algorithm"] == "PPO"


# --------------------------------------------------------------------------- the cache


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "checkpoints.jsonl").read_bytes().splitlines()]


def test_entries_come_from_the_cache_without_reading_a_manifest(trained, monkeypatch):
    expected = rk.Run(trained).entries()
    assert expected == lines(trained)
    monkeypatch.setattr(rk.run.manifest, "read", pytest.fail)
    assert rk.Run(trained).entries() == expected


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: None,
        lambda text: b"",
        lambda text: text[:-40],
        lambda text: text[40:],
        lambda text: text.replace(b"\n", b""),
        lambda text: bytes(len(text)),
        lambda text: text.replace(b'"step":20', b'"step":"x"'),
        lambda text: text.replace(b'"name"', b'"nom"'),
        lambda text: b'[1]\n5\nnull\n{"name":[],"step":1,"bytes":1}\n' + text,
        lambda text: text + text,
        lambda text: b"\n".join(reversed(text.splitlines())),
    ],
    ids=["lost", "emptied", "cut in a line", "beginning lost", "run together", "zeros",
         "wrong type", "wrong key", "other lines", "twice", "reversed"],
)  # fmt: skip
def test_a_harmed_cache_is_made_good(trained, harm):
    expected = rk.Run(trained).entries()
    cache = trained / "checkpoints.jsonl"
    text = harm(cache.read_bytes())
    cache.unlink() if text is None else cache.write_bytes(text)
    assert rk.Run(trained).entries() == expected
    assert "30" in repr(rk.Run(trained))
    with loop(trained, every=10) as made:
        made.run.resume()
        assert lines(trained) == expected
        made.train(40)
    assert [entry["step"] for entry in lines(trained)] == [10, 20, 30, 40]


def test_entries_follow_what_a_person_removes_adds_and_replaces(trained, tmp_path):
    other = rk.save(
        tmp_path / "other", step=20, metrics={"return": 0.5}, policy={"weights": np.zeros(3)}
    )
    shutil.rmtree(trained / "step_000000010")
    shutil.copytree(trained / "step_000000030", trained / "step_000000040")
    shutil.rmtree(trained / "step_000000020")
    shutil.copytree(other.path, trained / "step_000000020", copy_function=shutil.copyfile)
    (trained / "step_000000030" / "checkpoint.json").write_text("{")

    entries = rk.Run(trained).entries()
    assert [entry["name"][5:] for entry in entries] == ["000000020", "000000030", "000000040"]
    assert entries[0]["metrics"] == {"return": 0.5}
    assert "checkpoint.json" in entries[1]["damaged"]
    assert entries[2]["metrics"] == {"return": 30.0}


# --------------------------------------------------------------------------- the lock


OWNER = """
import os, sys, time
import rekindle as rk
run = rk.Run(sys.argv[1])
run.track(progress=rk.Progress())
run.resume()
if "fork" in sys.argv:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
print("holds", flush=True)
sys.stdin.readline()
run.close()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def owner(path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int | None]]:
    """Another process that writes this run, and the worker that it forked."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    worker = None
    try:
        first = process.stdout.readline()
        if first.strip().isdigit():
            worker = int(first)
            first = process.stdout.readline()
        assert first == "holds\n"
        yield process, worker
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
        if worker is not None:
            os.kill(worker, signal.SIGKILL)


def assert_free(path: Path) -> None:
    with loop(path) as made:
        made.run.resume()
        made.progress.step += 1
        made.run.save()


def test_a_second_process_is_refused_and_told_who_writes(path):
    with owner(path) as (process, _):
        with loop(path) as made:
            made.progress.step = 1
            for start in (made.run.prepare, made.run.resume, made.run.save):
                with pytest.raises(rk.LockedError, match=f"found process {process.pid} ") as raised:
                    start()
            assert str(path) in str(raised.value)
            assert os.uname().nodename in str(raised.value)
        assert rk.Run(path).steps == [], "reading needs no lock"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        assert_free(path)


def test_the_owner_is_known_even_when_the_file_does_not_say(path):
    with owner(path) as (process, _):
        (path / ".lock").write_text("")
        with loop(path) as made, pytest.raises(rk.LockedError, match=f"process {process.pid}\\b"):
            made.run.prepare()


def test_a_lock_is_free_when_its_owner_is_killed(path):
    with owner(path) as (process, _):
        process.kill()
        process.wait(10)
        assert f'"pid": {process.pid}' in (path / ".lock").read_text()
        assert_free(path)


def test_a_worker_that_outlives_the_owner_does_not_hold_the_lock(path):
    with owner(path, "fork") as (process, worker):
        with loop(path) as made, pytest.raises(rk.LockedError):
            made.run.prepare()
        process.kill()
        process.wait(10)
        os.kill(worker, 0)
        assert_free(path)


FORKED = """
import os, sys
import rekindle as rk
run = rk.Run(sys.argv[1])
run.track(progress=rk.Progress())
run.resume()
child = os.fork()
if child == 0:
    try:
        run.save(step=1)
    except rk.LockedError as error:
        os._exit(7 if f"process {os.getppid()} " in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
run.save(step=2)
print(run.steps)
"""


def test_a_forked_worker_cannot_write_what_its_parent_writes(path):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[2]\n", done.stderr


def test_two_runs_of_one_process_do_not_write_one_directory(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with loop(path) as first:
        first.run.resume()
        for name in ("run", "link", "../" + tmp_path.name + "/run"):
            second = Loop(tmp_path / name)
            with pytest.raises(rk.LockedError, match="another Run object of this process"):
                second.run.resume()
        first.progress.step = 3
        first.run.save()
        with loop(tmp_path / "other") as other:
            other.run.resume()
    assert_free(path)


def test_a_run_can_be_closed_and_opened_again(path):
    made = Loop(path)
    made.run.resume()
    made.run.close()
    made.run.close()
    assert_free(path)
    with made.run:
        report = made.run.resume()
    assert report is not None
    assert report.step == 1


def test_leavings_of_killed_saves_are_swept_at_the_start(trained):
    leaving = trained / ".tmp-step_000000040-4711-0123abcd"
    shutil.copytree(trained / "step_000000030", leaving)
    (trained / ".tmp-run.json-0123abcd").write_text("{")
    with loop(trained) as made:
        made.run.prepare()
        assert not leaving.exists()
        assert not (trained / ".tmp-run.json-0123abcd").exists()
    assert rk.verify(trained)

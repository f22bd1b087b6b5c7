"""What goes wrong with saves in the background, done to them for real, and nothing is lost.

Every state is known from its step (`scripts/foreseen.py`), so whatever a checkpoint holds can be
told from what it must hold. `make faults` runs the long forms.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests import small_disk
from tests.held_commits import held
from tests.interrupted import CALLS, REMOVALS
from tests.scripts.foreseen import EVERY, Training, flaws

import rekindle as rk
from rekindle import files, rowgroups, writer
from rekindle import run as run_module
from rekindle.codecs import rows

ROOT = Path(__file__).parents[1]
PROGRAM = "from tests.scripts.foreseen import main; main()"
"""As a module, so that the classes have the names that they have here."""


def long(value: int) -> Any:
    """A form of a test that takes minutes: `make faults`."""
    return pytest.param(value, marks=pytest.mark.faults)


def leavings(path: Path) -> list[str]:
    return sorted(found.name for found in path.rglob(".tmp-*"))


def assert_exact(path: Path, added: dict[int, int] | None = None) -> None:
    """Every checkpoint of a run is whole, and holds what was live at its step."""
    for checkpoint in rk.Run(path):
        state = checkpoint.load()
        count = added[checkpoint.step] if added is not None else None
        assert flaws(state, checkpoint.step, added=count) == [], checkpoint.path
        assert rk.verify(checkpoint.path), checkpoint.path


def assert_exact_at(training: Training, step: int) -> None:
    state = rk.load(training.run.path / f"step_{step:09d}")
    assert flaws(state, step, added=training.added[step]) == []


@contextlib.contextmanager
def begun(path: Path, **options: Any) -> Iterator[Training]:
    training = Training(path, **options)
    training.begin()
    try:
        yield training
    finally:
        training.run.close()


def train_until_due(training: Training) -> int:
    """Up to the next call that saves; its step."""
    training.step()
    while not training.run.is_due(training.progress.step):
        training.step()
    return training.progress.step


def until_idle(run: rk.Run) -> None:
    """Wait for the save under way, and leave what went wrong to the next call."""
    assert run._commits._state.idle.wait(30)


# --------------------------------------------------------------------------- kill -9


class Life:
    """One process that trains and saves, until it is killed."""

    def __init__(self, path: Path) -> None:
        self._errors = path.with_name("errors")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(path)],
                stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
            )  # fmt: skip
        self.resumed: int | None = None
        self.begun: list[int] = []

    def _hear(self, line: str) -> None:
        said, _, step = line.partition(" ")
        if said == "resumed":
            self.resumed = int(step)
        elif said == "begin":
            self.begun.append(int(step))

    def live(self, num_saves: int) -> None:
        """Until it has begun so many saves."""
        assert self._process.stdout is not None
        while len(self.begun) < num_saves:
            line = self._process.stdout.readline()
            assert line, f"the process ended by itself: {self._errors.read_text()}"
            self._hear(line)

    def kill(self) -> None:
        """End it with SIGKILL, and hear what it said last."""
        self._process.kill()
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._hear(line)
        assert self._process.wait() == -9, self._errors.read_text()


@pytest.mark.parametrize("num_saves", [60, long(1000)])
def test_a_kill_at_any_moment_leaves_one_of_the_last_two_saves(
    tmp_path: Path, num_saves: int
) -> None:
    """`num_saves` is how many were begun, in all lives together; each life ends by a kill."""
    path = tmp_path / "run"
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    tally: Counter[str] = Counter()
    newest = 0
    while tally["begun"] < num_saves:
        life = Life(path)
        life.live(chance.randrange(1, 8))
        time.sleep(chance.random() * 0.015)  # somewhere in the save that began last
        life.kill()
        assert life.resumed == newest, seed
        tally["kills"] += 1
        tally["begun"] += len(life.begun)
        # A save begins when the one before it is durable.
        durable = life.begun[-2] if len(life.begun) > 1 else newest
        steps = rk.Run(path).steps
        newest = steps[-1] if steps else 0
        assert newest in (durable, life.begun[-1]), seed
        tally["in the midst"] += bool(leavings(path))
        tally["durable" if newest == life.begun[-1] else "lost"] += 1
        assert_exact(path)
    print(dict(tally), "seed", seed)
    assert tally["in the midst"] > tally["kills"] // 20, tally
    if tally["kills"] > 30:  # enough for chance to bring both
        assert min(tally["durable"], tally["lost"]) > 3, tally
    with begun(path) as training:
        assert flaws(training.state, newest) == []
        assert leavings(path) == []


# --------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("system", ["tmpfs", "ext4"])
def test_a_disk_that_fills_up_under_a_save_costs_that_save_only(
    tmp_path: Path, system: str
) -> None:
    program = ["-m", "tests.scripts.full_disk", str(tmp_path / "disk")]
    done = small_disk.run(tmp_path, 60, *program, system=system)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "met while writing: 7\n"


# --------------------------------------------------------------------------- a failing disk


class Disk:
    """Stands between the threads that write a checkpoint and the calls that change the disk.

    Calls of training, and of pytest, go through untouched.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.is_hit = False
        self._kind, self._point, self._number = "", 0, errno.EIO
        self._guard = threading.Lock()
        self.before: Callable[[str], object] = lambda _: None
        for name in CALLS:
            if name not in REMOVALS and hasattr(os, name):
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
        rename = self._watched("renameat2", files._rename_with_flags)
        patch.setattr(files, "_rename_with_flags", rename)
        patch.setattr(files, "_reserve", self._watched("fallocate", files._reserve))

    def fail(self, kind: str, point: int, number: int = errno.EIO) -> None:
        """Count calls from now on, and refuse that one of a kind."""
        self.heal()
        self._kind, self._point, self._number = kind, point, number

    def heal(self) -> None:
        """Refuse nothing."""
        self.calls.clear()
        self.is_hit = False
        self._point = 0

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            is_reading = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if is_reading or not threading.current_thread().name.startswith("rekindle-"):
                return call(*arguments, **options)
            self.before(name)
            kind = name
            if name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
                kind = "fsync of a directory"
            with self._guard:
                self.calls[kind] += 1
                is_refused = kind == self._kind and self.calls[kind] == self._point
                self.is_hit |= is_refused
            if not is_refused:
                return call(*arguments, **options)
            if name in ("write", "pwrite"):
                file, data, *offset = arguments
                # Half of it is written; direct writes take whole blocks only.
                half = len(data) // 2 if len(data) % 4096 else len(data) // 8192 * 4096
                call(file, data[:half], *offset)
            raise OSError(self._number, os.strerror(self._number), f"at {name}")

        return watched


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


LARGE = ("fallocate", "ftruncate", "pwrite")
"""Calls that a file of more than 4 MB takes; it goes past the page cache."""
FULL = ("write", "fallocate", "fsync")
"""Calls at which a file system says that it is full; the disks that fill up above find others."""
KINDS = ("mkdir", "open", "write", *LARGE, "link", "fsync", "fsync of a directory", "renameat2",
         "rename")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number"),
    [*((kind, errno.EIO) for kind in KINDS), *((kind, errno.ENOSPC) for kind in FULL)],
)
def test_an_error_at_any_write_of_a_save_costs_that_save_only(
    tmp_path: Path, disk: Disk, kind: str, number: int
) -> None:
    """At the first call of a kind in a save, at the second in the next one, and so on to the last.

    What fails late is the line in `checkpoints.jsonl` or the deletion of an older checkpoint, when
    the new one is there already.
    """
    with begun(tmp_path / "run", keep=rk.Keep(last=3)) as training:
        run = training.run
        for _ in range(4):
            train_until_due(training)
            run.checkpoint()
        run.wait()
        point, durable = 0, training.progress.step
        while True:
            point += 1
            training.step(1_200 if kind in LARGE else 7)
            step = train_until_due(training)
            disk.fail(kind, point, number)
            assert run.checkpoint()
            until_idle(run)
            if not disk.is_hit:
                break
            disk.heal()
            training.step()  # after which no save is due
            with pytest.raises(OSError, match=r"at |disk is full") as raised:
                run.checkpoint()
            assert raised.value.errno == number
            assert leavings(run.path) == []
            assert run.steps[-1] in (durable, step)
            assert run._parent is not None
            assert run._parent.manifest.step == run.steps[-1], "the run knows which"
            assert_exact_at(training, run.steps[-1])
            durable = train_until_due(training)
            assert run.checkpoint()
            run.wait()
            assert run.steps[-1] == durable
            assert_exact_at(training, durable)
            assert [entry["step"] for entry in run.entries()] == run.steps
        run.wait()
        assert point > 1, "no save makes such a call"
        assert rk.verify(run.path)


# --------------------------------------------------------------------------- an error that is told


@pytest.mark.parametrize("call", ["checkpoint", "is_due", "wait", "close", "save"])
def test_a_save_that_failed_is_told_by_the_next_call_and_once_only(
    tmp_path: Path, disk: Disk, call: str
) -> None:
    """Though no save is due at that call, and though the next one may be hours away."""
    with begun(tmp_path / "run", every=1_000) as training:
        run, progress = training.run, training.progress
        progress.step = 999
        training.step()
        disk.fail("fsync", 2)
        assert run.checkpoint()
        until_idle(run)
        training.step()
        arguments = (progress.step,) if call == "is_due" else ()
        with pytest.raises(OSError, match="Input/output error"):
            getattr(run, call)(*arguments)
        assert run.steps == []
        run.wait()
        progress.step = 1999
        training.step()
        assert run.checkpoint()
        run.wait()
        assert run.steps == [2000]


# --------------------------------------------------------------------------- clocks


def test_a_clock_that_goes_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each save is an hour before the last one, and files are from the past and the future."""
    path = tmp_path / "run"
    real = datetime.datetime.now(datetime.UTC)
    hours = itertools.count(1)

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return real - datetime.timedelta(hours=next(hours))

    monkeypatch.setattr(writer.datetime, "datetime", Clock)
    monkeypatch.setattr(time, "time", lambda: real.timestamp() - 3600 * next(hours))
    chance = random.Random(7)
    told: dict[int, dict[str, Any]] = {}
    with begun(path, keep=rk.Keep(last=6, best=1, metric="return")) as training:
        run = training.run
        for _ in range(12):
            train_until_due(training)
            run.checkpoint(metrics={"return": -float(training.progress.step)})
            run.wait()
            told[training.progress.step] = json.loads(
                (path / "checkpoints.jsonl").read_bytes().splitlines()[-1]
            )
            for file in (*path.rglob("checkpoint.json"), path / "checkpoints.jsonl"):
                moment = real.timestamp() + chance.choice((-1, 1)) * 10**7 * chance.random()
                os.utime(file, (moment, moment))
    steps = [*range(EVERY, 13 * EVERY, EVERY)]
    created = [checkpoint.manifest.created for checkpoint in rk.Run(path)]
    assert created == sorted(created, reverse=True)
    elapsed = [checkpoint.manifest.elapsed_seconds or 0 for checkpoint in rk.Run(path)]
    assert elapsed == sorted(elapsed)
    assert rk.Run(path).steps == [EVERY, *steps[-6:]], "the best, and the last six"
    assert rk.Run(path).latest().step == steps[-1]
    assert rk.Run(path).entries() == [told[step] for step in rk.Run(path).steps]
    with begun(path) as training:
        assert training.progress.step == steps[-1]
        assert flaws(training.state, steps[-1]) == []
        train_until_due(training)
        training.run.checkpoint()
    assert rk.Run(path).steps[-1] == steps[-1] + EVERY
    # Also what no manifest says: how long each save took.
    assert rk.Run(path).entries()[:-1] == [told[step] for step in rk.Run(path).steps[:-1]]
    assert_exact(path)


# --------------------------------------------------------------------------- races


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seconds", [2, long(10)])
@pytest.mark.parametrize("num_rows", [1, 40, 700])
def test_a_ring_that_wraps_around_during_saves_is_never_torn(
    tmp_path: Path, restless: None, num_rows: int, seconds: int
) -> None:
    path = tmp_path / "run"
    saved: list[int] = []
    num_lost = num_exact = num_rows_during_saves = 0
    with begun(path, every=1, busy="skip") as training:
        run, end = training.run, time.monotonic() + seconds
        while time.monotonic() < end or len(saved) < 20:
            training.step(num_rows)
            num_rows_during_saves += num_rows * run._commits.is_busy
            if run.checkpoint():
                saved.append(training.progress.step)
            if len(saved) % 8 == 0 and saved[-1] == training.progress.step:
                run.wait()
                found = [step in run.steps for step in saved[-8:]]
                assert (False, False) not in itertools.pairwise(found), "the next one is made"
                num_lost += found.count(False)
                num_exact += found.count(True)
                assert_exact(path, training.added)
                for step in run.steps[:-1]:
                    shutil.rmtree(path / f"step_{step:09d}")
    num_rounds = num_rows_during_saves / len(training.memory.rewards)
    print(f"{num_exact} exact, {num_lost} lost, {num_rounds:.0f} rounds during saves")
    assert num_exact >= 8
    assert num_rounds > 3 or num_rows == 1


def test_rows_of_a_batch_that_is_not_counted_yet_are_not_taken_for_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save reads when a batch lies in the arrays already, and the count does not say so."""
    write, path = rows.write, tmp_path / "run"
    with begun(path, every=1) as training:
        memory, run = training.memory, training.run
        training.step(200)

        def meanwhile(*arguments: Any, **options: Any) -> Any:
            monkeypatch.undo()
            memory.add(1_000)  # a little less than was copied
            places = [number % 3_000 for number in range(memory.added, memory.added + 200)]
            memory.observations[places] = -1
            return write(*arguments, **options)

        monkeypatch.setattr(rows, "write", meanwhile)
        run.checkpoint()
        run.wait()
        assert run.steps == []
        memory.add(200)
        training.step()
        run.checkpoint()
        run.wait()
        assert run.steps == [2]
        assert_exact(path, training.added)


def test_a_count_that_falls_is_no_proof_that_rows_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory that is emptied and filled anew while a save reads it."""
    write, path = rows.write, tmp_path / "run"
    with begun(path, every=1) as training:
        memory, run = training.memory, training.run
        training.step(200)
        whole = memory.added

        def meanwhile(*arguments: Any, **options: Any) -> Any:
            monkeypatch.undo()
            memory.observations[:] = -1
            memory.added = 50
            return write(*arguments, **options)

        monkeypatch.setattr(rows, "write", meanwhile)
        run.checkpoint()
        run.wait()
        assert run.steps == []
        memory.added = whole - 3_000
        memory.add(3_000)
        training.step()
        run.checkpoint()
        run.wait()
        assert run.steps == [2]
        assert_exact(path, training.added)


@pytest.mark.parametrize("copied", ["all of it", "nothing"])
def test_a_save_that_is_lost_is_made_at_the_next_call_however_fast_training_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: str
) -> None:
    """With a copy, or while training waits, where that would take too much memory.

    Here the checkpoint before was removed, so that all rows are written and not only new ones.
    """
    write, path = rows.write, tmp_path / "run"
    if copied == "nothing":
        monkeypatch.setattr(run_module, "_MOST_COPIED_BYTES", 10 << 20)
    with begun(path, every=1) as training:
        run = training.run
        training.step(200)
        run.checkpoint()
        run.wait()
        shutil.rmtree(path / "step_000000001")

        waited = []

        def meanwhile(*arguments: Any, **options: Any) -> Any:
            waited.append(threading.current_thread() is threading.main_thread())
            if not waited[-1]:
                training.memory.add(3_000)
            return write(*arguments, **options)

        monkeypatch.setattr(rows, "write", meanwhile)
        for _ in range(2):
            training.step()
            run.checkpoint()
            run.wait()
        assert run.steps == [3]
        assert waited[-1] == (copied == "nothing")
        assert_exact(path, training.added)


def test_a_lost_save_that_no_other_made_good_is_told_when_the_run_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = rows.write
    with begun(tmp_path / "run", every=1) as training:
        training.step(200)

        def meanwhile(*arguments: Any, **options: Any) -> Any:
            training.memory.add(3_000)
            return write(*arguments, **options)

        monkeypatch.setattr(rows, "write", meanwhile)
        training.run.checkpoint()
    assert rk.Run(tmp_path / "run").steps == []
    (record,) = caplog.records
    assert "were overwritten before the save in the background" in record.getMessage()


def test_plain_values_that_change_during_a_save_are_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists and dicts are captured when the call is made, and encoded later."""
    gate = held(monkeypatch)
    with begun(tmp_path / "run", every=1) as training:
        training.step()
        training.run.checkpoint()
        for _ in range(60):
            training.step()
        gate.set()
    assert_exact(tmp_path / "run")


# --------------------------------------------------------------------------- a slow disk


@pytest.mark.parametrize("busy", ["wait", "skip"])
def test_training_that_saves_faster_than_the_disk_neither_hoards_nor_tears(
    tmp_path: Path, disk: Disk, busy: Any
) -> None:
    def slowly(name: str) -> None:
        if name == "fsync":
            time.sleep(0.004)

    disk.before = slowly
    path = tmp_path / "run"
    saved, before = [], 0
    with begun(path, every=1, busy=busy) as training:
        tracemalloc.start()
        try:
            while len(saved) < 24:
                training.step(7 if busy == "wait" else 0)
                if training.run.checkpoint():
                    saved.append(training.progress.step)
                if len(saved) == 8:
                    tracemalloc.reset_peak()
                    before, _ = tracemalloc.get_traced_memory()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak - before < 16 << 20, "one save's staging memory, whatever their number"
    assert rk.Run(path).steps == saved
    lines = (path / "checkpoints.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in lines] == saved, "written in this order"
    parents = [checkpoint.manifest.parent for checkpoint in rk.Run(path)]
    assert parents == [None, *(f"step_{step:09d}" for step in saved[:-1])]
    assert (saved[-1] > 2 * len(saved)) == (busy == "skip")
    assert_exact(path, training.added)


# --------------------------------------------------------------------------- deletions


@pytest.mark.parametrize("num_saves", [40, long(600)])
def test_checkpoints_that_are_deleted_at_any_moment_leave_all_others_whole(
    tmp_path: Path, num_saves: int
) -> None:
    """File by file, as `rm -r` does it; also the one that a save is linking its files from."""
    path = tmp_path / "run"
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    num_deleted = num_parents = 0
    with begun(path, every=1) as training:
        run = training.run
        for number in range(num_saves):
            training.step(chance.choice((1, 30, 300)))
            run.checkpoint()
            steps = run.steps
            while steps and (chance.random() < 0.45 or len(steps) > 12):
                time.sleep(chance.random() * 0.01)
                chosen = chance.choice([steps[-1], *steps])
                num_parents += chosen == steps[-1] and run._commits.is_busy
                num_deleted += 1
                shutil.rmtree(path / f"step_{chosen:09d}")
                steps.remove(chosen)
            if number % 10 == 9:
                run.wait()
                assert_exact(path, training.added)
    assert rk.verify(path)
    assert num_deleted > num_saves // 4
    assert num_parents > 0, seed


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_checkpoint_before_may_go_at_any_link_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    link = files.link_or_copy
    path = tmp_path / "run"
    count = point = 0

    def going(source: str, destination: str) -> bool:
        nonlocal count
        count += 1
        before = path / Path(source).relative_to(path).parts[0]
        if count == point and when == "before":
            shutil.rmtree(before)
        done = link(source, destination)
        if count == point and when == "after":
            shutil.rmtree(before)
        return done

    monkeypatch.setattr(files, "link_or_copy", going)
    with begun(path, every=1) as training:
        run = training.run
        for _ in range(6):
            training.step()
            run.checkpoint()
        for point in itertools.count(1):
            run.wait()
            parent, count = training.progress.step, 0
            training.step()
            run.checkpoint()
            run.wait()
            if count < point:
                break
            assert parent not in run.steps
            if run.steps[-1:] != [training.progress.step]:  # the rows ahead were not copied
                training.step()
                assert run.checkpoint()
                run.wait()
            assert run.steps[-1] == training.progress.step
            assert_exact(path, training.added)
            for step in run.steps[:-1]:
                shutil.rmtree(path / f"step_{step:09d}")
            for _ in range(3):
                training.step()
                run.checkpoint()
        assert point > 3


def test_each_checkpoint_of_a_run_suffices_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with begun(path, every=1) as training:
        for _ in range(6):
            training.step(150)
            training.run.checkpoint()
    for step in rk.Run(path).steps:
        alone = tmp_path / f"alone {step}"
        shutil.copytree(path, alone, copy_function=os.link)
        for other in rk.Run(alone).steps:
            if other != step:
                shutil.rmtree(alone / f"step_{other:09d}")
        shutil.move(path / f"step_{step:09d}", tmp_path / "away")
        assert_exact(alone, training.added)
        assert_exact(path, training.added)
        shutil.move(tmp_path / "away", path / f"step_{step:09d}")


@pytest.mark.parametrize("point", [1, 2, 3])
def test_a_run_that_is_removed_under_a_save_says_so_and_begins_anew(
    tmp_path: Path, disk: Disk, point: int
) -> None:
    path = tmp_path / "run"
    with begun(path, every=1) as training:
        run = training.run
        training.step()
        run.checkpoint()
        run.wait()
        num_links = itertools.count(1)
        disk.before = lambda name: (
            shutil.rmtree(path) if name == "link" and next(num_links) == point else None
        )
        training.step()
        run.checkpoint()
        with contextlib.suppress(FileNotFoundError):
            run.wait()
        assert run.steps == []
        disk.before = lambda _: None
        training.step()
        run.checkpoint()
        run.wait()
        assert run.steps == [3]
        assert_exact(path, training.added)


# --------------------------------------------------------------------------- forks


@pytest.mark.parametrize("gone", ["parent", "fork"])
def test_two_runs_on_the_same_bytes_train_side_by_side_and_either_may_go(
    tmp_path: Path, gone: str
) -> None:
    """They add other numbers of rows, so a row of the one would be seen in the other."""
    parent, fork = tmp_path / "parent", tmp_path / "fork"
    with begun(parent, every=1) as old:
        for _ in range(4):
            old.step(100)
            old.run.checkpoint()
        old.run.wait()
        rk.fork(parent / "step_000000003", fork)
        with begun(fork, every=1) as new:
            old.added[3] = new.added[3]
            for _ in range(10):
                for training, num_rows in ((old, 40), (new, 90)):
                    training.step(num_rows)
                    training.run.checkpoint()
                    assert shared(parent, fork)
            ended, left = (old, new) if gone == "parent" else (new, old)
            ended.run.close()
            shutil.rmtree(ended.run.path)
            for _ in range(10):
                left.step(70)
                left.run.checkpoint()
            left.run.wait()
            assert len(left.run.steps) > 20
            assert_exact(left.run.path, left.added)


def shared(one: Path, other: Path) -> set[int]:
    """Files that are the same on the disk."""
    first, second = ({file.stat().st_ino for file in path.glob("step_*/*/*.safetensors")}
                     for path in (one, other))  # fmt: skip
    return first & second


@pytest.mark.parametrize("num_rounds", [20, long(300)])
def test_two_runs_that_share_bytes_survive_deletions_in_both(
    tmp_path: Path, num_rounds: int
) -> None:
    parent, fork = tmp_path / "parent", tmp_path / "fork"
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with begun(parent, every=1) as old:
        old.step(100)
        old.run.checkpoint()
        old.run.wait()
        rk.fork(parent, fork)
        with begun(fork, every=1) as new:
            for number in range(num_rounds):
                for training, num_rows in ((old, 40), (new, 90)):
                    training.step(num_rows)
                    training.run.checkpoint()
                    steps = training.run.steps
                    if steps and (chance.random() < 0.5 or len(steps) > 12):
                        shutil.rmtree(training.run.path / f"step_{chance.choice(steps):09d}")
                if number % 10 == 9:
                    for training in (old, new):
                        training.run.wait()
                        assert_exact(training.run.path, training.added)


# --------------------------------------------------------------------------- the end of a process


ENDING = """
import sys
from pathlib import Path
from tests.scripts.foreseen import EVERY, Training

def train():
    training = Training(Path(sys.argv[1]))
    training.begin()
    for _ in range(EVERY):
        training.step()
    assert training.run.checkpoint()
    if sys.argv[2] == "exception":
        raise ValueError("training failed")
    return training

kept = train() if sys.argv[2] != "dropped" else train() and None
if sys.argv[2] == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("ending", "status"), [("end", 0), ("dropped", 0), ("exit", 3), ("exception", 1)]
)
def test_a_process_that_ends_after_the_call_leaves_a_durable_checkpoint(
    tmp_path: Path, ending: str, status: int
) -> None:
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDING, str(path), ending],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert rk.Run(path).steps == [EVERY]
    assert_exact(path)
    assert leavings(path) == []


def test_jobs_are_done_one_after_another_when_no_more_can_be_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter may begin to end between any two of them."""
    submit, handed, done = ThreadPoolExecutor.submit, [], []

    def ending(self: Any, *arguments: Any) -> Any:
        if len(handed) == 2:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        handed.append(arguments)
        return submit(self, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", ending)

    def work(job: int) -> int:
        done.append(job)
        return job * 10

    assert rowgroups._Jobs(work, [1, 2, 3, 4, 5], 3).results() == [10, 20, 30, 40, 50]
    assert sorted(done) == [1, 2, 3, 4, 5], "each of them once"


FORKING = """
import os, sys, time
from pathlib import Path
import pytest
from tests.held_commits import held
from tests.scripts.foreseen import Training

gate = held(pytest.MonkeyPatch(), seconds=60)
training = Training(Path(sys.argv[1]), every=1)
training.begin()
training.step()
assert training.run.checkpoint()
child = os.fork()
if child == 0:
    if sys.argv[2] == "wait":
        training.run.wait()
    elif sys.argv[2] == "close":
        training.run.close()
    sys.exit(7)
end = time.monotonic() + 20
found, status = os.waitpid(child, os.WNOHANG)
while not found and time.monotonic() < end:
    time.sleep(0.01)
    found, status = os.waitpid(child, os.WNOHANG)
if not found:
    os.kill(child, 9)
    os.waitpid(child, 0)
gate.set()
training.run.close()
assert found, "the child waited"
assert os.waitstatus_to_exitcode(status) == 7, status
"""


@pytest.mark.parametrize("ending", ["end", "wait", "close"])
def test_a_forked_process_does_not_wait_for_a_save_of_its_parent(
    tmp_path: Path, ending: str
) -> None:
    """Threads do not live on in it, so that save never ends there."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "run"), ending],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert rk.Run(tmp_path / "run").steps == [1]
    assert_exact(tmp_path / "run")

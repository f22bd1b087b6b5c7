"""The lock of a run: one writer at a time, and it is free when that writer is gone."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import rekindle as rk
from rekindle.lock import NAME, Lock

OWNER = """
import ctypes, os, subprocess, sys, time
import rekindle as rk
run = rk.Run(sys.argv[1])
run.track(progress=rk.Progress())
run.resume()
if "fork" in sys.argv:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b".")  # what is done in a forked child is done
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    print(child, flush=True)
if "hidden fork" in sys.argv:
    child = ctypes.CDLL(None).fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
if "program" in sys.argv:
    print(subprocess.Popen(["sleep", "60"], close_fds=False).pid, flush=True)
print("holds", flush=True)
sys.stdin.readline()
run.close()
print("released", flush=True)
sys.stdin.readline()
"""


class Owner:
    """Another process that writes a run, and the worker that it started."""

    def __init__(self, path: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(path), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.worker: int | None = int(self._line()) if options else None
        assert self._line() == "holds\n"
        self.pid = self._process.pid

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def release(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._line() == "released\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def end(self) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        if self.worker is not None:
            os.kill(self.worker, signal.SIGKILL)


@contextmanager
def owner(path: Path, *options: str) -> Iterator[Owner]:
    made = Owner(path, *options)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@contextmanager
def opened(path: Path) -> Iterator[rk.Run]:
    run = rk.Run(path)
    run.track(progress=rk.Progress())
    with run:
        yield run


def assert_free(path: Path) -> None:
    with opened(path) as run:
        run.resume()


def assert_taken(path: Path, match: str = "process") -> None:
    with opened(path) as run, pytest.raises(rk.LockedError, match=match):
        run.prepare()


# --------------------------------------------------------------------------- two processes


def test_a_second_process_is_refused_and_told_who_writes(path: Path) -> None:
    with owner(path) as other:
        with opened(path) as run:
            for start in (run.prepare, run.resume, lambda: run.save(step=1)):
                with pytest.raises(rk.LockedError, match=f"found process {other.pid} ") as raised:
                    start()
                assert str(path) in str(raised.value)
                assert os.uname().nodename in str(raised.value)
        assert rk.Run(path).steps == [], "reading needs no lock"
        other.release()
        assert_free(path)


def test_a_second_process_is_refused_even_when_the_file_does_not_say_by_whom(path: Path) -> None:
    with owner(path):
        (path / NAME).write_text("")
        assert_taken(path, "found another process")


def test_a_lock_is_free_when_its_owner_is_killed(path: Path) -> None:
    with owner(path) as other:
        other.kill()
        assert f'"pid": {other.pid}' in (path / NAME).read_text()
        assert_free(path)


def test_a_forked_worker_that_outlives_the_owner_does_not_hold_the_lock(path: Path) -> None:
    with owner(path, "fork") as other:
        assert_taken(path)
        other.kill()
        os.kill(other.worker or 0, 0)
        assert_free(path)


def test_a_program_that_the_owner_started_does_not_hold_the_lock(path: Path) -> None:
    with owner(path, "program") as other:
        other.kill()
        os.kill(other.worker or 0, 0)
        assert_free(path)


def test_a_fork_that_python_does_not_see_keeps_the_lock_and_the_refusal_says_so(path: Path) -> None:
    with owner(path, "hidden fork") as other:
        other.kill()
        assert_taken(path, f"process {other.pid} on .* one that it forked may hold the lock")


def test_a_released_lock_is_free_whatever_was_forked(path: Path) -> None:
    with owner(path, "hidden fork") as other:
        other.release()
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
child = os.fork()
if child == 0:
    run.close()
    os._exit(0)
os.waitpid(child, 0)
try:
    rk.Run(sys.argv[1]).prepare()
except rk.LockedError:
    print("still held")
"""


def test_a_forked_worker_can_neither_write_nor_free_what_its_parent_writes(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[2]\nstill held\n", done.stderr


# --------------------------------------------------------------------------- one process


def test_reading_or_copying_the_file_does_not_free_the_lock(path: Path, tmp_path: Path) -> None:
    """As it does with the locks of `fcntl`, which end when any descriptor of the file is closed."""
    program = "import sys, rekindle as rk; rk.Run(sys.argv[1]).prepare()"
    with opened(path) as run:
        run.prepare()
        (path / NAME).read_text()
        shutil.copytree(path, tmp_path / "copy")
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
        )
        assert f"LockedError: {path}" in done.stderr
        assert f"process {os.getpid()} " in done.stderr


def test_two_runs_of_one_process_do_not_write_one_directory(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with opened(path) as first:
        first.prepare()
        for name in ("run", "link", "../" + tmp_path.name + "/run"):
            assert_taken(tmp_path / name, f"another Run object of this process \\({os.getpid()}\\)")
        first.save(step=3)
        assert_free(tmp_path / "other")
    assert_free(path)


def test_a_run_that_nobody_holds_any_more_is_free(path: Path) -> None:
    run = rk.Run(path)
    run.prepare()
    del run
    gc.collect()
    assert_free(path)


def test_an_owner_whose_file_was_removed_takes_the_lock_again(path: Path) -> None:
    with opened(path) as run:
        run.save(step=1)
        shutil.rmtree(path)
        run.save(step=2)
        assert run.steps == [2]
        assert run.about["format"] == "rekindle-run"
        assert_taken(path)


def test_an_owner_whose_file_was_replaced_and_locked_does_not_go_on(path: Path) -> None:
    with opened(path) as run:
        run.save(step=1)
        (path / NAME).unlink()
        with owner(path) as other, pytest.raises(rk.LockedError, match=f"process {other.pid} "):
            run.save(step=2)
        run.save(step=2)
    assert run.steps == [1, 2]


def test_a_descriptor_that_others_closed_and_use_is_left_alone(path: Path) -> None:
    path.mkdir()
    lock = Lock(path)
    lock.acquire()
    assert lock.is_held
    assert lock._fd is not None
    with (path / "theirs").open("w") as theirs:
        os.dup2(theirs.fileno(), lock._fd)
        fd = lock._fd
        assert not lock.is_held
        lock.release()
        os.write(fd, b"theirs")
        os.close(fd)
    assert (path / "theirs").read_text() == "theirs"


def test_a_file_system_without_locks_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(rk.UnsupportedError, match="a file system that can lock a file"):
        rk.Run(path).prepare()
    monkeypatch.undo()
    assert_free(path)


def test_taking_and_freeing_twice_is_harmless(path: Path) -> None:
    path.mkdir()
    lock = Lock(path)
    lock.release()
    lock.acquire()
    lock.acquire()
    assert lock.is_held
    lock.release()
    lock.release()
    assert not lock.is_held
    assert_free(path)

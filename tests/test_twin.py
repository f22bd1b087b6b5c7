"""What a twin of the process says, and what it cannot do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rekindle import twin

pytestmark = pytest.mark.skipif(not twin.IS_POSSIBLE, reason="no twin here")


def test_what_a_twin_says_is_heard() -> None:
    heard = twin.listen(lambda: [b"one", b"", b"three" * 50_000], limit_seconds=60)
    assert heard == twin.Heard([b"one", b"", b"three" * 50_000], True, "exit status 0")


def test_what_a_twin_changes_is_its_own() -> None:
    here, state = [0], random.getstate()

    def speak() -> Iterator[bytes]:
        here[0] += 1
        random.seed(5)
        yield str(here[0]).encode()

    assert twin.listen(speak, limit_seconds=60).lines == [b"1"]
    assert here == [0]
    assert random.getstate() == state


def test_a_twin_is_cut_off_from_open_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine, its = os.pipe()
    with (tmp_path / "open").open("w") as file:

        def speak() -> Iterator[bytes]:
            file.write("written")
            file.flush()
            print("printed", flush=True)
            os.write(its, b"sent")
            yield b"done"

        assert twin.listen(speak, limit_seconds=60).lines == [b"done"]
    os.close(its)
    assert os.read(mine, 10) == b""
    os.close(mine)
    assert (tmp_path / "open").read_text() == ""
    assert capfd.readouterr().out == ""


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda path: (path / "new").write_text("x"),
    "a file that is there": lambda path: (path / "there").write_text("x"),
    "bytes": lambda path: os.open(path / "new", os.O_CREAT | os.O_WRONLY),
    "an end": lambda path: (path / "there").open("a"),
    "a directory": lambda path: (path / "new").mkdir(),
    "a removal": lambda path: (path / "there").unlink(),
    "another name": lambda path: (path / "there").rename(path / "new"),
    "a length": lambda path: os.truncate(path / "there", 1),
    "a process": lambda path: subprocess.run(["touch", path / "new"], check=True),
    "a command": lambda path: os.system(f"touch {path / 'new'}"),
    "another twin": lambda path: os.fork(),
    "another's end": lambda path: os.kill(os.getppid(), signal.SIGCONT),
    "a socket": lambda path: socket.create_server(("127.0.0.1", 0)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_twin_changes_nothing_that_stays(what: str, tmp_path: Path) -> None:
    def speak() -> Iterator[bytes]:
        try:
            CHANGES[what](tmp_path)
        except PermissionError as error:
            yield str(error).encode()

    (tmp_path / "there").write_text("there")
    (line,) = twin.listen(speak, limit_seconds=60).lines
    assert b"a twin of the process may not" in line
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there", "there")]


def test_native_code_in_a_twin_writes_no_file(tmp_path: Path) -> None:
    def speak() -> Iterator[bytes]:
        library = ctypes.CDLL(None)
        number = library.open(str(tmp_path / "native").encode(), os.O_CREAT | os.O_WRONLY, 0o600)
        yield str(library.write(number, b"written", 7)).encode()

    assert twin.listen(speak, limit_seconds=60).lines == [b"-1"]
    assert (tmp_path / "native").read_text() == ""


def test_a_twin_reads_files(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("there")
    speak = lambda: [(tmp_path / "there").read_bytes()]  # noqa: E731
    assert twin.listen(speak, limit_seconds=60).lines == [b"there"]


def test_an_error_ends_a_twin_after_what_it_said_before() -> None:
    def speak() -> Iterator[bytes]:
        yield b"before"
        raise ValueError

    assert twin.listen(speak, limit_seconds=60) == twin.Heard([b"before"], True, "exit status 1")


def test_how_a_twin_died_is_told() -> None:
    def speak() -> Iterator[bytes]:
        yield b"before"
        os.kill(os.getpid(), signal.SIGSEGV)

    assert twin.listen(speak, limit_seconds=60) == twin.Heard([b"before"], True, "signal SIGSEGV")


def test_a_twin_is_ended_after_the_time() -> None:
    def speak() -> Iterator[bytes]:
        yield b"before"
        threading.Event().wait()

    before = children()
    began = time.monotonic()
    heard = twin.listen(speak, limit_seconds=0.5)
    assert heard.lines == [b"before"]
    assert not heard.is_over
    assert heard.end == "signal SIGKILL"
    assert 0.4 < time.monotonic() - began < 30
    assert children() == before, "nothing is left to be waited for"


def children() -> set[str]:
    """The processes that this one has started and not yet waited for."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = status.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(status.parent.name)
    return found


def test_no_handler_of_the_program_runs_in_a_twin(tmp_path: Path) -> None:
    ran: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: ran.append(os.getpid()))
    try:

        def speak() -> Iterator[bytes]:
            os.kill(os.getpid(), signal.SIGUSR1)
            yield b"still here"

        assert twin.listen(speak, limit_seconds=60).end == "signal SIGUSR1"
        os.kill(os.getpid(), signal.SIGUSR1)
        assert ran == [os.getpid()]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_program_that_waits_for_every_child_itself_can_have_a_twin() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert twin.listen(lambda: [b"here"], limit_seconds=60).lines == [b"here"]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_file_stays_open() -> None:
    before = sorted(twin._open_files())
    for speak in (lambda: [b"x"], lambda: 1 / 0):
        twin.listen(speak, limit_seconds=60)  # pyright: ignore[reportArgumentType]
    assert sorted(twin._open_files()) == before


STUCK = """
import threading
from rekindle import twin
twin.listen(lambda: [threading.Event().wait()], limit_seconds=0.5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_twin_does_not_outlive_a_process_that_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _until(lambda: bool(children.read_text().split()))
    number = children.read_text().split()[0]
    process.kill()
    process.wait()
    _until(lambda: _has_ended(Path(f"/proc/{number}/stat")))


def _has_ended(path: Path) -> bool:
    try:
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

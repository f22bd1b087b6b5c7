"""A twin of this process that does something and is listened to.

Whatever the twin does to objects, modules, generators and native memory, it does to its own. It is
cut off from all files, sockets and windows that are open, changes no file, starts no process, runs
no signal handler and nothing that a process does at its end, and ends after a fixed time however
far it has come.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import NoReturn

import msgspec

IS_POSSIBLE = hasattr(os, "fork")
"""Whether a process can have a twin on this system."""
IS_SAFE = sys.platform == "linux"
"""Whether one in which libraries run threads can have one too."""


class Heard(msgspec.Struct, frozen=True):
    """What a twin said."""

    lines: list[bytes]
    is_over: bool
    """Whether it came to an end within the time."""
    end: str
    """How it ended, in words."""


def listen(speak: Callable[[], Iterable[bytes]], *, limit_seconds: float) -> Heard:
    """Make a twin of this process, and hear what it says.

    Args:
        speak: What the twin does; the lines that it gives, without ends of lines, are sent one by
            one. If it raises, the twin ends in silence.
        limit_seconds: After how long the twin is ended.

    Raises:
        OSError: There can be no twin, for want of memory or of processes.
    """
    receiver, sender = os.pipe()
    try:
        twin = _fork(sender, speak, limit_seconds)
    except OSError:
        os.close(receiver)
        raise
    finally:
        os.close(sender)
    received, is_over = b"", False
    try:
        received, is_over = _receive(receiver, limit_seconds)
    finally:
        os.close(receiver)
        end = _end(twin, is_over=is_over)
    return Heard(received.split(b"\n")[:-1], is_over, end)


def _fork(sender: int, speak: Callable[[], Iterable[bytes]], limit_seconds: float) -> int:
    """Make the twin; only this process returns from here."""
    # No handler of the program may run in the twin: one could save, or send something.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python and JAX warn of a fork beside threads.
            number = os.fork()
        if number == 0:
            _be_the_twin(sender, speak, limit_seconds)
        return number
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _receive(receiver: int, limit_seconds: float) -> tuple[bytes, bool]:
    """What the twin sends, and whether it came to an end within the time."""
    deadline = time.monotonic() + limit_seconds
    poll = select.poll()
    poll.register(receiver, select.POLLIN)
    received = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return received, False
        part = os.read(receiver, 1 << 16)
        if not part:
            return received, True
        received += part


def _end(twin: int, *, is_over: bool) -> str:
    """End the twin, if it has not ended, and say how it did."""
    if not is_over:
        with contextlib.suppress(ProcessLookupError):
            os.kill(twin, signal.SIGKILL)
    try:
        status = os.waitpid(twin, 0)[1]
    except ChildProcessError:
        return "nobody knows what: the program waits for every child itself"
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


# --------------------------------------------------------------------------- in the twin


def _be_the_twin(
    sender: int, speak: Callable[[], Iterable[bytes]], limit_seconds: float
) -> NoReturn:
    status = 1
    try:
        _cut_off(sender, limit_seconds)
        for line in speak():
            os.write(sender, line + b"\n")
        status = 0
    finally:
        os._exit(status)


def _cut_off(sender: int, limit_seconds: float) -> None:
    """Keep the twin from everything that is outside it, and from living on."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Later than whoever listens would end it: for when nobody does any more.
    signal.setitimer(signal.ITIMER_REAL, 2 * limit_seconds)
    null = os.open(os.devnull, os.O_RDWR)
    for number in _open_files():
        if number not in (sender, null):
            os.dup2(null, number)
    import resource  # not there on every system

    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, resource.getrlimit(limit)[1]))
    sys.addaudithook(_refuse_what_stays)
    warnings.simplefilter("ignore")


_STAYS = frozenset((
    "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.killpg", "os.link", "os.mkdir",
    "os.posix_spawn", "os.remove", "os.removexattr", "os.rename", "os.rmdir", "os.setxattr",
    "os.spawn", "os.symlink", "os.system", "os.truncate", "os.utime", "socket.bind",
    "socket.connect", "socket.sendmsg", "socket.sendto", "subprocess.Popen",
))  # fmt: skip
"""Calls whose effect is outside the process, by the names of Python's audit events."""
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _refuse_what_stays(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        is_refused = isinstance(flags, int) and bool(flags & _CHANGING)
    elif event == "os.kill":
        is_refused = arguments[0] != os.getpid()
    else:
        is_refused = event in _STAYS
    if is_refused:
        what = "open a file for writing" if event == "open" else f"call {event}"
        raise PermissionError(errno.EPERM, f"a twin of the process may not {what}")


def _open_files() -> list[int]:
    listed = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    return [int(name) for name in os.listdir(listed)]  # noqa: PTH208 - names are what is wanted

"""Being asked to end: SIGTERM and SIGUSR1 wait for the next safe point of a run.

A scheduler sends one of them some time before it kills. A run that listens saves where nothing is
under way, and ends its process with `EXIT_CODE`. Why so: docs/decisions/010-preemption.md.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

from rekindle.errors import UnsupportedError

EXIT_CODE = 75
"""Status of a process that was asked to end and has saved: `EX_TEMPFAIL` of sysexits.h, which means
that the same command should be started again."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # fmt: skip


class Watch:
    """What one run knows of being asked to end.

    Args:
        is_wanted: Whether to listen. None listens in the main thread, to those of the signals that
            nothing else has a handler for.
    """

    def __init__(self, is_wanted: bool | None = None) -> None:
        self._is_wanted = is_wanted
        self._is_begun = False

    def begin(self) -> None:
        """Listen from now on; more calls do nothing.

        Raises:
            UnsupportedError: Listening was asked for and is not possible here.
        """
        if self._is_begun:
            return
        if self._is_wanted is not False and _can_listen(is_required=self._is_wanted is True):
            _signals.add(self, chain=self._is_wanted is True)
        self._is_begun = True

    @property
    def request(self) -> str | None:
        """The signal that asked this process to end, by name; None when nothing has."""
        if _signals.received is None or self not in _signals.watches:
            return None
        return signal.Signals(_signals.received).name

    def end(self) -> None:
        """Listen no more; the handlers that were there before come back with the last run's end."""
        self._is_begun = False
        _signals.remove(self)


class _Signals:
    """The handlers of this process, shared by its runs."""

    def __init__(self) -> None:
        self.watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._masks = threading.local()

    def add(self, watch: Watch, *, chain: bool) -> None:
        new = [number for number in SIGNALS if number not in self._previous]
        foreign = [signal.Signals(number).name for number in new if _is_foreign(number)]
        if chain and foreign:
            raise UnsupportedError(
                f"preemption=True: expected to take over {foreign[0]} and to give it back later, "
                "found a handler that is not Python's (faulthandler?). Remove it, or leave out "
                "preemption=True to listen to the other signal."
            )
        for number in new:
            if chain or _is_free(number):
                self._previous[number] = signal.signal(number, self._handle)
        self.watches.add(watch)

    def remove(self, watch: Watch) -> None:
        self.watches.discard(watch)
        if not self.watches:
            self.received = None
            # Elsewhere handlers cannot be changed; the next signal finds that nobody listens.
            if threading.current_thread() is threading.main_thread():
                self._restore()

    def _restore(self) -> None:
        for number in tuple(self._previous):
            previous = self._previous.pop(number)
            if signal.getsignal(number) == self._handle:  # else someone has taken over since
                signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.watches:
            # The run was dropped and never closed.
            self._restore()
            os.kill(os.getpid(), number)
            return
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # the first process of a container survives the line above
        self.received = number
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)

    # A forked worker must end when it is told to. Signals wait while it is made, so that none finds
    # it with the handlers of its parent.

    def before_fork(self) -> None:
        if self._previous:
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def after_in_parent(self) -> None:
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def after_in_child(self) -> None:
        self.watches.clear()
        self.received = None
        self._restore()
        self.after_in_parent()


_signals = _Signals()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_signals.before_fork,
        after_in_parent=_signals.after_in_parent,
        after_in_child=_signals.after_in_child,
    )


def _can_listen(*, is_required: bool) -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    if is_required and not is_main:
        raise UnsupportedError(
            "preemption=True: expected to be in the main thread, which alone may set handlers of "
            f"signals, found {threading.current_thread().name}. Train in the main thread, or leave "
            "out preemption=True."
        )
    return is_main


def _is_free(number: int) -> bool:
    """Whether a signal does what it does in a process that has no handler for it."""
    return signal.getsignal(number) == signal.SIG_DFL and not _is_foreign(number)


def _is_foreign(number: int) -> bool:
    """Whether something that is not Python's handles it, as `faulthandler.register` does."""
    handler = signal.getsignal(number)
    if handler is None:
        return True
    if handler != signal.SIG_DFL or not sys.platform.startswith("linux"):
        return False
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False

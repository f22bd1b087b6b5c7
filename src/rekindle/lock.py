"""The right to write a run: one process at a time has it, and it ends with that process.

Why `flock` on one held descriptor and not a record lock: docs/decisions/007-the-lock-of-a-run.md.
"""

from __future__ import annotations

import datetime
import json
import os
import weakref
from pathlib import Path

from rekindle.errors import LockedError, UnsupportedError

NAME = ".lock"
"""The file in a run's directory."""

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
"""Every lock object of this process, held or not."""


class Lock:
    """The lock of one run.

    The system takes it back when the process that holds it ends, however it ends. A forked worker
    has no part in it.

    Args:
        directory: The run's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._fd: int | None = None
        self._path = directory / NAME
        self._inode = (0, 0)
        self._pid = 0
        _locks.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this process holds it through this object.

        It does no longer when the file was removed or replaced, or its descriptor closed by others.
        """
        return self._is_ours() and self._inode == _inode(self._path)

    def _is_ours(self) -> bool:
        """Whether the descriptor is the one that this process opened."""
        return self._fd is not None and self._pid == os.getpid() and self._inode == _inode(self._fd)

    def acquire(self) -> None:
        """Take the lock, or say who has it.

        Raises:
            LockedError: Another process, or another `Run` of this one, writes here.
            UnsupportedError: The file system has no locks.
        """
        if self.is_held:
            return
        self.release()
        while not self.is_held:  # once, unless someone replaces the file meanwhile
            self.release()
            self._refuse_another_of_this_process()
            self._fd, self._pid = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), os.getpid()
            self._inode = _inode(self._fd)
            try:
                self._lock(self._fd)
            except BaseException:
                self._close()
                raise

    def _lock(self, fd: int) -> None:
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise self._refusal(_owner(fd)) from None
        except OSError as error:
            raise UnsupportedError(
                f"{self._path}: expected a file system that can lock a file, so that two processes "
                f"do not write one run, found that it cannot ({error.strerror}). Mount it with "
                "locks (Lustre: `flock`), or give the run a directory elsewhere.",
                path=self._path,
            ) from error
        text = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(text).encode() + b"\n", 0)

    def release(self) -> None:
        """Give the lock back."""
        if self._is_ours():
            import fcntl

            assert self._fd is not None
            # Closing alone would leave it to a process that has a copy of the descriptor.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        """Close the descriptor, which in a forked child leaves the parent's lock alone."""
        fd, self._fd = self._fd, None
        if fd is not None and _inode(fd) == self._inode:
            os.close(fd)

    def __del__(self) -> None:
        self._close()

    def _refuse_another_of_this_process(self) -> None:
        here = _inode(self._path)
        if any(other._is_ours() and other._inode == here for other in _locks if other is not self):
            raise self._refusal(f"another Run object of this process ({os.getpid()})")

    def _refusal(self, owner: str) -> LockedError:
        return LockedError(
            f"{self._path.parent}: expected to be the only writer of this run, found {owner}. "
            "Wait for it, end it, or give this run another directory.",
            path=self._path.parent,
        )


def _inode(file: Path | int) -> tuple[int, int]:
    """What tells one file from another; nothing has (0, 0)."""
    try:
        found = os.stat(file)  # noqa: PTH116 - of a path or of a descriptor
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _owner(fd: int) -> str:
    """Who holds the lock, as far as the file says."""
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        owner = f"process {said['pid']} on {said['host']} since {said['since']}"
        is_gone = said["host"] == os.uname().nodename and not _is_alive(int(said["pid"]))
    except (ValueError, KeyError, TypeError):
        return "another process"
    if is_gone:
        # Only a fork that Python did not see, or a process of another container.
        return f"{owner} (not seen here; one that it forked may hold the lock)"
    return owner


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _forget() -> None:
    """In a forked child: close the copies of what the parent holds."""
    for lock in list(_locks):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

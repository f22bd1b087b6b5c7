"""Saves in the background on a small disk that fills up: `full_disk.py DISK`.

The lack of room is seen before a save begins, and met at several points of one that has begun.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.scripts.foreseen import EVERY, Training, flaws

import rekindle as rk
from rekindle import writer

NEEDED = 400_000
"""Bytes that every save of this loop writes at least."""


class Ballast:
    """A file of somebody else on the same disk."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def fill(self, free: int) -> None:
        """Leave only so many bytes, or the few more that a file system takes for itself."""
        self.throw_off()
        status = os.statvfs(self._path.parent)
        size = status.f_bfree * status.f_frsize - free
        with self._path.open("wb") as file:
            while True:
                try:
                    return os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    size -= 16_384

    def throw_off(self) -> None:
        """Make room."""
        self._path.unlink(missing_ok=True)


def train_until_due(training: Training) -> None:
    """Up to the next call that saves."""
    while not training.run.is_due(training.progress.step):
        training.step()


def assert_whole(training: Training, newest: int) -> None:
    """All that was saved is as it was, and nothing else takes up room."""
    run = rk.Run(training.run.path)
    assert run.steps[-1] == newest, (run.steps, newest)
    assert rk.verify(run.path), rk.verify(run.path)
    assert flaws(run.latest().load(), newest) == []
    assert not [*run.path.rglob(".tmp-*")]


def fails(call: Any, said: str) -> None:
    """A call that must say that the disk is full, and once only."""
    with pytest.raises(rk.NoSpaceError, match=said) as raised:
        call()
    assert raised.value.errno == errno.ENOSPC


def main() -> None:
    """Fill the disk again and again, and see every time that nothing is lost."""
    disk = Path(sys.argv[1])
    ballast = Ballast(disk)
    training = Training(disk / "run", keep=rk.Keep(last=4))
    training.begin()
    run, commit = training.run, writer.commit
    free = 0

    def crowded(*arguments: Any, **options: Any) -> Any:
        ballast.fill(free)
        return commit(*arguments, **options)

    for _ in range(3 * EVERY):
        training.step()
        run.checkpoint()
    run.wait()
    newest = training.progress.step
    num_met = 0
    for free in (-1, *range(0, NEEDED, NEEDED // 6)):
        train_until_due(training)
        if free < 0:
            ballast.fill(0)
            fails(run.checkpoint, "expected room for")
        else:
            writer.commit = crowded
            assert run.checkpoint()
            training.step()
            run._commits._state.idle.wait(30)
            fails(run.checkpoint, "found that the disk is full")
            num_met += 1
        writer.commit = commit
        assert_whole(training, newest)
        for _ in range(2 * EVERY):
            training.step()
        ballast.throw_off()
        assert run.checkpoint()
        run.wait()
        newest = training.progress.step
        assert_whole(training, newest)
        assert run.entries()[-1]["linked_bytes"] > 10 * NEEDED
    run.close()
    again = Training(run.path)
    again.begin()
    assert flaws(again.state, newest) == []
    again.run.close()
    print(f"met while writing: {num_met}")


if __name__ == "__main__":
    main()

"""A program that saves and is cut short at its n-th write point, each time in a child of its own.

A write point is a call that changes the disk; one that writes bytes is two, before it and half-way
through it. Orders come as lines of JSON on the standard input, answers go to the standard output.
It runs as a process of its own because a child must be forked before any thread exists.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rekindle as rk
from rekindle import files

LARGE = 5 << 20
"""Bytes of the large array: it takes the path of direct writes from a second thread."""
REMOVALS = ("unlink", "rmdir")
CALLS = (
    "open", "mkdir", "write", "pwrite", "writev", "pwritev", "link", "symlink", "truncate",
    "ftruncate", "fsync", "fdatasync", "rename", "replace", *REMOVALS,
)  # fmt: skip


class Interruption:
    """Counts the calls that change the disk, and ends the n-th: by SIGKILL, or by an error."""

    def __init__(self, point: int, how: str) -> None:
        self.calls: list[str] = []
        self._point = point
        self._how = how
        self._guard = threading.Lock()

    def install(self) -> None:
        """Stand in for the calls of `os`, and for the one that Python's `os` lacks."""
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        exchange = self._watched("renameat2", files._rename_with_flags)
        files._rename_with_flags = exchange
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
            self._reach("io.open")

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return call(*arguments, **options)
            self._reach(name)
            if name in ("write", "pwrite"):
                file, data, *offset = arguments
                # Direct writes take whole blocks only.
                half = len(data) // 2 if len(data) % 4096 else len(data) // 8192 * 4096
                self._reach(f"half a {name}", lambda: call(file, data[:half], *offset))
            return call(*arguments, **options)

        return watched

    def _reach(self, name: str, begin: Callable[[], Any] | None = None) -> None:
        if self._how == "error" and name in REMOVALS:
            return  # What is full can still be emptied.
        with self._guard:
            self.calls.append(name)
            if len(self.calls) != self._point:
                return
            if begin is not None:
                begin()
            if self._how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"at {name}")


def state(value: int) -> dict[str, Any]:
    """Components to save: a large and a small array, and a document that never changes."""
    progress = rk.Progress()
    progress.step = value
    return {
        "policy": {"weights": np.full(LARGE // 8 + 5, float(value))},
        "optimizer": {"moments": np.arange(6, dtype=np.float32) * value},
        "agent": {"name": "the same in every checkpoint"},
        "progress": progress,
    }


def save_in_run(path: Path, value: int, **options: Any) -> Callable[[], object]:
    """Go on with a run, or begin it, and save one more step."""
    run = rk.Run(path, configuration={"seed": 3}, **options)
    is_resumed = False

    def save() -> None:
        nonlocal is_resumed
        if not is_resumed:
            live = state(0)
            run.track(**live)
            run.resume()
            live["policy"]["weights"][:] = float(value)
            live["optimizer"]["moments"][:] = np.arange(6) * value
            live["progress"].step = value
            is_resumed = True
        run.save()

    return save


def save_and_keep_one(path: Path, value: int) -> Callable[[], object]:
    """Likewise, and delete the checkpoint before it."""
    return save_in_run(path, value, keep=rk.Keep(last=1))


def save_over(path: Path, value: int) -> Callable[[], object]:
    """Replace the checkpoint at a path, or make the first."""
    return lambda: rk.save(path, overwrite=True, **state(value))


def save_beside(path: Path, value: int) -> Callable[[], object]:
    """Make a new checkpoint in a directory that does not exist yet."""
    return lambda: rk.save(path.parent / f"new {value}" / path.name, **state(value))


def pack_over(path: Path, value: int) -> Callable[[], object]:
    """Replace the checkpoint at a path by another that is packed, or unpacked, into it."""
    is_archive = path.suffix == ".zip"
    source = path.with_name("source" if is_archive else "source.zip")
    rk.save(source, overwrite=True, **state(value))
    copy = rk.pack if is_archive else rk.unpack
    return lambda: copy(source, path, overwrite=True)


def attempt(order: dict[str, Any]) -> dict[str, Any]:
    """Save under an interruption, and again without if that ended in an error."""
    interruption = Interruption(order["point"], order["how"])
    path = Path(order["path"])
    save = globals()[order["what"]](path, order["value"])
    interruption.install()
    answer: dict[str, Any] = {"error": None, "left": []}
    try:
        save()
    except OSError as error:
        answer["error"] = str(error)
        answer["left"] = [str(found) for found in path.parent.rglob(".tmp-*")]
        with contextlib.suppress(rk.NotFoundError):
            answer["after the error"] = bool(rk.verify(order.get("earlier", path)))
        save()
    return answer | {"calls": interruption.calls}


def fill(path: Path) -> dict[str, Any]:
    """Save in a run until the disk is full; make room, save once more, and resume."""
    live = state(0)
    run = rk.Run(path)
    run.track(**live)
    run.resume()
    answer: dict[str, Any] = {}
    while "error" not in answer:
        live["progress"].step += 1
        live["policy"]["weights"] += 1.0
        try:
            run.save()
        except OSError as error:
            answer["error"] = error.errno
    answer["left"] = [str(found) for found in path.rglob(".tmp-*")]
    answer["intact"] = bool(rk.verify(path))
    answer["steps"] = run.steps
    shutil.rmtree(path / f"step_{run.steps[0]:09d}")
    run.save()
    run.close()
    again = state(0)
    run = rk.Run(path)
    run.track(**again)
    run.resume()
    same = np.array_equal(again["policy"]["weights"], live["policy"]["weights"])
    return answer | {"resumed": again["progress"].step, "same": same}


def main() -> None:
    """Answer one order after the other; or fill the disk of the directory that is given."""
    if len(sys.argv) > 1:
        print(json.dumps(fill(Path(sys.argv[1]))))
        return
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            # A traceback goes to the standard error; the answer is then missing.
            os.close(reading)
            with os.fdopen(writing, "w") as answer:
                json.dump(attempt(json.loads(line)), answer)
                answer.flush()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        print(text or json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()

"""Opens files with Rekindle under an audit hook, each in a process of its own with little memory.

`python -m tests.hostile.watched DIRECTORY NAME ...` prints, as JSON, what came of each.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import os
import pathlib
import resource
import signal
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - what the reader takes from it is loaded before the hook
import numpy as np

from rekindle import paths, registry, spans, zips
from rekindle.errors import RekindleError
from rekindle.foreign import ForeignCheckpoint
from rekindle.formats import (  # noqa: F401 - `inert` is loaded before the hook
    inert,
    recognition,
    schedules,
    torch_files,
    wrappers,
)
from rekindle.limits import Budget
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded, RecordedClass, RecordedFunction
from rekindle.pickles.torch_values import Storage
from rekindle.state import Record, Reference
from rekindle.tensors import Tensors

MAX_BYTES = 16 << 20
"""What each read may take."""
_ROOM_BYTES = 1 << 30
"""Address space beside what the process has: maps of files count, and are as large as the file."""
_SECONDS = 20
_BATCH = 30
_QUIET = frozenset(("builtins.id", "mmap.__new__", "sys._getframe"))
"""Events of the audit hook that read nothing and run nothing."""
_KNOWN = {
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
    range, slice, type(Ellipsis), type(NotImplemented),
    collections.OrderedDict, collections.Counter, collections.defaultdict, collections.deque,
    datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone,
    pathlib.PurePosixPath, pathlib.PureWindowsPath, uuid.UUID, np.ndarray,
    Record, Recorded, RecordedClass, RecordedFunction, Reference, Storage,
    schedules.Constant, schedules.Linear,
}  # fmt: skip
"""Every type that the reader may give back, but for numpy's scalars and dtypes."""


def _torch_file(path: Path) -> Any:
    budget = Budget(MAX_BYTES, str(path))
    return torch_files.read(wrappers.of_file(path, budget), budget).value


def _torch_pickle(path: Path) -> Any:
    budget = Budget(MAX_BYTES, str(path))
    span = wrappers.of_file(path, budget)
    return torch_files.read_pickle(span, budget, tensors=Tensors()).value


def _members(path: Path) -> Any:
    span = spans.of_file(path)
    archive = zips.Zip(span, Budget(MAX_BYTES, str(path)))
    return [len(archive.span(name)) for name in archive]


def _recognised(path: Path) -> Any:
    return dict(recognition.recognise(path).read(path, max_bytes=MAX_BYTES).components)


def _opened(path: Path) -> Any:
    """What `rekindle.open` gives, used in every way in which its commands use it."""
    reading = recognition.recognise(path).read(path, max_bytes=MAX_BYTES)
    opened = ForeignCheckpoint(path, reading)
    repr(opened)
    json.dumps(opened.info)
    for name in opened:
        opened.arrays(name)
        json.dumps([paths.as_json(record) for record in opened.records(name).values()])
        json.dumps(paths.as_json(paths.values(opened.components[name])))
    return opened.load()


def _as(name: str) -> Callable[[Path], Any]:
    return lambda path: dict(recognition.named(name).read(path, max_bytes=MAX_BYTES).components)


READERS: dict[str, Callable[[Path], Any]] = {
    "recognised": _recognised,
    "opened": _opened,
    "pickle": lambda path: reading.read_file(path, max_bytes=MAX_BYTES).value,
    "pickle with tensors": _torch_pickle,
    "torch": _torch_file,
    "zip": _members,
    **{name: _as(name) for name in registry.FORMATS},
}
"""Every way into a file."""
_FEW = ("recognised", "pickle", "torch", "zip")


def strangers(value: Any) -> Iterator[str]:
    """Types in a result that should not be there."""
    met: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, (np.generic, np.dtype)) or id(item) in met:
            continue
        met.add(id(item))
        if type(item) not in _KNOWN:
            yield f"{type(item).__module__}.{type(item).__qualname__}"
        if isinstance(item, (dict, Record)):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset, collections.deque)):
            pending.extend(item)
        elif isinstance(item, np.ndarray) and item.dtype.hasobject:
            pending.extend(item.reshape(-1))
        if isinstance(item, Recorded):
            pending += [item.arguments, item.keywords, item.state, item.pairs, item.elements]


def _use(value: Any) -> None:
    """Do with a result what our own commands do: show it in brief, and touch its arrays."""
    repr(Record("result", {"value": value}))
    if isinstance(value, dict):
        for part in value.values():
            if isinstance(part, np.ndarray) and part.nbytes < MAX_BYTES:
                part.tobytes()


class _Watch:
    """In a child: reads in every way, and notes whatever happens beside reading."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._events: set[str] = set()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._path is None or event in _QUIET:
            return
        known = (self._path, str(self._path))
        if event == "open" and arguments[0] in known and arguments[1] in ("r", "rb"):
            return
        self._events.add(f"{event} {str(arguments)[:80]}")

    def watch(self, path: Path) -> dict[str, Any]:
        """What came of reading one file: outcomes, events, seconds and memory."""
        self._events = set()
        before = resource.getrusage(resource.RUSAGE_SELF)
        # Every way reads a bomb by the same machine; these few differ in what is around it.
        titles = _FEW if path.name.startswith("bomb") else READERS
        outcomes = {title: self._outcome(READERS[title], path) for title in titles}
        after = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "outcomes": outcomes,
            "events": sorted(self._events),
            "seconds": round(after.ru_utime - before.ru_utime, 3),
            "megabytes": (after.ru_maxrss - before.ru_maxrss) >> 10,
        }

    def _outcome(self, read: Callable[[Path], Any], path: Path) -> str:
        self._path = path
        try:
            value = read(path)
            _use(value)
        except RekindleError as error:
            return error.code
        except BaseException:  # noqa: BLE001 - any other exception is what the test looks for
            self._path = None
            return "crash: " + traceback.format_exc()[-600:]
        finally:
            self._path = None
        strange = sorted(set(strangers(value)))
        return f"strange: {strange}" if strange else "value"


def _limit(seconds: int = _SECONDS) -> None:
    """Give this process little more memory than it has, and little time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM_BYTES, used + _ROOM_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watch(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """What came of reading some files, one after the other in one child, by name.

    Where the child dies, each is read again in a child of its own, so that the guilty one is named.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            _limit()
            watcher = _Watch()
            with os.fdopen(writer, "w") as pipe:
                json.dump({path.name: watcher.watch(path) for path in paths}, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return json.loads(text)
    if len(paths) > 1:
        return {name: found for path in paths for name, found in watch([path]).items()}
    died = os.WIFSIGNALED(status)
    cause = signal.Signals(os.WTERMSIG(status)).name if died else f"exit status {status >> 8}"
    return {paths[0].name: {"outcomes": {"all": f"crash: {cause}"}, "events": [], "seconds": 0,
                            "megabytes": 0}}  # fmt: skip


def warm(directory: Path) -> None:
    """Read a file of each kind once: what is loaded on first use is loaded before the hook."""
    for path in sorted(directory.iterdir()):
        for read in READERS.values():
            with contextlib.suppress(RekindleError):
                _use(read(path))


def main(directory: str, *named: str) -> None:
    """Watch every named case."""
    warm(Path(directory) / "warm")
    loaded = {"torch", "cloudpickle", "pickletools", "stable_baselines3"} & set(sys.modules)
    assert not loaded, loaded
    paths = [Path(directory).resolve() / name for name in named]
    # What takes memory is measured by itself.
    alone = [path for path in paths if path.name.startswith("bomb")]
    others = [path for path in paths if path not in alone]
    batches = [[path] for path in alone]
    batches += [others[begin : begin + _BATCH] for begin in range(0, len(others), _BATCH)]
    found: dict[str, dict[str, Any]] = {}
    for batch in batches:
        found |= watch(batch)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

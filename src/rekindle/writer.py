"""Writing a checkpoint: captured whole, then committed, at once or in the background.

A draft holds everything that will be written and shares nothing that training changes once it has
been detached. A commit makes a new directory that appears whole (`rekindle.files`).
"""

from __future__ import annotations

import datetime
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from rekindle import files, manifest, provenance, spaces
from rekindle.codecs import arrays
from rekindle.errors import UnsupportedError
from rekindle.graph import Captured, Walk
from rekindle.manifest import ComponentRecord, FileEntry, Manifest


class Earlier(Protocol):
    """The checkpoint before, whose unchanged files are linked."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Draft:
    """One checkpoint that is captured and not yet written."""

    destination: Path
    captured: Captured
    manifest: Manifest
    """Complete but for components and files."""
    parent: Earlier | None = None

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        parts = self.captured.arrays.values()
        return sum(stored.raw.nbytes for part in parts for stored in part.values())


def draft(
    destination: Path,
    components: Mapping[str, Any],
    *,
    step: int | None = None,
    counters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    exclude: Sequence[str] = (),
    kind: str = "checkpoint",
    parent: Earlier | None = None,
    elapsed_seconds: float | None = None,
) -> Draft:
    """Capture live objects; nothing is written yet, and arrays still share their memory.

    Raises:
        UnsupportedError: Values that cannot be data; the message lists each with its path.
    """
    if not components:
        raise UnsupportedError(
            f"{destination}: expected components to save, found none. "
            "Pass them by name: save(path, policy=policy)."
        )
    manifest.check_components(components)
    captured = Walk(exclude).capture(components)
    counted = _counters(components)
    now = counted.pop("step", 0) if step is None else step
    counted = {key: value for key, value in counted.items() if key != "step"} | dict(counters or {})
    partial = Manifest(
        kind=kind,
        step=now,
        counters=manifest.check_metrics(counted, "counters"),
        metrics=manifest.check_metrics(dict(metrics or {}), "metrics"),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        elapsed_seconds=elapsed_seconds,
        parent=None if parent is None else parent.path.name,
        spaces=_spaces(components),
        environment=provenance.environment(),
        excluded=captured.excluded,
        notes=captured.notes,
    )
    return Draft(destination, captured, partial, parent)


def commit(plan: Draft, *, overwrite: bool = False) -> Manifest:
    """Write a draft as a new directory, durable when this returns.

    Files whose bytes are those of the parent are hard links to them.
    """
    parent = plan.destination.parent
    files.make_parents(parent)
    files.sweep(parent, plan.destination.name)
    with files.new_directory(plan.destination, overwrite=overwrite) as directory:
        return _write_files(directory, plan.captured, plan.manifest, plan.parent)


class Background:
    """Commits in a thread of its own, one at a time.

    The caller is held up only while the arrays are copied into memory that is used again for every
    save. A commit that fails is raised by the next call. The interpreter does not end before a
    commit under way does.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._state = _State()
        self._end: weakref.finalize[..., Background] | None = None
        self._memory = np.empty(0, np.uint8)

    def submit(
        self, plan: Draft, then: Callable[[Draft, Manifest], None], *, overwrite: bool
    ) -> None:
        """Detach a draft from the live objects and commit it; `then` runs after it is durable."""
        self.wait()
        self._detach(plan)
        state = self._state

        def work() -> None:
            try:
                then(plan, commit(plan, overwrite=overwrite))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                state.failure = error
            finally:
                state.idle.set()

        self._start()
        state.idle.clear()
        self._jobs.put(work)

    def _start(self) -> None:
        """Start the thread once: starting one for each save would hand it the interpreter."""
        if self._end is None or not self._end.alive:
            thread = threading.Thread(
                target=_serve, args=(self._jobs,), name="rekindle-commit", daemon=True
            )
            thread.start()
            # Also when the interpreter ends, or nobody holds this object any more.
            self._end = weakref.finalize(self, _finish, self._jobs, self._state)

    def wait(self) -> None:
        """Wait for the commit under way; raise what went wrong with it."""
        self._state.settle()

    def close(self) -> None:
        """Wait, and end the thread; the next `submit` starts another."""
        if self._end is not None:
            self._end()
        self.wait()

    def _detach(self, plan: Draft) -> None:
        """Copy every array into the staging memory."""
        parts = [s for part in plan.captured.arrays.values() for s in part.values()]
        sizes = [-(-stored.raw.nbytes // _ALIGNMENT) * _ALIGNMENT for stored in parts]
        if sum(sizes) > self._memory.size:
            self._memory = np.empty(sum(sizes), np.uint8)
        offset = 0
        for stored, size in zip(parts, sizes, strict=True):
            raw = stored.raw
            room = self._memory[offset : offset + raw.nbytes].view(raw.dtype).reshape(raw.shape)
            np.copyto(room, raw)
            stored.raw = room
            offset += size


class _State:
    """Whether a commit is under way, and what went wrong with the last one."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self.failure: BaseException | None = None

    def settle(self) -> None:
        self.idle.wait()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


def _finish(jobs: queue.SimpleQueue[Callable[[], None] | None], state: _State) -> None:
    jobs.put(None)
    state.settle()


def _serve(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    job = jobs.get()
    while job is not None:
        job()
        del job  # it holds the run, which must be free to go while this thread waits
        job = jobs.get()


_ALIGNMENT = 64


def _write_files(
    directory: Path, captured: Captured, partial: Manifest, parent: Earlier | None
) -> Manifest:
    """Write every file of a checkpoint, the manifest last."""
    entries: dict[str, FileEntry] = {}
    records: dict[str, ComponentRecord] = {}
    for component, document in captured.documents.items():
        held: list[str] = []
        if captured.arrays[component]:
            name = f"{component}.safetensors"
            found = arrays.write(directory / name, captured.arrays[component])
            entries[name] = FileEntry(bytes=found.bytes, blake3=found.blake3)
            held.append(name)
        name = f"{component}.json"
        text = msgspec.json.encode(document)
        entry = FileEntry(bytes=len(text), blake3=files.digest(text))
        if parent is not None and parent.manifest.files.get(name) == entry:
            files.link_or_copy(parent.path / name, directory / name)
        else:
            files.write_bytes(directory / name, text)
        entries[name] = entry
        records[component] = ComponentRecord(
            adapter=captured.adapters[component], document=name, arrays=held
        )
    record = msgspec.structs.replace(partial, components=records, files=entries)
    files.write_bytes(directory / manifest.NAME, manifest.encode(record))
    return record


def _counters(components: Mapping[str, Any]) -> dict[str, Any]:
    progress = components.get("progress")
    found = {}
    for name in ("step", "updates", "episodes"):
        value = progress.get(name) if isinstance(progress, dict) else getattr(progress, name, None)
        if isinstance(value, int):
            found[name] = value
    return found


def _spaces(components: Mapping[str, Any]) -> dict[str, Any]:
    """Observation and action spaces, of the first component that has both."""
    for name in ("env", "agent", "policy", *components):
        holder = components.get(name)
        found = [getattr(holder, f"{kind}_space", None) for kind in ("observation", "action")]
        if all(hasattr(space, "sample") for space in found):
            described = [spaces.describe(space) for space in found]
            return dict(zip(("observation", "action"), described, strict=True))
    return {}

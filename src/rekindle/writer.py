"""Writing a checkpoint: captured whole, then committed, at once or in the background.

A draft holds everything that will be written and shares nothing that training changes once it has
been detached. A commit makes a new directory that appears whole (`rekindle.files`).
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rekindle import files, manifest, places, provenance, spaces
from rekindle.codecs import arrays
from rekindle.errors import UnsupportedError
from rekindle.graph import Captured, Walk
from rekindle.manifest import ComponentRecord, FileEntry, Manifest, RowsRecord
from rekindle.rowgroups import LEAST_BYTES, Group, Known, OverwrittenError
from rekindle.tensors import Tensors


@dataclass(frozen=True)
class Saved:
    """A checkpoint on the disk, and by what the next save knows which of its files to link."""

    path: Path
    manifest: Manifest
    known: Mapping[str, Known] = field(default_factory=dict)
    """What it holds of ring buffers."""
    prints: Mapping[str, bytes] = field(default_factory=dict)
    """Some of what its array files hold, by name: another print is another file."""


class Stopwatch:
    """What a save takes: of the caller's time, and until it is durable."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.stall_seconds: float | None = None

    def let_go(self) -> None:
        """The caller goes on now."""
        self.stall_seconds = self.seconds()

    def seconds(self) -> float:
        """Since the save began."""
        return time.perf_counter() - self._began


@dataclass(frozen=True)
class Draft:
    """One checkpoint that is captured and not yet written."""

    destination: Path
    captured: Captured
    manifest: Manifest
    """Complete but for components and files."""
    parent: Saved | None = None
    groups: list[Group] = field(default_factory=list)
    """Arrays whose rows are stored by themselves."""
    watch: Stopwatch = field(default_factory=lambda: Stopwatch())
    images: dict[str, arrays.Image] = field(default_factory=dict)
    """The files of arrays, by component, once it is detached."""

    @property
    def num_bytes(self) -> int:
        """Size of all arrays that may have to be written."""
        whole = sum(stored.raw.nbytes for stored in self.stored())
        return whole + sum(group.num_bytes for group in self.groups)

    def stored(self) -> Iterator[arrays.Stored]:
        """Arrays that are written whole."""
        for component in self.captured.arrays:
            yield from self.whole(component).values()

    def whole(self, component: str) -> dict[str, arrays.Stored]:
        """Arrays of a component that are written whole, by name."""
        found = self.captured.arrays[component]
        apart = {
            name for group in self.groups if group.component == component for name in group.columns
        }
        return {name: held for name, held in found.items() if name not in apart} if apart else found


@dataclass(frozen=True)
class Commit:
    """What a checkpoint took that is on the disk now."""

    saved: Saved
    written_bytes: int
    """Size of the files that were written."""
    linked_bytes: int
    """Size of the files that are those of the checkpoint before."""
    stall_seconds: float
    """How long the caller was held up."""
    seconds: float
    """From the call until the checkpoint was on the disk."""


def draft(
    destination: Path,
    components: Mapping[str, Any],
    *,
    step: int | None = None,
    counters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    exclude: Sequence[str] = (),
    kind: str = "checkpoint",
    parent: Saved | None = None,
    elapsed_seconds: float | None = None,
    watch: Stopwatch | None = None,
    tensors: Tensors | None = None,
    omit: Callable[[Any], bool] | None = None,
    described: Mapping[str, Any] | None = None,
) -> Draft:
    """Capture live objects; nothing is written yet, and arrays still share their memory.

    `tensors` says which arrays were tensors, where components were read from a foreign file; `omit`
    which objects are left out wherever they stand; `described` are spaces that no component has.

    Raises:
        UnsupportedError: Values that cannot be data; the message lists each with its path.
    """
    if not components:
        raise UnsupportedError(
            f"{destination}: expected components to save, found none. "
            "Pass them by name: save(path, policy=policy)."
        )
    watch = watch or Stopwatch()
    manifest.check_components(components)
    captured = Walk(exclude, tensors, omit).capture(components)
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
        spaces=_spaces(components) | dict(described or {}),
        environment=provenance.environment(),
        excluded=captured.excluded,
        notes=captured.notes,
    )
    groups = _groups(captured, now, {} if parent is None else parent.known)
    return Draft(destination, captured, partial, parent, groups, watch)


def _groups(captured: Captured, step: int, known: Mapping[str, Known]) -> list[Group]:
    """Arrays of which enough is stored by rows."""
    sizes: dict[int, int] = {}
    for part in captured.rows:
        stored = captured.arrays[part.component]
        total = sum(stored[name].raw.nbytes for name in part.names)
        sizes[id(part.ring)] = sizes.get(id(part.ring), 0) + total
    found = []
    for part in captured.rows:
        columns = {name: captured.arrays[part.component][name] for name in sorted(part.names)}
        contiguous = all(stored.raw.flags.c_contiguous for stored in columns.values())
        if contiguous and sizes[id(part.ring)] >= LEAST_BYTES:
            options = {"is_changing": part.is_changing, "step": step, "known": known}
            found.append(Group(part.component, columns, part.ring, **options))
        else:
            _clear(columns.values(), part.ring.num_filled)
    return found


def _clear(columns: Iterable[arrays.Stored], num_filled: int) -> None:
    """Rows that nobody has filled are zero in a checkpoint, whatever memory they are."""
    for stored in columns:
        if stored.raw[num_filled:].any():
            stored.raw = stored.raw.copy()
            stored.raw[num_filled:] = 0


def remember(
    components: Mapping[str, Any], path: Path, record: Manifest, exclude: Sequence[str] = ()
) -> Saved:
    """A checkpoint of which everything was restored just now.

    Args:
        components: The live objects.
        path: Where the checkpoint is.
        record: Its manifest.
        exclude: Paths that a save leaves out.
    """
    captured = Walk(exclude).capture(components)
    found = {}
    for group in _groups(captured, record.step, {}):
        part = record.components.get(group.component)
        for rows in part.rows if part is not None else ():
            known = group.remember(rows)
            if known is not None:
                found[group.key] = known
    return Saved(path, record, found)


def commit(plan: Draft, *, overwrite: bool = False) -> Commit:
    """Write a draft as a new directory, or one file; durable when this returns.

    Files whose bytes are those of the parent are hard links to them.

    Raises:
        OverwrittenError: Training changed rows of a ring buffer before they were read.
    """
    parent = plan.destination.parent
    files.make_parents(parent)
    files.sweep(parent, plan.destination.name)
    size_bytes = plan.num_bytes if places.is_archive_name(plan.destination) else 0
    with places.new(plan.destination, size_bytes=size_bytes, overwrite=overwrite) as place:
        written = _Files(place, plan)
        record = written.write()
    seconds = plan.watch.seconds()
    stalled = plan.watch.stall_seconds
    known = {group.key: group.after for group in plan.groups if group.after is not None}
    return Commit(
        saved=Saved(plan.destination, record, known, written.prints),
        written_bytes=written.num_bytes - written.num_linked_bytes,
        linked_bytes=written.num_linked_bytes,
        stall_seconds=seconds if stalled is None else stalled,
        seconds=seconds,
    )


class Background:
    """Commits in a thread of its own, one at a time.

    The caller is held up only while small state is copied into memory that is used again for every
    save; rows of ring buffers are read from where they are. A commit that fails is raised by the
    next call. The interpreter does not end before a commit under way does.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._state = _State()
        self._end: weakref.finalize[..., Background] | None = None
        self._staging = _Staging()
        _backgrounds.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether a commit is under way."""
        return not self._state.idle.is_set()

    def submit(
        self,
        plan: Draft,
        then: Callable[[Draft, Commit], None],
        *,
        overwrite: bool,
        is_whole: bool = False,
    ) -> None:
        """Detach a draft from the live objects and commit it; `then` runs after it is durable.

        Args:
            plan: What to commit.
            then: Called in the other thread.
            overwrite: Whether to replace what is there.
            is_whole: Whether to copy every row that will be written, so that none can be lost.
        """
        self.wait()
        self._detach(plan, is_whole=is_whole)
        state = self._state

        def work() -> None:
            try:
                with files.giving_way() if _is_core_free(plan) else contextlib.nullcontext():
                    done = commit(plan, overwrite=overwrite)
                then(plan, done)
            except OverwrittenError as error:
                state.overwritten = error
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                state.failure = error
            finally:
                state.idle.set()

        self._start()
        state.idle.clear()
        plan.watch.let_go()
        self._jobs.put(work)

    @property
    def has_failed(self) -> bool:
        """Whether `wait` has something to raise."""
        return self._state.failure is not None

    @property
    def is_overwritten(self) -> bool:
        """Whether the last commit came to nothing because training was faster than it."""
        return self._state.idle.is_set() and self._state.overwritten is not None

    def take_overwritten(self) -> OverwrittenError | None:
        """Why the last commit came to nothing, if training was faster than it; told once."""
        found, self._state.overwritten = self._state.overwritten, None
        return found

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

    def forget(self) -> None:
        """In a forked child, where the thread is not: nothing is under way, nothing to wait for."""
        if self._end is not None:
            self._end.detach()
        self._jobs, self._state, self._end = queue.SimpleQueue(), _State(), None

    def _detach(self, plan: Draft, *, is_whole: bool) -> None:
        """Copy what training will change into the staging memory."""
        rows_bytes = sum(
            (high - low) * group.row_bytes + len(group.columns) * _ALIGNMENT
            for group in plan.groups
            for low, high in group.staged(is_whole=is_whole)
        )
        wholes = {component: plan.whole(component) for component in plan.captured.arrays}
        plan.images.update(self._staging.take(wholes, rows_bytes))
        for group in plan.groups:
            group.detach(self._staging.place, is_whole=is_whole)


def _is_core_free(plan: Draft) -> bool:
    """Whether the training is known to leave a processor to others.

    Where it does not, a worker that gave way could wait long while it holds the interpreter's lock.
    """
    threads = plan.manifest.environment.get("threads")
    return threads is not None and threads < files.num_processors()


_backgrounds: weakref.WeakSet[Background] = weakref.WeakSet()
"""All of this process."""


def _forget_all() -> None:
    for background in list(_backgrounds):
        background.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _Staging:
    """Memory that arrays are copied into, the same for every save."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._images: dict[str, tuple[int, arrays.Image]] = {}
        """Where each component's file is, as the save before had it: most often as this one."""
        self._offset = 0

    def take(
        self, components: Mapping[str, Mapping[str, arrays.Stored]], more_bytes: int
    ) -> dict[str, arrays.Image]:
        """Copy what components hold; what an earlier save left here is gone.

        Args:
            components: Arrays that will be written whole.
            more_bytes: Room for what `place` will copy.

        Returns:
            Their files, of those that have arrays.
        """
        sizes = {
            name: _aligned(sum(stored.raw.nbytes for stored in found.values()))
            for name, found in components.items()
        }
        num_bytes = sum(sizes.values()) + more_bytes
        if num_bytes > self._memory.size:
            self._memory, self._images = np.empty(num_bytes, np.uint8), {}
        before, self._images, self._offset = self._images, {}, 0
        for name, found in components.items():
            if not found:
                continue
            begin, image = before.get(name, (-1, None))
            if image is None or begin != self._offset or not image.fits(found):
                image = arrays.Image(found, self._memory[self._offset :])
            image.take(found)
            self._images[name] = self._offset, image
            self._offset += sizes[name]
        return {name: image for name, (_, image) in self._images.items()}

    def place(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy one array more."""
        part = self._memory[self._offset : self._offset + raw.nbytes]
        room = part.view(raw.dtype).reshape(raw.shape)
        np.copyto(room, raw)
        self._offset += _aligned(raw.nbytes)
        return room


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


class _State:
    """Whether a commit is under way, and what went wrong with the last one."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self.failure: BaseException | None = None
        self.overwritten: OverwrittenError | None = None

    def settle(self) -> None:
        self.idle.wait()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


def _finish(jobs: queue.SimpleQueue[Callable[[], None] | None], state: _State) -> None:
    jobs.put(None)
    state.settle()
    if state.overwritten is not None:  # at the end of a program, where no call follows to tell it
        raise state.overwritten


def _serve(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    job = jobs.get()
    while job is not None:
        job()
        del job  # it holds the run, which must be free to go while this thread waits
        job = jobs.get()


_ALIGNMENT = 64


class _Files:
    """The files of one checkpoint that is being written into a place."""

    def __init__(self, place: places.NewPlace, plan: Draft) -> None:
        self._place = place
        self._plan = plan
        self._parent = plan.parent
        self._entries: dict[str, FileEntry] = {}
        self._numbers: dict[str, Iterator[int]] = {}
        self._linked: dict[str, int] = {}
        self.prints: dict[str, bytes] = {}
        self.num_bytes = 0
        """Size of all files, the manifest's included."""

    @property
    def num_linked_bytes(self) -> int:
        """Size of the files that are hard links."""
        return sum(self._linked.values())

    def write(self) -> Manifest:
        """Write every file, the manifest last."""
        captured = self._plan.captured
        rows: dict[str, list[RowsRecord]] = {}
        components = {}
        try:
            for group in self._plan.groups:
                group.begin(self)
            for component, document in captured.documents.items():
                written = self._document(component, document), self._arrays(component)
                components[component] = written
            for group in self._plan.groups:
                rows.setdefault(group.component, []).append(group.finish())
        finally:
            for group in self._plan.groups:
                group.stop()
        records = {
            component: ComponentRecord(
                adapter=captured.adapters[component],
                document=document,
                arrays=names,
                rows=rows.get(component, []),
            )
            for component, (document, names) in components.items()
        }
        record = msgspec.structs.replace(
            self._plan.manifest,
            requires=_required(rows),
            components=records,
            files=self._listed(),
        )
        text = manifest.encode(record)
        self._place.write(manifest.NAME, text)
        self.num_bytes = record.num_bytes + len(text)
        return record

    def _listed(self) -> dict[str, FileEntry]:
        """All files: rows by name, whichever thread was first, then those of each component."""
        rows = sorted(name for name in self._entries if "/" in name)
        return {name: self._entries[name] for name in dict.fromkeys([*rows, *self._entries])}

    def _document(self, component: str, document: Any) -> str:
        name = f"{component}.json"
        text = msgspec.json.encode(document)
        entry = FileEntry(bytes=len(text), blake3=files.digest(text))
        is_same = self._parent is not None and self._parent.manifest.files.get(name) == entry
        if is_same and self._link_if_there(name):
            return name
        self._place.write(name, text)
        self._entries[name] = entry
        return name

    def _arrays(self, component: str) -> list[str]:
        stored = self._plan.whole(component)
        if not stored:
            return []
        name = f"{component}.safetensors"
        self.prints[name] = _print(stored)
        image = self._plan.images.get(component)
        if not (self._is_unchanged(name, stored, image) and self._link_if_there(name)):
            target = self._place.target(name)
            self.add(name, image.write(target) if image else arrays.write(target, stored))
        return [name]

    def _is_unchanged(
        self, name: str, stored: Mapping[str, arrays.Stored], image: arrays.Image | None
    ) -> bool:
        """Whether the checkpoint before has a file of the same bytes."""
        if self._parent is None or self._parent.prints.get(name) != self.prints[name]:
            return False
        found = image.record() if image else arrays.record(stored)
        entry = FileEntry(bytes=found.bytes, blake3=found.blake3)
        return self._parent.manifest.files.get(name) == entry

    def _link_if_there(self, name: str) -> bool:
        """Link a file of the checkpoint before; false when that was removed meanwhile."""
        try:
            self.link(name)
        except FileNotFoundError:
            return False
        return True

    # What a group of rows asks for.

    def link(self, name: str) -> None:
        """Give the checkpoint a file of the one before; see `rowgroups.Target`."""
        if name in self._entries:
            return
        assert self._parent is not None
        is_free = self._place.link(f"{self._parent.path}/{name}", name)
        entry = self._entries[name] = self._parent.manifest.files[name]
        if is_free:
            self._linked[name] = entry.bytes

    def reserve(self, component: str) -> tuple[str, files.Target]:
        """A new segment's name, and where it goes; see `rowgroups.Target`."""
        if component not in self._numbers:
            earlier = {} if self._parent is None else self._parent.manifest.files
            used = [_segment_number(name, component) for name in earlier]
            self._numbers[component] = itertools.count(max(used, default=-1) + 1)
        name = f"{component}/rows.{next(self._numbers[component]):06d}.safetensors"
        return name, self._place.target(name)

    def add(self, name: str, record: files.FileRecord) -> None:
        """Note a new file; see `rowgroups.Target`."""
        self._entries[name] = FileEntry(bytes=record.bytes, blake3=record.blake3)


def _print(stored: Mapping[str, arrays.Stored]) -> bytes:
    """A little of what arrays hold, cheap to take: training changes some of it at once."""
    every = list(stored.values())
    chosen = every[:: max(1, len(every) // _PRINTED)]
    parts = [held.raw.reshape(-1)[:8].tobytes() for held in chosen if held.raw.flags.c_contiguous]
    return b"".join([len(every).to_bytes(8, "little"), *parts])


_PRINTED = 64
"""How many arrays of a file are in its print, about."""

_SEGMENT = re.compile(r"([^/]+)/rows\.(\d+)\.safetensors")


def _segment_number(name: str, component: str) -> int:
    found = _SEGMENT.fullmatch(name) if name.startswith(component) else None
    return int(found.group(2)) if found and found.group(1) == component else -1


def _required(rows: Mapping[str, list[RowsRecord]]) -> list[str]:
    """The features that a reader of these rows must know."""
    every = [record for records in rows.values() for record in records]
    codecs = {c for record in every for item in record.segments for c in item.codecs.values()}
    return ["segments", *sorted(codecs)] if every else []


def _counters(components: Mapping[str, Any]) -> dict[str, Any]:
    progress = components.get("progress")
    found = {}
    for name in ("step", "updates", "episodes", "epochs"):
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

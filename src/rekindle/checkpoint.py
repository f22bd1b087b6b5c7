"""A checkpoint of our own format: save, open, load, restore, verify.

A save captures everything first, then writes a new directory that appears whole. Opening reads the
manifest only; a component's bytes are read, and checked against their digests, when it is used.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rekindle import files, manifest, provenance, spaces
from rekindle.codecs import arrays, values
from rekindle.compare import Comparison, compare
from rekindle.errors import (
    DamagedError,
    Difference,
    FormatError,
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    RekindleError,
    UnsupportedError,
    listing,
)
from rekindle.files import PathLike
from rekindle.graph import Captured, Walk
from rekindle.manifest import ComponentRecord, FileEntry, Manifest
from rekindle.match import Match
from rekindle.registry import load as load_name
from rekindle.report import Restored, RestoreReport, Shown, VerifyReport, columns, num_bytes, plural
from rekindle.state import Document, Plain

_CONVERTERS = {
    "torch": "rekindle.adapters.torch_values:convert",
    "jax": "rekindle.adapters.jax_values:convert",
}
_MALFORMED = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip


class Checkpoint(Shown):
    """A checkpoint on disk; made by `rekindle.open` and returned by `rekindle.save`.

    Only the manifest has been read. `checkpoint["policy"]` gives a component as plain data over
    memory-mapped arrays, whose bytes are read when touched and not compared with their digests:
    `rekindle.load` and `rekindle.restore` do that, and `rekindle.verify`.
    """

    def __init__(self, path: Path, record: Manifest) -> None:
        self.path = path
        self.manifest = record

    @property
    def step(self) -> int:
        """Environment steps, summed over all environments."""
        return self.manifest.step

    @property
    def counters(self) -> dict[str, Any]:
        """Other counts: `updates`, `episodes` and what the caller added."""
        return {key: values.decode(value) for key, value in self.manifest.counters.items()}

    @property
    def metrics(self) -> dict[str, Any]:
        """Measurements at the time of the save, such as `return`."""
        return {key: values.decode(value) for key, value in self.manifest.metrics.items()}

    @property
    def components(self) -> dict[str, ComponentRecord]:
        """What it holds, by name."""
        return self.manifest.components

    @property
    def num_bytes(self) -> int:
        """Size of all its files."""
        return self.manifest.num_bytes

    @property
    def info(self) -> dict[str, Any]:
        """The manifest as plain data."""
        return msgspec.to_builtins(self.manifest)

    def __contains__(self, component: str) -> bool:
        return component in self.manifest.components

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.components)

    def __getitem__(self, component: str) -> Any:
        """One component as plain data over memory-mapped arrays."""
        return self.load([component], verify=False)[component]

    def arrays(self, component: str) -> dict[str, np.ndarray[Any, Any]]:
        """All arrays of one component by the names they have in its files, memory-mapped."""
        reader = Reader(self, verify=False)
        document = reader.document(component)
        plain = Plain(reader)
        names = sorted(document.arrays) or [f"{component}/{n}" for n in reader.names(component)]
        with _malformed(self.path):
            return {name.partition("/")[2]: plain.array(name) for name in names}

    def document(self, component: str) -> Any:
        """The JSON document of one component, as it is stored."""
        return Reader(self, verify=True).content(component)

    def load(
        self,
        components: Sequence[str] | None = None,
        to: str = "numpy",
        *,
        device: str | None = None,
        verify: bool = True,
    ) -> dict[str, Any]:
        """Components as plain data; see `rekindle.load`."""
        reader = Reader(self, verify=verify)
        chosen = [components] if isinstance(components, str) else components
        names = list(self.components if chosen is None else chosen)
        plain = Plain(reader, _converter(to, device), 1 if to == "numpy" else arrays.ALIGNMENT)
        with _malformed(self.path):
            return {name: plain.component(name) for name in names}

    def build(self, component: str, *, classes: Iterable[type] = ()) -> Any:
        """One component as the values that it was saved from, without live objects to fill.

        Only what is data comes back so: containers, arrays and tensors, and records of classes that
        the program has loaded.

        Raises:
            MismatchError: It holds objects that only live ones can receive.
        """
        match = Match(Reader(self, verify=True), {}, classes)
        with _malformed(self.path):
            value = match.build(component)
        if match.differences:
            raise MismatchError(
                f"{self.path}: {component} holds what cannot be built from data:\n"
                f"{listing(match.differences)}\nRestore it into live objects instead.",
                path=self.path,
                differences=match.differences,
            )
        match.apply()
        return match.settle(value)

    def into(self, component: str, like: Any) -> Any:
        """One component as a new value with the structure of another, which is not changed.

        For values that cannot be changed in place, such as Equinox modules, optax states and other
        pytrees: `model = rk.open(path).into("policy", model)`. Where they are held by something
        that can, such as attributes of `rk.Progress`, `rekindle.restore` of the holder does it.

        Args:
            component: Which one.
            like: A value as the program has just built it: classes, functions, static fields and
                devices are taken from it, and the shapes and types of its arrays must fit.

        Raises:
            MismatchError: It does not fit, or holds objects that can only be changed in place.
        """
        match = Match(Reader(self, verify=True), {}, is_apart=True)
        with _malformed(self.path):
            value = match.build(component, like)
        if match.differences:
            raise MismatchError(
                f"{self.path}: {component} does not fit the given value. "
                f"{plural(len(match.differences), 'difference')}:\n{listing(match.differences)}\n"
                "Build it as it was when it was saved.",
                path=self.path,
                key=match.differences[0].key,
                differences=match.differences,
            )
        match.apply()
        return match.settle(value)

    def restore(
        self,
        components: Mapping[str, Any],
        *,
        strict: bool = True,
        classes: Iterable[type] = (),
        keep: Iterable[str] = (),
    ) -> RestoreReport:
        """Put components into live objects; see `rekindle.restore`."""
        reader = Reader(self, verify=True)
        missing = tuple(name for name in components if name not in self)
        if missing and strict:
            raise NotFoundError(
                f"{self.path}: expected the component(s) {', '.join(missing)}, found "
                f"{', '.join(self.components) or 'none'}. Nothing was changed. "
                "Pass strict=False to restore the others.",
                path=self.path,
                key=missing[0],
            )
        asked = {name: components[name] for name in self.components if name in components}
        match = Match(reader, asked, classes, keep)
        with _malformed(self.path):
            match.run()
        if match.differences and strict:
            raise MismatchError(
                f"{self.path}: the checkpoint does not fit the live objects; nothing was changed. "
                f"{plural(len(match.differences), 'difference')}:\n{listing(match.differences)}\n"
                "Build the objects as they were when it was saved, or pass strict=False to restore "
                "what fits.",
                path=self.path,
                key=match.differences[0].key,
                differences=match.differences,
            )
        match.apply()
        return self._report(asked, missing, match)

    def compare(self, other: Checkpoint, *, ignore: Sequence[str] = ()) -> list[Comparison]:
        """Hold this checkpoint and another side by side, every value of every component.

        Args:
            other: The other one; differences call this one's values expected, and its found.
            ignore: Patterns of paths whose values may differ, such as wall-clock times.

        Returns:
            One comparison per component that either holds.
        """
        sides = Reader(self, verify=True), Reader(other, verify=True)
        found = []
        for name in dict.fromkeys((*self, *other)):
            if name in self and name in other:
                with _malformed(other.path):
                    found.append(compare(name, *sides, ignore=ignore))
            else:
                held = ["a component" if name in side else "nothing" for side in (self, other)]
                difference = Difference(name, held[0], held[1])
                found.append(Comparison(name, 0, float("inf"), [difference]))
        return found

    def _report(
        self, asked: Mapping[str, Any], missing: tuple[str, ...], match: Match
    ) -> RestoreReport:
        restored = []
        for name in asked:
            record = self.components[name]
            sizes = [self.manifest.files[part].bytes for part in (record.document, *record.arrays)]
            count = len(Reader(self, verify=False).names(name))
            restored.append(Restored(name, record.adapter, count, sum(sizes)))
        return RestoreReport(
            path=str(self.path),
            step=self.step,
            restored=tuple(restored),
            not_asked=tuple(name for name in self.components if name not in asked),
            missing=missing,
            differences=tuple(match.differences),
            excluded=tuple(self.manifest.excluded),
            notes=(*self.manifest.notes, *match.notes),
        )

    def _text(self) -> str:
        record = self.manifest
        head = [f"step {self.step:,}", record.created, num_bytes(self.num_bytes)]
        lines = [f"Checkpoint {self.path}", f"  {' · '.join(part for part in head if part)}"]
        rows = []
        for name, part in self.components.items():
            size = sum(record.files[file].bytes for file in (part.document, *part.arrays))
            rows.append((name, part.adapter, num_bytes(size)))
        if rows:
            lines.append(columns(rows, "    "))
        for title, content in (("metrics", self.metrics), ("counters", self.counters)):
            if content:
                pairs = ", ".join(f"{key}={_number(value)}" for key, value in content.items())
                lines.append(f"  {title}: {pairs}")
        return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if type(value) is int else str(value)


class _malformed:  # noqa: N801 - a context manager, used like a function
    """Turns the errors of a document that breaks its own rules into one that says so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _MALFORMED) and not isinstance(error, RekindleError):
            raise FormatError(
                f"{self._path}: expected a document of format version 1, found one that breaks its "
                f"rules ({type(error).__name__}: {error}).",
                path=self._path,
            ) from error


class Reader:
    """Documents and arrays of one checkpoint, each file opened once."""

    def __init__(self, checkpoint: Checkpoint, *, verify: bool) -> None:
        self._root = checkpoint.path
        self._manifest = checkpoint.manifest
        self._verify = verify
        self._documents: dict[str, Document] = {}
        self._files: dict[str, arrays.ArrayFile] = {}

    def _record(self, component: str) -> ComponentRecord:
        try:
            return self._manifest.components[component]
        except KeyError:
            held = ", ".join(self._manifest.components) or "none"
            raise NotFoundError(
                f"{self._root}: expected a component {component!r}, found {held}.",
                path=self._root,
                key=component,
            ) from None

    def content(self, component: str) -> Any:
        """The JSON of a component's document, checked against its digest."""
        name = self._record(component).document
        entry = self._manifest.files[name]
        path = self._path(name, entry)
        text = path.read_bytes()
        self._check(name, entry, files.FileRecord(len(text), files.digest(text)))
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FormatError(f"{path}: expected JSON ({error}).", path=path) from error

    def document(self, component: str) -> Document:
        """The document of one component."""
        if component not in self._documents:
            self._documents[component] = Document(component, self.content(component))
        return self._documents[component]

    def array(self, name: str) -> arrays.Stored:
        """One stored array by its full name."""
        component, _, short = name.partition("/")
        for file in self._array_files(component):
            if short in file:
                return file[short]
        raise FormatError(
            f"{self._root}: expected an array {name}, found none of this name. "
            "The document is malformed.",
            path=self._root,
            key=name,
        )

    def names(self, component: str) -> list[str]:
        """Names of a component's stored arrays."""
        return [name for file in self._array_files(component) for name in file.entries]

    def _array_files(self, component: str) -> list[arrays.ArrayFile]:
        found = []
        for name in self._record(component).arrays:
            if name not in self._files:
                entry = self._manifest.files[name]
                path = self._path(name, entry)
                if self._verify:
                    self._check(name, entry, files.digest_file(path))
                elif path.stat().st_size != entry.bytes:
                    self._check(name, entry, files.FileRecord(path.stat().st_size, ""))
                self._files[name] = arrays.ArrayFile(path)
            found.append(self._files[name])
        return found

    def _path(self, name: str, entry: FileEntry) -> Path:
        try:
            return files.open_inside(self._root, name)
        except NotFoundError:
            difference = Difference(name, f"{entry.bytes} bytes", "no file")
            raise self._damaged(name, difference) from None

    def _check(self, name: str, entry: FileEntry, found: files.FileRecord) -> None:
        if found.bytes != entry.bytes:
            difference = Difference(name, f"{entry.bytes} bytes", f"{found.bytes} bytes")
        elif found.blake3 != entry.blake3:
            difference = Difference(name, f"blake3 {entry.blake3}", f"blake3 {found.blake3}")
        else:
            return
        raise self._damaged(name, difference)

    def _damaged(self, name: str, difference: Difference) -> DamagedError:
        return DamagedError(
            f"{self._root}: {difference}. The file is damaged and was not used; other components "
            "still load, and `rekindle verify` lists what is intact.",
            path=self._root / name,
            key=name,
            differences=[difference],
        )


def _converter(to: str, device: str | None) -> Callable[[Any, dict[str, Any]], Any] | None:
    if to == "numpy":
        if device is not None:
            raise UnsupportedError(
                f"to='numpy', device={device!r}: numpy arrays live in main memory. "
                "Leave out device, or ask for to='torch' or to='jax'."
            )
        return None
    if to not in _CONVERTERS:
        known = ", ".join(("numpy", *_CONVERTERS))
        raise UnsupportedError(f"to={to!r}: expected one of {known}.", key="to")
    try:
        convert = load_name(_CONVERTERS[to])
    except ImportError as error:
        raise MissingDependencyError(
            f"to={to!r}: expected {to} to be installed, found that it is not. "
            f"Install it with `pip install rekindle[{to}]`.",
            key="to",
        ) from error
    return lambda array, node: convert(array, node, device)


# --------------------------------------------------------------------------- public functions


def save(
    path: PathLike,
    *,
    step: int | None = None,
    counters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    exclude: Sequence[str] = (),
    **components: Any,
) -> Checkpoint:
    """Save live objects or plain data as one checkpoint, all of it or nothing.

    Everything is captured in one walk, so what two components share is stored once and comes back
    shared. A value that cannot be data is refused before any file is written.

    Args:
        path: The directory to make; its parents are made as needed.
        step: Environment steps so far; taken from a `progress` component when left out.
        counters: Other counts, such as `updates` and `episodes`; likewise.
        metrics: Measurements to keep beside it, such as `{"return": -151.2}`.
        overwrite: Replace an existing checkpoint, in one step.
        exclude: Paths to leave out, such as `"policy.writer"`; `*` matches anything.
        **components: What to save, by name.

    Returns:
        The checkpoint as it is on disk.

    Raises:
        AlreadyExistsError: Something is at `path` and `overwrite` is false.
        UnsupportedError: Values that cannot be data; the message lists each with its path.
    """
    destination = Path(path)
    if overwrite:
        _check_replaceable(destination)
    elif destination.exists():
        raise files.exists_error(destination)
    return write(
        destination,
        components,
        step=step,
        counters=counters,
        metrics=metrics,
        overwrite=overwrite,
        exclude=exclude,
    )


def _check_replaceable(destination: Path) -> None:
    """Replacing is for checkpoints: never for a directory that holds something else."""
    is_ours = (destination / manifest.NAME).is_file()
    if destination.exists() and not is_ours and not _is_empty(destination):
        raise FormatError(
            f"{destination}: expected a checkpoint to replace, found something else, which stays. "
            "Choose another path.",
            path=destination,
        )


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def write(
    destination: Path,
    components: Mapping[str, Any],
    *,
    step: int | None = None,
    counters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    exclude: Sequence[str] = (),
    kind: str = "checkpoint",
    parent: Checkpoint | None = None,
    elapsed_seconds: float | None = None,
) -> Checkpoint:
    """Capture and commit one checkpoint; `save` is this with the checks that a user needs.

    Files whose bytes are those of `parent` are hard links to them.
    """
    if not components:
        raise UnsupportedError(
            f"{destination}: expected components to save, found none. "
            "Pass them by name: save(path, policy=policy)."
        )
    manifest.check_components(components)
    walk = Walk(exclude)
    captured = walk.capture(components)
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
    files.make_parents(destination.parent)
    files.sweep(destination.parent, destination.name)
    with files.new_directory(destination, overwrite=overwrite) as directory:
        record = _write_files(directory, captured, partial, parent)
    return Checkpoint(destination, record)


def _write_files(
    directory: Path, captured: Captured, partial: Manifest, parent: Checkpoint | None
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


def open_checkpoint(path: PathLike) -> Checkpoint:
    """Open a checkpoint, or the newest one of a run, reading its manifest only.

    Raises:
        NotFoundError: Nothing is there, or nothing that Rekindle knows.
        DamagedError, FormatError, VersionError: The manifest cannot be trusted or understood.
    """
    directory = Path(path)
    if not (directory / manifest.NAME).exists():
        steps = step_directories(directory)
        if steps:
            directory = steps[-1]
    return Checkpoint(directory, manifest.read(directory))


def step_directories(run: Path) -> list[Path]:
    """The checkpoints of a run's directory, oldest first."""
    if not run.is_dir():
        return []
    found = [path for path in run.glob("step_*") if path.name[5:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def load(
    path: PathLike,
    components: Sequence[str] | None = None,
    to: str = "numpy",
    *,
    device: str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Read components as plain data, building nothing but containers and arrays.

    Arrays are memory-mapped, copy-on-write: changing one does not change the file. Objects come
    back as `Record`s that name their class; modules and optimizers as their state dicts.

    Args:
        path: A checkpoint, or a run (its newest checkpoint).
        components: Which to read; all of them when left out. Others are not opened.
        to: `"numpy"`, or `"torch"` or `"jax"` for arrays of that library (text and dates, which
            these lack, stay numpy's).
        device: Where they go, such as `"cuda:0"`.
        verify: Whether to compare every byte read with its digest first.

    Raises:
        DamagedError: A file that is needed is damaged.
    """
    return open_checkpoint(path).load(components, to, device=device, verify=verify)


def restore(
    path: PathLike,
    *,
    strict: bool = True,
    classes: Iterable[type] = (),
    keep: Iterable[str] = (),
    **components: Any,
) -> RestoreReport:
    """Put a checkpoint's state into live objects that the caller has just built, in place.

    What cannot be changed (tuples, arrays of JAX, Equinox modules) is replaced in the object that
    holds it. Such a value as a component of its own is refused: `Checkpoint.into` returns it.

    Args:
        path: A checkpoint, or a run (its newest checkpoint).
        strict: Whether anything that is missing or does not fit is an error. Nothing is changed
            then. With `strict=False` the report says what was left as it was.
        classes: Classes of the program that the state may hold where the live objects hold none.
        keep: Patterns of attributes to leave as they are, such as `"agent/learning_rate"`.
        **components: The live objects, by the names they were saved under.

    Raises:
        MismatchError: The live objects do not fit; the error lists every difference.
        NotFoundError: The checkpoint lacks a component that was asked for.
        DamagedError: A file that is needed is damaged.
    """
    checkpoint = open_checkpoint(path)
    return checkpoint.restore(components, strict=strict, classes=classes, keep=keep)


def verify(path: PathLike) -> VerifyReport:
    """Compare every byte of a checkpoint, or of every checkpoint of a run, with its digest.

    Returns:
        A report, true when all is as written; it names each damaged, missing or extra file.

    Raises:
        NotFoundError: Nothing that Rekindle knows is at `path`.
    """
    root = Path(path)
    steps = [] if (root / manifest.NAME).exists() else step_directories(root)
    differences: list[Difference] = []
    num_files = total = 0
    for directory in steps or [root]:
        prefix = f"{directory.name}/" if steps else ""
        try:
            record = manifest.read(directory)
        except DamagedError as error:
            differences.append(
                Difference(prefix + manifest.NAME, "the manifest as written", str(error))
            )
            continue
        except NotFoundError:
            if not steps:
                raise
            differences.append(Difference(prefix + manifest.NAME, "a manifest", "no file"))
            continue
        found = files.check_files(directory, record.records(), {manifest.NAME})
        differences += [Difference(prefix + item.key, item.expected, item.found) for item in found]
        num_files += len(record.files) + 1
        total += record.num_bytes
    return VerifyReport(str(root), len(steps) or 1, num_files, total, tuple(differences))

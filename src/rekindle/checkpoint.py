"""A checkpoint of our own format: save, open, load, restore, verify.

A save captures everything first, then writes a new directory that appears whole. Opening reads the
manifest only; a component's bytes are read, and checked against their digests, when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rekindle import files, manifest, places, writer
from rekindle.codecs import arrays, values
from rekindle.compare import Comparison, compare
from rekindle.errors import (
    DamagedError,
    Difference,
    FormatError,
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
    listing,
)
from rekindle.files import PathLike
from rekindle.manifest import ComponentRecord, Manifest
from rekindle.match import Match
from rekindle.reader import Reader, malformed
from rekindle.registry import load as load_name
from rekindle.report import Restored, RestoreReport, Shown, VerifyReport, columns, num_bytes, plural
from rekindle.state import Plain

_CONVERTERS = {
    "torch": "rekindle.adapters.torch_values:convert",
    "jax": "rekindle.adapters.jax_values:convert",
}


OURS = "rekindle"
"""How messages, and `format=`, name our own format."""
ORIGIN = "origin"
"""The component of a converted checkpoint that says what it was converted from."""


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
        reader = Reader(self.path, self.manifest, verify=False)
        document = reader.document(component)
        plain = Plain(reader)
        names = sorted(document.arrays) or [f"{component}/{n}" for n in reader.names(component)]
        with malformed(self.path):
            return {name.partition("/")[2]: plain.array(name) for name in names}

    def document(self, component: str) -> Any:
        """The JSON document of one component, as it is stored."""
        return Reader(self.path, self.manifest, verify=True).content(component)

    def load(
        self,
        components: Sequence[str] | None = None,
        to: str = "numpy",
        *,
        device: str | None = None,
        verify: bool = True,
    ) -> dict[str, Any]:
        """Components as plain data; see `rekindle.load`."""
        reader = Reader(self.path, self.manifest, verify=verify)
        chosen = [components] if isinstance(components, str) else components
        names = list(self.components if chosen is None else chosen)
        plain = Plain(reader, converter(to, device), 1 if to == "numpy" else arrays.ALIGNMENT)
        with malformed(self.path):
            return {name: plain.component(name) for name in names}

    def build(self, component: str, *, classes: Iterable[type] = ()) -> Any:
        """One component as the values that it was saved from, without live objects to fill.

        Only what is data comes back so: containers, arrays and tensors, and records of classes that
        the program has loaded.

        Raises:
            MismatchError: It holds objects that only live ones can receive.
        """
        match = Match(Reader(self.path, self.manifest, verify=True), {}, classes)
        with malformed(self.path):
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
        match = Match(Reader(self.path, self.manifest, verify=True), {}, is_apart=True)
        with malformed(self.path):
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
        omit: Callable[[Any], bool] | None = None,
    ) -> RestoreReport:
        """Put components into live objects; see `rekindle.restore`.

        `omit` says of a live object that it stays as it is, wherever it stands.
        """
        reader = Reader(self.path, self.manifest, verify=True)
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
        match = Match(reader, asked, classes, keep, omit=omit)
        with malformed(self.path):
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
        sides = (
            Reader(self.path, self.manifest, verify=True),
            Reader(other.path, other.manifest, verify=True),
        )
        found = []
        for name in dict.fromkeys((*self, *other)):
            if name in self and name in other:
                with malformed(other.path):
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
            sizes = [self.manifest.files[part].bytes for part in record.files]
            count = len(Reader(self.path, self.manifest, verify=False).names(name))
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
            size = sum(record.files[file].bytes for file in part.files)
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


def converter(to: str, device: str | None) -> Callable[[Any, dict[str, Any]], Any] | None:
    """What turns `(numpy array, array node)` into an array of a library; None for numpy's own.

    Raises:
        UnsupportedError: There is no such library, or numpy's arrays are asked for on a device.
        MissingDependencyError: The library is not installed.
    """
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
        path: The directory to make, or one file where the name ends in `.zip`; its parents are made
            as needed.
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
    check_destination(destination, overwrite=overwrite)
    draft = writer.draft(
        destination, components, step=step, counters=counters, metrics=metrics, exclude=exclude
    )
    return Checkpoint(destination, writer.commit(draft, overwrite=overwrite).saved.manifest)


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is; replacing is for checkpoints, never for anything else.

    Raises:
        AlreadyExistsError: Something is there and `overwrite` is false.
        FormatError: What is there is no checkpoint.
    """
    if not overwrite and destination.exists():
        raise files.exists_error(destination)
    if overwrite and destination.exists() and not _is_replaceable(destination):
        raise FormatError(
            f"{destination}: expected a checkpoint to replace, found something else, which stays. "
            "Choose another path.",
            path=destination,
        )


def _is_replaceable(path: Path) -> bool:
    if path.is_dir():
        return (path / manifest.NAME).is_file() or not any(path.iterdir())
    return manifest.is_archived(path) or path.stat().st_size == 0


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


def is_ours(path: Path) -> bool:
    """Whether a checkpoint, a run or an archive of our own format is there, damaged or not."""
    return (
        (path / manifest.NAME).is_file()
        or bool(step_directories(path))
        or (path.is_file() and manifest.is_archived(path))
    )


def step_directories(run: Path) -> list[Path]:
    """The checkpoints of a run's directory, oldest first."""
    if not run.is_dir():
        return []
    found = [path for path in run.glob("step_*") if path.name[5:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


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
            whole = Difference(manifest.NAME, "the manifest as written", str(error))
            for item in error.differences or (whole,):
                differences.append(Difference(prefix + item.key, item.expected, item.found))
            continue
        except NotFoundError:
            if not steps:
                raise
            differences.append(Difference(prefix + manifest.NAME, "a manifest", "no file"))
            continue
        found = places.check_files(places.at(directory), record.records(), {manifest.NAME})
        differences += [Difference(prefix + item.key, item.expected, item.found) for item in found]
        num_files += len(record.files) + 1
        total += record.num_bytes
    return VerifyReport(str(root), len(steps) or 1, num_files, total, tuple(differences))

"""A checkpoint that another library wrote, opened as ours are: plain data, and nothing run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import checkpoint, paths
from rekindle.codecs import arrays
from rekindle.errors import MismatchError, NotFoundError, listing
from rekindle.formats.protocol import Kind, Note, Reading
from rekindle.report import Restored, RestoreReport, Shown, columns, num_bytes, plural


class ForeignCheckpoint(Shown):
    """What another library wrote, made by `rekindle.open`; see `Checkpoint` for our own.

    Nothing that the file names was imported or run. Values that only running code could make are
    `Record`s, and each has a note. Arrays are over the memory of the file where it allows that.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self.reading = reading

    @property
    def format(self) -> str:
        """Name of its format, such as `sb3.model`."""
        return self.reading.format

    @property
    def version(self) -> str | None:
        """Version of the library that wrote it; None where the file does not say."""
        return self.reading.version

    @property
    def kind(self) -> str:
        """`checkpoint`, or `policy` where there is nothing to go on training with."""
        return self.reading.kind

    @property
    def step(self) -> int | None:
        """Environment steps so far; None where the file does not say."""
        return self.reading.step

    @property
    def counters(self) -> dict[str, Any]:
        """Other counts: `updates`, `episodes`."""
        return dict(self.reading.counters)

    @property
    def metrics(self) -> dict[str, Any]:
        """Measurements at the time of the save."""
        return dict(self.reading.metrics)

    @property
    def components(self) -> dict[str, Any]:
        """What it holds, by name, as plain data."""
        return dict(self.reading.components)

    @property
    def spaces(self) -> dict[str, Any]:
        """Descriptions of the spaces `observation` and `action`, where the file tells of them."""
        return dict(self.reading.spaces)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the file does not hold, what stays a record, what was ignored."""
        return self.reading.notes

    @property
    def num_bytes(self) -> int:
        """Size of the file, or of all files of the directory."""
        if not self.path.is_dir():
            return self.path.stat().st_size
        return sum(part.stat().st_size for part in self.path.rglob("*") if part.is_file())

    @property
    def info(self) -> dict[str, Any]:
        """What is known about it beside its components, as plain data."""
        told = self.reading
        return {
            "format": told.format,
            "version": told.version,
            "kind": told.kind,
            "step": told.step,
            "counters": paths.as_json(told.counters),
            "metrics": paths.as_json(told.metrics),
            "spaces": paths.as_json(told.spaces),
            "environment": paths.as_json(told.environment),
            "notes": [
                {"kind": str(note.kind), "key": note.key, "text": note.text} for note in told.notes
            ],
        }

    def __contains__(self, component: str) -> bool:
        return component in self.reading.components

    def __iter__(self) -> Iterator[str]:
        return iter(self.reading.components)

    def __getitem__(self, component: str) -> Any:
        """One component as plain data over memory-mapped arrays."""
        return self.load([component])[component]

    def arrays(self, component: str) -> dict[str, np.ndarray[Any, Any]]:
        """All arrays of one component by the paths to them, memory-mapped."""
        self._check([component])
        return paths.arrays(self.reading.components[component])

    def records(self, component: str) -> dict[str, Any]:
        """Values of one component that stay records, by their paths as `replace=` takes them."""
        from rekindle.formats import inert  # readers of files are loaded when they are used

        self._check([component])
        return dict(inert.places(self.reading.components[component], component))

    def load(
        self,
        components: Sequence[str] | None = None,
        to: str = "numpy",
        *,
        device: str | None = None,
        replace: Mapping[str, Any] | None = None,
        skip: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Components as plain data; see `rekindle.load`."""
        chosen = [components] if isinstance(components, str) else components
        names = list(self.reading.components if chosen is None else chosen)
        self._check(names)
        found = self._changed(names, replace, skip)
        convert = checkpoint.converter(to, device)
        if convert is None:
            return paths.copied(found)

        def converted(array: np.ndarray[Any, Any], path: str) -> Any:
            node = {"name": path}
            if array.dtype.names and len(array.dtype.names) == 1:
                node["jax_dtype"] = array.dtype.names[0]  # bits of a type that numpy lacks
            if array.ctypes.data % arrays.ALIGNMENT:
                array = arrays.aligned_copy(array, arrays.ALIGNMENT)
            return convert(array, node)

        return paths.copied(found, converted)

    def into(self, component: str, like: Any) -> Any:
        """A component as a new value with the structure of another, which is not changed.

        For files that hold leaves without names, as Equinox writes them:
        `model = rk.open("model.eqx").into("agent", model)`.

        Args:
            component: Which one.
            like: A value as the program has just built it; the shapes and types of its arrays must
                fit.

        Raises:
            MismatchError: It does not fit; the error lists every leaf that differs.
            UnsupportedError: The file's values have names: `restore` puts them back.
        """
        from rekindle import fitting  # readers of files are loaded when they are used

        self._check([component])
        return fitting.into(self.path, self.reading, component, like)

    def restore(
        self,
        components: Mapping[str, Any],
        *,
        strict: bool = True,
        keep: Iterable[str] = (),
        replace: Mapping[str, Any] | None = None,
        skip: Iterable[str] = (),
    ) -> RestoreReport:
        """Put components into live objects; see `rekindle.restore`."""
        from rekindle import fitting  # readers of files are loaded when they are used

        missing = tuple(name for name in components if name not in self)
        if missing and strict:
            self._check(missing, "Nothing was changed. Pass strict=False to restore the others.")
        asked = {name: components[name] for name in self if name in components}
        left = (*keep, *skip)
        found = self._changed(list(asked), replace, ())
        fit = fitting.Fit(self.reading.tensors, left)
        for name, live in asked.items():
            fit.component(name, found[name], live)
        if fit.differences and strict:
            raise MismatchError(
                f"{self.path}: the file does not fit the live objects; nothing was changed. "
                f"{plural(len(fit.differences), 'difference')}:\n{listing(fit.differences)}\n"
                "Build the objects as they were when it was saved, give values with replace=, "
                "leave places as they are with skip=, or pass strict=False to restore what fits.",
                path=self.path,
                key=fit.differences[0].key,
                differences=fit.differences,
            )
        fit.apply()
        restored = []
        for name in asked:
            held = paths.arrays(found[name])
            size = sum(array.nbytes for array in held.values())
            restored.append(Restored(name, self.format, len(held), size))
        return RestoreReport(
            path=str(self.path),
            step=self.step,
            restored=tuple(restored),
            not_asked=tuple(name for name in self if name not in asked),
            missing=missing,
            differences=tuple(fit.differences),
            notes=(*fit.notes, *(str(note) for note in self.notes if note.kind is Kind.ABSENT)),
        )

    def _check(self, names: Iterable[str], remedy: str = "") -> None:
        missing = [name for name in names if name not in self]
        if missing:
            absent = [note for note in self.notes if note.key in missing]
            why = "".join(f" {note.key}: {note.text}." for note in absent)
            raise NotFoundError(
                f"{self.path}: expected the component(s) {', '.join(missing)}, found "
                f"{', '.join(self) or 'none'}.{why} {remedy}".rstrip(),
                path=self.path,
                key=missing[0],
            )

    def _changed(
        self, names: Sequence[str], replace: Mapping[str, Any] | None, skip: Iterable[str]
    ) -> dict[str, Any]:
        """Components with some of their values replaced, and some left out."""
        found = {name: self.reading.components[name] for name in names}
        for path, value in (replace or {}).items():
            name = paths.component_of(path)
            if name in self and name not in found:
                continue  # of a component that nobody asked for
            found = paths.replaced(found, path, value, self.path)
        for pattern in skip:
            found = paths.without(found, pattern, self.path)
        return found

    def _text(self) -> str:
        told = self.reading
        step = None if told.step is None else f"step {told.step:,}"
        version = None if told.version is None else f"version {told.version}"
        head = [told.format, version, step, num_bytes(self.num_bytes)]
        lines = [f"Checkpoint {self.path}", f"  {' · '.join(part for part in head if part)}"]
        rows = []
        for name in self:
            held = self.arrays(name)
            size = sum(array.nbytes for array in held.values())
            rows.append((name, plural(len(held), "array"), num_bytes(size)))
        if rows:
            lines.append(columns(rows, "    "))
        for title, content in (("metrics", self.metrics), ("counters", self.counters)):
            if content:
                pairs = ", ".join(f"{key}={value}" for key, value in content.items())
                lines.append(f"  {title}: {pairs}")
        lines += [f"  {note.kind} {note}" for note in self.notes]
        return "\n".join(lines)

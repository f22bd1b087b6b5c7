"""From one format to another: what was read is written, and what the target cannot hold is said.

A foreign checkpoint in our format keeps what its own format needs to be written again, so the way
there and back is exact: see `rekindle.contents` and docs/format.md, "Converted checkpoints".
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rekindle import files, manifest, packing, registry, writer
from rekindle.checkpoint import (
    ORIGIN,
    OURS,
    Checkpoint,
    check_destination,
    is_ours,
    open_checkpoint,
)
from rekindle.contents import Origin, of_checkpoint
from rekindle.errors import (
    AlreadyExistsError,
    FormatError,
    RekindleError,
    UnsupportedError,
)
from rekindle.files import PathLike
from rekindle.formats import recognition
from rekindle.formats.protocol import Format, Kind, Note, Reading
from rekindle.provenance import VERSION
from rekindle.report import Shown, columns, num_bytes, plural

_FRIENDLY = {"metta": "metta.checkpoint"}
"""Names of formats that people use beside those of the registry; `sb3` goes by what there is."""
_ITEMS = ("agent", "progress", "constructor")
"""Components of which single items can be left out; the rest of a network means nothing alone."""
_FACTS = ("step", "counters", "metrics", "spaces")
_MOST_ROUNDS = 100


@dataclass(frozen=True, repr=False)
class Carried:
    """One component that is in the new checkpoint."""

    component: str
    num_arrays: int
    num_bytes: int
    """Size of its arrays."""


@dataclass(frozen=True, repr=False)
class Lost:
    """Something that the new checkpoint does not hold, though the old one does."""

    key: str
    """Which component, which item of one, or which fact about the whole."""
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@dataclass(frozen=True, repr=False)
class ConversionReport(Shown):
    """What a conversion carried over, and what it could not."""

    source: str
    path: str
    """The new checkpoint."""
    source_format: str
    format: str
    step: int | None
    """Environment steps so far; None where the source does not say."""
    carried: tuple[Carried, ...]
    lost: tuple[Lost, ...] = ()
    notes: tuple[Note, ...] = ()
    """What the source itself does not hold, and what of it stays a record."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "source": self.source,
            "path": self.path,
            "source_format": self.source_format,
            "format": self.format,
            "step": self.step,
            "carried": [
                {"component": part.component, "arrays": part.num_arrays, "bytes": part.num_bytes}
                for part in self.carried
            ],
            "lost": [{"key": part.key, "reason": part.reason} for part in self.lost],
            "notes": [
                {"kind": str(note.kind), "key": note.key, "text": note.text} for note in self.notes
            ],
        }

    def _text(self) -> str:
        step = "" if self.step is None else f", step {self.step:,}"
        lines = [f"Converted {self.source} ({self.source_format}{step}) to {self.format}:"]
        lines[0] += f" {self.path}"
        rows = [
            (part.component, plural(part.num_arrays, "array"), num_bytes(part.num_bytes))
            for part in self.carried
        ]
        if rows:
            lines.append(columns(rows))
        lines += [f"  lost {part}" for part in self.lost]
        lines += [f"  not in the source: {note}" for note in self.notes if note.kind is Kind.ABSENT]
        return "\n".join(lines)


def convert(
    src: PathLike,
    dst: PathLike,
    to: str = OURS,
    *,
    format: str | None = None,
    overwrite: bool = False,
    max_bytes: int | None = None,
) -> ConversionReport:
    """Read a checkpoint of one format and write it in another, running nothing.

    Arrays go from the file to the new one without being loaded as a whole. What was converted to
    Rekindle converts back to the same values.

    Args:
        src: A file or directory; of a run, the newest checkpoint is read.
        dst: What to make. In our own format, one file where the name ends in `.zip`.
        to: The format to write: `"rekindle"`, `"velora"`, `"cogym"`, `"equinox"`, `"lerax"`,
            `"metta"`, `"metta.bundle"`, `"sb3"`, or any name of `docs/formats.md`.
        format: The format to read, where the content could be of two.
        overwrite: Replace a checkpoint that is at `dst`, in one step.
        max_bytes: Memory that values of a foreign file may take; see `rekindle.limits`.

    Returns:
        What was carried, and what the target cannot hold.

    Raises:
        UnsupportedError: The target would not load: something that it needs is not there.
        AlreadyExistsError: Something is at `dst` and `overwrite` is false.
        FormatError: `src` is of no known format, or `to` is none.
        DamagedError: Bytes of `src` are missing, or not those that were written.
    """
    source, target = Path(src), Path(dst)
    check_name(to)
    if format == OURS or (format is None and is_ours(source)):
        checkpoint = open_checkpoint(source)
        if to == OURS:
            return _copied(checkpoint, source, target, overwrite=overwrite)
        reading, origin = of_checkpoint(checkpoint)
    else:
        found = recognition.recognise(source) if format is None else recognition.named(format)
        reading, origin = found.read(source, max_bytes=max_bytes), None
    if to == OURS:
        return _to_ours(reading, source, target, overwrite=overwrite)
    return _to_foreign(reading, origin, to, source, target, overwrite=overwrite)


def names() -> list[str]:
    """Formats that can be written, by the names that people use."""
    writable = [format_.name for format_ in recognition.formats() if format_.can_write]
    return [OURS, *_FRIENDLY, "sb3", *writable]


def check_name(to: str) -> None:
    """Refuse the name of a format that cannot be written.

    Raises:
        FormatError: There is no format of this name.
        UnsupportedError: It is only read.
    """
    if to in (OURS, "sb3", *_FRIENDLY):
        return
    if to not in registry.FORMATS:
        raise FormatError(f"{to}: expected a format, one of {', '.join(names())}.", key=to)
    if not registry.load(registry.FORMATS[to]).can_write:
        raise UnsupportedError(
            f"{to}: expected a format that Rekindle writes, found one that it only reads. Choose "
            f"one of {', '.join(names())}.",
            key=to,
        )


# --------------------------------------------------------------------------- to our own format


def _copied(
    checkpoint: Checkpoint, source: Path, target: Path, *, overwrite: bool
) -> ConversionReport:
    """A checkpoint of ours as a directory or as one file, in the present version."""
    made = packing.renew(checkpoint.path, target, overwrite=overwrite)
    carried = []
    for name, part in made.components.items():
        size = sum(made.manifest.files[file].bytes for file in part.files)
        carried.append(Carried(name, len(made.arrays(name)), size))
    return ConversionReport(str(source), str(target), OURS, OURS, made.step, tuple(carried))


def _to_ours(reading: Reading, source: Path, target: Path, *, overwrite: bool) -> ConversionReport:
    check_destination(target, overwrite=overwrite)
    write(reading, target, overwrite=overwrite)
    lost = [
        Lost(f"{name}/{path}", f"attributes set on a tensor: {', '.join(found)}"[:200])
        for name, value in reading.components.items()
        for path, array in _arrays(value)
        if (found := getattr(reading.tensors.of(array), "attributes", None))
    ]
    return _report(reading, source, target, OURS, reading.components, lost)


def write(reading: Reading, target: Path, *, overwrite: bool = False) -> Checkpoint:
    """Write what was read from a foreign format as a checkpoint of ours.

    Raises:
        UnsupportedError: A component has a name that ours cannot have, or values that are no data.
    """
    if ORIGIN in reading.components:
        raise UnsupportedError(
            f"{target}: expected no component of the name {ORIGIN!r}, under which a "
            "converted checkpoint says what it was. Rename it in the source.",
            key=ORIGIN,
        )
    origin = Origin(
        format=reading.format,
        version=reading.version,
        step=reading.step,
        details=reading.details,
        notes=reading.notes,
    )
    components = {**reading.components, ORIGIN: origin.to_dict()}
    plan = writer.draft(target, components, kind=reading.kind, tensors=reading.tensors)
    what = " ".join(part for part in (reading.format, reading.version) if part)
    record = msgspec.structs.replace(
        plan.manifest,
        step=reading.step or 0,
        counters=manifest.check_metrics(dict(reading.counters), "counters"),
        metrics=manifest.check_metrics(dict(reading.metrics), "metrics"),
        spaces=dict(reading.spaces),
        environment={OURS: VERSION, **reading.environment},
        notes=[f"converted from {what}: the component {ORIGIN} says what it lacked"],
    )
    done = writer.commit(dataclasses.replace(plan, manifest=record), overwrite=overwrite)
    return Checkpoint(target, done.saved.manifest)


# --------------------------------------------------------------------------- to a foreign format


def _to_foreign(
    reading: Reading,
    origin: Origin | None,
    to: str,
    source: Path,
    target: Path,
    *,
    overwrite: bool,
) -> ConversionReport:
    format_ = recognition.named(_resolved(to, reading, origin, target))
    was = reading.format if origin is None else origin.format
    # Formats of one library know each other's details; to others they mean nothing.
    is_kin = was.partition(".")[0] == format_.name.partition(".")[0]
    details = reading.details if is_kin else {}
    content = format_.fitted(dataclasses.replace(reading, format=was, details=details))
    _check_target(target, overwrite=overwrite)
    with files.new_path(target, overwrite=overwrite) as made:
        kept, lost = _write_what_fits(format_, content, made, target)
        back = _read_back(format_, kept, made, target)
        lost += _not_told(reading, kept, back, format_.name)
        for other in sorted(made.parent.iterdir()):
            if other != made:
                _put_beside(other, target.parent / other.name)
    return _report(reading, source, target, format_.name, kept.components, lost)


def _resolved(to: str, reading: Reading, origin: Origin | None, target: Path) -> str:
    """The format that a name means for what there is; of SB3 a folder, unless a ZIP is named."""
    if to != "sb3":
        return _FRIENDLY.get(to, to)
    was = reading.format if origin is None else origin.format
    is_file = target.suffix == ".zip"
    if was.startswith("sb3.") and recognition.named(was).can_write:
        return "sb3.model" if was == "sb3.folder" and is_file else was
    beside = {"replay_buffer", "normalizer"} & reading.components.keys()
    if len(beside) == len(reading.components) == 1:
        return f"sb3.{beside.pop()}"
    return "sb3.folder" if beside and not is_file else "sb3.model"


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise files.exists_error(target)
    if (target / manifest.NAME).is_file() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        if not target.is_dir() and (is_ours(target) or recognition.recognise(target)):
            return
    except FormatError:
        pass
    raise FormatError(
        f"{target}: expected a checkpoint to replace, found something else, which stays. "
        "Choose another path.",
        path=target,
    )


def _write_what_fits(
    format_: Format, content: Reading, made: Path, target: Path
) -> tuple[Reading, list[Lost]]:
    """Write as much as the format holds; what it refuses and can do without is left out."""
    lost: list[Lost] = []
    for _ in range(_MOST_ROUNDS):
        try:
            format_.write(content, made)
        except UnsupportedError as error:
            reduced = _without(content, error.refusals, format_)
            if reduced is None:
                raise _renamed(error, made, target) from error
            content, left_out = reduced
            lost += left_out
        except RekindleError as error:
            raise _renamed(error, made, target) from error
        else:
            return content, lost
    raise UnsupportedError(
        f"{target}: expected to leave out a few values, found more than {_MOST_ROUNDS} rounds of "
        f"them that {format_.name} cannot hold. Choose another format.",
        path=target,
    )


def _renamed(error: RekindleError, made: Path, target: Path) -> RekindleError:
    """The same error about the path that the user gave."""
    error.args = (str(error).replace(str(made), str(target)), *error.args[1:])
    error.path = str(target)
    return error


def _without(
    content: Reading, refusals: Iterable[tuple[str, str]], format_: Format
) -> tuple[Reading, list[Lost]] | None:
    """What is left when refused places are left out; None where the format needs one of them."""
    components = dict(content.components)
    lost: dict[str, Lost] = {}
    for key, reason in refusals:
        name = re.split(r"[./\[]", key, maxsplit=1)[0]
        rest = key[len(name) :].lstrip("./")
        value = content.components.get(name)
        if name not in content.components or (name == "policy" and not format_.only):
            return None
        if not rest or name not in _ITEMS:
            components.pop(name, None)
            lost[name] = Lost(name, reason)
        elif not isinstance(value, Mapping) or rest not in value:
            return None
        elif name in components:
            components[name] = {k: v for k, v in components[name].items() if k != rest}
            lost[key] = Lost(key, reason)
    if not lost:
        return None
    return dataclasses.replace(content, components=components), list(lost.values())


def _read_back(format_: Format, kept: Reading, made: Path, target: Path) -> Reading:
    """Read what was written, as a check that it holds every array that it should."""
    back = format_.read(made)
    found = collections.Counter(
        _shape(array) for value in back.components.values() for _, array in _arrays(value)
    )
    for name, value in kept.components.items():
        wanted = collections.Counter(_shape(array) for _, array in _arrays(value))
        missing = wanted - found
        if missing:
            (shape, size), count = missing.most_common(1)[0]
            raise UnsupportedError(
                f"{target}: expected every array of {name} in what was written, found "
                f"{plural(count, 'array')} of shape {shape} and items of {size} bytes missing. "
                f"{format_.name} cannot hold it; nothing was written.",
                path=target,
                key=name,
            )
    return back


def _not_told(reading: Reading, kept: Reading, back: Reading, name: str) -> list[Lost]:
    """What was written without complaint and does not come back: the format has no place for it."""
    reason = f"{name} has no place for it"
    lost: list[Lost] = []
    for component, value in kept.components.items():
        has_arrays = next(_arrays(value), None) is not None
        found = back.components.get(component)
        rest = back.components.get("agent")
        if isinstance(rest, Mapping) and isinstance(rest.get(component), Mapping):
            # Formats that hold anything give what they have no name for under its own, in `agent`.
            found = rest[component]
        if found is None and not has_arrays:
            lost.append(Lost(component, reason))
        elif component in _ITEMS and isinstance(value, Mapping) and isinstance(found, Mapping):
            lost += [Lost(f"{component}.{key}", reason) for key in value if key not in found]
    for fact in _FACTS:
        if getattr(reading, fact) and not getattr(back, fact):
            lost.append(Lost(fact, reason))
    return lost


def _put_beside(made: Path, path: Path) -> None:
    """Give a file that a format keeps beside its folder its name, unless it is there already."""
    if path.exists():
        if _are_same(made, path):
            return
        raise AlreadyExistsError(
            f"{path}: expected nothing there or the same content, found other content. "
            "The format keeps one such file for all checkpoints of a folder; choose another.",
            path=path,
        )
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(made, path)
    files.flush(path)


def _are_same(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    try:
        return json.loads(one.read_bytes()) == json.loads(other.read_bytes())
    except ValueError:
        return False


# --------------------------------------------------------------------------- what is said of it


def _report(
    reading: Reading,
    source: Path,
    target: Path,
    name: str,
    components: Mapping[str, Any],
    lost: Iterable[Lost],
) -> ConversionReport:
    carried = []
    for component, value in components.items():
        arrays = [array for _, array in _arrays(value)]
        carried.append(Carried(component, len(arrays), sum(array.nbytes for array in arrays)))
    return ConversionReport(
        source=str(source),
        path=str(target),
        source_format=reading.format,
        format=name,
        step=reading.step,
        carried=tuple(carried),
        lost=tuple(lost),
        notes=reading.notes,
    )


def _arrays(value: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every array in some containers once, with the path to it; records are not entered."""
    pending: list[tuple[str, Any]] = [("", value)]
    met: set[int] = set()
    while pending:
        path, part = pending.pop()
        is_container = type(part) in (list, tuple) or isinstance(part, (dict, np.ndarray))
        if not is_container or id(part) in met:
            continue
        met.add(id(part))
        if isinstance(part, np.ndarray):
            yield path, part
        elif isinstance(part, dict):
            items = [(f"{path}.{key}" if path else str(key), item) for key, item in part.items()]
            pending += reversed(items)
        else:
            items = [(f"{path}[{index}]", item) for index, item in enumerate(part)]
            pending += reversed(items)


def _shape(array: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], int]:
    return array.shape, array.dtype.itemsize

"""What any checkpoint holds, ours or another library's, as one `Reading` of plain data.

A checkpoint that was converted from another format comes back as that format's reader gave it: the
component `origin` says what the components by themselves do not (docs/format.md, "Converted
checkpoints").
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle.checkpoint import ORIGIN, OURS, Checkpoint, is_ours, open_checkpoint
from rekindle.codecs import arrays
from rekindle.files import PathLike
from rekindle.formats import recognition, schedules
from rekindle.formats.protocol import Kind, Note, Reading
from rekindle.pickles import records
from rekindle.reader import Reader, malformed
from rekindle.state import Document, Plain, Reference
from rekindle.tensors import Tensors, recalled


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a checkpoint of ours was converted from."""

    format: str
    """Name of the format."""
    version: str | None = None
    """Version of the library that wrote it, where the file said it."""
    step: int | None = None
    """Environment steps, where the file said them; a manifest has 0 where it did not."""
    details: Mapping[str, Any]
    """What the format needs to write the same again, and no component holds."""
    notes: tuple[Note, ...] = ()
    """What was absent, inert or ignored."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as the component holds it."""
        return {
            "format": self.format,
            "version": self.version,
            "step": self.step,
            "details": dict(self.details),
            "notes": [
                {"kind": str(note.kind), "key": note.key, "text": note.text} for note in self.notes
            ],
        }


def contents(path: PathLike, *, format: str | None = None, max_bytes: int | None = None) -> Reading:
    """Read a checkpoint of any known format, running nothing.

    Args:
        path: A file or directory; of a run, the newest checkpoint is read.
        format: Its format's name, where its content could be of two; told apart when left out.
        max_bytes: Memory that values of a foreign file may take; see `rekindle.limits`.

    Raises:
        NotFoundError: Nothing is there.
        FormatError: It is of no known format, or of two that both could be meant.
        DamagedError: Bytes are missing, or not those that were written.
        UnsafeError: Going on would mean trusting it further than data deserves.
    """
    root = Path(path)
    if format == OURS or (format is None and is_ours(root)):
        return of_checkpoint(open_checkpoint(root))[0]
    found = recognition.recognise(root) if format is None else recognition.named(format)
    return found.read(root, max_bytes=max_bytes)


def of_checkpoint(checkpoint: Checkpoint) -> tuple[Reading, Origin | None]:
    """What a checkpoint of ours holds, and what it was converted from, if it was."""
    record = checkpoint.manifest
    tensors = Tensors()
    exact = _Exact(Reader(checkpoint.path, record, verify=True), tensors)
    with malformed(checkpoint.path):
        components = {name: exact.component(name) for name in record.components}
        origin = _origin(components.pop(ORIGIN, None))
    environment = dict(record.environment)
    if origin is not None:
        environment.pop(OURS, None)  # the version that converted it
    reading = Reading(
        format=OURS,
        components=components,
        kind=record.kind,
        version=None if origin is None else origin.version,
        step=record.step if origin is None else origin.step,
        counters=checkpoint.counters,
        metrics=checkpoint.metrics,
        spaces=record.spaces,
        environment=environment,
        details={} if origin is None else origin.details,
        notes=() if origin is None else origin.notes,
        tensors=tensors,
    )
    return reading, origin


def _origin(content: Any) -> Origin | None:
    """The record of an origin; None where there is none, or a component that only has the name."""
    is_own = isinstance(content, dict) and isinstance(content.get("details"), dict)
    if not is_own or not isinstance(content.get("format"), str):
        return None
    notes = tuple(Note(Kind(note["kind"]), note["key"], note["text"]) for note in content["notes"])
    return Origin(
        format=content["format"],
        version=content["version"],
        step=content["step"],
        details=content["details"],
        notes=notes,
    )


# --------------------------------------------------------------------------- the exact way back


class _Exact(Plain):
    """Plain data as the reader of a foreign format made it: with tensors, records, classes.

    Args:
        source: The checkpoint.
        tensors: Takes note of every array that was a tensor.
    """

    def __init__(self, source: Reader, tensors: Tensors) -> None:
        super().__init__(source, self._recall)
        self.readers = {"$dict": _dictionary, "$object": _object}
        self._tensors = tensors

    def _are_hashable(self, nodes: Iterable[Any], document: Document) -> bool:
        """As any names that a pickle mentions are, where no two of them are the same."""
        every = list(nodes)
        names = [str(node["$function"]) for node in every if _is_name(node)]
        others = (node for node in every if not _is_name(node))
        return len({*names}) == len(names) and super()._are_hashable(others, document)

    def _recall(self, array: np.ndarray[Any, Any], node: dict[str, Any]) -> np.ndarray[Any, Any]:
        if "strides" in node and not {"$view", "shape", "library"} & node.keys():
            array = arrays.restride(array, node["strides"])
        array, tensor = recalled(array, node)
        return array if tensor is None else self._tensors.note(tensor)


def _is_name(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() == {"$function"}


_MAPPINGS = {
    "collections:OrderedDict": collections.OrderedDict,
    "collections:Counter": collections.Counter,
    "collections:defaultdict": collections.defaultdict,
}
_FACTORIES = {
    f"builtins:{kind.__name__}": kind
    for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}
_SCHEDULES = {
    f"{kind.__module__}:{kind.__qualname__}": kind
    for kind in (schedules.Constant, schedules.Linear)
}


def _dictionary(plain: Plain, node: dict[str, Any], document: Document) -> Any:
    """A dictionary with its class, and with attributes that were set on it."""
    make = _MAPPINGS.get(node.get("class", ""))
    shell: Any = {} if make is None else make()
    if isinstance(shell, collections.defaultdict):
        factory = plain.decode(node.get("factory"), document)
        shell.default_factory = _FACTORIES.get(factory) if isinstance(factory, Reference) else None
    return plain.mapping(node, document, shell)


def _object(plain: Plain, node: dict[str, Any], document: Document) -> Any:
    """A record, with what a pickle told of the object beside its attributes."""
    cls = _SCHEDULES.get(node["$object"])
    if cls is not None:
        return cls(**{key: float(value) for key, value in node["attributes"].items()})
    return plain.record(node, document, records.recalled)

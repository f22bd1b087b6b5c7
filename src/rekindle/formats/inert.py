"""Where in some plain data records stand for what only running code could make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rekindle.formats.protocol import Kind, Note
from rekindle.pickles.rebuilding import ATOMS
from rekindle.pickles.records import Recorded, RecordedClass, RecordedFunction

_MOST_NOTES = 200
_DEEPEST = 50


def places(value: Any, key: str) -> Iterator[tuple[str, Recorded]]:
    """Every outermost record of a call or object in some data, with the path to it.

    What is shared is met once, and circles end. Nothing is noted of containers of plain values.
    """
    met: set[int] = set()
    waiting: list[Iterator[tuple[str, Any]]] = [iter([(key, value)])]
    while waiting:
        path, item = next(waiting[-1], ("", None))
        if not path:
            waiting.pop()
        elif isinstance(item, Recorded):
            if id(item) not in met:
                met.add(id(item))
                yield path, item
        elif len(waiting) <= _DEEPEST and id(item) not in met:
            parts = _parts(item)
            if not ATOMS.issuperset(map(type, parts)):
                met.add(id(item))
                waiting.append(_paths(path, item, parts))


def _parts(item: Any) -> Iterable[Any]:
    """What a container holds; nothing of what is none."""
    if isinstance(item, Mapping):
        return item.values()
    if isinstance(item, (list, tuple)):
        return item
    return item.reshape(-1) if isinstance(item, np.ndarray) and item.dtype.hasobject else ()


def _paths(path: str, item: Any, parts: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Mapping):
        return ((f"{path}.{str(key)[:80]}", part) for key, part in item.items())
    if isinstance(item, np.ndarray):
        return ((f"{path}[...]", part) for part in parts)
    return ((f"{path}[{index}]", part) for index, part in enumerate(parts))


def notes(value: Any, key: str) -> list[Note]:
    """A note for every outermost record, up to some number."""
    found: list[Note] = []
    for path, record in places(value, key):
        if len(found) == _MOST_NOTES:
            found.append(Note(Kind.INERT, key, "more values are records, which are not listed"))
            break
        found.append(Note(Kind.INERT, path, describe(record)))
    return found


def describe(record: Recorded) -> str:
    """What a record stands for, in a few words."""
    label = record.label[:200]
    if isinstance(record, RecordedFunction):
        return f"a function that the file carries, {label}; it is shown and never run"
    if isinstance(record, RecordedClass):
        return f"a class that the file carries, {label}; it is shown and never made"
    if record.is_object:
        return f"an object of class {label}; its attributes are there"
    return f"the result of calling {label}; its arguments are there"

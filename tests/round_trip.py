"""There and back: a value saved and read again, and whether what came back is the same."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import struct
import tempfile
import types
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import rekindle as rk
from rekindle import files, manifest
from rekindle.codecs.dtypes import without_padding


def round_trip(value: Any, live: Any = None) -> tuple[Any, Any]:
    """What `load` gives for a value, and what `restore` puts in the place of `live`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "saved"
        rk.save(path, state={"value": value})
        loaded = rk.load(path)["state"]["value"]
        holder = {"value": live}
        rk.restore(path, state=holder)
        return loaded, holder["value"]


def written(path: Path, **components: Any) -> dict[str, bytes]:
    """Save, and the bytes of every file but the manifest, which holds the time."""
    rk.save(path, **components)
    return {item.name: item.read_bytes() for item in path.iterdir() if item.name != manifest.NAME}


def assert_law(directory: Path, state: Any, live: Any) -> None:
    """Saving what was restored gives the bytes that it was restored from."""
    before = written(directory / "before", state=state)
    rk.restore(directory / "before", state=live)
    assert written(directory / "after", state=live) == before


def forge(path: Path, component: str, document: Any) -> None:
    """Put another document into a checkpoint, with the digests that it would have."""
    record = manifest.read(path)
    name = record.components[component].document
    text = msgspec.json.encode(document)
    (path / name).write_bytes(text)
    entry = manifest.FileEntry(bytes=len(text), blake3=files.digest(text))
    record = msgspec.structs.replace(record, files={**record.files, name: entry})
    (path / manifest.NAME).write_bytes(manifest.encode(record))


def identical(first: Any, second: Any) -> bool:
    """Whether two values are of one type and the same bit by bit, order and layout included."""
    if type(first) is not type(second) and not isinstance(first, np.generic):
        return False
    if isinstance(first, float):
        return struct.pack(">d", first) == struct.pack(">d", second)
    if isinstance(first, complex):
        return identical(first.real, second.real) and identical(first.imag, second.imag)
    if isinstance(first, (np.ndarray, np.generic)):
        return _identical_arrays(np.asarray(first), np.asarray(second))
    if isinstance(first, decimal.Decimal):
        return first.as_tuple() == second.as_tuple()
    if isinstance(first, (datetime.datetime, datetime.time)):
        return repr(first) == repr(second) and first.fold == second.fold
    if isinstance(first, Mapping):
        factories = [getattr(item, "default_factory", None) for item in (first, second)]
        return factories[0] is factories[1] and identical([*first.items()], [*second.items()])
    if isinstance(first, (list, tuple, deque)):
        limits = [getattr(item, "maxlen", None) for item in (first, second)]
        same = len(first) == len(second) and limits[0] == limits[1]
        return same and all(map(identical, first, second))
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return all(identical(getattr(first, name), getattr(second, name)) for name in names)
    if isinstance(first, types.SimpleNamespace):
        return identical(vars(first), vars(second))
    return bool(first == second)


def _identical_arrays(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    steps = [
        [step for n, step in zip(array.shape, array.strides, strict=True) if n > 1]
        for array in (first, second)
    ]
    if first.size and steps[0] != steps[1]:
        return False
    if first.dtype == object:
        return identical(first.reshape(-1).tolist(), second.reshape(-1).tolist())
    return without_padding(first).tobytes() == without_padding(second).tobytes()

"""Descriptions of Gymnasium's spaces, from the records of them in a pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rekindle import spaces
from rekindle.errors import RekindleError, UnsupportedError
from rekindle.state import Record, Reference

_LABEL = re.compile(r"(gymnasium|gym)\.spaces\.(\w+):(\w+)")
_SIMPLE = (
    "low", "high", "bounded_below", "bounded_above", "n", "start", "nvec", "min_length",
    "max_length", "stack", "sort_keys",
)  # fmt: skip
_MOST_SPACES = 10_000
_TYPES = re.compile(r"numpy:(bool_?|u?int(8|16|32|64)|float(16|32|64))")


class Space:
    """Looks to `spaces.describe` like a live space, with attributes from a file."""


Space.__module__ = "gymnasium.spaces.space"


def _stand_in(name: str) -> type[Space]:
    return type(name, (Space,), {"__module__": f"gymnasium.spaces.{name.lower()}"})


_STAND_INS = {
    name: _stand_in(name)
    for name in (
        "Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text", "Dict", "Tuple", "Sequence",
        "Graph", "OneOf",
    )
}  # fmt: skip


def describe(record: Any) -> dict[str, Any] | None:
    """What `rekindle.spaces.describe` would say of the space that a record tells of.

    Returns:
        The description, or None where the record is none of a space, or a malformed one.
    """
    try:
        description = spaces.describe(_Stand().space(record, 0))
        spaces.summary(description)  # refuses what no live space would be described as
    except (RekindleError, AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None
    return description


class _Stand:
    """Makes what stands for a space and for all spaces in it, up to some number."""

    def __init__(self) -> None:
        self._room = _MOST_SPACES

    def space(self, record: Any, depth: int) -> Space:
        """What stands for one space."""
        self._room -= 1
        if self._room < 0:
            raise UnsupportedError("space: expected fewer spaces inside one.")
        return _space(self, record, depth)


def _space(stand: _Stand, record: Any, depth: int) -> Space:
    match = _LABEL.fullmatch(record.label) if isinstance(record, Record) else None
    if match is None or match[3] not in _STAND_INS or depth > spaces.MAX_DEPTH:
        raise UnsupportedError("space: expected the record of a Gymnasium space.")
    space = _STAND_INS[match[3]]()
    fields: dict[str, Any] = {name: record[name] for name in _SIMPLE if name in record}
    fields["dtype"] = _dtype(record.get("dtype"))
    fields["shape"] = record.get("_shape", record.get("shape"))
    if fields["shape"] is None and isinstance(fields.get("low"), np.ndarray):
        fields["shape"] = fields["low"].shape
    if match[3] == "MultiBinary":
        fields["n"] = _plain_sizes(fields["n"])
    for name in _SIMPLE:
        if not isinstance(fields.get(name, 0), (int, float, tuple, np.ndarray, np.generic)):
            raise UnsupportedError(f"space: expected numbers as {name}.")
        if isinstance(fields.get(name), np.ndarray) and fields[name].size > spaces.MAX_ELEMENTS:
            raise UnsupportedError("space: expected bounds of a size that can be.")
    if "_char_list" in record:
        fields["character_list"] = tuple(record["_char_list"])
    for name in ("feature_space", "node_space", "edge_space"):
        if record.get(name) is not None:
            fields[name] = stand.space(record[name], depth + 1)
    parts = record.get("spaces")
    if isinstance(parts, Mapping):
        fields["spaces"] = {key: stand.space(part, depth + 1) for key, part in parts.items()}
    elif parts is not None:
        fields["spaces"] = tuple(stand.space(part, depth + 1) for part in parts)
    vars(space).update(fields)
    return space


def _plain_sizes(value: Any) -> Any:
    if isinstance(value, (tuple, list, np.ndarray)):
        return tuple(int(size) for size in value)
    return int(value)


def _dtype(value: Any) -> Any:
    """A dtype, also where it was a class of numpy's, as old versions of Gym have it."""
    if isinstance(value, Reference) and _TYPES.fullmatch(value):
        return np.dtype(value.partition(":")[2].rstrip("_"))
    return value

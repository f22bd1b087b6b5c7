"""Whether two readings of checkpoints hold the same: every array bit for bit, every value."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from rekindle.formats.protocol import Reading
from rekindle.pickles.records import Recorded
from rekindle.state import Record
from rekindle.tensors import Tensors

_FACTS = (
    "kind", "version", "step", "counters", "metrics", "spaces", "environment", "notes", "details",
)  # fmt: skip


def differences(
    one: Reading,
    other: Reading,
    facts: tuple[str, ...] = _FACTS,
    *,
    is_ordered: bool = True,
    is_shared: bool = True,
) -> list[str]:
    """Where two readings differ, by path; the names of their formats may.

    Args:
        one: A reading.
        other: Another.
        facts: What is compared beside the components.
        is_ordered: Whether names come in the same order.
        is_shared: Whether what is one object in one of them is one in the other.
    """
    comparing = _Comparing(one.tensors, other.tensors, is_ordered, is_shared)
    comparing.compare(dict(one.components), dict(other.components), "components")
    for fact in facts:
        comparing.compare(getattr(one, fact), getattr(other, fact), fact)
    return comparing.found


class _Comparing:
    def __init__(self, one: Tensors, other: Tensors, is_ordered: bool, is_shared: bool) -> None:
        self._tensors = (one, other)
        self._is_ordered = is_ordered
        self._is_shared = is_shared
        self._met: dict[int, Any] = {}
        self._held: list[Any] = []
        self.found: list[str] = []

    def compare(self, one: Any, other: Any, path: str) -> None:
        if len(self.found) > 20:
            return
        if type(one) is not type(other):
            self.found.append(f"{path}: {type(one).__name__} and {type(other).__name__}")
            return
        if isinstance(one, (Mapping, list, tuple, set, np.ndarray, Record)):
            if id(one) in self._met:
                # What is one object on one side is one object on the other.
                if self._is_shared and self._met[id(one)] is not other:
                    self.found.append(f"{path}: one object in two places, and two objects")
                return
            if not isinstance(one, tuple):
                self._met[id(one)] = other
                self._held.append(one)  # so that its address is not given to another
        if isinstance(one, np.ndarray):
            self._arrays(one, other, path)
        elif isinstance(one, Record):
            self._records(one, other, path)
        elif isinstance(one, Mapping):
            keys = [list(map(repr, part)) for part in (one, other)]
            if not self._is_ordered:
                keys = [sorted(part) for part in keys]
            self._values(keys[0], keys[1], f"{path}.keys()")
            for key in one.keys() & other.keys():
                self.compare(one[key], other[key], f"{path}.{key}")
            self._values(getattr(one, "__dict__", {}), getattr(other, "__dict__", {}), path)
            if isinstance(one, collections.defaultdict):
                self._values(one.default_factory, other.default_factory, path)
        elif isinstance(one, (list, tuple, collections.deque)):
            self._values(len(one), len(other), f"{path}: length")
            for index, (a, b) in enumerate(zip(one, other, strict=False)):
                self.compare(a, b, f"{path}[{index}]")
        elif one != other and not (one != one and other != other):
            self.found.append(f"{path}: {one!r} and {other!r}")

    def _values(self, one: Any, other: Any, path: str) -> None:
        if isinstance(one, dict):
            if one or other:
                self.compare(one, other, path)
        elif isinstance(one, list) and not all(isinstance(part, np.ndarray) for part in one):
            if repr(one) != repr(other):
                self.found.append(f"{path}: {one!r} and {other!r}"[:200])
        elif one != other:
            self.found.append(f"{path}: {one!r} and {other!r}"[:200])

    def _arrays(self, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], path: str) -> None:
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            self.found.append(f"{path}: {one.dtype} {one.shape} and {other.dtype} {other.shape}")
        elif one.dtype.hasobject:
            self.compare(one.reshape(-1).tolist(), other.reshape(-1).tolist(), path)
        elif one.tobytes() != other.tobytes():
            self.found.append(f"{path}: other bytes")
        elif one.flags.f_contiguous != other.flags.f_contiguous:
            self.found.append(f"{path}: another order in memory")
        told = [
            None if found is None else (found.dtype, found.device, found.requires_grad,
                                        found.is_parameter)
            for found in (self._tensors[0].of(one), self._tensors[1].of(other))
        ]  # fmt: skip
        self._values(told[0], told[1], f"{path}: as a tensor")

    def _records(self, one: Record, other: Record, path: str) -> None:
        self._values(one.label, other.label, f"{path}: label")
        self.compare(dict(one), dict(other), path)
        if isinstance(one, Recorded):
            for slot in Recorded.__slots__:
                self.compare(getattr(one, slot), getattr(other, slot), f"{path}<{slot}>")

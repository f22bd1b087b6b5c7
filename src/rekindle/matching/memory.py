"""Live memory that answers for stored arrays, so that those which share it go on sharing it."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np

from rekindle.codecs import arrays
from rekindle.state import Source, view_of


class Memory:
    """Which live bytes stand for which stored array.

    Args:
        source: Where the stored arrays come from.
        hosts: Gives the names of those in whose memory others are.
    """

    def __init__(self, source: Source, hosts: Callable[[], set[str]]) -> None:
        self._source = source
        self._find_hosts = hosts
        self._hosts: set[str] | None = None
        self._spans: list[tuple[int, int, str]] = []
        self._known: dict[str, np.ndarray[Any, Any]] = {}

    def claim(
        self,
        array: np.ndarray[Any, Any],
        node: dict[str, Any],
        whole: np.ndarray[Any, Any] | None = None,
    ) -> bool:
        """Let live memory answer for a stored array, unless it cannot: `Engine.claim_memory`."""
        if array.size == 0:
            return True
        token = _memory_name(node)
        if not self.is_shared(node):
            return self._claim_span(array, token)
        memory = self._shared_memory(array, node, _whole(array) if whole is None else whole)
        if memory is None:
            return False
        known = self._known.get(token, memory)
        if known.ctypes.data != memory.ctypes.data or not self._claim_span(memory, token):
            return False
        self._known[token] = known
        return True

    def is_shared(self, node: dict[str, Any]) -> bool:
        """Whether other arrays are views of the same memory as an array."""
        if "$view" in node:
            return True
        if self._hosts is None:
            self._hosts = self._find_hosts()
        return node["$array"] in self._hosts

    def place(
        self, node: dict[str, Any], dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        """A new array for a node, in the memory that it shares with others.

        Args:
            node: The array's node.
            dtype: Its type.
            shape: Its shape.
        """
        token = _memory_name(node)
        if token not in self._known:
            raw = arrays.aligned_copy(self._source.array(token).raw, arrays.ALIGNMENT)
            self._known[token] = raw.reshape(-1).view(np.uint8)
        memory = self._known[token]
        if "$view" in node:
            return view_of(memory, node, dtype)
        return memory.view(dtype).reshape(shape)

    def _shared_memory(
        self, array: np.ndarray[Any, Any], node: dict[str, Any], whole: np.ndarray[Any, Any] | None
    ) -> np.ndarray[Any, Any] | None:
        """The live bytes that stand for a stored array, if they hold this view of it."""
        is_same = _has_strides(array, node["strides"]) if "$view" in node else (
            array.flags.c_contiguous)  # fmt: skip
        if not is_same or whole is None:
            return None
        first = array.ctypes.data - node.get("offset", 0) - whole.ctypes.data
        last = first + self._source.array(_memory_name(node)).raw.nbytes
        return whole[first:last] if 0 <= first <= last <= whole.size else None

    def _claim_span(self, array: np.ndarray[Any, Any], token: str) -> bool:
        address = array.ctypes.data
        steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
        low = address + sum(step for step in steps if step < 0)
        high = address + sum(step for step in steps if step > 0) + array.itemsize
        first = bisect.bisect_left(self._spans, (low,))
        if first and self._spans[first - 1][1] > low:
            first -= 1
        last = first
        while last < len(self._spans) and self._spans[last][0] < high:
            if self._spans[last][2] != token:
                return False
            low, high = min(low, self._spans[last][0]), max(high, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(low, high, token)]
        return True


def _memory_name(node: dict[str, Any]) -> str:
    """The stored array in whose memory an array is: itself, or the one it is a view of."""
    return node["$view"] if "$view" in node else node["$array"]


def _whole(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """All bytes of the array that owns the memory, if they are in one row."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.reshape(-1, order="A").view(np.uint8) if array.flags.forc else None


def _has_strides(array: np.ndarray[Any, Any], strides: list[int]) -> bool:
    return all(
        n <= 1 or found == stored
        for n, found, stored in zip(array.shape, array.strides, strides, strict=True)
    )

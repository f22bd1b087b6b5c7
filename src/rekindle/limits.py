"""How much a file may ask for: memory, depth, time per step; counted before it is taken."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from rekindle.errors import UnsafeError

MAX_BYTES = 4 << 30
"""Default of `max_bytes`: memory that values may take, beside arrays that stay in the file."""
SNIFF_BYTES = 64 << 20
"""The same while it is only asked what a file is."""
MAX_DEPTH = 10_000
"""Deepest nesting of values that are built from within, such as tuples in tuples."""
MAPPED_BYTES = 1 << 16
"""Payloads from this size on are views of the file; smaller ones are copied."""

_SLOW_SECONDS = 0.25
_MOST_INNER = 3
"""How many times its size the files inside a file may have together, over all levels."""
_SLOW_TOTAL_SECONDS = 2.0
_SLOW_KEY = 20e-6
"""Seconds per key, over all tables of a file, that no honest keys take."""
_LEAST_INNER_BYTES = 400
"""What a file inside a file counts at least: the smallest of torch's takes about as much."""
_ALIKE_FROM = 256
"""From how many keys on equal hashes are looked for; fewer cost little whatever they are."""
AT_ONCE = 4096
"""Keys that are hashed before time is looked at."""


class Budget:
    """What is left of the memory that one file may take.

    The numbers charged are upper estimates for CPython, so that the memory of the process stays
    near the limit or below it. One budget serves all that is read from one file, archives inside
    archives included.

    Args:
        max_bytes: The limit.
        name: The file, for messages.
    """

    def __init__(self, max_bytes: int | None = None, name: str = "") -> None:
        self.max_bytes = MAX_BYTES if max_bytes is None else max_bytes
        self.name = name
        self.spent = 0
        self._inner_room = 0

    def charge(self, num_bytes: int) -> None:
        """Count memory that is about to be taken.

        Raises:
            UnsafeError: It is more than is left.
        """
        self.spent += num_bytes
        if self.spent > self.max_bytes:
            raise self.exceeded()

    def admit(self, num_bytes: int) -> None:
        """Tell of bytes on disk, in which files may be that are read as well; see `enter`."""
        self._inner_room += _MOST_INNER * num_bytes

    def enter(self, num_bytes: int) -> None:
        """Count a file inside another that is about to be read.

        Each is read once in an honest file. One that is referred to again and again, at several
        levels, would take for ever and hardly any memory.

        Raises:
            UnsafeError: Far more is read than there is.
        """
        self._inner_room -= max(num_bytes, _LEAST_INNER_BYTES)
        if self._inner_room < 0:
            raise UnsafeError(
                f"{self.name}: expected files inside it that are each read once, found some that "
                "are read again and again. The file was made to take for ever; nothing was kept.",
                path=self.name,
            )

    def exceeded(self) -> UnsafeError:
        """The error for a file that asks for more than the limit."""
        return UnsafeError(
            f"{self.name}: expected values of at most {self.max_bytes:,} bytes, found more. "
            "Nothing was kept. If the file is trusted and memory suffices, pass a larger "
            "max_bytes=.",
            path=self.name,
        )


class Hashing:
    """Fills dictionaries and sets, on guard against keys that were chosen to collide.

    Numbers have no secret in their hash, so a file can choose keys that each take as long as all
    before them. A few thousand keys take well under a millisecond otherwise.

    Args:
        name: The file, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._seconds = 0.0
        self._count = 0

    def pairs(self, out: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Put keys with their values into a dictionary.

        Raises:
            UnsafeError: It takes far too long.
        """
        # A Counter's own method adds; the order of an OrderedDict needs its own.
        put = OrderedDict.update if isinstance(out, OrderedDict) else dict.update
        if len(keys) < _ALIKE_FROM:
            put(out, zip(keys, values, strict=True))
            return
        for begin in range(0, len(keys), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            pairs = zip(keys[part], values[part], strict=True)
            self._timed(functools.partial(put, out), pairs, keys[part])

    def members(self, out: set[Any], values: Sequence[Any]) -> None:
        """Put values into a set.

        Raises:
            UnsafeError: It takes far too long.
        """
        for begin in range(0, len(values), AT_ONCE):
            part = values[begin : begin + AT_ONCE]
            self._timed(out.update, part, part)

    def _timed(self, fill: Callable[[Any], None], part: Any, keys: Sequence[Any]) -> None:
        if len(keys) >= _ALIKE_FROM and 2 * len(set(map(hash, keys))) < len(keys):
            raise self._colliding()
        began = time.thread_time()
        fill(part)
        seconds = time.thread_time() - began
        self._seconds += seconds
        self._count += len(keys)
        is_slow = self._seconds > _SLOW_TOTAL_SECONDS and self._seconds > _SLOW_KEY * self._count
        if seconds > _SLOW_SECONDS or is_slow:
            raise self._colliding()

    def _colliding(self) -> UnsafeError:
        return UnsafeError(
            f"{self._name}: expected keys that spread over a table, found many that collide. "
            "The file was made to take for ever; nothing was kept.",
            path=self._name,
        )

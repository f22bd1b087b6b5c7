"""A stretch of bytes, in memory or in a mapped file, that is read where it lies."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle.errors import DamagedError, NotFoundError


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` to `stop` of a buffer; nothing is copied until it is asked for.

    Indexing and slicing `buffer` gives integers and bytes, as reading one operation after another
    needs them; `view` gives memory without a copy.
    """

    buffer: bytes | mmap.mmap
    start: int
    stop: int
    name: str
    """What to call it in messages: a path, and the member of an archive after a colon."""

    def __len__(self) -> int:
        return self.stop - self.start

    def bytes(self, begin: int = 0, end: int | None = None) -> bytes:
        """A copy of some of it, by distance from its start; shorter where it ends."""
        stop = self.stop if end is None else min(self.start + end, self.stop)
        return self.buffer[self.start + begin : stop]

    def view(self, begin: int = 0, end: int | None = None) -> memoryview:
        """The memory itself."""
        stop = self.stop if end is None else min(self.start + end, self.stop)
        return memoryview(self.buffer)[self.start + begin : stop]

    def array(self, begin: int = 0, end: int | None = None) -> np.ndarray[Any, Any]:
        """The memory as an array of bytes."""
        return np.frombuffer(self.view(begin, end), np.uint8)

    def part(self, begin: int, end: int, name: str) -> Span:
        """A stretch inside it.

        Raises:
            DamagedError: It would not lie inside.
        """
        if not 0 <= begin <= end <= len(self):
            raise DamagedError(
                f"{self.name}: expected {name} inside {len(self)} bytes, found it at "
                f"{begin} to {end}. The file is truncated or malformed.",
                path=self.name,
                key=name,
            )
        return Span(self.buffer, self.start + begin, self.start + end, f"{self.name}:{name}")


def of_bytes(data: bytes, name: str) -> Span:
    """All of some bytes in memory."""
    return Span(data, 0, len(data), name)


def of_file(path: Path) -> Span:
    """All of a file, mapped copy-on-write: what is not touched is not read.

    Raises:
        NotFoundError: There is no such file, or it is a directory.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise NotFoundError(f"{path}: expected a file, found {found}.", path=path)
    if path.stat().st_size == 0:
        return of_bytes(b"", str(path))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return Span(mapped, 0, len(mapped), str(path))

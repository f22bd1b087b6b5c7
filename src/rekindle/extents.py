"""Bytes to be read from disk: those of a whole file, or of a part of one.

Whoever reads a checkpoint need not know whether a file of it lies in a directory or in an archive.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from rekindle import files
from rekindle.files import Array, FileRecord

_READ_BYTES = 4 << 20


class Held:
    """A file held open for reading, so that it stays the same when another takes its name."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self.fd)


@dataclass(frozen=True)
class Extent:
    """Bytes on disk that belong together: those of a file, or of one member of an archive."""

    path: Path
    """What messages call it."""
    size: int
    """How many bytes."""
    begin: int = 0
    """Where they begin in the file that holds them."""
    held: Held | None = None
    """The file that holds them, where that is not `path` itself."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file that holds them."""
        if self.held is not None:
            yield self.held.fd
            return
        fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self) -> bytes:
        """All of them; fewer when the file was cut off meanwhile."""
        with self.opened() as fd:
            return read_at(fd, self.begin, self.size)

    def chunks(self) -> Iterator[memoryview]:
        """All of them in pieces, each of which is good until the next is asked for."""
        buffer = memoryview(bytearray(min(max(self.size, 1), _READ_BYTES)))
        offset, end = self.begin, self.begin + self.size
        with self.opened() as fd:
            while offset < end:
                count = os.preadv(fd, [buffer[: end - offset]], offset)
                if not count:
                    return
                yield buffer[:count]
                offset += count

    def digest(self) -> FileRecord:
        """Size and BLAKE3.

        They are read, not mapped: that is faster from a disk. And a bad sector, or a process that
        shortens the file meanwhile, is an error here; under a map it would be the end of the
        process.
        """
        hasher = blake3(max_threads=blake3.AUTO if self.size > 1 << 20 else 1)
        size = 0
        for chunk in self.chunks():
            hasher.update(chunk)
            size += len(chunk)
        return FileRecord(size, hasher.hexdigest())

    def map(self) -> Array:
        """Mapped copy-on-write: arrays over them can be changed without touching the file."""
        if not self.size:
            return np.empty(0, np.uint8)
        before = self.begin % mmap.ALLOCATIONGRANULARITY
        offset, length = self.begin - before, before + self.size
        with self.opened() as fd:
            mapped = mmap.mmap(fd, length, access=mmap.ACCESS_COPY, offset=offset)
        return np.frombuffer(mapped, np.uint8)[before:]


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Bytes of an open file; fewer than `size` only at its end."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def whole(path: Path) -> Extent:
    """All bytes of a file."""
    return Extent(path, path.stat().st_size)


def copy(extent: Extent, target: files.Target) -> FileRecord:
    """Write bytes that are on the disk to another place, as a whole new file."""
    out = files.output(target, extent.size)
    try:
        for chunk in extent.chunks():
            out.write(np.frombuffer(chunk, np.uint8))
    except BaseException:
        out.abandon()
        raise
    return out.close()

"""Rows of arrays in one file, as they are or compressed, and back into live memory.

A segment is a safetensors file. An array that is compressed in it is one zstd frame, stored as
bytes. Frames of games shrink to a hundredth faster than a disk takes them; floats hardly shrink.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files
from rekindle.codecs import arrays
from rekindle.errors import DamagedError, MissingDependencyError

Array = np.ndarray[Any, Any]

ZSTD = "zstd"
_LEVEL = 1
_SAMPLE_BYTES = 1 << 20
_LEAST_ROW_BYTES = 256
"""Rows of fewer bytes are no pictures."""
_LEAST_BYTES = 1 << 16
"""Less than this is not worth a codec."""


@dataclass(frozen=True)
class Column:
    """Rows of one array on their way to a file: the safetensors type, and the rows in pieces."""

    code: str
    pieces: list[Array]

    @property
    def num_bytes(self) -> int:
        """Size as they are."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows as one array."""
        first = self.pieces[0]
        return (sum(len(piece) for piece in self.pieces), *first.shape[1:])


class Pace:
    """How fast the disk takes bytes, as seen so far."""

    def __init__(self, bytes_per_second: float = 1.5e9) -> None:
        self.bytes_per_second = bytes_per_second

    def note(self, num_bytes: int, seconds: float) -> None:
        """Take a write of many bytes into account."""
        if num_bytes >= files.DIRECT_BYTES and seconds > 0:
            self.bytes_per_second += 0.25 * (num_bytes / seconds - self.bytes_per_second)


PACE = Pace()


def codec_for(
    rows: Array, num_bytes: int, pace: Pace = PACE, *, num_threads: int = 1
) -> str | None:
    """Which codec makes writing these rows faster; found by compressing a sample of them.

    Args:
        rows: Some rows of the array, at least.
        num_bytes: How many bytes will be written.
        pace: How fast the disk is.
        num_threads: How many compress at a time.
    """
    row_bytes = math.prod(rows.shape[1:]) * rows.itemsize
    if rows.dtype != np.uint8 or row_bytes < _LEAST_ROW_BYTES or num_bytes < _LEAST_BYTES:
        return None
    compressor = _compressor()
    if compressor is None:
        return None
    sample = np.ascontiguousarray(rows[: max(1, _SAMPLE_BYTES // row_bytes)])
    size, seconds = 0, math.inf
    for _ in range(2):  # the first is cold
        # Of this thread alone: other work on the machine says nothing of the codec.
        begin = time.thread_time()
        size = len(compressor(sample.data))
        seconds = min(seconds, time.thread_time() - begin)
    plain = sample.nbytes / pace.bytes_per_second
    return ZSTD if seconds / num_threads + size / pace.bytes_per_second < plain else None


def _compressor() -> Callable[[Any], bytes] | None:
    try:
        import zstandard
    except ImportError:  # what is not there is not used: rows are written as they are
        return None
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress


def write(
    target: files.Target, columns: Mapping[str, Column], codecs: Mapping[str, str]
) -> files.FileRecord:
    """Write one segment; flushing is the caller's.

    Args:
        target: Where the new file goes.
        columns: Rows by the name of their array, all of one count.
        codecs: Which arrays to compress, and how.
    """
    header: dict[str, dict[str, Any]] = {}
    parts: list[Sequence[Any]] = []
    offset = 0
    for name, column in sorted(columns.items(), key=lambda item: -item[1].pieces[0].itemsize):
        if name in codecs:
            frame = _compressed(column)
            code, shape, size = "U8", (len(frame),), len(frame)
            parts.append([frame])
        else:
            code, shape, size = column.code, column.shape, column.num_bytes
            parts.append(column.pieces)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (offset, offset + size)}
        offset += size
    text = arrays.header(header)
    begin = time.perf_counter()
    output = files.output(target, len(text) + offset)
    try:
        output.write(text)
        for pieces in parts:
            for piece in pieces:
                output.write(piece if isinstance(piece, bytes) else np.ascontiguousarray(piece))
    except BaseException:
        output.abandon()
        raise
    record = output.close()
    PACE.note(record.bytes, time.perf_counter() - begin)
    return record


def _compressed(column: Column) -> bytes:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    if len(column.pieces) == 1:
        return compressor.compress(np.ascontiguousarray(column.pieces[0]).reshape(-1).data)
    stream = compressor.compressobj(size=column.num_bytes)
    frames = [stream.compress(np.ascontiguousarray(p).reshape(-1).data) for p in column.pieces]
    return b"".join([*frames, stream.flush()])


def read_into(
    file: arrays.ArrayFile, name: str, codec: str | None, skip: int, target: Array
) -> None:
    """Put rows of a segment into memory.

    Args:
        file: The segment.
        name: Which array.
        codec: How it is compressed.
        skip: Rows of the segment to pass over.
        target: Where they go, C-contiguous; its length says how many.

    Raises:
        DamagedError: The segment does not hold these rows.
    """
    raw = file[name].raw
    if codec is None:
        found = raw[skip : skip + len(target)]
        if found.dtype != target.dtype or found.shape != target.shape:
            raise _unfit(file.path, name, target, f"{found.dtype} of shape {found.shape}")
        target[...] = found
        return
    if codec != ZSTD:
        raise _unfit(file.path, name, target, f"the codec {codec}")
    row_bytes = math.prod(target.shape[1:]) * target.itemsize
    _decompress(file.path, name, raw, skip * row_bytes, target)


def _decompress(path: Path, name: str, frame: Array, num_skipped: int, target: Array) -> None:
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: expected zstandard to be installed, because these rows are compressed, "
            "found that it is not. Install it with `pip install rekindle[zstd]`.",
            path=path,
        ) from error
    view = target.reshape(-1).view(np.uint8).data
    scratch = memoryview(bytearray(min(num_skipped, _SAMPLE_BYTES)))
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame.data) as stream:
            while num_skipped:
                count = stream.readinto(scratch[: min(len(scratch), num_skipped)])
                if not count:
                    raise _unfit(path, name, target, "fewer rows")
                num_skipped -= count
            while view:
                count = stream.readinto(view)
                if not count:
                    raise _unfit(path, name, target, "fewer rows")
                view = view[count:]
    except zstandard.ZstdError as error:
        raise _unfit(path, name, target, f"bytes that are no zstd frame ({error})") from error


def _unfit(path: Path, name: str, target: Array, found: str) -> DamagedError:
    return DamagedError(
        f"{path}: expected rows of {name!r}, {target.dtype} of shape {target.shape}, found "
        f"{found}. The file is damaged or malformed; other components still load.",
        path=path,
        key=name,
    )

"""Arrays in safetensors files: written in one pass, read by memory map.

An array is stored by its logical content, little-endian, C order. What safetensors cannot name
(complex, big-endian, strings, structured, strides) is stored as a plain array that it can, and the
rest is said in the array's node. Layout: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from rekindle import extents, files
from rekindle.codecs import dtypes
from rekindle.errors import DamagedError, FormatError

Array = np.ndarray[Any, Any]

CODES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"), "F8_E8M0": np.dtype("u1"),
}  # fmt: skip
"""Type names of safetensors, with the numpy type that holds their bits."""

BITS_ONLY = {"BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"}
"""Those whose values numpy cannot read by itself."""

_CODE_OF: dict[str, str] = {
    dtype.str: code for code, dtype in CODES.items() if code not in BITS_ONLY
}
_LARGEST_HEADER_BYTES = 100_000_000
ALIGNMENT = 64
"""At multiples of how many bytes frameworks let arrays begin.

Sums are split at the width of a vector register, so one over memory that begins elsewhere can
differ in its last bits.
"""
_JOINED_BYTES = 1 << 19
"""Arrays smaller than this are joined up to this size before they are written."""


@dataclass(slots=True)
class Stored:
    """One array on its way to a file, or mapped from one: a safetensors type and its bits."""

    code: str
    raw: Array
    """The stored array; of `CODES[code]`, any strides, little-endian."""


def encode(array: Array) -> tuple[Stored, dict[str, Any]]:
    """A numpy array as something that safetensors can name, and what its node has to say.

    No bytes are copied unless the array is complex, big-endian or of a compound type and not
    contiguous.

    Raises:
        TypeError: The dtype holds Python objects, or is not one of numpy's own.
    """
    code = _CODE_OF.get(array.dtype.str)
    if code is not None and array.flags.c_contiguous:
        return Stored(code, array), {}
    extra: dict[str, Any] = {}
    shape = array.shape
    if array.size and any(s == 0 and n > 1 for s, n in zip(array.strides, shape, strict=True)):
        extra["shape"] = list(shape)
        array = array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)]
    strides = array.strides
    if code is not None:
        stored = Stored(code, array)
    else:
        extra["dtype"] = dtypes.describe(array.dtype)
        stored = _encode_compound(array)
    if "shape" in extra:
        extra["strides"] = [
            0 if n > 1 == m else s for n, m, s in zip(shape, array.shape, strides, strict=True)
        ]
    elif not array.flags.c_contiguous:
        extra["strides"] = list(strides)
    return stored, extra


def _encode_compound(array: Array) -> Stored:
    dtype = array.dtype
    swapped = _CODE_OF.get(dtype.newbyteorder("<").str)
    if swapped is not None:
        return Stored(swapped, array.astype(dtype.newbyteorder("<")))
    array = np.ascontiguousarray(array).reshape(array.shape)
    if dtype.kind == "c" and dtype.itemsize <= 16:
        part = np.dtype(f"<f{dtype.itemsize // 2}")
        little = array.reshape(-1).astype(dtype.newbyteorder("<"), copy=False)
        return Stored(_CODE_OF[part.str], little.view(part).reshape(*array.shape, 2))
    if dtype.kind in "mM":
        return Stored("I64", array.astype(dtype.newbyteorder("<")).view("<i8"))
    if dtype.itemsize == 0 or array.size == 0:
        return Stored("U8", np.zeros((*array.shape, dtype.itemsize), np.uint8))
    array = dtypes.without_padding(array)
    return Stored("U8", array.reshape(-1).view(np.uint8).reshape(*array.shape, dtype.itemsize))


def decode(stored: Stored, node: Mapping[str, Any]) -> Array:
    """The numpy array that `encode` was given, over the same memory where that is possible.

    Strides are not rebuilt here, except that an expanded array is expanded again: see `restride`.

    Raises:
        FormatError: The node and the stored array do not belong together.
    """
    raw = stored.raw
    try:
        if stored.code in BITS_ONLY:
            raw = view_bits(raw, stored.code)
        elif "dtype" in node:
            raw = _decode_compound(raw, dtypes.build(node["dtype"]))
        if "shape" in node:
            raw = np.broadcast_to(raw, tuple(node["shape"]))
    except (ValueError, TypeError) as error:
        raise FormatError(
            f"expected an array that fits its description {dict(node)}, found {stored.code} "
            f"{stored.raw.shape} ({error}). The document is malformed."
        ) from error
    return raw


def _decode_compound(raw: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "c" and dtype.itemsize <= 16:
        little = np.ascontiguousarray(raw).view(dtype.newbyteorder("<"))
        return little.reshape(raw.shape[:-1]).astype(dtype, copy=False)
    if dtype.kind in "mM":
        return raw.view(dtype.newbyteorder("<")).astype(dtype, copy=False)
    if dtype.newbyteorder("<").str in _CODE_OF:
        return raw.astype(dtype)
    if raw.shape[-1] != dtype.itemsize:
        raise ValueError(f"items of {raw.shape[-1]} bytes for {dtype}")
    if dtype.itemsize == 0 or raw.size == 0:
        return np.zeros(raw.shape[:-1], dtype)
    return np.ascontiguousarray(raw).view(dtype).reshape(raw.shape[:-1])


def view_bits(raw: Array, code: str) -> Array:
    """Bits of a type that numpy lacks, under the name of that type."""
    return raw.view(_bits_dtype(code))


def _bits_dtype(code: str) -> np.dtype[Any]:
    """numpy's name for a type it lacks: `ml_dtypes`' where loaded, else a field of raw bits."""
    name = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
            "F8_E8M0": "float8_e8m0fnu"}[code]  # fmt: skip
    return dtypes.extended(name)


def restride(array: Array, strides: list[int]) -> Array:
    """A copy of an array with the given strides in bytes, in memory of its own.

    Sums over the same numbers can differ with the order in which memory is walked, so an array
    that is rebuilt gets the strides that it had.
    """
    low = sum(min(0, (n - 1) * s) for n, s in zip(array.shape, strides, strict=True))
    high = sum(max(0, (n - 1) * s) for n, s in zip(array.shape, strides, strict=True))
    span = high - low + array.dtype.itemsize
    if array.size == 0 or span > 8 * array.nbytes + 4096:
        return array.copy()
    memory = np.zeros(span, np.uint8)
    copy = np.ndarray(array.shape, array.dtype, memory, -low, tuple(strides))
    axes = tuple(slice(0, 1) if s == 0 else slice(None) for s in strides)
    copy[axes] = array[axes]
    return copy


def aligned_copy(array: Array, alignment: int) -> Array:
    """A copy of an array, in C order, that begins at a multiple of `alignment` bytes."""
    memory = np.empty(array.nbytes + alignment, np.uint8)
    begin = -memory.ctypes.data % alignment
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# --------------------------------------------------------------------------- files


def write(
    target: files.Target, arrays: Mapping[str, Stored], *, metadata: Mapping[str, str] | None = None
) -> files.FileRecord:
    """Write arrays as one new safetensors file; flushing is the caller's.

    Those of whole multiples of `ALIGNMENT` come first, so that each begins at one; the others
    follow, those of the largest items first.
    """
    return _write(target, *_contents(arrays, metadata))


def _write(
    target: files.Target, size_bytes: int, parts: Iterable[Array | bytes]
) -> files.FileRecord:
    output = files.output(target, size_bytes)
    try:
        for part in parts:
            output.write(part)
    except BaseException:
        output.abandon()
        raise
    return output.close()


def record(arrays: Mapping[str, Stored]) -> files.FileRecord:
    """Size and digest of the file that `write` would make."""
    return _record(*_contents(arrays))


def _record(size_bytes: int, parts: Iterable[Array | bytes]) -> files.FileRecord:
    hasher = blake3(max_threads=blake3.AUTO if size_bytes > 1 << 20 else 1)
    for part in parts:
        hasher.update(part if isinstance(part, bytes) else part.reshape(-1).view(np.uint8).data)
    return files.FileRecord(size_bytes, hasher.hexdigest())


def _contents(
    arrays: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> tuple[int, Iterator[Array | bytes]]:
    """Size of a file of these arrays, and its bytes in pieces."""
    text, offsets, num_bytes = _laid_out(arrays, metadata)
    pieces = _gathered(arrays[name].raw for name in offsets)
    return len(text) + num_bytes, itertools.chain([text], pieces)


def _laid_out(
    arrays: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int], int]:
    """What stands before the data, where among them each array begins, and their size."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offsets, end = {}, 0
    for name, stored in sorted(arrays.items(), key=lambda item: _rank(item[1].raw)):
        begin, end = end, end + stored.raw.nbytes
        entries[name] = _Entry(stored.code, stored.raw.shape, (begin, end))
        offsets[name] = begin
    return header(entries), offsets, end


class Image:
    """A file of arrays as it will be, in memory: what the arrays held when it was taken.

    Args:
        arrays: What the file holds.
        memory: Where their values go: bytes, at least as many as the arrays have together.
    """

    def __init__(self, arrays: Mapping[str, Stored], memory: Array) -> None:
        self._header, offsets, self.num_bytes = _laid_out(arrays)
        """Size of the values."""
        self._data = memory[: self.num_bytes]
        self._names = [*arrays]
        self._codes = [stored.code for stored in arrays.values()]
        self._rooms = [self._room(stored.raw, offsets[name]) for name, stored in arrays.items()]

    def _room(self, raw: Array, begin: int) -> Array:
        return self._data[begin : begin + raw.nbytes].view(raw.dtype).reshape(raw.shape)

    def fits(self, arrays: Mapping[str, Stored]) -> bool:
        """Whether a file of these arrays has the same layout."""
        return (
            [*arrays] == self._names
            and [stored.code for stored in arrays.values()] == self._codes
            and all(
                room.shape == stored.raw.shape
                for room, stored in zip(self._rooms, arrays.values(), strict=True)
            )
        )

    def take(self, arrays: Mapping[str, Stored]) -> None:
        """Copy the values of arrays that fit; what is stored of each is its copy from now on."""
        for room, stored in zip(self._rooms, arrays.values(), strict=True):
            np.copyto(room, stored.raw)
            stored.raw = room

    def write(self, target: files.Target) -> files.FileRecord:
        """Write it as a new file; flushing is the caller's."""
        size_bytes = len(self._header) + self.num_bytes
        if isinstance(target, Path) and size_bytes < files.DIRECT_BYTES:
            return files.write_bytes(target, self._header, self._data.data)
        return _write(target, size_bytes, [self._header, self._data])

    def record(self) -> files.FileRecord:
        """Size and digest of the file that `write` would make."""
        return _record(len(self._header) + self.num_bytes, [self._header, self._data])


def header(entries: Mapping[str, Any]) -> bytes:
    """What stands before the data of a safetensors file, padded so that they begin aligned.

    Args:
        entries: By name `dtype`, `shape` and `data_offsets`.
    """
    text = msgspec.json.encode(entries)
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _rank(raw: Array) -> int:
    return (raw.nbytes % ALIGNMENT != 0) * ALIGNMENT - raw.itemsize


class _Entry(msgspec.Struct, gc=False):
    """What the header of a file says of one array."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _gathered(raws: Iterable[Array]) -> Iterator[Array | bytes]:
    """The bytes of arrays in a row; small ones are joined, since each write has a price."""
    small: list[memoryview] = []
    room = _JOINED_BYTES
    for raw in raws:
        contiguous = raw if raw.flags.c_contiguous else np.ascontiguousarray(raw)
        if contiguous.nbytes < room:
            small.append(contiguous.data)
            room -= contiguous.nbytes
            continue
        yield b"".join(small)
        yield contiguous
        small, room = [], _JOINED_BYTES
    yield b"".join(small)


class ArrayFile:
    """The arrays of one safetensors file, mapped copy-on-write; bytes are read when touched."""

    def __init__(self, source: Path | extents.Extent) -> None:
        extent = extents.whole(source) if isinstance(source, Path) else source
        path, size = extent.path, extent.size
        if size < 8:
            raise _malformed(path, f"at least 8 bytes, found {size}")
        self.path = path
        # Read, not mapped: the first touch of a map can make the disk read megabytes ahead.
        with extent.opened() as fd:
            length = int.from_bytes(extents.read_at(fd, extent.begin, 8), "little")
            if length > min(size - 8, _LARGEST_HEADER_BYTES):
                raise _malformed(path, f"a header of {length} bytes, found a file of {size}")
            text = extents.read_at(fd, extent.begin + 8, length)
        try:
            header = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _malformed(path, f"a JSON header ({error})") from error
        self._start = 8 + length
        self._size = size - self._start
        if not isinstance(header, dict):
            raise _malformed(path, "a JSON object as header")
        header.pop("__metadata__", None)
        self.entries: dict[str, Any] = header
        self._begin = extent.begin + self._start
        self._memory = extent.map()

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Stored:
        """One array, over the mapped bytes."""
        entry = self.entries[name]
        try:
            code, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            dtype = CODES[code]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError("sizes that are not natural numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(self.path, f"a known entry for {name!r}, found {entry}") from error
        if end > self._size or end - begin != math.prod(shape) * dtype.itemsize:
            raise _malformed(self.path, f"{name!r} inside the file, found {json.dumps(entry)}")
        raw = self._memory[self._start + begin : self._start + end]
        # Maps begin at pages, so an offset in the file tells the alignment.
        if (self._begin + begin) % dtype.itemsize:
            raw = raw.copy()
        return Stored(code, raw.view(dtype).reshape(shape))


def _malformed(path: Path, expected: str) -> DamagedError:
    return DamagedError(
        f"{path}: expected {expected}. The file is damaged or not safetensors; "
        "`rekindle verify` lists what is intact.",
        path=path,
    )

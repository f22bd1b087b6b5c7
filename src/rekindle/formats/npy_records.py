"""Records of `.npy`: one array each, as numpy writes it, one after the other in some bytes.

Source: numpy 2.4, `lib/format.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekindle.codecs import dtypes
from rekindle.errors import DamagedError, FormatError, UnsafeError, UnsupportedError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.spans import Span

Array = np.ndarray[Any, Any]

MAGIC = b"\x93NUMPY"
_PREFIX_BYTES = {1: 10, 2: 12, 3: 12}
"""How many bytes stand before the header of a record, by version of `.npy`."""
_LARGEST_HEADER_BYTES = 10_000
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^'\\]{1,64}'|\[.*\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,19},)?|\d{1,19}(?:, \d{1,19})+)\), \} *\n",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Record:
    """Where the parts of one record are, and what its header says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    begin: int
    end: int


def records(span: Span, start: int) -> Iterator[Record]:
    """Every record from some place to the end of the file."""
    position, index = start, 0
    while position < len(span):
        record = _record(span, position, index)
        yield record
        position, index = record.end, index + 1


def _record(span: Span, position: int, index: int) -> Record:
    where = f"{span.name}: record {index}, at byte {position:,}"
    head = span.bytes(position, position + 12)
    if not head.startswith(MAGIC[: len(head)]):
        raise FormatError(f"{where}: expected a record of .npy, found other bytes.", path=span.name)
    if len(head) < 8:
        raise _truncated(span, where, "a header")
    size = _PREFIX_BYTES.get(head[6])
    if size is None or head[7] != 0:
        raise FormatError(
            f"{where}: expected version 1.0, 2.0 or 3.0 of .npy, found {head[6]}.{head[7]}.",
            path=span.name,
        )
    begin = position + size
    length = int.from_bytes(head[8:size], "little")
    if len(head) < size or (begin + length > len(span) and length <= _LARGEST_HEADER_BYTES):
        raise _truncated(span, where, "a header")
    if length > _LARGEST_HEADER_BYTES:
        raise FormatError(
            f"{where}: expected a header of at most {_LARGEST_HEADER_BYTES:,} bytes, found "
            f"{length:,}.",
            path=span.name,
        )
    text = span.bytes(begin, begin + length).decode(
        "utf-8" if head[6] == 3 else "latin-1", "replace"
    )
    match = _HEADER.fullmatch(text)
    if match is None:
        raise FormatError(
            f"{where}: expected a header as numpy writes it, found {text[:80]!r}.", path=span.name
        )
    dtype = _dtype(match["descr"], where, span.name)
    shape = tuple(int(part) for part in match["shape"].split(",") if part)
    begin += length
    end = begin + math.prod(shape) * dtype.itemsize
    if end > len(span):
        raise _truncated(span, where, f"{end - begin:,} bytes of {dtype} {shape}")
    return Record(dtype, shape, match["fortran"] == "True", begin, end)


def _dtype(text: str, where: str, path: str) -> np.dtype[Any]:
    if text[0] == "[":
        raise UnsupportedError(
            f"{where}: expected an array of numbers, found a structured one, {text[:80]}. Store "
            "its fields one by one.",
            path=path,
        )
    text = text[1:-1]
    if text[1:] == "O":
        raise UnsafeError(
            f"{where}: expected an array of numbers, found one of Python objects, which is a "
            "pickle. It is not opened.",
            path=path,
        )
    try:
        dtype = dtypes.build(text)
    except FormatError as error:
        raise FormatError(
            f"{where}: expected the type of an array of numbers, found {text!r}.", path=path
        ) from error
    if dtype.itemsize == 0 and dtype.kind == "V":
        raise FormatError(f"{where}: expected a type with a size, found {text!r}.", path=path)
    return dtype


def array(span: Span, record: Record, budget: Budget, *, needs_alignment: bool = True) -> Array:
    """The values of a record: in the file where they are aligned there, else in memory.

    Args:
        span: Where the record is.
        record: What `records` found.
        budget: Memory that may be taken.
        needs_alignment: Whether it stays in the file only where its items are aligned, as other
            libraries than numpy need them.
    """
    size = record.end - record.begin
    data = span.array(record.begin, record.end)
    # Maps begin at pages, so a distance from the file's start tells the alignment.
    is_aligned = (span.start + record.begin) % record.dtype.alignment == 0
    if size < MAPPED_BYTES or (needs_alignment and not is_aligned):
        budget.charge(size)
        data = data.copy()
    try:
        flat = data.view(record.dtype) if size else np.empty(0, record.dtype)
        return flat.reshape(record.shape, order="F" if record.is_fortran else "C")
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"{span.name}: expected a shape that an array can have, found {record.shape[:40]}.",
            path=span.name,
        ) from error


def _truncated(span: Span, where: str, expected: str) -> DamagedError:
    return DamagedError(
        f"{where}: expected {expected}, found the end of the file. It is truncated.",
        path=span.name,
    )

"""The arrays of a safetensors file that lies in a span: a file, or a member of an archive.

Held to the letter of the layout: entries lie one after the other, without a hole or an overlap, and
nothing follows. Layout: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from rekindle.codecs import arrays, dtypes
from rekindle.errors import DamagedError, FormatError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.spans import Span
from rekindle.tensors import NATIVE, Tensor, Tensors

_LARGEST_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
_ENTRY_BYTES = 600
_NAMES = {
    **{code: name for name, dtype in NATIVE.items() for code, bits in arrays.CODES.items()
       if bits == dtype and code not in arrays.BITS_ONLY},
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""What torch calls the types of safetensors."""
_CODES = {name: code for code, name in _NAMES.items()}


def read(
    span: Span, budget: Budget, tensors: Tensors
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Every array, in the file where it is large and aligned there, and the metadata.

    Args:
        span: All bytes of the file.
        budget: Memory that may be taken.
        tensors: Where the arrays are noted as tensors of torch.

    Raises:
        DamagedError: It is truncated, or entries do not fill it.
        FormatError: Its header is malformed.
    """
    entries, metadata, base = _header(span, budget)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, (code, shape, begin, end) in entries.items():
        part = span.part(base + begin, base + end, name[:200]) if end else None
        found[name] = tensors.note(Tensor(_array(part, code, shape, budget), _NAMES[code]))
    return found, metadata


def check(span: Span, budget: Budget) -> None:
    """Hold the header of a file against its rules, and its entries against the file's size.

    Raises:
        DamagedError, FormatError: As `read`.
    """
    _header(span, budget)


def _header(
    span: Span, budget: Budget
) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str], int]:
    """Type, shape, begin and end of each array; the metadata; and from where places count."""
    size = len(span)
    length = int.from_bytes(span.bytes(0, 8), "little")
    if size < 8 or 8 + length > size or length > _LARGEST_HEADER_BYTES:
        raise DamagedError(
            f"{span.name}: expected a safetensors file, found {size:,} bytes, in which its header "
            "does not end. It is truncated, or no such file.",
            path=span.name,
        )
    budget.charge(8 * length)
    try:
        header = msgspec.json.decode(span.bytes(8, 8 + length), type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(
            f"{span.name}: expected a JSON header ({error}).", path=span.name
        ) from error
    metadata = {str(key): str(value) for key, value in header.pop(_METADATA, {}).items()}
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for name, entry in header.items():
        budget.charge(_ENTRY_BYTES)
        entries[name] = _entry(entry, f"{span.name}:{name[:200]}", span.name)
    position = 0
    for begin, end in sorted(entry[2:] for entry in entries.values()):
        if begin != position:
            break
        position = end
    if position > size - 8 - length:
        raise DamagedError(
            f"{span.name}: expected arrays of {position:,} bytes, found "
            f"{size - 8 - length:,} bytes after the header. It is truncated.",
            path=span.name,
        )
    if position != size - 8 - length:
        raise DamagedError(
            f"{span.name}: expected arrays one after the other to the end, found a hole or an "
            f"overlap at byte {8 + length + position:,}. The file is damaged.",
            path=span.name,
        )
    return entries, metadata, 8 + length


def _entry(entry: dict[str, Any], where: str, path: str) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, begin and end of one array, checked against each other."""
    try:
        code, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        itemsize = arrays.CODES[code].itemsize
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError("sizes that are not natural numbers")
        if end - begin != math.prod(shape) * itemsize:
            raise ValueError(f"{end - begin:,} bytes for {code} {shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{where}: expected type, shape and place of an array ({str(error)[:200]}).", path=path
        ) from error
    return code, shape, begin, end


def _array(
    part: Span | None, code: str, shape: tuple[int, ...], budget: Budget
) -> np.ndarray[Any, Any]:
    dtype = arrays.CODES[code]
    data = np.empty(0, np.uint8) if part is None else part.array()
    # Maps begin at pages, so a distance from the file's start tells the alignment.
    if data.size < MAPPED_BYTES or (part is not None and part.start % dtype.itemsize):
        budget.charge(data.size)
        data = data.copy()
    try:
        array = data.view(dtype).reshape(shape)
    except ValueError as error:
        raise FormatError(f"{shape[:40]}: expected a shape that an array can have.") from error
    return array.view(dtypes.extended(_NAMES[code])) if code in arrays.BITS_ONLY else array


def stored(array: np.ndarray[Any, Any]) -> arrays.Stored | None:
    """An array as `codecs.arrays.write` takes it, or None where safetensors has no such type."""
    name = array.dtype.name if array.dtype.names is None else array.dtype.names[0]
    code = _CODES.get(name)
    if code is None or array.dtype.names not in (None, (name,)):
        return None
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    if code in arrays.BITS_ONLY:
        return arrays.Stored(code, contiguous.view(arrays.CODES[code]))
    return arrays.Stored(code, contiguous.astype(arrays.CODES[code], copy=False))

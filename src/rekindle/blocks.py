"""Arrays that are read a block at a time, and what two of them have in common.

Whatever an array's size, comparing two takes the memory of a few blocks. Rows of our own replay
buffers are read from their segments, and not at all where both sides keep them in the same files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle.codecs import arrays, rows
from rekindle.manifest import Manifest, RowsRecord
from rekindle.reader import Reader, malformed
from rekindle.state import Document, Plain, Segmented

BLOCK_BYTES = 1 << 22
"""About how much of an array is read at a time."""

Array = np.ndarray[Any, Any]


class Rows:
    """An array of our own format whose rows lie in segments, which are read when asked for.

    Args:
        name: Its short name, as segments call it.
        record: The group that it is part of.
        reader: Opens the segments, and compares each with its digest.
        digests: Digest of each file, by its name.
    """

    def __init__(
        self, name: str, record: RowsRecord, reader: Reader, digests: dict[str, str]
    ) -> None:
        described = record.arrays[name]
        self._name = name
        self._code = described.dtype
        self._raw_dtype = arrays.CODES[described.dtype]
        self._record = record
        self._reader = reader
        self._digests = digests
        self.shape = tuple(described.shape)
        self.dtype = self._decoded(np.zeros(0, self._raw_dtype)).dtype

    @property
    def size(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def origins(self) -> list[tuple[Any, ...]]:
        """Which rows lie where: what two arrays with the same rows in the same files share."""
        return [
            (self._name, item.first, item.count, item.skip, self._digests[item.file])
            for item in self._record.segments
        ] + [(self.shape, self.dtype)]

    def __getitem__(self, part: slice) -> Array:
        """Some of the rows; those that nobody has filled are zero."""
        first, last, _ = part.indices(self.shape[0])
        block = np.zeros((last - first, *self.shape[1:]), self._raw_dtype)
        for item in self._record.segments:
            low, high = max(first, item.first), min(last, item.first + item.count)
            if low < high:
                rows.read_into(
                    self._reader.file(item.file),
                    self._name,
                    item.codecs.get(self._name),
                    item.skip + low - item.first,
                    block[low - first : high - first],
                )
        return self._decoded(block)

    def _decoded(self, block: Array) -> Array:
        return arrays.decode(arrays.Stored(self._code, block), {})


def components(path: Path, record: Manifest) -> dict[str, Any]:
    """Every component of a checkpoint of ours as plain data, with `Rows` for what is segmented."""
    source = _Lazy(path, record, verify=True)
    plain = Plain(source, source.converted)
    with malformed(path):
        return {name: plain.component(name) for name in record.components}


def named_arrays(path: Path, record: Manifest, component: str) -> dict[str, Any]:
    """Arrays of one component by the names they have in its files; no value of them is read."""
    source = _Lazy(path, record, verify=False)
    plain = Plain(source, source.converted)
    with malformed(path):
        names = sorted(source.document(component).arrays)
        return {name.partition("/")[2]: plain.array(name) for name in names}


class _Lazy:
    """A source that leaves segments unread where nothing needs them as one array."""

    def __init__(self, path: Path, record: Manifest, *, verify: bool) -> None:
        self._record = record
        self._reader = Reader(path, record, verify=verify)
        self._rows: dict[str, Rows] = {}
        self._digests = {name: entry.blake3 for name, entry in record.files.items()}

    def document(self, component: str) -> Document:
        """The document of one component."""
        return self._reader.document(component)

    def segmented(self, name: str) -> Segmented | None:
        """An array that is stored in parts, by its full name; None for any other."""
        return self._reader.segmented(name)

    def array(self, name: str) -> arrays.Stored:
        """A stored array; one in segments is not read, and `converted` puts its rows in place."""
        segmented = self._reader.segmented(name)
        component, _, short = name.partition("/")
        document = self._reader.document(component)
        node = document.arrays.get(name, {})
        if segmented is None or name in document.hosts or {"dtype", "shape"} & node.keys():
            return self._reader.array(name)
        group = next(part for part in self._record.components[component].rows
                     if short in part.arrays)  # fmt: skip
        self._rows[name] = Rows(short, group, self._reader, self._digests)
        nothing = np.zeros((), segmented.dtype)
        return arrays.Stored(segmented.code, np.broadcast_to(nothing, segmented.shape))

    def converted(self, array: Array, node: dict[str, Any]) -> Any:
        """What stands for an array in the plain data."""
        return self._rows.get(node.get("$array", ""), array)


@dataclass(frozen=True)
class Distance:
    """How far two arrays of one shape are from each other."""

    num_values: int
    """How many values each has."""
    num_equal: int
    """How many are the same number; NaN is the same as NaN, and 0.0 as -0.0."""
    relative: float | None
    """`||a - b|| / ||a||`; None where the values are no numbers, or one side has NaN alone."""
    largest: float | None
    """Largest absolute difference; None likewise."""
    squared: float = 0.0
    """`||a - b||` squared."""
    norm: float = 0.0
    """`||a||` squared."""

    @property
    def is_same(self) -> bool:
        """Whether every value is the same."""
        return self.num_equal == self.num_values

    @property
    def share_equal(self) -> float:
        """Which share of the values is the same, from 0 to 1."""
        return self.num_equal / self.num_values if self.num_values else 1.0


def distance(first: Any, second: Any) -> Distance:
    """Compare two arrays of one shape, a block at a time.

    Nothing is read where both keep all rows in the same files.

    Args:
        first: An array, or `Rows`.
        second: Another of the same shape, and of the same dtype where that is no number's.
    """
    total = 0 if 0 in first.shape else math.prod(first.shape)
    equal, squared, norm, largest = 0, 0.0, 0.0, 0.0
    are_numbers = is_number = are_numeric(first.dtype) and are_numeric(second.dtype)
    if isinstance(first, Rows) and isinstance(second, Rows) and first.origins == second.origins:
        return Distance(total, total, 0.0, 0.0)
    for one, two in _blocks(first, second):
        same = _same(one, two)
        count = int(np.count_nonzero(same))
        equal += count
        if not are_numbers:
            continue
        sides = _numbers(one), _numbers(two)
        norm += _squares(sides[0])
        if count < same.size:
            gap = np.abs(sides[0][~same] - sides[1][~same]).astype(np.float64)
            is_number = is_number and not bool(np.isnan(gap).any())
            squared += float(np.sum(np.square(gap)))
            largest = max(largest, float(gap.max()))
    if not is_number:
        known = equal == total
        return Distance(total, equal, 0.0 if known else None, 0.0 if known else None)
    return Distance(total, equal, ratio(squared, norm), largest, squared, norm)


def ratio(squared: float, norm: float) -> float:
    """A relative distance from two sums of squares; infinite where only the second is not zero."""
    if squared == 0.0:
        return 0.0
    return math.sqrt(squared / norm) if norm else math.inf


def _blocks(first: Any, second: Any) -> Iterator[tuple[Any, Any]]:
    """Parts of two arrays side by side."""
    shape = first.shape
    if 0 in shape:
        return
    if not shape:
        yield np.asarray(first).reshape(1), np.asarray(second).reshape(1)
        return
    if all(isinstance(side, np.ndarray) and side.flags.c_contiguous for side in (first, second)):
        first, second = first.reshape(-1), second.reshape(-1)  # also where one row is large
        shape = first.shape
    row_bytes = max(1, math.prod(shape[1:]) * first.dtype.itemsize)
    step = max(1, BLOCK_BYTES // row_bytes)
    for low in range(0, shape[0], step):
        part = slice(low, min(low + step, shape[0]))
        yield first[part], second[part]


def are_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether a distance between values of a dtype can be told."""
    return dtype.kind in "biufc" or dtype.name == "bfloat16" or dtype.names == ("bfloat16",)


def _same(one: Array, two: Array) -> Array:
    """Where two blocks hold the same, with NaN the same as NaN."""
    same = np.asarray(one == two)
    if one.dtype.names == ("bfloat16",):
        one, two = _numbers(one), _numbers(two)
        same = one == two
    if one.dtype.kind in "fcmM" or one.dtype.name == "bfloat16":
        empty = np.isnat if one.dtype.kind in "mM" else np.isnan
        same = same | (empty(one) & empty(two))
    return same


def _numbers(block: Array) -> Array:
    """A block as numbers that hold its values exactly and can be subtracted."""
    if block.dtype.names == ("bfloat16",):
        bits = block["bfloat16"].astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).astype(np.float64)
    if block.dtype.kind == "c":
        return block.astype(np.complex128)
    if block.dtype.kind in "iu" and block.dtype.itemsize == 8:
        return block.astype(np.longdouble)  # 64 bits of integer, where the machine has them
    return block.astype(np.float64)


def _squares(numbers: Array) -> float:
    sizes = np.abs(numbers).astype(np.float64)
    return float(np.sum(np.square(sizes[np.isfinite(sizes)])))

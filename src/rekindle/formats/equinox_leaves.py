"""The files of `equinox.tree_serialise_leaves`, and of Lerax, which writes a fingerprint before.

Such a file is a row of `.npy` records, one per leaf of a tree in the order of
`jax.tree_util.tree_flatten`: no names, no count, no end. So it is read as a list, and the names
come from a skeleton, a tree of the same structure: see `named`. Before the records there may be one
line of JSON (Equinox's documentation shows how) or 32 bytes (Lerax 0.0.6: a digest of the tree's
structure; Lerax 0.0.5 writes none, and its files are Equinox's).
Source: equinox 0.13.8, `_serialisation.py`; numpy 2.4, `lib/format.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rekindle import files, spans
from rekindle.codecs import dtypes
from rekindle.errors import (
    Difference,
    FormatError,
    MismatchError,
    MissingDependencyError,
    RekindleError,
    UnsupportedError,
    listing,
)
from rekindle.formats import npy_records
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget
from rekindle.spans import Span

Array = np.ndarray[Any, Any]

COMPONENT = "agent"
"""Where the leaves are: the file does not say what they are leaves of."""
FINGERPRINT_BYTES = 32
_MAGIC = npy_records.MAGIC
_LARGEST_LINE_BYTES = 1 << 20
_RECORD_BYTES = 600
_RAW = re.compile(r"\|V(\d)", re.ASCII)


class EquinoxLeaves(Format):
    """`.eqx` as Equinox writes it, with or without a line of JSON before."""

    name = "equinox"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """Records of `.npy`, at least two; one alone may be a file of numpy."""
        return _sniff(path, has_fingerprint=False)

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The leaves as a list of arrays, under `agent`; what stands before them in `details`.

        A file says neither the names of its leaves nor their number. One that was cut off between
        two records looks whole; `named` finds out.
        """
        return _read(self.name, path, max_bytes)

    def write(self, content: Reading, path: Path) -> None:
        """Write leaves in their order, after the line of JSON in `details["header"]` if any.

        Raises:
            UnsupportedError: There is no single component that is a flat list, or dictionary, of
                arrays and numbers.
        """
        header = content.details.get("header")
        text = content.details.get("header_text", None if header is None else json.dumps(header))
        _write(content, path, b"" if text is None else f"{text}\n".encode(), self.name)


class LeraxLeaves(Format):
    """`.eqx` as `Serializable.serialize` of Lerax 0.0.6 writes it, with a fingerprint before."""

    name = "lerax"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """Records of `.npy` after 32 bytes."""
        return _sniff(path, has_fingerprint=True)

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The leaves as a list of arrays, under `agent`; the fingerprint in `details`."""
        return _read(self.name, path, max_bytes)

    def write(self, content: Reading, path: Path) -> None:
        """Write leaves in their order, after `details["fingerprint"]`, 64 hexadecimal digits.

        Raises:
            UnsupportedError: There is no fingerprint, which `fingerprint` makes of a skeleton, or
                no single component that is a flat list, or dictionary, of arrays and numbers.
        """
        text = content.details.get("fingerprint")
        if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
            found = "none" if text is None else repr(text)[:80]
            raise UnsupportedError(
                f"{path}: expected the fingerprint of a tree's structure, which Lerax compares, "
                f"found {found}. Make it of a skeleton with equinox_leaves.fingerprint, or write "
                "the format equinox, as Lerax 0.0.5 does.",
                path=path,
                key="fingerprint",
            )
        _write(content, path, bytes.fromhex(text), self.name)


# --------------------------------------------------------------------------- reading


def _sniff(path: Path, *, has_fingerprint: bool) -> Confidence | None:
    if not path.is_file():
        return None
    try:
        span = spans.of_file(path)
        start, details = _prefix(span)
        if ("fingerprint" in details) != has_fingerprint:
            return None
        records = npy_records.records(span, start)
        next(records)
        is_row = next(records, None) is not None
    except (RekindleError, OSError, StopIteration):
        return None
    return Confidence.LAYOUT if is_row or details else Confidence.CONTAINER


def _read(name: str, path: Path, max_bytes: int | None) -> Reading:
    span = spans.of_file(path)
    budget = Budget(max_bytes, span.name)
    start, details = _prefix(span)
    if ("fingerprint" in details) != (name == LeraxLeaves.name):
        expected, found = (
            ("a fingerprint", "none") if name == "lerax" else ("none", "a fingerprint")
        )
        raise FormatError(
            f"{path}: expected {expected} before the leaves, found {found}. Read it as the format "
            f"{'equinox' if name == 'lerax' else 'lerax'}.",
            path=path,
        )
    budget.charge(16 * start)
    leaves: list[Array] = []
    notes = [Note(Kind.ABSENT, COMPONENT, "names of leaves, which the file does not hold")]
    for index, record in enumerate(npy_records.records(span, start)):
        budget.charge(_RECORD_BYTES)
        leaves.append(npy_records.array(span, record, budget))
        if record.dtype.kind == "V":
            text = (
                f"its type, of which the file says only that it takes {record.dtype.itemsize} bytes"
            )
            notes.append(Note(Kind.ABSENT, f"{COMPONENT}[{index}]", text))
    return Reading(
        format=name,
        kind="policy",
        components={COMPONENT: leaves},
        details=details,
        notes=tuple(notes),
    )


def _prefix(span: Span) -> tuple[int, dict[str, Any]]:
    """Where the records begin, and what stands before them."""
    if span.bytes(0, len(_MAGIC)) == _MAGIC:
        return 0, {}
    line, newline, _ = span.bytes(0, _LARGEST_LINE_BYTES).partition(b"\n")
    after = len(line) + len(newline)
    if newline and span.bytes(after, after + len(_MAGIC)) == _MAGIC:
        details = _header_line(line)
        if details is not None:
            return after, details
    if span.bytes(FINGERPRINT_BYTES, FINGERPRINT_BYTES + len(_MAGIC)) == _MAGIC:
        return FINGERPRINT_BYTES, {"fingerprint": span.bytes(0, FINGERPRINT_BYTES).hex()}
    raise FormatError(
        f"{span.name}: expected records of .npy, after nothing, one line of JSON or "
        f"{FINGERPRINT_BYTES} bytes, found other bytes.",
        path=span.name,
    )


def _header_line(line: bytes) -> dict[str, Any] | None:
    """The line of JSON before the records; None where it is no JSON."""
    try:
        text = line.decode()
        header = json.loads(text)
        same = json.dumps(header)
    except (ValueError, RecursionError):
        return None
    # As it stands, where Python would write it in another way: what is written again is the same.
    return {"header": header} if same == text else {"header": header, "header_text": text}


# --------------------------------------------------------------------------- names


def named(reading: Reading, skeleton: Any) -> dict[str, Array]:
    """The arrays of a file by the names that their leaves have in a tree of the same structure.

    The names are those of `jax.tree_util.keystr`, without a point before: `layers[0].weight`.
    Functions, text and typed PRNG keys in the tree have no record, as Equinox writes none.

    Args:
        reading: What `read` gave.
        skeleton: A tree as the one that was saved; values do not matter. `jax.ShapeDtypeStruct`
            will do for an array.

    Returns:
        One array per leaf, in order. Where the file gave raw bytes, they have the type of the leaf
        (`bfloat16`). Numbers that Lerax 0.0.5 narrowed to 32 bits keep the type that they have.

    Raises:
        MismatchError: It lists every leaf whose shape or type differs, and those without a record.
        MissingDependencyError: JAX is not installed.
    """
    leaves: list[Array] = reading.components[COMPONENT]
    found: dict[str, Array] = {}
    differences: list[Difference] = []
    for index, (name, leaf) in enumerate(_written_leaves(skeleton)):
        if index >= len(leaves):
            differences.append(Difference(name, _words(leaf), "the end of the file"))
            continue
        array = _as_leaf(leaves[index], leaf)
        if array is None:
            differences.append(Difference(name, _words(leaf), _words(leaves[index])))
        else:
            found[name] = array
    if len(leaves) > len(found) + len(differences):
        count = len(leaves) - len(found) - len(differences)
        differences.append(Difference("end", "no more leaves", f"{count} more"))
    if differences:
        raise MismatchError(
            f"{reading.format}: expected the leaves of the skeleton, found others. Pass a tree "
            f"made with the arguments of the one that was saved.\n{listing(differences)}",
            key=differences[0].key,
            differences=differences,
        )
    return found


def filled(reading: Reading, skeleton: Any) -> Any:
    """A tree of the structure of another, with the leaves of a file.

    Arrays of JAX become arrays of JAX, numbers of Python stay numbers; what has no record
    (functions, text, typed PRNG keys) is that of the skeleton.

    Args:
        reading: What `read` gave.
        skeleton: A tree as the one that was saved; it is not changed.

    Raises:
        MismatchError: It lists every leaf whose shape or type differs, and those without a record.
        MissingDependencyError: JAX is not installed.
    """
    found = iter(named(reading, skeleton).values())
    tree_util = _tree_util()
    leaves, structure = tree_util.tree_flatten(skeleton)
    placed = [leaf if _shape_and_type(leaf) is None else _placed(next(found), leaf)
              for leaf in leaves]  # fmt: skip
    return tree_util.tree_unflatten(structure, placed)


def _placed(array: Array, leaf: Any) -> Any:
    """An array as a leaf of the kind of another."""
    if isinstance(leaf, (bool, int, float, complex)):
        return type(leaf)(array.item())
    if isinstance(leaf, np.generic):
        return np.asarray(array, leaf.dtype)[()]
    if isinstance(leaf, np.ndarray):
        return np.array(array, leaf.dtype)
    import jax.numpy

    return jax.numpy.array(array)


def fingerprint(skeleton: Any) -> str:
    """What Lerax 0.0.6 writes before the leaves of a tree, in hexadecimal digits.

    It depends on names of classes and on static fields, not on shapes; and on how the installed
    JAX writes a structure, so another version may give another.

    Raises:
        MissingDependencyError: JAX is not installed.
    """
    structure = repr(_tree_util().tree_structure(skeleton))
    return hashlib.sha256(structure.encode()).hexdigest()


def _tree_util() -> Any:
    try:
        import jax.tree_util
    except ImportError as error:
        raise MissingDependencyError(
            "skeleton: expected the package 'jax', which takes trees apart, found none. Install it "
            "with `pip install rekindle[jax]`."
        ) from error
    return jax.tree_util


def _written_leaves(skeleton: Any) -> Iterator[tuple[str, Any]]:
    """Leaves that Equinox writes a record for, with their names."""
    tree_util = _tree_util()
    for path, leaf in tree_util.tree_flatten_with_path(skeleton)[0]:
        if _shape_and_type(leaf) is not None:
            yield tree_util.keystr(path).removeprefix(".") or "leaf", leaf


def _shape_and_type(leaf: Any) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and type of a leaf that is an array or number, or stands for one."""
    if isinstance(leaf, (bool, int, float, complex)):
        return (), np.dtype(type(leaf))
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if isinstance(shape, tuple) and isinstance(dtype, np.dtype):
        return shape, dtype
    return None


def _as_leaf(array: Array, leaf: Any) -> Array | None:
    """An array with the type of a leaf, or None where it is not one for it."""
    expected = _shape_and_type(leaf)
    if expected is None or array.shape != expected[0]:
        return None
    dtype = expected[1]
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "V":
        is_raw = dtype.name in dtypes.EXTENDED and dtype.itemsize == array.dtype.itemsize
        return array.view(dtype) if is_raw else None
    is_of_host = isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic))
    is_narrowed = array.dtype.kind == dtype.kind and 2 * array.dtype.itemsize == dtype.itemsize
    return array if is_of_host and is_narrowed else None


def _words(leaf: Any) -> str:
    described = _shape_and_type(leaf)
    if described is None:
        return type(leaf).__name__
    shape, dtype = described
    raw = _RAW.fullmatch(dtype.str) if dtype.name not in dtypes.EXTENDED else None
    return f"{f'{raw[1]} raw bytes' if raw else dtype.name} {tuple(shape)}"


# --------------------------------------------------------------------------- writing


def _write(content: Reading, path: Path, prefix: bytes, name: str) -> None:
    arrays = _leaves(content, path, name)
    with files.new_file(path) as temporary, temporary.open("wb") as file:
        file.write(prefix)
        for array in arrays:
            _write_record(file, array)


def _leaves(content: Reading, path: Path, name: str) -> list[Array]:
    """The arrays of the one component that there is."""
    if len(content.components) != 1:
        found = ", ".join(content.components) or "none"
        raise UnsupportedError(
            f"{path}: expected one component, whose leaves {name} writes in a row, found {found}. "
            "Choose one with components=.",
            path=path,
            refusals=[(key, "beside another component") for key in content.components],
        )
    component, value = next(iter(content.components.items()))
    items = value.items() if isinstance(value, Mapping) else enumerate(value or ())
    if not isinstance(value, (list, tuple, Mapping)):
        items = [("", value)]
    arrays: list[Array] = []
    refusals: list[tuple[str, str]] = []
    for key, item in items:
        array = _storable(item)
        if array is None:
            refusals.append((f"{component}[{key!r}]", f"a {type(item).__name__}"))
        else:
            arrays.append(array)
    if refusals:
        shown = "; ".join(f"{key}: {reason}" for key, reason in refusals[:20])
        raise UnsupportedError(
            f"{path}: expected a flat row of arrays and numbers, found {shown}. Put the leaves "
            "into a list in the order of jax.tree_util.tree_flatten.",
            path=path,
            key=refusals[0][0],
            refusals=refusals,
        )
    return arrays


def _storable(item: Any) -> Array | None:
    """A leaf as an array that numpy can write without a pickle, or None."""
    if isinstance(item, (bool, int, float, complex, np.generic)):
        item = np.asarray(item)
    if not isinstance(item, np.ndarray) or item.dtype.hasobject:
        return None
    names = item.dtype.names
    if item.dtype.name in dtypes.EXTENDED or (
        names and len(names) == 1 and names[0] in dtypes.EXTENDED
    ):
        # As numpy writes the types that it lacks: raw bytes.
        return item.view(f"V{item.dtype.itemsize}")
    return None if names else item


def _write_record(file: BinaryIO, array: Array) -> None:
    header: Any = np.lib.format.header_data_from_array_1_0(array)
    if array.dtype.kind == "V":
        # As JAX writes a type that numpy lacks; numpy itself would write `|V2` for raw bytes.
        header["descr"] = f"<V{array.dtype.itemsize}"
    np.lib.format.write_array_header_1_0(file, header)
    rows = array.T if header["fortran_order"] else array
    # Large arrays are over the memory of a file, and are not copied on their way into another.
    file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


EQUINOX = EquinoxLeaves()
LERAX = LeraxLeaves()

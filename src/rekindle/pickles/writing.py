"""Pickles written from plain data, and from objects that the caller names; no class is needed.

Protocol 2, as `torch.save` writes it, so that every Python 3 and every version of torch reads them;
or protocol 4, in which arrays of any size lie as they are. Source: CPython 3.13,
`Lib/pickletools.py`.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from rekindle.errors import UnsupportedError
from rekindle.state import Record, Reference

Part: TypeAlias = "bytes | np.ndarray[Any, Any]"
"""Some bytes of a pickle; those of a large array as the array's memory."""

_STOP = b"."
_NONE, _TRUE, _FALSE, _MARK = b"N", b"\x88", b"\x89", b"("
_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
_TUPLE, _LIST, _DICT = b"t", b"]", b"}"
_APPENDS, _SETITEMS = b"e", b"u"
_REMEMBER, _RECALL = b"r", b"j"
_REDUCE, _BUILD, _NEW, _PERSISTENT = b"R", b"b", b"\x81", b"Q"
_LARGE_BYTES = 4096
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function, by module and name."""

    label: str
    """As `module:name`."""


@dataclass(frozen=True, slots=True)
class Called:
    """The result of calling something, and the state that is set on it."""

    function: Name
    arguments: tuple[Any, ...]
    state: Any = None
    is_new: bool = False
    """Whether an object of the class is made without calling its constructor."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Something that is stored beside the pickle, by its identifier."""

    identifier: Any


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that cannot be written, and what it is."""

    found: str


def dumps(
    value: Any,
    *,
    resolve: Callable[[Any], Any] | None = None,
    known: Callable[[Any], Any] | None = None,
    protocol: int = 2,
    key: str = "value",
    name: str | None = None,
) -> bytes:
    """One pickle of a value, whole; see `parts`."""
    found = parts(value, resolve=resolve, known=known, protocol=protocol, key=key, name=name)
    return b"".join(part if isinstance(part, bytes) else part.tobytes() for part in found)


def parts(
    value: Any,
    *,
    resolve: Callable[[Any], Any] | None = None,
    known: Callable[[Any], Any] | None = None,
    protocol: int = 2,
    key: str = "value",
    name: str | None = None,
) -> list[Part]:
    """One pickle of a value, in pieces that follow each other.

    Args:
        value: Containers, plain values, numpy's arrays, and the nodes above.
        resolve: Gives what to write in place of an array; by itself an array of numpy is written.
        known: Gives what to write in place of a record, a name or an object of another class; None
            where it is not known, and so refused.
        protocol: 2, or 4: that of Python 3.4 and later.
        key: How paths to what is refused begin; may be empty.
        name: What messages begin with, such as the file; the key when left out.

    Raises:
        UnsupportedError: Something in it is no data that a pickle can hold by name; it lists all.
    """
    writer = _Writer(resolve, known, protocol >= 4)
    name = key if name is None else name
    try:
        writer.put(value, key)
    except RecursionError as error:
        raise UnsupportedError(
            f"{name}: expected data of some depth, found far deeper nesting.", key=key
        ) from error
    if writer.refusals:
        shown = "; ".join(f"{path}: {found}" for path, found in writer.refusals[:_MOST_SHOWN])
        raise UnsupportedError(
            f"{name}: expected containers, plain values and arrays, found {shown}. Leave them out, "
            "or choose another format.",
            key=writer.refusals[0][0],
            refusals=writer.refusals,
        )
    return [b"\x80\x04" if protocol >= 4 else b"\x80\x02", *writer.parts, _STOP]


@dataclass(slots=True)
class _Writer:
    """The operations of one pickle."""

    resolve: Callable[[Any], Any] | None
    known: Callable[[Any], Any] | None
    is_modern: bool
    parts: list[Part] = field(default_factory=list)
    memo: dict[int, tuple[bytes, Any]] = field(default_factory=dict)
    """Where arrays and containers were put, by `id`: what is one object stays one. They are kept,
    as another could get the address of one that is gone."""
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def put(self, value: Any, path: str) -> None:
        """Write one value."""
        out = self.parts.append
        kind = type(value)
        if id(value) in self.memo:
            out(_RECALL + self.memo[id(value)][0])
            return
        if value is None or kind is bool:
            out({None: _NONE, True: _TRUE, False: _FALSE}[value])
        elif isinstance(value, np.ndarray):
            found = value if self.resolve is None else self.resolve(value)
            self._array(value, path) if found is value else self.put(found, path)
            self._remember(value)
        elif isinstance(value, np.generic):
            self._numpy_scalar(value, path)
        elif kind is int:
            out(_integer(value))
        elif kind is float:
            out(b"G" + struct.pack(">d", value))
        elif kind is str:
            data = value.encode("utf-8", "surrogatepass")
            out(b"X" + struct.pack("<I", len(data)) + data)
        elif kind is bytes:
            self._bytes(value)
        elif kind is complex:
            self.put(Called(Name("builtins:complex"), (value.real, value.imag)), path)
        elif kind is Name:
            self._name(value.label, path)
        elif kind is Called:
            self.put(value.function, path)
            self._tuple(value.arguments, path)
            out(_NEW if value.is_new else _REDUCE)
            if value.state is not None:
                self.put(value.state, path)
                out(_BUILD)
        elif kind is Outside:
            self.put(value.identifier, path)
            out(_PERSISTENT)
        elif kind is Refused:
            self._refuse(path, value.found)
        elif kind is tuple:
            self._tuple(value, path)
        elif kind is list:
            out(_LIST)
            self._remember(value)
            out(_MARK)
            for index, part in enumerate(value):
                self.put(part, f"{path}[{index}]")
            out(_APPENDS)
        elif kind in (set, frozenset):
            self.put(Called(Name(f"builtins:{kind.__name__}"), (list(value),)), path)
        elif kind is collections.deque:
            self.put(Called(Name("collections:deque"), (list(value), value.maxlen)), path)
        elif kind is collections.OrderedDict:
            self.put(Called(Name("collections:OrderedDict"), ()), path)
            self._remember(value)
            self._items(value, path)
            if vars(value):
                self.put(vars(value), path)
                out(_BUILD)
        elif kind is dict:
            out(_DICT)
            self._remember(value)
            self._items(value, path)
        elif isinstance(value, np.dtype):
            self.put(self._dtype(value, path), path)
        else:
            self._other(value, path)

    def _other(self, value: Any, path: str) -> None:
        """What only the caller may know.

        A record's label came from a file: written again, it is called by who opens this one.
        """
        found = None if self.known is None else self.known(value)
        if found is not None:
            self.put(found, path)
            self._remember(value)
        elif isinstance(value, Record):
            self._refuse(path, f"the record of {value.label}")
        elif isinstance(value, Reference):
            self._refuse(path, f"the name {value} of code")
        else:
            cls = type(value)
            self._refuse(path, f"an object of class {cls.__module__}.{cls.__qualname__}")

    def _refuse(self, path: str, found: str) -> None:
        self.refusals.append((path.lstrip("."), found[:200]))
        self.parts.append(_NONE)

    def _remember(self, value: Any) -> None:
        place = struct.pack("<I", len(self.memo))
        self.memo[id(value)] = (place, value)
        self.parts.append(_REMEMBER + place)

    def _items(self, value: Mapping[Any, Any], path: str) -> None:
        if value:
            self.parts.append(_MARK)
            for key, part in value.items():
                self.put(key, path)
                self.put(part, f"{path}.{key}")
            self.parts.append(_SETITEMS)

    def _tuple(self, value: tuple[Any, ...], path: str) -> None:
        if len(value) > 3:
            self.parts.append(_MARK)
        for index, part in enumerate(value):
            self.put(part, f"{path}[{index}]")
        self.parts.append(_TUPLES.get(len(value), _TUPLE))

    def _name(self, label: str, path: str) -> None:
        module, _, name = label.partition(":")
        if not _is_plain(module) or not _is_plain(name):
            self._refuse(path, f"a name {label!r}, which is none of a class")
        else:
            self.parts.append(f"c{module}\n{name}\n".encode())

    def _bytes(self, data: Part) -> None:
        """Bytes; protocol 2 has no operation for them, and Python 3 spells them out there."""
        if not self.is_modern:
            text = (data if isinstance(data, bytes) else data.tobytes()).decode("latin1")
            self.put(Called(Name("_codecs:encode"), (text, "latin1")), "")
            return
        size = len(data) if isinstance(data, bytes) else data.nbytes
        is_short = size < 1 << 32
        head = b"B" + struct.pack("<I", size) if is_short else b"\x8e" + struct.pack("<Q", size)
        self.parts += (head, data)

    def _array(self, array: np.ndarray[Any, Any], path: str) -> None:
        """An array as numpy pickles it: `_reconstruct`, then its state."""
        dtype = self._dtype(array.dtype, path)
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self.put(Name("numpy._core.multiarray:_reconstruct"), path)
        self.put(Name("numpy:ndarray"), path)
        self.put((0,), path)
        self._bytes(b"b")
        self.parts.append(_TUPLES[3] + _REDUCE + _MARK)
        for part in (1, tuple(array.shape), dtype, is_fortran):
            self.put(part, path)
        self._bytes(_memory(array.T if is_fortran else array))
        self.parts.append(_TUPLE + _BUILD)

    def _numpy_scalar(self, value: np.generic, path: str) -> None:
        given = (self._dtype(value.dtype, path), value.tobytes())
        self.put(Called(Name("numpy._core.multiarray:scalar"), given), path)

    def _dtype(self, dtype: np.dtype[Any], path: str) -> Called | None:
        if dtype.hasobject or dtype.names is not None or dtype.kind not in "biufcSU":
            self._refuse(path, f"an array of {dtype}")
            return None
        order = dtype.str[0]
        size = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
        state = (3, order, None, None, None, *size, 0)
        return Called(Name("numpy:dtype"), (dtype.str[1:], False, True), state)


def _memory(array: np.ndarray[Any, Any]) -> Part:
    """The bytes of an array in C order: where they are, if they are many."""
    if array.nbytes < _LARGE_BYTES or not array.flags.c_contiguous:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8)


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def _is_plain(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))

"""Pickles written from plain data, and from objects that the caller names; no class is needed.

Protocol 2, as `torch.save` writes it, so that every Python 3 and every version of torch reads them.
Source: CPython 3.13, `Lib/pickletools.py`.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rekindle.errors import UnsupportedError
from rekindle.state import Record

_START, _STOP = b"\x80\x02", b"."
_NONE, _TRUE, _FALSE, _MARK = b"N", b"\x88", b"\x89", b"("
_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
_TUPLE, _LIST, _DICT = b"t", b"]", b"}"
_APPENDS, _SETITEMS = b"e", b"u"
_REMEMBER, _RECALL = b"r", b"j"
_REDUCE, _BUILD, _NEW, _PERSISTENT = b"R", b"b", b"\x81", b"Q"


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


def dumps(value: Any, *, resolve: Callable[[Any], Any] | None = None, key: str = "value") -> bytes:
    """One pickle of a value.

    Args:
        value: Containers, plain values, numpy's arrays, and the nodes above.
        resolve: Gives what to write in place of an array; by itself an array of numpy is written.
        key: What to call the value in messages.

    Raises:
        UnsupportedError: Something in it is no data that a pickle can hold by name.
    """
    writer = _Writer(resolve)
    try:
        writer.put(value, key)
    except RecursionError as error:
        raise UnsupportedError(
            f"{key}: expected data of some depth, found far deeper nesting.", key=key
        ) from error
    return b"".join([_START, *writer.parts, _STOP])


@dataclass(slots=True)
class _Writer:
    """The operations of one pickle."""

    resolve: Callable[[Any], Any] | None
    parts: list[bytes] = field(default_factory=list)
    memo: dict[int, bytes] = field(default_factory=dict)
    """Where arrays and containers were put, by `id`: what is one object stays one."""

    def put(self, value: Any, path: str) -> None:
        """Write one value."""
        out = self.parts.append
        kind = type(value)
        if id(value) in self.memo:
            out(_RECALL + self.memo[id(value)])
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
            self.put(_encoded(value), path)
        elif kind is Name:
            module, _, name = value.label.partition(":")
            if not _is_plain(module) or not _is_plain(name):
                raise _refused(path, f"a name {value.label!r}, which is none of a class")
            out(f"c{module}\n{name}\n".encode())
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
        elif kind is tuple:
            self._tuple(value, path)
        elif kind is list:
            out(_LIST)
            self._remember(value)
            out(_MARK)
            for index, part in enumerate(value):
                self.put(part, f"{path}[{index}]")
            out(_APPENDS)
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
        elif isinstance(value, Record):
            # Its label came from a file: written again, it would be called by who opens this one.
            raise _refused(path, f"the record of {value.label}")
        else:
            raise _refused(path, f"an object of class {kind.__module__}.{kind.__qualname__}")

    def _remember(self, value: Any) -> None:
        place = self.memo[id(value)] = struct.pack("<I", len(self.memo))
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

    def _array(self, array: np.ndarray[Any, Any], path: str) -> None:
        """An array as numpy pickles it: `_reconstruct`, then its state."""
        dtype = self._dtype(array.dtype, path)
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        data = array.tobytes("F" if is_fortran else "C")
        state = (1, tuple(array.shape), dtype, is_fortran, _encoded(data))
        made = (Name("numpy:ndarray"), (0,), _encoded(b"b"))
        self.put(Called(Name("numpy._core.multiarray:_reconstruct"), made, state), path)

    def _numpy_scalar(self, value: np.generic, path: str) -> None:
        given = (self._dtype(value.dtype, path), _encoded(value.tobytes()))
        self.put(Called(Name("numpy._core.multiarray:scalar"), given), path)

    def _dtype(self, dtype: np.dtype[Any], path: str) -> Called:
        if dtype.hasobject or dtype.names is not None or dtype.kind not in "biufcSU":
            raise _refused(path, f"an array of {dtype}")
        order = dtype.str[0]
        size = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
        state = (3, order, None, None, None, *size, 0)
        return Called(Name("numpy:dtype"), (dtype.str[1:], False, True), state)


def _encoded(data: bytes) -> Called:
    """Bytes as Python 3 writes them in protocol 2, which has no operation for them."""
    return Called(Name("_codecs:encode"), (data.decode("latin1"), "latin1"))


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


def _refused(path: str, found: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: expected containers, plain values and arrays, found {found[:200]}. "
        "Leave it out, or choose another format.",
        key=path,
    )

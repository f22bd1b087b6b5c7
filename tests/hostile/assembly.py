"""Pickles put together by hand: names, calls and whatever else a pickler would never write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """A class or function, as `GLOBAL` or `STACK_GLOBAL` name it."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call by `REDUCE`, and a state given after by `BUILD`."""

    function: Any
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Code:
    """Operations as they are."""

    code: bytes
    parts: tuple[Any, ...] = field(default=())


def name(path: str) -> Name:
    """A name written as `module:name`."""
    module, _, attribute = path.partition(":")
    return Name(module, attribute)


def call(path: str, *arguments: Any) -> Call:
    """A call of what `path` names."""
    return Call(name(path), arguments)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def emit(value: Any, *, stack_global: bool = False) -> bytes:
    """The operations that push a value, without the frame of a pickle around them."""

    def inner(part: Any) -> bytes:
        return emit(part, stack_global=stack_global)

    if isinstance(value, Code):
        return value.code
    if isinstance(value, Name):
        if stack_global:
            return text(value.module) + text(value.name) + b"\x93"
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        made = inner(value.function) + inner(value.arguments) + b"R"
        return made if value.state is None else made + inner(value.state) + b"b"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        size = value.bit_length() // 8 + 1
        return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(inner, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(inner, value)) + b"e"
    if isinstance(value, dict):
        pairs = (inner(key) + inner(part) for key, part in value.items())
        return b"}(" + b"".join(pairs) + b"u"
    raise TypeError(type(value))


def assemble(value: Any, protocol: int = 2, *, stack_global: bool = False) -> bytes:
    """A whole pickle of a value."""
    head = bytes((0x80, protocol)) if protocol >= 2 else b""
    return head + emit(value, stack_global=stack_global) + b"."

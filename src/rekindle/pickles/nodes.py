"""What a pickle says, as inert nodes: names, calls that nobody makes, and unhashed containers."""

from __future__ import annotations

from typing import Any


class Global:
    """A name: a class, function or module that the pickle would have imported."""

    __slots__ = ("label", "module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.label = f"{module}:{name}"
        """The name as records carry it; one text for all of them."""


class Call:
    """A call, or a new object: what would have been called, with what, and what was done after.

    `is_new` tells an object made by its class (`NEWOBJ`) from the result of a call (`REDUCE`).
    `states` is what it was given by `BUILD`, `pairs` keys and values in turn, `elements` what was
    appended; each is None where there was nothing.
    """

    __slots__ = (
        "arguments", "elements", "function", "is_new", "keywords", "pairs", "states",
    )  # fmt: skip

    def __init__(self, function: Any, arguments: Any, keywords: Any, is_new: bool) -> None:
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.is_new = is_new
        self.states: list[Any] | None = None
        self.pairs: list[Any] | None = None
        self.elements: list[Any] | None = None


class Pairs(list[Any]):
    """A dictionary, as its keys and values in turn; nothing has been hashed."""

    __slots__ = ()


class Members(list[Any]):
    """A set, as its members in a row; nothing has been hashed."""

    __slots__ = ()


class FrozenMembers(list[Any]):
    """An immutable set, as its members in a row."""

    __slots__ = ()


class Persistent:
    """Something that the pickle keeps outside itself, by an identifier."""

    __slots__ = ("identifier",)

    def __init__(self, identifier: Any) -> None:
        self.identifier = identifier


class Payload:
    """A large value that is still in the file: `kind` is `bytes`, `bytearray` or `str`."""

    __slots__ = ("kind", "memory")

    def __init__(self, kind: str, memory: memoryview) -> None:
        self.kind = kind
        self.memory = memory

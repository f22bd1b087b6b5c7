"""What stays a record: an object, or a call, of a pickle that Rekindle does not rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.state import Record


class Recorded(Record):
    """A call or an object that a pickle tells of: its name, arguments and state, and nothing run.

    The attributes that the object had are its fields, as items or attributes. What the pickle said
    beside them stands in the attributes below, which come before fields of the same name.
    """

    __slots__ = ("arguments", "elements", "is_object", "keywords", "pairs", "state")

    def __init__(self, label: str, *, is_object: bool = False) -> None:
        super().__init__(label, {})
        self.arguments: tuple[Any, ...] = ()
        """What it was called with."""
        self.keywords: Mapping[str, Any] = {}
        """What it was called with by name."""
        self.state: Any = None
        """Its state, where that is not attributes by name."""
        self.pairs: Any = None
        """Its items, where its class derives from a dictionary."""
        self.elements: list[Any] | None = None
        """Its elements, where its class derives from a list or another collection."""
        self.is_object = is_object
        """Whether it was an object of the class of this name, rather than a result of a call."""

    def name(self, label: str) -> None:
        """Give it its name, where that is found only after it was made."""
        self._label = label

    def adopt(self, fields: dict[str, Any]) -> None:
        """Take a dictionary as its attributes; it may be filled later."""
        self._fields = fields

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recorded):
            return False if isinstance(other, Record) else NotImplemented
        return super().__eq__(other) and all(
            getattr(self, slot) == getattr(other, slot) for slot in Recorded.__slots__
        )

    __hash__ = Record.__hash__

    def __repr__(self) -> str:
        text = super().__repr__()
        if not self.arguments:
            return text
        head, _, rest = text[1:-1].partition(" ")
        return f"<{head}({len(self.arguments)} arguments){' ' if rest else ''}{rest}>"


class RecordedClass(Recorded):
    """A class that the pickle carries with it, by value; nothing makes a class of it."""

    __slots__ = ()


class RecordedFunction(Recorded):
    """A function that the pickle carries with it, by value; its code is never run."""

    __slots__ = ()

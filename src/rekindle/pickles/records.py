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

    def _told(self) -> dict[str, Any]:
        """All of the above that is not empty, and which kind of record it is."""
        told: dict[str, Any] = {"kind": _KINDS[type(self)]}
        if self.is_object:
            told["is_object"] = True
        for name in ("arguments", "keywords"):
            if getattr(self, name) not in ((), {}):
                told[name] = getattr(self, name)
        for name in ("state", "pairs", "elements"):
            if getattr(self, name) is not None:
                told[name] = getattr(self, name)
        return told

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


_KINDS: dict[type[Recorded], str] = {
    Recorded: "call",
    RecordedClass: "class",
    RecordedFunction: "function",
}


def recalled(label: str, fields: dict[str, Any], told: Mapping[str, Any]) -> Record:
    """The record that a document of ours tells of.

    Args:
        label: The name of its class.
        fields: Its attributes; they may be filled later.
        told: Its kind, and whether it was an object. Without a kind it is a plain `Record`.
    """
    for cls, kind in _KINDS.items():
        if told.get("kind") == kind:
            record = cls(label, is_object=told.get("is_object") is True)
            record.adopt(fields)
            return record
    return Record(label, fields)

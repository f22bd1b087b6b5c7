"""From what a pickle says to plain values: known ones are rebuilt, the rest stays a record.

A builder is a function, or a generator that yields nodes and is sent their values, so that no
nesting needs a deep stack. Lists, dictionaries, sets and records exist before they are filled, so
that cycles close. No builder calls anything that a file names.
"""

from __future__ import annotations

import datetime
import pathlib
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from types import GeneratorType
from typing import Any, TypeAlias

import numpy as np

from rekindle.errors import FormatError, RekindleError
from rekindle.limits import MAX_DEPTH, Budget, Hashing
from rekindle.pickles.nodes import (
    Call,
    FrozenMembers,
    Global,
    Members,
    Pairs,
    Payload,
    Persistent,
)
from rekindle.pickles.records import Recorded, RecordedClass
from rekindle.state import Record, Reference

Steps: TypeAlias = Generator[Any, Any, Any]
Builder: TypeAlias = "Callable[[Rebuilder, Call], Any]"

ATOMS = frozenset((type(None), bool, int, float, str, bytes, bytearray))
"""Types of values that are what they are, and hold no others."""
_KEY_ATOMS = ATOMS - {bytearray}
_UNKNOWN = object()
_BUSY = object()
_MOST_NOTES = 100
_DEEPEST_KEY = 16
_MOST_PARTS = 256
_LARGEST_BITS = 4096
_PAIR_BYTES = 120
_VALUE_BYTES = 100
"""What remembering one value, and holding it, costs about."""
_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError)
"""What Python or numpy raise when they are given arguments that make no value."""


class Unfit(Exception):  # noqa: N818 - not an error: it stays a record
    """A call of a known name with arguments that it does not have in any file of its library."""


def each(nodes: Iterable[Any]) -> Steps:
    """Steps to the values of several nodes, as a list."""
    values: list[Any] = []
    for node in nodes:
        values.append(node if type(node) in ATOMS else (yield node))
    return values


def _are_atoms(nodes: Iterable[Any]) -> bool:
    return ATOMS.issuperset(map(type, nodes))


class Rebuilder:
    """Rebuilds the values of one pickle.

    Args:
        builders: Builders by the label of what is called.
        budget: Memory that may be taken.
        persistent: Gives the value that stands outside the pickle for an identifier; without it,
            or where it raises `Unfit`, a record stands there.
        has_large: Whether there may be integers that take long to hash.
    """

    def __init__(
        self,
        builders: Mapping[str, Builder],
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
        *,
        has_large: bool = False,
    ) -> None:
        self._has_large = has_large
        self._builders = builders
        self._persistent = persistent
        self._memo: dict[int, Any] = {}
        self._waiting: list[Steps] = []
        self._held: list[Any] = []
        self._hashing = Hashing(budget.name)
        self._keys: dict[int, tuple[Any, bool]] = {}
        self.budget = budget
        self.notes: dict[str, None] = {}
        """What was known by name and yet stays a record, and why; in order."""

    def rebuild(self, root: Any) -> Any:
        """The value of a node, complete with all that it holds.

        Raises:
            FormatError: A value would have to hold itself where that cannot be, or values are
                nested deeper than any program makes them.
            UnsafeError: It asks for more memory or time than any honest file.
        """
        value = self._finish(self._value(root))
        while self._waiting:
            self._finish(self._waiting.pop())
        return value

    def note(self, text: str) -> None:
        """Remember that something known stays a record."""
        if len(self.notes) < _MOST_NOTES:
            self.notes[text] = None

    # ----------------------------------------------------------------- the engine

    def _finish(self, first: Any) -> Any:
        """Run steps, and the steps of what they ask for, to the end."""
        if type(first) is not GeneratorType:
            return first
        running: list[Steps] = [first]
        answer: Any = None
        while running:
            try:
                wanted = running[-1].send(answer)
            except StopIteration as done:
                running.pop()
                answer = done.value
                continue
            answer = self._value(wanted)
            if type(answer) is GeneratorType:
                running.append(answer)
                answer = None
                if len(running) > MAX_DEPTH:
                    raise FormatError(
                        f"{self.budget.name}: expected values nested at most {MAX_DEPTH:,} deep, "
                        "found deeper ones. No program writes such a file by itself.",
                        path=self.budget.name,
                    )
        return answer

    def _value(self, node: Any) -> Any:
        """The value of a node, or the steps that lead to it."""
        kind = type(node)
        if kind in ATOMS or (kind is tuple and _are_atoms(node)):
            return node
        key = id(node)
        found = self._memo.get(key, _UNKNOWN)
        if found is not _UNKNOWN:
            if found is _BUSY:
                raise FormatError(
                    f"{self.budget.name}: expected values that exist before what is made of them, "
                    "found one that is made of itself. No program writes such a file.",
                    path=self.budget.name,
                )
            return found
        begin = _KINDS.get(kind)
        if begin is None:
            # A value already, such as one that stands outside the pickle; or steps to one.
            return node
        self.budget.charge(_VALUE_BYTES)
        value = begin(self, node)
        if type(value) is GeneratorType:
            self._memo[key] = _BUSY
            return self._remembered(key, value)
        self._memo[key] = value
        return value

    def _remembered(self, key: int, steps: Steps) -> Steps:
        value = yield from steps
        self._memo[key] = value
        return value

    def shell(self, node: Any, value: Any, fill: Steps) -> Any:
        """Make a container known before it is filled."""
        self._memo[id(node)] = value
        self._waiting.append(fill)
        return value

    def held(self, node: Any) -> Any:
        """A node that is made here, kept alive: the memo knows nodes by their address."""
        self._held.append(node)
        return node

    # ----------------------------------------------------------------- containers

    def _list(self, node: list[Any]) -> list[Any]:
        if not _are_atoms(node):
            # Values take the places of nodes, whose addresses must not be given to others.
            self._waiting.append(self._fill_list(node, self.held(node.copy())))
        return node

    def _fill_list(self, out: list[Any], nodes: list[Any]) -> Steps:
        for index, item in enumerate(nodes):
            if type(item) not in ATOMS:
                value = self._value(item)
                out[index] = (yield value) if type(value) is GeneratorType else value

    def _tuple(self, node: tuple[Any, ...]) -> Steps:
        return tuple((yield from each(node)))

    def _pairs(self, node: Pairs) -> Any:
        if not node:
            return {}
        keys = node[::2]
        if self._has_large or not _KEY_ATOMS.issuperset(map(type, keys)):
            return self.dictionary(node, node, {})
        values = node[1::2]
        self.budget.charge(_PAIR_BYTES * len(keys))
        out: dict[Any, Any] = {}
        if _are_atoms(values):
            self._hashing.pairs(out, keys, values)
        else:
            self._waiting.append(self._fill_dictionary(out, keys, values))
        return out

    def dictionary(self, node: Any, pairs: list[Any], target: dict[Any, Any]) -> Steps:
        """Steps to a dictionary of keys and values in turn.

        Where a key is no plain value, a list of pairs is made instead: objects are told apart by
        identity, and their records cannot be.

        Args:
            node: What it is the value of.
            pairs: Nodes of keys and values in turn.
            target: An empty dictionary to fill.
        """
        self.budget.charge(_PAIR_BYTES * (len(pairs) // 2))
        keys = yield from each(pairs[::2])
        values = pairs[1::2]
        if not all(map(self._is_key, keys)):
            items: list[Any] = []
            return self.shell(node, items, self._fill_items(items, keys, values))
        return self.shell(node, target, self._fill_dictionary(target, keys, values))

    def _fill_items(self, out: list[Any], keys: list[Any], values: list[Any]) -> Steps:
        for key, node in zip(keys, values, strict=True):
            out.append((key, (yield node)))

    def _fill_dictionary(self, out: dict[Any, Any], keys: list[Any], values: list[Any]) -> Steps:
        self.held(values)
        found = values.copy()
        for index, item in enumerate(values):
            if type(item) not in ATOMS:
                value = self._value(item)
                found[index] = (yield value) if type(value) is GeneratorType else value
        self._hashing.pairs(out, keys, found)

    def _members(self, node: Members) -> Steps:
        return self.collection(node, set)

    def _frozen_members(self, node: FrozenMembers) -> Steps:
        return self.collection(node, frozenset)

    def collection(self, elements: list[Any], kind: type[set[Any]] | type[frozenset[Any]]) -> Steps:
        """Steps to a set or frozen set; a list where an element is no plain value."""
        self.budget.charge(_PAIR_BYTES * len(elements))
        values = list(elements)
        if self._has_large or not _KEY_ATOMS.issuperset(map(type, values)):
            values = yield from each(elements)
            if not all(map(self._is_key, values)):
                return values
        out: set[Any] = set()
        self._hashing.members(out, values)
        return out if kind is set else kind(out)

    def _is_key(self, value: Any) -> bool:
        """`is_key`, asked once of each tuple, however often it is a key."""
        if type(value) not in (tuple, frozenset):
            return is_key(value)
        found = self._keys.get(id(value))
        if found is None:
            found = self._keys[id(value)] = (value, is_key(value))
        return found[1]

    # ----------------------------------------------------------------- what stands for others

    def _payload(self, node: Payload) -> Any:
        if node.kind == "str":
            # A character may take four bytes in memory where it takes one in the file.
            self.budget.charge(4 * len(node.memory))
            try:
                return str(node.memory, "utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{self.budget.name}: expected text in UTF-8 ({error}).", path=self.budget.name
                ) from error
        self.budget.charge(len(node.memory))
        return bytes(node.memory) if node.kind == "bytes" else bytearray(node.memory)

    def _global(self, node: Global) -> Any:
        return _SINGLETONS.get(canonical(node.label), Reference(node.label))

    def _outside(self, node: Persistent) -> Steps:
        identifier = yield node.identifier
        if self._persistent is not None:
            try:
                return self._persistent(identifier)
            except (Unfit, *_FAILURES) as error:
                if isinstance(error, RekindleError):
                    raise
                self.note(f"a value that stands outside the pickle: {error}")
        return Record("pickle:persistent_id", {"identifier": identifier})

    # ----------------------------------------------------------------- calls

    def _call(self, node: Call) -> Steps:
        function = node.function
        name = _name(function)
        builder = self._builders.get(name)
        if builder is not None:
            try:
                built = builder(self, node)
                return (yield from built) if type(built) is GeneratorType else built
            except (Unfit, *_FAILURES) as error:
                if isinstance(error, RekindleError):
                    raise
                reason = f" ({error})" if str(error) else ""
                self.note(f"{name[:200]}: it stays a record{reason[:300]}")
        record = Recorded("", is_object=node.is_new)
        if type(function) is Global:
            record.name(function.label)
        return self.shell(node, record, self._fill_record(record, node))

    def _fill_record(self, record: Recorded, node: Call) -> Steps:
        if type(node.function) is not Global:
            record.name(called((yield node.function), node.function))
        arguments = yield node.arguments
        record.arguments = arguments if type(arguments) is tuple else (arguments,)
        if node.keywords is not None:
            record.keywords = yield node.keywords
        yield from self.fill_record(record, node)

    def fill_record(self, record: Recorded, node: Call) -> Steps:
        """Steps that put into a record what was done to an object after it was made."""
        if node.pairs is not None:
            record.pairs = yield self.held(Pairs(node.pairs))
        if node.elements is not None:
            record.elements = yield node.elements
        states = node.states or [None]
        attributes = self._attributes(states[0]) if len(states) == 1 else None
        if attributes is not None:
            record.adopt((yield attributes))
        else:
            record.state = yield states[0] if len(states) == 1 else self.held(tuple(states))

    def _attributes(self, state: Any) -> Pairs | None:
        """The attributes in a state, if it is such: by name, in one part or, with slots, in two."""
        if type(state) is tuple and len(state) == 2 and type(state[1]) is Pairs:
            first = state[0] if type(state[0]) is Pairs else [] if state[0] is None else None
            if first is None:
                return None
            state = self.held(Pairs([*first, *state[1]]))
        if type(state) is Pairs and set(map(type, state[::2])) <= {str}:
            return state
        return None


def _name(function: Any) -> str:
    """What is called, as tables know it: a name, or a name called with one text."""
    if type(function) is Global:
        return canonical(function.label)
    if type(function) is Call and type(function.function) is Global:
        given = function.arguments
        if type(given) is tuple and len(given) == 1 and type(given[0]) is str:
            return f"{canonical(function.function.label)}({given[0]})"
    return ""


def called(function: Any, node: Any) -> str:
    """A name for what is made by calling something that need not be a name itself."""
    if isinstance(function, Reference):
        return str(function)
    if isinstance(function, RecordedClass):
        return function.label
    depth = 0
    while type(node) is Call and depth < _DEEPEST_KEY:
        node, depth = node.function, depth + 1
    return "call of " * depth + (node.label if type(node) is Global else "a value")


def canonical(label: str) -> str:
    """A label as tables know it: the spelling of today's Python and of numpy 1."""
    module, _, name = label.partition(":")
    return f"{_MODULES.get(module, module)}:{name}"


_SINGLETONS = {"builtins:Ellipsis": Ellipsis, "builtins:NotImplemented": NotImplemented}


_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "pathlib._local": "pathlib",
}
"""Modules by their other names: those of Python 2, of numpy 2, of Python 3.13."""
_KEYS = (
    str, bytes, int, float, type(None), complex, range, type(Ellipsis), uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta, datetime.timezone, pathlib.PurePath,
    np.number, np.bool_, np.datetime64, np.timedelta64, np.dtype,
)  # fmt: skip
"""What may be a key or a member of a set, or of a tuple or frozen set that is one."""


def is_key(value: Any) -> bool:
    """Whether a value can be hashed and compared at little cost, and means the same as its node."""
    room = _MOST_PARTS
    pending = [(value, 0)]
    while pending:
        part, depth = pending.pop()
        if type(part) in (tuple, frozenset):
            room -= len(part)
            if room < 0 or depth > _DEEPEST_KEY:
                return False
            pending.extend((item, depth + 1) for item in part)
        elif not isinstance(part, _KEYS):
            return False
        if isinstance(part, int) and part.bit_length() > _LARGEST_BITS:
            return False
    return True


_KINDS: dict[type, Callable[[Rebuilder, Any], Any]] = {
    list: Rebuilder._list,
    tuple: Rebuilder._tuple,
    Pairs: Rebuilder._pairs,
    Members: Rebuilder._members,
    FrozenMembers: Rebuilder._frozen_members,
    Payload: Rebuilder._payload,
    Global: Rebuilder._global,
    Persistent: Rebuilder._outside,
    Call: Rebuilder._call,
}
"""How each kind of node becomes a value, or steps to one."""

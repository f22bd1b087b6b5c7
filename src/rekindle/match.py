"""The way back: a stored document matched against live objects, then put into them in place.

Two passes. The first compares, builds what must be new from data alone, and collects every
difference; it changes no live object. Only when there is none does the second pass act. A live
object answers for one stored node only. Names of classes and functions in a document are compared
with the live ones, never looked up to be called.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import enum
import fnmatch
import functools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rekindle import registry
from rekindle.codecs import arrays, dtypes, values
from rekindle.errors import Difference, FormatError
from rekindle.graph import attributes_of, join, plain_content, slots_of
from rekindle.registry import label
from rekindle.state import Document, Plain, Source, array_name, tag_of, unescape, view_of


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()
"""Stands where the live side has nothing."""


_DEEPEST = 32
"""What containers nested deeper than this hold is matched later, from a stack that is not deep."""


class _Pending:
    """An immutable value that is still being built; settled when the second pass runs."""

    def __init__(self, token: str) -> None:
        self.token = token


@dataclasses.dataclass(slots=True)
class _Memory:
    """Where the bytes of a stored array stand when all is restored."""

    address: int
    """Of the first of them."""
    content: np.ndarray[Any, Any] | None = None
    """All of them, where some array that stands has them all."""


class Match:
    """One restore.

    Args:
        source: Where documents and arrays come from.
        roots: The live objects, by component.
        classes: Classes of records that the checkpoint may hold where the live side has none.
        keep: Patterns of paths to attributes that stay as they are.
    """

    def __init__(
        self,
        source: Source,
        roots: Mapping[str, Any],
        classes: Iterable[type] = (),
        keep: Iterable[str] = (),
    ) -> None:
        self._source = source
        self._keep_patterns = tuple(keep)
        self._roots = dict(roots)
        self._classes = {label(cls): cls for cls in classes}
        self._outcomes: dict[str, Any] = {}
        self._claimed: dict[int, str] = {}
        self._spans: list[tuple[int, int, str]] = []
        self._memory: dict[str, _Memory] = {}
        self._actions: list[Callable[[], None]] = []
        self._hashing: list[Callable[[], None]] = []
        self._refills: list[Callable[[], None]] = []
        self._waiting: collections.deque[tuple[str, Callable[[], None]]] = collections.deque()
        self._depth = 0
        self._num_unfinished = 0
        self._keep: list[Any] = []
        self._document: Document | None = None
        self.component = ""
        self.differences: list[Difference] = []
        self.notes: list[str] = []
        self.num_values = 0

    # ------------------------------------------------------------------ the whole

    def run(self) -> None:
        """First pass over every asked-for component; `apply` is the second."""
        for name, live in self._roots.items():
            self.enter(name)
            outcome = self._outcomes.get(name, MISSING)
            if outcome is MISSING:
                outcome = self._root(name, live)
            self._finish()
            if outcome is not live and not self._in_place(outcome, live):
                self.differ(
                    "", f"an object that can be changed in place, of {_describe(outcome)}",
                    _describe(live),
                )  # fmt: skip

    def _root(self, name: str, live: Any) -> Any:
        assert self._document is not None
        root = self._document.root
        if isinstance(root, dict) and tag_of(root) not in values.DECODERS:
            self._outcomes[name] = live
        return self.node(root, live, "", strict=True)

    @staticmethod
    def _in_place(outcome: Any, live: Any) -> bool:
        try:
            return type(outcome) is type(live) and bool(outcome == live)
        except (ValueError, TypeError, RuntimeError):
            return False

    def build(self, component: str) -> Any:
        """First pass over a component that has no live object: all of it is new, from data."""
        self.enter(component)
        assert self._document is not None
        outcome = self.node(self._document.root, MISSING, "")
        self._finish()
        return outcome

    def _finish(self) -> None:
        """Match what containers hold that were too deep, or inside a value not yet built."""
        while self._waiting:
            component, descend = self._waiting.popleft()
            self.enter(component)
            descend()

    def apply(self) -> None:
        """Second pass: change the live objects.

        Sets and dictionaries with keys of other types than text come after what their members'
        hashes depend on; those that derive from a container after the container.
        """
        for action in (*self._actions, *self._hashing, *self._refills):
            action()

    def enter(self, component: str) -> None:
        """Read nodes of this component's document from now on."""
        self.component = component
        self._document = self._source.document(component)

    # ------------------------------------------------------------------ for adapters

    def differ(self, path: str, expected: str, found: str) -> None:
        """Note a mismatch between the checkpoint (`expected`) and the live object (`found`)."""
        self.differences.append(Difference(self.full(path), expected, found))

    def later(self, action: Callable[[], None]) -> None:
        """Do something in the second pass."""
        self._actions.append(action)

    def full(self, path: str) -> str:
        """A path with its component's name before it."""
        return f"{self.component}/{path}" if path else self.component

    def settle(self, value: Any) -> Any:
        """The final object for an outcome that was not built yet when it was asked for."""
        return self._outcomes[value.token] if isinstance(value, _Pending) else value

    def asks_for(self, component: str) -> bool:
        """Whether this component is among those being restored."""
        return component in self._roots

    def claim(self, live: Any, path: str) -> bool:
        """Let a live object answer for the node at `path`; false when it answers for another."""
        if id(live) in self._claimed:
            return False
        self._claimed[id(live)] = self.full(path)
        self._keep.append(live)
        return True

    def claim_memory(self, array: np.ndarray[Any, Any], node: dict[str, Any]) -> bool:
        """Let live memory answer for a stored array.

        Returns:
            False when it overlaps another array's memory, or when the stored array is part of
            memory that stands elsewhere.
        """
        if array.size == 0:
            return True
        token = _memory_name(node)
        known = self._memory.get(token)
        address = array.ctypes.data - node.get("offset", 0)
        if "$view" in node and not _has_strides(array, node["strides"]):
            return False
        if known is not None and known.address != address:
            return False
        if not self._claim_span(array, token):
            return False
        if known is None:
            known = self._memory[token] = _Memory(address)
        if "$view" not in node and array.flags.c_contiguous:
            known.content = array.reshape(-1).view(np.uint8)
        return True

    def _claim_span(self, array: np.ndarray[Any, Any], token: str) -> bool:
        address = array.ctypes.data
        steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
        low = address + sum(step for step in steps if step < 0)
        high = address + sum(step for step in steps if step > 0) + array.itemsize
        first = bisect.bisect_left(self._spans, (low,))
        if first and self._spans[first - 1][1] > low:
            first -= 1
        last = first
        while last < len(self._spans) and self._spans[last][0] < high:
            if self._spans[last][2] != token:
                return False
            low, high = min(low, self._spans[last][0]), max(high, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(low, high, token)]
        return True

    def place(
        self, node: dict[str, Any], data: np.ndarray[Any, Any], path: str
    ) -> np.ndarray[Any, Any]:
        """A new array with the values of a node, in memory that it shares as the stored one did.

        Args:
            node: The array's node.
            data: Its values, from `stored`.
            path: Where it stands.
        """
        if "$view" not in node and "strides" in node:
            return arrays.restride(data, node["strides"])
        if "$view" not in node and "dtype" in node:
            return data.copy()
        token = _memory_name(node)
        if token not in self._memory:
            raw = arrays.aligned_copy(self._source.array(token).raw, arrays.ALIGNMENT)
            content = raw.reshape(-1).view(np.uint8)
            self._memory[token] = _Memory(content.ctypes.data, content)
        memory = self._memory[token].content
        if memory is None:
            self.differ(path, f"an array over the memory of {token}", "one with memory of its own")
            return data.copy()
        if "$view" in node:
            return view_of(memory, node, data.dtype)
        return memory.view(data.dtype).reshape(data.shape)

    def stored(self, node: dict[str, Any]) -> tuple[np.ndarray[Any, Any], str]:
        """The values of an array node and the safetensors type of their bits."""
        self.num_values += 1
        if "$view" in node:
            host = self._source.array(node["$view"]).raw.reshape(-1).view(np.uint8)
            dtype = dtypes.build(node["dtype"])
            return view_of(host, node, dtype), node.get("code", "")
        stored = self._source.array(node["$array"])
        if stored.code in arrays.BITS_ONLY:
            raw = stored.raw
            if "shape" in node:
                raw = np.broadcast_to(raw, tuple(node["shape"]))
            return raw, stored.code
        return arrays.decode(stored, node), stored.code

    def value(self, node: Any) -> Any:
        """Plain data from a node, without any live object: scalars, containers, numpy arrays."""
        assert self._document is not None
        return Plain(self._source).decode(node, self._document)

    def attributes(
        self, nodes: Mapping[str, Any], live: Any, path: str, *, strict: bool = False
    ) -> None:
        """Match named attribute nodes with those of a live object, and set them later."""
        found = attributes_of(live)
        for key, node in nodes.items():
            name = unescape(key)
            if name == "$id" or self._keeps(join(path, name)):
                continue
            outcome = self.node(node, found.get(name, MISSING), join(path, name), strict=strict)
            if outcome is found.get(name, MISSING) or outcome is MISSING:
                continue
            if name not in found and not _can_have(live, name):
                self.differ(join(path, name), "an attribute of this name", "no place for one")
            else:
                self.later(functools.partial(self._set_attribute, live, name, outcome))

    def _keeps(self, path: str) -> bool:
        full = self.full(path) if self._keep_patterns else ""
        return any(fnmatch.fnmatchcase(full, pattern) for pattern in self._keep_patterns)

    def surplus(self, live: Any, name: str, path: str) -> None:
        """An attribute that only the live object has: forgotten if cached, else a mismatch."""
        if isinstance(_class_attribute(type(live), name), functools.cached_property):
            self.later(functools.partial(live.__dict__.pop, name, None))
        else:
            self.differ(join(path, name), "no such attribute", "one")

    def _set_attribute(self, live: Any, name: str, outcome: Any) -> None:
        set_attribute(live, name, self.settle(outcome))

    # ------------------------------------------------------------------ one node

    def node(self, node: Any, live: Any, path: str, *, strict: bool = False) -> Any:
        """What will stand at this place after the second pass.

        Args:
            node: The stored node.
            live: What stands there now, or `MISSING`.
            path: Where, from the component's root.
            strict: Whether arrays must fit what is live in shape and type.
        """
        if not isinstance(node, (list, dict)):
            self.num_values += 1
            return node
        self._depth += 1
        outcome = self._tagged(node, live, path, strict)
        self._depth -= 1
        return outcome

    def _tagged(self, node: Any, live: Any, path: str, strict: bool) -> Any:
        if isinstance(node, list):
            return self._list(node, {}, live, path, strict)
        tag = tag_of(node)
        if tag is None:
            return self._plain_dict(node, live, path, strict)
        if tag in values.DECODERS:
            self.num_values += 1
            return values.decode(node)
        matcher = _MATCHERS.get(tag)
        if matcher is None:
            raise FormatError(
                f"{self.full(path)}: expected a tag of format version 1, found {tag}. "
                "The document is malformed, or was written by a newer version."
            )
        outcome = matcher(self, node, live, path, strict)
        if "$id" in node:
            self._outcomes.setdefault(f"{self.component}#{node['$id']}", outcome)
        return outcome

    def outcome(self, token: str) -> Any:
        """What stands for an array or a shared value, by its name in references; else `MISSING`."""
        return self._outcomes.get(token, MISSING)

    def register(self, node: dict[str, Any], outcome: Any) -> Any:
        """Note what stands for a node, for the references to it."""
        if "$id" in node:
            self._outcomes[f"{self.component}#{node['$id']}"] = outcome
        return outcome

    # ------------------------------------------------------------------ containers

    def _target(self, node: dict[str, Any], live: Any, path: str, cls: type, new: Any) -> Any:
        """The live container if it is of the right type and free, else a new one."""
        target = live if type(live) is cls and self.claim(live, path) else new
        return self.register(node, target)

    def _descend(self, match: Callable[[], None]) -> None:
        """Match what a container holds; later where the stack is deep.

        Later too inside an immutable value: that is there then for what refers to it.
        """
        if self._depth < _DEEPEST and not self._num_unfinished:
            match()
        else:
            self._waiting.append((self.component, match))

    def _plain_dict(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        pairs = [(unescape(key), value) for key, value in node.items() if key != "$id"]
        target = self._target(node, live, path, dict, {})
        later = self.later
        self._descend(lambda: self._fill_dict(pairs, target, live, path, strict, later))
        return target

    def _fill_dict(
        self,
        pairs: list[tuple[Any, Any]],
        target: Any,
        live: Any,
        path: str,
        strict: bool,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        found = live if isinstance(live, Mapping) else {}
        extra: dict[Any, Any] = {}
        if strict:
            stored = {key for key, _ in pairs}
            extra = {key: value for key, value in found.items() if key not in stored}
        for key, value in extra.items():
            self.differ(join(path, str(key)), "nothing of this name", _describe(value))
        outcomes: list[tuple[Any, Any]] = []
        for key, node in pairs:
            inner = join(path, str(key))
            outcome = self.node(node, _get(found, key), inner, strict=strict)
            if outcome is not MISSING:
                outcomes.append((key, outcome))
            elif tag_of(node) == "$excluded":
                self.notes.append(f"{self.full(inner)}: left out of the checkpoint, and absent")
            else:
                self.differ(inner, _kept_name(node), "nothing")
        later(lambda: _refill(target, {**dict(outcomes), **extra}))

    def _tagged_dict(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node.get("class", "builtins:dict")
        cls = _MAPPINGS.get(name)
        if cls is None:
            self.differ(path, f"a mapping of a known class, {name}", _describe(live))
            return live
        if cls is types.MappingProxyType:
            target: Any = {}
            outcome = self.register(node, types.MappingProxyType(target))
        else:
            outcome = target = self._target(node, live, path, cls, cls())

        def match() -> None:
            found = live if isinstance(live, Mapping) else {}
            guess = self._guesses(found)
            keys = [self.node(key, guess(key), join(path, "keys()")) for key, _ in node["$dict"]]
            _check_hashable(keys)
            if cls is collections.defaultdict:
                self._factory(node.get("factory"), target, live, join(path, "default_factory"))
            pairs = list(zip(keys, [value for _, value in node["$dict"]], strict=True))
            self._fill_dict(pairs, target, live, path, strict, self._hashing.append)

        self._descend(match)
        return outcome

    def _guesses(self, live: Iterable[Any]) -> Callable[[Any], Any]:
        """Live members of a set, or keys, by which to restore stored ones: the next of its class.

        Those with a plain value need none.
        """
        free: dict[str, collections.deque[Any]] = {}
        for member in live:
            if values.encoder_for(type(member)) is None:
                free.setdefault(label(type(member)), collections.deque()).append(member)

        def guess(node: Any) -> Any:
            members = free.get(self._class_of(node)) if free else None
            return members.popleft() if members else MISSING

        return guess

    def _class_of(self, node: Any) -> str:
        """The class of what a node stands for, as far as it is a kind of key; else nothing."""
        tag = tag_of(node) if isinstance(node, dict) else None
        if tag in ("$tuple", "$frozenset"):
            return f"builtins:{tag[1:]}"
        if tag in ("$object", "$namedtuple"):
            return node[tag]
        if tag == "$ref" and node["$ref"] not in self._outcomes and "#" in node["$ref"]:
            return self._class_of(self._referred(node["$ref"])[1])
        return node.get("class", "") if tag is not None else ""

    def _factory(self, node: Any, target: Any, live: Any, path: str) -> None:
        present = live.default_factory if isinstance(live, collections.defaultdict) else None
        outcome = self.node(node, present, path)
        if outcome is not target.default_factory:
            self.later(functools.partial(setattr, target, "default_factory", outcome))

    def _tagged_list(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        return self._list(node["$list"], node, live, path, strict)

    def _list(
        self, nodes: list[Any], node: dict[str, Any], live: Any, path: str, strict: bool
    ) -> Any:
        target = self._target(node, live, path, list, [])

        def match() -> None:
            outcomes = self._each(nodes, live, path, strict)
            self.later(lambda: _refill(target, outcomes))

        self._descend(match)
        return target

    def _each(self, nodes: list[Any], live: Any, path: str, strict: bool) -> list[Any]:
        found = list(live) if isinstance(live, (list, tuple, collections.deque)) else []
        padded = found + [MISSING] * (len(nodes) - len(found))
        outcomes = []
        for index, child in enumerate(nodes):
            inner = join(path, str(index))
            outcome = self.node(child, padded[index], inner, strict=strict)
            if outcome is MISSING:
                self.differ(inner, _kept_name(child), "nothing")
            outcomes.append(outcome)
        return outcomes

    def _deque(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        maxlen = node.get("maxlen")
        fits = type(live) is collections.deque and live.maxlen == maxlen
        new: collections.deque[Any] = collections.deque(maxlen=maxlen)
        target = self._target(node, live if fits else MISSING, path, collections.deque, new)

        def match() -> None:
            outcomes = self._each(node["$deque"], live, path, strict=False)
            self.later(lambda: _refill(target, outcomes))

        self._descend(match)
        return target

    def _set(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        target = self._target(node, live, path, set, set())

        def match() -> None:
            outcomes = self._members(node["$set"], live, path)
            self._hashing.append(lambda: _refill(target, outcomes))

        self._descend(match)
        return target

    def _members(self, nodes: list[Any], live: Any, path: str) -> list[Any]:
        guess = self._guesses(live if isinstance(live, (set, frozenset)) else ())
        outcomes = [self.node(child, guess(child), path) for child in nodes]
        _check_hashable(outcomes)
        return outcomes

    def _frozenset(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        built = frozenset(self._parts(node, lambda: self._members(node["$frozenset"], live, path)))
        same = type(live) is frozenset and {*map(id, live)} == {*map(id, built)}
        return self.register(node, live if same and self.claim(live, path) else built)

    def _tuple(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        found = live if type(live) is tuple else ()
        outcomes = self._parts(node, lambda: self._each(node["$tuple"], found, path, strict))
        return self.register(node, self._same_or(live, tuple(outcomes), path))

    def _parts(self, node: dict[str, Any], match: Callable[[], list[Any]]) -> list[Any]:
        """Outcomes for what an immutable value holds; it is there only when they are."""
        if "$id" in node:
            token = f"{self.component}#{node['$id']}"
            self._outcomes[token] = _Pending(token)
            self._num_unfinished += 1
        outcomes = match()
        if "$id" in node:
            self._num_unfinished -= 1
        if any(isinstance(outcome, _Pending) for outcome in outcomes):
            raise ValueError("an immutable value that holds itself")
        return outcomes

    def _same_or(self, live: Any, built: Any, path: str) -> Any:
        """The live tuple itself when every element of it stays and it is no other's."""
        if type(live) is type(built) and tuple.__len__(live) == tuple.__len__(built):
            pairs = zip(tuple.__iter__(live), tuple.__iter__(built), strict=True)
            if all(a is b for a, b in pairs) and self.claim(live, path):
                return live
        return built

    def _namedtuple(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$namedtuple"]
        cls = self._class(name, live, path, _is_namedtuple)
        if cls is None:
            return live
        fields = {unescape(key): child for key, child in node["fields"].items() if key != "$id"}
        if list(fields) != list(cls._fields):
            self.differ(path, f"fields {list(fields)}", f"fields {list(cls._fields)} of {name}")
            return live
        present = tuple.__iter__(live) if type(live) is cls else ()
        found = dict(zip(cls._fields, present, strict=False))
        outcomes = self._parts(
            node,
            lambda: [
                self.node(child, found.get(key, MISSING), join(path, key), strict=strict)
                for key, child in fields.items()
            ],
        )
        return self.register(node, self._same_or(live, tuple.__new__(cls, outcomes), path))

    def _bytearray(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        data = values.decode({"$bytes": node["$bytearray"]})
        target = self._target(node, live, path, bytearray, bytearray())
        self.later(lambda: target.__setitem__(slice(None), data))
        return target

    def _slice(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        return slice(*(self.node(part, MISSING, path) for part in node["$slice"]))

    def _object_array(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        shape = tuple(node["shape"])
        new = np.empty(len(node["$objects"]), dtype=object).reshape(shape)
        fits = type(live) is np.ndarray and live.dtype == object and live.shape == shape
        target = self._target(node, live if fits else MISSING, path, np.ndarray, new)
        found = live.reshape(-1).tolist() if fits else []

        def match() -> None:
            outcomes = self._each(node["$objects"], found, path, strict)
            self.later(lambda: _refill_array(target, outcomes))

        self._descend(match)
        return target

    # ------------------------------------------------------------------ objects

    def _class(
        self, name: str, live: Any, path: str, is_record: Callable[[type], bool]
    ) -> Any | None:
        """The class of a record: the live object's, one the caller passed, or one of the program.

        Only classes of records (named tuples, dataclasses, enums) are found by name, among modules
        that the program has loaded, and only their fields are set: none of their code runs.
        """
        if live is not MISSING and live is not None and label(type(live)) == name:
            return type(live)
        cls = self._classes.get(name) or _loaded_class(name)
        if cls is not None and is_record(cls):
            return cls
        self.differ(path, f"an object of class {name} to restore into", _describe(live))
        return None

    def _is_buildable(self, cls: type) -> bool:
        """Whether objects of a class can be made from their attributes alone."""
        is_asked_for = self._classes.get(label(cls)) is cls and native_reason(cls) is None
        return dataclasses.is_dataclass(cls) or is_asked_for

    def _object(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$object"]
        if live is MISSING or live is None or label(type(live)) != name:
            cls = self._class(name, live, path, self._is_buildable)
            return self.register(node, live if cls is None else self._build(node, cls, path))
        if _is_immutable(live):
            return self._build(node, type(live), path, live)
        if not self.claim(live, path):
            if self._is_buildable(type(live)):
                return self._build(node, type(live), path)
            self.differ(
                path,
                f"an object of its own, of class {name}",
                f"the one that already stands for {self._claimed[id(live)]}",
            )
            return self.register(node, live)
        self.register(node, live)
        self._descend(lambda: self._match_object(node, live, path, strict))
        return live

    def _match_object(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> None:
        if "items" in node:
            self._match_items(node, live, plain_content(live), path, strict)
        stored = {unescape(key) for key in node["attributes"]} - {"$id"}
        for name in attributes_of(live):
            if name not in stored:
                self.surplus(live, name, path)
        self.attributes(node["attributes"], live, path, strict=strict and path_is_root(path))

    def _match_items(
        self, node: dict[str, Any], live: Any, content: Any, path: str, strict: bool
    ) -> None:
        """Items of an object of a class that derives from a built-in container."""
        outcome = self.node(node["items"], content, path, strict=strict)
        if type(outcome) is not type(content):
            self.differ(path, f"items in {_describe(outcome)}", _describe(content))
        else:
            self._refills.append(lambda: _refill(live, outcome))

    def _build(self, node: dict[str, Any], cls: type, path: str, live: Any = MISSING) -> Any:
        """A new object from its items and attributes; no code of its class runs."""
        base = container_of(cls)
        content: Any = MISSING
        if base is not None:
            content = MISSING if live is MISSING else plain_content(live)
        if base in IMMUTABLE:
            [content] = self._parts(node, lambda: [self.node(node["items"], content, path)])
            shell = base.__new__(cls, content)
        else:
            shell = (base or object).__new__(cls)
        self.register(node, shell)
        if base is not None and base not in IMMUTABLE:
            empty = plain_content(shell)
            self._descend(lambda: self._match_items(node, shell, empty, path, strict=False))
        found = attributes_of(live) if live is not MISSING else {}
        nodes = {unescape(key): child for key, child in node["attributes"].items() if key != "$id"}
        outcomes: dict[str, Any] = {}

        def match() -> None:
            for name, child in nodes.items():
                outcomes[name] = self.node(child, found.get(name, MISSING), join(path, name))
                self._set_built(shell, name, outcomes[name], join(path, name))

        self._descend(match)
        if live is not MISSING and found.keys() == outcomes.keys() == nodes.keys():
            same = all(found[name] is outcome for name, outcome in outcomes.items())
            if same and is_same_content(shell, live) and self.claim(live, path):
                return self.register(node, live)
        return shell

    def _set_built(self, shell: Any, name: str, outcome: Any, path: str) -> None:
        if not _can_have(shell, name):
            self.differ(path, "an attribute of this name", "no place for one")
        elif isinstance(outcome, _Pending):
            self.later(functools.partial(self._set_attribute, shell, name, outcome))
        elif outcome is not MISSING:
            set_attribute(shell, name, outcome)

    def _enum(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        cls = self._class(node["$enum"], live, path, lambda cls: issubclass(cls, enum.Enum))
        if cls is None:
            return live
        name = node["name"]
        if name in cls.__members__:
            return cls.__members__[name]
        value = self.node(node["value"], MISSING, path)
        if issubclass(cls, enum.Flag) and isinstance(value, int):
            return cls(value)
        self.differ(path, f"a member {name} of {node['$enum']}", "no such member")
        return live

    def _adapter(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        adapter = registry.adapter_named(node["$adapter"])
        if adapter is None:
            raise FormatError(
                f"{self.full(path)}: expected an adapter of this version, found "
                f"{node['$adapter']!r}. The checkpoint was written by a newer version."
            )
        if adapter.is_value:
            return adapter.build(node, self, path)
        inside = adapter.inside(live)
        if inside is not live:
            outcome = self._adapter(node, inside, path, strict)
            return live if outcome is inside else outcome
        missing = live is MISSING or live is None
        if not missing and label(type(live)) != node["class"]:
            if adapter.must_match:
                self.differ(path, f"an object of class {node['class']}", _describe(live))
                return self.register(node, live)
            missing = True
        if missing or not self.claim(live, path):
            build = getattr(adapter, "build", None)
            if build is not None:
                return self.register(node, build(node, self, path))
            claimed = "" if missing else f" that already stands for {self._claimed[id(live)]}"
            self.differ(
                path, f"an object of class {node['class']} of its own", _describe(live) + claimed
            )
            return self.register(node, live)
        self.register(node, live)
        return self.register(node, adapter.restore(node, live, self, path))

    # ------------------------------------------------------------------ arrays

    def _array(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        token = array_name(node)
        if token in self._outcomes:
            return self._outcomes[token]
        library = node.get("library")
        if library is not None:
            adapter = registry.adapter_named(f"{library}.tensor")
            if adapter is None:
                raise FormatError(
                    f"{self.full(path)}: expected a known library, found {library!r}."
                )
            outcome = adapter.restore_array(node, live, self, path, strict)
        else:
            outcome = self._numpy(node, live, path, strict)
        self._outcomes[token] = outcome
        return self.register(node, outcome)

    def _numpy(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        data, _ = self.stored(node)
        if isinstance(live, np.ndarray):
            same = live.dtype == data.dtype and live.shape == data.shape
            if same and not strict:
                same = _strides(live) == node.get("strides")
            if not same and strict and live.size:
                self.differ(
                    path,
                    f"{data.dtype} of shape {data.shape}",
                    f"{live.dtype} of shape {live.shape}",
                )
                return live
            token = array_name(node)
            if same and live.flags.writeable and self._takes(node, live, path, token):
                self.later(functools.partial(np.copyto, live, data))
                return live
        elif strict and live is not MISSING and live is not None:
            self.differ(path, f"an array {data.dtype} of shape {data.shape}", _describe(live))
            return live
        host = self._outcomes.get(node.get("$view", ""))
        if isinstance(host, np.ndarray) and host.flags.c_contiguous:
            return view_of(host.reshape(-1).view(np.uint8), node, data.dtype)
        return arrays.restride(data, node["strides"]) if "strides" in node else data.copy()

    def _takes(self, node: dict[str, Any], live: Any, path: str, token: str) -> bool:
        return self.claim(live, path) and self.claim_memory(live, node.get("$view", token))

    # ------------------------------------------------------------------ references and names

    def _ref(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        target: str = node["$ref"]
        if target in self._outcomes:
            outcome = self._outcomes[target]
            adapter = None if outcome is live else registry.adapter_for(type(live))
            return live if adapter is not None and adapter.inside(live) is outcome else outcome
        component = target.partition("/")[0].partition("#")[0]
        if component == target:
            # Another component's root: the caller's object if it was asked for, else left alone.
            return self._roots.get(target, live)
        document = self._source.document(component)
        stored: Any
        if "/" in target:
            stored = document.arrays.get(target, {"$array": target})
        else:
            stored = document.shared.get(int(target.rpartition("#")[2]))
        if stored is None:
            raise FormatError(
                f"{self.full(path)}: expected the shared value {target}, found none. "
                "The document is malformed."
            )
        here = self.component
        try:
            self.enter(component)
            return self.node(stored, live, path, strict=strict)
        finally:
            self.enter(here)

    def _class_name(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        if isinstance(live, type) and label(live) == node["$class"]:
            return live
        cls = self._classes.get(node["$class"])
        if cls is None:
            self.differ(path, f"the class {node['$class']}", _describe(live))
        return live if cls is None else cls

    def _function(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = _function_name(live)
        if name != node["$function"]:
            self.differ(path, f"the function {node['$function']}", name or _describe(live))
            return live
        self.register(node, live)
        cells = dict(zip(live.__code__.co_freevars, live.__closure__ or (), strict=True)) if hasattr(
            live, "__code__") else {}  # fmt: skip
        for key, child in node.get("closure", {}).items():
            cell = cells.get(key)
            if cell is None:
                self.differ(join(path, f"<closure>.{key}"), "a variable of this name", "none")
                continue
            content = cell.cell_contents
            outcome = self.node(child, content, join(path, f"<closure>.{key}"))
            if outcome is not content:
                self.later(functools.partial(self._set_cell, cell, outcome))
        if "attributes" in node:
            self.attributes(node["attributes"], live, path)
        return live

    def _set_cell(self, cell: types.CellType, outcome: Any) -> None:
        cell.cell_contents = self.settle(outcome)

    def _method(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$method"]
        if getattr(live, "__name__", None) != name or not hasattr(live, "__self__"):
            self.differ(path, f"a bound method {name}", _describe(live))
            return live
        self.register(node, live)
        owner = self.node(node["self"], live.__self__, join(path, "__self__"))
        return live if owner is live.__self__ else getattr(owner, name)

    def _partial(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        if not isinstance(live, functools.partial):
            self.differ(path, "a functools.partial", _describe(live))
            return live
        function = self.node(node["$partial"], live.func, join(path, "func"))
        arguments = self._each(node["args"], live.args, join(path, "args"), strict)
        keywords = {
            unescape(key): self.node(child, live.keywords.get(unescape(key), MISSING), path)
            for key, child in node["kwargs"].items()
        }
        same = function is live.func and all(
            a is b for a, b in zip(arguments, live.args, strict=False)
        )
        if same and len(arguments) == len(live.args) and keywords == live.keywords:
            return live
        return functools.partial(function, *arguments, **keywords)

    def _module(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        if not isinstance(live, types.ModuleType) or live.__name__ != node["$module"]:
            self.differ(path, f"the module {node['$module']}", _describe(live))
        return live

    def _left_alone(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        return live


_MATCHERS: dict[str, Callable[[Match, dict[str, Any], Any, str, bool], Any]] = {
    "$list": Match._tagged_list,
    "$tuple": Match._tuple,
    "$set": Match._set,
    "$frozenset": Match._frozenset,
    "$deque": Match._deque,
    "$dict": Match._tagged_dict,
    "$bytearray": Match._bytearray,
    "$objects": Match._object_array,
    "$namedtuple": Match._namedtuple,
    "$object": Match._object,
    "$enum": Match._enum,
    "$adapter": Match._adapter,
    "$array": Match._array,
    "$view": Match._array,
    "$ref": Match._ref,
    "$partial": Match._partial,
    "$slice": Match._slice,
    "$method": Match._method,
    "$class": Match._class_name,
    "$function": Match._function,
    "$module": Match._module,
    "$part": Match._left_alone,
    "$external": Match._left_alone,
    "$excluded": Match._left_alone,
}

_MAPPINGS: dict[str, type] = {
    label(cls): cls
    for cls in (
        dict,
        collections.OrderedDict,
        collections.defaultdict,
        collections.Counter,
        types.MappingProxyType,
    )
}


def path_is_root(path: str) -> bool:
    """Whether a path is that of a component itself."""
    return path == ""


def _get(found: Mapping[Any, Any], key: Any) -> Any:
    try:
        return found.get(key, MISSING)
    except TypeError:
        return MISSING


def _strides(array: np.ndarray[Any, Any]) -> list[int] | None:
    return None if array.flags.c_contiguous else list(array.strides)


def _describe(live: Any) -> str:
    if live is MISSING:
        return "nothing"
    if live is None:
        return "None"
    if isinstance(live, type):
        return f"the class {label(live)}"
    return f"an object of class {label(type(live))}"


def _function_name(live: Any) -> str | None:
    module = getattr(live, "__module__", None) or type(live).__module__
    name = getattr(live, "__qualname__", None) or getattr(live, "__name__", None)
    return f"{module}:{name}" if callable(live) and name else None


def _loaded_class(name: str) -> type | None:
    """A class of the running program by its label; nothing is imported for it."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _is_dataclass(cls: type) -> bool:
    return dataclasses.is_dataclass(cls)


def _is_frozen(live: Any) -> bool:
    parameters = getattr(type(live), "__dataclass_params__", None)
    return bool(parameters is not None and parameters.frozen)


def _class_attribute(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _refill(live: Any, outcome: Any) -> None:
    """Put items into an object of a class that derives from a container, past its own methods."""
    for base, add in ((dict, dict.update), (set, set.update), (list, list.extend),
                      (collections.deque, collections.deque.extend),
                      (bytearray, bytearray.extend)):  # fmt: skip
        if isinstance(live, base):
            base.clear(live)  # type: ignore[arg-type]
            add(live, outcome)  # type: ignore[arg-type]
            return


def set_attribute(live: Any, name: str, value: Any) -> None:
    """Set an attribute without running any code of the object's class."""
    for slot, member in slots_of(type(live)):
        if slot == name:
            member.__set__(live, value)
            return
    live.__dict__[name] = value

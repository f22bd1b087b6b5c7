"""The way back: a stored document matched against live objects, then put into them in place.

Two passes. The first compares, builds what must be new from data alone, and collects every
difference; it changes no live object. Only when there is none does the second pass act. A live
object answers for one stored node only. Names of classes and functions in a document are compared
with the live ones, never looked up to be called.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import enum
import fnmatch
import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rekindle import registry
from rekindle.codecs import arrays, dtypes, values
from rekindle.errors import Difference, FormatError
from rekindle.graph import (
    IMMUTABLE,
    attributes_of,
    container_of,
    function_name,
    is_filled,
    join,
    native_reason,
    plain_content,
    slots_of,
)
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


class Match:
    """One restore.

    Args:
        source: Where documents and arrays come from.
        roots: The live objects, by component.
        classes: Classes of records that the checkpoint may hold where the live side has none.
        keep: Patterns of paths to attributes that stay as they are.
        is_apart: Whether live objects only guide, and what is matched with them is made anew.
    """

    def __init__(
        self,
        source: Source,
        roots: Mapping[str, Any],
        classes: Iterable[type] = (),
        keep: Iterable[str] = (),
        *,
        is_apart: bool = False,
    ) -> None:
        self._source = source
        self._is_apart = is_apart
        self._keep_patterns = tuple(keep)
        self._roots = dict(roots)
        self._classes = {label(cls): cls for cls in classes}
        self.options = {
            "classes": tuple(self._classes.values()), "keep": self._keep_patterns,
        }  # fmt: skip
        self._outcomes: dict[str, Any] = {}
        self._claimed: dict[int, str] = {}
        self._spans: list[tuple[int, int, str]] = []
        self._memory: dict[str, np.ndarray[Any, Any]] = {}
        self._hosts: set[str] | None = None
        self._actions: list[Callable[[], None]] = []
        self._hashing: list[Callable[[], None]] = []
        self._refills: list[Callable[[], None]] = []
        self._waiting: collections.deque[tuple[str, Callable[[], Any]]] = collections.deque()
        self._depth = 0
        self._num_unfinished = 0
        self._is_loose = False
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
                    f"{_describe(live)}, which cannot. Restore an object that holds it, such as "
                    f"rk.Progress(), or take a new value from rk.open(path).into({name!r}, ...)",
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

    def build(self, component: str, like: Any = MISSING) -> Any:
        """First pass over a component that has no live object: all of it is new, from data.

        Where there is something `like` it, the structure of that is asked for.
        """
        self.enter(component)
        assert self._document is not None
        outcome = self.node(self._document.root, like, "", strict=like is not MISSING)
        self._finish()
        return outcome

    def part(self, component: str, live: Mapping[str, Any]) -> dict[str, Any]:
        """First pass over values that are part of a component; see `Walk.part`.

        Args:
            component: The component that they are part of.
            live: The live values by their paths in it.

        Returns:
            What will stand in their places, by path.
        """
        self.enter(component)
        assert self._document is not None
        nodes = self._document.root
        outcomes = {path: self.node(nodes[path], value, path) for path, value in live.items()}
        self._finish()
        return outcomes

    def excerpt(self, nodes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, arrays.Stored]]:
        """Nodes of the current component as a document of their own, and the arrays they name."""
        assert self._document is not None
        prefix = f"{self.component}#"
        names: dict[str, None] = {}
        known: set[int] = set()
        referred: list[int] = []
        hoisted: list[Any] = []
        pending: list[Any] = list(nodes.values())
        while pending or referred:
            if not pending:
                number = referred.pop()
                if number not in known:
                    hoisted.append(self._document.shared[number])
                    pending.append(hoisted[-1])
                continue
            node = pending.pop()
            if isinstance(node, dict):
                if "$id" in node:
                    known.add(node["$id"])
                name = node.get("$view", node.get("$array"))
                target = node.get("$ref", "")
                if name is not None:
                    names[name] = None
                elif target.startswith(prefix):
                    referred.append(int(target[len(prefix) :]))
                pending.extend(node.values())
            elif isinstance(node, list):
                pending.extend(node)
        document = {"root": dict(nodes), "hoisted": hoisted}
        return document, {name: self._source.array(name) for name in names}

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
        if self._is_apart or id(live) in self._claimed:
            return False
        self._claimed[id(live)] = self.full(path)
        self._keep.append(live)
        return True

    def claim_memory(
        self,
        array: np.ndarray[Any, Any],
        node: dict[str, Any],
        whole: np.ndarray[Any, Any] | None = None,
    ) -> bool:
        """Let live memory answer for a stored array.

        Args:
            array: The live array.
            node: The stored one.
            whole: All bytes of the allocation that the live array is part of, if that is known.

        Returns:
            False when it overlaps another array's memory, or when the stored array is part of
            memory that others share and the live one is not, in the same way.
        """
        if self._is_apart:
            return False
        if array.size == 0:
            return True
        token = _memory_name(node)
        if not self.is_shared(node):
            return self._claim_span(array, token)
        memory = self._shared_memory(array, node, _whole(array) if whole is None else whole)
        if memory is None:
            return False
        known = self._memory.get(token, memory)
        if known.ctypes.data != memory.ctypes.data or not self._claim_span(memory, token):
            return False
        self._memory[token] = known
        return True

    def _shared_memory(
        self, array: np.ndarray[Any, Any], node: dict[str, Any], whole: np.ndarray[Any, Any] | None
    ) -> np.ndarray[Any, Any] | None:
        """The live bytes that stand for a stored array, if they hold this view of it."""
        is_same = _has_strides(array, node["strides"]) if "$view" in node else (
            array.flags.c_contiguous)  # fmt: skip
        if not is_same or whole is None:
            return None
        first = array.ctypes.data - node.get("offset", 0) - whole.ctypes.data
        last = first + self._source.array(_memory_name(node)).raw.nbytes
        return whole[first:last] if 0 <= first <= last <= whole.size else None

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

    def is_shared(self, node: dict[str, Any]) -> bool:
        """Whether other arrays are views of the same memory as an array."""
        if "$view" in node:
            return True
        if self._hosts is None:
            names = {*self._roots, self.component}
            documents = [self._source.document(name) for name in names]
            self._hosts = {name for document in documents for name in document.hosts}
        return node["$array"] in self._hosts

    def place(self, node: dict[str, Any], data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A new array with the values of a node, in the memory that it shares with others.

        Args:
            node: The array's node.
            data: Its values, from `stored`.
        """
        token = _memory_name(node)
        if token not in self._memory:
            raw = arrays.aligned_copy(self._source.array(token).raw, arrays.ALIGNMENT)
            self._memory[token] = raw.reshape(-1).view(np.uint8)
        memory = self._memory[token]
        if "$view" in node:
            array = view_of(memory, node, data.dtype)
        else:
            array = memory.view(data.dtype).reshape(data.shape)
        self.later(functools.partial(np.copyto, array, data))
        return array

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

    def filler(
        self, node: dict[str, Any], memory: np.ndarray[Any, Any]
    ) -> Callable[[], None] | None:
        """How to read an array that is stored in parts straight into live memory.

        Args:
            node: The array's node.
            memory: The live array.

        Returns:
            What `later` takes; None where the array is stored as a whole, or does not fit.
        """
        if "$array" not in node or not (memory.flags.c_contiguous and memory.flags.writeable):
            return None
        found = self._source.segmented(node["$array"])
        if found is None or found.shape != memory.shape or found.dtype != memory.dtype:
            return None
        found.verify()
        self.num_values += 1
        return functools.partial(found.fill, memory)

    def measure(self, node: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any], str]:
        """Shape, type and safetensors type of a stored array, whose files are checked by this."""
        found = self._source.segmented(node["$array"]) if "$array" in node else None
        if found is None:
            data, code = self.stored(node)
            return data.shape, data.dtype, code
        found.verify()
        self.num_values += 1
        return found.shape, found.dtype, found.code

    def again(self) -> Match:
        """Another restore from the same source, for what only this one's second pass makes."""
        other = Match(self._source, {}, **self.options)
        other.enter(self.component)
        return other

    def value(self, node: Any) -> Any:
        """Plain data from a node, without any live object: scalars, containers, numpy arrays."""
        assert self._document is not None
        return Plain(self._source).decode(node, self._document)

    def attributes(
        self,
        nodes: Mapping[str, Any],
        live: Any,
        path: str,
        *,
        strict: bool = False,
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
        """An attribute that only the live object has.

        It is forgotten where it is a cache or hides a default of its class; else it does not fit.
        """
        if name in getattr(live, "__dict__", {}) and _is_in_class(type(live), name):
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
        self._descend(lambda: self._fill_dict(pairs, target, live, path, strict, self.later))
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
            extra = {
                key: value
                for key, value in found.items()
                if key not in stored and self._must_fit(value)
            }
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
                self._miss(node, inner)
        later(lambda: _refill(target, {**dict(outcomes), **extra}))

    def _must_fit(self, live: Any) -> bool:
        """Whether what only the live side has is a difference.

        Among the attributes of the program's own objects only where it holds arrays: what else
        their dictionaries and tuples hold comes and goes.
        """
        return not self._is_loose or _holds_arrays(live)

    @contextlib.contextmanager
    def _loosely(self, is_loose: bool) -> Iterator[None]:
        before, self._is_loose = self._is_loose, is_loose
        yield
        self._is_loose = before

    def _miss(self, node: Any, path: str) -> None:
        """Note that nothing stands where the checkpoint holds only a name, unless it is noted."""
        tag = tag_of(node) or ""
        if tag in ("$excluded", "$external", "$part", "$ref"):
            self.differ(path, f"what the checkpoint holds only by name, {node[tag]}", "nothing")

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
            nodes = [key for key, _ in node["$dict"]]
            keys = self._keys(nodes, guess, join(path, "keys()"))
            if cls is collections.defaultdict:
                self._factory(node.get("factory"), target, live, join(path, "default_factory"))
            pairs = [
                (key, value)
                for key, (_, value) in zip(keys, node["$dict"], strict=True)
                if key is not MISSING
            ]
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
            self._refill_row(target, live, outcomes)

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
                self._miss(child, inner)
            outcomes.append(outcome)
        return outcomes

    def _refill_row(self, target: Any, live: Any, outcomes: list[Any]) -> None:
        """Put items into a list or deque; a live one where some are missing stays as it is."""
        present = _present(outcomes)
        if target is not live or len(present) == len(outcomes):
            self.later(lambda: _refill(target, present))

    def _deque(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        maxlen = node.get("maxlen")
        fits = type(live) is collections.deque and live.maxlen == maxlen
        new: collections.deque[Any] = collections.deque(maxlen=maxlen)
        target = self._target(node, live if fits else MISSING, path, collections.deque, new)

        def match() -> None:
            outcomes = self._each(node["$deque"], live, path, strict=False)
            self._refill_row(target, live, outcomes)

        self._descend(match)
        return target

    def _set(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        target = self._target(node, live, path, set, set())

        def match() -> None:
            outcomes = _present(self._members(node["$set"], live, path))
            self._hashing.append(lambda: _refill(target, outcomes))

        self._descend(match)
        return target

    def _members(self, nodes: list[Any], live: Any, path: str) -> list[Any]:
        guess = self._guesses(live if isinstance(live, (set, frozenset)) else ())
        return self._keys(nodes, guess, path)

    def _keys(self, nodes: list[Any], guess: Callable[[Any], Any], path: str) -> list[Any]:
        """Outcomes for members of a set or keys of a dictionary."""
        outcomes = [self.node(child, guess(child), path) for child in nodes]
        _check_hashable(outcomes)
        for child, outcome in zip(nodes, outcomes, strict=True):
            if outcome is MISSING:
                self._miss(child, path)
        return outcomes

    def _frozenset(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        outcomes = self._parts(node, lambda: self._members(node["$frozenset"], live, path))
        built = frozenset(_present(outcomes))
        same = type(live) is frozenset and {*map(id, live)} == {*map(id, built)}
        return self.register(node, live if same and self.claim(live, path) else built)

    def _tuple(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        found = live if type(live) is tuple else ()
        if strict and isinstance(live, tuple) and type(live) is not tuple:
            self.differ(path, f"a tuple of {len(node['$tuple'])}", _describe(live))
        elif strict and found and len(found) != len(node["$tuple"]) and self._must_fit(found):
            self.differ(path, f"a tuple of {len(node['$tuple'])}", f"one of {len(found)}")
        outcomes = self._parts(node, lambda: self._each(node["$tuple"], found, path, strict))
        return self.register(node, self._same_or(live, tuple(_present(outcomes)), path))

    def _parts(self, node: dict[str, Any], match: Callable[[], list[Any]]) -> list[Any]:
        """Outcomes for what an immutable value holds; it is there only when they are."""
        with self._unfinished(f"{self.component}#{node['$id']}" if "$id" in node else None):
            outcomes = match()
        if any(isinstance(outcome, _Pending) for outcome in outcomes):
            raise ValueError("an immutable value that holds itself")
        return outcomes

    @contextlib.contextmanager
    def _unfinished(self, token: str | None) -> Iterator[None]:
        """Meanwhile what a name in references stands for is not there yet."""
        if token is None:
            yield
            return
        self._outcomes[token] = _Pending(token)
        self._num_unfinished += 1
        yield
        self._num_unfinished -= 1

    def _same_or(self, live: Any, built: Any, path: str) -> Any:
        """The live tuple itself when every element of it stays and it is no other's."""
        if type(live) is type(built) and tuple.__len__(live) == tuple.__len__(built):
            pairs = zip(tuple.__iter__(live), tuple.__iter__(built), strict=True)
            if all(_is_same_value(a, b) for a, b in pairs) and self.claim(live, path):
                return live
        return built

    def _namedtuple(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$namedtuple"]
        cls = self._class(name, live, path, _is_namedtuple)
        if cls is None:
            return live
        if strict and isinstance(live, tuple) and type(live) is not cls:
            self.differ(path, f"an object of class {name}", _describe(live))
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
        if len(_present(outcomes)) != len(outcomes):
            return self.register(node, live)
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
            if len(_present(outcomes)) == len(outcomes):
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
        if dataclasses.is_dataclass(cls) or cls is types.SimpleNamespace:
            return True
        return self._classes.get(label(cls)) is cls and native_reason(cls) is None

    def _object(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$object"]
        if live is MISSING or live is None or label(type(live)) != name:
            cls = self._class(name, live, path, self._is_buildable)
            return self.register(node, live if cls is None else self._build(node, cls, path))
        if _is_immutable(live):
            return self._build(node, type(live), path, live, strict)
        if not self.claim(live, path):
            if self._is_buildable(type(live)):
                return self._build(node, type(live), path)
            self.differ(path, f"an object of its own, of class {name}", self._taken(live))
            return self.register(node, live)
        self.register(node, live)
        self._descend(lambda: self._match_object(node, live, path, strict))
        return live

    def _taken(self, live: Any) -> str:
        """Why a live object cannot answer for a node, in words."""
        other = self._claimed.get(id(live))
        if other is None:
            return f"{_describe(live)}, which only restore can fill"
        return f"the one that already stands for {other}"

    def _match_object(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> None:
        if "items" in node:
            self._match_items(node, live, plain_content(live), path, strict)
        stored = {unescape(key) for key in node["attributes"]} - {"$id"}
        for name in attributes_of(live):
            if name not in stored:
                self.surplus(live, name, path)
        with self._loosely(True):
            is_strict = strict and path_is_root(path)
            self.attributes(node["attributes"], live, path, strict=is_strict)

    def _match_items(
        self, node: dict[str, Any], live: Any, content: Any, path: str, strict: bool
    ) -> None:
        """Items of an object of a class that derives from a built-in container."""
        outcome = self.node(node["items"], content, path, strict=strict)
        if type(outcome) is not type(content):
            self.differ(path, f"items in {_describe(outcome)}", _describe(content))
        else:
            self._refills.append(lambda: _refill(live, outcome))

    def _build(
        self,
        node: dict[str, Any],
        cls: type,
        path: str,
        live: Any = MISSING,
        strict: bool = False,
    ) -> Any:
        """A new object from its items and attributes; no code of its class runs.

        The live one, if it is given and immutable, when nothing in it would be another.
        """
        if live is not MISSING and self._depth < _DEEPEST:
            token = f"{self.component}#{node['$id']}" if "$id" in node else None
            with self._unfinished(token), self._loosely(False):
                shell = self._shell(node, cls, path, live)
                found = attributes_of(live)
                outcomes = self._match_attributes(node, shell, path, found, strict)
            same = _is_same(shell, live, outcomes) and self.claim(live, path)
            return self.register(node, live if same else shell)
        shell = self.register(node, self._shell(node, cls, path, MISSING))
        if self._depth < 2 * _DEEPEST:
            self._match_attributes(node, shell, path, {})
        else:
            rest = functools.partial(self._match_attributes, node, shell, path, {})
            self._waiting.append((self.component, rest))
        return shell

    def _shell(self, node: dict[str, Any], cls: type, path: str, live: Any) -> Any:
        """A new object that has its items, now or later, and no attributes yet."""
        base = container_of(cls)
        if base is None:
            is_namespace = issubclass(cls, types.SimpleNamespace)
            return types.SimpleNamespace.__new__(cls) if is_namespace else object.__new__(cls)
        if base in IMMUTABLE:
            content = MISSING if live is MISSING else plain_content(live)
            [items] = self._parts(node, lambda: [self.node(node["items"], content, path)])
            return base.__new__(cls, items)
        shell = base.__new__(cls)
        empty = plain_content(shell)
        self._descend(lambda: self._match_items(node, shell, empty, path, strict=False))
        return shell

    def _match_attributes(
        self,
        node: dict[str, Any],
        shell: Any,
        path: str,
        found: dict[str, Any],
        strict: bool = False,
    ) -> dict[str, Any]:
        outcomes: dict[str, Any] = {}
        for key, child in node["attributes"].items():
            name = unescape(key)
            if name != "$id":
                inner = join(path, name)
                outcomes[name] = self.node(child, found.get(name, MISSING), inner, strict=strict)
                self._set_built(shell, name, outcomes[name], inner)
        return outcomes

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
            return self.register(node, cls.__members__[name])
        value = self.node(node["value"], MISSING, path)
        if issubclass(cls, enum.Flag) and isinstance(value, int) and _is_plain_flag(cls):
            return self.register(node, cls(value))
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
        if missing or not (adapter.is_frozen or self.claim(live, path)):
            build = getattr(adapter, "build", None)
            if build is not None:
                return self.register(node, build(node, self, path))
            found = _describe(live) if missing else self._taken(live)
            self.differ(path, f"an object of class {node['class']} of its own", found)
            return self.register(node, live)
        self.register(node, live)
        with self._loosely(False):
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
        if isinstance(live, np.ndarray):
            fill = self.filler(node, live)
            if fill is not None and self._takes(node, live, path):
                self.later(fill)
                return live
        data, _ = self.stored(node)
        if isinstance(live, np.ndarray):
            same = live.dtype == data.dtype and live.shape == data.shape
            if not same and strict and live.size:
                self.differ(
                    path,
                    f"{data.dtype} of shape {data.shape}",
                    f"{live.dtype} of shape {live.shape}",
                )
                return live
            if same and not strict and "$view" not in node:
                same = _strides(live) == node.get("strides")
            if same and live.flags.writeable and self._takes(node, live, path):
                self.later(functools.partial(np.copyto, live, data))
                return live
        elif strict and live is not MISSING and live is not None:
            self.differ(path, f"an array {data.dtype} of shape {data.shape}", _describe(live))
            return live
        if self.is_shared(node):
            return self.place(node, data)
        return arrays.restride(data, node["strides"]) if "strides" in node else data.copy()

    def _takes(self, node: dict[str, Any], live: Any, path: str) -> bool:
        return self.claim_memory(live, node) and self.claim(live, path)

    # ------------------------------------------------------------------ references and names

    def _ref(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        target: str = node["$ref"]
        if target in self._outcomes:
            outcome = self._outcomes[target]
            adapter = None if outcome is live else registry.adapter_for(type(live))
            return live if adapter is not None and adapter.inside(live) is outcome else outcome
        if target in self._roots:
            return self._roots[target]
        component, stored = self._referred(target)
        if component == target:
            # Another component's root that nobody asked for: left alone if it is there.
            if live is not MISSING:
                return live
            with self._unfinished(target):
                outcome = self._elsewhere(component, stored, live, path, strict)
            self._outcomes[target] = outcome
            return outcome
        return self._elsewhere(component, stored, live, path, strict)

    def _elsewhere(self, component: str, node: Any, live: Any, path: str, strict: bool) -> Any:
        """The outcome for a node of another place in the document, or of another document."""
        here = self.component
        self.enter(component)
        outcome = self.node(node, live, path, strict=strict)
        self.enter(here)
        return outcome

    def _referred(self, target: str) -> tuple[str, Any]:
        """The component and the node that a reference names."""
        component = target.partition("/")[0].partition("#")[0]
        document = self._source.document(component)
        if component == target:
            return component, document.root
        if "/" in target:
            return component, document.arrays.get(target, {"$array": target})
        stored = document.shared.get(int(target.rpartition("#")[2]))
        if stored is None:
            raise FormatError(
                f"{self.component}: expected the shared value {target}, found none. "
                "The document is malformed."
            )
        return component, stored

    def _class_name(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$class"]
        if isinstance(live, type) and label(live) == name:
            return live
        cls = self._classes.get(name) or _PLAIN_CLASSES.get(name)
        if cls is None:
            self.differ(path, f"the class {name}", _describe(live))
        return live if cls is None else cls

    def _function(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = function_name(live)
        if name != node["$function"]:
            self.differ(path, f"the function {node['$function']}", name or _describe(live))
            return live
        self.register(node, live)
        self._descend(lambda: self._match_function(node, live, path))
        return live

    def _match_function(self, node: dict[str, Any], live: Any, path: str) -> None:
        names: Any = live.__code__.co_freevars if hasattr(live, "__code__") else ()
        cells = dict(zip(names, getattr(live, "__closure__", None) or (), strict=True))
        for key, child in node.get("closure", {}).items():
            inner = join(path, f"<closure>.{key}")
            cell = cells.get(unescape(key))
            if cell is None:
                self.differ(inner, "a variable of this name", "none")
                continue
            content = cell.cell_contents if is_filled(cell) else MISSING
            outcome = self.node(child, content, inner)
            if outcome is not content and outcome is not MISSING:
                self.later(functools.partial(self._set_cell, cell, outcome))
        if "attributes" in node:
            self.attributes(node["attributes"], live, path)

    def _set_cell(self, cell: types.CellType, outcome: Any) -> None:
        cell.cell_contents = self.settle(outcome)

    def _method(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        name = node["$method"]
        if getattr(live, "__name__", None) != name or not hasattr(live, "__self__"):
            self.differ(path, f"a bound method {name}", _describe(live))
            return live
        self.register(node, live)
        owner = self.node(node["self"], live.__self__, join(path, "__self__"))
        if owner is live.__self__:
            return live
        if isinstance(live, types.MethodType):
            return self.register(node, types.MethodType(live.__func__, owner))
        return self.register(node, getattr(owner, name))

    def _partial(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        if not isinstance(live, functools.partial):
            self.differ(path, "a functools.partial", _describe(live))
            return live
        nodes = {unescape(key): child for key, child in node["kwargs"].items() if key != "$id"}

        def match() -> list[Any]:
            function = self.node(node["$partial"], live.func, join(path, "func"))
            arguments = self._each(node["args"], live.args, join(path, "args"), strict=False)
            keywords = [
                self.node(child, live.keywords.get(name, MISSING), join(path, f"kwargs.{name}"))
                for name, child in nodes.items()
            ]
            return [function, *arguments, *keywords]

        outcomes = self._parts(node, match)
        parts = [live.func, *live.args, *live.keywords.values()]
        same = len(parts) == len(outcomes) and all(map(_is_same_value, parts, outcomes))
        if same and list(nodes) == list(live.keywords) and self.claim(live, path):
            return self.register(node, live)
        if len(_present(outcomes)) != len(outcomes):
            return self.register(node, live)
        first = 1 + len(node["args"])
        keywords = dict(zip(nodes, outcomes[first:], strict=True))
        return self.register(node, functools.partial(*outcomes[:first], **keywords))

    def _module(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        if not isinstance(live, types.ModuleType) or live.__name__ != node["$module"]:
            self.differ(path, f"the module {node['$module']}", _describe(live))
        return live

    def _left_alone(self, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
        return self.register(node, live)


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


_PLAIN_CLASSES: dict[str, Any] = {
    label(cls): cls
    for cls in (
        *values.ENCODERS, *np.sctypeDict.values(), list, tuple, dict, set, frozenset, bytearray,
        object, collections.deque, collections.OrderedDict, collections.Counter,
    )
}  # fmt: skip
"""Classes of plain values, which a name is enough to stand for."""


def path_is_root(path: str) -> bool:
    """Whether a path is that of a component itself."""
    return path == ""


def _get(found: Mapping[Any, Any], key: Any) -> Any:
    try:
        return found.get(key, MISSING)
    except (TypeError, AttributeError):  # the hash of a key that is not filled yet
        return MISSING


def _check_hashable(members: Iterable[Any]) -> None:
    """Members of a set, or keys, are told to be such before anything is changed.

    Raises:
        TypeError: One of them is not.
    """
    for member in members:
        if type(member) in (tuple, frozenset):
            _check_hashable(member)
        elif type(member).__hash__ is None:
            raise TypeError(f"a {type(member).__name__} in a set, or as a key")


def _memory_name(node: dict[str, Any]) -> str:
    """The stored array in whose memory an array is: itself, or the one it is a view of."""
    return node["$view"] if "$view" in node else node["$array"]


def _whole(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """All bytes of the array that owns the memory, if they are in one row."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.reshape(-1, order="A").view(np.uint8) if array.flags.forc else None


def _holds_arrays(live: Any) -> bool:
    if isinstance(live, Mapping):
        return any(map(_holds_arrays, live.values()))
    if isinstance(live, (list, tuple)):
        return any(map(_holds_arrays, live))
    return hasattr(live, "dtype") and bool(getattr(live, "shape", ()))


def _has_strides(array: np.ndarray[Any, Any], strides: list[int]) -> bool:
    return all(
        n <= 1 or found == stored
        for n, found, stored in zip(array.shape, array.strides, strides, strict=True)
    )


def _present(outcomes: list[Any]) -> list[Any]:
    return [outcome for outcome in outcomes if outcome is not MISSING]


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


def _loaded_class(name: str) -> type | None:
    """A class of the running program by its label; nothing is imported for it."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _is_plain_flag(cls: type[enum.Flag]) -> bool:
    """Whether combining members runs no code but the standard library's."""
    return all("_missing_" not in vars(base) for base in cls.__mro__ if base.__module__ != "enum")


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _is_immutable(live: Any) -> bool:
    """Whether an object is replaced by another rather than changed."""
    parameters = getattr(type(live), "__dataclass_params__", None)
    is_frozen = parameters is not None and parameters.frozen
    return is_frozen or container_of(type(live)) in IMMUTABLE


def _is_same_value(live: Any, outcome: Any) -> bool:
    """Whether a live value can stay for an outcome: the same one, or an equal plain value."""
    if live is outcome:
        return True
    cls = type(live)
    if cls is not type(outcome) or cls not in (int, float, str, bytes):
        return False
    return live == outcome and (cls is not float or bool(live) or repr(live) == repr(outcome))


def _is_same(shell: Any, live: Any, outcomes: dict[str, Any]) -> bool:
    """Whether a live object holds exactly what one that was built to replace it does."""
    found = attributes_of(live)
    if found.keys() != outcomes.keys():
        return False
    if not all(_is_same_value(found[name], outcome) for name, outcome in outcomes.items()):
        return False
    base = container_of(type(live))
    if base is tuple:
        same = tuple.__len__(shell) == tuple.__len__(live)
        return same and all(map(_is_same_value, tuple.__iter__(shell), tuple.__iter__(live)))
    return base is None or (base in (int, str, bytes) and base.__eq__(shell, live))


def _is_in_class(cls: type, name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__)


def _refill(live: Any, items: Any) -> None:
    """Put items into a container, or an object of a class that derives from one.

    Past the methods of its own class, whose code is the program's.
    """
    if isinstance(live, collections.OrderedDict):
        collections.OrderedDict.clear(live)
        for key, value in items.items():
            collections.OrderedDict.__setitem__(live, key, value)
    elif isinstance(live, dict):
        dict.clear(live)
        dict.update(live, items)
    elif isinstance(live, BaseException):
        live.args = items
    else:
        for base, add in _ADDERS.items():
            if isinstance(live, base):
                base.clear(live)
                add(live, items)
    if isinstance(live, collections.defaultdict) and isinstance(items, collections.defaultdict):
        live.default_factory = items.default_factory


_ADDERS: dict[Any, Callable[[Any, Any], None]] = {
    list: list.extend,
    set: set.update,
    collections.deque: collections.deque.extend,
    bytearray: bytearray.extend,
}


def _refill_array(live: np.ndarray[Any, Any], items: list[Any]) -> None:
    flat = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        flat[index] = item
    live[...] = flat.reshape(live.shape)


def _can_have(live: Any, name: str) -> bool:
    return hasattr(live, "__dict__") or any(slot == name for slot, _ in slots_of(type(live)))


def set_attribute(live: Any, name: str, value: Any) -> None:
    """Set an attribute without running any code of the object's class."""
    for slot, member in slots_of(type(live)):
        if slot == name:
            member.__set__(live, value)
            return
    live.__dict__[name] = value

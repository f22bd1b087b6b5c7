"""The walk: live objects to documents and arrays, with every identity kept.

One `Walk` captures all components of a checkpoint, so that what two of them share is stored once
and referred to elsewhere. Everything that cannot be data is collected with its path and refused
together, before any file is written. The way back is `rekindle.match`.
"""

from __future__ import annotations

import collections
import ctypes
import enum
import fnmatch
import functools
import re
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rekindle import registry
from rekindle.codecs import arrays, dtypes, values
from rekindle.collecting import uncollected
from rekindle.errors import UnsupportedError
from rekindle.registry import label
from rekindle.rings import Ring
from rekindle.state import Record, Reference, escape
from rekindle.tensors import Tensors, described

_DEEPEST = 48
"""Nodes nested deeper than this are hoisted, so that no reader needs a deep stack."""

_DEEPEST_TUPLE = 128
"""Tuples have no identity by which to hoist them; nested deeper than this they are refused."""

_LONGEST_NAME = 240
"""Names of arrays are no longer than this many characters."""

CONSTRUCTOR = "_rekindle_constructor"
"""Attribute under which a `Saveable` remembers its arguments; no part of its state."""

Encoder = Callable[["Walk", Any, str], Any]


@dataclass
class Captured:
    """Everything that a walk found, ready to be written."""

    documents: dict[str, dict[str, Any]]
    """One per component, in the order of the walk."""
    arrays: dict[str, dict[str, arrays.Stored]]
    """Per component, arrays by their name in its file."""
    adapters: dict[str, str]
    """What captured the root of each component."""
    excluded: list[str]
    """Paths that were left out because the caller asked."""
    notes: list[str]
    """What the capture could not keep exactly, in words."""
    rows: list[Rows] = field(default_factory=list)
    """Arrays among them whose rows are stored by themselves."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays of one component to which rows are added together."""

    component: str
    names: list[str]
    ring: Ring
    is_changing: bool
    """Whether any row may change at any time."""


class Plan:
    """How an array was captured, so that it is captured again in one step while it stays the same.

    Args:
        owner: The live object; the plan goes when it does.
        fits: Whether a live object is still what it was: memory, shape, type, flags.
        data: Its memory, or the bits of it.
        stored: What is written.
        described: What its node says beside its name.
        code: The safetensors type, where `data` holds only bits.
    """

    __slots__ = ("code", "data", "described", "fits", "high", "low", "owner", "raw", "stored_code")

    def __init__(
        self,
        owner: Any,
        fits: Callable[[Any], bool],
        data: np.ndarray[Any, Any],
        stored: arrays.Stored,
        described: dict[str, Any],
        code: str | None,
        span: tuple[int, int],
    ) -> None:
        key = id(owner)
        self.owner = weakref.ref(owner, lambda _: _PLANS.pop(key, None))
        self.fits = fits
        self.data = data
        self.raw, self.stored_code = stored.raw, stored.code
        self.described = described
        self.code = code
        self.low, self.high = span
        _PLANS[key] = self


_PLANS: dict[int, Plan] = {}


@dataclass(slots=True, eq=False)
class _Held:
    """An array met in the walk, until it is known which others overlap its memory."""

    component: str
    name: str
    node: dict[str, Any]
    stored: arrays.Stored
    memory: np.ndarray[Any, Any]
    code: str | None = None
    owner: Any = None
    low: int = 0
    high: int = 0
    """Where its live memory begins and ends; the same where no other array can overlap it."""


@dataclass(slots=True, eq=False)
class _Seen:
    node: dict[str, Any]
    component: str
    value: Any = field(repr=False)


class Walk:
    """One capture.

    Args:
        exclude: Patterns of paths to leave out, such as `policy.writer` or `agent/*.viewer`.
        tensors: Which arrays were tensors, where what is captured was read from a foreign file.
        omit: Says of an object that it is left out wherever it stands; gradients are left out too.
    """

    def __init__(
        self,
        exclude: Iterable[str] = (),
        tensors: Tensors | None = None,
        omit: Callable[[Any], bool] | None = None,
    ) -> None:
        self.component = ""
        self.tensors = tensors
        """Which arrays were tensors, where what is captured was read from a foreign file."""
        self._omit = omit
        self._patterns = tuple(exclude)
        self._exclude: tuple[str, ...] = ()
        """Those of the patterns that may leave out something of the current component."""
        self._grafted: list[Any] = []
        self._roots: dict[int, str] = {}
        self._seen: dict[int, _Seen | _Held] = {}
        self._lists: list[tuple[Any, Any, dict[str, Any]]] = []
        self._held: list[_Held] = []
        self._held_by_id: dict[int, _Held] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._next_id: dict[str, int] = {}
        self._depth = 0
        self._later: list[tuple[Any, str]] = []
        self._numbers: dict[int, int] = {}
        self._rings: dict[int, tuple[Any, Ring, bool]] = {}
        self._ungraded: set[int] = set()
        self._refusals: list[tuple[str, str]] = []
        self._excluded: list[str] = []
        self.notes: list[str] = []

    # ------------------------------------------------------------------ the whole

    def capture(
        self, components: Mapping[str, Any], *, among: Mapping[str, Any] | None = None
    ) -> Captured:
        """Capture named live objects.

        Modules are walked before what refers to their tensors, so that each tensor gets its best
        name; otherwise the order is the caller's.

        Args:
            components: What to capture.
            among: All components that these are some of; to the others they refer by name only.

        Raises:
            UnsupportedError: Some values cannot be data; the error lists every one.
        """
        for name, value in (among or components).items():
            if _has_identity(value):
                self._roots.setdefault(id(value), name)
        with uncollected():
            order = _order(components)
            documents = {name: self._document(name, components[name]) for name in order}
        self._settle_lists()
        if self._refusals:
            raise _refused(self._refusals)
        stored = self._settle_arrays()
        return Captured(
            {name: documents[name] for name in components},
            {name: stored.get(name, {}) for name in components},
            {name: _adapter_name(components[name]) for name in components},
            self._excluded,
            self.notes,
            self._settle_rows(stored),
        )

    def part(
        self, component: str, items: Mapping[str, Any], exclude: Iterable[str] = ()
    ) -> Captured:
        """Capture values that are part of a component whose rest another walk captures.

        Args:
            component: The component that they are part of.
            items: Values by their paths in it; the document's root has their nodes by path.
            exclude: What the other walk leaves out, as it says.

        Raises:
            UnsupportedError: Some values cannot be data.
        """
        self._patterns = tuple(exclude)
        self._enter(component)
        root: dict[str, Any] = {}
        document: dict[str, Any] = {"root": root}
        with uncollected():
            for path, value in items.items():
                self._put(root, path, value, path)
            self._hoist_rest(document)
        self._settle_lists()
        if self._refusals:
            raise _refused(self._refusals)
        stored = self._settle_arrays().get(component, {})
        return Captured({component: document}, {component: stored}, {}, self._excluded, self.notes)

    def graft(self, part: Captured) -> dict[str, Any]:
        """Take in what another walk captured as part of the component that this one is in.

        Returns:
            The nodes of the values by their paths.
        """
        document = part.documents[self.component]
        offset = self._next_id.get(self.component, 0)
        self._next_id[self.component] = _renumber(document, self.component, offset)
        self._grafted.extend(document.get("hoisted", ()))
        for name, stored in part.arrays[self.component].items():
            self._names[self.component].setdefault(name, 1)
            self._held.append(_Held(self.component, name, {}, stored, stored.raw))
        self._excluded.extend(part.excluded)
        self.notes.extend(part.notes)
        return document["root"]

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of what is left out here."""
        return self._exclude

    def _enter(self, component: str) -> None:
        """Go on in a component that nothing was captured of."""
        self.component = component
        self._names[component] = {}
        self._exclude = tuple(p for p in self._patterns if _may_match(p, component))

    def _document(self, component: str, value: Any) -> dict[str, Any]:
        self._enter(component)
        owner = self._roots.get(id(value), component)
        document: dict[str, Any] = {}
        if owner != component:
            document["root"] = {"$ref": owner}
            return document
        self._place(document, "root", self._encode(value, ""))
        self._hoist_rest(document)
        return document

    def _hoist_rest(self, document: dict[str, Any]) -> None:
        """Write what was too deep, and what grafts had too deep, beside the root."""
        hoisted: list[Any] = []
        while self._later:
            value, path = self._later.pop(0)
            node = self._encode(value, path)
            if isinstance(node, dict):
                node["$id"] = self._numbers[id(value)]
            hoisted.append(node)
        hoisted += self._grafted
        self._grafted = []
        if hoisted:
            document["hoisted"] = hoisted

    # ------------------------------------------------------------------ one value

    def node(self, value: Any, path: str) -> Any:
        """The node of a value inside the current component.

        Args:
            value: Anything.
            path: Where it stands, from the component's root; empty for the root.
        """
        cls = type(value)
        encoder = _ENCODERS.get(cls)
        if encoder is not None and encoder in _ATOMIC:
            return encoder(self, value, path)
        if self._omit is not None and self._omit(value):
            self._excluded.append(self.full(path))
            return {"$excluded": label(cls)}
        key = id(value)
        owner = self._roots.get(key)
        if owner is not None:
            return {"$ref": owner}
        seen = self._seen.get(key)
        if seen is not None:
            return {"$ref": self._token(seen)}
        plan = _PLANS.get(key) if self._omit is None else None
        if plan is not None and plan.owner() is value and plan.fits(value):
            return self._planned(plan, value, path)
        if self._depth >= _DEEPEST:
            if _has_identity(value):
                return self._hoist(value, path)
            if self._depth >= _DEEPEST_TUPLE:
                self.refuse(path, f"a value inside more than {_DEEPEST_TUPLE} nested tuples")
                return None
        return self._encode(value, path)

    def _encode(self, value: Any, path: str) -> Any:
        cls = type(value)
        encoder = _ENCODERS.get(cls)
        if encoder is None:
            encoder = _ENCODERS[cls] = _find_encoder(cls)
        self._depth += 1
        try:
            return encoder(self, value, path)
        finally:
            self._depth -= 1

    def remember(self, value: Any, node: dict[str, Any]) -> dict[str, Any]:
        """Note that `value` is written as `node`, so that the next meeting refers to it."""
        self._seen[id(value)] = _Seen(node, self.component, value)
        if id(value) in self._numbers:
            node["$id"] = self._numbers[id(value)]
        return node

    def _token(self, seen: _Seen | _Held) -> str:
        node = seen.node
        if "$array" in node:
            return node["$array"]
        if "$id" not in node:
            node["$id"] = self._number(seen.component)
        return f"{seen.component}#{node['$id']}"

    def _number(self, component: str) -> int:
        self._next_id[component] = self._next_id.get(component, 0) + 1
        return self._next_id[component]

    def _hoist(self, value: Any, path: str) -> dict[str, Any]:
        number = self._numbers[id(value)] = self._number(self.component)
        self._seen[id(value)] = _Seen({"$id": number}, self.component, value)
        self._later.append((value, path))
        return {"$ref": f"{self.component}#{number}"}

    def _is_excluded(self, path: str) -> bool:
        full = f"{self.component}/{path}"
        dotted = f"{self.component}.{path}"
        for pattern in self._exclude:
            if full == pattern or dotted == pattern:
                break
            if _WILDCARD.search(pattern) and (
                fnmatch.fnmatchcase(full, pattern) or fnmatch.fnmatchcase(dotted, pattern)
            ):
                break
        else:
            return False
        self._excluded.append(full)
        return True

    def full(self, path: str) -> str:
        """A path with its component's name before it, as messages show it."""
        return f"{self.component}/{path}" if path else self.component

    def refuse(self, path: str, reason: str) -> None:
        """Note that something cannot be data; the walk goes on to find the others."""
        self._refusals.append((self.full(path), reason))

    def children(
        self,
        items: Mapping[str, Any] | Iterable[tuple[str, Any]],
        path: str,
        node: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Nodes of named values, in a plain dictionary node, or in one that is there."""
        pairs: Any = items.items() if isinstance(items, (dict, Mapping)) else items
        node = {} if node is None else node
        may_skip = bool(self._exclude)
        for key, value in pairs:
            name = escape(key) if key[:1] == "$" else key
            if not may_skip and _is_json(value):
                node[name] = value
            else:
                self._put(node, name, value, f"{path}.{key}" if path else key)
        return node

    def whole(self, items: Mapping[str, Any], path: str) -> Any:
        """Nodes of named values that mean something only together: none of them is left out."""
        exclude, self._exclude = self._exclude, ()
        try:
            return self.children(items, path)
        finally:
            self._exclude = exclude

    def _put(self, parent: Any, key: Any, value: Any, path: str) -> None:
        if self._exclude and self._is_excluded(path):
            parent[key] = {"$excluded": label(type(value))}
            return
        node = parent[key] = self.node(value, path)
        if type(node) is dict and "$list" in node:
            self._lists.append((parent, key, node))

    def _place(self, parent: Any, key: Any, node: Any) -> None:
        parent[key] = node
        if type(node) is dict and "$list" in node:
            self._lists.append((parent, key, node))

    def elements(self, items: Iterable[Any], path: str) -> list[Any]:
        """Nodes of values in a row."""
        nodes: list[Any] = []
        may_skip = bool(self._exclude)
        for index, value in enumerate(items):
            if not may_skip and _is_json(value):
                nodes.append(value)
            else:
                nodes.append(None)
                self._put(nodes, index, value, join(path, str(index)))
        return nodes

    def _settle_lists(self) -> None:
        """Lists that nothing else refers to become plain JSON arrays."""
        for parent, key, node in self._lists:
            if "$id" not in node:
                parent[key] = node["$list"]

    # ------------------------------------------------------------------ arrays

    def array(
        self,
        owner: Any,
        data: np.ndarray[Any, Any],
        path: str,
        *,
        code: str | None = None,
        address: int | None = None,
        fits: Callable[[Any], bool] | None = None,
        **extra: Any,
    ) -> dict[str, Any]:
        """Take an array into the component's file and return its node.

        Args:
            owner: The live object whose identity this is.
            data: Its values; for a type that numpy lacks, its bits.
            path: Its name in the file.
            code: The safetensors type, where `data` holds only bits.
            address: Where `data` begins, if it is live memory, which other arrays may overlap.
            fits: Says later whether the owner is still what it is now; its capture is planned then.
            extra: What else the node says (`library`, `device`, ...).
        """
        try:
            stored, described = arrays.encode(data)
        except TypeError as error:
            self.refuse(path, f"an array of {error}")
            return {}
        if code is not None:
            stored.code = code
        name = self._unique(path or "value")
        described |= extra
        node: dict[str, Any] = {"$array": f"{self.component}/{name}", **described}
        low, high = _span(data, address) if address is not None and data.size else (0, 0)
        self._held.append(_Held(self.component, name, node, stored, data, code, owner, low, high))
        if fits is not None and stored.raw is data:
            Plan(owner, fits, data, stored, described, code, (low, high))
        return self.remember(owner, node)

    def _planned(self, plan: Plan, value: Any, path: str) -> dict[str, Any]:
        """What `array` does, for a live object that it has met in an earlier walk."""
        name = path or "value"
        taken = self._names[self.component]
        if name in taken or len(name) > _LONGEST_NAME or not name.isascii() or name[0] == "_":
            name = self._unique(name)
        else:
            taken[name] = 1
        node: dict[str, Any] = {"$array": f"{self.component}/{name}", **plan.described}
        stored = arrays.Stored(plan.stored_code, plan.raw)
        held = _Held(
            self.component, name, node, stored, plan.data, plan.code, value, plan.low, plan.high
        )
        self._held.append(held)
        key = id(value)
        self._seen[key] = held
        if key in self._numbers:
            node["$id"] = self._numbers[key]
        return node

    def rows(self, owners: Iterable[Any], ring: Ring, *, is_changing: bool = False) -> None:
        """Say that rows of arrays are stored by themselves; before or after they are met.

        Args:
            owners: The live arrays, of one length.
            ring: How they stand.
            is_changing: Whether any row may change at any time.
        """
        for owner in owners:
            self._rings[id(owner)] = (owner, ring, is_changing)

    def without_gradients(self, parameters: Iterable[Any]) -> None:
        """Say of parameters that their gradients are no state."""
        self._ungraded.update(id(parameter) for parameter in parameters)

    def has_gradient(self, parameter: Any) -> bool:
        """Whether the gradient of a parameter is state."""
        return self.keeps_gradients and id(parameter) not in self._ungraded

    @property
    def keeps_gradients(self) -> bool:
        """Whether any gradient is state."""
        return self._omit is None

    def _unique(self, name: str) -> str:
        taken = self._names[self.component]
        if name == "__metadata__":
            name = "_" + name
        if not name.isascii():
            name = name.encode("utf-8", "backslashreplace").decode()
        if len(name) > _LONGEST_NAME:
            half = _LONGEST_NAME // 2
            name = f"{name[:half]}...{name[-half:]}"
        chosen = name
        while chosen in taken:
            taken[name] += 1
            chosen = f"{name}~{taken[name]}"
        taken[chosen] = 1
        return chosen

    def _settle_arrays(self) -> dict[str, dict[str, arrays.Stored]]:
        """Give each piece of memory to one array; those that overlap it become views of it."""
        views: set[_Held] = set()
        hosts: list[_Held] = []
        for group in _overlapping(self._held):
            host = self._host(group)
            if host not in group:
                hosts.append(host)
            for held in group:
                if held is not host:
                    self._make_view(held, host)
                    views.add(held)
        stored: dict[str, dict[str, arrays.Stored]] = {}
        for held in [*hosts, *self._held]:
            if held not in views:
                stored.setdefault(held.component, {})[held.name] = held.stored
        return stored

    def _settle_rows(self, stored: dict[str, dict[str, arrays.Stored]]) -> list[Rows]:
        """Which of the arrays have rows that are stored by themselves."""
        groups: dict[tuple[Any, ...], Rows] = {}
        for held in self._held:
            if id(held.owner) not in self._rings:
                continue
            _, ring, is_changing = self._rings[id(held.owner)]
            raw = held.stored.raw
            is_plain = not held.node.keys() & {"$view", "dtype", "strides", "shape"}
            is_own = stored.get(held.component, {}).get(held.name) is held.stored
            if not is_plain or not is_own or raw.shape[:1] != (ring.capacity,) or not raw.nbytes:
                continue
            key = (held.component, id(ring), held.name if is_changing else None)
            found = groups.setdefault(key, Rows(held.component, [], ring, is_changing))
            found.names.append(held.name)
        return list(groups.values())

    def _host(self, group: list[_Held]) -> _Held:
        low = min(held.low for held in group)
        high = max(held.high for held in group)
        for held in group:
            plain = "dtype" not in held.node and "strides" not in held.node
            if plain and held.low == low and held.high == high:
                return held
        first = group[0]
        self.component = first.component
        name = self._unique(f"{first.name}.memory")
        buffer = (ctypes.c_uint8 * (high - low)).from_address(low)
        raw = np.frombuffer(memoryview(buffer), np.uint8).copy()
        node = {"$array": f"{first.component}/{name}"}
        return _Held(
            first.component, name, node, arrays.Stored("U8", raw), raw, None, None, low, high
        )

    def _make_view(self, held: _Held, host: _Held) -> None:
        node = held.node
        view = {
            "$view": host.node["$array"],
            "name": node["$array"],
            "offset": held.memory.ctypes.data - host.low,
            "shape": list(held.memory.shape),
            "strides": list(held.memory.strides),
            "dtype": dtypes.describe(held.memory.dtype),
        }
        if held.code is not None:
            view["code"] = held.code
        rest = {
            key: value
            for key, value in node.items()
            if key not in ("$array", "dtype", "shape", "strides")
        }
        node.clear()
        node.update(view)
        node.update(rest)


def _may_match(pattern: str, component: str) -> bool:
    """Whether a pattern of paths may match one in a component."""
    literal = _WILDCARD.split(pattern, maxsplit=1)[0].replace("/", ".", 1)
    full = f"{component}."
    return literal.startswith(full) or full.startswith(literal)


_WILDCARD = re.compile(r"[*?\[]")


def _renumber(document: dict[str, Any], component: str, offset: int) -> int:
    """Add to the numbers of a document's shared values; the highest that there is then."""
    highest = offset
    prefix = f"{component}#"
    pending: list[Any] = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "$id" in node:
                node["$id"] += offset
                highest = max(highest, node["$id"])
            if str(node.get("$ref", "")).startswith(prefix):
                node["$ref"] = f"{prefix}{int(node['$ref'][len(prefix) :]) + offset}"
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return highest


def join(path: str, key: str) -> str:
    """A path one step further."""
    return f"{path}.{key}" if path else key


def _refused(refusals: list[tuple[str, str]]) -> UnsupportedError:
    lines = "\n".join(f"  {path}: {reason}" for path, reason in refusals[:20])
    more = f"\n  ... and {len(refusals) - 20} more" if len(refusals) > 20 else ""
    return UnsupportedError(
        f"{len(refusals)} value(s) cannot be expressed as data, so nothing was written:\n"
        f"{lines}{more}\n"
        "Leave each out with exclude=[path], or let the object that holds it say itself what its "
        "state is, with get_state and set_state as rk.Stateful describes.",
        key=refusals[0][0],
        refusals=refusals,
    )


def _overlapping(held: list[_Held]) -> list[list[_Held]]:
    """Groups of two or more arrays that overlap in memory; all in the order of the walk."""
    spans = sorted((item.low, item.high, i) for i, item in enumerate(held) if item.low < item.high)
    groups: list[list[int]] = []
    end = 0
    for position, (low, high, index) in enumerate(spans):
        if low >= end:
            end = high
            continue
        if not groups or groups[-1][-1] != spans[position - 1][2]:
            groups.append([spans[position - 1][2]])
        groups[-1].append(index)
        end = max(end, high)
    return [[held[index] for index in group] for group in sorted(map(sorted, groups))]


def _span(memory: np.ndarray[Any, Any], address: int) -> tuple[int, int]:
    """Addresses of the first byte of an array that has items, and of the one behind its last."""
    if memory.flags.c_contiguous:
        return address, address + memory.nbytes
    steps = [(n - 1) * s for n, s in zip(memory.shape, memory.strides, strict=True)]
    low = address + sum(step for step in steps if step < 0)
    return low, address + sum(step for step in steps if step > 0) + memory.itemsize


def _order(components: Mapping[str, Any]) -> list[str]:
    """Components in the order of the walk: those whose adapter names tensors best come first."""

    def rank(name: str) -> int:
        adapter = registry.adapter_for(type(components[name]))
        return getattr(adapter, "rank", 1)

    return sorted(components, key=rank)


def _adapter_name(value: Any) -> str:
    adapter = registry.adapter_for(type(value))
    if adapter is not None:
        return adapter.name
    return "plain" if type(value) in _ENCODERS and type(value) not in _OBJECTS else "graph"


def _has_identity(value: Any) -> bool:
    """Whether two names of this value must come back as two names of one."""
    cls = type(value)
    if cls in (tuple, frozenset) or values.encoder_for(cls) is not None:
        return False
    return not isinstance(value, (type, types.ModuleType, enum.Enum, tuple))


# --------------------------------------------------------------------------- encoders


def _atomic(encode: Callable[[Any], Any]) -> Encoder:
    def encoder(walk: Walk, value: Any, path: str) -> Any:
        return encode(value)

    return encoder


def _checked(encode: Callable[[Any], Any]) -> Encoder:
    """An encoder that may find a value it cannot write, such as an exotic time zone."""

    def encoder(walk: Walk, value: Any, path: str) -> Any:
        try:
            return encode(value)
        except (TypeError, ValueError) as error:
            walk.refuse(path, f"{label(type(value))}: {error}")
            return None

    return encoder


_PLAIN = (type(None), bool, int, float, str)
_ENCODERS: dict[type, Encoder] = {cls: _atomic(values.ENCODERS[cls]) for cls in _PLAIN}
_ATOMIC = set(_ENCODERS.values())
_OBJECTS: set[type] = set()


def _encode_dict(walk: Walk, value: dict[Any, Any], path: str) -> Any:
    if all(type(key) is str and (key.isascii() or _is_text(key)) for key in value):
        node: dict[str, Any] = {}
        walk.remember(value, node)
        walk.children(value, path, node)
        children = [child for key, child in node.items() if key != "$id"]
        return _of_the_process(node, children, dict) if path else node
    node = walk.remember(value, {"$dict": []})
    node["$dict"] = _pairs(walk, value, path)
    return node


def _is_json(value: Any) -> bool:
    """Whether a value is its own node, told at once; others may be too."""
    cls = type(value)
    if cls is int:
        return -_SMALL_INTEGER < value < _SMALL_INTEGER
    if cls is str:
        return value.isascii()
    return cls is bool or value is None or (cls is float and value - value == 0.0)


_SMALL_INTEGER = 1 << 53


def _is_text(key: str) -> bool:
    return values.encode_str(key) is key


def _pairs(walk: Walk, value: Mapping[Any, Any], path: str) -> list[Any]:
    pairs = []
    for key, item in value.items():
        pair: list[Any] = [None, None]
        walk._put(pair, 0, key, join(path, "keys()"))
        walk._put(
            pair, 1, item, join(path, str(key) if isinstance(key, (str, int)) else "values()")
        )
        pairs.append(pair)
    return pairs


def _encode_list(walk: Walk, value: list[Any], path: str) -> Any:
    node = walk.remember(value, {"$list": []})
    node["$list"] = walk.elements(value, path)
    return _of_the_process(node, node["$list"], list) if path else node


def _of_the_process(node: dict[str, Any], children: list[Any], cls: type) -> dict[str, Any]:
    """The node of a container; one of nothing but things of the process is such a thing itself.

    Pictures that an environment loads when it first draws are an example: the live side may have
    no such container yet.
    """
    if children and all(type(child) is dict and "$external" in child for child in children):
        identity = {"$id": node["$id"]} if "$id" in node else {}
        node.clear()
        node.update(identity)
        node["$external"] = label(cls)
    return node


def _encode_tuple(walk: Walk, value: tuple[Any, ...], path: str) -> Any:
    # Registered before its elements: a tuple can hold a list that holds the tuple.
    node = walk.remember(value, {"$tuple": []})
    node["$tuple"] = walk.elements(value, path)
    return node


def _encode_set(walk: Walk, value: Any, path: str) -> Any:
    tag = "$set" if type(value) is set else "$frozenset"
    node = walk.remember(value, {tag: []})
    node[tag] = walk.elements(_in_order(value), path)
    return node


def _in_order(members: Any) -> Iterable[Any]:
    """Members of a set as it gives them, or sorted where Python draws that order for each process.

    Hashes of numbers are the same everywhere, those of text are not; objects cannot be sorted.
    """
    kinds = {type(item) for member in members for item in _atoms(member)}
    is_plain = all(values.encoder_for(kind) or issubclass(kind, enum.Enum) for kind in kinds)
    return sorted(members, key=_sorting_key) if is_plain and kinds - _NUMBERS else members


_NUMBERS = {bool, int, float, complex}


def _atoms(member: Any) -> Iterator[Any]:
    if type(member) in (tuple, frozenset):
        for item in member:
            yield from _atoms(item)
    else:
        yield member


def _sorting_key(member: Any) -> str:
    if type(member) is frozenset:
        return f"frozenset{sorted(map(_sorting_key, member))}"
    return repr([*map(_sorting_key, member)] if type(member) is tuple else member)


def _encode_deque(walk: Walk, value: collections.deque[Any], path: str) -> Any:
    node = walk.remember(value, {"$deque": []})
    if value.maxlen is not None:
        node["maxlen"] = value.maxlen
    node["$deque"] = walk.elements(value, path)
    return node


def _encode_mapping(walk: Walk, value: Any, path: str) -> Any:
    """`OrderedDict`, `defaultdict`, `Counter` and mapping proxies."""
    node: dict[str, Any] = walk.remember(value, {"$dict": [], "class": label(type(value))})
    if isinstance(value, collections.defaultdict):
        node["factory"] = walk.node(value.default_factory, join(path, "default_factory"))
    node["$dict"] = _pairs(walk, value, path)
    if walk.tensors is not None and getattr(value, "__dict__", None):
        # Of torch's state dicts: `_metadata`, which a file told of and writing it again needs.
        node["attributes"] = walk.children(vars(value), join(path, "<attributes>"))
    return node


def _encode_record(walk: Walk, value: Record, path: str) -> Any:
    """What a file told of an object, as that object; `told` has what are not its attributes."""
    fields = dict(value)
    told = value._told()
    if not all(_is_text(key) for key in fields):
        told["fields"], fields = fields, {}
    if not _is_text(value.label):
        walk.refuse(path, "a record whose name is no text")
        return None
    node = walk.remember(value, {"$object": value.label, "attributes": {}})
    node["attributes"] = walk.children(fields, path)
    if told:
        node["told"] = walk.children(told, join(path, "<told>"))
    return node


def _encode_reference(walk: Walk, value: Reference, path: str) -> Any:
    return {"$function": values.encode_str(str(value))}


def _encode_bytearray(walk: Walk, value: bytearray, path: str) -> Any:
    return walk.remember(value, {"$bytearray": values.ENCODERS[bytes](bytes(value))["$bytes"]})


def _encode_slice(walk: Walk, value: slice, path: str) -> Any:
    return {"$slice": walk.elements([value.start, value.stop, value.step], path)}


def _encode_ndarray(walk: Walk, value: np.ndarray[Any, Any], path: str) -> Any:
    if value.dtype == object:
        node = walk.remember(value, {"$objects": [], "shape": list(value.shape)})
        node["$objects"] = walk.elements(value.reshape(-1).tolist(), path)
        return node
    if walk.tensors is None:
        return walk.array(value, value, path, address=value.ctypes.data)
    data, code, told = described(value, walk.tensors.of(value))
    return walk.array(value, data, path, code=code, address=value.ctypes.data, **told)


def _encode_type(walk: Walk, value: type, path: str) -> Any:
    return {"$class": label(value)}


def function_name(value: Any) -> str | None:
    """The label of a function, or of what is only compared by its name; None for other objects."""
    cls = type(value)
    if cls.__module__ == "typing" or isinstance(value, (types.GenericAlias, types.UnionType)):
        return f"{cls.__module__}:{value!r}"
    module = getattr(value, "__module__", None) or cls.__module__
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{module}:{name}" if callable(value) and name else None


def _encode_named(walk: Walk, value: Any, path: str) -> Any:
    """Anything that is only compared by its name: generic aliases, ufuncs, built-in functions."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, (types.ModuleType, type)):
        return walk.remember(
            value,
            {"$method": value.__name__, "self": walk.node(owner, join(path, "__self__"))},
        )
    return {"$function": function_name(value)}


def _encode_function(walk: Walk, value: types.FunctionType, path: str) -> Any:
    node = walk.remember(value, {"$function": f"{value.__module__}:{value.__qualname__}"})
    if value.__closure__:
        cells = zip(value.__code__.co_freevars, value.__closure__, strict=True)
        filled = [(name, cell.cell_contents) for name, cell in cells if is_filled(cell)]
        node["closure"] = walk.children(filled, join(path, "<closure>"))
    if value.__dict__:
        attributes = {k: v for k, v in value.__dict__.items() if k != "__wrapped__"}
        node["attributes"] = walk.children(attributes, path)
    return node


def is_filled(cell: types.CellType) -> bool:
    """Whether a variable of a closure has a value."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _encode_method(walk: Walk, value: types.MethodType, path: str) -> Any:
    node = walk.remember(value, {"$method": value.__func__.__name__, "self": None})
    node["self"] = walk.node(value.__self__, join(path, "__self__"))
    return node


def _encode_partial(walk: Walk, value: functools.partial[Any], path: str) -> Any:
    node = walk.remember(value, {"$partial": None})
    node["$partial"] = walk.node(value.func, join(path, "func"))
    node["args"] = walk.elements(value.args, join(path, "args"))
    node["kwargs"] = walk.children(value.keywords, join(path, "kwargs"))
    return node


def _encode_module(walk: Walk, value: types.ModuleType, path: str) -> Any:
    return {"$module": value.__name__}


_BUILT_IN: dict[Any, Encoder] = {
    dict: _encode_dict,
    list: _encode_list,
    tuple: _encode_tuple,
    set: _encode_set,
    frozenset: _encode_set,
    collections.deque: _encode_deque,
    collections.OrderedDict: _encode_mapping,
    collections.defaultdict: _encode_mapping,
    collections.Counter: _encode_mapping,
    types.MappingProxyType: _encode_mapping,
    bytearray: _encode_bytearray,
    slice: _encode_slice,
    np.ndarray: _encode_ndarray,
    type: _encode_type,
    types.FunctionType: _encode_function,
    types.BuiltinFunctionType: _encode_named,
    types.MethodWrapperType: _encode_named,
    types.WrapperDescriptorType: _encode_named,
    types.MethodDescriptorType: _encode_named,
    types.GenericAlias: _encode_named,
    types.UnionType: _encode_named,
    np.ufunc: _encode_named,
    types.MethodType: _encode_method,
    functools.partial: _encode_partial,
    types.ModuleType: _encode_module,
    np.memmap: _encode_ndarray,
    Reference: _encode_reference,
}
_ENCODERS.update(_BUILT_IN)


def _find_encoder(cls: type) -> Encoder:
    """How to write values of a class that was not met before."""
    plain = values.encoder_for(cls)
    if plain is not None:
        return _checked(plain)
    if issubclass(cls, enum.Enum):
        return _encode_enum
    if issubclass(cls, type):
        return _encode_type
    adapter = registry.adapter_for(cls)
    if adapter is not None:
        return _adapted(adapter)
    if issubclass(cls, Record):
        return _encode_record
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _encode_namedtuple
    if cls.__module__ == "typing":
        return _encode_named
    _OBJECTS.add(cls)
    reason = native_reason(cls)
    if reason is not None:
        return _refuser(reason)
    return _encode_object if container_of(cls) is None else _encode_subclass


IMMUTABLE = frozenset((tuple, frozenset, int, float, str, bytes, complex))
"""Built-in types whose subclasses get their content when they are made."""

_CONTENT: dict[type, Callable[[Any], Any]] = {
    collections.OrderedDict: lambda value: collections.OrderedDict(
        collections.OrderedDict.items(value)
    ),
    collections.defaultdict: lambda value: collections.defaultdict(
        value.default_factory, dict.items(value)
    ),
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    collections.deque: lambda value: collections.deque(
        collections.deque.__iter__(value), value.maxlen
    ),
    bytearray: lambda value: bytearray(bytearray.__iter__(value)),
    bytes: lambda value: bytes(bytes.__iter__(value)),
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
}
"""How to read what an object of a class that derives from a built-in type holds, past that class's
own methods."""


@functools.cache
def container_of(cls: type) -> Any:
    """The built-in type whose content an object of a class has beside its attributes, or None."""
    for base in cls.__mro__:
        if base in _CONTENT or _is_builtin_exception(base):
            return base
    return None


def _is_builtin_exception(cls: type) -> bool:
    return issubclass(cls, BaseException) and not cls.__flags__ & _HEAP_TYPE


def _encode_enum(walk: Walk, value: enum.Enum, path: str) -> Any:
    return {
        "$enum": label(type(value)),
        "name": value.name,
        "value": walk.node(value.value, join(path, "value")),
    }


def _adapted(adapter: Any) -> Encoder:
    def encoder(walk: Walk, value: Any, path: str) -> Any:
        inside = adapter.inside(value)
        if inside is not value:
            return walk.node(inside, path)
        if adapter.is_value:
            return adapter.capture(value, walk, path)
        node: dict[str, Any] = {"$adapter": adapter.name, "class": label(type(value))}
        walk.remember(value, node)
        node.update(adapter.capture(value, walk, path))
        return node

    return encoder


def _encode_namedtuple(walk: Walk, value: Any, path: str) -> Any:
    if attributes_of(value):
        return _encode_subclass(walk, value, path)
    node = walk.remember(value, {"$namedtuple": label(type(value)), "fields": {}})
    node["fields"] = walk.children(
        zip(type(value)._fields, tuple.__iter__(value), strict=True), path
    )
    return node


def _encode_object(walk: Walk, value: Any, path: str) -> Any:
    node = walk.remember(value, {"$object": label(type(value)), "attributes": {}})
    node["attributes"] = walk.children(attributes_of(value), path)
    return node


def _encode_subclass(walk: Walk, value: Any, path: str) -> Any:
    """A Python class derived from a built-in container or value: its items and its attributes."""
    node = walk.remember(value, {"$object": label(type(value)), "items": None, "attributes": {}})
    walk._put(node, "items", plain_content(value), join(path, "items()"))
    node["attributes"] = walk.children(attributes_of(value), path)
    return node


def plain_content(value: Any) -> Any:
    """What an instance of a subclass of a built-in type holds, as that built-in type."""
    base = container_of(type(value))
    return value.args if issubclass(base, BaseException) else _CONTENT[base](value)


def _refuser(reason: str) -> Encoder:
    def encoder(walk: Walk, value: Any, path: str) -> Any:
        walk.refuse(path, f"{label(type(value))}, {reason}")

    return encoder


# --------------------------------------------------------------------------- attributes


@functools.cache
def slots_of(cls: type) -> tuple[tuple[str, Any], ...]:
    """The slots of a class and its bases: attribute name and descriptor."""
    found = []
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and base.__flags__ & _HEAP_TYPE:
                found.append((name, member))
    return tuple(found)


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, from its `__dict__` and its slots, without running its code."""
    attributes = dict(getattr(value, "__dict__", {}))
    attributes.pop(CONSTRUCTOR, None)
    for name, member in slots_of(type(value)):
        try:
            attributes[name] = member.__get__(value)
        except AttributeError:
            continue
    return attributes


_HEAP_TYPE = 1 << 9
_KNOWN_NATIVE = {
    types.GeneratorType: "a suspended generator: what it would do next cannot be written down",
    types.CoroutineType: "a suspended coroutine",
    types.AsyncGeneratorType: "a suspended asynchronous generator",
    types.FrameType: "a stack frame",
    types.CodeType: "a code object",
    types.TracebackType: "a traceback",
    threading.Thread: "a thread: what it is doing cannot be written down",
}
_OF_THE_PROCESS = {
    "multiprocessing.process:BaseProcess": "a process: what it is doing cannot be written down",
    "multiprocessing.connection:_ConnectionBase": "a connection to another process",
    "subprocess:Popen": "a process: what it is doing cannot be written down",
}


@functools.cache
def native_reason(cls: type) -> str | None:
    """Why objects of a class cannot be walked by attributes; None when they can.

    An object made by C code holds state that no attribute shows. Such a class is told by a base
    that Python did not make, or by members that only C code can define.
    """
    for base in cls.__mro__:
        known = _KNOWN_NATIVE.get(base) or _OF_THE_PROCESS.get(label(base))
        if known is not None:
            return known
    if issubclass(cls, np.ndarray):
        return "a subclass of numpy.ndarray, whose extra state is unknown"
    for base in cls.__mro__[:-1]:
        if base.__module__ in (
            "typing",
            "abc",
            "collections.abc",
            "_collections_abc",
            "contextlib",
        ):
            continue
        if base in _CONTENT or base is types.SimpleNamespace or _is_builtin_exception(base):
            continue
        native = not base.__flags__ & _HEAP_TYPE
        if not native:
            native = any(
                isinstance(member, (types.WrapperDescriptorType, types.MethodDescriptorType))
                and member.__objclass__ is base
                for member in vars(base).values()
            ) or isinstance(vars(base).get("__new__"), types.BuiltinFunctionType)
        if native:
            which = "" if base is cls else f" (through {label(base)})"
            return (
                f"an object of compiled code{which}, whose state no attribute shows and for which "
                "there is no adapter"
            )
    return None

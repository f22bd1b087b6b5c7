"""Equinox's modules and their state, which are immutable: rebuilt, and put where the live ones are.

The structure belongs to the program: classes, static fields, functions and the number of layers
must be those of the live module, and only its numbers come from the checkpoint. So it has the same
tree structure afterwards, and no jitted function is traced again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rekindle.graph import Walk, attributes_of, join
from rekindle.match import MISSING, Match, set_attribute
from rekindle.protocols import Adapter
from rekindle.registry import label
from rekindle.state import tag_of, unescape


class Module(Adapter):
    """`equinox.Module`."""

    name = "equinox.module"
    is_frozen = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Its fields."""
        return {"state": walk.children(_fields(live), path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """A new module with the stored numbers and everything else of the live one."""
        found = _fields(live)
        static = {f.name for f in dataclasses.fields(live) if f.metadata.get("static", False)}
        nodes = {unescape(key): child for key, child in node["state"].items() if key != "$id"}
        outcomes: dict[str, Any] = {}
        for name in [*nodes, *(name for name in found if name not in nodes)]:
            inner = join(path, name)
            if name not in nodes or name not in found:
                sides = ("no field of this name", "one")
                match.differ(inner, *(sides if name in found else sides[::-1]))
            elif name in static:
                outcomes[name] = _unchanged(nodes[name], found[name], match, inner)
            else:
                _check_structure(nodes[name], found[name], match, inner)
                outcomes[name] = match.node(nodes[name], found[name], inner, strict=True)
        is_same = all(outcomes.get(name) is value for name, value in found.items())
        if is_same and match.claim(live, path):
            return live
        return _rebuilt(live, outcomes)


def _fields(live: Any) -> dict[str, Any]:
    """Its fields; not the names that it borrowed from a function that it wraps."""
    found = attributes_of(live)
    return {f.name: found[f.name] for f in dataclasses.fields(live) if f.name in found}


def _rebuilt(live: Any, fields: dict[str, Any]) -> Any:
    shell = object.__new__(type(live))
    for name, value in {**attributes_of(live), **fields}.items():
        set_attribute(shell, name, value)
    return shell


def _unchanged(node: Any, live: Any, match: Match, path: str) -> Any:
    """A static field: part of the structure, so the stored value must equal the live one."""
    outcome = match.node(node, live, path, strict=True)
    if outcome is not live and not _are_equal(outcome, live):
        match.differ(path, _words(outcome), _words(live))
    return live


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and bool(np.array_equal(one, other))
    return type(one) is type(other) and bool(one == other)


def _words(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"an object of class {label(type(value))}"


def _check_structure(node: Any, live: Any, match: Match, path: str) -> None:
    """Lists and dictionaries of a module hold as much as the live ones; what is None stays None."""
    tag = tag_of(node) if isinstance(node, dict) else None
    if (node is None) != (live is None):
        match.differ(path, *("None" if side is None else "a value" for side in (node, live)))
    elif isinstance(node, list) or tag in ("$list", "$tuple"):
        nodes = node if isinstance(node, list) else node[tag]
        if isinstance(live, (list, tuple)):
            if len(live) != len(nodes) and isinstance(live, list):
                match.differ(path, f"{len(nodes)} elements", f"{len(live)}")
            for index, (child, value) in enumerate(zip(nodes, live, strict=False)):
                _check_structure(child, value, match, join(path, str(index)))
    elif isinstance(node, dict) and tag is None and isinstance(live, dict):
        for key, child in node.items():
            name = unescape(key)
            if key != "$id" and name not in live:
                match.differ(join(path, name), "a value", "nothing")
            elif key != "$id":
                _check_structure(child, live[name], match, join(path, name))


class State(Adapter):
    """`equinox.nn.State`: the values of stateful layers, by the names of their indices."""

    name = "equinox.state"
    is_frozen = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The values; a state that was used up has none."""
        if not isinstance(live._state, dict):
            walk.refuse(path, f"{label(type(live))}, a state that was replaced by a newer one")
        return {"state": {"values": walk.node(live._state, path)}}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """A new state; the live one stays as it is."""
        child = node["state"]["values"]
        _check_structure(child, live._state, match, path)
        found = dict(live._state) if isinstance(live._state, dict) else MISSING
        values = match.node(child, found, path, strict=True)
        return _rebuilt(live, {"_state": values})


MODULE = Module()
STATE = State()

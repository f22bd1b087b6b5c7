"""References to what stands elsewhere, and what a name stands for: classes, functions, modules."""

from __future__ import annotations

import collections
import functools
import types
from typing import Any

import numpy as np

from rekindle import registry
from rekindle.codecs import values
from rekindle.graph import function_name, is_filled, join
from rekindle.matching.containers import match_each
from rekindle.matching.engine import Engine
from rekindle.matching.outcomes import MISSING, describe, is_same_value, present
from rekindle.registry import label
from rekindle.state import unescape

_PLAIN_CLASSES: dict[str, Any] = {
    label(cls): cls
    for cls in (
        *values.ENCODERS, *np.sctypeDict.values(), list, tuple, dict, set, frozenset, bytearray,
        object, collections.deque, collections.OrderedDict, collections.Counter,
    )
}  # fmt: skip
"""Classes of plain values, which a name is enough to stand for."""


def match_ref(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """What stands elsewhere: in this document, or in that of another component."""
    target: str = node["$ref"]
    if target in match.outcomes:
        outcome = match.outcomes[target]
        adapter = None if outcome is live else registry.adapter_for(type(live))
        return live if adapter is not None and adapter.inside(live) is outcome else outcome
    if target in match.roots:
        return match.roots[target]
    component, stored = match.referred(target)
    if component == target:
        # Another component's root that nobody asked for: left alone if it is there.
        if live is not MISSING:
            return live
        with match.unfinished(target):
            outcome = _elsewhere(match, component, stored, live, path, strict)
        match.outcomes[target] = outcome
        return outcome
    return _elsewhere(match, component, stored, live, path, strict)


def _elsewhere(match: Engine, component: str, node: Any, live: Any, path: str, strict: bool) -> Any:
    """The outcome for a node of another place in the document, or of another document."""
    here = match.component
    match.enter(component)
    outcome = match.node(node, live, path, strict=strict)
    match.enter(here)
    return outcome


def match_class(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A class, by its name."""
    name = node["$class"]
    if isinstance(live, type) and label(live) == name:
        return live
    cls = match.classes.get(name) or _PLAIN_CLASSES.get(name)
    if cls is None:
        match.differ(path, f"the class {name}", describe(live))
    return live if cls is None else cls


def match_function(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A function by its name, with the variables that it closes over."""
    name = function_name(live)
    if name != node["$function"]:
        match.differ(path, f"the function {node['$function']}", name or describe(live))
        return live
    match.register(node, live)
    match.descend(lambda: _fill_function(match, node, live, path))
    return live


def _fill_function(match: Engine, node: dict[str, Any], live: Any, path: str) -> None:
    names: Any = live.__code__.co_freevars if hasattr(live, "__code__") else ()
    cells = dict(zip(names, getattr(live, "__closure__", None) or (), strict=True))
    for key, child in node.get("closure", {}).items():
        inner = join(path, f"<closure>.{key}")
        cell = cells.get(unescape(key))
        if cell is None:
            match.differ(inner, "a variable of this name", "none")
            continue
        content = cell.cell_contents if is_filled(cell) else MISSING
        outcome = match.node(child, content, inner)
        if outcome is not content and outcome is not MISSING:
            match.later(functools.partial(_set_cell, match, cell, outcome))
    if "attributes" in node:
        match.attributes(node["attributes"], live, path)


def _set_cell(match: Engine, cell: types.CellType, outcome: Any) -> None:
    cell.cell_contents = match.settle(outcome)


def match_method(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A method bound to an object."""
    name = node["$method"]
    if getattr(live, "__name__", None) != name or not hasattr(live, "__self__"):
        match.differ(path, f"a bound method {name}", describe(live))
        return live
    match.register(node, live)
    owner = match.node(node["self"], live.__self__, join(path, "__self__"))
    if owner is live.__self__:
        return live
    if isinstance(live, types.MethodType):
        return match.register(node, types.MethodType(live.__func__, owner))
    return match.register(node, getattr(owner, name))


def match_partial(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A `functools.partial`: the live one where its parts stay."""
    if not isinstance(live, functools.partial):
        match.differ(path, "a functools.partial", describe(live))
        return live
    nodes = {unescape(key): child for key, child in node["kwargs"].items() if key != "$id"}

    def fill() -> list[Any]:
        function = match.node(node["$partial"], live.func, join(path, "func"))
        arguments = match_each(match, node["args"], live.args, join(path, "args"), strict=False)
        keywords = [
            match.node(child, live.keywords.get(name, MISSING), join(path, f"kwargs.{name}"))
            for name, child in nodes.items()
        ]
        return [function, *arguments, *keywords]

    outcomes = match.parts(node, fill)
    parts = [live.func, *live.args, *live.keywords.values()]
    same = len(parts) == len(outcomes) and all(map(is_same_value, parts, outcomes))
    if same and list(nodes) == list(live.keywords) and match.claim(live, path):
        return match.register(node, live)
    if len(present(outcomes)) != len(outcomes):
        return match.register(node, live)
    first = 1 + len(node["args"])
    keywords = dict(zip(nodes, outcomes[first:], strict=True))
    return match.register(node, functools.partial(*outcomes[:first], **keywords))


def match_module(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A module, by its name."""
    if not isinstance(live, types.ModuleType) or live.__name__ != node["$module"]:
        match.differ(path, f"the module {node['$module']}", describe(live))
    return live


def leave_alone(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """What the checkpoint names and does not hold."""
    return match.register(node, live)

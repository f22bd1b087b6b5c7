"""Objects of classes: their attributes, or what their adapter makes of them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from typing import Any

from rekindle import registry
from rekindle.errors import FormatError
from rekindle.graph import (
    IMMUTABLE,
    attributes_of,
    container_of,
    join,
    native_reason,
    plain_content,
)
from rekindle.matching.engine import DEEPEST, Engine
from rekindle.matching.filling import can_have, refill, set_attribute
from rekindle.matching.outcomes import MISSING, Pending, describe, is_same_value
from rekindle.registry import label
from rekindle.state import unescape


def _is_buildable(match: Engine, cls: type) -> bool:
    """Whether objects of a class can be made from their attributes alone."""
    if dataclasses.is_dataclass(cls) or cls is types.SimpleNamespace:
        return True
    return match.classes.get(label(cls)) is cls and native_reason(cls) is None


def match_object(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """An object by its attributes: the live one, or where it is immutable or absent a new one."""
    name = node["$object"]
    if live is MISSING or live is None or label(type(live)) != name:
        cls = match.record_class(name, live, path, functools.partial(_is_buildable, match))
        return match.register(node, live if cls is None else _build(match, node, cls, path))
    if _is_immutable(live):
        return _build(match, node, type(live), path, live, strict)
    if not match.claim(live, path):
        if _is_buildable(match, type(live)):
            return _build(match, node, type(live), path)
        match.differ(path, f"an object of its own, of class {name}", match.taken(live))
        return match.register(node, live)
    match.register(node, live)
    match.descend(lambda: _fill_object(match, node, live, path, strict))
    return live


def _fill_object(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> None:
    if "items" in node:
        _fill_items(match, node, live, plain_content(live), path, strict)
    stored = {unescape(key) for key in node["attributes"]} - {"$id"}
    for name in attributes_of(live):
        if name not in stored:
            match.surplus(live, name, path)
    with match.loosely(True):
        is_strict = strict and path == ""
        match.attributes(node["attributes"], live, path, strict=is_strict)


def _fill_items(
    match: Engine, node: dict[str, Any], live: Any, content: Any, path: str, strict: bool
) -> None:
    """Items of an object of a class that derives from a built-in container."""
    outcome = match.node(node["items"], content, path, strict=strict)
    if type(outcome) is not type(content):
        match.differ(path, f"items in {describe(outcome)}", describe(content))
    else:
        match.later_refilled(lambda: refill(live, outcome))


def _build(
    match: Engine,
    node: dict[str, Any],
    cls: type,
    path: str,
    live: Any = MISSING,
    strict: bool = False,
) -> Any:
    """A new object from its items and attributes; no code of its class runs.

    The live one, if it is given and immutable, when nothing in it would be another.
    """
    if live is not MISSING and match.depth < DEEPEST:
        token = f"{match.component}#{node['$id']}" if "$id" in node else None
        with match.unfinished(token), match.loosely(False):
            shell = _shell(match, node, cls, path, live)
            found = attributes_of(live)
            outcomes = _fill_attributes(match, node, shell, path, found, strict)
        same = _is_same(shell, live, outcomes) and match.claim(live, path)
        return match.register(node, live if same else shell)
    shell = match.register(node, _shell(match, node, cls, path, MISSING))
    if match.depth < 2 * DEEPEST:
        _fill_attributes(match, node, shell, path, {})
    else:
        rest = functools.partial(_fill_attributes, match, node, shell, path, {})
        match.wait(rest)
    return shell


def _shell(match: Engine, node: dict[str, Any], cls: type, path: str, live: Any) -> Any:
    """A new object that has its items, now or later, and no attributes yet."""
    base = container_of(cls)
    if base is None:
        is_namespace = issubclass(cls, types.SimpleNamespace)
        return types.SimpleNamespace.__new__(cls) if is_namespace else object.__new__(cls)
    if base in IMMUTABLE:
        content = MISSING if live is MISSING else plain_content(live)
        [items] = match.parts(node, lambda: [match.node(node["items"], content, path)])
        return base.__new__(cls, items)
    shell = base.__new__(cls)
    empty = plain_content(shell)
    match.descend(lambda: _fill_items(match, node, shell, empty, path, strict=False))
    return shell


def _fill_attributes(
    match: Engine,
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
            outcomes[name] = match.node(child, found.get(name, MISSING), inner, strict=strict)
            _set_built(match, shell, name, outcomes[name], inner)
    return outcomes


def _set_built(match: Engine, shell: Any, name: str, outcome: Any, path: str) -> None:
    if not can_have(shell, name):
        match.differ(path, "an attribute of this name", "no place for one")
    elif isinstance(outcome, Pending):
        match.later(functools.partial(match.set_settled, shell, name, outcome))
    elif outcome is not MISSING:
        set_attribute(shell, name, outcome)


def match_enum(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A member of an enumeration."""
    cls = match.record_class(node["$enum"], live, path, lambda cls: issubclass(cls, enum.Enum))
    if cls is None:
        return live
    name = node["name"]
    if name in cls.__members__:
        return match.register(node, cls.__members__[name])
    value = match.node(node["value"], MISSING, path)
    if issubclass(cls, enum.Flag) and isinstance(value, int) and _is_plain_flag(cls):
        return match.register(node, cls(value))
    match.differ(path, f"a member {name} of {node['$enum']}", "no such member")
    return live


def match_adapter(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """What an adapter captured."""
    adapter = registry.adapter_named(node["$adapter"])
    if adapter is None:
        raise FormatError(
            f"{match.full(path)}: expected an adapter of this version, found "
            f"{node['$adapter']!r}. The checkpoint was written by a newer version."
        )
    if adapter.is_value:
        return adapter.build(node, match, path)
    inside = adapter.inside(live)
    if inside is not live:
        outcome = match_adapter(match, node, inside, path, strict)
        return live if outcome is inside else outcome
    missing = live is MISSING or live is None
    if not missing and label(type(live)) != node["class"]:
        if adapter.must_match:
            match.differ(path, f"an object of class {node['class']}", describe(live))
            return match.register(node, live)
        missing = True
    if missing or not (adapter.is_frozen or match.claim(live, path)):
        build = getattr(adapter, "build", None)
        if build is not None:
            return match.register(node, build(node, match, path))
        found = describe(live) if missing else match.taken(live)
        match.differ(path, f"an object of class {node['class']} of its own", found)
        return match.register(node, live)
    match.register(node, live)
    with match.loosely(False):
        return match.register(node, adapter.restore(node, live, match, path))


def _is_plain_flag(cls: type[enum.Flag]) -> bool:
    """Whether combining members runs no code but the standard library's."""
    return all("_missing_" not in vars(base) for base in cls.__mro__ if base.__module__ != "enum")


def _is_immutable(live: Any) -> bool:
    """Whether an object is replaced by another rather than changed."""
    parameters = getattr(type(live), "__dataclass_params__", None)
    is_frozen = parameters is not None and parameters.frozen
    return is_frozen or container_of(type(live)) in IMMUTABLE


def _is_same(shell: Any, live: Any, outcomes: dict[str, Any]) -> bool:
    """Whether a live object holds exactly what one that was built to replace it does."""
    found = attributes_of(live)
    if found.keys() != outcomes.keys():
        return False
    if not all(is_same_value(found[name], outcome) for name, outcome in outcomes.items()):
        return False
    base = container_of(type(live))
    if base is tuple:
        same = tuple.__len__(shell) == tuple.__len__(live)
        return same and all(map(is_same_value, tuple.__iter__(shell), tuple.__iter__(live)))
    return base is None or (base in (int, str, bytes) and base.__eq__(shell, live))

"""Containers: lists, dictionaries, sets and tuples, filled in place or made anew."""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rekindle.codecs import values
from rekindle.graph import join
from rekindle.matching.engine import Engine
from rekindle.matching.filling import refill, refill_array
from rekindle.matching.outcomes import MISSING, describe, is_same_value, present
from rekindle.registry import label
from rekindle.state import tag_of, unescape

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


def match_plain_dict(
    match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool
) -> Any:
    """A dictionary with names as keys, as JSON has it."""
    pairs = [(unescape(key), value) for key, value in node.items() if key != "$id"]
    target = match.target(node, live, path, dict, {})
    match.descend(lambda: _fill_dict(match, pairs, target, live, path, strict, match.later))
    return target


def _fill_dict(
    match: Engine,
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
            if key not in stored and match.must_fit(value)
        }
    for key, value in extra.items():
        match.differ(join(path, str(key)), "nothing of this name", describe(value))
    outcomes: list[tuple[Any, Any]] = []
    for key, node in pairs:
        inner = join(path, str(key))
        outcome = match.node(node, _get(found, key), inner, strict=strict)
        if outcome is not MISSING:
            outcomes.append((key, outcome))
        elif tag_of(node) == "$excluded":
            match.notes.append(f"{match.full(inner)}: left out of the checkpoint, and absent")
        else:
            match.miss(node, inner)
    later(lambda: refill(target, {**dict(outcomes), **extra}))


def match_dict(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A dictionary of another class, or with other keys."""
    name = node.get("class", "builtins:dict")
    cls = _MAPPINGS.get(name)
    if cls is None:
        match.differ(path, f"a mapping of a known class, {name}", describe(live))
        return live
    if cls is types.MappingProxyType:
        target: Any = {}
        outcome = match.register(node, types.MappingProxyType(target))
    else:
        outcome = target = match.target(node, live, path, cls, cls())

    def fill() -> None:
        found = live if isinstance(live, Mapping) else {}
        guess = _guesses(match, found)
        nodes = [key for key, _ in node["$dict"]]
        keys = _keys(match, nodes, guess, join(path, "keys()"))
        if cls is collections.defaultdict:
            _factory(match, node.get("factory"), target, live, join(path, "default_factory"))
        pairs = [
            (key, value)
            for key, (_, value) in zip(keys, node["$dict"], strict=True)
            if key is not MISSING
        ]
        _fill_dict(match, pairs, target, live, path, strict, match.later_hashed)

    match.descend(fill)
    return outcome


def _guesses(match: Engine, live: Iterable[Any]) -> Callable[[Any], Any]:
    """Live members of a set, or keys, by which to restore stored ones: the next of its class.

    Those with a plain value need none.
    """
    free: dict[str, collections.deque[Any]] = {}
    for member in live:
        if values.encoder_for(type(member)) is None:
            free.setdefault(label(type(member)), collections.deque()).append(member)

    def guess(node: Any) -> Any:
        members = free.get(_class_of(match, node)) if free else None
        return members.popleft() if members else MISSING

    return guess


def _class_of(match: Engine, node: Any) -> str:
    """The class of what a node stands for, as far as it is a kind of key; else nothing."""
    tag = tag_of(node) if isinstance(node, dict) else None
    if tag in ("$tuple", "$frozenset"):
        return f"builtins:{tag[1:]}"
    if tag in ("$object", "$namedtuple"):
        return node[tag]
    if tag == "$ref" and node["$ref"] not in match.outcomes and "#" in node["$ref"]:
        return _class_of(match, match.referred(node["$ref"])[1])
    return node.get("class", "") if tag is not None else ""


def _factory(match: Engine, node: Any, target: Any, live: Any, path: str) -> None:
    present = live.default_factory if isinstance(live, collections.defaultdict) else None
    outcome = match.node(node, present, path)
    if outcome is not target.default_factory:
        match.later(functools.partial(setattr, target, "default_factory", outcome))


def match_tagged_list(
    match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool
) -> Any:
    """A list that others refer to."""
    return match_list(match, node["$list"], node, live, path, strict)


def match_list(
    match: Engine, nodes: list[Any], node: dict[str, Any], live: Any, path: str, strict: bool
) -> Any:
    """A list."""
    target = match.target(node, live, path, list, [])

    def fill() -> None:
        outcomes = match_each(match, nodes, live, path, strict)
        _refill_row(match, target, live, outcomes)

    match.descend(fill)
    return target


def match_each(match: Engine, nodes: list[Any], live: Any, path: str, strict: bool) -> list[Any]:
    """Outcomes for items, each matched with the live one of its index."""
    found = list(live) if isinstance(live, (list, tuple, collections.deque)) else []
    padded = found + [MISSING] * (len(nodes) - len(found))
    outcomes = []
    for index, child in enumerate(nodes):
        inner = join(path, str(index))
        outcome = match.node(child, padded[index], inner, strict=strict)
        if outcome is MISSING:
            match.miss(child, inner)
        outcomes.append(outcome)
    return outcomes


def _refill_row(match: Engine, target: Any, live: Any, outcomes: list[Any]) -> None:
    """Put items into a list or deque; a live one where some are missing stays as it is."""
    items = present(outcomes)
    if target is not live or len(items) == len(outcomes):
        match.later(lambda: refill(target, items))


def match_deque(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A deque, which keeps its length."""
    maxlen = node.get("maxlen")
    fits = type(live) is collections.deque and live.maxlen == maxlen
    new: collections.deque[Any] = collections.deque(maxlen=maxlen)
    target = match.target(node, live if fits else MISSING, path, collections.deque, new)

    def fill() -> None:
        outcomes = match_each(match, node["$deque"], live, path, strict=False)
        _refill_row(match, target, live, outcomes)

    match.descend(fill)
    return target


def match_set(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A set."""
    target = match.target(node, live, path, set, set())

    def fill() -> None:
        outcomes = present(_members(match, node["$set"], live, path))
        match.later_hashed(lambda: refill(target, outcomes))

    match.descend(fill)
    return target


def _members(match: Engine, nodes: list[Any], live: Any, path: str) -> list[Any]:
    guess = _guesses(match, live if isinstance(live, (set, frozenset)) else ())
    return _keys(match, nodes, guess, path)


def _keys(match: Engine, nodes: list[Any], guess: Callable[[Any], Any], path: str) -> list[Any]:
    """Outcomes for members of a set or keys of a dictionary."""
    outcomes = [match.node(child, guess(child), path) for child in nodes]
    _check_hashable(outcomes)
    for child, outcome in zip(nodes, outcomes, strict=True):
        if outcome is MISSING:
            match.miss(child, path)
    return outcomes


def match_frozenset(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A frozenset: the live one where its members stay."""
    outcomes = match.parts(node, lambda: _members(match, node["$frozenset"], live, path))
    built = frozenset(present(outcomes))
    same = type(live) is frozenset and {*map(id, live)} == {*map(id, built)}
    return match.register(node, live if same and match.claim(live, path) else built)


def match_tuple(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A tuple: the live one where its items stay."""
    found = live if type(live) is tuple else ()
    if strict and isinstance(live, tuple) and type(live) is not tuple:
        match.differ(path, f"a tuple of {len(node['$tuple'])}", describe(live))
    elif strict and found and len(found) != len(node["$tuple"]) and match.must_fit(found):
        match.differ(path, f"a tuple of {len(node['$tuple'])}", f"one of {len(found)}")
    outcomes = match.parts(node, lambda: match_each(match, node["$tuple"], found, path, strict))
    return match.register(node, _same_or(match, live, tuple(present(outcomes)), path))


def _same_or(match: Engine, live: Any, built: Any, path: str) -> Any:
    """The live tuple itself when every element of it stays and it is no other's."""
    if type(live) is type(built) and tuple.__len__(live) == tuple.__len__(built):
        pairs = zip(tuple.__iter__(live), tuple.__iter__(built), strict=True)
        if all(is_same_value(a, b) for a, b in pairs) and match.claim(live, path):
            return live
    return built


def match_namedtuple(
    match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool
) -> Any:
    """A named tuple, of a class with the same fields."""
    name = node["$namedtuple"]
    cls = match.record_class(name, live, path, _is_namedtuple)
    if cls is None:
        return live
    if strict and isinstance(live, tuple) and type(live) is not cls:
        match.differ(path, f"an object of class {name}", describe(live))
        return live
    fields = {unescape(key): child for key, child in node["fields"].items() if key != "$id"}
    if list(fields) != list(cls._fields):
        match.differ(path, f"fields {list(fields)}", f"fields {list(cls._fields)} of {name}")
        return live
    parts = tuple.__iter__(live) if type(live) is cls else ()
    found = dict(zip(cls._fields, parts, strict=False))
    outcomes = match.parts(
        node,
        lambda: [
            match.node(child, found.get(key, MISSING), join(path, key), strict=strict)
            for key, child in fields.items()
        ],
    )
    if len(present(outcomes)) != len(outcomes):
        return match.register(node, live)
    return match.register(node, _same_or(match, live, tuple.__new__(cls, outcomes), path))


def match_bytearray(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A bytearray."""
    data = values.decode({"$bytes": node["$bytearray"]})
    target = match.target(node, live, path, bytearray, bytearray())
    match.later(lambda: target.__setitem__(slice(None), data))
    return target


def match_slice(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """A slice."""
    return slice(*(match.node(part, MISSING, path) for part in node["$slice"]))


def match_object_array(
    match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool
) -> Any:
    """An array of objects."""
    shape = tuple(node["shape"])
    new = np.empty(len(node["$objects"]), dtype=object).reshape(shape)
    fits = type(live) is np.ndarray and live.dtype == object and live.shape == shape
    target = match.target(node, live if fits else MISSING, path, np.ndarray, new)
    found = live.reshape(-1).tolist() if fits else []

    def fill() -> None:
        outcomes = match_each(match, node["$objects"], found, path, strict)
        if len(present(outcomes)) == len(outcomes):
            match.later(lambda: refill_array(target, outcomes))

    match.descend(fill)
    return target


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


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")

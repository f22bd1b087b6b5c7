"""Places in plain data by their paths: what is there, a copy with something else there."""

from __future__ import annotations

import collections
import copy
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rekindle.errors import NotFoundError, UnsafeError, UnsupportedError
from rekindle.graph import join
from rekindle.pickles.records import Recorded
from rekindle.state import Record

Array = np.ndarray[Any, Any]
Steps = tuple[Any, ...]
"""Keys and indices that lead to a place, one after the other."""

_DROPPED: Any = object()
_END = re.compile(r"[./\[]")
_DEEPEST = 20
_LONGEST = 1000
_LONGEST_PATH = 4000
_MOST_TUPLES = 200
"""Deepest nesting of tuples in tuples that is copied."""


def component_of(path: str) -> str:
    """The component that a path leads into."""
    return _END.split(path, maxsplit=1)[0]


def arrays(value: Any) -> dict[str, Array]:
    """Every array in some data by the path to it: `state.0.exp_avg`.

    Containers that stand in several places are entered once.
    """
    return {path: item for path, item in _leaves(value) if isinstance(item, np.ndarray)}


def values(value: Any) -> dict[str, Any]:
    """Everything else that is no container, by the path to it, or a row of such values.

    Records are not entered.
    """
    found = _leaves(value, is_brief=True)
    return {path: item for path, item in found if not isinstance(item, (np.ndarray, Recorded))}


def _leaves(value: Any, *, is_brief: bool = False) -> Iterator[tuple[str, Any]]:
    """Everything in some data that is no container, with the path to it.

    To be brief, records are not entered, and a row of plain values is one.
    """
    met: set[int] = set()
    waiting: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        path, item = found
        parts = None if is_brief and _is_one(item) else _parts(item)
        if parts is None:
            yield path, item
        elif id(item) not in met:
            met.add(id(item))
            waiting.append(_below(path, parts))


def _is_one(item: Any) -> bool:
    """Whether it is shown as one: a record, or a row of plain values."""
    if isinstance(item, (list, tuple)):
        return all(part is None or isinstance(part, (bool, int, float, str)) for part in item)
    return isinstance(item, Recorded)


def _below(path: str, parts: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    return ((join(path, str(key)[:_LONGEST])[:_LONGEST_PATH], part) for key, part in parts)


def _parts(item: Any) -> Iterable[tuple[Any, Any]] | None:
    """Keys and values of a container; None for what is none."""
    if isinstance(item, Recorded):
        extra = {"<arguments>": item.arguments, "<keywords>": item.keywords, "<state>": item.state,
                 "<pairs>": item.pairs, "<elements>": item.elements}  # fmt: skip
        return [*item.items(), *((key, part) for key, part in extra.items() if part)]
    if isinstance(item, Mapping):
        return item.items()
    if isinstance(item, (list, tuple, collections.deque)):
        return enumerate(item)
    if isinstance(item, np.ndarray) and item.dtype.hasobject:
        return enumerate(item.reshape(-1))
    return None


# --------------------------------------------------------------------------- changes


def replaced(data: Mapping[str, Any], path: str, value: Any, where: object) -> dict[str, Any]:
    """A copy of some data with another value at a path; what is not on the way is not copied.

    Args:
        data: Values by component.
        path: Where, such as `agent.lr_schedule` or `agent.policy_kwargs.activation_fn[0]`.
        value: What shall stand there.
        where: What messages call the data.

    Raises:
        NotFoundError: There is nothing at this path.
    """
    steps = next(_found(data, path), None)
    if steps is None:
        raise _nothing_at(data, path, where)
    return _edited(data, steps, value)


def without(data: Mapping[str, Any], pattern: str, where: object) -> dict[str, Any]:
    """A copy of some data in which what is at some paths is left out.

    Args:
        data: Values by component.
        pattern: A path, or a pattern of paths: `*` matches anything.
        where: What messages call the data.

    Raises:
        NotFoundError: There is nothing at such a path.
        UnsupportedError: An item of a list is there: without it the others would move up.
    """
    steps = list(_found(data, pattern)) if not set("*?") & set(pattern) else []
    for place in steps or list(_matching(data, pattern)):
        steps = [place]
        data = _edited(data, place, _DROPPED, pattern)
    if not steps:
        raise _nothing_at(data, pattern, where)
    return dict(data)


def matches(pattern: str, path: str) -> bool:
    """Whether a path, with a point after its component, is or lies in what a pattern names."""
    pattern = pattern.replace("/", ".", 1)
    return fnmatch.fnmatchcase(path, pattern) or path.startswith((f"{pattern}.", f"{pattern}["))


def _found(value: Any, rest: str) -> Iterator[Steps]:
    """Every way to take a path: keys may hold points themselves."""
    if isinstance(value, Mapping) and not isinstance(value, Record):
        for key, part in value.items():
            text = str(key)
            if rest == text:
                yield (key,)
            elif rest.startswith(text) and _END.match(rest, len(text)):
                begin = len(text) + (rest[len(text)] != "[")
                yield from ((key, *steps) for steps in _found(part, rest[begin:]))
    elif isinstance(value, (list, tuple)):
        match = re.match(r"\[?(\d{1,9})\]?\.?", rest)
        if match and int(match[1]) < len(value):
            index = int(match[1])
            if match.end() == len(rest):
                yield (index,)
            else:
                inner = _found(value[index], rest[match.end() :])
                yield from ((index, *steps) for steps in inner)


def _matching(data: Mapping[str, Any], pattern: str) -> Iterator[Steps]:
    """Outermost places whose paths fit a pattern."""
    met: set[int] = set()
    waiting: list[tuple[str, Steps, Any]] = [("", (), data)]
    pattern = pattern.replace("/", ".", 1)
    while waiting:
        path, steps, value = waiting.pop()
        if steps and fnmatch.fnmatchcase(path, pattern):
            yield steps
        elif id(value) not in met and not isinstance(value, Record):
            met.add(id(value))
            parts = _parts(value) if isinstance(value, (Mapping, list, tuple)) else None
            waiting += [
                (join(path, str(key)), (*steps, key), part)
                for key, part in reversed(list(parts or ()))
            ]


def _edited(value: Any, steps: Steps, new: Any, pattern: str = "") -> Any:
    """A copy of a container in which something else, or nothing, stands at the end of steps."""
    step, *rest = steps
    part = new if not rest else _edited(value[step], tuple(rest), new, pattern)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value) if type(value) is not dict else dict(value)
        if part is _DROPPED:
            del changed[step]
        else:
            changed[step] = part
        return changed
    if part is _DROPPED:
        raise UnsupportedError(
            f"{pattern}: expected something that has a name, found an item of a list. Leaving it "
            "out would move the others up; give it a value with replace=.",
            key=pattern,
        )
    row = list(value)
    row[step] = part
    return row if isinstance(value, list) else tuple(row)


def _nothing_at(data: Mapping[str, Any], path: str, where: object) -> NotFoundError:
    known = [found for found, _ in _leaves(data, is_brief=True)]
    near = difflib.get_close_matches(path.replace("/", ".", 1), known[:20_000], 3)
    hint = f" Did you mean {' or '.join(near)}?" if near else " `rekindle show` prints the paths."
    return NotFoundError(f"{where}: expected a value at {path!r}, found none.{hint}", key=path)


# --------------------------------------------------------------------------- copies


def copied(value: Any, convert: Callable[[Array, str], Any] | None = None) -> Any:
    """The same data in containers of its own; what is shared stays shared, circles stay circles.

    Records are not entered: they are not changed either.

    Args:
        value: Plain data.
        convert: Turns an array, and the path to it, into another.

    Raises:
        UnsafeError: Tuples are nested deeper than in any honest file.
    """
    return _Copy(convert).of(value)


class _Copy:
    def __init__(self, convert: Callable[[Array, str], Any] | None) -> None:
        self._convert = convert
        self._done: dict[int, tuple[Any, Any]] = {}
        self._waiting: collections.deque[tuple[Any, Any, str]] = collections.deque()
        self._depth = 0

    def of(self, value: Any) -> Any:
        found = self._node(value, "")
        while self._waiting:
            self._fill(*self._waiting.popleft())
        return found

    def _node(self, value: Any, path: str) -> Any:
        if id(value) in self._done:
            return self._done[id(value)][1]
        if isinstance(value, Record):
            return value
        if isinstance(value, np.ndarray):
            found = value if self._convert is None else self._convert(value, path)
            if value.dtype.hasobject:
                found = value.copy()
                self._waiting.append((value.reshape(-1), found.reshape(-1), path))
        elif isinstance(value, tuple) and type(value) is tuple:
            found = self._tuple(value, path)
        elif isinstance(value, (dict, list, collections.deque)):
            found = copy.copy(value)
            self._waiting.append((value, found, path))
        else:
            return value
        self._done[id(value)] = (value, found)
        return found

    def _tuple(self, value: tuple[Any, ...], path: str) -> tuple[Any, ...]:
        self._depth += 1
        if self._depth > _MOST_TUPLES:
            raise UnsafeError(
                f"{path[:80]}...: expected tuples nested at most {_MOST_TUPLES} deep, found more. "
                "The file was made to exhaust whoever reads it."
            )
        found = tuple(self._node(part, join(path, str(i))) for i, part in enumerate(value))
        self._depth -= 1
        return found

    def _fill(self, value: Any, found: Any, path: str) -> None:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts):
            found[key] = self._node(part, join(path, str(key)))


def as_json(value: Any, depth: int = 0) -> Any:
    """Some data as JSON can hold it: arrays by type and shape, records in one line."""
    if isinstance(value, (np.ndarray, np.generic)):
        if value.ndim == 0 and value.dtype.kind in "biuf":
            return value.item()
        return {"dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, Record) or depth > _DEEPEST:
        return repr(value)[:_LONGEST]
    if isinstance(value, Mapping):
        return {_text(str(key)): as_json(part, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple, collections.deque)):
        return [as_json(part, depth + 1) for part in value]
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else repr(value)[:_LONGEST]
    return repr(value)[:_LONGEST]


def _text(value: str) -> str:
    """Text as plain text, without what UTF-8 cannot write."""
    return value.encode("utf-8", "backslashreplace").decode()

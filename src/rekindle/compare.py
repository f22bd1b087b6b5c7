"""Two states held side by side, value by value and bit by bit.

Works on stored documents and arrays, so it needs neither framework nor live objects.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rekindle.codecs import values
from rekindle.errors import Difference, FormatError
from rekindle.state import Source, escape, tag_of, unescape

_STRUCTURE = frozenset(("$id", "library", "name", "detached"))
"""What a node of an array says beside its values: how it is held, not what it is."""


@dataclass
class Comparison:
    """One component of two states."""

    component: str
    num_values: int = 0
    """Numbers, texts and flags compared; each element of an array counts."""
    largest_difference: float = 0.0
    """Largest absolute difference between two numbers; infinite where they are no numbers."""
    differences: list[Difference] = field(default_factory=list)
    """Each place that differs, in the order of the document."""
    num_ignored: int = 0
    """Values left out because the caller said that they may differ, such as wall-clock times."""

    @property
    def is_identical(self) -> bool:
        """Whether every compared value is the same, bit by bit."""
        return not self.differences


def compare(
    component: str, first: Source, second: Source, *, ignore: Sequence[str] = ()
) -> Comparison:
    """Compare one component of two checkpoints.

    Args:
        component: Its name; both must hold it.
        first: One checkpoint; differences call its values expected.
        second: The other.
        ignore: Patterns of paths whose values may differ; the component may stand before them.
    """
    result = Comparison(component)
    pair = _Pair(component, first, second, ignore, result)
    pair.run()
    return result


class _Pair:
    def __init__(
        self, component: str, first: Source, second: Source, ignore: Sequence[str], out: Comparison
    ) -> None:
        self._component = component
        self._sources = (first, second)
        self._ignore = tuple(ignore)
        self._out = out
        self._documents = first.document(component), second.document(component)
        self._met: set[int] = set()
        self._pending: list[tuple[Any, Any, str]] = []

    def run(self) -> None:
        """Compare the roots, and what stands outside them because it is nested deep."""
        self._pending.append((self._documents[0].root, self._documents[1].root, ""))
        while self._pending:
            self.node(*self._pending.pop(0))

    def node(self, first: Any, second: Any, path: str) -> None:
        """Compare two nodes and everything below them."""
        if self._ignore and is_ignored(self._component, path, self._ignore):
            self._out.num_ignored += 1
            return
        if isinstance(first, dict) and isinstance(second, dict):
            tag = tag_of(first)
            if tag in ("$array", "$view") and tag == tag_of(second):
                self._arrays(first, second, path)
            elif tag == "$ref" == tag_of(second):
                self._references(first, second, path)
            elif tag in values.DECODERS or tag_of(second) in values.DECODERS:
                self._leaf(first, second, path)
            else:
                self._children(children(first), children(second), path)
        elif isinstance(first, list) and isinstance(second, list):
            self._children(_numbered(first), _numbered(second), path)
        else:
            self._leaf(first, second, path)

    def _children(self, first: dict[str, Any], second: dict[str, Any], path: str) -> None:
        for key in [*first, *(key for key in second if key not in first)]:
            where = f"{path}.{key}" if path else key
            if key not in second or key not in first:
                self._differ(where, _side(first, key), _side(second, key), float("inf"))
            else:
                self.node(first[key], second[key], where)

    def _references(self, first: dict[str, Any], second: dict[str, Any], path: str) -> None:
        """Two references are equal when they name the same; a hoisted node is compared here."""
        self._leaf(first["$ref"], second["$ref"], path)
        component, _, number = str(first["$ref"]).partition("#")
        if first == second and component == self._component and number.isdigit():
            key = int(number)
            if key not in self._met and all(key in side.hoisted for side in self._documents):
                self._met.add(key)
                one, two = (side.shared[key] for side in self._documents)
                self._pending.append((one, two, path))

    def _leaf(self, first: Any, second: Any, path: str) -> None:
        self._out.num_values += 1
        if first == second and type(first) is type(second):
            return
        try:
            distance = abs(float(values.decode(first)) - float(values.decode(second)))
        except (TypeError, ValueError, FormatError):
            distance = float("inf")
        self._differ(path, repr(first)[:60], repr(second)[:60], distance)

    def _arrays(self, first: dict[str, Any], second: dict[str, Any], path: str) -> None:
        rest = [{k: v for k, v in node.items() if k not in _STRUCTURE} for node in (first, second)]
        if rest[0] != rest[1]:
            self._differ(path, str(rest[0]), str(rest[1]), float("inf"))
            return
        if "$view" in first:
            return
        one, two = (
            source.array(node["$array"])
            for source, node in zip(self._sources, (first, second), strict=True)
        )
        self._out.num_values += one.raw.size
        if one.code != two.code or one.raw.shape != two.raw.shape:
            kinds = [f"{side.code} {side.raw.shape}" for side in (one, two)]
            self._differ(path, kinds[0], kinds[1], float("inf"))
        elif one.raw.tobytes() != two.raw.tobytes():
            unequal = int(np.count_nonzero(one.raw != two.raw))
            count = f"{unequal} of {one.raw.size} values other"
            self._differ(path, "the same bytes", count, _distance(one.raw, two.raw))

    def _differ(self, path: str, expected: str, found: str, distance: float) -> None:
        self._out.largest_difference = max(self._out.largest_difference, distance)
        key = f"{self._component}/{path}" if path else self._component
        self._out.differences.append(Difference(key, expected, found))


def is_ignored(component: str, path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches a path, with or without the component's name before it."""
    full = f"{component}/{path}"
    return any(
        fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(full, pattern)
        for pattern in patterns
    )


def children(node: dict[str, Any]) -> dict[str, Any]:
    """Children of a node by readable names: what stands below a tag takes its parent's place."""
    found: dict[str, Any] = {}
    for key, value in _pairs(node):
        found[unescape(key)] = value
    return found


def _pairs(node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key == "$id":
            continue
        if (
            key in ("attributes", "state", "fields")
            and isinstance(value, dict)
            and "$dict" not in value
        ):
            yield from ((name, item) for name, item in value.items() if name != "$id")
        elif key in ("$list", "$tuple", "$deque", "$set", "$frozenset", "$objects"):
            yield from _numbered(list(value)).items()
        elif key == "$dict":
            yield from ((str(values_key(pair[0])), pair[1]) for pair in value)
        else:
            yield key if key in node and key.startswith("$") else escape(key), value


def values_key(node: Any) -> Any:
    """A dictionary key as text for a path."""
    return node if not isinstance(node, dict) else next(iter(node.values()), "")


def _numbered(items: list[Any]) -> dict[str, Any]:
    return {str(index): item for index, item in enumerate(items)}


def _side(holder: dict[str, Any], key: str) -> str:
    return repr(holder[key])[:60] if key in holder else "nothing"


def _distance(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> float:
    sides = one.astype(np.float64), two.astype(np.float64)
    if (np.isnan(sides[0]) != np.isnan(sides[1])).any():
        return float("inf")
    with np.errstate(invalid="ignore"):  # between two infinities
        difference = np.abs(sides[0] - sides[1])
    largest = float(np.max(difference, initial=0.0, where=~np.isnan(difference)))
    # Equal numbers with other bits (-0.0, NaN payloads) still differ; say the least there is.
    return largest or float(np.finfo(np.float64).tiny)

"""What differs between two checkpoints, of whatever formats: `rekindle.diff`."""

from __future__ import annotations

import math
import re
import reprlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import blocks, spaces
from rekindle.blocks import Distance, Rows
from rekindle.checkpoint import ORIGIN, OURS, is_ours, open_checkpoint
from rekindle.contents import contents, of_checkpoint
from rekindle.errors import Difference
from rekindle.files import PathLike
from rekindle.formats.protocol import Reading
from rekindle.report import Shown, columns, plural
from rekindle.state import COMPONENTS, Record, Reference

FOLD = 8
"""A table with more rows than this shows its first ones, unless all are asked for."""

_MOMENT = re.compile(r"(?:(?P<before>.*)\.)?state\.\d+\.(?P<moment>\w+)")
_NAMED = 5  # names in a line before "and 7 more"


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints."""

    path: str
    format: str
    kind: str
    version: str | None
    """Version of the library that wrote it, where the file says it."""
    step: int | None

    def __str__(self) -> str:
        facts = [self.format if self.version is None else f"{self.format} {self.version}"]
        if self.kind != "checkpoint":
            facts.append(f"a {self.kind}")
        facts.append("step unknown" if self.step is None else f"step {self.step:,}")
        return f"{self.path}  {' · '.join(facts)}"


@dataclass(frozen=True)
class Held:
    """Something that one side alone holds."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key} ({self.what})"


@dataclass(frozen=True)
class ArrayDifference:
    """An array of one shape on both sides whose values differ."""

    key: str
    """Its path in the component."""
    dtype: str
    shape: tuple[int, ...]
    distance: Distance

    @property
    def layer(self) -> str:
        """The module that it is part of; of an optimizer's moments, which moment."""
        moment = _MOMENT.fullmatch(self.key)
        if moment is not None:
            return ".".join(part for part in moment.group("before", "moment") if part)
        return self.key.rpartition(".")[0] or self.key


@dataclass(frozen=True)
class Layer:
    """Arrays of one module that differ, taken together."""

    name: str
    arrays: tuple[ArrayDifference, ...]

    @property
    def relative(self) -> float | None:
        """`||a - b|| / ||a||` over all of them; None where they are no numbers."""
        return _together(self.arrays)

    @property
    def largest(self) -> float | None:
        """Largest absolute difference; None where they are no numbers."""
        found = [item.distance.largest for item in self.arrays]
        return None if None in found else max((x for x in found if x is not None), default=0.0)

    @property
    def share_equal(self) -> float:
        """Which share of the values is the same, from 0 to 1."""
        total = sum(item.distance.num_values for item in self.arrays)
        return sum(item.distance.num_equal for item in self.arrays) / total


@dataclass(frozen=True, kw_only=True)
class ComponentDiff:
    """One component that both sides hold."""

    name: str
    num_arrays: int = 0
    """Arrays that both hold under one name."""
    num_values: int = 0
    """Numbers, texts and flags that both hold under one name; elements of arrays do not count."""
    arrays: tuple[ArrayDifference, ...] = ()
    """Those whose values differ, the furthest apart first."""
    types: tuple[Difference, ...] = ()
    """Arrays of another shape or dtype."""
    values: tuple[Difference, ...] = ()
    """Other values that differ: hyper-parameters, counts, texts."""
    only_first: tuple[Held, ...] = ()
    only_second: tuple[Held, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether nothing in it differs."""
        parts = (self.arrays, self.types, self.values, self.only_first, self.only_second)
        return not any(parts)

    @property
    def layers(self) -> list[Layer]:
        """Arrays that differ, by module, the furthest apart first."""
        found: dict[str, list[ArrayDifference]] = {}
        for item in self.arrays:
            found.setdefault(item.layer, []).append(item)
        layers = [Layer(name, tuple(items)) for name, items in found.items()]
        return sorted(layers, key=lambda layer: _far(layer.relative))

    @property
    def relative(self) -> float | None:
        """`||a - b|| / ||a||` over the arrays of fractions that differ; None without such.

        Single numbers, such as an optimizer's count of steps, are left out: one would outweigh all.
        """
        fractions = ("float", "bfloat", "complex")
        weighed = [item for item in self.arrays if item.shape and item.dtype.startswith(fractions)]
        return _together(weighed) if weighed else None


@dataclass(frozen=True)
class Section:
    """Part of a report: a title, a table, and lines below it."""

    title: str
    note: str = ""
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False, kw_only=True)
class Diff(Shown):
    """What differs between two checkpoints; true where something does.

    Numbers are compared, not bytes: NaN is the same as NaN, a list the same as a tuple. Paths,
    formats, and versions of libraries are shown and do not make two checkpoints differ.
    """

    first: Side
    second: Side
    components: tuple[ComponentDiff, ...] = ()
    """Those that both hold."""
    only_first: tuple[Held, ...] = ()
    """Components that the first alone holds."""
    only_second: tuple[Held, ...] = ()
    facts: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)
    """What differs of `counters`, `metrics` and `spaces`; those that agree have no entry."""
    versions: tuple[Difference, ...] = ()
    """What differs of what both tell of the environment that they were written in."""
    untold: tuple[str, ...] = ()
    """What one side alone tells of that environment."""

    @property
    def is_same(self) -> bool:
        """Whether both hold the same state."""
        held = self.only_first or self.only_second or self.facts
        return not held and all(part.is_same for part in self.components)

    def __bool__(self) -> bool:
        return not self.is_same

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "same": self.is_same,
            "first": vars(self.first),
            "second": vars(self.second),
            "only_first": [vars(item) for item in self.only_first],
            "only_second": [vars(item) for item in self.only_second],
            "components": {part.name: _component_dict(part) for part in self.components},
            "facts": {key: [vars(item) for item in found] for key, found in self.facts.items()},
            "versions": [vars(item) for item in self.versions],
            "untold": list(self.untold),
        }

    def sections(self, *, everything: bool = False) -> list[Section]:
        """The report as titles, tables and lines.

        Args:
            everything: A row for each array rather than for each layer, and none left out.
        """
        found = [
            _component_section(part, everything) for part in self.components if not part.is_same
        ]
        for title, differences in self.facts.items():
            rows, more = _folded(_pairs(differences), everything, "value")
            found.append(Section(title, "", ("value", "A", "B"), rows, more))
        if self.versions or self.untold:
            rows, more = _folded(_pairs(self.versions), everything, "version")
            untold = _names("one side alone tells", self.untold, everything)
            headings = ("versions", "A", "B") if rows else ()
            found.append(Section("written with", "", headings, rows, (*more, *untold)))
        lines = [
            *_names("only in A", self.only_first, everything),
            *_names("only in B", self.only_second, everything),
        ]
        same = [part for part in self.components if part.is_same]
        if same:
            lines.append(_same_line(same))
        if lines:
            found.append(Section("", lines=tuple(lines)))
        return found

    @property
    def summary(self) -> str:
        """In a few words, whether they differ."""
        if self.is_same:
            return "the same state"
        num = sum(not part.is_same for part in self.components)
        parts = [f"{num} of {plural(len(self.components), 'shared component')}"] if num else []
        alone = len(self.only_first) + len(self.only_second)
        if alone:
            parts.append(plural(alone, "component") + " on one side alone")
        parts += list(self.facts)
        return f"differ: {', '.join(parts)}"

    def _text(self) -> str:
        lines = [f"A  {self.first}", f"B  {self.second}", self.summary]
        for section in self.sections():
            lines += ["", "  ".join(part for part in (section.title, section.note) if part)]
            if section.rows:
                lines.append(columns([section.headings, *section.rows]))
            lines += [f"  {line}" for line in section.lines]
        return "\n".join(line.rstrip() for line in lines)


def diff(
    a: PathLike,
    b: PathLike,
    *,
    formats: tuple[str | None, str | None] = (None, None),
    max_bytes: int | None = None,
) -> Diff:
    """Say what differs between two checkpoints of any known formats, running nothing.

    Arrays are read a block at a time, so that replay buffers of any size can be compared.

    Args:
        a: A file or directory; of a run, its newest checkpoint.
        b: Another.
        formats: Names of their formats, where content could be of two; told apart when left out.
        max_bytes: Memory that values of a foreign file may take; see `rekindle.limits`.

    Returns:
        A report that is true where something differs.

    Raises:
        NotFoundError: Nothing is at one of the paths.
        FormatError: One is of no known format, or of two that both could be meant.
        DamagedError: Bytes are missing, or not those that were written.
        UnsafeError: Going on would mean trusting a file further than data deserves.
    """
    one, two = (
        _read(Path(path), name, max_bytes) for path, name in zip((a, b), formats, strict=True)
    )
    pair = _Pair()
    shared = [name for name in _ordered(one.components) if name in two.components]
    components = tuple(
        pair.compare(name, one.components[name], two.components[name]) for name in shared
    )
    versions = _facts(one.environment, two.environment)
    return Diff(
        first=_side(a, one),
        second=_side(b, two),
        components=components,
        only_first=tuple(_only(one.components, two.components)),
        only_second=tuple(_only(two.components, one.components)),
        facts=_all_facts(one, two),
        versions=tuple(d for d in versions if _NOTHING not in (d.expected, d.found)),
        untold=tuple(d.key for d in versions if _NOTHING in (d.expected, d.found)),
    )


# --------------------------------------------------------------------------- the two sides

_NOTHING = "nothing"


def _read(path: Path, name: str | None, max_bytes: int | None) -> Reading:
    """What a checkpoint holds; rows of our own replay buffers stay unread."""
    if name != OURS and (name is not None or not is_ours(path)):
        return contents(path, format=name, max_bytes=max_bytes)
    checkpoint = open_checkpoint(path)
    record = checkpoint.manifest
    if ORIGIN in record.components:
        return of_checkpoint(checkpoint)[0]  # as the reader of its first format gave it
    return Reading(
        format=OURS,
        components=blocks.components(checkpoint.path, record),
        kind=record.kind,
        step=record.step,
        counters=checkpoint.counters,
        metrics=checkpoint.metrics,
        spaces=record.spaces,
        environment=record.environment,
    )


def _side(path: PathLike, reading: Reading) -> Side:
    version = None if reading.format == OURS else reading.version
    return Side(str(path), reading.format, reading.kind, version, reading.step)


def _ordered(components: Mapping[str, Any]) -> list[str]:
    known = [name for name in COMPONENTS if name in components and name != "agent"]
    rest = [name for name in components if name not in COMPONENTS]
    # What the agent holds beside its parts is the long tail: last.
    return [*known, *rest, *(name for name in ("agent",) if name in components)]


def _only(components: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[Held]:
    for name in _ordered(components):
        if name not in others:
            yield Held(name, _what(components[name]))


def _all_facts(one: Reading, two: Reading) -> dict[str, tuple[Difference, ...]]:
    counters = [{"step": side.step, **side.counters} for side in (one, two)]
    found = {
        "counters": tuple(_facts(*counters)),
        "metrics": tuple(_facts(one.metrics, two.metrics)),
        "spaces": tuple(_space_differences(one.spaces, two.spaces)),
    }
    return {title: differences for title, differences in found.items() if differences}


def _facts(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterable[Difference]:
    """What differs between two flat tables; None counts as nothing."""
    pair = _Pair()
    told = [{k: v for k, v in side.items() if v is not None} for side in (one, two)]
    part = pair.compare("", *told)
    return [
        *part.values,
        *(Difference(item.key, item.what, _NOTHING) for item in part.only_first),
        *(Difference(item.key, _NOTHING, item.what) for item in part.only_second),
    ]


def _space_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    for name in {**one, **two}:
        if name in one and name in two:
            yield from spaces.differences(one[name], two[name], name)
        else:
            shown = (spaces.summary(s[name]) if name in s else _NOTHING for s in (one, two))
            yield Difference(name, *shown)


# --------------------------------------------------------------------------- two values


@dataclass
class _Found:
    """What was found of one component so far."""

    num_arrays: int = 0
    num_values: int = 0
    arrays: list[ArrayDifference] = field(default_factory=list)
    types: list[Difference] = field(default_factory=list)
    values: list[Difference] = field(default_factory=list)
    only_first: list[Held] = field(default_factory=list)
    only_second: list[Held] = field(default_factory=list)


class _Pair:
    """Walks two states side by side; what was met in an earlier component is not walked again."""

    def __init__(self) -> None:
        self._met: dict[tuple[int, int], tuple[Any, Any]] = {}

    def compare(self, name: str, one: Any, two: Any) -> ComponentDiff:
        """Compare one component."""
        out = _Found()
        waiting = [("", one, two)]
        while waiting:
            path, first, second = waiting.pop()
            waiting.extend(reversed(self._visit(path, first, second, out)))
        return ComponentDiff(
            name=name,
            num_arrays=out.num_arrays,
            num_values=out.num_values,
            arrays=tuple(sorted(out.arrays, key=lambda item: _far(item.distance.relative))),
            types=tuple(out.types),
            values=tuple(out.values),
            only_first=tuple(out.only_first),
            only_second=tuple(out.only_second),
        )

    def _visit(self, path: str, one: Any, two: Any, out: _Found) -> list[tuple[str, Any, Any]]:
        """Compare two values; the pairs of values that stand in them."""
        if _is_container(one) or _is_array(one):
            key = (id(one), id(two))
            if key in self._met:
                return []
            self._met[key] = (one, two)  # held, so that no other value gets the same identity
        if _is_array(one) and _is_array(two):
            self._arrays(path, one, two, out)
        elif _is_container(one) and _is_container(two):
            return self._containers(path, one, two, out)
        else:
            out.num_values += 1
            if not _is_same(one, two):
                out.values.append(_difference(path, one, two))
        return []

    def _containers(self, path: str, one: Any, two: Any, out: _Found) -> list[tuple[str, Any, Any]]:
        kinds = [_kind(side) for side in (one, two)]
        if kinds[0] != kinds[1]:
            out.values.append(Difference(path or "class", *kinds))
        sides = _children(one), _children(two)
        if kinds == [_LIST, _LIST] and len(sides[0]) != len(sides[1]):
            lengths = (plural(len(side), "item") for side in sides)
            out.values.append(Difference(path or "length", *lengths))
            fewest = min(sides, key=len)
            sides = tuple({key: side[key] for key in fewest} for side in sides)
        for here, there, held in (
            (sides[0], sides[1], out.only_first),
            (sides[1], sides[0], out.only_second),
        ):
            names = (name for name in here if name not in there)
            held.extend(Held(_join(path, name), _what(here[name])) for name in names)
        return [
            (_join(path, name), value, sides[1][name])
            for name, value in sides[0].items()
            if name in sides[1]
        ]

    def _arrays(self, path: str, one: Any, two: Any, out: _Found) -> None:
        out.num_arrays += 1
        has_type = one.dtype == two.dtype
        if one.shape != two.shape or not has_type:
            out.types.append(Difference(path, _what(one), _what(two)))
        numeric = blocks.are_numeric(one.dtype) and blocks.are_numeric(two.dtype)
        if one.shape == two.shape and (has_type or numeric):
            found = blocks.distance(one, two)
            if not found.is_same:
                name = _dtype_name(one.dtype)
                out.arrays.append(ArrayDifference(path, name, tuple(one.shape), found))


def _is_array(value: Any) -> bool:
    return isinstance(value, Rows) or (isinstance(value, np.ndarray) and not value.dtype.hasobject)


def _is_container(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.hasobject
    return isinstance(value, Mapping | list | tuple | deque)


_LIST = "a list"


def _kind(value: Any) -> str:
    """What a container is called; kinds that hold the same are one."""
    if isinstance(value, Record):
        return f"an object of {value.label}"
    return "a dictionary" if isinstance(value, Mapping) else _LIST


def _children(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        return {str(index): item for index, item in enumerate(value.reshape(-1).tolist())}
    if not isinstance(value, Mapping):
        return {str(index): item for index, item in enumerate(value)}
    named = {str(key): item for key, item in value.items()}
    # Keys that read the same, such as 1 and "1", keep apart.
    return named if len(named) == len(value) else {repr(k): item for k, item in value.items()}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_same(one: Any, two: Any) -> bool:
    numbers = [_number(side) for side in (one, two)]
    if None not in numbers:
        first, second = numbers
        return bool(first == second or (first != first and second != second))
    if isinstance(one, Reference) != isinstance(two, Reference):
        return False
    if _is_array(one) or _is_array(two) or _is_container(one) or _is_container(two):
        return False
    return bool(one == two) and isinstance(one, bool) == isinstance(two, bool)


def _number(value: Any) -> Any:
    """A value as a number of Python, whichever library's number it is; None for any other."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.shape == ()):
        value = value.item()
    is_number = isinstance(value, int | float | complex) and not isinstance(value, bool)
    return value if is_number else None


def _difference(path: str, one: Any, two: Any) -> Difference:
    shown = [_what(side) for side in (one, two)]
    if shown[0] == shown[1]:
        shown = [repr(side) for side in (one, two)]
    if shown[0] == shown[1]:
        shown = [f"{text} ({type(side).__name__})" for text, side in zip(shown, (one, two), strict=True)]  # fmt: skip  # noqa: E501
    return Difference(path or "value", *shown)


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 50
_brief.maxlevel = 2


def _what(value: Any) -> str:
    """A value in a few words."""
    if _is_array(value):
        if value.shape == () and not isinstance(value, Rows) and blocks.are_numeric(value.dtype):
            return _what(value.item()) if value.dtype.names is None else "bfloat16"
        return f"{_dtype_name(value.dtype)} {tuple(value.shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Reference):
        return str(value)
    if not _is_container(value):
        return _brief.repr(value)
    count = _num_arrays(value)
    if count:
        return plural(count, "array")
    if isinstance(value, Record):
        return _kind(value)
    return _brief.repr(value) if len(value) <= 4 else f"{_kind(value)} of {len(value)}"


def _num_arrays(value: Any) -> int:
    met: dict[int, Any] = {}
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        if id(item) in met:
            continue
        met[id(item)] = item
        if _is_array(item):
            count += 1
        elif _is_container(item):
            waiting.extend(_children(item).values())
    return count


def _dtype_name(dtype: np.dtype[Any]) -> str:
    names = dtype.names or ()
    return names[0] if len(names) == 1 else dtype.name


# --------------------------------------------------------------------------- the report


def _together(arrays: Sequence[ArrayDifference]) -> float | None:
    if any(item.distance.relative is None for item in arrays):
        return None
    squared = sum(item.distance.squared for item in arrays)
    return blocks.ratio(squared, sum(item.distance.norm for item in arrays))


def _far(relative: float | None) -> float:
    """Sorts the furthest apart first; what has no distance before all."""
    return -math.inf if relative is None else -relative


def _component_dict(part: ComponentDiff) -> dict[str, Any]:
    return {
        "same": part.is_same,
        "num_arrays": part.num_arrays,
        "num_values": part.num_values,
        "relative": part.relative,
        "layers": [
            {
                "name": layer.name,
                "relative": layer.relative,
                "largest": layer.largest,
                "share_equal": layer.share_equal,
                "arrays": [
                    {
                        "key": item.key,
                        "dtype": item.dtype,
                        "shape": list(item.shape),
                        "relative": item.distance.relative,
                        "largest": item.distance.largest,
                        "share_equal": item.distance.share_equal,
                    }
                    for item in layer.arrays
                ],
            }
            for layer in part.layers
        ],
        "types": [vars(item) for item in part.types],
        "values": [vars(item) for item in part.values],
        "only_first": [vars(item) for item in part.only_first],
        "only_second": [vars(item) for item in part.only_second],
    }


def _component_section(part: ComponentDiff, everything: bool) -> Section:
    notes = []
    if part.arrays:
        count = f"{len(part.arrays):,} of {plural(part.num_arrays, 'array')}"
        known = "" if part.relative is None else f", distance {_figure(part.relative)}"
        notes.append(count + known)
    if part.types:
        notes.append(f"{plural(len(part.types), 'array')} of another shape or type")
    if part.values:
        notes.append(f"{len(part.values):,} of {plural(part.num_values, 'value')}")
    if everything:
        rows = [
            (item.key, f"{item.dtype} {item.shape}", *_figures(item.distance))
            for item in part.arrays
        ]
        headings = ("array", "type", "distance", "largest", "equal")
    else:
        rows = [(layer.name, _leaves(layer), *_figures(layer)) for layer in part.layers]
        headings = ("layer", "arrays", "distance", "largest", "equal")
    shown, lines = _folded(rows, everything, "layer")
    for differences in (part.types, part.values):
        changed, more = _folded(_pairs(differences), everything, "value")
        lines += tuple(f"{key}: {one} → {two}" for key, one, two in changed) + more
    lines += _names("only in A", part.only_first, everything)
    lines += _names("only in B", part.only_second, everything)
    return Section(part.name, " · ".join(notes), headings if shown else (), shown, lines)


def _leaves(layer: Layer) -> str:
    """Names of a layer's arrays within it; of many, how many there are."""
    if [item.key for item in layer.arrays] == [layer.name]:
        return f"{layer.arrays[0].dtype} {layer.arrays[0].shape}"
    short = [item.key.rpartition(".")[2] for item in layer.arrays]
    return " ".join(short) if len(set(short)) == len(short) <= 3 else plural(len(short), "array")


def _figures(part: Distance | Layer) -> tuple[str, str, str]:
    share = part.share_equal
    equal = f"{100 * share:.0f} %" if share in (0, 1) else f"{min(99.9, 100 * share):.1f} %"
    return _figure(part.relative), _figure(part.largest), equal


def _figure(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _pairs(differences: Iterable[Difference]) -> list[tuple[str, ...]]:
    return [(item.key, item.expected, item.found) for item in differences]


def _folded(
    rows: Sequence[tuple[str, ...]], everything: bool, noun: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The rows to show, and a line for the others."""
    if everything or len(rows) <= FOLD:
        return tuple(rows), ()
    rest = len(rows) - FOLD + 1
    return tuple(rows[: FOLD - 1]), (f"... and {plural(rest, f'more {noun}')} (--all shows them)",)


def _names(title: str, items: Sequence[Any], everything: bool) -> tuple[str, ...]:
    """A line of names, or none."""
    if not items:
        return ()
    shown = list(map(str, items if everything else items[:_NAMED]))
    if len(shown) < len(items):
        shown.append(f"{len(items) - len(shown):,} more")
    return (f"{title}: {', '.join(shown)}",)


def _same_line(same: Sequence[ComponentDiff]) -> str:
    arrays = sum(part.num_arrays for part in same)
    values = sum(part.num_values for part in same)
    counts = [plural(n, noun) for n, noun in ((arrays, "array"), (values, "value")) if n]
    names = ", ".join(part.name for part in same)
    return f"same: {names}" + (f" ({', '.join(counts)})" if counts else "")

"""Gymnasium spaces as plain data: describe, build again, compare, and name in one line.

A description is a JSON object: a `type` and the fields that `_FIELDS` lists for it. Infinite bounds
are the strings "inf" and "-inf". A space that is not one of Gymnasium's own is of type `custom`: it
can be compared but not built. The state of a space's RNG is not part of its description.
"""

from __future__ import annotations

import contextlib
import math
import reprlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rekindle.errors import (
    Difference,
    FormatError,
    MissingDependencyError,
    RekindleError,
    UnsupportedError,
)

MAX_ELEMENTS = 2**25
"""Most array elements that `build` makes from one description: a colour image of 4K has fewer."""
MAX_DEPTH = 64
"""Deepest nesting of spaces."""

_SPACE_COST = 1024  # elements that a space is charged as, whatever its shape
_MAX_AXES = 32  # NumPy 1 has no more
_SUMMARY_LENGTH = 120
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = ("bool", *_INTEGERS, "float16", "float32", "float64")

_brief = reprlib.Repr()
_brief.maxlist = 6
_brief.maxstring = _brief.maxother = 80


def describe(space: Any) -> dict[str, Any]:
    """Describe a space as JSON data from which `build` makes an equal one.

    Args:
        space: A space of Gymnasium, or of the old Gym.

    Returns:
        Data for `json.dumps(..., allow_nan=False)`, exact to the last bit of every bound.

    Raises:
        UnsupportedError: Not a space, a dtype or a key of a `Dict` that JSON cannot hold exactly,
            or spaces nested deeper than `MAX_DEPTH`.
    """
    known = _described.get(id(space))
    if known is not None and known[0]() is space and known[1] == _bounds(space):
        return known[2]
    deque(subspaces(space), maxlen=0)  # refuses a space that contains itself
    found = _describe(space, "space")
    key = id(space)
    with contextlib.suppress(TypeError):  # an object that cannot be referred to weakly
        reference = weakref.ref(space, lambda _: _described.pop(key, None))
        _described[key] = (reference, _bounds(space), found)
    return found


_described: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
"""Descriptions of live spaces, which nobody changes once they are made."""


def _bounds(space: Any) -> tuple[int, int]:
    """The arrays of a Box, by identity: other bounds are other arrays."""
    return id(getattr(space, "low", None)), id(getattr(space, "high", None))


def build(description: Any) -> Any:
    """Build the Gymnasium space that a description tells of.

    Descriptions come from files that may be hostile, so nothing is allocated before the fields and
    the size of the whole have been checked.

    Args:
        description: What `describe` returned.

    Returns:
        A `gymnasium.Space`, not seeded.

    Raises:
        FormatError: The description is malformed, or asks for more than `MAX_ELEMENTS`.
        UnsupportedError: It holds a space that is not one of Gymnasium's own.
        MissingDependencyError: Gymnasium is not installed, or too old to have this space.
    """
    _validate(description, "space")
    elements = _cost(description)
    if elements > MAX_ELEMENTS:
        found = f"{elements} in {summary(description)}. Make such a space in code"
        raise _malformed("space", f"at most {MAX_ELEMENTS} elements in all", found)
    try:
        from gymnasium import spaces
    except ImportError as error:
        raise MissingDependencyError(
            "Building a space needs gymnasium. Install it: pip install rekindle[gymnasium]"
        ) from error
    return _build(description, "space", spaces)


def differences(expected: Any, found: Any, key: str = "") -> list[Difference]:
    """List every difference between two descriptions.

    Args:
        expected: The description that the reader wants.
        found: The description that it got.
        key: Name of the space, such as `observation`, that every key begins with.

    Returns:
        Differences with keys such as `observation['goal'].shape`; empty where the two agree.

    Raises:
        FormatError: One of the two is malformed.
    """
    for description in (expected, found):
        _validate(description, key or "space")
    # A custom space and its base name the same shape, so both find it changed.
    return list(dict.fromkeys(_compare(expected, found, key)))


def summary(description: Any) -> str:
    """Name a space in one short line, such as `Box(4,) float32`.

    Args:
        description: What `describe` returned.

    Returns:
        At most 120 characters.

    Raises:
        FormatError: The description is malformed.
    """
    _validate(description, "space")
    line = _label(description)
    return line if len(line) <= _SUMMARY_LENGTH else f"{line[: _SUMMARY_LENGTH - 3]}..."


def subspaces(space: Any) -> Iterator[tuple[str, Any]]:
    """Walk over a live space and every space nested in it, each before its own parts.

    A space that stands at several places is met at each of them. The spaces that `Sequence` and
    `Graph` derive from their parts are left out: Gymnasium never samples from them.

    Args:
        space: A space of Gymnasium, or of the old Gym.

    Yields:
        Path and space: "" for the root, then such as `['goal'][0]` or `.feature_space`.

    Raises:
        UnsupportedError: Something is not a space, or lies deeper than `MAX_DEPTH`.
    """
    waiting = [("", space, 0)]
    while waiting:
        path, current, depth = waiting.pop()
        if depth > MAX_DEPTH:
            expected = f"at most {MAX_DEPTH} spaces inside each other"
            raise _unsupported("space", expected, "more. Does the space contain itself?")
        parts = _live_parts(current, f"space{path}")
        yield path, current
        waiting.extend((path + step, part, depth + 1) for step, part in reversed(parts))


# Live spaces to descriptions


def _unsupported(key: str, expected: str, found: str) -> UnsupportedError:
    reason = f"expected {expected}, found {found}"
    return UnsupportedError(f"{key}: {reason}", key=key, refusals=[(key, reason)])


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _kind_of(space: Any, key: str) -> tuple[str, bool]:
    """Find the type that a space is or derives from, and whether it is exactly that type."""
    kinds: list[str] = []
    for cls in type(space).__mro__:
        package, *module = cls.__module__.replace("_", "").split(".")
        name = cls.__qualname__
        own = package in ("gymnasium", "gym") and module == ["spaces", name.lower()]
        kinds.append(name if own else "")
    if "Space" not in kinds:
        raise _unsupported(key, "a Gymnasium space", _class_name(space))
    return next((kind for kind in kinds if kind in _DESCRIBERS), "custom"), kinds[0] in _DESCRIBERS


def _live_parts(space: Any, key: str) -> list[tuple[str, Any]]:
    kind, _ = _kind_of(space, key)
    nested = space.spaces.items() if kind == "Dict" else getattr(space, "spaces", ())
    return _steps(kind, nested, lambda name: getattr(space, name, None))


def _steps(kind: str, nested: Any, field: Callable[[str], Any]) -> list[tuple[str, Any]]:
    """List the parts of a space or of a description, each with its step of the path."""
    if kind == "Dict":
        return [(f"[{key!r}]", part) for key, part in nested]
    if kind in ("Tuple", "OneOf"):
        return [(f"[{index}]", part) for index, part in enumerate(nested)]
    names = {"Sequence": ["feature_space"], "Graph": ["node_space", "edge_space"]}.get(kind, [])
    return [(f".{name}", field(name)) for name in names if field(name) is not None]


def _describe(space: Any, key: str) -> dict[str, Any]:
    kind, exact = _kind_of(space, key)
    parts = [_describe(part, key + step) for step, part in _live_parts(space, key)]
    known = None
    if kind != "custom":
        known = {"type": kind, **_DESCRIBERS[kind](space, parts, key)}
    if exact and known:
        return known
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    return {
        "type": "custom",
        "class": _class_name(space),
        "shape": None if shape is None else [int(size) for size in shape],
        "dtype": None if dtype is None else str(np.dtype(dtype)),
        "base": known,
    }


def _dtype_name(space: Any, key: str) -> str:
    dtype = np.dtype(space.dtype)
    if dtype.name not in _DTYPES or not dtype.isnative:
        raise _unsupported(f"{key}.dtype", f"one of {', '.join(_DTYPES)}", dtype.str)
    return dtype.name


def _bound(space: Any, side: str, infinity: str, bounded: str) -> Any:
    """Give a bound as a number where all its elements are the same bits, else as nested lists."""
    values = np.asarray(getattr(space, side))
    infinite = np.zeros(values.shape, bool)
    if values.dtype.kind == "i":  # an integer box keeps the limit of its dtype there, and a flag
        infinite |= ~np.asarray(getattr(space, bounded, True), bool)
    elif values.dtype.kind == "f":
        infinite |= ~np.isfinite(values)
    bits = np.ascontiguousarray(values).reshape(-1).view(f"u{values.itemsize}")
    if bits.size and (bits == bits[0]).all() and infinite.all() == infinite.any():
        values, infinite = values.reshape(-1)[:1].reshape(()), infinite.reshape(-1)[0]
    if not infinite.any():
        return values.tolist()
    data = np.array(values, dtype=object)
    data[infinite] = infinity
    if values.dtype.kind == "f":  # may also be "nan", when someone wrote it into the bounds
        data[infinite] = [str(value) for value in values[infinite]]
    return data.tolist()


def _describe_box(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    dtype = _dtype_name(space, key)
    return {
        "low": _bound(space, "low", "-inf", "bounded_below"),
        "high": _bound(space, "high", "inf", "bounded_above"),
        "shape": [int(size) for size in space.shape],
        "dtype": dtype,
    }


def _describe_discrete(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    start = int(getattr(space, "start", 0))
    return {"n": int(space.n), "start": start, "dtype": _dtype_name(space, key)}


def _describe_multi_discrete(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    nvec = np.asarray(space.nvec)
    start = np.asarray(getattr(space, "start", np.zeros_like(nvec)))
    dtype = _dtype_name(space, key)
    shape = list(nvec.shape)
    return {"nvec": nvec.tolist(), "start": start.tolist(), "shape": shape, "dtype": dtype}


def _describe_text(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    least, most = int(space.min_length), int(space.max_length)
    charset = "".join(space.character_list)  # the order tells what a sample means
    return {"min_length": least, "max_length": most, "charset": charset}


def _describe_dict(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    pairs = [[_encode_key(name, key), p] for name, p in zip(space.spaces, parts, strict=True)]
    return {"spaces": pairs, "sort_keys": bool(getattr(space, "sort_keys", True))}


def _describe_sequence(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    return {"feature_space": parts[0], "stack": bool(getattr(space, "stack", False))}


def _describe_graph(space: Any, parts: list[Any], key: str) -> dict[str, Any]:
    return {"node_space": parts[0], "edge_space": parts[1] if len(parts) > 1 else None}


def _encode_key(name: Any, key: str) -> Any:
    """Turn a key of a `Dict` space into JSON data that `_decode_key` makes an equal key from."""
    if name is None or isinstance(name, bool):
        return name
    if isinstance(name, str):
        return str.__str__(name)  # an enumeration may print itself as something else
    if isinstance(name, int | np.integer):
        return int(name)
    if isinstance(name, float) and math.isfinite(name):
        return float(name)
    if isinstance(name, tuple) and not any(isinstance(item, tuple) for item in name):
        return {"tuple": [_encode_key(item, key) for item in name]}
    expected = "keys that are text, finite numbers, booleans, None, or tuples of these"
    raise _unsupported(key, expected, _brief.repr(name))


# Descriptions


class _Rule(NamedTuple):
    """What a field must be before anything reads it."""

    expected: str
    holds: Callable[[Any], bool]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_AXES and all(map(_is_size, value))


def _is_numbers(value: Any) -> bool:
    items = [value]
    for _ in range(_MAX_AXES + 1):
        if not any(isinstance(item, list) for item in items):
            return all(isinstance(item, int | float | str) for item in items)
        if not all(isinstance(item, list) for item in items):
            return False
        items = [inner for item in items for inner in item]
    return False


def _is_key(value: Any) -> bool:
    if isinstance(value, dict) and value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return all(_is_key(item) and not isinstance(item, dict) for item in value["tuple"])
    return value is None or type(value) in (str, bool, int, float)


def _is_pairs(value: Any) -> bool:
    pairs = isinstance(value, list) and all(isinstance(i, list) and len(i) == 2 for i in value)
    if not pairs or not all(_is_key(key) for key, _ in value):
        return False
    return len({_decode_key(key) for key, _ in value}) == len(value)


def _or_null(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.expected}, or null", lambda value: value is None or rule.holds(value))


_INTEGER = _Rule("a whole number", lambda value: type(value) is int)
_SIZE = _Rule("a whole number from 0 to 2**63 - 1", _is_size)
_SHAPE = _Rule(f"a list of at most {_MAX_AXES} sizes", _is_shape)
_SIZES = _Rule("a size or a list of sizes", lambda value: _is_size(value) or _is_shape(value))
_NUMBERS = _Rule("a number, or numbers in nested lists", _is_numbers)
_DTYPE = _Rule(f"one of {', '.join(_DTYPES)}", lambda value: value in _DTYPES)
_INTEGER_DTYPE = _Rule(f"one of {', '.join(_INTEGERS)}", lambda value: value in _INTEGERS)
_FLAG = _Rule("true or false", lambda value: isinstance(value, bool))
_TEXT = _Rule("text", lambda value: isinstance(value, str))
_SPACE = _Rule("a space", lambda value: isinstance(value, dict))
_SPACES = _Rule("a list of spaces", lambda value: isinstance(value, list))
_PAIRS = _Rule("a list of pairs of a key and a space, no key twice", _is_pairs)
_SHAPE_OR_NULL, _TEXT_OR_NULL, _SPACE_OR_NULL = map(_or_null, (_SHAPE, _TEXT, _SPACE))
_NESTED = ("spaces", "feature_space", "node_space", "edge_space", "base")


def _decode_key(key: Any) -> Any:
    return tuple(key["tuple"]) if isinstance(key, dict) else key


def _parts(data: dict[str, Any]) -> list[tuple[str, Any]]:
    if data["type"] == "custom":
        return [("", data["base"])] if data["base"] else []
    nested = data.get("spaces", ())
    if data["type"] == "Dict":
        nested = [(_decode_key(key), part) for key, part in nested]
    return _steps(data["type"], nested, data.get)


def _malformed(key: str, expected: str, found: str) -> FormatError:
    return FormatError(f"{key}: expected {expected}, found {found}", key=key)


def _validate(description: Any, key: str) -> None:
    """Check the fields of a description and of all its parts, without recursion."""
    waiting = deque([(description, key, 0)])
    while waiting:
        data, where, depth = waiting.popleft()
        if depth > MAX_DEPTH:
            raise _malformed(key, f"at most {MAX_DEPTH} spaces inside each other", "more")
        kind = data.get("type") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in _FIELDS:
            found = _brief.repr(data if kind is None else kind)
            raise _malformed(where, f"a space of type {', '.join(_FIELDS)}", found)
        fields = _FIELDS[kind]
        if data.keys() != {"type", *fields}:
            expected = f"a {kind} with the fields {', '.join(['type', *fields])}"
            raise _malformed(where, expected, _brief.repr(list(data)))
        for name, rule in fields.items():
            if not rule.holds(data[name]):
                raise _malformed(f"{where}.{name}", rule.expected, _brief.repr(data[name]))
        waiting.extend((part, where + step, depth + 1) for step, part in _parts(data))


def _cost(data: dict[str, Any]) -> int:
    """Count the elements that building would allocate; a size of zero hides none of the others."""
    sizes = data.get("shape") or []
    if data["type"] == "MultiBinary":
        sizes = data["n"] if isinstance(data["n"], list) else [data["n"]]
    own = math.prod(max(size, 1) for size in sizes) + len(data.get("charset", ""))
    # Gymnasium keeps a second copy of these parts, so each level of them doubles what is inside.
    copies = 2 if data["type"] == "Graph" or data.get("stack") else 1
    return _SPACE_COST + own + copies * sum(_cost(part) for _, part in _parts(data))


def _label(data: dict[str, Any]) -> str:
    kind, parts = data["type"], [_label(part) for _, part in _parts(data)]
    dtype = "" if data.get("dtype") == "int64" else f" {data.get('dtype')}"
    match kind:
        case "Box":
            return f"Box{tuple(data['shape'])} {data['dtype']}"
        case "Discrete":
            start = f", start={data['start']}" if data["start"] else ""
            return f"Discrete({data['n']}{start}){dtype}"
        case "MultiDiscrete":
            return f"MultiDiscrete({_brief.repr(data['nvec'])}){dtype}"
        case "MultiBinary":
            return f"MultiBinary({data['n']})"
        case "Text":
            return f"Text({data['min_length']}, {data['max_length']})"
        case "custom":
            return f"custom {_brief.repr(data['class'])}"
        case "Dict":
            keys = [_decode_key(key) for key, _ in data["spaces"]]
            names = [k if isinstance(k, str) and k.isprintable() else repr(k) for k in keys]
            parts = [f"{name}: {part}" for name, part in zip(names, parts, strict=True)]
        case "Sequence" if data["stack"]:
            parts.append("stack=True")
    return f"{kind}({', '.join(parts)})"


def _compare(expected: dict[str, Any], found: dict[str, Any], key: str) -> Iterator[Difference]:
    if expected["type"] != found["type"]:
        yield Difference(key or "space", summary(expected), summary(found))
        return
    for name in expected:
        left, right = expected[name], found[name]
        # Older Gymnasium orders a set of characters anew in every process, and calls both equal.
        same = set(left) == set(right) if name == "charset" else left == right
        if name not in _NESTED and not same:
            shown = _first_unequal(left, right)
            yield Difference(f"{key}.{name}".lstrip("."), *shown)
    left, right = dict(_parts(expected)), dict(_parts(found))
    for step in left | right:
        if step in left and step in right:
            yield from _compare(left[step], right[step], key + step)
        else:
            shown = (summary(side[step]) if step in side else "nothing" for side in (left, right))
            yield Difference(f"{key}{step}".lstrip(".") or "space", *shown)
    if left.keys() == right.keys() and list(left) != list(right):
        yield Difference(f"{key}.keys".lstrip("."), " ".join(left), " ".join(right))


def _first_unequal(expected: Any, found: Any) -> tuple[str, str]:
    """Show two values that are not equal; of two long lists, the first items that are not."""
    at = ""
    while isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        if len(expected) <= _brief.maxlist and not isinstance(expected[0], list):
            break
        pairs = enumerate(zip(expected, found, strict=True))
        index, (expected, found) = next(item for item in pairs if item[1][0] != item[1][1])
        at += f"[{index}]"
    where = f" at {at}" if at else ""
    return f"{_brief.repr(expected)}{where}", f"{_brief.repr(found)}{where}"


# Descriptions to live spaces


def _build(data: dict[str, Any], key: str, spaces: Any) -> Any:
    kind = data["type"]
    if kind == "custom":
        found = f"{_brief.repr(data['class'])}. Make the environment and take its space"
        raise _unsupported(key, "one of Gymnasium's own spaces", found)
    if not hasattr(spaces, kind):
        raise MissingDependencyError(
            f"{key}: this gymnasium has no {kind} spaces. Upgrade it: "
            "pip install --upgrade rekindle[gymnasium]",
            key=key,
        )
    parts = [_build(part, key + step, spaces) for step, part in _parts(data)]
    try:
        return _BUILDERS[kind](spaces, data, parts, key)
    except RekindleError:
        raise
    except (ArithmeticError, AssertionError, TypeError, ValueError) as error:
        found = f"one that Gymnasium refuses: {str(error)[:200]}"
        raise _malformed(key, f"a {kind} space", found) from error


def _range(dtype: str) -> tuple[tuple[type, ...], Any, Any]:
    """Give the types of JSON numbers that a dtype takes, with the least and the greatest."""
    if dtype == "bool":
        return (bool,), False, True
    if dtype in _INTEGERS:
        return (int,), int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return (int, float), float(np.finfo(dtype).min), float(np.finfo(dtype).max)


def _array(
    value: Any, shape: Sequence[int], dtype: str, key: str, infinities: Mapping[str, float]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Make an array from numbers that its dtype holds, and mark where they were infinities."""
    items = [value]
    for size in shape if isinstance(value, list) else ():
        for item in items:
            if not isinstance(item, list) or len(item) != size:
                expected = f"lists nested as the shape {tuple(shape)}"
                raise _malformed(key, expected, _brief.repr(item))
        items = [inner for item in items for inner in item]
    types, least, most = _range(dtype)
    infinite = [isinstance(item, str) and item in infinities for item in items]
    for item, known in zip(items, infinite, strict=True):
        if not known and (type(item) not in types or not least <= item <= most):
            expected = " or ".join([f"a number that {dtype} holds", *map(repr, infinities)])
            raise _malformed(key, expected, _brief.repr(item))
    numbers = [infinities[i] if known else i for i, known in zip(items, infinite, strict=True)]
    array, mask = np.array(numbers, dtype), np.array(infinite, bool)
    if isinstance(value, list):
        return array.reshape(shape), mask.reshape(shape)
    return np.full(shape, array[0]), np.full(shape, mask[0])


def _build_box(spaces: Any, data: dict[str, Any], parts: list[Any], key: str) -> Any:
    shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
    below: dict[str, float] = {}
    above: dict[str, float] = {}
    if dtype.kind == "f":
        below = above = {"inf": math.inf, "-inf": -math.inf}
    elif dtype.kind == "i":  # versions of Gymnasium differ in the number they keep for infinity
        limits = spaces.Box(-np.inf, np.inf, (1,), dtype)
        below, above = {"-inf": int(limits.low[0])}, {"inf": int(limits.high[0])}
    low, no_low = _array(data["low"], shape, dtype.name, f"{key}.low", below)
    high, no_high = _array(data["high"], shape, dtype.name, f"{key}.high", above)
    box = spaces.Box(low, high, shape, dtype)
    if dtype.kind == "i":
        box.bounded_below, box.bounded_above = ~no_low, ~no_high
    return box


def _build_discrete(spaces: Any, data: dict[str, Any], parts: list[Any], key: str) -> Any:
    dtype = data["dtype"]
    n, start = (int(_array(data[f], (), dtype, f"{key}.{f}", {})[0]) for f in ("n", "start"))
    options = {} if dtype == "int64" else {"dtype": np.dtype(dtype)}  # older ones take no dtype
    return spaces.Discrete(n, start=start, **options)


def _build_multi_discrete(spaces: Any, data: dict[str, Any], parts: list[Any], key: str) -> Any:
    shape, dtype = data["shape"], data["dtype"]
    nvec, start = (_array(data[f], shape, dtype, f"{key}.{f}", {})[0] for f in ("nvec", "start"))
    return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype), start=start)


def _build_text(spaces: Any, data: dict[str, Any], parts: list[Any], key: str) -> Any:
    least, most = data["min_length"], data["max_length"]
    return spaces.Text(most, min_length=least, charset=data["charset"])


def _build_dict(spaces: Any, data: dict[str, Any], parts: list[Any], key: str) -> Any:
    keys = [_decode_key(name) for name, _ in data["spaces"]]
    options = {} if data["sort_keys"] else {"sort_keys": False}  # older ones take no such option
    return spaces.Dict(list(zip(keys, parts, strict=True)), **options)  # 1.0 sorts any mapping


# The types. To add one, add a line to each table.

_FIELDS: dict[str, dict[str, _Rule]] = {
    "Box": {"low": _NUMBERS, "high": _NUMBERS, "shape": _SHAPE, "dtype": _DTYPE},
    "Discrete": {"n": _INTEGER, "start": _INTEGER, "dtype": _INTEGER_DTYPE},
    "MultiDiscrete": {
        "nvec": _NUMBERS,
        "start": _NUMBERS,
        "shape": _SHAPE,
        "dtype": _INTEGER_DTYPE,
    },
    "MultiBinary": {"n": _SIZES},
    "Text": {"min_length": _SIZE, "max_length": _SIZE, "charset": _TEXT},
    "Dict": {"spaces": _PAIRS, "sort_keys": _FLAG},
    "Tuple": {"spaces": _SPACES},
    "OneOf": {"spaces": _SPACES},
    "Sequence": {"feature_space": _SPACE, "stack": _FLAG},
    "Graph": {"node_space": _SPACE, "edge_space": _SPACE_OR_NULL},
    "custom": {
        "class": _TEXT,
        "shape": _SHAPE_OR_NULL,
        "dtype": _TEXT_OR_NULL,
        "base": _SPACE_OR_NULL,
    },
}

# (space, descriptions of its parts, key) to the fields.
_DESCRIBERS: dict[str, Callable[[Any, list[Any], str], dict[str, Any]]] = {
    "Box": _describe_box,
    "Discrete": _describe_discrete,
    "MultiDiscrete": _describe_multi_discrete,
    "MultiBinary": lambda space, parts, key: {"n": np.asarray(space.n).tolist()},
    "Text": _describe_text,
    "Dict": _describe_dict,
    "Tuple": lambda space, parts, key: {"spaces": parts},
    "OneOf": lambda space, parts, key: {"spaces": parts},
    "Sequence": _describe_sequence,
    "Graph": _describe_graph,
}

# (`gymnasium.spaces`, description, built parts, key) to the space.
_BUILDERS: dict[str, Callable[[Any, dict[str, Any], list[Any], str], Any]] = {
    "Box": _build_box,
    "Discrete": _build_discrete,
    "MultiDiscrete": _build_multi_discrete,
    "MultiBinary": lambda spaces, data, parts, key: spaces.MultiBinary(data["n"]),
    "Text": _build_text,
    "Dict": _build_dict,
    "Tuple": lambda spaces, data, parts, key: spaces.Tuple(parts),
    "OneOf": lambda spaces, data, parts, key: spaces.OneOf(parts),
    "Sequence": lambda spaces, data, parts, key: spaces.Sequence(parts[0], stack=data["stack"]),
    "Graph": lambda spaces, data, parts, key: spaces.Graph(parts[0], (*parts, None)[1]),
}

"""numpy's values that are rebuilt from a pickle: arrays, scalars, dtypes, generators.

Nothing of numpy's own unpickling is called: types are put together from checked parts, and bytes
are looked at through them. numpy itself believes a pickled dtype, and takes bytes for addresses of
objects. Source: numpy 1.26 and 2.4, `methods.c`, `descriptor.c`, `numeric.py`, `random/_pickle.py`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from rekindle.limits import MAPPED_BYTES
from rekindle.pickles.nodes import Call, Global, Payload
from rekindle.pickles.python_values import arguments, nodes, of_type, short
from rekindle.pickles.rebuilding import Builder, Rebuilder, Steps, Unfit, canonical, each
from rekindle.state import Record

_CODE = re.compile(r"[biufcmMSUVO]\d{1,9}")
_ORDERS = ("<", ">", "=", "|")
_UNIT = re.compile(r"Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as|generic|μs")
_MOST_AXES = 32
_MOST_FIELDS = 4096
_FIELD_BYTES = 8192
_MOST_EMPTY_ITEMS = 1 << 20
"""Most items of no bytes: they cost nothing in the file, and time in every use."""
_ARRAYS = frozenset(("numpy:ndarray", "numpy:memmap", "numpy.core.memmap:memmap"))
"""Classes whose pickles are those of a plain array."""


def natural(value: Any) -> int:
    """A size or offset of a file, as an integer that is none below zero."""
    if type(value) is not int or value < 0:
        raise Unfit(f"{str(value)[:40]} where a size stands")
    return value


def shape_of(value: Any) -> tuple[int, ...]:
    """A shape of a file."""
    if type(value) is int:
        value = (value,)
    if type(value) not in (tuple, list) or len(value) > _MOST_AXES:
        raise Unfit("no shape of an array")
    return tuple(natural(size) for size in value)


def over(rebuilder: Rebuilder, raw: Any, dtype: np.dtype[Any], shape: Any, order: str) -> Any:
    """An array over bytes, after checking that they are as many as it takes.

    Args:
        rebuilder: Counts what is copied.
        raw: A large payload, whose memory is used, or bytes.
        dtype: Type of the items.
        shape: What the file says of the shape.
        order: `C` or `F`.
    """
    if dtype.hasobject:
        raise Unfit("bytes where objects stand")
    shape = shape_of(shape)
    count = math.prod(shape)
    if type(raw) is str:
        raw = raw.encode("utf-8", "surrogatepass")  # bytes of Python 2 that happened to be text
    memory = raw.memory if type(raw) is Payload else of_type(raw, bytes, bytearray)
    if len(memory) != count * dtype.itemsize:
        raise Unfit(f"{len(memory)} bytes for {count} items of {dtype.itemsize}")
    if dtype.itemsize == 0 and count > _MOST_EMPTY_ITEMS:
        raise Unfit(f"{count} items of no bytes")
    rebuilder.budget.charge(200)
    if dtype.itemsize == 0 or count == 0:
        return np.empty(shape, dtype, order)  # type: ignore[call-overload]
    if type(raw) is not Payload or len(memory) < MAPPED_BYTES:
        rebuilder.budget.charge(len(memory))
        memory = bytearray(memory)
    return np.frombuffer(memory, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def raw_bytes(node: Any) -> Any:
    """A payload as it is, so that its memory can be used; anything else is to be rebuilt."""
    return type(node) is Payload and node.kind != "str"


# --------------------------------------------------------------------------- arrays


def _reconstruct(rebuilder: Rebuilder, call: Call) -> Steps:
    """`_reconstruct(ndarray, (0,), b"b")` and a state: arrays, before protocol 5."""
    cls, *_ = nodes(call, 3)
    if canonical(of_type(cls, Global).label) not in _ARRAYS:
        raise Unfit(f"an array of class {cls.label}")
    if not call.states or len(call.states) != 1 or call.pairs or call.elements:
        raise Unfit("no state")
    state = of_type(call.states[0], tuple)
    if len(state) == 4:  # numpy before 1.0 wrote no version
        state = (1, *state)
    if len(state) != 5:
        raise Unfit("a state of another kind")
    shape, dtype, is_fortran = yield from each(state[1:4])
    order = "F" if is_fortran is True or is_fortran == 1 else "C"
    raw = state[4]
    if of_type_dtype(dtype).hasobject:
        return _objects(rebuilder, call, dtype, shape_of(shape), order, raw)
    if not raw_bytes(raw):
        raw = yield raw
    return over(rebuilder, raw, dtype, shape, order)


def _objects(
    rebuilder: Rebuilder, call: Call, dtype: Any, shape: tuple[int, ...], order: str, items: Any
) -> Any:
    """An array of objects, whose pickle lists them."""
    if dtype != np.dtype(object):
        raise Unfit("a type with objects in its fields")
    if math.prod(shape) != len(of_type(items, list)):
        raise Unfit(f"{len(items)} objects for the shape {shape}")
    rebuilder.budget.charge(200 + 64 * len(items))
    array = np.empty(shape, object, order)  # type: ignore[call-overload]
    return rebuilder.shell(call, array, _fill(rebuilder, array, items))


def _fill(rebuilder: Rebuilder, array: Any, items: list[Any]) -> Steps:
    """Put objects into an array; they are listed in C order, however it lies in memory."""
    row = np.empty(len(items), object)
    for index, node in enumerate(rebuilder.held(items.copy())):
        row[index] = yield node
    array[...] = row.reshape(array.shape)


def _frombuffer(rebuilder: Rebuilder, call: Call) -> Steps:
    """`_frombuffer(buffer, dtype, shape, order)`: arrays, from protocol 5 on."""
    raw, *rest = arguments(call, 4)
    dtype, shape, order = yield from each(rest)
    if order not in ("C", "F", "A", "K"):
        raise Unfit("another order than C or F")
    if not raw_bytes(raw):
        raw = yield raw
    return over(rebuilder, raw, of_type_dtype(dtype), shape, "F" if order == "F" else "C")


def _scalar(rebuilder: Rebuilder, call: Call) -> Steps:
    """`scalar(dtype, bytes)`: one number, boolean, text or moment."""
    given = arguments(call, 1, 2)
    dtype = of_type_dtype((yield given[0]))
    if len(given) == 1:
        raise Unfit("no bytes")
    raw = yield given[1]
    return over(rebuilder, raw, dtype, (), "C")[()]


# --------------------------------------------------------------------------- types


def of_type_dtype(value: Any) -> np.dtype[Any]:
    """A value, if it is a dtype."""
    if not isinstance(value, np.dtype):
        raise Unfit(f"{type(value).__name__} where a dtype stands")
    return value


def _dtype(rebuilder: Rebuilder, call: Call) -> Steps:
    """`dtype(code, align, copy)` and a state with byte order, fields, unit."""
    given = nodes(call, 1, 3)
    code = of_type((yield given[0]), str)
    if not _CODE.fullmatch(code):
        raise Unfit(f"a type {code[:40]!r}")
    if call.pairs or call.elements or (call.states and len(call.states) != 1):
        raise Unfit("no state")
    if not call.states:
        return np.dtype(code)
    # Fields are a dictionary, which is filled later: its nodes are looked at instead.
    state = of_type(call.states[0], tuple)
    if not 8 <= len(state) <= 9:
        raise Unfit("a state of another kind")
    order = yield state[1]
    if order not in _ORDERS:
        raise Unfit("no byte order")
    if state[2] is not None:
        return (yield from _subarray(state[2]))
    if state[3] is not None:
        return (yield from _structured(rebuilder, state))
    dtype = np.dtype(code)
    if code[0] in "mM" and len(state) == 9:
        dtype = np.dtype(f"{code}{(yield from _unit(state[8]))}")
    if dtype.kind in "SUV" and int(code[1:]) * (4 if code[0] == "U" else 1) != dtype.itemsize:
        raise Unfit("a size that is none")
    return dtype if order in ("|", "=") else dtype.newbyteorder(order)


def _subarray(node: Any) -> Steps:
    """A type of items that are arrays themselves."""
    base, shape = yield from each(of_type(node, tuple))
    shape = shape_of(shape)
    if math.prod(shape) * of_type_dtype(base).itemsize > 2**31 - 1:
        raise Unfit("items of more than 2 GB")
    return np.dtype((base, shape))


def _structured(rebuilder: Rebuilder, state: tuple[Any, ...]) -> Steps:
    """A type with fields: names, and where each lies."""
    names = yield state[3]
    table = list(state[4]) if isinstance(state[4], list) else []
    fields: dict[str, tuple[Any, ...]] = {}
    if type(names) is not tuple or not all(type(name) is str for name in names):
        raise Unfit("fields without names")
    if len(table) > 4 * _MOST_FIELDS or len(names) > _MOST_FIELDS:
        raise Unfit("too many fields")
    # More than they take: one list of fields may go into many types, and each takes its time.
    rebuilder.budget.charge(_FIELD_BYTES * (len(names) + len(table)))
    for name, node in zip(table[::2], table[1::2], strict=True):
        described = yield node
        if type(name) is str and name in names:
            fields[name] = of_type(described, tuple)
    if any(name not in fields for name in names):
        raise Unfit("a name without a field")
    parts = [fields[name] for name in names]
    itemsize, alignment = yield from each(state[5:7])
    layout: dict[str, Any] = {
        "names": list(names),
        "formats": [of_type_dtype(part[0]) for part in parts],
        "offsets": [natural(part[1]) for part in parts],
        "itemsize": natural(itemsize),
    }
    if any(dtype.hasobject for dtype in layout["formats"]):
        raise Unfit("a type with objects in its fields")
    if any(len(part) > 2 for part in parts):
        layout["titles"] = [
            of_type(part[2], str, type(None)) if len(part) > 2 else None for part in parts
        ]
    ends = [
        offset + dtype.itemsize
        for offset, dtype in zip(layout["offsets"], layout["formats"], strict=True)
    ]
    if max(ends, default=0) > itemsize:
        raise Unfit("a field outside its item")
    is_aligned = type(alignment) is int and alignment > 1
    return np.dtype(layout, align=is_aligned)  # type: ignore[call-overload]


def _unit(node: Any) -> Steps:
    """The unit of a moment or duration, such as `[ns]`."""
    metadata = of_type(node, tuple)
    unit = yield metadata[-1]
    name = unit[0].decode() if type(unit[0]) is bytes else of_type(unit[0], str)
    if not _UNIT.fullmatch(name):
        raise Unfit("no unit")
    count = natural(unit[1])
    return "" if name == "generic" else f"[{count}{name}]" if count != 1 else f"[{name}]"


# --------------------------------------------------------------------------- generators


def _bit_generator(rebuilder: Rebuilder, call: Call) -> Any:
    """`__bit_generator_ctor(name)` and a state: a record of the state as numpy gives it."""
    given = nodes(call, 0, 1)
    fields: dict[str, Any] = {}
    cls = given[0] if given else "MT19937"
    name = short(cls) if type(cls) is str else of_type(cls, Global).name
    label = f"numpy.random._{name.lower()}:{name}"
    return rebuilder.shell(call, Record(label, fields), _fill_bits(fields, call))


def _fill_bits(fields: dict[str, Any], call: Call) -> Steps:
    state = call.states[0] if call.states else None
    if type(state) is tuple and len(state) == 2:  # numpy 2 adds the seed that children come from
        fields["seed"] = yield state[1]
        state = state[0]
    fields["state"] = yield state


def _generator(label: str) -> Builder:
    """`__generator_ctor(bits)`, `__randomstate_ctor(bits)`: a record with its bit generator."""

    def build(rebuilder: Rebuilder, call: Call) -> Any:
        given = nodes(call, 0, 2)
        fields: dict[str, Any] = {}
        return rebuilder.shell(call, Record(label, fields), _fill_generator(fields, call, given))

    return build


def _fill_generator(fields: dict[str, Any], call: Call, given: tuple[Any, ...]) -> Steps:
    if given:
        fields["bit_generator"] = yield given[0]
    if call.states and call.states[0] is not None:
        fields["state"] = yield call.states[0]


BUILDERS: dict[str, Builder] = {
    "numpy.core.multiarray:_reconstruct": _reconstruct,
    "numpy.core.numeric:_frombuffer": _frombuffer,
    "numpy.core.multiarray:scalar": _scalar,
    "numpy:dtype": _dtype,
    "numpy.random._pickle:__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle:__generator_ctor": _generator("numpy.random._generator:Generator"),
    "numpy.random._pickle:__randomstate_ctor": _generator("numpy.random.mtrand:RandomState"),
}
"""What each name of numpy is rebuilt by; `rebuilding.canonical` knows numpy 2's spelling."""

"""Values of Stable-Baselines3 as its files pickle them, from what was read and from checkpoints.

Classes of SB3, its contrib, `torch.nn` and `torch.optim` are written by name, as SB3 writes them.
Anything else that has only a name is refused: written, it would be imported by who opens the file.
Source: SB3 2.9, `common/save_util.py`, `common/utils.py`, `common/type_aliases.py`.
"""

from __future__ import annotations

import base64
import collections
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rekindle import spaces
from rekindle.formats import known_objects
from rekindle.formats.schedules import Constant, Linear
from rekindle.pickles import writing
from rekindle.pickles.records import Recorded, RecordedClass, RecordedFunction
from rekindle.pickles.writing import Called, Name
from rekindle.state import Record, Reference

SERIALIZED = ":serialized:"
_TYPE = ":type:"
_UTILS = "stable_baselines3.common.utils"
_OWN = re.compile(r"(stable_baselines3|sb3_contrib)(\.[a-z_0-9]+)*:[A-Z]\w*", re.ASCII)
_CLASSES = re.compile(r"torch\.(nn|optim)(\.[a-z_0-9]+)*:[A-Z]\w*", re.ASCII)
_ENUMERATIONS = ("TrainFrequencyUnit", "GoalSelectionStrategy")
_FREQUENCY = "stable_baselines3.common.type_aliases:TrainFreq"
_ARRAY = "numpy._core.multiarray:_reconstruct"
_OBJECTS = Called(Name("numpy:dtype"), ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
_LONGEST = 1000
PROTOCOL = 4


def is_class(label: str) -> bool:
    """Whether a label is that of a class that SB3's files may name."""
    return bool(_OWN.fullmatch(label) or _CLASSES.fullmatch(label))


def known(value: Any) -> Any:
    """What to write for an object or class of SB3's, or of what `known_objects` knows."""
    if isinstance(value, Constant):
        return _made("ConstantSchedule", {"val": value.value})
    if isinstance(value, Linear):
        return _made("LinearSchedule", vars(value))
    if isinstance(value, Reference) and is_class(value):
        return Name(str(value))
    if isinstance(value, Record) and _OWN.fullmatch(value.label):
        return _object(value)
    return known_objects.known(value)


def _object(record: Record) -> Any:
    """An object of a class of SB3's: enumerations and named tuples are made by their values."""
    if isinstance(record, (RecordedClass, RecordedFunction)):
        return None
    name = Name(record.label)
    called = record.arguments if isinstance(record, Recorded) else ()
    if record.label.endswith(_ENUMERATIONS):
        return Called(name, called or (record["value"],))
    if record.label == _FREQUENCY:
        return Called(name, called or (record["frequency"], record["unit"]), is_new=True)
    if isinstance(record, Recorded):
        others = (record.arguments, record.keywords, record.state, record.pairs, record.elements)
        if not record.is_object or any(others):
            return None
    return Called(name, (), dict(record), is_new=True)


def _made(cls: str, fields: Mapping[str, Any]) -> Called:
    return Called(Name(f"{_UTILS}:{cls}"), (), dict(fields), is_new=True)


def schedule(value: Any) -> Any:
    """A schedule as `FloatSchedule` wraps it, which most of SB3's attributes are."""
    return _made("FloatSchedule", {"value_schedule": value})


def resolve(array: np.ndarray[Any, Any]) -> Any:
    """An array of Python objects by what it holds; others as they are."""
    if array.dtype.hasobject and array.dtype.names is None:
        state = (1, tuple(array.shape), _OBJECTS, False, list(array.reshape(-1)))
        return Called(Name(_ARRAY), (Name("numpy:ndarray"), (0,), b"b"), state)
    return array


def space(value: Any) -> Any:
    """A space as SB3's files hold it, where a checkpoint of Rekindle describes one."""
    if not isinstance(value, Mapping) or set(value) != {"description", "generators"}:
        return value
    live = spaces.build(value["description"])
    for path, part in spaces.subspaces(live):
        state = value["generators"].get(path)
        if state is not None:
            bits = state["bit_generator"]
            vars(part)["_np_random"] = known_objects.generator(bits["bit_generator"], bits)
    return live


def pickled(value: Any, key: str, name: str) -> list[writing.Part]:
    """A value as a pickle, in pieces.

    Raises:
        UnsupportedError: It lists what has no place in a file of SB3's, by path.
    """
    return writing.parts(value, resolve=resolve, known=known, protocol=PROTOCOL, key=key, name=name)


def entry(value: Any, key: str, name: str) -> Any:
    """A value as an entry of `data`: JSON, or a pickle of it with its attributes as text beside."""
    if _is_json(value):
        return value
    data = b"".join(
        part if isinstance(part, bytes) else part.tobytes() for part in pickled(value, key, name)
    )
    about = value.label.replace(":", ".") if isinstance(value, Record) else type(value).__name__
    found: dict[str, Any] = {
        _TYPE: f"<class '{about}'>",
        SERIALIZED: base64.b64encode(data).decode(),
    }
    for field, part in value.items() if isinstance(value, Mapping) else ():
        found.setdefault(str(field), part if _is_json(part) else str(part)[:_LONGEST])
    return found


def _is_json(value: Any) -> bool:
    """Whether `json` writes it, and reads the same again but for tuples, as SB3 itself does."""
    kind = type(value)
    if value is None or isinstance(value, (bool, int, float)) or kind is str:
        return True
    if kind in (list, tuple):
        return all(map(_is_json, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    return False


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in every bit, of the same types, and in the same circles."""
    pending, met = [(one, other)], set[tuple[int, int]]()
    keep: list[Any] = []  # what is made here must not give its address to another
    while pending:
        a, b = pending.pop()
        if a is b or (id(a), id(b)) in met:
            continue
        if type(a) is not type(b):
            return False
        if isinstance(a, Record):
            parts = [(a.label, b.label), (dict(a), dict(b))]
            if isinstance(a, Recorded):
                parts += [(getattr(a, slot), getattr(b, slot)) for slot in Recorded.__slots__]
        elif isinstance(a, Mapping):
            parts = [(list(a), list(b)), (list(a.values()), list(b.values()))]
        elif isinstance(a, (list, tuple, collections.deque)):
            if len(a) != len(b):
                return False
            parts = list(zip(a, b, strict=True))
        elif isinstance(a, np.ndarray) and a.dtype.hasobject:
            parts = [(a.shape, b.shape), (list(a.flat), list(b.flat))]
        elif isinstance(a, (np.ndarray, np.generic)):
            if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
                return False
            continue
        elif a == b or (a != a and b != b):
            continue
        else:
            return False
        met.add((id(a), id(b)))
        pending += parts
        keep.append(parts)
    return True


def dumps(entries: Mapping[str, Any]) -> bytes:
    """The member `data`."""
    return json.dumps(dict(entries), indent=4).encode()

"""Objects that are written into a pickle by name: data of Gymnasium, numpy and torch.

What a foreign file names is not written again, or it would run where the next file is opened. The
classes here are known: making one of them with these attributes runs nothing of the file's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rekindle.pickles.records import Recorded
from rekindle.pickles.writing import Called, Name
from rekindle.state import Record, Reference

_SPACE = re.compile(r"gym(nasium)?\.spaces\.([a-z_]+):([A-Z]\w*)", re.ASCII)
_SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text", "Dict", "Tuple", "Sequence",
           "Graph", "OneOf")  # fmt: skip
_NUMBER = re.compile(r"numpy:(bool_?|u?int(8|16|32|64)|float(16|32|64)|complex(64|128))")
_NAMES = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_BITS = re.compile(rf"numpy\.random\._\w+:({'|'.join(_NAMES)})", re.ASCII)
_SEQUENCE = "numpy.random.bit_generator:SeedSequence"
_MAKE_SEQUENCE = "numpy.random.bit_generator:__pyx_unpickle_SeedSequence"
_GENERATORS = {
    "numpy.random._generator:Generator": "__generator_ctor",
    "numpy.random.mtrand:RandomState": "__randomstate_ctor",
}


def known(value: Any) -> Any:
    """What to write for an object of a known class; None for others."""
    if isinstance(value, Reference):
        is_known = _NUMBER.fullmatch(value) or value == _SEQUENCE
        return Name(str(value)) if is_known else None
    if not isinstance(value, Record):
        return _live_space(value)
    if space_name(value) is not None:
        return _space(value)
    if value.label in _GENERATORS:
        # Its bit generator; or the name of one, as numpy 1 has it, whose state is the generator's.
        bits = value.get("bit_generator")
        made = Called(_pickle(_GENERATORS[value.label]), (bits,), value.get("state"))
        is_known = isinstance(bits, Record) or (type(bits) is str and bits in _NAMES)
        return made if is_known else None
    match = _BITS.fullmatch(value.label)
    if match is not None and "state" in value:
        state = value["state"]
        return bit_generator(match[1], (state, value["seed"]) if "seed" in value else state)
    if value.label == "torch:device" and isinstance(value.get("name"), str):
        return device(value["name"])
    if isinstance(value, Recorded) and value.label == _MAKE_SEQUENCE:
        is_plain = value.arguments[:1] == (_SEQUENCE,) and len(value.arguments) == 3
        return Called(Name(value.label), value.arguments, value.state) if is_plain else None
    return None


def space_name(record: Any) -> str | None:
    """The name of the class of a space of Gymnasium's, or of Gym's; None for anything else."""
    match = _SPACE.fullmatch(record.label) if isinstance(record, Record) else None
    if match is None or match[3] not in _SPACES or match[2] != _module(match[3]):
        return None
    return match[3]


def _module(cls: str) -> str:
    special = {"MultiDiscrete": "multi_discrete", "MultiBinary": "multi_binary"}
    return special.get(cls, cls.lower())


def space(cls: str, attributes: Mapping[str, Any]) -> Called:
    """A space of a class of Gymnasium's with these attributes."""
    return Called(Name(f"gymnasium.spaces.{_module(cls)}:{cls}"), (), dict(attributes), is_new=True)


def _live_space(value: Any) -> Called | None:
    cls = type(value)
    is_own = cls.__name__ in _SPACES and cls.__module__.startswith("gymnasium.spaces.")
    return space(cls.__name__, vars(value)) if is_own else None


def _space(record: Record) -> Called:
    name = space_name(record)
    assert name is not None
    return space(name, record)


def bit_generator(name: str, state: Any) -> Called:
    """A bit generator of numpy in this state."""
    return Called(_pickle("__bit_generator_ctor"), (name,), state)


def generator(name: str, state: Any) -> Called:
    """A generator of numpy over a bit generator in this state."""
    return Called(_pickle("__generator_ctor"), (bit_generator(name, state),))


def device(name: str) -> Called:
    """A device of torch."""
    return Called(Name("torch:device"), (name,))


def tensor(array: np.ndarray[Any, Any], dtype: str) -> Called:
    """A tensor of torch that stands inside a plain pickle."""
    given = (array, Name(f"torch:{dtype}"), "cpu", False)
    return Called(Name("torch._utils:_rebuild_device_tensor_from_numpy"), given)


def _pickle(name: str) -> Name:
    return Name(f"numpy.random._pickle:{name}")

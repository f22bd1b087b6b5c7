"""Live objects filled with what they shall hold, past the code of their own classes."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np

from rekindle.graph import slots_of


def refill(live: Any, items: Any) -> None:
    """Put items into a container, or an object of a class that derives from one.

    Past the methods of its own class, whose code is the program's.
    """
    if isinstance(live, collections.OrderedDict):
        collections.OrderedDict.clear(live)
        for key, value in items.items():
            collections.OrderedDict.__setitem__(live, key, value)
    elif isinstance(live, dict):
        dict.clear(live)
        dict.update(live, items)
    elif isinstance(live, BaseException):
        live.args = items
    else:
        for base, add in _ADDERS.items():
            if isinstance(live, base):
                base.clear(live)
                add(live, items)
    if isinstance(live, collections.defaultdict) and isinstance(items, collections.defaultdict):
        live.default_factory = items.default_factory


_ADDERS: dict[Any, Callable[[Any, Any], None]] = {
    list: list.extend,
    set: set.update,
    collections.deque: collections.deque.extend,
    bytearray: bytearray.extend,
}


def refill_array(live: np.ndarray[Any, Any], items: list[Any]) -> None:
    """Put items into an array of objects."""
    flat = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        flat[index] = item
    live[...] = flat.reshape(live.shape)


def can_have(live: Any, name: str) -> bool:
    """Whether an object has a place for an attribute of a name."""
    return hasattr(live, "__dict__") or any(slot == name for slot, _ in slots_of(type(live)))


def set_attribute(live: Any, name: str, value: Any) -> None:
    """Set an attribute without running any code of the object's class."""
    for slot, member in slots_of(type(live)):
        if slot == name:
            member.__set__(live, value)
            return
    live.__dict__[name] = value

"""Plain data put into live objects, in place: the way back for files of other libraries.

Two passes, as for our own files: the first compares and collects every difference, the second
changes the live objects. What such a file does not tell of stays as it is.
"""

from __future__ import annotations

import collections
import functools
import numbers
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import paths, registry, spaces
from rekindle.errors import Difference, UnsupportedError
from rekindle.formats import equinox_leaves, inert, recorded_spaces
from rekindle.formats.protocol import Reading
from rekindle.graph import attributes_of, join
from rekindle.match import set_attribute
from rekindle.pickles.records import Recorded
from rekindle.registry import label
from rekindle.state import Record
from rekindle.tensors import Tensor, Tensors

RECEIVERS: dict[str, str] = {
    # Written as: class of the live object -> module:function that fits plain data to it.
    "torch.nn.modules.module.Module": "rekindle.adapters.torch_fitting:fit_module",
    "torch.optim.optimizer.Optimizer": "rekindle.adapters.torch_fitting:fit_optimizer",
    "torch.Tensor": "rekindle.adapters.torch_fitting:fit_tensor",
    "torch._C.Generator": "rekindle.adapters.torch_fitting:fit_generator",
    "torch.device": "rekindle.adapters.torch_fitting:fit_device",
}
_UNNAMED = ("equinox", "lerax")
_CANNOT: Any = object()
"""Stands for a value that cannot be put where it belongs; a difference says why."""


class Fit:
    """One restore of plain data.

    Args:
        tensors: Which arrays of the data were tensors.
        skip: Patterns of paths that are left as they are.
    """

    def __init__(self, tensors: Tensors, skip: Iterable[str] = ()) -> None:
        self._tensors = tensors
        self._skip = tuple(skip)
        self._actions: list[Callable[[], None]] = []
        self._met: dict[int, Any] = {}
        self.differences: list[Difference] = []
        self.notes: list[str] = []

    def component(self, name: str, value: Any, live: Any) -> None:
        """First pass over one component."""
        outcome = self.value(value, live, name)
        if outcome is not live and outcome is not _CANNOT and not self.is_skipped(name):
            self.differ(
                name,
                f"an object that can be changed in place, of {describe(value)}",
                f"{describe(live)}, which cannot be. Restore an object that holds it",
            )

    def apply(self) -> None:
        """Second pass: change the live objects."""
        for action in self._actions:
            action()

    # ------------------------------------------------------------------ for receivers

    def differ(self, path: str, expected: str, found: str) -> None:
        """Note a mismatch between the file (`expected`) and the live object (`found`)."""
        self.differences.append(Difference(path, expected, found))

    def later(self, action: Callable[[], None]) -> None:
        """Do something in the second pass."""
        self._actions.append(action)

    def is_skipped(self, path: str) -> bool:
        """Whether the caller asked for a place to be left as it is."""
        return any(paths.matches(pattern, path) for pattern in self._skip)

    def tensor(self, array: Any) -> Tensor | None:
        """The tensor that an array stands for."""
        return self._tensors.of(array)

    def value(self, value: Any, live: Any, path: str) -> Any:
        """What will stand for a live value: itself, changed later, or a plain value instead of it.

        Args:
            value: What the file holds.
            live: What is there.
            path: Where.
        """
        if self.is_skipped(path):
            return live
        receiver = _receiver(type(live))
        if receiver is not None:
            return receiver(self, value, live, path)
        described = recorded_spaces.describe(value) if isinstance(value, Recorded) else None
        if described is not None and hasattr(live, "sample"):
            for difference in spaces.differences(described, spaces.describe(live), path):
                self.differences.append(difference)
            return live
        if isinstance(live, np.ndarray):
            return self._array(value, live, path)
        if isinstance(live, dict) and isinstance(value, Mapping):
            return self._dictionary(value, live, path)
        if isinstance(live, list) and isinstance(value, (list, tuple, collections.deque)):
            return self._list(value, live, path)
        if isinstance(value, Mapping) and _is_object(live):
            return self._object(value, live, path)
        return self._plain(value, live, path)

    # ------------------------------------------------------------------ plain values

    def _array(self, value: Any, live: np.ndarray[Any, Any], path: str) -> Any:
        if not isinstance(value, (np.ndarray, np.generic, int, float)) or live.dtype.hasobject:
            self.differ(path, describe(value), describe(live))
            return _CANNOT
        array = np.asarray(value)
        is_number = not isinstance(value, (np.ndarray, np.generic)) and live.shape == ()
        if live.size == 0 and isinstance(value, np.ndarray) and array.size:
            return array.copy()  # nothing was there yet
        if array.shape != live.shape or (array.dtype != live.dtype and not is_number):
            self.differ(path, describe(array), describe(live))
            return _CANNOT
        if not live.flags.writeable:
            self.differ(path, describe(array), f"{describe(live)} that is read-only")
            return _CANNOT
        self.later(functools.partial(np.copyto, live, array))
        return live

    def _dictionary(self, value: Mapping[Any, Any], live: dict[Any, Any], path: str) -> Any:
        if id(live) in self._met:
            return live
        self._met[id(live)] = live
        outcomes: dict[Any, Any] = {}
        for key, part in value.items():
            where = join(path, str(key))
            found = self.value(part, live[key], where) if key in live else self._new(part, where)
            if found is not _CANNOT:
                outcomes[key] = found
        kept = {key: live[key] for key in live if self.is_skipped(join(path, str(key)))}

        def fill() -> None:
            live.clear()
            live.update(kept | outcomes)

        self.later(fill)
        return live

    def _list(self, value: Iterable[Any], live: list[Any], path: str) -> Any:
        if id(live) in self._met:
            return live
        self._met[id(live)] = live
        outcomes = []
        for index, part in enumerate(value):
            where = join(path, str(index))
            is_there = index < len(live)
            found = self.value(part, live[index], where) if is_there else self._new(part, where)
            outcomes.append(live[index] if found is _CANNOT and is_there else found)

        def fill() -> None:
            live[:] = [item for item in outcomes if item is not _CANNOT]

        self.later(fill)
        return live

    def _object(self, value: Mapping[str, Any], live: Any, path: str) -> Any:
        """Attributes of an object; those that the file does not tell of stay."""
        if id(live) in self._met:
            return live
        self._met[id(live)] = live
        attributes = attributes_of(live)
        for key, part in value.items():
            where = join(path, str(key))
            if key not in attributes:
                if not self.is_skipped(where):
                    self.differ(where, f"an attribute for {describe(part)}", "no such attribute")
                continue
            found = self.value(part, attributes[key], where)
            if found is not attributes[key] and found is not _CANNOT:
                self.later(functools.partial(set_attribute, live, key, found))
        return live

    def _plain(self, value: Any, live: Any, path: str) -> Any:
        if isinstance(value, Record) or not _is_alike(value, live):
            self.differ(path, describe(value), describe(live))
            return _CANNOT
        return self._new(value, path)

    def _new(self, value: Any, path: str) -> Any:
        """A copy of some data, where nothing is there yet."""
        if self.is_skipped(path):
            return _CANNOT
        records = [] if not _holds(value) else list(inert.places(value, path))
        for where, record in records:
            self.differ(where, describe(record), "nothing of its kind")
        return _CANNOT if records else paths.copied(value, lambda array, _: array.copy())


def into(path: Path, reading: Reading, component: str, like: Any) -> Any:
    """A component of leaves without names as a tree of the structure of another.

    Raises:
        MismatchError: A leaf differs; the error lists each.
        UnsupportedError: The format gives names: then there is a live object to restore into.
    """
    if reading.format not in _UNNAMED:
        raise UnsupportedError(
            f"{path}: expected a file of leaves without names ({' or '.join(_UNNAMED)}), found one "
            f"of {reading.format}. Use rekindle.restore(path, {component}=...).",
            path=path,
            key=component,
        )
    return equinox_leaves.filled(reading, like)


def describe(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, Recorded):
        return inert.describe(value)
    if isinstance(value, Record):
        return f"an object of class {value.label}, as a record"
    if isinstance(value, np.ndarray):
        dtype = value.dtype.names[0] if value.dtype.names else value.dtype
        return f"an array {dtype} of shape {value.shape}"
    if value is None or isinstance(value, (bool, numbers.Number, str)):
        text = repr(value)
        return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
    return f"an object of class {label(type(value))}"


def _receiver(cls: type) -> Callable[[Fit, Any, Any, str], Any] | None:
    for base in cls.__mro__:
        target = RECEIVERS.get(f"{base.__module__}.{base.__qualname__}")
        if target is not None:
            return registry.load(target)
    return None


def _is_object(live: Any) -> bool:
    return hasattr(live, "__dict__") and not isinstance(live, (type, dict, list, tuple))


def _is_alike(value: Any, live: Any) -> bool:
    """Whether a plain value may take the place of another."""
    if live is None or value is None or type(value) is type(live):
        return True
    is_number = [isinstance(item, (numbers.Number, np.generic)) for item in (value, live)]
    return all(is_number) or (
        isinstance(value, (list, tuple)) and isinstance(live, (list, tuple, collections.deque))
    )


def _holds(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple, np.ndarray, collections.deque))

"""Plain data written by `torch.save`: arrays that were tensors become tensors again.

Only what every reader can open without trusting the file is written: numbers, text, containers,
arrays, tensors, and Gymnasium's spaces. A record of an object that a foreign file told of is
refused: writing it would carry on what that file makes others run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files, spaces
from rekindle.codecs import dtypes
from rekindle.errors import MissingDependencyError, UnsupportedError
from rekindle.formats import recorded_spaces
from rekindle.state import Record, Reference
from rekindle.tensors import Tensors

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_DEEPEST = 200


def save(value: Any, path: Path, tensors: Tensors) -> None:
    """Write a value as one file of torch, whole or not at all.

    Args:
        value: Plain data.
        path: The file; its directory is made if it is missing.
        tensors: Which of the arrays are tensors. All are in what stands under a key that ends in
            `state_dict` or `optimizer`.

    Raises:
        UnsupportedError: It lists every value that is no plain data.
        AlreadyExistsError: Something is at the path.
        MissingDependencyError: torch is not installed; or Gymnasium, for a space.
    """
    torch = _torch(path)
    making = _Making(torch, tensors)
    made = making.value(value, "", False, 0)
    if making.refusals:
        shown = "; ".join(f"{key}: {reason}" for key, reason in making.refusals[:20])
        raise UnsupportedError(
            f"{path}: expected plain data, arrays and spaces, found {shown}. Replace these values, "
            "or leave them out.",
            path=path,
            key=making.refusals[0][0],
            refusals=making.refusals,
        )
    with files.new_file(path) as temporary:
        torch.save(made, temporary)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: expected the package 'torch', which writes this file, found none. Install it "
            "with `pip install rekindle[torch]`.",
            path=path,
        ) from error
    return torch


class _Making:
    """Values on their way to what `torch.save` takes; what was met twice is made once."""

    def __init__(self, torch: Any, tensors: Tensors) -> None:
        self._torch = torch
        self._tensors = tensors
        self._made: dict[int, Any] = {}
        self._making: set[int] = set()
        self.refusals: list[tuple[str, str]] = []

    def value(self, value: Any, path: str, is_state: bool, depth: int) -> Any:
        """What is saved for a value."""
        if isinstance(value, Reference):
            return self._refuse(path, f"the name {value!r} of code")
        if isinstance(value, _PLAIN):
            return value
        if depth > _DEEPEST:
            return self._refuse(path[:200], "values nested too deep")
        if id(value) in self._making:
            return self._refuse(path[:200], "a value that holds itself")
        if id(value) not in self._made:
            self._making.add(id(value))
            self._made[id(value)] = self._make(value, path, is_state, depth + 1)
            self._making.remove(id(value))
        return self._made[id(value)]

    def _make(self, value: Any, path: str, is_state: bool, depth: int) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value, path, is_state)
        if isinstance(value, Record):
            described = recorded_spaces.describe(value)
            if described is None:
                return self._refuse(path, f"a record of {value.label[:200]}")
            return spaces.build(described)
        if isinstance(value, Mapping):
            made = OrderedDict() if isinstance(value, OrderedDict) else dict[Any, Any]()
            for key, part in value.items():
                inner = f"{path}.{str(key)[:80]}".lstrip(".")
                is_inner = is_state or str(key).endswith(("state_dict", "optimizer"))
                made[key] = self.value(part, inner, is_inner, depth)
            return made
        if type(value) in (list, tuple, set, frozenset):
            parts = [
                self.value(part, f"{path}[{index}]", is_state, depth)
                for index, part in enumerate(value)
            ]
            return type(value)(parts)
        return self._refuse(path, f"a {type(value).__name__}")

    def _array(self, array: np.ndarray[Any, Any], path: str, is_state: bool) -> Any:
        tensor = self._tensors.of(array)
        name = array.dtype.name if array.dtype.names is None else array.dtype.names[0]
        if tensor is not None and tensor.dtype != name and array.dtype.kind != "V":
            name = tensor.dtype
        if tensor is None and not is_state:
            if array.dtype.hasobject:
                return self._refuse(path, "an array of Python objects")
            return array
        dtype = getattr(self._torch, name, None)
        if not isinstance(dtype, self._torch.dtype):
            return self._refuse(path, f"an array of {name}, which torch does not have")
        plain = np.ascontiguousarray(array).reshape(array.shape)
        if name in dtypes.EXTENDED:
            return self._from_numpy(plain.view(dtypes.EXTENDED[name])).view(dtype)
        return self._from_numpy(plain.astype(plain.dtype.newbyteorder("="), copy=False))

    def _from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        # A copy: torch writes whole storages, and a view of a file is a small part of one.
        return self._torch.from_numpy(array.copy())

    def _refuse(self, path: str, reason: str) -> None:
        self.refusals.append((path, reason))

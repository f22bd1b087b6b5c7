"""Whether what was read from a pickle is what was written into it."""

from __future__ import annotations

import collections
import pathlib
import struct
from typing import Any

import numpy as np


def same(expected: Any, found: Any) -> bool:
    """Equal in value and type, bit for bit, through containers; paths may have become pure."""
    if isinstance(expected, np.generic):
        is_equal = type(expected) is type(found) and expected.dtype == found.dtype
        return is_equal and expected.tobytes() == found.tobytes()
    if isinstance(expected, float):
        return type(found) is float and struct.pack("d", expected) == struct.pack("d", found)
    if isinstance(expected, complex):
        return same(expected.real, found.real) and same(expected.imag, found.imag)
    if isinstance(expected, pathlib.PurePath):
        return isinstance(found, pathlib.PurePath) and str(expected) == str(found)
    if type(expected) is not type(found):
        return False
    if isinstance(expected, np.ndarray):
        return _same_array(expected, found)
    if isinstance(expected, (list, tuple, collections.deque)):
        is_equal = len(expected) == len(found)
        return is_equal and all(same(a, b) for a, b in zip(expected, found, strict=True))
    if isinstance(expected, dict):
        if len(expected) != len(found):
            return False
        pairs = zip(expected.items(), found.items(), strict=True)
        return all(same(a, b) for a, b in pairs)
    return expected == found


def _same_array(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> bool:
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return False
    if expected.dtype.hasobject:
        return all(same(a, b) for a, b in zip(expected.reshape(-1), found.reshape(-1), strict=True))
    is_fortran = expected.flags.f_contiguous and not expected.flags.c_contiguous
    return expected.tobytes() == found.tobytes() and is_fortran == (
        found.flags.f_contiguous and not found.flags.c_contiguous
    )

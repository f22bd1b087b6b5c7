"""Arrays that a format read, held against those that the library which wrote them had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def assert_same(
    path: Path, found: Callable[[str], np.ndarray], kinds: tuple[str, ...], least: int
) -> None:
    """Compare every array that was saved, bit for bit.

    Args:
        path: `expected.npz` of a case.
        found: Gives what was read for a name in it.
        kinds: How names begin of arrays that the case's files hold.
        least: There are more of them than this.
    """
    expected = np.load(path)
    names = [name for name in expected if name.startswith(kinds)]
    assert len(names) > least
    for name in names:
        array = found(name)
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), name

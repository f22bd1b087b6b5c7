"""numpy dtypes as data: the array-protocol string, or the layout of a structured one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from rekindle.errors import FormatError

_SIMPLE = re.compile(r"[<>|=]([biufc]\d{1,2}|[SUV]\d{1,9}|[mM]8(\[\d*[A-Za-zμ]{1,7}\])?)")


def describe(dtype: np.dtype[Any]) -> Any:
    """A dtype as JSON; `build` gives an equal one.

    Raises:
        TypeError: The dtype holds Python objects, or is not one of numpy's own.
    """
    if dtype.hasobject:
        raise TypeError("a dtype that holds Python objects")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": describe(base), "shape": list(shape)}
    if dtype.names is None:
        if not _SIMPLE.fullmatch(dtype.str):
            raise TypeError(f"dtype {dtype}, which is not one of numpy's own")
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names] if dtype.fields else []
    return {
        "names": list(dtype.names),
        "formats": [describe(field[0]) for field in fields],
        "offsets": [int(field[1]) for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def build(description: Any) -> np.dtype[Any]:
    """The dtype that a description stands for.

    Raises:
        FormatError: It is no description of a plain dtype.
    """
    try:
        return _build(description, 0)
    except FormatError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise _malformed(description) from error


def _build(description: Any, depth: int) -> np.dtype[Any]:
    if depth > 32:
        raise _malformed(description)
    if isinstance(description, str):
        if not _SIMPLE.fullmatch(description):
            raise _malformed(description)
        return np.dtype(description)
    if "base" in description:
        base = _build(description["base"], depth + 1)
        return np.dtype((base, tuple(int(n) for n in description["shape"])))
    layout = {
        "names": [str(name) for name in description["names"]],
        "formats": [_build(part, depth + 1) for part in description["formats"]],
        "offsets": [int(offset) for offset in description["offsets"]],
        "itemsize": int(description["itemsize"]),
        "titles": description["titles"],
    }
    if all(title is None for title in layout["titles"]):
        del layout["titles"]
    return np.dtype(layout, align=bool(description["aligned"]))  # type: ignore[call-overload]


def _malformed(description: Any) -> FormatError:
    return FormatError(f"expected the description of a plain dtype, found {str(description)[:80]}.")

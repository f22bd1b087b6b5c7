"""numpy dtypes as data: the array-protocol string, or the layout of a structured one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from rekindle.errors import FormatError

_SIMPLE = re.compile(r"[<>|=]([biufc]\d{1,2}|[SUV]\d{1,9}|[mM]8(\[\d*[A-Za-zμ]{1,7}\])?)")


EXTENDED = {
    "bfloat16": np.dtype("<u2"),
    **dict.fromkeys(
        (
            "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
            "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn",
            "int2", "int4", "uint2", "uint4",
        ),
        np.dtype("u1"),
    ),
}  # fmt: skip
"""Types that numpy lacks and `ml_dtypes` adds, with the numpy type that holds their bits."""


def extended(name: str) -> np.dtype[Any]:
    """A type of `EXTENDED`: `ml_dtypes`' own where installed, else a field of raw bits."""
    bits = EXTENDED[name]
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype([(name, bits)])
    found = getattr(ml_dtypes, name, None)
    return np.dtype([(name, bits)]) if found is None else np.dtype(found)


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
        if not _SIMPLE.fullmatch(dtype.str) or np.dtype(dtype.str) != dtype:
            raise TypeError(f"dtype {dtype}, which is not one of numpy's own")
        return dtype.str
    fields = _fields(dtype)
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if not all(title is None or isinstance(title, str) for title in titles):
        raise TypeError("a dtype whose titles are not text")
    return {
        "names": list(dtype.names),
        "formats": [describe(field[0]) for field in fields],
        "offsets": [int(field[1]) for field in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _fields(dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Each field in order: its dtype, its offset, and its title if it has one."""
    known: Any = dtype.fields or {}
    return [known[name] for name in dtype.names or ()]


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
    layout: dict[str, Any] = {
        "names": [str(name) for name in description["names"]],
        "formats": [_build(part, depth + 1) for part in description["formats"]],
        "offsets": [int(offset) for offset in description["offsets"]],
        "itemsize": int(description["itemsize"]),
        "titles": description["titles"],
    }
    if len({len(layout[key]) for key in ("names", "formats", "offsets", "titles")}) != 1:
        raise _malformed(description)
    if all(title is None for title in layout["titles"]):
        del layout["titles"]
    return np.dtype(layout, align=bool(description["aligned"]))  # type: ignore[call-overload]


def without_padding(value: np.ndarray[Any, Any] | np.generic) -> np.ndarray[Any, Any]:
    """The same values with zeros in the bytes that belong to none: equal values, equal bytes."""
    array = np.asarray(value)
    if not _has_padding(array.dtype):
        return array
    clean = np.zeros(array.shape, array.dtype)
    _copy_fields(array, clean)
    return clean


def _has_padding(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _has_padding(dtype.subdtype[0])
    if dtype.fields is None:
        return _is_extended(dtype)
    fields = [field[0] for field in _fields(dtype)]
    return sum(field.itemsize for field in fields) != dtype.itemsize or any(
        _has_padding(field) for field in fields
    )


def _is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether an item is a float of 80 bits, or a complex of two, in a wider place."""
    return dtype.type in (np.longdouble, np.clongdouble) and np.finfo(dtype).nmant == 63


def _copy_fields(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    dtype = source.dtype
    for name in dtype.names or ():
        _copy_fields(source[name], target[name])
    if _is_extended(dtype):
        width = np.dtype(np.longdouble).itemsize
        first = 0 if dtype.isnative else width - 10
        offsets = list(range(first, dtype.itemsize, width))
        names = [f"part{index}" for index in range(len(offsets))]
        parts = np.dtype({"names": names, "formats": ["V10"] * len(offsets),
                          "offsets": offsets, "itemsize": dtype.itemsize})  # fmt: skip
        for name in names:
            target.view(parts)[name] = source.view(parts)[name]
    elif dtype.names is None:
        target[...] = source


def _malformed(description: Any) -> FormatError:
    return FormatError(f"expected the description of a plain dtype, found {str(description)[:80]}.")

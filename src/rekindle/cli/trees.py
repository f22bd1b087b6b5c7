"""What `rekindle show` prints of any checkpoint: arrays, names with values, folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rekindle.report import num_bytes, plural

if TYPE_CHECKING:
    from rich.tree import Tree


def described(arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Arrays as plain data, in the order in which people count."""
    return [
        {
            "name": key,
            "dtype": _dtype(array.dtype),
            "shape": list(array.shape),
            "bytes": array.nbytes,
        }
        for key, array in sorted(arrays.items(), key=_natural)
    ]


def _natural(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Sorts `state.2` before `state.10`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", item[0])
    ]


def _dtype(dtype: np.dtype[Any]) -> str:
    """The name of a type; one that numpy lacks is held as a record with one field of its name."""
    names = dtype.names or ()
    return names[0] if len(names) == 1 else dtype.name


def add_arrays(branch: Tree, arrays: Sequence[Mapping[str, Any]], fold: int | None) -> None:
    """A line for each array, or for the first ones only."""
    from rich.text import Text

    rows = [
        (
            printable(array["name"]),
            array["dtype"],
            str(tuple(array["shape"])),
            num_bytes(array["bytes"]),
        )
        for array in arrays
    ]
    shown = rows if fold is None or len(rows) <= fold else rows[: fold - 1]
    widths = [max((len(row[i]) for row in shown), default=0) for i in range(4)]
    for label, dtype, shape, size in shown:
        branch.add(
            Text.assemble(
                label.ljust(widths[0]),
                (f"  {dtype.ljust(widths[1])}  {shape.ljust(widths[2])}", "green"),
                (f"  {size.rjust(widths[3])}", "dim"),
                no_wrap=True,
            )
        )
    if len(shown) < len(rows):
        rest = len(rows) - len(shown)
        branch.add(Text(f"... and {plural(rest, 'more array')} (--all shows them)", "dim"))


def add_pairs(tree: Tree, title: str, pairs: Mapping[str, Any], width: int) -> None:
    """A title, and names with their values in as many lines as they take."""
    from rich.text import Text

    if pairs:
        lines = lines_of(pairs, width - len(title) - 8)
        space = "\n" + " " * (len(title) + 2)
        tree.add(Text.assemble((title, "bold cyan"), "  ", space.join(lines)))


def lines_of(pairs: Mapping[str, Any], width: int) -> Iterator[str]:
    """Names and values in lines, broken between pairs only."""
    line = ""
    for key, value in pairs.items():
        pair = printable(f"{key} {_value(value)}")
        if line and len(line) + len(pair) + 3 > width:
            yield line
            line = ""
        line += f" · {pair}" if line else pair
    yield line


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def printable(text: str) -> str:
    """Text from a file without what could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""`rekindle show`: what a checkpoint holds, as a tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import rekindle as rk
from rekindle import spaces
from rekindle.cli.console import Json, open_console, print_json
from rekindle.report import num_bytes, plural

if TYPE_CHECKING:
    from rich.tree import Tree

FOLD = 8
"""A component with more arrays than this shows its first ones only."""


def show(
    path: Annotated[Path, typer.Argument(help="A checkpoint, or a run: its newest checkpoint.")],
    all_arrays: Annotated[bool, typer.Option("--all", help="Show every array.")] = False,
    json: Json = False,
) -> None:
    """Show a checkpoint: components, arrays, metrics, spaces, versions.

    Only headers are read; `rekindle verify` checks the bytes.
    """
    checkpoint = rk.open(path)
    found = {name: component(checkpoint, name) for name in checkpoint}
    if json:
        told = checkpoint.info | {"path": str(checkpoint.path), "bytes": checkpoint.num_bytes}
        told |= {"metrics": checkpoint.metrics, "counters": checkpoint.counters}
        print_json(told | {"components": found})
    else:
        _print(checkpoint, found, FOLD if not all_arrays else None)
    if any("damaged" in content for content in found.values()):
        raise typer.Exit(rk.DamagedError.exit_code)


def component(checkpoint: rk.Checkpoint, name: str) -> dict[str, Any]:
    """One component as plain data: who wrote it, its files, its arrays."""
    record = checkpoint.components[name]
    files = record.files
    size = sum(checkpoint.manifest.files[file].bytes for file in files)
    content: dict[str, Any] = {"adapter": record.adapter, "bytes": size, "files": files}
    try:
        arrays = checkpoint.arrays(name)
    except rk.RekindleError as error:
        return content | {"damaged": str(error)}
    return content | {
        "arrays": [
            {
                "name": key,
                "dtype": _dtype(array.dtype),
                "shape": list(array.shape),
                "bytes": array.nbytes,
            }
            for key, array in sorted(arrays.items(), key=_natural)
        ]
    }


def _natural(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Sorts `state.2` before `state.10`."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", item[0])
    ]


def _dtype(dtype: np.dtype[Any]) -> str:
    """The name of a type; one that numpy lacks is held as a record with one field of its name."""
    names = dtype.names or ()
    return names[0] if len(names) == 1 else dtype.name


def _print(checkpoint: rk.Checkpoint, found: Mapping[str, Any], fold: int | None) -> None:
    from rich.text import Text
    from rich.tree import Tree

    console = open_console()
    record = checkpoint.manifest
    facts = [f"step {record.step:,}", record.created, num_bytes(record.num_bytes)]
    if record.kind != "checkpoint":
        facts.insert(0, f"a {record.kind} bundle")
    if record.parent:
        facts.append(f"after {record.parent}")
    head = Text(str(checkpoint.path), "bold", overflow="ignore", no_wrap=True)
    tree = Tree(head, guide_style="dim")
    tree.add(Text(" · ".join(fact for fact in facts if fact), "dim"))
    for name, content in found.items():
        _add_component(tree, name, content, fold)
    for title, pairs in (
        ("metrics", checkpoint.metrics),
        ("counters", checkpoint.counters),
        ("spaces", {key: spaces.summary(space) for key, space in record.spaces.items()}),
        ("environment", record.environment),
    ):
        if pairs:
            lines = _lines(pairs, console.width - len(title) - 8)
            tree.add(
                Text.assemble(
                    (title, "bold cyan"), "  ", ("\n" + " " * (len(title) + 2)).join(lines)
                )
            )
    for title, lines in (("left out", record.excluded), ("note", record.notes)):
        for line in lines:
            tree.add(Text.assemble((title, "yellow"), f"  {line}"))
    console.print(tree)


def _add_component(tree: Tree, name: str, content: Mapping[str, Any], fold: int | None) -> None:
    from rich.text import Text

    facts = [content["adapter"]]
    if content.get("arrays"):
        facts.append(plural(len(content["arrays"]), "array"))
    facts.append(num_bytes(content["bytes"]))
    branch = tree.add(Text.assemble((name, "bold cyan"), (f"  {' · '.join(facts)}", "dim")))
    if "damaged" in content:
        branch.add(Text(f"damaged: {content['damaged']}", "red"))
        return
    rows = [
        (array["name"], array["dtype"], str(tuple(array["shape"])), num_bytes(array["bytes"]))
        for array in content["arrays"]
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


def _lines(pairs: Mapping[str, Any], width: int) -> Iterator[str]:
    """Names and values in lines, broken between pairs only."""
    line = ""
    for key, value in pairs.items():
        pair = f"{key} {_value(value)}"
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

"""`rekindle show`: what a checkpoint holds, as a tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import rekindle as rk
from rekindle import spaces
from rekindle.cli import foreign
from rekindle.cli.console import AsFormat, Json, open_console, print_json
from rekindle.cli.trees import add_arrays, add_pairs, described
from rekindle.report import num_bytes, plural

if TYPE_CHECKING:
    from rich.tree import Tree

FOLD = 8
"""A component with more arrays than this shows its first ones only."""


def show(
    path: Annotated[
        Path,
        typer.Argument(help="A checkpoint of any known format, or a run: its newest checkpoint."),
    ],
    all_arrays: Annotated[bool, typer.Option("--all", help="Show every array and value.")] = False,
    format: AsFormat = None,
    json: Json = False,
) -> None:
    """Show a checkpoint: components, arrays, metrics, spaces, versions.

    Files of other libraries are shown without running anything that they hold; values that only
    running code could make are shown as records. `rekindle verify` checks the bytes.
    """
    checkpoint = rk.open(path, format)
    if isinstance(checkpoint, rk.ForeignCheckpoint):
        foreign.show(checkpoint, None if all_arrays else FOLD, as_json=json)
        return
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
    return content | {"arrays": described(arrays)}


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
        add_pairs(tree, title, pairs, console.width)
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
    add_arrays(branch, content["arrays"], fold)

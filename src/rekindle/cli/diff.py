"""`rekindle diff`: what differs between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json

DIFFERENT = 1
"""Exit status where the two differ, as of `diff`."""
WIDEST_NAME = 44
"""Names of layers and values are set in a column of one width, up to this one."""


def diff(
    a: Annotated[Path, typer.Argument(help="A checkpoint of any format, or a run: its newest.")],
    b: Annotated[Path, typer.Argument(help="Another, of the same format or another one.")],
    all_rows: Annotated[bool, typer.Option("--all", help="Show every array and value.")] = False,
    format_a: Annotated[
        str | None,
        typer.Option("--format-a", help="The first one's format, where it could be of two."),
    ] = None,
    format_b: Annotated[
        str | None,
        typer.Option("--format-b", help="The second one's format, where it could be of two."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare two checkpoints: layers, optimizers, counters, spaces, versions.

    Exit 0 when both hold the same state, 1 when they differ. Distance is ||A - B|| / ||A||.
    """
    found = rk.diff(a, b, formats=(format_a, format_b))
    if json:
        print_json(found.to_dict())
    else:
        _print(found, everything=all_rows)
    if found:
        raise typer.Exit(DIFFERENT)


def _print(found: rk.Diff, *, everything: bool) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = open_console()
    for mark, side in (("A", found.first), ("B", found.second)):
        path, facts = side.path, str(side).removeprefix(side.path)
        console.print(
            Text.assemble((f"{mark}  ", "bold cyan"), (path, "bold"), (facts, "dim")),
            soft_wrap=True,
        )
    style = "green" if found.is_same else "yellow"
    console.print(Text(found.summary, style))
    sections = found.sections(everything=everything)
    widths = [
        max((len(row[index]) for part in sections for row in part.rows), default=0)
        for index in (0, 1)
    ]
    least = min(widths[0], WIDEST_NAME, console.width // 2), min(widths[1], console.width // 4)
    for section in sections:
        console.print()
        if section.title:
            console.print(Text.assemble((section.title, "bold cyan"), (f"  {section.note}", "dim")))
        if section.rows:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            for index, heading in enumerate(section.headings):
                is_figure = heading in ("distance", "largest", "equal")
                table.add_column(
                    Text(heading),
                    justify="right" if is_figure else "left",
                    no_wrap=is_figure,
                    overflow="fold",
                    min_width=least[index] if index < len(least) else None,
                )
            for row in section.rows:
                table.add_row(*map(Text, row))
            console.print(Padding(table, (0, 0, 0, 2), expand=False))
        for line in section.lines:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))

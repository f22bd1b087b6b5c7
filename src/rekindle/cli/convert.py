"""`rekindle convert`: a checkpoint of one format, written in another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json
from rekindle.formats.protocol import Kind
from rekindle.report import num_bytes, plural


def convert(
    src: Annotated[
        Path, typer.Argument(help="A checkpoint of any known format, or a run: its newest.")
    ],
    dst: Annotated[
        Path, typer.Argument(help="What to make; a Rekindle checkpoint as one file ends in .zip.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="The format to write: rekindle, sb3, velora, cogym, equinox, lerax, metta, "
            "metta.bundle, or a name of docs/formats.md.",
        ),
    ] = "rekindle",
    from_: Annotated[
        str | None,
        typer.Option("--from", help="The format to read, where the content could be of two."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Read a checkpoint of one format and write it in another, running nothing.

    Says what was carried and what the target cannot hold; exit 10, and nothing written, when the
    target would not load. What was converted to Rekindle converts back to the same values.
    """
    report = rk.convert(src, dst, to, format=from_, overwrite=overwrite)
    if json:
        print_json(report.to_dict())
    else:
        _print(report)


def _print(report: rk.ConversionReport) -> None:
    from rich.table import Table
    from rich.text import Text

    console = open_console()
    step = "" if report.step is None else f", step {report.step:,}"
    line = f"{report.path}: {report.format}, from {report.source} ({report.source_format}{step})"
    console.print(Text.assemble(("✓ ", "green"), line), soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in ("left", "right", "right"):
        table.add_column(justify=column, no_wrap=True)
    for part in report.carried:
        arrays = plural(part.num_arrays, "array")
        table.add_row(f"  {part.component}", arrays, num_bytes(part.num_bytes))
    if report.carried:
        console.print(table)
    for part in report.lost:
        text = Text.assemble(("  lost ", "yellow"), (part.key, "bold"), f": {part.reason}")
        console.print(text, soft_wrap=True)
    for note in report.notes:
        if note.kind is not Kind.INERT:
            console.print(Text.assemble((f"  {note.kind} ", "dim"), str(note)), soft_wrap=True)
    count = sum(note.kind is Kind.INERT for note in report.notes)
    if count:
        what = f"{plural(count, 'value')} that only running code could make, kept as records"
        console.print(Text.assemble(("  inert ", "dim"), f"{what}; --json lists them"))

"""`rekindle verify`: is every byte as it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import AsFormat, Json, open_console, print_json


def verify(
    path: Annotated[
        Path,
        typer.Argument(help="A checkpoint of any known format, or a run: all of its checkpoints."),
    ],
    format: AsFormat = None,
    json: Json = False,
) -> None:
    """Compare every byte with its digest; exit 7 when one differs.

    A file of another library is held against the checksums that it has. Exit 10 when nothing is
    damaged as far as can be seen, and some of it has no checksum.
    """
    report = rk.verify(path, format=format)
    if json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.differences:
        raise typer.Exit(rk.DamagedError.exit_code)
    if report.unchecked:
        raise typer.Exit(rk.UnsupportedError.exit_code)


def _print(report: rk.VerifyReport) -> None:
    from rich.text import Text

    console = open_console()
    summary, _, _ = str(report).partition("\n")
    mark, style = ("✓", "green") if report.ok else ("✗", "bold red")
    if report.unchecked and not report.differences:
        mark, style = "?", "bold yellow"
    console.print(Text.assemble((f"{mark} ", style), summary), soft_wrap=True)
    for difference in report.differences:
        console.print(Text(f"  {difference.key}", "bold"), soft_wrap=True)
        console.print(
            Text.assemble("    expected  ", (difference.expected, "green")), soft_wrap=True
        )
        console.print(Text.assemble("    found     ", (difference.found, "red")), soft_wrap=True)
    for name, reason in report.unchecked:
        console.print(Text.assemble((f"  {name}", "bold"), f": {reason}"), soft_wrap=True)

"""`rekindle verify`: is every byte as it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json


def verify(
    path: Annotated[Path, typer.Argument(help="A checkpoint, or a run: all of its checkpoints.")],
    json: Json = False,
) -> None:
    """Compare every byte with its digest; exit 7 when one differs."""
    report = rk.verify(path)
    if json:
        print_json(report.to_dict())
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(rk.DamagedError.exit_code)


def _print(report: rk.VerifyReport) -> None:
    from rich.text import Text

    console = open_console()
    summary, _, _ = str(report).partition("\n")
    mark, style = ("✓", "green") if report.ok else ("✗", "bold red")
    console.print(Text.assemble((f"{mark} ", style), summary), soft_wrap=True)
    for difference in report.differences:
        console.print(Text(f"  {difference.key}", "bold"), soft_wrap=True)
        console.print(
            Text.assemble("    expected  ", (difference.expected, "green")), soft_wrap=True
        )
        console.print(Text.assemble("    found     ", (difference.found, "red")), soft_wrap=True)

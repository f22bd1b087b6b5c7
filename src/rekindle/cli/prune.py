"""`rekindle prune`: delete checkpoints that nobody wants to keep."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json


class Mode(StrEnum):
    """Which values of a metric are good."""

    MAX = "max"
    MIN = "min"


def prune(
    run: Annotated[Path, typer.Argument(help="A run; it may be training.")],
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep the newest so many.")] = None,
    keep_best: Annotated[
        int | None, typer.Option(min=1, help="Keep so many with the best metric.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Which metric says what is best; return if left out.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Whether more or less is best.")] = Mode.MAX,
    every: Annotated[
        int | None, typer.Option(min=1, help="Keep the first from each multiple of so many steps.")
    ] = None,
    budget_gb: Annotated[
        float | None, typer.Option(help="Delete the oldest until the rest takes no more than that.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Delete the checkpoints that no rule keeps; the newest intact and the pinned always stay."""
    if keep_best is not None and metric is None:
        metric = "return"
    if (keep_last, keep_best, every, budget_gb) == (None, None, None, None):
        raise typer.BadParameter(
            "expected at least one of --keep-last, --keep-best, --every and --budget-gb, found none"
        )
    keep = rk.Keep(
        last=keep_last,
        best=keep_best,
        metric=metric,
        mode=mode.value,
        every=every,
        budget_gb=budget_gb,
    )
    report = rk.Run(run).prune(keep, dry_run=dry_run)
    if json:
        print_json(report.to_dict())
    else:
        _print(report)


def _print(report: rk.PruneReport) -> None:
    from rich.table import Table
    from rich.text import Text

    console = open_console()
    console.print(Text(report.path, "bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("why")
    for verdict in report.decision.verdicts:
        state = Text("stays", "green") if verdict.stays else Text("goes", "red")
        table.add_row(f"{verdict.step:,}", state, ", ".join(verdict.reasons))
    console.print(table)
    console.print(report.summary, soft_wrap=True)

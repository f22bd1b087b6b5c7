"""`rekindle migrate`: files of other libraries, and old ones of ours, made into present ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json
from rekindle.report import plural

if TYPE_CHECKING:
    from rekindle.migrating import Progress

FAILED = 1
"""Exit status when something could not be migrated."""


def migrate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH... [DEST]",
            help="Files or directories. Of two or more, the last is where the migrated ones go.",
        ),
    ],
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Migrate every PATH where it is; there is no DEST.")
    ] = False,
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Keep originals, as NAME.backup.")
    ] = True,
    json: Json = False,
) -> None:
    """Make checkpoints of any known format, or old ones, into present Rekindle checkpoints.

    A file becomes one file and a directory a directory, under the same name. Can be interrupted at
    any moment and begun again. Goes on with the rest where something fails; exit 1 then.
    """
    dest = None if in_place or len(paths) == 1 else paths.pop()
    reports: list[rk.MigrationReport] = []
    with _shown(as_json=json) as progress:
        for path in paths:
            inside = dest if dest is None or len(paths) == 1 else dest / path.name
            reports.append(rk.migrate(path, inside, backup, on_progress=progress))
    if json:
        print_json({"ok": all(reports), "reports": [report.to_dict() for report in reports]})
    else:
        for report in reports:
            _print(report)
    if not all(reports):
        raise typer.Exit(FAILED)


@contextmanager
def _shown(*, as_json: bool) -> Iterator[Progress | None]:
    """A bar on a terminal; nothing elsewhere."""
    console = open_console()
    if as_json or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("looking", total=None)

        def progress(done: int, total: int, path: Path) -> None:
            bars.update(task, completed=done, total=total, description=str(path))

        yield progress


def _print(report: rk.MigrationReport) -> None:
    from rich.text import Text

    console = open_console()
    for item in report.migrated:
        kept = "" if item.backup is None else f", original at {item.backup}"
        line = f"{item.path}: was {item.format}{kept}"
        console.print(Text.assemble(("✓ ", "green"), line), soft_wrap=True)
    for failure in report.failed:
        text = Text.assemble(("✗ ", "bold red"), (failure.path, "bold"), f": {failure.reason}")
        console.print(text, soft_wrap=True)
    counts = [f"{len(report.migrated):,} migrated", f"{len(report.current):,} current already"]
    if report.failed:
        counts.append(f"{len(report.failed):,} failed")
    if report.num_others:
        counts.append(f"{plural(report.num_others, 'other file')} left alone")
    console.print(f"{report.path}: {', '.join(counts)}", soft_wrap=True)

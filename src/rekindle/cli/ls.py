"""`rekindle ls`: the checkpoints of a run, or the runs of a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json
from rekindle.entries import MEASURED, rows
from rekindle.report import num_bytes


def ls(
    path: Annotated[Path, typer.Argument(help="A run, or a directory that holds runs.")],
    json: Json = False,
) -> None:
    """List the checkpoints of a run, or the runs in a directory."""
    run = rk.Run(path)
    if is_run(run):
        entries = run.entries()
        if json:
            told = {"path": str(path), **_about(run), "pinned": run.pins, "checkpoints": entries}
            print_json(told)
        else:
            _print(str(path), rows(entries, run.pins), _about(run))
        return
    found = [summary(run) for run in runs_in(path)]
    if not found:
        raise rk.NotFoundError(
            f"{path}: expected a run or a directory that holds runs, found {_what(path)}. "
            "A run is the directory that was given to rk.Run or rekindle.sb3.Checkpoint.",
            path=path,
        )
    if json:
        print_json({"path": str(path), "runs": found})
    else:
        _print(str(path), _run_rows(found), {})


def is_run(run: rk.Run) -> bool:
    """Whether there is a run at its path: checkpoints, or the description of one that has none."""
    return bool(len(run)) or (run.path / "run.json").is_file()


def runs_in(directory: Path) -> list[rk.Run]:
    """The runs that a directory holds, by name."""
    children = sorted(directory.iterdir()) if directory.is_dir() else []
    runs = [rk.Run(child) for child in children if child.is_dir()]
    return [run for run in runs if is_run(run)]


def summary(run: rk.Run) -> dict[str, Any]:
    """One run as a line of plain data."""
    entries = run.entries()
    newest = entries[-1] if entries else {}
    return {
        "name": run.path.name,
        **_about(run),
        "checkpoints": len(entries),
        "step": newest.get("step"),
        "created": newest.get("created"),
        "metrics": newest.get("metrics", {}),
        "bytes": sum(entry.get("bytes", 0) for entry in entries),
    }


def _about(run: rk.Run) -> dict[str, Any]:
    """What is trained, where the run says it; its checkpoints are worth listing without."""
    try:
        about = run.about
    except rk.RekindleError:
        about = {}
    return {"algorithm": about.get("algorithm"), "environment": about.get("environment")}


def _what(path: Path) -> str:
    if (path / "checkpoint.json").is_file():
        return "a checkpoint (`rekindle show` prints it)"
    if path.is_dir():
        return "a directory without any"
    return "a file" if path.exists() else "nothing"


def _run_rows(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["run", "algorithm", "environment", "saved", "newest step", "created", "size"]]
    for run in found:
        step = "" if run["step"] is None else f"{run['step']:,}"
        names = [run["name"], run["algorithm"] or "", run["environment"] or ""]
        rows.append(
            [*names, f"{run['checkpoints']:,}", step, run["created"] or "", num_bytes(run["bytes"])]
        )
    return rows


_NUMBERS = ("step", "size", "saved", "newest step", *MEASURED)


def _print(title: str, rows: list[list[str]], about: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = open_console()
    known = [value for value in about.values() if value]
    console.print(Text.assemble((title, "bold"), f"  {' on '.join(known)}"), soft_wrap=True)
    if len(rows) == 1:
        console.print("  no checkpoints yet")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    names = rows[0]
    for index, heading in enumerate(names):
        is_number = heading in _NUMBERS or _is_metric(names, index)
        table.add_column(Text(heading), justify="right" if is_number else "left", no_wrap=True)
    for row in rows[1:]:
        style = "red" if row[-1] == "damaged" else None
        table.add_row(*(Text(cell) for cell in row), style=style)
    console.print(table)


def _is_metric(headings: Sequence[str], index: int) -> bool:
    """Metrics stand between the size and the last column of a run's checkpoints."""
    return headings[0] == "step" and headings.index("size") < index < len(headings) - 1

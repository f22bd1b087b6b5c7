"""The tables: what was measured beside its floor, and what each saver needed."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from rich.console import Console
from rich.table import Table
from timing import Timing

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CAPTION = "Medians; in brackets: CPU time, or where it says so the best."


@dataclass(frozen=True)
class Row:
    """A figure of Rekindle, beside a peer's where there is one."""

    name: str
    work: str
    rekindle: str
    peer: str
    result: str
    floor: str = ""
    ok: bool | None = None
    """Whether the floor is reached; None where there is none."""
    goal: str = ""
    """What would be better still."""

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `ROW_COLUMNS`."""
        ok = {True: "yes", False: "NO", None: ""}[self.ok]
        return self.work, self.rekindle, self.peer, self.result, self.floor, self.goal, ok


@dataclass(frozen=True)
class SaverRow:
    """What one saver needed for one work."""

    work: str
    saver: str
    stall: str
    durable: str
    cpu: str
    written: str

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `SAVER_COLUMNS`."""
        return self.work, self.saver, self.stall, self.durable, self.cpu, self.written


Line = Row | SaverRow
ROW_COLUMNS = ("work", "Rekindle", "peer", "result", "floor", "goal", "ok")
SAVER_COLUMNS = ("work", "saver", "stall", "until durable", "CPU time", "written")


def ratio(name: str, work: str, ours: Timing, peer: Timing, floor: float | None) -> Row:
    """A row that says how much of the peer's time Rekindle takes, and how much it may."""
    found = ours.seconds / peer.seconds
    target = "" if floor is None else f"≤ {floor:.2f}"
    ok = None if floor is None else found <= floor
    return Row(name, work, str(ours), str(peer), f"{found:.2f}", target, ok)


def megabytes(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e6:.3g} MB" if count < 1e9 else f"{count / 1e6:,.0f} MB"


# --------------------------------------------------------------------------- printed


def machine(path: Path) -> str:
    """What the numbers were measured on, in one line."""
    versions = f"torch {torch.__version__}, safetensors {safetensors.__version__}"
    python = f"Python {platform.python_version()}"
    cpus = f"{os.cpu_count()} CPUs ({platform.machine()})"
    return f"{cpus}, {_file_system(path)}, {python}, {versions}"


def _file_system(path: Path) -> str:
    with contextlib.suppress(OSError):
        best = ("", "an unknown file system")
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, kind = line.split()[:3]
            if path.resolve().is_relative_to(mount) and len(mount) > len(best[0]):
                best = (mount, kind)
        return best[1]
    return "an unknown file system"


def show(lines: Sequence[Line], title: str) -> None:
    """Print the tables."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for columns, rows in _tables(lines):
        table = Table(title=title, caption=CAPTION)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            is_missed = isinstance(row, Row) and row.ok is False
            table.add_row(*row.cells(), style="bold red" if is_missed else None)
        console.print(table)


def markdown(lines: Sequence[Line], title: str) -> str:
    """The tables for the documentation."""
    found = [f"Measured on {title}. {CAPTION}"]
    for columns, rows in _tables(lines):
        head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
        body = ["| " + " | ".join(row.cells()) + " |" for row in rows]
        found += ["", *head, *body]
    return "\n".join(found)


def as_data(lines: Sequence[Line]) -> dict[str, list[dict[str, Any]]]:
    """The tables for a program."""
    return {
        "rows": [asdict(line) for line in lines if isinstance(line, Row)],
        "savers": [asdict(line) for line in lines if isinstance(line, SaverRow)],
    }


def _tables(lines: Sequence[Line]) -> list[tuple[tuple[str, ...], list[Line]]]:
    kinds: list[tuple[tuple[str, ...], Callable[[Line], bool]]] = [
        (ROW_COLUMNS, lambda line: isinstance(line, Row)),
        (SAVER_COLUMNS, lambda line: isinstance(line, SaverRow)),
    ]
    found = [(columns, [line for line in lines if is_kind(line)]) for columns, is_kind in kinds]
    return [(columns, rows) for columns, rows in found if rows]


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")

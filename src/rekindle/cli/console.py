"""Where commands print: a terminal, a pipe, or JSON for a program."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160
"""Columns for a pipe or a file, where nothing is cut off at a screen's edge."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
"""The option that every command has."""

AsFormat = Annotated[
    str | None,
    typer.Option("--format", help="Its format, where it could be of two: `sb3.model`."),
]
"""The option of commands that open what is of any format."""


def open_console(file: TextIO | None = None) -> Console:
    """A console on stdout, or on another stream."""
    from rich.console import Console

    stream = sys.stdout if file is None else file
    is_sized = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, highlight=False, width=None if is_sized else PIPE_WIDTH)


def print_json(content: Any, file: TextIO | None = None) -> None:
    """Print plain data as JSON; NaN and infinities, which JSON lacks, become null."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    print(text.decode(), file=file or sys.stdout)

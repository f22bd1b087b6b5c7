"""`rekindle pack` and `rekindle unpack`: a checkpoint as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json
from rekindle.report import num_bytes, plural

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")]


def pack(
    path: Annotated[Path, typer.Argument(help="A checkpoint, or a run: its newest checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The file to make; its name ends in .zip.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Copy a checkpoint into one .zip file, which loads like the directory.

    Every byte is compared with its digest on the way; exit 7 when one differs.
    """
    source = rk.open(path).path
    _tell("packed", source, rk.pack(source, out, overwrite=overwrite), json=json)


def unpack(
    path: Annotated[Path, typer.Argument(help="A checkpoint in one file.")],
    out: Annotated[Path, typer.Argument(help="The directory to make.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Copy a checkpoint out of one file into a directory.

    Every byte is compared with its digest on the way; exit 7 when one differs.
    """
    _tell("unpacked", path, rk.unpack(path, out, overwrite=overwrite), json=json)


def _tell(done: str, source: Path, made: rk.Checkpoint, *, json: bool) -> None:
    count = len(made.manifest.files) + 1
    if json:
        told = {"path": str(made.path), "from": str(source), "step": made.step}
        print_json(told | {"files": count, "bytes": made.num_bytes})
        return
    from rich.text import Text

    size = f"{plural(count, 'file')}, {num_bytes(made.num_bytes)}"
    line = f"{made.path}: step {made.step:,} {done} from {source} ({size})"
    open_console().print(Text.assemble(("✓ ", "green"), line), soft_wrap=True)

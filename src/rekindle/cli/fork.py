"""`rekindle fork`: a new run that begins at any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json


def fork(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint, or a run (its newest checkpoint).")
    ],
    run: Annotated[Path, typer.Argument(help="Directory of the new run.")],
    json: Json = False,
) -> None:
    """Start a new run from a checkpoint, on the same bytes."""
    made = rk.fork(checkpoint, run)
    parent = rk.Run(run).about["parent"]
    if json:
        print_json({"path": str(run), "step": made.step, "parent": parent})
        return
    text = f"{run}: begins at step {made.step:,} of {checkpoint}. Start training with this run."
    open_console().print(text, soft_wrap=True)

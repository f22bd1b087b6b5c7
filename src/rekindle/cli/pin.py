"""`rekindle pin`: keep a checkpoint whatever else is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import rekindle as rk
from rekindle import pins
from rekindle.cli.console import Json, open_console, print_json


def pin(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint of a run, such as runs/ppo/step_000010000.")
    ],
    unpin: Annotated[bool, typer.Option("--unpin", help="Take the pin away.")] = False,
    json: Json = False,
) -> None:
    """Pin a checkpoint, so that neither training nor `rekindle prune` deletes it."""
    changed = pins.unpin(path) if unpin else pins.pin(path)
    if json:
        print_json({"path": str(path), "pinned": not unpin, "changed": changed})
        return
    state = "not pinned" if unpin else "pinned"
    others = ", ".join(f"{step:,}" for step in rk.Run(path.parent).pins) or "none"
    already = "" if changed else " already"
    open_console().print(f"{path}: {state}{already}. Pinned steps: {others}", soft_wrap=True)

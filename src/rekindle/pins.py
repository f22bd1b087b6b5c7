"""Pins: checkpoints of a run that nothing but a person deletes.

A pin is an empty file beside the checkpoint, `step_000020000.pin`: the checkpoint itself never
changes, and no two processes that pin have to agree on the content of one file.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rekindle import files
from rekindle.errors import NotFoundError

SUFFIX = ".pin"


def names(run: Path) -> frozenset[str]:
    """Names of the checkpoints of a run that are pinned."""
    return frozenset(path.name.removesuffix(SUFFIX) for path in run.glob(f"step_*{SUFFIX}"))


def is_pinned(checkpoint: Path) -> bool:
    """Whether a checkpoint is pinned."""
    return _pin(checkpoint).exists()


def pin(checkpoint: Path) -> bool:
    """Pin a checkpoint; durable when this returns.

    Returns:
        Whether it was not pinned before.

    Raises:
        NotFoundError: There is no such checkpoint in a run.
    """
    _check(checkpoint)
    file = _pin(checkpoint)
    is_new = False
    with contextlib.suppress(FileExistsError):
        files.write_bytes(file, b"")
        is_new = True
    files.flush(file)
    files.flush(file.parent)
    try:
        _check(checkpoint)  # it may have been deleted just before the pin was there
    except NotFoundError:
        file.unlink(missing_ok=True)
        raise
    return is_new


def unpin(checkpoint: Path) -> bool:
    """Take the pin of a checkpoint away.

    Returns:
        Whether it was pinned.
    """
    file = _pin(checkpoint)
    if not file.exists():
        _check(checkpoint)
        return False
    file.unlink(missing_ok=True)
    files.flush(file.parent)
    return True


def _pin(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def _check(checkpoint: Path) -> None:
    is_of_run = checkpoint.name.startswith("step_") and checkpoint.name[5:].isdigit()
    if not is_of_run or not checkpoint.is_dir():
        found = "something else" if checkpoint.exists() else "nothing"
        raise NotFoundError(
            f"{checkpoint}: expected a checkpoint of a run, such as runs/ppo/step_000020000, found "
            f"{found}. `rekindle ls` lists the checkpoints of a run.",
            path=checkpoint,
        )

"""A new run that begins at any checkpoint, on the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rekindle import description, extents, files, manifest, places
from rekindle.checkpoint import Checkpoint, open_checkpoint, verify
from rekindle.errors import DamagedError, NotFoundError, UnsupportedError, listing
from rekindle.files import PathLike
from rekindle.places import Place


def fork(checkpoint: PathLike, run: PathLike) -> Checkpoint:
    """Start a new run from a checkpoint.

    The new run holds that checkpoint as its first, by hard links where the file system has them, so
    it costs next to nothing. What either run deletes later leaves the other whole. `run.json` names
    the checkpoint under `parent`, and asks for the same configuration. Training goes on with
    `rk.Run(run)`, or `rekindle.sb3.Checkpoint(run)`, exactly as the old run would have.

    Args:
        checkpoint: A checkpoint, also one in a `.zip`, or a run (its newest checkpoint). Every byte
            is compared with its digest first.
        run: Directory of the new run; it must not exist.

    Returns:
        The checkpoint in the new run.

    Raises:
        DamagedError: A byte of the checkpoint is not as it was written.
        AlreadyExistsError: Something is at `run`.
        UnsupportedError: It is a policy bundle, which does not suffice to go on training.
    """
    source = open_checkpoint(checkpoint)
    destination = Path(run)
    _check(source, destination)
    name = f"step_{source.step:09d}"
    held = places.at(source.path)
    with files.new_directory(destination) as directory:
        (directory / name).mkdir()
        place = places.NewDirectory(directory / name)
        for file in (*source.manifest.files, manifest.NAME):
            if source.path.is_dir():
                place.link(files.open_inside(source.path, file), file)
            else:
                extents.copy(held.extent(file), place.target(file))
        content = _description(source, held, destination)
        files.write_bytes(directory / description.NAME, description.encode(content))
    return Checkpoint(destination / name, source.manifest)


def _check(source: Checkpoint, destination: Path) -> None:
    if source.manifest.kind != "checkpoint":
        raise UnsupportedError(
            f"{source.path}: expected a checkpoint, which suffices to go on training, found a "
            f"{source.manifest.kind} bundle. Fork the checkpoint that it was made from.",
            path=source.path,
        )
    report = verify(source.path)
    if not report.ok:
        raise DamagedError(
            f"{source.path}: expected every byte as it was written, found:\n"
            f"{listing(report.differences)}\nFork an earlier checkpoint.",
            path=source.path,
            differences=report.differences,
        )
    inside = Path(os.path.realpath(destination))
    if inside.is_relative_to(os.path.realpath(source.path)):
        raise UnsupportedError(
            f"{destination}: expected a directory outside of the checkpoint, which never changes. "
            "Choose another path.",
            path=destination,
        )


def _description(source: Checkpoint, held: Place, destination: Path) -> dict[str, Any]:
    """What is trained is what the old run trains; where that is not known it stays open."""
    try:
        of_parent = description.read(source.path.parent)
    except NotFoundError:
        of_parent = {"algorithm": None, "environment": None, "configuration": None}
    here, there = os.path.realpath(source.path), os.path.realpath(destination)
    parent = {
        "path": Path(os.path.relpath(here, there)).as_posix(),
        "step": source.step,
        "digest": held.extent(manifest.NAME).digest().blake3,
    }
    content = description.new(of_parent, parent=parent)
    return content | {"start": of_parent["start"]} if "start" in of_parent else content

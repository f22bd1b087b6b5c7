"""The folder of a run that nobody named: its name, and how the same command finds it again."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle import description
from rekindle.checkpoint import Checkpoint, step_directories
from rekindle.errors import DamagedError, FormatError, NotFoundError, VersionError
from rekindle.manifest import read

_TIME = "%Y-%m-%d_%H-%M-%S"
_TIMED = re.compile(r"_(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:-(\d{1,6}))?", re.ASCII)
_UNFIT = re.compile(r"[^\w.+-]+")


def new(root: Path, algorithm: str, environment: str, now: datetime.datetime | None = None) -> Path:
    """Make an empty folder such as `SAC_Pendulum-v1_2026-11-21_16-00-00`; the time is UTC.

    Args:
        root: Where runs are.
        algorithm: Name of the algorithm.
        environment: Name of the environment; what a folder's name should not hold becomes `-`.
        now: The time to name it by; this moment when left out.
    """
    stamp = (now or datetime.datetime.now(datetime.UTC)).strftime(_TIME)
    name = f"{_prefix(algorithm, environment)}_{stamp}"
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        folder = root / name
        try:
            folder.mkdir()
        except FileExistsError:  # of this second as well
            name = f"{_prefix(algorithm, environment)}_{stamp}-{number}"
            continue
        return folder
    raise AssertionError("numbers do not end")


def find(root: Path, about: Mapping[str, Any]) -> Path | None:
    """The run that a command with the same configuration began: unfinished ones first, then newest.

    Only folders that `new` has named are looked at.

    Args:
        root: Where runs are.
        about: Its `algorithm`, `environment` and `configuration`, as `run.json` holds them.

    Raises:
        DamagedError, FormatError: The description of a folder of this name cannot be read.
    """
    prefix = _prefix(about["algorithm"], about["environment"])
    found: list[tuple[bool, str, int, Path]] = []
    for folder in root.iterdir() if root.is_dir() else ():
        timed = _TIMED.fullmatch(folder.name.removeprefix(prefix))
        if timed is None or not folder.name.startswith(prefix):
            continue
        try:
            stored = description.read(folder)
        except NotFoundError:  # nothing was begun there
            continue
        if not description.differences(stored, about):
            found.append((not is_finished(folder), timed[1], int(timed[2] or 1), folder))
    return max(found)[-1] if found else None


def is_finished(run: Path) -> bool:
    """Whether the newest checkpoint of a run is the one that training ended with."""
    steps = step_directories(run)
    if not steps:
        return False
    try:
        checkpoint = Checkpoint(steps[-1], read(steps[-1]))
        return bool(checkpoint["progress"].get("finished"))
    except VersionError:
        raise
    except (DamagedError, FormatError, NotFoundError):
        return False  # resuming falls back to an earlier one, and says so


def _prefix(algorithm: str, environment: str) -> str:
    return f"{algorithm}_{_UNFIT.sub('-', environment)}"

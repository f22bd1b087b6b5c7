"""Rekindle saves, loads, resumes, compares, converts and shares reinforcement-learning agents."""

from __future__ import annotations

from rekindle.adapters.generators import GlobalRNG
from rekindle.checkpoint import Checkpoint, load, restore, save, verify
from rekindle.checkpoint import open_checkpoint as open
from rekindle.environments import Stateful, capture_env, restore_env
from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    Difference,
    FormatError,
    LockedError,
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
    VersionError,
)
from rekindle.provenance import VERSION
from rekindle.report import RestoreReport, VerifyReport
from rekindle.run import Progress, Run
from rekindle.saveable import Saveable
from rekindle.state import Record

__version__ = VERSION

__all__ = [
    "AlreadyExistsError",
    "Checkpoint",
    "DamagedError",
    "Difference",
    "FormatError",
    "GlobalRNG",
    "LockedError",
    "MismatchError",
    "MissingDependencyError",
    "NotFoundError",
    "Progress",
    "Record",
    "RekindleError",
    "RestoreReport",
    "Run",
    "Saveable",
    "Stateful",
    "UnsafeError",
    "UnsupportedError",
    "VerifyReport",
    "VersionError",
    "capture_env",
    "load",
    "open",
    "restore",
    "restore_env",
    "save",
    "verify",
]

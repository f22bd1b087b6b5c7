"""Rekindle saves, loads, resumes, compares, converts and shares reinforcement-learning agents."""

from __future__ import annotations

from rekindle.adapters.generators import GlobalRNG
from rekindle.cadence import Every
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
    NoSpaceError,
    NotFoundError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
    VersionError,
)
from rekindle.fork import fork
from rekindle.packing import pack, unpack
from rekindle.probe import ProbeReport, probe_env
from rekindle.provenance import VERSION
from rekindle.report import RestoreReport, VerifyReport
from rekindle.retention import Keep, PruneReport
from rekindle.rings import RingBuffer
from rekindle.run import Progress, Run
from rekindle.saveable import Saveable
from rekindle.state import Record

__version__ = VERSION

__all__ = [
    "AlreadyExistsError",
    "Checkpoint",
    "DamagedError",
    "Difference",
    "Every",
    "FormatError",
    "GlobalRNG",
    "Keep",
    "LockedError",
    "MismatchError",
    "MissingDependencyError",
    "NoSpaceError",
    "NotFoundError",
    "ProbeReport",
    "Progress",
    "PruneReport",
    "Record",
    "RekindleError",
    "RestoreReport",
    "RingBuffer",
    "Run",
    "Saveable",
    "Stateful",
    "UnsafeError",
    "UnsupportedError",
    "VerifyReport",
    "VersionError",
    "capture_env",
    "fork",
    "load",
    "open",
    "pack",
    "probe_env",
    "restore",
    "restore_env",
    "save",
    "unpack",
    "verify",
]

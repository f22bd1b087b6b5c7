"""Rekindle saves, loads, resumes, compares, converts and shares reinforcement-learning agents."""

from __future__ import annotations

from rekindle.adapters.generators import GlobalRNG
from rekindle.bundle import save_policy
from rekindle.cadence import Every
from rekindle.checkpoint import Checkpoint, save
from rekindle.compatibility import Compatibility, compatibility
from rekindle.convert import ConversionReport, convert
from rekindle.diff import Diff, diff
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
from rekindle.foreign import ForeignCheckpoint
from rekindle.fork import fork
from rekindle.migrate import MigrationReport, migrate
from rekindle.opening import load, restore, verify
from rekindle.opening import open_any as open
from rekindle.packing import pack, unpack
from rekindle.probe import ProbeReport, probe_env
from rekindle.provenance import VERSION
from rekindle.report import RestoreReport, VerifyReport
from rekindle.retention import Keep, PruneReport
from rekindle.rings import RingBuffer
from rekindle.run import Progress, Run
from rekindle.saveable import Saveable
from rekindle.state import Record
from rekindle.training import TrainReport, train

__version__ = VERSION

__all__ = [
    "AlreadyExistsError",
    "Checkpoint",
    "Compatibility",
    "ConversionReport",
    "DamagedError",
    "Diff",
    "Difference",
    "Every",
    "ForeignCheckpoint",
    "FormatError",
    "GlobalRNG",
    "Keep",
    "LockedError",
    "MigrationReport",
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
    "TrainReport",
    "UnsafeError",
    "UnsupportedError",
    "VerifyReport",
    "VersionError",
    "capture_env",
    "compatibility",
    "convert",
    "diff",
    "fork",
    "load",
    "migrate",
    "open",
    "pack",
    "probe_env",
    "restore",
    "restore_env",
    "save",
    "save_policy",
    "train",
    "unpack",
    "verify",
]

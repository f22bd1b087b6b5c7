"""Rekindle saves, loads, resumes, compares, converts and shares reinforcement-learning agents."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rekindle.adapters.generators import GlobalRNG
from rekindle.cadence import Every
from rekindle.checkpoint import Checkpoint, save
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
from rekindle.opening import load, restore, verify
from rekindle.opening import open_any as open
from rekindle.provenance import VERSION
from rekindle.report import RestoreReport, VerifyReport
from rekindle.rings import RingBuffer
from rekindle.saveable import Saveable
from rekindle.state import Record

if TYPE_CHECKING:
    from rekindle.bundle import save_policy
    from rekindle.compatible import Compatibility, compatibility
    from rekindle.converting import ConversionReport, convert
    from rekindle.diffing import Diff, diff
    from rekindle.foreign import ForeignCheckpoint
    from rekindle.migrating import MigrationReport, migrate
    from rekindle.packing import pack, unpack
    from rekindle.probe import ProbeReport, probe_env
    from rekindle.retention import Keep, PruneReport
    from rekindle.run import Progress, Run
    from rekindle.training import TrainReport, train

__version__ = VERSION

_LATER = {
    "Compatibility": "rekindle.compatible",
    "ConversionReport": "rekindle.converting",
    "Diff": "rekindle.diffing",
    "ForeignCheckpoint": "rekindle.foreign",
    "Keep": "rekindle.retention",
    "MigrationReport": "rekindle.migrating",
    "ProbeReport": "rekindle.probe",
    "Progress": "rekindle.run",
    "PruneReport": "rekindle.retention",
    "Run": "rekindle.run",
    "TrainReport": "rekindle.training",
    "compatibility": "rekindle.compatible",
    "convert": "rekindle.converting",
    "diff": "rekindle.diffing",
    "migrate": "rekindle.migrating",
    "pack": "rekindle.packing",
    "probe_env": "rekindle.probe",
    "save_policy": "rekindle.bundle",
    "train": "rekindle.training",
    "unpack": "rekindle.packing",
}
"""Names that not every program needs, and where they are: loaded when they are used."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'rekindle' has no attribute {name!r}", name=name)
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


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

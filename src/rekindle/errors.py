"""What can go wrong, grouped by what a caller would do about it.

    RekindleError
    ├── NotFoundError             nothing at this path, no such step, no such component
    ├── AlreadyExistsError        something is there that would be lost
    ├── FormatError               not a format that Rekindle knows, or malformed
    │   └── VersionError          written by a newer version, or needs a feature unknown here
    ├── DamagedError              the bytes are not those that were written
    ├── MismatchError             the bytes are fine but do not fit the live object
    ├── UnsafeError               opening or saving this would have to trust foreign code or paths
    ├── UnsupportedError          this value or component cannot be held
    ├── LockedError               another process owns this run
    ├── NoSpaceError              the disk has no room for this save
    └── MissingDependencyError    an extra is not installed

A message says what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Difference:
    """One place where two states, or a file and its manifest, do not agree."""

    key: str
    """Where: a path into the state such as `policy/actor.0.weight`, or a file name."""
    expected: str
    """What the reader expected there."""
    found: str
    """What it found."""

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}, found {self.found}"


class RekindleError(Exception):
    """Base of every error that Rekindle raises on purpose.

    Attributes:
        code: Short name of the class of error, stable across versions.
        exit_code: Exit status of the command line for it.
        path: File or directory concerned, where there is one.
        key: Path into the state, where there is one.
    """

    code = "error"
    exit_code = 1

    def __init__(
        self, message: str, *, path: str | Path | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = None if path is None else str(path)
        self.key = key


class NotFoundError(RekindleError, FileNotFoundError):
    """Nothing is at this path, or the checkpoint holds no such thing."""

    code = "not-found"
    exit_code = 3


class AlreadyExistsError(RekindleError, FileExistsError):
    """Something is at this path and would be lost."""

    code = "already-exists"
    exit_code = 4


class FormatError(RekindleError, ValueError):
    """Not a known format, or a malformed one."""

    code = "format"
    exit_code = 5


class VersionError(FormatError):
    """Written by a newer version, or needing a feature that this version does not know."""

    code = "version"
    exit_code = 6


class DamagedError(RekindleError, ValueError):
    """The bytes on disk are not those that were written.

    Attributes:
        differences: One entry per damaged, missing or extra file.
    """

    code = "damaged"
    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        key: str | None = None,
        differences: Sequence[Difference] = (),
    ) -> None:
        super().__init__(message, path=path, key=key)
        self.differences = tuple(differences)


class MismatchError(RekindleError, ValueError):
    """The checkpoint is intact but does not fit the live object.

    Attributes:
        differences: Every mismatch found, not only the first.
    """

    code = "mismatch"
    exit_code = 8

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        key: str | None = None,
        differences: Sequence[Difference] = (),
    ) -> None:
        super().__init__(message, path=path, key=key)
        self.differences = tuple(differences)


class UnsafeError(RekindleError, ValueError):
    """Going on would mean trusting what a file says: foreign code, or a path that leaves it."""

    code = "unsafe"
    exit_code = 9


class UnsupportedError(RekindleError, TypeError):
    """A value that cannot be expressed as data, or a component that a format cannot hold.

    Attributes:
        refusals: Every refused place, as `(path into the state, reason)`.
    """

    code = "unsupported"
    exit_code = 10

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        key: str | None = None,
        refusals: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, path=path, key=key)
        self.refusals = tuple(refusals)


class LockedError(RekindleError, OSError):
    """Another process writes this run."""

    code = "locked"
    exit_code = 11


class NoSpaceError(RekindleError, OSError):
    """The disk has no room for this save; everything earlier is as it was.

    Attributes:
        errno: `errno.ENOSPC`, as in the system's own error.
    """

    code = "no-space"
    exit_code = 13

    def __init__(
        self, message: str, *, path: str | Path | None = None, key: str | None = None
    ) -> None:
        super().__init__(message, path=path, key=key)
        self.errno = errno.ENOSPC


class MissingDependencyError(RekindleError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""

    code = "missing-dependency"
    exit_code = 12


def listing(differences: Sequence[Difference], limit: int = 20) -> str:
    """Write differences one per line, the way every error message shows them."""
    lines = [f"  {difference}" for difference in differences[:limit]]
    if len(differences) > limit:
        lines.append(f"  ... and {len(differences) - limit} more")
    return "\n".join(lines)

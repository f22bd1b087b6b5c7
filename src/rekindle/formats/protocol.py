"""The contract of a format, and what reading a foreign file gives."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekindle.errors import UnsupportedError
from rekindle.tensors import Tensors


class Confidence(enum.IntEnum):
    """How sure a format is that a file is one of its own."""

    CONTAINER = 1
    """Its kind of file, with anything inside: a pickle, an archive of torch."""
    LAYOUT = 2
    """Parts named as this format names them, and others may."""
    CERTAIN = 3
    """Something that only this format writes."""


class Kind(enum.StrEnum):
    """What a note is about."""

    ABSENT = "absent"
    """A part of the training state that the file does not hold."""
    INERT = "inert"
    """A value that is shown as a record, because only running code could make it."""
    IGNORED = "ignored"
    """Something in the file that is no state."""


@dataclass(frozen=True)
class Note:
    """One thing that whoever uses what was read should know."""

    kind: Kind
    key: str
    """Which component, or which path into one; empty where it is about the whole."""
    text: str
    """What there is to say, in words."""

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a foreign file or folder holds, as components of ours."""

    format: str
    """Name of the format."""
    components: Mapping[str, Any]
    """Plain data by component: containers, values, arrays, and records of what is no data."""
    kind: str = "checkpoint"
    """`checkpoint` (there is what training needs beside a policy) or `policy`."""
    version: str | None = None
    """Version of the library that wrote it, where the file says it."""
    step: int | None = None
    """Environment steps so far; None where the file does not say."""
    counters: Mapping[str, Any] = field(default_factory=dict)
    """Other counts: `updates`, `episodes`."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Measurements at the time of the save."""
    spaces: Mapping[str, Any] = field(default_factory=dict)
    """Descriptions of the spaces `observation` and `action`; see `rekindle.spaces`."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions of libraries, where the file tells of them."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the format needs to write the same again, and no component holds."""
    notes: tuple[Note, ...] = ()
    """What is absent, what is inert, what was ignored."""
    tensors: Tensors = field(default_factory=Tensors)
    """Which of the arrays were tensors of torch, and what they were beside their values."""


class Format:
    """One layout on disk that another library writes.

    A format is stateless; each module of `rekindle.formats` makes one instance, and
    `rekindle.registry` names it.
    """

    name: str = ""
    """What users and messages call it."""
    can_write: bool = False
    """Whether `write` is there."""

    files: tuple[str, ...] = ()
    """Patterns of the names of all files in a folder that is one checkpoint of this format."""
    only: str = ""
    """The component that its files hold, where that is one, and no policy."""

    def sniff(self, path: Path) -> Confidence | None:
        """Whether what is at a path is of this format, by its content; cheap, and never an error.

        Args:
            path: A file or directory that exists.
        """
        raise NotImplementedError(f"{type(self).__name__}.sniff")

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Read what is at a path, running nothing; arrays stay in the file where they can.

        Args:
            path: A file or directory of this format.
            max_bytes: Memory that values may take; see `rekindle.limits`.

        Raises:
            FormatError: It is not of this format, or malformed.
            DamagedError: Bytes are missing, or not those that were written.
            UnsafeError: Going on would mean trusting it further than data deserves.
            UnsupportedError: It is encrypted, or compressed in a way that is not known.
        """
        raise NotImplementedError(f"{type(self).__name__}.read")

    def checkpoints(self, path: Path) -> list[Path]:
        """The checkpoints in a folder of several, of which `read` would take one; else none.

        Args:
            path: A file or directory of this format.
        """
        return []

    def fitted(self, content: Reading) -> Reading:
        """The same without what the format makes anew, or holds as part of something else.

        Nothing is lost with it: a live object that refers to another component, such as an agent to
        its policy, has it twice in a checkpoint of ours.
        """
        return content

    def write(self, content: Reading, path: Path) -> None:
        """Write components as a file that the real library loads.

        Raises:
            UnsupportedError: This format is only read, or cannot hold a component.
        """
        raise UnsupportedError(
            f"{path}: expected a format that Rekindle writes, found {self.name}, which it only "
            "reads. Choose another with --to.",
            path=path,
        )

"""Where the files of a checkpoint are: in a directory, or in one archive.

Both offer the same: which files there are, and where the bytes of each lie on the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rekindle import archive, extents, files
from rekindle.archive import Archive, NewArchive
from rekindle.errors import DamagedError, Difference, NotFoundError
from rekindle.extents import Extent
from rekindle.files import FileRecord, PathLike, Target

SUFFIX = ".zip"
"""A new checkpoint whose name ends so becomes one file. Reading goes by what is there instead."""


class Place(Protocol):
    """Holds files under names with `/` between their parts."""

    path: Path

    def names(self) -> list[str]:
        """Names of all files in it."""
        ...

    def extent(self, name: str) -> Extent:
        """Where the bytes of one file are.

        Raises:
            NotFoundError: There is no such file.
            UnsafeError: The name, or a symbolic link, leads out of the place.
        """
        ...

    def flaws(self) -> list[Difference]:
        """What is not as it was written beside the bytes of the files."""
        ...


class Directory:
    """A directory as a place where files are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Names of all files in it, and of all links."""
        return sorted(
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if path.is_symlink() or not path.is_dir()
        )

    def extent(self, name: str) -> Extent:
        """Where the bytes of one file are; see `Place`."""
        return extents.whole(files.open_inside(self.path, name))

    def flaws(self) -> list[Difference]:
        """None: a directory has no bytes but those of its files."""
        return []


def at(path: Path) -> Place:
    """The place that a path names, by what is there.

    Raises:
        DamagedError, FormatError, UnsafeError: It is an archive that cannot be read.
    """
    return Archive(path) if archive.is_archive(path) else Directory(path)


def check_files(place: Place, expected: dict[str, FileRecord], own: set[str]) -> list[Difference]:
    """Compare a place with a manifest's list: sizes, digests, missing and extra files.

    Args:
        place: Where the checkpoint is.
        expected: Every file that should be there.
        own: Names that belong there without being listed (the manifest itself).
    """
    differences: list[Difference] = []
    for name, record in expected.items():
        try:
            found = place.extent(name).digest()
        except NotFoundError:
            differences.append(Difference(name, f"{record.bytes} bytes", "no file"))
        except DamagedError as error:
            differences += error.differences
        else:
            differences += compare(name, record, found)
    extra = [name for name in place.names() if name not in expected and name not in own]
    differences += [Difference(name, "no such file", "an extra file") for name in extra]
    return [*dict.fromkeys((*differences, *place.flaws()))]


def compare(name: str, expected: FileRecord, found: FileRecord) -> list[Difference]:
    """How a file differs from what the manifest says of it, if it does."""
    if found.bytes != expected.bytes:
        return [Difference(name, f"{expected.bytes} bytes", f"{found.bytes} bytes")]
    if found.blake3 != expected.blake3:
        return [Difference(name, f"blake3 {expected.blake3}", f"blake3 {found.blake3}")]
    return []


# --------------------------------------------------------------------------- new places


class NewPlace(Protocol):
    """Takes the files of a checkpoint that is being written."""

    def target(self, name: str) -> Target:
        """Where `files.output` begins a file whose bytes come piece by piece."""
        ...

    def write(self, name: str, data: bytes) -> FileRecord:
        """Write a small file."""
        ...

    def link(self, source: PathLike, name: str) -> bool:
        """Give a file the bytes of another; true when that cost no space."""
        ...


class NewDirectory:
    """A directory that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._made = {""}

    def target(self, name: str) -> Path:
        """Where a file goes; directories on the way are made."""
        return Path(self._target(name))

    def _target(self, name: str) -> str:
        directory = name.rpartition("/")[0]
        if directory not in self._made:
            # Not with its parents: a place that somebody removed must not come back half empty.
            Path(self._target(directory)).mkdir(exist_ok=True)
            self._made.add(directory)
        return f"{self._path}/{name}"

    def write(self, name: str, data: bytes) -> FileRecord:
        """Write a small file."""
        return files.write_bytes(self._target(name), data)

    def link(self, source: PathLike, name: str) -> bool:
        """A hard link, or a copy where there are no links."""
        return files.link_or_copy(source, self._target(name))


def is_archive_name(path: Path) -> bool:
    """Whether a new checkpoint of this name becomes one file."""
    return path.suffix.lower() == SUFFIX


@contextlib.contextmanager
def new(destination: Path, *, size_bytes: int = 0, overwrite: bool = False) -> Iterator[NewPlace]:
    """Build a checkpoint beside `destination`; it takes that name, whole, when the block ends well.

    Args:
        destination: Its name; one that ends in `.zip` becomes one file.
        size_bytes: About how much will be written.
        overwrite: Whether to replace what is there, in one step.

    Raises:
        AlreadyExistsError: `destination` exists and `overwrite` is false.
        UnsupportedError: The file system cannot replace what is there in one step.
    """
    if not is_archive_name(destination):
        with files.new_directory(destination, overwrite=overwrite) as directory:
            yield NewDirectory(directory)
        return
    with files.new_file(destination, overwrite=overwrite) as path:
        made = NewArchive(path, size_bytes)
        try:
            yield made
            made.close()
        finally:
            made.abandon()

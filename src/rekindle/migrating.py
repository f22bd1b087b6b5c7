"""Checkpoints of other libraries, and of older versions of ours, made into present ones of ours.

One file or a tree, in place or into another directory. An original is whole at all times, under its
own name or that of its backup, so a migration can be interrupted anywhere and begun again.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rekindle import files, manifest, packing
from rekindle.checkpoint import ORIGIN, OURS, Checkpoint
from rekindle.converting import write
from rekindle.errors import (
    AlreadyExistsError,
    FormatError,
    NotFoundError,
    RekindleError,
    UnsupportedError,
)
from rekindle.files import PathLike
from rekindle.formats import recognition
from rekindle.places import SUFFIX
from rekindle.report import Shown, columns, plural

BACKUP = ".backup"
"""What the name of an original ends in after it was migrated in place."""
_ENDINGS = frozenset(
    (".zip", ".pt", ".pth", ".pkl", ".pickle", ".eqx", ".safetensors", ".ckpt", ".gz", ".zst")
)
"""A file of such a name that no format knows is told, since it should be a checkpoint."""
_DATA = (".npy", ".npz")
"""Files in a tree that are arrays of anything, and stay; named by themselves they are migrated."""

Progress: TypeAlias = Callable[[int, int, Path], None]
"""Told how many checkpoints are done, how many there are, and which is next."""


@dataclass(frozen=True)
class Migrated:
    """One checkpoint that is in the present format now."""

    source: str
    path: str
    format: str
    """What it was: `velora`, or `rekindle 0` for a version of ours."""
    step: int | None
    backup: str | None = None
    """Where the original is, where it was migrated in place."""


@dataclass(frozen=True)
class Failed:
    """One file or directory that stays as it is."""

    path: str
    code: str
    """Short name of the class of error; `os` for one of the operating system."""
    reason: str


@dataclass(frozen=True, repr=False)
class MigrationReport(Shown):
    """What was migrated, what needed no migration, and what could not be migrated and why."""

    path: str
    migrated: tuple[Migrated, ...] = ()
    current: tuple[str, ...] = ()
    """Checkpoints of ours that are of the present version already."""
    failed: tuple[Failed, ...] = ()
    num_others: int = 0
    """Files that are no checkpoints, and were left alone."""

    @property
    def ok(self) -> bool:
        """True when nothing failed."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "path": self.path,
            "ok": self.ok,
            "migrated": [vars(item) for item in self.migrated],
            "current": list(self.current),
            "failed": [vars(item) for item in self.failed],
            "others": self.num_others,
        }

    def _text(self) -> str:
        counts = [f"{len(self.migrated):,} migrated", f"{len(self.current):,} current already"]
        counts += [f"{len(self.failed):,} failed"] if self.failed else []
        counts += [f"{plural(self.num_others, 'other file')} left alone"] if self.num_others else []
        lines = [f"{self.path}: {', '.join(counts)}"]
        rows = [(item.path, f"was {item.format}", item.backup or "") for item in self.migrated]
        if rows:
            lines.append(columns(rows))
        lines += [f"  failed {item.path}: {item.reason}" for item in self.failed]
        return "\n".join(lines)


def migrate(
    path: PathLike,
    dest: PathLike | None = None,
    backup: bool = True,
    *,
    on_progress: Progress | None = None,
) -> MigrationReport:
    """Make a checkpoint, or all in a tree, into present ones of ours, running nothing.

    A file becomes one file and a directory a directory, under the same name. In place, the original
    gets a name that ends in `.backup`. What cannot be migrated stays, is told, and keeps the rest
    of a tree from nothing. To do it again does only what was not done.

    Args:
        path: A file or directory.
        dest: Where to put the migrated ones instead, as they stand in the tree; originals stay.
        backup: Whether to keep the originals of what is migrated in place.
        on_progress: Called before each checkpoint, and at the end.

    Returns:
        A report, true when nothing failed.

    Raises:
        NotFoundError: Nothing is at `path`, or no checkpoint.
        AlreadyExistsError: `dest` is inside `path`, or the other way round.
    """
    root = Path(path)
    target = None if dest is None else Path(dest)
    if not root.exists() and not _backup_of(root).exists():
        raise NotFoundError(f"{root}: expected a file or directory, found nothing.", path=root)
    if target is not None:
        _check_apart(root, target)
    found = _Found()
    found.look(root, is_named=True)
    if not found.units and not found.current and not found.failed:
        raise NotFoundError(
            f"{root}: expected a checkpoint of a known format, or a directory that holds some, "
            f"found {plural(found.num_others, 'other file')}.",
            path=root,
        )
    migrated: list[Migrated] = []
    for number, unit in enumerate(found.units):
        if on_progress is not None:
            on_progress(number, len(found.units), unit.path)
        try:
            done = _migrate(unit, root, target, backup=backup)
        except (RekindleError, OSError) as error:
            found.fail(unit.path, error)
        else:
            if done is None:
                found.current.append(str(unit.path))
            else:
                migrated.append(done)
    if on_progress is not None:
        on_progress(len(found.units), len(found.units), root)
    failed = sorted(found.failed, key=lambda item: item.path)
    current = tuple(sorted(found.current))
    return MigrationReport(str(root), tuple(migrated), current, tuple(failed), found.num_others)


def _check_apart(root: Path, target: Path) -> None:
    one, other = Path(os.path.realpath(root)), Path(os.path.realpath(target))
    if one == other or one in other.parents or other in one.parents:
        raise AlreadyExistsError(
            f"{target}: expected a destination apart from {root}, found one that overlaps it. "
            "Choose another, or leave it out to migrate in place.",
            path=target,
        )


# --------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class _Unit:
    """One checkpoint to migrate."""

    path: Path
    """Its name, which the migrated one gets as well."""
    source: Path
    """Where it is: there, or under the name of its backup after an interruption."""
    version: int | None
    """Version of our own format; None for a foreign one."""


@dataclass
class _Found:
    """What a tree holds."""

    units: list[_Unit] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    num_others: int = 0

    def fail(self, path: Path, error: RekindleError | OSError) -> None:
        """Note what cannot be migrated, and why."""
        code = error.code if isinstance(error, RekindleError) else "os"
        reason = str(error)
        self.failed.append(Failed(str(path), code, reason if reason else type(error).__name__))

    def look(self, path: Path, *, is_named: bool = False) -> None:
        """Look at a file or directory, and below it; what cannot be read is noted."""
        try:
            self._look(path, is_named=is_named)
        except (RekindleError, OSError) as error:
            self.fail(path, error)

    def _look(self, path: Path, *, is_named: bool) -> None:
        left = _backup_of(path)
        if not path.exists() and left.exists():
            self._interrupted(path, left)
        elif _is_ours(path):
            self._own(path)
        elif path.is_dir():
            self._directory(path)
        elif path.suffix in _DATA and not is_named:
            self.num_others += 1
        else:
            self._file(path, is_named=is_named)

    def _interrupted(self, path: Path, left: Path) -> None:
        """An original that has its second name, and whose first one nothing has yet."""
        version = manifest.read(left).version if _is_ours(left) else None
        self.units.append(_Unit(path, left, version))

    def _own(self, path: Path) -> None:
        version = manifest.read(path).version
        if version == manifest.VERSION:
            self.current.append(str(path))
        else:
            self.units.append(_Unit(path, path, version))

    def _directory(self, path: Path) -> None:
        try:
            format_ = recognition.recognise(path)
        except NotFoundError:
            format_ = None
        parts = [] if format_ is None else format_.checkpoints(path)
        if format_ is not None and not parts:
            self.units.append(_Unit(path, path, None))
            return
        for child in _children(path):
            self.look(child)

    def _file(self, path: Path, *, is_named: bool) -> None:
        try:
            recognition.recognise(path)
        except FormatError:
            if is_named or path.suffix.lower() in _ENDINGS:
                raise
            self.num_others += 1
        else:
            self.units.append(_Unit(path, path, None))


def _children(path: Path) -> Iterator[Path]:
    """What is in a directory, by name; hidden names, links and backups are not looked at.

    Of a backup without its original, the name that the original had.
    """
    for child in sorted(path.iterdir()):
        if child.name.startswith(".") or child.is_symlink():
            continue
        if not child.name.endswith(BACKUP):
            yield child
        elif not (original := child.with_name(child.name.removesuffix(BACKUP))).exists():
            yield original


def _is_ours(path: Path) -> bool:
    return (path / manifest.NAME).is_file() or (path.is_file() and manifest.is_archived(path))


def _backup_of(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


# --------------------------------------------------------------------------- one checkpoint


def _migrate(unit: _Unit, root: Path, target: Path | None, *, backup: bool) -> Migrated | None:
    """Migrate one checkpoint; None where that was done before."""
    if target is not None:
        return _elsewhere(unit, target / unit.path.relative_to(root))
    kept = _backup_of(unit.path)
    for name in (unit.path.name, kept.name):
        files.sweep(unit.path.parent, name)
    if unit.source != unit.path:
        made = _make(unit, unit.path)
        return _said(unit, unit.path, made, kept)
    if not backup:
        _check_files(unit)
        made = _make(unit, unit.path, overwrite=True)
        return _said(unit, unit.path, made, None)
    _clear(kept, unit)
    # The new one takes the name of the backup first, and then the two change places: at no moment
    # is either of the names without a whole checkpoint.
    made = _make(unit, kept)
    if not files.swap(unit.path, kept):
        _change_places(unit.path, kept)
    return _said(unit, unit.path, made, kept)


def _check_files(unit: _Unit) -> None:
    """Refuse to give up a folder in which something is that no checkpoint holds.

    Raises:
        UnsupportedError: It lists what there is.
    """
    if unit.version is not None or not unit.path.is_dir():
        return
    known = recognition.recognise(unit.path).files
    others = [
        name
        for file in sorted(unit.path.rglob("*"))
        if not file.is_dir() or file.is_symlink()
        if not any(fnmatch.fnmatchcase(name := file.relative_to(unit.path).as_posix(), pattern)
                   for pattern in known)
    ]  # fmt: skip
    if others:
        raise UnsupportedError(
            f"{unit.path}: expected nothing but the files of a checkpoint, since they are replaced "
            f"without a backup, found {', '.join(others[:10])}. Move these away, or keep a backup.",
            path=unit.path,
            key=others[0],
        )


def _elsewhere(unit: _Unit, path: Path) -> Migrated | None:
    if path.exists() and _is_ours(path):
        manifest.read(path)
        return None
    files.make_parents(path.parent)
    files.sweep(path.parent, path.name)
    return _said(unit, path, _make(unit, path), None)


def _make(unit: _Unit, path: Path, *, overwrite: bool = False) -> Checkpoint:
    """Write the migrated checkpoint: a directory for a directory, one file for a file."""
    with files.new_path(path, overwrite=overwrite) as staged:
        is_file = unit.source.is_file()
        # A writer makes one file of what is named so; the name that it gets says nothing.
        name = f"{staged.name}{SUFFIX}" if is_file else f"{staged.name}.directory"
        plain = staged.with_name(name)
        if unit.version is None:
            reading = recognition.recognise(unit.source).read(unit.source)
            made = write(reading, plain)
        else:
            made = packing.renew(unit.source, plain)
        plain.rename(staged)
        files.flush(staged.parent)
    return Checkpoint(path, made.manifest)


def _clear(kept: Path, unit: _Unit) -> None:
    """Remove what an interrupted migration left under the name of a backup.

    Raises:
        AlreadyExistsError: It is something else, which may be all that there is of it.
    """
    if not kept.exists():
        return
    record = manifest.read(kept) if _is_ours(kept) else None
    is_left = record is not None and (
        ORIGIN in record.components if unit.version is None else record.version > unit.version
    )
    if not is_left:
        raise AlreadyExistsError(
            f"{kept}: expected no backup before the migration, found one. Move it away, or pass "
            "backup=False (--no-backup).",
            path=kept,
        )
    files.remove(kept)


def _change_places(path: Path, kept: Path) -> None:
    """Exchange two names where the file system cannot do it in one step.

    What is interrupted here finds the original under the name of the backup, and goes on.
    """
    aside = path.with_name(f"{files.TEMPORARY_PREFIX}{path.name}-{os.urandom(4).hex()}")
    kept.rename(aside)
    path.rename(kept)
    aside.rename(path)
    files.flush(path.parent)


def _said(unit: _Unit, path: Path, made: Checkpoint, kept: Path | None) -> Migrated:
    record = made.manifest
    was = f"{OURS} {unit.version}"
    if unit.version is None:
        was = record.notes[0].partition(":")[0].removeprefix("converted from ")
    backup = None if kept is None else str(kept)
    return Migrated(str(unit.source), str(path), was, record.step, backup)

"""Checkpoints of any format by their path: open, load, restore, verify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rekindle import checkpoint
from rekindle.checkpoint import ORIGIN, OURS, Checkpoint
from rekindle.errors import UnsupportedError
from rekindle.files import PathLike
from rekindle.report import RestoreReport, VerifyReport

if TYPE_CHECKING:
    from rekindle.foreign import ForeignCheckpoint


def open_any(
    path: PathLike, format: str | None = None, *, max_bytes: int | None = None
) -> Checkpoint | ForeignCheckpoint:
    """Open a checkpoint of any known format, running nothing.

    What it is, its content tells: no name is trusted. Of ours, or a run's newest, only the manifest
    is read; of another library's, everything but large arrays, which stay in the file.

    Args:
        path: A file or directory; of a run, the newest checkpoint is opened.
        format: The name of its format, where its content could be of two: `"sb3.model"`.
        max_bytes: Memory that values of another library's file may take.

    Raises:
        NotFoundError: Nothing is there, or nothing that Rekindle knows.
        FormatError: It is of no known format, or of two that both could be meant.
        DamagedError: Bytes are missing, or not those that were written.
        UnsafeError: Going on would mean trusting it further than data deserves.
        UnsupportedError: It is encrypted, or compressed in a way that is not known.
        VersionError: A newer Rekindle wrote it.
    """
    if is_ours(path, format):
        return checkpoint.open_checkpoint(path)
    # Readers of files are loaded when they are used.
    from rekindle.contents import contents
    from rekindle.foreign import ForeignCheckpoint

    reading = contents(path, format=format, max_bytes=max_bytes)
    return ForeignCheckpoint(Path(path), reading)


def is_ours(path: PathLike, format: str | None = None) -> bool:
    """Whether a checkpoint is read as one of Rekindle's own."""
    if format is not None:
        return format == OURS
    return checkpoint.is_ours(Path(path)) or not Path(path).exists()


def load(
    path: PathLike,
    components: Sequence[str] | None = None,
    to: str = "numpy",
    *,
    device: str | None = None,
    verify: bool = True,
    format: str | None = None,
    replace: Mapping[str, Any] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, Any]:
    """Read components as plain data, building nothing but containers and arrays.

    Arrays are memory-mapped, copy-on-write: changing one does not change the file. Objects come
    back as `Record`s that name their class; modules and optimizers as their state dicts.

    Args:
        path: A checkpoint of any known format, or a run (its newest checkpoint).
        components: Which to read; all of them when left out. Others are not opened.
        to: `"numpy"`, or `"torch"` or `"jax"` for arrays of that library (text and dates, which
            these lack, stay numpy's).
        device: Where they go, such as `"cuda:0"`.
        verify: Whether to compare every byte read with its digest first, where the format has any.
        format: The name of its format, where its content could be of two.
        replace: Values to use instead of those at some paths, which only running code could have
            made: `{"agent.lr_schedule": 3e-4}`.
        skip: Paths to leave out, such as `"agent.lr_schedule"`; `*` matches anything.

    Raises:
        DamagedError: A file that is needed is damaged.
        NotFoundError: It lacks a component, or what shall be replaced or skipped.
    """
    opened = open_any(path, format)
    if not isinstance(opened, Checkpoint):
        return opened.load(components, to, device=device, replace=replace, skip=skip)
    _check_plain(opened, replace, skip)
    return opened.load(components, to, device=device, verify=verify)


def restore(
    path: PathLike,
    *,
    strict: bool = True,
    classes: Iterable[type] = (),
    keep: Iterable[str] = (),
    format: str | None = None,
    replace: Mapping[str, Any] | None = None,
    skip: Iterable[str] = (),
    **components: Any,
) -> RestoreReport:
    """Put a checkpoint's state into live objects that the caller has just built, in place.

    What cannot be changed (tuples, arrays of JAX, Equinox modules) is replaced in the object that
    holds it. Such a value as a component of its own is refused: `Checkpoint.into` returns it.

    Args:
        path: A checkpoint of any known format, or a run (its newest checkpoint).
        strict: Whether anything that is missing or does not fit is an error. Nothing is changed
            then. With `strict=False` the report says what was left as it was.
        classes: Classes of the program that the state may hold where the live objects hold none.
        keep: Patterns of attributes to leave as they are, such as `"agent/learning_rate"`.
        format: The name of its format, where its content could be of two.
        replace: Values to use instead of those at some paths of another library's file, which only
            running code could have made: `{"agent.lr_schedule": 3e-4}`.
        skip: Paths of another library's file that are not asked for, and left as they are in the
            live objects: `"policy.value_net.*"`.
        **components: The live objects, by the names they were saved under.

    Raises:
        MismatchError: The live objects do not fit; the error lists every difference.
        NotFoundError: The checkpoint lacks a component that was asked for.
        DamagedError: A file that is needed is damaged.
    """
    opened = open_any(path, format)
    if isinstance(opened, Checkpoint) and ORIGIN in opened:
        opened = _as_it_was(opened)
    if not isinstance(opened, Checkpoint):
        return opened.restore(components, strict=strict, keep=keep, replace=replace, skip=skip)
    _check_plain(opened, replace, skip)
    return opened.restore(components, strict=strict, classes=classes, keep=keep)


def _as_it_was(opened: Checkpoint) -> Checkpoint | ForeignCheckpoint:
    """What was converted, as what it was: state dicts are put into modules, and so on."""
    from rekindle.contents import of_checkpoint
    from rekindle.foreign import ForeignCheckpoint

    reading, origin = of_checkpoint(opened)
    return opened if origin is None else ForeignCheckpoint(opened.path, reading)


def verify(path: PathLike, *, format: str | None = None) -> VerifyReport:
    """Find out whether every byte of a checkpoint is as it was written.

    Of ours, every byte of it, or of every checkpoint of a run, is compared with its digest. A file
    of another library is held against whatever it holds to check it by: checksums of archives and
    streams, sizes, bounds. The report says which; a file without any is read, and no more is
    claimed.

    Returns:
        A report, true when all is as written; it names each damaged, missing or extra file.

    Raises:
        NotFoundError: Nothing that Rekindle knows is at `path`.
        FormatError: It is of no known format, or of two that both could be meant.
    """
    if is_ours(path, format):
        return checkpoint.verify(path)
    from rekindle import soundness  # readers of files are loaded when they are used

    return soundness.check(Path(path), format)


def _check_plain(
    opened: Checkpoint, replace: Mapping[str, Any] | None, skip: Iterable[str]
) -> None:
    """Our own files hold no value that only running code could make.

    Raises:
        UnsupportedError: Something is to be replaced or skipped.
    """
    if replace or tuple(skip):
        raise UnsupportedError(
            f"{opened.path}: expected replace= and skip= for a file of another library, found a "
            "checkpoint of Rekindle, whose values are all data. Leave places as they are with "
            "keep=, and change values after they are loaded.",
            path=opened.path,
        )

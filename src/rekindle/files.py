"""Bytes on disk: every write, flush, link and rename that Rekindle makes goes through here.

Invariant: a name that a reader can see is complete and flushed, or was not there at all. New
directories are built beside their destination under a `.tmp-` name and appear by one rename.
This module knows nothing of what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import queue
import re
import shutil
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from blake3 import blake3

from rekindle.errors import (
    AlreadyExistsError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
)

PathLike: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = np.ndarray[Any, Any]

TEMPORARY_PREFIX = ".tmp-"
BUFFER_BYTES = 2 << 20
"""Size of one staging buffer; all of them are in use while a large file is written."""
_NUM_BUFFERS = 4
DIRECT_BYTES = 4 << 20
"""Files at least this large bypass the page cache where the file system allows it."""
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of one file."""

    bytes: int
    """Size of the file."""
    blake3: str
    """BLAKE3 digest of its bytes, 64 lower-case hexadecimal digits."""


# --------------------------------------------------------------------------- digests


def digest(data: bytes | memoryview) -> str:
    """BLAKE3 of some bytes, as 64 hexadecimal digits."""
    threads = blake3.AUTO if len(data) > 1 << 20 else 1
    return blake3(data, max_threads=threads).hexdigest()


_DRIVE = re.compile("[A-Za-z]:")
_NO_NAMES = frozenset(("", ".", ".."))


def is_plain(name: str) -> bool:
    """Whether a name stays inside the directory that it is put into, on any system."""
    if "\\" in name or "\0" in name or _DRIVE.match(name):
        return False
    return _NO_NAMES.isdisjoint(name.split("/"))


def check_name(name: str, where: PathLike) -> None:
    """Refuse a file name from a manifest that could leave the checkpoint.

    Raises:
        UnsafeError: The name is absolute, climbs out, or is not in its plain form.
    """
    if not is_plain(name):
        raise UnsafeError(
            f"{os.fspath(where)}: the manifest names a file {name!r}, which is not a plain path "
            "inside the checkpoint. Nothing was read. The file was made by hand or by an attacker.",
            path=os.fspath(where),
            key=name,
        )


def open_inside(root: Path, name: str) -> Path:
    """The path of a manifest's file, refused when a link leads it outside `root`.

    Raises:
        UnsafeError: The name, or a symbolic link on the way, leaves `root`.
        NotFoundError: There is no such file.
    """
    check_name(name, root)
    path = root
    for part in name.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            raise NotFoundError(
                f"{path}: expected a file that the manifest lists, found nothing. "
                "`rekindle verify` says what else is missing.",
                path=path,
                key=name,
            ) from None
        if stat.S_ISLNK(mode):
            raise UnsafeError(
                f"{path}: expected a regular file, found a symbolic link, which could lead outside "
                "the checkpoint. Replace the link by the file it stands for.",
                path=path,
                key=name,
            )
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UnsafeError(f"{path}: expected a regular file, found something else.", path=path)
    return path


# --------------------------------------------------------------------------- threads


def num_processors() -> int:
    """How many of them this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Way(threading.local):
    is_given = False


_WAY = _Way()


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Workers that are started in this block leave the processors to whoever wants them."""
    _WAY.is_given = True
    try:
        yield
    finally:
        _WAY.is_given = False


def manners() -> Callable[[], None]:
    """What a worker that is started now does first."""
    return _give_way if _WAY.is_given else lambda: None


def _give_way() -> None:
    """Give this thread the lowest priority. It must not be one that runs much Python.

    Whoever waits for the interpreter's lock would wait until its holder gets a processor.
    """
    if not sys.platform.startswith("linux"):
        return  # elsewhere a priority is that of the whole process
    # Some sandboxes forbid it; then all threads are equal.
    with contextlib.suppress(OSError):
        # The threads that it starts have it too.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


_LOWEST_PRIORITY = 19


# --------------------------------------------------------------------------- one new file


class Writable(Protocol):
    """Takes the bytes of one new file; an `Output`, or what stands for one."""

    def write(self, data: Array | bytes) -> None:
        """Append bytes, or those of a C-contiguous array."""
        ...

    def close(self) -> FileRecord:
        """Write what is left and say what the file holds."""
        ...

    def abandon(self) -> None:
        """Let go of the file, whatever it holds."""
        ...


Target: TypeAlias = Path | Callable[[int], Writable]
"""Where a new file goes: its path, or what begins it when it is told the size."""


def output(target: Target, size_bytes: int) -> Writable:
    """Begin a new file of that many bytes."""
    return Output(target, size_bytes) if isinstance(target, Path) else target(size_bytes)


class Output:
    """One new file: bytes in, a `FileRecord` out.

    The bytes pass once through staging buffers, where they are hashed while warm. A large file is
    written by threads of its own, past the page cache where possible, so that copying, hashing and
    the disk overlap. Nothing is flushed here: see `flush`.

    Args:
        path: The file to make; it must not exist.
        size_bytes: How many bytes will be written.
        in_parts: Whether that is a guess; space is then taken for each part as it begins.
    """

    def __init__(self, path: Path, size_bytes: int, *, in_parts: bool = False) -> None:
        self.path = path
        self._hasher = _hasher(size_bytes)
        self._crc: int | None = None
        self._length = 0
        self._filled = 0
        self._summed = 0
        self._current: int | None = None
        self._jobs: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._fd = -1
        self._direct = size_bytes >= DIRECT_BYTES and hasattr(os, "O_DIRECT")
        self._fd = self._open()
        try:
            if self._direct and not in_parts:
                _reserve(self._fd, size_bytes + -size_bytes % _BLOCK_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self._most_threads = 0
        if size_bytes > BUFFER_BYTES:
            # Several at once keep a disk busy; in the page cache they would only wait in line.
            self._most_threads = _NUM_BUFFERS if self._direct else 1
        self._buffers = _take_buffers()
        for index in range(_NUM_BUFFERS):
            self._free.put(index)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        if self._direct:
            try:
                return os.open(self.path, flags | os.O_DIRECT, 0o666)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Some file systems create the file before they refuse the flag.
                self.path.unlink(missing_ok=True)
        self._direct = False
        return os.open(self.path, flags, 0o666)

    def write(self, data: Array | bytes) -> None:
        """Append bytes, or those of a C-contiguous array."""
        source = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else _bytes_of(data)
        position, size = 0, source.size
        while position < size:
            if self._current is None:
                self._current = self._free.get()
            room = min(BUFFER_BYTES - self._filled, size - position)
            target = self._buffers[self._current]
            target[self._filled : self._filled + room] = source[position : position + room]
            self._filled += room
            position += room
            if self._filled == BUFFER_BYTES:
                self._hand_over()

    def _hand_over(self) -> None:
        """Hash the current buffer and give it to the disk; go on with another one."""
        assert self._current is not None
        index, length, offset = self._current, self._filled, self._length
        self._sum_up()
        if self._failure is not None:
            raise self._failure
        self._current = None
        self._filled = self._summed = 0
        self._length += length
        if len(self._threads) < self._most_threads:
            thread = threading.Thread(target=self._drain, args=(manners(),), name="rekindle-output")
            try:
                thread.start()
                self._threads.append(thread)
            except RuntimeError:
                # The interpreter is ending and starts no more threads.
                self._most_threads = len(self._threads)
        if self._threads:
            self._jobs.put((index, length, offset))
            return
        try:
            self._put(index, length, offset)
        finally:
            self._free.put(index)

    @property
    def position(self) -> int:
        """How many bytes were written so far."""
        return self._length + self._filled

    def begin_part(self, size_bytes: int) -> None:
        """Take digests anew from here on, of the next so many bytes."""
        self._sum_up()
        self._hasher = _hasher(size_bytes)
        self._crc = 0
        if self._direct and size_bytes >= DIRECT_BYTES:
            end = self.position + size_bytes
            _reserve(self._fd, end + -end % _BLOCK_BYTES)

    def end_part(self) -> tuple[str, int]:
        """BLAKE3 and CRC-32 of what was written since `begin_part`."""
        self._sum_up()
        assert self._crc is not None
        return self._hasher.hexdigest(), self._crc

    def _sum_up(self) -> None:
        """Take what is new in the current buffer into the digests, while it is warm."""
        if self._current is None:
            return
        view = self._buffers[self._current, self._summed : self._filled].data
        self._hasher.update(view)
        if self._crc is not None:
            self._crc = zlib.crc32(view, self._crc)
        self._summed = self._filled

    def _put(self, index: int, length: int, offset: int) -> None:
        if self._direct:
            # Direct I/O writes whole blocks; the excess is cut off when the file is closed.
            length += -length % _BLOCK_BYTES
        view = self._buffers[index, :length].data
        may_retry = self._direct
        while view:
            try:
                written = os.pwrite(self._fd, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not may_retry:
                    raise
                _undirect(self._fd)
                may_retry = False
                continue
            view, offset = view[written:], offset + written

    def _drain(self, begin: Callable[[], None]) -> None:
        """Write buffers until told to stop; after a failure only give them back, unwritten."""
        begin()
        while (job := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    self._put(*job)
            except BaseException as error:  # noqa: BLE001 - raised again in the writing thread
                self._failure = error
            finally:
                self._free.put(job[0])

    def close(self) -> FileRecord:
        """Write what is left and say what the file holds.

        Raises:
            OSError: Something could not be written. The file is closed all the same.
        """
        try:
            if self._filled:
                self._hand_over()
            self._stop()
            if self._failure is not None:
                raise self._failure
            if self._direct:
                os.ftruncate(self._fd, self._length)
        finally:
            self.abandon()
        return FileRecord(self._length, self._hasher.hexdigest())

    def abandon(self) -> None:
        """Let go of the file, whatever it holds; its directory is swept as a whole."""
        self._stop()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _give_back(self._buffers)
            os.close(fd)

    def _stop(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        while self._threads:
            self._threads.pop().join()


def _hasher(size_bytes: int) -> blake3:
    return blake3(max_threads=blake3.AUTO if size_bytes >= DIRECT_BYTES else 1)


def _bytes_of(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


_idle_buffers: list[Array] = []


def _take_buffers() -> Array:
    """Staging buffers, one a row: those of an earlier file, whose pages exist, or new ones."""
    try:
        return _idle_buffers.pop()
    except IndexError:
        size = _NUM_BUFFERS * BUFFER_BYTES
        memory = np.empty(size + _BLOCK_BYTES, np.uint8)
        start = -memory.ctypes.data % _BLOCK_BYTES
        return memory[start : start + size].reshape(_NUM_BUFFERS, BUFFER_BYTES)


def _give_back(buffers: Array) -> None:
    if not _idle_buffers:
        _idle_buffers.append(buffers)


def _reserve(fd: int, num_bytes: int) -> None:
    """Give a new file its space at once, where the file system can: a full disk is found first.

    Writes inside a file's size also run side by side, which those that make it grow do not.
    `posix_fallocate` is not used because it writes zeros where the file system cannot.
    """
    allocate = _fallocate()
    if allocate is None:
        return
    code = allocate(fd, num_bytes)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(code, os.strerror(code))


@functools.cache
def _fallocate() -> Callable[[int, int], int] | None:
    """Linux `fallocate` from the start of a file, giving an error's number or 0."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return lambda fd, num_bytes: 0 if function(fd, 0, 0, num_bytes) == 0 else ctypes.get_errno()


def _undirect(fd: int) -> None:
    """Let a file go through the page cache after all; some file systems refuse only the write."""
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def write_bytes(path: PathLike, *pieces: bytes | memoryview) -> FileRecord:
    """Write a new file of pieces that nothing changes meanwhile; flushing is the caller's."""
    size_bytes = sum(len(piece) for piece in pieces)
    hasher = _hasher(size_bytes)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            hasher.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    return FileRecord(size_bytes, hasher.hexdigest())


def link_or_copy(source: PathLike, destination: PathLike) -> bool:
    """Give `destination` the bytes of `source`; true when that cost no space (a hard link)."""
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(source, destination)
        return False
    return True


def flush(path: PathLike) -> None:
    """Force one file or directory to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_all(paths: Iterable[PathLike]) -> None:
    """Force several files to the disk at once, so that a journal commits them together."""
    todo = list(paths)
    if len(todo) < 2:
        for path in todo:
            flush(path)
        return
    pool = _flushers()
    done: list[Future[None]] = []
    # A RuntimeError: the interpreter is ending and starts no more threads.
    with contextlib.suppress(RuntimeError):
        for path in todo:
            done.append(pool.submit(flush, path))
    wait(done)
    for path in todo[len(done) :]:
        flush(path)
    for future in done:
        future.result()


@functools.cache
def _flushers() -> ThreadPoolExecutor:
    """Threads that flush, kept: to start them takes longer than what they do."""
    return ThreadPoolExecutor(8, thread_name_prefix="rekindle-flush")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_flushers.cache_clear)  # whose threads it does not have


def replace_file(path: Path, data: bytes) -> None:
    """Put a new version of a small file in place: a reader sees the old one or the new one."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.urandom(4).hex()}")
    try:
        write_bytes(temporary, data)
        flush(temporary)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add one line to a text file, in one write. Not flushed: such files are caches."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(fd, line + b"\n")
    finally:
        os.close(fd)


def overwrite_at(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Change bytes of a file that has no name yet that readers know; flushing is the caller's."""
    fd = os.open(path, os.O_WRONLY)
    try:
        for offset, data in pieces:
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written
    finally:
        os.close(fd)


# --------------------------------------------------------------------------- new names


@contextlib.contextmanager
def new_directory(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Build a directory beside `destination`; it takes that name when the block ends well.

    The block writes files into the directory that it is given; they are flushed here. On any
    exception the half-built directory is removed and `destination` is as it was. After a kill the
    leavings stay under a `.tmp-` name until `sweep`.

    Raises:
        AlreadyExistsError: `destination` exists and `overwrite` is false.
        UnsupportedError: `overwrite` is true and the file system cannot exchange two directories.
    """
    with _workplace(destination, overwrite=overwrite) as (temporary, publish):
        yield temporary
        _flush_tree(temporary)
        publish(temporary)


@contextlib.contextmanager
def new_file(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Build one file beside `destination`; the promises are those of `new_directory`.

    The block makes the file at the path that it is given: in a directory with a `.tmp-` name.

    Raises:
        AlreadyExistsError: `destination` exists and `overwrite` is false.
        UnsupportedError: `overwrite` is true, a directory is there, and the file system cannot
            exchange the two.
    """
    with _workplace(destination, overwrite=overwrite) as (temporary, publish):
        yield temporary / destination.name
        flush(temporary / destination.name)
        publish(temporary / destination.name)


@contextlib.contextmanager
def new_path(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Let something else make a file or a directory, which takes its name when the block ends well.

    The block makes it at the path that it is given, complete and flushed: in a directory with a
    `.tmp-` name, whose other content goes.

    Raises:
        AlreadyExistsError: `destination` exists and `overwrite` is false.
        UnsupportedError: `overwrite` is true and the file system cannot exchange the two.
    """
    with _workplace(destination, overwrite=overwrite) as (temporary, publish):
        yield temporary / destination.name
        publish(temporary / destination.name)


@contextlib.contextmanager
def _workplace(
    destination: Path, *, overwrite: bool
) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A directory beside `destination`, held and then gone, and what gives a path its name."""
    destination = Path(os.path.realpath(destination))
    if not overwrite and destination.exists():
        raise exists_error(destination)
    make_parents(destination.parent)
    temporary = destination.parent / (
        f"{TEMPORARY_PREFIX}{destination.name}-{os.getpid()}-{os.urandom(4).hex()}"
    )
    os.mkdir(temporary)  # noqa: PTH102 - every write goes through `os`, where tests can fail it

    def publish(finished: Path) -> None:
        undo = _publish(finished, destination, overwrite=overwrite)
        try:
            flush(destination.parent)
        except BaseException:
            # A failed save changes nothing, so the name that could not be flushed goes again.
            with contextlib.suppress(OSError):
                undo()
            raise

    lock = None
    try:
        lock = _lock_directory(temporary)
        yield temporary, publish
    finally:
        # By now it may be what was replaced. What cannot be removed is swept later.
        with contextlib.suppress(OSError):
            _remove(temporary)
        if lock is not None:
            os.close(lock)


def _remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_tree(directory: Path) -> None:
    """Force a new directory to the disk, with all that is new in it."""
    flush_all(_fresh(os.fspath(directory)))


def _fresh(directory: str) -> list[str]:
    """A directory, and what is new in it.

    A file with a second name is a link to one that an earlier save has flushed.
    """
    found = [directory]
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += _fresh(entry.path)
            elif entry.stat(follow_symlinks=False).st_nlink == 1:
                found.append(entry.path)
    return found


def make_parents(directory: Path) -> None:
    """Create a directory and its parents, each flushed into its own parent."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    if not directory.is_dir():
        raise NotFoundError(
            f"{directory}: expected a directory, found a file. Choose another path.",
            path=directory,
        )
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        flush(path.parent)


def exists_error(destination: Path) -> AlreadyExistsError:
    """The error for a destination that is taken."""
    return AlreadyExistsError(
        f"{destination}: expected nothing there, found an existing "
        f"{'directory' if destination.is_dir() else 'file'}. "
        "Choose another path, or pass overwrite=True to replace it in one step.",
        path=destination,
    )


def _publish(temporary: Path, destination: Path, *, overwrite: bool) -> Callable[[], object]:
    """Give what is finished its name; what was there bears the temporary one then, if anything.

    Returns:
        What undoes it.
    """
    exchange = overwrite and destination.exists()
    try:
        renamed = _rename_with_flags(temporary, destination, exchange=exchange)
    except FileExistsError:
        raise exists_error(destination) from None
    if renamed and exchange:
        return lambda: _rename_with_flags(temporary, destination, exchange=True)
    if renamed:
        return lambda: os.rename(destination, temporary)  # noqa: PTH104
    if exchange and temporary.is_file() and destination.is_file():
        return _replace_keeping(temporary, destination)
    if exchange:
        raise UnsupportedError(
            f"{destination}: this file system cannot exchange two directories in one step, so "
            "replacing it could lose it. Save to a new path instead.",
            path=destination,
        )
    if destination.exists():
        raise exists_error(destination)
    os.rename(temporary, destination)  # noqa: PTH104
    return lambda: os.rename(destination, temporary)  # noqa: PTH104


def _replace_keeping(temporary: Path, destination: Path) -> Callable[[], object]:
    """Replace a file where two cannot be exchanged: the old one keeps a second name meanwhile."""
    kept = temporary.with_name(f"{temporary.name}.replaced")
    os.link(destination, kept)
    os.replace(temporary, destination)  # noqa: PTH105
    return lambda: os.replace(kept, destination)  # noqa: PTH105


def _rename_with_flags(source: Path, destination: Path, *, exchange: bool) -> bool:
    """Linux `renameat2`: exchange both names, or refuse to replace. False where it is missing."""
    if not sys.platform.startswith("linux"):
        return False
    rename = _renameat2()
    if rename is None:
        return False
    at_cwd, no_replace, swap = -100, 1, 2
    flags = swap if exchange else no_replace
    code = rename(at_cwd, os.fsencode(source), at_cwd, os.fsencode(destination), flags)
    if code == 0:
        return True
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(destination))


def swap(one: Path, other: Path) -> bool:
    """Exchange two names of one directory in one step; false where the file system cannot."""
    if not _rename_with_flags(one, other, exchange=True):
        return False
    flush(one.parent)
    return True


@functools.cache
def _renameat2() -> Any:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return None

    def call(*arguments: Any) -> int:
        return 0 if library.renameat2(*arguments) == 0 else ctypes.get_errno()

    return call


def _lock_directory(path: Path) -> int | None:
    """Hold a directory while it is built, so that `sweep` elsewhere can tell it from leavings."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on POSIX
        return None
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, of which no reader sees half."""
    if path.is_dir():
        remove_directory(path)
    else:
        path.unlink()
        flush(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory, or a link to one: first its name, so that no reader sees half of it.

    What a kill leaves, or what cannot be removed now, is swept later.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    lock = None
    try:
        lock = _lock_directory(path)  # from a sweep elsewhere
        os.rename(path, temporary)  # noqa: PTH104
        try:
            flush(path.parent)
        except BaseException:
            # What is not known to be gone keeps its name, and can be removed another time.
            with contextlib.suppress(OSError):
                os.rename(temporary, path)  # noqa: PTH104
            raise
        if temporary.is_symlink():
            temporary.unlink()
        else:
            shutil.rmtree(temporary, ignore_errors=True)
    except FileNotFoundError:
        pass  # another process was first
    finally:
        if lock is not None:
            os.close(lock)


def free_bytes(path: Path) -> int | None:
    """How much the file system of a path has room for; None where it does not say."""
    status = os.statvfs(path)
    if not status.f_blocks:
        return None
    # Part of some file systems is reserved for the administrator.
    free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return free * status.f_frsize


def sweep(directory: Path, name: str = "") -> list[str]:
    """Remove what killed saves left in `directory`; those still being written are kept.

    Args:
        directory: Where to look, not below.
        name: Sweep only the leavings of saves to this name; all of them when empty.

    Returns:
        The names removed.
    """
    removed = []
    begin = TEMPORARY_PREFIX + (f"{name}-" if name else "")
    leaving = _LEAVING_OF_ONE if name else _LEAVING
    found = os.listdir(directory) if directory.is_dir() else []  # noqa: PTH208 - asked at each save
    for left in sorted(left for left in found if left.startswith(begin)):
        if not leaving.fullmatch(left, len(begin)):
            continue
        path = directory / left
        if path.is_dir() and not path.is_symlink():
            lock = _lock_directory(path)
            if lock is None:
                continue
            try:
                shutil.rmtree(path)
            finally:
                os.close(lock)
        else:
            path.unlink(missing_ok=True)
        removed.append(left)
    return removed


_LEAVING_OF_ONE = re.compile(r"(\d+-)?[0-9a-f]{8}")
_LEAVING = re.compile(r".*-[0-9a-f]{8}")

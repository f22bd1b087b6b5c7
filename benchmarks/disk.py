"""What lies on the disk: flushed, removed, and counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from rekindle.files import flush


def flush_all(path: Path) -> None:
    """Force a file, or all of a directory, to the disk, and its name with it."""
    for part in _within(path):
        flush(part)
    flush(path.parent)


def remove(path: Path) -> None:
    """Remove a save, so that the next turn does not pay for it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    flush(path.parent)


def blocks(path: Path) -> dict[int, int]:
    """Bytes on the disk by inode, so that hard links count once; none where nothing is."""
    found = (part.lstat() for part in _within(path))
    return {status.st_ino: status.st_blocks * 512 for status in found}


def usage(path: Path) -> int:
    """Bytes on the disk, as `du` counts them."""
    return sum(blocks(path).values())


def written() -> int:
    """Bytes that this process has sent to the disk so far; page cache and direct I/O alike."""
    for line in Path("/proc/self/io").read_text().splitlines():
        key, _, value = line.partition(": ")
        if key == "write_bytes":
            return int(value)
    raise LookupError("write_bytes")


def _within(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for part in path.iterdir():
            yield from [part] if part.is_symlink() else _within(part)
    if path.exists():
        yield path

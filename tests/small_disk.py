"""A program on a small disk of its own, which only it sees and which goes when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


def run(
    folder: Path, megabytes: int, *arguments: str, system: str = "tmpfs"
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that has a disk mounted at `folder / "disk"`.

    The test is skipped where such a disk cannot be mounted.

    Args:
        folder: Where the disk is mounted, and its image lies; an empty directory.
        megabytes: The size of the disk, in units of 1024 * 1024 bytes.
        arguments: Those of the interpreter.
        system: The kind of file system: `tmpfs` or `ext4`.
    """
    disk = folder / "disk"
    disk.mkdir()
    if system == "tmpfs":
        mount = f"mount -t tmpfs -o size={megabytes}m none '{disk}'"
    else:
        image = folder / "image"
        image.touch()
        os.truncate(image, megabytes << 20)
        mount = f"mkfs.ext4 -q '{image}' && mount -o loop '{image}' '{disk}'"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    try:
        probe = subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `unshare` here to mount a small disk with")
    if probe.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {probe.stderr.strip()}")
    return subprocess.run(
        [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, *arguments],
        capture_output=True, text=True, timeout=120, cwd=_ROOT,
    )  # fmt: skip

"""Bytes on disk are read, mapped and digested, whether they are a file or a part of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from rekindle import extents
from rekindle.extents import Extent, Held
from rekindle.files import FileRecord

PAGE = 4096


def content(size: int) -> bytes:
    return np.random.default_rng(3).bytes(size)


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, (4 << 20) + 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = content(size)
    (tmp_path / "x").write_bytes(data)
    whole = extents.whole(tmp_path / "x")
    assert whole.digest() == FileRecord(size, blake3(data).hexdigest())
    assert whole.read() == data


@pytest.mark.parametrize("begin", [0, 1, 64, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1])
@pytest.mark.parametrize("is_held", [False, True])
def test_a_part_of_a_file_is_read_mapped_and_digested(
    tmp_path: Path, begin: int, size: int, is_held: bool
) -> None:
    path = tmp_path / "x"
    data = content(5 * PAGE)
    path.write_bytes(data)
    part = Extent(path, size, begin, Held(path) if is_held else None)
    expected = data[begin : begin + size]
    assert part.read() == expected
    assert part.map().tobytes() == expected
    assert part.digest() == FileRecord(size, blake3(expected).hexdigest())
    assert b"".join(map(bytes, part.chunks())) == expected


def test_changing_what_is_mapped_does_not_change_the_file_or_another_map(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdef")
    parts = [Extent(tmp_path / "x", 3, begin).map() for begin in (0, 2)]
    parts[0][2] = ord("z")
    assert [bytes(part) for part in parts] == [b"abz", b"cde"]
    assert (tmp_path / "x").read_bytes() == b"abcdef"


def test_a_file_that_is_held_stays_the_same_when_another_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    held = Extent(path, 3, 0, Held(path))
    named = Extent(path, 3)
    (tmp_path / "y").write_bytes(b"new")
    os.replace(tmp_path / "y", path)  # noqa: PTH105
    assert (held.read(), named.read()) == (b"old", b"new")
    assert held.map().tobytes() == b"old"
    path.unlink()
    assert held.digest().blake3 == blake3(b"old").hexdigest()


def test_what_was_cut_off_meanwhile_is_shorter_and_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abcdef")
    whole = extents.whole(path)
    os.truncate(path, 4)
    assert whole.read() == b"abcd"
    assert whole.digest() == FileRecord(4, blake3(b"abcd").hexdigest())


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content(10))
    before = num_open_files()
    for num_held in (0, 1):
        part = Extent(path, 10, 0, Held(path) if num_held else None)
        part.read()
        part.digest()
        assert num_open_files() == before + num_held
        mapped = part.map()
        del part
        assert mapped.size == 10
        del mapped
        assert num_open_files() == before


def test_a_copy_has_the_bytes_of_the_part_and_only_these(tmp_path: Path) -> None:
    data = content((4 << 20) + 5)
    (tmp_path / "x").write_bytes(data)
    found = extents.copy(Extent(tmp_path / "x", len(data) - 7, 3), tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == data[3:-4]
    assert found == FileRecord(len(data) - 7, blake3(data[3:-4]).hexdigest())


def test_a_copy_that_fails_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(content(10))

    def failing(*_: Any) -> None:
        raise OSError("no disk")

    before = num_open_files()
    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="no disk"):
        extents.copy(extents.whole(tmp_path / "x"), Path(tmp_path / "y"))
    assert num_open_files() == before

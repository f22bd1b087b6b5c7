from __future__ import annotations

from pathlib import Path

import pytest

from rekindle import spans
from rekindle.errors import DamagedError, NotFoundError


def test_a_file_is_mapped_and_a_part_of_it_is_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    span = spans.of_file(path)
    part = span.part(2, 7, "part")
    assert (len(span), len(part)) == (10, 5)
    assert part.bytes() == b"23456"
    assert part.bytes(1, 3) == b"34"
    assert part.bytes(3, 100) == b"56"
    assert bytes(part.view(1)) == b"3456"
    assert part.name == f"{path}:part"
    part.array()[0] = ord("x")
    assert span.bytes(0, 4) == b"01x3"
    assert path.read_bytes() == b"0123456789"  # copy-on-write


def test_an_empty_file_is_an_empty_span(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert spans.of_file(path).bytes() == b""


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (0, 11), (5, 4), (11, 11)])
def test_a_part_that_leaves_is_damage(begin: int, end: int) -> None:
    with pytest.raises(DamagedError, match="x inside 10 bytes"):
        spans.of_bytes(b"0123456789", "file").part(begin, end, "x")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a directory"):
        spans.of_file(tmp_path)
    with pytest.raises(NotFoundError, match="nothing"):
        spans.of_file(tmp_path / "none")

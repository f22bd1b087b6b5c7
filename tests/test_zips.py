from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.hostile import corpus

from rekindle import spans
from rekindle.errors import (
    DamagedError,
    FormatError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.limits import Budget
from rekindle.zips import Zip, is_zip

MEMBERS = {"a.txt": b"text", "folder/b.bin": bytes(range(256)) * 40, "empty": b"", "é.txt": b"x"}
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def packed(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in (members or MEMBERS).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def opened(data: bytes, max_bytes: int | None = None) -> Zip:
    return Zip(spans.of_bytes(data, "archive"), Budget(max_bytes, "archive"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_comes_back(method: int) -> None:
    archive = opened(packed(method))
    assert list(archive) == list(MEMBERS)
    assert len(archive) == len(MEMBERS)
    for name, data in MEMBERS.items():
        assert archive.span(name).bytes() == data
        assert archive.size(name) == len(data)
        assert name in archive


def test_an_archive_that_was_written_as_a_stream_is_read() -> None:
    class Stream(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(data)  # type: ignore[arg-type]

    stream = Stream()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in MEMBERS.items():
            with archive.open(name, "w") as member:
                member.write(data)
    found = opened(stream.data)
    assert {name: found.span(name).bytes() for name in found} == MEMBERS


def test_an_archive_with_large_numbers_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a", "w", force_zip64=True) as out:
        out.write(b"data")
    assert opened(buffer.getvalue()).span("a").bytes() == b"data"
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(70_000):
            archive.writestr(str(index), b"")
    assert len(Zip(spans.of_file(path), Budget())) == 70_000


def test_stored_members_stay_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(packed())
    span = spans.of_file(path)
    member = Zip(span, Budget()).span("folder/b.bin")
    assert np.shares_memory(member.array(), span.array())
    assert member.name == f"{path}:folder/b.bin"


def test_a_member_that_is_an_archive_is_read_in_place() -> None:
    outer = opened(packed(zipfile.ZIP_STORED, **{"inner.zip": packed()}))
    inner = Zip(outer.span("inner.zip"), Budget())
    assert inner.span("a.txt").bytes() == b"text"
    assert inner.name == "archive:inner.zip"


def test_a_comment_is_passed_over() -> None:
    data = corpus._commented(packed(), b"a comment")
    assert len(opened(data)) == len(MEMBERS)


def test_what_is_no_archive_is_not() -> None:
    for data in (b"", b"PK", b"text" * 100):
        assert not is_zip(spans.of_bytes(data, "x"))
        with pytest.raises(FormatError):
            opened(data)
    assert is_zip(spans.of_bytes(packed(), "x"))
    with pytest.raises(NotFoundError, match="a member 'z'"):
        opened(packed()).span("z")


@pytest.mark.parametrize("end", range(4, 300, 7))
def test_every_cut_is_damage(end: int) -> None:
    data = packed(a=b"0123456789", b=b"x" * 50)
    with pytest.raises(DamagedError):
        opened(data[: min(end, len(data) - 1)])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_in_a_member_is_found(method: int) -> None:
    data = bytearray(packed(method, a=b"0123456789" * 20))
    data[40] ^= 4
    with pytest.raises(DamagedError, match="a: expected"):
        opened(bytes(data)).span("a")


CHANGES = {
    "a name of its own": (LOCAL, 30, b"z"),
    "a method of its own": (LOCAL, 8, b"\x08\x00"),
    "a size of its own": (LOCAL, 22, struct.pack("<I", 3)),
    "a checksum of its own": (LOCAL, 14, b"abcd"),
    "a lock of its own": (LOCAL, 6, b"\x01\x00"),
    "no sign": (LOCAL, 0, b"PKxx"),
    "room for more than there is": (LOCAL, 28, b"\x05\x00"),
    "a header that reaches over all": (LOCAL, 28, b"\xff\xff"),
    "an offset that leaves": (CENTRAL, 42, struct.pack("<I", 10**6)),
    "another offset": (CENTRAL, 42, struct.pack("<I", 5)),
    "a size in the directory": (CENTRAL, 24, struct.pack("<I", 3)),
    "another disk": (END, 4, b"\x01\x00"),
    "another count": (END, 8, struct.pack("<2H", 7, 7)),
    "another directory": (END, 16, struct.pack("<I", 7)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_two_words_about_one_member_are_damage(change: str) -> None:
    sign, offset, value = CHANGES[change]
    data = packed(a=b"0123456789")
    with pytest.raises((DamagedError, FormatError)):
        opened(corpus._patched(data, sign, offset, value)).span("a")


def test_bytes_that_reach_into_the_next_member_are_damage() -> None:
    data = corpus._patched(packed(a=b"0123456789", b=b"x" * 50), LOCAL, 28, b"\x05\x00")
    with pytest.raises(DamagedError, match="bytes up to what follows it, found more"):
        opened(data).span("a")


def test_what_nobody_can_read_is_unsupported() -> None:
    data = packed(a=b"0123456789")
    for offset, value, word in ((8, b"\x01\x00", "encrypted"), (10, b"\x63\x00", "method 99")):
        both = corpus._patched(data, CENTRAL, offset, value)
        both = corpus._patched(both, LOCAL, offset - 2, value)
        with pytest.raises(UnsupportedError, match=word):
            opened(both).span("a")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:/x", "a\\x", "a//x", "."])
def test_names_that_could_lead_outside_are_refused(name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(UnsafeError, match="plain names"):
        opened(buffer.getvalue())


def test_a_name_twice_and_bytes_around_it_are_refused() -> None:
    with pytest.raises(FormatError, match="two of this name"):
        opened(corpus._twice(b"1", b"2"))
    for data in (b"#!" + packed(), packed() + b"x", packed() + packed(b=b"x")):
        with pytest.raises((DamagedError, FormatError)):
            opened(data)


def test_unpacking_is_bounded() -> None:
    data = packed(zipfile.ZIP_DEFLATED, a=bytes(10_000_000))
    with pytest.raises(UnsafeError, match="max_bytes"):
        opened(data, 1_000_000).span("a")
    lying = corpus._patched(data, CENTRAL, 24, struct.pack("<I", 10))
    lying = corpus._patched(lying, LOCAL, 22, struct.pack("<I", 10))
    with pytest.raises(DamagedError, match="another number"):
        opened(lying, 1_000_000).span("a")

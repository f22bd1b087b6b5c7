"""An archive is a ZIP file for everyone, is mapped in place, and every byte of it is held."""

from __future__ import annotations

import binascii
import errno
import io
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle import archive, files, places
from rekindle import zip_records as records
from rekindle.archive import Archive, NewArchive
from rekindle.errors import DamagedError, FormatError, NotFoundError, UnsafeError
from rekindle.files import FileRecord

MEMBERS = {
    "first.json": b'{"root": 1}',
    "inside/rows.000000.safetensors": bytes(range(256)) * 20,
    "empty": b"",
    "last.json": b"{}" * 40,
}
"""Of each kind: small, in a folder, a page or more, and none."""


def write(path: Path, members: Mapping[str, bytes], piece_bytes: int = 1000) -> Path:
    """Make an archive; every second member comes piece by piece."""
    new = NewArchive(path, sum(map(len, members.values())))
    try:
        for number, (name, data) in enumerate(members.items()):
            if number % 2 == 0:
                found = new.write(name, data)
            else:
                output = files.output(new.target(name), len(data))
                for begin in range(0, len(data), piece_bytes):
                    output.write(data[begin : begin + piece_bytes])
                found = output.close()
            assert found == FileRecord(len(data), blake3(data).hexdigest())
        new.close()
    finally:
        new.abandon()
    return path


def content(path: Path) -> dict[str, bytes]:
    found = Archive(path)
    return {name: found.extent(name).read() for name in found.names()}


def expected(members: Mapping[str, bytes]) -> dict[str, FileRecord]:
    return {name: FileRecord(len(data), files.digest(data)) for name, data in members.items()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write(tmp_path / "x.zip", MEMBERS)


# --------------------------------------------------------------------------- what is written


def test_the_standard_library_reads_it(made: Path) -> None:
    with zipfile.ZipFile(made) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == MEMBERS
        assert {info.compress_type for info in found.infolist()} == {zipfile.ZIP_STORED}


def test_unzip_reads_it(made: Path, tmp_path: Path) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("there is no `unzip` here")
    done = subprocess.run(
        ["unzip", "-d", tmp_path / "out", made], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    assert {path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*") if path.is_file()} == MEMBERS  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o644}


def test_every_member_begins_where_it_can_be_mapped(made: Path) -> None:
    found = Archive(made)
    for name, data in MEMBERS.items():
        extent = found.extent(name)
        assert extent.begin % (4096 if len(data) >= 4096 else 64) == 0
        assert extent.map().tobytes() == data


def test_the_same_members_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "another.zip", MEMBERS, piece_bytes=77)
    assert again.read_bytes() == made.read_bytes()


def specified(members: Mapping[str, bytes]) -> bytes:
    """An archive as docs/format.md, "One file", says to write it; nothing of ours is in here."""

    def common(name: bytes, data: bytes) -> bytes:
        flags = 0 if name.isascii() else 1 << 11
        crc = binascii.crc32(data)
        return struct.pack("<HHHHHIIIH", 20, flags, 0, 0, 33, crc, len(data), len(data), len(name))

    body = directory = b""
    for text, data in members.items():
        name, offset = text.encode(), len(body)
        begin = offset + 30 + len(name) + 4
        zeros = -begin % (4096 if len(data) >= 4096 else 64)
        body += b"PK\x03\x04" + common(name, data) + struct.pack("<H", 4 + zeros) + name
        body += struct.pack("<HH", 0x6B72, zeros) + bytes(zeros) + data
        directory += b"PK\x01\x02" + bytes([20, 3]) + common(name, data)
        directory += struct.pack("<HHHHII", 0, 0, 0, 0, 0x81A40000, offset) + name
    count = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def test_a_writer_made_from_the_specification_gives_the_same_bytes(tmp_path: Path) -> None:
    members = {**MEMBERS, "größe.json": b"{}", "a page": bytes(4096), "less": bytes(4095)}
    assert write(tmp_path / "x.zip", members).read_bytes() == specified(members)


@pytest.mark.parametrize("order", [1, -1])
def test_members_written_at_once_and_piece_by_piece_are_the_same(
    tmp_path: Path, order: int
) -> None:
    members = dict([*MEMBERS.items()][::order])
    one = write(tmp_path / "a.zip", members)
    new = NewArchive(tmp_path / "b.zip", 0)
    for name, data in members.items():
        new.write(name, data)
    new.close()
    assert (tmp_path / "b.zip").read_bytes() == one.read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")
def test_space_is_taken_for_a_member_as_it_begins_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * files.DIRECT_BYTES
    taken: list[int] = []
    reserve = files._reserve
    monkeypatch.setattr(files, "_reserve", lambda fd, n: (taken.append(n), reserve(fd, n)))
    new = NewArchive(tmp_path / "x.zip", 1 << 50)
    new.write("before", bytes(100))
    output = files.output(new.target("large"), size)
    if not new._output._direct:
        pytest.skip("this disk takes no direct writes")
    assert taken == [4096 + size]
    assert (tmp_path / "x.zip").stat().st_size == 4096 + size
    output.write(bytes(size))
    output.close()
    new.close()
    assert Archive(tmp_path / "x.zip").extent("large").size == size

    def full(fd: int, num_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_reserve", full)
    new = NewArchive(tmp_path / "y.zip", size)
    with pytest.raises(OSError, match="No space left"):
        files.output(new.target("large"), size)
    new.write("small", b"")
    new.abandon()


def test_a_large_member_takes_the_path_of_direct_writes(tmp_path: Path) -> None:
    data = np.random.default_rng(3).bytes(3 * files.DIRECT_BYTES + 17)
    members = {"a": b"x" * 5000, "b": data, "c": b"y", "d": data[:-1]}
    write(tmp_path / "x.zip", members, piece_bytes=1_000_003)
    assert content(tmp_path / "x.zip") == members
    with zipfile.ZipFile(tmp_path / "x.zip") as found:
        assert found.testzip() is None


NAMES = st.text(st.sampled_from("aZ09_-. é"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    members=st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join).filter(files.is_plain),
        st.tuples(st.integers(0, 255), st.sampled_from([0, 1, 63, 64, 65, 4095, 4096, 4097, 9000])),
        max_size=8,
    )
)
def test_whatever_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, tuple[int, int]]
) -> None:
    wanted = {name: bytes([value]) * size for name, (value, size) in members.items()}
    folders = {name[:end] for name in wanted for end, sign in enumerate(name) if sign == "/"}
    wanted = {name: data for name, data in wanted.items() if name not in folders}
    path = tmp_path_factory.mktemp("x") / "x.zip"
    write(path, wanted)
    assert content(path) == wanted
    assert places.check_files(Archive(path), expected(wanted), set()) == []
    with zipfile.ZipFile(path) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == wanted


class Sparse:
    """Stands for `files.Output` where zeros are not worth writing."""

    def __init__(self, path: Path, size_bytes: int, *, in_parts: bool) -> None:
        self._file = path.open("xb")

    @property
    def position(self) -> int:
        return self._file.tell()

    def begin_part(self, size_bytes: int) -> None:
        pass

    def end_part(self) -> tuple[str, int]:
        return "0" * 64, 0

    def write(self, data: Any) -> None:
        if isinstance(data, bytes):
            self._file.write(data)
        else:
            self._file.seek(data.nbytes, os.SEEK_CUR)

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


@pytest.mark.parametrize("size", [(1 << 32) - 2, (1 << 32) - 1, (1 << 32) + 5])
def test_sizes_of_more_than_32_bits_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(files, "Output", Sparse)
    new = NewArchive(tmp_path / "x.zip", size)
    new.write("before", b"before")
    output = files.output(new.target("large"), size)
    output.write(np.broadcast_to(np.uint8(0), size))
    output.close()
    new.write("after", b"after it")
    new.close()

    found = Archive(tmp_path / "x.zip")
    assert found.flaws() == []
    assert found.extent("large").size == size
    assert found.extent("large").begin % 4096 == 0
    assert found.extent("after").read() == b"after it"
    assert found.extent("after").begin > size
    with zipfile.ZipFile(tmp_path / "x.zip") as other:
        assert [info.file_size for info in other.infolist()] == [6, size, 8]
        assert other.read("after") == b"after it"
        with other.open("large") as member:
            assert member.read(10) == bytes(10)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one member more than 16 bits can count, so that its end is told twice."""
    path = tmp_path_factory.mktemp("many") / "x.zip"
    new = NewArchive(path, 0)
    for number in range((1 << 16) - 1):
        new.write(f"{number}", b"")
    new.close()
    return path


def test_more_members_than_16_bits_can_count_are_kept(many: Path) -> None:
    assert len(Archive(many).names()) == (1 << 16) - 1
    with zipfile.ZipFile(many) as other:
        assert len(other.namelist()) == (1 << 16) - 1
    assert len(records.end_records((1 << 16) - 2, 0, 0)) == 22
    assert len(records.end_records((1 << 16) - 1, 0, 0)) == 22 + 20 + 56


@pytest.mark.parametrize("is_streamed", [False, True])
def test_one_member_is_written_after_the_other(tmp_path: Path, is_streamed: bool) -> None:
    new = NewArchive(tmp_path / "x.zip", 0)
    started = threading.Event()

    def second() -> None:
        started.set()
        if not is_streamed:
            new.write("second", b"two")
            return
        output = files.output(new.target("second"), 3)
        output.write(b"two")
        output.close()

    first = files.output(new.target("first"), 4)
    first.write(b"on")
    thread = threading.Thread(target=second)
    thread.start()
    assert started.wait(10)
    thread.join(0.1)
    assert thread.is_alive()
    first.write(b"ce")
    first.close()
    thread.join(10)
    assert not thread.is_alive()
    new.close()
    assert content(tmp_path / "x.zip") == {"first": b"once", "second": b"two"}


def test_a_member_has_the_size_that_was_announced(tmp_path: Path) -> None:
    new = NewArchive(tmp_path / "x.zip", 0)
    output = files.output(new.target("a"), 4)
    output.write(b"abc")
    with pytest.raises(OSError, match="1 bytes are missing") as raised:
        output.close()
    assert raised.value.errno == errno.EIO
    output = files.output(new.target("b"), 1)
    with pytest.raises(ValueError, match="expected 1 more bytes, found 2"):
        output.write(b"ab")
    output.abandon()
    with pytest.raises(ValueError, match="written already"):
        new.write("b", b"")
    with pytest.raises(UnsafeError, match="not a plain path"):
        new.write("../c", b"")
    with pytest.raises(ValueError, match="given up half-way"):
        new.close()
    new.abandon()


def test_an_archive_that_is_given_up_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    new = NewArchive(tmp_path / "x.zip", files.DIRECT_BYTES)
    output = files.output(new.target("a"), files.DIRECT_BYTES)
    output.write(bytes(3 << 20))
    output.abandon()
    new.abandon()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not [t for t in threading.enumerate() if t.name.startswith("rekindle-output")]


# --------------------------------------------------------------------------- what is read


def other_archive(path: Path, members: Mapping[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def test_what_others_have_stored_is_read(tmp_path: Path) -> None:
    members = {**MEMBERS, "größe": b"utf-8", "a folder/": b"", "a folder/inside": b"x"}
    path = other_archive(tmp_path / "x.zip", members)
    del members["a folder/"]
    assert content(path) == members
    assert places.check_files(Archive(path), expected(members), set()) == []


def test_what_others_have_stored_with_sizes_of_64_bits_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        for name in ("a", "b"):
            with new.open(name, "w", force_zip64=True) as member:
                member.write(name.encode() * 9)
    assert content(tmp_path / "x.zip") == {"a": b"a" * 9, "b": b"b" * 9}


def test_what_the_program_zip_has_stored_is_read(tmp_path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("there is no `zip` here")
    for name, data in MEMBERS.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["zip", "-0qr", tmp_path / "x.zip", "."], cwd=tmp_path / "in", check=True)
    assert content(tmp_path / "x.zip") == MEMBERS
    assert places.check_files(Archive(tmp_path / "x.zip"), expected(MEMBERS), set()) == []


def test_an_archive_stays_the_same_when_another_takes_its_name(made: Path, tmp_path: Path) -> None:
    found = Archive(made)
    extent = found.extent("first.json")
    os.replace(write(tmp_path / "y.zip", {"first.json": b"other"}), made)  # noqa: PTH105
    assert extent.read() == MEMBERS["first.json"]
    assert found.extent("last.json").read() == MEMBERS["last.json"]
    assert content(made) == {"first.json": b"other"}


def test_an_archive_that_nobody_uses_is_closed(made: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    found = Archive(made)
    mapped = found.extent("first.json").map()
    assert len(os.listdir("/proc/self/fd")) == before + 2  # noqa: PTH208
    del found, mapped
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_an_empty_archive_is_one(tmp_path: Path) -> None:
    for make in (write, other_archive):
        path = make(tmp_path / f"{make.__name__}.zip", {})
        assert archive.is_archive(path)
        assert Archive(path).names() == []


def test_only_a_file_that_begins_or_ends_like_one_is_an_archive(made: Path, tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"PK", b"hello" * 10, b"\x93NUMPY" * 20)):
        (tmp_path / f"{number}").write_bytes(data)
        assert not archive.is_archive(tmp_path / f"{number}")
    os.mkfifo(tmp_path / "pipe")
    assert not archive.is_archive(tmp_path / "pipe")
    assert not archive.is_archive(tmp_path)
    assert not archive.is_archive(tmp_path / "missing")
    assert archive.is_archive(made)


def test_a_member_that_is_missing_is_not_found(made: Path) -> None:
    with pytest.raises(NotFoundError, match="manifest lists") as raised:
        Archive(made).extent("policy.json")
    assert raised.value.key == "policy.json"
    with pytest.raises(UnsafeError):
        Archive(made).extent("../first.json")


# --------------------------------------------------------------------------- damage


def regions(path: Path) -> dict[str, range]:
    """The bytes of each member's header and data, of the directory and of the end."""
    found = Archive(path)
    order = sorted(found._members.values(), key=lambda member: member.offset)
    parts = {}
    for member in order:
        begin = found.extent(member.name).begin
        parts[f"header of {member.name}"] = range(member.offset, begin)
        parts[f"data of {member.name}"] = range(begin, member.limit)
    end = path.stat().st_size - 22
    parts["directory"] = range(found._directory_begin, end)
    parts["end"] = range(end, end + 22)
    return parts


def found_in(path: Path) -> list[str]:
    """Names of what is damaged; the archive's own where it cannot be read."""
    try:
        found = Archive(path)
    except DamagedError as error:
        return [difference.key for difference in error.differences]
    return [difference.key for difference in places.check_files(found, expected(MEMBERS), set())]


def test_every_flipped_byte_is_found_and_costs_no_more_than_its_member(made: Path) -> None:
    parts = regions(made)
    assert sum(map(len, parts.values())) == made.stat().st_size
    fd = os.open(made, os.O_RDWR)
    try:
        for region, offsets in parts.items():
            _, _, owner = region.partition(" of ")
            # Long runs of zeros, and of data under a digest, are alike.
            for offset in [*offsets[:300], *offsets[300::17], *offsets[-1:]]:
                before = os.pread(fd, 1, offset)
                os.pwrite(fd, bytes([before[0] ^ (1 << offset % 8)]), offset)
                assert archive.is_archive(made)
                found = found_in(made)
                if owner:
                    assert set(found) == {owner}, (region, offset)
                    for name in MEMBERS.keys() - {owner}:
                        assert Archive(made).extent(name).read() == MEMBERS[name]
                else:
                    assert found, (region, offset)
                os.pwrite(fd, before, offset)
    finally:
        os.close(fd)
    assert found_in(made) == []


def test_an_archive_that_was_cut_off_is_damaged_wherever_it_was_cut(made: Path) -> None:
    data = made.read_bytes()
    for size in (*range(4, 400, 7), *range(400, len(data), 97), *range(len(data) - 150, len(data))):
        made.write_bytes(data[:size])
        assert archive.is_archive(made)
        with pytest.raises(DamagedError, match="cut off"):
            Archive(made)


@pytest.mark.parametrize("more", [b"\0", b"garbage", b"PK\x05\x06", bytes(70_000)])
def test_what_was_appended_or_put_before_is_damage(made: Path, more: bytes) -> None:
    data = made.read_bytes()
    for changed in (data + more, more + data):
        made.write_bytes(changed)
        with pytest.raises(DamagedError):
            Archive(made)


def test_an_archive_behind_a_program_is_refused(tmp_path: Path) -> None:
    """As those that unpack themselves: the numbers in it count what stands before."""
    path = tmp_path / "x.zip"
    path.write_bytes(b"#!/bin/sh\nrm -rf ~\n")
    with zipfile.ZipFile(path, "a") as new:
        new.writestr("a", b"1")
    assert archive.is_archive(path)
    with pytest.raises(DamagedError, match="first member at byte 0, found one at 19"):
        Archive(path)


# --------------------------------------------------------------------------- what is refused


def field(data: bytearray, sign: bytes, name: bytes, offset: int, value: bytes) -> None:
    """Change a field of a member's header: of its own, or of its entry in the directory."""
    length = {records.LOCAL_SIGN: 30, records.CENTRAL_SIGN: 46}[sign]
    begin = -1
    while True:
        begin = data.index(sign, begin + 1)
        if data[begin + length : begin + length + len(name)] == name:
            break
    data[begin + offset : begin + offset + len(value)] = value


def both(data: bytearray, name: bytes, local: int, value: bytes) -> None:
    """The same field in both headers; the entry has two bytes more before it."""
    field(data, records.LOCAL_SIGN, name, local, value)
    field(data, records.CENTRAL_SIGN, name, local + 2, value)


def changed(path: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def test_compressed_members_are_refused_and_others_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        new.writestr("stored", b"x" * 100)
        new.writestr("deflated", b"x" * 100, zipfile.ZIP_DEFLATED)
    found = Archive(tmp_path / "x.zip")
    assert found.extent("stored").read() == b"x" * 100
    with pytest.raises(FormatError, match=r"'deflated' .*compressed.*`rekindle pack`") as raised:
        found.extent("deflated")
    assert raised.value.key == "deflated"


def test_a_bomb_of_compressed_zeros_is_refused_before_it_swells(tmp_path: Path) -> None:
    path = other_archive(tmp_path / "x.zip", {"a": bytes(50 << 20)}, compression=8)
    assert path.stat().st_size < 100_000
    with pytest.raises(FormatError, match="compressed"):
        Archive(path).extent("a")


def test_a_bomb_of_members_that_share_their_bytes_is_refused(tmp_path: Path) -> None:
    """One kernel of data under many names, as David Fifield's overlapping bombs do it."""
    kernel = bytes(1000)
    crc = zlib.crc32(kernel)
    member = records.Member("a", 1000, crc, 0)
    directory = b"".join(
        records.Member(f"{number}", 1000, crc, 0).central_header() for number in range(500)
    )
    data = member.local_header() + kernel
    path = tmp_path / "x.zip"
    path.write_bytes(data + directory + records.end_records(500, len(directory), len(data)))
    with pytest.raises(DamagedError, match="to end before what follows it"):
        Archive(path)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", {"a": b"1" * 100, "b": b"2" * 100})
    size = (200).to_bytes(4, "little")
    for shown in (18, 22):
        changed(path, lambda data, shown=shown: both(data, b"a", shown, size))
    with pytest.raises(DamagedError, match="'a' to end before what follows it"):
        Archive(path)


def test_room_between_members_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", {"a": b"1" * 100, "b": b"2" * 100})
    size = (90).to_bytes(4, "little")
    for shown in (18, 22):
        changed(path, lambda data, shown=shown: both(data, b"a", shown, size))
    found = Archive(path)
    with pytest.raises(DamagedError, match="100 bytes up to what follows it, found 90") as raised:
        found.extent("a")
    assert raised.value.key == "a"
    assert found.extent("b").read() == b"2" * 100
    told = places.check_files(found, expected({"a": b"1" * 90, "b": b"2" * 100}), set())
    assert [difference.key for difference in told] == ["a"]


FLAGS = {
    "encrypted": (0x0001, "encrypted"),
    "strongly encrypted": (0x0041, "encrypted"),
    "sizes after the data": (0x0008, "sizes before its bytes"),
    "patched data": (0x0020, "no flags"),
    "a masked header": (0x2000, "no flags"),
}


@pytest.mark.parametrize(("flags", "said"), FLAGS.values(), ids=FLAGS)
def test_members_of_other_kinds_are_refused(tmp_path: Path, flags: int, said: str) -> None:
    path = write(tmp_path / "x.zip", {"a": b"1", "b": b"2"})
    changed(path, lambda data: both(data, b"a", 6, flags.to_bytes(2, "little")))
    found = Archive(path)
    with pytest.raises(FormatError, match=said) as raised:
        found.extent("a")
    assert raised.value.key == "a"
    assert found.extent("b").read() == b"2"


def test_an_archive_that_was_streamed_is_refused(tmp_path: Path) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a stream")

    stream = Stream()
    with zipfile.ZipFile(stream, "w") as new:
        new.writestr("a", b"1")
    (tmp_path / "x.zip").write_bytes(stream.getvalue())
    with pytest.raises((FormatError, DamagedError)):
        Archive(tmp_path / "x.zip").extent("a")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a")
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        new.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeError, match="symbolic link"):
        Archive(tmp_path / "x.zip").extent("a")


def crafted(path: Path, members: Mapping[str, bytes]) -> Path:
    """An archive whose members may have any name, one after the other."""
    data = directory = b""
    for name, held in members.items():
        member = records.Member(name, len(held), zlib.crc32(held), len(data))
        data += member.local_header() + held
        directory += member.central_header()
    path.write_bytes(
        data + directory + records.end_records(len(members), len(directory), len(data))
    )
    return path


UNSAFE = ["../a", "/a", "a/../b", "a//b", "./a", "a\\b", "C:/a", "C:a", "..", "", "a/./b", "../",
          "policy\0json", "/"]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = crafted(tmp_path / "x.zip", {"good": b"1", name: b""})
    with pytest.raises(UnsafeError, match="plain names") as raised:
        Archive(path)
    assert raised.value.key == name


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((("a", "a"), ("a", "a/"), ("a/", "a/"), ("a", "a/b"))):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as new:
            for name in names:
                new.writestr(name, b"")
        with pytest.raises(FormatError, match=r"two of this name|a file of this name"):
            Archive(tmp_path / f"{number}.zip")


def test_a_folder_with_bytes_is_refused(tmp_path: Path) -> None:
    path = other_archive(tmp_path / "x.zip", {"a/": b"hidden"})
    with pytest.raises(FormatError, match="without bytes"):
        Archive(path)


def test_a_comment_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        new.writestr("a", b"1")
        new.comment = b"hello"
    with pytest.raises(FormatError, match="no comment at its end, found one of 5 bytes"):
        Archive(tmp_path / "x.zip")


HEADERS = {
    "name": (30, b"A"),
    "flags": (6, b"\0\x08"),
    "method": (8, b"\x08\0"),
    "time": (10, b"\x01\0"),
    "date": (12, b"\x22\0"),
    "CRC-32": (14, b"none"),
    "stored size": (18, b"\x05\0\0\0"),
    "size": (22, b"\x05\0\0\0"),
}


@pytest.mark.parametrize("key", HEADERS)
@pytest.mark.parametrize("sign", [records.LOCAL_SIGN, records.CENTRAL_SIGN])
def test_headers_that_disagree_are_damage_of_their_member(
    tmp_path: Path, key: str, sign: bytes
) -> None:
    path = write(tmp_path / "x.zip", {"a1": b"1" * 6, "b1": b"2"})
    offset, value = HEADERS[key]
    if sign == records.CENTRAL_SIGN:
        offset += 16 if key == "name" else 2
    changed(path, lambda data: field(data, sign, b"a1", offset, value))
    found = Archive(path)
    name = "A1" if (key, sign) == ("name", records.CENTRAL_SIGN) else "a1"
    with pytest.raises(DamagedError, match=key) as raised:
        found.extent(name)
    assert raised.value.key == name
    assert found.extent("b1").read() == b"2"


ENDS: dict[str, tuple[int, bytes]] = {
    "a number of its disk": (4, b"\x01\0"),
    "a number of the directory's disk": (6, b"\x01\0"),
    "fewer members here": (8, b"\x01\0"),
    "fewer members": (8, b"\x01\0\x01\0"),
    "more members": (8, b"\x09\0\x09\0"),
    "members in records of 64 bits": (8, b"\xff\xff\xff\xff"),
    "another size": (12, b"\x10\0\0\0"),
    "another beginning": (16, b"\x10\0\0\0"),
    "a beginning outside": (16, b"\xfe\xff\xff\xff"),
    "a beginning in a record of 64 bits": (16, b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize(("offset", "value"), ENDS.values(), ids=ENDS)
def test_an_end_that_is_wrong_is_damage(made: Path, offset: int, value: bytes) -> None:
    def change(data: bytearray) -> None:
        begin = len(data) - 22 + offset
        data[begin : begin + len(value)] = value

    with pytest.raises(DamagedError):
        Archive(changed(made, change))


def test_records_of_64_bits_that_disagree_are_damage(many: Path) -> None:
    size = many.stat().st_size
    begin = size - 22 - 20 - 56
    fd = os.open(many, os.O_RDWR)
    try:
        assert os.pread(fd, 4, begin) == records.END_64_SIGN
        for offset in range(begin, size):
            if begin + 12 <= offset < begin + 16:
                continue  # versions, which nobody needs to read it; `flaws` holds them
            before = os.pread(fd, 1, offset)
            os.pwrite(fd, bytes([before[0] ^ 1]), offset)
            with pytest.raises(DamagedError):
                Archive(many)
            os.pwrite(fd, before, offset)
    finally:
        os.close(fd)
    assert len(Archive(many).names()) == (1 << 16) - 1


def test_a_directory_beyond_all_reason_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_LARGEST_DIRECTORY_BYTES", 100)
    with pytest.raises(FormatError, match="at most 100 bytes"):
        Archive(made)


def test_what_says_it_is_larger_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    """A size of terabytes in a file of a few hundred bytes."""
    member = records.Member("a", 1 << 43, 0, 0)
    head, entry = member.local_header(), member.central_header()
    path = tmp_path / "x.zip"
    path.write_bytes(head + entry + records.end_records(1, len(entry), len(head)))
    with pytest.raises(DamagedError, match="to end before what follows it"):
        Archive(path)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)),
        min_size=1, max_size=4,
    ),
    where=st.sampled_from(["anywhere", "directory", "end"]),
)  # fmt: skip
def test_whatever_is_changed_ends_in_an_error_of_ours_or_in_the_same_members(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, bytes]], where: str
) -> None:
    path = write(tmp_path_factory.mktemp("x") / "x.zip", MEMBERS)
    offsets = {"anywhere": range(path.stat().st_size), **regions(path)}[where]
    data = bytearray(path.read_bytes())
    before = bytes(data)
    for share, value in changes:
        begin = offsets[int(share * len(offsets))]
        data[begin : begin + len(value)] = value[: len(data) - begin]
    path.write_bytes(data)
    try:
        differences = places.check_files(Archive(path), expected(MEMBERS), set())
    except (DamagedError, FormatError, UnsafeError):
        return
    assert bool(differences) == (bytes(data) != before)

"""Headers of an archive have the sizes, the order and the padding that a reader expects."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle import zip_records as records
from rekindle.zip_records import Member, Records

SIZES = st.one_of(
    st.integers(0, 10_000),
    st.integers(records.FULL_32 - 2, records.FULL_32 + 2),
    st.integers(0, 1 << 62),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def test_records_have_the_sizes_of_the_specification() -> None:
    sizes = {part.size for part in (records.LOCAL, records.CENTRAL, records.END)}
    assert sizes == {30, 46, 22}
    assert (records.END_64.size, records.LOCATOR.size) == (56, 20)


@given(NAMES, SIZES, SIZES)
def test_bytes_begin_aligned_after_a_header_and_are_found_again(
    name: str, size: int, offset: int
) -> None:
    member = Member(name, size, 7, offset)
    header = member.local_header()
    assert (offset + len(header)) % (4096 if size >= 4096 else 64) == 0
    fields = records.LOCAL.unpack_from(header)
    length, length_extra = fields[-2:]
    assert header[30 : 30 + length].decode() == name
    assert len(header) == 30 + length + length_extra
    extra = header[30 + length :]
    assert records.large_numbers(extra, fields[7:9]) == (size, size)
    found = dict(records.extra_fields(extra))
    assert not any(found[records.PADDING])
    assert len(found[records.PADDING]) < 4096
    assert bool(fields[2] & records.UTF_8) == (not name.isascii())


@given(NAMES, SIZES, SIZES)
def test_an_entry_of_the_directory_says_the_same(name: str, size: int, offset: int) -> None:
    member = Member(name, size, 7, offset)
    entry, header = member.central_header(), member.local_header()
    fields, local = records.CENTRAL.unpack_from(entry), records.LOCAL.unpack_from(header)
    assert fields[2:11] == local[1:10]
    length, length_extra = fields[10:12]
    extra = entry[46 + length :]
    assert len(extra) == length_extra
    assert records.large_numbers(extra, (*fields[8:10], fields[-1])) == (size, size, offset)


@given(st.integers(0, 1 << 17), SIZES, SIZES)
def test_the_end_says_more_only_where_numbers_need_it(count: int, size: int, offset: int) -> None:
    end = records.end_records(count, size, offset)
    is_large = count >= records.FULL_16 or max(size, offset) >= records.FULL_32
    assert len(end) == (98 if is_large else 22)
    if is_large:
        assert records.END_64.unpack_from(end)[-4:] == (count, count, size, offset)
        assert records.LOCATOR.unpack_from(end, 56)[2] == offset + size
    else:
        assert records.END.unpack_from(end)[3:7] == (count, count, size, offset)


@pytest.mark.parametrize("extra", [b"", b"\1", b"\1\0\7\0\0", b"\1\0\7\0" + bytes(7)])
def test_numbers_that_stand_nowhere_are_missed(extra: bytes) -> None:
    assert records.large_numbers(extra, (records.FULL_32,)) is None
    assert records.large_numbers(extra, (5, 6)) == (5, 6)


def test_only_numbers_that_need_it_stand_in_the_extra_field() -> None:
    extra = struct.pack("<2HQ", records.SIZES_64, 8, 1 << 40)
    assert records.large_numbers(extra, (5, 5, records.FULL_32)) == (5, 5, 1 << 40)
    assert records.large_numbers(extra, (records.FULL_32, records.FULL_32)) is None


# --------------------------------------------------------------------------- reading

MEMBERS = [Member("b", 5, 7, 64), Member("é", 0, 0, 200), Member("a", 3, 9, 0)]
"""In another order than their bytes."""


class Malformed(Exception):  # noqa: N818 - stands for whatever a reader raises
    """What is expected, what is found, and of which member."""


def reading(data: bytes) -> Records:
    return Records(
        lambda offset, size: data[offset : offset + size], len(data), lambda *told: Malformed(*told)
    )


def archive(begin: int = 300, end: bytes | None = None, members: Any = MEMBERS) -> bytes:
    """Bytes with the headers of some members, which lie anywhere, and the directory after them."""
    data = bytearray(begin)
    for member in members:
        header = member.local_header()[: 30 + len(member.name.encode())]
        header = header[:28] + b"\0\0" + header[30:]
        data[member.offset : member.offset + len(header)] = header
    directory = b"".join(member.central_header() for member in members)
    if end is None:
        end = records.end_records(len(members), len(directory), begin)
    return bytes(data[:begin]) + directory + end


def large_end(directory: int, begin: int = 300, room: int = 0, num_disks: int = 1) -> bytes:
    """An end in 64 bits, with some room in it."""
    record = records.END_64.pack(
        records.END_64_SIGN, records.END_64.size - 12 + room, 45, 45, 0, 0, 3, 3, directory, begin
    )
    locator = records.LOCATOR.pack(records.LOCATOR_SIGN, 0, begin + directory, num_disks)
    return record + bytes(room) + locator + records.end_records(3, directory, begin)


def test_members_are_read_in_the_order_of_the_directory_and_laid_out_in_that_of_bytes() -> None:
    found = reading(archive())
    end = found.end()
    assert end is not None
    assert end == (300, len(archive()) - 322, 3, 0, True)
    members = found.members(end)
    assert [member.name for member in members] == ["b", "é", "a"]
    laid_out = found.laid_out(members, end)
    assert [(m.name, m.offset, m.limit) for m in laid_out] == [
        ("a", 0, 64), ("b", 64, 200), ("é", 200, 300),
    ]  # fmt: skip
    header = found.header(laid_out[1])
    assert (header.end, header.raw_name, header.crc, header.size) == (95, b"b", 7, 5)


@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\5\6" * 5, bytes(40)])
def test_the_end_is_found_before_its_comment(comment: bytes) -> None:
    data = archive()[:-2] + len(comment).to_bytes(2, "little") + comment
    end = reading(data).end()
    assert end is not None
    assert (end.begin, end.comment_size) == (300, len(comment))
    assert reading(data + b"x").end() is None
    assert reading(data[:-1]).end() is None


@pytest.mark.parametrize(
    ("options", "is_exact"), [({}, True), ({"room": 9}, False), ({"num_disks": 0}, False)]
)
def test_large_numbers_stand_exactly_where_they_do_here_or_not(
    options: dict[str, int], is_exact: bool
) -> None:
    size = len(archive()) - 322
    end = reading(archive(end=large_end(size, **options))).end()
    assert end is not None
    assert (end.begin, end.num_members, end.is_exact) == (300, 3, is_exact)


def test_numbers_that_promise_larger_ones_which_are_not_there_are_not_exact() -> None:
    directory = b"".join(Member("", 0, 0, 0).central_header() for _ in range(records.FULL_16))
    told = records.END.pack(
        records.END_SIGN, 0, 0, records.FULL_16, records.FULL_16, len(directory), 0, 0
    )
    end = reading(directory + told).end()
    assert end is not None
    assert (end.num_members, end.is_exact) == (records.FULL_16, False)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive(end=records.end_records(3, 5, 300)), "a directory of 3 members that ends at"),
        (archive(end=records.end_records(2**15, 142, 300)), "a directory of 32,768 members"),
        (archive(end=large_end(142)[:-22] + large_end(141)[-22:]), "records of the end that agree"),
        (archive(end=large_end(142)[4:]), "a record of the end with 64 bits"),
        (archive(members=[MEMBERS[0]]), "its first member at byte 0"),
        (archive(231), "'é' to end before what follows it at 231"),
        (archive(members=[MEMBERS[2], Member("b", 5, 7, 30)]), "'a' to end before"),
        (archive().replace(b"PK\1\2", b"PK\1\1", 1), "an entry of its directory"),
        (archive().replace(b"PK\3\4", b"PK\3\3"), "a header of its own"),
    ],
)
def test_what_is_not_as_it_must_be_is_said(data: bytes, said: str) -> None:
    def read() -> None:
        found = reading(data)
        end = found.end()
        assert end is not None
        for member in found.laid_out(found.members(end), end):
            found.header(member)

    with pytest.raises(Malformed) as raised:
        read()
    assert raised.value.args[0].startswith(said)

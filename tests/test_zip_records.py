"""Headers of an archive have the sizes, the order and the padding that a reader expects."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle import zip_records as records
from rekindle.zip_records import Member

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

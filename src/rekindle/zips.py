"""ZIP archives that other programs wrote, read where they lie; see `rekindle.archive` for ours.

They may be compressed and leave room between members, as torch's and zipfile's do. Everything else
is held to the letter: what two readers could take for two different things is refused. Nothing is
ever unpacked to disk, so a name is a name and no path. Layout: PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from rekindle import files, spans
from rekindle import zip_records as records
from rekindle.errors import DamagedError, FormatError, NotFoundError, UnsafeError, UnsupportedError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.spans import Span

# Loaded now, so that opening a file imports nothing.
codecs.lookup("cp437")

_STORED, _DEFLATED = 0, 8
_LOCKED = 0x0001 | 0x0040 | 0x2000
"""Flags of members whose bytes or names are encrypted."""
_MOST_MEMBERS = 1_000_000
_MEMBER_BYTES = 600
_CHECKED_BYTES = 16 << 20
"""Members up to this size are held against their checksum when they are used."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive, as the directory tells of it."""

    name: str
    raw_name: bytes
    method: int
    flags: int
    crc: int
    stored_size: int
    size: int
    offset: int


def is_zip(span: Span) -> bool:
    """Whether some bytes begin as an archive does."""
    return span.bytes(0, 4) in (records.LOCAL_SIGN, records.END_SIGN)


class Zip:
    """The members of one archive, by name.

    Args:
        span: All bytes of the archive.
        budget: Memory that may be taken.

    Raises:
        DamagedError: It is truncated, or says two things about one member.
        FormatError: It is no archive, or one with a name twice.
        UnsafeError: A member's name could be taken for a path outside.
    """

    def __init__(self, span: Span, budget: Budget) -> None:
        self._span = span
        self._budget = budget
        self._members: dict[str, Member] = {}
        begin, size, count = self._find_directory()
        self._directory_begin = begin
        self._read_directory(span.bytes(begin, begin + size), count)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def name(self) -> str:
        """What messages call the archive."""
        return self._span.name

    def size(self, name: str) -> int:
        """How many bytes a member has when it is not compressed."""
        return self._member(name).size

    def span(self, name: str, *, is_array: bool = False) -> Span:
        """The bytes of a member: where they lie if they are stored, else unpacked in memory.

        Args:
            name: The member.
            is_array: Whether it is only mapped, so that its bytes are read when touched: its
                checksum is compared only if it has to be unpacked, or is small.

        Raises:
            NotFoundError: There is no such member.
            DamagedError: Its bytes are not those that its checksum was made from.
            UnsupportedError: It is encrypted, or compressed in another way than by deflate.
            UnsafeError: It takes more memory than is left.
        """
        member = self._member(name)
        span = self._span.part(*self._extent(member), member.name)
        if member.method == _DEFLATED:
            span = spans.of_bytes(self._inflate(member, span), span.name)
        limit = MAPPED_BYTES if is_array and member.method == _STORED else _CHECKED_BYTES
        if member.size <= limit and zlib.crc32(span.view()) != member.crc:
            raise self._damaged("bytes that fit their checksum", "others", name)
        return span

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise NotFoundError(
                f"{self.name}: expected a member {name!r}, found {len(self)} others.",
                path=self.name,
                key=name,
            ) from None

    def _inflate(self, member: Member, span: Span) -> bytes:
        self._budget.charge(member.size)
        try:
            stream = zlib.decompressobj(-zlib.MAX_WBITS)
            data = stream.decompress(span.view(), member.size + 1)
        except zlib.error as error:
            raise self._damaged("deflated bytes", str(error), member.name) from error
        if len(data) != member.size or not stream.eof:
            raise self._damaged(f"{member.size:,} bytes", "another number", member.name)
        return data

    # ----------------------------------------------------------------- one member

    def _extent(self, member: Member) -> tuple[int, int]:
        """Where a member's bytes begin and end, after comparing its two headers."""
        if member.flags & _LOCKED:
            raise UnsupportedError(
                f"{self.name}: expected members that anyone can read, found {member.name!r} "
                "encrypted. Unpack the archive with its password first.",
                path=self.name,
                key=member.name,
            )
        if member.method not in (_STORED, _DEFLATED):
            raise UnsupportedError(
                f"{self.name}: expected {member.name!r} stored or deflated, found compression "
                f"method {member.method}. Pack the archive again without compression.",
                path=self.name,
                key=member.name,
            )
        if member.method == _STORED and member.size != member.stored_size:
            raise self._damaged("one size of what is stored", "two", member.name)
        head = self._span.bytes(member.offset, member.offset + records.LOCAL.size)
        if len(head) < records.LOCAL.size or head[:4] != records.LOCAL_SIGN:
            raise self._damaged("a header of its own", "other bytes", member.name)
        _, _, flags, method, _, _, crc, stored_size, size, length, length_extra = (
            records.LOCAL.unpack(head)
        )
        begin = member.offset + records.LOCAL.size
        raw_name = self._span.bytes(begin, begin + length)
        extra = self._span.bytes(begin + length, begin + length + length_extra)
        numbers = records.large_numbers(extra, (size, stored_size))
        told = (crc, *(numbers or ()))
        is_later = bool(flags & records.SIZES_AFTER) and told == (0, 0, 0)
        agrees = told == (member.crc, member.size, member.stored_size)
        kind, expected = (flags & _LOCKED, method), (member.flags & _LOCKED, member.method)
        if raw_name != member.raw_name or kind != expected:
            raise self._damaged("the header that the directory tells of", "another", member.name)
        if not (is_later or agrees):
            raise self._damaged("the sizes that the directory tells of", "others", member.name)
        begin += length + length_extra
        return begin, begin + member.stored_size

    # ----------------------------------------------------------------- the directory

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the directory begins, its size, and how many members it lists."""
        span, length = self._span, len(self._span)
        if span.bytes(0, 4) not in (records.LOCAL_SIGN, records.END_SIGN):
            raise FormatError(
                f"{self.name}: expected a ZIP archive, found other bytes.", path=self.name
            )
        base = max(0, length - records.END.size - records.LONGEST_COMMENT)
        tail = span.bytes(base, length)
        found = tail.rfind(records.END_SIGN)
        while found >= 0:
            comment = int.from_bytes(tail[found + 20 : found + 22], "little")
            if found + records.END.size + comment == len(tail):
                break
            found = tail.rfind(records.END_SIGN, 0, found)
        if found < 0:
            raise self._damaged("the end record of an archive", "none: it is truncated")
        stop = base + found
        told = records.END.unpack(tail[found : found + records.END.size])[1:-1]
        stop, told = self._large_end(stop, told)
        disk, disk_of_directory, here, count, size, begin = told
        if disk or disk_of_directory or here != count:
            raise self._damaged("an archive of one part", "a part of one")
        if begin + size != stop or count * records.CENTRAL.size > size or count > _MOST_MEMBERS:
            raise self._damaged(
                f"a directory of {count:,} members that ends at {stop:,}",
                f"{size:,} bytes at {begin:,}",
            )
        self._budget.charge(size + _MEMBER_BYTES * count)
        return begin, size, count

    def _large_end(self, stop: int, told: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """What the end says in 64 bits, where it does; torch always writes both."""
        place = stop - records.LOCATOR.size
        locator = self._span.bytes(max(0, place), stop)
        if place < 0 or locator[:4] != records.LOCATOR_SIGN:
            return stop, told
        _, _, at, _ = records.LOCATOR.unpack(locator)
        record = self._span.bytes(at, at + records.END_64.size)
        if len(record) < records.END_64.size or record[:4] != records.END_64_SIGN:
            raise self._damaged("a record of the end with 64 bits", "none")
        _, length, _, _, *large = records.END_64.unpack(record)
        full = (records.FULL_16,) * 4 + (records.FULL_32,) * 2
        agrees = all(a in (b, c) for a, b, c in zip(told, large, full, strict=True))
        if at + 12 + length != place or not agrees:
            raise self._damaged("records of the end that agree", "some that do not")
        return at, tuple(large)

    def _read_directory(self, directory: bytes, count: int) -> None:
        members: list[Member] = []
        position = 0
        for _ in range(count):
            member, position = self._entry(directory, position)
            members.append(member)
        if position != len(directory):
            raise self._damaged(f"a directory of {count:,} members", "more bytes than these take")
        end = 0
        for member in sorted(members, key=lambda member: member.offset):
            if (end == 0 and member.offset) or member.offset < end:
                raise self._damaged(
                    f"{member.name!r} after what comes before it, at {end:,}",
                    f"it at {member.offset:,}",
                )
            end = member.offset + records.LOCAL.size + len(member.raw_name) + member.stored_size
        if end > self._directory_begin:
            raise self._damaged("members before the directory", "one that reaches into it")
        for member in members:
            self._admit(member)

    def _admit(self, member: Member) -> None:
        name = member.name.removesuffix("/")
        if not files.is_plain(name):
            raise UnsafeError(
                f"{self.name}: expected members with plain names, found {member.name[:200]!r}, "
                "which could be unpacked outside the directory that is meant. Nothing was read.",
                path=self.name,
                key=member.name[:200],
            )
        if member.name in self._members:
            raise FormatError(
                f"{self.name}: expected one member {name!r}, found two of this name: which one "
                "another program would read, nobody can say.",
                path=self.name,
                key=name,
            )
        self._members[member.name] = member

    def _entry(self, directory: bytes, position: int) -> tuple[Member, int]:
        """The member whose entry begins there, and where the next begins."""
        variable = position + records.CENTRAL.size
        if variable > len(directory) or directory[position : position + 4] != records.CENTRAL_SIGN:
            raise self._damaged("an entry of the directory", f"other bytes, {position:,} into it")
        (
            _, _, _, flags, method, _, _, crc, stored_size, size, length, length_extra,
            length_comment, disk, _, _, offset,
        ) = records.CENTRAL.unpack_from(directory, position)  # fmt: skip
        end = variable + length + length_extra + length_comment
        if end > len(directory) or disk:
            raise self._damaged("an entry inside the directory", f"one that leaves it: {position}")
        raw_name = directory[variable : variable + length]
        extra = directory[variable + length : variable + length + length_extra]
        numbers = records.large_numbers(extra, (size, stored_size, offset))
        if numbers is None:
            raise self._damaged("sizes of 64 bits where others do not suffice", "none")
        size, stored_size, offset = numbers
        try:
            name = raw_name.decode("utf-8" if flags & records.UTF_8 else "cp437")
        except UnicodeDecodeError:
            raise self._damaged("names in UTF-8", repr(raw_name[:200])) from None
        return Member(name, raw_name, method, flags, crc, stored_size, size, offset), end

    def _damaged(self, expected: str, found: str, key: str | None = None) -> DamagedError:
        where = f"{self.name}: {key}" if key else self.name
        return DamagedError(
            f"{where}: expected {expected}, found {found}. The archive is damaged, or was made to "
            "be read in two ways.",
            path=self.name,
            key=key,
        )

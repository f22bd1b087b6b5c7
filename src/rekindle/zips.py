"""ZIP archives that other programs wrote, read where they lie; see `rekindle.archive` for ours.

They may be compressed and leave room between members, as torch's and zipfile's do. Everything else
is held to the letter: what two readers could take for two different things is refused. Nothing is
ever unpacked to disk, so a name is a name and no path. Layout: PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from rekindle import files, spans
from rekindle import zip_records as records
from rekindle.errors import DamagedError, FormatError, NotFoundError, UnsafeError, UnsupportedError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.spans import Span
from rekindle.zip_records import Member

_STORED, _DEFLATED = 0, 8
_LOCKED = 0x0001 | 0x0040 | 0x2000
"""Flags of members whose bytes or names are encrypted."""
_MOST_MEMBERS = 1_000_000
_MEMBER_BYTES = 600
_CHECKED_BYTES = 16 << 20
"""Members up to this size are held against their checksum when they are used."""


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
        end = self._end()
        members = self._records.members(end)
        laid_out = self._records.laid_out(members, end)
        for member in members:
            self._admit(member)
        self._members.update((member.name, member) for member in laid_out)

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

    def checksum(self, name: str) -> int:
        """The CRC-32 of a member that is not compressed, as the directory tells it."""
        return self._member(name).crc

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
        header = self._records.header(member)
        sizes = (header.crc, header.size, header.stored_size)
        is_later = bool(header.flags & records.SIZES_AFTER) and sizes == (0, 0, 0)
        agrees = sizes == (member.crc, member.size, member.stored_size)
        kind = (header.flags & _LOCKED, header.method)
        if header.raw_name != member.raw_name or kind != (member.flags & _LOCKED, member.method):
            raise self._damaged("the header that the directory tells of", "another", member.name)
        if not (is_later or agrees):
            raise self._damaged("the sizes that the directory tells of", "others", member.name)
        end = header.end + member.stored_size
        if end > member.limit:
            raise self._damaged("bytes up to what follows it", "more", member.name)
        return header.end, end

    # ----------------------------------------------------------------- the directory

    @property
    def _records(self) -> records.Records:
        """Made when it is asked for: kept, it would hold the archive that holds it."""
        return records.Records(self._at, len(self._span), self._conflict)

    def _at(self, offset: int, size: int) -> bytes:
        return self._span.bytes(offset, offset + size)

    def _end(self) -> records.End:
        """What the end says; a comment may follow it."""
        if not is_zip(self._span):
            raise FormatError(
                f"{self.name}: expected a ZIP archive, found other bytes.", path=self.name
            )
        end = self._records.end()
        if end is None:
            raise self._damaged("the end record of an archive", "none: it is truncated")
        if end.num_members > _MOST_MEMBERS:
            raise self._damaged(f"at most {_MOST_MEMBERS:,} members", f"{end.num_members:,}")
        self._budget.charge(end.size + _MEMBER_BYTES * end.num_members)
        return end

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

    def _conflict(self, expected: str, found: str, member: Member | None) -> DamagedError:
        return self._damaged(expected, found, None if member is None else member.name)

    def _damaged(self, expected: str, found: str, key: str | None = None) -> DamagedError:
        where = f"{self.name}: {key}" if key else self.name
        return DamagedError(
            f"{where}: expected {expected}, found {found}. The archive is damaged, or was made to "
            "be read in two ways.",
            path=self.name,
            key=key,
        )

"""The records of a ZIP archive: how its members, its directory and its end are described.

Names, sizes and checksums of the members determine every byte of an archive but their own: `Member`
and `end_records` give these bytes. `Records` reads them, of any archive, and holds to the letter
what all readers of one have to agree on; what else is allowed, its caller says. Layout: PKWARE's
APPNOTE.TXT 6.3.10, https://support.pkware.com/pkzip/application-note; what of it our own archives
use: docs/format.md, "One file".
"""

from __future__ import annotations

import codecs
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

# Loaded now, so that reading an archive imports nothing.
codecs.lookup("cp437")

PAGE_BYTES = 4096
"""Members at least this large begin at a multiple of it, as direct reads ask for."""
LINE_BYTES = 64
"""The others begin at a multiple of this, as aligned arrays do."""

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END_64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
LOCAL_SIGN = b"PK\x03\x04"
CENTRAL_SIGN = b"PK\x01\x02"
END_SIGN = b"PK\x05\x06"
END_64_SIGN = b"PK\x06\x06"
LOCATOR_SIGN = b"PK\x06\x07"

SIZES_64 = 0x0001
PADDING = int.from_bytes(b"rk", "little")
"""Identifier of the extra field that pads a local header; also how we know our own archives."""
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, SIZES_AFTER, UTF_8 = 0x0001, 0x0008, 0x0800
UNIX = 3
_PLAIN, _LARGE = 20, 45
"""Versions of ZIP that a reader needs: for plain members, for sizes of 64 bits."""
_FIRST_DAY = (1 << 5) | 1
"""1980-01-01, the first that ZIP knows: an archive of the same files has the same bytes."""
MODE = stat.S_IFREG | 0o644
CRC_OFFSET = 14
_LONGEST_COMMENT = 0xFFFF
_LIKELY_EXTRA_BYTES = PAGE_BYTES + 64
"""Read at once with the header before it, as our own padding fits."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """What the directory of an archive says of one member."""

    name: str
    size: int
    crc: int
    offset: int
    """Where its local header begins."""
    limit: int = 0
    """Where what follows it begins."""
    stored_size: int = 0
    method: int = 0
    flags: int = 0
    time: int = 0
    date: int = _FIRST_DAY
    mode: int = MODE
    raw_name: bytes = b""

    def local_header(self) -> bytes:
        """What stands before its bytes, when it is written here: such that these begin aligned."""
        raw, size = self.name.encode(), self.size
        is_large = size >= FULL_32
        extra = struct.pack("<2H2Q", SIZES_64, 16, size, size) if is_large else b""
        alignment = PAGE_BYTES if size >= PAGE_BYTES else LINE_BYTES
        padding = -(self.offset + LOCAL.size + len(raw) + len(extra) + 4) % alignment
        extra += struct.pack("<2H", PADDING, padding) + bytes(padding)
        shown = min(size, FULL_32)
        head = LOCAL.pack(
            LOCAL_SIGN, self._version(), _flags(raw), 0, 0, _FIRST_DAY, self.crc, shown, shown,
            len(raw), len(extra),
        )  # fmt: skip
        return head + raw + extra

    def central_header(self) -> bytes:
        """Its entry in the directory of an archive that is written here."""
        raw, size = self.name.encode(), self.size
        large = [number for number in (size, size, self.offset) if number >= FULL_32]
        extra = struct.pack(f"<2H{len(large)}Q", SIZES_64, 8 * len(large), *large) if large else b""
        shown, version = min(size, FULL_32), self._version()
        head = CENTRAL.pack(
            CENTRAL_SIGN, UNIX << 8 | version, version, _flags(raw), 0, 0, _FIRST_DAY, self.crc,
            shown, shown, len(raw), len(extra), 0, 0, 0, MODE << 16, min(self.offset, FULL_32),
        )  # fmt: skip
        return head + raw + extra

    def _version(self) -> int:
        return _LARGE if max(self.size, self.offset) >= FULL_32 else _PLAIN


def end_records(count: int, size: int, offset: int) -> bytes:
    """What stands after the directory, and says where that begins."""
    records = b""
    if count >= FULL_16 or size >= FULL_32 or offset >= FULL_32:
        version = UNIX << 8 | _LARGE
        records += END_64.pack(
            END_64_SIGN, END_64.size - 12, version, _LARGE, 0, 0, count, count, size, offset
        )
        records += LOCATOR.pack(LOCATOR_SIGN, 0, offset + size, 1)
    count, size, offset = min(count, FULL_16), min(size, FULL_32), min(offset, FULL_32)
    return records + END.pack(END_SIGN, 0, 0, count, count, size, offset, 0)


def _flags(raw_name: bytes) -> int:
    return 0 if raw_name.isascii() else UTF_8


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Records of an extra field, as far as they are whole."""
    position = 0
    while position + 4 <= len(extra):
        key, size = struct.unpack_from("<2H", extra, position)
        yield key, extra[position + 4 : position + 4 + size]
        position += 4 + size


def large_numbers(extra: bytes, told: tuple[int, ...]) -> tuple[int, ...] | None:
    """Numbers of a header: those that do not fit into it stand in its extra field, or nowhere."""
    missing = told.count(FULL_32)
    if not missing:
        return told
    found = dict(extra_fields(extra)).get(SIZES_64, b"")
    if len(found) < 8 * missing:
        return None
    large = iter(struct.unpack_from(f"<{missing}Q", found))
    return tuple(next(large) if number == FULL_32 else number for number in told)


# --------------------------------------------------------------------------- reading


class End(NamedTuple):
    """What the end of an archive says of its directory."""

    begin: int
    """Where the directory begins."""
    size: int
    num_members: int
    comment_size: int
    """Bytes after the end."""
    is_exact: bool
    """Whether numbers of 64 bits stand where one of 32 does not suffice, and as they are written
    here; others may leave more room for them."""


class Header(NamedTuple):
    """What stands right before the bytes of a member."""

    end: int
    """Where it ends and the bytes begin."""
    data: bytes
    """All of it."""
    raw_name: bytes
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored_size: int | None
    """None, like `size`, where neither place for it says it."""
    size: int | None


class Records:
    """The records of one archive, read where they lie.

    Args:
        read: Gives some bytes of it, by offset and number; fewer where it ends.
        size: How many bytes it has.
        damaged: Makes the error, out of what was expected, what was found, and the member if it is
            about one.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        size: int,
        damaged: Callable[[str, str, Member | None], Exception],
    ) -> None:
        self._read = read
        self._size = size
        self._damaged = damaged

    def end(self) -> End | None:
        """What stands after the directory; None when nothing in the last bytes is an end."""
        found = self._find_end()
        if found is None:
            return None
        stop, end = found
        told = END.unpack(end)[1:-1]
        stop, told, is_exact = self._large_end(stop, told)
        disk, disk_of_directory, here, count, size, begin = told
        if disk or disk_of_directory or here != count:
            raise self._damaged("an archive of one part", "a part of one", None)
        if begin + size != stop or count * CENTRAL.size > size:
            raise self._damaged(
                f"a directory of {count:,} members that ends at {stop:,}",
                f"{size:,} bytes at {begin:,}",
                None,
            )
        return End(begin, size, count, END.unpack(end)[-1], is_exact)

    def members(self, end: End) -> list[Member]:
        """All that the directory lists, in its order."""
        directory = self._read(end.begin, end.size)
        members: list[Member] = []
        position = 0
        for _ in range(end.num_members):
            member, position = self._entry(directory, position)
            members.append(member)
        if position != len(directory):
            raise self._damaged(
                f"a directory of {end.num_members:,} members", "more bytes than these take", None
            )
        return members

    def laid_out(self, members: Sequence[Member], end: End) -> list[Member]:
        """Members in the order of their bytes, each with its limit, which it does not reach over.

        The first begins where the archive does.
        """
        found = sorted(members, key=lambda member: member.offset)
        for index, member in enumerate(found):
            limit = found[index + 1].offset if index + 1 < len(found) else end.begin
            if index == 0 and member.offset:
                raise self._damaged("its first member at byte 0", f"one at {member.offset:,}", None)
            least = LOCAL.size + len(member.raw_name) + member.stored_size
            if member.offset + least > limit:
                raise self._damaged(
                    f"{member.name!r} to end before what follows it at {limit:,}",
                    f"{least:,} bytes or more at {member.offset:,}",
                    None,
                )
            found[index] = msgspec.structs.replace(member, limit=limit)
        return found

    def header(self, member: Member) -> Header:
        """A member's own header, whatever it says; the member is one with its limit."""
        room = member.limit - member.offset
        likely = LOCAL.size + len(member.raw_name) + _LIKELY_EXTRA_BYTES
        data = self._read(member.offset, min(room, likely))
        if len(data) < LOCAL.size or data[:4] != LOCAL_SIGN:
            raise self._damaged("a header of its own", "other bytes", member)
        (_, _, flags, method, time, date, crc, stored_size, size, length, length_extra) = (
            LOCAL.unpack_from(data)
        )  # fmt: skip
        name_end = LOCAL.size + length
        end = name_end + length_extra
        if end > len(data):
            data = self._read(member.offset, min(room, end))
        if end > len(data):
            raise self._damaged("a header of its own", f"one of {end:,} bytes", member)
        numbers = large_numbers(data[name_end:end], (size, stored_size)) or (None, None)
        return Header(
            member.offset + end, data[:end], data[LOCAL.size : name_end], flags, method, time, date,
            crc, numbers[1], numbers[0],
        )  # fmt: skip

    def _find_end(self) -> tuple[int, bytes] | None:
        """Where the last record begins, and the record."""
        stop = self._size - END.size
        end = self._read(stop, END.size) if stop >= 0 else b""
        if end[:4] == END_SIGN and end[-2:] == b"\0\0":
            return stop, end
        base = max(0, stop - _LONGEST_COMMENT)
        tail = self._read(base, self._size - base)
        found = tail.rfind(END_SIGN)
        while found >= 0:
            end = tail[found : found + END.size]
            comment_size = int.from_bytes(end[-2:], "little")
            if len(end) == END.size and found + END.size + comment_size == len(tail):
                return base + found, end
            found = tail.rfind(END_SIGN, 0, found)
        return None

    def _large_end(self, stop: int, told: tuple[int, ...]) -> tuple[int, tuple[int, ...], bool]:
        """What the end says in 64 bits, where it does: it must agree with the rest."""
        place = stop - LOCATOR.size
        locator = self._read(place, LOCATOR.size) if place >= 0 else b""
        if locator[:4] != LOCATOR_SIGN:
            return stop, told, FULL_16 not in told[2:4] and FULL_32 not in told[4:]
        _, disk, at, num_disks = LOCATOR.unpack(locator)
        record = self._read(at, END_64.size) if at <= place else b""
        if len(record) < END_64.size or record[:4] != END_64_SIGN:
            raise self._damaged("a record of the end with 64 bits", "none", None)
        _, length, _, _, *large = END_64.unpack(record)
        full = (FULL_16,) * 4 + (FULL_32,) * 2
        agrees = all(a in (b, c) for a, b, c in zip(told, large, full, strict=True))
        if at + 12 + length != place or not agrees:
            raise self._damaged("records of the end that agree", "some that do not", None)
        is_exact = (at, disk, num_disks) == (place - END_64.size, 0, 1)
        return at, tuple(large), is_exact

    def _entry(self, directory: bytes, position: int) -> tuple[Member, int]:
        """The member whose entry begins there, and where the next begins."""
        variable = position + CENTRAL.size
        if variable > len(directory) or directory[position : position + 4] != CENTRAL_SIGN:
            raise self._damaged(
                "an entry of its directory", f"other bytes, {position:,} into it", None
            )
        (
            _, made_by, _, flags, method, time, date, crc, stored_size, size, length, length_extra,
            length_comment, disk, _, attributes, offset,
        ) = CENTRAL.unpack_from(directory, position)  # fmt: skip
        end = variable + length + length_extra + length_comment
        if end > len(directory) or disk:
            raise self._damaged(
                "an entry inside its directory", f"one that leaves it, at {position:,}", None
            )
        raw_name = directory[variable : variable + length]
        extra = directory[variable + length : variable + length + length_extra]
        numbers = large_numbers(extra, (size, stored_size, offset))
        if numbers is None:
            raise self._damaged("sizes of 64 bits where others do not suffice", "none", None)
        size, stored_size, offset = numbers
        try:
            name = raw_name.decode("utf-8" if flags & UTF_8 else "cp437")
        except UnicodeDecodeError:
            raise self._damaged("names in UTF-8", repr(raw_name[:200]), None) from None
        mode = attributes >> 16 if made_by >> 8 == UNIX else MODE
        member = Member(
            name, size, crc, offset, 0, stored_size, method, flags, time, date, mode, raw_name
        )
        return member, end

"""The records of a ZIP archive: how its members, its directory and its end are described.

Names, sizes and checksums of the members determine every byte of an archive but their own: the
functions here give these bytes. Layout: PKWARE's APPNOTE.TXT 6.3.10,
https://support.pkware.com/pkzip/application-note; what of it is used: docs/format.md, "One file".
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator

import msgspec

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
LONGEST_COMMENT = 0xFFFF


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

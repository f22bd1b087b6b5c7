"""One file that holds many: a ZIP archive, stored as it is and aligned, so that it can be mapped.

Names, sizes and checksums of the members determine every other byte of an archive that was written
here, so that damage to any of them is found. What others wrote is read as long as it is stored,
leaves no room between members, and says the same twice. Rules: docs/format.md, "One file".
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from rekindle import extents, files
from rekindle import zip_records as records
from rekindle.errors import DamagedError, Difference, FormatError, NotFoundError, UnsafeError
from rekindle.extents import Extent
from rekindle.files import Array, FileRecord
from rekindle.zip_records import Member

_LARGEST_DIRECTORY_BYTES = 100_000_000


def is_archive(path: Path) -> bool:
    """Whether a file begins or ends as an archive does; one that is damaged still may."""
    if not path.is_file():
        return False
    extent = extents.whole(path)
    with extent.opened() as fd:
        begins = extents.read_at(fd, 0, 4)
        ends = extents.read_at(fd, max(0, extent.size - records.END.size), 4)
    return begins == records.LOCAL_SIGN or ends == records.END_SIGN


# --------------------------------------------------------------------------- writing


class NewArchive:
    """An archive that is being written, in one pass; flushing is the caller's.

    One member after the other: who begins one while another thread writes one waits for its end.

    Args:
        path: The file to make; it must not exist.
        size_bytes: About how much will be written.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._output = files.Output(path, size_bytes, in_parts=True)
        self._members: dict[str, Member] = {}
        self._late: list[tuple[int, bytes]] = []
        self._turn = threading.Lock()
        self._is_whole = True

    def target(self, name: str) -> Callable[[int], files.Writable]:
        """Where `files.output` begins a member whose bytes come piece by piece."""
        return functools.partial(self._begin, name)

    def write(self, name: str, data: bytes) -> FileRecord:
        """Write a whole member."""
        with self._turn:
            self._add(name, len(data), zlib.crc32(data))
            self._output.write(data)
        return FileRecord(len(data), files.digest(data))

    def link(self, source: files.PathLike, name: str) -> bool:
        """Write a whole member with the bytes of a file: nothing links into an archive."""
        extents.copy(extents.whole(Path(source)), self.target(name))
        return False

    def close(self) -> None:
        """Write the directory of the archive."""
        if not self._is_whole:
            raise ValueError(f"{self._path}: a member was given up half-way")
        begin = self._output.position
        parts = [member.central_header() for member in self._members.values()]
        directory = b"".join(parts)
        self._output.write(directory + records.end_records(len(parts), len(directory), begin))
        self._output.close()
        if self._late:
            files.overwrite_at(self._path, self._late)

    def abandon(self) -> None:
        """Let go of the file, whatever it holds."""
        self._output.abandon()

    def _add(self, name: str, size: int, crc: int) -> Member:
        files.check_name(name, self._path)
        if name in self._members:
            raise ValueError(f"{name}: a file of this name was written already")
        member = self._members[name] = Member(name, size, crc, self._output.position)
        self._output.write(member.local_header())
        return member

    def _begin(self, name: str, size: int) -> files.Writable:
        def finish(crc: int | None) -> None:
            if crc is not None:
                self._members[name] = msgspec.structs.replace(member, crc=crc)
                # The header is on its way to the disk by now.
                self._late.append((member.offset + records.CRC_OFFSET, crc.to_bytes(4, "little")))
            self._is_whole &= crc is not None
            self._turn.release()

        self._turn.acquire()
        try:
            member = self._add(name, size, 0)
            self._output.begin_part(size)
        except BaseException:
            self._turn.release()
            raise
        return _NewMember(self._output, name, size, finish)


class _NewMember:
    """One member of a new archive: bytes in, a `FileRecord` out."""

    def __init__(
        self, output: files.Output, name: str, size: int, finish: Callable[[int | None], None]
    ) -> None:
        self._output = output
        self._name = name
        self._size = self._missing = size
        self._finish: Callable[[int | None], None] | None = finish

    def write(self, data: Array | bytes) -> None:
        size = len(data) if isinstance(data, bytes) else data.nbytes
        if size > self._missing:
            raise ValueError(f"{self._name}: expected {self._missing} more bytes, found {size}")
        self._missing -= size
        self._output.write(data)

    def close(self) -> FileRecord:
        if self._missing:
            self.abandon()
            raise OSError(errno.EIO, f"{self._missing} bytes are missing", self._name)
        digest, crc = self._output.end_part()
        self._end(crc)
        return FileRecord(self._size, digest)

    def abandon(self) -> None:
        self._end(None)

    def _end(self, crc: int | None) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(crc)


# --------------------------------------------------------------------------- reading


class Archive:
    """An archive as a place where files are; see `rekindle.places`.

    It is held open, so it stays the same when another takes its name. Opening reads its directory;
    a member's own header is held against that when the member is used.

    Raises:
        DamagedError: The directory is not whole, or members do not fill the file before it.
        FormatError: It is an archive of a kind that is not read here.
        UnsafeError: A member's name leads out of the directory that it would be unpacked into.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = extents.Held(path)
        self._size = os.fstat(self._file.fd).st_size
        self._members: dict[str, Member] = {}
        self._folders: list[Member] = []
        self._taken: set[str] = set()
        end = self._end()
        self._directory_begin = end.begin
        for member in self._records.laid_out(self._records.members(end), end):
            self._admit(member)
        for name in self._members:
            while name := name.rpartition("/")[0]:
                if name in self._members:
                    raise self._foreign(f"a folder {name!r}", "a file of this name", name)

    # What a place offers.

    def names(self) -> list[str]:
        """Names of all files in it."""
        return sorted(self._members)

    def extent(self, name: str) -> Extent:
        """Where the bytes of one member are.

        Raises:
            NotFoundError: There is no such member.
            DamagedError: Its own header does not say what the directory says of it.
            FormatError: It is compressed or encrypted.
            UnsafeError: It is a symbolic link.
        """
        files.check_name(name, self.path)
        member = self._members.get(name)
        if member is None:
            raise NotFoundError(
                f"{self.path / name}: expected a file that the manifest lists, found nothing. "
                "`rekindle verify` says what else is missing.",
                path=self.path / name,
                key=name,
            )
        header = self._header(member)
        self._check_kind(member, header)
        room = member.limit - header.end
        if not member.stored_size == member.size == room:
            raise self._damaged(f"{room} bytes up to what follows it", f"{member.size}", member)
        return Extent(self.path / name, member.size, header.end, self._file)

    def flaws(self) -> list[Difference]:
        """What differs around the members, though it hinders nobody from reading them.

        Only an archive that was written here can be held against what it must be.
        """
        members = sorted((*self._members.values(), *self._folders), key=lambda m: m.offset)
        damaged: list[Difference] = []
        odd: list[Difference] = []
        is_ours = False
        for member in members:
            try:
                header = self._header(member)
            except DamagedError as error:
                damaged += error.differences
                continue
            is_ours |= _is_ours(member, header)
            if header.data != member.local_header():
                odd.append(Difference(member.name, "its header as it is written", "another"))
        if not is_ours:
            return damaged
        parts = [member.central_header() for member in members]
        directory = b"".join(parts)
        begin = self._directory_begin
        expected = directory + records.end_records(len(parts), len(directory), begin)
        if self._at(begin, self._size - begin) != expected:
            odd.append(Difference(self.path.name, "its directory as it is written", "another"))
        return [*damaged, *odd]

    # Reading.

    @property
    def _records(self) -> records.Records:
        """Made when it is asked for: kept, it would hold the archive that holds it."""
        return records.Records(self._at, self._size, self._damaged)

    def _at(self, offset: int, size: int) -> bytes:
        return extents.read_at(self._file.fd, offset, size)

    def _end(self) -> records.End:
        """What the end says, which must be the last bytes."""
        end = self._records.end()
        if end is None:
            raise self._damaged(
                "the end record of an archive in its last bytes",
                "others: it was cut off, or something was appended",
            )
        if not end.is_exact:
            raise self._damaged("records of the end that agree", "some that do not")
        if end.comment_size:
            raise self._foreign("no comment at its end", f"one of {end.comment_size} bytes")
        if end.size > _LARGEST_DIRECTORY_BYTES:
            raise self._foreign(
                f"a directory of at most {_LARGEST_DIRECTORY_BYTES} bytes", f"{end.size}"
            )
        return end

    def _admit(self, member: Member) -> None:
        """Take a member in, unless its name is refused."""
        name, is_folder = member.name.removesuffix("/"), member.name.endswith("/")
        if not files.is_plain(name):
            self._header(member)  # where the two differ the archive is damaged, not made so
            raise UnsafeError(
                f"{self.path}: expected members with plain names, found {member.name!r}, which "
                "could be unpacked outside the directory that is meant. Nothing was read.",
                path=self.path,
                key=member.name,
            )
        if name in self._taken:
            self._header(member)
            raise self._foreign(f"one member {name!r}", "two of this name", name)
        self._taken.add(name)
        if not is_folder:
            self._members[name] = member
        elif member.size or member.stored_size:
            raise self._foreign(f"a folder {name!r} without bytes of its own", "some", name)
        else:
            self._folders.append(member)

    def _header(self, member: Member) -> records.Header:
        """A member's own header, which says what the directory says."""
        header = self._records.header(member)
        _, _, *found = header
        told = [member.raw_name, member.flags, member.method, member.time, member.date,
                member.crc, member.stored_size, member.size]  # fmt: skip
        if found != told:
            names = ("name", "flags", "method", "time", "date", "CRC-32", "stored size", "size")
            wrong = [n for n, a, b in zip(names, told, found, strict=True) if a != b]
            raise self._damaged(
                "a header that says what the directory says", f"another {', '.join(wrong)}", member
            )
        return header

    def _check_kind(self, member: Member, header: records.Header) -> None:
        if member.flags & records.ENCRYPTED:
            raise self._foreign(
                f"{member.name!r} to be stored as it is", "it encrypted", member.name
            )
        if member.method:
            raise self._foreign(
                f"{member.name!r} to be stored as it is", "it compressed", member.name
            )
        if member.flags & ~records.UTF_8:
            what = "sizes before its bytes" if member.flags & records.SIZES_AFTER else "no flags"
            raise self._foreign(
                f"{member.name!r} with {what}", f"flags {member.flags:#x}", member.name
            )
        if stat.S_ISLNK(member.mode):
            if _is_ours(member, header):
                raise self._damaged("a regular file", "a symbolic link", member)
            raise UnsafeError(
                f"{self.path / member.name}: expected a regular file, found a symbolic link, which "
                "could lead outside the checkpoint.",
                path=self.path / member.name,
                key=member.name,
            )

    # Errors.

    def _damaged(self, expected: str, found: str, member: Member | None = None) -> DamagedError:
        if member is None:
            return DamagedError(
                f"{self.path}: expected {expected}, found {found}. The archive is damaged: fall "
                "back to another copy or an earlier checkpoint.",
                path=self.path,
                differences=[Difference(self.path.name, expected, found)],
            )
        difference = Difference(member.name, expected, found)
        return DamagedError(
            f"{self.path}: {difference}. The member is damaged and was not used; others still "
            "load, and `rekindle verify` lists what is intact.",
            path=self.path / member.name,
            key=member.name,
            differences=[difference],
        )

    def _foreign(self, expected: str, found: str, key: str | None = None) -> FormatError:
        return FormatError(
            f"{self.path}: expected {expected}, found {found}. Another program made this archive: "
            "unpack it with any, then `rekindle pack` the directory.",
            path=self.path,
            key=key,
        )


def _is_ours(member: Member, header: records.Header) -> bool:
    """Whether a member was written here, by its own header."""
    extra = header.data[records.LOCAL.size + len(member.raw_name) :]
    return any(key == records.PADDING for key, _ in records.extra_fields(extra))

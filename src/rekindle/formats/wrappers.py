"""Whole files that were compressed as one stream: gzip, zstd, lz4; unpacked within bounds.

An array in such a file cannot be mapped, so all of it is unpacked into memory, as far as the budget
goes. zstd and lz4 need a package; gzip does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rekindle import spans
from rekindle.errors import DamagedError, MissingDependencyError, RekindleError
from rekindle.limits import Budget
from rekindle.spans import Span

_CHUNK_BYTES = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPED = b"\x50\x2a\x4d\x18"
"""How a frame begins that holds no data; its first four bits may be any."""
_MAGIC = {b"\x1f\x8b": "gzip", _ZSTD: "zstd", b"\x04\x22\x4d\x18": "lz4"}
_REPEATED = 1
"""The kind of block that is one byte, many times."""
_LARGEST_WINDOW_BYTES = 1 << 31
"""Most memory that zstd may take to unpack; its own default refuses what `--long` wrote."""


def kind_of(span: Span) -> str | None:
    """How a file is compressed, by its first bytes; None where it is not."""
    head = span.bytes(0, 4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def of_file(path: Path, budget: Budget) -> Span:
    """The bytes of a file: mapped, or unpacked where it is compressed as a whole.

    Raises:
        DamagedError: The stream is truncated, or its checksum differs.
        UnsafeError: It unpacks to more than the budget holds.
        MissingDependencyError: The package that unpacks it is not installed.
    """
    span = spans.of_file(path)
    kind = kind_of(span)
    return span if kind is None else unpack(span, kind, budget)


def head(path: Path, size: int) -> Span:
    """The first bytes of a file, unpacked; all of it, mapped, where it is not compressed.

    Raises:
        MissingDependencyError: The package that unpacks it is not installed.
    """
    span = spans.of_file(path)
    kind = kind_of(span)
    if kind is None:
        return span
    data = b""
    try:
        for part in _STREAMS[kind](span):
            data += part
            if len(data) >= size:
                break
    except RekindleError:
        raise
    except Exception as error:
        if not _is_broken(error):
            raise
    return spans.of_bytes(data[:size], span.name)


def unpack(span: Span, kind: str, budget: Budget) -> Span:
    """All bytes of a compressed stream, in memory."""
    parts: list[bytes] = []
    size = 0
    try:
        for part in _STREAMS[kind](span):
            # Once for the part, once for the whole that it is joined into.
            budget.charge(2 * len(part))
            size += len(part)
            parts.append(part)
    except RekindleError:
        raise
    except Exception as error:
        if not _is_broken(error):
            raise
        raise DamagedError(
            f"{span.name}: expected a whole stream of {kind}, found one that breaks off or differs "
            f"from its checksum ({str(error)[:200]}). The file is damaged.",
            path=span.name,
        ) from error
    data = b"".join(parts)
    budget.spent -= size
    return spans.of_bytes(data, span.name)


def _is_broken(error: Exception) -> bool:
    """Whether an error says that a stream is damaged; zstandard's own derives from Exception."""
    known = (EOFError, OSError, RuntimeError, ValueError, zlib.error)
    return isinstance(error, known) or type(error).__module__.partition(".")[0] == "zstandard"


def _gzip(span: Span) -> Iterator[bytes]:
    """Unpack one gzip stream after the other, as `gzip -d` does."""
    rest = span.view()
    while len(rest):
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not stream.eof:
            piece, rest = rest[:_CHUNK_BYTES], rest[_CHUNK_BYTES:]
            if not len(piece):
                raise EOFError("it ends too early")
            data: Any = piece
            while data and not stream.eof:
                yield stream.decompress(data, _CHUNK_BYTES)
                data = stream.unconsumed_tail
        left = stream.unused_data
        begin = len(span) - len(rest) - len(left)
        rest = span.view(begin)
        if not bytes(rest[:512]).strip(b"\0"):
            return  # padding, as tapes have it


def _zstd(span: Span) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise _missing(span, "zstandard", "zstd") from error
    _check_frames(span)
    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
    with unpacker.stream_reader(span.view(), read_across_frames=True) as stream:
        while part := stream.read(_CHUNK_BYTES):
            yield part


def _check_frames(span: Span) -> None:
    """Walk over the blocks of zstd: its reader takes a stream that breaks off for a whole one.

    Source: RFC 8878, section 3.1.
    """
    position = 0
    while position < len(span):
        head = span.bytes(position, position + 8)
        if head[1:4] == _SKIPPED[1:] and head[0] >> 4 == _SKIPPED[0] >> 4:
            position += 8 + int.from_bytes(head[4:8], "little")
            continue
        if not head.startswith(_ZSTD) or len(head) < 5:
            raise EOFError("something else follows")
        flags = head[4]
        is_single = bool(flags & 0x20)
        size_bytes = (int(is_single), 2, 4, 8)[flags >> 6]
        position += 5 + (not is_single) + (0, 1, 2, 4)[flags & 3] + size_bytes
        is_last = False
        while not is_last:
            block = span.bytes(position, position + 3)
            if len(block) < 3:
                raise EOFError("it ends too early")
            number = int.from_bytes(block, "little")
            is_last = bool(number & 1)
            position += 3 + (1 if number >> 1 & 3 == _REPEATED else number >> 3)
        position += 4 * bool(flags & 0x04)
    if position != len(span):
        raise EOFError("it ends too early")


def _lz4(span: Span) -> Iterator[bytes]:
    try:
        import lz4.frame
    except ImportError as error:
        raise _missing(span, "lz4", "lz4") from error
    stream = lz4.frame.LZ4FrameDecompressor()
    position = 0
    while not stream.eof:
        piece = b""
        if stream.needs_input:
            piece = span.bytes(position, position + _CHUNK_BYTES)
            position += len(piece)
            if not piece:
                raise EOFError("it ends too early")
        yield stream.decompress(piece, _CHUNK_BYTES)


def _missing(span: Span, package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"{span.name}: expected the package {package!r}, which unpacks this file, found none. "
        f"Install it with `pip install rekindle[{extra}]`.",
        path=span.name,
    )


_STREAMS: dict[str, Callable[[Span], Iterator[bytes]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "lz4": _lz4,
}

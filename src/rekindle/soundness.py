"""Is a file of another library as it was written? Found out by whatever it can be checked by.

Archives hold a checksum for each member, streams of gzip one at their end. Files of safetensors and
rows of `.npy` only say how long they are; pickles and text say nothing. What no checksum covers is
listed as such, so that nobody takes for sound what was never compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rekindle import contents, spans
from rekindle.errors import DamagedError, Difference
from rekindle.formats import wrappers
from rekindle.limits import Budget
from rekindle.report import VerifyReport
from rekindle.spans import Span
from rekindle.zips import Zip, is_zip

_CHUNK_BYTES = 1 << 22
_NOTHING = "holds no checksum: it can be read, and a changed byte would not be noticed"
_ZSTD = "may hold a checksum, which is compared where it is there; not every file has one"


@dataclass(frozen=True)
class _Checked:
    """What is known of one file."""

    differences: tuple[Difference, ...] = ()
    unchecked: str = ""
    """Why its bytes could not be compared; empty where they were."""


def check(path: Path, format: str | None = None) -> VerifyReport:
    """Check every file of what another library wrote.

    Args:
        path: A file or directory of a known format.
        format: The name of its format, where its content could be of two.

    Raises:
        NotFoundError: Nothing that Rekindle knows is there.
        FormatError: It is of no known format, or of two that both could be meant.
    """
    differences: list[Difference] = []
    try:
        contents.contents(path, format=format)
    except DamagedError as error:
        whole = Difference(error.key or path.name, "a file that can be read", str(error))
        differences += error.differences or (whole,)
    unchecked: list[tuple[str, str]] = []
    parts = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = 0
    for part in parts:
        name = part.name if part == path else part.relative_to(path).as_posix()
        total += part.stat().st_size
        found = _check_file(part, name)
        differences += [item for item in found.differences if item not in differences]
        if found.unchecked:
            unchecked.append((name, found.unchecked))
    return VerifyReport(
        str(path), 1, len(parts), total, tuple(differences), tuple(unchecked), is_foreign=True
    )


def _check_file(path: Path, name: str) -> _Checked:
    span = spans.of_file(path)
    kind = wrappers.kind_of(span)
    try:
        if kind is not None:
            budget = Budget(None, str(path))
            wrappers.unpack(span, kind, budget)
            return _Checked(unchecked=_ZSTD if kind != "gzip" else "")
        if is_zip(span):
            return _Checked(tuple(_check_members(Zip(span, Budget(None, str(path))), name)))
    except DamagedError as error:
        return _Checked((Difference(name, "a whole file", str(error)),))
    return _Checked(unchecked=_NOTHING)


def _check_members(archive: Zip, name: str) -> Iterator[Difference]:
    for member in archive:
        if member.endswith("/"):
            continue
        key = f"{name}:{member}"
        expected = archive.checksum(member)
        try:
            found = _checksum(archive.span(member, is_array=True))
        except DamagedError as error:
            yield Difference(key, "bytes that fit their checksum", str(error))
            continue
        if found != expected:
            yield Difference(key, f"checksum {expected:08x}", f"{found:08x}")


def _checksum(span: Span) -> int:
    found = 0
    for begin in range(0, len(span), _CHUNK_BYTES):
        found = zlib.crc32(span.view(begin, begin + _CHUNK_BYTES), found)
    return found

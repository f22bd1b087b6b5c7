"""Which format a file or folder is of, by its content; its name is never asked."""

from __future__ import annotations

from pathlib import Path

from rekindle import registry, spans
from rekindle.errors import (
    DamagedError,
    FormatError,
    NotFoundError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import wrappers
from rekindle.formats.protocol import Confidence, Format
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.zips import Zip, is_zip

_HEAD_BYTES = 4096
_PICKLE = b"\x80"
"""How a pickle begins, of protocol 2 and later."""


def formats() -> list[Format]:
    """Every format, in the order of the registry."""
    return [registry.load(target) for target in registry.FORMATS.values()]


def named(name: str) -> Format:
    """The format of a name.

    Raises:
        FormatError: There is none of this name.
    """
    if name not in registry.FORMATS:
        known = ", ".join(registry.FORMATS)
        raise FormatError(f"{name}: expected a format, one of {known}.", key=name)
    return registry.load(registry.FORMATS[name])


def recognise(path: Path) -> Format:
    """The format of what is at a path.

    Raises:
        NotFoundError: Nothing is there.
        MissingDependencyError: It is compressed, and what unpacks it is not installed.
        FormatError: It is of no known format, or of two that both could be meant.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: expected a file or directory, found nothing.", path=path)
    if path.is_file():
        wrappers.head(path, 1)  # what unpacks it is not installed: that is said rather than guessed
    best: list[Format] = []
    confidence: Confidence | None = None
    for format_ in formats():
        found = format_.sniff(path)
        if found is None:
            continue
        if confidence is None or found > confidence:
            best, confidence = [format_], found
        elif found == confidence:
            best.append(format_)
    if not best:
        raise _unknown(path)
    if len(best) > 1:
        names = " and ".join(format_.name for format_ in best)
        raise FormatError(
            f"{path}: expected a checkpoint of one format, found one that could be {names}. "
            "Name the one that is meant (format=, --format).",
            path=path,
        )
    return best[0]


def _unknown(path: Path) -> RekindleError:
    """What to say of a path at which no format finds anything of its own."""
    known = ", ".join(("rekindle", *registry.FORMATS))
    expected = f"{path}: expected a checkpoint of a known format ({known})"
    if path.is_dir():
        return NotFoundError(
            f"{expected}, found a directory without one. Name the file or directory inside it that "
            "is meant.",
            path=path,
        )
    return _damage(path) or FormatError(
        f"{expected}, found {_what(path)}. If it is one, name its format (format=, --format).",
        path=path,
    )


def _damage(path: Path) -> RekindleError | None:
    """Why a file cannot be read, where that is why no format knows it: truncated, encrypted."""
    from rekindle.pickles import machine  # readers of files are loaded when they are used

    budget = Budget(SNIFF_BYTES, str(path))
    try:
        span = wrappers.of_file(path, budget)
        if is_zip(span):
            archive = Zip(span, budget)
            for member in archive:
                archive.span(member, is_array=True)
        elif span.bytes(0, 1) == _PICKLE:
            machine.record(span, budget)
    except (DamagedError, UnsupportedError, UnsafeError) as error:
        return error
    except RekindleError:
        return None
    return None


def _what(path: Path) -> str:
    """What a file is, as far as its first bytes tell."""
    head = wrappers.head(path, _HEAD_BYTES).bytes(0, _HEAD_BYTES)
    if not head:
        return "an empty file"
    if is_zip(spans.of_bytes(head, str(path))):
        return "a ZIP archive with other members"
    if head.startswith(_PICKLE):
        return "a pickle of something else"
    return "other bytes"

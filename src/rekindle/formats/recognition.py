"""Which format a file or folder is of, by its content; its name is never asked."""

from __future__ import annotations

from pathlib import Path

from rekindle import registry
from rekindle.errors import FormatError, NotFoundError
from rekindle.formats import wrappers
from rekindle.formats.protocol import Confidence, Format


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
        raise FormatError(
            f"{path}: expected a checkpoint of a known format ({', '.join(registry.FORMATS)}), "
            "found none. If it is one, name it with format=.",
            path=path,
        )
    if len(best) > 1:
        names = " and ".join(format_.name for format_ in best)
        raise FormatError(
            f"{path}: expected a checkpoint of one format, found one that could be {names}. "
            "Name the one that is meant with format=.",
            path=path,
        )
    return best[0]

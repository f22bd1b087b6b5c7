"""What changed from each version of our format to the next; done in memory when an old one is read.

There is one entry per version in `MIGRATIONS`: two small functions, one for the manifest and one
for documents, of plain JSON to plain JSON. Files keep their names and arrays their bytes. Nothing
is written: `rekindle migrate` does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _as_it_is(content: dict[str, Any]) -> dict[str, Any]:
    return content


def _document_as_it_is(component: str, content: Any) -> Any:
    return content


@dataclass(frozen=True, kw_only=True)
class Migration:
    """From one version to the next."""

    manifest: Callable[[dict[str, Any]], dict[str, Any]] = _as_it_is
    """Gives the manifest as the next version has it; `version` is not its concern."""
    document: Callable[[str, Any], Any] = _document_as_it_is
    """Gives the document of a component as the next version has it."""


MIGRATIONS: dict[int, Migration] = {}
"""By the version that they start from. Version 1 is the first and the present one."""


def oldest(newest: int) -> int:
    """The oldest version from which there is a way to the newest."""
    version = newest
    while version - 1 in MIGRATIONS:
        version -= 1
    return version


def manifest(content: dict[str, Any], version: int, newest: int) -> dict[str, Any]:
    """A manifest of some version as the newest has it, but for `version`, which stays."""
    for step in range(version, newest):
        content = MIGRATIONS[step].manifest(content)
    return {**content, "version": version}


def document(component: str, content: Any, version: int, newest: int) -> Any:
    """The document of a component of some version as the newest has it."""
    for step in range(version, newest):
        content = MIGRATIONS[step].document(component, content)
    return content

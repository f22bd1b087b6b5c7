"""The description of a run, `run.json`: what is trained, and what must be equal to go on with it.

Its keys: docs/format.md, "Runs".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from rekindle import files, provenance
from rekindle.errors import (
    DamagedError,
    Difference,
    FormatError,
    NotFoundError,
    UnsupportedError,
    VersionError,
)

NAME = "run.json"
FORMAT = "rekindle-run"
VERSION = 1


def new(about: Mapping[str, Any], *, parent: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The description of a run that begins now.

    Args:
        about: Its `algorithm`, `environment` and `configuration`.
        parent: The checkpoint that it was forked from.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "algorithm": about["algorithm"],
        "environment": about["environment"],
        "configuration": about["configuration"],
        "code": provenance.git_commit(Path.cwd()),
        "parent": None if parent is None else dict(parent),
    }


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of `run.json`."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def write(run: Path, content: Mapping[str, Any]) -> None:
    """Put a description in place of the one before."""
    files.replace_file(run / NAME, encode(content))


def read(run: Path) -> dict[str, Any]:
    """The description of the run in a directory.

    Raises:
        NotFoundError: There is none.
        DamagedError: It is not JSON.
        FormatError: It describes something else, or was written by a newer version.
    """
    file = run / NAME
    try:
        content = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(
            f"{run}: expected a run (a directory with a {NAME}), found none.", path=run
        ) from None
    except msgspec.DecodeError as error:
        raise DamagedError(
            f"{file}: expected JSON ({error}). The file is damaged; it holds only what was "
            "trained, so it can be deleted and is written anew.",
            path=file,
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{file}: expected the description of a run.", path=file)
    if not isinstance(content.get("version"), int):
        raise FormatError(f"{file}: expected a version, found none.", path=file)
    if content["version"] > VERSION:
        raise VersionError(
            f"{file}: expected version {VERSION} or older, found {content['version']}. "
            "A newer Rekindle wrote it: upgrade with `pip install -U rekindle`.",
            path=file,
        )
    return content


def plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON can hold it, so that it compares equal when it is read again.

    Raises:
        UnsupportedError: It holds something that is no data.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(dict(configuration)))
    except (TypeError, msgspec.MsgspecError) as error:
        raise UnsupportedError(
            f"configuration: expected plain data, found a value that JSON cannot hold ({error})."
        ) from error


def differences(stored: Mapping[str, Any], about: Mapping[str, Any]) -> list[Difference]:
    """Where a stored description and what a script says of itself do not agree.

    A name that either of them leaves open agrees with any; a configuration is left open only by
    the description of a fork whose parent had none.
    """
    found = []
    for key in ("algorithm", "environment"):
        if about[key] is not None and stored.get(key) not in (None, about[key]):
            found.append(Difference(key, str(stored.get(key)), str(about[key])))
    configuration = stored.get("configuration", {})
    if configuration is not None:
        found += _compare(configuration, about["configuration"], "configuration")
    return found


def _compare(stored: Any, found: Any, key: str) -> list[Difference]:
    if isinstance(stored, dict) and isinstance(found, dict):
        differences = []
        for name in sorted({*stored, *found}):
            if name not in found or name not in stored:
                missing = Difference(f"{key}.{name}", _shown(stored, name), _shown(found, name))
                differences.append(missing)
            else:
                differences += _compare(stored[name], found[name], f"{key}.{name}")
        return differences
    return [] if stored == found else [Difference(key, repr(stored), repr(found))]


def _shown(holder: dict[str, Any], name: str) -> str:
    return repr(holder[name]) if name in holder else "nothing"

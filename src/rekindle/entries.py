"""What a run says of its checkpoints in a line each: `checkpoints.jsonl`, a cache of the manifests.

Its keys: docs/format.md, "Runs".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rekindle import files, manifest
from rekindle.checkpoint import Checkpoint, step_directories
from rekindle.codecs import values
from rekindle.errors import RekindleError
from rekindle.report import num_bytes
from rekindle.writer import Commit

NAME = "checkpoints.jsonl"

_KINDS = {"name": str, "step": int, "created": str, "bytes": int, "metrics": dict}
"""What a line must have."""


def read(run: Path) -> list[dict[str, Any]]:
    """One entry per checkpoint, oldest first.

    Taken from the cache; what that lacks, or what changed since it was written, is read from the
    manifests. A damaged checkpoint's entry says so under `damaged`.
    """
    cache = run / NAME
    written = _modified(cache)
    cached = {entry["name"]: entry for entry in _lines(cache)}
    found = []
    for directory in step_directories(run):
        entry = cached.get(directory.name)
        if entry is None or not 0 < _modified(directory / manifest.NAME) <= written:
            said = _read_one(directory)
            # A clock that was set back makes old lines look stale; what a save took is only there.
            is_true = entry is not None and said.items() <= entry.items()
            entry = entry if is_true else said
        found.append(entry)
    return found


def mend(run: Path) -> None:
    """Write the cache anew where it does not say what the manifests say."""
    intact = [entry for entry in read(run) if "damaged" not in entry]
    text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in intact)
    cache = run / NAME
    if text != (cache.read_bytes() if cache.exists() else b""):
        files.replace_file(cache, text)


def append(checkpoint: Checkpoint, done: Commit) -> None:
    """Add the line of a checkpoint that was just written, with what the save took.

    No manifest says what a save took, so that is lost with the cache.
    """
    measured = {
        "written_bytes": done.written_bytes,
        "linked_bytes": done.linked_bytes,
        "stall_seconds": round(done.stall_seconds, 6),
        "durable_seconds": round(done.seconds, 6),
    }
    line = msgspec.json.encode(of(checkpoint) | measured)
    files.append_line(checkpoint.path.parent / NAME, line)


def of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entry of one checkpoint."""
    return {
        "name": checkpoint.path.name,
        "step": checkpoint.step,
        "created": checkpoint.manifest.created,
        "elapsed_seconds": checkpoint.manifest.elapsed_seconds,
        "bytes": checkpoint.num_bytes,
        "metrics": checkpoint.manifest.metrics,
    }


def rows(entries: Sequence[Mapping[str, Any]], pinned: Collection[int] = ()) -> list[list[str]]:
    """Entries of a run as rows of text, with a heading.

    Args:
        entries: As `read` gives them.
        pinned: Steps of the checkpoints that are pinned.
    """
    names = sorted({name for entry in entries for name in entry.get("metrics", {})})
    measured = MEASURED if any("stall_seconds" in entry for entry in entries) else {}
    table = [["step", "created", "size", *measured, *names, ""]]
    for entry in entries:
        metrics = entry.get("metrics", {})
        cells = [show(entry[key]) if key in entry else "" for key, show in measured.values()]
        cells += [cell(metrics.get(name)) for name in names]
        size = num_bytes(entry["bytes"]) if "bytes" in entry else "?"
        mark = "damaged" if entry.get("damaged") else "pinned" if entry["step"] in pinned else ""
        table.append([f"{entry['step']:,}", entry.get("created", "?"), size, *cells, mark])
    return table


def _seconds(value: float) -> str:
    return f"{value * 1e3:,.3g} ms" if value < 1 else f"{value:,.3g} s"


MEASURED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "written": ("written_bytes", num_bytes),
    "stall": ("stall_seconds", _seconds),
    "durable in": ("durable_seconds", _seconds),
}
"""Headings of what a save took, with the keys of an entry."""


def cell(value: Any) -> str:
    """A metric, as a manifest holds it, for a table."""
    value = values.decode(value)
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _read_one(directory: Path) -> dict[str, Any]:
    try:
        return of(Checkpoint(directory, manifest.read(directory)))
    except RekindleError as error:
        return {"name": directory.name, "step": int(directory.name[5:]), "damaged": str(error)}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of the cache that can be read; the rest is rebuilt from the manifests."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(entry, dict) and all(
            isinstance(entry.get(key), kind) for key, kind in _KINDS.items()
        ):
            found.append(entry)
    return found


def _modified(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0

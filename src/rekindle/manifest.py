"""The manifest, `checkpoint.json`: which files a checkpoint has, and what they are.

The records here and the tables of `docs/format.md` say the same; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from rekindle import files, migrations
from rekindle.archive import Archive, is_archive
from rekindle.codecs import values
from rekindle.errors import (
    DamagedError,
    FormatError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
    VersionError,
)
from rekindle.files import FileRecord

NAME = "checkpoint.json"
FORMAT = "rekindle"
VERSION = 1
FEATURES = frozenset(("segments", "zstd"))
"""Values of `requires` that this version understands."""
KINDS = ("checkpoint", "policy")

_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"\s*}\s*$')
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


class SegmentRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows that lie in one file."""

    file: str
    first: int
    count: int
    skip: int = 0
    codecs: dict[str, str] = {}


class ArrayRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an array whose rows lie in segments."""

    dtype: str
    shape: list[int]


class RowsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays of one length whose rows lie in segments, and which rows lie where."""

    arrays: dict[str, ArrayRecord]
    segments: list[SegmentRecord]
    filled: int
    position: int | None = None


class ComponentRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One component: what captured it, and its files."""

    adapter: str
    document: str
    arrays: list[str] = []
    rows: list[RowsRecord] = []

    @property
    def files(self) -> list[str]:
        """Every file that belongs to it."""
        return [
            self.document,
            *self.arrays,
            *dict.fromkeys(item.file for part in self.rows for item in part.segments),
        ]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the checkpoint."""

    bytes: int
    blake3: str

    @property
    def record(self) -> FileRecord:
        """The same as `rekindle.files` says it."""
        return FileRecord(self.bytes, self.blake3)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Every key of `checkpoint.json`, in the order in which they are written."""

    format: str = FORMAT
    version: int = VERSION
    kind: str = "checkpoint"
    requires: list[str] = []
    step: int = 0
    counters: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    created: str = ""
    elapsed_seconds: float | None = None
    parent: str | None = None
    components: dict[str, ComponentRecord] = {}
    files: dict[str, FileEntry] = {}
    spaces: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    excluded: list[str] = []
    notes: list[str] = []
    extra: dict[str, Any] = {}
    """Keys that this version does not know; written back as they were."""

    @property
    def num_bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    def records(self) -> dict[str, FileRecord]:
        """The list of files as `places.check_files` takes it."""
        return {name: entry.record for name, entry in self.files.items()}


def check_component(name: str) -> None:
    """Refuse a component's name that could not name a file.

    Raises:
        UnsupportedError: It is not a plain identifier, or is the manifest's own.
    """
    if not _COMPONENT.fullmatch(name) or name.lower() == "checkpoint":
        raise UnsupportedError(
            f"{name!r}: expected a component named by letters, digits and '_', other than "
            "'checkpoint', because files are named after it. Rename the keyword argument.",
            key=name,
        )


def check_components(names: Iterable[str]) -> None:
    """Refuse names that could not name files, or not beside each other.

    Raises:
        UnsupportedError: A name is refused, or two differ only by case.
    """
    met: dict[str, str] = {}
    for name in names:
        check_component(name)
        other = met.setdefault(name.lower(), name)
        if other != name:
            raise UnsupportedError(
                f"{name!r}: expected components that differ by more than case, found {other!r}, "
                "because their files would be one file on some disks. Rename one of them.",
                key=name,
            )


def check_metrics(metrics: dict[str, Any], what: str) -> dict[str, Any]:
    """Metrics or counters as JSON: numbers, text, true, false, null.

    Raises:
        UnsupportedError: A value is something else; numpy and torch scalars count as numbers.
    """
    checked = {}
    for key, value in metrics.items():
        plain = value.item() if getattr(value, "shape", None) == () else value
        if not isinstance(key, str) or not isinstance(plain, (int, float, str, type(None))):
            raise UnsupportedError(
                f"{what}[{key!r}]: expected a number or text under a text key, found "
                f"{type(value).__name__}. Convert it with float(...), or track it as a component.",
                key=str(key),
            )
        encoder = values.ENCODERS[next(c for c in (bool, int, float, str, type(None))
                                       if isinstance(plain, c))]  # fmt: skip
        checked[key] = encoder(plain)
    return checked


def encode(manifest: Manifest) -> bytes:
    """The bytes of `checkpoint.json`, with their own digest at the end."""
    content = msgspec.to_builtins(manifest)
    content |= content.pop("extra")
    content["digest"] = "0" * 64
    text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    return _with_digest(text, files.digest(text).encode())


def _with_digest(text: bytes, digest: bytes) -> bytes:
    found = _DIGEST.search(text)
    assert found is not None
    return text[: found.start(1)] + digest + text[found.end(1) :]


def read(path: Path) -> Manifest:
    """Read and check the manifest of a checkpoint: of its directory, or of its archive.

    Raises:
        NotFoundError: There is nothing, or a directory without a manifest.
        DamagedError: The manifest's bytes are not those that were written.
        FormatError: What is there is no checkpoint, or the file is no manifest.
        VersionError: A newer version wrote it, or it requires an unknown feature.
    """
    try:
        text = (path / NAME).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: expected {_EXPECTED}, found {_what(path)}. "
            "`rekindle ls` lists the checkpoints of a run.",
            path=path,
        ) from None
    except NotADirectoryError:
        text = _read_archived(path)
    return decode(text, path / NAME)


def is_archived(path: Path) -> bool:
    """Whether a file is an archive with a manifest, whatever that says."""
    if not is_archive(path):
        return False
    try:
        return NAME in Archive(path).names()
    except (DamagedError, FormatError, UnsafeError):
        return False


_EXPECTED = f"a checkpoint (a directory with a {NAME}, or an archive of one)"


def _read_archived(path: Path) -> bytes:
    if not path.exists():
        raise NotFoundError(f"{path}: expected {_EXPECTED}, found nothing.", path=path)
    place = Archive(path) if is_archive(path) else None
    names = place.names() if place is not None else []
    if place is None or NAME not in names:
        what = "a file of no known format" if place is None else "a zip archive of no known format"
        if "_stable_baselines3_version" in names:
            what = (
                "a model that Stable-Baselines3 saved: its own class loads it, rekindle.open and "
                "rekindle.restore read it"
            )
        raise FormatError(f"{path}: expected {_EXPECTED}, found {what}.", path=path)
    return place.extent(NAME).read()


def _what(path: Path) -> str:
    return "a directory without one" if path.is_dir() else "nothing"


def decode(text: bytes, path: Path) -> Manifest:
    """Read a manifest from its bytes; see `read`."""
    content = _content(text, path)
    if _DIGEST.search(text):
        _check_digest(text, path)
    if content.get("format") != FORMAT:
        raise FormatError(
            f"{path}: expected format 'rekindle', found {content.get('format')!r}. "
            "This is not a checkpoint of Rekindle.",
            path=path,
        )
    version = content.get("version")
    if not isinstance(version, int) or not migrations.oldest(VERSION) <= version <= VERSION:
        raise VersionError(
            f"{path}: expected format version {VERSION} or older, found {version}. "
            "A newer Rekindle wrote it: upgrade with `pip install -U rekindle`.",
            path=path,
        )
    requires = content.get("requires", [])
    if not isinstance(requires, list):
        raise FormatError(f"{path}: malformed manifest: `requires` is not a list.", path=path)
    unknown = sorted(set(map(str, requires)) - FEATURES)
    if unknown:
        raise VersionError(
            f"{path}: expected only known features, found {', '.join(unknown)} in `requires`. "
            "Reading it without them would be wrong: upgrade with `pip install -U rekindle`.",
            path=path,
        )
    _check_digest(text, path)
    content = migrations.manifest(content, version, VERSION)
    known = {name: content[name] for name in Manifest.__struct_fields__ if name in content}
    known.pop("extra", None)
    extra = {k: v for k, v in content.items() if k not in known and k != "digest"}
    try:
        manifest = msgspec.convert({**known, "extra": extra}, Manifest)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path}: malformed manifest: {error}.", path=path) from error
    _check_names(manifest, path)
    return manifest


def _content(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DamagedError(
            f"{path}: expected JSON, found bytes that are not ({error}). The manifest is damaged: "
            "`rekindle verify` says more; fall back to an earlier checkpoint.",
            path=path,
        ) from error
    if not isinstance(content, dict):
        raise FormatError(
            f"{path}: expected a JSON object, found {type(content).__name__}.", path=path
        )
    return content


def _check_digest(text: bytes, path: Path) -> None:
    found = _DIGEST.search(text)
    expected = found.group(1).decode() if found else "none"
    actual = files.digest(_with_digest(text, b"0" * 64)) if found else "none"
    if found is None or expected != actual:
        raise DamagedError(
            f"{path}: expected the digest {expected} that it says of itself, found {actual}. "
            "The manifest is damaged: fall back to an earlier checkpoint.",
            path=path,
        )


def _check_names(manifest: Manifest, path: Path) -> None:
    """Every file that a component names is inside and in the list."""
    for name in manifest.files:
        files.check_name(name, path)
    for component, record in manifest.components.items():
        for name in record.files:
            files.check_name(name, path)
            if name not in manifest.files:
                raise FormatError(
                    f"{path}: expected the file {name!r} of {component} in `files`, found no "
                    "entry. The manifest is malformed.",
                    path=path,
                    key=component,
                )

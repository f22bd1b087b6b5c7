"""A checkpoint as one file, and back: every byte is compared with its digest on the way."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rekindle import archive, extents, files, manifest, places
from rekindle.checkpoint import Checkpoint, check_destination, open_checkpoint
from rekindle.errors import DamagedError, Difference, FormatError, UnsupportedError, listing
from rekindle.files import FileRecord, PathLike
from rekindle.manifest import FileEntry
from rekindle.places import NewPlace, Place
from rekindle.reader import Reader


def pack(path: PathLike, destination: PathLike, *, overwrite: bool = False) -> Checkpoint:
    """Copy a checkpoint into one file, from which arrays are mapped as from a directory.

    The file is a ZIP archive that any program opens. The same checkpoint always gives the same
    bytes.

    Args:
        path: A checkpoint, or a run (its newest checkpoint).
        destination: The file to make; its name ends in `.zip`.
        overwrite: Replace an existing checkpoint, in one step.

    Returns:
        The checkpoint in its file.

    Raises:
        DamagedError: The checkpoint is not as it was written; nothing is made of it then.
        AlreadyExistsError: Something is at `destination` and `overwrite` is false.
        UnsupportedError: The name does not end in `.zip`.
    """
    target = Path(destination)
    if not places.is_archive_name(target):
        raise UnsupportedError(
            f"{target}: expected the name of an archive, which ends in {places.SUFFIX}, found "
            f"{target.suffix or 'no ending'}. Name it {target.name}{places.SUFFIX}.",
            key=str(target),
        )
    return copy(open_checkpoint(path).path, target, overwrite=overwrite)


def unpack(path: PathLike, destination: PathLike, *, overwrite: bool = False) -> Checkpoint:
    """Copy a checkpoint out of one file into a directory.

    Args:
        path: What `pack` or `save` made.
        destination: The directory to make.
        overwrite: Replace an existing checkpoint, in one step.

    Returns:
        The checkpoint in its directory.

    Raises:
        DamagedError: The checkpoint is not as it was written; nothing is made of it then.
        AlreadyExistsError: Something is at `destination` and `overwrite` is false.
        FormatError: `path` is no archive.
        UnsupportedError: `destination` ends in `.zip`.
    """
    target = Path(destination)
    if places.is_archive_name(target):
        raise UnsupportedError(
            f"{target}: expected the name of a directory, found one that ends in {places.SUFFIX}. "
            "Choose another, or copy the file as it is.",
            key=str(target),
        )
    source = open_checkpoint(path).path
    if not archive.is_archive(source):
        raise FormatError(
            f"{source}: expected an archive to unpack, found a directory. Copy it as it is.",
            path=source,
        )
    return copy(source, target, overwrite=overwrite)


def copy(path: Path, destination: Path, *, overwrite: bool = False) -> Checkpoint:
    """Copy a checkpoint file by file, the manifest last.

    Args:
        path: A directory or an archive.
        destination: An archive where its name ends in `.zip`, else a directory.
        overwrite: Replace an existing checkpoint, in one step.

    Raises:
        DamagedError: The checkpoint is not as it was written; nothing is made of it then.
        AlreadyExistsError: Something is at `destination` and `overwrite` is false.
    """
    check_destination(destination, overwrite=overwrite)
    source = places.at(path)
    text = source.extent(manifest.NAME).read()
    record = manifest.decode(text, path / manifest.NAME)
    expected = record.records()
    _check_names(source, expected)
    files.make_parents(destination.parent)
    files.sweep(destination.parent, destination.name)
    size_bytes = record.num_bytes + len(text)
    with places.new(destination, size_bytes=size_bytes, overwrite=overwrite) as place:
        for name, entry in expected.items():
            _copy_file(source, name, entry, place)
        place.write(manifest.NAME, text)
    return Checkpoint(destination, record)


def renew(path: Path, destination: Path, *, overwrite: bool = False) -> Checkpoint:
    """Copy a checkpoint of any version that can be read as one of the present version.

    Arrays are copied as they are; the manifest and the documents are written anew where the version
    is older.

    Raises:
        DamagedError: The checkpoint is not as it was written; nothing is made of it then.
        AlreadyExistsError: Something is at `destination` and `overwrite` is false.
    """
    record = manifest.read(path)
    if record.version == manifest.VERSION:
        return copy(path, destination, overwrite=overwrite)
    check_destination(destination, overwrite=overwrite)
    source, reader = places.at(path), Reader(path, record, verify=True)
    expected = record.records()
    _check_names(source, expected)
    documents = {part.document: component for component, part in record.components.items()}
    entries = dict(record.files)
    files.make_parents(destination.parent)
    files.sweep(destination.parent, destination.name)
    with places.new(destination, size_bytes=record.num_bytes, overwrite=overwrite) as place:
        for name, entry in expected.items():
            if name not in documents:
                _copy_file(source, name, entry, place)
                continue
            written = place.write(name, msgspec.json.encode(reader.content(documents[name])))
            entries[name] = FileEntry(bytes=written.bytes, blake3=written.blake3)
        renewed = msgspec.structs.replace(record, version=manifest.VERSION, files=entries)
        place.write(manifest.NAME, manifest.encode(renewed))
    return Checkpoint(destination, renewed)


def _copy_file(source: Place, name: str, expected: FileRecord, place: NewPlace) -> None:
    extent = source.extent(name)
    wrong = places.compare(name, expected, FileRecord(extent.size, expected.blake3))
    if not wrong:
        wrong = places.compare(name, expected, extents.copy(extent, place.target(name)))
    _refuse(source, wrong)


def _check_names(source: Place, expected: dict[str, FileRecord]) -> None:
    """Every file that should be there is, and no other, which would be lost."""
    found = {*source.names()} - {manifest.NAME}
    wrong = [
        Difference(name, f"{entry.bytes} bytes", "no file")
        for name, entry in expected.items()
        if name not in found
    ]
    extra = sorted(found - {*expected})
    wrong += [Difference(name, "no such file", "an extra file") for name in extra]
    _refuse(source, wrong)


def _refuse(source: Place, wrong: list[Difference]) -> None:
    if wrong:
        raise DamagedError(
            f"{source.path}: expected every file as it was written, found others:\n"
            f"{listing(wrong)}\nNothing was made of it. Choose an intact checkpoint.",
            path=source.path,
            key=wrong[0].key,
            differences=wrong,
        )

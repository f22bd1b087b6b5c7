"""Reading a checkpoint's files: documents and arrays by component, checked against the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rekindle import files, migrations, places
from rekindle.codecs import arrays
from rekindle.errors import DamagedError, Difference, FormatError, NotFoundError, RekindleError
from rekindle.extents import Extent
from rekindle.manifest import VERSION, ComponentRecord, FileEntry, Manifest
from rekindle.rowgroups import Segmented
from rekindle.state import Document

_MALFORMED = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip


class malformed:  # noqa: N801 - a context manager, used like a function
    """Turns the errors of a document that breaks its own rules into one that says so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _MALFORMED) and not isinstance(error, RekindleError):
            raise FormatError(
                f"{self._path}: expected a document of format version 1, found one that breaks its "
                f"rules ({type(error).__name__}: {error}).",
                path=self._path,
            ) from error


class Reader:
    """Documents and arrays of one checkpoint, each file opened once.

    Args:
        root: Its directory, or its archive.
        record: Its manifest.
        verify: Whether to compare every byte read with its digest.
    """

    def __init__(self, root: Path, record: Manifest, *, verify: bool) -> None:
        self._root = root
        self._manifest = record
        self._verify = verify
        self._documents: dict[str, Document] = {}
        self._files: dict[str, arrays.ArrayFile] = {}
        self._place = places.at(root)

    def _record(self, component: str) -> ComponentRecord:
        try:
            return self._manifest.components[component]
        except KeyError:
            held = ", ".join(self._manifest.components) or "none"
            raise NotFoundError(
                f"{self._root}: expected a component {component!r}, found {held}.",
                path=self._root,
                key=component,
            ) from None

    def content(self, component: str) -> Any:
        """The JSON of a component's document, checked against its digest."""
        name = self._record(component).document
        entry = self._manifest.files[name]
        extent = self._extent(name, entry)
        path, text = extent.path, extent.read()
        self._check(name, entry, files.FileRecord(len(text), files.digest(text)))
        try:
            content = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: expected JSON ({error}).", path=path) from error
        with malformed(self._root):
            return migrations.document(component, content, self._manifest.version, VERSION)

    def document(self, component: str) -> Document:
        """The document of one component."""
        if component not in self._documents:
            self._documents[component] = Document(component, self.content(component))
        return self._documents[component]

    def array(self, name: str) -> arrays.Stored:
        """One stored array by its full name."""
        component, _, short = name.partition("/")
        for file in self._array_files(component):
            if short in file:
                return file[short]
        segmented = self.segmented(name)
        if segmented is not None:
            return arrays.Stored(segmented.code, segmented.assemble())
        raise FormatError(
            f"{self._root}: expected an array {name}, found none of this name. "
            "The document is malformed.",
            path=self._root,
            key=name,
        )

    def segmented(self, name: str) -> Segmented | None:
        """An array whose rows lie in segments, by its full name; None for any other."""
        component, _, short = name.partition("/")
        for record in self._record(component).rows:
            if short in record.arrays:
                return Segmented(short, record, self.file)
        return None

    def names(self, component: str) -> list[str]:
        """Names of a component's stored arrays."""
        whole = [name for file in self._array_files(component) for name in file.entries]
        return [*whole, *(name for part in self._record(component).rows for name in part.arrays)]

    def _array_files(self, component: str) -> list[arrays.ArrayFile]:
        return [self.file(name) for name in self._record(component).arrays]

    def file(self, name: str) -> arrays.ArrayFile:
        """One array file of the checkpoint, checked and mapped."""
        if name not in self._files:
            entry = self._manifest.files[name]
            extent = self._extent(name, entry)
            if self._verify:
                self._check(name, entry, extent.digest())
            elif extent.size != entry.bytes:
                self._check(name, entry, files.FileRecord(extent.size, ""))
            self._files[name] = arrays.ArrayFile(extent)
        return self._files[name]

    def _extent(self, name: str, entry: FileEntry) -> Extent:
        try:
            return self._place.extent(name)
        except NotFoundError:
            difference = Difference(name, f"{entry.bytes} bytes", "no file")
            raise self._damaged(name, difference) from None

    def _check(self, name: str, entry: FileEntry, found: files.FileRecord) -> None:
        for difference in places.compare(name, entry.record, found):
            raise self._damaged(name, difference)

    def _damaged(self, name: str, difference: Difference) -> DamagedError:
        return DamagedError(
            f"{self._root}: {difference}. The file is damaged and was not used; other components "
            "still load, and `rekindle verify` lists what is intact.",
            path=self._root / name,
            key=name,
            differences=[difference],
        )

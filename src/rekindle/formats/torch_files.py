"""Files that `torch.save` and `torch.jit.save` wrote, of every layout that torch has had.

Three layouts: a ZIP archive (since 1.6, and TorchScript), a row of pickles with the storages after
them ("legacy", 0.1.10 to 1.5), and a tar archive (before). Tensors stay in the file. Nothing here
needs torch. Source: torch 2.13, `torch/serialization.py`, `_load` and `_legacy_load`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import spans
from rekindle import zip_records as records
from rekindle.errors import DamagedError, FormatError, RekindleError
from rekindle.formats import wrappers
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.pickles import machine, reading
from rekindle.pickles.machine import Recording
from rekindle.pickles.nodes import Call, Global, Pairs, Payload, Persistent
from rekindle.pickles.rebuilding import Unfit
from rekindle.pickles.torch_values import Storage, Torch, storage_bytes, storage_type
from rekindle.spans import Span
from rekindle.state import Reference
from rekindle.tensors import Tensors
from rekindle.zips import Zip, is_zip

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""How a legacy file begins: a pickle of a number."""
_LEGACY_PROTOCOL = 1001
_TAR_BLOCK = 512
_TAR_MEMBERS = ("sys_info", "pickle", "storages", "tensors")
_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_INT64 = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file of torch holds."""

    kind: str
    """`zip`, `script` (TorchScript), `legacy` or `tar`."""
    value: Any
    """Plain data, with arrays for tensors, and records of all that is no data."""
    tensors: Tensors
    """What the tensors were beside their values."""
    notes: tuple[str, ...]
    """What was known by name and yet stays a record, and why."""
    sources: dict[str, str]
    """Source text of the classes of modules, which legacy files carry."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a file of torch holds on its two upper levels, without its values."""

    kind: str
    label: str
    """Class of the object that it holds; empty where that is a dictionary."""
    keys: frozenset[str]
    """Text among the keys of the dictionary, or the object's attributes."""
    inner: dict[str, frozenset[str]]
    """The same of each dictionary in it, by key."""


def kind_of(span: Span) -> str | None:
    """The layout of a file, by its bytes; None where it is none of torch's."""
    if span.bytes(0, len(MAGIC)) == MAGIC:
        return "legacy"
    if is_zip(span):
        try:
            archive = Zip(span, Budget(SNIFF_BYTES, span.name))
        except (DamagedError, FormatError):
            return None
        root = _root(archive)
        if root is None:
            return None
        return "script" if f"{root}/constants.pkl" in archive else "zip"
    members = _tar_members(span)
    return "tar" if members is not None and set(members) >= set(_TAR_MEMBERS[1:]) else None


def begins(span: Span) -> bool:
    """Whether some bytes begin as a file of torch does, where the rest is not at hand."""
    head = span.bytes(0, 1024)
    first = head[records.LOCAL.size :].partition(b"data.pkl")
    is_archive = head[:4] == records.LOCAL_SIGN and first[1] and first[0][-1:] == b"/"
    return head.startswith(MAGIC) or bool(is_archive)


def read(
    span: Span, budget: Budget, *, tensors: Tensors | None = None, depth: int = 0
) -> TorchFile:
    """Read a file of torch, running nothing, with its tensors where they lie.

    Args:
        span: The bytes.
        budget: Memory that values may take.
        tensors: Where tensors are noted, for files inside another; a new place when left out.
        depth: How many files of torch are around this one.

    Raises:
        FormatError: It is no file of torch, or breaks the rules of one.
        DamagedError: It is truncated.
        UnsafeError: It asks for more than the budget, or is made to be taken for another.
    """
    if depth == 0:
        budget.admit(len(span))
    kind = "zip" if is_zip(span) else kind_of(span)
    file = _File(span, budget, Tensors() if tensors is None else tensors, depth)
    if kind is None:
        raise FormatError(
            f"{span.name}: expected a file of torch.save, found other bytes.", path=span.name
        )
    readers = {"legacy": file.read_legacy, "tar": file.read_tar}
    try:
        value = readers.get(kind, file.read_zip)()
    except RekindleError:
        raise
    except (Unfit, struct.error, *_FAILURES) as error:
        raise FormatError(
            f"{span.name}: expected a file of torch, found one that breaks its rules "
            f"({type(error).__name__}: {str(error)[:200]}).",
            path=span.name,
        ) from error
    return TorchFile(file.kind or kind, value, file.tensors, tuple(file.notes), file.sources)


def outline_of(path: Path) -> Outline | None:
    """What a file of torch holds on its upper levels, compressed or not; None for others.

    Several formats ask this of one file, so what was found last is kept. Of a file that takes more
    than `limits.SNIFF_BYTES` it is not known.
    """
    try:
        about = path.stat()
        return _outline_of(path, about.st_ino, about.st_size, about.st_mtime_ns)
    except (RekindleError, OSError):
        return None


@functools.lru_cache(maxsize=16)
def _outline_of(path: Path, *_: int) -> Outline | None:
    try:
        return outline(wrappers.of_file(path, Budget(SNIFF_BYTES, str(path))))
    except RekindleError:
        return None


def outline(span: Span, budget: Budget | None = None) -> Outline:
    """Look what a file of torch holds, rebuilding nothing.

    Raises:
        FormatError, DamagedError, UnsafeError: As `read`.
    """
    budget = budget or Budget(SNIFF_BYTES, span.name)
    file = _File(span, budget, Tensors(), 0)
    if is_zip(span):
        recording = file.recording()
    elif kind_of(span) == "legacy":
        recording = file.legacy_recording()[0]
    else:
        raise FormatError(
            f"{span.name}: expected a file of torch.save, found other bytes.", path=span.name
        )
    root = recording.root
    label = root.function.label if _is_object(root) else ""
    content = _text_items(root)
    inner = {key: frozenset(_text_items(value)) for key, value in content.items()}
    return Outline(file.kind or "legacy", label, frozenset(content), inner)


def _is_object(node: Any) -> bool:
    return type(node) is Call and type(node.function) is Global and node.is_new


def _text_items(node: Any) -> dict[str, Any]:
    """Nodes of the items of a dictionary whose keys are text, or of an object's attributes."""
    if type(node) is Call:
        states = node.states or []
        node = node.pairs or (states[0] if len(states) == 1 else [])
    if not isinstance(node, list) or len(node) % 2 or type(node) not in (Pairs, list):
        return {}
    pairs = zip(node[::2], node[1::2], strict=True)
    return {key: value for key, value in pairs if type(key) is str}


def read_pickle(
    span: Span, budget: Budget, *, tensors: Tensors, depth: int = 0
) -> reading.Unpickled:
    """Read a plain pickle in which tensors may be, each as a whole file of torch in bytes."""
    budget.admit(len(span))
    builders = {**reading.BUILDERS, **_torch(budget, tensors, span.name, depth).builders()}
    return reading.read(span, budget, builders=builders)


def _torch(budget: Budget, tensors: Tensors, name: str, depth: int) -> Torch:
    def nested(data: Any, inner: int) -> Any:
        if type(data) is Payload:
            budget.charge(len(data.memory))
            data = bytes(data.memory)
        span = spans.of_bytes(data, f"{name}:tensor")
        budget.enter(len(span))
        return read(span, budget, tensors=tensors, depth=inner).value

    return Torch(tensors, nested, depth)


def _root(archive: Zip) -> str | None:
    """The directory that all members of torch's archives are in; None where it is no such."""
    roots = {name.partition("/")[0] for name in archive}
    if len(roots) != 1:
        return None
    root = roots.pop()
    return root if f"{root}/data.pkl" in archive else None


class _File:
    """One file on its way to values."""

    def __init__(self, span: Span, budget: Budget, tensors: Tensors, depth: int) -> None:
        self._span = span
        self._budget = budget
        self._depth = depth
        self.tensors = tensors
        self.kind = ""
        self.notes: dict[str, None] = {}
        self.sources: dict[str, str] = {}

    def _rebuild(
        self, recording: Recording, span: Span, persistent: Callable[[Any], Any] | None = None
    ) -> Any:
        torch = _torch(self._budget, self.tensors, span.name, self._depth)
        builders = {**reading.BUILDERS, **torch.builders()}
        found = reading.rebuild(
            recording, span, self._budget, builders=builders, persistent=persistent
        )
        self.notes.update(dict.fromkeys(found.notes))
        return found.value

    def _malformed(self, expected: str, found: str) -> FormatError:
        return FormatError(
            f"{self._span.name}: expected {expected}, found {found[:200]}. "
            "The file is damaged, or no file of torch.",
            path=self._span.name,
        )

    # ----------------------------------------------------------------- ZIP archives

    def _archive(self) -> tuple[Zip, str, Span]:
        """The archive, the directory that all of it is in, and its pickle."""
        archive = Zip(self._span, self._budget)
        root = _root(archive)
        if root is None:
            names = ", ".join(list(archive)[:5])
            raise self._malformed("an archive with one data.pkl in one directory", names or "none")
        self.kind = "script" if f"{root}/constants.pkl" in archive else "zip"
        return archive, root, archive.span(f"{root}/data.pkl")

    def recording(self) -> Recording:
        """What `data.pkl` says."""
        return machine.record(self._archive()[2], self._budget)

    def read_zip(self) -> Any:
        """The value in `data.pkl`, with storages in members beside it."""
        archive, root, span = self._archive()
        is_big = self._is_big(archive, f"{root}/byteorder")
        storages: dict[str, Storage] = {}

        def persistent(identifier: Any) -> Any:
            cls, key, location, numel = _storage_identifier(identifier, 5)[:4]
            dtype = storage_type(cls)
            size = storage_bytes(numel, dtype)
            if key not in storages:
                member = archive.span(f"{root}/data/{key}", is_array=True) if size else None
                memory = np.empty(0, np.uint8) if member is None else member.array()
                storages[key] = Storage(memory, dtype, location, is_big)
            found = storages[key]
            if found.memory.size != size:
                raise self._malformed(
                    f"a storage {key!r} of {size:,} bytes", f"{found.memory.size:,}"
                )
            return Storage(found.memory, dtype, location, is_big)

        return self._rebuild(machine.record(span, self._budget), span, persistent)

    def _is_big(self, archive: Zip, name: str) -> bool:
        if name not in archive:
            return False
        order = archive.span(name).bytes()
        if order not in (b"little", b"big"):
            raise self._malformed("the byte order little or big", repr(order[:40]))
        return order == b"big"

    # ----------------------------------------------------------------- rows of pickles

    def legacy_recording(self) -> tuple[Recording, int, bool]:
        """What the fourth pickle says, where it ends, and whether numbers are big-endian."""
        position = len(MAGIC)
        protocol, position = self._pickle(self._span, position)
        if protocol != _LEGACY_PROTOCOL:
            raise self._malformed(f"protocol {_LEGACY_PROTOCOL}", repr(protocol)[:80])
        about, position = self._pickle(self._span, position)
        is_big = isinstance(about, dict) and about.get("little_endian") is False
        recording = machine.record(self._span, self._budget, at=position)
        return recording, position + recording.size, is_big

    def read_legacy(self) -> Any:
        """The value in the fourth pickle, with storages after the fifth."""
        recording, position, is_big = self.legacy_recording()
        keys, position = self._pickle(self._span, position)
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise self._malformed("a list of the keys of storages", repr(type(keys)))
        types = _storage_types(recording)
        storages: dict[str, Storage] = {}
        for key in keys:
            if key not in types or key in storages:
                raise self._malformed("storages that the value refers to", repr(key[:80]))
            memory, position = self._storage(self._span, position, types[key])
            storages[key] = Storage(memory, types[key], "cpu", is_big)
        return self._rebuild(recording, self._span, lambda found: self._legacy(found, storages))

    def _legacy(self, identifier: Any, storages: dict[str, Storage]) -> Any:
        """What an identifier of a legacy file stands for."""
        if type(identifier) is tuple and len(identifier) == 4 and identifier[0] == "module":
            return self._container(identifier[1:])
        cls, key, location, numel, part = _storage_identifier(identifier, 6)
        dtype = storage_type(cls)
        if key not in storages:
            raise self._malformed("a storage that the file holds", repr(key[:80]))
        memory = storages[key].memory
        if memory.size != storage_bytes(numel, dtype):
            raise self._malformed(f"a storage {key!r} of {numel} items", f"{memory.size} bytes")
        if part is not None:
            if type(part) is not tuple or len(part) != 3:
                raise Unfit("a part of a storage that is none")
            begin, size = (storage_bytes(number, dtype) for number in part[1:])
            if begin + size > memory.size:
                raise self._malformed("a part inside its storage", f"one of {begin + size} bytes")
            memory = memory[begin : begin + size]
        return Storage(memory, dtype, location, storages[key].is_big)

    def _container(self, parts: tuple[Any, ...]) -> Any:
        """A class of modules, whose source text the file carries beside it."""
        cls, _, source = parts
        if not isinstance(cls, Reference):
            raise Unfit("a module without a class")
        if type(source) is str:
            self.sources[str(cls)] = source
        return cls

    def _pickle(self, span: Span, position: int) -> tuple[Any, int]:
        recording = machine.record(span, self._budget, at=position)
        return self._rebuild(recording, span), position + recording.size

    def _storage(self, span: Span, position: int, dtype: str) -> tuple[Any, int]:
        """The memory of a storage that begins with its number of items, and where it ends."""
        head = span.bytes(position, position + 8)
        if len(head) < 8:
            raise self._truncated()
        (numel,) = _INT64.unpack(head)
        begin = position + 8
        end = begin + storage_bytes(numel, dtype)
        if end > len(span):
            raise self._truncated()
        return span.array(begin, end), end

    def _truncated(self) -> DamagedError:
        return DamagedError(
            f"{self._span.name}: expected the storages of its tensors, found its end. "
            "The file is truncated.",
            path=self._span.name,
        )

    # ----------------------------------------------------------------- tar archives

    def read_tar(self) -> Any:
        """The value in the member `pickle`, with storages and tensors in others."""
        members = _tar_members(self._span) or {}
        storages = self._tar_storages(members["storages"])
        tensors = self._tar_tensors(members["tensors"], storages)

        def persistent(identifier: Any) -> Any:
            if isinstance(identifier, tuple):
                return self._container(self._row(identifier, 3))
            return tensors[int(identifier)]

        span = members["pickle"]
        return self._rebuild(machine.record(span, self._budget), span, persistent)

    def _tar_storages(self, span: Span) -> dict[Any, Storage]:
        count, position = self._pickle(span, 0)
        storages: dict[Any, Storage] = {}
        for _ in range(self._count(count, span)):
            about, position = self._pickle(span, position)
            key, location, cls = self._row(about, 3)
            dtype = storage_type(cls)
            memory, position = self._storage(span, position, dtype)
            storages[key] = Storage(memory, dtype, str(location))
        views, position = self._pickle(span, position)
        for row in views if type(views) is list else []:
            target, root, offset, size = self._row(row, 4)
            storage = storages[root]
            begin, length = (storage_bytes(number, storage.dtype) for number in (offset, size))
            part = storage.memory[begin : begin + length]
            if part.size != length:
                raise self._malformed("a part inside its storage", f"{length} bytes at {begin}")
            storages[target] = Storage(part, storage.dtype, storage.device)
        return storages

    def _tar_tensors(self, span: Span, storages: dict[Any, Storage]) -> dict[int, Any]:
        count, position = self._pickle(span, 0)
        torch = Torch(self.tensors)
        tensors: dict[int, Any] = {}
        for _ in range(self._count(count, span)):
            about, position = self._pickle(span, position)
            key, storage, _ = self._row(about, 3)
            (axes,) = struct.unpack("<i", span.bytes(position, position + 4))
            if not 0 <= axes <= 64:
                raise self._malformed("a tensor of at most 64 axes", str(axes))
            position += 8  # the number was once written with eight bytes
            numbers = struct.unpack(
                f"<{2 * axes + 1}q", span.bytes(position, position + 8 * (2 * axes + 1))
            )
            position += 8 * (2 * axes + 1)
            tensors[int(key)] = torch.tensor(
                self._budget, storages[storage], numbers[-1], numbers[:axes], numbers[axes:-1]
            )
        return tensors

    def _row(self, value: Any, length: int) -> Any:
        if not isinstance(value, tuple) or len(value) != length:
            raise self._malformed(f"{length} values in a row", repr(type(value)))
        return value

    def _count(self, value: Any, span: Span) -> int:
        if type(value) is not int or not 0 <= value <= len(span):
            raise self._malformed("how many there are", repr(value)[:80])
        return value


def _storage_identifier(identifier: Any, length: int) -> tuple[Any, ...]:
    """The parts of an identifier of a storage, after the word that says it is one."""
    if type(identifier) is not tuple or len(identifier) != length or identifier[0] != "storage":
        raise Unfit("no storage")
    cls, key, location, *rest = identifier[1:]
    if type(key) is not str or type(location) is not str:
        raise Unfit("a storage without a key")
    return cls, key, location, *rest


def _storage_types(recording: Recording) -> dict[str, str]:
    """The type of each storage that a pickle refers to, by key."""
    types: dict[str, str] = {}
    for node in recording.outside:
        parts = node.identifier
        if type(node) is Persistent and type(parts) is tuple and len(parts) == 6:
            _, cls, key, *_ = parts
            if type(cls) is Global and type(key) is str:
                types.setdefault(key, storage_type(Reference(cls.label)))
    return types


def _tar_members(span: Span) -> dict[str, Span] | None:
    """The regular files of a tar archive, by name; None where it is no archive of torch's.

    Links, directories and extended headers are not of torch's making, and end the archive.
    """
    members: dict[str, Span] = {}
    position = 0
    while position + _TAR_BLOCK <= len(span):
        head = span.bytes(position, position + _TAR_BLOCK)
        if not head.strip(b"\0"):
            break
        name = head[:100].rstrip(b"\0").decode("latin1")
        total = sum(head[:148]) + sum(head[156:]) + 8 * 32
        try:
            size, expected = _octal(head[124:136]), _octal(head[148:156])
        except ValueError:
            return None
        if total != expected or head[156:157] not in (b"0", b"\0"):
            return None
        if name not in _TAR_MEMBERS or name in members:
            return None
        begin = position + _TAR_BLOCK
        if begin + size > len(span):
            return None
        members[name] = span.part(begin, begin + size, name)
        position = begin + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    return members or None


def _octal(text: bytes) -> int:
    digits = text.strip(b"\0 ")
    if not digits.isdigit():
        raise ValueError("no octal number")
    return int(digits, 8)

"""Files that `torch.load` reads, written without torch: a ZIP archive of a pickle and storages.

Only what every reader can open without trusting the file is written: numbers, text, containers,
arrays and tensors, and objects that the caller knows. Source: torch 2.13, `torch/serialization.py`,
`_save`, and `torch/_utils.py`; the layout is that of 1.6 and later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files
from rekindle.archive import NewArchive
from rekindle.codecs import dtypes
from rekindle.formats import known_objects
from rekindle.pickles import writing
from rekindle.pickles.torch_values import STORAGES
from rekindle.pickles.writing import Called, Name, Outside, Refused
from rekindle.tensors import NATIVE, Tensors

_CLASSES = {
    dtype: cls for cls, dtype in STORAGES.items()
    if cls != "UntypedStorage" and (dtype in NATIVE or dtype in dtypes.EXTENDED)
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in NATIVE.items()}
_UNTYPED = (
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
"""Types of tensors that have no class of storages."""
_VERSION = b"3\n"


def write(
    path: Path,
    value: Any,
    *,
    tensors: Tensors,
    also: frozenset[int] = frozenset(),
    known: Callable[[Any], Any] | None = None,
    name: str | None = None,
) -> None:
    """Write one value as a new file; flushing is the caller's.

    Args:
        path: The file to make; its name without suffix is the directory inside the archive.
        value: Plain data, with arrays where tensors are.
        tensors: Which of the arrays are tensors, and what they are beside their values.
        also: `id` of further arrays that are tensors; all others stay arrays of numpy.
        known: Gives what to write in place of records; see `pickles.writing`.
        name: What messages begin with; the path when left out.

    Raises:
        UnsupportedError: Values that a pickle cannot hold as data, or a type that torch does not
            have. Nothing was written.
    """
    storages = _Storages(tensors, also)
    pickle = writing.dumps(
        value, resolve=storages.resolve, known=known, key="", name=name or str(path)
    )
    size = len(pickle) + sum(array.nbytes for array in storages.arrays)
    archive = NewArchive(path, size)
    try:
        archive.write(f"{path.stem}/data.pkl", pickle)
        archive.write(f"{path.stem}/byteorder", b"little")
        for key, array in enumerate(storages.arrays):
            output = files.output(archive.target(f"{path.stem}/data/{key}"), array.nbytes)
            try:
                output.write(array.reshape(-1).view(np.uint8))
            except BaseException:
                output.abandon()
                raise
            output.close()
        archive.write(f"{path.stem}/version", _VERSION)
        archive.close()
    except BaseException:
        archive.abandon()
        raise


def save(path: Path, value: Any, tensors: Tensors, also: frozenset[int] = frozenset()) -> None:
    """Write a value as one file of torch, whole or not at all.

    Args:
        path: The file; its directory is made if it is missing.
        value: Plain data, and records of `known_objects`.
        tensors: Which of the arrays are tensors. All are in what stands under a key that ends in
            `state_dict` or `optimizer`.
        also: `id` of further arrays that are tensors.

    Raises:
        UnsupportedError: It lists every value that is no plain data.
        AlreadyExistsError: Something is at the path.
    """
    also |= ids(*_states(value))
    with files.new_file(path) as temporary:
        write(temporary, value, tensors=tensors, also=also, known=known_objects.known,
              name=str(path))  # fmt: skip


def _states(value: Any) -> Iterator[Any]:
    """What stands under keys that name state dicts."""
    pending, met = [value], set[int]()
    while pending:
        part = pending.pop()
        if not isinstance(part, Mapping) or id(part) in met:
            continue
        met.add(id(part))
        for key, inner in part.items():
            if str(key).endswith(("state_dict", "optimizer")):
                yield inner
            pending.append(inner)


def arrays_in(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Every array in some containers."""
    pending, met = [value], set[int]()
    while pending:
        part = pending.pop()
        if isinstance(part, np.ndarray):
            yield part
        elif isinstance(part, (Mapping, list, tuple)) and id(part) not in met:
            met.add(id(part))
            pending.extend(part.values() if isinstance(part, Mapping) else part)


def ids(*values: Any) -> frozenset[int]:
    """`id` of every array in some containers."""
    return frozenset(id(array) for value in values for array in arrays_in(value))


class _Storages:
    """The arrays that are tensors, each stored once, however many names it has."""

    def __init__(self, tensors: Tensors, also: frozenset[int]) -> None:
        self._tensors = tensors
        self._also = also
        self._keys: dict[tuple[Any, ...], int] = {}
        self.arrays: list[np.ndarray[Any, Any]] = []

    def resolve(self, array: np.ndarray[Any, Any]) -> Any:
        """What is written for an array."""
        known = self._tensors.of(array)
        if known is None and id(array) not in self._also:
            return array
        dtype = known.dtype if known is not None else _dtype_of(array)
        if dtype not in _CLASSES and dtype not in _UNTYPED:
            return Refused(f"a tensor of {dtype}, which torch does not store")
        is_leaf = known is not None and known.requires_grad
        key = self._key(array)
        place = (0, tuple(array.shape), _contiguous(array.shape), is_leaf)
        hooks = Called(Name("collections:OrderedDict"), ())
        if dtype in _CLASSES:
            storage = ("storage", Name(f"torch:{_CLASSES[dtype]}"), key, "cpu", array.size)
            given = (Outside(storage), *place, hooks)
            return Called(Name("torch._utils:_rebuild_tensor_v2"), given)
        storage = ("storage", Name("torch.storage:UntypedStorage"), key, "cpu", array.nbytes)
        given = (Outside(storage), *place, hooks, Name(f"torch:{dtype}"))
        return Called(Name("torch._utils:_rebuild_tensor_v3"), given)

    def _key(self, array: np.ndarray[Any, Any]) -> str:
        """The storage of an array: that of another over the very same memory, if there is one."""
        data = array.__array_interface__["data"][0] if array.nbytes else id(array)
        found = (data, array.shape, array.strides, array.dtype.str)
        if found not in self._keys:
            self._keys[found] = len(self.arrays)
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            self.arrays.append(np.ascontiguousarray(little))
        return str(self._keys[found])


def _dtype_of(array: np.ndarray[Any, Any]) -> str:
    """What torch calls the type of an array."""
    if array.dtype.names:
        return str(array.dtype.names[0])
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    return str(array.dtype.name) if name is None else name


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in items, of an array of this shape in C order."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()

"""Files that `torch.load` reads, written without torch: a ZIP archive of a pickle and storages.

Source: torch 2.13, `torch/serialization.py`, `_save`; the layout is that of 1.6 and later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files
from rekindle.archive import NewArchive
from rekindle.errors import UnsupportedError
from rekindle.pickles import writing
from rekindle.pickles.writing import Called, Name, Outside
from rekindle.tensors import NATIVE, Tensors, numpy_type

_STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in NATIVE.items()}
_VERSION = b"3\n"


def write(path: Path, value: Any, *, tensors: Tensors, also: frozenset[int] = frozenset()) -> None:
    """Write one value as a new file; flushing is the caller's.

    Args:
        path: The file to make; its name without suffix is the directory inside the archive.
        value: Plain data, with arrays where tensors are.
        tensors: Which of the arrays are tensors, and what they are beside their values.
        also: `id` of further arrays that are tensors; all others stay arrays of numpy.

    Raises:
        UnsupportedError: A value that a pickle cannot hold as data, or a type that torch's
            storages do not have.
    """
    storages: dict[int, tuple[str, np.ndarray[Any, Any]]] = {}

    def resolve(array: np.ndarray[Any, Any]) -> Any:
        known = tensors.of(array)
        if known is None and id(array) not in also:
            return array
        dtype = known.dtype if known is not None else _dtype_of(array)
        is_leaf = known is not None and known.requires_grad
        if dtype not in _STORAGES or array.dtype != numpy_type(dtype):
            raise UnsupportedError(
                f"{path}: expected tensors of a type that torch stores by name, found {dtype}. "
                "Leave it out, or choose another format."
            )
        key = storages.setdefault(id(array), (str(len(storages)), array))[0]
        storage = ("storage", Name(f"torch:{_STORAGES[dtype]}"), key, "cpu", array.size)
        strides = _contiguous(array.shape)
        hooks = Called(Name("collections:OrderedDict"), ())
        given = (Outside(storage), 0, tuple(array.shape), strides, is_leaf, hooks)
        return Called(Name("torch._utils:_rebuild_tensor_v2"), given)

    pickle = writing.dumps(value, resolve=resolve, key=str(path))
    root = path.stem
    size = len(pickle) + sum(array.nbytes for _, array in storages.values())
    archive = NewArchive(path, size)
    try:
        archive.write(f"{root}/data.pkl", pickle)
        archive.write(f"{root}/byteorder", b"little")
        for key, array in storages.values():
            output = files.output(archive.target(f"{root}/data/{key}"), array.nbytes)
            try:
                output.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            except BaseException:
                output.abandon()
                raise
            output.close()
        archive.write(f"{root}/version", _VERSION)
        archive.close()
    except BaseException:
        archive.abandon()
        raise


def _dtype_of(array: np.ndarray[Any, Any]) -> str:
    if array.dtype in _NAMES:
        return _NAMES[array.dtype]
    return "bfloat16" if array.dtype == numpy_type("bfloat16") else str(array.dtype)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in items, of an array of this shape in C order."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()

"""Tensors of torch as data: arrays, and beside them what an array of numpy cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rekindle.codecs import dtypes

NATIVE: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"), "float32": np.dtype("<f4"), "float16": np.dtype("<f2"),
    "int64": np.dtype("<i8"), "int32": np.dtype("<i4"), "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"), "uint8": np.dtype("u1"), "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"), "complex128": np.dtype("<c16"),
    "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "uint64": np.dtype("<u8"),
}  # fmt: skip
"""Types of torch that numpy has, by the name that torch gives them."""
_BITS = {
    "complex32": np.dtype("<u4"), "qint8": np.dtype("i1"), "quint8": np.dtype("u1"),
    "qint32": np.dtype("<i4"), "quint4x2": np.dtype("u1"), "quint2x4": np.dtype("u1"),
    "float4_e2m1fn_x2": np.dtype("u1"),
    **dict.fromkeys(("bits8", "bits1x8", "bits2x4", "bits4x2"), np.dtype("u1")),
    "bits16": np.dtype("<u2"),
    **{f"{sign}int{bits}": np.dtype("u1") for sign in ("", "u") for bits in range(1, 8)},
}  # fmt: skip
"""Types that only torch has, with the numpy type that holds their bits."""
OTHER_NAMES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
    "short": "int16", "chalf": "complex32", "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor, over the memory of the file that it was read from where that is mapped."""

    array: np.ndarray[Any, Any]
    """Its values. A type that numpy lacks has the dtype of `codecs.dtypes`, or a field of bits
    under the type's name."""
    dtype: str
    """What torch calls its type: `float32`, `bfloat16`."""
    device: str = "cpu"
    """Where it was."""
    requires_grad: bool = False
    """Whether it was a leaf of autograd."""
    is_parameter: bool = False
    """Whether it was a `torch.nn.Parameter`."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Attributes that were set on it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    def __repr__(self) -> str:
        kind = "Parameter" if self.is_parameter else "Tensor"
        return f"<{kind} {self.dtype} {self.shape}>"


def numpy_type(name: str) -> np.dtype[Any] | None:
    """The dtype for a type of torch: numpy's own, `ml_dtypes`', or a field of its bits."""
    name = OTHER_NAMES.get(name, name)
    if name in NATIVE:
        return NATIVE[name]
    if name in _BITS:
        return np.dtype([(name, _BITS[name])])
    return dtypes.extended(name) if name in dtypes.EXTENDED else None


class Tensors:
    """Which arrays of some plain data were tensors, and what they were beside their values."""

    def __init__(self) -> None:
        self._by_array: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._by_array)

    def note(self, tensor: Tensor) -> np.ndarray[Any, Any]:
        """Remember a tensor; its array, which stands for it."""
        self._by_array[id(tensor.array)] = tensor
        return tensor.array

    def adopt(self, other: Tensors) -> None:
        """Remember those of another file as well."""
        self._by_array |= other._by_array

    def of(self, array: Any) -> Tensor | None:
        """The tensor that an array stands for, or None."""
        found = self._by_array.get(id(array))
        return found if found is not None and found.array is array else None


# --------------------------------------------------------------------------- in our own documents

_PARAMETER = "torch.nn.parameter:Parameter"
_CODES = {
    "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""Types that numpy lacks and safetensors names."""


def described(
    array: np.ndarray[Any, Any], tensor: Tensor | None
) -> tuple[np.ndarray[Any, Any], str | None, dict[str, Any]]:
    """What a document of ours holds of an array that a foreign file told of.

    Args:
        array: Of any type but objects; one that numpy lacks is as `numpy_type` has it.
        tensor: What it was in torch, if it was a tensor.

    Returns:
        Memory of a type that numpy itself has, the type that safetensors gives its bits where that
        is another, and the keys of its node.
    """
    told: dict[str, Any] = {}
    if tensor is not None:
        told["library"] = "torch"
        if tensor.is_parameter:
            told["class"] = _PARAMETER
        if tensor.requires_grad:
            told["requires_grad"] = True
        if tensor.device != "cpu":
            told["device"] = tensor.device
    name = _special(array.dtype)
    if name is None:
        return array, None, told
    if name in _CODES:
        return array.view(dtypes.EXTENDED[name]), _CODES[name], told
    bits = _BITS[name] if name in _BITS else dtypes.EXTENDED[name]
    if tensor is not None:
        return array.view(bits), None, told | {"torch_dtype": name}
    return array.view(np.dtype([(name, bits)])), None, told


def recalled(
    array: np.ndarray[Any, Any], node: Mapping[str, Any]
) -> tuple[np.ndarray[Any, Any], Tensor | None]:
    """What `described` was given, from an array of a document and its node."""
    kind = node.get("torch_dtype")
    special = numpy_type(kind) if isinstance(kind, str) else None
    if special is not None and special.itemsize == array.dtype.itemsize:
        array = array.view(special)
    elif array.dtype.names is not None and _special(array.dtype) in dtypes.EXTENDED:
        array = array.view(dtypes.extended(array.dtype.names[0]))
    if node.get("library") != "torch":
        return array, None
    name = _special(array.dtype) or _NAMES.get(array.dtype.newbyteorder("="))
    if name is None:
        return array, None
    return array, Tensor(
        array,
        name,
        device=node.get("device", "cpu"),
        requires_grad=node.get("requires_grad") is True,
        is_parameter=node.get("class") == _PARAMETER,
    )


_NAMES = {dtype: name for name, dtype in NATIVE.items()}


def _special(dtype: np.dtype[Any]) -> str | None:
    """The name of a type that numpy lacks, however its bits are held; None for numpy's own."""
    names = dtype.names
    name = names[0] if names is not None and len(names) == 1 else dtype.name
    is_known = name in _BITS or name in dtypes.EXTENDED
    return name if is_known and dtype.isbuiltin != 1 else None

"""torch's values that are rebuilt from a pickle: tensors and parameters over checked storages.

Source: torch 2.13, `torch/_utils.py`, `torch/serialization.py`, and their versions since 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rekindle.errors import FormatError
from rekindle.limits import Budget
from rekindle.pickles.nodes import Call, Payload
from rekindle.pickles.numpy_values import natural, shape_of
from rekindle.pickles.python_values import arguments, nodes, of_type, plain, short
from rekindle.pickles.rebuilding import Builder, Rebuilder, Steps, Unfit, each
from rekindle.state import Record, Reference
from rekindle.tensors import Tensor, Tensors, numpy_type

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip
"""Classes of storages, with the type of their items."""
_MODULES = ("torch", "torch.cuda", "torch.storage")
_MOST_NESTED = 6


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory that tensors look at: bytes, and the type that its items are counted in."""

    memory: np.ndarray[Any, Any]
    dtype: str
    device: str
    is_big: bool = False
    """Whether its numbers are big-endian."""

    @property
    def itemsize(self) -> int:
        """Bytes per item."""
        found = numpy_type(self.dtype)
        assert found is not None
        return found.itemsize


def storage_type(name: Any) -> str:
    """The type of the items of a storage, by the name of its class.

    Raises:
        Unfit: It is no class of storages.
    """
    if not isinstance(name, Reference):
        raise Unfit("a storage without a class")
    module, _, cls = name.partition(":")
    if module not in _MODULES or cls not in STORAGES:
        raise Unfit(f"a storage of class {name}")
    return STORAGES[cls]


def storage_bytes(numel: Any, dtype: str) -> int:
    """How many bytes a storage takes."""
    found = numpy_type(dtype)
    if found is None:
        raise Unfit(f"a type {dtype}")
    return natural(numel) * found.itemsize


def view(
    budget: Budget,
    storage: Storage,
    dtype: str,
    offset: Any,
    size: Any,
    stride: Any,
) -> np.ndarray[Any, Any]:
    """A tensor's array over its storage, after checking that it stays inside.

    All is computed in Python's integers: numpy's own check of strides can wrap around.

    Args:
        budget: Counts what an expanded tensor would take if it were copied.
        storage: The memory.
        dtype: Type of the items.
        offset: First item, counted in items.
        size: The shape, as the file says it.
        stride: Steps along each axis, counted in items.
    """
    found = numpy_type(dtype)
    if found is None:
        raise Unfit(f"a type {dtype}")
    shape, steps = shape_of(size), shape_of(stride)
    if len(shape) != len(steps):
        raise Unfit(f"{len(shape)} sizes and {len(steps)} strides")
    first = natural(offset)
    count = math.prod(shape)
    last = first + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    if count and (last + 1) * found.itemsize > storage.memory.size:
        raise FormatError(
            f"{budget.name}: expected a tensor inside its storage of "
            f"{storage.memory.size:,} bytes, found one that ends at {(last + 1) * found.itemsize:,}"
            ". The file is damaged, or was made to read memory that is not its own.",
            path=budget.name,
        )
    nbytes = count * found.itemsize
    budget.charge(200 + max(0, nbytes - storage.memory.size))
    if not count:
        return np.zeros(shape, found)
    if storage.is_big and found.itemsize > 1:
        found = found.newbyteorder(">")
    begin = first * found.itemsize
    strides = tuple(
        step * found.itemsize if n > 1 else found.itemsize
        for n, step in zip(shape, steps, strict=True)
    )
    return np.ndarray(shape, found, storage.memory.data, begin, strides)


class Torch:
    """Builders of torch's values, for one file.

    Args:
        tensors: Takes note of every tensor.
        nested: Reads the bytes of a whole file of torch inside this one.
        depth: How many files are around this one.
    """

    def __init__(
        self,
        tensors: Tensors,
        nested: Callable[[Any, int], Any] | None = None,
        depth: int = 0,
    ) -> None:
        self._tensors = tensors
        self._nested = nested
        self._depth = depth

    def builders(self) -> dict[str, Builder]:
        """What is rebuilt, by name."""
        return {
            "torch._utils:_rebuild_tensor": self._tensor,
            "torch._utils:_rebuild_tensor_v2": self._tensor,
            "torch._utils:_rebuild_tensor_v3": self._typed_tensor,
            "torch._utils:_rebuild_parameter": self._parameter,
            "torch._utils:_rebuild_parameter_with_state": self._parameter,
            "torch.nn.parameter:Parameter": self._new_parameter,
            "torch._tensor:_rebuild_from_type_v2": self._subclass,
            "torch._utils:_rebuild_device_tensor_from_numpy": self._from_numpy,
            "torch._utils:_rebuild_xla_tensor": self._from_numpy,
            "torch.storage:_load_from_bytes": self._from_bytes,
            "torch:Size": _size,
            "torch:device": _device,
            "torch.serialization:_get_layout": _layout,
            "torch.jit._pickle:build_intlist": _list,
            "torch.jit._pickle:build_doublelist": _list,
            "torch.jit._pickle:build_boollist": _list,
            "torch.jit._pickle:build_tensorlist": _list,
            "torch.jit._pickle:restore_type_tag": _tagged,
        }

    def tensor(
        self, budget: Budget, storage: Storage, offset: Any, size: Any, stride: Any
    ) -> np.ndarray[Any, Any]:
        """A tensor over a storage, as files tell of it that are not of one pickle."""
        array = view(budget, storage, storage.dtype, offset, size, stride)
        return self._tensors.note(Tensor(array, storage.dtype, storage.device))

    def _tensor(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`."""
        given = yield from each(arguments(call, 4, 7))
        storage = of_type(given[0], Storage)
        return self._made(rebuilder, storage, storage.dtype, given[1:4], given[4:5], given[6:7])

    def _typed_tensor(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`_rebuild_tensor_v3`: types that have no class of storages, over bytes."""
        given = yield from each(arguments(call, 7, 8))
        storage = of_type(given[0], Storage)
        dtype = _dtype_name(given[6])
        return self._made(rebuilder, storage, dtype, given[1:4], given[4:5], given[7:8])

    def _made(
        self,
        rebuilder: Rebuilder,
        storage: Storage,
        dtype: str,
        place: list[Any],
        requires_grad: list[Any],
        metadata: list[Any],
    ) -> Any:
        array = view(rebuilder.budget, storage, dtype, *place)
        flags = metadata[0] if metadata and type(metadata[0]) is dict else {}
        for name, resolve in (("conj", np.conj), ("neg", np.negative)):
            if flags.get(name) is True:
                rebuilder.budget.charge(array.nbytes)
                array = resolve(array)
        is_leaf = bool(requires_grad and requires_grad[0] is True)
        return self._tensors.note(Tensor(array, dtype, storage.device, is_leaf))

    def _found(self, value: Any) -> Tensor:
        tensor = self._tensors.of(value)
        if tensor is None:
            raise Unfit("no tensor")
        return tensor

    def _again(self, tensor: Tensor, **changes: Any) -> Any:
        """Another tensor over the same values."""
        return self._tensors.note(replace(tensor, array=tensor.array.view(), **changes))

    def _parameter(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`_rebuild_parameter(tensor, requires_grad, hooks)`, and attributes that were set."""
        given = yield from each(arguments(call, 2, 4))
        attributes = given[3] if len(given) == 4 and type(given[3]) is dict else {}
        return self._again(
            self._found(given[0]),
            is_parameter=True,
            requires_grad=given[1] is True,
            attributes=attributes,
        )

    def _new_parameter(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`Parameter(tensor, requires_grad)`, as torch wrote it before 0.4, with a state after."""
        given = yield from each(nodes(call, 1, 2))
        tensor = self._found(given[0])
        needs = given[1] is True if len(given) == 2 else True
        return self._again(tensor, is_parameter=True, requires_grad=needs)

    def _subclass(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`_rebuild_from_type_v2(function, class, args, state)`: a tensor with a class of its own.

        The class is not needed for the values, and is kept as an attribute.
        """
        function, cls, given, state = arguments(call, 4)
        inner = rebuilder.held(Call(function, given, None, is_new=False))
        tensor = self._found((yield inner))
        label = yield cls
        attributes = yield state
        kept = dict(attributes) if type(attributes) is dict else {}
        if label not in ("torch.nn.parameter:Parameter", "torch:Tensor"):
            kept["__class__"] = label
        return self._again(
            tensor,
            is_parameter=tensor.is_parameter or label == "torch.nn.parameter:Parameter",
            attributes=kept,
        )

    def _from_numpy(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """A tensor of a device that torch copies to numpy before it writes it."""
        data, dtype, device, requires_grad = yield from each(arguments(call, 4))
        name = _dtype_name(dtype)
        if not isinstance(data, np.ndarray) or numpy_type(name) != data.dtype:
            raise Unfit("an array of another type")
        tensor = Tensor(data, name, of_type(device, str), requires_grad is True)
        return self._tensors.note(tensor)

    def _from_bytes(self, rebuilder: Rebuilder, call: Call) -> Steps:
        """`_load_from_bytes(data)`: a whole file of torch inside a pickle."""
        (data,) = arguments(call, 1)
        if self._nested is None or self._depth >= _MOST_NESTED:
            raise Unfit("files in files, too deep")
        if type(data) is not Payload:
            data = of_type((yield data), bytes)
        return self._nested(data, self._depth + 1)


def _dtype_name(value: Any) -> str:
    """The name of a type of torch, from `torch:float32`."""
    module, _, name = of_type(value, Reference).partition(":")
    if module != "torch" or numpy_type(name) is None:
        raise Unfit(f"a type {value}")
    return name


def _size(rebuilder: Rebuilder, call: Call) -> Steps:
    """`torch.Size(tuple)`: the tuple."""
    (size,) = yield from each(arguments(call, 1))
    return shape_of(size)


def _device(rebuilder: Rebuilder, call: Call) -> Steps:
    """`torch.device(type, index)`: its name, as a record of the one field `name`."""
    given = yield from each(arguments(call, 1, 2))
    name = short(given[0])
    if len(given) == 2 and given[1] is not None:
        name = f"{name}:{natural(given[1])}"
    return Record("torch:device", {"name": name})


def _layout(rebuilder: Rebuilder, call: Call) -> Any:
    (name,) = arguments(call, 1)
    return Reference(short(name).replace(".", ":", 1))


def _list(rebuilder: Rebuilder, call: Call) -> Steps:
    """`build_intlist(list)` of TorchScript: the list."""
    (items,) = arguments(call, 1)
    return (yield of_type(items, list))


def _tagged(rebuilder: Rebuilder, call: Call) -> Steps:
    """`restore_type_tag(value, type)` of TorchScript: the value."""
    value, _ = nodes(call, 2)
    plain(call)
    return (yield value)

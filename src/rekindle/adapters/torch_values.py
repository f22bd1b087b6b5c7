"""torch's tensors, and its small values: dtypes, devices, sizes, generators.

Tensors keep their type, device, strides and `requires_grad`; the autograd graph of a tensor that is
not a leaf is not data and is left out. Source: torch 2.13, `torch/_utils.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rekindle.adapters.attributes import Attributes
from rekindle.codecs import arrays
from rekindle.graph import Walk, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label

_NATIVE = {
    torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
    torch.uint16, torch.uint32, torch.uint64,
}  # fmt: skip
_CODES: dict[torch.dtype, str] = {
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
_OTHER = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex32)
}
if hasattr(torch, "float8_e8m0fnu"):
    _CODES[torch.float8_e8m0fnu] = "F8_E8M0"
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


_PARTS = {"sparse_coo": ("_indices", "_values")} | {
    layout: (f"{major}_indices", f"{minor}_indices", "values")
    for layout, major, minor in (
        ("sparse_csr", "crow", "col"), ("sparse_csc", "ccol", "row"),
        ("sparse_bsr", "crow", "col"), ("sparse_bsc", "ccol", "row"),
    )
}  # fmt: skip
"""Layouts of sparse tensors, and the methods that give the dense parts of each."""


def to_numpy(tensor: torch.Tensor) -> tuple[np.ndarray[Any, Any], str | None, dict[str, Any]]:
    """A CPU tensor's memory as a numpy array, the safetensors type of its bits, and node fields.

    Raises:
        TypeError: The tensor has no dense memory, or a type that nothing can hold.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"a tensor of layout {tensor.layout} on {tensor.device}")
    dtype = tensor.dtype
    if dtype in _NATIVE:
        return tensor.numpy(), None, {}
    if dtype in _CODES:
        return tensor.view(_BITS[dtype.itemsize]).numpy(), _CODES[dtype], {}
    name = str(dtype).removeprefix("torch.")
    if name in _OTHER:
        return tensor.view(_BITS[dtype.itemsize]).numpy(), None, {"torch_dtype": name}
    raise TypeError(f"a tensor of type {dtype}")


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in memory from torch's own allocator, with the same strides.

    Sums and dot products are split at the vector width, so their last bits depend on where memory
    begins: a tensor over a mapped file would not go on exactly as one that torch made.
    """
    storage = tensor.untyped_storage().clone()
    place = (tensor.storage_offset(), tensor.shape, tensor.stride())
    return torch.empty(0, dtype=tensor.dtype).set_(storage, *place)


def from_numpy(data: np.ndarray[Any, Any], code: str, node: dict[str, Any]) -> torch.Tensor:
    """A CPU tensor over a numpy array's memory; copied only where that is not writable."""
    if not data.flags.writeable or any(stride < 0 for stride in data.strides):
        data = data.copy()
    if data.dtype.byteorder == ">" or not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    if code in arrays.BITS_ONLY:
        return torch.from_numpy(data.view(arrays.CODES[code])).view(_DTYPES[code])
    tensor = torch.from_numpy(data)
    return tensor.view(_OTHER[node["torch_dtype"]]) if "torch_dtype" in node else tensor


def _layout(tensor: torch.Tensor) -> str:
    return str(tensor.layout).removeprefix("torch.")


_COMMON = (torch.Tensor, torch.nn.Parameter)


def _same_as(live: torch.Tensor, address: int) -> Callable[[torch.Tensor], bool]:
    """Whether a leaf tensor still is what it is now, but for its values.

    It cannot become the result of a computation without another `requires_grad`. Memory that the
    plan of a capture holds is not given to others, so the same address is the same memory.
    """
    dtype, shape, strides = live.dtype, live.shape, live.stride()
    requires_grad = live.requires_grad

    def fits(found: torch.Tensor) -> bool:
        return (
            found.data_ptr() == address
            and found.requires_grad is requires_grad
            and found.dtype is dtype
            and found.shape == shape
            and found.stride() == strides
        )

    return fits


class Tensor(Adapter):
    """`torch.Tensor`, `Parameter` and `Buffer`."""

    name = "torch.tensor"
    is_value = True

    def capture(self, live: torch.Tensor, walk: Walk, path: str) -> dict[str, Any]:
        """The node of one tensor."""
        cls = type(live)
        extra: dict[str, Any] = {"library": "torch"}
        if cls is not torch.Tensor:
            extra["class"] = label(cls)
            if torch.nn.parameter.is_lazy(live):
                reason = "which has no shape yet; run one forward pass first"
                walk.refuse(path, f"{label(cls)}, {reason}")
                return {}
        if live.requires_grad:
            if live.is_leaf:
                extra["requires_grad"] = True
            else:
                extra["detached"] = True
        if live.layout != torch.strided and _layout(live) in _PARTS:
            return self._capture_sparse(live, walk, path)
        data = live.detach()
        on_cpu = data.is_cpu
        if not on_cpu:
            extra["device"] = str(data.device)
        lazy = data.is_conj() or data.is_neg()
        if lazy:
            data = data.resolve_conj().resolve_neg()
        try:
            raw, code, fields = to_numpy(data if on_cpu or data.is_meta else data.cpu())
        except TypeError as error:
            walk.refuse(path, str(error))
            return {}
        if not on_cpu or lazy:
            return walk.array(live, raw, path, code=code, **extra, **fields)
        address = data.data_ptr()
        fits = _same_as(live, address) if live.is_leaf and cls in _COMMON else None
        return walk.array(live, raw, path, code=code, address=address, fits=fits, **extra, **fields)

    def _capture_sparse(self, live: torch.Tensor, walk: Walk, path: str) -> dict[str, Any]:
        """A sparse tensor as its parts, as the gradients of sparse embeddings are."""
        if isinstance(live, torch.nn.Parameter):
            walk.refuse(path, "a sparse parameter, which cannot be restored in place")
        node: dict[str, Any] = {"$adapter": self.name, "class": label(type(live))}
        walk.remember(live, node)
        data = live.detach()
        layout = _layout(data)
        state: dict[str, Any] = {
            "layout": layout,
            "shape": list(data.shape),
            "requires_grad": live.requires_grad and live.is_leaf,
        }
        if layout == "sparse_coo":
            state["coalesced"] = data.is_coalesced()
        for part in _PARTS[layout]:
            state[part] = getattr(data, part)()
        node["state"] = walk.whole(state, path)
        return node

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A sparse tensor of its parts."""
        state = node["state"]
        layout, shape = state["layout"], torch.Size(state["shape"])
        first, *rest = (
            match.node(state[part], MISSING, join(path, part)) for part in _PARTS[layout]
        )
        try:
            if layout == "sparse_coo":
                tensor = torch.sparse_coo_tensor(
                    first, rest[0], shape, is_coalesced=state["coalesced"], check_invariants=True
                )
            else:
                tensor = torch.sparse_compressed_tensor(
                    first, rest[0], rest[1], shape, layout=getattr(torch, layout),
                    check_invariants=True,
                )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(f"a sparse tensor whose parts do not fit: {error}") from error
        return match.register(node, tensor.requires_grad_(state["requires_grad"]))

    def restore_array(
        self, node: dict[str, Any], live: Any, match: Match, path: str, strict: bool
    ) -> Any:
        """Copy into the live tensor, or make a new one where there is none that fits."""
        if isinstance(live, torch.Tensor) and self._fills(node, live, match, path):
            return live
        data, code = match.stored(node)
        source = from_numpy(data, code, node)
        if torch.nn.parameter.is_lazy(live):
            match.differ(path, describe(source), "a lazy parameter; run one forward pass first")
            return live
        if isinstance(live, torch.Tensor):
            fits = live.shape == source.shape and live.dtype == source.dtype
            if not fits and strict and live.numel():
                match.differ(path, describe(source), describe(live))
                return live
            if fits and self._takes(node, live, match, path):
                match.later(
                    functools.partial(_copy, live, source, node.get("requires_grad", False))
                )
                return live
        elif strict and live is not MISSING and live is not None:
            match.differ(path, f"a tensor {describe(source)}", f"an object of {label(type(live))}")
            return live
        return self._new(node, data, code, live, match)

    def _fills(self, node: dict[str, Any], live: torch.Tensor, match: Match, path: str) -> bool:
        """Plan to read an array that is stored in parts straight into the live tensor."""
        if not live.is_cpu or torch.nn.parameter.is_lazy(live):
            return False
        try:
            memory, _, fields = to_numpy(live.detach())
        except TypeError:
            return False
        same = node.get("torch_dtype") == fields.get("torch_dtype")
        fill = match.filler(node, memory) if same and not node.get("requires_grad") else None
        if fill is None or not self._takes(node, live, match, path):
            return False
        match.later(fill)
        return True

    def _takes(self, node: dict[str, Any], live: torch.Tensor, match: Match, path: str) -> bool:
        if live.requires_grad and not live.is_leaf:
            return False
        if live.device.type != "cpu":
            return match.claim(live, path)
        try:
            memory = to_numpy(live.detach())[0]
        except TypeError:
            return False
        storage = torch.empty(0, dtype=torch.uint8).set_(live.untyped_storage()).numpy()
        return match.claim_memory(memory, node, storage) and match.claim(live, path)

    def _new(
        self,
        node: dict[str, Any],
        data: np.ndarray[Any, Any],
        code: str,
        live: Any,
        match: Match,
    ) -> torch.Tensor:
        if match.is_shared(node):
            tensor = from_numpy(match.place(node, data), code, node)
        elif "strides" in node:
            tensor = _aligned(from_numpy(arrays.restride(data, node["strides"]), code, node))
        else:
            tensor = _aligned(from_numpy(data, code, node))
        device = node.get("device", "cpu")
        if device != "cpu":
            available = device.startswith("cuda") and torch.cuda.is_available()
            fallback = live.device if isinstance(live, torch.Tensor) else "cpu"
            tensor = tensor.to(device if available else fallback)
        if node.get("class", "").endswith(":Parameter"):
            return torch.nn.Parameter(tensor, requires_grad=node.get("requires_grad", False))
        return tensor.requires_grad_() if node.get("requires_grad") else tensor


def _copy(live: torch.Tensor, source: torch.Tensor, requires_grad: bool) -> None:
    with torch.no_grad():
        live.copy_(source)
    if live.is_leaf and live.requires_grad != requires_grad:
        live.requires_grad_(requires_grad)


def describe(tensor: torch.Tensor) -> str:
    """Type and shape in words, as messages show them."""
    return _described(tensor.dtype, tensor.shape)


@functools.lru_cache(maxsize=4096)
def _described(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"


class Dtype(Adapter):
    """`torch.dtype`."""

    name = "torch.dtype"
    is_value = True

    def capture(self, live: torch.dtype, walk: Walk, path: str) -> dict[str, Any]:
        """Its name."""
        return _value_node(self.name, live, str(live).removeprefix("torch."))

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """The dtype of that name."""
        found = getattr(torch, str(node["state"]), None)
        if not isinstance(found, torch.dtype):
            match.differ(path, f"a dtype of torch, {node['state']}", "none of this name")
        return found


class Device(Adapter):
    """`torch.device`; the live one stays, so that a run can move to another machine."""

    name = "torch.device"
    must_match = False

    def capture(self, live: torch.device, walk: Walk, path: str) -> dict[str, Any]:
        """Its name."""
        return {"state": str(live)}

    def restore(self, node: dict[str, Any], live: torch.device, match: Match, path: str) -> Any:
        """The live device."""
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """The device of that name."""
        return torch.device(node["state"])


class Size(Adapter):
    """`torch.Size`."""

    name = "torch.size"
    is_value = True

    def capture(self, live: torch.Size, walk: Walk, path: str) -> dict[str, Any]:
        """Its lengths."""
        return _value_node(self.name, live, list(live))

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """An equal one."""
        return torch.Size(node["state"])


def _value_node(name: str, live: Any, state: Any) -> dict[str, Any]:
    return {"$adapter": name, "class": label(type(live)), "state": state}


class Generator(Adapter):
    """`torch.Generator`, on any device."""

    name = "torch.generator"

    def capture(self, live: torch.Generator, walk: Walk, path: str) -> dict[str, Any]:
        """Its state, and its device."""
        state = walk.node(live.get_state().numpy(), path or "state")
        return {"state": {"state": state, "device": str(live.device)}}

    def restore(self, node: dict[str, Any], live: torch.Generator, match: Match, path: str) -> Any:
        """Set the state in place."""
        stored = node["state"]["device"]
        if torch.device(stored).type != live.device.type:
            match.differ(path, f"a generator on {stored}", f"one on {live.device}")
            return live
        state = self._state(node, match)
        match.later(lambda: _set_state(live, state))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new one with this state."""
        device = torch.device(node["state"]["device"])
        if device.type == "cuda" and not torch.cuda.is_available():
            match.differ(path, f"a device for a generator on {device}", "no CUDA device")
            return None
        generator = torch.Generator(device)
        generator.set_state(self._state(node, match))
        return generator

    def _state(self, node: dict[str, Any], match: Match) -> torch.Tensor:
        data, _ = match.stored(node["state"]["state"])
        return torch.from_numpy(data.copy())


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


TENSOR = Tensor()
DTYPE = Dtype()
DEVICE = Device()
SIZE = Size()
GENERATOR = Generator()


def convert(array: np.ndarray[Any, Any], node: dict[str, Any], device: str | None) -> Any:
    """A loaded array as a tensor, whatever library it came from.

    Text, dates and structured arrays, for which torch has no type, stay numpy arrays.
    """
    code = node.get("code", "")
    dtype = array.dtype
    if dtype.isbuiltin != 1:
        name = dtype.names[0] if dtype.names and len(dtype.names) == 1 else dtype.name
        kind: Any = getattr(torch, name, None)
        if kind in _CODES:
            code = _CODES[kind]
            array = array.view(arrays.CODES[code])
    if array.dtype.kind in "USmMV" or array.dtype.char in "gG":
        return array
    tensor = from_numpy(array, code, node)
    return tensor if device is None else tensor.to(device)


class Distribution(Attributes):
    """`torch.distributions`: parameters, and what was computed from them so far.

    One that the live side has not made yet is built: a distribution of a class that the program
    has loaded, which has no state but its attributes, and none of whose code runs.
    """

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new distribution of the named class, from its attributes."""
        module, _, name = node["class"].partition(":")
        cls: Any = getattr(sys.modules.get(module), name, None)
        if not isinstance(cls, type) or not issubclass(cls, torch.distributions.Distribution):
            match.differ(path, f"a distribution of class {node['class']}", "none of this name")
            return None
        shell = match.register(node, object.__new__(cls))
        match.attributes(node["state"], shell, path)
        return shell


DISTRIBUTION = Distribution("torch.distribution")

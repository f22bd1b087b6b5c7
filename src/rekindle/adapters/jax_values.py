"""JAX's arrays and typed PRNG keys, optax's transformations, Flax's variables and modules.

Arrays are immutable, so what comes back is a new array in the place that held the live one. It
keeps everything that a jitted function looks at: shape, type, weak type, and whether it is bound
to its device, so that restoring makes no function be traced again. Source: JAX 0.10.2,
`jax/_src/array.py`, `jax/_src/random/prng.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rekindle import files
from rekindle.adapters.attributes import Attributes
from rekindle.codecs import dtypes
from rekindle.errors import UnsupportedError
from rekindle.graph import Walk, function_name, is_filled, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label

_CODES = {
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_TYPES = {code: name for name, code in _CODES.items()}
_WIDER = (
    "JAX would make it {narrow} here. "
    'Call jax.config.update("jax_enable_x64", True) before arrays are made'
)


def is_key(array: Any) -> bool:
    """Whether an array is one of typed PRNG keys."""
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def describe(array: Any) -> str:
    """Type and shape in words, as messages show them."""
    return f"{array.dtype} of shape {tuple(array.shape)}"


def _narrowed(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The smaller type that JAX would make of one, where 64 bits are switched off."""
    found = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    return None if found == dtype else found


class Array(Adapter):
    """`jax.Array`: numbers, and typed PRNG keys."""

    name = "jax.tensor"
    is_value = True

    def capture(self, live: jax.Array, walk: Walk, path: str) -> dict[str, Any]:
        """The node of one array."""
        reason = _refusal(live)
        if reason is not None:
            walk.refuse(path, f"{label(type(live))}, {reason}")
            return {}
        extra: dict[str, Any] = {"library": "jax"}
        data: jax.Array = live
        if is_key(live):
            extra["key_impl"] = str(jax.random.key_impl(live))
            data = jax.random.key_data(live)
        if data.weak_type:
            extra["weak_type"] = True
        if data.committed:
            extra["committed"] = True
        raw = np.asarray(data, order="C")
        code = _CODES.get(raw.dtype.name)
        if raw.dtype.name in dtypes.EXTENDED:
            if code is None:
                extra["jax_dtype"] = raw.dtype.name
            raw = raw.view(dtypes.EXTENDED[raw.dtype.name])
        return walk.array(live, raw, path, code=code, **extra)

    def restore_array(
        self, node: dict[str, Any], live: Any, match: Match, path: str, strict: bool
    ) -> Any:
        """A new array with the stored values, where the live one is."""
        source = _typed(*match.stored(node), node)
        present = MISSING if live is None else live
        if strict and present is not MISSING and not _stands_for(present, source, node):
            match.differ(path, _expected(source, node), _found(present))
            return live
        narrow = _narrowed(source.dtype)
        if narrow is not None:
            expected = f"an array of {source.dtype}. " + _WIDER.format(narrow=narrow)
            match.differ(path, expected, "jax_enable_x64 switched off")
            return live
        template = present if isinstance(present, jax.Array) else None
        return _build(source, node, None if template is None else template.sharding, template)


def _refusal(live: Any) -> str | None:
    """Why the values of an array cannot be had; None when they can."""
    if isinstance(live, Tracer):
        return (
            "a tracer: it stands for values that are not computed yet. "
            "Save outside of functions under jax.jit, grad, vmap or scan"
        )
    if live.is_deleted():
        return (
            "an array that was deleted or donated to a jitted function: its values are gone. "
            "Save what the function returned instead"
        )
    if not live.is_fully_addressable:
        return "an array of which other processes hold a part; gather it first"
    if is_key(live) and type(jax.random.key_impl(live)) is not str:
        return "keys of a generator that JAX does not know by name"
    return None


def _typed(data: np.ndarray[Any, Any], code: str, node: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Stored values under their own type; bits of types that numpy lacks get its name."""
    name = node.get("jax_dtype", _TYPES.get(code))
    if name is None:
        return data.astype(data.dtype.newbyteorder("="), copy=False)
    return data.view(dtypes.extended(name))


def _stands_for(live: Any, source: np.ndarray[Any, Any], node: Mapping[str, Any]) -> bool:
    """Whether a live value may be replaced by stored numbers: JAX takes Python's and numpy's too.

    A loop often begins with `0` where it has an array later.
    """
    if isinstance(live, jax.Array):
        key = str(jax.random.key_impl(live)) if is_key(live) else None
        if key is not None or "key_impl" in node:
            return key == node.get("key_impl") and live.shape == source.shape[:-1]
    if isinstance(live, (jax.Array, np.ndarray)):
        dtype = live.dtype if isinstance(live, jax.Array) else _narrowed(live.dtype) or live.dtype
        return not live.size or (live.shape == source.shape and dtype == source.dtype)
    is_number = isinstance(live, (bool, int, float, complex, np.generic))
    return is_number and source.shape == () and "key_impl" not in node


def _expected(source: np.ndarray[Any, Any], node: Mapping[str, Any]) -> str:
    if "key_impl" in node:
        shape = source.shape[:-1]
        return f"PRNG keys of {node['key_impl']} of shape {shape}"
    return describe(source)


def _found(live: Any) -> str:
    if isinstance(live, jax.Array) and is_key(live):
        return f"PRNG keys of {jax.random.key_impl(live)} of shape {live.shape}"
    if isinstance(live, (jax.Array, np.ndarray)):
        return describe(live)
    return f"an object of class {label(type(live))}"


def _build(
    source: np.ndarray[Any, Any],
    node: Mapping[str, Any],
    sharding: Any = None,
    live: jax.Array | None = None,
) -> jax.Array:
    """An array of JAX's own, on the device of the live one or of `sharding`, else the default one.

    Args:
        source: Its values, copied here.
        node: What else it was.
        sharding: Where it goes.
        live: The array whose place it takes; bound to its device if either of them was.
    """
    array = jnp.array(source, copy=True)
    if node.get("weak_type"):
        array = _weak(array)
    if "key_impl" in node:
        array = jax.random.wrap_key_data(array, impl=node["key_impl"])
    is_bound = node.get("committed", False) or (live is not None and live.committed)
    if is_bound or (sharding is not None and live is None):
        return jax.device_put(array, array.sharding if sharding is None else sharding)
    devices = array.devices() if live is None else live.sharding.device_set
    if devices != array.devices():
        with jax.default_device(min(devices, key=lambda device: device.id)):
            return _build(source, node)
    return array


def _weak(array: jax.Array) -> jax.Array:
    """The same array with a type that gives way to others, as that of a Python number does.

    JAX makes such arrays but has no public call for it.
    """
    from jax._src.lax import lax

    weak: Any = lax._convert_element_type(array, weak_type=True)
    return weak


def convert(array: np.ndarray[Any, Any], node: dict[str, Any], device: str | None) -> Any:
    """A loaded array as one of JAX, whatever library it came from.

    Text, dates and structured arrays, for which JAX has no type, stay numpy arrays.

    Raises:
        UnsupportedError: It has 64 bits and JAX has them switched off, or there is no such device.
    """
    dtype = array.dtype
    if "jax_dtype" in node or "torch_dtype" in node:
        name = node.get("jax_dtype", node.get("torch_dtype"))
        if name not in dtypes.EXTENDED:
            return array
        dtype = dtypes.extended(name)
    elif (dtype.kind in "USOmMV" and dtype.name not in _CODES) or dtype.char in "gG":
        return array
    source = array.view(dtype).astype(dtype.newbyteorder("="), copy=False)
    narrow = _narrowed(source.dtype)
    if narrow is not None:
        where = node.get("name") or node.get("$array", "an array")
        raise UnsupportedError(
            f"{where}: expected room for {source.dtype}. {_WIDER.format(narrow=narrow)}, "
            "or load to numpy.",
            key=where,
        )
    placed = {key: value for key, value in node.items() if key != "committed"}
    return _build(source, placed, None if device is None else _device(device))


def _device(name: str) -> Any:
    """A device by its name, such as `cpu`, `cuda` or `cuda:1`."""
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError):
        known = ", ".join(f"{one.platform}:{one.id}" for one in jax.devices())
        raise UnsupportedError(
            f"device={name!r}: expected a device of JAX, found {known}.", key="device"
        ) from None


class Function(Adapter):
    """Functions that JAX wraps: jitted ones, those with derivatives of their own, its ufuncs.

    They are told by name; which variables they captured is compiled into them and no state.
    """

    name = "jax.function"
    is_value = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Its name."""
        name = function_name(live)
        if name is None:
            walk.refuse(path, f"{label(type(live))}, a function without a name to know it by")
        return {"$function": name}


class Transformation(Adapter):
    """`optax.GradientTransformation`: what the live one computes must be what the stored one did.

    It is functions and the settings that these captured. None of it is state, and a function that
    was compiled already would not see a change, so nothing is put back.
    """

    name = "jax.transformation"
    is_frozen = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The names of its functions and their settings."""
        return {"state": walk.node(dict(_settings(live)), path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """The live one, if it has the same functions and settings."""
        stored, found = match.value(node["state"]), dict(_settings(live))
        for key in [*stored, *(key for key in found if key not in stored)]:
            sides = [side.get(key, MISSING) for side in (stored, found)]
            if repr(sides[0]) != repr(sides[1]):
                match.differ(join(path, key), *(_setting(side) for side in sides))
        return live


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _settings(value: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What a function captured, by path: plain values as they are, all else in words."""
    if value is None or type(value) in (bool, int, float, complex, str):
        yield path, value
    elif id(value) in above:
        return
    elif isinstance(value, (jax.Array, np.ndarray)) and _refusal_of_any(value) is None:
        data = jax.random.key_data(value) if is_key(value) else value
        digest = files.digest(np.asarray(data).tobytes())[:16]
        yield path, f"{describe(value)}, {digest}"
    else:
        inner = _parts(value)
        if not isinstance(value, tuple):
            yield path, function_name(value) or f"an object of class {label(type(value))}"
        for key, part in inner:
            yield from _settings(part, join(path, key), (*above, id(value)))


def _refusal_of_any(value: Any) -> str | None:
    return _refusal(value) if isinstance(value, jax.Array) else None


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What a value of a transformation holds, by name."""
    if isinstance(value, functools.partial):
        return [("func", value.func), *_parts(value.args), *value.keywords.items()]
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(getattr(value, "_fields"), value, strict=True))  # noqa: B009
    if isinstance(value, (list, tuple)):
        return [(str(index), part) for index, part in enumerate(value)]
    code = getattr(value, "__code__", None)
    cells = zip(code.co_freevars, value.__closure__ or (), strict=True) if code else ()
    return [(name, cell.cell_contents) for name, cell in cells if is_filled(cell)]


ARRAY = Array()
FUNCTION = Function()
TRANSFORMATION = Transformation()
VARIABLE = Attributes("jax.variable", frozenset({"_trace_state"}), strict=True)
"""A variable of `flax.nnx`; the trace in which it was made belongs to the process."""
LINEN = Attributes("jax.linen", frozenset({"_id", "_state", "_parent_ref", "parent", "scope"}))
"""A module of `flax.linen`, which holds settings; its parameters are elsewhere."""

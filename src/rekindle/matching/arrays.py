"""Arrays: their values copied into the live one's memory, or into new memory."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rekindle import registry
from rekindle.codecs import arrays
from rekindle.errors import FormatError
from rekindle.matching.engine import Engine
from rekindle.matching.outcomes import MISSING, describe
from rekindle.state import array_name


def match_array(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    """An array of numbers, of numpy or of a library that an adapter knows."""
    token = array_name(node)
    if token in match.outcomes:
        return match.outcomes[token]
    library = node.get("library")
    if library is not None:
        adapter = registry.adapter_named(f"{library}.tensor")
        if adapter is None:
            raise FormatError(f"{match.full(path)}: expected a known library, found {library!r}.")
        outcome = adapter.restore_array(node, live, match, path, strict)
    else:
        outcome = _numpy(match, node, live, path, strict)
    match.outcomes[token] = outcome
    return match.register(node, outcome)


def _numpy(match: Engine, node: dict[str, Any], live: Any, path: str, strict: bool) -> Any:
    if isinstance(live, np.ndarray):
        fill = match.filler(node, live)
        if fill is not None and _takes(match, node, live, path):
            match.later(fill)
            return live
    data, _ = match.stored(node)
    if isinstance(live, np.ndarray):
        same = live.dtype == data.dtype and live.shape == data.shape
        if not same and strict and live.size:
            match.differ(
                path,
                f"{data.dtype} of shape {data.shape}",
                f"{live.dtype} of shape {live.shape}",
            )
            return live
        if same and not strict and "$view" not in node:
            same = _strides(live) == node.get("strides")
        if same and live.flags.writeable and _takes(match, node, live, path):
            match.later(functools.partial(np.copyto, live, data))
            return live
    elif strict and live is not MISSING and live is not None:
        match.differ(path, f"an array {data.dtype} of shape {data.shape}", describe(live))
        return live
    if match.is_shared(node):
        return match.place(node, data)
    return arrays.restride(data, node["strides"]) if "strides" in node else data.copy()


def _takes(match: Engine, node: dict[str, Any], live: Any, path: str) -> bool:
    return match.claim_memory(live, node) and match.claim(live, path)


def _strides(array: np.ndarray[Any, Any]) -> list[int] | None:
    return None if array.flags.c_contiguous else list(array.strides)

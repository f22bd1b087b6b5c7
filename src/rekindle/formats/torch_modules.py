"""The state dict of a module that was pickled whole, though its classes are gone.

A pickled `torch.nn.Module` is an object with the attributes `_parameters`, `_buffers` and
`_modules`; joining the names gives what `state_dict()` would. Other attributes, which may hold the
same tensors or whole modules again, are no part of it. Source: torch 2.13, `nn/modules/module.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rekindle.errors import UnsafeError
from rekindle.state import Record
from rekindle.tensors import Tensors

_MOST_MODULES = 100_000
_MOST_LETTERS = 100_000_000
"""Most modules, and letters of their names, in one whole; those that share parts multiply."""


def is_module(value: Any) -> bool:
    """Whether a record is that of a `torch.nn.Module`, or of a module of TorchScript."""
    if not isinstance(value, Record):
        return False
    parts = ("_parameters", "_buffers", "_modules")
    return all(isinstance(value.get(part), Mapping) for part in parts) or is_script(value)


def is_script(value: Any) -> bool:
    """Whether a record is that of a module of TorchScript."""
    return isinstance(value, Record) and value.label.startswith("__torch__")


def state_dict(module: Any, tensors: Tensors) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of a recorded module by the names that `state_dict()` gives them.

    Args:
        module: A record for which `is_module` holds.
        tensors: Which arrays of the file are tensors.

    Raises:
        UnsafeError: It has more names than any module.
    """
    found: dict[str, np.ndarray[Any, Any]] = {}
    # A module that holds itself would have names without end, for torch as well.
    pending: list[tuple[str, Any, frozenset[int]]] = [("", module, frozenset())]
    count = letters = 0
    while pending:
        prefix, part, above = pending.pop()
        count += 1
        letters += len(prefix)
        if count > _MOST_MODULES or letters > _MOST_LETTERS:
            raise UnsafeError(
                f"{module.label[:200]}: expected at most {_MOST_MODULES:,} modules inside one, "
                "found more. The file was made to take for ever; nothing was kept."
            )
        if id(part) in above or not is_module(part):
            continue
        own, inner = _script_parts(part) if is_script(part) else _parts(part)
        for name, value in own.items():
            if tensors.of(value) is not None:
                found[f"{prefix}{name}"] = value
        above |= {id(part)}
        pending.extend(
            (f"{prefix}{name}.", child, above) for name, child in reversed([*inner.items()])
        )
    return found


def _parts(module: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors that a module saves, and the modules inside it, by name."""
    hidden = module.get("_non_persistent_buffers_set") or ()
    buffers = {name: value for name, value in module["_buffers"].items() if name not in hidden}
    return {**module["_parameters"], **buffers}, dict(module["_modules"])


def _script_parts(module: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of TorchScript, which keeps everything in one row of attributes."""
    inner = {name: value for name, value in module.items() if is_script(value)}
    return {name: value for name, value in module.items() if name not in inner}, inner

"""TorchScript modules: their tensors and attributes, in place; their code stays the program's own.

Source: torch 2.13, `torch/jit/_script.py`, `RecursiveScriptModule`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from rekindle.adapters.torch_module import Module
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.state import escape, unescape

_INTERNAL = frozenset(("training", "_is_full_backward_hook"))
_NOT_STATE = ("DeviceObjType", "NoneType")
"""Types of attributes that belong to the process, or have one value only."""
_PLAIN = (bool, int, float, complex, str, type(None))


class Script(Module):
    """`torch.jit.ScriptModule`: scripted, traced or loaded.

    Its attributes are values of TorchScript, of which Python sees copies. Tensors are filled in
    place; numbers, text and containers of them are set. Constants and code are not state.
    """

    def __init__(self) -> None:
        super().__init__("torch.script")

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """State dict, gradients, train flags, and the attributes of every submodule."""
        parts = list(live.named_modules())
        tensors = live.state_dict(keep_vars=True)
        fields: dict[str, Any] = {"state": walk.children(tensors, path)}
        if gradients := self._gradients(parts, walk):
            fields["gradients"] = walk.children(gradients, join(path, "grad"))
        training = {part.training for _, part in parts}
        fields["training"] = (
            training.pop() if len(training) == 1 else {name: part.training for name, part in parts}
        )
        found = {name: value for _, _, name, value in _attributes(parts, tensors)}
        for name, value in found.items():
            if not _is_storable(value):
                walk.refuse(
                    join(path, name),
                    f"{type(value).__name__}, held by a TorchScript module: only tensors, numbers, "
                    "text and containers of the latter two can be put back into one",
                )
        kept = {name: value for name, value in found.items() if _is_storable(value)}
        fields["attributes"] = walk.children(kept, path)
        return fields

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Copy every tensor in place; set flags and attributes."""
        parts = dict(live.named_modules())
        tensors = live.state_dict(keep_vars=True)
        self._match_tensors(node["state"], tensors, live, match, path)
        for name in tensors:
            if escape(name) not in node["state"]:
                match.differ(join(path, name), "no tensor of this name", "one")
        self._match_gradients(node.get("gradients", {}), live, match, path)
        training = node["training"]
        for name, part in parts.items():
            flag = training if isinstance(training, bool) else training.get(name, part.training)
            match.later(functools.partial(setattr, part, "training", flag))
        nodes = {unescape(key): child for key, child in node["attributes"].items() if key != "$id"}
        found = {
            name: (part, key, value)
            for part, key, name, value in _attributes(list(parts.items()), tensors)
        }
        for name in found.keys() - nodes.keys():
            match.differ(join(path, name), "no attribute of this name", "one")
        for name, child in nodes.items():
            where = join(path, name)
            if name not in found:
                match.differ(where, "an attribute of this name", "none")
                continue
            part, key, value = found[name]
            if isinstance(value, torch.Tensor):
                outcome = match.node(child, value, where)
                if outcome is value:
                    continue
            else:
                outcome = match.value(child)
            match.later(functools.partial(setattr, part, key, outcome))
        return live


def _attributes(
    parts: list[tuple[str, Any]], tensors: dict[str, torch.Tensor]
) -> Iterator[tuple[Any, str, str, Any]]:
    """Module, name, full name and value of every attribute that is state and no parameter."""
    for prefix, part in parts:
        for key, (kind, _) in sorted(part._concrete_type.get_attributes().items()):
            name = join(prefix, key)
            if key not in _INTERNAL and name not in tensors and kind.kind() not in _NOT_STATE:
                yield part, key, name, getattr(part, key)


def _is_storable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return isinstance(value, _PLAIN)


SCRIPT = Script()

"""torch modules: parameters, buffers, train flags, and the other attributes of every submodule.

Tensors are named as `state_dict` names them. Hooks are code and are left alone. Wrappers that only
change how a module runs (`torch.compile`, `DataParallel`) are looked through.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from rekindle.graph import Walk, attributes_of, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label

_INTERNAL = frozenset(vars(torch.nn.Module())) | {
    "_forward_hooks_with_kwargs",
    "_compiled_call_impl",
}
_WRAPPERS = {
    "torch._dynamo.eval_frame:OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed:DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel:DataParallel": "module",
}


def unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """The module under `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while (inside := _WRAPPERS.get(label(type(module)))) is not None:
        module = getattr(module, inside)
    return module


def _own(module: torch.nn.Module) -> dict[str, Any]:
    """The attributes of one module that torch does not manage."""
    return {key: value for key, value in attributes_of(module).items() if key not in _INTERNAL}


def _tensors(
    module: torch.nn.Module, persistent: bool
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Parameters and buffers by their full names, each name of a shared one included."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        hidden = part._non_persistent_buffers_set
        if persistent:
            for name, tensor in part._parameters.items():
                yield join(prefix, name), tensor
        for name, tensor in part._buffers.items():
            if (name not in hidden) == persistent:
                yield join(prefix, name), tensor


class Module(Adapter):
    """`torch.nn.Module`."""

    name = "torch.module"
    rank = 0

    def capture(self, live: torch.nn.Module, walk: Walk, path: str) -> dict[str, Any]:
        """State dict, buffers that it leaves out, gradients, train flags, other attributes."""
        module = unwrap(live)
        parts = list(module.named_modules())
        fields: dict[str, Any] = {"class": label(type(module))}
        nodes: dict[str, dict[str, Any]] = {}
        for name, part in parts[1:]:
            nodes[name] = walk.remember(part, {"$part": label(type(part)), "attributes": {}})
        fields["state"] = walk.children(_tensors(module, persistent=True), path)
        buffers = walk.children(_tensors(module, persistent=False), path)
        if buffers:
            fields["buffers"] = buffers
        gradients = [
            (name, parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        ]
        if gradients:
            fields["gradients"] = walk.children(gradients, join(path, "grad"))
        training = {part.training for _, part in parts}
        fields["training"] = (
            training.pop() if len(training) == 1 else {name: part.training for name, part in parts}
        )
        fields["attributes"] = walk.children(_own(module), path)
        for name, part in parts[1:]:
            nodes[name]["attributes"] = walk.children(_own(part), join(path, name))
        fields["parts"] = nodes
        return fields

    def restore(self, node: dict[str, Any], live: torch.nn.Module, match: Match, path: str) -> Any:
        """Copy every tensor in place; set flags and attributes."""
        module = unwrap(live)
        if label(type(module)) != node["class"]:
            match.differ(path, f"a module of class {node['class']}", label(type(module)))
            return live
        if module is not live:
            match.claim(module, path)
        parts = dict(module.named_modules())
        self._match_parts(node, parts, match, path)
        for key, persistent in (("state", True), ("buffers", False)):
            found = dict(_tensors(module, persistent))
            self._match_tensors(node.get(key, {}), found, match, path, module)
        self._match_gradients(node.get("gradients", {}), module, match, path)
        training = node["training"]
        for name, part in parts.items():
            flag = training if isinstance(training, bool) else training.get(name, part.training)
            match.later(functools.partial(setattr, part, "training", flag))
        match.attributes(node["attributes"], module, path)
        for name, part_node in node["parts"].items():
            if name in parts:
                match.attributes(part_node["attributes"], parts[name], join(path, name))
        return live

    def _match_parts(
        self, node: dict[str, Any], parts: dict[str, torch.nn.Module], match: Match, path: str
    ) -> None:
        for name, part_node in node["parts"].items():
            part = parts.get(name)
            expected = part_node["$part"]
            if part is None:
                match.differ(join(path, name), f"a module of class {expected}", "none")
            elif label(type(part)) != expected:
                match.differ(join(path, name), f"a module of class {expected}", label(type(part)))
            else:
                match.claim(part, join(path, name))
                match.register(part_node, part)
        for name in parts:
            if name and name not in node["parts"]:
                match.differ(join(path, name), "no such module", label(type(parts[name])))

    def _match_tensors(
        self,
        nodes: dict[str, Any],
        found: dict[str, torch.Tensor | None],
        match: Match,
        path: str,
        module: torch.nn.Module,
    ) -> None:
        for name, node in nodes.items():
            if name == "$id":
                continue
            tensor = found.get(name, MISSING)
            where = join(path, name)
            if tensor is MISSING:
                match.differ(where, _stored_kind(node), "no tensor of this name")
                continue
            outcome = match.node(node, tensor, where, strict=True)
            if outcome is not tensor:
                match.later(functools.partial(_rebind, module, name, outcome))
        for name in found:
            if name not in nodes:
                match.differ(join(path, name), "no tensor of this name", "one")

    def _match_gradients(
        self, nodes: dict[str, Any], module: torch.nn.Module, match: Match, path: str
    ) -> None:
        for name, parameter in module.named_parameters():
            node = nodes.get(name)
            if node is None:
                if parameter.grad is not None:
                    match.later(functools.partial(setattr, parameter, "grad", None))
                continue
            grad = MISSING if parameter.grad is None else parameter.grad
            outcome = match.node(node, grad, join(path, f"grad.{name}"))
            if outcome is not grad:
                match.later(functools.partial(setattr, parameter, "grad", outcome))


def _stored_kind(node: Any) -> str:
    return "None" if node is None else "a tensor of this name"


def _rebind(module: torch.nn.Module, name: str, tensor: Any) -> None:
    """Put another tensor under a name: a buffer that was None, a parameter that became tied."""
    prefix, _, leaf = name.rpartition(".")
    part = module.get_submodule(prefix)
    kept = part._parameters if leaf in part._parameters else part._buffers
    kept[leaf] = tensor


MODULE = Module()

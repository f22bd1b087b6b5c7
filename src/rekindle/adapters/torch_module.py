"""torch modules: parameters, buffers, train flags, and the other attributes of every submodule.

Tensors are named as `state_dict` names them. Hooks are code and are left alone. Wrappers that only
change how a module runs (`torch.compile`, `DataParallel`) are looked through.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from rekindle import prefixes
from rekindle.graph import CONSTRUCTOR, Walk, attributes_of, join, slots_of
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label
from rekindle.state import escape, unescape

_INTERNAL = frozenset(vars(torch.nn.Module())) | {
    "_forward_hooks_with_kwargs",
    "_compiled_call_impl",
    "_is_torch_compile",
}
_WRAPPERS = {
    "torch._dynamo.eval_frame:OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed:DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel:DataParallel": "module",
}


def unwrapped(module: Any) -> Any:
    """The module under `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while (name := _held_as(type(module))) is not None:
        module = getattr(module, name)
    return module


@functools.cache
def _held_as(cls: type) -> str | None:
    """The attribute in which a wrapper holds its module; None for any other class."""
    return _WRAPPERS.get(label(cls))


def _places(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module inside a module by each of its names, wrappers looked through.

    So the names are the same whether a part is compiled or not.
    """
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        yield prefix, part
        waiting += [
            (join(prefix, name), unwrapped(child))
            for name, child in reversed(part._modules.items())
            if child is not None
        ]


def _distinct(places: Iterable[tuple[str, torch.nn.Module]]) -> dict[str, torch.nn.Module]:
    """The same, each module by its first name only."""
    met: set[int] = set()
    return {name: part for name, part in places if not (id(part) in met or met.add(id(part)))}


def _part(module: torch.nn.Module, path: str) -> torch.nn.Module:
    """The module of a name that `_places` gives."""
    for name in path.split(".") if path else ():
        child = module._modules[name]
        assert child is not None
        module = unwrapped(child)
    return module


def _own(module: torch.nn.Module) -> dict[str, Any]:
    """The attributes of one module that torch does not manage."""
    attributes = attributes_of(module) if slots_of(type(module)) else vars(module)
    return {key: attributes[key] for key in _own_names(tuple(attributes))}


@functools.lru_cache(maxsize=4096)
def _own_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a module's attributes that torch does not manage; many modules have the same."""
    return tuple(name for name in names if name not in _INTERNAL and name != CONSTRUCTOR)


def _tensors(
    places: Iterable[tuple[str, torch.nn.Module]], persistent: bool
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Parameters and buffers by their full names, each name of a shared one included."""
    for prefix, part in places:
        hidden = part._non_persistent_buffers_set
        if persistent:
            for name, tensor in part._parameters.items():
                yield join(prefix, name), tensor
        for name, tensor in part._buffers.items():
            if (name not in hidden) == persistent:
                yield join(prefix, name), tensor


class Module(Adapter):
    """`torch.nn.Module`.

    Args:
        name: What the file calls it.
        keeps_gradients: Whether gradients are state: not where each use clears them before.
    """

    rank = 0

    def inside(self, live: Any) -> Any:
        """The module under `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
        return unwrapped(live)

    def __init__(self, name: str = "torch.module", *, keeps_gradients: bool = True) -> None:
        self.name = name
        self._keeps_gradients = keeps_gradients

    def capture(self, live: torch.nn.Module, walk: Walk, path: str) -> dict[str, Any]:
        """State dict, buffers that it leaves out, gradients, train flags, other attributes."""
        places = list(_places(live))
        parts = list(_distinct(places).items())
        nodes: dict[str, dict[str, Any]] = {}
        for name, part in parts[1:]:
            nodes[name] = walk.remember(part, {"$part": label(type(part)), "attributes": {}})
        tensors, hidden = (dict(_tensors(places, persistent)) for persistent in (True, False))
        fields: dict[str, Any] = {"state": walk.children(_present(tensors), path)}
        if buffers := _present(hidden):
            fields["buffers"] = walk.children(buffers, path)
        if empty := [name for name, tensor in (tensors | hidden).items() if tensor is None]:
            fields["empty"] = empty
        if gradients := self._gradients(parts, walk):
            fields["gradients"] = walk.children(gradients, join(path, "grad"))
        training = {part.training for _, part in parts}
        fields["training"] = (
            training.pop() if len(training) == 1 else {name: part.training for name, part in parts}
        )
        fields["attributes"] = walk.children(_own(live), path)
        for name, part in parts[1:]:
            nodes[name]["attributes"] = walk.children(_own(part), join(path, name))
        fields["parts"] = nodes
        return fields

    def _gradients(
        self, parts: list[tuple[str, torch.nn.Module]], walk: Walk
    ) -> dict[str, torch.Tensor]:
        """Gradients by the first name of each parameter, where they are state."""
        if not self._keeps_gradients:
            walk.without_gradients(p for _, part in parts for p in part._parameters.values())
        if not self._keeps_gradients or not walk.keeps_gradients:
            return {}
        named: dict[int, tuple[str, torch.Tensor]] = {}
        for prefix, part in parts:
            for name, parameter in part._parameters.items():
                if parameter is not None and parameter.grad is not None:
                    named.setdefault(id(parameter), (join(prefix, name), parameter.grad))
        return dict(named.values())

    def restore(self, node: dict[str, Any], live: torch.nn.Module, match: Match, path: str) -> Any:
        """Copy every tensor in place; set flags and attributes."""
        parts = _distinct(_places(live))
        self._match_parts(node, parts, match, path)
        empty = set(node.get("empty", ()))
        for key, persistent in (("state", True), ("buffers", False)):
            found = dict(_tensors(_places(live), persistent))
            self._match_tensors(node.get(key, {}), found, live, match, path)
            stored = empty.union(map(unescape, node.get(key, {})))
            for name in _present(found):
                if name not in stored:
                    match.differ(join(path, name), "no tensor of this name", "one")
            empty -= self._match_empty(empty, found, live, match, path)
        for name in empty:
            match.differ(join(path, name), "None under this name", "no such name")
        self._match_gradients(node.get("gradients", {}), live, match, path)
        training = node["training"]
        for name, part in parts.items():
            flag = training if isinstance(training, bool) else training.get(name, part.training)
            match.later(functools.partial(setattr, part, "training", flag))
        self._match_attributes(node["attributes"], live, match, path)
        for name, part_node in node["parts"].items():
            if name in parts:
                where = join(path, name)
                self._match_attributes(part_node["attributes"], parts[name], match, where)
        return live

    def restore_arrays(
        self, nodes: dict[str, Any], live: torch.nn.Module, match: Match, path: str
    ) -> None:
        """Copy a state dict into it, whether wrappers had a part in its names or not."""
        found = dict(_tensors(_places(live), True))
        names = prefixes.aligned(nodes, found)
        named = {escape(names[name]): node for name, node in nodes.items()}
        self._match_tensors(named, found, live, match, path)
        for name in _present(found):
            if escape(name) not in named:
                match.differ(join(path, name), "no tensor of this name", "one")

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

    def _match_attributes(
        self, nodes: dict[str, Any], part: torch.nn.Module, match: Match, path: str
    ) -> None:
        match.attributes(nodes, part, path)
        for name in _own(part):
            if escape(name) not in nodes:
                match.surplus(part, name, path)

    def _match_tensors(
        self,
        nodes: dict[str, Any],
        found: dict[str, torch.Tensor | None],
        live: torch.nn.Module,
        match: Match,
        path: str,
    ) -> None:
        for key, node in nodes.items():
            name = unescape(key)
            if key == "$id":
                continue
            tensor = found.get(name, MISSING)
            where = join(path, name)
            if tensor is MISSING or (tensor is None and _is_parameter(live, name)):
                match.differ(where, "a tensor of this name", "None" if tensor is None else "none")
                continue
            outcome = match.node(node, tensor, where, strict=True)
            if outcome is tensor:
                continue
            if tensor is not None and outcome.shape != tensor.shape:
                match.differ(where, f"shape {tuple(outcome.shape)}", f"{tuple(tensor.shape)}")
            match.later(functools.partial(_rebind, live, name, outcome))

    def _match_empty(
        self,
        names: set[str],
        found: dict[str, torch.Tensor | None],
        live: torch.nn.Module,
        match: Match,
        path: str,
    ) -> set[str]:
        """Those of the names that were None and are in `found`; a buffer becomes None again."""
        known = names & found.keys()
        for name in known:
            if found[name] is not None and _is_parameter(live, name):
                match.differ(join(path, name), "None", "a parameter")
            else:
                match.later(functools.partial(_rebind, live, name, None))
        return known

    def _match_gradients(
        self, nodes: dict[str, Any], live: torch.nn.Module, match: Match, path: str
    ) -> None:
        met: set[int] = set()
        for name, parameter in _tensors(_places(live), True):
            if not isinstance(parameter, torch.nn.Parameter) or id(parameter) in met:
                continue
            met.add(id(parameter))
            node = nodes.get(escape(name))
            if node is None:
                if parameter.grad is not None:
                    match.later(functools.partial(setattr, parameter, "grad", None))
                continue
            grad = MISSING if parameter.grad is None else parameter.grad
            outcome = match.node(node, grad, join(path, f"grad.{name}"))
            if outcome is not grad:
                match.later(functools.partial(setattr, parameter, "grad", outcome))


def saved_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names that `state_dict` gives them."""
    return _present(dict(_tensors(_places(module), True)))


def _present(tensors: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _is_parameter(module: torch.nn.Module, name: str) -> bool:
    prefix, _, leaf = name.rpartition(".")
    return leaf in _part(module, prefix)._parameters


def _rebind(module: torch.nn.Module, name: str, tensor: Any) -> None:
    """Put another tensor under a name: a buffer that was None, a parameter that became tied."""
    prefix, _, leaf = name.rpartition(".")
    part = _part(module, prefix)
    kept = part._parameters if leaf in part._parameters else part._buffers
    kept[leaf] = tensor


MODULE = Module()

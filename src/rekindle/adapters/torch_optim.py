"""torch optimizers and the AMP gradient scaler.

An optimizer's state is written as its `state_dict` is laid out, so that plain torch can load it.
Learning-rate schedulers are ordinary Python objects and need no adapter.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from rekindle.adapters.torch_values import describe
from rekindle.graph import Walk, attributes_of, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.state import escape, unescape

_INTERNAL = frozenset(vars(torch.optim.SGD([torch.zeros(1)], lr=0.1))) | {
    "_params", "_numel_cache", "step", "_opt_called", "_wrapped_by_lr_sched",
    "_warned_capturable_if_run_uncaptured", "grad_scale", "found_inf", "_patch_step_function",
    "_step_supports_amp_scaling",
}  # fmt: skip


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class Optimizer(Adapter):
    """`torch.optim.Optimizer`."""

    name = "torch.optimizer"

    def capture(self, live: torch.optim.Optimizer, walk: Walk, path: str) -> dict[str, Any]:
        """State per parameter, options per group, gradients where they are set."""
        parameters = _parameters(live)
        place = {id(parameter): index for index, parameter in enumerate(parameters)}
        state = [
            [index, walk.children(live.state[parameter], join(path, f"state.{index}"))]
            for index, parameter in enumerate(parameters)
            if parameter in live.state
        ]
        groups = []
        for index, group in enumerate(live.param_groups):
            options = {key: value for key, value in group.items() if key != "params"}
            node = walk.children(options, join(path, f"param_groups.{index}"))
            node["params"] = [place[id(parameter)] for parameter in group["params"]]
            groups.append(node)
        kinds = [describe(parameter) for parameter in parameters]
        gradients = [
            [index, walk.node(parameter.grad, join(path, f"grad.{index}"))]
            for index, parameter in enumerate(parameters)
            if parameter.grad is not None and walk.has_gradient(parameter)
        ]
        fields: dict[str, Any] = {
            "state": {"state": {"$dict": state}, "param_groups": groups},
            "parameters": kinds,
            "defaults": walk.children(live.defaults, join(path, "defaults")),
            "attributes": walk.children(self._own(live), path),
        }
        if gradients:
            fields["gradients"] = gradients
        return fields

    def _own(self, live: torch.optim.Optimizer) -> dict[str, Any]:
        return {key: value for key, value in attributes_of(live).items() if key not in _INTERNAL}

    def restore(
        self, node: dict[str, Any], live: torch.optim.Optimizer, match: Match, path: str
    ) -> Any:
        """Fill the state of each parameter in place; set options and gradients."""
        stored = node["state"]["param_groups"]
        sizes = [len(group["params"]) for group in stored]
        found = [len(group["params"]) for group in live.param_groups]
        if sizes != found:
            match.differ(
                join(path, "param_groups"),
                f"{len(sizes)} group(s) of {sizes} parameters",
                f"{len(found)} group(s) of {found}",
            )
            return live
        for index, group in enumerate(stored):
            self._match_group(
                group, live.param_groups[index], match, join(path, f"param_groups.{index}")
            )
        parameters = _parameters(live)
        for index, (expected, parameter) in enumerate(
            zip(node["parameters"], parameters, strict=True)
        ):
            kind = describe(parameter)
            if kind != expected:
                match.differ(join(path, f"params.{index}"), expected, kind)
        states = dict(node["state"]["state"]["$dict"])
        for index, parameter in enumerate(parameters):
            where = join(path, f"state.{index}")
            if index in states:
                self._match_state(states[index], live, parameter, match, where)
            elif parameter in live.state:
                match.later(functools.partial(live.state.pop, parameter, None))
        self._match_gradients(dict(node.get("gradients", [])), parameters, match, path)
        match.node(node["defaults"], live.defaults, join(path, "defaults"))
        match.attributes(node["attributes"], live, path)
        for name in self._own(live):
            if escape(name) not in node["attributes"]:
                match.surplus(live, name, path)
        return live

    def _match_group(
        self, node: dict[str, Any], live: dict[str, Any], match: Match, path: str
    ) -> None:
        for key in live:
            if escape(key) not in node:
                match.differ(join(path, key), "no such option", "one")
        for key, child in node.items():
            if key in ("params", "$id"):
                continue
            name = unescape(key)
            outcome = match.node(child, live.get(name, MISSING), join(path, name))
            match.later(functools.partial(_set_item, live, name, outcome, match))

    def _match_state(
        self,
        node: dict[str, Any],
        live: torch.optim.Optimizer,
        parameter: torch.Tensor,
        match: Match,
        path: str,
    ) -> None:
        present = live.state.get(parameter, {})
        outcomes: dict[str, Any] = {}
        for key, child in node.items():
            if key == "$id":
                continue
            name = unescape(key)
            outcomes[name] = match.node(child, present.get(name, MISSING), join(path, name))

        def fill() -> None:
            live.state[parameter] = {key: match.settle(value) for key, value in outcomes.items()}

        match.later(fill)

    def _match_gradients(
        self, nodes: dict[int, Any], parameters: list[torch.Tensor], match: Match, path: str
    ) -> None:
        for index, parameter in enumerate(parameters):
            present = MISSING if parameter.grad is None else parameter.grad
            if index in nodes:
                outcome = match.node(nodes[index], present, join(path, f"grad.{index}"))
            else:
                outcome = None
            if outcome is not present:
                match.later(functools.partial(setattr, parameter, "grad", outcome))


def _set_item(target: dict[str, Any], key: str, outcome: Any, match: Match) -> None:
    target[key] = match.settle(outcome)


class Scaler(Adapter):
    """`torch.amp.GradScaler`, between two optimizer steps."""

    name = "torch.scaler"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Scale and growth, unless it is switched off; refused between `unscale_` and `update`."""
        if getattr(live, "_per_optimizer_states", None):
            walk.refuse(
                path,
                "a GradScaler in the middle of a step (after scale or unscale_, before update); "
                "save after scaler.update()",
            )
        own = {k: v for k, v in attributes_of(live).items() if k != "_per_optimizer_states"}
        return {"state": walk.children(own, path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set its numbers in place, and forget a step that the live one is in the middle of."""
        if node["state"]["_enabled"] != live._enabled:
            kinds = {True: "a scaler that is enabled", False: "one that is switched off"}
            match.differ(path, kinds[bool(node["state"]["_enabled"])], kinds[live._enabled])
            return live
        match.attributes(node["state"], live, path)
        if hasattr(live, "_per_optimizer_states"):
            match.later(live._per_optimizer_states.clear)
        return live


OPTIMIZER = Optimizer()
SCALER = Scaler()

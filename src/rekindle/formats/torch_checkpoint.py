"""Anything else that `torch.save` wrote: state dicts, whole modules, and dictionaries of them.

Layouts of libraries whose files are dictionaries with names of their own are known by these names:
rsl_rl, skrl, rl_games, CleanRL. What is not known by name keeps its place under
`agent`, so nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle.errors import RekindleError
from rekindle.formats import inert, torch_files, torch_modules, wrappers
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget
from rekindle.tensors import Tensors

_HEAD_BYTES = 4096
_POLICIES = (
    "policy", "policy_state_dict", "model_state_dict", "model", "actor", "actor_state_dict",
    "state_dict", "network", "agent_state_dict", "net",
)  # fmt: skip
_CRITICS = ("critic", "critic_state_dict", "value", "value_state_dict", "value_net")
_TARGETS = re.compile(r"(target.*|.*_target)(_state_dict)?", re.ASCII)
_OPTIMIZERS = re.compile(r"((\w+?)_)?(optimizer|optim)(_state_dict)?", re.ASCII)
_NORMALIZERS = re.compile(
    r"(\w+_)?(preprocessor|normalizer|rms|normalization)(_state_dict)?", re.ASCII
)
_STEPS = ("step", "global_step", "total_steps", "num_timesteps", "timestep", "frame", "env_step",
          "agent_step")  # fmt: skip
_COUNTERS = {"iter": "updates", "epoch": "epochs", "update": "updates", "iteration": "updates",
             "episodes": "episodes", "episode": "episodes"}  # fmt: skip


class TorchCheckpoint(Format):
    """A file of `torch.save` or `torch.jit.save`, of any version."""

    name = "torch"

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch, with anything inside."""
        try:
            head = wrappers.head(path, _HEAD_BYTES)
        except RekindleError:
            return None
        if torch_files.kind_of(head) is not None or torch_files.begins(head):
            return Confidence.CONTAINER
        return None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """State dicts by component; a whole module as its state dict; the rest as `agent`."""
        budget = Budget(max_bytes, str(path))
        file = torch_files.read(wrappers.of_file(path, budget), budget)
        notes = [Note(Kind.INERT, "agent", text) for text in file.notes]
        found = _Sorted(file.tensors)
        found.sort(file.value)
        components = found.components
        for name, value in components.items():
            notes += inert.notes(value, name)
        notes += found.notes
        is_policy = set(components) <= {"policy"}
        return Reading(
            format=self.name,
            kind="policy" if is_policy else "checkpoint",
            components=components,
            step=found.step,
            counters=found.counters,
            details={"layout": file.kind, "sources": file.sources},
            notes=tuple(notes),
            tensors=file.tensors,
        )


class _Sorted:
    """What a file holds, put under the names of components."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.components: dict[str, Any] = {}
        self.notes: list[Note] = []
        self.counters: dict[str, int] = {}
        self.step: int | None = None

    def sort(self, value: Any) -> None:
        """Sort a file's value."""
        if torch_modules.is_module(value):
            self._add_module("policy", value)
        elif self._is_state_dict(value):
            self.components["policy"] = value
        elif isinstance(value, Mapping):
            rest = {key: part for key, part in value.items() if not self._take(key, part)}
            if rest:
                self.components["agent"] = rest
        else:
            self.components["agent"] = value

    def _is_state_dict(self, value: Any) -> bool:
        """Whether it is a dictionary of arrays by name, and of nothing else."""
        return (
            isinstance(value, dict)
            and bool(value)
            and all(isinstance(key, str) for key in value)
            and all(isinstance(part, np.ndarray) for part in value.values())
        )

    def _add_module(self, component: str, module: Any) -> None:
        self.components[component] = torch_modules.state_dict(module, self._tensors)
        text = f"a whole module of class {module.label[:200]}; its state dict was taken out of it"
        self.notes.append(Note(Kind.INERT, component, text))

    def _take(self, key: Any, part: Any) -> bool:
        """Put one item of the dictionary where it belongs; false where that is not known."""
        if not isinstance(key, str):
            return False
        component = _component_of(key)
        if component is not None and component not in self.components:
            if torch_modules.is_module(part):
                self._add_module(component, part)
                return True
            is_optimizer = component.endswith("optimizer") and _is_optimizer(part)
            if is_optimizer or self._is_state_dict(part):
                self.components[component] = part
                return True
        if type(part) is int and part >= 0:
            if key in _STEPS and self.step is None:
                self.step = part
            elif key in _COUNTERS:
                self.counters.setdefault(_COUNTERS[key], part)
        return False


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, dict) and {"state", "param_groups"} <= set(value)


def _component_of(key: str) -> str | None:
    """The component that an item of this name is, by the names that libraries use."""
    if key in _POLICIES:
        return "policy"
    if key in _CRITICS:
        return "critic"
    if _TARGETS.fullmatch(key):
        return "target"
    match = _OPTIMIZERS.fullmatch(key)
    if match is not None:
        return f"{match[2]}_optimizer" if match[2] else "optimizer"
    match = _NORMALIZERS.fullmatch(key)
    if match is not None:
        return "normalizer" if not match[1] else f"{match[1]}normalizer"
    return None


FORMAT = TorchCheckpoint()

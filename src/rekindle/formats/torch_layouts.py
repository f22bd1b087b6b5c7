"""What a file of torch holds, put under the names of components, and put back as it was.

A file is a dictionary of state dicts, or a row of them, with names that each library chose. They
are known by these names: CleanRL, rsl_rl, skrl, rl_games, and what people write themselves. State
dicts of other names are components of that name; all else is `agent`. Where everything was is kept,
so the same file can be made again. Source: CleanRL,
`cleanrl/*.py`; rsl_rl, `runners/on_policy_runner.py`; skrl, `agents/torch/base.py`; rl_games,
`common/a2c_common.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rekindle.formats import torch_modules
from rekindle.formats.protocol import Kind, Note
from rekindle.pickles.records import Recorded
from rekindle.tensors import Tensors

POLICY = "policy"
PLAIN = frozenset(("agent", "progress", "env"))
"""Components that hold whatever there is; all others are tensors by name."""
_NAME = re.compile(r"[A-Za-z]\w{0,60}", re.ASCII)
_SUFFIX = re.compile(r"(_state_dict|_weights|_state)$")
_POLICIES = frozenset((
    "policy", "policy_state_dict", "model_state_dict", "model", "actor", "actor_state_dict",
    "state_dict", "network", "agent_state_dict", "agent", "net", "model_weights", "weights",
    "q_network", "policy_net", "policy_network", "actor_critic",
))  # fmt: skip
_CRITIC = re.compile(
    r"(?:critic|value|qf|vf|q|assymetric_vf)_?(\d)?(?:_nets?|_network)?(?:_state_dict)?", re.ASCII
)
_TARGET = re.compile(r"target(_\w+)?|\w+_target(_state_dict)?", re.ASCII)
_OPTIMIZER = re.compile(
    r"(?:(\w+?)_)?(?:optimizer|optim)(?:_(?!state)(\w+?))?(?:_state(?:_dict)?)?", re.ASCII
)
_NORMALIZER = re.compile(
    r"(?:(\w+?)_)?(?:preprocessor|normalizer|normalization|rms|norm|running_mean_std|mean_std)"
    r"(?:_state_dict)?",
    re.ASCII,
)
_OBSERVATIONS = (None, "obs", "state", "observation", "input")
"""What a normaliser is of, where it is of what the policy sees."""
_SCHEDULER = re.compile(r"(?:\w+_)?scheduler(?:_state_dict)?", re.ASCII)
_STEPS = frozenset((
    "step", "global_step", "total_steps", "num_timesteps", "timestep", "frame", "env_step",
    "agent_step",
))  # fmt: skip
_COUNTERS = {"iter": "updates", "epoch": "epochs", "update": "updates", "iteration": "updates",
             "episodes": "episodes", "episode": "episodes"}  # fmt: skip
_METRICS = frozenset(("last_mean_rewards", "last_mean_target_rewards", "best_reward"))
_ENVIRONMENT = "env_state"
_RESERVED = frozenset(("checkpoint", "agent", "progress"))
"""Names that no state dict of another name becomes a component of."""


@dataclass
class Layout:
    """One file's value, put under the names of components."""

    components: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    step: int | None = None
    counters: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    places: list[list[Any]] = field(default_factory=list)
    """For each item of the file, in order: its key, its component, and its key in that; None where
    it is the whole component."""
    form: str = "dict"
    """`dict` or `tuple`: items with places; `whole`: one component is the whole value."""


def sort(value: Any, tensors: Tensors) -> Layout:
    """Put a file's value under the names of components."""
    layout = Layout()
    if torch_modules.is_module(value) or is_state_dict(value):
        layout.form = "whole"
        _add(layout, tensors, POLICY, None, POLICY, value)
    elif isinstance(value, tuple) and value and all(map(is_state_dict, value)):
        layout.form = "tuple"
        # CleanRL: the actor, then its critics.
        names = (POLICY, "critic", *(f"critic{number}" for number in range(2, len(value))))
        for index, (name, part) in enumerate(zip(names, value, strict=False)):
            _add(layout, tensors, name, None, index, part)
    elif isinstance(value, Mapping):
        _sort_items(layout, value, tensors)
    else:
        layout.form = "whole"
        _add(layout, tensors, "agent", None, "agent", value)
    return layout


def arranged(components: Mapping[str, Any], places: Iterable[Any], form: str) -> Any:
    """The value of a file again: the way back of `sort`.

    Args:
        components: Plain data by component.
        places: Of a `Layout`; what is not there any more is left out.
        form: Of a `Layout`.
    """
    found: dict[Any, Any] = {}
    for key, component, item in places:
        if component not in components:
            continue
        whole = components[component]
        if item is None:
            found[key] = whole
        elif isinstance(whole, Mapping) and item in whole:
            found[key] = whole[item]
    if form == "whole":
        return next(iter(found.values()), None)
    return tuple(found.values()) if form == "tuple" else found


def is_state_dict(value: Any) -> bool:
    """Whether it is a dictionary of arrays by name, and of nothing else."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(part, np.ndarray) for part in value.values())
    )


def _sort_items(layout: Layout, value: Mapping[Any, Any], tensors: Tensors) -> None:
    targets = [key for key, part in value.items() if _is_target(key, part)]
    for key, part in value.items():
        component, item = _place(key, part, len(targets) > 1)
        is_taken = component in layout.components if item is None else _is_whole(layout, component)
        if is_taken or component.lower() in _names_but(layout, component):
            component, item = "agent", key
        if isinstance(key, str):
            _count(layout, key, part)
        _add(layout, tensors, component, item, key, part)


def _is_whole(layout: Layout, component: str) -> bool:
    """Whether a component is one item as a whole, so that no other can be put into it."""
    return any(name == component and item is None for _, name, item in layout.places)


def _names_but(layout: Layout, component: str) -> set[str]:
    """Other components as some disks tell them apart, where each is a file."""
    return {name.lower() for name in layout.components if name != component}


def _add(layout: Layout, tensors: Tensors, component: str, item: Any, key: Any, part: Any) -> None:
    if torch_modules.is_module(part):
        where = component if item is None else f"{component}.{item}"
        text = f"a whole module of class {part.label[:200]}; its state dict was taken out of it"
        layout.notes.append(Note(Kind.INERT, where, text))
        part = torch_modules.state_dict(part, tensors)
    if item is None:
        layout.components[component] = part
    else:
        layout.components.setdefault(component, {})[item] = part
    layout.places.append([key, component, item])


def _count(layout: Layout, key: str, part: Any) -> None:
    """Take steps, counts and measurements from items that are called so."""
    if type(part) is int and part >= 0:
        if key in _STEPS and layout.step is None:
            layout.step = part
        elif key in _COUNTERS:
            layout.counters.setdefault(_COUNTERS[key], part)
    elif key in _METRICS and isinstance(part, (float, np.floating)):
        layout.metrics[key] = float(part)


def _is_target(key: Any, part: Any) -> bool:
    is_named = isinstance(key, str) and _TARGET.fullmatch(key) is not None
    return is_named and (is_state_dict(part) or torch_modules.is_module(part))


def _place(key: Any, part: Any, has_targets: bool) -> tuple[str, Any]:
    """The component of an item, and its key in that; None where it is the whole of it."""
    if not isinstance(key, str):
        return "agent", key
    if is_state_dict(part) or torch_modules.is_module(part):
        return _network(key, has_targets)
    if _is_known(key) and _has_records(part):
        return _network(key, has_targets)
    if isinstance(part, dict) and part:
        match = _OPTIMIZER.fullmatch(key)
        if match is not None and {"state", "param_groups"} <= set(part):
            of = match[1] or match[2]
            return (f"{of}_optimizer" if of else "optimizer"), None
        if _NORMALIZER.fullmatch(key):
            return _normalizer(key), None
        if _SCHEDULER.fullmatch(key):
            return _SUFFIX.sub("", key), None
        if key == _ENVIRONMENT:
            return "env", None
    if key in _STEPS or key in _COUNTERS or key in _METRICS:
        return "progress", key
    return "agent", key


def _is_known(key: str) -> bool:
    """Whether a key is one that libraries give a network."""
    return key in _POLICIES or bool(_CRITIC.fullmatch(key) or _TARGET.fullmatch(key))


def _has_records(value: Any) -> bool:
    """Whether it is a state dict but for records, which stand where tensors should."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    records = [part for part in value.values() if isinstance(part, Recorded)]
    rest = [part for part in value.values() if not isinstance(part, Recorded)]
    return bool(records and rest) and all(isinstance(part, np.ndarray) for part in rest)


def _network(key: str, has_targets: bool) -> tuple[str, Any]:
    """The component of a state dict by its key."""
    if key in _POLICIES:
        return POLICY, None
    match = _CRITIC.fullmatch(key)
    if match is not None:
        return ("critic" if match[1] in (None, "0", "1") else f"critic{match[1]}"), None
    if _TARGET.fullmatch(key):
        return "target", key if has_targets else None
    if _NORMALIZER.fullmatch(key):
        return _normalizer(key), None
    name = _SUFFIX.sub("", key)
    is_name = _NAME.fullmatch(name) and name.lower() not in _RESERVED
    return (name, None) if is_name else ("agent", key)


def _normalizer(key: str) -> str:
    match = _NORMALIZER.fullmatch(key)
    of = match[1] if match is not None else None
    return "normalizer" if of in _OBSERVATIONS else f"{of.removesuffix('_obs')}_normalizer"

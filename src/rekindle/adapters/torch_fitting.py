"""State dicts of files that other libraries wrote, put into live modules and optimizers.

Nothing is built from the file but tensors. Source: torch 2.13, `nn/modules/module.py`,
`optim/optimizer.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch

from rekindle import prefixes
from rekindle.adapters import torch_module, torch_values
from rekindle.codecs import arrays
from rekindle.fitting import Fit, describe
from rekindle.graph import join
from rekindle.report import plural

_LIKE_PARAMETERS = frozenset((
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg",
    "acc_delta", "sum", "grad_avg", "prev", "step_size", "ax",
))  # fmt: skip
"""Parts of an optimizer's state that have the shape of their parameter, in all of torch's own."""


def fit_module(fit: Fit, value: Any, live: torch.nn.Module, path: str) -> Any:
    """A state dict into a module: every tensor of either side must be one of the other's."""
    module = torch_module.MODULE.inside(live)
    if not isinstance(value, Mapping):
        fit.differ(path, describe(value), "a module, which takes a state dict")
        return live
    found = torch_module.saved_tensors(module)
    stored = _without_prefix(value, found)
    if stored is not value:
        fit.notes.append(f"{path}: names begin with the name of a wrapper, which was left out")
    for name, part in stored.items():
        where = join(path, str(name))
        if fit.is_skipped(where):
            continue
        if name not in found:
            fit.differ(where, _words(part), "no tensor of this name")
        else:
            fit_tensor(fit, part, found[name], where)
    for name, tensor in found.items():
        if name not in stored and not fit.is_skipped(join(path, name)):
            fit.differ(join(path, name), "no tensor of this name", torch_values.describe(tensor))
    return live


def _without_prefix(
    value: Mapping[Any, Any], found: Mapping[str, torch.Tensor]
) -> Mapping[Any, Any]:
    """A state dict by the names of the module inside, if it has those of a wrapper."""
    names = prefixes.aligned(map(str, value), found)
    if all(names[str(name)] == name for name in value):
        return value
    return {names[str(name)]: part for name, part in value.items()}


def fit_tensor(fit: Fit, value: Any, live: torch.Tensor, path: str) -> Any:
    """An array into a tensor of its shape and type, on whatever device that is."""
    if not isinstance(value, np.ndarray):
        fit.differ(path, describe(value), f"a tensor {torch_values.describe(live)}")
        return live
    source = _tensor(value)
    if torch.nn.parameter.is_lazy(live):
        fit.differ(path, _words(value), "a lazy parameter; run one forward pass first")
    elif source is None or source.shape != live.shape or source.dtype != live.dtype:
        fit.differ(path, _words(value), torch_values.describe(live))
    else:
        fit.later(functools.partial(_copy, live, source))
    return live


def fit_generator(fit: Fit, value: Any, live: torch.Generator, path: str) -> Any:
    """A generator's state, as `get_state` gives it."""
    state = live.get_state()
    if not isinstance(value, np.ndarray) or value.shape != tuple(state.shape):
        fit.differ(path, describe(value), f"the state of a generator, {plural(len(state), 'byte')}")
        return live
    fit.later(lambda: live.set_state(torch.from_numpy(value.astype(np.uint8))) and None)
    return live


def fit_device(fit: Fit, value: Any, live: torch.device, path: str) -> Any:
    """Where a live object is, the program says; a file does not move it."""
    if not isinstance(value, (str, Mapping)):
        fit.differ(path, describe(value), f"the device {live}")
    return live


def _copy(live: torch.Tensor, source: torch.Tensor) -> None:
    with torch.no_grad():
        live.copy_(source)


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor | None:
    """The tensor of an array, in memory of torch's own; None where torch has no such type."""
    if array.ctypes.data % arrays.ALIGNMENT:
        array = arrays.aligned_copy(array, arrays.ALIGNMENT)
    found = torch_values.convert(array, {}, None)
    return found if isinstance(found, torch.Tensor) else None


def _words(value: Any) -> str:
    tensor = _tensor(value) if isinstance(value, np.ndarray) else None
    return describe(value) if tensor is None else torch_values.describe(tensor)


# --------------------------------------------------------------------------- optimizers


def fit_optimizer(fit: Fit, value: Any, live: torch.optim.Optimizer, path: str) -> Any:
    """The state dict of an optimizer into one with the same groups of parameters."""
    content = value if isinstance(value, Mapping) else {}
    groups, states = content.get("param_groups"), content.get("state")
    if not _are_mappings(groups) or not isinstance(states, Mapping):
        fit.differ(path, describe(value), "an optimizer, which takes its state dict")
        return live
    sizes = [len(group.get("params", ())) for group in groups]
    found = [len(group["params"]) for group in live.param_groups]
    if sizes != found:
        fit.differ(
            join(path, "param_groups"),
            f"{plural(len(sizes), 'group')} of {sizes} parameters",
            f"{plural(len(found), 'group')} of {found}",
        )
        return live
    options = [
        _options(fit, group, live.param_groups[index], join(path, f"param_groups.{index}"))
        for index, group in enumerate(groups)
    ]
    identifiers = [identifier for group in groups for identifier in group["params"]]
    parameters = [parameter for group in live.param_groups for parameter in group["params"]]
    unknown = [key for key in states if key not in set(identifiers)]
    for key in unknown:
        fit.differ(join(path, f"state.{key}"), "state of a parameter", "no such parameter")
    filled = {}
    for index, identifier in enumerate(identifiers):
        if identifier in states:
            where = join(path, f"state.{identifier}")
            present = live.state.get(parameters[index], {})
            filled[index] = _state(fit, states[identifier], parameters[index], present, where)
    places = iter(range(len(identifiers)))
    for option, size in zip(options, sizes, strict=True):
        option["params"] = [next(places) for _ in range(size)]
    fit.later(lambda: live.load_state_dict({"state": filled, "param_groups": options}))
    return live


def _are_mappings(groups: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)


def _options(
    fit: Fit, stored: Mapping[str, Any], live: dict[str, Any], path: str
) -> dict[str, Any]:
    """Options of one group: those of the file, and the live ones that it does not tell of."""
    options = {key: value for key, value in live.items() if key != "params"}
    for key, value in stored.items():
        where = join(path, str(key))
        if key == "params" or fit.is_skipped(where):
            continue
        if key not in options:
            fit.differ(where, describe(value), "no such option")
        elif isinstance(value, np.ndarray):
            tensor = _tensor(value)
            options[key] = value if tensor is None else tensor.clone()
        elif _is_option(value):
            options[key] = value
        else:
            fit.differ(where, describe(value), describe(options[key]))
    told = [key for key in options if key not in stored and key != "initial_lr"]
    if told:
        fit.notes.append(f"{path}: the file does not tell of {', '.join(told)}, left as they are")
    return options


def _is_option(value: Any) -> bool:
    plain = (bool, int, float, str, np.generic)
    if isinstance(value, (list, tuple)):
        return all(_is_option(item) for item in value)
    return value is None or isinstance(value, plain)


def _state(
    fit: Fit, stored: Any, parameter: torch.Tensor, present: dict[str, Any], path: str
) -> dict[str, Any]:
    """The state of one parameter, its tensors in memory of their own; all of it, or the live one.

    Half of it would let the next step fail.
    """
    if not isinstance(stored, Mapping):
        fit.differ(path, describe(stored), "the state of a parameter, a dictionary")
    if not isinstance(stored, Mapping) or fit.is_skipped(path):
        return present
    state: dict[str, Any] = {}
    count = len(fit.differences)
    for key, value in stored.items():
        where = join(path, str(key))
        tensor = _tensor(value) if isinstance(value, np.ndarray) else None
        if fit.is_skipped(where):
            state |= {key: present[key]} if key in present else {}
        elif tensor is not None:
            if key in _LIKE_PARAMETERS and tensor.shape != parameter.shape:
                shapes = tuple(tensor.shape), tuple(parameter.shape)
                fit.differ(where, f"shape {shapes[0]}", f"a parameter of shape {shapes[1]}")
            state[key] = tensor.clone()
        elif _is_option(value):
            state[key] = value
        else:
            fit.differ(where, describe(value), "a tensor or a number")
    return state if len(fit.differences) == count else present

"""Policies of Metta in files of torch: records of 2025, the dictionaries of its guide, raw modules.

`v1` is a pickled `PolicyRecord` with a whole module in it. `v2` is a dictionary: `standard` with a
state dict, `training` with a whole module, `minimal` for production with three items. Beside these
stand raw modules and raw state dicts, which Metta's store opened too. Any of them may be compressed
as a whole. Source: Metta at 97cc14cdd6, ad2eb4277e (`metta/agent/saving_guide.md`), 5eb9839a3a.
"""

from __future__ import annotations

import numbers
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle.errors import FormatError, UnsupportedError
from rekindle.formats import (
    inert,
    omegaconf_records,
    recorded_spaces,
    torch_files,
    torch_modules,
    torch_writing,
    wrappers,
)
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.formats.torch_files import Outline
from rekindle.limits import Budget
from rekindle.state import Record

VERSION = "checkpoint_format_version"
_STANDARD = (
    "model_state_dict", "model_type", "name", "uri", "metadata", "observation_space_version",
    "action_space_version", "layer_version", VERSION, "agent_attributes",
)  # fmt: skip
"""What a standard file holds, in its order."""
_MINIMAL = {"model_state_dict", "action_names", "model_config"}
_STATE_DICTS = ("components.", "_sequential_network.")
"""How all names begin in the state dict of a policy of Metta."""
_MODULES = ("metta.agent.", "agent.")
_MOST_MODULES = 10_000
"""Classes of more modules than these are not listed; no policy has as many."""
_POLICIES = ("_policy", "_cached_policy")
_METADATA = ("metadata", "_metadata", "checkpoint")
NOT_HELD = {
    "optimizer": "a policy of Metta does not hold it; it is in trainer_state.pt of the same run",
    "env": "Metta does not save the state of its environments",
    "rng": "Metta does not save the generators that training draws from",
}


class MettaCheckpoint(Format):
    """`model_0006.pt`, `checkpoint.pt`, `production_model.pt`, by whatever name."""

    name = "metta.checkpoint"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch with what Metta puts into one."""
        outline = torch_files.outline_of(path)
        return None if outline is None else _layout(outline)[1]

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The state dict as `policy`, and everything beside it as `agent`.

        Of a whole module its state dict is taken. Configurations of OmegaConf become dictionaries.
        """
        budget = Budget(max_bytes, str(path))
        span = wrappers.of_file(path, budget)
        file = torch_files.read(span, budget)
        layout = _layout(torch_files.outline(span, budget))[0]
        notes = [Note(Kind.INERT, "agent", text) for text in file.notes]
        policy, agent, module = _parts(file.value, layout, path)
        details: dict[str, Any] = {"layout": layout}
        if module is not None:
            details |= _about(module)
            policy = torch_modules.state_dict(inner(module), file.tensors)
            text = f"a whole module of class {module.label[:200]}; its state dict was taken out"
            notes.append(Note(Kind.INERT, "policy", text))
        _check_policy(policy, path)
        agent, paths = omegaconf_records.plain(agent)
        notes += [
            Note(Kind.INERT, f"agent.{key}", "a configuration of OmegaConf, shown as a dictionary")
            for key in paths
        ]
        notes += inert.notes(agent, "agent")
        notes += [Note(Kind.ABSENT, name, text) for name, text in NOT_HELD.items()]
        components = {"policy": policy, "agent": agent} if agent else {"policy": policy}
        return Reading(
            format=self.name,
            kind="policy",
            components=components,
            **_told(agent),
            details=details,
            notes=tuple(notes),
            tensors=file.tensors,
        )

    def write(self, content: Reading, path: Path) -> None:
        """Write a standard file of version 2.

        `agent` gives the other items of the file; what it does not hold is None, as in Metta's own.

        Raises:
            UnsupportedError: There is no policy that is a state dict, a component that the file
                cannot hold, or a value in `agent` that is a record of an object.
        """
        check_components(content, path)
        agent = content.components.get("agent", {})
        if not isinstance(agent, Mapping):
            raise UnsupportedError(
                f"{path}: expected agent to be a dictionary, found {type(agent).__name__}.",
                path=path,
                key="agent",
            )
        items = dict.fromkeys(_STANDARD)
        items |= {"name": path.name, "metadata": _metadata(content), "agent_attributes": {}}
        items |= agent
        policy = content.components["policy"]
        state = OrderedDict(policy)
        vars(state).update(getattr(policy, "__dict__", {}))  # `_metadata`, as torch sets it
        items |= {"model_state_dict": state, VERSION: 2}
        torch_writing.save(path, items, content.tensors)


def _layout(outline: Outline) -> tuple[str, Confidence | None]:
    """Which of the layouts a file has, and how sure that is."""
    keys, label = outline.keys, outline.label
    if label.startswith(_MODULES):
        if label.endswith(":PolicyRecord"):
            return "record", Confidence.CERTAIN
        if {"_modules", "_parameters"} <= keys:
            is_sure = label.startswith("metta.") or label.endswith(":MettaAgent")
            return "module", Confidence.CERTAIN if is_sure else Confidence.LAYOUT
    if {VERSION, "model_type"} <= keys:
        if "model_state_dict" in keys:
            return "standard", Confidence.CERTAIN
        if "model" in keys:
            return "training", Confidence.CERTAIN
    if keys >= _MINIMAL or keys == {"model_state_dict", "action_names"}:
        return "minimal", Confidence.LAYOUT
    if keys and all(key.startswith(_STATE_DICTS) for key in keys):
        return "state_dict", Confidence.LAYOUT
    return "", None


def _parts(value: Any, layout: str, path: Path) -> tuple[Any, dict[str, Any], Record | None]:
    """The state dict, everything beside it, and the whole module if there is one."""
    if layout == "state_dict":
        return value, {}, None
    if layout == "module":
        return None, {}, _module(value, path)
    if not layout or not isinstance(value, Mapping):
        raise FormatError(
            f"{path}: expected a policy of Metta: a PolicyRecord, a dictionary with "
            "model_state_dict or model, or a module; found another file of torch. Read it as the "
            "format torch.",
            path=path,
        )
    rest = dict(value)
    if layout == "record":
        key = next((name for name in _POLICIES if rest.get(name) is not None), None)
        if key is None:
            raise FormatError(
                f"{path}: expected a record with its policy, found one without.",
                path=path,
                key=_POLICIES[0],
            )
        module = _module(rest.pop(key), path)
        for name in _METADATA:
            pairs = getattr(rest.get(name), "pairs", None)
            if isinstance(rest.get(name), Record) and isinstance(pairs, dict):
                rest[name] = pairs
        return None, rest, module
    if layout == "training":
        return None, rest, _module(rest.pop("model"), path)
    return rest.pop("model_state_dict"), rest, None


def _module(value: Any, path: Path) -> Record:
    if not torch_modules.is_module(value):
        raise FormatError(
            f"{path}: expected a module of torch as policy, found {_words(value)}.",
            path=path,
            key="policy",
        )
    return value


def _words(value: Any) -> str:
    return f"a record of {value.label[:200]}" if isinstance(value, Record) else type(value).__name__


def inner(module: Record) -> Record:
    """The module whose names are those of `state_dict()`: `MettaAgent` gives those of its model."""
    model = module["_modules"].get("model") if module.label.endswith(":MettaAgent") else None
    return model if isinstance(model, Record) and torch_modules.is_module(model) else module


def _about(module: Record) -> dict[str, Any]:
    """The classes of a module and of those inside it, and the plain values that it holds."""
    classes: dict[str, str] = {}
    pending: list[tuple[str, Any, frozenset[int]]] = [("", inner(module), frozenset())]
    while pending and len(classes) < _MOST_MODULES:
        name, part, above = pending.pop()
        if id(part) in above or not torch_modules.is_module(part):
            continue
        classes[name] = part.label
        above |= {id(part)}
        modules = part.get("_modules") or {}
        prefix = f"{name}." if name else ""
        pending += [(f"{prefix}{key}", child, above) for key, child in reversed([*modules.items()])]
    plain = (bool, int, float, str, type(None))
    attributes = {
        key: value
        for key, value in inner(module).items()
        if type(value) in plain and not key.startswith("_") and key != "training"
    }
    return {"class": module.label, "classes": classes, "attributes": attributes}


def _check_policy(policy: Any, path: Path) -> None:
    """Refuse what is no state dict: arrays by name."""
    if not isinstance(policy, Mapping) or not policy:
        raise FormatError(
            f"{path}: expected a state dict as policy, found {_words(policy)}.",
            path=path,
            key="policy",
        )
    for key, value in policy.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise FormatError(
                f"{path}: policy/{str(key)[:200]}: expected a tensor, found {_words(value)}.",
                path=path,
                key=f"policy/{str(key)[:200]}",
            )


# --------------------------------------------------------------------------- what is said of it


def _told(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Step, counters, metrics and spaces, as far as the file tells them."""
    metadata = next((agent[key] for key in _METADATA if isinstance(agent.get(key), Mapping)), {})
    attributes = agent.get("agent_attributes")
    attributes = attributes if isinstance(attributes, Mapping) else {}
    spaces: dict[str, Any] = {}
    for name in ("observation", "action"):
        key = f"{name}_space"
        found = recorded_spaces.describe(metadata.get(key, attributes.get(key)))
        if found is not None:
            spaces[name] = found
    return {**progress(metadata), "metrics": _metrics(metadata), "spaces": spaces}


def progress(items: Mapping[str, Any]) -> dict[str, Any]:
    """Step and counters, from items that Metta names so."""
    step, epoch = items.get("agent_step"), items.get("epoch")
    return {
        "step": step if type(step) is int and step >= 0 else None,
        "counters": {"epochs": epoch} if type(epoch) is int and epoch >= 0 else {},
    }


def _metrics(metadata: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    scores = metadata.get("eval_scores")
    named = scores if isinstance(scores, Mapping) else {}
    for key, value in {"score": metadata.get("score"), **named}.items():
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            found[str(key)] = float(value)
    return found


def _metadata(content: Reading) -> dict[str, Any]:
    """Metadata for a policy that another library trained."""
    found: dict[str, Any] = {}
    if content.step is not None:
        found["agent_step"] = content.step
    if "epochs" in content.counters:
        found["epoch"] = content.counters["epochs"]
    return found


def check_components(content: Reading, path: Path, *, also: tuple[str, ...] = ()) -> None:
    """Refuse what a policy of Metta cannot hold.

    Args:
        content: What is to be written.
        path: Where.
        also: Components that there may be beside `policy` and `agent`.

    Raises:
        UnsupportedError: There is no state dict as policy, or another component than `agent`.
    """
    refusals = [
        (name, "a policy of Metta cannot hold it")
        for name in content.components
        if name not in ("policy", "agent", *also)
    ]
    policy = content.components.get("policy")
    is_state_dict = isinstance(policy, Mapping) and all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in policy.items()
    )
    if not policy or not is_state_dict:
        found = "none" if not policy else "something else"
        refusals.append(("policy", f"expected arrays by name, found {found}"))
    if refusals:
        shown = "; ".join(f"{key}: {reason}" for key, reason in refusals)
        raise UnsupportedError(
            f"{path}: expected what a policy of Metta holds, found {shown}. Choose with "
            "components=.",
            path=path,
            key=refusals[0][0],
            refusals=refusals,
        )


FORMAT = MettaCheckpoint()

"""The ZIP archive of `BaseAlgorithm.save` of Stable-Baselines3 and its contrib, 1.8 to 2.9.

Its `data` is JSON in which values that JSON cannot hold are pickled by cloudpickle; they are read
as data, and functions and classes in them stay records. Networks and optimizers are files of torch
inside the archive, mapped where they lie. Source: SB3 2.9, `common/save_util.py`.
"""

from __future__ import annotations

import base64
import binascii
import collections
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files, spans
from rekindle.archive import NewArchive
from rekindle.errors import FormatError, RekindleError, UnsupportedError
from rekindle.formats import (
    inert,
    known_objects,
    recorded_spaces,
    sb3_values,
    schedules,
    torch_files,
    torch_writing,
)
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.spans import Span
from rekindle.tensors import Tensors
from rekindle.zips import Zip, is_zip

VERSION = "_stable_baselines3_version"
_DATA, _VARIABLES, _POLICY, _SYSTEM = (
    "data",
    "pytorch_variables.pth",
    "policy.pth",
    "system_info.txt",
)
_OPTIMIZER = re.compile(r"(\w[\w.]*?)\.optimizer\.pth|(\w+_optimizer)\.pth", re.ASCII)
_SERIALIZED = sb3_values.SERIALIZED
_SCHEDULES = ("lr_schedule", "clip_range", "clip_range_vf", "exploration_schedule", "learning_rate")
_SHOWN = {
    "OS": "platform", "Python": "python", "Stable-Baselines3": "stable_baselines3",
    "PyTorch": "torch", "Numpy": "numpy", "Cloudpickle": "cloudpickle", "Gymnasium": "gymnasium",
    "OpenAI Gym": "gym",
}  # fmt: skip
_LIBRARIES = {name.lower(): key for name, key in _SHOWN.items()}
_WRITTEN_FOR = "2.9.2"
_NEEDED = ("policy_class", "observation_space", "action_space")
_VARIABLES_OF_SB3 = ("log_ent_coef", "ent_coef_tensor")
_MADE_ANEW = (
    "policy", "actor", "actor_target", "critic", "critic_target", "q_net", "q_net_target",
    "quantile_net", "quantile_net_target", "ent_coef_optimizer", "device", "env", "replay_buffer",
    "rollout_buffer", "_vec_normalize_env", "_logger", "_custom_logger", "_episode_storage",
    "_last_lstm_states",
)  # fmt: skip
"""Attributes that `_excluded_save_params` of SB3's algorithms name, and aliases of networks."""
_DISPENSABLE = (
    *_MADE_ANEW, "lr_schedule", "exploration_schedule", "batch_norm_stats",
    "batch_norm_stats_target", "_last_obs", "_last_original_obs", "_last_episode_starts",
    "ep_info_buffer", "ep_success_buffer", "tensorboard_log", "start_time",
)  # fmt: skip
"""Attributes without which a model is the same: SB3 makes them anew from the others."""
_NOT_HELD = {
    "replay_buffer": "a model of Stable-Baselines3 does not hold it; it may be a file beside it",
    "normalizer": "a model of Stable-Baselines3 does not hold it; it may be a file beside it",
    "env": "a model of Stable-Baselines3 does not hold the state of its environment",
    "rng": "a model of Stable-Baselines3 does not hold the generators that training draws from",
}


class Model(Format):
    """`model.zip`, by whatever name."""

    name = "sb3.model"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """An archive with SB3's version beside its data."""
        try:
            archive = _archive(path, SNIFF_BYTES)[0]
        except RekindleError:
            return None
        if _DATA in archive and (VERSION in archive or _POLICY in archive):
            return Confidence.CERTAIN if VERSION in archive else Confidence.LAYOUT
        return None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Policy, optimizers, and everything else of the algorithm as `agent`."""
        archive, budget = _archive(path, max_bytes)
        if _DATA not in archive:
            raise FormatError(
                f"{path}: expected a model of Stable-Baselines3, with a member `data`, found "
                f"{', '.join(list(archive)[:5]) or 'no members'}.",
                path=path,
            )
        tensors = Tensors()
        notes: list[Note] = []
        components: dict[str, Any] = {}
        agent, entries = _data(archive.span(_DATA), budget, tensors, notes)
        members: dict[str, str] = {}
        variables: list[str] = []
        for member in archive:
            component = _component(member)
            if component is None:
                continue
            file = torch_files.read(archive.span(member, is_array=True), budget, tensors=tensors)
            notes += [Note(Kind.INERT, component, text) for text in file.notes]
            notes += inert.notes(file.value, component)
            if component == "agent":
                found = _mapping(file.value, f"{path}:{member}")
                variables += found
                agent.update(found)
            else:
                components[component] = file.value
                members[component] = member
        components["agent"] = agent
        notes += inert.notes(agent, "agent")
        notes += _absent(components)
        return Reading(
            format=self.name,
            components=components,
            version=_text(archive, VERSION),
            step=_count(agent.get("num_timesteps")),
            counters=_counters(agent),
            spaces=_spaces(agent),
            environment=environment(_text(archive, _SYSTEM) or "", _text(archive, VERSION)),
            details={
                "entries": entries,
                "members": members,
                "variables": variables,
                "system_info": _text(archive, _SYSTEM) or "",
            },
            notes=tuple(notes),
            tensors=tensors,
        )

    def fitted(self, content: Reading) -> Reading:
        """Without attributes that SB3 does not save, such as networks and the environment."""
        agent = content.components.get("agent")
        if "entries" in content.details or not isinstance(agent, Mapping):
            return content
        kept = {name: value for name, value in agent.items() if name not in _MADE_ANEW}
        return replace(content, components={**content.components, "agent": kept})

    def write(self, content: Reading, path: Path) -> None:
        """Write an archive that `load` of the algorithm's class opens.

        Entries of `data` that cloudpickle wrote, and that still have the value that was read, are
        carried as they were. All others are written anew: plain values, arrays, and objects and
        classes of SB3's own.

        Raises:
            UnsupportedError: A component that a model does not hold, or what it cannot be without;
                or a function or class of the program's own, which only a running program can give.
            AlreadyExistsError: Something is at the path.
        """
        content = self.fitted(content)
        agent = _check(content, path)
        data = sb3_values.dumps(_entries(content, agent, path))
        with files.new_file(path) as temporary:
            _write(content, agent, data, temporary, path)


def _archive(path: Path, max_bytes: int | None) -> tuple[Zip, Budget]:
    span = spans.of_file(path)
    budget = Budget(max_bytes, span.name)
    if not is_zip(span):
        raise FormatError(f"{path}: expected a ZIP archive, found other bytes.", path=path)
    return Zip(span, budget), budget


def _component(member: str) -> str | None:
    """The component that a member holds; None for what holds none."""
    if member == _POLICY:
        return "policy"
    if member == _VARIABLES:
        return "agent"
    match = _OPTIMIZER.fullmatch(member)
    if match is None:
        return None
    if match[2]:
        return match[2]
    name = match[1].replace(".", "_")
    return "optimizer" if name == "policy" else f"{name}_optimizer"


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(
            f"{name}: expected a dictionary of tensors, found {type(value).__name__}.", path=name
        )
    return value


def _text(archive: Zip, member: str) -> str | None:
    if member not in archive:
        return None
    return archive.span(member).bytes().decode("utf-8", "replace").strip()


# --------------------------------------------------------------------------- the JSON of attributes


def _data(
    span: Span, budget: Budget, tensors: Tensors, notes: list[Note]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of the algorithm, with what was pickled read as data; and that as it was."""
    budget.charge(32 * len(span))
    try:
        # Python's own reader: SB3 writes with it, and so NaN and Infinity as they are.
        content = json.loads(span.bytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{span.name}: expected JSON ({error}).", path=span.name) from error
    found: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    for key, value in _mapping(content, span.name).items():
        found[key] = value
        if isinstance(value, dict) and _SERIALIZED in value:
            entries[key] = value
            found[key] = _unpickled(value, f"{span.name}:{key}", key, budget, tensors, notes)
    return found, entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that stands twice in one object")
    return found


def _unpickled(
    entry: Mapping[str, Any],
    name: str,
    key: str,
    budget: Budget,
    tensors: Tensors,
    notes: list[Note],
) -> Any:
    """The value of a pickled entry, as data."""
    try:
        text = entry[_SERIALIZED]
        budget.charge(len(text))
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise FormatError(f"{name}: expected base64 ({error}).", path=name) from error
    found = torch_files.read_pickle(spans.of_bytes(data, name), budget, tensors=tensors)
    notes += [Note(Kind.INERT, f"agent.{key}", text) for text in found.notes]
    value = found.value
    return (schedules.recognise(value) or value) if key in _SCHEDULES else value


# --------------------------------------------------------------------------- what is said of it


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _counters(agent: Mapping[str, Any]) -> dict[str, int]:
    names = {"updates": "_n_updates", "episodes": "_episode_num"}
    return {name: agent[key] for name, key in names.items() if _count(agent.get(key)) is not None}


def _spaces(agent: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        name: recorded_spaces.describe(agent.get(f"{name}_space"))
        for name in ("observation", "action")
    }
    return {name: found for name, found in described.items() if found is not None}


def environment(text: str, version: str | None) -> dict[str, str]:
    """Versions of libraries from `system_info.txt`: one `- name: version` a line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.lstrip("- ").partition(":")
        key = _LIBRARIES.get(name.strip().lower())
        if separator and key is not None:
            found[key] = value.strip()
    if version:
        found.setdefault("stable_baselines3", version)
    return found


def _absent(components: Mapping[str, Any]) -> list[Note]:
    return [
        Note(Kind.ABSENT, name, text) for name, text in _NOT_HELD.items() if name not in components
    ]


# --------------------------------------------------------------------------- writing


def _member(component: str, content: Reading) -> str:
    """The member of the archive that a network or optimizer goes into."""
    members = content.details.get("members", {})
    if component in members:
        return members[component]
    if component in ("policy", "ent_coef_optimizer"):
        return f"{component}.pth"
    stem = component.removesuffix("optimizer").rstrip("_")
    return f"{stem or 'policy'}.optimizer.pth"


def _check(content: Reading, path: Path) -> dict[str, Any]:
    """The attributes to write; refuse what a model cannot hold, and what it cannot be without."""
    components = content.components
    agent = components.get("agent")
    needed = [name for name in _NEEDED if not isinstance(agent, Mapping) or name not in agent]
    if not isinstance(components.get("policy"), Mapping) or needed:
        found = ", ".join(components) or "nothing"
        raise UnsupportedError(
            f"{path}: expected the components policy and agent of a model of Stable-Baselines3, "
            f"with {', '.join(_NEEDED)} in agent, found {found}, without "
            f"{', '.join(needed) or 'a policy'}. Convert a checkpoint that rekindle.sb3 wrote.",
            path=path,
            key="agent",
        )
    assert isinstance(agent, Mapping)
    refusals: list[tuple[str, str]] = []
    for name, value in components.items():
        if name not in ("policy", "agent") and not name.endswith("optimizer"):
            refusals.append((name, _NOT_HELD.get(name, "a model of SB3 has no place for it")))
        elif not isinstance(value, Mapping):
            refusals.append((name, f"expected values by name, found {type(value).__name__}"))
    if refusals:
        listed = "\n".join(f"  {key}: {reason}" for key, reason in refusals)
        raise UnsupportedError(
            f"{path}: expected what a model of Stable-Baselines3 holds, found more:\n{listed}\n"
            "Leave it out, or choose another format.",
            path=path,
            refusals=refusals,
        )
    return dict(agent)


def _variables(content: Reading, agent: Mapping[str, Any]) -> list[str]:
    """Names of the attributes that are tensors outside of networks."""
    told = content.details.get("variables", _VARIABLES_OF_SB3)
    return [name for name in told if isinstance(agent.get(name), np.ndarray)]


def _entries(content: Reading, agent: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries of `data`, by name."""
    carried = content.details.get("entries", {})
    variables = _variables(content, agent)
    found: dict[str, Any] = {}
    refusals: list[tuple[str, str]] = []
    for key, value in agent.items():
        if key in variables:
            continue
        if key in carried and _is_as_read(carried[key], key, value):
            found[key] = carried[key]
            continue
        try:
            found[key] = sb3_values.entry(_meant(key, value, content), f"agent.{key}", str(path))
        except UnsupportedError as error:
            refusals += error.refusals or [(f"agent.{key}", str(error))]
    if refusals:
        listed = "\n".join(f"  {key}: {reason}" for key, reason in refusals)
        raise UnsupportedError(
            f"{path}: expected values that a file of Stable-Baselines3 can hold without the "
            f"program that made them, found others:\n{listed}\n"
            "Give them back to a live model, and let that write: rekindle.sb3.load(checkpoint, "
            "classes=[...], learning_rate=...).save(path).",
            path=path,
            key=refusals[0][0],
            # What the model means something else without is not to be left out in silence.
            refusals=() if any(_is_meant(key) for key, _ in refusals) else refusals,
        )
    # `load` asks for it where an environment is given.
    return {"verbose": 0, **found} if "entries" not in content.details else found


def _is_meant(key: str) -> bool:
    """Whether a refused place is in an attribute that says what the model is."""
    return key.split(".")[1].partition("[")[0] not in _DISPENSABLE


def _is_as_read(entry: Any, key: str, value: Any) -> bool:
    """Whether a pickled entry still says what the attribute is."""
    if not isinstance(entry, Mapping) or _SERIALIZED not in entry:
        return False
    return sb3_values.same(_unpickled(entry, key, key, Budget(name=key), Tensors(), []), value)


def _meant(key: str, value: Any, content: Reading) -> Any:
    """An attribute as SB3 holds it, where a checkpoint or a reading holds it in another way."""
    if key.endswith("_space"):
        return sb3_values.space(value)
    is_schedule = isinstance(value, (schedules.Constant, schedules.Linear))
    if is_schedule and key != "exploration_schedule":
        return sb3_values.schedule(value)
    if isinstance(value, np.ndarray) and key == "weights":
        tensor = content.tensors.of(value)
        return known_objects.tensor(value, "float32" if tensor is None else tensor.dtype)
    return value


def _write(
    content: Reading, agent: Mapping[str, Any], data: bytes, temporary: Path, path: Path
) -> None:
    """Write the archive; what is a file of torch in it is made beside it first."""
    names = _variables(content, agent)
    variables = {name: agent[name] for name in names}
    parts: dict[str, Any] = {_VARIABLES: variables}
    parts |= {
        _member(name, content): value
        for name, value in content.components.items()
        if name != "agent"
    }
    size = len(data) + sum(array.nbytes for array in torch_writing.arrays_in(parts))
    archive = NewArchive(temporary, size)
    try:
        archive.write(_DATA, data)
        for member, value in parts.items():
            with tempfile.TemporaryDirectory(dir=temporary.parent) as directory:
                part = Path(directory) / "archive.pth"
                torch_writing.write(
                    part,
                    collections.OrderedDict(value) if type(value) is dict and member == _POLICY
                    else value,
                    tensors=content.tensors,
                    also=torch_writing.ids(value),
                    name=f"{path}:{member}",
                )  # fmt: skip
                archive.link(part, member)
        version = content.version or content.environment.get("stable_baselines3") or _WRITTEN_FOR
        archive.write(VERSION, str(version).encode())
        archive.write(_SYSTEM, _system(content).encode())
        archive.close()
    except BaseException:
        archive.abandon()
        raise


def _system(content: Reading) -> str:
    """`system_info.txt`: what the versions of the libraries were."""
    text = content.details.get("system_info")
    if isinstance(text, str) and text:
        return text + "\n"
    named = {key: name for name, key in _SHOWN.items()}
    return "".join(
        f"- {named[key]}: {value}\n" for key, value in content.environment.items() if key in named
    )


FORMAT = Model()

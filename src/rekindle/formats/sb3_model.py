"""The ZIP archive of `BaseAlgorithm.save` of Stable-Baselines3 and its contrib, 1.8 to 2.9.

Its `data` is JSON in which values that JSON cannot hold are pickled by cloudpickle; they are read
as data, and functions and classes in them stay records. Networks and optimizers are files of torch
inside the archive, mapped where they lie. Source: SB3 2.9, `common/save_util.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle import spans
from rekindle.errors import FormatError, RekindleError
from rekindle.formats import inert, recorded_spaces, schedules, torch_files
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
_SERIALIZED = ":serialized:"
_SCHEDULES = ("lr_schedule", "clip_range", "clip_range_vf", "exploration_schedule", "learning_rate")
_LIBRARIES = {
    "python": "python", "stable-baselines3": "stable_baselines3", "pytorch": "torch",
    "numpy": "numpy", "gymnasium": "gymnasium", "openai gym": "gym", "cloudpickle": "cloudpickle",
    "os": "platform",
}  # fmt: skip
_NOT_HELD = {
    "replay_buffer": "a model of Stable-Baselines3 does not hold it; it may be a file beside it",
    "normalizer": "a model of Stable-Baselines3 does not hold it; it may be a file beside it",
    "env": "a model of Stable-Baselines3 does not hold the state of its environment",
    "rng": "a model of Stable-Baselines3 does not hold the generators that training draws from",
}


class Model(Format):
    """`model.zip`, by whatever name."""

    name = "sb3.model"

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
        agent = _data(archive.span(_DATA), budget, tensors, notes)
        for member in archive:
            component = _component(member)
            if component is None:
                continue
            file = torch_files.read(archive.span(member, is_array=True), budget, tensors=tensors)
            notes += [Note(Kind.INERT, component, text) for text in file.notes]
            notes += inert.notes(file.value, component)
            if component == "agent":
                agent.update(_mapping(file.value, f"{path}:{member}"))
            else:
                components[component] = file.value
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
            notes=tuple(notes),
            tensors=tensors,
        )


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


def _data(span: Span, budget: Budget, tensors: Tensors, notes: list[Note]) -> dict[str, Any]:
    """The attributes of the algorithm, with what was pickled read as data."""
    budget.charge(32 * len(span))
    try:
        # Python's own reader: SB3 writes with it, and so NaN and Infinity as they are.
        content = json.loads(span.bytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{span.name}: expected JSON ({error}).", path=span.name) from error
    found: dict[str, Any] = {}
    for key, value in _mapping(content, span.name).items():
        if isinstance(value, dict) and _SERIALIZED in value:
            value = _unpickled(value[_SERIALIZED], f"{span.name}:{key}", budget, tensors, notes)
        if key in _SCHEDULES and not isinstance(value, (int, float)):
            value = schedules.recognise(value) or value
        found[key] = value
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that stands twice in one object")
    return found


def _unpickled(text: Any, name: str, budget: Budget, tensors: Tensors, notes: list[Note]) -> Any:
    try:
        budget.charge(len(text))
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise FormatError(f"{name}: expected base64 ({error}).", path=name) from error
    found = torch_files.read_pickle(spans.of_bytes(data, name), budget, tensors=tensors)
    notes += [Note(Kind.INERT, f"agent.{name.rpartition(':')[2]}", text) for text in found.notes]
    return found.value


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


FORMAT = Model()

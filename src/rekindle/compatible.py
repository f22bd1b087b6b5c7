"""Whether a checkpoint fits what a program has: `rekindle.compatibility`. Nothing is changed."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import blocks, prefixes, provenance, registry, spaces
from rekindle.bundle import described_spaces
from rekindle.checkpoint import Checkpoint
from rekindle.errors import Difference, NotFoundError, UnsupportedError
from rekindle.files import PathLike
from rekindle.foreign import ForeignCheckpoint
from rekindle.match import Match
from rekindle.opening import open_any
from rekindle.reader import Reader, malformed
from rekindle.report import Shown, columns, plural
from rekindle.state import Reference, tag_of

_Opened = Checkpoint | ForeignCheckpoint
_Arrays = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each array, by name."""

_NONE = "none"
_SHOWN = 20


class Level(enum.StrEnum):
    """How much of a checkpoint a target can take."""

    FULL = "full"
    """All of it: at most versions of libraries differ."""
    PARTIAL = "partial"
    """Some of it: `restore(..., strict=False)` would put back what fits."""
    NONE = "none"
    """Nothing."""


class Kind(enum.StrEnum):
    """What a mismatch is about."""

    ALGORITHM = "algorithm"
    SPACE = "space"
    ACTIONS = "action names"
    COMPONENT = "component"
    MISSING = "missing"
    """An array that the checkpoint holds and the target lacks."""
    EXTRA = "extra"
    """An array that the target has and the checkpoint lacks."""
    SHAPE = "shape"
    DTYPE = "dtype"
    STATE = "state"
    """Something else that `restore` would refuse."""
    VERSION = "version"


_ORDER = {kind: number for number, kind in enumerate(Kind)}


@dataclass(frozen=True)
class Mismatch(Difference):
    """One place where a checkpoint (`expected`) and a target (`found`) do not agree."""

    kind: Kind = Kind.STATE


@dataclass(frozen=True, repr=False, kw_only=True)
class Compatibility(Shown):
    """Whether a checkpoint fits a target, and every place where it does not."""

    path: str
    target: str
    """What it was held against, in words."""
    level: Level
    mismatches: tuple[Mismatch, ...] = ()
    num_fitting: int = 0
    """Arrays of the checkpoint that the target has a place for."""
    num_arrays: int = 0
    """Arrays of the checkpoint that were asked about."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "path": self.path,
            "target": self.target,
            "level": str(self.level),
            "fitting": self.num_fitting,
            "arrays": self.num_arrays,
            "mismatches": [vars(item) | {"kind": str(item.kind)} for item in self.mismatches],
        }

    def _text(self) -> str:
        count = f", {self.num_fitting:,} of {plural(self.num_arrays, 'array')} fit"
        head = f"{self.path} and {self.target}: {self.level}{count if self.num_arrays else ''}"
        rows = [(item.kind, item.key, item.expected, item.found) for item in self.mismatches]
        lines = [head]
        if rows:
            lines.append(columns([("", "where", "checkpoint", "target"), *rows[:_SHOWN]]))
        if len(rows) > _SHOWN:
            lines.append(f"  ... and {len(rows) - _SHOWN:,} more")
        return "\n".join(lines)


def compatibility(
    path: PathLike, target: Any, *, component: str | None = None, format: str | None = None
) -> Compatibility:
    """Say how much of a checkpoint a target could take, without changing anything.

    Args:
        path: A checkpoint of any known format, or a run (its newest checkpoint).
        target: A module of torch, a model of Stable-Baselines3, a dictionary of live components by
            name, an environment (its spaces are compared), or the path of another checkpoint.
        component: Which component a module is held against: `policy` when left out, or the only
            one with arrays, or `agent`.
        format: The name of the checkpoint's format, where its content could be of two.

    Returns:
        The level, and every mismatch: spaces, names of actions, arrays, algorithm, versions.

    Raises:
        NotFoundError: Nothing is at `path`, or it lacks the component.
        UnsupportedError: The target is something else.
    """
    found = _Found(open_any(path, format))
    if isinstance(target, str | Path):
        words = found.checkpoint(open_any(target))
    elif isinstance(target, Mapping):
        words = found.components(target)
    elif _is(target, "torch.nn.modules.module.Module"):
        words = found.module(target, component)
    elif _is(target, "stable_baselines3.common.base_class.BaseAlgorithm"):
        words = found.model(target)
    elif hasattr(target, "observation_space") and hasattr(target, "action_space"):
        words = found.environment(target)
    else:
        raise UnsupportedError(
            "expected a module of torch, a model of Stable-Baselines3, a dictionary of "
            f"components, an environment or a path, found {type(target).__name__}. "
            "Pass its components as a dictionary."
        )
    return found.result(str(path), words)


class _Found:
    """What holding one checkpoint against a target has found so far."""

    def __init__(self, opened: _Opened) -> None:
        self._opened = opened
        self._mismatches: list[Mismatch] = []
        self._num_fitting = 0
        self._num_arrays = 0
        self._num_states = 0

    def result(self, path: str, target: str) -> Compatibility:
        """All of it, with its level."""
        graver = [item for item in self._mismatches if item.kind != Kind.VERSION]
        if not graver:
            level = Level.FULL
        elif self._num_fitting or self._num_states or self._is_close(graver):
            level = Level.PARTIAL
        else:
            level = Level.NONE
        return Compatibility(
            path=path,
            target=target,
            level=level,
            mismatches=tuple(sorted(self._mismatches, key=lambda item: _ORDER[item.kind])),
            num_fitting=self._num_fitting,
            num_arrays=self._num_arrays,
        )

    def _is_close(self, graver: Sequence[Mismatch]) -> bool:
        """Where no array was asked about: a policy still runs where only bounds are others."""
        bounds = (".low", ".high")
        soft = (Kind.ACTIONS, Kind.ALGORITHM)
        return self._num_arrays == 0 and all(
            item.kind in soft or (item.kind == Kind.SPACE and item.key.endswith(bounds))
            for item in graver
        )

    # ------------------------------------------------------------------ kinds of targets

    def checkpoint(self, other: _Opened) -> str:
        """Hold it against another checkpoint."""
        for name in self._opened:
            if name == "agent" and "policy" in self._opened and "policy" in other:
                continue  # weights are elsewhere: the rest is what `rekindle diff` is for
            if name in other:
                self._arrays(name, _stored(self._opened, name), _stored(other, name))
            else:
                self._differ(Kind.COMPONENT, name, "a component of this name", _NONE)
        for name in other:
            if name not in self._opened:
                self._differ(Kind.COMPONENT, name, _NONE, "a component of this name")
        self._spaces(_spaces(other))
        self._actions(_action_names(other))
        self._algorithm(_algorithm(other))
        here, there = _environment(self._opened), _environment(other)
        self._versions(provenance.differences(here, there))
        return str(other.path)

    def components(self, target: Mapping[str, Any]) -> str:
        """Hold it against live objects by the names of components."""
        rest: dict[str, Any] = {}
        for name, live in target.items():
            if name not in self._opened:
                self._differ(Kind.COMPONENT, name, _NONE, f"an object of {_class(live)}")
            elif _is(live, "torch.nn.modules.module.Module"):
                self._arrays(name, _stored(self._opened, name), _module_arrays(live))
            elif _is_state_dict(live):
                self._arrays(name, _stored(self._opened, name), _dict_arrays(live))
            else:
                rest[name] = live
        self._dry_run(rest, target)
        for live in target.values():
            self._environment_of(live)
        self._versions()
        return ", ".join(target) or "no components"

    def module(self, target: Any, component: str | None) -> str:
        """Hold one component against a module."""
        name = self._component(component)
        self._arrays(name, _stored(self._opened, name), _module_arrays(target))
        self._actions(_names_of(target))
        self._versions()
        return type(_inside(target)).__name__

    def model(self, target: Any) -> str:
        """Hold it against a model of Stable-Baselines3."""
        name = self._component(None)
        self._arrays(name, _stored(self._opened, name), _module_arrays(target.policy))
        self._environment_of(target)
        self._algorithm(type(target).__name__)
        self._versions()
        return type(target).__name__

    def environment(self, target: Any) -> str:
        """Hold its spaces against those of an environment."""
        if not _spaces(self._opened):
            raise UnsupportedError(
                f"{self._opened.path}: expected a checkpoint that tells of its spaces, found none. "
                "Compare it with a module instead.",
                path=self._opened.path,
            )
        self._environment_of(target)
        self._versions()
        return str(getattr(getattr(target, "spec", None), "id", type(target).__name__))

    # ------------------------------------------------------------------ what is compared

    def _differ(self, kind: Kind, key: str, expected: str, found: str) -> None:
        self._mismatches.append(Mismatch(key, expected, found, kind))

    def _component(self, name: str | None) -> str:
        """The component that weights are in."""
        held = list(self._opened)
        if name is None:
            holding = [part for part in held if _stored(self._opened, part)]
            usual = [part for part in ("policy", "agent") if part in holding]
            name = usual[0] if usual else holding[0] if len(holding) == 1 else "policy"
        if name not in held:
            raise NotFoundError(
                f"{self._opened.path}: expected a component {name!r}, found {', '.join(held)}. "
                "Name one with component=.",
                path=self._opened.path,
                key=name,
            )
        return name

    def _arrays(self, component: str, stored: _Arrays, live: _Arrays) -> None:
        names = prefixes.aligned(stored, live)
        self._num_arrays += len(stored)
        for name, (dtype, shape) in stored.items():
            key = f"{component}/{name}"
            there = live.get(names[name])
            words = f"{dtype} {shape}"
            if there is None:
                self._differ(Kind.MISSING, key, words, _NONE)
            elif there[1] != shape:
                self._differ(Kind.SHAPE, key, words, f"{there[0]} {there[1]}")
            elif there[0] != dtype:
                self._differ(Kind.DTYPE, key, words, f"{there[0]} {there[1]}")
            else:
                self._num_fitting += 1
        taken = set(names.values())
        for name, (dtype, shape) in live.items():
            if name not in taken:
                self._differ(Kind.EXTRA, f"{component}/{name}", _NONE, f"{dtype} {shape}")

    def _dry_run(self, rest: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """What `restore` would refuse, found as it finds it: by its first pass, and no second."""
        if not rest:
            return
        present = {name: live for name, live in target.items() if name in self._opened}
        for difference in _first_pass(self._opened, present):
            key = difference.key.replace("/", ".", 1)
            if any(key == name or key.startswith(f"{name}.") for name in rest):
                mismatch = (difference.key, difference.expected, difference.found)
                self._differ(Kind.STATE, *mismatch)
        failed = {item.key.replace("/", ".").partition(".")[0] for item in self._mismatches}
        self._num_states += sum(name not in failed for name in rest)

    def _environment_of(self, target: Any) -> None:
        """Spaces and names of actions of whatever has them."""
        self._spaces(described_spaces(target))
        self._actions(_names_of(target))

    def _spaces(self, found: Mapping[str, Any]) -> None:
        stored = _spaces(self._opened)
        for name in stored:
            if name in found:
                for item in spaces.differences(stored[name], found[name], name):
                    self._differ(Kind.SPACE, item.key, item.expected, item.found)

    def _actions(self, found: Sequence[str] | None) -> None:
        stored = _action_names(self._opened)
        if stored is None or found is None or list(stored) == list(found):
            return
        self._differ(Kind.ACTIONS, "action_names", ", ".join(stored), ", ".join(found))

    def _algorithm(self, found: str | None) -> None:
        stored = _algorithm(self._opened)
        if stored is not None and found is not None and stored.lower() != found.lower():
            self._differ(Kind.ALGORITHM, "algorithm", stored, found)

    def _versions(self, differences: Sequence[Difference] | None = None) -> None:
        if differences is None:
            stored = _environment(self._opened)
            differences = provenance.differences(stored, provenance.environment())
        libraries = (item for item in differences if item.key in _LIBRARIES)
        for item in libraries:
            self._differ(Kind.VERSION, item.key, item.expected, item.found)


_LIBRARIES = frozenset((*provenance.LIBRARIES, "python"))


# --------------------------------------------------------------------------- live objects


def _is(value: Any, name: str) -> bool:
    """Whether an object is of a class of some library, which is not imported to find out."""
    return any(f"{base.__module__}.{base.__qualname__}" == name for base in type(value).__mro__)


def _class(value: Any) -> str:
    return registry.label(type(value))


def _inside(module: Any) -> Any:
    adapter = registry.adapter_for(type(module))
    return module if adapter is None else adapter.inside(module)


def _module_arrays(module: Any) -> _Arrays:
    tensors: Callable[[Any], dict[str, Any]] = registry.load(
        "rekindle.adapters.torch_module:saved_tensors"
    )
    return _dict_arrays(tensors(_inside(module)))


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(hasattr(item, "shape") and hasattr(item, "dtype") for item in value.values())
    )


def _dict_arrays(state: Mapping[str, Any]) -> _Arrays:
    return {
        str(name): (_dtype(value.dtype), tuple(int(size) for size in value.shape))
        for name, value in state.items()
    }


def _dtype(dtype: Any) -> str:
    if isinstance(dtype, np.dtype):
        names = dtype.names or ()
        return names[0] if len(names) == 1 else dtype.name
    return str(dtype).removeprefix("torch.")


def _names_of(target: Any) -> Sequence[str] | None:
    """Names of actions of a live object, as Metta's environments have them."""
    inner = getattr(target, "unwrapped", target)
    names = getattr(inner, "action_names", None)
    names = names() if callable(names) else names
    return _texts(names)


def _texts(names: Any) -> Sequence[str] | None:
    are_texts = isinstance(names, list | tuple) and all(isinstance(item, str) for item in names)
    return names if are_texts else None


def _first_pass(opened: _Opened, components: Mapping[str, Any]) -> Sequence[Difference]:
    if isinstance(opened, ForeignCheckpoint):
        from rekindle import fitting  # readers of files are loaded when they are used

        fit = fitting.Fit(opened.reading.tensors)
        for name, live in components.items():
            fit.component(name, opened.reading.components[name], live)
        return fit.differences
    match = Match(Reader(opened.path, opened.manifest, verify=True), components)
    with malformed(opened.path):
        match.run()
    return match.differences


# --------------------------------------------------------------------------- checkpoints


def _stored(opened: _Opened, component: str) -> _Arrays:
    """Arrays of a component's state: gradients, which no state dict has, do not count."""
    if isinstance(opened, ForeignCheckpoint):
        return _dict_arrays(opened.arrays(component))
    document = opened.document(component)
    root = document.get("root")
    is_adapted = isinstance(root, dict) and tag_of(root) == "$adapter"
    apart: set[str] = set()
    for part in ("gradients", "buffers", "attributes", "parts"):
        apart.update(_names_below(root.get(part)) if is_adapted else ())
    found = blocks.named_arrays(opened.path, opened.manifest, component)
    return _dict_arrays({name: value for name, value in found.items() if name not in apart})


def _names_below(node: Any) -> Iterator[str]:
    """Short names of the arrays that a part of a document stores."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            name = item.get("name", item.get("$array"))
            if isinstance(name, str) and ("$array" in item or "$view" in item):
                yield name.partition("/")[2]
            else:
                waiting.extend(item.values())


def _spaces(opened: _Opened) -> Mapping[str, Any]:
    return opened.spaces if isinstance(opened, ForeignCheckpoint) else opened.manifest.spaces


def _environment(opened: _Opened) -> dict[str, Any]:
    if isinstance(opened, ForeignCheckpoint):
        return dict(opened.reading.environment)
    return dict(opened.manifest.environment)


def _agent(opened: _Opened) -> Any:
    """The component `agent` as plain data; its arrays are not read."""
    if "agent" not in opened:
        return None
    return opened["agent"]


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _action_names(opened: _Opened) -> Sequence[str] | None:
    agent = _agent(opened)
    for keys in (("action_names",), ("metadata", "action_names")):
        names = _texts(_at(agent, *keys))
        if names is not None:
            return names
    return None


def _algorithm(opened: _Opened) -> str | None:
    """The algorithm that a checkpoint names, where it names one."""
    if isinstance(opened, Checkpoint):
        record = opened.components.get("agent")
        if record is not None and record.adapter == "sb3.algorithm":
            root = opened.document("agent")["root"]
            return str(root.get("class", "")).rpartition(":")[2] or None
    agent = _agent(opened)
    for keys in (("config", "algorithm"), ("config", "agent")):
        if isinstance(_at(agent, *keys), str):
            return _at(agent, *keys)
    policy = _at(agent, "policy_class")
    parts = str(policy).partition(":")[0].split(".") if isinstance(policy, Reference) else []
    # `stable_baselines3.sac.policies`; what lies in `common` is of several algorithms.
    if len(parts) == 3 and parts[2] == "policies" and parts[1] != "common":
        return parts[1]
    return None

"""The files that Stable-Baselines3 writes beside a model: replay buffers, VecNormalize, policies.

Source: SB3 2.9, `common/save_util.py`, `common/buffers.py`, `vec_env/vec_normalize.py`,
`common/policies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files, spans
from rekindle.errors import FormatError, RekindleError, UnsupportedError
from rekindle.formats import (
    inert,
    known_objects,
    recorded_spaces,
    sb3_values,
    torch_files,
    wrappers,
)
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.pickles.machine import Machine
from rekindle.pickles.writing import Called, Name, Part
from rekindle.state import Record
from rekindle.tensors import Tensors

_BUFFERS = (
    "stable_baselines3.common.buffers:ReplayBuffer",
    "stable_baselines3.common.buffers:DictReplayBuffer",
    "stable_baselines3.her.her_replay_buffer:HerReplayBuffer",
)
_N_STEP = "stable_baselines3.common.buffers:NStepReplayBuffer"
_SETTINGS = ("ret_rms", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon",
             "training")  # fmt: skip
_NORMALIZER = "stable_baselines3.common.vec_env.vec_normalize:VecNormalize"
_STATISTICS = "stable_baselines3.common.running_mean_std:RunningMeanStd"
_ROWS = ("observations", "actions", "rewards", "dones")
_HEAD_BYTES = 4096
_SPACES = ("observation", "action")


def _first_label(path: Path) -> str | None:
    """The first name that a pickle mentions, which is the class of the object that it holds."""
    try:
        span = wrappers.head(path, _HEAD_BYTES)
    except RekindleError:
        return None
    if span.bytes(0, 1) != b"\x80":
        return None
    found = Machine(span, Budget(SNIFF_BYTES, span.name)).first_name()
    return None if found is None else found.label


def _object(path: Path, max_bytes: int | None) -> tuple[Record, Tensors, list[Note]]:
    """The one object of a pickle."""
    budget = Budget(max_bytes, str(path))
    tensors = Tensors()
    span = wrappers.of_file(path, budget)
    found = torch_files.read_pickle(span, budget, tensors=tensors)
    if not isinstance(found.value, Record):
        raise FormatError(
            f"{path}: expected a pickled object, found {type(found.value).__name__}.", path=path
        )
    return found.value, tensors, [Note(Kind.INERT, str(path), text) for text in found.notes]


def _described(fields: Mapping[str, Any]) -> dict[str, Any]:
    described = {name: recorded_spaces.describe(fields.get(f"{name}_space")) for name in _SPACES}
    return {name: found for name, found in described.items() if found is not None}


class ReplayBuffer(Format):
    """`replay_buffer.pkl`, of `save_replay_buffer` or of `CheckpointCallback`."""

    name = "sb3.replay_buffer"
    can_write = True
    only = "replay_buffer"

    def sniff(self, path: Path) -> Confidence | None:
        """A pickle of one of SB3's buffers, or of an object that is called one."""
        label = _first_label(path)
        if label in _BUFFERS:
            return Confidence.CERTAIN
        return Confidence.LAYOUT if label and label.endswith("ReplayBuffer") else None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The buffer's attributes; its arrays stay in the file."""
        record, tensors, notes = _object(path, max_bytes)
        missing = [name for name in _ROWS if name not in record]
        if missing:
            raise FormatError(
                f"{path}: expected a replay buffer with {', '.join(_ROWS)}, found none of "
                f"{', '.join(missing)} in an object of class {record.label[:200]}.",
                path=path,
                key=missing[0],
            )
        fields = dict(record)
        return Reading(
            format=self.name,
            components={"replay_buffer": fields},
            spaces=_described(fields),
            details={"class": record.label},
            notes=(*notes, *inert.notes(fields, "replay_buffer")),
            tensors=tensors,
        )

    def fitted(self, content: Reading) -> Reading:
        """A buffer with goals without its environment, and with infos of all its rows."""
        buffer = content.components.get(self.only)
        if not isinstance(buffer, Mapping):
            return content
        if not {"ep_length", "buffer_size", "n_envs"} <= buffer.keys():
            return content
        kept = {name: value for name, value in buffer.items() if name != "env"}
        kept["infos"] = _all_infos(kept)
        return replace(content, components={**content.components, self.only: kept})

    def write(self, content: Reading, path: Path) -> None:
        """Write a file that `load_replay_buffer` opens, with arrays straight from where they are.

        Raises:
            UnsupportedError: There are other components; or the buffer is of a class of the
                program's own, or holds values that only that could make.
            AlreadyExistsError: Something is at the path.
        """
        fields = _only(self.fitted(content), self.only, path)
        missing = [name for name in (*_ROWS, "buffer_size", "pos", "full") if name not in fields]
        if missing:
            raise UnsupportedError(
                f"{path}: expected a replay buffer of Stable-Baselines3, found one without "
                f"{', '.join(missing)}.",
                path=path,
                key="replay_buffer",
            )
        label = content.details.get("class") or _class_of(fields)
        _write(label, fields, "replay_buffer", path)


class Normalizer(Format):
    """`vecnormalize.pkl`, of `VecNormalize.save`."""

    name = "sb3.normalizer"
    can_write = True
    only = "normalizer"

    def sniff(self, path: Path) -> Confidence | None:
        """A pickle of a `VecNormalize`."""
        return Confidence.CERTAIN if _first_label(path) == _NORMALIZER else None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Its attributes, with running statistics as `mean`, `var` and `count`."""
        record, tensors, notes = _object(path, max_bytes)
        if record.label != _NORMALIZER:
            raise FormatError(
                f"{path}: expected a VecNormalize, found an object of class {record.label[:200]}.",
                path=path,
            )
        fields = {name: _statistics(value) for name, value in record.items()}
        absent = Note(
            Kind.ABSENT, "normalizer.returns", "VecNormalize does not save the running returns"
        )
        return Reading(
            format=self.name,
            kind="policy",
            components={"normalizer": fields},
            spaces=_described(fields),
            details={"class": record.label},
            notes=(*notes, *inert.notes(fields, "normalizer"), absent),
            tensors=tensors,
        )

    def fitted(self, content: Reading) -> Reading:
        """With the settings that the environment of a checkpoint of ours has."""
        found, env = content.components.get(self.only), content.components.get("env")
        while isinstance(env, Mapping) and "clip_obs" not in env:
            env = env.get("venv")
        if not isinstance(found, Mapping) or not isinstance(env, Mapping):
            return content
        names = ("norm_obs_keys", *_SETTINGS)
        told = {name: env[name] for name in names if name in env and name not in found}
        return replace(content, components={**content.components, self.only: {**told, **found}})

    def write(self, content: Reading, path: Path) -> None:
        """Write a file that `VecNormalize.load` opens.

        Raises:
            UnsupportedError: There are other components, or statistics without the settings that
                they are used with.
            AlreadyExistsError: Something is at the path.
        """
        fields = _only(self.fitted(content), self.only, path)
        for name in _SPACES:
            described = content.spaces.get(name)
            if f"{name}_space" not in fields and described is not None:
                fields[f"{name}_space"] = {"description": described, "generators": {}}
        missing = [name for name in (*_SETTINGS, "observation_space") if name not in fields]
        if missing:
            raise UnsupportedError(
                f"{path}: expected the settings of a VecNormalize beside its statistics, found "
                f"none of {', '.join(missing)}. Save the model again, or write the file with "
                "VecNormalize.save.",
                path=path,
                key="normalizer",
            )
        if "obs_rms" in fields:
            fields["obs_rms"] = _recorded(fields["obs_rms"])
        fields["ret_rms"] = _recorded(fields["ret_rms"])
        fields.setdefault("old_reward", np.array([]))
        if fields.get("norm_obs_keys") is not None:
            found = sb3_values.space(fields["observation_space"])
            fields.setdefault("obs_spaces", dict(found.spaces))
        _write(_NORMALIZER, fields, "normalizer", path)


def _statistics(value: Any) -> Any:
    """Running statistics as a dictionary; of a dictionary of observations, by key."""
    if isinstance(value, Record) and value.label == _STATISTICS:
        return dict(value)
    if isinstance(value, dict) and any(isinstance(part, Record) for part in value.values()):
        return {key: _statistics(part) for key, part in value.items()}
    return value


def _only(content: Reading, component: str, path: Path) -> dict[str, Any]:
    """The attributes of the one component that a file holds."""
    found = content.components.get(component)
    refusals = [
        (name, f"a file of {component} holds nothing else")
        for name in content.components
        if name != component
    ]
    if refusals or not isinstance(found, Mapping):
        raise UnsupportedError(
            f"{path}: expected the component {component} alone, found "
            f"{', '.join(content.components) or 'none'}. Leave the others out, or choose another "
            "format.",
            path=path,
            key=component,
            refusals=refusals if isinstance(found, Mapping) else (),
        )
    return dict(found)


def _class_of(fields: Mapping[str, Any]) -> str:
    """The class of a buffer, by its attributes."""
    if "ep_length" in fields:
        return _BUFFERS[2]
    if isinstance(fields["observations"], Mapping):
        return _BUFFERS[1]
    return _N_STEP if "n_steps" in fields else _BUFFERS[0]


def _all_infos(fields: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The infos of all rows: those that are there, and empty ones as a new buffer has them."""
    infos = np.empty((fields["buffer_size"], fields["n_envs"]), object)
    infos[:] = [[{} for _ in row] for row in infos]
    found = fields.get("infos")
    if isinstance(found, np.ndarray) and len(found) == len(infos):
        return found
    if isinstance(found, np.ndarray) and found.shape[1:] == infos.shape[1:]:
        infos[: len(found)] = found[: len(infos)]
    return infos


def _recorded(value: Any) -> Any:
    """Running statistics as the object that holds them; of several, by key."""
    if isinstance(value, Mapping) and set(value) == {"mean", "var", "count"}:
        return Called(Name(_STATISTICS), (), dict(value), is_new=True)
    if isinstance(value, Mapping):
        return {key: _recorded(part) for key, part in value.items()}
    return value


def _write(label: str, fields: dict[str, Any], component: str, path: Path) -> None:
    """Write one object as a pickle."""
    if not sb3_values.is_class(label):
        raise UnsupportedError(
            f"{path}: expected a class of Stable-Baselines3's own, found {label[:200]}, which is "
            "not written again: it would be imported by who opens the file.",
            path=path,
            key=component,
        )
    for name, value in fields.items():
        if name.endswith("_space"):
            fields[name] = sb3_values.space(value)
        elif name == "device" and isinstance(value, str):
            fields[name] = known_objects.device(value)
    made = Called(Name(label), (), fields, is_new=True)
    found = sb3_values.pickled(made, component, str(path))
    with files.new_file(path) as temporary:
        size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in found)
        output = files.Output(temporary, size)
        try:
            for part in _joined(found):
                output.write(part)
        except BaseException:
            output.abandon()
            raise
        output.close()


def _joined(parts: list[Part]) -> Iterator[Part]:
    """The same bytes with what is short put together."""
    short: list[bytes] = []
    for part in parts:
        if isinstance(part, bytes):
            short.append(part)
        else:
            yield b"".join(short)
            short.clear()
            yield part
    yield b"".join(short)


class Policy(Format):
    """`policy.pth`, of `BasePolicy.save`: a state dict, and what constructs the policy."""

    name = "sb3.policy"

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch with `state_dict`, and spaces in `data`."""
        outline = torch_files.outline_of(path)
        if outline is None or outline.keys != {"state_dict", "data"}:
            return None
        names = outline.inner.get("data", set())
        return Confidence.CERTAIN if "observation_space" in names else None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The policy's arrays, and its constructor's arguments."""
        span = spans.of_file(path)
        file = torch_files.read(span, Budget(max_bytes, span.name))
        content = file.value if isinstance(file.value, dict) else {}
        policy, arguments = content.get("state_dict"), content.get("data")
        if not isinstance(policy, dict) or not isinstance(arguments, dict):
            raise FormatError(
                f"{path}: expected a policy with `state_dict` and `data`, found "
                f"{', '.join(map(str, list(content)[:5])) or type(file.value).__name__}.",
                path=path,
            )
        notes = [Note(Kind.INERT, "constructor", text) for text in file.notes]
        return Reading(
            format=self.name,
            kind="policy",
            components={"policy": policy, "constructor": {"arguments": arguments}},
            spaces=_described(arguments),
            notes=(*notes, *inert.notes(arguments, "constructor.arguments")),
            tensors=file.tensors,
        )


REPLAY_BUFFER = ReplayBuffer()
NORMALIZER = Normalizer()
POLICY = Policy()

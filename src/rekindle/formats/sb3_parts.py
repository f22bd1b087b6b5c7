"""The files that Stable-Baselines3 writes beside a model: replay buffers, VecNormalize, policies.

Source: SB3 2.9, `common/save_util.py`, `common/buffers.py`, `vec_env/vec_normalize.py`,
`common/policies.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle import spans
from rekindle.errors import FormatError, RekindleError
from rekindle.formats import inert, recorded_spaces, torch_files, wrappers
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.pickles.machine import Machine
from rekindle.state import Record
from rekindle.tensors import Tensors

_BUFFERS = (
    "stable_baselines3.common.buffers:ReplayBuffer",
    "stable_baselines3.common.buffers:DictReplayBuffer",
    "stable_baselines3.her.her_replay_buffer:HerReplayBuffer",
)
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


class Normalizer(Format):
    """`vecnormalize.pkl`, of `VecNormalize.save`."""

    name = "sb3.normalizer"

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


def _statistics(value: Any) -> Any:
    """Running statistics as a dictionary; of a dictionary of observations, by key."""
    if isinstance(value, Record) and value.label == _STATISTICS:
        return dict(value)
    if isinstance(value, dict) and any(isinstance(part, Record) for part in value.values()):
        return {key: _statistics(part) for key, part in value.items()}
    return value


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

"""Checkpoints and run folders of CO-GYM: torch files, YAML, and pickles of normalisers.

A folder `checkpoint_<n>` holds `checkpoint.pt`, `policy.pt`, `config.yaml`, `metadata.yaml` and,
where a run normalises, the running statistics as pickles and YAML. Off-policy checkpoints hold the
replay buffer as a pickled object, which is read as data. Source: CO_GYM 2579eb1,
`co_gym/utils/logger.py`, `co_gym/buffers/off_policy_buffer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files, spans
from rekindle.errors import DamagedError, FormatError, RekindleError, UnsupportedError
from rekindle.formats import inert, torch_files, torch_writing, yaml_text
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget
from rekindle.pickles import writing
from rekindle.pickles.machine import Machine
from rekindle.pickles.writing import Called, Name
from rekindle.state import Record
from rekindle.tensors import Tensors

_CHECKPOINT, _POLICY, _CONFIG, _METADATA = (
    "checkpoint.pt",
    "policy.pt",
    "config.yaml",
    "metadata.yaml",
)
_VALUES = "observation_normalizing_values.yaml"
_PICKLES = {
    "observation": "pickled_data/ObsRunningMeanVar_class.pickle",
    "return": "pickled_data/RetRunningMeanVar_class.pickle",
}
_NEEDED = (
    "policy_state_dict",
    "critic_state_dict",
    "policy_optimizer_state_dict",
    "critic_optimizer_state_dict",
)
_STATE = re.compile(r"(policy|critic|\w+_optimizer)_state_dict", re.ASCII)
_NUMBERED = re.compile(r".*_(\d{1,9})", re.ASCII)
_MEASURED = ("average return", "epochs", "timestep")
"""What `metadata.yaml` says of every checkpoint."""
_BUFFER = "co_gym.buffers.off_policy_buffer:OffPolicyBuffer"
_STATISTICS = "co_gym.utils.utils:RunningMeanVar"
_FIELDS = ("count", "running_mean", "running_var")
_SIZES = ("capacity", "size", "position")
_LARGEST_YAML_BYTES = 16 << 20
_NOT_HELD = {
    "target": "CO-GYM does not save target networks; its loader copies the networks themselves",
    "env": "CO-GYM does not save the state of its environments",
    "rng": "CO-GYM does not save the generators that training draws from",
}


class CoGym(Format):
    """A checkpoint folder, a run folder, or one file of either."""

    name = "cogym"
    can_write = True
    files = (_CHECKPOINT, _POLICY, _CONFIG, _METADATA, _VALUES, *_PICKLES.values())

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch with CO-GYM's keys, with its metadata beside it; or its normaliser."""
        if path.is_file():
            if _has_keys(path):
                return Confidence.LAYOUT
            return Confidence.CERTAIN if _label(path) == _STATISTICS else None
        if _is_checkpoint(path) or any(_is_checkpoint(folder) for folder in _folders(path)):
            return Confidence.CERTAIN
        return Confidence.LAYOUT if _has_keys(path / _CHECKPOINT) else None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Networks, optimizers, replay buffer and normaliser; of a run, the last checkpoint."""
        reader = _Reader(Budget(max_bytes, str(path)))
        if path.is_file():
            if _label(path) == _STATISTICS:
                return reader.normalizer(path)
            return reader.file(path)
        folder = path
        if not (path / _CHECKPOINT).is_file() and not _is_checkpoint(path):
            found = checkpoints(path)
            if not found:
                raise FormatError(
                    f"{path}: expected a folder of CO-GYM, with {_CHECKPOINT} and {_METADATA}, "
                    f"found {'neither, nor folders that have them' if path.exists() else 'none'}.",
                    path=path,
                )
            folder = found[-1]
            others = ", ".join(each.name for each in found[:-1])
            if others:
                text = f"of the checkpoints of the run, {folder.name} was read; others: {others}"
                reader.notes.append(Note(Kind.IGNORED, "", text))
        return reader.folder(folder)

    def checkpoints(self, path: Path) -> list[Path]:
        """The checkpoint folders of a run."""
        is_one = (path / _CHECKPOINT).is_file() or _is_checkpoint(path)
        return [] if is_one or not path.is_dir() else checkpoints(path)

    def write(self, content: Reading, path: Path) -> None:
        """Write a checkpoint folder.

        Raises:
            UnsupportedError: A component that CO-GYM's folders cannot hold, or one is missing.
            AlreadyExistsError: The folder exists.
        """
        _check(content, path)
        components = dict(content.components)
        agent = dict(components.pop("agent", {}))
        config = agent.pop("config", {})
        progress = components.pop("progress", None) or _progress(content)
        normalizer = components.pop("normalizer", {})
        with files.new_directory(path) as folder:
            saved = _torch_value(components, agent)
            policy = content.details.get("policy_file", components["policy"])
            held = [part for name, part in components.items() if name != "replay_buffer"]
            also = torch_writing.ids(policy, *held)
            for name, value in ((_CHECKPOINT, saved), (_POLICY, policy)):
                torch_writing.write(folder / name, value, tensors=content.tensors, also=also)
            for name, value in ((_CONFIG, config), (_METADATA, progress)):
                files.write_bytes(folder / name, yaml_text.dumps(value, name).encode())
            _write_normalizer(folder, normalizer)


def checkpoints(path: Path) -> list[Path]:
    """The checkpoint folders of a run, in the order in which they were written."""
    found = [folder for folder in _folders(path) if _is_checkpoint(folder)]
    return sorted(found, key=lambda folder: (_number(folder.name), folder.name))


def _folders(path: Path) -> list[Path]:
    try:
        return [folder for folder in path.iterdir() if folder.is_dir()]
    except OSError:
        return []


def _number(name: str) -> int:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match is not None else -1


def _is_checkpoint(folder: Path) -> bool:
    """Whether the metadata is such as CO-GYM writes; files beside it may be missing."""
    try:
        found = _yaml(folder / _METADATA, Budget(name=str(folder)))
    except (RekindleError, OSError):
        return False
    return isinstance(found, dict) and all(key in found for key in _MEASURED)


def _has_keys(file: Path) -> bool:
    outline = torch_files.outline_of(file)
    return outline is not None and outline.keys >= set(_NEEDED)


def _label(file: Path) -> str | None:
    """The first name that a pickle mentions, which is the class of the object that it holds."""
    try:
        span = spans.of_file(file)
        if span.bytes(0, 1) != b"\x80":
            return None
        found = Machine(span, Budget(name=span.name)).first_name()
    except (RekindleError, OSError):
        return None
    return None if found is None else found.label


def _yaml(file: Path, budget: Budget) -> Any:
    """The value of a YAML file.

    Raises:
        DamagedError: It is missing, or no text.
        FormatError: It is no YAML.
        UnsafeError: It asks for objects, or for more than the budget.
    """
    if not file.is_file():
        raise _missing(file)
    size = file.stat().st_size
    if size > _LARGEST_YAML_BYTES:
        raise FormatError(f"{file}: expected a small YAML file, found {size:,} bytes.", path=file)
    budget.charge(32 * size)
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DamagedError(
            f"{file}: expected text in UTF-8, found other bytes ({error}). The file is damaged.",
            path=file,
        ) from error
    return yaml_text.loads(text, str(file))


def _missing(file: Path) -> DamagedError:
    return DamagedError(
        f"{file}: expected a file that CO-GYM writes, found nothing. The folder is incomplete; "
        f"copy it again, or open {_CHECKPOINT} by itself.",
        path=file,
    )


# --------------------------------------------------------------------------- reading


class _Reader:
    """One checkpoint on its way to components."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tensors = Tensors()
        self._components: dict[str, Any] = {}
        self._details: dict[str, Any] = {}
        self.notes: list[Note] = []

    def folder(self, path: Path) -> Reading:
        """Everything in a checkpoint folder."""
        for name in (_CHECKPOINT, _POLICY, _CONFIG, _METADATA):
            if not (path / name).is_file():
                raise _missing(path / name)
        self._saved(path / _CHECKPOINT)
        self._compare_policy(path / _POLICY)
        config = self._object(path / _CONFIG)
        progress = self._object(path / _METADATA)
        self._components["agent"] = {"config": config, **self._components["agent"]}
        self._components["progress"] = progress
        self._statistics(path, config)
        return self._reading(progress)

    def file(self, path: Path) -> Reading:
        """`checkpoint.pt` by itself."""
        self._saved(path)
        for key in ("agent.config", "progress", "normalizer"):
            text = "it is a file beside this one, which was read by itself"
            self.notes.append(Note(Kind.ABSENT, key, text))
        return self._reading({})

    def normalizer(self, path: Path) -> Reading:
        """Running statistics by themselves."""
        absent = Note(Kind.ABSENT, "policy", "this file holds running statistics alone")
        return Reading(
            format=FORMAT.name,
            kind="policy",
            components={"normalizer": self._running(path)},
            notes=(absent,),
        )

    def _reading(self, progress: Mapping[str, Any]) -> Reading:
        self.notes += [Note(Kind.ABSENT, key, text) for key, text in _NOT_HELD.items()]
        epochs = progress.get("epochs")
        names = {"return": "average return", "wall_time_seconds": "wall time"}
        metrics = {key: progress.get(name) for key, name in names.items()}
        step = progress.get("timestep")
        return Reading(
            format=FORMAT.name,
            components=self._components,
            step=step if type(step) is int else None,
            counters={"epochs": epochs} if type(epochs) is int else {},
            metrics={key: value for key, value in metrics.items() if type(value) in (int, float)},
            details=self._details,
            notes=tuple(self.notes),
            tensors=self._tensors,
        )

    def _torch(self, file: Path) -> dict[str, Any]:
        found = torch_files.read(spans.of_file(file), self._budget, tensors=self._tensors)
        self.notes += [Note(Kind.INERT, file.name, text) for text in found.notes]
        if not isinstance(found.value, dict):
            raise _malformed(file, "a dictionary", type(found.value).__name__)
        return found.value

    def _saved(self, file: Path) -> None:
        """Take the networks, the optimizers, and all else that `checkpoint.pt` holds."""
        saved = self._torch(file)
        missing = [key for key in _NEEDED if key not in saved]
        if missing:
            found = ", ".join(map(str, saved)) or "nothing"
            raise _malformed(file, f"the keys {', '.join(missing)}", found)
        agent: dict[str, Any] = {}
        for key, value in saved.items():
            match = _STATE.fullmatch(key) if isinstance(key, str) else None
            if key == "buffer":
                self._buffer(file, value)
            elif match is None or value is None:
                # A temperature that is not learnt has None in place of its optimizer.
                agent[key] = value
            elif not isinstance(value, dict):
                raise _malformed(file, f"a state dict as {key}", type(value).__name__)
            else:
                self._components[match[1]] = value
        for key in ("policy", "critic"):
            self._check_arrays(file, key)
        self._components["agent"] = agent
        for name, value in self._components.items():
            self.notes += inert.notes(value, name)
        if "replay_buffer" not in self._components:
            text = "an on-policy algorithm has none; rows that are being collected are not saved"
            self.notes.append(Note(Kind.ABSENT, "replay_buffer", text))

    def _check_arrays(self, file: Path, component: str) -> None:
        state = self._components.get(component)
        if not isinstance(state, dict):
            raise _malformed(file, f"a state dict as {component}", type(state).__name__)
        for name, value in state.items():
            if not isinstance(value, np.ndarray):
                raise _malformed(file, f"a tensor as {component}.{name}", type(value).__name__)

    def _buffer(self, file: Path, value: Any) -> None:
        """Take the fields of the pickled buffer; rows from `size` on were never written."""
        if not isinstance(value, Record) or not all(key in value for key in _SIZES):
            found = value.label if isinstance(value, Record) else type(value).__name__
            raise _malformed(file, f"a buffer with {', '.join(_SIZES)}", found)
        capacity, size, position = (value[key] for key in _SIZES)
        are_whole = all(type(value[key]) is int for key in _SIZES)
        if not are_whole or not 0 <= size <= capacity or not 0 <= position <= capacity:
            expected = "sizes of a buffer that fit together"
            raise _malformed(file, expected, f"{capacity!r}, {size!r}, {position!r}")
        for key, rows in value.items():
            if isinstance(rows, np.ndarray) and rows.shape[:1] != (capacity,):
                raise _malformed(file, f"{capacity} rows in {key}", f"shape {rows.shape}")
        self._components["replay_buffer"] = dict(value)
        self._details["buffer_class"] = value.label
        if size < capacity:
            text = f"rows from {size} on were never written; what they hold means nothing"
            self.notes.append(Note(Kind.IGNORED, "replay_buffer", text))

    def _compare_policy(self, file: Path) -> None:
        """Hold `policy.pt` against the policy: a second copy, unless training went on between."""
        policy = self._torch(file)
        if not _are_equal(policy, self._components["policy"]):
            self._details["policy_file"] = policy
            text = f"{_POLICY} holds other weights than {_CHECKPOINT}, whose were taken"
            self.notes.append(Note(Kind.IGNORED, "policy", text))

    def _statistics(self, path: Path, config: Mapping[str, Any]) -> None:
        found: dict[str, Any] = {
            key: self._running(path / name)
            for key, name in _PICKLES.items()
            if (path / name).is_file()
        }
        if (path / _VALUES).is_file():
            # Its `std` is the variance plus 1e-6: CO-GYM's own name, kept as it is.
            found["observation_values"] = self._object(path / _VALUES)
        if config.get("normalize_obs") is True and "observation" not in found:
            raise _missing(path / _PICKLES["observation"])
        if found:
            self._components["normalizer"] = found
        else:
            text = "the run does not normalise, or CO-GYM did not save what it normalises by"
            self.notes.append(Note(Kind.ABSENT, "normalizer", text))

    def _running(self, file: Path) -> dict[str, Any]:
        found = torch_files.read_pickle(
            spans.of_file(file), self._budget, tensors=self._tensors
        ).value
        if not isinstance(found, Record) or not all(key in found for key in _FIELDS):
            kind = found.label if isinstance(found, Record) else type(found).__name__
            raise _malformed(file, f"running statistics with {', '.join(_FIELDS)}", kind)
        return dict(found)

    def _object(self, file: Path) -> dict[str, Any]:
        found = _yaml(file, self._budget)
        if not isinstance(found, dict):
            raise _malformed(file, "names and values", type(found).__name__)
        return found


def _malformed(file: Path, expected: str, found: str) -> FormatError:
    return FormatError(
        f"{file}: expected {expected}, found {found[:200]}. CO-GYM writes no such file.", path=file
    )


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            return False
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

    return list(one) == list(other) and all(same(one[key], other[key]) for key in one)


# --------------------------------------------------------------------------- writing


def _check(content: Reading, path: Path) -> None:
    """Refuse what a folder of CO-GYM cannot hold, and what its loader would miss."""
    components = content.components
    refusals: list[tuple[str, str]] = []
    for name in ("policy", "critic", "policy_optimizer", "critic_optimizer"):
        if name not in components:
            refusals.append((name, "expected it, as CO-GYM does not load without"))
    others = ("policy", "critic", "replay_buffer", "agent", "progress", "normalizer")
    for name, value in components.items():
        if name not in others and not re.fullmatch(r"\w+_optimizer", name):
            refusals.append((name, "CO-GYM has no place for it"))
        elif not isinstance(value, Mapping):
            refusals.append((name, f"expected values by name, found {type(value).__name__}"))
    normalizer = components.get("normalizer")
    for name, value in normalizer.items() if isinstance(normalizer, Mapping) else ():
        if name not in (*_PICKLES, "observation_values") or not isinstance(value, Mapping):
            refusals.append((f"normalizer.{name}", "CO-GYM has no place for it"))
    if refusals:
        listed = "\n".join(f"  {key}: {reason}" for key, reason in refusals)
        raise UnsupportedError(
            f"{path}: expected components that a folder of CO-GYM can hold, found otherwise:\n"
            f"{listed}\nLeave them out, or choose another format.",
            path=path,
            refusals=refusals,
        )


def _torch_value(components: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    saved = {
        f"{name}_state_dict": value for name, value in components.items() if name != "replay_buffer"
    }
    saved.update(agent)
    if "replay_buffer" in components:
        fields = dict(components["replay_buffer"])
        saved["buffer"] = Called(Name(_BUFFER), (), fields, is_new=True)
    return saved


def _progress(content: Reading) -> dict[str, Any]:
    """What `metadata.yaml` says, where it was not read from one: what is known, and no more."""
    return {
        "average return": content.metrics.get("return"),
        "epochs": content.counters.get("epochs"),
        "timestep": content.step,
        "wall time": content.metrics.get("wall_time_seconds"),
    }


def _write_normalizer(folder: Path, normalizer: Mapping[str, Any]) -> None:
    for key, name in _PICKLES.items():
        if key in normalizer:
            (folder / name).parent.mkdir(exist_ok=True)
            made = Called(Name(_STATISTICS), (), dict(normalizer[key]), is_new=True)
            files.write_bytes(folder / name, writing.dumps(made, key=f"normalizer.{key}"))
    if "observation_values" in normalizer:
        text = yaml_text.dumps(dict(normalizer["observation_values"]), _VALUES)
        files.write_bytes(folder / _VALUES, text.encode())


FORMAT = CoGym()

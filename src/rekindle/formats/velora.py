"""Checkpoint folders of Velora 0.1 and 0.2: safetensors, and JSON beside them.

A folder holds `metadata.json`, `model_state.safetensors`, `optim_state.safetensors` and, where it
was asked for, `buffer_state.safetensors`. Its parent holds `model_config.json`, and
`completed.json` after a run with the callback `SaveCheckpoints`. Names in the metadata that Velora
would import, such as that of the optimizer's class, are text here. Source: velora 0.2.0,
`velora/utils/restore.py`, `velora/callbacks.py`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files
from rekindle.codecs import arrays, dtypes
from rekindle.codecs.arrays import ArrayFile, Stored
from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    FormatError,
    NotFoundError,
    UnsupportedError,
)
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget

Arrays = dict[str, np.ndarray[Any, Any]]

_METADATA, _MODEL, _OPTIM, _BUFFER = (
    "metadata.json",
    "model_state.safetensors",
    "optim_state.safetensors",
    "buffer_state.safetensors",
)
_CONFIG, _COMPLETED = "model_config.json", "completed.json"
_OPTIMIZER = re.compile(r"(\w+)_optim", re.ASCII)
_TARGET = re.compile(r"\w+_target", re.ASCII)
_MOMENT = re.compile(r"(\w+_optim)\.(\d{1,9})\.(.+)", re.ASCII)
_NUMBER = re.compile(r".*_(final|(\d+(?:\.\d+)?)([KMB]?))", re.ASCII)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_MODEL_WORDS = ("env_id", "gamma", "buffer_size")
"""What Velora writes into the metadata of every agent."""
_LARGEST_JSON_BYTES = 64 << 20
_COMPONENTS = ("policy", "target", "replay_buffer", "agent", "progress")
_COEFFICIENT = "agent.log_alpha"
"""What `rekindle.velora` keeps as `entropy`, which Velora passes over when it loads a folder."""
_NOT_HELD = {
    _COEFFICIENT: "Velora does not save the entropy coefficient, only its optimizer",
    "env": "Velora does not save the state of its environment",
    "rng": "Velora does not save the generators that training draws from",
    "policy.hidden": "Velora does not save the hidden state that the actor carries between steps",
}


class Velora(Format):
    """A checkpoint folder, or a folder of them."""

    name = "velora"
    can_write = True
    files = (_METADATA, _MODEL, _OPTIM, _BUFFER)

    def sniff(self, path: Path) -> Confidence | None:
        """Metadata with a model and its optimizers; or a folder of such folders."""
        if not path.is_dir():
            return None
        found = _confidence(path)
        if found is None and any(_confidence(folder) is not None for folder in checkpoints(path)):
            return Confidence.CERTAIN
        return found

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Networks, optimizers and replay buffer; of a folder of several, the last is read."""
        if not path.is_dir():
            raise FormatError(
                f"{path}: expected a folder that Velora wrote, found "
                f"{'a file' if path.exists() else 'nothing'}. Give the folder that holds "
                f"{_METADATA}.",
                path=path,
            )
        notes: list[Note] = []
        folder = path
        if not _has_part(path):
            folder, others = _latest(path)
            text = f"of the checkpoints in {path}, {folder.name} was read; others: "
            notes += [Note(Kind.IGNORED, "", text + ", ".join(others))] if others else []
        return _Folder(folder, Budget(max_bytes, str(folder)), notes).reading()

    def checkpoints(self, path: Path) -> list[Path]:
        """The checkpoint folders inside a folder that is none itself."""
        return [] if not path.is_dir() or _has_part(path) else checkpoints(path)

    def write(self, content: Reading, path: Path) -> None:
        """Write a folder, and `model_config.json` and `completed.json` beside it.

        A configuration that is there already stays as it is, as Velora has it; so it must be equal.

        Raises:
            UnsupportedError: A component that Velora's folders cannot hold, or one is missing.
            AlreadyExistsError: The folder exists, or a file beside it says something else.
        """
        written = _Written(content, path)
        beside = {path.parent / name: text for name, text in written.beside.items()}
        for file, text in beside.items():
            if file.exists() and _json(file, Budget(name=str(file))) != json.loads(text):
                raise AlreadyExistsError(
                    f"{file}: expected nothing there or the same content, found other content. "
                    "Velora keeps one such file for all checkpoints of a folder; choose another.",
                    path=file,
                )
        with files.new_directory(path) as folder:
            files.write_bytes(folder / _METADATA, written.metadata.encode())
            for name, part in written.arrays.items():
                arrays.write(lambda size, file=folder / name: files.Output(file, size), part)
        for file, text in beside.items():
            if not file.exists():
                with files.new_file(file) as new:
                    files.write_bytes(new, text.encode())


def checkpoints(path: Path) -> list[Path]:
    """Checkpoint folders inside a folder, or inside its `saves`, in the order of their episodes."""
    for parent in (path, path / "saves"):
        found = [folder for folder in _folders(parent) if _has_part(folder)]
        if found:
            return sorted(found, key=lambda folder: (_episode(folder.name), folder.name))
    return []


def _folders(path: Path) -> list[Path]:
    try:
        return [folder for folder in path.iterdir() if folder.is_dir()]
    except OSError:
        return []


def _has_part(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_METADATA, _MODEL)) and (
        _confidence(folder) is not None
    )


def _episode(name: str) -> float:
    """The episode that the callback puts into a name; the final one comes after all."""
    match = _NUMBER.fullmatch(name)
    if match is None:
        return -1.0
    return float("inf") if match[1] == "final" else float(match[2]) * _UNITS[match[3]]


def _latest(path: Path) -> tuple[Path, list[str]]:
    found = checkpoints(path)
    if not found:
        raise FormatError(
            f"{path}: expected a folder that Velora wrote, with {_METADATA} and {_MODEL}, found "
            "neither, nor folders that have them.",
            path=path,
        )
    return found[-1], [folder.name for folder in found[:-1]]


def _confidence(folder: Path) -> Confidence | None:
    try:
        content = _json(folder / _METADATA, Budget(name=str(folder)))
    except (FormatError, DamagedError, NotFoundError, OSError):
        content = None
    if isinstance(content, dict):
        model = content.get("model")
        if isinstance(model, dict) and all(word in model for word in _MODEL_WORDS):
            return Confidence.CERTAIN
        return None
    try:
        names = list(ArrayFile(folder / _MODEL).entries)
    except (DamagedError, OSError):
        return None
    is_ours = any(name.startswith("actor.ncp.") for name in names)
    return Confidence.LAYOUT if is_ours else None


def _json(file: Path, budget: Budget) -> Any:
    """The value of a JSON file.

    Raises:
        DamagedError: It is missing or no JSON.
        UnsafeError: It is larger than the budget allows.
    """
    if not file.is_file():
        raise DamagedError(
            f"{file}: expected a file that Velora writes, found nothing. "
            "The folder is incomplete; copy it again.",
            path=file,
        )
    size = file.stat().st_size
    if size > _LARGEST_JSON_BYTES:
        raise FormatError(f"{file}: expected a small JSON file, found {size:,} bytes.", path=file)
    budget.charge(16 * size)
    try:
        # Python's own reader: Velora writes with it, and so NaN and Infinity as they are.
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{file}: expected JSON, found other text ({error}). The file is damaged.", path=file
        ) from error


# --------------------------------------------------------------------------- reading


class _Folder:
    """One checkpoint folder on its way to components."""

    def __init__(self, path: Path, budget: Budget, notes: list[Note]) -> None:
        self._path = path
        self._budget = budget
        self._notes = notes
        self._metadata = self._object(path / _METADATA)
        self._components: dict[str, Any] = {}

    def reading(self) -> Reading:
        """Everything in the folder, and what stands beside it."""
        self._model()
        self._optimizers()
        self._buffer()
        completed = self._agent()
        final = completed if _episode(self._path.name) == float("inf") else {}
        self._notes += [
            Note(Kind.ABSENT, key, text)
            for key, text in _NOT_HELD.items()
            if key != _COEFFICIENT or "entropy" not in self._components
        ]
        if not final:
            text = "Velora does not save how many steps and episodes there were"
            self._notes.append(Note(Kind.ABSENT, "progress", text))
        return Reading(
            format=FORMAT.name,
            components=self._components,
            step=_count(final.get("steps")),
            counters={"episodes": final["episodes"]} if _count(final.get("episodes")) else {},
            metrics=_metrics(final.get("stats")),
            notes=tuple(self._notes),
        )

    def _model(self) -> None:
        networks: dict[str, Arrays] = {}
        for name, array in self._arrays(_MODEL):
            network, separator, key = name.partition(".")
            if not separator:
                raise self._malformed(_MODEL, "names as `network.parameter`", name)
            networks.setdefault(network, {})[key] = array
        if "actor" not in networks:
            found = ", ".join(networks) or "no arrays"
            raise self._malformed(_MODEL, "the network `actor`", found)
        targets: dict[str, Arrays] = {}
        for network, part in networks.items():
            if _TARGET.fullmatch(network):
                targets[network] = part
            elif network in _COMPONENTS or _OPTIMIZER.fullmatch(network):
                raise self._malformed(_MODEL, "names of networks", network)
            else:
                self._components["policy" if network == "actor" else network] = part
        if targets:
            self._components["target"] = targets

    def _optimizers(self) -> None:
        states: dict[str, dict[int, Arrays]] = {}
        for name, array in self._arrays(_OPTIM):
            match = _MOMENT.fullmatch(name)
            if match is None or not isinstance(self._metadata.get(match[1]), list):
                expected = "names as `optimizer.index.key`, of optimizers in the metadata"
                raise self._malformed(_OPTIM, expected, name)
            states.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = array
        for key, groups in self._metadata.items():
            match = _OPTIMIZER.fullmatch(key)
            if match is not None and isinstance(groups, list):
                state = dict(sorted(states.get(key, {}).items()))
                self._components[f"{match[1]}_optimizer"] = {"state": state, "param_groups": groups}

    def _buffer(self) -> None:
        told = self._metadata.get("buffer")
        file = self._path / _BUFFER
        if not file.is_file() and told is None:
            text = "it was saved without, as Velora does unless asked with `buffer=True`"
            self._notes.append(Note(Kind.ABSENT, "replay_buffer", text))
            return
        rows = dict(self._arrays(_BUFFER))
        sizes = {array.shape[0] if array.ndim else -1 for array in rows.values()}
        if len(sizes) > 1:
            raise self._malformed(_BUFFER, "arrays of as many rows each", str(sorted(sizes)))
        if told is None:
            # The metadata is written once, so a later save with a buffer leaves it as it was.
            for key in ("position", "size"):
                text = f"{_METADATA} is older than the buffer and does not tell"
                self._notes.append(Note(Kind.ABSENT, f"replay_buffer.{key}", text))
            told = {}
        if not isinstance(told, dict):
            raise self._malformed(_METADATA, "the buffer as an object", type(told).__name__)
        capacity = sizes.pop() if sizes else None
        wrong = [
            f"{key} {told[key]!r}"
            for key, least, most in (
                ("capacity", capacity, capacity),
                ("size", 0, capacity),
                ("position", 0, capacity),
            )
            if key in told and not _is_between(told[key], least, most)
        ]
        if wrong or set(told) & set(rows):
            expected = f"a buffer of {capacity} rows, as {_BUFFER} has them"
            raise self._malformed(_METADATA, expected, ", ".join(wrong) or "names of its arrays")
        self._components["replay_buffer"] = {**rows, **told}

    def _agent(self) -> dict[str, Any]:
        """Take the constructor's arguments and the configuration; what the run came to, if told."""
        known = {"model", "buffer"}
        rest = {
            key: value
            for key, value in self._metadata.items()
            if key not in known and not (_OPTIMIZER.fullmatch(key) and isinstance(value, list))
        }
        agent: dict[str, Any] = {"model": self._metadata.get("model")}
        if rest:
            agent["metadata"] = rest
        if not isinstance(agent["model"], dict):
            raise self._malformed(_METADATA, "the agent's arguments as `model`", str(list(rest)))
        config = self._path.parent / _CONFIG
        if config.is_file():
            agent["config"] = self._object(config)
        else:
            text = f"the class of the agent stands in {_CONFIG} alone, which is not there"
            self._notes.append(Note(Kind.ABSENT, "agent.config", text))
        self._components["agent"] = agent
        completed = self._path.parent / _COMPLETED
        if not completed.is_file():
            return {}
        found = self._object(completed)
        self._components["progress"] = {"completed": found}
        if _episode(self._path.name) != float("inf"):
            text = f"{_COMPLETED} tells of the end of the run, not of this checkpoint"
            self._notes.append(Note(Kind.IGNORED, "progress", text))
        return found

    def _object(self, file: Path) -> dict[str, Any]:
        found = _json(file, self._budget)
        if not isinstance(found, dict):
            raise self._malformed(file.name, "a JSON object", type(found).__name__)
        return found

    def _arrays(self, name: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        file = self._path / name
        if not file.is_file():
            raise DamagedError(
                f"{file}: expected a file that Velora writes, found nothing. "
                "The folder is incomplete; copy it again.",
                path=file,
            )
        content = ArrayFile(file)
        self._budget.charge(512 * len(content.entries))
        for key in content.entries:
            yield key, arrays.decode(content[key], {})

    def _malformed(self, name: str, expected: str, found: str) -> FormatError:
        file = self._path / name
        return FormatError(
            f"{file}: expected {expected}, found {found[:200]}. Velora writes no such file.",
            path=file,
        )


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _metrics(stats: Any) -> dict[str, float]:
    """Numbers of the run's statistics, as `reward.average`."""
    groups = stats.items() if isinstance(stats, dict) else ()
    return {
        f"{group}.{name}": value
        for group, part in groups
        if isinstance(part, dict)
        for name, value in part.items()
        if type(value) in (int, float)
    }


def _is_between(value: Any, least: int | None, most: int | None) -> bool:
    is_whole = type(value) is int
    return is_whole and (least is None or least <= value) and (most is None or value <= most)


# --------------------------------------------------------------------------- writing


class _Written:
    """Components on their way to the files of one folder."""

    def __init__(self, content: Reading, path: Path) -> None:
        self._path = path
        self._refusals: list[tuple[str, str]] = []
        components = content.components
        agent = self._mapping(components.get("agent", {}), "agent")
        metadata: dict[str, Any] = {"model": agent.get("model")}
        if not isinstance(metadata["model"], Mapping):
            self._refuse("agent.model", "the arguments of the agent, which Velora rebuilds it from")
        model: dict[str, Stored] = {}
        moments: dict[str, Stored] = {}
        for name, value in components.items():
            match = re.fullmatch(r"(\w+)_optimizer", name)
            if match is not None:
                metadata[f"{match[1]}_optim"] = self._optimizer(match[1], name, value, moments)
            elif name == "target":
                for network, part in self._mapping(value, name).items():
                    self._network(network, f"{name}.{network}", part, model)
            elif name in ("env", "rng", "normalizer", "optimizer"):
                self._refuse(name, "no component, as Velora has no place for it")
            elif name not in ("replay_buffer", "agent", "progress"):
                self._network("actor" if name == "policy" else name, name, value, model)
        if "policy" not in components:
            self._refuse("policy", "a policy, without which Velora does not load")
        self.arrays = {_MODEL: model, _OPTIM: moments}
        if "replay_buffer" in components:
            self.arrays[_BUFFER], metadata["buffer"] = self._rows(components["replay_buffer"])
            if not metadata["buffer"]:
                del metadata["buffer"]
        metadata.update(agent.get("metadata", {}))
        self._known("agent", agent, ("model", "metadata", "config"))
        progress = self._mapping(components.get("progress", {}), "progress")
        self._known("progress", progress, ("completed",))
        beside = {_CONFIG: agent.get("config"), _COMPLETED: progress.get("completed")}
        texts = {key: self._text(key, part) for key, part in beside.items() if part is not None}
        self.beside = texts
        self.metadata = self._text(_METADATA, metadata)
        if self._refusals:
            listed = "\n".join(f"  {key}: {reason}" for key, reason in self._refusals)
            raise UnsupportedError(
                f"{path}: expected components that a folder of Velora can hold, found otherwise:\n"
                f"{listed}\nLeave them out, or choose another format.",
                path=path,
                refusals=self._refusals,
            )

    def _refuse(self, key: str, expected: str) -> None:
        self._refusals.append((key, f"expected {expected}"))

    def _known(self, name: str, value: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in value:
            if key not in known:
                expected = f"one of {', '.join(known)}, as Velora has no place for others"
                self._refuse(f"{name}.{key}", expected)

    def _mapping(self, value: Any, key: str) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        self._refuse(key, f"values by name, found {type(value).__name__}")
        return {}

    def _text(self, name: str, value: Any) -> str:
        try:
            return json.dumps(value, indent=2, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            self._refuse(name, f"values that JSON can hold ({error})")
            return ""

    def _network(self, network: str, key: str, value: Any, out: dict[str, Stored]) -> None:
        for name, array in self._mapping(value, key).items():
            self._put(out, f"{network}.{name}", f"{key}.{name}", array)

    def _optimizer(self, short: str, key: str, value: Any, out: dict[str, Stored]) -> Any:
        fields = self._mapping(value, key)
        self._known(key, fields, ("state", "param_groups"))
        if not isinstance(fields.get("param_groups"), (list, tuple)):
            self._refuse(f"{key}.param_groups", "a list, as `state_dict()` of torch has it")
        for index, state in self._mapping(fields.get("state", {}), f"{key}.state").items():
            for name, array in self._mapping(state, f"{key}.state.{index}").items():
                self._put(
                    out, f"{short}_optim.{index}.{name}", f"{key}.state.{index}.{name}", array
                )
        return fields.get("param_groups")

    def _rows(self, value: Any) -> tuple[dict[str, Stored], dict[str, Any]]:
        rows: dict[str, Stored] = {}
        told: dict[str, Any] = {}
        for name, part in self._mapping(value, "replay_buffer").items():
            if isinstance(part, np.ndarray) and part.ndim:
                self._put(rows, name, f"replay_buffer.{name}", part)
            else:
                told[name] = part
        return rows, told

    def _put(self, out: dict[str, Stored], name: str, key: str, array: Any) -> None:
        stored = _stored(array)
        if stored is None:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            self._refuse(key, f"an array of a type that safetensors names, found {found}")
        else:
            out[name] = stored


@functools.cache
def _codes_of_bits() -> dict[np.dtype[Any], str]:
    """Types that numpy lacks, as safetensors calls them."""
    return {
        dtypes.extended("bfloat16"): "BF16",
        dtypes.extended("float8_e4m3fn"): "F8_E4M3",
        dtypes.extended("float8_e5m2"): "F8_E5M2",
        dtypes.extended("float8_e8m0fnu"): "F8_E8M0",
    }


def _stored(array: Any) -> Stored | None:
    """An array as safetensors has it; None where it has no name for it."""
    if not isinstance(array, np.ndarray):
        return None
    array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    code = _codes_of_bits().get(array.dtype)
    if code is not None:
        return Stored(code, array.view(arrays.CODES[code]))
    if array.dtype.hasobject:
        return None
    stored, extra = arrays.encode(array)
    return None if extra else stored


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    raise TypeError(f"found {type(value).__name__}")


FORMAT = Velora()

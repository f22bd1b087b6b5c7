"""What a run leaves behind at every step: short digests of each named part of its state.

Two trails say when two runs parted, and in which part first, without any state being kept. A trail
costs a fixed share of the time of the run at most: parts are digested every so many steps, a power
of two that follows their measured cost, so that any two runs have steps in common. Format and
variables: docs/exact-resume.md.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from blake3 import blake3

from rekindle import registry
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.codecs import arrays, values
from rekindle.compare import children, is_ignored
from rekindle.errors import UnsupportedError
from rekindle.files import PathLike
from rekindle.graph import Walk
from rekindle.state import tag_of

NAME = "trail.jsonl"
"""The file in a run's directory."""

VERSION = 1

TRAIL = "REKINDLE_TRAIL"
"""Variable that switches trails on: `1`, or `dense`, or `dense:STEP` for dense from that step."""
ROOT = "REKINDLE_VERIFY_ROOT"
"""Variable with a directory that takes the place of where runs are."""
EVERY = "REKINDLE_VERIFY_EVERY"
"""Variable with the number of steps between two checkpoints, instead of what the script says."""
IGNORE = "REKINDLE_VERIFY_IGNORE"
"""Variable with patterns of paths whose values may differ, one per line."""

SHARE = 0.015
"""The most of a run's time that its trail takes at each of the two places in a loop."""

_DETACHED = b'"detached":true,'
_LENGTH = 8
"""Bytes of a digest."""
_WINDOW = 4
"""Digests between two decisions about the pace."""
_LEVEL = 4096
"""Records after which the pace is halved, so that a file grows with the logarithm of a run."""
_HEAVY_KINDS = (
    "torch.module", "torch.optimizer", "sb3.policy", "equinox.module",
    "sb3.algorithm", "sb3.buffer", "sb3.replay_buffer", "sb3.rollout",
)  # fmt: skip
_INSIDE = ("env", "rng", "normalizer")
"""Components that a step of the environment changes."""
_HEAVY_NAMES = frozenset(("policy", "critic", "target", "optimizer", "replay_buffer", "agent"))


# --------------------------------------------------------------------------- settings

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Settings:
    """How a trail is written."""

    dense_from: int | None = None
    """The step from which every part is digested at every call, whatever it costs."""
    heavy_every: int = 16
    """Networks, optimizers and buffers are digested at most once in so many steps before that."""
    share: float = SHARE
    """The most of the run's time that it takes before that."""
    ignore: tuple[str, ...] = WALL_CLOCK
    """Patterns of paths whose values may differ."""


def asked_for() -> Settings | None:
    """What the environment variable says; None when it is not set.

    Raises:
        UnsupportedError: It says something that has no meaning.
    """
    text = os.environ.get(TRAIL, "")
    if text in ("", "0"):
        return None
    word, _, step = text.partition(":")
    ignore = (*WALL_CLOCK, *os.environ.get(IGNORE, "").splitlines())
    if text == "1":
        return Settings(ignore=ignore)
    if word == "dense" and (not step or step.isdigit()):
        return Settings(dense_from=int(step or 0), ignore=ignore)
    raise UnsupportedError(f"{TRAIL}={text}: expected 1, dense or dense:STEP. Set one of these.")


def redirected(path: PathLike) -> Path:
    """Where a run's directory is: below the root for verification, when that is set."""
    root = os.environ.get(ROOT)
    if not root:
        return Path(path)
    if Path(path).is_absolute() and Path(path).is_relative_to(root):
        return Path(path)
    inside = os.path.relpath(path)
    return Path(root, *(part if part != os.pardir else "up" for part in Path(inside).parts))


def every(asked: Asked) -> Asked | int:
    """How often a run saves, unless the variable says otherwise.

    Raises:
        UnsupportedError: The variable is not a number of steps.
    """
    text = os.environ.get(EVERY)
    if not text:
        return asked
    if not text.isdigit() or int(text) < 1:
        raise UnsupportedError(f"{EVERY}={text}: expected a number of steps, at least 1.")
    return int(text)


# --------------------------------------------------------------------------- digests


def digests(
    components: Mapping[str, Any],
    names: Iterable[str],
    *,
    exclude: Sequence[str] = (),
    ignore: Sequence[str] = WALL_CLOCK,
) -> dict[str, str]:
    """A short digest of each named component.

    Args:
        components: All components of the run.
        names: Which of them; what these share with each other belongs to one of them.
        exclude: Paths that checkpoints leave out.
        ignore: Patterns of paths whose values are not compared.
    """
    asked = {name: components[name] for name in names}
    captured = Walk(exclude).capture(asked, among=components)
    for part in captured.rows:
        # A checkpoint keeps no others, so a resumed run does not have them.
        for stored in (captured.arrays[part.component][name] for name in part.names):
            stored.raw = stored.raw[: part.ring.num_filled]
    return {
        name: _digest(name, captured.documents[name], captured.arrays, tuple(ignore))
        for name in asked
    }


def _digest(
    component: str,
    document: dict[str, Any],
    stored: Mapping[str, Mapping[str, arrays.Stored]],
    ignore: tuple[str, ...],
) -> str:
    # A tensor that was restored has no history of how it was computed, and no note of that.
    text = msgspec.json.encode(document, order="deterministic").replace(_DETACHED, b"")
    names: Iterable[str] = sorted(stored[component])
    if any(piece in text for piece in _pieces(ignore)):
        pairs = sorted(_leaves(component, document, "", ignore), key=lambda pair: pair[0])
        text = msgspec.json.encode(pairs, order="deterministic").replace(_DETACHED, b"")
        held = {_short_name(node, component) for _, node in pairs}
        names = [name for name in names if name in held]
    digest = blake3(text)
    for name in names:
        array = stored[component][name]
        digest.update(f"{name}{array.code}{array.raw.shape}".encode())
        digest.update(_bytes(array.raw))
    return digest.hexdigest(length=_LENGTH)


def _bytes(array: np.ndarray[Any, Any]) -> Any:
    if array.flags.c_contiguous and array.size:
        return memoryview(array.reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]
    return array.tobytes()


@functools.cache
def _pieces(ignore: tuple[str, ...]) -> tuple[bytes, ...]:
    """The longest name in each pattern: where a document has none of them, nothing matches."""
    found = []
    for pattern in ignore:
        before, _, after = pattern.partition("/")
        inside = after if before.isidentifier() else pattern
        names = [name for name in re.split(r"\W+", inside) if name.isidentifier()]
        found.append(max(names, key=len, default="").encode() if "[" not in pattern else b"")
    return tuple(found)


def _leaves(
    component: str, node: Any, path: str, ignore: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    """Values of a document by the paths that a comparison gives them, without the ignored."""
    if isinstance(node, dict):
        tag = tag_of(node)
        if tag in ("$array", "$view") or tag in values.DECODERS:
            yield path, node
            return
        pairs = children(node).items()
    elif isinstance(node, list):
        pairs = ((str(index), item) for index, item in enumerate(node))
    else:
        yield path, node
        return
    is_empty = True
    for key, child in pairs:
        is_empty = False
        where = f"{path}.{key}" if path else key
        if not _is_ignored(component, where.removeprefix("root."), ignore):
            yield from _leaves(component, child, where, ignore)
    if is_empty:
        yield path, type(node).__name__


@functools.lru_cache(maxsize=100_000)
def _is_ignored(component: str, path: str, ignore: tuple[str, ...]) -> bool:
    return is_ignored(component, path, ignore)


def _short_name(node: Any, component: str) -> str:
    """The array that a leaf refers to, by its name in the component's file."""
    if not isinstance(node, dict):
        return ""
    name = str(node.get("$array") or node.get("$view") or "")
    return name.removeprefix(f"{component}/")


def is_heavy(name: str, value: Any) -> bool:
    """Whether a component is of a kind that is mostly large arrays."""
    adapter = registry.adapter_for(type(value))
    kind = "" if adapter is None else adapter.name
    return kind.startswith(_HEAVY_KINDS) or name in _HEAVY_NAMES or name.endswith("_optimizer")


# --------------------------------------------------------------------------- writing


class Pace:
    """Every how many steps something is done, so that it takes no more than a share of the time.

    Args:
        share: The most of the time that it may take.
        least: The fewest steps between two times.
    """

    def __init__(self, share: float, least: int = 1) -> None:
        self.stride = least
        """Steps between two times; a power of two where `least` is one."""
        self._share = share
        self._least = least
        self._count = 0
        self._spent = 0.0
        self._since: tuple[float, int] | None = None

    def is_due(self, before: int | None, now: int) -> bool:
        """Whether a multiple of the stride lies between the step of the last call and this one."""
        return before is None or now // self.stride != before // self.stride

    def spend(self, seconds: float, step: int, now: float) -> None:
        """Note what one time took, and choose the stride anew after every few of them."""
        if self._since is None:
            self._since = (now, step)
            return
        self._count += 1
        self._spent += seconds
        if self._count < _WINDOW:
            return
        elapsed, steps = now - self._since[0], step - self._since[1]
        wanted = steps / self._count * self._spent / max(elapsed, 1e-9) / self._share
        self.stride = self._least
        while self.stride < wanted:
            self.stride *= 2
        self._count, self._spent, self._since = 0, 0.0, (now, step)

    def slow_to(self, stride: int) -> None:
        """Take at least so many steps from now on."""
        self._least = max(self._least, stride)
        self.stride = max(self.stride, stride)


class Trail:
    """The file of one run, written by its owner only.

    Args:
        path: The run's directory.
        settings: How often, and how much it may cost.
        exclude: Paths that the run's checkpoints leave out.
    """

    def __init__(self, path: Path, settings: Settings, exclude: Sequence[str] = ()) -> None:
        self._path = path / NAME
        self._settings = settings
        self._exclude = tuple(exclude)
        self._file: int | None = None
        self._num_records = 0
        self._last_whole: int | None = None
        self._before: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._groups: dict[str, dict[tuple[str, ...], Pace]] = {}
        self._finest: dict[str, int] = {}

    @property
    def is_begun(self) -> bool:
        """Whether this process has written to it."""
        return self._file is not None

    def begin(self, resumed_from: int | None) -> None:
        """Open the file, and note where this process goes on from."""
        is_torn, self._num_records = _state_of(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if is_torn:
            os.write(self._file, b"\n")
        self._write({"trail": VERSION, "resumed_from": resumed_from})

    def record(
        self,
        components: Mapping[str, Any],
        step: int,
        *,
        is_inside: bool = False,
        is_whole: bool = False,
    ) -> None:
        """Write one record, of what is due at this step.

        Args:
            components: All components of the run.
            step: Environment steps so far.
            is_inside: Whether this is in the middle of an iteration, where only what a step of the
                environment changes is looked at.
            is_whole: Whether to digest every part, as where a checkpoint is saved.
        """
        point = "step" if is_inside else "loop"
        before = self._before.get(point)
        if before == step and (not is_whole or self._last_whole == step):
            return
        self._before[point] = step
        dense = self._settings.dense_from
        is_whole = is_whole or (dense is not None and step >= dense)
        finest = self._finest.get(point)
        if before is not None and finest and not is_whole and step // finest == before // finest:
            return
        if self._names != tuple(components):
            self._names, self._groups = tuple(components), {}
        groups = self._groups.get(point)
        if groups is None:
            groups = self._groups[point] = self._grouped(components, is_inside=is_inside)
        due = [group for group in groups if is_whole or groups[group].is_due(before, step)]
        found: dict[str, str | None] = {}
        for group in due:
            began = time.perf_counter()
            found |= self._digests(components, group, is_inside=is_inside)
            now = time.perf_counter()
            groups[group].spend(now - began, step, now)
        if is_whole and not is_inside:
            self._last_whole = step
        self._finest[point] = min((pace.stride for pace in groups.values()), default=1)
        if not found:
            return
        self._write({"step": step, "at": point, "parts": found})
        self._num_records += 1
        for pace in groups.values() if self._num_records % _LEVEL == 0 else ():
            pace.slow_to(_least(self._num_records))

    def _digests(
        self, components: Mapping[str, Any], names: tuple[str, ...], *, is_inside: bool
    ) -> dict[str, str | None]:
        try:
            ignore = self._settings.ignore
            return {**digests(components, names, exclude=self._exclude, ignore=ignore)}
        except UnsupportedError:
            if not is_inside:
                raise
            return dict.fromkeys(names)

    def _grouped(
        self, components: Mapping[str, Any], *, is_inside: bool
    ) -> dict[tuple[str, ...], Pace]:
        """What is looked at together: light components each for itself, heavy ones as one."""
        light = [name for name in components if not is_heavy(name, components[name])]
        heavy = tuple(name for name in components if name not in light)
        groups: list[tuple[str, ...]] = [(name,) for name in light]
        if is_inside:
            groups = [(name,) for name in light if name in _INSIDE]
        elif heavy:
            groups.append(heavy)
        paces = {}
        for group in groups:
            least = self._settings.heavy_every if group == heavy else 1
            paces[group] = Pace(self._settings.share / len(groups), least)
            paces[group].slow_to(_least(self._num_records))
        return paces

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        # One write, so that a kill tears at most the last line. Not flushed: it proves nothing
        # after a power cut, and the run must not wait for it.
        os.write(self._file, msgspec.json.encode(record) + b"\n")

    def close(self) -> None:
        """Close the file; the next record begins a new part of it."""
        if self._file is not None:
            os.close(self._file)
        self._file = self._last_whole = None
        self._before.clear()


def _least(num_records: int) -> int:
    """The fewest steps between two records of a file that holds so many already."""
    return 1 << min(num_records // _LEVEL, 40)


def _state_of(path: Path) -> tuple[bool, int]:
    """Whether the last line of a file was cut off, and how many lines it has."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False, 0
    return bool(content) and not content.endswith(b"\n"), content.count(b"\n")


# --------------------------------------------------------------------------- reading


@dataclass(frozen=True, order=True)
class Place:
    """A moment of a run."""

    step: int
    is_loop: bool
    """At the top of the loop, between two iterations; before it, right after a step."""

    def __str__(self) -> str:
        return f"step {self.step:,}"


@dataclass(frozen=True)
class Segment:
    """What one process wrote."""

    resumed_from: int | None
    """The step of the checkpoint that it went on from; None for a fresh start."""
    records: dict[Place, dict[str, str | None]]
    """Digests by component, in the order in which they were written."""


def read(path: Path) -> list[Segment]:
    """The trail of a run, process by process; lines that a kill cut off are left out."""
    file = path / NAME
    found: list[Segment] = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if "trail" in record:
            found.append(Segment(record["resumed_from"], {}))
        elif found:
            place = Place(record["step"], record["at"] == "loop")
            found[-1].records.setdefault(place, {}).update(record["parts"])
    return found


def merged(segments: Sequence[Segment]) -> Segment:
    """Several parts of a trail as one: it began as the first, and the latest record counts."""
    records: dict[Place, dict[str, str | None]] = {}
    for segment in segments:
        for place, record in segment.records.items():
            records.setdefault(place, {}).update(record)
    return Segment(segments[0].resumed_from if segments else None, records)


def last_step(path: Path) -> int | None:
    """The step that the newest record of a run tells of, read from the end of the file."""
    try:
        with (path / NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (1 << 16)))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            step = msgspec.json.decode(line).get("step")
        except msgspec.DecodeError:
            continue
        if step is not None:
            return step
    return None


@dataclass(frozen=True)
class Parting:
    """Where two runs first differ."""

    place: Place
    components: tuple[str, ...]
    """Every part that differs there, in the order of the run's components."""
    last_equal: Place | None
    """The last moment before it at which all parts were looked at and equal."""


def parting(expected: Segment, found: Segment) -> Parting | None:
    """Where two runs first differ, or None where they agree wherever both were looked at."""
    names = {name for record in found.records.values() for name in record}
    last_equal = None
    for place in sorted(found.records):
        record = found.records[place]
        other = expected.records.get(place, {})
        different = tuple(name for name in record if name in other and record[name] != other[name])
        if different:
            return Parting(place, different, last_equal)
        if names <= record.keys() & other.keys():
            last_equal = place
    return None


def first_places(expected: Segment, found: Segment) -> dict[str, Place]:
    """The first moment at which each component differs, for those that do."""
    first: dict[str, Place] = {}
    for place in sorted(found.records):
        other = expected.records.get(place, {})
        for name, digest in found.records[place].items():
            if name in other and other[name] != digest:
                first.setdefault(name, place)
    return first

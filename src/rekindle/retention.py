"""Which checkpoints of a run stay, and the deleting of the others.

The decision looks at what is in the run's directory and at nothing else, so it is the same after a
resume. It is a pure function (`decide`); `apply` deletes. The newest intact checkpoint and pinned
ones are never deleted.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from rekindle import entries, files, pins
from rekindle.cadence import count
from rekindle.checkpoint import step_directories, verify
from rekindle.codecs import values
from rekindle.errors import RekindleError, UnsupportedError, VersionError
from rekindle.report import Shown, columns, num_bytes, plural

_GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints of a run stay; one that several rules name stays, the others are deleted.

    A checkpoint is deleted only after a newer one is on the disk. The newest and pinned ones stay
    in any case.

    Args:
        last: The newest so many.
        best: So many with the best `metric`; of equal ones the earlier.
        metric: Name of a metric that `checkpoint` or `save` is given. A checkpoint without it, or
            with NaN, is not among the best.
        mode: Whether more is better, or less.
        every: Milestones: the first checkpoint at or after each multiple of so many steps.
        budget_gb: Gigabytes (10^9 bytes) on the disk, where what several checkpoints share counts
            once. Above it the oldest go, milestones and the last so many as well, until the rest
            fits; the newest, the best and pinned ones stay even then.
    """

    last: int | None = None
    best: int | None = None
    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    every: int | None = None
    budget_gb: float | None = None

    def __post_init__(self) -> None:
        if (self.best is None) != (self.metric is None):
            raise UnsupportedError(
                f"best={self.best!r}, metric={self.metric!r}: expected both of them or neither. "
                'For the best by the mean return: best=2, metric="return".'
            )
        if not self.has_rules and self.budget_gb is None:
            raise UnsupportedError(
                "Keep(): expected last=, best=, every= or budget_gb=, found none of them. "
                "Leave out keep= to keep every checkpoint."
            )
        for name in ("last", "best", "every"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, count(name, getattr(self, name)))
        if self.budget_gb is not None and not 0 < self.budget_gb < math.inf:
            raise UnsupportedError(f"budget_gb={self.budget_gb!r}: expected a number above 0.")
        if self.mode not in ("max", "min"):
            raise UnsupportedError(f"mode={self.mode!r}: expected 'max' or 'min'.")

    @property
    def has_rules(self) -> bool:
        """Whether it says more than how much room there is."""
        return not self.last is self.best is self.every is None


# --------------------------------------------------------------------------- what is there


class Inode(Struct, frozen=True):
    """One file on the disk, under however many names."""

    num_bytes: int
    """What it takes on the disk."""
    num_links: int
    """How many names it has, also outside of the run."""


Footprint: TypeAlias = Mapping[tuple[int, int], Inode]
"""What a checkpoint has on the disk, by device and number of inode."""


class Held(Struct, frozen=True):
    """One checkpoint as far as it matters whether it stays."""

    name: str
    step: int
    metrics: Mapping[str, Any] = {}
    is_damaged: bool = False
    footprint: Footprint = {}


def look(run: Path, *, damaged: Collection[str] = (), with_sizes: bool = True) -> list[Held]:
    """The checkpoints of a run, oldest first.

    Args:
        run: Its directory.
        damaged: Names of those that are known to be damaged.
        with_sizes: Whether to look up what they take on the disk.
    """
    return [
        Held(
            entry["name"],
            entry["step"],
            {key: values.decode(value) for key, value in entry.get("metrics", {}).items()},
            "damaged" in entry or entry["name"] in damaged,
            footprint(run / entry["name"]) if with_sizes else {},
        )
        for entry in entries.read(run)
    ]


def footprint(directory: Path) -> dict[tuple[int, int], Inode]:
    """What a directory has on the disk; a link to a directory elsewhere has next to nothing."""
    found: dict[tuple[int, int], Inode] = {}
    paths = [directory]
    if not directory.is_symlink():
        for above, _, names in os.walk(directory):
            paths += [Path(above), *(Path(above, name) for name in names)]
    for path in paths:
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process deletes this checkpoint right now
            continue
        # Names of a directory cannot be links, and each directory inside counts as one.
        links = 1 if path.is_dir() else status.st_nlink
        found[status.st_dev, status.st_ino] = Inode(status.st_blocks * 512, links)
    return found


def newest_intact(run: Path) -> tuple[str | None, list[str]]:
    """The newest checkpoint of which every byte is as written, and the newer ones that are not.

    Raises:
        VersionError: A newer version wrote one, which cannot be judged here.
    """
    damaged: list[str] = []
    for directory in reversed(step_directories(run)):
        try:
            is_intact = verify(directory).ok
        except VersionError:
            raise
        except RekindleError:
            is_intact = False
        if is_intact:
            return directory.name, damaged
        damaged.append(directory.name)
    return None, damaged


# --------------------------------------------------------------------------- what stays


class Verdict(Struct, frozen=True):
    """What becomes of one checkpoint, and why."""

    name: str
    step: int
    metrics: Mapping[str, Any]
    stays: bool
    reasons: tuple[str, ...]


class Decision(Struct, frozen=True):
    """What becomes of the checkpoints of a run, oldest first."""

    verdicts: tuple[Verdict, ...]
    kept_bytes: int
    """What the rest takes on the disk; what several share counts once."""
    freed_bytes: int
    """What deleting gives back: files that have no other name, here or in another run."""
    excess_bytes: int = 0
    """By how much the rest is over the budget, because all of it is protected."""

    @property
    def going(self) -> list[str]:
        """Names of those that are to be deleted, oldest first."""
        return [verdict.name for verdict in self.verdicts if not verdict.stays]


def decide(
    keep: Keep, held: Sequence[Held], *, newest: str | None, pinned: Collection[str] = ()
) -> Decision:
    """Decide which checkpoints stay.

    Args:
        keep: The rules.
        held: The checkpoints of the run, oldest first.
        newest: Name of the newest intact one. Without any, nothing is deleted.
        pinned: Names of those that are pinned.
    """
    firm, soft = _reasons(keep, held, newest, pinned)
    staying = [item for item in held if item.name in firm or item.name in soft]
    budget_bytes = None if keep.budget_gb is None else int(keep.budget_gb * _GB)
    over, kept_bytes = _over_budget(staying, firm, budget_bytes)
    verdicts = []
    for item in held:
        reasons = [*firm.get(item.name, ()), *soft.get(item.name, ())]
        stays = bool(reasons) and item.name not in over
        if item.name in over:
            reasons = [f"over the budget of {num_bytes(budget_bytes or 0)}"]
        elif not reasons:
            reasons = ["damaged" if item.is_damaged else "no rule keeps it"]
        verdicts.append(Verdict(item.name, item.step, item.metrics, stays, tuple(reasons)))
    going = [item for item, verdict in zip(held, verdicts, strict=True) if not verdict.stays]
    excess = 0 if budget_bytes is None else max(0, kept_bytes - budget_bytes)
    return Decision(tuple(verdicts), kept_bytes, _freed(going), excess)


def _over_budget(
    staying: Sequence[Held], firm: Collection[str], budget_bytes: int | None
) -> tuple[set[str], int]:
    """Names of those that there is no room for, and what the others take."""
    uses = Counter(key for item in staying for key in item.footprint)
    sizes = {key: inode.num_bytes for item in staying for key, inode in item.footprint.items()}
    total = sum(sizes.values())
    over: set[str] = set()
    for item in staying:
        if budget_bytes is None or total <= budget_bytes:
            break
        if item.name not in firm:
            over.add(item.name)
            uses.subtract(item.footprint.keys())
            total -= sum(sizes[key] for key in item.footprint if not uses[key])
    return over, total


_Reasons: TypeAlias = dict[str, list[str]]


def _reasons(
    keep: Keep, held: Sequence[Held], newest: str | None, pinned: Collection[str]
) -> tuple[_Reasons, _Reasons]:
    """Why checkpoints stay, by name: in any case, and as long as there is room."""
    firm: _Reasons = {}
    soft: _Reasons = {}
    steps = {item.name: item.step for item in held}
    if newest not in steps:
        return {item.name: ["no intact checkpoint is known"] for item in held}, soft
    known = []
    for item in held:
        if item.name == newest:
            firm.setdefault(item.name, []).append("the newest")
        elif item.step > steps[newest]:
            firm.setdefault(item.name, []).append("newer than the newest intact one")
        if item.name in pinned:
            firm.setdefault(item.name, []).append("pinned")
        if item.step <= steps[newest] and not item.is_damaged:
            known.append(item)
    for item, value in _best(keep, known):
        reason = f"among the best by {keep.metric}: {entries.cell(value)}"
        firm.setdefault(item.name, []).append(reason)
    for item in known[-keep.last :] if keep.last else ():
        soft.setdefault(item.name, []).append(f"among the last {keep.last}")
    for item, multiple in _milestones(keep, known):
        soft.setdefault(item.name, []).append(f"the first from step {multiple:,}")
    if not keep.has_rules:
        for item in held:
            soft.setdefault(item.name, []).append("within the budget")
    return firm, soft


def _best(keep: Keep, known: Sequence[Held]) -> list[tuple[Held, float]]:
    if keep.best is None or keep.metric is None:
        return []
    sign = -1 if keep.mode == "max" else 1
    measured = []
    for item in known:
        value = item.metrics.get(keep.metric)
        if isinstance(value, (int, float)) and not math.isnan(value):
            measured.append((item, value))
    # The sort is stable, so of equal ones the earlier comes first.
    return sorted(measured, key=lambda pair: sign * pair[1])[: keep.best]


def _milestones(keep: Keep, known: Sequence[Held]) -> list[tuple[Held, int]]:
    if keep.every is None:
        return []
    first: dict[int, Held] = {}
    for item in known:
        first.setdefault(item.step // keep.every * keep.every, item)
    return [(item, multiple) for multiple, item in first.items() if multiple]


def _freed(going: Sequence[Held]) -> int:
    names = Counter(key for item in going for key in item.footprint)
    inodes = {key: inode for item in going for key, inode in item.footprint.items()}
    return sum(inode.num_bytes for key, inode in inodes.items() if names[key] >= inode.num_links)


# --------------------------------------------------------------------------- deleting


@dataclass(frozen=True, repr=False)
class PruneReport(Shown):
    """What was deleted from a run, or would be, and why the rest stays."""

    path: str
    decision: Decision
    is_dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "path": self.path,
            "dry_run": self.is_dry_run,
            "checkpoints": [
                {
                    "name": verdict.name,
                    "step": verdict.step,
                    "stays": verdict.stays,
                    "reasons": list(verdict.reasons),
                }
                for verdict in self.decision.verdicts
            ],
            "freed_bytes": self.decision.freed_bytes,
            "kept_bytes": self.decision.kept_bytes,
            "excess_bytes": self.decision.excess_bytes,
        }

    @property
    def summary(self) -> str:
        """How many go, and what that frees."""
        going = len(self.decision.going)
        verb = "would be deleted" if self.is_dry_run else "deleted"
        freed, kept = num_bytes(self.decision.freed_bytes), num_bytes(self.decision.kept_bytes)
        text = f"{plural(going, 'checkpoint')} {verb}, {freed} freed; the rest takes {kept}"
        if self.decision.excess_bytes:
            excess = num_bytes(self.decision.excess_bytes)
            text += f", {excess} over the budget, all of it protected"
        return text

    def _text(self) -> str:
        rows = [
            [f"{v.step:,}", "stays" if v.stays else "goes", ", ".join(v.reasons)]
            for v in self.decision.verdicts
        ]
        return f"Run {self.path}\n{columns(rows)}\n{self.summary}"


def apply(run: Path, decision: Decision) -> None:
    """Delete what is to go, oldest first; what was pinned meanwhile stays."""
    for name in decision.going:
        directory = run / name
        if not pins.is_pinned(directory):
            files.remove_directory(directory)

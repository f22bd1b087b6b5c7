"""What the demo concludes: two checkpoints side by side, and whether they are identical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rekindle as rk
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.cli.side_by_side import as_data
from rekindle.compare import Comparison

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Proof:
    """The ends of two runs, held side by side."""

    comparisons: list[Comparison]
    """One per component, in the order of the checkpoint."""
    curves: tuple[Points, Points]
    """Step and mean return, of the uninterrupted run and of the resumed one."""

    @property
    def is_identical(self) -> bool:
        """Whether every compared value is the same, and there were some."""
        return self.num_values > 0 and all(found.is_identical for found in self.comparisons)

    @property
    def num_values(self) -> int:
        """How many values were compared."""
        return sum(found.num_values for found in self.comparisons)

    @property
    def num_ignored(self) -> int:
        """How many wall-clock values were not compared."""
        return sum(found.num_ignored for found in self.comparisons)

    @property
    def first(self) -> Comparison | None:
        """The first component that differs."""
        return next((found for found in self.comparisons if not found.is_identical), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "identical": self.is_identical,
            "first_difference": None if self.first is None else vars(self.first.differences[0]),
            "values": self.num_values,
            "wall_clock_values_not_compared": self.num_ignored,
            "components": [as_data(found) for found in self.comparisons],
            "curves": dict(zip(("uninterrupted", "resumed"), self.curves, strict=True)),
        }


def prove(uninterrupted: rk.Checkpoint, resumed: rk.Checkpoint) -> Proof:
    """Compare every value of two checkpoints but the times that things took."""
    comparisons = uninterrupted.compare(resumed, ignore=WALL_CLOCK)
    return Proof(comparisons, (curve(uninterrupted), curve(resumed)))


def curve(checkpoint: rk.Checkpoint) -> Points:
    """The learning curve that `rekindle.train` keeps among its callbacks."""
    if "callbacks" not in checkpoint:
        return []
    for callback in checkpoint["callbacks"].get("callbacks", ()):
        if "returns" in callback and "steps" in callback:
            return list(zip(callback["steps"], callback["returns"], strict=True))
    return []

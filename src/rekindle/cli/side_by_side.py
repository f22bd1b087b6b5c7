"""Two checkpoints side by side, component by component, as tables and as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rekindle.compare import Comparison

if TYPE_CHECKING:
    from rich.table import Table

_WHAT = {
    "policy": "weights, their gradients",
    "critic": "weights, their gradients",
    "target": "weights",
    "optimizer": "moments, step counts, learning rates",
    "replay_buffer": "transitions",
    "normalizer": "running statistics",
    "env": "physics, wrappers, random state",
    "rng": "random state of Python, numpy, torch",
    "agent": "counters, schedules, last rollout, logs",
    "callbacks": "learning curve, call counts",
    "progress": "step, updates, episodes",
}


def what(component: str) -> str:
    """What a component consists of, for people."""
    kind = "optimizer" if component.endswith("_optimizer") else component
    return _WHAT.get(kind, "")


def as_data(found: Comparison) -> dict[str, Any]:
    """One component for `--json`; a difference between no numbers is null."""
    largest = found.largest_difference
    return {
        "component": found.component,
        "what": what(found.component),
        "values": found.num_values,
        "num_differences": len(found.differences),
        "largest_difference": largest if math.isfinite(largest) else None,
    }


def table(comparisons: Sequence[Comparison], places: Mapping[str, object] | None = None) -> Table:
    """How many values each component has, and how many of them differ.

    Args:
        comparisons: One per component.
        places: Where in training a component first differed, where that is known; a column of its
            own if it is given, and one that has a place is not taken for identical.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("component")
    table.add_column("what", style="dim")
    headings = ["values", "differences", "largest difference"]
    for heading in headings if places is None else [*headings, "first differs at"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for found in comparisons:
        place = None if places is None else places.get(found.component)
        style = "green" if found.is_identical and place is None else "bold red"
        cells = [f"{len(found.differences):,}", _largest(found)]
        if places is not None:
            cells.append("" if place is None else str(place))
        table.add_row(
            found.component,
            what(found.component),
            f"{found.num_values:,}",
            *(Text(cell, style) for cell in cells),
        )
    table.add_section()
    table.add_row("all", "", f"{sum(found.num_values for found in comparisons):,}", style="bold")
    return table


def _largest(found: Comparison) -> str:
    if math.isinf(found.largest_difference):
        return "not a number"
    return f"{found.largest_difference:.3g}"

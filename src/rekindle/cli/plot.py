"""Learning curves drawn in text: a line for one run, marks for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.text import Text

Points = Sequence[tuple[float, float]]

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column of its eight dots."""


def plot(
    line: Points,
    marks: Points,
    verticals: Mapping[str, float],
    *,
    width: int = 80,
    height: int = 12,
    is_ascii: bool = False,
) -> Text:
    """Draw two curves over the same steps.

    Args:
        line: Points joined by a line.
        marks: Points drawn as marks, over the line.
        verticals: Steps to mark with a vertical line, by what happened there.
        width: Columns of the whole.
        height: Rows of the drawing, without its axis.
        is_ascii: Draw with ASCII characters only.
    """
    from rich.text import Text

    everything = [*line, *marks]
    if not everything:
        return Text("no episode ended, so there is no curve to draw", "dim")
    low, high = _range([value for _, value in everything])
    last = max([step for step, _ in everything] + list(verticals.values())) or 1
    labels = [f"{value:,.4g}" for value in (high, (low + high) / 2, low)]
    margin = max(map(len, labels))
    columns = max(10, width - margin - 2)
    grid = _Grid(columns, height, (0, last), (low, high), is_ascii)
    for step in verticals.values():
        grid.vertical(step)
    grid.line(line)
    grid.marks(marks)
    drawing = Text(no_wrap=True, overflow="crop")
    for row in range(height):
        label = {0: labels[0], height // 2: labels[1], height - 1: labels[2]}.get(row, "")
        drawing.append(f"{label.rjust(margin)} {'|' if is_ascii else '┤'}", "dim")
        drawing.append(grid.row(row)).append("\n")
    corner, bar = ("+", "-") if is_ascii else ("└", "─")
    drawing.append(" " * (margin + 1) + corner + bar * columns + "\n", "dim")
    ends = "0" + f"{last:,.0f} steps".rjust(columns - 1)
    drawing.append(" " * (margin + 2) + ends, "dim")
    if verticals:
        drawing.append("\n" + " " * (margin + 2)).append(_names(grid, verticals, columns))
    return drawing


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _names(grid: _Grid, verticals: Mapping[str, float], columns: int) -> Text:
    """What happened at each vertical, under it, as far as there is room."""
    from rich.text import Text

    names = sorted(verticals, key=lambda name: verticals[name])
    starts = [max(0, grid.column(verticals[name]) - len(name) // 2) for name in names]
    end = columns
    for index in reversed(range(len(names))):  # leftwards, where one would run into the next
        starts[index] = max(0, min(starts[index], end - len(names[index])))
        end = starts[index] - 2
    text = ""
    for name, start in zip(names, starts, strict=True):
        text = f"{text}  ".ljust(start) + name if text else " " * start + name
    return Text(text, "red")


class _Grid:
    """Characters, each of two by four dots."""

    def __init__(
        self,
        columns: int,
        rows: int,
        steps: tuple[float, float],
        values: tuple[float, float],
        is_ascii: bool,
    ) -> None:
        self._columns, self._rows = columns, rows
        self._steps, self._values = steps, values
        self._ascii = is_ascii
        self._dots = np.zeros((rows, columns), np.uint8)
        self._over: dict[tuple[int, int], tuple[str, str]] = {}

    def column(self, step: float) -> int:
        """The column of characters at a step."""
        return self._x(step) // 2

    def _x(self, step: float) -> int:
        low, high = self._steps
        return round((step - low) / (high - low) * (self._columns * 2 - 1))

    def _y(self, value: float) -> int:
        low, high = self._values
        return round((high - value) / (high - low) * (self._rows * 4 - 1))

    def vertical(self, step: float) -> None:
        """A line from top to bottom, under everything else."""
        for row in range(self._rows):
            self._over[row, self.column(step)] = ("|" if self._ascii else "┊", "red")

    def line(self, points: Points) -> None:
        """Join points with dots."""
        for (x1, y1), (x2, y2) in zip(points, points[1:] or points, strict=False):
            ends = self._x(x1), self._y(y1), self._x(x2), self._y(y2)
            count = max(abs(ends[2] - ends[0]), abs(ends[3] - ends[1]), 1)
            for i in range(count + 1):
                x = round(ends[0] + (ends[2] - ends[0]) * i / count)
                y = round(ends[1] + (ends[3] - ends[1]) * i / count)
                self._dots[y // 4, x // 2] |= _DOTS[y % 4][x % 2]
                self._over.pop((y // 4, x // 2), None)

    def marks(self, points: Points) -> None:
        """A mark at each point, over everything else."""
        for step, value in points:
            place = self._y(value) // 4, self.column(step)
            self._over[place] = ("o" if self._ascii else "●", "magenta")

    def row(self, row: int) -> Text:
        """One row of characters."""
        from rich.text import Text

        text = Text()
        for column in range(self._columns):
            dots = int(self._dots[row, column])
            drawn = "." if self._ascii else chr(_BRAILLE + dots)
            character, style = self._over.get((row, column), (drawn if dots else " ", "cyan"))
            text.append(character, style)
        return text

"""Where trainings stand: bars in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Display:
    """Where one training after another stands, in plain lines.

    Args:
        console: Where to print.
        steps: How many steps each of them takes.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._label = ""
        self._told = 0

    def begin(self, label: str, process: int | None = None) -> None:
        """The next training has been started."""
        self._label, self._told = label, 0
        if process is not None:
            self.say(f"{label}: process {process}")

    def advance(
        self, step: int, mean_return: float | None, resumed_from: int | None = None
    ) -> None:
        """It stands at a step."""
        quarter = 4 * step // self._steps
        if quarter > self._told:
            self.say(f"{self._label}: step {step:,}, return {number(mean_return)}")
        self._told = max(quarter, self._told)

    def end(
        self, step: int, mean_return: float | None, resumed_from: int | None, *, was_killed: bool
    ) -> None:
        """It has ended."""
        ending = "finished"
        if was_killed:
            ending = "SIGKILL"
        elif resumed_from is not None:
            ending = f"resumed from step {resumed_from:,}, finished"
        self.say(f"{self._label}: {ending} at step {step:,}")

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"  {text}", soft_wrap=True, markup=False)


class Bars(Display):
    """The same as progress bars."""

    def __init__(self, console: Console, steps: int, progress: Progress) -> None:
        super().__init__(console, steps)
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, label: str, process: int | None = None) -> None:
        """A bar for the next training."""
        self._task = self._progress.add_task(label, total=None, at="starting", note="")

    def advance(
        self, step: int, mean_return: float | None, resumed_from: int | None = None
    ) -> None:
        """Move the bar."""
        assert self._task is not None
        note = _note(mean_return, resumed_from)
        self._progress.update(
            self._task, total=self._steps, completed=step, at=f"{step:,}", note=note
        )

    def end(
        self, step: int, mean_return: float | None, resumed_from: int | None, *, was_killed: bool
    ) -> None:
        """Leave the bar where it is."""
        assert self._task is not None
        note = _note(mean_return, resumed_from)
        if was_killed:
            note += "  [bold red]SIGKILL[/]"
        self._progress.update(self._task, at=f"{step:,}", note=note)
        self._progress.stop_task(self._task)


def _note(mean_return: float | None, resumed_from: int | None) -> str:
    note = f"return {number(mean_return)}"
    if resumed_from is not None:
        note += f"  [green]resumed from {resumed_from:,}[/]"
    return note


@contextmanager
def open_display(console: Console, steps: int) -> Iterator[Display]:
    """Bars in a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Display(console, steps)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("[cyan]{task.fields[at]:>9}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(console, steps, progress)


def number(value: float | None) -> str:
    """A return, for people."""
    return "-" if value is None else f"{value:,.1f}"

"""Where a training stands is shown as a bar in a terminal, and as lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from rekindle.cli.display import open_display


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with open_display(console, 100) as display:
        display.begin("first", 41)
        for step in range(101):
            display.advance(step, None if step < 30 else step / 2)
        display.end(100, 50.0, None, was_killed=False)
        display.begin("second")
        display.advance(60, 30.0, 40)
        display.end(60, 30.0, 40, was_killed=True)
    return stream.getvalue()


def test_elsewhere_a_line_says_each_quarter() -> None:
    assert shown(terminal=False).splitlines() == [
        "  first: process 41",
        "  first: step 25, return -",
        "  first: step 50, return 25.0",
        "  first: step 75, return 37.5",
        "  first: step 100, return 50.0",
        "  first: finished at step 100",
        "  second: step 60, return 30.0",
        "  second: SIGKILL at step 60",
    ]


def test_a_terminal_gets_bars() -> None:
    text = shown(terminal=True)
    assert "━" in text
    assert "resumed from 40" in text
    assert "SIGKILL" in text
    assert "process" not in text


def test_a_resumed_training_says_so_at_its_end() -> None:
    stream = io.StringIO()
    with open_display(Console(file=stream, width=120), 10) as display:
        display.begin("again")
        display.end(10, None, 5, was_killed=False)
    assert stream.getvalue() == "  again: resumed from step 5, finished at step 10\n"

"""Curves drawn in text."""

from __future__ import annotations

from rekindle.cli.plot import plot

RISING = [(0, 0.0), (50, 10.0), (100, 20.0)]


def rows(text: str) -> list[str]:
    return [line.partition("┤")[2] for line in text.splitlines() if "┤" in line]


def test_a_rising_curve_goes_from_the_bottom_left_to_the_top_right() -> None:
    drawn = rows(plot(RISING, [], {}, width=40, height=8).plain)
    assert len(drawn) == 8
    filled = [row.strip() for row in drawn]
    assert all(filled)
    starts = [len(row) - len(row.lstrip()) for row in drawn]
    assert starts == sorted(starts, reverse=True)


def test_marks_lie_on_the_line_when_both_curves_are_the_same() -> None:
    drawn = rows(plot(RISING, RISING, {}, width=40, height=8).plain)
    assert sum(row.count("●") for row in drawn) == 3
    assert drawn[0].endswith("●")
    assert drawn[-1].startswith("●")


def test_a_mark_leaves_the_line_when_a_value_differs() -> None:
    moved = [(0, 0.0), (50, 0.0), (100, 20.0)]
    drawn = rows(plot(RISING, moved, {}, width=40, height=8).plain)
    assert drawn[-1].count("●") == 2


def test_what_happened_is_named_under_its_step() -> None:
    text = plot(RISING, RISING, {"SIGKILL": 60, "resumed": 50}, width=60, height=6).plain
    names = text.splitlines()[-1]
    assert names.index("resumed") < names.index("SIGKILL")
    assert any("┊" in row for row in rows(text))


def test_the_axis_names_its_ends() -> None:
    text = plot(RISING, [], {}, width=60, height=6).plain
    assert text.splitlines()[0].startswith("20 ")
    assert "100 steps" in text


def test_every_line_fits_the_width() -> None:
    text = plot(RISING, RISING, {"SIGKILL": 99, "resumed": 98}, width=60, height=6).plain
    assert max(map(len, text.splitlines())) <= 60


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert plot(RISING, RISING, {"SIGKILL": 60}, is_ascii=True).plain.isascii()


def test_one_point_and_none_are_drawn_too() -> None:
    assert "●" in plot([(5, 1.0)], [(5, 1.0)], {}).plain
    assert "no curve" in plot([], [], {}).plain

"""Arrays and values as lines of a tree."""

from __future__ import annotations

import numpy as np

from rekindle.cli.trees import described, lines_of, printable


def test_arrays_are_in_the_order_in_which_people_count() -> None:
    arrays = {f"layer.{index}": np.zeros(index) for index in (10, 2, 1)}
    rows = described({**arrays, "²": np.zeros(1)})
    assert [row["name"] for row in rows] == ["layer.1", "layer.2", "layer.10", "²"]
    assert rows[0] == {"name": "layer.1", "dtype": "float64", "shape": [1], "bytes": 8}


def test_a_type_that_numpy_lacks_has_its_own_name() -> None:
    held = np.zeros(2, np.dtype([("float8_e4m3fn", "u1")]))
    assert described({"w": held})[0]["dtype"] == "float8_e4m3fn"


def test_lines_are_broken_between_pairs() -> None:
    lines = list(lines_of({"alpha": 1, "beta": 0.5, "gamma": "text"}, 18))
    assert lines == ["alpha 1 · beta 0.5", "gamma text"]


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[1m\n\x07é") == "a\\x1b[1m\\n\\x07é"

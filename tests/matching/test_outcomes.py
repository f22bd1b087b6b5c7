"""What stands at a place, in words, and whether it can stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rekindle.matching.outcomes import MISSING, describe, is_same_value, present


def test_what_is_missing_is_left_out_and_none_is_not() -> None:
    assert present([1, MISSING, None]) == [1, None]
    assert repr(MISSING) == "nothing"


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (MISSING, "nothing"),
        (None, "None"),
        (int, "the class builtins:int"),
        ([], "an object of class builtins:list"),
    ],
)
def test_a_live_value_is_told_by_its_class(live: Any, said: str) -> None:
    assert describe(live) == said


@pytest.mark.parametrize(
    ("live", "outcome", "stays"),
    [
        (10**6, int("1000000"), True),
        ("text", "".join(["te", "xt"]), True),
        (float("nan"), float("nan"), False),
        (0.0, -0.0, False),
        (-0.0, -0.0, True),
        (1, True, False),
        (1, 1.0, False),
        ([], [], False),
        (np.float64(1), np.float64(1), False),
    ],
)
def test_a_plain_value_stays_where_it_is_equal_bit_for_bit(
    live: Any, outcome: Any, stays: bool
) -> None:
    assert is_same_value(live, outcome) is stays
    assert is_same_value(live, live)

"""Two checkpoints side by side: one row per component, and what differs stands out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest
from rich.console import Console

from rekindle.cli import side_by_side
from rekindle.compare import Comparison
from rekindle.errors import Difference

SAME = Comparison("policy", num_values=1234)
OTHER = Comparison(
    "actor_optimizer", 5, differences=[Difference("lr", "1", "2")], largest_difference=0.25
)


def shown(*found: Comparison, places: Mapping[str, object] | None = None) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    console.print(side_by_side.table(found, places))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return line


def test_a_component_that_differs_stands_out() -> None:
    text = shown(SAME, OTHER)
    assert "weights, their gradients" in row(text, "policy")
    assert "1,234" in row(text, "policy")
    assert "\x1b[32m" in row(text, "policy")
    assert "\x1b[1;31m" in row(text, "actor_optimizer")
    assert "0.25" in row(text, "actor_optimizer")
    assert "moments" in row(text, "actor_optimizer")
    assert "1,239" in text
    assert "first differs at" not in text


def test_a_component_that_differed_on_the_way_stands_out_too() -> None:
    text = shown(SAME, OTHER, places={"policy": "step 7"})
    assert "first differs at" in text
    assert "step 7" in row(text, "policy")
    assert "\x1b[1;31m" in row(text, "policy")
    assert "step" not in row(text, "actor_optimizer").replace("step counts", "")


@pytest.mark.parametrize("largest", [float("inf"), float("nan")])
def test_a_difference_between_no_numbers_is_null_as_data(largest: float) -> None:
    found = Comparison("policy", 1, largest_difference=largest)
    told = json.loads(json.dumps(side_by_side.as_data(found), allow_nan=False))
    assert told["largest_difference"] is None
    assert side_by_side.as_data(OTHER)["largest_difference"] == 0.25


def test_a_name_of_a_users_own_is_not_explained() -> None:
    assert side_by_side.what("my_part") == ""
    assert side_by_side.what("critic_optimizer") == side_by_side.what("optimizer")

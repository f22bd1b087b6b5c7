"""`rekindle show` prints what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.command import rekindle

import rekindle as rk


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    policy: dict[str, Any] = {
        f"layer.{index}": np.zeros((2, index), np.float32) for index in range(12)
    }
    policy["count"] = np.array(3)
    rk.save(
        tmp_path / "x",
        step=12_345,
        metrics={"return": -151.25, "loss": float("nan")},
        counters={"updates": 77},
        policy=policy,
        progress={"step": 1},
    )
    return tmp_path / "x"


def test_the_tree_has_components_arrays_and_facts(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, "show", checkpoint)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == str(checkpoint)
    assert "step 12,345" in lines[1]
    for said in ("policy", "13 arrays", "progress", "return -151.25", "updates 77", "python 3."):
        assert said in result.out
    row = next(line for line in lines if "layer.3" in line)
    assert row.split("layer.3")[1].split() == ["float32", "(2,", "3)", "24", "B"]


def test_long_lists_are_folded_unless_all_is_asked_for(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folded = rekindle(capsys, "show", checkpoint).out
    assert "layer.11" not in folded
    assert "... and 6 more arrays (--all shows them)" in folded
    everything = rekindle(capsys, "show", checkpoint, "--all").out
    assert "more arrays" not in everything
    # As people count, not as text sorts.
    assert (
        everything.index("layer.2 ") < everything.index("layer.10") < everything.index("layer.11")
    )


def test_json_has_every_array_and_the_manifest(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = rekindle(capsys, "show", checkpoint, "--json").json
    assert told["path"] == str(checkpoint)
    assert told["step"] == 12_345
    assert told["metrics"] == {"return": -151.25, "loss": None}
    assert len(told["components"]["policy"]["arrays"]) == 13
    assert {"name": "layer.3", "dtype": "float32", "shape": [2, 3], "bytes": 24} in told[
        "components"
    ]["policy"]["arrays"]
    assert "policy.safetensors" in told["files"]


def test_a_run_shows_its_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rk.Run(tmp_path / "run") as run:
        run.track(policy={"weight": np.zeros(1)})
        run.save(step=1)
        run.save(step=2)
    result = rekindle(capsys, "show", run.path)
    assert "step 2 " in result.out
    assert "after step_000000001" in result.out


def test_spaces_are_named_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    rk.save(tmp_path / "x", env=gymnasium.make("CartPole-v1"))
    result = rekindle(capsys, "show", tmp_path / "x")
    assert "observation Box(4,) float32 · action Discrete(2)" in result.out


def test_types_that_numpy_lacks_have_their_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    rk.save(tmp_path / "x", policy={"weight": torch.zeros(3, dtype=torch.bfloat16)})
    assert "bfloat16" in rekindle(capsys, "show", tmp_path / "x").out


def test_a_damaged_component_is_marked_and_the_others_are_shown(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "progress.json").write_text("{}")
    result = rekindle(capsys, "show", checkpoint)
    assert result.status == rk.DamagedError.exit_code
    assert "layer.3" in result.out
    assert "damaged: " in result.out
    told = rekindle(capsys, "show", checkpoint, "--json").json
    assert "damaged" in told["components"]["progress"]
    assert "damaged" not in told["components"]["policy"]


def test_markup_in_a_name_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rk.save(tmp_path / "[red]x", policy={"[bold]w": np.zeros(1)}, metrics={"[blue]r": 1.0})
    result = rekindle(capsys, "show", tmp_path / "[red]x")
    assert all(said in result.out for said in ("[red]x", "[bold]w", "[blue]r"))

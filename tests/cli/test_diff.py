"""`rekindle diff` prints what differs, and says with its status whether something does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import rekindle

import rekindle as rk

SB3 = Path(__file__).parents[1] / "golden" / "sb3" / "v2.9.2" / "checkpoint_callback" / "ckpts"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    state = {f"body.{index}.weight": np.full((2, 2), float(index + 1)) for index in range(12)}
    rk.save(tmp_path / "a", step=1, policy=state, agent={"rate": 0.1})
    other = {name: value + 0.5 for name, value in state.items()}
    rk.save(tmp_path / "b", step=2, policy=other, agent={"rate": 0.1})
    return tmp_path / "a", tmp_path / "b"


def test_the_status_is_that_of_diff(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rekindle(capsys, "diff", pair[0], pair[0]).status == 0
    assert rekindle(capsys, "diff", *pair).status == 1
    gone = rekindle(capsys, "diff", pair[0], pair[0] / "nothing")
    assert gone.status == rk.NotFoundError.exit_code
    assert "found nothing" in gone.err


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(SB3)
    paths = [f"rl_model_{step}_steps.zip" for step in (100, 200)]
    result = rekindle(capsys, "diff", *paths)
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("A  rl_model_100_steps.zip")
    row = next(line for line in lines if "critic.qf1.2" in line)
    assert row.split() == ["critic.qf1.2", "weight", "bias", "0.212", "0.0312", "0", "%"]
    assert "... and 4 more layers (--all shows them)" in result.out


def test_a_file_that_could_be_of_two_formats_is_read_as_the_one_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one leaf.npy"
    np.save(file, np.arange(3.0))
    told = rekindle(capsys, "diff", file, file, "--format-a", "equinox", "--json").json
    assert [told[side]["format"] for side in ("first", "second")] == ["equinox", "numpy"]
    both = rekindle(capsys, "diff", file, file, "--format-a", "equinox", "--format-b", "equinox")
    assert both.status == 0
    wrong = rekindle(capsys, "diff", file, file, "--format-b", "no such format")
    assert wrong.status != 0
    assert "no such format" in wrong.err


def test_all_shows_every_array(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "body.11.weight" not in rekindle(capsys, "diff", *pair).out
    everything = rekindle(capsys, "diff", *pair, "--all").out
    assert "body.11.weight" in everything
    assert "more layer" not in everything
    # The furthest apart first, and what is the same in one line.
    assert everything.index("body.0.weight") < everything.index("body.1.weight")
    assert "same: agent (1 value)" in everything


def test_json_has_everything(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "diff", *pair, "--json")
    assert result.status == 1
    told = result.json
    assert told["same"] is False
    assert told["components"]["agent"]["same"] is True
    assert len(told["components"]["policy"]["layers"]) == 12
    (counter,) = told["facts"]["counters"]
    assert counter == {"key": "step", "expected": "1", "found": "2"}


def test_markup_in_a_name_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        rk.save(tmp_path / name, policy={"[red]w.x": np.full(2, value)}, agent={"[bold]k": value})
    out = rekindle(capsys, "diff", tmp_path / "a", tmp_path / "b").out
    assert "[red]w" in out
    assert "[bold]k: 1 → 2" in out

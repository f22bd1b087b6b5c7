"""`rekindle verify` finds what changed, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import rekindle
from tests.little_loop import saved_twice

import rekindle as rk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_twice(tmp_path / "a run")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # other checkpoints may hold the same bytes
    path.write_bytes(content)


def test_an_intact_run_is_said_to_be_intact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "verify", run)
    assert result.status == 0
    assert f"{run}: intact (2 checkpoints" in result.out
    told = rekindle(capsys, "verify", run, "--json").json
    assert told["ok"] is True
    assert told["checkpoints"] == 2


def test_a_flipped_byte_is_named_with_what_was_expected_and_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "step_000000020" / "policy.safetensors")
    result = rekindle(capsys, "verify", run)
    assert result.status == rk.DamagedError.exit_code
    lines = [line.strip() for line in result.out.splitlines()]
    assert "damaged" in lines[0]
    assert lines[1] == "step_000000020/policy.safetensors"
    assert lines[2].startswith("expected  blake3 ")
    assert lines[3].startswith("found     blake3 ")
    assert lines[2].split()[-1] != lines[3].split()[-1]


def test_damage_is_json_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "step_000000010" / "rng.json").unlink()
    (run / "step_000000020" / "more.txt").write_text("x")
    result = rekindle(capsys, "verify", run, "--json")
    assert result.status == rk.DamagedError.exit_code
    told = result.json
    assert told["ok"] is False
    keys = {difference["key"] for difference in told["differences"]}
    assert keys == {"step_000000010/rng.json", "step_000000020/more.txt"}


def test_one_checkpoint_of_a_damaged_run_may_be_intact(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "step_000000020" / "policy.safetensors")
    assert rekindle(capsys, "verify", run / "step_000000010").status == 0

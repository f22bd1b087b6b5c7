"""`rekindle pack` and `rekindle unpack` carry a checkpoint from one place to the other."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import rekindle, shell
from tests.little_loop import saved_twice

import rekindle as rk
from rekindle.report import num_bytes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_twice(tmp_path / "a run")


@pytest.fixture
def packed(run: Path, tmp_path: Path) -> Path:
    return rk.pack(run, tmp_path / "packed.zip").path


def test_a_checkpoint_is_packed_and_unpacked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, out, back = run / "step_000000010", tmp_path / "out.zip", tmp_path / "back"
    result = rekindle(capsys, "pack", step, out)
    assert result.status == 0
    size = num_bytes(rk.open(step).num_bytes)
    assert result.out.strip() == f"✓ {out}: step 10 packed from {step} (4 files, {size})"
    result = rekindle(capsys, "unpack", out, back)
    assert result.status == 0
    assert f"✓ {back}: step 10 unpacked from {out}" in result.out
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in step.iterdir()
    }


def test_a_run_is_its_newest_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = rekindle(capsys, "pack", run, tmp_path / "x.zip", "--json").json
    assert told == {
        "path": str(tmp_path / "x.zip"),
        "from": str(run / "step_000000020"),
        "step": 20,
        "files": 4,
        "bytes": rk.open(run).num_bytes,
    }
    told = rekindle(capsys, "unpack", tmp_path / "x.zip", tmp_path / "x", "--json").json
    assert told["from"] == str(tmp_path / "x.zip")
    assert told["step"] == 20


def test_what_is_there_is_replaced_only_when_asked_for(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rekindle(capsys, "unpack", packed, tmp_path / "x").status == 0
    for words in (("pack", run / "step_000000010", packed), ("unpack", packed, tmp_path / "x")):
        result = rekindle(capsys, *words)
        assert result.status == rk.AlreadyExistsError.exit_code
        assert rekindle(capsys, *words, "--overwrite").status == 0
    assert rk.open(tmp_path / "x").step == rk.open(packed).step == 10


def test_damage_ends_it_and_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "step_000000020" / "rng.json").write_bytes(b"{}")
    result = rekindle(capsys, "pack", run, tmp_path / "x.zip")
    assert result.status == rk.DamagedError.exit_code
    assert "rng.json" in result.err
    assert not (tmp_path / "x.zip").exists()


def test_a_name_of_another_kind_is_refused(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rekindle(capsys, "pack", run, tmp_path / "x").status == rk.UnsupportedError.exit_code
    assert rekindle(capsys, "unpack", run, tmp_path / "x").status == rk.FormatError.exit_code
    missing = rekindle(capsys, "pack", tmp_path / "missing", tmp_path / "x.zip")
    assert missing.status == rk.NotFoundError.exit_code


def test_one_file_is_shown_and_verified_like_a_directory(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = run / "step_000000020"
    for words in (("show",), ("show", "--json"), ("verify",), ("verify", "--json")):
        found, wanted = (rekindle(capsys, *words, path) for path in (packed, step))
        assert found.status == 0
        assert found.out.replace(str(packed), "") == wanted.out.replace(str(step), "")


def test_damage_to_one_file_in_it_is_named(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(packed) as found:
        size = found.getinfo("policy.safetensors").file_size
    data = bytearray(packed.read_bytes())
    data[data.index(np.arange(100.0).tobytes()) + size // 2] ^= 1
    packed.write_bytes(data)
    result = rekindle(capsys, "verify", packed)
    assert result.status == rk.DamagedError.exit_code
    assert "policy.safetensors" in result.out
    assert "rng.json" not in result.out
    shown = rekindle(capsys, "show", packed)
    assert "rng" in shown.out


def test_a_file_of_something_else_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as made:
        made.writestr("readme.txt", "hello")
    for command in ("show", "verify"):
        result = shell(command, tmp_path / "model.zip")
        assert result.status == rk.FormatError.exit_code
        assert "found a ZIP archive with other members" in result.err
        assert "Traceback" not in result.err

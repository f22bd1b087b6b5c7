"""A file of another library is held against what it can be checked by, and no more is claimed."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import pytest
from tests.cli.command import rekindle

import rekindle as rk

GOLDEN = Path(__file__).parent / "golden"
MODEL = GOLDEN / "sb3/v2.9.2/contrib_tqc/model.zip"
UNCHECKED = {
    "pickle": GOLDEN / "sb3/v2.9.2/contrib_tqc/replay_buffer.pkl",
    "leaves": GOLDEN / "equinox/mlp/mlp.eqx",
    "legacy torch": GOLDEN / "torch/module_legacy.pt",
    "velora": GOLDEN / "velora/ct_plain/saves",
}


def copy(source: Path, path: Path) -> Path:
    return Path(shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path))


def test_an_archive_is_intact_when_every_checksum_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = rk.verify(MODEL)
    assert report.ok
    assert "every checksum as written" in str(report)
    result = rekindle(capsys, "verify", MODEL)
    assert result.status == 0
    assert result.out.startswith("✓")
    assert rekindle(capsys, "verify", MODEL, "--json").json["ok"] is True


def test_a_flipped_byte_in_any_member_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(MODEL) as archive:
        members = [(info.filename, info.header_offset, info.file_size)
                   for info in archive.infolist()]  # fmt: skip
    path = tmp_path / "x.zip"
    for name, offset, size in members:
        copy(MODEL, path)
        data = bytearray(path.read_bytes())
        data[offset + 30 + len(name) + size // 2] ^= 1
        path.write_bytes(data)
        report = rk.verify(path)
        assert not report.ok, name
        assert any(name in item.key or name in item.found for item in report.differences), name
    result = rekindle(capsys, "verify", path)
    assert result.status == rk.DamagedError.exit_code
    assert "✗" in result.out


def test_a_flipped_byte_in_a_large_array_is_found(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.zeros(100_000)}, path)
    assert rk.verify(path).ok
    data = bytearray(path.read_bytes())
    data[200_000] ^= 1
    path.write_bytes(data)
    # It opens: large arrays are only mapped, and their checksums not compared until one asks.
    assert rk.open(path).arrays("policy")["weight"].any()
    (difference,) = rk.verify(path).differences
    assert "checksum" in difference.expected


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_holds_no_checksum_is_never_called_intact(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = rk.verify(UNCHECKED[name])
    assert not report.ok
    assert not report.differences
    assert report.unchecked
    assert "not all of it can be checked" in str(report)
    result = rekindle(capsys, "verify", UNCHECKED[name])
    assert result.status == rk.UnsupportedError.exit_code
    assert result.out.startswith("?")
    assert "holds no checksum" in result.out
    told = rekindle(capsys, "verify", UNCHECKED[name], "--json").json
    assert told["ok"] is False
    assert told["unchecked"]


@pytest.mark.parametrize("name", UNCHECKED)
def test_a_truncated_file_is_damaged(name: str, tmp_path: Path) -> None:
    path = copy(UNCHECKED[name], tmp_path / "x")
    file = path if path.is_file() else next(path.rglob("model_state.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    report = rk.verify(path)
    assert report.differences
    assert "damaged" in str(report)


def test_a_stream_is_checked_by_its_own_sum(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress((GOLDEN / "torch/module.pt").read_bytes()))
    assert rk.verify(path).ok
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert not rk.verify(path).ok
    assert rk.verify(path).differences

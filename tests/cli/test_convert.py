"""`rekindle convert` says what was carried and what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import rekindle, shell

import rekindle as rk

GOLDEN = Path(__file__).parent.parent / "golden"
COGYM = GOLDEN / "cogym" / "SAC" / "checkpoint_1"
EQUINOX = GOLDEN / "equinox" / "mlp" / "mlp.eqx"


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back.eqx"
    result = rekindle(capsys, "convert", EQUINOX, ours)
    assert (result.status, result.err) == (0, "")
    assert f"✓ {ours}: rekindle, from {EQUINOX} (equinox)" in result.out
    assert "agent" in result.out
    assert "absent agent: names of leaves, which the file does not hold" in result.out
    result = shell("convert", ours, back, "--to", "equinox", "--from", "rekindle")
    assert (result.status, result.err) == (0, "")
    assert back.read_bytes() == EQUINOX.read_bytes()


def test_what_is_lost_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "convert", COGYM, tmp_path / "a.pt", "--to", "metta")
    assert result.status == 0
    assert "lost replay_buffer: a policy of Metta cannot hold it" in result.out
    result = rekindle(capsys, "convert", COGYM, tmp_path / "b.pt", "--to", "metta", "--json")
    assert [part["component"] for part in result.json["carried"]] == ["policy", "agent"]
    assert "critic" in [part["key"] for part in result.json["lost"]]
    assert (result.json["source_format"], result.json["step"]) == ("cogym", 400)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--to", "cogym"), rk.UnsupportedError.exit_code, "policy: expected it"),
        (("--to", "something"), rk.FormatError.exit_code, "expected a format, one of rekindle"),
        (("--from", "velora"), rk.FormatError.exit_code, "expected a folder that Velora wrote"),
    ],
)
def test_what_cannot_be_converted_ends_with_its_reason(
    arguments: tuple[str, ...],
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = rekindle(capsys, "convert", EQUINOX, tmp_path / "out", *arguments)
    assert (result.status, result.out) == (status, "")
    assert said in result.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.zip"
    assert rekindle(capsys, "convert", EQUINOX, out).status == 0
    assert rekindle(capsys, "convert", EQUINOX, out).status == rk.AlreadyExistsError.exit_code
    assert rekindle(capsys, "convert", EQUINOX, out, "--overwrite").status == 0

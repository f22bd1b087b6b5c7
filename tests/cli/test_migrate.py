"""`rekindle migrate` goes on with the rest, says what it could not do, and can be run again."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cli.command import PROGRAM, rekindle

import rekindle as rk

GOLDEN = Path(__file__).parent.parent / "golden"
EQUINOX = GOLDEN / "equinox" / "mlp" / "mlp.eqx"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    shutil.copytree(GOLDEN / "velora" / "ct_plain" / "saves", root / "saves")
    shutil.copy(EQUINOX, root / "mlp.eqx")
    (root / "notes.txt").write_text("mine")
    return root


def test_a_tree_in_place(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "migrate", tree)
    assert (result.status, result.err) == (0, "")
    file = tree / "mlp.eqx"
    assert f"✓ {file}: was equinox, original at {file}.backup" in result.out
    assert f"{tree}: 2 migrated, 0 current already, 1 other file left alone" in result.out
    again = rekindle(capsys, "migrate", tree)
    assert again.status == 0
    assert f"{tree}: 0 migrated, 2 current already" in again.out


def test_a_tree_into_a_directory(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tree.rglob("*"))
    for _ in range(2):
        assert rekindle(capsys, "migrate", tree, tmp_path / "new").status == 0
        assert sorted(tree.rglob("*")) == before
    assert isinstance(rk.open(tmp_path / "new" / "mlp.eqx"), rk.Checkpoint)


def test_several_into_a_directory_keep_their_names(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert rekindle(capsys, "migrate", tree / "saves", tree / "mlp.eqx", new).status == 0
    assert {path.name for path in new.iterdir()} == {"saves", "mlp.eqx"}


def test_several_in_place_without_backups(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(
        capsys, "migrate", tree / "saves", tree / "mlp.eqx", "--in-place", "--no-backup", "--json"
    )
    assert result.status == 0
    assert [len(report["migrated"]) for report in result.json["reports"]] == [1, 1]
    assert not list(tree.rglob("*.backup"))


def test_what_could_not_be_migrated_is_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "cut.eqx").write_bytes(EQUINOX.read_bytes()[:200])
    result = rekindle(capsys, "migrate", tree)
    assert result.status == 1
    assert f"✗ {tree / 'cut.eqx'}: " in result.out
    assert f"{tree}: 2 migrated, 0 current already, 1 failed" in result.out
    told = rekindle(capsys, "migrate", tree, "--json")
    assert told.status == 1
    assert told.json["ok"] is False
    (failed,) = told.json["reports"][0]["failed"]
    assert (failed["path"], bool(failed["reason"])) == (str(tree / "cut.eqx"), True)


def test_nothing_there_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, "migrate", tmp_path / "none")
    assert (result.status, result.out) == (rk.NotFoundError.exit_code, "")
    assert result.err.startswith(f"rekindle: {tmp_path / 'none'}: expected a file or directory")


def test_a_terminal_gets_a_bar(tree: Path) -> None:
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "migrate", str(tree)], stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert child.wait(60) == 0
    assert "━" in shown.decode()
    assert "2 migrated" in shown.decode()

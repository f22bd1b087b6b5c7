"""`rekindle show` of another library's file: everything in it, as something to read."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
from tests.cli.command import rekindle, shell

import rekindle as rk

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = GOLDEN / "sb3/v2.9.2/ppo_lr_schedule_custom_net/model.zip"
FILES = {
    "Stable-Baselines3": MODEL,
    "a folder of Stable-Baselines3": GOLDEN / "sb3/v2.9.2/checkpoint_callback/ckpts",
    "Velora": GOLDEN / "velora/ct_buffer_config/saves",
    "CO-GYM": GOLDEN / "cogym/SAC",
    "Metta": GOLDEN / "metta/v2_standard/checkpoint.pt",
    "Equinox": GOLDEN / "equinox/mlp/mlp.eqx",
    "torch": GOLDEN / "torch/module.pt",
}


@pytest.mark.parametrize("name", FILES)
def test_every_component_and_every_note_is_shown(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = FILES[name]
    opened = rk.open(path)
    assert isinstance(opened, rk.ForeignCheckpoint)
    result = rekindle(capsys, "show", path)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == str(path)
    assert opened.format in lines[1]
    for component in opened:
        assert any(line.startswith(f"├── {component}  ") for line in lines), component
    records = {key for component in opened for key in opened.records(component)}
    unfolded = _words(result.out)
    for note in opened.notes:
        assert note.key in records or _words(f"{note.kind} {note}") in unfolded


def _words(text: str) -> str:
    """Text without the guides of a tree, and however its lines were folded."""
    return " ".join(text.translate(str.maketrans("│├└─", "    ")).split())


@pytest.mark.parametrize("name", FILES)
def test_json_has_everything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FILES[name]
    opened = rk.open(path)
    assert isinstance(opened, rk.ForeignCheckpoint)
    told = rekindle(capsys, "show", path, "--json").json
    assert (told["path"], told["format"], told["step"]) == (str(path), opened.format, opened.step)
    assert len(told["notes"]) == len(opened.notes)
    assert list(told["components"]) == list(opened)
    for component, content in told["components"].items():
        names = [array["name"] for array in content["arrays"]]
        assert set(names) <= set(opened.arrays(component))
        assert set(content["records"]) == set(opened.records(component))


def test_the_lines_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    out = rekindle(capsys, "show", MODEL).out
    lines = out.splitlines()
    assert lines[1] == "├── sb3.model 2.9.2 · step 256 · 33.9 KB"
    assert lines[2] == "├── policy  10 arrays · 1.8 KB"
    assert "│   ├── param_groups.0  lr 0 · momentum 0.5 · alpha 0.95" in out
    assert "record lr_schedule  <FloatSchedule value_schedule=<linear.<locals>.f ...>>" in out
    assert "spaces  observation Box(4,) float32 · action Discrete(2)" in out
    assert "... and 3 more arrays (--all shows them)" in out
    assert "absent   replay_buffer: a model of Stable-Baselines3 does not hold it" in out
    everything = rekindle(capsys, "show", MODEL, "--all").out
    assert "--all shows them" not in everything
    assert "gae_lambda" in everything


def test_what_could_steer_a_terminal_is_printed_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    held = {"[bold]\x1b[31mred": torch.zeros(1), "note\x1b]0;title\x07": "\x1b[2J\r\n[red]x"}
    torch.save({"model": {"\x1b[31mw": torch.zeros(1)}, "config": held}, tmp_path / "x")
    result = rekindle(capsys, "show", tmp_path / "x")
    assert result.status == 0
    assert "\x1b" not in result.out
    assert "\\x1b[31mw" in result.out
    assert "[bold]" in result.out
    assert "\\x1b[2J\\r\\n[red]x" in result.out


def test_text_that_is_none_is_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = "\ud800"
    data = pickle.dumps({"policy": half, half: 1}, protocol=2)
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/version", "3\n")
    assert rekindle(capsys, "show", tmp_path / "x").status == 0
    told = rekindle(capsys, "show", tmp_path / "x", "--json")
    assert told.status == 0
    assert "\\ud800" in told.json["components"]["agent"]["values"]


def test_a_program_of_its_own_shows_a_file() -> None:
    result = shell("show", FILES["Equinox"])
    assert result.status == 0, result.err
    assert "equinox · a policy · step unknown" in result.out
    assert "absent   agent: names of leaves, which the file does not hold" in result.out

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import torch
import zstandard
from torch import nn

from rekindle.errors import FormatError, RekindleError
from rekindle.formats import torch_checkpoint
from rekindle.formats.protocol import Confidence, Kind
from rekindle.formats.recognition import recognise

FORMAT = torch_checkpoint.FORMAT
GOLDEN = Path(__file__).parents[1] / "golden" / "torch"


def read(value: Any, path: Path) -> Any:
    torch.save(value, path)
    assert recognise(path).name == "torch"
    return FORMAT.read(path)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return module, optimizer


def assert_same(found: Any, module: nn.Module) -> None:
    state = module.state_dict()
    assert list(found) == list(state)
    assert all(found[name].tobytes() == state[name].numpy().tobytes() for name in state)


def test_a_state_dict_is_a_policy(tmp_path: Path) -> None:
    module, _ = trained()
    reading = read(module.state_dict(), tmp_path / "x")
    assert reading.kind == "policy"
    assert_same(reading.components["policy"], module)


def test_a_whole_module_becomes_its_state_dict(tmp_path: Path) -> None:
    module, optimizer = trained()
    reading = read(module, tmp_path / "x")
    assert_same(reading.components["policy"], module)
    assert any(note.kind is Kind.INERT and "whole module" in note.text for note in reading.notes)
    both = read({"actor": module, "optimizer": optimizer.state_dict()}, tmp_path / "y")
    assert_same(both.components["policy"], module)
    assert both.components["optimizer"]["param_groups"][0]["lr"] == 0.001


def test_what_is_not_known_by_name_is_kept(tmp_path: Path) -> None:
    reading = read({"weights": torch.ones(2), "policy": 3, 5: [torch.zeros(1)]}, tmp_path / "x")
    assert list(reading.components) == ["agent"]
    assert list(reading.components["agent"]) == ["weights", "policy", 5]
    assert read([torch.ones(1)], tmp_path / "y").components["agent"][0].shape == (1,)


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress, lz4.frame.compress])
def test_a_compressed_file_is_read_as_the_same(wrap: Any, tmp_path: Path) -> None:
    module, _ = trained()
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    path = tmp_path / "model.pt.packed"
    path.write_bytes(wrap(buffer.getvalue()))
    assert FORMAT.sniff(path) is Confidence.CONTAINER
    assert_same(recognise(path).read(path).components["policy"], module)


@pytest.mark.parametrize("name", ["module.pt", "module_legacy.pt", "script.pt"])
def test_modules_without_their_classes_are_read(name: str) -> None:
    reading = recognise(GOLDEN / name).read(GOLDEN / name)
    expected = np.load(GOLDEN / "expected.npz")
    prefix = "script" if name == "script.pt" else "module"
    for key, array in reading.components["policy"].items():
        assert array.tobytes() == expected[f"{prefix}/{key}"].tobytes()
    if "legacy" in name:
        assert any("class Agent" in text for text in reading.details["sources"].values())


def test_other_files_are_not_taken_for_torch_s(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"text", b"\x80\x02N.", gzip.compress(b"text")):
        path.write_bytes(data)
        assert FORMAT.sniff(path) is None
        with pytest.raises(RekindleError):
            FORMAT.read(path)
    with pytest.raises(FormatError, match="found other bytes"):
        recognise(path)

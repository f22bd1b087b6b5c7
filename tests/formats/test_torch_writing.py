"""Files written without torch: torch loads them, and so does the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rekindle import spans
from rekindle.errors import UnsupportedError
from rekindle.formats import torch_files, torch_writing
from rekindle.limits import Budget
from rekindle.tensors import Tensors

torch = pytest.importorskip("torch")

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    "bool", "complex64", "complex128",
]  # fmt: skip


def read(path: Path) -> torch_files.TorchFile:
    return torch_files.read(spans.of_file(path), Budget(name=str(path)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_torch_saved_is_written_again_for_torch(dtype: str, tmp_path: Path) -> None:
    whole = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    value = {"t": whole.T, "scalar": whole[1, 1], "empty": whole[:0], "twice": [whole, whole]}
    torch.save(value, tmp_path / "one.pt")
    file = read(tmp_path / "one.pt")
    torch_writing.write(tmp_path / "two.pt", file.value, tensors=file.tensors)
    found = torch.load(tmp_path / "two.pt", weights_only=True)
    for name in ("t", "scalar", "empty"):
        assert found[name].dtype == value[name].dtype
        assert found[name].shape == value[name].shape
        assert torch.equal(found[name], value[name])
    assert len(read(tmp_path / "two.pt").tensors) == len(file.tensors)


def test_one_array_in_two_places_is_stored_once_and_stays_one(tmp_path: Path) -> None:
    array = np.ones((1000, 10), np.float32)
    torch_writing.write(
        tmp_path / "file.pt",
        {"a": array, "b": array, "numpy": np.ones(3)},
        tensors=Tensors(),
        also=frozenset({id(array)}),
    )
    assert (tmp_path / "file.pt").stat().st_size < 45_000
    found = torch.load(tmp_path / "file.pt", weights_only=False)
    found["a"][0, 0] = 5
    assert found["b"][0, 0] == 5
    assert isinstance(found["numpy"], np.ndarray)


def test_it_can_be_mapped_by_torch(tmp_path: Path) -> None:
    array = np.arange(5000.0)
    torch_writing.write(
        tmp_path / "file.pt", [array], tensors=Tensors(), also=frozenset({id(array)})
    )
    [found] = torch.load(tmp_path / "file.pt", mmap=True, weights_only=True)
    assert found.numpy().tobytes() == array.tobytes()


def test_a_type_that_torch_does_not_store_by_name_is_refused(tmp_path: Path) -> None:
    wrong: list[Any] = [np.zeros(2, np.uint16), np.array(["a"])]
    for array in wrong:
        with pytest.raises(UnsupportedError, match=r"file\.pt"):
            torch_writing.write(
                tmp_path / "file.pt", [array], tensors=Tensors(), also=frozenset({id(array)})
            )
    assert not (tmp_path / "file.pt").exists()

"""What is written by torch is what it loads again, and nothing of a foreign file's code."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import ml_dtypes
import numpy as np
import pytest
import torch

from rekindle import spans
from rekindle.errors import UnsupportedError
from rekindle.formats import torch_files, torch_save
from rekindle.limits import Budget
from rekindle.state import Record, Reference
from rekindle.tensors import NATIVE, Tensors


def test_plain_values_and_tensors_of_every_type_load_again_without_trust(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        name: np.arange(6).astype(dtype).reshape(2, 3) for name, dtype in NATIVE.items()
    }
    arrays["bfloat16"] = np.arange(6).astype(ml_dtypes.bfloat16)
    arrays["float8_e5m2"] = np.arange(6).astype(ml_dtypes.float8_e5m2)
    arrays["big-endian"] = np.arange(6).astype(">f4")
    arrays["turned"] = np.arange(6.0).reshape(2, 3).T
    value = {"state_dict": OrderedDict(arrays), "list": [1, (2.5, None), {"x"}], "b": b"x"}
    torch_save.save(value, tmp_path / "all.pt", Tensors())
    found = torch.load(tmp_path / "all.pt", weights_only=True)
    assert {key: found[key] for key in ("list", "b")} == {
        "list": [1, (2.5, None), {"x"}],
        "b": b"x",
    }
    for name, array in arrays.items():
        tensor = found["state_dict"][name]
        if name in NATIVE or name.startswith(("bf", "float8")):
            assert str(tensor.dtype) == f"torch.{name}"
        assert tensor.to(torch.complex128).numpy().tolist() == array.astype(complex).tolist()


def test_tensors_that_were_read_are_tensors_again_and_other_arrays_are_not(tmp_path: Path) -> None:
    shared = torch.ones(2)
    value = {"tensor": shared, "again": shared, "array": np.ones(2)}
    torch.save(value, tmp_path / "a.pt")
    read = torch_files.read(spans.of_file(tmp_path / "a.pt"), Budget(name="a"))
    torch_save.save(read.value, tmp_path / "b.pt", read.tensors)
    found = torch.load(tmp_path / "b.pt", weights_only=False)
    assert isinstance(found["tensor"], torch.Tensor)
    assert isinstance(found["array"], np.ndarray)
    assert found["tensor"].data_ptr() == found["again"].data_ptr()


def test_spaces_that_were_read_are_spaces_again(tmp_path: Path) -> None:
    space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(0, 1, (2,)),
                                   "b": gymnasium.spaces.Discrete(3)})  # fmt: skip
    torch.save({"space": space}, tmp_path / "a.pt")
    read = torch_files.read(spans.of_file(tmp_path / "a.pt"), Budget(name="a"))
    torch_save.save(read.value, tmp_path / "b.pt", read.tensors)
    assert torch.load(tmp_path / "b.pt", weights_only=False)["space"] == space


def test_everything_that_is_no_data_is_refused_at_once_with_its_path(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    value = {
        "record": [Record("evil:Class", {})],
        "name": Reference("os:system"),
        "objects": np.array([print]),
        "state_dict": {"text": np.array(["x"])},
        "function": print,
        "circle": circle,
        "deep": deep,
    }
    began = time.monotonic()
    with pytest.raises(UnsupportedError) as caught:
        torch_save.save(value, tmp_path / "no.pt", Tensors())
    assert time.monotonic() - began < 2
    refused = [key.split("[0][0]")[0] for key, _ in caught.value.refusals]
    assert refused == [
        "record[0]", "name", "objects", "state_dict.text", "function", "circle[0]", "circle[1]",
        "deep",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())

"""Files written without torch: torch loads them, and so does the reader."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import ml_dtypes
import numpy as np
import pytest
import torch

from rekindle import spans
from rekindle.errors import AlreadyExistsError, UnsupportedError
from rekindle.formats import torch_files, torch_writing
from rekindle.limits import Budget
from rekindle.state import Record, Reference
from rekindle.tensors import NATIVE, Tensors

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


def test_a_type_that_torch_does_not_store_is_refused(tmp_path: Path) -> None:
    wrong: list[Any] = [np.zeros(2, np.longdouble), np.array(["a"]), np.zeros(2, "i4,f4")]
    for array in wrong:
        with pytest.raises(UnsupportedError, match=r"file\.pt: .*\[0\]: a tensor of"):
            torch_writing.write(
                tmp_path / "file.pt", [array], tensors=Tensors(), also=frozenset({id(array)})
            )
    assert not (tmp_path / "file.pt").exists()


def test_views_of_one_memory_are_stored_once(tmp_path: Path) -> None:
    array = np.ones((1000, 10), np.float32)
    value = {"state_dict": {"a": array, "b": array.reshape(1000, 10), "part": array[:5]}}
    torch_writing.save(tmp_path / "file.pt", value, Tensors())
    assert (tmp_path / "file.pt").stat().st_size < 47_000
    found = torch.load(tmp_path / "file.pt", weights_only=True)["state_dict"]
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert torch.equal(found["part"], found["a"][:5])


def test_plain_values_and_tensors_of_every_type_load_again_without_trust(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        name: np.arange(6).astype(dtype).reshape(2, 3) for name, dtype in NATIVE.items()
    }
    arrays["bfloat16"] = np.arange(6).astype(ml_dtypes.bfloat16)
    arrays["float8_e5m2"] = np.arange(6).astype(ml_dtypes.float8_e5m2)
    arrays["big-endian"] = np.arange(6).astype(">f4")
    arrays["turned"] = np.arange(6.0).reshape(2, 3).T
    value = {"state_dict": OrderedDict(arrays), "list": [1, (2.5, None), {"x"}], "b": b"x"}
    torch_writing.save(tmp_path / "all.pt", value, Tensors())
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
    again = read(tmp_path / "all.pt")
    for name, array in again.value["state_dict"].items():
        tensor = again.tensors.of(array)
        assert tensor is not None
        assert f"torch.{tensor.dtype}" == str(found["state_dict"][name].dtype)
        assert array.astype(complex).tolist() == arrays[name].astype(complex).tolist()


def test_tensors_that_were_read_are_tensors_again_and_other_arrays_are_not(tmp_path: Path) -> None:
    shared = torch.ones(2)
    value = {"tensor": shared, "again": shared, "array": np.ones(2)}
    torch.save(value, tmp_path / "a.pt")
    file = read(tmp_path / "a.pt")
    torch_writing.save(tmp_path / "b.pt", file.value, file.tensors)
    found = torch.load(tmp_path / "b.pt", weights_only=False)
    assert isinstance(found["tensor"], torch.Tensor)
    assert isinstance(found["array"], np.ndarray)
    assert found["tensor"].data_ptr() == found["again"].data_ptr()


def test_spaces_that_were_read_are_spaces_again(tmp_path: Path) -> None:
    box = gymnasium.spaces.Box(0, 1, (2,), seed=3)
    space = gymnasium.spaces.Dict({"a": box, "b": gymnasium.spaces.Discrete(3)})
    torch.save({"space": space}, tmp_path / "a.pt")
    file = read(tmp_path / "a.pt")
    torch_writing.save(tmp_path / "b.pt", file.value, file.tensors)
    found = torch.load(tmp_path / "b.pt", weights_only=False)["space"]
    assert found == space
    assert found["a"].sample().tolist() == box.sample().tolist()


def test_everything_that_is_no_data_is_refused_at_once_with_its_path(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    value = {
        "record": [Record("evil:Class", {})],
        "name": Reference("os:system"),
        "objects": np.array([print]),
        "state_dict": {"text": np.array(["x"])},
        "function": print,
        "circle": circle,
    }
    with pytest.raises(UnsupportedError) as caught:
        torch_writing.save(tmp_path / "no.pt", value, Tensors())
    assert [key for key, _ in caught.value.refusals] == [
        "record[0]", "name", "objects", "state_dict.text", "function",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("mine")
    with pytest.raises(AlreadyExistsError):
        torch_writing.save(tmp_path / "a.pt", {}, Tensors())
    assert (tmp_path / "a.pt").read_text() == "mine"

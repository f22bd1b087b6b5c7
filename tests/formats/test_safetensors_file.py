"""Files of safetensors, against the library of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from rekindle.errors import AlreadyExistsError, DamagedError, UnsupportedError
from rekindle.formats.protocol import Confidence, Reading
from rekindle.formats.recognition import recognise
from rekindle.formats.safetensors_file import FORMAT

GOLDEN = Path(__file__).parents[1] / "golden"


def policy() -> dict[str, Any]:
    return {
        "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "0.bias": np.zeros(0, np.float64),
        "steps": np.array(3, np.int64),
        "half": np.ones(3, ml_dtypes.bfloat16),
        "small": np.ones(3, ml_dtypes.float8_e5m2),
        "mask": np.array([True, False]),
    }


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    tensors = {"a.b": torch.arange(6).reshape(2, 3), "c": torch.ones(4, dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors, tmp_path / "x", metadata={"author": "me"})
    reading = recognise(tmp_path / "x").read(tmp_path / "x")
    assert (reading.format, reading.kind) == ("safetensors", "policy")
    assert reading.details == {"metadata": {"author": "me"}}
    found = reading.components["policy"]
    assert found["a.b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert reading.tensors.of(found["c"]).dtype == "bfloat16"  # type: ignore[union-attr]


def test_large_arrays_stay_in_the_file(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(100_000)}, tmp_path / "x")
    base: Any = FORMAT.read(tmp_path / "x").components["policy"]["a"]
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")


def test_the_library_reads_what_is_written_and_so_does_the_reader(tmp_path: Path) -> None:
    given = Reading(format="x", components={"policy": policy()}, details={"metadata": {"a": "b"}})
    FORMAT.write(given, tmp_path / "x.safetensors")
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    again = FORMAT.read(tmp_path / "x.safetensors")
    assert set(found) == set(policy())
    assert found["half"].dtype == torch.bfloat16
    assert found["small"].dtype == torch.float8_e5m2
    assert again.details == {"metadata": {"a": "b"}}
    for name, array in policy().items():
        read = again.components["policy"][name]
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes() == array.tobytes()
        assert found[name].double().numpy().tolist() == array.astype(float).tolist()


def test_several_components_have_their_names_before_those_of_arrays(tmp_path: Path) -> None:
    components = {
        "policy": policy(),
        "optimizer": {"state": {0: {"step": np.array(1.0), "exp_avg": np.ones(3)}}},
    }
    FORMAT.write(Reading(format="x", components=components), tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", "numpy") as file:
        assert "policy.0.weight" in file.keys()  # noqa: SIM118 - not a dictionary
        assert "optimizer.state.0.exp_avg" in file.keys()  # noqa: SIM118
    again = FORMAT.read(tmp_path / "x")
    assert again.kind == "checkpoint"
    assert set(again.components) == {"policy", "optimizer"}
    assert again.components["policy"].keys() == policy().keys()
    assert again.components["optimizer"]["state.0.exp_avg"].tolist() == [1, 1, 1]


def test_what_is_no_array_is_refused_with_its_place(tmp_path: Path) -> None:
    bad: dict[str, Any] = {
        "policy": {"a": np.zeros(2), "b": np.array(["x"])},
        "optimizer": {"param_groups": [{"lr": 0.1}]},
    }
    with pytest.raises(UnsupportedError, match=r"param_groups.0.lr is no array") as caught:
        FORMAT.write(Reading(format="x", components=bad), tmp_path / "x")
    assert [key for key, _ in caught.value.refusals] == ["policy", "optimizer"]
    clash = {"policy": {"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}}
    with pytest.raises(UnsupportedError, match="name of its own"):
        FORMAT.write(Reading(format="x", components=clash), tmp_path / "x")
    with pytest.raises(UnsupportedError, match="no arrays"):
        FORMAT.write(Reading(format="x", components={}), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").write_text("mine")
    with pytest.raises(AlreadyExistsError):
        FORMAT.write(Reading(format="x", components={"policy": policy()}), tmp_path / "x")


def test_other_files_are_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "x"
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    whole = path.read_bytes()
    assert FORMAT.sniff(path) is Confidence.CERTAIN
    for data in (b"", b"{}", whole[:-1], whole + b"x", b"\x02" + bytes(7) + b"{]", whole[:40]):
        path.write_bytes(data)
        assert FORMAT.sniff(path) is None
    with pytest.raises(DamagedError):
        FORMAT.read(path)
    assert FORMAT.sniff(tmp_path) is None


def test_folders_of_libraries_that_hold_such_files_are_theirs() -> None:
    for name in ("velora", "metta.bundle"):
        root = GOLDEN / name.partition(".")[0]
        files = sorted(root.rglob("*.safetensors"))
        assert files
        found = {recognise(file.parent).name for file in files if _is_known(file.parent)}
        assert name in found
        assert {recognise(file).name for file in files} == {"safetensors"}


def _is_known(folder: Path) -> bool:
    return (folder / "metadata.json").exists() or (folder / "policy_spec.json").exists()

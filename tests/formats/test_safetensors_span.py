"""Arrays of safetensors are those that the real library wrote, wherever the bytes lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rekindle import spans
from rekindle.codecs import arrays
from rekindle.errors import UnsafeError
from rekindle.formats import safetensors_span
from rekindle.limits import Budget
from rekindle.tensors import Tensors

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip


def written() -> dict[str, torch.Tensor]:
    made = {str(dtype): torch.arange(6).to(dtype).reshape(2, 3) for dtype in TYPES}
    return made | {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3)}


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read(data: bytes, **options: Any) -> tuple[dict[str, np.ndarray[Any, Any]], Tensors]:
    tensors = Tensors()
    budget = Budget(options.get("max_bytes"), "weights")
    found, metadata = safetensors_span.read(spans.of_bytes(data, "weights"), budget, tensors)
    assert metadata == {"made": "here"}
    return found, tensors


def test_every_type_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    expected = written()
    data = safetensors.torch.save(expected, metadata={"made": "here"})
    found, tensors = read(data)
    assert set(found) == set(expected)
    for name, array in found.items():
        tensor = tensors.of(array)
        assert tensor is not None
        assert f"torch.{tensor.dtype}" == str(expected[name].dtype)
        assert array.shape == tuple(expected[name].shape)
        assert array.tobytes() == raw_bytes(expected[name])
    stored = {name: safetensors_span.stored(array) for name, array in found.items()}
    assert None not in stored.values()
    arrays.write(tmp_path / "again.safetensors", {k: v for k, v in stored.items() if v})
    again = safetensors.torch.load_file(tmp_path / "again.safetensors")
    for name, tensor in expected.items():
        assert again[name].dtype == tensor.dtype
        assert raw_bytes(again[name]) == raw_bytes(tensor)


def test_an_array_that_has_no_type_there_is_said_to_have_none() -> None:
    for array in (np.zeros(1, complex), np.zeros(1, "U1"), np.zeros(1, [("a", "f4"), ("b", "f4")])):
        assert safetensors_span.stored(array) is None
    assert safetensors_span.stored(np.arange(3.0).astype(">f4")) is not None


def test_an_array_that_lies_askew_is_copied_to_where_it_is_aligned() -> None:
    big = np.arange(1 << 15, dtype=np.float32)
    for pad in range(4):
        text = (
            b'{"__metadata__":{"made":"here"},"a":{"dtype":"F32","shape":[32768],'
            b'"data_offsets":[0,131072]}}' + b" " * pad
        )
        found, _ = read(len(text).to_bytes(8, "little") + text + big.tobytes())
        assert found["a"].flags.aligned
        assert np.array_equal(found["a"], big)


def test_memory_is_bounded() -> None:
    data = safetensors.torch.save(written(), metadata={"made": "here"})
    with pytest.raises(UnsafeError, match="max_bytes"):
        read(data, max_bytes=5_000)

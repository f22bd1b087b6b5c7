from __future__ import annotations

import numpy as np
import pytest
import torch

from rekindle.tensors import Tensor, Tensors, numpy_type


def test_every_type_of_torch_has_a_type_of_its_size() -> None:
    types = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert len(types) > 30
    for dtype in types:
        found = numpy_type(str(dtype).removeprefix("torch."))
        assert found is not None, dtype
        assert found.itemsize == dtype.itemsize, dtype


def test_types_that_numpy_has_are_its_own() -> None:
    for name in ("float32", "int64", "bool", "complex128", "uint16"):
        assert numpy_type(name) == np.dtype(name)
    assert numpy_type("double") == np.dtype("f8")
    assert numpy_type("nothing") is None


def test_an_array_leads_back_to_its_tensor() -> None:
    tensors, array = Tensors(), np.zeros(3, np.float32)
    tensor = Tensor(array, "float32", requires_grad=True)
    assert tensors.note(tensor) is array
    assert tensors.of(array) is tensor
    assert tensors.of(array.view()) is None
    assert tensors.of(7) is None
    assert len(tensors) == 1
    assert repr(tensor) == "<Tensor float32 (3,)>"


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "complex32", "quint8"])
def test_types_that_numpy_lacks_carry_their_name(name: str) -> None:
    found = numpy_type(name)
    assert found is not None
    assert name in (found.name, *(found.names or ()))

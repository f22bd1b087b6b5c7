"""Arrays of every kind: values, types, shapes, strides and shared memory, there and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.round_trip import assert_law, forge, identical, round_trip

import rekindle as rk
from rekindle.codecs import arrays
from rekindle.errors import FormatError

KINDS = [
    *"?bBhHiIlLqQefdgFDG",
    *(f">{kind}" for kind in ("i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16", "U3", "M8[ns]")),
    "S3", "U4", "S0", "U0", "V5", "V0", "M8[D]", "m8[7us]", "M8",
]  # fmt: skip
STRUCTURED: list[Any] = [
    np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    np.dtype([("x", [("y", ">i2"), ("z", "S3")]), ("w", "f4", (2, 2))]),
    np.dtype({"names": ["p", "q"], "formats": ["i4", "u1"], "offsets": [4, 0], "itemsize": 12}),
    np.dtype([("g", "g"), ("h", "?")]),
    np.dtype([]),
]
LAYOUTS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "plain": lambda array: array,
    "transposed": lambda array: array.T,
    "fortran": np.asfortranarray,
    "0-d": lambda array: array[0, 0:1].reshape(()),
    "no rows": lambda array: array[:0],
    "no columns": lambda array: array[:, :0],
    "reversed": lambda array: array[::-1, ::-1],
    "every other column": lambda array: array[:, ::2],
    "broadcast row": lambda array: np.broadcast_to(array[:1], (4, 3)),
    "broadcast item": lambda array: np.broadcast_to(array[0, 0], (2, 2)),
}


def filled(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Six different items of a type, in two rows."""
    array = np.zeros((2, 3), dtype)
    if dtype.names is not None:
        for name in dtype.names:
            array[name] = np.ones(array[name].shape).astype(dtype[name].base.str or "f8")
    elif dtype.kind in "SU" and dtype.itemsize:
        array[:] = np.array([["ab", "", "x"], ["abc", "y", "z"]]).astype(dtype)
    elif dtype.kind in "mM":
        array[:] = np.arange(6).reshape(2, 3)
        array[0, 0] = "NaT"
    elif dtype.kind == "V" and dtype.itemsize:
        array[:] = np.frombuffer(bytes(range(6 * dtype.itemsize)), dtype).reshape(2, 3)
    elif dtype.kind in "biufc":
        array[:] = np.array([[0, 1, 2], [3, 100, 7]]) / (3 if dtype.kind in "fc" else 1)
    return array


def numpy_arrays(layout: str) -> dict[str, np.ndarray[Any, Any]]:
    """One array of every type in one layout, each with memory of its own."""
    found = {kind: LAYOUTS[layout](filled(np.dtype(kind))) for kind in KINDS}
    structured = {
        f"structured {index}": LAYOUTS[layout](np.zeros((2, 3), dtype))
        for index, dtype in enumerate(STRUCTURED)
    }
    return {**found, **structured}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_numpy_array_of_every_type_comes_back_as_it_was(layout: str) -> None:
    saved = numpy_arrays(layout)

    loaded, restored = round_trip(saved)

    assert [name for name in saved if not identical(saved[name], restored[name])] == []
    assert [name for name in saved if loaded[name].dtype != saved[name].dtype] == []
    assert [name for name in saved if not _equal(loaded[name], saved[name])] == []


def _equal(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    return identical(np.ascontiguousarray(first), np.ascontiguousarray(second))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_numpy_array_that_was_restored_is_saved_as_the_same_bytes(
    layout: str, tmp_path: Path
) -> None:
    saved = numpy_arrays(layout)
    assert_law(tmp_path, dict(saved), dict.fromkeys(saved))


def test_structured_values_come_back_as_they_were() -> None:
    array = np.array(
        [(1, (-2, b"ab"), [1.5, 2.5]), (3, (4, b""), [-0.0, np.nan])],
        [("a", ">i8"), ("b", [("c", "i1"), ("d", "S2")]), ("e", "f4", (2,))],
    )

    loaded, restored = round_trip(array)

    assert identical(restored, array)
    assert identical(loaded, array)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    hnp.arrays(
        hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    ),
    st.permutations(range(3)),
    st.lists(st.sampled_from([1, -1, 2]), min_size=3, max_size=3),
)
def test_any_view_of_an_array_comes_back_as_it_was(
    array: np.ndarray[Any, Any], axes: list[int], steps: list[int]
) -> None:
    order = [axis for axis in axes if axis < array.ndim]
    view = array.transpose(order)[tuple(slice(None, None, step) for step in steps[: array.ndim])]

    loaded, restored = round_trip(view)

    assert identical(restored, view)
    assert _equal(loaded, view)


def test_arrays_of_objects_come_back_as_they_were() -> None:
    mixed = np.array([[1, "a"], [None, [2.5]]], dtype=object)
    saved = {
        "mixed": mixed,
        "transposed": mixed.T,
        "0-d": np.array({"a": np.arange(2)}, dtype=object),
        "empty": np.empty((2, 0), dtype=object),
        "holds arrays": np.array([np.array(5), np.arange(2), None], dtype=object),
    }

    loaded, restored = round_trip(saved)

    for name, array in saved.items():
        assert restored[name].dtype == loaded[name].dtype == object
        assert restored[name].shape == loaded[name].shape == array.shape
        assert identical(restored[name].tolist(), array.tolist())
        assert identical(loaded[name].tolist(), array.tolist())


def test_windows_over_one_array_keep_their_overlap() -> None:
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4)

    _, restored = round_trip(windows)

    assert identical(restored, windows)


def test_other_programs_read_the_arrays(tmp_path: Path) -> None:
    plain = {name: filled(np.dtype(name)) for name in "?bBhHiIlLefd"}
    rk.save(tmp_path / "saved", state=dict(plain))

    found = safetensors.numpy.load_file(tmp_path / "saved" / "state.safetensors")

    assert found.keys() == plain.keys()
    assert all(identical(found[name], plain[name]) for name in plain)


# --------------------------------------------------------------------------- torch

TORCH = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
    torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
TENSOR_LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.t(),
    "0-d": lambda tensor: tensor[0, 0],
    "empty": lambda tensor: tensor[:0],
    "stepped": lambda tensor: tensor[::2, 1:3],
    "expanded": lambda tensor: tensor[:1].expand(4, 4),
}


def tensor_of(dtype: torch.dtype) -> torch.Tensor:
    high = 2 if dtype == torch.bool else 120
    bits = torch.arange(6 * 4 * dtype.itemsize, dtype=torch.uint8) % high
    return bits.reshape(6, -1).view(dtype)


def tensor_bits(tensor: torch.Tensor) -> bytes:
    packed = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return packed.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("layout", TENSOR_LAYOUTS)
def test_a_tensor_of_every_type_comes_back_as_it_was(layout: str, tmp_path: Path) -> None:
    saved = {str(dtype): TENSOR_LAYOUTS[layout](tensor_of(dtype)) for dtype in TORCH}
    rk.save(tmp_path / "saved", state=dict(saved))
    restored: dict[str, Any] = dict.fromkeys(saved)
    rk.restore(tmp_path / "saved", state=restored)
    loaded = rk.load(tmp_path / "saved", to="torch")["state"]

    for name, tensor in saved.items():
        for found in (restored[name], loaded[name]):
            assert found.dtype == tensor.dtype, name
            assert found.shape == tensor.shape, name
            assert tensor_bits(found) == tensor_bits(tensor), name
        assert restored[name].stride() == tensor.stride() or not tensor.numel(), name


@pytest.mark.parametrize("layout", TENSOR_LAYOUTS)
def test_a_tensor_that_was_restored_is_saved_as_the_same_bytes(layout: str, tmp_path: Path) -> None:
    saved = {str(dtype): TENSOR_LAYOUTS[layout](tensor_of(dtype)) for dtype in TORCH}
    assert_law(tmp_path, dict(saved), dict.fromkeys(saved))


def test_tensors_of_half_complex_numbers_come_back_as_they_were() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental", UserWarning)
        tensor = torch.arange(8, dtype=torch.float16).view(torch.complex32)
        _, restored = round_trip(tensor)

    assert restored.dtype == torch.complex32
    assert tensor_bits(restored) == tensor_bits(tensor)


def test_a_conjugate_view_comes_back_with_its_values() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])

    _, restored = round_trip({"conjugate": tensor.conj(), "imaginary": tensor.conj().imag})

    assert restored["conjugate"].tolist() == [1 - 2j, 3 + 4j]
    assert restored["imaginary"].tolist() == [-2, 4]


def test_a_parameter_comes_back_as_one() -> None:
    weight = torch.nn.Parameter(torch.ones(2), requires_grad=False)

    _, restored = round_trip(
        {"first": weight, "tied": weight, "leaf": torch.ones(1).requires_grad_()}
    )

    assert type(restored["first"]) is torch.nn.Parameter
    assert not restored["first"].requires_grad
    assert restored["tied"] is restored["first"]
    assert restored["leaf"].requires_grad


# --------------------------------------------------------------------------- shared memory


def overlapping() -> dict[str, np.ndarray[Any, Any]]:
    """Three arrays over one memory; the one that has all of it is not the first."""
    whole = np.arange(10.0)
    return {"part": whole[2:5], "whole": whole, "every other": whole[::-2]}


def assert_overlapping(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    assert arrays["whole"].tolist() == np.arange(10.0).tolist()
    arrays["whole"][3] = 99
    assert arrays["part"][1] == 99
    assert arrays["every other"][3] == 99
    arrays["part"][1] = 3
    assert arrays["whole"][3] == 3


def test_arrays_over_one_memory_come_back_over_one() -> None:
    loaded, restored = round_trip(overlapping())

    assert_overlapping(restored)
    assert_overlapping(loaded)


@pytest.mark.parametrize("names", [["part"], ["whole"], ["part", "whole", "every other"]], ids=str)
def test_live_arrays_apart_are_brought_over_one_memory(names: list[str]) -> None:
    saved = overlapping()
    live = {name: np.zeros_like(saved[name]) for name in names}

    _, restored = round_trip(saved, live)

    assert_overlapping(restored)


@pytest.mark.parametrize("missing", ["whole", "every other"])
def test_a_missing_array_is_made_over_the_live_memory(missing: str) -> None:
    whole = np.zeros(10)
    live = {"part": whole[2:5], "whole": whole, "every other": whole[::-2]}
    kept = {name: array for name, array in live.items() if name != missing}

    _, restored = round_trip(overlapping(), dict(kept))

    assert_overlapping(restored)
    assert all(restored[name] is array for name, array in kept.items())
    assert np.shares_memory(restored[missing], whole)


def test_live_arrays_over_one_memory_are_filled_in_place() -> None:
    whole = np.zeros(10)
    live = {"part": whole[2:5], "whole": whole, "every other": whole[::-2]}
    before = dict(live)

    _, restored = round_trip(overlapping(), live)

    assert all(restored[name] is before[name] for name in before)
    assert_overlapping(restored)


def test_views_of_memory_that_no_array_has_whole_stay_shared(tmp_path: Path) -> None:
    memory = np.arange(20.0)
    saved = {"first": memory[2:8], "second": memory[5:12]}

    loaded, restored = round_trip(dict(saved))

    for found in (loaded, restored):
        assert found["first"].tolist() == list(range(2, 8))
        assert found["second"].tolist() == list(range(5, 12))
        found["first"][3] = 77
        assert found["second"][0] == 77
    assert_law(tmp_path, saved, dict.fromkeys(saved))


def test_arrays_that_were_apart_come_apart_when_live_ones_overlap() -> None:
    memory = np.zeros(6)

    _, restored = round_trip(
        {"first": np.arange(4.0), "second": np.arange(4.0) + 10},
        {"first": memory[:4], "second": memory[2:]},
    )

    assert restored["first"].tolist() == [0, 1, 2, 3]
    assert restored["second"].tolist() == [10, 11, 12, 13]


def test_tensors_and_arrays_over_one_memory_come_back_over_one(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    saved = {
        "matrix": flat.view(3, 4), "flat": flat, "transposed": flat.view(3, 4).t(),
        "array": flat.numpy(), "expanded": flat[:1].expand(5), "bits": flat.view(torch.int32),
    }  # fmt: skip
    rk.save(tmp_path / "saved", state=dict(saved))
    restored: dict[str, Any] = dict.fromkeys(saved)
    rk.restore(tmp_path / "saved", state=restored)

    for found in (restored, rk.load(tmp_path / "saved", to="torch")["state"]):
        found["flat"][0] = -5
        assert found["matrix"][0, 0] == found["transposed"][0, 0] == -5
        assert found["array"][0] == found["expanded"][3] == -5
        assert found["bits"][0] == torch.tensor(-5.0).view(torch.int32)
    assert isinstance(restored["array"], np.ndarray)
    assert_law(tmp_path, saved, dict.fromkeys(saved))


def test_two_components_share_one_memory_again(tmp_path: Path) -> None:
    memory = np.arange(6.0)
    rk.save(tmp_path / "saved", first={"a": memory}, second={"b": memory[1:3], "a": memory})
    first: dict[str, Any] = {"a": None}
    second: dict[str, Any] = {"b": None, "a": None}

    rk.restore(tmp_path / "saved", first=first, second=second)

    assert first["a"] is second["a"]
    assert np.shares_memory(first["a"], second["b"])
    assert not (tmp_path / "saved" / "second.safetensors").exists()


# --------------------------------------------------------------------------- malformed


@pytest.mark.parametrize(
    "change",
    [
        {"$array": "state/none"}, {"$array": 5}, {"dtype": "|O"}, {"dtype": "<c16"}, {"dtype": 5},
        {"dtype": "<U3"}, {"shape": [10**9, 10**9]}, {"shape": [-1]}, {"shape": 5},
        {"library": "os"}, {"library": 5},
    ],
    ids=str,
)  # fmt: skip
def test_an_array_that_does_not_fit_its_description_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    rk.save(tmp_path / "saved", state={"a": np.arange(4.0)})
    forge(tmp_path / "saved", "state", {"root": {"a": {"$array": "state/a", **change}}})
    live = {"a": np.zeros(4)}

    with pytest.raises((FormatError, rk.MismatchError)):
        rk.restore(tmp_path / "saved", state=live)

    assert live["a"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -8}, {"offset": 8}, {"strides": [16]}, {"strides": [-8]}, {"strides": []},
        {"shape": [2**62], "strides": [0]}, {"shape": [-1]}, {"shape": [5]}, {"dtype": "|O"},
        {"dtype": "<c16"}, {"offset": 0.5}, {"$view": "state/none"},
    ],
    ids=str,
)  # fmt: skip
def test_a_view_that_leaves_its_memory_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state={"a": np.arange(4.0)})
    view = {"$view": "state/a", "name": "state/b", "offset": 0, "shape": [4], "strides": [8],
            "dtype": "<f8"}  # fmt: skip
    root = {"a": {"$array": "state/a"}, "b": {**view, **change}}
    forge(tmp_path / "saved", "state", {"root": root})

    with pytest.raises(FormatError):
        rk.load(tmp_path / "saved")
    with pytest.raises(FormatError):
        rk.restore(tmp_path / "saved", state={"a": None, "b": None})


def test_strides_are_given_back_to_a_copy() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]

    copy = arrays.restride(np.ascontiguousarray(array), list(array.strides))

    assert identical(copy, array)
    assert not np.shares_memory(copy, array)


def test_strides_that_would_waste_memory_are_not_given_back() -> None:
    copy = arrays.restride(np.arange(2.0), [10**12])

    assert copy.tolist() == [0, 1]
    assert copy.flags.c_contiguous

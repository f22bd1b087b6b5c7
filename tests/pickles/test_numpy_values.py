from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from tests.hostile import corpus
from tests.hostile.assembly import assemble
from tests.pickles.same import same

from rekindle import spans
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded

DTYPES = [
    "f4", ">f8", "?", "c16", "S5", "U3", "V7", "M8[ns]", "m8[25us]", ">M8[D]", "M8", "f2", "i1",
    np.dtype(np.longdouble),
    np.dtype([("a", "f4"), ("b", ">i2", (2, 3))]), np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype({"names": ["x"], "formats": ["f4"], "offsets": [4], "itemsize": 16}),
    np.dtype([(("title", "name"), "f4")]), np.dtype([("a", [("b", "f4")])]),
    np.dtype(("i4", (2, 3))), np.dtype([]),
]  # fmt: skip


def read(value: Any, protocol: int = 5) -> Any:
    return reading.read(spans.of_bytes(pickle.dumps(value, protocol), "x")).value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back_with_arrays_and_scalars_of_it(dtype: Any, protocol: int) -> None:
    expected = np.dtype(dtype)
    found = read(expected, protocol)
    assert found == expected
    assert found.isalignedstruct == expected.isalignedstruct
    assert found.fields == expected.fields
    if expected.subdtype is None and expected.itemsize:
        array = np.frombuffer(bytes(range(1, 1 + 4 * expected.itemsize)), expected)
        if expected.kind == "U":
            array = np.array(["ab", "c", "", "def"], expected)
        assert same(array, read(array, protocol))
        assert same(array[1], read(array[1], protocol))


def test_arrays_of_objects_hold_each_other() -> None:
    array = np.empty((2, 2), dtype=object)
    array[0, 0], array[1, 1] = array, {"a": [1]}
    found = read(array)
    assert found.shape == (2, 2)
    assert found[0, 0] is found
    assert found[1, 1] == {"a": [1]}
    fortran = np.asfortranarray(np.array([[1, "a"], [None, 2.5]], dtype=object))
    assert same(fortran, read(fortran))
    assert read(fortran).tolist() == fortran.tolist()


def test_what_numpy_1_writes_is_read() -> None:
    data = pickle.dumps([np.arange(3.0), np.float32(2)], 2)
    old = data.replace(b"numpy._core", b"numpy.core")
    assert old != data
    found = reading.read(spans.of_bytes(old, "x")).value
    assert same([np.arange(3.0), np.float32(2)], found)


def test_memory_maps_are_arrays_and_matrices_and_masks_are_records(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "x", "f4", "w+", shape=(3,))
    assert type(read(mapped)) is np.ndarray
    masked = read(np.ma.masked_array([1, 2], [True, False]))
    assert isinstance(masked, Recorded)


# Text stands for bytes in pickles of Python 2, so it is no error there.
MALFORMED = [case for case in corpus._malformed_arrays() if "are_text" not in case.name]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_malformed_arrays_stay_records(case: corpus.Case) -> None:
    found = reading.read(spans.of_bytes(case.data, case.name)).value
    assert not isinstance(found, np.ndarray) or found.size == 0


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
def test_generators_of_every_kind_show_their_state(kind: str) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(3))
    generator.integers(5, size=3)
    found = read(generator)
    assert found.label == "numpy.random._generator:Generator"
    assert found.bit_generator.label.endswith(f":{kind}")
    assert found.bit_generator.state["bit_generator"] == kind
    live = generator.bit_generator.state
    assert same(live["state"], found.bit_generator.state["state"])


def test_a_dtype_with_a_size_that_is_none_is_a_record() -> None:
    for value in (corpus._dtype("f4,O"), corpus._dtype("V" + "9" * 12), corpus._dtype(b"f4")):
        data = assemble(value)
        assert isinstance(reading.read(spans.of_bytes(data, "x")).value, Recorded)

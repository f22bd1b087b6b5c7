"""numpy dtypes as data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from rekindle.codecs import dtypes
from rekindle.errors import FormatError

LAYOUTS: dict[str, Any] = {
    "aligned": np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    "nested": np.dtype([("x", [("y", ">i2"), ("z", "S3")]), ("w", "f4", (2, 2))]),
    "out of order, with gaps": np.dtype(
        {"names": ["p", "q"], "formats": ["i4", "u1"], "offsets": [4, 0], "itemsize": 12}
    ),
    "overlapping": np.dtype({"names": ["i", "b"], "formats": ["<i4", "u1"], "offsets": [0, 3]}),
    "titles": np.dtype([(("a title", "name"), "i4")]),
    "no fields": np.dtype([]),
    "subarray": np.dtype(("f4", (2, 3))),
    "empty text": np.dtype("U0"),
    "empty bytes": np.dtype("S0"),
    "void": np.dtype("V0"),
    "generic date": np.dtype("M8"),
    "units": np.dtype(">m8[25us]"),
    "extended": np.dtype("g"),
    "other byte order": np.dtype("c16").newbyteorder(),
}


@pytest.mark.parametrize("dtype", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_layout_is_built_as_it_was_described(dtype: np.dtype[Any]) -> None:
    built = dtypes.build(dtypes.describe(dtype))

    assert built == dtype
    assert built.isalignedstruct == dtype.isalignedstruct
    assert built.fields == dtype.fields


@settings(max_examples=100, deadline=None, derandomize=True)
@given(hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes())
def test_any_plain_dtype_is_built_as_it_was_described(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        return
    assert dtypes.build(dtypes.describe(dtype)) == dtype


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(object),
        np.dtype([("a", "i4"), ("b", object)]),
        np.dtype((object, (2,))),
        np.dtypes.StringDType(),
        np.dtype({"names": ["a"], "formats": ["i4"], "titles": [("not", "text")]}),
    ],
    ids=str,
)
def test_a_dtype_whose_items_are_no_plain_bytes_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(TypeError, match="dtype"):
        dtypes.describe(dtype)


STRUCT = {"names": ["a"], "formats": ["<i4"], "offsets": [0], "titles": [None], "itemsize": 4,
          "aligned": False}  # fmt: skip


@pytest.mark.parametrize(
    "description",
    [
        "|O", "O", "object", "<i3", "<f4,<f4", "<T16", "<M8[x]", "", 5, None, [], {}, ["<i4"],
        {"base": "<i4"}, {"base": "|O", "shape": [2]}, {"base": "<i4", "shape": [-1]},
        {"base": "<i4", "shape": "x"}, STRUCT | {"formats": ["|O"]}, STRUCT | {"offsets": [8]},
        STRUCT | {"itemsize": 1}, STRUCT | {"names": []}, STRUCT | {"titles": None},
        {"names": ["a"]}, STRUCT | {"offsets": [-1]}, STRUCT | {"formats": [STRUCT | {"names": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_description_is_said_to_be_one(description: Any) -> None:
    with pytest.raises(FormatError):
        dtypes.build(description)


def test_a_description_that_nests_without_end_is_refused() -> None:
    description: Any = "<i4"
    for _ in range(40):
        description = {"base": description, "shape": [1]}

    with pytest.raises(FormatError):
        dtypes.build(description)


@pytest.mark.parametrize("name", ["aligned", "out of order, with gaps"])
def test_bytes_that_belong_to_no_field_are_zero(name: str) -> None:
    memory = np.full(3 * LAYOUTS[name].itemsize, 0xAB, np.uint8)
    array = memory.view(LAYOUTS[name])
    same = np.zeros(3, LAYOUTS[name])
    for field in same.dtype.names or ():
        same[field] = array[field]

    clean = dtypes.without_padding(array)

    assert clean.tobytes() != array.tobytes()
    assert clean.tobytes() == dtypes.without_padding(same).tobytes()
    assert all((clean[field] == array[field]).all() for field in array.dtype.names or ())


@pytest.mark.parametrize("kind", ["g", "G"])
@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="no floats of 80 bits here")
def test_bytes_beside_a_float_of_80_bits_are_zero(kind: str) -> None:
    array = np.zeros(4, kind)
    array[:] = [1, -0.0, np.inf, np.longdouble(1) / 3]
    array.view(np.uint8).reshape(-1, 16)[:, 10:] = 0xEE

    for values in (array, array.byteswap().view(array.dtype.newbyteorder())):
        clean = dtypes.without_padding(values)
        assert 0xEE not in clean.view(np.uint8)
        assert clean.dtype == values.dtype
        assert (clean == values).all()

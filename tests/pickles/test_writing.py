"""Pickles that are written: Python's own loader finds the same values, and so does the reader."""

from __future__ import annotations

import collections
import fractions
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle import spans
from rekindle.errors import UnsupportedError
from rekindle.pickles import reading, writing
from rekindle.pickles.records import Recorded
from rekindle.pickles.writing import Called, Name, Outside, Refused

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary()
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(), part, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_both_readers_find_what_was_written(value: Any) -> None:
    data = writing.dumps(value)
    assert pickle.loads(data) == value
    assert reading.read(spans.of_bytes(data, "it")).value == value


@pytest.mark.parametrize("value", [0, 255, 256, -1, 2**31, -(2**31), 2**63, -(2**2500)])
def test_integers_of_every_size(value: int) -> None:
    assert pickle.loads(writing.dumps(value)) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.arange(6, dtype=">i8").reshape(2, 3).T,
        np.arange(12.0).reshape(3, 4)[:, ::2],
        np.array(7, np.int8),
        np.array([], bool),
        np.array(["ab", "c"]),
        np.array([b"ab", b"c"]),
        np.array([1 + 2j]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_keep_their_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    data = writing.dumps({"a": array, "b": array.reshape(-1)[:1]})
    for found in (pickle.loads(data), reading.read(spans.of_bytes(data, "it")).value):
        # Python's loader gives what is big-endian in the order of the machine.
        assert found["a"].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found["a"], array)


def test_numbers_of_numpy_keep_their_type() -> None:
    found = pickle.loads(writing.dumps([np.float64(0.1), np.int32(3)]))
    assert [type(each) for each in found] == [np.float64, np.int32]
    assert found == [0.1, 3]


def test_an_ordered_dictionary_keeps_what_was_set_on_it() -> None:
    value: Any = collections.OrderedDict(b=1, a=2)
    value._metadata = {"": {"version": 1}}
    found = pickle.loads(writing.dumps(value))
    assert list(found) == ["b", "a"]
    assert found._metadata == value._metadata


def test_what_is_one_object_stays_one_and_circles_close() -> None:
    array, circle = np.zeros(3), [1]
    circle.append(circle)  # type: ignore[arg-type]
    found = pickle.loads(writing.dumps({"a": array, "b": array, "c": circle, "d": circle}))
    assert found["a"] is found["b"]
    assert found["c"] is found["d"]
    assert found["c"][1] is found["c"]


def test_objects_and_what_lies_outside_are_written_by_name() -> None:
    made = Called(Name("fractions:Fraction"), (1, 3))
    assert pickle.loads(writing.dumps([made])) == [fractions.Fraction(1, 3)]
    array = np.zeros(2)
    data = writing.dumps([array], resolve=lambda found: Outside(("key", found.size)))
    found = reading.read(spans.of_bytes(data, "it"), persistent=lambda given: given)
    assert found.value == [("key", 2)]


def test_what_is_no_data_is_refused_by_path() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (
        {"a": [object()]},
        {"a": [Recorded("os:system")]},
        {"a": [np.array([None])]},
        {"a": [Name("os\nsystem\n(tR:x")]},
    ):
        with pytest.raises(UnsupportedError, match=r"value\.a\[0\]"):
            writing.dumps(value)
    with pytest.raises(UnsupportedError, match="deeper"):
        writing.dumps(deep)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_the_newer_protocol_says_the_same(value: Any) -> None:
    data = writing.dumps(value, protocol=4)
    assert pickle.loads(data) == value
    assert reading.read(spans.of_bytes(data, "it")).value == value


def test_large_arrays_are_parts_over_their_own_memory() -> None:
    array = np.arange(20_000.0).reshape(100, 200)
    turned = np.asfortranarray(array)
    found = writing.parts({"a": array, "b": turned, "c": array[::2]}, protocol=4)
    shared = [part for part in found if isinstance(part, np.ndarray)]
    assert [np.shares_memory(part, array) for part in shared] == [True, False]
    assert np.shares_memory(shared[1], turned)
    data = b"".join(part if isinstance(part, bytes) else part.tobytes() for part in found)
    for value in (pickle.loads(data), reading.read(spans.of_bytes(data, "it")).value):
        np.testing.assert_array_equal(value["a"], array)
        np.testing.assert_array_equal(value["b"], array)
        np.testing.assert_array_equal(value["c"], array[::2])
    assert pickle.loads(data)["b"].flags.f_contiguous


def test_sets_queues_types_and_complex_numbers() -> None:
    value = [{1, "a"}, frozenset([2]), collections.deque([1], 3), np.dtype("<f4"), 1 + 2j]
    for protocol in (2, 4):
        found = pickle.loads(writing.dumps(value, protocol=protocol))
        assert found == value
        assert found[2].maxlen == 3


def test_everything_that_is_refused_is_listed() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^file: .*a: an object of .*; b\[0\]: no way"
    ) as error:
        writing.dumps({"a": object(), "b": [Refused("no way")]}, key="", name="file")
    assert [key for key, _ in error.value.refusals] == ["a", "b[0]"]


def test_what_the_caller_knows_is_written_once() -> None:
    record = Recorded("fractions:Fraction")
    asked: list[Any] = []

    def known(value: Any) -> Any:
        asked.append(value)
        return Called(Name("fractions:Fraction"), (1, 3))

    found = pickle.loads(writing.dumps([record, record], known=known))
    assert found[0] is found[1]
    assert found[0] == fractions.Fraction(1, 3)
    assert asked == [record]

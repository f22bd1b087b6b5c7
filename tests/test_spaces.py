"""Spaces as data: describe, build, compare, name, walk."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rekindle.errors import FormatError, MissingDependencyError, UnsupportedError
from rekindle.spaces import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    build,
    describe,
    differences,
    subspaces,
    summary,
)

INF = float("inf")
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]


class Polar(spaces.Box):
    """A user's own kind of box."""


class Words(spaces.Space[str]):
    """A user's own space, from nothing."""


class Side(str, enum.Enum):  # noqa: UP042 (a `StrEnum` prints as its value, this does not)
    LEFT = "left"


def box(shape: tuple[int, ...] = (4,), low: Any = -1.0, high: Any = 1.0, dtype: Any = np.float32):
    return spaces.Box(low, high, shape, dtype)


def through_json(description: Any) -> Any:
    return json.loads(json.dumps(description, allow_nan=False))


def assert_same(left: spaces.Space[Any], right: spaces.Space[Any]) -> None:
    """Hold two spaces to more than `==`, which is loose about bounds and the order of keys."""
    assert left == right
    for (path, a), (other, b) in zip(subspaces(left), subspaces(right), strict=True):
        assert path == other
        assert type(a) is type(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        for name in ("low", "high", "bounded_below", "bounded_above", "nvec", "start", "n"):
            x, y = np.asarray(getattr(a, name, 0)), np.asarray(getattr(b, name, 0))
            assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), name
        for name in ("character_list", "stack", "sort_keys", "min_length", "max_length"):
            assert getattr(a, name, None) == getattr(b, name, None), name


def assert_survives(space: spaces.Space[Any]) -> None:
    description = describe(space)
    assert through_json(description) == description
    again = build(through_json(description))
    assert_same(again, space)
    assert describe(again) == description
    assert differences(description, describe(again)) == []


SPACES = {
    "box": box(),
    "box of two bounds": box(low=np.array([-1, 0.1], np.float32), high=np.float32(0.3), shape=(2,)),
    "unbounded box": box(low=-INF, high=INF, dtype=np.float64),
    "half-bounded box": box((2,), np.array([-INF, 0.0]), np.array([1.0, INF]), np.float64),
    "scalar box": box(()),
    "scalar unbounded box": box((), -INF, INF, np.float16),
    "empty box": box((0, 3)),
    "bool box": box((2, 2), 0, 1, bool),
    "image": box((84, 84, 3), 0, 255, np.uint8),
    "unbounded integers": box((3,), -INF, INF, np.int64),
    "scalar unbounded integer": box((), -INF, 5, np.int16),
    "half-bounded integers": box((2,), np.array([-INF, -128.0]), np.array([3.0, INF]), np.int8),
    "limits of int64": box((1,), -(2**63), 2**63 - 1, np.int64),
    "limits of uint64": spaces.Box(
        np.array([0, 2**64 - 2], np.uint64), np.array([2**64 - 1] * 2, np.uint64), dtype=np.uint64
    ),
    "discrete": spaces.Discrete(2),
    "discrete of a start and a dtype": spaces.Discrete(5, start=-2, dtype=np.int8),
    "discrete of uint64": spaces.Discrete(2**64 - 1, start=1, dtype=np.uint64),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 2]),
    "multi-discrete of axes": spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[0, -1], [2, 0]]),
    "multi-discrete of uint8": spaces.MultiDiscrete([255, 1], dtype=np.uint8),
    "scalar multi-discrete": spaces.MultiDiscrete(np.array(5)),
    "empty multi-discrete": spaces.MultiDiscrete(np.ones((0, 3), np.int64)),
    "multi-binary": spaces.MultiBinary(5),
    "multi-binary of one axis": spaces.MultiBinary([5]),
    "multi-binary of axes": spaces.MultiBinary([3, 2]),
    "text": spaces.Text(10),
    "text of a charset": spaces.Text(2**62, min_length=0, charset="zaäß\n\u4f60\U0001f600"),
    "dict": spaces.Dict(b=box(), a=spaces.Discrete(3)),
    "empty dict": spaces.Dict({}),
    "dict in an order": spaces.Dict(OrderedDict(b=box(), a=spaces.Discrete(3))),
    "unsorted dict": spaces.Dict({"b": box(), "a": box()}, sort_keys=False),
    "dict of other keys": spaces.Dict(
        {1: box(), "1": box(), None: box(), (0, "a"): box(), 2.5: box(), (): box()}  # type: ignore
    ),
    "tuple": spaces.Tuple([box(), spaces.Discrete(2), spaces.Tuple([])]),
    "sequence": spaces.Sequence(box()),
    "stacked sequence": spaces.Sequence(spaces.Dict(a=box(), b=spaces.Text(3)), stack=True),
    "graph": spaces.Graph(box((3,)), spaces.Discrete(4)),
    "graph without edges": spaces.Graph(box((3,)), None),
    "one of": spaces.OneOf([spaces.Discrete(2), box()]),
    "nested": spaces.Dict(
        goal=spaces.Tuple([box(), spaces.Dict(x=spaces.OneOf([spaces.Sequence(box((2,)))]))]),
        map=spaces.Graph(spaces.Discrete(2), box()),
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_type_survives_a_round_trip(name: str):
    assert_survives(SPACES[name])


@pytest.mark.parametrize(
    "name", ["half-bounded box", "half-bounded integers", "dict in an order", "nested", "text"]
)
def test_a_built_space_samples_as_the_first(name: str):
    space, again = SPACES[name], build(describe(SPACES[name]))
    space.seed(7)
    again.seed(7)
    assert repr([space.sample() for _ in range(5)]) == repr([again.sample() for _ in range(5)])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = np.dtype(draw(st.sampled_from(["bool", *INTEGERS, *FLOATS])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    elements = {"allow_nan": False} if dtype.kind == "f" else {}
    array = hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **elements))
    one, two = draw(array), draw(array)
    low, high = np.asarray(np.minimum(one, two)), np.asarray(np.maximum(one, two))
    return spaces.Box(low, high, shape, dtype)


def composites(children: st.SearchStrategy[spaces.Space[Any]]) -> st.SearchStrategy[Any]:
    keys = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text())
    return st.one_of(
        st.dictionaries(keys, children, max_size=3).map(lambda d: spaces.Dict(OrderedDict(d))),
        st.lists(children, max_size=3).map(spaces.Tuple),
        st.lists(children, min_size=1, max_size=2).map(spaces.OneOf),
        children.map(spaces.Sequence),
    )


@given(boxes())
@settings(max_examples=300, deadline=None)
def test_any_box_survives_bit_for_bit(space: spaces.Box):
    assert_survives(space)


@given(st.recursive(boxes() | st.integers(1, 9).map(spaces.Discrete), composites, max_leaves=6))
@settings(max_examples=60, deadline=None)
def test_any_nested_space_survives(space: spaces.Space[Any]):
    assert_survives(space)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Box", "inf"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.fixed_dictionaries(
                {"type": st.just("Box")},
                optional=dict.fromkeys(["low", "high", "shape", "dtype"], inner),
            )
            | st.fixed_dictionaries({"type": st.just("Tuple"), "spaces": inner})
            | st.fixed_dictionaries({"type": st.just("Dict"), "spaces": inner})
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_any_other_data_builds_or_raises_a_format_error(data: Any):
    for function in (build, summary, lambda it: differences(it, it)):
        with contextlib.suppress(FormatError):
            function(data)


def test_a_uniform_bound_is_one_number_and_an_infinite_one_is_text():
    assert describe(box((1000, 1000), -INF, 0.5, np.float16)) == {
        "type": "Box",
        "low": "-inf",
        "high": 0.5,
        "shape": [1000, 1000],
        "dtype": "float16",
    }


def test_zeros_of_two_signs_are_not_uniform():
    low = np.array([0.0, -0.0], np.float32)
    space = spaces.Box(low, low)
    assert str(describe(space)["low"]) == "[0.0, -0.0]"
    assert_survives(space)


def test_an_unbounded_integer_is_not_the_limit_of_its_dtype():
    bounded, unbounded = box((2,), -128, 127, np.int8), box((2,), -INF, INF, np.int8)
    assert describe(bounded)["low"] == -128
    assert describe(unbounded)["low"] == "-inf"
    assert not build(describe(unbounded)).bounded_below.any()


def test_bounds_that_someone_overwrote_with_nan_are_described_but_not_built():
    space = box((2,))
    space.low[1] = np.nan
    description = through_json(describe(space))
    assert description["low"] == [-1.0, "nan"]
    with pytest.raises(FormatError, match=r"space\.low: expected a number that float32 holds"):
        build(description)


def test_the_rng_is_not_part_of_a_description():
    space = spaces.Dict(a=box())
    before = describe(space)
    space.seed(3)
    space.sample()
    assert describe(space) == before


def test_keys_keep_their_order_and_their_type():
    pairs = describe(spaces.Dict([("b", box()), (Side.LEFT, box()), (3, box())]))["spaces"]  # type: ignore
    assert [key for key, _ in pairs] == ["b", "left", 3]
    assert type(pairs[1][0]) is str


@pytest.mark.parametrize("key", [b"a", INF, ((1,),), frozenset(), 1j])
def test_a_key_that_is_not_data_is_refused(key: Any):
    with pytest.raises(UnsupportedError, match="keys that are text") as caught:
        describe(spaces.Tuple([spaces.Dict({key: box()})]))
    assert caught.value.key == "space[0]"
    assert caught.value.refusals


@pytest.mark.parametrize("dtype", [np.longdouble, ">f4", ">i8"])
def test_a_dtype_that_is_not_exact_in_json_is_refused(dtype: Any):
    with pytest.raises(UnsupportedError, match=r"space\['a'\]\.dtype: expected one of bool"):
        describe(spaces.Dict(a=box(dtype=dtype)))


@pytest.mark.parametrize("value", [5, None, "Box", spaces, spaces.Box, [box()]])
def test_what_is_not_a_space_is_refused(value: Any):
    for function in (describe, lambda it: list(subspaces(it))):
        with pytest.raises(UnsupportedError, match="expected a Gymnasium space"):
            function(value)


def test_a_space_that_contains_itself_is_refused():
    space = spaces.Dict(a=box())
    space["a"] = spaces.Tuple([space, space])
    for function in (describe, lambda it: list(subspaces(it))):
        with pytest.raises(UnsupportedError, match="contain itself"):
            function(space)


def test_a_subclass_is_custom_with_its_base_and_is_not_built():
    description = describe(spaces.Dict(a=Polar(-1, 1, (2,))))
    custom = description["spaces"][0][1]
    assert custom == {
        "type": "custom",
        "class": f"{__name__}:Polar",
        "shape": [2],
        "dtype": "float32",
        "base": describe(box((2,))),
    }
    with pytest.raises(UnsupportedError, match=r"space\['a'\]: .*Polar") as caught:
        build(through_json(description))
    assert caught.value.key == "space['a']"


def test_an_unknown_space_is_custom_without_a_base():
    description = describe(Words(shape=None, dtype=str))
    assert (description["type"], description["base"]) == ("custom", None)
    assert (description["shape"], description["dtype"]) == (None, "<U0")
    assert describe(Words(shape=(2,)))["shape"] == [2]
    with pytest.raises(UnsupportedError, match="Words"):
        build(description)


def test_a_space_of_the_old_gym_is_described_as_its_successor():
    def old(name: str, *bases: type) -> type:
        module = f"gym.spaces.{name.lower()}"
        return type(name, bases, {"__module__": module, "__qualname__": name})

    root = old("Space")
    discrete, pair = old("Discrete", root)(), old("Tuple", root)()
    discrete.n, discrete.dtype = 3, np.int64
    pair.spaces = [discrete]
    assert describe(pair) == describe(spaces.Tuple([spaces.Discrete(3)]))


def test_a_name_that_only_looks_like_a_space_is_not_one():
    class Box(Words):
        pass

    assert describe(Box())["type"] == "custom"


GOOD = describe(box())
DICT = describe(spaces.Dict(a=box()))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "space: expected a space of type Box, .* found None"),
        ([], "space: expected a space of type"),
        ({}, "space: expected a space of type"),
        ({"type": "Bix"}, "found 'Bix'"),
        ({"type": ["Box"]}, "found ..Box.."),
        ({"type": "Box"}, "expected a Box with the fields type, low, high, shape, dtype"),
        ({**GOOD, "more": 1}, "found .*'more'"),
        ({**GOOD, "shape": "4"}, r"space\.shape: expected a list of at most 32 sizes, found '4'"),
        ({**GOOD, "shape": [True]}, r"space\.shape"),
        ({**GOOD, "shape": [-1]}, r"space\.shape"),
        ({**GOOD, "shape": [4.0]}, r"space\.shape"),
        ({**GOOD, "shape": [1] * 33}, r"space\.shape"),
        ({**GOOD, "shape": None}, r"space\.shape"),
        ({**GOOD, "dtype": "object"}, r"space\.dtype: expected one of bool"),
        ({**GOOD, "dtype": "O"}, r"space\.dtype"),
        ({**GOOD, "dtype": ["float32"]}, r"space\.dtype"),
        ({**GOOD, "low": None}, r"space\.low: expected a number"),
        ({**GOOD, "low": "1"}, r"space\.low: expected a number that float32 holds"),
        ({**GOOD, "low": True}, r"space\.low"),
        ({**GOOD, "low": -1e39}, r"space\.low"),
        ({**GOOD, "low": float("nan")}, r"space\.low"),
        ({**GOOD, "low": -INF}, r"space\.low"),
        ({**GOOD, "low": [0, 0, 0]}, r"space\.low: expected lists nested as the shape \(4,\)"),
        ({**GOOD, "low": [[0], 0, 0, 0]}, r"space\.low"),
        ({**GOOD, "low": [[0]] * 4}, r"space\.low"),
        ({**GOOD, "low": 2.0}, "a Box space, found one that Gymnasium refuses"),
        ({**GOOD, "dtype": "int8", "low": -129}, "a number that int8 holds or '-inf', found -129"),
        ({**GOOD, "dtype": "int8", "low": 0.5}, r"space\.low"),
        ({**GOOD, "dtype": "int8", "low": "inf"}, r"space\.low"),
        ({**GOOD, "dtype": "uint8", "low": "-inf"}, r"space\.low"),
        ({**GOOD, "dtype": "bool"}, r"space\.low"),
        ({"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"}, "Gymnasium refuses"),
        ({"type": "Discrete", "n": 200, "start": 0, "dtype": "int8"}, r"space\.n: .* int8 holds"),
        ({"type": "Discrete", "n": "2", "start": 0, "dtype": "int64"}, r"space\.n"),
        ({"type": "Discrete", "n": 2, "start": 0, "dtype": "float32"}, r"space\.dtype"),
        (
            {"type": "MultiDiscrete", "nvec": [2, 0], "start": 0, "shape": [2], "dtype": "int64"},
            "Gymnasium refuses",
        ),
        ({"type": "MultiBinary", "n": 0}, "Gymnasium refuses"),
        ({"type": "MultiBinary", "n": True}, r"space\.n"),
        ({"type": "Text", "min_length": 3, "max_length": 2, "charset": "a"}, "Gymnasium refuses"),
        ({"type": "Text", "min_length": 0, "max_length": 2**63, "charset": "a"}, "max_length"),
        ({"type": "Text", "min_length": 0, "max_length": 2, "charset": ["a"]}, r"space\.charset"),
        ({"type": "Dict", "spaces": {"a": GOOD}, "sort_keys": True}, r"space\.spaces"),
        ({"type": "Dict", "spaces": [["a", GOOD, 1]], "sort_keys": True}, r"space\.spaces"),
        ({"type": "Dict", "spaces": [["a", GOOD]] * 2, "sort_keys": True}, "no key twice"),
        ({"type": "Dict", "spaces": [[1, GOOD], [True, GOOD]], "sort_keys": True}, "no key twice"),
        ({"type": "Dict", "spaces": [[["a"], GOOD]], "sort_keys": True}, r"space\.spaces"),
        ({"type": "Dict", "spaces": [["a", None]], "sort_keys": True}, r"space\['a'\]: expected"),
        ({"type": "Dict", "spaces": [], "sort_keys": 1}, r"space\.sort_keys: expected true or"),
        ({"type": "Tuple", "spaces": [GOOD, {}]}, r"space\[1\]: expected a space"),
        ({"type": "OneOf", "spaces": []}, "Gymnasium refuses"),
        ({"type": "Sequence", "feature_space": None, "stack": False}, r"space\.feature_space"),
        ({"type": "Graph", "node_space": GOOD, "edge_space": 1}, r"space\.edge_space"),
        ({"type": "custom", "class": 1, "shape": [], "dtype": None, "base": None}, r"\.class"),
    ],
)
def test_a_malformed_description_is_refused_with_what_was_expected(description: Any, message: str):
    with pytest.raises(FormatError, match=message) as caught:
        build(description)
    assert caught.value.key


def bomb(shape: list[int]) -> dict[str, Any]:
    return {**GOOD, "shape": shape, "dtype": "float64"}


@pytest.mark.parametrize(
    "description",
    [
        bomb([10**12]),
        bomb([2**62] * 32),
        bomb([0, 2**62]),
        {"type": "MultiBinary", "n": 10**12},
        {"type": "MultiBinary", "n": [10**6, 10**6]},
        {"type": "MultiDiscrete", "nvec": 2, "start": 0, "shape": [10**12], "dtype": "int64"},
        {"type": "Tuple", "spaces": [bomb([2**23])] * 5},
        {"type": "Tuple", "spaces": [bomb([1])] * (MAX_ELEMENTS // 1024)},
    ],
)
def test_a_small_description_of_a_huge_space_is_refused(description: Any):
    with pytest.raises(FormatError, match=f"at most {MAX_ELEMENTS} elements"):
        build(description)


def test_spaces_that_gymnasium_doubles_at_each_level_are_refused():
    description = GOOD
    for _ in range(40):
        description = {"type": "Sequence", "feature_space": description, "stack": True}
    with pytest.raises(FormatError, match=f"at most {MAX_ELEMENTS} elements"):
        build(description)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused_without_running_out_of_stack(depth: int):
    description, bound = GOOD, 0.0
    for _ in range(depth):
        description, bound = {"type": "Tuple", "spaces": [description]}, [bound]
    for function in (build, summary, lambda it: differences(GOOD, it)):
        with pytest.raises(FormatError, match=f"at most {MAX_DEPTH} spaces inside each other"):
            function(description)
        with pytest.raises(FormatError, match=r"\.low: expected a number, or numbers"):
            function({**GOOD, "low": bound})


def test_nesting_up_to_the_limit_is_built():
    space = box()
    for _ in range(MAX_DEPTH):
        space = spaces.Tuple([space])
    assert_survives(space)


def test_building_without_gymnasium_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingDependencyError, match=r"pip install rekindle\[gymnasium\]"):
        build(GOOD)


def test_an_order_of_keys_survives_a_gymnasium_that_sorts_mappings(
    monkeypatch: pytest.MonkeyPatch,
):
    class Sorting(spaces.Dict):
        def __init__(self, given: Any):
            super().__init__(sorted(given.items()) if isinstance(given, dict) else given)

    description = describe(SPACES["dict in an order"])
    monkeypatch.setattr(gymnasium.spaces, "Dict", Sorting)
    assert list(build(description).spaces) == ["b", "a"]


def test_building_with_a_gymnasium_too_old_names_the_upgrade(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(gymnasium.spaces, "OneOf")
    with pytest.raises(MissingDependencyError, match="no OneOf spaces"):
        build({"type": "Tuple", "spaces": [{"type": "OneOf", "spaces": [GOOD]}]})


def test_describing_and_comparing_need_no_gymnasium():
    code = (
        "import sys, rekindle.spaces as s; d = dict(type='MultiBinary', n=3);"
        "assert s.summary(d) == 'MultiBinary(3)' and not s.differences(d, d);"
        "assert 'gymnasium' not in sys.modules"
    )
    source = str(Path(__file__).parent.parent / "src")
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source}
    )


def compare(expected: Any, found: Any, key: str = "observation") -> list[tuple[str, str, str]]:
    listed = differences(describe(expected), describe(found), key)
    return [(item.key, item.expected, item.found) for item in listed]


def test_every_difference_is_listed():
    assert compare(box((4,)), box((3,), 0.0, 1.0, np.float64)) == [
        ("observation.low", "-1.0", "0.0"),
        ("observation.shape", "[4]", "[3]"),
        ("observation.dtype", "'float32'", "'float64'"),
    ]


def test_differences_name_the_place_in_nested_spaces():
    expected = spaces.Dict(goal=box((3,)), pair=spaces.Tuple([spaces.Discrete(2), box()]))
    found = spaces.Dict(goal=box((2,)), pair=spaces.Tuple([spaces.Discrete(3), box((9,))]))
    assert compare(expected, found) == [
        ("observation['goal'].shape", "[3]", "[2]"),
        ("observation['pair'][0].n", "2", "3"),
        ("observation['pair'][1].shape", "[4]", "[9]"),
    ]
    assert compare(spaces.Sequence(box()), spaces.Sequence(box((1,)), stack=True)) == [
        ("observation.stack", "False", "True"),
        ("observation.feature_space.shape", "[4]", "[1]"),
    ]


def test_differences_tell_what_is_missing_and_what_is_extra():
    assert compare(spaces.Dict(a=box(), b=box()), spaces.Dict(b=box(), c=spaces.Discrete(2))) == [
        ("observation['a']", "Box(4,) float32", "nothing"),
        ("observation['c']", "nothing", "Discrete(2)"),
    ]
    assert compare(spaces.Graph(box(), None), spaces.Graph(box(), box()), "") == [
        ("edge_space", "nothing", "Box(4,) float32"),
    ]


def test_another_order_of_keys_is_a_difference():
    pairs = [("a", box()), ("b", box())]
    assert compare(spaces.Dict(pairs), spaces.Dict(pairs[::-1])) == [
        ("observation.keys", "['a'] ['b']", "['b'] ['a']"),
    ]


def test_characters_in_another_order_are_kept_but_are_no_difference():
    left, right = spaces.Text(3, charset="ab"), spaces.Text(3, charset="ba")
    assert describe(left) != describe(right)
    assert compare(left, right) == []
    assert compare(left, spaces.Text(3, charset="abc")) == [
        ("observation.charset", "'ab'", "'abc'")
    ]


def test_another_type_is_one_difference():
    found = [("observation", "Box(4,) float32", "Discrete(2)")]
    assert compare(box(), spaces.Discrete(2)) == found


def test_keys_without_a_name_are_readable():
    assert compare(box(), box(high=2.0), "") == [("high", "1.0", "2.0")]
    assert compare(box(), spaces.Discrete(2), "")[0][0] == "space"


def test_a_difference_in_a_large_array_shows_the_first_unequal_place():
    low = np.zeros((30, 20), np.float32)
    other = low.copy()
    other[7, 3], other[0, 0], low[0, 0] = -1, -2, -2
    assert compare(box((30, 20), low), box((30, 20), other)) == [
        ("observation.low", "0.0 at [7][3]", "-1.0 at [7][3]")
    ]
    short = compare(spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 4]))
    assert short == [("observation.nvec", "[2, 3]", "[2, 4]")]
    [(_, expected, found)] = compare(box((30, 20), low), box((30, 20), -5.0))
    assert len(expected) < 400
    assert found == "-5.0"


def test_custom_spaces_are_compared_by_class_and_by_base():
    class Other(Polar):
        pass

    assert compare(Polar(-1, 1, (2,)), Polar(-1, 1, (2,))) == []
    listed = compare(Polar(-1, 1, (2,)), Other(0, 1, (3,)))
    assert [key for key, _, _ in listed] == [
        "observation.class",
        "observation.shape",
        "observation.low",
    ]
    assert compare(Words(), Words(shape=(2,)))[0][0] == "observation.shape"
    assert compare(Polar(-1, 1, (2,)), box((2,)))[0][2] == "Box(2,) float32"


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (box(), "Box(4,) float32"),
        (box((), 0, 1, np.uint8), "Box() uint8"),
        (spaces.Discrete(2), "Discrete(2)"),
        (spaces.Discrete(2, start=1, dtype=np.int32), "Discrete(2, start=1) int32"),
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete([2, 3])"),
        (spaces.MultiDiscrete([2] * 50), "MultiDiscrete([2, 2, 2, 2, 2, 2, ...])"),
        (spaces.MultiBinary([3, 2]), "MultiBinary([3, 2])"),
        (spaces.Text(10), "Text(1, 10)"),
        (
            spaces.Dict(goal=box((3,)), x=spaces.Discrete(2)),
            "Dict(goal: Box(3,) float32, x: Discrete(2))",
        ),
        (
            spaces.Dict({1: box(), "a\n": box()}),
            "Dict(1: Box(4,) float32, 'a\\n': Box(4,) float32)",
        ),
        (spaces.Tuple([box(), box()]), "Tuple(Box(4,) float32, Box(4,) float32)"),
        (spaces.OneOf([box()]), "OneOf(Box(4,) float32)"),
        (spaces.Sequence(box()), "Sequence(Box(4,) float32)"),
        (spaces.Sequence(box(), stack=True), "Sequence(Box(4,) float32, stack=True)"),
        (spaces.Graph(box(), None), "Graph(Box(4,) float32)"),
        (Words(), f"custom '{__name__}:Words'"),
    ],
)
def test_a_summary_is_one_short_line(space: spaces.Space[Any], line: str):
    assert summary(describe(space)) == line


def test_a_long_summary_is_cut():
    line = summary(describe(spaces.Dict({str(index): box() for index in range(99)})))
    assert len(line) == 120
    assert line.endswith("...")


def test_subspaces_come_root_first_in_a_fixed_order():
    goal = spaces.Tuple([box(), spaces.Sequence(spaces.Discrete(2))])
    space = spaces.Dict(goal=goal, map=spaces.Graph(box(), spaces.Discrete(3)), z=spaces.Text(3))
    walked = list(subspaces(space))
    assert [path for path, _ in walked] == [
        "",
        "['goal']",
        "['goal'][0]",
        "['goal'][1]",
        "['goal'][1].feature_space",
        "['map']",
        "['map'].node_space",
        "['map'].edge_space",
        "['z']",
    ]
    assert walked[0][1] is space
    assert walked[2][1] is goal[0]


def test_subspaces_reach_into_subclasses():
    class Mine(spaces.Dict):
        pass

    assert [path for path, _ in subspaces(Mine(a=box(), b=Polar(0, 1)))] == ["", "['a']", "['b']"]


def test_the_rngs_of_all_subspaces_suffice_to_sample_again():
    space = SPACES["nested"]
    space.seed(1)
    states = {path: part.np_random.bit_generator.state for path, part in subspaces(space)}
    first = repr(space.sample())
    for path, part in subspaces(space):
        part.np_random.bit_generator.state = states[path]
    assert repr(space.sample()) == first

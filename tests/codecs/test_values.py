"""Plain values as JSON, without loss."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import os
import pathlib
import struct
import sys
import types
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.round_trip import assert_law, identical, round_trip

import rekindle as rk
from rekindle.codecs import values
from rekindle.errors import FormatError


class Color(enum.Enum):
    RED = 1
    BLUE = (2, [3])


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    HIGH = 3


class Side(str, enum.Enum):  # noqa: UP042 - a `StrEnum` prints as its value, this does not
    LEFT = "left"


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Config:
    rate: float = 0.5
    rest: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    rate: float = 0.5
    rest: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 0.5
    rest: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted:
    rate: float = 0.5
    rest: Any = None


def nan(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


ODD_ZONE = datetime.timezone(datetime.timedelta(hours=-3, seconds=7, microseconds=5), "ODD")
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

VALUES: dict[str, Any] = {
    "singletons": [None, True, False, ..., NotImplemented],
    "int": [0, -1, 2**53 - 1, 2**53, -(2**53), 2**63, 2**64, -(10**30)],
    "int of five thousand digits": [10**5000, -(10**5000)],
    "float": [0.0, -0.0, 0.1, 5e-324, sys.float_info.max, 1e16, 1e22, math.inf, -math.inf],
    "nan": [math.nan, nan("fff8000000000000"), nan("7ff800000000abcd"), nan("fff0000000000001")],
    "complex": [1j, complex(-0.0, math.inf), complex(nan("7ff800000000abcd"), -0.0)],
    "str": ["", "é", "\U0001f600", "\x00\n\"\\", "$ref", "\ud800", "a\udfff"],
    "bytes": [b"", b"\x00\xff", bytearray(), bytearray(b"\x80")],
    "date": [datetime.date(1, 1, 1), datetime.date.max],
    "naive datetime": [datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.datetime.max],
    "aware datetime": [
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
        datetime.datetime(2020, 10, 25, 2, 30, fold=0, tzinfo=BERLIN),
        datetime.datetime(2020, 1, 1, fold=1, tzinfo=ODD_ZONE),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0), "Z")),
    ],
    "time": [
        datetime.time(1, 2, 3, 4, fold=1),
        datetime.time(1, tzinfo=ODD_ZONE),
        datetime.time(1, tzinfo=BERLIN),
    ],
    "timedelta": [datetime.timedelta(-5, 3, 7), datetime.timedelta.max, datetime.timedelta.min],
    "time zone": [datetime.UTC, ODD_ZONE, BERLIN, datetime.timezone(datetime.timedelta(hours=1))],
    "decimal": [
        decimal.Decimal(text)
        for text in ("1.10", "-0", "sNaN123", "-NaN", "-Infinity", "1E+999999", "9" * 5000)
    ],
    "fraction": fractions.Fraction(-(10**400), 3),
    "uuid": uuid.UUID(int=2**100),
    "range and slice": [range(5), range(10**30, 0, -3), slice(1, None, (2,))],
    "path": [
        pathlib.Path("/a/b c"),
        pathlib.Path(os.fsdecode(b"\xff")),
        pathlib.PurePosixPath("a/../b"),
        pathlib.PureWindowsPath("c:\\x"),
    ],
    "enum": [Color.RED, Color.BLUE, Access.READ | Access.WRITE, Access(0), Level.HIGH, Side.LEFT],
    "keys": {
        1: "int", 2.5: "float", None: 0, (1, (2, "x")): 1, frozenset((1, 2)): 2, b"b": 3,
        Color.RED: 4, "$a": 5, "$$b": 6, "$id": 7, "é": 8, "\ud800": 9, "": 10, ...: 11,
        datetime.date(2020, 1, 1): 12, Frozen(1.0, (2,)): 13, Point(1, 2): 14, -0.0: 15,
    },
    "true as a key": {True: 1, "a": 2},
    "one as a key": {1: 1, "a": 2},
    "one as a float key": {1.0: 1, "a": 2},
    "keys that look like tags": {
        "$": 1, "$ref": "x", "$array": {"$list": [1]}, "$id": 5, "a.b/c#d": {}, "$$id": None,
    },
    "only a key that looks like a tag": {"$id": 1},
    "list": [1, [2, [3, ()]], (), [], [[]]],
    "tuple": (1, (2,), [3], ()),
    "namedtuple": Point(1, [Point(2, None)]),
    "set": [
        {1, 2, 3}, {"a", (b"b", None), Color.RED, frozenset(("c", 4))},
        set(), frozenset(), frozenset({1, Color.RED, (2, frozenset((3,)))}),
    ],
    "deque": [collections.deque([1, [2]], maxlen=3), collections.deque(), collections.deque("ab")],
    "ordered dict": collections.OrderedDict([("b", 1), ("a", collections.OrderedDict())]),
    "default dict": [collections.defaultdict(list, {1: [2]}), collections.defaultdict(None)],
    "counter": collections.Counter("aab"),
    "mapping proxy": types.MappingProxyType({"a": [1]}),
    "namespace": types.SimpleNamespace(a=1, b=[2]),
    "dataclass": Config(1.0, [Frozen(2.0, Slotted(3.0, FrozenSlotted(4.0, (5,))))]),
    "class": [int, np.float32, collections.OrderedDict],
    "dtype": [
        np.dtype("f4"), np.dtype(object), np.dtype("M8[25s]"),
        np.dtype([("a", "<i4"), ("b", ">f8", (2, 3))], align=True),
    ],
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    _, restored = round_trip(value)

    assert identical(restored, value)


def test_values_that_were_restored_are_saved_as_the_same_bytes(tmp_path: Path) -> None:
    assert_law(tmp_path, dict(VALUES), dict.fromkeys(VALUES))


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(),
    st.text(st.characters(codec=None, categories=None)), st.binary(max_size=8),
    st.decimals(), st.fractions(), st.uuids(), st.timedeltas(),
    st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False),
    st.times(), st.dates(), st.sampled_from([*Color, *Level, *Side, ...]),
)  # fmt: skip
KEYS = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=2) | st.booleans(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2),
    max_leaves=3,
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Config, st.floats(), inner),
        st.builds(Frozen, st.floats(), inner),
        st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5)),
        st.lists(st.tuples(st.text(max_size=2), inner), max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(TREES)
def test_any_nest_of_values_comes_back_as_it_was(value: Any) -> None:
    _, restored = round_trip(value)

    assert identical(restored, value)


def test_numbers_come_back_as_they_were_without_a_target() -> None:
    value = {"int": 10**5000, "nan": nan("7ff800000000abcd"), "zero": -0.0, 1: (True, b"x", 2j)}

    loaded, _ = round_trip(value)

    assert identical(loaded, value)


SCALARS = [
    *(np.dtype(kind).type(1) for kind in "?bBhHiIlLefdgFDG"),
    np.float16(-0.0), np.float32("nan"), np.float64("-inf"), np.longdouble(1) / 3,
    np.clongdouble(1 + 2j) / 3, np.uint64(2**64 - 1), np.int64(-(2**63)),
    np.str_("é\ud800"), np.str_(""), np.bytes_(b""), np.bytes_(b"a\x00b"),
    np.datetime64("2020-01-01T01", "h"), np.datetime64("NaT"), np.timedelta64(5, "D"),
    np.void(b"abc"), np.array([(1, 2.5)], [("a", "i1"), ("b", "f8")])[0],
]  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: repr(scalar)[:40])
def test_a_numpy_scalar_keeps_its_type(scalar: Any) -> None:
    loaded, restored = round_trip(scalar)

    assert type(restored) is type(scalar)
    assert identical(restored, scalar)
    assert identical(loaded, scalar)


def test_a_document_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    rk.save(tmp_path / "saved", state=VALUES)
    text = (tmp_path / "saved" / "state.json").read_bytes()

    document = json.loads(text.decode("utf-8"), parse_constant=refuse)

    integers = [node for node in _leaves(document) if isinstance(node, int)]
    assert all(abs(number) < 2**53 for number in integers)


def _leaves(node: Any) -> Any:
    if isinstance(node, (dict, list)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _leaves(item)
    else:
        yield node


class OwnZone(datetime.tzinfo):
    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)


def test_a_time_zone_that_has_no_name_is_refused_with_its_path(tmp_path: Path) -> None:
    state = {
        "own": datetime.datetime(2020, 1, 1, tzinfo=OwnZone()),
        "time": [datetime.time(1, tzinfo=OwnZone())],
    }

    with pytest.raises(rk.UnsupportedError, match=r"state/own: .*OwnZone") as raised:
        rk.save(tmp_path / "saved", state=state)

    assert [path for path, _ in raised.value.refusals] == ["state/own", "state/time.0"]
    assert not (tmp_path / "saved").exists()


MALFORMED: list[Any] = [
    {}, {"$none": 1}, {"x": 1}, {"$int": "zz"}, {"$int": 5}, {"$float": "abc"}, {"$float": "nan:0"},
    {"$float": "nan:00"}, {"$float": 1}, {"$str": "AAA"}, {"$str": 1}, {"$complex": [1]},
    {"$complex": 1}, {"$bytes": "!"}, {"$range": [1, 2, 0]}, {"$range": 5}, {"$datetime": "x"},
    {"$datetime": "2020-01-01", "zone": "../../x"}, {"$datetime": "2020-01-01", "zone": 5},
    {"$datetime": "2020-01-01", "zone": {"$timezone": 1}}, {"$date": ""}, {"$time": 1},
    {"$timedelta": [10**20, 0, 0]}, {"$timedelta": 1}, {"$timezone": [1e9, "x"]},
    {"$timezone": []}, {"$zone": "None/Such"}, {"$decimal": "x"}, {"$fraction": [1, 0]},
    {"$uuid": "x"}, {"$singleton": "x"}, {"$path": "a", "kind": "none"}, {"$path": "a"},
    {"$scalar": "|O", "bytes": "AAAAAAAAAAA="}, {"$scalar": "<f4", "value": "x"},
    {"$scalar": "<f4", "bytes": "AA=="}, {"$scalar": "<f4"}, {"$dtype": []}, {"$dtype": "os"},
]  # fmt: skip


@pytest.mark.parametrize("node", MALFORMED, ids=str)
def test_a_malformed_value_is_said_to_be_one(node: Any) -> None:
    with pytest.raises(FormatError):
        values.decode(node)

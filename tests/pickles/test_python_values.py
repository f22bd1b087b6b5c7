from __future__ import annotations

import collections
import datetime
import pickle
from typing import Any

import pytest
from tests.hostile.assembly import Call, assemble, call, name

from rekindle import spans
from rekindle.errors import FormatError
from rekindle.limits import Budget
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded
from rekindle.state import Reference


def read(value: Any, **options: Any) -> Any:
    return reading.read(spans.of_bytes(assemble(value, 4), "x"), **options).value


def test_factories_of_builtin_types_are_kept_and_others_make_a_record() -> None:
    value = collections.defaultdict(int, {"a": 1})
    found = reading.read(spans.of_bytes(pickle.dumps(value), "x")).value
    assert found == value
    assert found.default_factory is int
    own = collections.defaultdict(Any, {"a": 1})
    record = reading.read(spans.of_bytes(pickle.dumps(own), "x")).value
    assert record.label == "collections:defaultdict"
    assert record.pairs == {"a": 1}


def test_the_metadata_of_a_state_dict_is_kept_and_no_other_attribute() -> None:
    state: Any = collections.OrderedDict(weight=1)
    state._metadata = {"": {"version": 1}}
    found = reading.read(spans.of_bytes(pickle.dumps(state), "x")).value
    assert found == state
    assert found._metadata == {"": {"version": 1}}
    state.other = 1
    record = reading.read(spans.of_bytes(pickle.dumps(state), "x")).value
    assert isinstance(record, Recorded)
    assert record["other"] == 1
    assert record.pairs == {"weight": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (call("builtins:set", [1, 2]), {1, 2}), (call("builtins:list", (1, 2)), [1, 2]),
        (call("builtins:bytes", [1, 2]), b"\x01\x02"), (call("builtins:bytes"), b""),
        (call("builtins:bytearray", "é", "latin1"), bytearray(b"\xe9")),
        (call("builtins:int", "12"), 12), (call("builtins:float", "1.5"), 1.5),
        (call("builtins:complex", 1.0, 2.0), 1 + 2j), (call("builtins:range", 3), range(3)),
        (call("__builtin__:xrange", 1, 5, 2), range(1, 5, 2)),
        (call("_codecs:encode", "é", "latin1"), b"\xe9"),
        (call("collections:OrderedDict", [("a", 1)]), collections.OrderedDict(a=1)),
        (call("collections:deque", [1], 3), collections.deque([1], 3)),
        (call("collections:Counter", {"a": 2}), collections.Counter("aa")),
        (call("datetime:timedelta", 1, 2, 3), datetime.timedelta(1, 2, 3)),
        (call("builtins:getattr", name("a.b:C"), "RED"), Reference("a.b:C.RED")),
    ],
)  # fmt: skip
def test_known_calls_give_their_values(value: Any, expected: Any) -> None:
    found = read(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        call("builtins:bytes", 10), call("builtins:set", 5), call("builtins:list", "abc"),
        call("builtins:int", "9" * 5000), call("builtins:int", b"1"), call("builtins:range", "a"),
        call("builtins:slice"), call("_codecs:encode", "a", "rot13"), call("_codecs:encode", b"a"),
        call("collections:OrderedDict", [(1,)]), call("collections:deque", [], -1),
        call("collections:deque", [], "a"), call("collections:Counter", "aab"),
        call("datetime:datetime", b"\xff" * 10), call("datetime:datetime", 2020, 1, 1),
        call("datetime:timedelta", 10**12, 0, 0), call("datetime:timezone", 5),
        call("uuid:UUID", "x"), call("functools:partial", name("os:system"), "x"),
        call("pathlib:PosixPath", 3), call("builtins:getattr", 1, 2),
        call("copyreg:_reconstructor", 1, 2, 3), call("copyreg:__newobj__"),
        Call(name("builtins:list"), ([1],), {"a": 1}), call("builtins:complex", "1j"),
    ],
)  # fmt: skip
def test_known_names_with_other_arguments_stay_records_with_a_note(value: Any) -> None:
    found = reading.read(spans.of_bytes(assemble(value, 4), "x"))
    assert isinstance(found.value, Recorded)
    assert found.value.arguments is not None
    assert len(found.notes) == 1
    assert "stays a record" in found.notes[0]


def test_a_bound_method_is_a_record_of_its_owner_and_name() -> None:
    found = read(call("builtins:getattr", [1], "append"))
    assert (found.label, found.name, found["self"]) == ("types:MethodType", "append", [1])


def test_calls_of_what_is_no_name_are_named_after_it() -> None:
    found = read(Call(Call(Call(name("a:b"), ()), (1,)), (2,)))
    assert found.label == "call of call of a:b"
    assert found.arguments == (2,)
    found = read(Call(call("builtins:getattr", name("a:B"), "make"), (3,)))
    assert found.label == "a:B.make"


def test_long_texts_are_encoded_piece_by_piece() -> None:
    text = "é" * 3_000_000
    data = pickle.dumps(text.encode("latin1"), 2)
    budget = Budget()
    found = reading.read(spans.of_bytes(data, "x"), budget).value
    assert found == text.encode("latin1")
    assert budget.spent < 10_000_000


def test_text_that_is_none_is_malformed() -> None:
    long = b"\x80\x04\x8d" + (100_000).to_bytes(8, "little") + b"\xff" * 100_000 + b"."
    with pytest.raises(FormatError, match="UTF-8"):
        reading.read(spans.of_bytes(long, "x"))

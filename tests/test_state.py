"""Documents as plain Python: what `load` gives when there is no live object."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.round_trip import forge

import rekindle as rk
from rekindle.errors import FormatError
from rekindle.state import Record, Reference, escape, tag_of, unescape


class Color(enum.Enum):
    RED = 1
    BLUE = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float
    label: str = "a"


class Node:
    def __init__(self, value: Any = None, next: Any = None) -> None:
        self.value = value
        self.next = next

    def method(self) -> Any:
        return self.value


def load(directory: Path, **components: Any) -> dict[str, Any]:
    rk.save(directory / "saved", **components)
    return rk.load(directory / "saved")


# --------------------------------------------------------------------------- records


def test_named_things_come_as_records(tmp_path: Path) -> None:
    state = load(tmp_path, state=[Point(1, [2]), Config(0.5), Color.RED, Node(3)])["state"]

    point, config, color, node = state
    assert [record.label.rpartition(":")[2] for record in state] == [
        "Point", "Config", "Color", "Node",
    ]  # fmt: skip
    assert (point.x, point.y) == (1, [2])
    assert config.rate == config["rate"] == 0.5
    assert (color.name, color.value) == ("RED", 1)
    assert dict(node) == {"value": 3, "next": None}


def test_a_record_reads_like_a_dictionary_and_like_an_object() -> None:
    record = Record("module:Class", {"rate": 1, "keys": 2, "label": 3})

    assert record.rate == record["rate"] == 1
    assert [*record] == ["rate", "keys", "label"]
    assert len(record) == 3
    assert record["keys"] == 2
    assert record["label"] == 3
    assert record.label == "module:Class"
    assert repr(record) == "<Class rate=1, keys=2, label=3>"


def test_a_field_that_a_record_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(AttributeError, match=r"module:Class: no field 'rat'. Fields: rate"):
        _ = Record("module:Class", {"rate": 1}).rat


def test_records_are_equal_when_class_and_fields_are() -> None:
    record = Record("module:Class", {"a": 1})

    assert record == Record("module:Class", {"a": 1})
    assert record != Record("module:Other", {"a": 1})
    assert record != Record("module:Class", {"a": 2})
    assert record != {"a": 1}
    assert hash(record) == hash(Record("module:Class", {"a": 1}))


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))]
)
def test_a_record_can_be_copied(duplicate: Any) -> None:
    record = Record("module:Class", {"a": [1]})

    assert duplicate(record) == record


def test_a_long_field_is_shortened_where_a_record_is_shown() -> None:
    record = Record("module:Class", {"text": "x" * 1000, "array": np.zeros((3, 4))})

    assert len(repr(record)) < 120
    assert "<float64 (3, 4)>" in repr(record)


def test_what_is_known_only_by_name_comes_as_its_name(tmp_path: Path) -> None:
    state = load(tmp_path, state=[int, math.sin, math, np.add])["state"]

    assert state == ["builtins:int", "math:sin", "math", "numpy:add"]
    assert all(isinstance(name, Reference) for name in state)
    assert repr(state[0]) == "<builtins:int>"


def test_what_a_function_was_bound_to_comes_with_it(tmp_path: Path) -> None:
    node = Node([5])

    state = load(tmp_path, state=[node.method, functools.partial(math.pow, 2, base=[3])])["state"]

    method, partial = state
    assert (method.name, method["self"].value) == ("method", [5])
    assert (partial.func, partial.args, partial.kwargs) == ("math:pow", [2], {"base": [3]})


# --------------------------------------------------------------------------- containers


def test_containers_come_as_the_plain_ones(tmp_path: Path) -> None:
    state = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, {1: [2]}),
        "deque": collections.deque([1], maxlen=2),
        "set": {1, "a", (2, b"c")},
        "frozen": frozenset({1}),
        "bytes": bytearray(b"a"),
    }

    loaded = load(tmp_path, state=state)["state"]

    assert loaded == {**state, "ordered": {"b": 1, "a": 2}, "default": {1: [2]}}
    assert [*loaded["ordered"]] == ["b", "a"]
    assert loaded["deque"].maxlen == 2
    assert [type(loaded[name]) for name in state] == [
        dict, dict, collections.deque, set, frozenset, bytearray,
    ]  # fmt: skip


def test_members_that_are_the_same_only_as_data_stay_two(tmp_path: Path) -> None:
    first, second = Node(1), Node(1)
    state = {
        "set": {first, second}, "frozen": frozenset((first, (second,))),
        "keys": {first: "a", second: "b", 3: "c"},
    }  # fmt: skip

    loaded = load(tmp_path, state=state)["state"]

    assert [record.value for record in loaded["set"]] == [1, 1]
    assert len(loaded["frozen"]) == 2
    assert [(key if key == 3 else key.value, value) for key, value in loaded["keys"]] == [
        (1, "a"), (1, "b"), (3, "c"),
    ]  # fmt: skip


def test_enums_and_named_tuples_stay_keys(tmp_path: Path) -> None:
    loaded = load(tmp_path, state={Color.RED: 1, Color.BLUE: 2, Point(1, 2): 3, int: 4})["state"]

    assert [*loaded.values()] == [1, 2, 3, 4]
    assert [key.name for key in list(loaded)[:2]] == ["RED", "BLUE"]
    assert loaded[Record(f"{__name__}:Point", {"x": 1, "y": 2})] == 3


# --------------------------------------------------------------------------- references


def test_a_value_with_two_names_comes_as_one(tmp_path: Path) -> None:
    shared = [np.arange(3)]
    node = Node(shared)

    loaded = load(tmp_path, first={"a": shared, "b": shared}, second=[node, node, shared])

    first, second = loaded["first"], loaded["second"]
    assert first["a"] is first["b"] is second[2] is second[0].value
    assert second[0] is second[1]


def test_one_component_can_be_read_without_those_it_shares_with(tmp_path: Path) -> None:
    shared = [np.arange(3), Node(4)]
    rk.save(tmp_path / "saved", first={"a": shared}, second=[shared, shared[0]])

    loaded = rk.load(tmp_path / "saved", ["second"])

    assert loaded.keys() == {"second"}
    assert loaded["second"][0][0] is loaded["second"][1]
    assert loaded["second"][0][1].value == 4


def test_a_component_that_is_another_comes_as_it(tmp_path: Path) -> None:
    state = {"a": 1}

    loaded = load(tmp_path, first=state, second=state, third=[state])

    assert loaded["first"] is loaded["second"] is loaded["third"][0]


def test_cycles_close(tmp_path: Path) -> None:
    row: list[Any] = [1]
    row.append(row)
    table: dict[Any, Any] = {}
    table["self"] = table
    node = Node()
    node.next = (node, [node])
    knot: tuple[Any, ...] = ([], 5)
    knot[0].append((knot, 1))
    members: Any = collections.deque()
    members.append((members,))

    loaded = load(tmp_path, row=row, table=table, node=node, knot=[knot], members=members)

    assert loaded["row"][1] is loaded["row"]
    assert loaded["table"]["self"] is loaded["table"]
    assert loaded["node"].next[0] is loaded["node"].next[1][0] is loaded["node"]
    assert loaded["knot"][0][0][0][0] is loaded["knot"][0]
    assert loaded["members"][0][0] is loaded["members"]


@pytest.mark.parametrize("kind", ["list", "dict", "object", "keys"])
def test_a_chain_of_thousands_comes_whole(kind: str, tmp_path: Path) -> None:
    chain: Any = None
    for index in range(5000):
        chain = {
            "list": [index, chain],
            "dict": {"value": index, "next": chain},
            "object": Node(index, chain),
            "keys": {(): index, None: chain},
        }[kind]

    found = load(tmp_path, chain=chain)["chain"]

    value, following = {"list": (0, 1), "keys": ((), None)}.get(kind, ("value", "next"))
    for index in reversed(range(5000)):
        assert found[value] == index
        found = found[following]
    assert found is None


# --------------------------------------------------------------------------- malformed


@given(st.text() | st.sampled_from(["$", "$$", "$id", "$$id", "$ref"]))
def test_a_key_is_escaped_and_read_back(key: str) -> None:
    assert unescape(escape(key)) == key
    assert tag_of({escape(key): 1}) is None


@pytest.mark.parametrize(
    "root",
    [
        {"$later": 1}, {"$ref": "state#7"}, {"$ref": "state#x"}, {"$ref": "state/none"},
        {"$ref": 5}, {"$tuple": 5}, {"$set": [[1]], "$id": []}, {"$dict": [[1]]}, {"$dict": 5},
        {"$deque": [], "maxlen": -1}, {"$objects": [1], "shape": [2]}, {"$objects": 5, "shape": []},
        {"$objects": [], "shape": [10**12]}, {"$namedtuple": "a:b"}, {"$object": "a:b"},
        {"$enum": "a:b"}, {"$partial": 1}, {"$slice": [1, 2, 3, 4]}, {"$bytearray": 5},
        {"$tuple": [{"$ref": "state#1"}], "$id": 1}, {"$int": "z"}, {"$ref": "state"},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_document_is_said_to_be_one(root: Any, tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=[1])
    forge(tmp_path / "saved", "state", {"root": root})

    with pytest.raises(FormatError):
        rk.load(tmp_path / "saved")


@pytest.mark.parametrize("document", [None, 5, [], {}, {"hoisted": []}], ids=str)
def test_a_document_without_a_root_is_said_to_be_malformed(document: Any, tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=[1])
    forge(tmp_path / "saved", "state", document)

    with pytest.raises(FormatError, match="root"):
        rk.load(tmp_path / "saved")


def test_a_document_that_nests_without_end_is_said_to_be_malformed(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=[1])
    nested: Any = 1
    for _ in range(400):
        nested = {"$tuple": [nested]}
    forge(tmp_path / "saved", "state", {"root": nested})

    with pytest.raises(FormatError):
        rk.load(tmp_path / "saved")


def test_a_class_in_a_document_is_neither_imported_nor_called(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=[1])
    names = [
        {"$object": "antigravity:Flying", "attributes": {"a": 1}},
        {"$enum": "antigravity:Flying", "name": "a", "value": 1},
        {"$function": "os:_exit"},
    ]
    forge(tmp_path / "saved", "state", {"root": names})

    flying, member, function = rk.load(tmp_path / "saved")["state"]

    assert flying.label == member.label == "antigravity:Flying"
    assert function == "os:_exit"
    assert "antigravity" not in sys.modules

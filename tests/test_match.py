"""The way back: documents matched against live objects and put into them in place."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import enum
import functools
import json
import math
import random
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.round_trip import assert_law, forge, identical, written

import rekindle as rk


class Node:
    def __init__(self, value: Any = None, next: Any = None) -> None:
        self.value = value
        self.next = next

    def method(self) -> Any:
        return self.value


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any = None) -> None:
        self.a = a


class Guarded:
    """Runs none of its own code while it is restored."""

    def __init__(self, value: Any) -> None:
        self.__dict__["value"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __hash__(self) -> int:
        raise AssertionError

    def __setstate__(self, state: Any) -> None:
        raise AssertionError


class Cached:
    def __init__(self, value: int) -> None:
        self.value = value

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.value


class Color(enum.Enum):
    RED = 1
    BLUE = 2


Point = collections.namedtuple("Point", "x y")


class Marked(Point):
    pass


@dataclasses.dataclass
class Config:
    rate: float = 0.0
    rest: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    rate: float = 0.0
    rest: Any = None


class Keyed:
    """Its hash depends on what is restored into it."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and self.key == other.key


def restored(directory: Path, state: Any, live: Any, **options: Any) -> rk.RestoreReport:
    rk.save(directory / "saved", state=state)
    return rk.restore(directory / "saved", state=live, **options)


def differences(directory: Path, state: Any, live: Any) -> list[str]:
    """Where a state does not fit; the live object is as it was then."""
    before = written(directory / "live", live=live)
    with pytest.raises(rk.MismatchError) as raised:
        restored(directory, state, live)
    assert written(directory / "live again", live=live) == before
    return [difference.key for difference in raised.value.differences]


# --------------------------------------------------------------------------- in place


def test_objects_and_containers_stay_the_same_ones(tmp_path: Path) -> None:
    def build(number: int) -> Node:
        return Node(
            {"list": [number], "set": {number}, "deque": collections.deque([number], maxlen=3),
             "array": np.full(3, number), "bytes": bytearray([number]), "slots": Slotted(number),
             "ordered": collections.OrderedDict({number: [number]}), "config": Config(number)}
        )  # fmt: skip

    live = build(7)
    before = dict(live.value)
    holder = live.value

    restored(tmp_path, build(5), live)

    assert live.value is holder
    assert all(live.value[name] is part for name, part in before.items())
    assert live.value["list"] == [5]
    assert live.value["set"] == {5}
    assert [*live.value["deque"]] == [5]
    assert live.value["array"].tolist() == [5, 5, 5]
    assert live.value["bytes"] == b"\x05"
    assert live.value["slots"].a == 5
    assert live.value["ordered"] == {5: [5]}
    assert live.value["config"].rate == 5


def test_nothing_is_left_of_what_was_there(tmp_path: Path) -> None:
    live = Node({"a": 1, "b": [1, 2, 3], "c": {9}}, collections.deque([1, 2, 3]))

    restored(tmp_path, Node({"b": [4], "d": {5}}, collections.deque([6])), live)

    assert live.value == {"b": [4], "d": {5}}
    assert [*live.next] == [6]


def test_an_ordered_dict_can_be_used_afterwards(tmp_path: Path) -> None:
    live = Node(collections.OrderedDict(a=1, b=2))

    restored(tmp_path, Node(collections.OrderedDict(z=3, b=4)), live)
    live.value.move_to_end("z")
    live.value["y"] = 5

    assert [*live.value.items()] == [("b", 4), ("z", 3), ("y", 5)]
    assert live.value.popitem() == ("y", 5)


def test_the_order_of_keys_comes_back(tmp_path: Path) -> None:
    live = Node({"a": 1, "b": 2}, {3: 1, None: 2})

    restored(tmp_path, Node({"b": 3, "a": 4}, {None: 5, 3: 6}), live)

    assert [*live.value] == ["b", "a"]
    assert [*live.next] == [None, 3]


def test_a_key_comes_back_with_its_own_type(tmp_path: Path) -> None:
    live: dict[str, Any] = {"a": {1: "int"}, "b": {True: "bool"}}

    restored(tmp_path, {"a": {True: "bool"}, "b": {1.0: "float"}}, live)

    assert [type(key) for part in live.values() for key in part] == [bool, float]


def test_no_code_of_the_objects_is_run(tmp_path: Path) -> None:
    live = [Guarded([1])]
    guarded = live[0]

    restored(tmp_path, [Guarded([2])], live)

    assert live[0] is guarded
    assert guarded.__dict__ == {"value": [2]}


def test_a_cached_value_is_restored_or_forgotten(tmp_path: Path) -> None:
    fresh, used = Cached(3), Cached(4)
    assert used.double == 8

    restored(tmp_path / "1", fresh, used)
    assert used.__dict__ == {"value": 3}
    assert used.double == 6

    stored, other = Cached(5), Cached(6)
    assert stored.double == 10
    restored(tmp_path / "2", stored, other)
    assert other.__dict__ == {"value": 5, "double": 10}


def test_arrays_of_the_root_must_fit_and_deeper_ones_are_replaced(tmp_path: Path) -> None:
    assert differences(
        tmp_path,
        {"a": np.zeros(3), "b": [np.zeros(2)], "c": np.zeros(2)},
        {"a": np.zeros(4), "b": [np.zeros(2, np.float32)], "c": [0.0, 0.0]},
    ) == ["state/a", "state/b.0", "state/c"]
    assert differences(tmp_path / "2", Node(np.zeros(3)), Node(np.zeros(4))) == ["state/value"]

    live = Node(Node(np.zeros(4)))
    restored(tmp_path / "3", Node(Node(np.ones(3))), live)
    assert live.value.value.tolist() == [1, 1, 1]


def test_what_an_object_has_gathered_since_is_forgotten_and_surplus_arrays_are_not(
    tmp_path: Path,
) -> None:
    live = Node({(1, 1): 5, (0, 0): 6}, ((1, 1), (2, 2)))
    restored(tmp_path / "1", Node({(0, 0): 1}, ((0, 0),)), live)
    assert (live.value, live.next) == ({(0, 0): 1}, ((0, 0),))

    live = Node({"w": np.zeros(2), "b": np.zeros(2)})
    assert differences(tmp_path / "2", Node({"w": np.zeros(2)}), live) == ["state/value.b"]


def test_a_live_array_with_other_strides_is_filled_where_it_must_stay(tmp_path: Path) -> None:
    live = {"a": np.asfortranarray(np.zeros((2, 3)))}
    array = live["a"]

    restored(tmp_path, {"a": np.arange(6.0).reshape(2, 3)}, live)

    assert live["a"] is array
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_array_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    live = Node(Node(np.zeros(3)))
    live.value.value.flags.writeable = False

    restored(tmp_path, Node(Node(np.ones(3))), live)

    assert live.value.value.tolist() == [1, 1, 1]


# --------------------------------------------------------------------------- identity


def test_two_names_of_one_value_come_back_as_one(tmp_path: Path) -> None:
    shared = [1]
    live = Node([8], Node([9]))

    restored(tmp_path, Node(shared, Node(shared)), live)

    assert live.value == [1]
    assert live.value is live.next.value


def test_two_values_do_not_become_one_where_the_live_side_has_one(tmp_path: Path) -> None:
    shared: Any = [0]
    array = np.zeros(2)
    pair = (1, 2)
    live = Node([shared, array, pair], [shared, array, pair])

    first, second = ([[n], np.full(2, n), tuple([1, 2])] for n in (1.0, 2.0))  # noqa: C409
    restored(tmp_path, Node(first, second), live)

    assert live.value[0] == [1]
    assert live.next[0] == [2]
    assert (live.value[1] == 1).all()
    assert (live.next[1] == 2).all()
    assert live.value[2] is pair
    assert live.next[2] == pair
    assert live.next[2] is not pair


def test_two_objects_do_not_become_one_where_the_live_side_has_one(tmp_path: Path) -> None:
    shared = Node(0)

    assert differences(tmp_path, Node(Node(1), Node(2)), Node(shared, shared)) == ["state/next"]


def test_components_share_again_what_they_shared(tmp_path: Path) -> None:
    shared = Node([1])
    rk.save(tmp_path / "saved", first={"a": shared}, second=[shared, shared.value])
    first: dict[str, Any] = {"a": Node([8])}
    second: list[Any] = [Node([9]), None]

    rk.restore(tmp_path / "saved", first=first, second=second)

    assert first["a"] is second[0]
    assert second[1] is first["a"].value == [1]


def test_a_component_that_is_not_asked_for_is_left_alone(tmp_path: Path) -> None:
    model = Node(5)
    rk.save(tmp_path / "saved", model=model, user={"model": model, "n": 1})
    other = Node(0)
    live = {"model": other, "n": 0}

    report = rk.restore(tmp_path / "saved", user=live)

    assert live == {"model": other, "n": 1}
    assert other.value == 0
    assert report.not_asked == ("model",)


def test_cycles_close(tmp_path: Path) -> None:
    state = Node()
    state.value = (state, [state])
    state.value[1].append(state.value)
    state.next = {"self": state, "row": []}
    state.next["row"].append(state.next["row"])
    live = Node()

    restored(tmp_path, state, live)

    assert live.value[0] is live.value[1][0] is live.next["self"] is live
    assert live.value[1][1] is live.value
    assert live.next["row"][0] is live.next["row"]


def test_a_cycle_through_immutable_values_closes(tmp_path: Path) -> None:
    knot: Any = ([], 5)
    knot[0].append((knot, 1))
    frozen = Frozen(1.0, [])
    frozen.rest.append(frozen)
    live: list[Any] = [None, None, Frozen(2.0, [])]

    restored(tmp_path, [knot, {"inside": knot}, frozen], live)

    assert live[0][0][0][0] is live[0]
    assert live[1]["inside"] is live[0]
    assert live[2].rest[0] is live[2]
    assert live[2].rate == 1.0


def test_a_cycle_through_a_partial_and_a_method_closes(tmp_path: Path) -> None:
    def build(number: int) -> Node:
        node = Node(number)
        node.next = [functools.partial(_add, node, [number]), node.method]
        return node

    live = build(7)
    restored(tmp_path, build(5), live)

    partial, method = live.next
    assert partial.args[0] is live
    assert partial.args[1] == [5]
    assert method() == live.value == 5


def _add(*numbers: Any) -> Any:
    return numbers


@pytest.mark.parametrize("kind", ["object", "list", "dict", "tuples", "frozen"])
@pytest.mark.parametrize("is_built", [True, False], ids=["into objects", "into nothing"])
def test_a_chain_of_thousands_is_restored(kind: str, is_built: bool, tmp_path: Path) -> None:
    length = 5000 if kind != "frozen" else 2000

    def build(first: int) -> Any:
        chain: Any = None
        for index in range(first, first + length):
            chain = {
                "object": lambda i=index, c=chain: Node(i, c),
                "list": lambda i=index, c=chain: [i, c],
                "dict": lambda i=index, c=chain: {"value": i, "next": c},
                "tuples": lambda i=index, c=chain: [(i, c)],
                "frozen": lambda i=index, c=chain: Frozen(i, c),
            }[kind]()
        return chain

    if kind == "object" and not is_built:
        pytest.skip("objects are restored into live ones")
    live = {"chain": build(-length) if is_built else None}
    holder = live["chain"]

    restored(tmp_path, {"chain": build(0)}, live)

    found = live["chain"]
    assert found is holder or not is_built or kind == "frozen"
    for index in reversed(range(length)):
        value, found = {
            "object": lambda it: (it.value, it.next),
            "list": lambda it: (it[0], it[1]),
            "dict": lambda it: (it["value"], it["next"]),
            "tuples": lambda it: it[0],
            "frozen": lambda it: (it.rate, it.rest),
        }[kind](found)
        assert value == index
    assert found is None


# --------------------------------------------------------------------------- kinds of objects


class Whole(int):
    pass


class Real(float):
    pass


class Text(str):
    pass


class Row(tuple):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Sequence(list):  # type: ignore[type-arg]
    pass


class Members(set):  # type: ignore[type-arg]
    pass


class Recent(collections.deque):  # type: ignore[type-arg]
    pass


class Ordered(collections.OrderedDict):  # type: ignore[type-arg]
    pass


class Defaulted(collections.defaultdict):  # type: ignore[type-arg]
    pass


class Failure(ValueError):  # noqa: N818 - the class is what is tested
    pass


def marked(thing: Any, mark: Any) -> Any:
    thing.mark = mark
    return thing


KINDS: dict[str, Callable[[int], Any]] = {
    "int": lambda n: marked(Whole(n), [n]),
    "float": lambda n: marked(Real(-0.0 if n else 1.0), [n]),
    "str": lambda n: marked(Text("a" * n), [n]),
    "tuple": lambda n: marked(Row((n, [n])), [n]),
    "namedtuple with attributes": lambda n: marked(Marked(n, [n]), [n]),
    "dict": lambda n: marked(Table({n: [n], "a": n}), [n]),
    "list": lambda n: marked(Sequence([n, [n]]), [n]),
    "set": lambda n: marked(Members({n}), [n]),
    "deque": lambda n: marked(Recent([n, 1, 2], maxlen=3), [n]),
    "ordered dict": lambda n: marked(Ordered([(n, 1), ("a", 2)]), [n]),
    "default dict": lambda n: marked(Defaulted(list if n else dict, {1: n}), [n]),
    "exception": lambda n: marked(Failure("failed", n), [n]),
    "namespace": lambda n: types.SimpleNamespace(a=n, b=[n]),
    "user's dict": lambda n: collections.UserDict({"a": [n]}),
    "chain of maps": lambda n: collections.ChainMap({"a": n}, {"b": [n]}),
    "event": lambda n: threading.Event(),
    "condition": lambda n: threading.Condition(),
    "generators": lambda n: [random.Random(n), np.random.default_rng(n)],
    "proxy": lambda n: types.MappingProxyType({"a": [n]}),
    "object": lambda n: marked(Node(n), [n]),
    "slots": lambda n: Slotted([n]),
    "partial": lambda n: functools.partial(_add, n, [n], key=n),
    "method": lambda n: Node([n]).method,
    "built-in method": lambda n: [n, 1].append,
    "functions": lambda n: [math.sin, len, np.add, _add, str.upper, list[int], int | None],
    "classes": lambda n: [int, Node, np.float32, Color],
    "modules": lambda n: math,
    "closure": lambda n: _counter([n]),
    "factory": lambda n: collections.defaultdict(_add if n else None, {1: n}),
}


def _counter(start: Any) -> Callable[[], Any]:
    return lambda: start


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_object_of_any_kind_takes_the_state_of_another(kind: str, tmp_path: Path) -> None:
    other = 0 if kind == "factory" else 7
    holder = Node(KINDS[kind](5))
    live = Node(KINDS[kind](other))
    if kind == "factory":
        live.value.default_factory = _add

    assert_law(tmp_path, holder, live)

    assert type(live.value) is type(holder.value)


def test_what_derives_from_a_value_keeps_it_and_its_attributes(tmp_path: Path) -> None:
    names = ["int", "float", "str", "tuple", "namedtuple with attributes"]
    live = [KINDS[name](7) for name in names]

    restored(tmp_path, [KINDS[name](5) for name in names], live)

    whole, real, text, row, point = live
    assert (whole, text, row) == (5, "aaaaa", (5, [5]))
    assert math.copysign(1, real) == -1
    assert (point.x, point.y) == (5, [5])
    assert all(thing.mark == [5] for thing in live)


def test_what_derives_from_a_container_can_be_used_afterwards(tmp_path: Path) -> None:
    names = ["ordered dict", "default dict", "deque"]
    live = Node([KINDS[name](0) for name in names])

    restored(tmp_path, Node([KINDS[name](5) for name in names]), live)

    ordered, defaulted, recent = live.value
    ordered.move_to_end(5)
    assert [*ordered] == ["a", 5]
    assert defaulted["new"] == []
    recent.append(9)
    assert [*recent] == [1, 2, 9]


def test_a_method_is_bound_to_the_restored_object(tmp_path: Path) -> None:
    node, rows = Node(7), [7]
    live = [node, node.method, rows, rows.append]
    other, others = Node(5), [5]

    restored(tmp_path, [other, other.method, others, others.append], live)

    assert live[1]() == 5
    live[3](6)
    assert live[2] == rows == [5, 6]


def test_a_closure_gets_the_variables_back(tmp_path: Path) -> None:
    live = [_counter([7])]
    function = live[0]

    restored(tmp_path, [_counter([5])], live)

    assert live[0] is function
    assert function() == [5]


def test_a_class_or_function_is_compared_by_its_name(tmp_path: Path) -> None:
    live = Node([Node, math.sin, math], {"f": _counter(1)})

    assert differences(tmp_path, Node([Slotted, math.cos, json], {"f": _add}), live) == [
        "state/value.0", "state/value.1", "state/value.2", "state/next.f",
    ]  # fmt: skip


# --------------------------------------------------------------------------- records


def test_records_of_loaded_classes_are_built_from_data(tmp_path: Path) -> None:
    live: dict[str, Any] = {}
    state = {"p": Point(1, [2]), "c": Config(3.0, Frozen(4.0)), "e": Color.BLUE}

    restored(tmp_path / "1", Node(state), node := Node(live))

    assert node.value is live
    assert identical(live, state)


def test_an_object_that_the_live_side_lacks_needs_its_class(tmp_path: Path) -> None:
    state = Node([Node(1), Slotted(2), marked(Table(a=1), 3)])
    assert differences(tmp_path, state, Node([])) == [
        "state/value.0",
        "state/value.1",
        "state/value.2",
    ]

    live = Node([])
    rk.restore(tmp_path / "saved", state=live, classes=[Node, Slotted, Table])

    node, slotted, table = live.value
    assert (node.value, slotted.a, table, table.mark) == (1, 2, {"a": 1}, 3)


def test_a_class_with_hidden_state_is_not_built(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=Node([Node(1)]))
    root = {"$object": f"{__name__}:Node", "attributes": {
        "value": [{"$object": "array:array", "attributes": {}}], "next": None}}  # fmt: skip
    forge(tmp_path / "saved", "state", {"root": root})

    with pytest.raises(rk.MismatchError, match="array:array"):
        rk.restore(tmp_path / "saved", state=Node([]), classes=[array.array])


def test_a_frozen_record_is_replaced_and_its_arrays_stay(tmp_path: Path) -> None:
    live = Node(Frozen(1.0, np.zeros(3)), Frozen(2.0, [1]))
    array, unchanged = live.value.rest, live.next

    restored(tmp_path, Node(Frozen(5.0, np.ones(3)), Frozen(2.0, [3])), live)

    assert live.value.rate == 5.0
    assert live.value.rest is array
    assert array.tolist() == [1, 1, 1]
    assert live.next is unchanged
    assert unchanged.rest == [3]


def test_fields_that_have_changed_are_a_difference(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=Node(Point(1, 2), Color.RED))
    attributes = {
        "value": {"$namedtuple": f"{__name__}:Point", "fields": {"x": 1, "z": 2}},
        "next": {"$enum": f"{__name__}:Color", "name": "GREEN", "value": 3},
    }
    root = {"$object": f"{__name__}:Node", "attributes": attributes}
    forge(tmp_path / "saved", "state", {"root": root})

    with pytest.raises(rk.MismatchError) as raised:
        rk.restore(tmp_path / "saved", state=Node(Point(0, 0), Color.RED))

    assert [item.key for item in raised.value.differences] == ["state/value", "state/next"]


# --------------------------------------------------------------------------- keys


def test_objects_as_keys_are_restored_and_stay(tmp_path: Path) -> None:
    def build(number: int) -> dict[Any, Any]:
        first, second = Node(number), Node(number + 1)
        return {"first": first, "second": second, "table": {
            first: [number], (second, 1): number, frozenset([second]): 1, Color.RED: number, 2.5: 2,
        }, "members": {first, (second, number)}}  # fmt: skip

    live = build(7)
    first, second = live["first"], live["second"]

    restored(tmp_path, build(5), live)

    assert (live["first"], live["second"]) == (first, second)
    assert (first.value, second.value) == (5, 6)
    assert live["table"] == {
        first: [5], (second, 1): 5, frozenset([second]): 1, Color.RED: 5, 2.5: 2,
    }  # fmt: skip
    assert live["members"] == {first, (second, 5)}


def test_keys_are_hashed_as_what_they_were_restored_to(tmp_path: Path) -> None:
    live: Any = [{Keyed(7): 1}, {Keyed(8)}]

    restored(tmp_path, [{Keyed(5): 2}, {Keyed(6)}], live)

    assert live[0][Keyed(5)] == 2
    assert Keyed(6) in live[1]


def test_frozen_records_as_keys_find_their_values(tmp_path: Path) -> None:
    live: dict[str, Any] = {"t": {Frozen(1, (2,)): np.zeros(2), Point(1, 2): [0]}, "s": set()}
    array = live["t"][Frozen(1, (2,))]
    state = {"t": {Point(1, 2): [3], Frozen(1, (2,)): np.ones(2)}, "s": {Frozen(4, (5,))}}

    restored(tmp_path, state, live)

    assert live["t"][Frozen(1, (2,))] is array
    assert array.tolist() == [1, 1]
    assert [*live["t"]] == [Point(1, 2), Frozen(1, (2,))]
    assert live["s"] == {Frozen(4, (5,))}


def test_a_default_factory_comes_back(tmp_path: Path) -> None:
    def build(factory: Any) -> collections.defaultdict[Any, Any]:
        return collections.defaultdict(factory)

    live = Node([build(list), build(None), build(_add), None])
    restored(tmp_path, Node([build(None), build(dict), build(_add), build(set)]), live)

    assert [part.default_factory for part in live.value] == [None, dict, _add, set]


def test_a_factory_that_the_live_side_lacks_is_a_difference(tmp_path: Path) -> None:
    state = Node(collections.defaultdict(_add))

    assert differences(tmp_path, state, Node(None)) == ["state/value.default_factory"]


# --------------------------------------------------------------------------- what does not fit


def test_every_difference_is_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    state = {
        "array": np.zeros(3), "object": Node(1), "missing": Slotted(1), "same": [1, {"a": 2}],
        "attribute": Node(1), "function": math.sin,
    }  # fmt: skip
    extra = Node(2)
    extra.more = 1  # type: ignore[attr-defined]
    live = {
        "array": np.ones(4), "object": Slotted(5), "same": [5, {"a": 6}], "attribute": extra,
        "function": math.cos, "surplus": 1,
    }  # fmt: skip

    assert differences(tmp_path, state, live) == [
        "state/surplus", "state/array", "state/object", "state/missing", "state/attribute.more",
        "state/function",
    ]  # fmt: skip


def test_what_fits_is_restored_when_asked_and_the_rest_reported(tmp_path: Path) -> None:
    state = {"array": np.zeros(3), "number": 1, "object": Node([1]), "function": [math.sin, 2]}
    live = {
        "array": np.ones(4), "number": 5, "object": Node([5]), "function": [math.cos, 6],
        "surplus": 1,
    }  # fmt: skip
    array = live["array"]

    report = restored(tmp_path, state, live, strict=False)

    assert live["array"] is array
    assert array.tolist() == [1, 1, 1, 1]
    assert live["number"] == 1
    assert live["object"].value == [1]
    assert live["function"] == [math.cos, 2]
    assert live["surplus"] == 1
    assert [item.key for item in report.differences] == [
        "state/surplus", "state/array", "state/function.0",
    ]  # fmt: skip


def test_where_nothing_fits_nothing_is_put(tmp_path: Path) -> None:
    state = Node(
        {"a": Node(1), "b": 2, "c": Slotted(3)},
        [[Node(1), 2], (Node(1), 3), {Node(1), 4}, collections.deque([Node(1)])],
    )
    live = Node({"b": 0}, [[0], (0,), {0}, collections.deque([0])])

    report = restored(tmp_path, state, live, strict=False)

    assert live.value == {"b": 2}
    assert "nothing" not in repr([live.value, live.next])
    assert {item.key for item in report.differences} == {
        "state/value.a", "state/value.c", "state/next.0.0", "state/next.1.0", "state/next.2",
        "state/next.3.0",
    }  # fmt: skip


def test_an_attribute_that_the_class_has_no_place_for_is_a_difference(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=Slotted(1))
    root = {"$object": f"{__name__}:Slotted", "attributes": {"a": 1, "z": 2}}
    forge(tmp_path / "saved", "state", {"root": root})
    live = Slotted(0)

    with pytest.raises(rk.MismatchError, match=r"state/z"):
        rk.restore(tmp_path / "saved", state=live)

    assert live.a == 0


def test_a_value_that_cannot_be_changed_in_place_is_a_difference(tmp_path: Path) -> None:
    with pytest.raises(rk.MismatchError, match="in place"):
        restored(tmp_path, 5, 6)

    restored(tmp_path / "same", 5, 5)


# --------------------------------------------------------------------------- the law


class Thing:
    """Any object of the graphs below."""


def _put(thing: Any, items: dict[str, Any]) -> Any:
    vars(thing).update(items)
    return thing


LEAVES = st.none() | st.integers() | st.text(max_size=3) | st.floats() | st.sampled_from(Color)
GRAPHS = st.recursive(
    LEAVES | st.integers(0, 3).map(np.arange),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc$"), inner, max_size=3),
        st.dictionaries(st.integers(0, 5) | st.none(), inner, max_size=2),
        st.lists(inner, min_size=1, max_size=2).map(lambda items: [*items, items, items[0]]),
        st.builds(Config, st.floats(), inner),
        st.builds(Frozen, st.floats(), inner),
        st.builds(Point, inner, inner),
        st.builds(lambda: Thing()).flatmap(
            lambda thing: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3).map(
                lambda items: _put(thing, {**items, "self": thing})
            )
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(GRAPHS, GRAPHS)
def test_what_is_restored_over_anything_is_saved_as_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, state: Any, other: Any
) -> None:
    directory = tmp_path_factory.mktemp("law")
    before = written(directory / "before", state=Node(Node(state)))

    for number, live in enumerate((None, other, copy.deepcopy(state))):
        holder = Node(Node(live))
        rk.restore(directory / "before", state=holder, classes=[Thing])
        assert written(directory / str(number), state=holder) == before


# --------------------------------------------------------------------------- malformed


def _sample() -> Node:
    node = Node([1, (2, {3}), {4: 5}], {"a": np.arange(4.0), "c": np.arange(2) * 1j})
    whole = np.arange(6)
    node.more = [  # type: ignore[attr-defined]
        Config(1.0, [Frozen(2.0, (3,))]), Color.RED, Point(1, [2]), marked(Whole(5), 1), whole,
        whole[1:3], np.array([1, None], dtype=object), collections.deque([1], maxlen=2),
        collections.defaultdict(list), collections.OrderedDict(a=1), functools.partial(_add, 1),
        node.method, int, node, frozenset([1, (2,)]), slice(1), bytearray(b"y"), 10**30, {Node(1)},
        _counter([1]), types.MappingProxyType({"a": 1}), np.zeros(2, [("a", "i1"), ("b", "f8")]),
    ]  # fmt: skip
    return node


JUNK: list[Any] = [
    None, -1, 10**30, True, "", "state#1", [], {}, [[]], {"$ref": "state"}, {"$ref": "state#1"},
    {"$ref": "none"}, {"$ref": 5}, {"$tuple": [{"$ref": "state#1"}], "$id": 1}, {"$later": 1},
    {"$set": [[1]]}, {"$dict": [[[1], 2]]}, {"$list": 5}, {"$deque": [], "maxlen": "x"},
    {"$object": "os:_Environ", "attributes": {}}, {"$array": "state/none"}, {"$id": []},
    {"$object": f"{__name__}:Frozen", "attributes": {"z": 1}}, {"$partial": 1}, {"$slice": [1]},
    {"$array": "state/next.a", "shape": [10**9, 10**9]}, {"$array": "state/next.a", "dtype": "|O"},
    {"$view": "state/next.a", "name": "state/q", "offset": -8, "shape": [2], "strides": [8],
     "dtype": "<f8"}, {"$objects": [1], "shape": [2]}, {"$enum": f"{__name__}:Color", "name": 5},
    {"$method": "x", "self": 1}, {"$adapter": "none"}, {"$adapter": 5}, {"$function": "os:system"},
    {"$namedtuple": f"{__name__}:Point", "fields": {"x": 1}}, {"$external": "x"}, {"$int": "z"},
    {"$adapter": "torch.module", "class": "x"}, {"$float": "nan:00"},
    {"$frozenset": [{"$set": []}]},
]  # fmt: skip


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in a document, as its container and key."""
    found: list[tuple[Any, Any]] = []
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], (dict, list)):
            found += _places(node[key])
    return found


def test_a_malformed_document_changes_nothing(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", state=_sample())
    text = (tmp_path / "saved" / "state.json").read_bytes()
    chance = random.Random(0)
    live = _sample()
    before = written(tmp_path / "before", state=live)
    refused = 0

    for number in range(120):
        document = json.loads(text)
        container, key = chance.choice(_places(document))
        container[key] = chance.choice(JUNK)
        forge(tmp_path / "saved", "state", document)
        try:
            rk.restore(tmp_path / "saved", state=live)
        except rk.RekindleError:
            refused += 1
            if number % 10 == 0:
                assert written(tmp_path / f"after {number}", state=live) == before
        else:
            live = _sample()

    assert refused > 60

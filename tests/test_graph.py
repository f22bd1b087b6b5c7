"""The walk from live objects to documents: what is taken, what is named how, what is refused."""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import contextvars
import ctypes
import datetime
import decimal
import functools
import hashlib
import io
import itertools
import json
import mmap
import multiprocessing
import os
import queue
import random
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
import types
import typing
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.round_trip import written

import rekindle as rk
from rekindle import graph
from rekindle.graph import Walk


class Node:
    def __init__(self, value: Any = None, next: Any = None) -> None:
        self.value = value
        self.next = next

    def method(self) -> Any:
        return self.value


def document(tmp_path: Path, name: str = "state", **components: Any) -> Any:
    rk.save(tmp_path / "saved", **components)
    return json.loads((tmp_path / "saved" / f"{name}.json").read_bytes())


# --------------------------------------------------------------------------- names


def test_arrays_are_named_by_the_way_to_them(tmp_path: Path) -> None:
    node = Node(np.zeros(1), [np.zeros(2), {"deep": np.zeros(3)}])
    saved = rk.save(tmp_path / "saved", state=node, other=np.zeros(4), keys={(1, 2): np.zeros(5)})

    assert set(saved.arrays("state")) == {"value", "next.0", "next.1.deep"}
    assert set(saved.arrays("other")) == {"value"}
    assert set(saved.arrays("keys")) == {"values()"}


def test_names_that_would_be_the_same_are_told_apart(tmp_path: Path) -> None:
    state = {"a.b": np.zeros(1), "a": {"b": np.zeros(2)}, "__metadata__": np.zeros(3)}
    state |= {"a.b~2": np.zeros(4)}

    saved = rk.save(tmp_path / "saved", state=state)

    assert {name: len(found) for name, found in saved.arrays("state").items()} == {
        "a.b": 1, "a.b~2": 2, "a.b~2~2": 4, "___metadata__": 3,
    }  # fmt: skip


def test_names_hold_any_text_and_stay_short(tmp_path: Path) -> None:
    state = {"\ud800": np.zeros(1), "x" * 10_000: np.zeros(2), "é": np.zeros(3)}

    saved = rk.save(tmp_path / "saved", state=state)

    names = saved.arrays("state")
    assert sorted(map(len, names.values())) == [1, 2, 3]
    assert max(map(len, names)) < 300
    assert "é" in names


def test_a_shared_tensor_is_stored_once_under_its_best_name(tmp_path: Path) -> None:
    policy = torch.nn.Linear(2, 2)
    shared = torch.ones(3)

    saved = rk.save(
        tmp_path / "saved", agent={"w": policy.weight, "s": shared}, policy=policy, more=[shared]
    )

    assert set(saved.arrays("policy")) == {"weight", "bias"}
    assert set(saved.arrays("agent")) == {"s"}
    assert saved.arrays("more") == {}
    assert saved.document("agent")["root"]["w"] == {"$ref": "policy/weight"}


def test_only_values_that_are_met_again_are_numbered(tmp_path: Path) -> None:
    shared = [1]

    root = document(tmp_path, state={"a": shared, "b": [2], "c": shared})["root"]

    assert root == {"a": {"$list": [1], "$id": 1}, "b": [2], "c": {"$ref": "state#1"}}


def test_what_nests_deep_is_hoisted(tmp_path: Path) -> None:
    chain: Any = None
    for index in range(500):
        chain = Node(index, chain)

    found = document(tmp_path, state=chain)

    assert len(found["hoisted"]) == 10
    assert _depth(found) < 150


def _depth(node: Any) -> int:
    if not isinstance(node, (dict, list)):
        return 0
    return 1 + max(map(_depth, node.values() if isinstance(node, dict) else node), default=0)


def test_tuples_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    nested: Any = ()
    for _ in range(3000):
        nested = (nested,)

    with pytest.raises(rk.UnsupportedError, match="nested tuples"):
        rk.save(tmp_path / "saved", state=[nested])


# --------------------------------------------------------------------------- attributes


class Base:
    __slots__ = ("__hidden", "x")

    def hide(self, value: Any) -> None:
        self.__hidden = value


class Derived(Base):
    __slots__ = ("__dict__", "unset", "y")


class Watching:
    """Any code of its own that is run is an error."""

    def __init__(self, value: Any) -> None:
        self.__dict__["value"] = value

    def __getattribute__(self, name: str) -> Any:
        if name in ("__dict__", "__class__"):
            return object.__getattribute__(self, name)
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __hash__(self) -> int:
        raise AssertionError

    def __bool__(self) -> bool:
        raise AssertionError

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError


class Cached:
    def __init__(self) -> None:
        self.value = 3

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.value

    @property
    def broken(self) -> int:
        raise AssertionError


def test_slots_and_the_dictionary_are_both_taken(tmp_path: Path) -> None:
    derived = Derived()
    derived.x, derived.y, derived.free = 1, [2], 3
    derived.hide(4)

    found = document(tmp_path, state=derived)["root"]["attributes"]

    assert found == {"x": 1, "y": [2], "free": 3, "_Base__hidden": 4}


def test_no_code_of_the_objects_is_run(tmp_path: Path) -> None:
    found = document(tmp_path, state=[Watching(5)])["root"]

    assert found[0]["attributes"] == {"value": 5}


def test_properties_are_not_state_and_cached_ones_are(tmp_path: Path) -> None:
    cached = Cached()
    assert document(tmp_path, state=cached)["root"]["attributes"] == {"value": 3}

    assert cached.double == 6
    assert document(tmp_path / "2", state=cached)["root"]["attributes"] == {"value": 3, "double": 6}


class Contract(typing.Protocol):
    def act(self) -> Any: ...


class Kept(Contract):
    def act(self) -> Any:
        return None


class Typed(typing.Generic[typing.TypeVar("Item")]):
    pass


def test_what_derives_from_typing_is_an_object_like_any(tmp_path: Path) -> None:
    for name, cls in (("kept", Kept), ("typed", Typed)):
        thing = cls()
        thing.value = [1]  # type: ignore[attr-defined]
        assert document(tmp_path / name, state=thing)["root"]["attributes"] == {"value": [1]}


def test_annotations_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    named = [list[int], list[str], typing.Optional[int], int | str, typing.Any]  # noqa: UP045

    found = [node for item in document(tmp_path, state=named)["root"] for node in item.values()]

    assert len(set(found)) == len(named)


class Rows(list[Any]):
    pass


class Ordered(collections.OrderedDict[Any, Any]):
    pass


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (Rows([1]), [1]),
        (Text("abc"), "abc"),
        (type("Whole", (int,), {"__int__": None})(5), 5),
        (type("Real", (float,), {"__float__": None})(-0.5), -0.5),
        (type("Pair", (tuple,), {"__iter__": None})((1, 2)), (1, 2)),
        (type("Bag", (set,), {"__iter__": None})({1}), {1}),
        (type("Table", (dict,), {"items": None, "keys": None})(a=1), {"a": 1}),
        (ValueError("x", 1), ("x", 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_content_is_read_past_the_methods_of_its_class(value: Any, content: Any) -> None:
    assert graph.plain_content(value) == content
    assert type(graph.plain_content(value)) is type(content)


def test_content_comes_in_the_order_that_its_class_keeps() -> None:
    ordered = Ordered(a=1, b=2)
    ordered.move_to_end("a")

    assert [*graph.plain_content(ordered)] == ["b", "a"]


# --------------------------------------------------------------------------- refusals


class OwnArray(array.array):  # type: ignore[type-arg]
    pass


class OwnCycle(itertools.cycle):  # type: ignore[type-arg]
    pass


class OwnBytes(io.BytesIO):
    pass


class OwnNumbers(np.ndarray[Any, Any]):
    pass


class OwnLocal(threading.local):
    pass


class Pair(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int)]


class OwnThread(threading.Thread):
    pass


def _generator() -> Iterator[int]:
    yield 1


async def _coroutine() -> None:
    return None


async def _asynchronous() -> Any:
    yield 1


@contextlib.contextmanager
def _closed(thing: Any) -> Iterator[Any]:
    try:
        yield thing
    finally:
        thing.close()


@contextlib.contextmanager
def _held(lock: Any) -> Iterator[Any]:
    with lock:
        yield lock


@contextlib.contextmanager
def _piped() -> Iterator[Any]:
    first, second = multiprocessing.Pipe()
    with first, second:
        yield first


@contextlib.contextmanager
def _child() -> Iterator[Any]:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        yield child


@contextlib.contextmanager
def _looped() -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


IN_A_CONTEXT: dict[str, Callable[[], Any]] = {
    "coroutine": lambda: _closed(_coroutine()),
    "open file": lambda: Path(os.devnull).open(),  # noqa: SIM115 - the stack closes it
    "socket": lambda: socket.socket(),
    "held lock": lambda: _held(threading.Lock()),
    "held reentrant lock": lambda: _held(threading.RLock()),
    "database": lambda: _closed(sqlite3.connect(":memory:")),
    "memory map": lambda: mmap.mmap(-1, 10),
    "pipe": _piped,
    "child process": _child,
    "future": _looped,
}
NATIVE: dict[str, Callable[[], Any]] = {
    "generator": _generator,
    "generator expression": lambda: (item for item in ()),
    "asynchronous generator": _asynchronous,
    "bytes in memory": lambda: io.BytesIO(b"x"),
    "text in memory": lambda: io.StringIO("x"),
    "thread": threading.Thread,
    "own thread": OwnThread,
    "process": multiprocessing.Process,
    "count": itertools.count,
    "own cycle": lambda: OwnCycle([1]),
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, []),
    "keys": lambda: {}.keys(),
    "memory view": lambda: memoryview(b"a"),
    "match": lambda: re.match("a", "a"),
    "C integer": lambda: ctypes.c_int(3),
    "C structure": Pair,
    "compact array": lambda: array.array("i", [1]),
    "own compact array": lambda: OwnArray("i", [1]),
    "own bytes in memory": lambda: OwnBytes(b"x"),
    "own numpy array": lambda: np.zeros(2).view(OwnNumbers),
    "record array": lambda: np.rec.array([(1,)], dtype=[("a", "i4")]),
    "masked array": lambda: np.ma.array([1]),
    "array that holds a generator": lambda: np.array([_generator()], dtype=object),
    "structure that holds objects": lambda: np.zeros(1, [("a", "O")]),
    "numpy text of any length": lambda: np.array(["a"], np.dtypes.StringDType()),
    "queue": queue.SimpleQueue,
    "thread-local": OwnLocal,
    "frame": lambda: sys._getframe(),
    "code": lambda: _generator.__code__,
    "context variable": lambda: contextvars.ContextVar("x"),
    "decimal context": decimal.Context,
    "element": lambda: ElementTree.Element("a"),
    "compressor": zlib.compressobj,
    "hash": hashlib.sha256,
    "packer": lambda: struct.Struct("i"),
    "status": lambda: Path().stat(),
    "cell": lambda: (lambda x: lambda: x)(1).__closure__[0],  # type: ignore[index]
    "system's generator": random.SystemRandom,
    "tensor without memory": lambda: torch.zeros(1, device="meta"),
    "named maxima": lambda: torch.zeros(3).max(0),
    "bound by pybind11": lambda: torch._C.CompilationUnit(),
    "own time zone": lambda: datetime.time(tzinfo=type("Own", (datetime.tzinfo,), {})()),
    "in a tuple in a set of a list": lambda: [{("a", _Key(_generator()))}],
}


class _Key(Node):
    pass


def test_whatever_is_not_data_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        things = {name: stack.enter_context(make()) for name, make in IN_A_CONTEXT.items()}
        things |= {name: make() for name, make in NATIVE.items()}

        with pytest.raises(rk.UnsupportedError) as raised:
            rk.save(tmp_path / "new" / "saved", state={"good": 1, **things}, bad=_generator())

    refused = [path for path, _ in raised.value.refusals]
    inside = "state/in a tuple in a set of a list"
    expected = [f"state/{name}" for name in things] + ["bad"]
    assert [path if not path.startswith(inside) else inside for path in refused] == [
        path if path != "state/array that holds a generator" else f"{path}.0" for path in expected
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("generator", "builtins:generator, a suspended generator"),
        ("own compact array", "OwnArray, an object of compiled code .through array:array"),
        ("own thread", "OwnThread, a thread"),
        ("count", "itertools:count, an object of compiled code"),
        ("process", "Process, a process"),
        ("own numpy array", "OwnNumbers, a subclass of numpy.ndarray"),
        ("structure that holds objects", "a dtype that holds Python objects"),
    ],
)
def test_a_refusal_names_path_and_type_and_what_to_do(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=f"state/a.0: .*{said}") as raised:
        rk.save(tmp_path / "saved", state={"a": [NATIVE[name]()]})

    assert raised.value.key == "state/a.0"
    assert "exclude=[path]" in str(raised.value)


@pytest.mark.parametrize(
    "cls", [Node, Derived, Kept, Typed, Rows, Ordered, types.SimpleNamespace, KeyError, object]
)
def test_classes_made_by_python_code_are_walked(cls: type) -> None:
    assert graph.native_reason(cls) is None


def test_a_refused_save_leaves_an_earlier_checkpoint_as_it_was(tmp_path: Path) -> None:
    before = written(tmp_path / "saved", state=1)

    with pytest.raises(rk.UnsupportedError):
        rk.save(tmp_path / "saved", state=_generator(), overwrite=True)

    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert rk.load(tmp_path / "saved") == {"state": 1}
    assert before


# --------------------------------------------------------------------------- exclusion


def test_what_is_excluded_is_left_out_and_reported(tmp_path: Path) -> None:
    node = Node(_generator(), {"a": [1, {"viewer": _generator()}], "b": (_generator(), 2)})

    saved = rk.save(
        tmp_path / "saved", state=node, exclude=["state.value", "state/next.*.viewer", "*.b.0"]
    )

    left_out = ["state/value", "state/next.a.1.viewer", "state/next.b.0"]
    assert saved.manifest.excluded == left_out
    live = Node("kept", {"a": [0, {"viewer": "kept too"}], "b": ("third", 0)})
    report = rk.restore(tmp_path / "saved", state=live)
    assert list(report.excluded) == left_out
    assert (live.value, live.next) == (
        "kept",
        {"a": [1, {"viewer": "kept too"}], "b": ("third", 2)},
    )


def test_an_excluded_value_is_not_even_looked_at(tmp_path: Path) -> None:
    saved = rk.save(tmp_path / "saved", state={"a": np.zeros(3), "b": 1}, exclude=["state/a"])

    assert saved.arrays("state") == {}
    assert rk.load(tmp_path / "saved")["state"]["b"] == 1


# --------------------------------------------------------------------------- determinism


def test_the_same_state_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    shared = np.arange(6.0)
    state = {
        "node": Node(shared, Node(shared[2:4], [shared])),
        "tensor": torch.ones(2),
        "numbers": {5, 3, 9},
        "names": {"b", "a", "c"},
        "method": Node(1).method,
    }

    assert written(tmp_path / "first", s=state) == written(tmp_path / "second", s=state)


PROGRAM = textwrap.dedent("""
    import enum, sys
    import numpy as np
    import rekindle as rk

    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    class Node:
        pass

    node = Node()
    node.a, node.b, node.self = {"x": 1, "y": np.arange(3)}, (1, "z"), node
    node.numbers, node.names = {3, 2**40, 7, -5}, {"b", "a", (1, "c"), frozenset(("d", "e"))}
    node.colors = frozenset(Color)
    rk.save(sys.argv[1], state=node, more=[node.a, b"x"])
""")


def test_another_process_with_other_hashes_writes_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        path = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", PROGRAM, path],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        names = ("state.json", "more.json", "state.safetensors")
        found.append([(path / name).read_bytes() for name in names])

    assert found[0] == found[1]


def test_the_walk_takes_nothing_from_the_objects_that_it_met() -> None:
    node = Node([1], {"a": (2,)})

    Walk().capture({"state": node})

    assert vars(node) == {"value": [1], "next": {"a": (2,)}}

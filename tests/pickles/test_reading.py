from __future__ import annotations

import collections
import copyreg
import datetime
import functools
import gc
import pathlib
import pickle
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as nps
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pickles.same import same

from rekindle import spans
from rekindle.errors import DamagedError, FormatError, NotFoundError, UnsafeError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded
from rekindle.state import Reference


def read(data: bytes, **options: Any) -> Any:
    return reading.read(spans.of_bytes(data, "a pickle"), **options).value


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TEXT = st.text(st.characters(), max_size=20)
# The text of protocol 0 cannot tell one NaN from another.
NUMBERS = (
    st.integers() | st.floats(allow_nan=False) | st.just(float("nan")) | st.booleans()
    | st.complex_numbers(allow_nan=False)
)  # fmt: skip
ZONES = st.none() | st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)).map(
    datetime.timezone
)
MOMENTS = st.datetimes(timezones=ZONES) | st.dates() | st.times(timezones=ZONES) | st.timedeltas()
DTYPES = nps.scalar_dtypes() | nps.array_dtypes() | nps.unicode_string_dtypes(max_len=5)
ARRAYS = nps.arrays(DTYPES, nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
ATOMS = (
    st.none() | NUMBERS | TEXT | st.binary(max_size=20) | MOMENTS | st.uuids()
    | st.builds(range, st.integers(-5, 5), st.integers(-5, 5))
    | st.builds(slice, st.integers(-5, 5), st.none() | st.integers(-5, 5))
    | st.builds(pathlib.PurePosixPath, st.just("a"), TEXT.map(lambda t: t.replace("\0", "")))
)  # fmt: skip
KEYS = st.none() | st.integers() | TEXT | st.binary(max_size=5) | st.tuples(st.integers(), TEXT)
VALUES = st.recursive(
    ATOMS | ARRAYS | st.binary(max_size=9).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict)
        | st.lists(inner, max_size=4).map(lambda items: collections.deque(items, maxlen=9))
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(value=VALUES)
@settings(max_examples=150, deadline=None)
def test_what_pickle_writes_comes_back(protocol: int, value: Any) -> None:
    assert same(value, read(pickle.dumps(value, protocol)))


@given(array=ARRAYS, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=300, deadline=None)
def test_arrays_of_every_type_come_back(array: Any, protocol: int) -> None:
    fortran = np.asfortranarray(array)
    found = read(pickle.dumps([array, fortran, array[()]], protocol))
    assert same([array, fortran, array[()]], found)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_python_s_own_pickler_writes_what_comes_back(protocol: int) -> None:
    value = [{"a": (1, 2.5)}, {1, 2}, b"x" * 300, "é" * 300, [None] * 2000, 2**80, -(2**4000)]
    data = pickle._dumps(value, protocol)  # type: ignore[attr-defined]
    assert same(value, read(data))


class Agent:
    """Stands for any class that the reader does not have."""

    def __init__(self) -> None:
        self.step = 3
        self.itself = self
        self.children: list[Any] = [self, {"me": self}]


class Slotted:
    __slots__ = ("a", "b")


class Table(dict[str, Any]):
    pass


class Row(list[Any]):
    pass


Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_is_a_record_and_circles_close(protocol: int) -> None:
    found = read(pickle.dumps(Agent(), protocol))
    assert isinstance(found, Recorded)
    assert found.is_object
    assert found.label.endswith(":Agent")
    assert found.step == 3
    assert found.itself is found
    assert found.children[0] is found
    assert found.children[1]["me"] is found
    assert repr(found)


@pytest.mark.parametrize("protocol", [2, 5])
def test_slots_items_and_arguments_of_objects_are_kept(protocol: int) -> None:
    slotted, table, row = Slotted(), Table(x=1), Row([1, 2])
    slotted.a = 1
    table.__dict__["extra"] = 2
    found = read(pickle.dumps([slotted, table, row, Pair(1, [2])], protocol))
    assert dict(found[0]) == {"a": 1}
    assert (found[1].pairs, dict(found[1])) == ({"x": 1}, {"extra": 2})
    assert found[2].elements == [1, 2]
    assert found[3].arguments == (1, [2])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_and_calls_stay_names_and_calls(protocol: int) -> None:
    values = [Agent, len, functools.partial(len, [1]), Agent().__init__, np.float32]
    found = read(pickle.dumps(values, protocol))
    assert isinstance(found[0], Reference)
    assert found[0].endswith(":Agent")
    assert found[1].partition(":")[2] == "len"
    assert (found[2].func, found[2].args) == (found[1], ([1],))
    assert found[3].label == "types:MethodType"
    assert found[4] == "numpy:float32"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(protocol: int) -> None:
    array, items = np.arange(4.0), [1]
    found = read(pickle.dumps({"a": array, "b": array, "c": items, "d": (items, items)}, protocol))
    assert found["a"] is found["b"]
    assert found["c"] is found["d"][0]
    assert found["d"][0] is found["d"][1]


def test_objects_of_every_kind_of_generator_are_shown_with_their_state() -> None:
    generator = np.random.default_rng(3)
    legacy = np.random.RandomState(3)
    found = read(pickle.dumps([generator, legacy]))
    bits = found[0].bit_generator
    assert bits.label == "numpy.random._pcg64:PCG64"
    assert bits.state == generator.bit_generator.state
    state = legacy.get_state(legacy=False)
    assert same(state["state"]["key"], found[1].state["state"]["key"])


def test_keys_that_are_objects_make_a_list_of_pairs() -> None:
    found = read(pickle.dumps({Agent(): 1, Agent(): 2}))
    assert [value for _, value in found] == [1, 2]
    assert isinstance(read(pickle.dumps({Agent()})), list)


def test_large_payloads_are_views_of_the_file(tmp_path: Path) -> None:
    array = np.arange(MAPPED_BYTES, dtype=np.uint8)
    file = tmp_path / "large.pkl"
    for protocol in (3, 4, 5):
        file.write_bytes(pickle.dumps([array], protocol))
        span = spans.of_file(file)
        found = reading.read(span).value[0]
        assert same(array, found)
        assert np.shares_memory(found, span.array())
        found[0] = 7  # the map is copy-on-write: the file is not touched
        assert pickle.loads(file.read_bytes())[0][0] == 0


def test_small_payloads_are_copied(tmp_path: Path) -> None:
    file = tmp_path / "small.pkl"
    file.write_bytes(pickle.dumps(np.zeros(MAPPED_BYTES - 1, np.uint8)))
    span = spans.of_file(file)
    assert not np.shares_memory(reading.read(span).value, span.array())


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: data.decode("latin1")])
def test_large_payloads_that_are_no_array_come_back_as_what_they_were(
    kind: Callable[[bytes], Any],
) -> None:
    value = kind(bytes(range(256)) * 300)
    for protocol in PROTOCOLS:
        assert same([value, value], read(pickle.dumps([value, value], protocol)))


def test_a_large_replay_buffer_opens_in_no_time_and_memory(tmp_path: Path) -> None:
    file = tmp_path / "buffer.pkl"
    agent = Agent()
    agent.children = [np.zeros((1000, 1000), np.float32) for _ in range(50)]
    with file.open("wb") as out:
        pickle.dump(agent, out, 5)
    code = (
        "import resource, sys, time\n"
        "from rekindle.pickles import reading\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began = time.process_time()\n"
        "found = reading.read_file(sys.argv[1]).value\n"
        "assert found.children[49].shape == (1000, 1000)\n"
        "print(time.process_time() - began)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 0.1
    assert kilobytes < 20_000
    assert resource.RUSAGE_SELF == 0


def test_buffers_outside_the_pickle_are_put_in_their_places() -> None:
    array, data = np.arange(1000.0), pickle.PickleBuffer(b"outside")
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps([array, data], 5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    found = read(pickled, buffers=views)
    assert same(array, found[0])
    assert found[1] == b"outside"
    with pytest.raises(FormatError, match="buffers="):
        read(pickled)


def test_deep_nesting_needs_no_deep_stack() -> None:
    depth = 200_000
    found = read(b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (found,) = found
    assert found == []
    chain = b"\x80\x04" + b"}K\x00" * depth + b"N" + b"s" * depth + b"."
    found = read(chain)
    for _ in range(depth):
        found = found[0]
    assert found is None


def test_tuples_nested_deeper_than_any_program_makes_are_refused() -> None:
    fine = read(b"\x80\x04N" + b"\x85" * 5000 + b".")
    assert type(fine) is tuple
    with pytest.raises(FormatError, match="nested at most"):
        read(b"\x80\x04N" + b"\x85" * 50_000 + b".")


def test_a_value_made_of_itself_is_refused() -> None:
    # frozenset([x]) put into the list x that it is made from, by way of the memo
    code = b"\x80\x04]\x94cbuiltins\nfrozenset\nh\x00\x85R\x94ah\x01."
    with pytest.raises(FormatError, match="made of itself"):
        read(code)


def test_memory_is_counted_before_it_is_taken() -> None:
    for code in (
        b"]" * 100_000 + b"N.",
        b"}" * 100_000 + b"N.",
        b"(" + b"N" * 100_000 + b"t.",
        b"\x8d" + (50_000_000).to_bytes(8, "little") + b"a" * 50_000_000 + b".",
    ):
        with pytest.raises(UnsafeError, match="max_bytes"):
            read(b"\x80\x04" + code, budget=Budget(1_000_000))


def test_one_text_made_into_bytes_again_and_again_is_refused() -> None:
    text = b"\x8d" + (1_000_000).to_bytes(8, "little") + b"a" * 1_000_000 + b"\x94"
    call = b"c_codecs\nencode\n\x94"
    again = b"(" + b"h\x01h\x00\x8c\x06latin1\x86R" * 1000 + b"l."
    with pytest.raises(UnsafeError):
        read(b"\x80\x04" + text + call + b"00" + again, budget=Budget(100_000_000))


def test_keys_that_collide_are_refused_in_time() -> None:
    prime = sys.hash_info.modulus
    keys = [b"\x8a\x0a" + (prime * index).to_bytes(10, "little") for index in range(100_000)]
    for code in (b"}(" + b"N".join(keys) + b"Nu.", b"\x8f(" + b"".join(keys) + b"\x90."):
        with pytest.raises(UnsafeError, match="collide"):
            read(b"\x80\x04" + code)


def test_a_million_honest_keys_are_no_collision() -> None:
    value = {index * 1000: None for index in range(300_000)}
    assert read(pickle.dumps(value)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_an_error_that_says_so(protocol: int) -> None:
    data = pickle.dumps([{"a": np.arange(3)}, "text", 2**70, Agent()], protocol)
    for end in range(len(data)):
        with pytest.raises((DamagedError, FormatError)):
            read(data[:end])


def test_reading_says_how_much_it_took() -> None:
    data = pickle.dumps([1]) + pickle.dumps([2])
    first = reading.read(spans.of_bytes(data, "two"))
    assert first.value == [1]
    assert reading.read(spans.of_bytes(data, "two"), at=first.size).value == [2]


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(FormatError):
        read(b"\x80\x04z.")
    assert gc.isenabled()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        reading.read_file(tmp_path / "none.pkl")
    with pytest.raises(NotFoundError, match="directory"):
        reading.read_file(tmp_path)
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(DamagedError, match="no pickle"):
        reading.read_file(tmp_path / "empty.pkl")


def test_a_state_set_by_a_function_of_the_object_s_own_is_kept() -> None:
    class Own:
        def __reduce__(self) -> Any:
            return (uuid.UUID, (), {"x": 1}, None, None, copyreg._reduce_ex)  # type: ignore[attr-defined]

    found = read(pickle.dumps(Own()))
    assert found.x == 1

"""Live memory answers for one stored array, and for those that share its bytes in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rekindle.codecs.arrays import Stored
from rekindle.matching.memory import Memory
from rekindle.state import Document, Segmented

HOST = np.arange(12, dtype=np.float32)


class OneHost:
    """A checkpoint with one array, in whose memory others are."""

    def segmented(self, name: str) -> Segmented | None:
        return None

    def document(self, component: str) -> Document:
        return Document(component, {"root": None})

    def array(self, name: str) -> Stored:
        return Stored("F32", HOST)


@pytest.fixture
def memory() -> Memory:
    return Memory(OneHost(), lambda: {"host"})


def view(offset: int = 0, strides: int = 4) -> dict[str, Any]:
    return {"$view": "host", "offset": offset, "strides": [strides], "shape": [4], "dtype": "<f4"}


def test_memory_answers_for_one_array_only(memory: Memory) -> None:
    live = np.zeros(10)
    assert memory.claim(live[:4], {"$array": "a"})
    assert memory.claim(live[4:], {"$array": "b"})
    assert not memory.claim(live[3:5], {"$array": "c"})
    assert not memory.claim(live[:4], {"$array": "c"})
    assert memory.claim(live[::-1][:4], {"$array": "b"}), "backwards, all of it b's"


def test_spans_are_found_whatever_the_order_in_which_they_came(memory: Memory) -> None:
    live = np.zeros(100)
    order = np.random.default_rng(0).permutation(20)
    for number in order:
        assert memory.claim(live[number * 5 : number * 5 + 4], {"$array": str(number)})
    for number in range(19):
        assert not memory.claim(live[number * 5 + 3 : number * 5 + 7], {"$array": "another"})
        assert memory.claim(live[number * 5 + 4 : number * 5 + 5], {"$array": "between"})


def test_nothing_takes_up_no_memory(memory: Memory) -> None:
    live = np.zeros(4)
    assert memory.claim(live, {"$array": "a"})
    assert memory.claim(live[:0], {"$array": "b"})


def test_what_shared_memory_is_filled_where_it_shares_it_in_the_same_way(memory: Memory) -> None:
    live = np.zeros(12, np.float32)
    assert memory.claim(live[:4], view())
    assert memory.claim(live[2:6], view(8))
    assert memory.claim(live, {"$array": "host"})
    assert not memory.claim(live[3:7], view(8)), "the bytes of another place"
    assert not memory.claim(live[8::-2][:4], view(8)), "other strides"
    assert not memory.claim(np.zeros(4, np.float32), view(8)), "memory of its own"


def test_memory_that_is_too_small_does_not_stand_for_what_is_shared(memory: Memory) -> None:
    live = np.zeros(10, np.float32)
    assert not memory.claim(live[2:6], view(8))
    assert memory.claim(np.zeros(30, np.float32)[4:8], view(8))


def test_new_arrays_share_one_new_memory(memory: Memory) -> None:
    first = memory.place(view(), HOST.dtype, (4,))
    second = memory.place(view(8), HOST.dtype, (4,))
    whole = memory.place({"$array": "host"}, HOST.dtype, HOST.shape)
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [2, 3, 4, 5]
    second[0] = 7
    assert first[2] == whole[2] == 7
    assert HOST[2] == 2
    assert memory.is_shared({"$array": "host"})
    assert not memory.is_shared({"$array": "a"})

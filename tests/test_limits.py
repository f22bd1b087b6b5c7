from __future__ import annotations

import sys

import pytest

from rekindle.errors import UnsafeError
from rekindle.limits import MAX_BYTES, Budget, Hashing


def test_a_budget_is_spent_once() -> None:
    budget = Budget(100, "file")
    budget.charge(60)
    budget.charge(40)
    with pytest.raises(UnsafeError, match="file: expected values of at most 100 bytes") as caught:
        budget.charge(1)
    assert caught.value.path == "file"
    assert Budget().max_bytes == MAX_BYTES


def test_honest_keys_are_put_in() -> None:
    out: dict[int, int] = {}
    keys = list(range(0, 1_000_000, 7))
    Hashing("file").pairs(out, keys, keys)
    assert list(out) == keys
    members: set[int] = set()
    Hashing("file").members(members, keys)
    assert members == set(keys)


def test_the_last_of_two_equal_keys_counts() -> None:
    out: dict[str, int] = {}
    Hashing("file").pairs(out, ["a", "a"], [1, 2])
    assert out == {"a": 2}


def test_keys_that_collide_are_refused() -> None:
    keys = [sys.hash_info.modulus * index for index in range(100_000)]
    with pytest.raises(UnsafeError, match="collide"):
        Hashing("file").pairs({}, keys, keys)
    with pytest.raises(UnsafeError, match="collide"):
        Hashing("file").members(set(), keys)

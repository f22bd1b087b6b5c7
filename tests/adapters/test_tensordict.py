"""Dictionaries of tensors come back in place, or are built where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensordict")

import torch
from tensordict import TensorDict

import rekindle as rk


def made(value: float, count: int = 3) -> TensorDict:
    inner = TensorDict({"b": torch.full((count,), value, dtype=torch.bfloat16)}, [count])
    data = {"a": torch.full((count, 2), float(value)), "$c": inner}
    return TensorDict(data, [count], names=["time"])


def is_equal(one: TensorDict, other: TensorDict) -> bool:
    same = one.batch_size == other.batch_size and one.names == other.names
    return same and bool((one == other).all())


def test_tensors_are_restored_in_place(tmp_path: Path) -> None:
    first, second = made(1), made(2)
    held = second["$c", "b"]
    rk.save(tmp_path / "a", data=first)
    rk.restore(tmp_path / "a", data=second)
    assert is_equal(second, first)
    assert second["$c", "b"] is held
    assert rk.load(tmp_path / "a")["data"]["a"].tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("number", [1, 3])
def test_what_the_live_side_has_not_made_yet_is_built(tmp_path: Path, number: int) -> None:
    rk.save(tmp_path / "a", state={"rows": [made(index) for index in range(number)]})
    live: dict[str, list[TensorDict]] = {"rows": []}
    rk.restore(tmp_path / "a", state=live)
    assert len(live["rows"]) == number
    for index, found in enumerate(live["rows"]):
        assert is_equal(found, made(index))


def test_one_that_lies_in_files_keeps_them(tmp_path: Path) -> None:
    first, second = made(1), made(2).memmap(str(tmp_path / "files"))
    rk.save(tmp_path / "a", data=first)
    rk.restore(tmp_path / "a", data=second)
    assert second.is_locked
    assert bool((TensorDict.load_memmap(str(tmp_path / "files")) == first).all())


def test_other_keys_and_other_sizes_are_refused_and_nothing_changed(tmp_path: Path) -> None:
    rk.save(tmp_path / "a", data=made(1))
    for live, message in (
        (made(2).exclude("a"), r"the keys a, \$c"),
        (made(2, count=4), r"batch size \[3\], found \[4\]"),
        (made(2).set("a", torch.ones(3, 5)), r"float32 of shape \(3, 5\)"),
    ):
        with pytest.raises(rk.MismatchError, match=message):
            rk.restore(tmp_path / "a", data=live)
        assert (live["$c", "b"] == 2).all()

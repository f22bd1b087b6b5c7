"""Arrays a block at a time: distances, rows in segments, and bounded memory."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import rekindle as rk
from rekindle import blocks
from rekindle.blocks import Rows, distance


def test_a_distance_is_that_of_the_definition() -> None:
    first, second = np.array([3.0, 4.0, 1.0]), np.array([3.0, 1.0, 1.0])
    found = distance(first, second)
    assert found.relative == pytest.approx(3 / math.sqrt(26))
    assert (found.largest, found.num_equal, found.num_values) == (3.0, 2, 3)
    assert not found.is_same


def test_nan_is_the_same_as_nan_and_zero_as_minus_zero() -> None:
    first, second = np.array([np.nan, 0.0, np.inf]), np.array([np.nan, -0.0, np.inf])
    assert distance(first, second).is_same
    apart = distance(np.array([np.nan, 1.0]), np.array([1.0, 1.0]))
    assert (apart.num_equal, apart.relative) == (1, None)


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(101, 7)).astype(np.float32)
    second = np.where(generator.random((101, 7)) < 0.5, first, first + 1)
    whole = distance(first, second)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    for sides in ((first, second), (first[:, ::-1], second[:, ::-1]), (first.T, second.T)):
        found = distance(*sides)
        assert found.num_equal == whole.num_equal
        assert found.relative == pytest.approx(whole.relative)
        assert found.largest == whole.largest


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_integers_that_differ_by_one_are_not_the_same(dtype: type) -> None:
    first, second = np.array([2**62], dtype), np.array([2**62 + 1], dtype)
    found = distance(first, second)
    assert not found.is_same
    assert found.largest == 1.0


def test_types_that_numpy_lacks_have_distances_where_they_can() -> None:
    bits = np.dtype([("bfloat16", "<u2")])
    one, two = np.array([0x3F80], "<u2").view(bits), np.array([0x4000], "<u2").view(bits)
    assert distance(one, two).largest == 1.0
    assert distance(one, one.copy()).is_same
    other = np.dtype([("float8_e5m2", "u1")])
    raw = np.array([1, 2], "u1").view(other), np.array([1, 3], "u1").view(other)
    assert distance(*raw).num_equal == 1
    assert distance(*raw).relative is None
    days = np.array(["2026-01-01", "NaT"], "M8[D]")
    assert distance(days, days.copy()).is_same


def test_empty_arrays_are_the_same() -> None:
    assert distance(np.zeros((0, 3)), np.zeros((0, 3))).is_same
    assert distance(np.zeros(()), np.zeros(())).is_same


class Memory:
    def __init__(self, rows: int) -> None:
        self.rows = np.zeros((rows, 16), np.float32)
        self.rewards = np.zeros(rows, np.float64)
        self.added = 0
        self.ring = rk.RingBuffer(
            {"rows": self.rows, "rewards": self.rewards}, added=lambda: self.added
        )

    def fill(self, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(count):
            place = self.added % len(self.rows)
            self.rows[place] = generator.normal(size=16)
            self.rewards[place] = generator.normal()
            self.added += 1


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """Two steps of a run; rows of the second replace some of the first."""
    memory = Memory(30_000)
    with rk.Run(tmp_path / "run") as run:
        run.track(replay_buffer=memory)
        memory.fill(25_000, 1)
        run.save(step=1)
        memory.fill(8_000, 2)
        run.save(step=2)
    first, second = sorted((tmp_path / "run").glob("step_*"))
    return first, second


def lazily(path: Path) -> Rows:
    opened = rk.open(path)
    assert isinstance(opened, rk.Checkpoint)
    found = blocks.components(opened.path, opened.manifest)["replay_buffer"]
    assert isinstance(found["rows"], Rows)
    return found["rows"]


def test_rows_are_those_that_load_gives(saved: tuple[Path, Path]) -> None:
    for path in saved:
        rows, whole = lazily(path), rk.load(path)["replay_buffer"]["rows"]
        assert (rows.shape, rows.dtype) == (whole.shape, whole.dtype)
        for part in (slice(0, 10), slice(2_990, 3_010), slice(24_990, 25_010), slice(0, 30_000)):
            np.testing.assert_array_equal(rows[part], whole[part])


def test_two_steps_differ_in_the_new_rows(saved: tuple[Path, Path]) -> None:
    found = distance(*map(lazily, saved))
    whole = [rk.load(path)["replay_buffer"]["rows"] for path in saved]
    assert found.num_equal == int((whole[0] == whole[1]).sum()) == 22_000 * 16
    expected = np.linalg.norm(whole[0] - whole[1]) / np.linalg.norm(whole[0])
    assert found.relative == pytest.approx(expected, rel=1e-5)


def test_rows_in_the_same_files_are_not_read(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = lazily(saved[0]), lazily(saved[0])

    def read(self: Rows, part: slice) -> None:
        raise AssertionError(part)

    monkeypatch.setattr(Rows, "__getitem__", read)
    assert distance(first, again).is_same
    with pytest.raises(AssertionError):
        distance(first, lazily(saved[1]))


def test_rows_that_lie_alike_in_other_files_are_read(tmp_path: Path) -> None:
    sides = []
    for seed in (1, 2):
        memory = Memory(20_000)
        memory.fill(20_000, seed)
        rk.save(tmp_path / f"{seed}", replay_buffer=memory)
        sides.append(lazily(tmp_path / f"{seed}"))
    assert len(sides[0].origins) == len(sides[1].origins)
    found = distance(*sides)
    assert found.num_equal == 0
    assert found.relative == pytest.approx(2**0.5, rel=0.01)


def test_memory_is_that_of_a_few_blocks(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = [lazily(path) for path in saved]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 14)
    distance(*sides)  # opens the files, and reads them once for their digests
    tracemalloc.start()
    distance(*sides)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < sides[0].size * 4 / 4


def test_a_damaged_segment_is_said(saved: tuple[Path, Path]) -> None:
    segment = sorted((saved[1] / "replay_buffer").glob("*"))[0]
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.unlink()  # the other step has the same file
    segment.write_bytes(content)
    with pytest.raises(rk.DamagedError):
        rk.diff(*saved)

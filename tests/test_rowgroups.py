"""A save of a ring buffer costs the rows that are new, and never holds a stale or a torn one."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.held_commits import held

import rekindle as rk
from rekindle import files, rowgroups, trail, writer
from rekindle.codecs import rows

CAPACITY = 40_000
WIDTH = 60


class Memory:
    """A replay buffer of a user's own."""

    def __init__(self, capacity: int = CAPACITY, kind: str = "numpy") -> None:
        made: Any = np if kind == "numpy" else torch
        self.observations = made.zeros((capacity, WIDTH), dtype=made.float32)
        self.rewards = made.zeros(capacity, dtype=made.float64)
        self.priorities = made.zeros(capacity, dtype=made.float32)
        self.added = 0
        self.ring = rk.RingBuffer(
            {
                "observations": self.observations,
                "rewards": self.rewards,
                "priorities": self.priorities,
            },
            added=lambda: self.added,
            changing=("priorities",),
        )

    def add(self, count: int) -> None:
        for number in range(self.added, self.added + count):
            row = number % len(self.rewards)
            self.observations[row] = number + 0.5
            self.rewards[row] = number
            self.priorities[row] = 1
            self.added = number + 1

    def fill(self, count: int) -> None:
        """Add many rows at once, up to the capacity."""
        assert self.added == 0
        self.observations[:count] = self._like(np.arange(count)[:, None] + 0.5)
        self.rewards[:count] = self._like(np.arange(count))
        self.added = count

    def _like(self, values: np.ndarray) -> Any:
        return values if isinstance(self.rewards, np.ndarray) else torch.from_numpy(values)


def entries(run: rk.Run) -> list[dict[str, Any]]:
    lines = (run.path / "checkpoints.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def segment_files(path: Path) -> set[str]:
    return {file.name for file in (path / "replay_buffer").iterdir()}


def started(path: Path, memory: Any, **options: Any) -> tuple[rk.Run, rk.Progress]:
    run = rk.Run(path, every=1, background=True, **options)
    progress = rk.Progress()
    run.track(replay_buffer=memory, progress=progress)
    run.resume()
    return run, progress


def save(run: rk.Run, progress: rk.Progress) -> rk.Checkpoint:
    progress.step += 1
    run.checkpoint()
    run.wait()
    return run.latest()


def check(checkpoint: rk.Checkpoint, memory: Memory) -> None:
    loaded = checkpoint.load(["replay_buffer"])["replay_buffer"]
    for name in ("observations", "rewards", "priorities"):
        np.testing.assert_array_equal(loaded[name], np.asarray(getattr(memory, name)))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_save_writes_the_rows_that_are_new(tmp_path: Path, kind: str) -> None:
    memory = Memory(kind=kind)
    memory.fill(CAPACITY - 700)
    run, progress = started(tmp_path / "run", memory)
    check(save(run, progress), memory)
    for _ in range(5):
        memory.add(300)
        check(save(run, progress), memory)
    run.close()
    first, *others = entries(run)
    assert first["written_bytes"] > CAPACITY * WIDTH * 3
    for entry in others:
        assert entry["written_bytes"] < 310 * (WIDTH * 4 + 8) + 2 * (1 << 20)
        assert entry["linked_bytes"] > CAPACITY * WIDTH * 3
        assert 0 < entry["stall_seconds"] <= entry["durable_seconds"]


def test_rows_that_were_never_filled_are_not_written(tmp_path: Path) -> None:
    memory = Memory()
    memory.add(1_000)
    checkpoint = rk.save(tmp_path / "a", replay_buffer=memory)
    assert checkpoint.num_bytes < 1_000 * (WIDTH + 4) * 4 + 20_000
    check(checkpoint, memory)


@pytest.mark.parametrize("capacity", [100, CAPACITY], ids=["whole", "by rows"])
def test_what_lies_beyond_the_rows_ever_added_is_in_no_checkpoint(
    tmp_path: Path, capacity: int
) -> None:
    memory = Memory(capacity)
    memory.add(60)
    memory.observations[60:] = 9
    memory.rewards[70] = np.nan
    checkpoint = rk.save(tmp_path / "a", replay_buffer=memory)
    assert memory.observations[60, 0] == 9
    found = checkpoint.load()["replay_buffer"]
    np.testing.assert_array_equal(found["observations"][:60], memory.observations[:60])
    assert not found["observations"][60:].any()
    assert not found["rewards"][60:].any()


def test_a_trail_of_two_runs_does_not_tell_memory_apart_that_nobody_filled() -> None:
    digests = []
    for garbage in (1, 2):
        memory = Memory(100)
        memory.add(60)
        memory.observations[60:] = garbage
        digests.append(trail.digests({"replay_buffer": memory}, ["replay_buffer"]))
    assert digests[0] == digests[1]
    memory.observations[59] += 1
    assert trail.digests({"replay_buffer": memory}, ["replay_buffer"]) != digests[1]


def test_restoring_reads_the_rows_into_the_live_arrays(tmp_path: Path) -> None:
    memory = Memory()
    memory.fill(30_000)
    memory.add(50)
    rk.save(tmp_path / "a", replay_buffer=memory)
    other = Memory()
    other.fill(CAPACITY)
    held = other.observations
    rk.restore(tmp_path / "a", replay_buffer=other)
    assert other.observations is held
    assert other.added == memory.added
    np.testing.assert_array_equal(other.observations, memory.observations)
    np.testing.assert_array_equal(other.rewards, memory.rewards)


def test_a_resumed_run_links_what_it_restored(tmp_path: Path) -> None:
    memory = Memory()
    memory.fill(CAPACITY)
    run, progress = started(tmp_path / "run", memory)
    save(run, progress)
    run.close()
    again = Memory()
    run, progress = started(tmp_path / "run", again)
    again.add(100)
    check(save(run, progress), again)
    run.close()
    assert entries(run)[-1]["written_bytes"] < 3 << 20


def test_priorities_that_change_anywhere_are_found(tmp_path: Path) -> None:
    memory = Memory(400_000)
    memory.fill(400_000)
    run, progress = started(tmp_path / "run", memory)
    save(run, progress)
    memory.priorities[123_456] = 7
    check(save(run, progress), memory)
    run.close()
    assert entries(run)[-1]["written_bytes"] < 1.1 * (1 << 20) + 20_000


def test_deleting_a_checkpoint_leaves_all_others_whole(tmp_path: Path) -> None:
    memory = Memory()
    memory.fill(20_000)
    run, progress = started(tmp_path / "run", memory)
    for _ in range(4):
        save(run, progress)
        memory.add(50)
    run.close()
    for step in (1, 3):
        shutil.rmtree(tmp_path / f"run/step_{step:09d}")
    assert rk.verify(tmp_path / "run").ok
    assert rk.Run(tmp_path / "run").steps == [2, 4]


def test_a_removed_parent_costs_a_full_save_and_nothing_else(tmp_path: Path) -> None:
    memory = Memory()
    memory.fill(20_000)
    run, progress = started(tmp_path / "run", memory)
    first = save(run, progress)
    shutil.rmtree(first.path)
    memory.add(10)
    checkpoint = save(run, progress)
    run.close()
    assert rk.verify(checkpoint.path).ok
    check(checkpoint, memory)


def test_a_file_system_without_links_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(files.os, "link", refused)
    memory = Memory()
    memory.fill(20_000)
    run, progress = started(tmp_path / "run", memory)
    save(run, progress)
    memory.add(10)
    check(save(run, progress), memory)
    run.close()
    assert entries(run)[-1]["linked_bytes"] == 0


def test_a_ring_that_was_passed_unseen_is_written_whole(tmp_path: Path) -> None:
    """Without a count a full round looks like none; the samples tell."""
    memory = Memory()
    memory.fill(CAPACITY)
    run, progress = started(tmp_path / "run", memory)
    save(run, progress)
    memory.observations += 1000  # every row is another one, and the count says none is
    check(save(run, progress), memory)
    run.close()


def test_without_samples_such_rows_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups, "_is_equal", lambda *_: True)
    with pytest.raises(AssertionError):
        test_a_ring_that_was_passed_unseen_is_written_whole(tmp_path)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits that wait until they are let go."""
    return held(monkeypatch)


def test_rows_added_during_a_save_are_not_in_it(tmp_path: Path, gate: threading.Event) -> None:
    memory = Memory()
    memory.fill(30_000)
    expected = Memory()
    expected.fill(30_000)
    run, progress = started(tmp_path / "run", memory)
    progress.step = 1
    run.checkpoint()
    memory.add(5_000)
    gate.set()
    run.wait()
    check(run.latest(), expected)
    run.close()


def test_rows_overwritten_before_they_are_read_cost_a_second_save_with_a_copy(
    tmp_path: Path, gate: threading.Event
) -> None:
    memory = Memory()
    memory.fill(CAPACITY)
    run, progress = started(tmp_path / "run", memory)
    progress.step = 1
    assert run.checkpoint()
    memory.add(25_000)  # more than was copied
    gate.set()
    run.wait()
    assert run.steps == []
    progress.step = 2
    gate.clear()
    assert run.checkpoint()
    expected = memory.observations.copy()
    memory.add(CAPACITY)
    gate.set()
    run.wait()
    loaded = run.latest().load(["replay_buffer"])["replay_buffer"]
    np.testing.assert_array_equal(loaded["observations"], expected)
    run.close()


def test_without_the_proof_the_save_would_be_torn(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups.Group, "_overwritten", lambda _: [])
    memory = Memory()
    memory.fill(CAPACITY)
    expected = memory.observations.copy()
    run, progress = started(tmp_path / "run", memory)
    progress.step = 1
    run.checkpoint()
    memory.add(25_000)
    gate.set()
    run.wait()
    loaded = run.latest().load(["replay_buffer"])["replay_buffer"]
    assert not np.array_equal(loaded["observations"], expected)
    run.close()


class Frames:
    """Images, which shrink."""

    def __init__(self, capacity: int = 2_000) -> None:
        self.frames = np.zeros((capacity, 84, 84), np.uint8)
        self.ring = rk.RingBuffer({"frames": self.frames})

    def add(self, count: int) -> None:
        for _ in range(count):
            added = self.ring.added
            self.frames[added % len(self.frames), 10:40, added % 80] = added % 251
            self.ring.added = added + 1


def test_frames_are_compressed_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows.PACE, "bytes_per_second", 1e7)
    memory = Frames()
    memory.add(1_500)
    run, progress = started(tmp_path / "run", memory)
    save(run, progress)
    memory.add(1_000)
    checkpoint = save(run, progress)
    run.close()
    assert checkpoint.manifest.requires == ["segments", "zstd"]
    assert checkpoint.num_bytes < memory.frames.nbytes / 20
    other = Frames()
    other.frames[:] = 9
    rk.restore(checkpoint.path, replay_buffer=other)
    np.testing.assert_array_equal(other.frames, memory.frames)
    assert other.ring.added == 2_500


def test_a_codec_is_used_where_it_is_faster_than_the_disk() -> None:
    frames = np.zeros((100, 84, 84), np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (100, 84, 84)).astype(np.uint8)
    assert rows.codec_for(frames, frames.nbytes, rows.Pace(1e8)) == "zstd"
    assert rows.codec_for(frames, frames.nbytes, rows.Pace(1e12)) is None
    assert rows.codec_for(noise, noise.nbytes, rows.Pace(1e9)) is None
    assert rows.codec_for(frames.astype(np.float32), frames.nbytes, rows.Pace(1e8)) is None


def test_a_codec_is_judged_by_its_second_try_and_the_threads_that_share_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = np.zeros((100, 84, 84), np.uint8)
    disk = rows.Pace(frames.nbytes / 1.5)  # writing them takes 1.5 seconds

    def codec(first: float, second: float, num_threads: int) -> str | None:
        times = iter([0.0, first, 10.0, 10.0 + second])
        monkeypatch.setattr(time, "thread_time", lambda: next(times))
        return rows.codec_for(frames, frames.nbytes, disk, num_threads=num_threads)

    assert codec(9.0, 1.0, 1) == "zstd"
    assert codec(9.0, 2.0, 1) is None
    assert codec(9.0, 2.0, 2) == "zstd"
    assert codec(1.0, 9.0, 1) == "zstd"


def test_a_damaged_segment_is_named(tmp_path: Path) -> None:
    memory = Memory()
    memory.fill(20_000)
    checkpoint = rk.save(tmp_path / "a", replay_buffer=memory, policy={"w": np.ones(3)})
    segment = sorted((checkpoint.path / "replay_buffer").iterdir())[0]
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1
    segment.write_bytes(data)
    report = rk.verify(checkpoint.path)
    assert [item.key for item in report.differences] == [f"replay_buffer/{segment.name}"]
    with pytest.raises(rk.DamagedError, match=segment.name):
        rk.load(checkpoint.path)
    live = Memory()
    with pytest.raises(rk.DamagedError, match=segment.name):
        rk.restore(checkpoint.path, replay_buffer=live)
    assert not live.observations.any()
    assert rk.load(checkpoint.path, ["policy"])["policy"]["w"][0] == 1


def test_arrays_of_other_lengths_are_refused() -> None:
    with pytest.raises(rk.UnsupportedError, match="one length"):
        rk.RingBuffer({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(rk.UnsupportedError, match="changing"):
        rk.RingBuffer({"a": np.zeros(3)}, changing=("b",))


def test_a_ring_buffer_tracked_by_itself_counts_its_rows(tmp_path: Path) -> None:
    arrays = {"a": np.zeros((200_000, 4))}
    ring = rk.RingBuffer(arrays)
    arrays["a"][:7] = 3
    ring.added = 7
    rk.save(tmp_path / "a", replay_buffer=ring)
    other = rk.RingBuffer({"a": np.zeros((200_000, 4))})
    rk.restore(tmp_path / "a", replay_buffer=other)
    assert other.added == 7
    assert other.arrays["a"][:8, 0].tolist() == [3] * 7 + [0]
    wrong = rk.RingBuffer({"b": np.zeros((200_000, 4))})
    with pytest.raises(rk.MismatchError, match="arrays a"):
        rk.restore(tmp_path / "a", replay_buffer=wrong)


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.zip"])
def test_frames_in_many_segments_are_written_beside_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(rows.PACE, "bytes_per_second", 1e7)
    memory, weights = Frames(10_000), {"w": np.arange(3_000_000.0)}
    memory.add(10_000)
    record = rk.save(tmp_path / name, replay_buffer=memory, policy=weights, step=1).manifest
    assert len(record.components["replay_buffer"].rows[0].segments) > 2
    assert rk.verify(tmp_path / name).ok
    loaded = rk.load(tmp_path / name)
    np.testing.assert_array_equal(loaded["replay_buffer"]["frames"], memory.frames)
    np.testing.assert_array_equal(loaded["policy"]["w"], weights["w"])


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.zip"])
def test_a_failure_beside_frames_leaves_no_thread_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(rows.PACE, "bytes_per_second", 1e7)
    monkeypatch.setattr(writer._Files, "_arrays", failing)
    memory = Frames(10_000)
    memory.add(10_000)
    with pytest.raises(OSError, match="input/output"):
        rk.save(tmp_path / name, replay_buffer=memory, step=1)
    assert [*tmp_path.iterdir()] == []
    assert not [t for t in threading.enumerate() if t.name.startswith("rekindle-rows")]

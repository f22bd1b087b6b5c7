"""TorchRL's replay buffers: restored ones sample the same; a save costs the rows that are new."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torchrl = pytest.importorskip("torchrl.data")

import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from tests.held_commits import held  # noqa: E402
from torchrl.data import (  # noqa: E402
    ImmutableDatasetWriter,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    RoundRobinWriter,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
    TensorStorage,
)
from torchrl.data.replay_buffers import (  # noqa: E402
    CompressedListStorage,
    ConsumingSampler,
    PrioritizedSampler,
    ReplayBufferEnsemble,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StorageEnsemble,
)
from torchrl.envs.transforms import ObservationNorm  # noqa: E402

import rekindle as rk  # noqa: E402
from rekindle import rowgroups, writer  # noqa: E402
from rekindle.graph import Walk  # noqa: E402

CAPACITY = 100


def rows(first: int, count: int) -> TensorDict:
    """Transitions of episodes of seven steps, of which each value tells when it was added."""
    number = torch.arange(first, first + count)
    done = (number % 7 == 6)[:, None]
    following = {"reward": number.float()[:, None], "done": done, "truncated": done}
    data = {"observation": number[:, None] + torch.zeros(30), "episode": number // 7}
    return TensorDict({**data, "next": TensorDict(following, [count])}, [count])


def made(storage: Any = None, **options: Any) -> Any:
    found = LazyTensorStorage(CAPACITY) if storage is None else storage
    return TensorDictReplayBuffer(storage=found, batch_size=8, **options)


def slices(kind: Any, **options: Any) -> Any:
    return made(sampler=kind(num_slices=2, traj_key="episode", strict_length=False, **options))


def prioritized() -> Any:
    pytest.importorskip(
        "torchrl._torchrl", reason="torchrl is built for another torch", exc_type=ImportError
    )
    return made(sampler=PrioritizedSampler(CAPACITY, alpha=0.7, beta=0.5))


def normalized() -> Any:
    transform = ObservationNorm(loc=0.5, scale=2.0, in_keys=["observation"])
    return made(transform=transform, generator=torch.Generator())


KINDS: dict[str, Callable[[], Any]] = {
    "random": made,
    "generator": lambda: made(generator=torch.Generator()),
    "memory-mapped": lambda: made(LazyMemmapStorage(CAPACITY)),
    "without replacement": lambda: made(sampler=SamplerWithoutReplacement()),
    "slices": lambda: slices(SliceSampler, cache_values=True),
    "slices without replacement": lambda: slices(SliceSamplerWithoutReplacement),
    "consuming": lambda: made(sampler=ConsumingSampler(3)),
    "prioritized": prioritized,
    "best": lambda: made(writer=TensorDictMaxValueWriter(rank_key=("next", "reward"))),
    "generations": lambda: made(writer=TensorDictRoundRobinWriter(track_generations=True)),
    "ahead": lambda: made(prefetch=1),
    "transformed": normalized,
    "list": lambda: made(ListStorage(CAPACITY)),
}


def parts(buffer: Any) -> dict[str, Any]:
    return {"replay_buffer": buffer, "rng": rk.GlobalRNG()}


def use(buffer: Any, first: int = 0) -> None:
    """Add rows around the end, and sample."""
    for start in range(first, first + 130, 65):
        buffer.extend(rows(start, 65))
        batch = buffer.sample()
        if isinstance(buffer.sampler, PrioritizedSampler):
            batch["td_error"] = torch.rand(len(batch)) + 0.1
            buffer.update_tensordict_priority(batch)
    # What is drawn ahead takes numbers from the generator that all buffers share.
    buffer.synchronize()


def samples(buffer: Any) -> Iterator[Any]:
    """Batches from now on, with rows added between them."""
    for start in (200, 230):
        for _ in range(3):
            yield buffer.sample()
        buffer.synchronize()
        buffer.extend(rows(start, 30))
    yield buffer.sample()
    buffer.synchronize()


def is_equal(one: TensorDict, other: TensorDict) -> bool:
    return bool((one == other).all()) and one.batch_size == other.batch_size


@pytest.mark.parametrize("is_used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_buffer_samples_the_same_and_goes_on_so(
    tmp_path: Path, kind: str, is_used: bool
) -> None:
    first, second = KINDS[kind](), KINDS[kind]()
    use(first)
    if is_used:
        use(second, first=1000)
    rk.save(tmp_path / "a", **parts(first))
    expected = list(samples(first))
    rk.restore(tmp_path / "a", **parts(second))
    for one, two in zip(expected, samples(second), strict=True):
        assert is_equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_restored_is_captured_as_equal_bytes(tmp_path: Path, kind: str) -> None:
    first, second = KINDS[kind](), KINDS[kind]()
    use(first)
    expected = captured(first)
    assert captured(first) == expected
    rk.save(tmp_path / "a", replay_buffer=first)
    rk.restore(tmp_path / "a", replay_buffer=second)
    assert captured(second) == expected


def captured(buffer: Any) -> Any:
    found = Walk().capture({"replay_buffer": buffer})
    stored = found.arrays["replay_buffer"].items()
    return found.documents, [(name, item.code, item.raw.tobytes()) for name, item in stored]


# --------------------------------------------------------------------------- what a save costs


@pytest.fixture
def by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """The position tells what is new, however little there is."""
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    monkeypatch.setattr(rowgroups, "COMPARED_BYTES", 0)
    monkeypatch.setattr(rowgroups, "_SAMPLE_ROWS", 1)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits that wait until they are let go."""
    return held(monkeypatch)


class Saving:
    """A run that saves a buffer in the background."""

    def __init__(self, path: Path, buffer: Any) -> None:
        self.run = rk.Run(path, every=1, background=True)
        self.buffer = buffer
        self.progress = rk.Progress()
        self.run.track(replay_buffer=buffer, progress=self.progress)
        self.run.resume()

    def add(self, count: int) -> None:
        self.buffer.extend(rows(self.progress.step, count))
        self.progress.step += count

    def begin(self) -> TensorDict:
        """Begin a save; what has to be in it."""
        self.progress.step += 1
        expected = stored(self.buffer).clone()
        assert self.run.checkpoint()
        return expected

    def save(self) -> int:
        """Save, see that the checkpoint holds what is live, and say how much was written."""
        expected = self.begin()
        self.run.wait()
        check(self.run.latest(), expected)
        return self.run.entries()[-1]["written_bytes"]


def stored(buffer: Any) -> TensorDict:
    return buffer.storage._storage[: buffer.storage._len_along_dim0]


def check(checkpoint: rk.Checkpoint, expected: TensorDict) -> None:
    node = checkpoint.document("replay_buffer")["root"]["state"]["_storage"]
    found = checkpoint.arrays("replay_buffer")
    names = ["observation", "episode", "index", "next.reward", "next.done"]
    assert node["length"] == expected.numel()
    for name in names:
        array = found[f"_storage.data.{name}"]
        live = expected.get(tuple(name.split(".")))
        np.testing.assert_array_equal(array[: len(expected)], live.numpy(), err_msg=name)
        if node["length"] > 1000:
            assert not array[len(expected) :].any()


ROW_BYTES = 30 * 4 + 8 + 8 + 4 + 1 + 1
REST_BYTES = 25_000


@pytest.mark.parametrize("kind", [LazyTensorStorage, LazyMemmapStorage])
def test_a_save_writes_the_rows_that_are_new(tmp_path: Path, kind: Any, by_position: None) -> None:
    saving = Saving(tmp_path / "run", made(kind(2000)))
    for count in (900, 10, 1, 0, 1060, 40, 1999, 4100, 3):
        if count:
            saving.add(count)
        # The storage remembers the numbers of the rows that were written last.
        most = (min(count, 2000) + 3) * ROW_BYTES + 8 * count + REST_BYTES
        assert saving.save() < most
    saving.run.close()
    assert rk.verify(saving.run.path).ok


def test_a_resumed_run_links_what_it_restored(tmp_path: Path, by_position: None) -> None:
    saving = Saving(tmp_path / "run", made(LazyTensorStorage(2000)))
    saving.add(1500)
    saving.save()
    saving.run.close()
    again = Saving(tmp_path / "run", made(LazyTensorStorage(2000)))
    assert again.progress.step == saving.progress.step
    again.add(20)
    assert again.save() < 25 * ROW_BYTES + REST_BYTES
    again.run.close()


def _by_index(buffer: Any) -> None:
    buffer[3] = TensorDict({**rows(5000, 1)[0], "index": torch.tensor(3)})


def _by_storage(buffer: Any) -> None:
    buffer.storage.set(range(3, 5), rows(5000, 2).set("index", torch.arange(2)), set_cursor=False)


def _by_writer(buffer: Any) -> None:
    buffer.writer.write_at(torch.tensor([7, 9]), rows(5000, 2))


def _by_key(buffer: Any) -> None:
    buffer.set_at_(("next", "reward"), torch.full((2, 1), -1.0), torch.tensor([1, 2]))


def _by_emptying(buffer: Any) -> None:
    buffer.empty()
    buffer.extend(rows(5000, 40))


def _by_another_buffer(buffer: Any) -> None:
    made(buffer.storage).extend(rows(5000, 2))


@pytest.mark.parametrize(
    "edit", [_by_index, _by_storage, _by_writer, _by_key, _by_emptying, _by_another_buffer]
)
def test_rows_that_are_not_written_in_turn_are_in_the_next_save(
    tmp_path: Path, by_position: None, edit: Callable[[Any], None]
) -> None:
    saving = Saving(tmp_path / "run", made(LazyTensorStorage(2000)))
    saving.add(900)
    saving.save()
    before = stored(saving.buffer).clone()
    edit(saving.buffer)
    assert not is_equal(before[:40], stored(saving.buffer)[:40])
    saving.save()
    saving.add(30)
    edit(saving.buffer)
    saving.save()
    saving.run.close()


def test_without_a_watch_on_the_storage_they_would_be_lost(
    tmp_path: Path, by_position: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rekindle.adapters import torchrl as adapters

    monkeypatch.setattr(adapters.Watch, "missed", lambda *_: 0)
    with pytest.raises(AssertionError):
        test_rows_that_are_not_written_in_turn_are_in_the_next_save(
            tmp_path, by_position, _by_index
        )


@pytest.mark.parametrize(
    "edit", [_by_index, _by_writer, _by_another_buffer, lambda b: b.extend(rows(5000, 1900))]
)
def test_rows_that_change_before_a_save_has_read_them_are_not_in_it(
    tmp_path: Path,
    by_position: None,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Any], None],
) -> None:
    monkeypatch.setattr(rowgroups, "STAGED_BYTES", 100 * ROW_BYTES)
    saving = Saving(tmp_path / "run", made(LazyTensorStorage(2000)))
    saving.add(2900)
    saving.begin()
    edit(saving.buffer)
    gate.set()
    saving.run.wait()
    assert saving.run.steps == [], "given up"
    gate.clear()
    expected = saving.begin()
    edit(saving.buffer)
    gate.set()
    saving.run.wait()
    check(saving.run.latest(), expected)
    saving.run.close()


def test_rows_that_are_added_during_a_save_do_not_harm_it(
    tmp_path: Path, by_position: None, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups, "STAGED_BYTES", 100 * ROW_BYTES)
    saving = Saving(tmp_path / "run", made(LazyTensorStorage(2000)))
    saving.add(2900)
    expected = saving.begin()
    saving.add(50)
    gate.set()
    saving.run.wait()
    check(saving.run.latest(), expected)
    saving.run.close()


def test_a_storage_alone_is_compared_row_by_row(tmp_path: Path, by_position: None) -> None:
    buffer = made(LazyTensorStorage(2000))
    run, progress = rk.Run(tmp_path / "run", every=1, background=True), rk.Progress()
    run.track(storage=buffer.storage, progress=progress)
    run.resume()
    for count in (900, 10):
        buffer.extend(rows(progress.step, count))
        buffer.storage._storage["observation"][17, 3] = count
        progress.step += count
        run.checkpoint()
    run.close()
    found = rk.load(tmp_path / "run/step_000000910", to="torch")
    live = buffer.storage._storage
    array = rk.open(tmp_path / "run/step_000000910").arrays("storage")["data.observation"]
    np.testing.assert_array_equal(array[:910], live["observation"][:910].numpy())
    assert not array[910:].any()
    assert set(found) == {"storage", "progress"}


# --------------------------------------------------------------------------- storages


def _tree(first: int, count: int) -> dict[str, Any]:
    number = torch.arange(first, first + count)
    return {"a": number[:, None] * torch.ones(3), "b": (number, [number.to(torch.bfloat16)])}


def test_a_storage_of_plain_tensors_and_one_of_a_tree_come_back(tmp_path: Path) -> None:
    trees: dict[str, Any] = {"tensor": torch.rand(130, 4), "tree": _tree(0, 130)}
    for name, data in trees.items():
        first, second = (
            ReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=50) for _ in range(2)
        )
        first.extend(data)
        rk.save(tmp_path / name, **parts(first))
        expected = first.sample()
        rk.restore(tmp_path / name, **parts(second))
        flat = zip(_flat(expected), _flat(second.sample()), strict=True)
        assert all(torch.equal(one, two) for one, two in flat)


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [leaf for item in items for leaf in _flat(item)]


def test_a_storage_of_two_dimensions_comes_back_and_writes_new_rows(
    tmp_path: Path, by_position: None
) -> None:
    def two() -> Any:
        return made(LazyTensorStorage(2001, ndim=2), dim_extend=0)

    def block(first: int, count: int) -> TensorDict:
        return rows(first, count * 4).reshape(count, 4)

    saving = Saving(tmp_path / "run", two())
    for count in (300, 5, 400, 7):
        saving.buffer.extend(block(saving.progress.step, count))
        saving.progress.step += count
        assert saving.save() < (count + 3) * 4 * ROW_BYTES + REST_BYTES
    torch.manual_seed(3)
    expected = saving.buffer.sample()
    saving.run.close()
    again = Saving(tmp_path / "run", two())
    torch.manual_seed(3)
    assert is_equal(again.buffer.sample(), expected)
    assert again.buffer.storage.max_size == saving.buffer.storage.max_size == 2004
    again.run.close()


def test_a_dataset_that_nobody_writes_is_written_once(tmp_path: Path, by_position: None) -> None:
    data = rows(0, 900).set("index", torch.arange(900))
    saving = Saving(tmp_path / "run", made(TensorStorage(data), writer=ImmutableDatasetWriter()))
    assert saving.save() > 900 * ROW_BYTES
    assert saving.save() < 5 * ROW_BYTES + REST_BYTES
    saving.run.close()


def test_a_memory_mapped_storage_keeps_its_own_files(tmp_path: Path) -> None:
    first, second = (
        made(LazyMemmapStorage(CAPACITY, scratch_dir=tmp_path / name)) for name in "ab"
    )
    first.extend(rows(0, 60))
    rk.save(tmp_path / "saved", replay_buffer=first)
    rk.restore(tmp_path / "saved", replay_buffer=second)
    live = second.storage._storage
    assert str(live["observation"].filename).startswith(str(tmp_path / "b"))
    assert is_equal(stored(second), stored(first))
    mapped = TensorDict.load_memmap(tmp_path / "b")
    assert is_equal(mapped[:60], stored(first))


def test_a_waiting_storage_gets_its_own_settings(tmp_path: Path) -> None:
    """Only the rows come from the checkpoint."""
    first = made()
    first.extend(rows(0, 60))
    rk.save(tmp_path / "saved", replay_buffer=first)
    second = made(LazyTensorStorage(CAPACITY, consolidated=True))
    rk.restore(tmp_path / "saved", replay_buffer=second)
    assert second.storage._storage.is_consolidated()
    assert is_equal(stored(second), stored(first))


def test_a_buffer_without_rows_empties_the_live_one(tmp_path: Path) -> None:
    first, second = made(), made()
    rk.save(tmp_path / "saved", replay_buffer=first)
    second.extend(rows(0, 10))
    rk.restore(tmp_path / "saved", replay_buffer=second)
    assert len(second) == 0
    assert not second.storage.initialized
    second.extend(TensorDict({"other": torch.zeros(3, 2)}, [3]))
    assert second.storage._storage.keys() == {"other", "index"}


# --------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("is_used", [False, True], ids=["fresh", "used"])
def test_another_capacity_is_refused_and_nothing_changed(tmp_path: Path, is_used: bool) -> None:
    first, second = made(), made(LazyTensorStorage(CAPACITY + 1))
    use(first)
    if is_used:
        use(second)
    rk.save(tmp_path / "saved", replay_buffer=first)
    with pytest.raises(rk.MismatchError, match="max_size: expected 100, found 101"):
        rk.restore(tmp_path / "saved", replay_buffer=second)
    assert second.storage.initialized is is_used
    assert second.writer._cursor == (29 if is_used else 0)


def test_other_keys_are_refused(tmp_path: Path) -> None:
    first, second = made(), made()
    use(first)
    second.extend(rows(0, 3).exclude("episode"))
    rk.save(tmp_path / "saved", replay_buffer=first)
    with pytest.raises(rk.MismatchError, match="the keys observation, episode"):
        rk.restore(tmp_path / "saved", replay_buffer=second)


def test_a_damaged_file_leaves_a_waiting_storage_waiting(tmp_path: Path, by_position: None) -> None:
    first, second = made(), made()
    use(first)
    checkpoint = rk.save(tmp_path / "saved", replay_buffer=first)
    segment = sorted((checkpoint.path / "replay_buffer").iterdir())[-1]
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1
    segment.write_bytes(data)
    with pytest.raises(rk.DamagedError, match=segment.name):
        rk.restore(tmp_path / "saved", replay_buffer=second)
    assert not second.storage.initialized


def _ensemble() -> Any:
    return ReplayBufferEnsemble(made(), made(), batch_size=8)


REFUSED: dict[str, Callable[[], Any]] = {
    "an ensemble": _ensemble,
    "CompressedListStorage": lambda: CompressedListStorage(CAPACITY),
    "StorageEnsemble": lambda: StorageEnsemble(LazyTensorStorage(3), LazyTensorStorage(3)),
    "at its first use": lambda: ReplayBuffer(storage=LazyTensorStorage(9), delayed_init=True),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, message: str) -> None:
    with pytest.raises(rk.UnsupportedError, match=message):
        rk.save(tmp_path / "saved", replay_buffer=REFUSED[message]())
    assert not (tmp_path / "saved").exists()


def test_a_writer_of_plain_rows_has_a_ring_too(tmp_path: Path, by_position: None) -> None:
    buffer: Any = ReplayBuffer(
        storage=LazyTensorStorage(2000), writer=RoundRobinWriter(), batch_size=50
    )
    run, progress = rk.Run(tmp_path / "run", every=1, background=True), rk.Progress()
    run.track(replay_buffer=buffer, progress=progress)
    run.resume()
    for count in (1900, 20, 150):
        buffer.extend(torch.arange(count)[:, None] + torch.zeros(50))
        buffer.add(torch.ones(50))
        progress.step += count
        run.checkpoint()
    run.close()
    *_, second, third = (entry["written_bytes"] for entry in run.entries())
    assert second < 25 * 200 + REST_BYTES
    assert third < 155 * 200 + REST_BYTES
    array = run.latest().arrays("replay_buffer")["_storage.data"]
    np.testing.assert_array_equal(array, buffer.storage._storage.numpy())


def test_priorities_that_changed_are_written_in_blocks(tmp_path: Path) -> None:
    prioritized()
    capacity = 600_000
    sampler = PrioritizedSampler(capacity, alpha=0.7, beta=0.5)
    buffer = ReplayBuffer(storage=LazyTensorStorage(capacity), sampler=sampler, batch_size=8)
    saving = Saving(tmp_path / "run", buffer)
    buffer.extend(torch.arange(capacity))  # pyright: ignore[reportArgumentType]
    for row in (0, 5, 300_000):
        buffer.update_priority(torch.tensor([row]), torch.tensor([3.0]))
        saving.progress.step += 1
        saving.run.checkpoint()
    saving.run.close()
    first, *others = saving.run.entries()
    assert first["written_bytes"] > capacity * (8 + 4 + 4)
    for entry in others:
        assert entry["written_bytes"] < 2 * (1 << 20) + 8 * capacity + REST_BYTES
    rows = torch.tensor([0, 5, 300_000, 300_001])
    again = ReplayBuffer(
        storage=LazyTensorStorage(capacity),
        sampler=PrioritizedSampler(capacity, alpha=0.7, beta=0.5),
        batch_size=8,
    )
    rk.restore(saving.run.latest().path, replay_buffer=again)
    for name in ("_sum_tree", "_min_tree"):
        one, two = (getattr(held.sampler, name) for held in (buffer, again))
        assert torch.equal(one[rows], two[rows])
        assert one.query(0, capacity) == two.query(0, capacity)

"""A fork: a new run on the bytes of an old one, and neither harms the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests import little_loop
from tests.little_loop import damage, loop

import rekindle as rk
from rekindle import files, manifest


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A run with checkpoints at 10, 20 and 30."""
    path = tmp_path / "runs" / "parent"
    about: dict[str, Any] = {"algorithm": "PPO", "environment": "Ant-v5"}
    return little_loop.trained(path, every=10, configuration={"lr": 1e-3}, **about)


def inodes(directory: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in directory.iterdir()}


def go_on(path: Path, until: int, **options: Any) -> rk.Run:
    with loop(path, every=10, configuration={"lr": 1e-3}, **options) as made:
        assert made.run.resume() is not None
        made.train(until)
        return made.run


def test_a_fork_begins_at_the_checkpoint_and_shares_its_bytes(parent: Path, tmp_path: Path) -> None:
    source = parent / "step_000000020"
    fork = rk.fork(source, tmp_path / "runs" / "fork")
    assert fork.path == tmp_path / "runs" / "fork" / "step_000000020"
    assert rk.Run(fork.path.parent).steps == [20]
    assert inodes(fork.path) == inodes(source)
    assert fork.info == rk.open(source).info
    assert rk.verify(fork.path)


def test_a_run_may_be_named_for_its_newest_checkpoint(parent: Path, tmp_path: Path) -> None:
    assert rk.fork(parent, tmp_path / "fork").step == 30


def test_the_parent_is_recorded(parent: Path, tmp_path: Path) -> None:
    source = parent / "step_000000020"
    about = json.loads((rk.fork(source, tmp_path / "fork").path.parent / "run.json").read_bytes())
    recorded = about["parent"]
    assert recorded == {
        "path": "../runs/parent/step_000000020",
        "step": 20,
        "digest": files.digest((source / manifest.NAME).read_bytes()),
    }
    assert (tmp_path / "fork" / recorded["path"]).resolve() == source
    of_parent = json.loads((parent / "run.json").read_bytes())
    for key in ("algorithm", "environment", "configuration", "start"):
        assert about[key] == of_parent[key]
    assert list(about) == list(of_parent)


def test_training_goes_on_in_the_fork_exactly_as_in_its_parent(
    parent: Path, tmp_path: Path
) -> None:
    rk.fork(parent / "step_000000020", tmp_path / "fork")
    fork = go_on(tmp_path / "fork", 40)
    assert fork.steps == [20, 30, 40]
    for step in (30, 40):
        go_on(parent, 40)
        one, two = (rk.open(path / f"step_{step:09d}") for path in (parent, fork.path))
        assert all(item.is_identical for item in one.compare(two))
    assert rk.open(fork.path / "step_000000030").manifest.parent == "step_000000020"


def test_a_fork_asks_for_the_configuration_of_its_parent(parent: Path, tmp_path: Path) -> None:
    rk.fork(parent, tmp_path / "fork")
    expected = r"configuration\.lr: expected 0\.001, found 5"
    with loop(tmp_path / "fork", configuration={"lr": 5}) as made:  # noqa: SIM117
        with pytest.raises(rk.MismatchError, match=expected):
            made.run.resume()


@pytest.mark.parametrize("first", ["parent", "fork"])
def test_what_either_run_deletes_leaves_the_other_whole(
    parent: Path, tmp_path: Path, first: str
) -> None:
    fork = rk.fork(parent / "step_000000020", tmp_path / "fork").path.parent
    expected = rk.load(parent / "step_000000020")["policy"]["weights"].tolist()
    gone, left = (parent, fork) if first == "parent" else (fork, parent)
    go_on(gone, 60, keep=rk.Keep(last=1))
    assert rk.Run(gone).steps == [60]
    assert rk.verify(left)
    assert rk.load(left / "step_000000020")["policy"]["weights"].tolist() == expected
    shutil.rmtree(gone)
    assert rk.verify(left)
    go_on(left, 60)
    assert rk.Run(left).steps[-1] == 60


def test_what_a_fork_shares_is_not_said_to_be_freed(parent: Path, tmp_path: Path) -> None:
    shutil.rmtree(parent / "step_000000030")
    before = rk.Run(parent).prune(rk.Keep(last=1), dry_run=True).decision.freed_bytes
    rk.fork(parent / "step_000000010", tmp_path / "fork")
    after = rk.Run(parent).prune(rk.Keep(last=1)).decision.freed_bytes
    assert after < before
    held = tmp_path / "fork" / "step_000000010"
    shared = sum(file.stat().st_blocks * 512 for file in held.iterdir())
    assert rk.verify(tmp_path / "fork")
    assert before - after <= shared


def test_a_fork_of_a_fork_names_the_fork(parent: Path, tmp_path: Path) -> None:
    rk.fork(parent, tmp_path / "a")
    rk.fork(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(parent)
    assert rk.Run(tmp_path / "b").about["parent"]["path"] == "../a/step_000000030"
    assert go_on(tmp_path / "b", 40).steps == [30, 40]


def test_a_checkpoint_of_no_run_leaves_the_configuration_open(tmp_path: Path) -> None:
    progress = rk.Progress()
    progress.step = 7
    with loop(tmp_path / "unused") as made:
        rk.save(tmp_path / "alone", policy=made.policy, progress=progress)
    rk.fork(tmp_path / "alone", tmp_path / "fork")
    assert rk.Run(tmp_path / "fork").about["configuration"] is None
    assert go_on(tmp_path / "fork", 10, algorithm="PPO").steps == [7, 10]
    assert rk.Run(tmp_path / "fork").about["configuration"] == {"lr": 1e-3}
    assert rk.Run(tmp_path / "fork").about["algorithm"] == "PPO"
    assert rk.Run(tmp_path / "fork").about["parent"]["step"] == 7
    with loop(tmp_path / "fork", configuration={"lr": 5}) as other:  # noqa: SIM117
        with pytest.raises(rk.MismatchError):
            other.run.resume()


def test_a_packed_checkpoint_is_unpacked_into_the_fork(parent: Path, tmp_path: Path) -> None:
    with loop(tmp_path / "unused") as made:
        made.train(5)
        rk.save(tmp_path / "one.zip", policy=made.policy, progress=made.progress)
    fork = rk.fork(tmp_path / "one.zip", tmp_path / "fork")
    assert rk.verify(fork.path)
    assert go_on(tmp_path / "fork", 10).steps == [5, 10]


def test_where_there_are_no_links_a_fork_is_a_copy(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    fork = rk.fork(parent / "step_000000020", tmp_path / "fork")
    monkeypatch.undo()
    assert not set(inodes(fork.path).values()) & set(inodes(parent / "step_000000020").values())
    assert rk.verify(fork.path)
    assert go_on(fork.path.parent, 30).steps == [20, 30]


def test_a_damaged_checkpoint_is_not_forked(parent: Path, tmp_path: Path) -> None:
    damage(parent / "step_000000020")
    with pytest.raises(rk.DamagedError, match=r"policy\.safetensors: expected blake3"):
        rk.fork(parent / "step_000000020", tmp_path / "fork")
    assert not (tmp_path / "fork").exists()


def test_a_fork_never_takes_the_place_of_something(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for taken in (tmp_path / "there", parent):
        with pytest.raises(rk.AlreadyExistsError):
            rk.fork(parent, taken)
    inside = parent / "step_000000030" / "fork"
    with pytest.raises(rk.UnsupportedError, match="outside of the checkpoint"):
        rk.fork(parent, inside)
    with pytest.raises(rk.NotFoundError):
        rk.fork(parent / "step_000000099", tmp_path / "fork")
    assert not list(tmp_path.rglob(".tmp-*"))
    assert rk.verify(parent)


def test_a_policy_bundle_is_not_forked(parent: Path, tmp_path: Path) -> None:
    from rekindle import writer

    plan = writer.draft(tmp_path / "bundle", {"policy": {"a": 1}}, kind="policy")
    writer.commit(plan)
    with pytest.raises(rk.UnsupportedError, match="found a policy bundle"):
        rk.fork(tmp_path / "bundle", tmp_path / "fork")


def test_a_fork_that_fails_leaves_nothing(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.link, []

    def fail(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*arguments, **options)

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match="Input/output"):
        rk.fork(parent, tmp_path / "fork")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert rk.verify(parent)

"""Migration of one file or a tree: nothing is lost, whatever happens, and it can be done again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.old_versions import make_old, version_0
from tests.same_readings import differences

import rekindle as rk
from rekindle import files, manifest
from rekindle.contents import contents

GOLDEN = Path(__file__).parent / "golden"
VELORA = GOLDEN / "velora" / "callback" / "nf_cb"
COGYM = GOLDEN / "cogym" / "TD3"
EQUINOX = GOLDEN / "equinox" / "mlp" / "mlp.eqx"
SB3 = GOLDEN / "sb3" / "v2.9.2" / "checkpoint_callback"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Checkpoints of four libraries and of ours, and files that are none."""
    root = tmp_path / "tree"
    shutil.copytree(VELORA, root / "velora")
    shutil.copytree(COGYM, root / "cogym", ignore=shutil.ignore_patterns("expected.*"))
    shutil.copytree(SB3, root / "sb3", ignore=shutil.ignore_patterns("expected.*"))
    (root / "jax").mkdir()
    shutil.copy(EQUINOX, root / "jax" / "mlp.eqx")
    (root / "jax" / "notes.txt").write_text("mine")
    np.save(root / "jax" / "data.npy", np.arange(9))
    with rk.Run(root / "ours") as run:
        run.track(policy={"w": np.arange(3.0)})
        run.save(step=1)
    return root


UNITS = {
    "cogym/checkpoint_1", "cogym/checkpoint_2", "jax/mlp.eqx",
    "sb3/ckpts/rl_model_100_steps.zip", "sb3/ckpts/rl_model_200_steps.zip",
    "sb3/ckpts/rl_model_replay_buffer_100_steps.pkl",
    "sb3/ckpts/rl_model_replay_buffer_200_steps.pkl",
    "sb3/ckpts/rl_model_vecnormalize_100_steps.pkl",
    "sb3/ckpts/rl_model_vecnormalize_200_steps.pkl",
    "sb3/replay_buffer.pkl",
    "velora/saves/InvertedPendulum_4", "velora/saves/InvertedPendulum_8",
    "velora/saves/InvertedPendulum_final",
}  # fmt: skip


def bytes_of(path: Path) -> Any:
    if path.is_file():
        return path.read_bytes()
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_a_tree_is_migrated_in_place_with_backups(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "before")
    report = rk.migrate(tree)
    assert report.ok
    assert report
    assert {Path(item.path).relative_to(tree).as_posix() for item in report.migrated} == UNITS
    assert report.current == (str(tree / "ours" / "step_000000001"),)
    for name in UNITS:
        path, before = tree / name, tmp_path / "before" / name
        assert bytes_of(path.with_name(path.name + ".backup")) == bytes_of(before)
        assert path.is_file() == before.is_file()
        assert isinstance(rk.open(path), rk.Checkpoint)
        assert rk.verify(path)
        if "velora" not in name:  # whose configuration is beside it, and was read there
            assert differences(contents(before), contents(path)) == []
    assert (tree / "jax" / "notes.txt").read_text() == "mine"
    assert np.load(tree / "jax" / "data.npy").tolist() == list(range(9))
    assert not list(tree.rglob(".tmp-*"))


def test_a_second_time_does_nothing(tree: Path) -> None:
    rk.migrate(tree)
    before = bytes_of(tree)
    report = rk.migrate(tree)
    assert (report.migrated, len(report.current), report.failed) == ((), len(UNITS) + 1, ())
    assert bytes_of(tree) == before


def test_a_tree_is_migrated_elsewhere(tree: Path, tmp_path: Path) -> None:
    before = bytes_of(tree)
    report = rk.migrate(tree, tmp_path / "new")
    assert bytes_of(tree) == before
    assert {
        Path(item.path).relative_to(tmp_path / "new").as_posix() for item in report.migrated
    } == (UNITS)
    assert all(item.backup is None for item in report.migrated)
    made = bytes_of(tmp_path / "new")
    again = rk.migrate(tree, tmp_path / "new")
    assert (again.migrated, again.failed) == ((), ())
    assert bytes_of(tmp_path / "new") == made


def test_without_backups_nothing_but_the_new_ones_stays(tree: Path) -> None:
    report = rk.migrate(tree, backup=False)
    assert len(report.migrated) == len(UNITS)
    assert not list(tree.rglob("*.backup"))
    assert not list(tree.rglob(".tmp-*"))
    assert all(rk.verify(item.path) for item in report.migrated)


def test_without_a_backup_no_other_file_goes_with_a_folder(tree: Path) -> None:
    diary = tree / "cogym" / "checkpoint_1" / "diary.txt"
    diary.write_text("three years")
    report = rk.migrate(tree, backup=False)
    (failed,) = report.failed
    assert failed.path == str(diary.parent)
    assert "found diary.txt" in failed.reason
    assert diary.read_text() == "three years"
    assert contents(diary.parent).format == "cogym"
    assert rk.migrate(tree).ok
    assert (tree / "cogym" / "checkpoint_1.backup" / "diary.txt").read_text() == "three years"


@pytest.mark.parametrize("backup", [True, False])
def test_one_file_stays_one_file(tmp_path: Path, backup: bool) -> None:
    path = tmp_path / "mlp.eqx"
    shutil.copy(EQUINOX, path)
    (item,) = rk.migrate(path, backup=backup).migrated
    assert (item.format, item.backup) == ("equinox", str(path) + ".backup" if backup else None)
    assert manifest.is_archived(path)
    assert differences(contents(EQUINOX), contents(path)) == []


def test_a_file_of_arrays_is_migrated_when_it_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.arange(9))
    assert rk.migrate(tmp_path / "data.npy", tmp_path / "made").migrated
    assert contents(tmp_path / "made").components["agent"].tolist() == list(range(9))


def test_an_old_version_of_ours_is_migrated(tmp_path: Path) -> None:
    rk.save(tmp_path / "run" / "old", policy={"w": np.arange(3.0)}, step=4)
    old = make_old(tmp_path / "run" / "old")
    before = bytes_of(old)
    with version_0():
        (item,) = rk.migrate(tmp_path / "run").migrated
    assert item.format == "rekindle 0"
    assert manifest.read(old).version == 1
    assert rk.load(old)["policy"]["w"].tolist() == [0, 1, 2]
    assert bytes_of(tmp_path / "run" / "old.backup") == before
    assert not rk.migrate(tmp_path / "run").migrated


# --------------------------------------------------------------------------- what cannot be


def test_a_tree_goes_on_with_the_rest(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (tree / "sb3" / "ckpts" / "rl_model_100_steps.zip").read_bytes()
    (tree / "sb3" / "ckpts" / "rl_model_100_steps.zip").write_bytes(whole[: len(whole) // 2])
    (tree / "jax" / "hostile.pkl").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    (tree / "jax" / "newer").mkdir()
    rk.save(tree / "newer", policy=1)
    file = tree / "newer" / manifest.NAME
    file.write_bytes(file.read_bytes()[:-20])
    locked = tree / "cogym" / "checkpoint_1"
    metadata = locked / "metadata.yaml"
    original = Path.read_bytes

    def unreadable(self: Path) -> bytes:
        if self == metadata:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    report = rk.migrate(tree)
    assert not report
    failed = {Path(item.path).relative_to(tree).as_posix(): item for item in report.failed}
    assert {*failed} >= {"sb3/ckpts/rl_model_100_steps.zip", "jax/hostile.pkl", "newer"}
    assert any("Permission denied" in item.reason for item in report.failed)
    assert failed["newer"].code == "damaged"
    assert all(item.reason for item in report.failed)
    assert len(report.migrated) >= len(UNITS) - 2
    assert (tree / "sb3" / "ckpts" / "rl_model_100_steps.zip").read_bytes() == whole[
        : len(whole) // 2
    ]
    assert "failed " in str(report)


def test_a_directory_that_cannot_be_listed_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.iterdir

    def unreadable(self: Path) -> Any:
        if self == tree / "jax":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "iterdir", unreadable)
    report = rk.migrate(tree)
    assert [(item.path, item.code) for item in report.failed] == [(str(tree / "jax"), "os")]
    assert len(report.migrated) == len(UNITS) - 1


def test_a_backup_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    path, kept = tmp_path / "mlp.eqx", tmp_path / "mlp.eqx.backup"
    shutil.copy(EQUINOX, path)
    kept.write_text("all there is")
    (failed,) = rk.migrate(path).failed
    assert (failed.code, kept.read_text()) == ("already-exists", "all there is")
    assert path.read_bytes() == EQUINOX.read_bytes()


def test_where_there_is_nothing_to_migrate_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(rk.NotFoundError, match="found nothing"):
        rk.migrate(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(rk.NotFoundError, match="found 1 other file"):
        rk.migrate(tmp_path)


def test_source_and_destination_are_apart(tree: Path, tmp_path: Path) -> None:
    for target in (tree, tree / "new", tmp_path):
        with pytest.raises(rk.AlreadyExistsError, match="overlaps"):
            rk.migrate(tree, target)


def test_links_are_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.eqx"
    shutil.copy(EQUINOX, outside)
    (tree / "link.eqx").symlink_to(outside)
    (tree / "loop").symlink_to(tree)
    assert len(rk.migrate(tree).migrated) == len(UNITS)
    assert outside.read_bytes() == EQUINOX.read_bytes()


# --------------------------------------------------------------------------- interruptions


def test_a_file_system_without_exchange_will_do(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tree, tmp_path / "before")
    monkeypatch.setattr(files, "_rename_with_flags", lambda *_, **__: False)
    assert len(rk.migrate(tree).migrated) == len(UNITS)
    for name in UNITS:
        path = tree / name
        assert bytes_of(path.with_name(path.name + ".backup")) == bytes_of(
            tmp_path / "before" / name
        )
        assert rk.verify(path)


class Stopped(BaseException):
    """Stands for a kill: nothing in the library catches it."""


@pytest.mark.parametrize("has_exchange", [True, False])
@pytest.mark.parametrize("name", ["jax/mlp.eqx", "cogym/checkpoint_1"])
def test_an_interruption_at_any_rename_loses_nothing(
    name: str, has_exchange: bool, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = bytes_of(tree / name)
    renames = ("rename", "replace", "link")
    exchange = files._rename_with_flags
    is_done, stop = False, 0
    for stop in range(40):
        root = tmp_path / str(stop)
        shutil.copytree(tree / Path(name).parent, root)
        path = root / Path(name).name
        count = [0]

        def counted(call: Any, count: list[int] = count, stop: int = stop) -> Any:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                if count[0] == stop:
                    raise Stopped
                count[0] += 1
                return call(*arguments, **options)

            return wrapped

        with monkeypatch.context() as patch:
            for function in renames:
                patch.setattr(os, function, counted(getattr(os, function)))
            swap = exchange if has_exchange else (lambda *_, **__: False)
            patch.setattr(files, "_rename_with_flags", counted(swap))
            try:
                rk.migrate(path)
                is_done = True
            except Stopped:
                is_done = False
        kept = path.with_name(path.name + ".backup")
        wholes = [bytes_of(found) for found in (path, kept) if found.exists()]
        assert original in wholes, f"stopped at rename {stop}"
        assert rk.migrate(root).ok
        assert bytes_of(kept) == original
        assert rk.verify(path)
        assert not rk.migrate(root).migrated
        if is_done:
            break
    assert is_done
    assert stop > 1


def test_killed_at_random_moments_originals_or_backups_are_whole(
    tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(tree, tmp_path / "before")
    rng = random.Random(5)
    is_done = False
    for _ in range(40):
        child = os.fork()
        if child == 0:
            try:
                rk.migrate(tree)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        is_done = os.WIFEXITED(os.waitpid(child, 0)[1])
        for name in UNITS:
            path, before = tree / name, bytes_of(tmp_path / "before" / name)
            kept = path.with_name(path.name + ".backup")
            assert before in [bytes_of(found) for found in (path, kept) if found.exists()], name
        if is_done:
            break
    report = rk.migrate(tree)
    assert report.ok
    assert {Path(item).relative_to(tree).as_posix() for item in report.current} | {
        Path(item.path).relative_to(tree).as_posix() for item in report.migrated
    } == UNITS | {"ours/step_000000001"}
    assert not list(tree.rglob(".tmp-*"))


def test_progress_is_told(tree: Path) -> None:
    told: list[tuple[int, int, Path]] = []
    rk.migrate(tree, on_progress=lambda *what: told.append(what))
    count = len(UNITS)
    assert [done for done, _, _ in told] == list(range(count + 1))
    assert {total for _, total, _ in told} == {count}

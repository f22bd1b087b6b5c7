"""A folder that nobody named is named by what is trained, and found again by its configuration."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle import folders

NOON = datetime.datetime(2026, 11, 21, 12, 0, 0, tzinfo=datetime.UTC)
ABOUT: dict[str, Any] = {
    "algorithm": "SAC", "environment": "Pendulum-v1", "configuration": {"gamma": 0.99},
}  # fmt: skip


def begin(folder: Path, step: int | None = None, *, finished: bool = False, **changed: Any) -> Path:
    """A run as training leaves it: with a description, and a checkpoint if there was time."""
    with rk.Run(folder, **{**ABOUT, **changed}) as run:
        progress = {"step": step or 0, "finished": finished, "w": np.ones(3)}
        run.track(progress=progress)
        run.resume()
        progress.update(step=step or 0, finished=finished)
        if step is not None:
            run.save()
    return folder


def test_a_folder_is_named_by_algorithm_environment_and_time(tmp_path: Path) -> None:
    folder = folders.new(tmp_path / "runs", "SAC", "Pendulum-v1", NOON)
    assert folder == tmp_path / "runs" / "SAC_Pendulum-v1_2026-11-21_12-00-00"
    assert folder.is_dir()


def test_a_name_holds_nothing_that_a_path_should_not(tmp_path: Path) -> None:
    folder = folders.new(tmp_path, "DQN", "ALE/Pong-v5", NOON)
    assert folder.name == "DQN_ALE-Pong-v5_2026-11-21_12-00-00"
    assert folders.new(tmp_path, "DQN", "my.module:Env-v0", NOON).parent == tmp_path


def test_two_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    names = [folders.new(tmp_path, "SAC", "E", NOON).name for _ in range(3)]
    assert names == ["SAC_E_2026-11-21_12-00-00" + end for end in ("", "-2", "-3")]


def test_the_run_with_the_same_configuration_is_found(tmp_path: Path) -> None:
    begin(folders.new(tmp_path, "SAC", "Pendulum-v1"), 5, configuration={"gamma": 0.9})
    mine = begin(folders.new(tmp_path, "SAC", "Pendulum-v1", NOON), 5)
    begin(folders.new(tmp_path, "TD3", "Pendulum-v1"), 5, algorithm="TD3")
    assert folders.find(tmp_path, ABOUT) == mine
    assert folders.find(tmp_path, {**ABOUT, "configuration": {}}) is None
    assert folders.find(tmp_path / "nowhere", ABOUT) is None


def test_an_unfinished_one_comes_before_newer_ones_that_are_finished(tmp_path: Path) -> None:
    made = [folders.new(tmp_path, "SAC", "Pendulum-v1", NOON) for _ in range(12)]
    begin(made[1])
    begin(made[2], 5)
    for folder in made[3:]:
        begin(folder, 9, finished=True)
    assert folders.find(tmp_path, ABOUT) == made[2]
    begin(made[2], 9, finished=True)
    assert folders.find(tmp_path, ABOUT) == made[1], "begun, and killed before its first checkpoint"
    begin(made[1], 9, finished=True)
    assert folders.find(tmp_path, ABOUT) == made[11], "the newest, by number and not by letter"


def test_folders_that_people_named_are_theirs(tmp_path: Path) -> None:
    begin(tmp_path / "mine", 5)
    begin(tmp_path / "SAC_Pendulum-v1_best", 5)
    assert folders.find(tmp_path, ABOUT) is None


def test_an_empty_folder_of_such_a_name_was_not_begun(tmp_path: Path) -> None:
    folders.new(tmp_path, "SAC", "Pendulum-v1")
    assert folders.find(tmp_path, ABOUT) is None


def test_a_description_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    folder = begin(folders.new(tmp_path, "SAC", "Pendulum-v1"), 5)
    (folder / "run.json").write_text("{")
    with pytest.raises(rk.DamagedError, match=r"run\.json"):
        folders.find(tmp_path, ABOUT)


def test_a_run_whose_newest_checkpoint_is_damaged_is_not_finished(tmp_path: Path) -> None:
    folder = begin(tmp_path / "r", 9, finished=True)
    assert folders.is_finished(folder)
    manifest = folder / "step_000000009" / "checkpoint.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert not folders.is_finished(folder)
    assert not folders.is_finished(tmp_path / "nothing")

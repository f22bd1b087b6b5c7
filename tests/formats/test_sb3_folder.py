"""A folder of Stable-Baselines3 is one checkpoint: the newest model and what belongs to it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rekindle as rk
from rekindle.errors import DamagedError, FormatError, NotFoundError, UnsupportedError
from rekindle.formats import sb3_folder, sb3_values
from rekindle.formats.protocol import Confidence, Kind

FORMAT = sb3_folder.FORMAT
GOLDEN = Path(__file__).parents[1] / "golden" / "sb3" / "v2.9.2"
CASE = GOLDEN / "checkpoint_callback"
FOLDER = CASE / "ckpts"
PARTS = {"policy", "actor_optimizer", "critic_optimizer", "ent_coef_optimizer", "agent"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "ckpts"))


def test_the_newest_is_read_and_the_others_are_named() -> None:
    reading = FORMAT.read(FOLDER)
    expected = json.loads((CASE / "expected.json").read_text())
    assert reading.step == expected["scalars"]["num_timesteps"] == 200
    assert set(reading.components) == PARTS | {"replay_buffer", "normalizer"}
    assert reading.components["agent"]["_n_updates"] == expected["scalars"]["_n_updates"]
    assert reading.details["files"] == {
        "model": "rl_model_200_steps.zip",
        "replay_buffer": "rl_model_replay_buffer_200_steps.pkl",
        "normalizer": "rl_model_vecnormalize_200_steps.pkl",
    }
    ignored = [note.text for note in reading.notes if note.kind is Kind.IGNORED]
    assert ignored == [
        f"of the checkpoints in {FOLDER}, rl_model_200_steps.zip was read; others: "
        "rl_model_100_steps.zip"
    ]
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert absent == {"env", "rng", "normalizer.returns"}


def test_every_array_is_the_one_that_was_saved() -> None:
    reading = FORMAT.read(FOLDER)
    with np.load(CASE / "expected.npz") as expected:
        names = [key for key in expected.files if key.startswith("params/policy/")]
        assert names
        for key in names:
            found = reading.components["policy"][key.removeprefix("params/policy/")]
            assert found.tobytes() == expected[key].tobytes(), key
    assert reading.tensors.of(reading.components["policy"]["actor.mu.weight"]) is not None


def test_parts_of_another_step_are_not_taken(folder: Path) -> None:
    (folder / "rl_model_replay_buffer_200_steps.pkl").unlink()
    reading = FORMAT.read(folder)
    assert set(reading.components) == PARTS | {"normalizer"}
    assert any(n.key == "replay_buffer" and n.kind is Kind.ABSENT for n in reading.notes)


def test_the_numbers_count_and_not_the_order_of_names(folder: Path) -> None:
    shutil.copy(folder / "rl_model_100_steps.zip", folder / "rl_model_1000_steps.zip")
    assert FORMAT.read(folder).details["files"] == {"model": "rl_model_1000_steps.zip"}


def test_a_model_with_files_beside_it_is_one_checkpoint() -> None:
    path = GOLDEN / "sac_dict_vecnorm"
    opened = rk.open(path)
    assert isinstance(opened, rk.ForeignCheckpoint)
    assert opened.format == "sb3.folder"
    assert set(opened) == PARTS | {"replay_buffer", "normalizer"}


def test_folders_that_could_mean_two_runs_are_refused(folder: Path) -> None:
    shutil.copy(folder / "rl_model_100_steps.zip", folder / "other_100_steps.zip")
    with pytest.raises(FormatError, match=r"the models of one run .* Name the file"):
        FORMAT.read(folder)
    (folder / "other_100_steps.zip").rename(folder / "best_model.zip")
    assert FORMAT.read(folder).details["files"]["model"] == "rl_model_200_steps.zip"


def test_two_buffers_for_one_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    shutil.copytree(GOLDEN / "contrib_tqc", path)
    shutil.copy(path / "replay_buffer.pkl", path / "again.pkl")
    with pytest.raises(FormatError, match=r"one file with the replay_buffer of model\.zip"):
        FORMAT.read(path)


def test_a_damaged_newest_model_is_said_and_not_passed_over(folder: Path) -> None:
    path = folder / "rl_model_200_steps.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedError, match="rl_model_200_steps"):
        rk.open(folder)


def test_other_folders_are_not_taken(tmp_path: Path) -> None:
    assert FORMAT.sniff(tmp_path) is None
    assert FORMAT.sniff(FOLDER / "rl_model_100_steps.zip") is None
    shutil.copy(FOLDER / "rl_model_vecnormalize_100_steps.pkl", tmp_path)
    assert FORMAT.sniff(tmp_path) is None
    with pytest.raises(FormatError, match="found none"):
        FORMAT.read(tmp_path)
    with pytest.raises(FormatError, match="expected a folder, found a file"):
        FORMAT.read(FOLDER / "rl_model_100_steps.zip")
    with pytest.raises(NotFoundError):
        rk.open(tmp_path / "none")
    assert FORMAT.sniff(FOLDER) is Confidence.CERTAIN


def test_what_the_callback_writes_today_is_read_and_restored(tmp_path: Path) -> None:
    def environment() -> Any:
        return VecNormalize(make_vec_env("Pendulum-v1"))

    model = SAC("MlpPolicy", environment(), learning_starts=8, policy_kwargs={"net_arch": [8]})
    callback = CheckpointCallback(
        20, str(tmp_path / "ckpts"), "sac", save_replay_buffer=True, save_vecnormalize=True
    )
    model.learn(40, callback=callback)
    opened = rk.open(tmp_path / "ckpts")
    assert opened.step == 40
    live = SAC("MlpPolicy", environment(), policy_kwargs={"net_arch": [8]})
    rk.restore(
        tmp_path / "ckpts",
        policy=live.policy,
        replay_buffer=live.replay_buffer,
        normalizer=live.get_vec_normalize_env(),
        skip=["normalizer.old_obs"],
    )
    saved = SAC.load(tmp_path / "ckpts" / "sac_40_steps.zip")
    for name, tensor in saved.policy.state_dict().items():
        assert tensor.equal(live.policy.state_dict()[name]), name
    assert live.replay_buffer is not None
    saved_rows = opened["replay_buffer"]["pos"]
    assert live.replay_buffer.pos == saved_rows == 39  # the callback comes before the last row


def test_a_folder_is_written_again_and_loads(tmp_path: Path) -> None:
    reading = FORMAT.read(FOLDER)
    FORMAT.write(reading, tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").iterdir()} == set(
        reading.details["files"].values()
    )
    again = FORMAT.read(tmp_path / "again")
    assert sb3_values.same(dict(reading.components), dict(again.components))
    assert again.details == reading.details
    model = SAC.load(tmp_path / "again" / again.details["files"]["model"], device="cpu")
    model.load_replay_buffer(tmp_path / "again" / again.details["files"]["replay_buffer"])
    assert model.num_timesteps == 200


def test_names_of_files_lead_nowhere_else(tmp_path: Path) -> None:
    reading = FORMAT.read(FOLDER)
    for bad in ("../out.zip", "/out.zip", "", ".", "..", "a/b", "vecnormalize.pkl", 3):
        details = {**reading.details, "files": {"model": bad, "other": "../x"}}
        FORMAT.write(dataclasses.replace(reading, details=details), tmp_path / "in" / "again")
        assert {file.name for file in (tmp_path / "in" / "again").iterdir()} == {
            "model.zip", "replay_buffer.pkl", "vecnormalize.pkl",
        }  # fmt: skip
        assert [file.name for file in (tmp_path / "in").iterdir()] == ["again"]
        shutil.rmtree(tmp_path / "in")


def test_what_one_file_cannot_hold_leaves_no_folder(tmp_path: Path) -> None:
    reading = FORMAT.read(FOLDER)
    broken = {**reading.components, "normalizer": {"obs_rms": {}}}
    with pytest.raises(UnsupportedError, match=r"again/rl_model_vecnormalize_200_steps.pkl: expec"):
        FORMAT.write(dataclasses.replace(reading, components=broken), tmp_path / "again")
    assert list(tmp_path.iterdir()) == []

"""One call trains, and goes on after a kill; a configuration that does not match is refused."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.no_handlers import no_handlers

import rekindle as rk

pytest.importorskip("stable_baselines3")


def a2c(run: Path | None, **asked: Any) -> rk.TrainReport:
    arguments: dict[str, Any] = {"steps": 60, "model_checkpoint_freq": 20, "run": run, **asked}
    return rk.train("A2C", "CartPole-v1", **arguments)


def curve_of(path: Path) -> list[int]:
    for callback in rk.open(path)["callbacks"]["callbacks"]:
        if "returns" in callback:
            return list(callback["steps"])
    raise AssertionError("the checkpoint holds no learning curve")


def test_beside_each_checkpoint_stands_what_was_trained(tmp_path: Path) -> None:
    report = a2c(tmp_path / "run", normalize=True, n_envs=2, hyperparameters={"gamma": 0.9})
    assert rk.Run(tmp_path / "run").steps == [20, 40, 60]
    for step, epochs in ((20, 2), (40, 4), (60, 6)):
        checkpoint = rk.open(tmp_path / "run" / f"step_{step:09d}")
        assert isinstance(checkpoint, rk.Checkpoint)
        assert checkpoint["configuration"]["gamma"] == 0.9
        assert checkpoint["configuration"]["normalize"] is True
        assert checkpoint.counters["epochs"] == epochs
        assert checkpoint.manifest.elapsed_seconds is not None
        assert checkpoint["normalizer"]["obs_rms"]["count"] > step
    assert checkpoint.metrics["return"] == report.mean_return
    assert (report.step, report.num_epochs, report.resumed_from) == (60, 6, None)
    assert report.wall_time_seconds > 0
    assert f"{tmp_path}/run: finished at step 60, epoch 6, return " in repr(report)
    assert report.to_dict()["run"] == str(tmp_path / "run")


def test_the_learning_curve_is_saved_and_its_points_keep_their_distance(tmp_path: Path) -> None:
    a2c(tmp_path / "run", steps=2000, model_checkpoint_freq=1000)
    steps = curve_of(tmp_path / "run")
    assert steps[-1] > 1900
    assert min(b - a for a, b in itertools.pairwise(steps)) >= 10
    assert 900 < curve_of(tmp_path / "run" / "step_000001000")[-1] <= 1000


def test_the_same_call_again_finds_its_run_and_does_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, again, other = a2c(None), a2c(None), a2c(None, seed=1)
    assert (first.was_finished, again.was_finished, other.was_finished) == (False, True, False)
    assert again.run == first.run != other.run
    assert (again.step, again.resumed_from, again.num_epochs) == (60, 60, 12)
    assert "finished already" in repr(again)
    afresh = a2c(None, new=True)
    assert afresh.resumed_from is None
    assert set(Path("runs").iterdir()) == {first.run, other.run, afresh.run}
    assert first.run is not None
    assert first.run.name.startswith("A2C_CartPole-v1_20")


def test_another_configuration_is_refused_with_every_difference(tmp_path: Path) -> None:
    a2c(tmp_path / "run")
    with pytest.raises(rk.MismatchError) as caught:
        a2c(tmp_path / "run", seed=1, normalize=True, hyperparameters={"gamma": 0.9})
    assert [difference.key.rpartition(".")[2] for difference in caught.value.differences] == [
        "gamma", "normalize", "seed",
    ]  # fmt: skip


def test_a_new_run_is_not_begun_over_another(tmp_path: Path) -> None:
    a2c(tmp_path / "run", steps=20)
    with pytest.raises(rk.AlreadyExistsError, match="which stays"):
        a2c(tmp_path / "run", steps=20, new=True)


def test_a_model_that_is_not_saved_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = a2c(None, save_model=False)
    assert (report.run, report.step, report.num_epochs) == (None, 60, 12)
    assert not list(tmp_path.iterdir())
    with pytest.raises(rk.UnsupportedError, match="Leave out one"):
        a2c(tmp_path / "run", save_model=False)


def test_a_run_that_starts_from_another_resumes_without_it(tmp_path: Path) -> None:
    source = a2c(tmp_path / "source", steps=40)
    source.model.save(tmp_path / "model.zip")
    loaded = {"load_model": tmp_path / "model.zip", "seed": 3, "steps": 80}
    whole = a2c(tmp_path / "whole", **loaded)

    def stop(standing: Any) -> None:
        if standing.step == 50:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        a2c(tmp_path / "stopped", **loaded, on_progress=stop)
    (tmp_path / "model.zip").unlink()
    resumed = a2c(tmp_path / "stopped", **loaded)
    assert resumed.resumed_from == 40
    ends = [rk.open(each) for each in (tmp_path / "whole", tmp_path / "stopped")]
    assert isinstance(ends[0], rk.Checkpoint)
    assert isinstance(ends[1], rk.Checkpoint)
    (found,) = [item for item in ends[0].compare(ends[1]) if item.component == "policy"]
    assert found.is_identical
    assert found.num_values > 100
    assert whole.mean_return == resumed.mean_return


def test_a_model_that_does_not_fit_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a2c(tmp_path / "source", steps=20)
    with pytest.raises(rk.MismatchError, match="gamma"):
        a2c(None, load_model="source", hyperparameters={"gamma": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_it_tells_where_it_stands(tmp_path: Path) -> None:
    told: list[Any] = []
    a2c(tmp_path / "run", on_progress=told.append)
    assert [standing.step for standing in told] == [0, *range(1, 61)]
    assert {standing.run for standing in told} == {tmp_path / "run"}
    assert told[-1].mean_return > 0


def test_old_checkpoints_go_where_that_was_asked_for(tmp_path: Path) -> None:
    every, keep = rk.Every(updates=4), rk.Keep(last=2)
    a2c(tmp_path / "run", steps=90, model_checkpoint_freq=every, keep=keep)
    assert rk.Run(tmp_path / "run").steps == [80, 90], "4 updates of 5 steps each, and the end"


def test_a_training_that_is_asked_to_end_saves_and_ends_with_75(tmp_path: Path) -> None:
    def ask(standing: Any) -> None:
        if standing.step == 33:
            os.kill(os.getpid(), signal.SIGTERM)

    with no_handlers():
        with pytest.raises(SystemExit) as raised:
            a2c(tmp_path / "r", steps=100, on_progress=ask)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert raised.value.code == 75
    assert rk.Run(tmp_path / "r").steps == [20, 35]
    a2c(tmp_path / "r", steps=100)
    assert rk.Run(tmp_path / "r").steps == [20, 35, 40, 60, 80, 100]

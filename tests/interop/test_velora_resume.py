"""A training of Velora that is killed goes on, in another process, as if it had never stopped."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.agents import BATCH, KINDS, built, digest, train

import rekindle as rk
from rekindle.errors import MismatchError, UnsupportedError
from rekindle.velora import Checkpoint

ROOT = Path(__file__).parents[2]


def run(kind: str, path: str, *, after: int = 0, by: str = "SIGKILL", exclude: str = "") -> Any:
    """Train in another process, which ends itself after so many steps."""
    command = [sys.executable, "-m", "tests.interop.agents", kind, path, str(after), by, exclude]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    )


def result(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def curve(path: Path) -> list[tuple[Any, ...]]:
    """The newest experiment in Velora's database, without the clock."""
    columns = "episode_num, reward, length, reward_moving_avg, reward_moving_std, actor_loss"
    with sqlite3.connect(path) as database:
        return database.execute(
            f"SELECT {columns}, critic_loss, entropy_loss FROM episode "
            "WHERE experiment_id = (SELECT MAX(id) FROM experiment) ORDER BY id"
        ).fetchall()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_it_ends_as_the_one_that_was_not(kind: str, inside: Path) -> None:
    expected = result(run(kind, "whole"))
    whole = curve(inside / "metrics.db")
    (inside / "metrics.db").unlink()
    rng = np.random.default_rng()
    for after in (rng.integers(35, 60), rng.integers(3, 12)):
        assert run(kind, "killed", after=int(after)).returncode == -signal.SIGKILL
    assert rk.Run("killed").steps
    assert result(run(kind, "killed")) == expected
    assert len(whole) > 8
    assert curve(inside / "metrics.db") == whole
    assert result(run(kind, "killed")) == expected, "a finished run does nothing"


def test_without_the_coefficient_it_would_not() -> None:
    expected = result(run("discrete", "whole"))
    assert run("discrete", "killed", after=60, exclude="entropy.log_alpha").returncode < 0
    assert result(run("discrete", "killed", exclude="entropy.log_alpha")) != expected


def test_asked_to_end_it_saves_before_the_next_episode() -> None:
    expected = result(run("discrete", "whole"))
    asked = run("discrete", "asked", after=10, by="SIGTERM")
    assert asked.returncode == 75, asked.stderr
    [step] = rk.Run("asked").steps
    assert step < 60
    assert result(run("discrete", "asked")) == expected


def test_another_configuration_is_refused_before_anything_changes() -> None:
    agent = built("discrete")
    train(agent, n_episodes=2, callbacks=[Checkpoint("run", every=10)])
    other = built("discrete", gamma=0.9)
    before = digest(other)
    with pytest.raises(MismatchError, match=r"(?s)gamma.*n_episodes"):
        other.train(BATCH, n_episodes=3, warmup_steps=0, callbacks=[Checkpoint("run", every=10)])
    assert digest(other) == before
    assert range is __builtins__["range"]  # type: ignore[index]
    assert "range" not in vars(sys.modules["velora.models.nf.agent"])


def test_an_error_in_training_is_not_taken_for_its_end() -> None:
    agent = built("discrete")
    saving = Checkpoint("run", every=5, verbose=0)

    learn, count = agent._train_step, itertools.count(1)

    def failing(batch_size: int) -> Any:
        if next(count) == 40:
            raise ZeroDivisionError
        return learn(batch_size)

    agent._train_step = failing
    with pytest.raises(ZeroDivisionError):
        train(agent, n_episodes=10, callbacks=[saving])
    last = rk.Run("run").latest()
    assert last.step < 40
    assert rk.load(last.path)["progress"]["finished"] is False
    del agent._train_step
    train(agent, n_episodes=10, callbacks=[again := Checkpoint("run", every=5, verbose=0)])
    assert again.report is not None
    assert again.report.step == last.step
    assert rk.load(rk.Run("run").latest().path)["progress"]["finished"] is True


def test_another_loop_than_velora_s_is_refused() -> None:
    saving = Checkpoint("run")
    with pytest.raises(UnsupportedError, match=r"Call agent\.train first"):
        saving.run  # noqa: B018 - asking is what is tried

    class State:
        status = "start"
        agent = built("discrete")

    with pytest.raises(UnsupportedError, match="found no call of _run_callbacks"):
        saving(State())

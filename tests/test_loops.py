"""Plain torch loops: killed and resumed they end the same, and every part of their state matters.

The whole matrix is `make exactness`; here are three loops, and the proof that the comparison would
notice each part that a loop could have forgotten to track.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.exactness.__main__ import compared
from tests.exactness.loop_cases import CASES, Session

import rekindle as rk

ROOT = Path(__file__).parents[1]
PROGRAM = "from tests.exactness.loop_cases import main; main()"
"""By import, so that classes have the names that they have in this process."""
KILL_AT = {"ppo_sync": 1100, "sac": 300, "dqn": 280}
"""Steps past which runs are killed; dqn's last checkpoint before it falls between two updates."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Cases run in this process too: with one thread, and without a trace."""
    before = torch.get_num_threads(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])


def start(case: str, run: Path, hash_seed: str, *options: str) -> int:
    """Train in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, case, str(run), *options]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def train(case: str, run: Path, *forget: str) -> None:
    """Train in this process."""
    function, total, every = CASES[case]
    session = Session(run, total, every, forget=forget)
    function(session)
    session.run.close()


class Runs:
    """Of each case one uninterrupted run, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def whole(self, case: str) -> Path:
        path = self._folder / case
        if not path.exists():
            train(case, path)
        return path

    def cut_short(self, case: str, path: Path) -> None:
        """Copy the run as it was in the middle."""
        shutil.copytree(self.whole(case), path)
        for step in rk.Run(path).steps:
            if step > KILL_AT[case]:
                shutil.rmtree(path / f"step_{step:09d}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("loops"))


def differing(first: Path, second: Path) -> set[str]:
    """Components in which the ends of two runs differ, with the values compared counted."""
    found, _ = compared(first, second)
    assert sum(item.num_values for item in found) > 5000
    return {item.component for item in found if not item.is_identical}


@pytest.mark.parametrize("case", ["ppo_sync", "dqn"])
def test_a_killed_loop_ends_as_if_it_had_never_stopped(
    case: str, runs: Runs, tmp_path: Path
) -> None:
    killed = tmp_path / "run"
    assert start(case, killed, "1", "--kill-at", str(KILL_AT[case])) == -signal.SIGKILL
    assert 0 < rk.Run(killed).steps[-1] < KILL_AT[case]
    assert start(case, killed, "2") == 0
    assert rk.Run(killed).steps == rk.Run(runs.whole(case)).steps
    assert differing(runs.whole(case), killed) == set()


def resumed_without(part: str | None, case: str, runs: Runs, folder: Path) -> set[str]:
    """What differs in the end when one part is not put back."""
    runs.cut_short(case, folder / "run")
    train(case, folder / "run", *([part] if part else []))
    return differing(runs.whole(case), folder / "run")


@pytest.mark.parametrize("case", KILL_AT)
def test_with_every_part_put_back_nothing_differs(case: str, runs: Runs, tmp_path: Path) -> None:
    assert resumed_without(None, case, runs, tmp_path) == set()


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("ppo_sync", "policy"),
        ("ppo_sync", "optimizer"),
        ("ppo_sync", "schedule"),
        ("ppo_sync", "env"),
        ("ppo_sync", "rng.numpy"),
        ("ppo_sync", "rng.torch"),
        ("ppo_sync", "progress"),
        ("sac", "target"),
        ("sac", "temperature"),
        ("sac", "replay_buffer"),
        ("sac", "sampler"),
        ("dqn", "action_space"),
        ("dqn", "rng.python"),
        ("dqn", "scaler"),
        ("dqn", "gradients"),
    ],
)
def test_a_part_that_is_not_put_back_changes_the_policy(
    case: str, part: str, runs: Runs, tmp_path: Path
) -> None:
    assert "policy" in resumed_without(part, case, runs, tmp_path)


def test_an_average_of_the_weights_that_is_not_put_back_is_another_average(
    runs: Runs, tmp_path: Path
) -> None:
    """It cannot change the policy: nothing that trains reads it. It is what would be shipped."""
    assert resumed_without("average", "ppo_sync", runs, tmp_path) == {"average"}


def test_an_action_space_that_is_drawn_from_no_more_changes_nothing_else(
    runs: Runs, tmp_path: Path
) -> None:
    """SAC draws from it in its first steps only, and the checkpoint is past them."""
    assert resumed_without("action_space", "sac", runs, tmp_path) == {"action_space"}


@pytest.mark.parametrize("part", ["rng.python", "rng.numpy"])
def test_a_generator_that_a_loop_never_draws_from_cannot_matter(
    part: str, runs: Runs, tmp_path: Path
) -> None:
    """SAC here samples with a generator of its own: the global ones stand as they were seeded."""
    assert resumed_without(part, "sac", runs, tmp_path) == set()

"""Users' own scripts, really killed: right ones pass, wrong ones are told where they part."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Result, rekindle

import rekindle as rk
from rekindle import trail

TOTAL, EVERY, KILL_AT = 400, 100, 150

LOOP = """
    import random, sys, time
    import numpy as np
    import rekindle as rk

    TOTAL, PAUSE = int(sys.argv[1]), 0.001
    random.seed(0)
    np.random.seed(0)

    class Walker:
        def __init__(self):
            self.place, self.random = 0.0, np.random.default_rng(1)
        def step(self, push):
            self.place += push + self.random.normal()

    env, loop = Walker(), rk.Progress()
    optimizer = {"moment": np.zeros(3)}
    own = np.random.default_rng(7)
    run = rk.Run("runs/walk", every=EVERY)
    run.track(optimizer=optimizer, env=env, rng=rk.GlobalRNG(), progress=loop)
    report = run.resume()
    # after the resume
    while loop.step < TOTAL:
        run.checkpoint()
        env.step(random.random() - 0.5)
        optimizer["moment"] *= 0.9
        optimizer["moment"] += np.random.rand(3)
        # in the loop
        loop.step += 1
        time.sleep(PAUSE)
    run.save()
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(after: str = "", inside: str = "", text: str = LOOP, **replaced: str) -> Path:
    text = textwrap.dedent(text).replace("EVERY", str(EVERY))
    text = text.replace("# after the resume", after).replace("# in the loop", inside)
    for old, new in replaced.items():
        text = text.replace(old, new)
    script = Path("train.py")
    script.write_text(text)
    return script


def verify(
    capsys: pytest.CaptureFixture[str], script: Path, *options: object, json: bool = True
) -> Result:
    given = ["--root", "proof", *(["--json"] if json else []), *options]
    if "--kill-at" not in given:
        given += ["--kill-at", KILL_AT]
    return rekindle(capsys, "verify-resume", *given, "--", sys.executable, script, TOTAL)


def first_difference(result: Result) -> dict[str, Any]:
    assert result.status == 1, result.err
    (run,) = result.json["runs"]
    assert run["identical"] is False
    return {**run["first_difference"], "resumed_from": run["resumed_from"], **{
        item["component"]: item["first_step"] for item in run["components"]
    }}  # fmt: skip


def test_a_right_script_is_identical(capsys: pytest.CaptureFixture[str]) -> None:
    result = verify(capsys, write())
    assert result.status == 0, result.err
    told = result.json
    assert told["identical"] is True
    assert KILL_AT <= told["killed_at"] < TOTAL
    (run,) = told["runs"]
    assert run["run"] == "runs/walk"
    assert run["resumed_from"] >= EVERY
    assert run["resumed_from"] % EVERY == 0
    assert run["last_steps"] == [TOTAL, TOTAL]
    assert run["values"] > 1000
    assert {item["component"] for item in run["components"]} == {
        "optimizer", "env", "rng", "progress"
    }  # fmt: skip
    assert all(item["largest_difference"] == 0 for item in run["components"])
    assert "SIGKILL at step" in result.err
    assert not Path("runs").exists()


def test_a_generator_that_is_not_tracked_is_placed_at_the_step_that_draws_from_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inside = "env.place += own.random() if loop.step % 50 == 37 else 0.0"
    found = first_difference(verify(capsys, write(inside=inside)))
    assert found["components"] == ["env"]
    assert found["step"] == found["resumed_from"] + 38
    assert found["narrowed"] is True
    assert found["rng"] is None
    assert "a random generator of its own" in found["meaning"]


def test_an_environment_seeded_after_the_resume_is_named_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = write(after="if report: env.random = np.random.default_rng(1)")
    result = verify(capsys, script, json=False)
    assert result.status == 1
    *_, last = result.out.strip().splitlines()
    assert last.startswith("differs: first in env at step 100, which is where the run was resumed")
    assert "Both runs are kept" in result.out
    assert "env/" in result.out


def test_the_smallest_change_of_one_moment_is_found_at_its_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It shrinks tenfold every 22 steps, and is gone from the ends that are compared."""
    inside = 'optimizer["moment"][1] += 1e-12 if report and loop.step == 222 else 0.0'
    result = verify(capsys, write(inside=inside))
    found = first_difference(result)
    assert found["components"] == ["optimizer"]
    assert found["step"] == found["optimizer"] == 223
    assert found["narrowed"] is True
    assert [found[name] for name in ("env", "rng", "progress")] == [None, None, None]


def test_a_script_that_is_never_the_same_twice_is_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = write(after="env.random = np.random.default_rng()")
    found = first_difference(verify(capsys, script))
    assert found["step"] == 0
    assert found["components"] == ["env"]
    assert "two uninterrupted starts of this script differ" in found["meaning"]


def test_what_may_differ_can_be_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    script = write(after="loop.began = time.time()")
    assert verify(capsys, script, "--ignore", "progress/began").status == 0


def test_the_kill_comes_at_a_random_moment_and_checkpoints_as_often_as_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = write()
    options = ["--root", "proof", "--every", 30, "--json", "--"]
    result = rekindle(capsys, "verify-resume", *options, sys.executable, script, TOTAL)
    assert result.status == 0, result.err
    assert 30 <= result.json["killed_at"] < TOTAL
    assert result.json["runs"][0]["resumed_from"] % 30 == 0
    assert rk.Run("proof/uninterrupted/runs/walk").steps[:2] == [30, 60]


def test_what_was_under_way_is_removed_when_nobody_asked_to_keep_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    options = ["--kill-at", KILL_AT, "--", sys.executable, write(), TOTAL]
    result = rekindle(capsys, "verify-resume", *options)
    assert result.status == 0
    assert result.out.strip().splitlines()[-1] == "identical"
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "options", "code", "said"),
    [
        ({"after": "raise ValueError('my mistake')"}, [], "error", "my mistake"),
        ({"after": "sys.exit(3)"}, [], "error", "failed with status 3"),
        ({"text": "print('no run')"}, [], "not-found", "found that it made no run"),
        ({"every=100": "every=None", "run.save()": ""}, [], "not-found", "to make checkpoints"),
        ({"every=100": "every=None"}, [], "not-found", "the first one is the last"),
        ({}, ["--kill-at", 9999], "unsupported", "it ends at step 400"),
        ({"run.resume()": "None"}, [], "error", "Call run.resume()"),
        (
            {'"runs/walk"': 'f"runs/{time.time_ns()}"'},
            [],
            "mismatch",
            "same run director",
        ),
    ],
)
def test_a_script_that_cannot_be_verified_is_an_error(
    change: dict[str, str],
    options: list[object],
    code: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = verify(capsys, write(**change), *options)
    assert f'"error": "{code}"' in result.err
    assert said in result.err
    assert result.status not in (0, 2)


def test_a_command_is_needed_and_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = rekindle(capsys, "verify-resume")
    assert nothing.status == 2
    assert "verify-resume -- python train.py" in nothing.err
    absent = rekindle(capsys, "verify-resume", "--", "no-such-command")
    assert absent.status == rk.NotFoundError.exit_code
    assert "expected a command that can be started" in absent.err


def test_a_directory_that_holds_something_is_refused_and_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("proof").mkdir()
    Path("proof/thesis.txt").write_text("mine")
    assert verify(capsys, write()).status == rk.AlreadyExistsError.exit_code
    assert os.listdir("proof") == ["thesis.txt"]  # noqa: PTH208


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "verify-resume", "--help")
    assert result.status == 0
    assert "rekindle verify-resume -- python train.py" in result.out


TORCH = """
    import sys, time, torch
    import gymnasium as gym
    from stable_baselines3 import PPO
    from rekindle.sb3 import Checkpoint

    torch.set_num_threads(1)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=2, seed=0,
                device="cpu")
    callback = Checkpoint("runs/ppo", every=128)
    # after the resume
    model.learn(int(sys.argv[1]) * 2, callback=callback)
"""


def test_an_sb3_script_is_identical(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    result = verify(capsys, write(text=TORCH))
    assert result.status == 0, result.err
    (run,) = result.json["runs"]
    assert run["resumed_from"] >= 128
    names = {item["component"] for item in run["components"]}
    assert {"policy", "optimizer", "env", "rng", "agent"} <= names
    points = trail.merged(trail.read(Path("proof/uninterrupted/runs/ppo"))).records
    assert {place.is_loop for place in points} == {True, False}


SABOTAGED = """
    class Sabotaged(Checkpoint):
        def _on_step(self):
            state = next(iter(self.model.policy.optimizer.state.values()), None)
            if self.report and self.num_timesteps == 400:
                state["exp_avg_sq"].view(-1)[0] += 1e-12
            return super()._on_step()
    callback = Sabotaged("runs/ppo", every=128)
"""


@pytest.mark.exactness
def test_a_changed_moment_of_adam_is_found_in_an_sb3_script(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("stable_baselines3")
    script = write(text=TORCH, after=textwrap.dedent(SABOTAGED))
    found = first_difference(verify(capsys, script))
    # Training at the end of that rollout spreads it to the weights.
    assert "optimizer" in found["components"]
    assert found["step"] == 448
    assert found["narrowed"] is True

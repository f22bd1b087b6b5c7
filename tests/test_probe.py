"""Environments that are put back in a twin of the process, and what is said of them."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rekindle as rk
from rekindle import probe, twin

pytestmark = pytest.mark.skipif(not twin.IS_SAFE, reason="a run is probed on Linux only")


class Line(gym.Env[Any, Any]):
    """Walks along a line; what it shows is its place and what `extra` says."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self) -> None:
        self.place = 0

    def extra(self) -> float:
        return 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(10))
        return np.array([self.place, 0.0]), {}

    def step(self, action: Any) -> Any:
        self.place += int(action) - 1
        return np.array([self.place, self.extra()]), float(self.place), False, False, {}


calls = 0


class InAGlobal(Line):
    """Counts in a global of its module."""

    def extra(self) -> float:
        global calls
        calls += 1
        return calls


class InAClass(Line):
    """Counts in an attribute of its class."""

    count = 0

    def extra(self) -> float:
        type(self).count += 1
        return self.count


def _class_with_a_closure() -> type[Line]:
    count = 0

    class InAClosure(Line):
        """Counts in a variable of the function that made it."""

        def extra(self) -> float:
            nonlocal count
            count += 1
            return count

    return InAClosure


InAClosure = _class_with_a_closure()

worlds: dict[int, list[int]] = {}


class BehindANumber(Line):
    """Holds the number of a world that somebody else keeps, as bindings to simulators do."""

    def __init__(self) -> None:
        super().__init__()
        self.world = len(worlds)
        worlds[self.world] = [0]

    def extra(self) -> float:
        worlds[self.world][0] += 1
        return worlds[self.world][0]


class ReadsTheClock(Line):
    def extra(self) -> float:
        return time.perf_counter_ns()


class Rewarded(Line):
    """Only its reward depends on what is hidden."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(next(ticks)), *rest


ticks = itertools.count()
HIDDEN = (InAGlobal, InAClass, InAClosure, BehindANumber, ReadsTheClock)


def ready(env: Any, num_steps: int = 5) -> Any:
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(num_steps):
        env.step(env.action_space.sample())
    return env


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 60.0)  # on a machine that others use too


# --------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("cls", HIDDEN)
def test_hidden_state_is_found_and_the_environment_named(cls: type[Line]) -> None:
    report = rk.probe_env(ready(cls()))
    assert not report
    assert (report.exact, report.not_tried) == ((), ())
    (line,) = report.inexact
    assert line.startswith(f"env ({cls.__name__}): its capture is not exact")
    assert "the observation after action 1 differs" in line
    assert "rk.Stateful" in line
    assert repr(report) == line


def test_the_first_output_that_differs_is_named() -> None:
    (line,) = rk.probe_env(ready(Rewarded())).inexact
    assert "the reward after action 1 differs" in line


def test_what_matters_late_is_found_with_more_actions() -> None:
    class Late(Line):
        def extra(self) -> float:
            return next(ticks) if self.place > 10 else 0.0

    env = ready(Late())
    env.unwrapped.place = 2
    assert rk.probe_env(env).is_exact
    (line,) = rk.probe_env(env, num_steps=2000).inexact
    assert "the observation after action" in line


def test_state_that_differs_behind_equal_outputs_is_found() -> None:
    class Stamped(Line):
        def extra(self) -> float:
            self.stamp = time.perf_counter_ns()
            return 0.0

    env = ready(Stamped())
    (line,) = rk.probe_env(env).inexact
    assert "8 actions gave the same, but left env/stamp different" in line
    assert "exclude=" in line
    assert rk.probe_env(env, exclude=["env/stamp"]).is_exact


def test_an_end_of_an_episode_is_gone_through() -> None:
    class Short(Line):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return observation, reward, False, True, {}

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return np.array([next(ticks), 0.0]), {}

    (line,) = rk.probe_env(ready(Short())).inexact
    assert "the observation of the reset after action 1 differs" in line


def test_an_error_that_comes_once_only_is_found() -> None:
    class Breaks(Line):
        def extra(self) -> float:
            if next(ticks) >= first + 8:
                raise ValueError("worn out")
            return 0.0

    first = next(ticks) + 6
    (line,) = rk.probe_env(ready(Breaks())).inexact
    assert "action 1 gave ValueError: worn out instead of a result" in line


def test_what_was_decided_at_the_construction_is_found_in_a_new_one() -> None:
    secrets: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    class Secretive(Line):
        def __init__(self) -> None:
            super().__init__()
            secrets[self] = next(ticks)

        def extra(self) -> float:
            return secrets[self]

    env = ready(Secretive())
    assert rk.probe_env(env).is_exact
    (line,) = rk.probe_env(env, make=Secretive).inexact
    assert "put back into a new environment, the observation after action 1 differs" in line


# --------------------------------------------------------------------------- what is exact


def _wrapped() -> Any:
    env: Any = gym.make("CartPole-v1", max_episode_steps=7)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env = gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(env))
    return gym.wrappers.FrameStackObservation(env, 3)


@pytest.mark.parametrize("make", [Line, _wrapped, lambda: gym.make("Blackjack-v1")])
def test_an_ordinary_environment_is_exact(make: Callable[[], Any]) -> None:
    report = rk.probe_env(ready(make(), 3), make=make, num_steps=30)
    assert report.is_exact, report
    assert len(report.exact) == 1
    assert report.exact[0].endswith("the same again for 30 actions")


class Creature:
    def __init__(self, place: int) -> None:
        self.place = place


def test_objects_that_come_and_go_are_made_again() -> None:
    class Hunt(Line):
        def __init__(self) -> None:
            super().__init__()
            self.creatures = [Creature(place) for place in range(4)]

        def extra(self) -> float:
            if self.creatures:
                self.creatures.pop()
            return sum(creature.place for creature in self.creatures)

    report = rk.probe_env(ready(Hunt(), 1))
    assert report.is_exact, report


def test_an_environment_that_declares_its_state_is_exact() -> None:
    class Declared(InAGlobal, rk.Stateful):
        def get_state(self) -> Any:
            return {"place": self.place, "calls": calls}

        def set_state(self, state: Any) -> None:
            global calls
            self.place, calls = state["place"], state["calls"]

    report = rk.probe_env(ready(Declared()))
    assert report.is_exact, report


def test_an_environment_that_computes_with_torch_is_tried_beside_its_threads() -> None:
    class Large(Line):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.full((600, 600), 0.1)

        def extra(self) -> float:
            self.weights = self.weights @ self.weights / 6
            return float(self.weights[0, 0])

    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        env = ready(Large())
        assert rk.probe_env(env).is_exact
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(num_threads)


class Custom(gym.vector.VectorEnv[Any, Any, Any]):
    """Two at once, in arrays that it uses again."""

    num_envs = 2
    single_action_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.MultiDiscrete([2, 2])

    def __init__(self) -> None:
        self.places = np.zeros(2)

    def hidden(self) -> int:
        return 0

    def step(self, actions: Any) -> Any:
        self.places += actions + self.hidden()
        ends = np.zeros(2, bool)
        return self.places, self.places * 2, ends, ends, {}


class CustomHidden(Custom):
    def hidden(self) -> int:
        return next(ticks)


def test_a_vector_environment_of_ones_own_is_tried_as_a_whole() -> None:
    assert rk.probe_env(Custom()).is_exact
    (line,) = rk.probe_env(CustomHidden()).inexact
    assert line.startswith("env (CustomHidden): ")


def test_one_environment_of_each_kind_is_tried_in_vectors() -> None:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    sync = gym.vector.SyncVectorEnv([Line, Line, Line])
    sync.reset(seed=1)
    report = rk.probe_env(gym.vector.VectorWrapper(sync))
    assert report.is_exact
    assert len(report.exact) == 1
    assert report.exact[0].startswith("env/env.envs.0 (Line)")
    makers: Any = [lambda: Monitor(Line()), lambda: Monitor(InAGlobal()), lambda: Monitor(Line())]
    dummy = VecNormalize(DummyVecEnv(makers))
    dummy.seed(1)
    dummy.reset()
    report = rk.probe_env(dummy)
    assert [line.partition(":")[0] for line in report.exact] == ["env/venv.envs.0 (Line)"]
    assert [line.partition(":")[0] for line in report.inexact] == ["env/venv.envs.1 (InAGlobal)"]


# --------------------------------------------------------------------------- what cannot be tried


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(rk.UnsupportedError, match=r"found builtins:int.*worker processes"):
        rk.probe_env(3)
    with pytest.raises(rk.UnsupportedError, match="num_steps=0"):
        rk.probe_env(Line(), num_steps=0)


def test_an_error_at_the_first_action_is_told() -> None:
    (line,) = rk.probe_env(gym.make("CartPole-v1")).not_tried
    assert line.startswith("env (CartPole-v1): whether its capture is exact could not be tried")
    assert "its first action raised ResetNeeded" in line


def test_what_cannot_be_captured_is_told() -> None:
    env = ready(Line())
    env.native = (number for number in range(3))
    (line,) = rk.probe_env(env).not_tried
    assert "UnsupportedError" in line


def test_the_end_of_the_twin_is_told() -> None:
    class Fatal(Line):
        def extra(self) -> float:
            if os.getpid() != here:
                os.kill(os.getpid(), signal.SIGSEGV)
            return 0.0

    here = os.getpid()
    (line,) = rk.probe_env(ready(Fatal())).not_tried
    assert "ended by signal SIGSEGV" in line


def test_one_that_never_returns_is_left_after_the_time() -> None:
    class Stuck(Line):
        def extra(self) -> float:
            if os.getpid() != here:
                threading.Event().wait()
            return 0.0

    here = os.getpid()
    report = rk.probe_env([ready(Line()), ready(Stuck())], limit_seconds=1.0)
    assert len(report.exact) == 1, report
    (line,) = report.not_tried
    assert line.startswith("env/1 (Stuck)")
    assert "longer than 1 s" in line


def test_one_that_makes_something_else_is_told() -> None:
    (line,) = rk.probe_env(ready(Line()), make=lambda: 3).not_tried
    assert "make() gave something else" in line


# --------------------------------------------------------------------------- nothing is touched


@pytest.mark.parametrize(
    "make", [_wrapped, lambda: gym.vector.SyncVectorEnv([_wrapped]), Custom, BehindANumber]
)
def test_an_environment_is_not_touched(make: Callable[[], Any]) -> None:
    env = make()
    env.reset(seed=1)
    before = _plain(rk.capture_env(env)), str(worlds)
    assert rk.probe_env(env).not_tried == ()
    assert (_plain(rk.capture_env(env)), str(worlds)) == before


def test_nothing_of_this_process_is_touched(tmp_path: Path) -> None:
    class Logs(InAGlobal):
        def extra(self) -> float:
            log.write(f"{self.place}\n")
            log.flush()
            return super().extra() + random.random() + np.random.random()

    with (tmp_path / "log").open("w") as log:
        env = ready(Logs())
        before = rk.capture_env({"env": env, "rng": rk.GlobalRNG()}), calls, _contents(tmp_path)
        assert rk.probe_env(env).inexact
        after = rk.capture_env({"env": env, "rng": rk.GlobalRNG()}), calls, _contents(tmp_path)
    assert _plain(before[0]) == _plain(after[0])
    assert before[1:] == after[1:]


def _plain(state: dict[str, Any]) -> Any:
    return state["document"], {name: part.tobytes() for name, part in state["arrays"].items()}


def _contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


class Noisy(InAGlobal):
    """Depends on everything that a probe could disturb."""

    def extra(self) -> float:
        return super().extra() + random.random() + np.random.random() + next(ticks)


def _trained(path: Path) -> tuple[list[float], Any]:
    """What a run gives, saving on the way."""
    global calls, ticks
    calls, ticks = 0, itertools.count()
    random.seed(1)
    np.random.seed(1)
    env, progress = Noisy(), rk.Progress()
    env.reset(seed=1)
    env.action_space.seed(1)
    found: list[float] = []
    with rk.Run(path, every=5) as run:
        run.track(env=env, progress=progress)
        run.resume()
        while progress.step < 20:
            run.checkpoint()
            found += env.step(env.action_space.sample())[0].tolist()
            progress.step += 1
        return found, _plain(rk.capture_env({"env": env, "rng": rk.GlobalRNG()}))


def test_a_run_is_the_same_with_and_without_its_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = _trained(tmp_path / "probed")
    monkeypatch.setenv(probe.PROBE, "0")
    assert _trained(tmp_path / "not probed") == probed
    notes = [rk.open(tmp_path / name).manifest.notes for name in ("probed", "not probed")]
    assert len(notes[0]) == 1
    assert notes[1] == []


# --------------------------------------------------------------------------- in a run


def test_a_run_says_it_once_in_every_checkpoint_and_where_it_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with rk.Run(tmp_path / "run") as run:
        run.track(env=ready(InAClosure()), rng=rk.GlobalRNG())
        run.resume()
        notes = [run.save(step=step).manifest.notes for step in (1, 2)]
    assert notes[0] == notes[1]
    assert len(notes[0]) == 1
    assert "env (InAClosure): its capture is not exact" in notes[0][0]
    assert [record.getMessage() for record in caplog.records] == notes[0]
    assert caplog.records[0].levelno == logging.WARNING
    with rk.Run(tmp_path / "run") as run:
        run.track(env=ready(InAClosure()), rng=rk.GlobalRNG())
        report = run.resume()
        assert report is not None
        assert list(report.notes) == notes[0]
        assert notes[0][0] in repr(report)
        assert run.save(step=3).manifest.notes == notes[0]
    assert len(caplog.records) == 2


def test_a_run_says_where_it_is_resumed_what_its_checkpoint_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_probed in (False, True):
        monkeypatch.setenv(probe.PROBE, "01"[is_probed])
        with rk.Run(tmp_path / "run") as run:
            run.track(env=ready(InAClosure()))
            report = run.resume()
            run.save(step=1)
    assert report is not None
    assert "env (InAClosure): its capture is not exact" in report.notes[0]


def test_a_run_says_nothing_of_environments_that_are_exact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with rk.Run(tmp_path / "run") as run:
        run.track(env=ready(_wrapped()), rng=rk.GlobalRNG())
        run.resume()
        assert run.save(step=1).manifest.notes == []
    assert not caplog.records


def test_a_run_notes_an_error_and_keeps_quiet_about_the_time_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with rk.Run(tmp_path / "not reset") as run:
        run.track(env=gym.make("CartPole-v1"))
        run.resume()
        (note,) = run.save(step=1).manifest.notes
        assert "its first action raised ResetNeeded" in note
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 1e-6)
    with rk.Run(tmp_path / "no time") as run:
        run.track(env=ready(InAGlobal()))
        run.resume()
        assert run.save(step=1).manifest.notes == []
    assert not caplog.records


class Draws(Line):
    """Draws from the global generators, as many do."""

    def extra(self) -> float:
        return random.random() + np.random.random()


def test_global_generators_that_are_not_tracked_are_named(tmp_path: Path) -> None:
    with rk.Run(tmp_path / "untracked") as run:
        run.track(env=ready(Draws()))
        run.resume()
        (note,) = run.save(step=1).manifest.notes
        assert "track rng=rk.GlobalRNG()" in note
    for rng in (rk.GlobalRNG(), {"all": rk.GlobalRNG()}):
        with rk.Run(tmp_path / f"tracked {type(rng).__name__}") as run:
            run.track(env=ready(Draws()), rng=rng)
            run.resume()
            assert run.save(step=1).manifest.notes == []


level = {"now": 0}


class Taught(Line):
    """Its level is a global that a script tracks beside it; its teacher is a component."""

    def __init__(self, teacher: Any) -> None:
        super().__init__()
        self.teacher = teacher

    def extra(self) -> float:
        level["now"] += 1
        self.teacher.lessons += 1
        return level["now"] + self.teacher.lessons


def test_what_an_environment_depends_on_among_the_tracked_is_put_back_too(tmp_path: Path) -> None:
    class Teacher:
        lessons = 0

        def __init__(self) -> None:
            self.lessons = 3

    teacher = Teacher()
    for name, tracked in (("all", {"level": level}), ("not the level", {})):
        with rk.Run(tmp_path / name) as run:
            run.track(env=ready(Taught(teacher)), teacher=teacher, **tracked)
            run.resume()
            assert len(run.save(step=1).manifest.notes) == (0 if tracked else 1), name


def test_a_large_state_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    env = ready(InAGlobal())
    env.map = np.zeros(1000)
    monkeypatch.setattr(probe, "_LARGEST_BYTES", 4000)
    (line,) = rk.probe_env(env).not_tried
    assert "its state of 8.0 KB" in line or "its state of 1" in line
    assert "is too large" in line

"""When a save is due: by steps, by seconds, by updates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.little_loop import Loop, loop

import rekindle as rk
from rekindle import writer
from rekindle.cadence import Moment, settled


def moment(step: int = 0, updates: int = 0, seconds: float = 0.0) -> Moment:
    return Moment(step=step, updates=updates, seconds=seconds)


class Clock:
    """Stands for the clocks of the system, so that a test need not wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic = 1000.0
        self.wall = 1.7e9
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)
        monkeypatch.setattr(time, "time", lambda: self.wall)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_number_is_one_of_steps() -> None:
    assert settled(10) == settled(10.0) == rk.Every(steps=10)  # type: ignore[arg-type]
    assert settled(None) is None
    every = rk.Every(seconds=0.5, updates=3)
    assert settled(every) is every


@pytest.mark.parametrize(
    ("every", "before", "now", "is_due"),
    [
        (rk.Every(steps=10), moment(step=9), moment(step=10), True),
        (rk.Every(steps=10), moment(step=10), moment(step=19), False),
        (rk.Every(steps=10), moment(step=12), moment(step=20), True),
        (rk.Every(updates=4), moment(step=1, updates=3), moment(step=9, updates=3), False),
        (rk.Every(updates=4), moment(updates=3), moment(updates=9), True),
        (rk.Every(seconds=60), moment(seconds=5), moment(seconds=64.9), False),
        (rk.Every(seconds=60), moment(seconds=5), moment(seconds=65), True),
        (rk.Every(steps=10, seconds=60), moment(step=1), moment(step=2, seconds=60), True),
        (rk.Every(steps=10, seconds=60), moment(step=1), moment(step=11, seconds=1), True),
        (rk.Every(steps=10, seconds=60), moment(step=1), moment(step=9, seconds=1), False),
    ],
)
def test_a_save_is_due_by_whichever_comes_first(
    every: rk.Every, before: Moment, now: Moment, is_due: bool
) -> None:
    assert every.is_due(before, now) is is_due


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "found none of them"), ({"steps": 0}, "steps=0"), ({"steps": 2.5}, "steps=2.5"),
     ({"updates": "3"}, "updates='3'"), ({"updates": True}, "updates=True"),
     ({"seconds": 0}, "seconds=0"), ({"seconds": float("nan")}, "seconds=nan"),
     ({"seconds": float("inf")}, "seconds=inf"), ({"seconds": "10min"}, "seconds='10min'")],
)  # fmt: skip
def test_what_is_no_cadence_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(rk.UnsupportedError, match=said.replace(".", r"\.")):
        rk.Every(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("every", [0, -1, 0.5, "10min", float("nan")])
def test_a_run_wants_a_number_of_steps_or_every(tmp_path: Path, every: object) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"rk\.Every\(seconds=600\)"):
        rk.Run(tmp_path, every=every)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- in a run


def test_seconds_count_from_the_begin_of_the_last_save(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loop(tmp_path / "run", every=rk.Every(seconds=60)) as made:
        made.run.resume()
        draft = writer.draft

        def slow(*arguments: Any, **options: Any) -> Any:
            clock.monotonic += 25
            return draft(*arguments, **options)

        monkeypatch.setattr(writer, "draft", slow)
        assert made.train(5) == []
        clock.monotonic += 60
        assert made.train(6) == [6]
        clock.monotonic += 34
        assert made.train(7) == []
        clock.monotonic += 1
        assert made.train(9) == [8], "and right after it none is due"


def test_seconds_count_anew_after_a_resume(tmp_path: Path, clock: Clock) -> None:
    with loop(tmp_path / "run", every=rk.Every(seconds=60)) as made:
        made.run.resume()
        clock.monotonic += 60
        assert made.train(3) == [1]
    clock.monotonic = 5.0  # another machine has another clock
    with loop(tmp_path / "run", every=rk.Every(seconds=60)) as made:
        made.run.resume()
        clock.monotonic += 59
        assert made.train(5) == []
        clock.monotonic += 1
        assert made.train(6) == [6]


def test_a_clock_that_goes_back_does_not_matter(tmp_path: Path, clock: Clock) -> None:
    with loop(tmp_path / "run", every=rk.Every(seconds=60)) as made:
        made.run.resume()
        clock.wall -= 1e6
        clock.monotonic += 60
        assert made.train(2) == [1]
        clock.wall += 1e7
        assert made.train(3) == []


def test_nothing_is_saved_twice_however_much_time_passes(tmp_path: Path, clock: Clock) -> None:
    with loop(tmp_path / "run", every=rk.Every(seconds=60)) as made:
        made.run.resume()
        clock.monotonic += 60
        assert not made.run.checkpoint(), "nothing is there before the first step"
        assert made.train(1) == [1]
        clock.monotonic += 60
        assert not made.run.checkpoint()


def test_updates_are_those_of_the_tracked_progress(tmp_path: Path) -> None:
    every = rk.Every(updates=4)
    with loop(tmp_path / "run", every=every) as made:
        made.run.resume()
        saved = []
        for _ in range(10):
            made.progress.updates += 1
            saved += made.train(made.progress.step + 3)
        assert saved == [10, 22]
    with loop(tmp_path / "run", every=every) as made:
        made.run.resume()
        assert made.progress.updates == 8
        made.progress.updates = 11
        assert made.train(33) == []
        made.progress.updates = 12
        assert made.train(36) == [34]


def test_updates_that_nobody_counts_are_missed_at_once(tmp_path: Path) -> None:
    made = Loop(tmp_path / "run", every=rk.Every(updates=4))
    made.run.track(progress={"step": 3})
    with made.run, pytest.raises(rk.UnsupportedError, match="expected to know updates"):
        made.run.resume()


def test_a_run_ends_the_same_whenever_it_was_saved(tmp_path: Path, clock: Clock) -> None:
    for name, every in (("a", rk.Every(seconds=3)), ("b", 7), ("c", rk.Every(steps=5, seconds=2))):
        with loop(tmp_path / name, every=every) as made:
            made.run.resume()
            for step in range(1, 41):
                clock.monotonic += 0.7
                made.train(step)
            made.run.save()
    runs = [rk.Run(tmp_path / name) for name in "abc"]
    assert len({tuple(run.steps) for run in runs}) == 3
    first, *others = (run.latest() for run in runs)
    for other in others:
        assert all(item.is_identical for item in first.compare(other))

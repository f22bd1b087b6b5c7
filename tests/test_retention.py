"""Which checkpoints stay: decided by rules, counted honestly, and never at the newest's expense."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from tests.little_loop import Loop, damage, loop

import rekindle as rk
from rekindle import files, manifest, pins, retention
from rekindle.retention import Decision, Held, Inode, decide

MB = 10**6


def held(step: int, value: object = None, **options: Any) -> Held:
    metrics = {} if value is None else {"return": value}
    return Held(f"step_{step:09d}", step, metrics, **options)


def stay(decision: Decision) -> list[int]:
    return [verdict.step for verdict in decision.verdicts if verdict.stays]


def kept(keep: rk.Keep, found: Sequence[Held], *, pinned: Sequence[int] = ()) -> list[int]:
    names = {f"step_{step:09d}" for step in pinned}
    return stay(decide(keep, found, newest=found[-1].name, pinned=names))


TENS = [held(step) for step in range(10, 100, 10)]


# --------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (rk.Keep(last=1), [90]),
        (rk.Keep(last=3), [70, 80, 90]),
        (rk.Keep(last=100), list(range(10, 100, 10))),
        (rk.Keep(every=25), [30, 50, 80, 90]),
        (rk.Keep(every=10), list(range(10, 100, 10))),
        (rk.Keep(every=1000), [90]),
        (rk.Keep(last=2, every=40), [40, 80, 90]),
        (rk.Keep(best=2, metric="return"), [90]),
        (rk.Keep(budget_gb=1), list(range(10, 100, 10))),
    ],
)
def test_what_no_rule_keeps_goes(keep: rk.Keep, expected: list[int]) -> None:
    assert kept(keep, TENS) == expected


def test_the_rules_of_the_readme() -> None:
    keep = rk.Keep(last=3, best=2, metric="return", mode="max", every=100_000, budget_gb=20)
    found = [held(step, float(step % 70_000)) for step in range(10_000, 310_000, 10_000)]
    assert kept(keep, found) == [60_000, 100_000, 130_000, 200_000, 280_000, 290_000, 300_000]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1, 5, 3, 4], [20, 40]),
        ("min", [1, 5, 3, 4], [10, 30, 40]),
        ("max", [5, 5, 5, 5], [10, 20, 40]),
        ("max", [math.nan, 2, math.nan, 1], [20, 40]),
        ("min", [math.nan, -math.inf, 3, 4], [20, 30, 40]),
        ("max", [None, 2, "great", 1], [20, 40]),
        ("max", [True, False, None, None], [10, 20, 40]),
    ],
)
def test_the_best_stay_and_what_is_not_measured_is_not_best(
    mode: Any, values: list[Any], expected: list[int]
) -> None:
    found = [held(step, value) for step, value in zip((10, 20, 30, 40), values, strict=True)]
    assert kept(rk.Keep(best=2, metric="return", mode=mode), found) == expected
    assert kept(rk.Keep(best=2, metric="length", mode=mode), found) == [40]


def test_pinned_ones_stay_also_when_they_are_damaged() -> None:
    found = [held(10), held(20, is_damaged=True), held(30), held(40)]
    assert kept(rk.Keep(last=1), found, pinned=[20]) == [20, 40]


def test_damaged_ones_count_for_nothing() -> None:
    found = [
        held(10, 1.0),
        held(20, 9.0, is_damaged=True),
        held(30, 2.0, is_damaged=True),
        held(40),
    ]
    assert kept(rk.Keep(last=2), found) == [10, 40]
    assert kept(rk.Keep(best=1, metric="return"), found) == [10, 40]
    assert kept(rk.Keep(every=20), found) == [40]


def test_what_is_newer_than_the_newest_intact_one_stays() -> None:
    found = [held(10), held(20), held(30, is_damaged=True), held(40, is_damaged=True)]
    assert stay(decide(rk.Keep(last=1), found, newest="step_000000020")) == [20, 30, 40]


def test_nothing_goes_where_no_intact_one_is_known() -> None:
    found = [held(10, is_damaged=True), held(20, is_damaged=True)]
    for keep in (rk.Keep(last=1), rk.Keep(budget_gb=1e-9)):
        assert stay(decide(keep, found, newest=None)) == [10, 20]
    assert decide(rk.Keep(last=1), [], newest=None).verdicts == ()


def test_every_verdict_has_its_reasons() -> None:
    found = [held(10, 3.0), held(20), held(30), held(40, is_damaged=True), held(50, 1.0)]
    keep = rk.Keep(last=2, best=1, metric="return", every=10)
    decision = decide(keep, found, newest=found[-1].name, pinned={"step_000000020"})
    reasons = {verdict.step: ", ".join(verdict.reasons) for verdict in decision.verdicts}
    assert reasons == {
        10: "among the best by return: 3, the first from step 10",
        20: "pinned, the first from step 20",
        30: "among the last 2, the first from step 30",
        40: "damaged",
        50: "the newest, among the last 2, the first from step 50",
    }
    (reason,) = decide(rk.Keep(last=1), found, newest=found[-1].name).verdicts[0].reasons
    assert reason == "no rule keeps it"


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "found none of them"), ({"last": 0}, "last=0"), ({"best": 1}, "metric=None"),
     ({"metric": "return"}, "best=None"), ({"every": 2.5}, "every=2.5"),
     ({"budget_gb": 0}, "budget_gb=0"), ({"budget_gb": math.nan}, "budget_gb=nan"),
     ({"best": 1, "metric": "return", "mode": "most"}, "mode='most'")],
)  # fmt: skip
def test_what_is_no_policy_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(rk.UnsupportedError, match=said):
        rk.Keep(**options)


VALUES = st.one_of(st.none(), st.floats(), st.integers(-3, 3))
KEEPS = st.builds(
    rk.Keep,
    last=st.one_of(st.none(), st.integers(1, 4)),
    best=st.integers(1, 3),
    metric=st.just("return"),
    mode=st.sampled_from(["max", "min"]),
    every=st.one_of(st.none(), st.integers(1, 30)),
)


@hypothesis.given(KEEPS, st.lists(st.tuples(st.integers(1, 15), VALUES), min_size=1, max_size=30))
def test_deleting_after_every_save_keeps_what_deleting_once_at_the_end_does(
    keep: rk.Keep, saves: list[tuple[int, Any]]
) -> None:
    """So it does not matter how often a run was killed and resumed in between."""
    everything: list[Held] = []
    left: list[Held] = []
    for gap, value in saves:
        new = held((everything[-1].step if everything else 0) + gap, value)
        everything.append(new)
        left.append(new)
        staying = kept(keep, left)
        left = [item for item in left if item.step in staying]
    assert [item.step for item in left] == kept(keep, everything)


# --------------------------------------------------------------------------- the budget


def sized(step: int, *parts: tuple[str, int], value: object = None, links: int = 1) -> Held:
    parts_of = {(0, hash(name)): Inode(size * MB, links) for name, size in parts}
    return held(step, value, footprint=parts_of)


def test_above_the_budget_the_oldest_go_first() -> None:
    found = [sized(step, (f"file {step}", 400)) for step in (10, 20, 30, 40, 50)]
    decision = decide(rk.Keep(budget_gb=1), found, newest=found[-1].name)
    assert stay(decision) == [40, 50]
    assert decision.kept_bytes == 800 * MB
    assert decision.freed_bytes == 1200 * MB
    assert decision.verdicts[0].reasons == ("over the budget of 1.0 GB",)


def test_the_budget_is_above_milestones_and_the_last_but_not_the_best_and_pinned() -> None:
    values = {10: 9.0, 40: 1.0}
    found = [
        sized(step, (f"file {step}", 400), value=values.get(step)) for step in range(10, 80, 10)
    ]
    keep = rk.Keep(last=3, best=1, metric="return", every=20, budget_gb=1.3)
    decision = decide(keep, found, newest=found[-1].name, pinned={"step_000000030"})
    assert stay(decision) == [10, 30, 70]
    assert decision.excess_bytes == 0
    keep = rk.Keep(last=3, best=1, metric="return", every=20, budget_gb=0.5)
    decision = decide(keep, found, newest=found[-1].name, pinned={"step_000000030"})
    assert stay(decision) == [10, 30, 70]
    assert decision.excess_bytes == 700 * MB


def test_bytes_that_several_share_count_once() -> None:
    found = [
        sized(step, ("shared", 700), (f"own {step}", 100), links=1) for step in (10, 20, 30, 40)
    ]
    decision = decide(rk.Keep(budget_gb=1), found, newest=found[-1].name)
    assert stay(decision) == [20, 30, 40]
    assert decision.kept_bytes == 1000 * MB


def test_only_bytes_without_another_name_are_freed() -> None:
    shared = {(0, 1): Inode(700 * MB, 3), (0, 2): Inode(50 * MB, 2)}
    found = [
        held(step, footprint=shared | {(0, step): Inode(100 * MB, 1)}) for step in (10, 20, 30)
    ]
    decision = decide(rk.Keep(last=1), found, newest=found[-1].name)
    assert decision.freed_bytes == 250 * MB, "one has a third name in 30, the other is only theirs"
    elsewhere = [item for item in found if item.step != 30]
    decision = decide(rk.Keep(last=1), elsewhere, newest=elsewhere[-1].name)
    assert decision.freed_bytes == 100 * MB


SIZES = st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=1, max_size=12)


@hypothesis.given(KEEPS, SIZES, st.sets(st.integers(1, 12)), st.floats(0.001, 0.08))
def test_a_decision_is_final_and_protects_what_it_must(
    keep: rk.Keep, parts: list[set[int]], pinned: set[int], budget_gb: float
) -> None:
    keep = rk.Keep(**{**vars(keep), "budget_gb": budget_gb})
    found = [
        sized(step, *((str(part), 1 + part) for part in some), value=step % 5, links=99)
        for step, some in enumerate(parts, 1)
    ]
    names = {f"step_{step:09d}" for step in pinned}
    decision = decide(keep, found, newest=found[-1].name, pinned=names)
    left = [item for item in found if item.name not in decision.going]
    assert left[-1] is found[-1]
    assert not names & set(decision.going)
    best = retention._best(keep, found)
    assert not {item.name for item, _ in best} & set(decision.going)
    used = {key: inode.num_bytes for item in left for key, inode in item.footprint.items()}
    assert decision.kept_bytes == sum(used.values())
    assert decision.kept_bytes <= budget_gb * 1e9 or decision.excess_bytes > 0
    again = decide(keep, left, newest=left[-1].name, pinned=names)
    assert again.going == []


# --------------------------------------------------------------------------- on the disk


def usage(*paths: Path) -> int:
    """What `du` says, which counts every file once."""
    done = subprocess.run(
        ["du", "-sc", "--block-size=1", *paths], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1].split()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def train(path: Path, until: int, every: int = 10, **options: Any) -> Loop:
    with loop(path, every=every, **options) as made:
        made.run.resume()
        made.train(until)
        return made


def test_what_a_checkpoint_has_on_the_disk_is_what_du_says(path: Path) -> None:
    train(path, 10)
    directory = path / "step_000000010"
    (directory / "large").write_bytes(bytes(300_000))
    os.link(directory / "large", directory / "second name")
    (directory / "inside").mkdir()
    (directory / "inside" / "sparse").touch()
    os.truncate(directory / "inside" / "sparse", 10**9)
    found = retention.footprint(directory)
    assert sum(inode.num_bytes for inode in found.values()) == usage(directory)


def test_what_is_said_to_be_freed_and_kept_is_what_du_says(path: Path) -> None:
    train(path, 60)
    for step in (20, 30, 40):
        os.link(path / "step_000000010" / "policy.json", path / f"step_{step:09d}" / "linked")
    run = rk.Run(path)
    before = usage(path)
    told = run.prune(rk.Keep(last=2), dry_run=True)
    assert usage(path) == before
    assert run.steps == [10, 20, 30, 40, 50, 60]
    report = run.prune(rk.Keep(last=2))
    assert report.decision == told.decision
    assert run.steps == [50, 60]
    assert usage(path) == before - report.decision.freed_bytes
    rest = [path / f"step_{step:09d}" for step in (50, 60)]
    assert report.decision.kept_bytes == usage(*rest)


def test_a_run_keeps_what_its_policy_says(path: Path) -> None:
    train(path, 55, keep=rk.Keep(last=2))
    assert rk.Run(path).steps == [40, 50]
    assert [entry["step"] for entry in rk.Run(path).entries()] == [40, 50]
    assert rk.verify(path)
    assert not list(path.glob(".tmp-*"))


@pytest.mark.parametrize("background", [False, True])
def test_the_policy_goes_on_after_a_resume(path: Path, background: bool) -> None:
    keep = rk.Keep(last=1, best=1, metric="return", mode="min", every=50)
    for until in (25, 45, 75, 128):
        train(path, until, keep=keep, background=background)
    assert rk.Run(path).steps == [10, 50, 100, 120]


def test_a_checkpoint_is_deleted_only_after_a_newer_one_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = files.remove_directory
    removed = []

    def watched(directory: Path) -> None:
        newest = rk.Run(path).latest()
        assert newest.step > int(directory.name[5:])
        assert rk.verify(newest.path)
        removed.append(directory.name)
        remove(directory)

    monkeypatch.setattr(files, "remove_directory", watched)
    train(path, 35, keep=rk.Keep(last=1))
    assert removed == ["step_000000010", "step_000000020"]
    monkeypatch.setattr(files, "free_bytes", lambda path: 0)
    with pytest.raises(rk.NoSpaceError):
        train(path, 45, keep=rk.Keep(last=1))
    assert rk.Run(path).steps == [30]


def test_pinned_checkpoints_stay(path: Path) -> None:
    with loop(path, every=10, keep=rk.Keep(last=1)) as made:
        made.run.resume()
        made.train(10)
        made.run.pin(10)
        made.train(45)
    assert rk.Run(path).steps == [10, 40]
    rk.Run(path).unpin(10)
    train(path, 55, keep=rk.Keep(last=1))
    assert rk.Run(path).steps == [50]


def test_a_pin_that_comes_after_the_decision_counts(path: Path) -> None:
    train(path, 40)
    decision = rk.Run(path).prune(rk.Keep(last=1), dry_run=True).decision
    pins.pin(path / "step_000000020")
    retention.apply(path, decision)
    assert rk.Run(path).steps == [20, 40]


def test_damaged_checkpoints_that_were_passed_over_stay_until_they_are_replaced(path: Path) -> None:
    train(path, 40)
    damage(path / "step_000000030")
    damage(path / "step_000000040")
    with loop(path, every=5, keep=rk.Keep(last=2)) as made:
        made.run.resume()
        made.train(25)
        assert made.run.steps == [20, 25, 30, 40]
        made.train(36)
    assert rk.Run(path).steps == [30, 35, 40]
    assert not rk.verify(path / "step_000000040")
    assert rk.verify(path / "step_000000030")


def test_pruning_does_not_count_on_a_damaged_checkpoint(path: Path) -> None:
    train(path, 50)
    damage(path / "step_000000050")
    (path / "step_000000040" / "checkpoint.json").unlink()
    report = rk.Run(path).prune(rk.Keep(last=1))
    assert rk.Run(path).steps == [30, 40, 50]
    assert "newer than the newest intact one" in repr(report)
    for step in (30, 50):
        shutil.rmtree(path / f"step_{step:09d}")
    report = rk.Run(path).prune(rk.Keep(last=1))
    assert rk.Run(path).steps == [40]
    assert "no intact checkpoint is known" in repr(report)


def test_what_cannot_be_judged_stops_the_pruning(path: Path) -> None:
    train(path, 30)
    record = msgspec.structs.replace(manifest.read(path / "step_000000030"), version=9)
    (path / "step_000000030" / manifest.NAME).write_bytes(manifest.encode(record))
    with pytest.raises(rk.VersionError):
        rk.Run(path).prune(rk.Keep(last=1))
    assert rk.Run(path).steps == [10, 20, 30]


def test_pruning_what_is_no_run_says_so(path: Path) -> None:
    with pytest.raises(rk.NotFoundError, match="found none"):
        rk.Run(path).prune(rk.Keep(last=1))


def test_a_run_may_be_pruned_while_it_is_trained(path: Path) -> None:
    with loop(path, every=10) as made:
        made.run.resume()
        made.train(30)
        rk.Run(path).prune(rk.Keep(last=1))
        made.train(50)
    assert rk.Run(path).steps == [30, 40, 50]
    assert rk.verify(path)


def test_a_checkpoint_that_cannot_be_deleted_is_an_error_and_all_are_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, destination: Path) -> None:
        raise PermissionError(13, "not yours", str(source))

    with loop(path, every=10, keep=rk.Keep(last=1)) as made:
        made.run.resume()
        made.train(15)
        monkeypatch.setattr(os, "rename", refuse)
        with pytest.raises(PermissionError, match="not yours"):
            made.train(25)
        monkeypatch.undo()
        assert made.run.steps == [10, 20]
        made.train(35)
    assert rk.Run(path).steps == [30]
    assert rk.verify(path)


def test_a_link_to_a_checkpoint_elsewhere_goes_and_what_it_leads_to_stays(
    path: Path, tmp_path: Path
) -> None:
    train(path, 20)
    moved = shutil.move(path / "step_000000010", tmp_path / "moved")
    (path / "step_000000010").symlink_to(moved)
    assert rk.Run(path).steps == [10, 20]
    link = (path / "step_000000010").lstat()
    report = rk.Run(path).prune(rk.Keep(last=1))
    assert rk.Run(path).steps == [20]
    assert rk.verify(moved)
    assert report.decision.freed_bytes == link.st_blocks * 512
    assert not list(path.glob(".tmp-*"))


def test_a_budget_that_cannot_be_kept_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(path, 20, keep=rk.Keep(budget_gb=1e-6))
    assert rk.Run(path).steps == [20]
    assert "more than budget_gb=1e-06" in caplog.text
    caplog.clear()
    train(path, 40, keep=rk.Keep(budget_gb=1))
    assert rk.Run(path).steps == [20, 30, 40]
    assert not caplog.text


def test_a_report_reads_and_serialises(path: Path) -> None:
    train(path, 30)
    report = rk.Run(path).prune(rk.Keep(last=1), dry_run=True)
    lines = repr(report).splitlines()
    assert lines[0] == f"Run {path}"
    assert lines[1].split() == ["10", "goes", "no", "rule", "keeps", "it"]
    assert lines[3].split()[:4] == ["30", "stays", "the", "newest,"]
    assert lines[4].startswith("2 checkpoints would be deleted, ")
    told = report.to_dict()
    assert told["dry_run"] is True
    assert [item["stays"] for item in told["checkpoints"]] == [False, False, True]
    assert told["freed_bytes"] > 0
    assert "2 checkpoints deleted, " in repr(rk.Run(path).prune(rk.Keep(last=1)))

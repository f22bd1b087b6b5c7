"""Trails: a digest tells any change of a part, costs little, perturbs nothing, survives a kill.

What a trail costs, measured: python benchmarks/trail.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rekindle as rk
from rekindle import trail
from rekindle.trail import Pace, Place, Segment, Settings, Trail, digests, parting

NAMES = ("policy", "optimizer", "rng", "progress")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (trail.TRAIL, trail.ROOT, trail.EVERY, trail.IGNORE):
        monkeypatch.delenv(name, raising=False)


def components() -> dict[str, Any]:
    torch.manual_seed(0)
    policy = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    policy(torch.ones(4)).sum().backward()
    optimizer.step()
    return dict(zip(NAMES, (policy, optimizer, rk.GlobalRNG(), rk.Progress()), strict=True))


def add_to_a_weight(parts: dict[str, Any]) -> None:
    with torch.no_grad():
        parts["policy"].weight[0, 0] += 1e-6


def add_to_a_moment(parts: dict[str, Any]) -> None:
    next(iter(parts["optimizer"].state.values()))["exp_avg_sq"][0, 0] += 1e-9


def draw(parts: dict[str, Any]) -> None:
    np.random.rand()


def count(parts: dict[str, Any]) -> None:
    parts["progress"].updates += 1


@pytest.mark.parametrize(
    ("change", "component"),
    [*zip((add_to_a_weight, add_to_a_moment, draw, count), NAMES, strict=True)],
)
def test_the_least_change_of_a_component_shows_in_its_digest_alone(
    change: Any, component: str
) -> None:
    parts = components()
    before = digests(parts, parts)
    assert digests(parts, parts) == before
    change(parts)
    after = digests(parts, parts)
    assert [name for name in NAMES if before[name] != after[name]] == [component]


def test_a_digest_is_the_same_whatever_is_looked_at_beside_it() -> None:
    parts = components()
    light = ["rng", "progress"]
    together = digests(parts, light)
    assert together == {name: digests(parts, [name])[name] for name in light}


def test_a_restored_tensor_without_its_history_has_the_same_digest() -> None:
    weight = torch.ones(3, requires_grad=True)
    with_history, without = weight * 2, (weight * 2).detach()
    one, two = (digests({"x": [tensor]}, ["x"]) for tensor in (with_history, without))
    assert one == two
    assert digests({"x": [without * 2]}, ["x"]) != one


def test_values_that_may_differ_are_left_out_and_nothing_beside_them() -> None:
    def of(**state: Any) -> str:
        return digests({"part": state}, ["part"], ignore=["began", "part/log.*.t"])["part"]

    base = of(began=1.0, kept=1.0, log=[{"t": 1.0, "r": 2.0}])
    assert of(began=2.0, kept=1.0, log=[{"t": 3.0, "r": 2.0}]) == base
    assert of(began=np.arange(3), kept=1.0, log=[{"t": 1.0, "r": 2.0}]) == base
    assert of(began=1.0, kept=2.0, log=[{"t": 1.0, "r": 2.0}]) != base
    assert of(began=1.0, kept=1.0, log=[{"t": 1.0, "r": 3.0}]) != base
    assert of(began=1.0, kept=1.0, log=[]) != base


@pytest.mark.parametrize("dtype", ["f4", "c8", ">i8", "?", "M8[s]", "U3"])
def test_arrays_of_every_kind_and_layout_are_told_apart(dtype: str) -> None:
    array = np.arange(12).astype("i4").astype(dtype).reshape(3, 4)
    other = array.copy()
    other[1, 2] = other[0, 0]
    seen = {
        digests({"a": {"x": value}}, ["a"])["a"]
        for value in (array, other, array.T, array[::2], array[:0], array[0, 0, ...])
    }
    assert len(seen) == 6


def loop(path: Path, *, is_on: bool, total: int = 40) -> rk.Checkpoint:
    parts = components()
    run = rk.Run(path, every=10, trail=is_on)
    run.track(**parts)
    run.resume()
    while parts["progress"].step < total:
        run.checkpoint()
        parts["policy"].zero_grad()
        (parts["policy"](torch.rand(4)) ** 2).sum().backward()
        parts["optimizer"].step()
        parts["progress"].step += 1
    saved = run.save()
    run.close()
    return saved


def test_a_trail_does_not_perturb_the_run(tmp_path: Path) -> None:
    without = loop(tmp_path / "without", is_on=False)
    with_trail = loop(tmp_path / "with", is_on=True)
    assert not (tmp_path / "without" / trail.NAME).exists()
    (segment,) = trail.read(tmp_path / "with")
    assert segment.resumed_from is None
    compared = without.compare(with_trail)
    assert sum(found.num_values for found in compared) > 1000
    assert all(found.is_identical for found in compared)


def test_a_trail_does_not_perturb_an_sb3_run(tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    from rekindle.sb3 import Checkpoint

    ends = []
    for settings in (None, "sparse", "dense"):
        run = rk.Run(tmp_path / str(settings), every=64, trail=settings == "sparse")
        if settings == "dense":
            run._trail = Trail(run.path, Settings(dense_from=0))
        model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, n_epochs=2, seed=0, device="cpu")
        model.learn(192, callback=Checkpoint(run, verbose=0))
        ends.append(run.latest())
    for end in ends[1:]:
        found = ends[0].compare(end, ignore=trail.WALL_CLOCK)
        assert [difference for item in found for difference in item.differences] == []
    (dense,) = trail.read(tmp_path / "dense")
    assert {place.step for place in dense.records if not place.is_loop} == set(range(1, 193))
    assert {place.step for place in dense.records if place.is_loop} == {0, 64, 128, 192}
    (sparse,) = trail.read(tmp_path / "sparse")
    assert parting(dense, sparse) is None


def test_every_saved_step_is_looked_at_whole_and_so_is_where_a_run_goes_on(tmp_path: Path) -> None:
    loop(tmp_path, is_on=True)
    loop(tmp_path, is_on=True, total=60)
    first, second = trail.read(tmp_path)
    assert second.resumed_from == 40
    for step in (0, 10, 20, 30, 40):
        assert set(first.records[Place(step, True)]) == set(NAMES), step
    assert second.records[Place(40, True)] == first.records[Place(40, True)]


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    loop(tmp_path, is_on=True)
    file = tmp_path / trail.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:25])
    kept = len(trail.read(tmp_path)[0].records)
    assert kept == len(lines) - 2
    loop(tmp_path, is_on=True, total=50)
    again = trail.read(tmp_path)
    assert [len(again), len(again[0].records)] == [2, kept]
    assert trail.last_step(tmp_path) == 50


def test_a_record_is_readable_as_the_docs_say(tmp_path: Path) -> None:
    loop(tmp_path, is_on=True)
    head, first, *_ = (tmp_path / trail.NAME).read_text().splitlines()
    assert head == '{"trail":1,"resumed_from":null}'
    assert first.startswith('{"step":0,"at":"loop","parts":{"rng":"')


def segment(*records: tuple[int, dict[str, str]]) -> Segment:
    return Segment(None, {Place(step, True): {**parts} for step, parts in records})


def test_two_trails_part_where_a_common_record_first_differs() -> None:
    one = segment((0, {"a": "0", "b": "0"}), (3, {"a": "1"}), (4, {"a": "2", "b": "1"}))
    two = segment((0, {"a": "0", "b": "0"}), (2, {"a": "9"}), (4, {"a": "2", "b": "8"}))
    found = parting(one, two)
    assert found is not None
    assert (found.place.step, found.components) == (4, ("b",))
    assert found.last_equal == Place(0, True)
    assert trail.first_places(one, two) == {"b": Place(4, True)}
    assert parting(one, one) is None


def test_the_pace_follows_the_cost_in_powers_of_two() -> None:
    """Digests of 1 ms in steps of 1 ms, at most 2 % of the time: one in 50 steps."""
    pace = Pace(0.02)
    now, spent, before = 0.0, 0.0, None
    for step in range(20_000):
        if pace.is_due(before, step):
            pace.spend(1e-3, step, now)
            now += 1e-3
            spent += 1e-3
        now += 1e-3
        before = step
    assert pace.stride in (32, 64, 128)
    assert 0.005 < spent / now < 0.03


def test_paces_of_two_runs_have_steps_in_common_after_any_resume() -> None:
    def steps(stride: int, start: int) -> set[int]:
        pace = Pace(1.0, stride)
        pairs = ((now - 3 if now > start else None, now) for now in range(start, 3000, 3))
        return {now for before, now in pairs if pace.is_due(before, now)}

    assert steps(64, 0) < steps(8, 0)
    assert {step for step in steps(64, 0) if step > 900} == steps(64, 900) - {900}


def test_a_file_grows_with_the_logarithm_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "_LEVEL", 16)
    written = Trail(tmp_path, Settings(share=1e9))
    written.begin(None)
    parts = {"progress": rk.Progress()}
    for step in range(5000):
        written.record(parts, step)
    written.close()
    assert 100 < len(trail.read(tmp_path)[0].records) < 16 * 12


def test_the_environment_redirects_runs_and_switches_trails_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(trail.ROOT, str(tmp_path / "root"))
    monkeypatch.setenv(trail.TRAIL, "1")
    monkeypatch.setenv(trail.EVERY, "5")
    run = rk.Run("runs/x", every=10_000)
    assert run.path == tmp_path / "root" / "runs" / "x"
    assert rk.Run(run.path).path == run.path
    assert run.every == 5
    assert rk.Run("../elsewhere").path == tmp_path / "root" / "up" / "elsewhere"
    loop(Path("runs/x"), is_on=False)
    assert trail.read(run.path)[0].records
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", None),
        ("0", None),
        ("1", Settings()),
        ("dense", Settings(dense_from=0)),
        ("dense:700", Settings(dense_from=700)),
    ],
)
def test_the_variable_says_how_dense_a_trail_is(
    text: str, settings: Settings | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trail.TRAIL, text)
    assert trail.asked_for() == settings


@pytest.mark.parametrize(
    ("name", "text"),
    [(trail.TRAIL, "yes"), (trail.TRAIL, "dense:x"), (trail.EVERY, "0"), (trail.EVERY, "often")],
)
def test_a_variable_without_meaning_is_refused(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(rk.UnsupportedError, match=name):
        rk.Run(tmp_path)

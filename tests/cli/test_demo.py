"""The demo for real, with few steps; and that it can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Result, rekindle, shell

import rekindle as rk
from rekindle import manifest
from rekindle.cli.console import open_console
from rekindle.cli.demo import Display, Killed, Plan, Story, conclude, interrupt
from rekindle.cli.proof import prove
from rekindle.manifest import FileEntry

pytest.importorskip("stable_baselines3")

STEPS = 1500
EVERY = 300


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "both runs"


@pytest.fixture(scope="module")
def demo(directory: Path) -> Result:
    """One real demo: three trainings in processes of their own, one of them killed."""
    size = ["--algo", "A2C", "--steps", STEPS, "--every", EVERY]
    return shell("demo", *size, "--kill-at", 800, "--run", directory, "--json")


@pytest.fixture
def story(demo: Result) -> Story:
    told = demo.json
    return Story(
        Plan("A2C", "CartPole-v1", STEPS, EVERY, 0, told["directory"]),
        Killed("killed", told["killed"]["step"], None, told["killed"]["resumed_from"], None),
        rk.open(told["uninterrupted"]),
        rk.open(told["resumed"]),
        told["seconds"],
    )


def test_a_killed_and_resumed_training_is_identical(demo: Result, directory: Path) -> None:
    assert demo.status == 0, demo.err
    told = demo.json
    assert told["identical"] is True
    assert told["first_difference"] is None
    assert told["values"] > 10_000
    found = {item["component"]: item for item in told["components"]}
    assert {"policy", "optimizer", "env", "rng", "agent", "callbacks", "progress"} <= set(found)
    assert all(item["largest_difference"] == 0 for item in told["components"])
    assert all(item["values"] > 0 for item in told["components"])
    assert Path(told["uninterrupted"]).parent == directory / "uninterrupted"
    assert Path(told["resumed"]).parent == directory / "killed"


def test_it_was_really_killed_and_resumed(demo: Result) -> None:
    killed = demo.json["killed"]
    assert killed["signal"] == "SIGKILL"
    assert 800 <= killed["step"] < STEPS
    assert killed["resumed_from"] >= EVERY
    assert killed["resumed_from"] % EVERY == 0
    assert killed["steps_lost"] == killed["step"] - killed["resumed_from"]
    assert f"SIGKILL at step {killed['step']:,}" in demo.err
    assert f"resumed from step {killed['resumed_from']:,}" in demo.err


def test_the_learning_curve_survives_the_kill(demo: Result) -> None:
    curves = demo.json["curves"]
    assert len(curves["uninterrupted"]) > 50
    assert curves["uninterrupted"] == curves["resumed"]
    assert curves["resumed"][0][0] < demo.json["killed"]["resumed_from"]


def test_wall_clock_values_are_counted_and_not_compared(demo: Result) -> None:
    assert demo.json["wall_clock_values_not_compared"] > 0


def test_both_runs_are_kept_and_intact(demo: Result, directory: Path) -> None:
    assert demo.status == 0
    for name in ("uninterrupted", "killed"):
        assert rk.verify(directory / name).ok
        assert rk.Run(directory / name).steps == list(range(EVERY, STEPS + 1, EVERY))


def test_the_report_ends_with_identical(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    proof = prove(story.uninterrupted, story.resumed)
    assert conclude(story, proof, as_json=False) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == "identical"
    text = "\n".join(lines)
    for said in ("largest difference", "weights", "moments", "learning curve", "not compared",
                 "SIGKILL landed at step", "steps were lost", story.plan.directory):  # fmt: skip
        assert said in text


def flip_one_bit(checkpoint: Path, name: str) -> None:
    """Change the last bit of a file, and its digest, so that the checkpoint is intact but other."""
    content = bytearray((checkpoint / name).read_bytes())
    content[-4] ^= 1
    (checkpoint / name).write_bytes(content)
    record = manifest.read(checkpoint)
    digest = FileEntry(bytes=len(content), blake3=digest_of(bytes(content)))
    record.files[name] = digest
    (checkpoint / manifest.NAME).write_bytes(manifest.encode(record))


def digest_of(content: bytes) -> str:
    import blake3

    return blake3.blake3(content).hexdigest()


def changed(story: Story, tmp_path: Path, *names: str) -> Story:
    copy = shutil.copytree(story.resumed.path, tmp_path / "changed")
    for name in names:
        flip_one_bit(copy, name)
    assert rk.verify(copy).ok
    return Story(story.plan, story.killed, story.uninterrupted, rk.open(copy), 1.0)


def test_one_other_bit_is_found_and_its_component_named(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(story, tmp_path, "policy.safetensors")
    proof = prove(other.uninterrupted, other.resumed)
    assert conclude(other, proof, as_json=False) == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("differs: 1 place, the first in policy/")
    assert "1 of " in last
    assert conclude(other, proof, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["identical"] is False
    assert told["first_difference"]["key"].startswith("policy/")
    wrong = [item for item in told["components"] if item["num_differences"]]
    assert [item["component"] for item in wrong] == ["policy"]
    assert 0 < wrong[0]["largest_difference"] < 1e-3


def test_the_first_component_that_differs_is_named(story: Story, tmp_path: Path) -> None:
    other = changed(story, tmp_path, "rng.safetensors", "optimizer.safetensors")
    proof = prove(other.uninterrupted, other.resumed)
    assert proof.first is not None
    assert proof.first.component == "optimizer"


def test_other_steps_differ(story: Story) -> None:
    earlier = rk.open(story.resumed.path.parent / f"step_{EVERY:09d}")
    wrong = {found.component for found in prove(story.uninterrupted, earlier).comparisons
             if not found.is_identical}  # fmt: skip
    assert wrong == {"policy", "optimizer", "env", "rng", "agent", "callbacks", "progress"}


def test_a_missing_component_differs(story: Story, tmp_path: Path) -> None:
    lacking = rk.save(tmp_path / "x", progress=story.resumed["progress"])
    found = {item.component: item for item in story.uninterrupted.compare(lacking)}
    assert str(found["policy"].differences[0]) == "policy: expected a component, found nothing"


def test_nothing_to_compare_is_not_identical(tmp_path: Path) -> None:
    empty = [rk.save(tmp_path / name, progress={}) for name in "ab"]
    assert not prove(*empty).is_identical


def test_a_directory_that_holds_something_is_refused_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = rekindle(capsys, "demo", "--run", tmp_path)
    assert result.status == rk.AlreadyExistsError.exit_code
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_an_unknown_algorithm_is_told_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, "demo", "--algo", "PP0", "--run", tmp_path / "x", "--json")
    assert result.status == rk.UnsupportedError.exit_code
    told: dict[str, Any] = json.loads(result.err.partition("{")[1] + result.err.partition("{")[2])
    assert "Did you mean PPO?" in told["message"]


def test_a_training_too_short_to_be_killed_is_an_error(tmp_path: Path) -> None:
    # A rollout of PPO is longer than the whole training, so its first checkpoint is its last.
    plan = Plan("PPO", "CartPole-v1", 100, 50, 0, str(tmp_path))
    with pytest.raises(rk.RekindleError, match="Ask for more --steps"):
        interrupt(plan, 60, Display(open_console(), plan.steps))

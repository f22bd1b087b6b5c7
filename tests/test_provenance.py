"""What a run depends on beside its state is recorded, compared, and refused when it differs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import rekindle as rk
from rekindle import provenance


def run_with(path: Path, **options: object) -> rk.Run:
    run = rk.Run(path, every=1, **options)  # type: ignore[arg-type]
    run.track(numbers={"a": 1}, progress=rk.Progress())
    return run


def saved(path: Path) -> None:
    with run_with(path) as run:
        run.resume()
        run.save(step=1)


def test_a_checkpoint_records_versions_threads_and_capability(tmp_path: Path) -> None:
    saved(tmp_path)
    found = rk.open(tmp_path).manifest.environment
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert {"rekindle", "python", "platform", "numpy", "cpu_capability"} <= found.keys()


def test_another_thread_count_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(rk.MismatchError) as caught, run_with(tmp_path) as run:
            run.resume()
        assert [item.key for item in caught.value.differences] == ["threads"]
        assert "allow=['threads']" in str(caught.value)
    finally:
        torch.set_num_threads(threads)


def test_what_differs_can_be_accepted_and_is_said(tmp_path: Path) -> None:
    saved(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with run_with(tmp_path, allow=["threads"]) as run:
            report = run.resume()
    finally:
        torch.set_num_threads(threads)
    assert report is not None
    assert [item.key for item in report.accepted] == ["threads"]
    assert "threads: expected" in str(report)


@pytest.mark.parametrize(
    ("stored", "found", "keys"),
    [
        ({"torch": "2.12.0"}, {"torch": "2.13.0"}, ["torch"]),
        ({"torch": "2.12.0"}, {}, []),
        ({"python": "3.11.7"}, {"python": "3.11.9"}, []),
        ({"python": "3.11.7"}, {"python": "3.12.1"}, ["python"]),
        ({"variables": {"MKL_CBWR": "AVX2"}}, {}, ["MKL_CBWR"]),
        ({"git": "a", "rekindle": "1"}, {"git": "b", "rekindle": "2"}, []),
        (
            {"numpy": "2.0", "cpu_capability": "AVX2", "deterministic_algorithms": True},
            {"numpy": "2.1", "cpu_capability": "AVX512", "deterministic_algorithms": False},
            ["numpy", "cpu_capability", "deterministic_algorithms"],
        ),
    ],
)
def test_only_what_can_change_a_result_counts(
    stored: dict[str, object], found: dict[str, object], keys: list[str]
) -> None:
    assert [item.key for item in provenance.differences(stored, found)] == keys


def test_the_commit_is_read_from_gits_own_files(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "inside").mkdir()
    assert provenance.git_commit.__wrapped__(tmp_path / "inside") is None
    git("commit", "-q", "--allow-empty", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert provenance.git_commit.__wrapped__(tmp_path / "inside") == head
    git("pack-refs", "--all")
    assert provenance.git_commit.__wrapped__(tmp_path) == head
    git("checkout", "-q", "--detach")
    assert provenance.git_commit.__wrapped__(tmp_path) == head

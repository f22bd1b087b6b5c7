"""Background commits: a consistent snapshot, one at a time, and no failure goes unseen."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.held_commits import held

import rekindle as rk
from rekindle import files, provenance, writer


def commit_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "rekindle-commit"}


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Commits that wait until they are let go."""
    gate = held(monkeypatch)
    yield gate
    gate.set()


def started(path: Path) -> tuple[rk.Run, dict[str, np.ndarray], rk.Progress]:
    weights = {"a": np.zeros(1000), "b": np.arange(12).reshape(3, 4).T}
    progress = rk.Progress()
    run = rk.Run(path, every=1, background=True)
    run.track(policy=weights, progress=progress)
    run.resume()
    return run, weights, progress


def test_what_training_changes_after_the_call_is_not_in_the_checkpoint(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    run, weights, progress = started(tmp_path / "run")
    progress.step = 1
    assert run.checkpoint()
    expected = weights["b"].copy()
    weights["a"] += 5
    weights["b"] *= -1
    progress.step = 77
    assert rk.Run(tmp_path / "run").steps == []
    slow_disk.set()
    run.close()
    loaded = rk.load(tmp_path / "run")
    assert not loaded["policy"]["a"].any()
    np.testing.assert_array_equal(loaded["policy"]["b"], expected)
    assert loaded["progress"]["step"] == 1


def test_the_next_save_waits_for_the_one_under_way(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    run, weights, progress = started(tmp_path / "run")
    threading.Timer(0.2, slow_disk.set).start()
    for step in (1, 2, 3):
        progress.step = step
        weights["a"][:] = step
        run.checkpoint()
    run.close()
    for checkpoint in rk.Run(tmp_path / "run"):
        assert checkpoint.load()["policy"]["a"][0] == checkpoint.step
    assert rk.Run(tmp_path / "run").steps == [1, 2, 3]
    assert rk.verify(tmp_path / "run")


@pytest.mark.parametrize("call", ["checkpoint", "save", "wait", "close"])
def test_a_commit_that_failed_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run, _, progress = started(tmp_path / "run")

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "commit", full)
        progress.step = 1
        run.checkpoint()
        run._commits._state.idle.wait()
    progress.step = 2
    with pytest.raises(OSError, match="No space left"):
        getattr(run, call)()
    run.close()


def test_training_goes_on_after_a_failed_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, progress = started(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(writer._Files, "write", lambda *_: 1 / 0)
        progress.step = 1
        run.checkpoint()
        with pytest.raises(ZeroDivisionError):
            run.wait()
    progress.step = 2
    run.checkpoint()
    run.close()
    assert rk.Run(tmp_path / "run").steps == [2]
    assert [path.name for path in (tmp_path / "run").glob(".tmp-*")] == []


def test_the_threads_end_with_their_runs(tmp_path: Path) -> None:
    before = commit_threads()
    run, _, progress = started(tmp_path / "closed")
    progress.step = 1
    run.checkpoint()
    assert len(commit_threads() - before) == 1
    run.close()
    dropped, _, progress = started(tmp_path / "dropped")
    progress.step = 1
    dropped.checkpoint()
    del dropped
    deadline = time.monotonic() + 5
    while commit_threads() - before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert commit_threads() - before == set()
    assert rk.Run(tmp_path / "dropped").steps == [1]


SCRIPT = """
import sys, time, numpy as np, rekindle as rk
from rekindle import files, provenance, writer
commit = writer.commit
def slow(*a, **k):
    time.sleep(0.3)
    if sys.argv[2] == "fail":
        raise OSError("the disk is gone")
    return commit(*a, **k)
writer.commit = slow
run = rk.Run(sys.argv[1], every=1, background=True)
progress = rk.Progress()
run.track(policy={"a": np.ones(10)}, progress=progress)
run.resume()
progress.step = 1
run.checkpoint()
"""


@pytest.mark.parametrize("ending", ["well", "fail"])
def test_the_interpreter_does_not_end_before_a_commit_does(tmp_path: Path, ending: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), ending],
        capture_output=True,
        text=True,
        check=False,
    )
    if ending == "well":
        assert done.stderr == ""
        assert rk.Run(tmp_path / "run").steps == [1]
        assert rk.verify(tmp_path / "run")
    else:
        assert "the disk is gone" in done.stderr


def test_the_staging_memory_is_used_again(tmp_path: Path) -> None:
    run, _, progress = started(tmp_path / "run")
    places = set()
    for step in (1, 2, 3):
        progress.step = step
        run.checkpoint()
        run.wait()
        places.add(run._commits._staging._memory.ctypes.data)
    run.close()
    assert len(places) == 1


def test_an_array_file_that_did_not_change_is_linked(tmp_path: Path) -> None:
    run, weights, progress = started(tmp_path / "run")
    for step in (1, 2, 3):
        progress.step = step
        if step == 3:
            weights["a"][-1] = 9  # not in the print, which is of the first values
        run.checkpoint()
        run.wait()
    run.close()
    nodes = [(c.path / "policy.safetensors").stat().st_ino for c in rk.Run(tmp_path / "run")]
    assert nodes[0] == nodes[1] != nodes[2]
    assert rk.load(tmp_path / "run")["policy"]["a"][-1] == 9


def test_a_save_that_is_due_while_another_is_written_can_be_put_off(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    weights, progress = {"a": np.zeros(1000)}, rk.Progress()
    run = rk.Run(tmp_path / "run", every=1, background=True, busy="skip")
    run.track(policy=weights, progress=progress)
    run.resume()
    saved = []
    for step in range(1, 6):
        progress.step = step
        if step == 4:
            slow_disk.set()
            run.wait()
        saved.append(run.checkpoint())
        run.wait() if step > 3 else None
    run.close()
    assert saved == [True, False, False, True, True]
    assert run.steps == [1, 4, 5]


def test_another_word_for_a_busy_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match="expected 'wait' or 'skip'"):
        rk.Run(tmp_path / "run", busy="drop")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("num_threads", "gives_way"), [(1, True), (2, False), (None, False)])
def test_workers_give_way_where_the_training_leaves_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int | None, gives_way: bool
) -> None:
    told = {} if num_threads is None else {"threads": num_threads}
    commit, found = writer.commit, []

    def watched(*arguments: Any, **options: Any) -> Any:
        found.append(files._WAY.is_given)
        return commit(*arguments, **options)

    monkeypatch.setattr(files, "num_processors", lambda: 2)
    monkeypatch.setattr(provenance, "environment", lambda: told)
    monkeypatch.setattr(writer, "commit", watched)
    run, _, progress = started(tmp_path / "run")
    with run:
        progress.step = 1
        assert run.checkpoint()
        run.wait()
        progress.step = 2
        run.save()
    assert found == [gives_way, False], "in the background, and in the caller's thread"

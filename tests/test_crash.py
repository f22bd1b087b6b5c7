"""A save that is cut short, at every point where it changes the disk, harms nothing."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import interrupted, small_disk

import rekindle as rk
from rekindle import (
    archive,
    checkpoint,
    description,
    entries,
    extents,
    files,
    lock,
    manifest,
    packing,
    pins,
    places,
    retention,
    run,
)
from rekindle.codecs import arrays

PROGRAM = Path(interrupted.__file__)
MOST_POINTS = 400
PLACES = pytest.mark.parametrize("name", ["checkpoint", "checkpoint.zip"])
"""A directory, and one file."""


@pytest.fixture(scope="module")
def order() -> Iterator[Callable[..., dict[str, Any]]]:
    """Has a child of a fresh process save, and interrupts it there."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def give(**content: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps(content) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield give
    process.stdin.close()
    process.stdout.close()
    assert process.wait(10) == 0


def was_killed(answer: dict[str, Any]) -> bool:
    return "status" in answer and os.WTERMSIG(answer["status"]) == signal.SIGKILL


def every_point(
    order: Callable[..., dict[str, Any]], **content: Any
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Interrupt a save at its first point, its second, ... until one runs through unhindered."""
    for point in range(1, MOST_POINTS):
        answer = order(point=point, value=point + 1, **content)
        if answer.get("error") is None and not was_killed(answer):
            assert "calls" in answer, "the child failed; its traceback is above"
            assert len(answer["calls"]) == point - 1
            return
        yield point, answer
    raise AssertionError("a save has no end of write points")


def assert_holds(state: dict[str, Any], value: int) -> None:
    expected = interrupted.state(value)
    assert np.array_equal(state["policy"]["weights"], expected["policy"]["weights"])
    assert np.array_equal(state["optimizer"]["moments"], expected["optimizer"]["moments"])
    assert state["progress"]["step"] == value


def leavings(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob(".tmp-*"))


def begin(path: Path) -> None:
    with rk.Run(path, configuration={"seed": 3}) as run:
        run.track(**interrupted.state(1))
        run.resume()
        run.save()


def resume(path: Path) -> rk.RestoreReport | None:
    """Resume a run as the next start would, and hold what came back against what was saved."""
    live = interrupted.state(0)
    with rk.Run(path, configuration={"seed": 3}) as run:
        run.track(**live)
        report = run.resume()
    if report is not None:
        live["progress"] = vars(live["progress"])
        assert_holds(live, report.step)
    return report


def test_a_save_has_the_write_points_that_these_tests_interrupt(tmp_path, order):
    unreachable = {"point": MOST_POINTS, "how": "kill", "path": str(tmp_path / "run")}
    first = order(what="save_in_run", value=1, **unreachable)["calls"]
    second = order(what="save_in_run", value=2, **unreachable)["calls"]

    assert {"open", "mkdir", "write", "half a pwrite", "fsync", "replace", "renameat2"} <= {*first}
    assert {"link", "ftruncate"} <= {*second}
    assert second.count("fsync") >= 6, "four new files, their directory, and the one above it"


def test_no_call_that_could_change_the_disk_is_missed():
    harmless = {"close", "environ", "fsencode", "fspath", "fstat", "geteuid", "getpid", "path",
                "pread", "preadv", "strerror", "uname", "urandom", "readlink", "stat", "statvfs",
                "lstat", "walk", "kill", "register_at_fork", "listdir", "scandir",
                "setpriority", "sched_getaffinity", "cpu_count"}  # fmt: skip
    modules = (
        files,
        extents,
        archive,
        places,
        arrays,
        manifest,
        checkpoint,
        packing,
        run,
        retention,
    )
    for module in (*modules, entries, description, pins, lock):
        tree = ast.parse(inspect.getsource(module))
        calls = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "os"
        }
        assert calls <= harmless | {*interrupted.CALLS}


def test_a_run_survives_a_kill_at_every_write_point(tmp_path, order):
    path = tmp_path / "run"
    begin(path)
    newest, num_swept = 1, 0
    for point, _ in every_point(order, what="save_in_run", how="kill", path=str(path)):
        num_swept += bool(leavings(path))
        report = resume(path)
        assert report is not None
        assert report.skipped == ()
        assert report.step in (newest, point + 1)
        newest = report.step
        assert leavings(path) == []
        assert [entry["step"] for entry in rk.Run(path).entries()] == rk.Run(path).steps
    assert num_swept > 20
    assert newest > 20, "a kill after the commit leaves the new checkpoint"
    assert rk.verify(path)


def test_a_run_that_deletes_survives_a_kill_at_every_write_point(tmp_path, order):
    path = tmp_path / "run"
    begin(path)
    found = {"old": 0, "both": 0, "half deleted": 0}
    for point, _ in every_point(order, what="save_and_keep_one", how="kill", path=str(path)):
        assert rk.verify(path), "no reader sees half of what is deleted"
        steps = rk.Run(path).steps
        assert steps in ([1], [1, point + 1], [point + 1]), "the newest is always there"
        is_deleting = any("step_000000001-" in name for name in leavings(path))
        found["half deleted" if is_deleting else "both" if len(steps) > 1 else "old"] += 1
        report = resume(path)
        assert report is not None
        assert (report.step, report.skipped) == (steps[-1], ())
        assert leavings(path) == []
        shutil.rmtree(path)
        begin(path)
    assert min(found.values()) > 5, found


def test_the_first_save_of_a_run_may_be_killed_at_every_write_point(tmp_path, order):
    outcomes = []
    for point, _ in every_point(order, what="save_in_run", how="kill", path=str(tmp_path / "run")):
        report = resume(tmp_path / "run")
        outcomes.append(report is not None)
        assert report is None or report.step == point + 1
        assert leavings(tmp_path) == []
        shutil.rmtree(tmp_path / "run")
    assert False in outcomes
    assert True in outcomes


@PLACES
@pytest.mark.parametrize("what", ["save_over", "pack_over"])
def test_a_replaced_checkpoint_is_the_old_or_the_new_after_a_kill_at_every_write_point(
    tmp_path, order, what, name
):
    path = tmp_path / name
    interrupted.save_over(path, 1)()
    value, num_old, num_new = 1, 0, 0
    for point, _ in every_point(order, what=what, how="kill", path=str(path)):
        assert rk.verify(path)
        step = rk.open(path).step
        assert step in (value, point + 1)
        num_new, num_old = num_new + (step == point + 1), num_old + (step != point + 1)
        assert num_new == 0 or step == point + 1, "once the new one stands, it stands"
        value = step
        assert_holds(rk.load(path), value)
        files.sweep(tmp_path)
    assert num_old > 5
    # Only removals come after the rename, and one file is few of them.
    assert num_new > (5 if name == "checkpoint" else 2)


@PLACES
@pytest.mark.parametrize("point", [10, -3])
def test_the_next_save_to_a_path_sweeps_what_a_killed_one_left(tmp_path, order, point, name):
    """Half a new checkpoint in the one case, an old one that was just replaced in the other."""
    path = tmp_path / name
    interrupted.save_over(path, 1)()
    content = {"what": "save_over", "how": "kill", "path": str(path), "value": 2}
    if point < 0:
        point += len(order(point=MOST_POINTS, **content)["calls"])
    assert was_killed(order(point=point, **content))
    assert len(leavings(tmp_path)) == 1

    interrupted.save_over(tmp_path / "another", 3)()
    assert len(leavings(tmp_path)) == 1, "a save to another name leaves them alone"
    interrupted.save_over(path, 3)()
    assert leavings(tmp_path) == []


def test_a_run_survives_an_error_at_every_write_point(tmp_path, order):
    path = tmp_path / "run"
    begin(path)
    content = {"what": "save_in_run", "how": "error", "path": str(path)}
    content["earlier"] = str(path / "step_000000001")
    for point, answer in every_point(order, **content):
        assert "No space left" in answer["error"]
        assert answer["left"] == []
        assert answer["after the error"] is True
        # The child saved again after the error.
        report = resume(path)
        assert report is not None
        assert report.step == point + 1
        assert [entry["step"] for entry in rk.Run(path).entries()] == rk.Run(path).steps
    assert rk.verify(path)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("save_over", "checkpoint"), ("save_beside", "checkpoint"),
        ("save_over", "checkpoint.zip"), ("save_beside", "checkpoint.zip"),
        ("pack_over", "checkpoint.zip"),
    ],
)  # fmt: skip
def test_a_save_fails_whole_on_an_error_at_every_write_point(tmp_path, order, what, name):
    path = tmp_path / name
    interrupted.save_over(path, 1)()
    for point, answer in every_point(order, what=what, how="error", path=str(path)):
        assert "No space left" in answer["error"]
        assert answer["left"] == []
        assert answer["after the error"] is True
        new = path if what != "save_beside" else tmp_path / f"new {point + 1}" / name
        assert rk.verify(new)
        assert_holds(rk.load(new), point + 1)
    assert leavings(tmp_path) == []


@pytest.mark.parametrize("system", ["tmpfs", "ext4"])
def test_a_full_disk_fails_one_save_and_harms_no_other(tmp_path, system):
    program = [str(PROGRAM), str(tmp_path / "disk" / "run")]
    done = small_disk.run(tmp_path, 40, *program, system=system)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["error"] == errno.ENOSPC
    assert answer["left"] == []
    assert answer["intact"] is True
    assert len(answer["steps"]) >= 2
    assert answer["resumed"] == answer["steps"][-1] + 1
    assert answer["same"] is True

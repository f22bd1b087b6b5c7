"""Saving, opening, loading and restoring one checkpoint, and what each of them refuses."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import rekindle as rk
from rekindle import files


def leavings(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob(".tmp-*")]


def stored(path: Path) -> dict[str, Any]:
    """Every file below a directory, by its inode, size and time of change."""
    return {
        str(found): (status.st_ino, status.st_size, status.st_mtime_ns)
        for found in sorted(path.rglob("*"))
        if (status := found.lstat())
    }


# --------------------------------------------------------------------------- paths


def test_an_existing_path_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "checkpoint"
    rk.save(path, policy=1)
    before = stored(tmp_path)
    with pytest.raises(rk.AlreadyExistsError, match=r"directory.*overwrite=True") as raised:
        rk.save(path, policy=2)
    assert raised.value.path == str(path)
    assert isinstance(raised.value, FileExistsError)
    assert stored(tmp_path) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(rk.AlreadyExistsError, match="existing file"):
        rk.save(tmp_path / "file", policy=2)


def test_an_existing_path_is_refused_before_the_walk(tmp_path):
    rk.save(tmp_path / "x", policy=1)
    with pytest.raises(rk.AlreadyExistsError):
        rk.save(tmp_path / "x", policy=object)


def test_overwrite_replaces_the_whole(tmp_path):
    path = tmp_path / "checkpoint"
    rk.save(path, policy={"weights": np.ones(3)}, agent={"old": True})
    found = rk.save(path, overwrite=True, policy={"weights": np.zeros(2)}, step=4)
    assert rk.verify(path)
    assert (found.step, rk.open(path).step) == (4, 4)
    assert [*rk.open(path)] == ["policy"]
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.json", "policy.json", "policy.safetensors"
    ]  # fmt: skip
    assert leavings(tmp_path) == []


def test_overwrite_makes_what_is_not_there_and_fills_what_is_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        rk.save(tmp_path / name, overwrite=True, policy=1)
        assert rk.load(tmp_path / name) == {"policy": 1}


def test_a_reader_of_what_is_replaced_keeps_its_bytes(tmp_path):
    path = tmp_path / "checkpoint"
    rk.save(path, policy={"weights": np.ones(3)})
    held = rk.load(path)["policy"]["weights"]
    rk.save(path, overwrite=True, policy={"weights": np.zeros(3)})
    assert held.tolist() == [1, 1, 1]
    assert rk.load(path)["policy"]["weights"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("what", ["a directory", "a run", "a file"])
def test_overwrite_replaces_nothing_but_checkpoints(tmp_path, what):
    path = tmp_path / "mine"
    if what == "a file":
        path.write_text("mine")
    elif what == "a run":
        rk.save(path / "step_000000001", policy=1)
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    before = stored(tmp_path)
    with pytest.raises(rk.FormatError, match="expected a checkpoint to replace"):
        rk.save(path, overwrite=True, policy=1)
    assert stored(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["with spaces ", "ünï cødé 漢字 🎈", "-rf", "a\nb", "'quoted\"", "%s {x} \\", "a" * 200]
)
def test_a_path_of_any_characters_works(tmp_path, name):
    path = tmp_path / name / "below" / name
    saved = rk.save(path, policy={"weights": np.ones(2)}, agent={"clé": "🎈"})
    assert saved.path == path
    assert rk.verify(path)
    assert rk.load(str(path))["agent"] == {"clé": "🎈"}
    rk.save(path, overwrite=True, policy=1)
    assert rk.load(os.fspath(path)) == {"policy": 1}
    with rk.Run(tmp_path / name / "run") as run:
        run.track(policy={"weights": np.ones(2)})
        run.resume()
        run.save(step=1)
    assert rk.open(tmp_path / name / "run").step == 1
    assert name in repr(rk.open(path))
    assert leavings(tmp_path) == []


def test_a_name_that_is_too_long_for_the_disk_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="too long"):
        rk.save(tmp_path / ("a" * 250), policy=1)
    assert [*tmp_path.iterdir()] == []


def test_a_relative_path_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rk.save("checkpoint", policy=1)
    rk.save("below/../below/./other", policy=2)
    assert rk.load("checkpoint") == {"policy": 1}
    assert rk.load(Path("below") / "other") == {"policy": 2}
    (tmp_path / "below").joinpath("here").mkdir()
    monkeypatch.chdir(tmp_path / "below" / "here")
    rk.save("../../checkpoint", overwrite=True, policy=3)
    assert rk.load(tmp_path / "checkpoint") == {"policy": 3}
    rk.save(".", overwrite=True, policy=4)
    assert rk.load(tmp_path / "below" / "here") == {"policy": 4}


def test_a_path_through_a_link_works(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    rk.save(tmp_path / "link" / "x", policy=1)
    assert rk.load(tmp_path / "disk" / "x") == {"policy": 1}
    (tmp_path / "best").symlink_to(tmp_path / "disk" / "x")
    assert rk.load(tmp_path / "best") == {"policy": 1}
    assert rk.verify(tmp_path / "best")
    with pytest.raises(rk.AlreadyExistsError):
        rk.save(tmp_path / "best", policy=2)
    rk.save(tmp_path / "best", overwrite=True, policy=2)
    assert (tmp_path / "best").is_symlink(), "the link stays, what it names is replaced"
    assert rk.load(tmp_path / "disk" / "x") == {"policy": 2}
    with rk.Run(tmp_path / "link" / "run") as run:
        run.track(policy={"a": 1})
        run.resume()
        run.save(step=5)
    assert rk.Run(tmp_path / "disk" / "run").steps == [5]


def test_missing_parents_are_made(tmp_path):
    rk.save(tmp_path / "a" / "b" / "c", policy=1)
    assert rk.load(tmp_path / "a" / "b" / "c") == {"policy": 1}


def test_a_parent_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(rk.NotFoundError, match="expected a directory, found a file"):
        rk.save(tmp_path / "file" / "checkpoint", policy=1)
    assert (tmp_path / "file").read_text() == "mine"


READ_ONLY = """
import sys
import rekindle as rk
place = sys.argv[1]
assert rk.load(place + "/old") == {"policy": 1}
assert rk.verify(place + "/old")
assert rk.Run(place + "/run").latest().step == 3
assert [entry["step"] for entry in rk.Run(place + "/run").entries()] == [3]
run = rk.Run(place + "/run")
run.track(policy={})
for work in (lambda: rk.save(place + "/new", policy=1),
             lambda: rk.save(place + "/old", overwrite=True, policy=1),
             lambda: rk.save(place + "/below/new", policy=1),
             run.resume):
    try:
        work()
    except OSError as error:
        assert place in str(error), error
        print(error.strerror)
"""


def test_a_directory_that_is_read_only_can_be_read_and_refuses_saves(tmp_path):
    """Mounted so, because permissions do not bind the superuser."""
    rk.save(tmp_path / "old", policy=1)
    with rk.Run(tmp_path / "run") as run:
        run.track(policy={"weights": np.ones(2)})
        run.resume()
        run.save(step=3)
    before = stored(tmp_path)
    mount = f"mount --bind '{tmp_path}' '{tmp_path}' && mount -o remount,bind,ro '{tmp_path}'"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` here to mount a directory read-only with")
    probe = subprocess.run(
        [*unshare, "sh", "-c", mount], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"mounting is not permitted here: {probe.stderr.strip()}")

    done = subprocess.run(
        [*unshare, "sh", "-c", f'{mount} && exec "$0" -c "$1" "$2"',
         sys.executable, READ_ONLY, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Read-only file system"] * 4
    assert stored(tmp_path) == before


# --------------------------------------------------------------------------- what is saved


def test_a_save_of_nothing_is_refused(tmp_path):
    with pytest.raises(rk.UnsupportedError, match="expected components to save, found none"):
        rk.save(tmp_path / "x")
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_data_is_refused_before_anything_is_written(tmp_path):
    state = {"ok": 1, "file": (i for i in range(3)), "deep": [{"lambda": (i for i in range(3))}]}
    with pytest.raises(rk.UnsupportedError) as raised:
        rk.save(tmp_path / "a" / "b", agent=state, policy=1)
    assert [path for path, _ in raised.value.refusals] == ["agent/file", "agent/deep.0.lambda"]
    assert [*tmp_path.iterdir()] == []


def test_the_step_and_counters_come_from_progress(tmp_path):
    progress = rk.Progress()
    progress.step, progress.updates, progress.episodes = 9, 4, 2
    saved = rk.save(tmp_path / "a", progress=progress)
    assert (saved.step, saved.counters) == (9, {"updates": 4, "episodes": 2})
    saved = rk.save(tmp_path / "b", progress=progress, step=10, counters={"episodes": 3})
    assert (saved.step, saved.counters) == (10, {"updates": 4, "episodes": 3})
    saved = rk.save(tmp_path / "c", progress={"step": 6})
    assert (saved.step, saved.counters) == (6, {})


def test_files_take_the_mode_that_the_user_asked_of_the_system(tmp_path):
    before = os.umask(0o027)
    try:
        rk.save(tmp_path / "x", policy={"weights": np.ones(9 << 17)}, agent={"a": 1})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
    assert modes == dict.fromkeys(
        ("checkpoint.json", "policy.json", "policy.safetensors", "agent.json"), 0o640
    )
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o750


def test_a_document_that_did_not_change_is_a_link_in_a_run(tmp_path):
    state = {"policy": {"weights": np.ones(3)}, "agent": {"name": "ada"}}
    with rk.Run(tmp_path / "run") as run:
        run.track(**state)
        run.resume()
        first = run.save(step=1).path
        state["policy"]["weights"] += 1
        second = run.save(step=2).path
        state["agent"]["name"] = "bob"
        third = run.save(step=3).path
    inodes = [(path / "agent.json").stat().st_ino for path in (first, second, third)]
    assert inodes[0] == inodes[1] != inodes[2]
    shutil.rmtree(first)
    assert rk.verify(tmp_path / "run")
    assert rk.load(second)["agent"] == {"name": "ada"}
    assert rk.load(third)["agent"] == {"name": "bob"}


def test_without_links_a_document_that_did_not_change_is_copied(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(95, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    with rk.Run(tmp_path / "run") as run:
        run.track(agent={"name": "ada"})
        run.resume()
        first, second = run.save(step=1).path, run.save(step=2).path
    assert (first / "agent.json").stat().st_ino != (second / "agent.json").stat().st_ino
    assert rk.verify(tmp_path / "run")


# --------------------------------------------------------------------------- open and load


@pytest.fixture
def checkpoint(tmp_path) -> rk.Checkpoint:
    return rk.save(
        tmp_path / "checkpoint",
        policy={"net": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}, "bias": 2.5},
        agent={"name": "ada", "seen": np.arange(4)},
        step=12_000,
        metrics={"return": 1.5},
    )


def test_a_checkpoint_says_what_it_holds(checkpoint):
    again = rk.open(checkpoint.path)
    assert again.info == checkpoint.info
    assert (again.step, again.metrics, [*again]) == (12_000, {"return": 1.5}, ["policy", "agent"])
    assert "policy" in again
    assert "critic" not in again
    assert again.components["policy"].document == "policy.json"
    assert again.num_bytes == sum(
        file.stat().st_size for file in again.path.iterdir() if file.name != "checkpoint.json"
    )
    assert again.info["format"] == "rekindle"
    assert again.info["files"].keys() == {
        "policy.json", "policy.safetensors", "agent.json", "agent.safetensors"
    }  # fmt: skip
    json.dumps(again.info)


def test_a_component_is_read_by_its_name(checkpoint):
    policy = checkpoint["policy"]
    assert policy["bias"] == 2.5
    assert policy["net"]["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoint.arrays("policy").keys() == {"net.weights"}
    assert checkpoint.arrays("agent")["seen"].tolist() == [0, 1, 2, 3]
    document = json.loads((checkpoint.path / "policy.json").read_bytes())
    assert checkpoint.document("policy") == document


@pytest.mark.parametrize("read", ["[]", "arrays", "document", "load", "restore", "load a text"])
def test_a_component_that_is_missing_is_said_with_those_that_are_not(checkpoint, read):
    work = {
        "[]": lambda: checkpoint["critic"],
        "arrays": lambda: checkpoint.arrays("critic"),
        "document": lambda: checkpoint.document("critic"),
        "load": lambda: rk.load(checkpoint.path, ["policy", "critic"]),
        "load a text": lambda: rk.load(checkpoint.path, "critic"),
        "restore": lambda: rk.restore(checkpoint.path, critic={}),
    }[read]
    with pytest.raises(rk.NotFoundError, match=r"critic.*policy, agent") as raised:
        work()
    assert raised.value.key == "critic"


def test_what_was_not_asked_for_is_not_even_opened(checkpoint):
    for name in ("agent.json", "agent.safetensors"):
        (checkpoint.path / name).unlink()
    assert [*rk.load(checkpoint.path, ["policy"])] == ["policy"]
    live = {"net": {"weights": np.zeros((2, 3), np.float32)}, "bias": 0.0}
    report = rk.restore(checkpoint.path, policy=live)
    assert live["net"]["weights"][1, 2] == 5
    assert report.not_asked == ("agent",)
    assert checkpoint["policy"]["bias"] == 2.5
    with pytest.raises(rk.DamagedError):
        rk.load(checkpoint.path)


def test_opening_reads_the_manifest_alone(checkpoint):
    for file in checkpoint.path.iterdir():
        if file.name != "checkpoint.json":
            file.unlink()
    opened = rk.open(checkpoint.path)
    assert opened.step == 12_000
    assert "ada" not in repr(opened)


@pytest.mark.parametrize("read", ["load", "[]", "arrays"])
def test_loaded_arrays_can_be_changed_without_changing_the_file(checkpoint, read):
    found = {
        "load": lambda: rk.load(checkpoint.path)["policy"]["net"]["weights"],
        "[]": lambda: checkpoint["policy"]["net"]["weights"],
        "arrays": lambda: checkpoint.arrays("policy")["net.weights"],
    }[read]
    weights = found()
    weights[:] = -1
    assert rk.verify(checkpoint.path)
    assert found().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights[0, 0] == -1


def test_loaded_arrays_outlive_the_checkpoint(checkpoint):
    weights = rk.load(checkpoint.path)["policy"]["net"]["weights"]
    shutil.rmtree(checkpoint.path)
    assert weights.sum() == 15


def test_an_unknown_kind_of_arrays_is_refused(checkpoint):
    with pytest.raises(rk.UnsupportedError, match="expected one of numpy, torch"):
        rk.load(checkpoint.path, to="tensorflow")
    with pytest.raises(rk.UnsupportedError, match="numpy arrays live in main memory"):
        rk.load(checkpoint.path, device="cuda")


def test_a_copy_of_a_checkpoint_is_a_checkpoint(checkpoint, tmp_path):
    shutil.copytree(checkpoint.path, tmp_path / "copy")
    shutil.rmtree(checkpoint.path)
    assert rk.verify(tmp_path / "copy")
    assert rk.load(tmp_path / "copy")["agent"]["name"] == "ada"


# --------------------------------------------------------------------------- what does not fit


class Net(nn.Module):
    def __init__(self, width: int = 4, extra: bool = False, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.body = nn.Linear(3, width, dtype=dtype)
        self.head = nn.Linear(width, 2)
        self.register_buffer("mean", torch.zeros(3))
        if extra:
            self.extra = nn.Linear(1, 1)


class Wide(gymnasium.Env[Any, Any]):
    def __init__(self, width: int = 4, actions: int = 2) -> None:
        self.observation_space = spaces.Box(-1, 1, (width,))
        self.action_space = spaces.Discrete(actions)
        self.position = np.full(width, 0.5)


def trained(net: Net) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net.head(net.body(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    return optimizer


def bits(value: Any) -> Any:
    """Everything a restore could change, bit for bit."""
    if isinstance(value, nn.Module):
        tensors = {key: bits(tensor) for key, tensor in value.state_dict(keep_vars=True).items()}
        grads = [bits(parameter.grad) for parameter in value.parameters()]
        return tensors, grads, [part.training for part in value.modules()]
    if isinstance(value, torch.optim.Optimizer):
        return bits(value.state_dict())
    if isinstance(value, torch.Tensor):
        return id(value), value.dtype, value.shape, value.detach().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return id(value), value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, gymnasium.Env):
        return {key: bits(item) for key, item in vars(value).items()}
    return copy.deepcopy(value)


def assert_all_listed(path: Path, live: dict[str, Any], keys: set[str]) -> rk.MismatchError:
    before = {key: bits(value) for key, value in live.items()}
    repr_before = repr(live.get("env") and vars(live["env"]))
    with pytest.raises(rk.MismatchError, match="nothing was changed") as raised:
        rk.restore(path, **live)
    assert {key: bits(value) for key, value in live.items()} == before
    assert repr(live.get("env") and vars(live["env"])) == repr_before
    assert {difference.key for difference in raised.value.differences} == keys
    for key in keys:
        assert key in str(raised.value)
    return raised.value


def test_a_module_that_does_not_fit_is_left_as_it_was_and_all_is_listed(tmp_path):
    rk.save(tmp_path / "x", policy=Net())
    error = assert_all_listed(
        tmp_path / "x",
        {"policy": Net(width=5, extra=True)},
        {"policy/body.weight", "policy/body.bias", "policy/head.weight", "policy/extra",
         "policy/extra.weight", "policy/extra.bias", "policy/body.out_features",
         "policy/head.in_features"}
        & {difference.key for difference in _differences(tmp_path / "x", Net(5, True))}
        | {"policy/body.weight", "policy/body.bias", "policy/head.weight", "policy/extra"},
    )  # fmt: skip
    assert "shape (4, 3)" in str(error)
    assert "shape (5, 3)" in str(error)


def _differences(path: Path, net: Net) -> tuple[rk.Difference, ...]:
    with pytest.raises(rk.MismatchError) as raised:
        rk.restore(path, policy=net)
    return raised.value.differences


def test_a_module_of_another_dtype_is_left_as_it_was(tmp_path):
    rk.save(tmp_path / "x", policy=Net())
    error = assert_all_listed(
        tmp_path / "x",
        {"policy": Net(dtype=torch.float64)},
        {"policy/body.weight", "policy/body.bias"},
    )
    assert "float32" in str(error)
    assert "float64" in str(error)


def test_differences_of_all_components_come_in_one_error(tmp_path):
    net = Net()
    table = {"a": np.zeros(3), "b": np.zeros(2, np.int32), "c": 1}
    rk.save(tmp_path / "x", policy=net, optimizer=trained(net), agent=table, env=Wide())
    other = Net(width=5)
    live = {
        "policy": other,
        "optimizer": trained(other),
        "agent": {"a": np.zeros(4), "b": np.zeros(2, np.int64), "d": np.zeros(1)},
        "env": Wide(5, 3),
    }
    before = {key: bits(value) for key, value in live.items()}
    with pytest.raises(rk.MismatchError) as raised:
        rk.restore(tmp_path / "x", **live)
    assert {key: bits(value) for key, value in live.items()} == before
    keys = {difference.key for difference in raised.value.differences}
    assert {"policy/body.weight", "agent/a", "agent/b", "agent/d"} <= keys
    assert {key.partition("/")[0] for key in keys} == {"policy", "optimizer", "agent", "env"}
    assert any("observation_space" in key for key in keys)
    assert any("action_space" in key for key in keys)


def test_an_optimizer_of_other_groups_is_left_as_it_was(tmp_path):
    net = Net()
    rk.save(tmp_path / "x", optimizer=trained(net))
    fewer = torch.optim.Adam(Net().body.parameters(), lr=0.5)
    assert_all_listed(tmp_path / "x", {"optimizer": fewer}, {"optimizer/param_groups"})
    other = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    with pytest.raises(rk.MismatchError, match=r"Adam.*SGD"):
        rk.restore(tmp_path / "x", optimizer=other)
    assert other.param_groups[0]["lr"] == 0.5


def test_a_dictionary_of_other_arrays_is_left_as_it_was(tmp_path):
    rk.save(tmp_path / "x", agent={"a": np.ones(3), "b": np.ones(2, np.int32), "c": np.ones(1)})
    live = {"a": np.zeros((3, 1)), "b": np.zeros(2, np.uint8), "d": np.zeros(5)}
    assert_all_listed(tmp_path / "x", {"agent": live}, {"agent/a", "agent/b", "agent/d"})


def test_an_environment_of_other_spaces_is_left_as_it_was(tmp_path):
    rk.save(tmp_path / "x", env=Wide())
    error = assert_all_listed(
        tmp_path / "x",
        {"env": Wide(5, 3)},
        {"env/observation_space.shape", "env/action_space.n", "env/position"},
    )
    assert "(4,)" in str(error)
    assert "(5,)" in str(error)


def test_a_restore_that_is_not_strict_puts_back_what_fits_and_says_what_does_not(tmp_path):
    rk.save(tmp_path / "x", policy={"a": np.ones(3), "b": np.ones(2), "c": 1}, agent={"n": 1})
    live = {"a": np.zeros(3), "b": np.zeros(5), "c": 0}
    a, b = live["a"], live["b"]
    report = rk.restore(tmp_path / "x", strict=False, policy=live, critic={})
    assert live["a"] is a
    assert a.tolist() == [1, 1, 1]
    assert live["b"] is b
    assert b.tolist() == [0] * 5
    assert live["c"] == 1
    assert [difference.key for difference in report.differences] == ["policy/b"]
    assert report.missing == ("critic",)
    assert report.not_asked == ("agent",)
    assert report.components == ("policy",)


def test_a_missing_component_is_an_error_before_anything_changes(tmp_path):
    rk.save(tmp_path / "x", policy={"a": np.ones(3)})
    live = {"a": np.zeros(3)}
    with pytest.raises(rk.NotFoundError, match=r"critic, target.*Nothing was changed"):
        rk.restore(tmp_path / "x", policy=live, critic={}, target={})
    assert not live["a"].any()


def test_damage_is_found_before_anything_changes(tmp_path):
    saved = rk.save(tmp_path / "x", policy={"a": np.ones(3)}, agent={"b": np.ones(3)})
    file = saved.path / "agent.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    live = {"policy": {"a": np.zeros(3)}, "agent": {"b": np.zeros(3)}}
    with pytest.raises(rk.DamagedError):
        rk.restore(tmp_path / "x", **live)
    assert not live["policy"]["a"].any()


def test_a_restore_into_nothing_is_an_empty_report(checkpoint):
    report = rk.restore(checkpoint.path)
    assert report.components == ()
    assert report.not_asked == ("policy", "agent")


def test_a_run_opens_as_its_newest_checkpoint(tmp_path):
    with rk.Run(tmp_path / "run") as run:
        run.track(policy={"a": 1})
        run.resume()
        for step in (5, 10_000_000_000, 70):
            run.save(step=step)
    assert rk.open(tmp_path / "run").step == 10_000_000_000
    assert rk.load(tmp_path / "run") == {"policy": {"a": 1}}

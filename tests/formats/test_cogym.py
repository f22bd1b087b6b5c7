"""Folders of CO-GYM: read bit for bit, running nothing, and written so that torch loads them."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.same_arrays import assert_same

from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    FormatError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import cogym, recognition
from rekindle.formats.cogym import FORMAT
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.pickles.records import Recorded

GOLDEN = Path(__file__).parents[1] / "golden" / "cogym"
CASES = sorted(path.parent for path in GOLDEN.glob("*/checkpoint_*/expected.json"))
FILES = ("checkpoint.pt", "policy.pt", "config.yaml", "metadata.yaml")
STATISTICS = {"count": "count", "mean": "running_mean", "var": "running_var"}


def case_id(case: Path) -> str:
    return str(case.relative_to(GOLDEN))


def found_in(reading: Reading, name: str) -> Any:
    """What stands in a reading for an array of `expected.npz`."""
    kind, first, *rest = name.split("/")
    components = reading.components
    if kind == "params":
        return components[first][rest[0]]
    if kind == "optim":
        return components[first]["state"][int(rest[1])][rest[2]]
    if kind == "buffer":
        return components["replay_buffer"][first]
    if first == "yaml":
        return np.array(components["normalizer"]["observation_values"][rest[0]])
    part = components["normalizer"]["observation" if first == "obs" else "return"]
    return np.asarray(part[STATISTICS[rest[0]]])


@pytest.fixture(params=["SAC/checkpoint_2", "PPO/checkpoint_1"])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may break."""
    return shutil.copytree(GOLDEN / request.param, tmp_path / "checkpoint_7")


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_array_is_bit_for_bit_the_one_that_was_saved(case: Path) -> None:
    found = functools.partial(found_in, FORMAT.read(case))
    assert_same(case / "expected.npz", found, ("params/", "optim/", "buffer/", "norm/"), 30)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_value_is_the_one_that_was_saved(case: Path) -> None:
    told, reading = json.loads((case / "expected.json").read_text()), FORMAT.read(case)
    components = reading.components
    assert components["agent"]["config"] == told["config"]
    assert components["progress"] == told["metadata"]
    assert reading.step == told["metadata"]["timestep"]
    assert reading.counters == {"epochs": told["metadata"]["epochs"]}
    assert reading.metrics["return"] == told["metadata"]["average return"]
    assert reading.metrics["wall_time_seconds"] == told["metadata"]["wall time"]
    for name, optimizer in told["optim"].items():
        groups = json.loads(json.dumps(components[name]["param_groups"]))
        assert groups == optimizer["param_groups"]
        assert len(components[name]["state"]) == optimizer["n_state"]
    assert ("log_alpha" in components["agent"]) == ("log_alpha" in told)
    assert components["agent"].get("log_alpha") == told.get("log_alpha")
    if "buffer" in told:
        buffer = components["replay_buffer"]
        assert list(buffer) == told["buffer"]["attributes"]
        assert all(buffer[key] == told["buffer"][key] for key in ("capacity", "size", "position"))
        assert reading.details["buffer_class"].replace(":", ".") == told["buffer"]["class"]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_the_folder_does_not_hold_is_said_and_not_invented(case: Path) -> None:
    reading = FORMAT.read(case)
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    is_off_policy = "replay_buffer" in reading.components
    assert {"target", "env", "rng"} <= absent
    assert ("replay_buffer" in absent) == (not is_off_policy)
    assert ("normalizer" in absent) == (not (case / "pickled_data").exists())
    assert not absent & set(reading.components)
    garbage = [note for note in reading.notes if "were never written" in note.text]
    assert bool(garbage) == is_off_policy
    assert reading.spaces == {}
    assert reading.version is None


def test_of_a_run_the_last_checkpoint_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        shutil.copytree(GOLDEN / "PPO_nonorm" / "checkpoint_1", tmp_path / f"checkpoint_{number}")
    (tmp_path / "plots").mkdir()
    assert recognition.recognise(tmp_path) is FORMAT
    names = ["checkpoint_2", "checkpoint_9", "checkpoint_10"]
    assert [path.name for path in cogym.checkpoints(tmp_path)] == names
    [note] = [note for note in FORMAT.read(tmp_path).notes if not note.key]
    assert "checkpoint_10 was read; others: checkpoint_2, checkpoint_9" in note.text


def test_one_file_by_itself_says_what_is_beside_it() -> None:
    file = GOLDEN / "TD3" / "checkpoint_1" / "checkpoint.pt"
    assert recognition.recognise(file) is FORMAT
    reading = FORMAT.read(file)
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert {"agent.config", "progress", "normalizer"} <= absent
    assert reading.components["agent"]["log_alpha"] is None
    assert reading.step is None


def test_a_normaliser_by_itself_is_read() -> None:
    folder = GOLDEN / "PPO" / "checkpoint_2"
    for name in ("Obs", "Ret"):
        file = folder / "pickled_data" / f"{name}RunningMeanVar_class.pickle"
        assert recognition.recognise(file) is FORMAT
        reading = FORMAT.read(file)
        expected = np.load(folder / "expected.npz")
        normalizer = reading.components["normalizer"]
        np.testing.assert_array_equal(
            normalizer["running_var"], expected[f"norm/{name.lower()}/var"]
        )
        assert reading.kind == "policy"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_it_is_recognised_by_content_whatever_it_is_called(case: Path, tmp_path: Path) -> None:
    path = shutil.copytree(case, tmp_path / "InvertedPendulum_final.zip")
    assert FORMAT.sniff(path) is Confidence.CERTAIN
    assert recognition.recognise(path) is FORMAT


def test_other_folders_and_files_are_not_taken_for_its_own(tmp_path: Path) -> None:
    assert FORMAT.sniff(tmp_path) is None
    (tmp_path / "metadata.yaml").write_text("epochs: 1\n")
    assert FORMAT.sniff(tmp_path) is None
    assert FORMAT.sniff(tmp_path / "metadata.yaml") is None
    assert FORMAT.sniff(GOLDEN / "SAC" / "checkpoint_1" / "policy.pt") is None
    (tmp_path / "checkpoint.pt").write_bytes(b"\x80\x04N.")
    assert FORMAT.sniff(tmp_path) is None
    assert FORMAT.sniff(tmp_path / "checkpoint.pt") is None
    assert FORMAT.sniff(tmp_path / "nothing") is None


# --------------------------------------------------------------------------- writing


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_was_read_is_written_again_and_reads_equal(case: Path, tmp_path: Path) -> None:
    reading = FORMAT.read(case)
    FORMAT.write(reading, tmp_path / case.name)
    again = FORMAT.read(tmp_path / case.name)
    np.testing.assert_equal(dict(again.components), dict(reading.components))
    assert replace(again, components={}, tensors=reading.tensors) == replace(reading, components={})
    assert len(again.tensors) == len(reading.tensors)
    names = {str(path.relative_to(case)) for path in case.rglob("*")}
    written = {str(p.relative_to(tmp_path / case.name)) for p in (tmp_path / case.name).rglob("*")}
    assert written == names - {"expected.json", "expected.npz"}


class OffPolicyBuffer:
    """Stands for CO-GYM's own class, by its name, so that the genuine loader finds it."""


class RunningMeanVar:
    """The same."""


@pytest.fixture
def co_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (
        ("co_gym.buffers.off_policy_buffer", OffPolicyBuffer),
        ("co_gym.utils.utils", RunningMeanVar),
    ):
        parts = name.split(".")
        for length in range(1, len(parts)):
            package = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)


def equal(one: Any, other: Any) -> bool:
    """Whether two values that torch loaded are of the same types and bits."""
    import torch

    if isinstance(one, OffPolicyBuffer | RunningMeanVar):
        one, other = vars(one), vars(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return set(one) == set(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.requires_grad) == (other.dtype, other.requires_grad) and torch.equal(
            one, other
        )
    if isinstance(one, np.ndarray):
        return (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    return one == other


@pytest.mark.usefixtures("co_gym")
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_genuine_loaders_find_the_same_in_what_is_written(case: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    FORMAT.write(FORMAT.read(case), tmp_path / "out")
    for name in ("checkpoint.pt", "policy.pt"):
        is_plain = name == "policy.pt" or case.parent.name.startswith("PPO")
        one, other = (
            torch.load(folder / name, weights_only=is_plain) for folder in (case, tmp_path / "out")
        )
        assert equal(one, other)
        # Modules put their versions beside the arrays of a state dict.
        policies = [found.get("policy_state_dict", found) for found in (one, other)]
        assert policies[0]._metadata == policies[1]._metadata
    for file in case.glob("pickled_data/*"):
        written = tmp_path / "out" / "pickled_data" / file.name
        assert equal(pickle.loads(file.read_bytes()), pickle.loads(written.read_bytes()))


@pytest.mark.usefixtures("co_gym")
def test_plain_components_make_a_folder_whose_networks_are_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "b": np.ones(1, np.float32)}
    optimizer = {"state": {0: {"step": np.array(3.0, np.float32)}}, "param_groups": [{"lr": 1e-3}]}
    buffer = {"capacity": 4, "size": 1, "position": 1, "state_buffer": np.zeros((4, 2), "f4")}
    parts = {
        "policy": weights,
        "critic": {"w": np.ones(2, np.float32)},
        "policy_optimizer": optimizer,
        "critic_optimizer": optimizer,
        "replay_buffer": buffer,
        "agent": {"log_alpha": -0.5, "config": {"algorithm": "SAC", "activation_fc": "ReLU"}},
    }
    plain = Reading(format="plain", components=parts, step=40, counters={"epochs": 2})
    FORMAT.write(plain, tmp_path / "out")
    found = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=False)
    assert found["policy_state_dict"]["w"].tolist() == weights["w"].tolist()
    assert torch.equal(found["critic_state_dict"]["w"], torch.ones(2))
    assert torch.equal(found["policy_optimizer_state_dict"]["state"][0]["step"], torch.tensor(3.0))
    assert isinstance(found["buffer"], OffPolicyBuffer)
    assert isinstance(vars(found["buffer"])["state_buffer"], np.ndarray)
    assert found["log_alpha"] == -0.5
    again = FORMAT.read(tmp_path / "out")
    assert (again.step, again.counters) == (40, {"epochs": 2})
    assert again.components["progress"]["average return"] is None
    assert again.components["agent"]["config"] == {"algorithm": "SAC", "activation_fc": "ReLU"}


def test_what_cogym_has_no_place_for_is_refused_all_at_once(tmp_path: Path) -> None:
    good = FORMAT.read(GOLDEN / "PPO" / "checkpoint_1")
    parts = {**good.components, "env": {}, "target": {}, "normalizer": {"reward": 1}}
    del parts["critic"]
    with pytest.raises(UnsupportedError) as caught:
        FORMAT.write(replace(good, components=parts), tmp_path / "out")
    keys = {key for key, _ in caught.value.refusals}
    assert keys == {"critic", "env", "target", "normalizer.reward"}
    parts = {**good.components, "agent": {"config": {}, "hook": Recorded("os:system")}}
    with pytest.raises(UnsupportedError, match="os:system"):
        FORMAT.write(replace(good, components=parts), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(AlreadyExistsError):
        FORMAT.write(FORMAT.read(GOLDEN / "PPO" / "checkpoint_1"), tmp_path)


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_damage_and_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(DamagedError, match=f"{name}.*found nothing"):
        FORMAT.read(copied)


def test_a_missing_normaliser_is_damage_where_the_run_normalises(copied: Path) -> None:
    shutil.rmtree(copied / "pickled_data", ignore_errors=True)
    if (copied / "observation_normalizing_values.yaml").exists():
        with pytest.raises(DamagedError, match="ObsRunningMeanVar"):
            FORMAT.read(copied)
    else:
        assert "normalizer" not in FORMAT.read(copied).components


@pytest.mark.parametrize("name", ["checkpoint.pt", "policy.pt"])
def test_a_truncated_file_is_refused(copied: Path, name: str) -> None:
    file = copied / name
    data = file.read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises((DamagedError, FormatError), match=name):
            FORMAT.read(copied)


def test_a_truncated_pickle_is_damage(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "PPO" / "checkpoint_1", tmp_path / "one")
    file = folder / "pickled_data" / "ObsRunningMeanVar_class.pickle"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DamagedError, match="ObsRunningMeanVar"):
        FORMAT.read(folder)


def test_yaml_that_asks_for_objects_makes_none(copied: Path) -> None:
    (copied / "config.yaml").write_text("a: !!python/object/apply:os.mkdir [made]\n")
    with pytest.raises(UnsafeError, match=r"config\.yaml"):
        FORMAT.read(copied)
    assert not Path("made").exists()


@pytest.mark.parametrize("text", ["- 1\n", "text\n", ""])
def test_yaml_of_another_shape_is_a_format_error(copied: Path, text: str) -> None:
    (copied / "config.yaml").write_text(text)
    with pytest.raises(FormatError, match=r"config\.yaml: expected names and values"):
        FORMAT.read(copied)


def test_bytes_that_are_no_text_are_damage(copied: Path) -> None:
    (copied / "config.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(DamagedError, match="UTF-8"):
        FORMAT.read(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay_buffer": {"capacity": 3, "size": 4, "position": 0}}, "fit together"),
        ({"replay_buffer": {"capacity": 3, "position": 0}}, "a buffer with"),
        (
            {"replay_buffer": {"capacity": 3, "size": 1, "position": 1, "rows": np.zeros(2)}},
            "3 rows in rows",
        ),
        ({"policy": {"w": 1.0}}, "a tensor as policy"),
    ],
)
def test_content_that_cogym_does_not_write_is_a_format_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = FORMAT.read(GOLDEN / "TD3" / "checkpoint_1")
    FORMAT.write(replace(good, components={**good.components, **change}), tmp_path / "bad")
    with pytest.raises(FormatError, match=message):
        FORMAT.read(tmp_path / "bad")


def test_other_weights_in_the_second_copy_are_said_and_kept(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "SAC" / "checkpoint_2", tmp_path / "one")
    shutil.copy(GOLDEN / "SAC" / "checkpoint_1" / "policy.pt", folder)
    reading = FORMAT.read(folder)
    assert any("other weights" in note.text for note in reading.notes)
    FORMAT.write(reading, tmp_path / "two")
    again = FORMAT.read(tmp_path / "two")
    np.testing.assert_equal(again.details["policy_file"], reading.details["policy_file"])


def test_paths_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", GOLDEN / "SAC" / "checkpoint_2" / "config.yaml"):
        with pytest.raises(FormatError):
            FORMAT.read(path)


def test_a_folder_that_would_take_much_memory_is_refused(copied: Path) -> None:
    with pytest.raises(UnsafeError):
        FORMAT.read(copied, max_bytes=2000)


def test_flipped_bytes_end_in_an_error_of_ours_or_in_values(copied: Path) -> None:
    file = copied / "checkpoint.pt"
    data = file.read_bytes()
    refused = 0
    for position in range(0, len(data), len(data) // 60):
        file.write_bytes(data[:position] + bytes([data[position] ^ 0x15]) + data[position + 1 :])
        try:
            FORMAT.read(copied)
        except RekindleError:
            refused += 1
    assert refused > 0

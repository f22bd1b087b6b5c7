"""Folders of Velora: read bit for bit, nothing invented, and written so that they read equal."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tests.fixtures import cases
from tests.formats.same_arrays import assert_same

from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    FormatError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import recognition, velora
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.formats.velora import FORMAT
from rekindle.pickles.records import Recorded

GOLDEN = Path(__file__).parents[1] / "golden" / "velora"
CASES = cases("velora")


def told_of(case: Path) -> dict[str, Any]:
    return json.loads((case / "expected.json").read_text())


def folder_of(case: Path) -> Path:
    return case / told_of(case)["checkpoint_dir"]


def found_in(reading: Reading, name: str) -> Any:
    """What stands in a reading for an array of `expected.npz`."""
    kind, first, *rest = name.split("/")
    components = reading.components
    if kind == "params":
        target = components["target"] if first.endswith("_target") else {}
        networks = {**components, **target, "actor": components["policy"]}
        return networks[first][rest[0]]
    if kind == "optim":
        state = components[first.removesuffix("_optim") + "_optimizer"]["state"]
        return state[int(rest[1])][rest[2]]
    return components["replay_buffer"][first]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a whole case that a test may break."""
    shutil.copytree(GOLDEN / "ct_buffer_config" / "saves", tmp_path / "saves")
    return tmp_path / "saves" / "InvertedPendulum_10"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_array_is_bit_for_bit_the_one_that_was_saved(case: Path) -> None:
    found = functools.partial(found_in, FORMAT.read(folder_of(case)))
    assert_same(case / "expected.npz", found, ("params/", "optim/", "buffer/"), 40)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_value_is_the_one_that_was_saved(case: Path) -> None:
    told, reading = told_of(case), FORMAT.read(folder_of(case))
    components = reading.components
    assert components["agent"]["model"] == told["metadata_model"]
    for name, optimizer in told["optim"].items():
        found = components[name.removesuffix("_optim") + "_optimizer"]
        assert found["param_groups"] == optimizer["param_groups"]
        assert len(found["state"]) == optimizer["n_state"]
        assert list(found["state"]) == sorted(found["state"])
    buffer = components.get("replay_buffer", {})
    kept = {key: part for key, part in buffer.items() if not isinstance(part, np.ndarray)}
    assert kept == told.get("buffer", {})
    if "config" in components["agent"]:
        assert components["agent"]["config"]["agent"] == told["class"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_the_folder_does_not_hold_is_said_and_not_invented(case: Path) -> None:
    folder = folder_of(case)
    reading = FORMAT.read(folder)
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert {"agent.log_alpha", "env", "rng"} <= absent
    assert "log_alpha" not in json.dumps(reading.components["agent"])
    assert ("replay_buffer" in absent) == (not (folder / "buffer_state.safetensors").exists())
    assert not absent & set(reading.components)
    if not folder.name.endswith("_final"):
        assert reading.step is None
        assert not reading.counters


def test_the_final_checkpoint_of_a_run_tells_what_the_run_came_to() -> None:
    saves = GOLDEN / "callback" / "nf_cb" / "saves"
    told = json.loads((saves / "completed.json").read_text())
    final = FORMAT.read(saves / "InvertedPendulum_final")
    assert (final.step, final.counters) == (told["steps"], {"episodes": told["episodes"]})
    assert final.metrics["reward.average"] == told["stats"]["reward"]["average"]
    earlier = FORMAT.read(saves / "InvertedPendulum_4")
    assert earlier.step is None
    assert earlier.components["progress"] == {"completed": told}
    assert any(note.kind is Kind.IGNORED and note.key == "progress" for note in earlier.notes)


@pytest.mark.parametrize("inner", ["nf_cb", "nf_cb/saves"])
def test_of_a_folder_of_checkpoints_the_last_is_read_and_the_others_are_named(inner: str) -> None:
    path = GOLDEN / "callback" / inner
    assert recognition.recognise(path) is FORMAT
    reading = FORMAT.read(path)
    assert reading.step is not None
    [note] = [note for note in reading.notes if not note.key]
    assert "InvertedPendulum_final was read; others: InvertedPendulum_4, InvertedPendulum_8" in (
        note.text
    )


def test_episodes_in_names_are_ordered_as_numbers(tmp_path: Path) -> None:
    names = ["Pong_900", "Pong_1K", "Pong_1.5K", "Pong_2M", "Pong_final"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        shutil.copy(folder_of(CASES[0]) / "metadata.json", tmp_path / name)
    assert [path.name for path in velora.checkpoints(tmp_path)] == names


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_recognised_by_content_whatever_it_is_called(case: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder_of(case), tmp_path / "checkpoint_3.zip")
    assert FORMAT.sniff(path) is Confidence.CERTAIN
    assert recognition.recognise(path) is FORMAT


def test_other_folders_are_not_taken_for_its_own(tmp_path: Path) -> None:
    assert FORMAT.sniff(tmp_path) is None
    (tmp_path / "metadata.json").write_text('{"model": "gpt"}')
    assert FORMAT.sniff(tmp_path) is None
    (tmp_path / "metadata.json").write_text("[")
    assert FORMAT.sniff(tmp_path) is None
    assert FORMAT.sniff(folder_of(CASES[0]) / "metadata.json") is None
    assert FORMAT.sniff(tmp_path / "nothing") is None


# --------------------------------------------------------------------------- writing


def contents(folder: Path) -> dict[str, Any]:
    """What stands in a folder's files, read without Rekindle."""
    found: dict[str, Any] = {}
    for file in folder.iterdir():
        if file.suffix == ".json":
            found[file.name] = json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            for name, array in safetensors.numpy.load_file(file).items():
                found[f"{file.name}:{name}"] = (array.dtype.str, array.shape, array.tobytes())
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_read_is_written_again_with_the_same_content(case: Path, tmp_path: Path) -> None:
    folder = folder_of(case)
    written = tmp_path / "saves" / folder.name
    reading = FORMAT.read(folder)
    FORMAT.write(reading, written)
    assert contents(written) == contents(folder)
    assert contents(written.parent) == contents(folder.parent)
    again = FORMAT.read(written)
    np.testing.assert_equal(dict(again.components), dict(reading.components))
    assert (again.step, again.counters, again.notes) == (
        reading.step,
        reading.counters,
        reading.notes,
    )


def plain_ddpg() -> Reading:
    """What Velora 0.1 keeps of its LiquidDDPG, as plain components."""
    weights = {"ncp.inter.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    groups = [{"lr": 1e-3, "params": [0], "fused": None}]
    return Reading(
        format="plain",
        components={
            "policy": weights,
            "critic": weights,
            "target": {"actor_target": weights, "critic_target": weights},
            "actor_optimizer": {"state": {}, "param_groups": groups},
            "agent": {"model": {"env_id": "Pendulum-v1", "gamma": 0.99, "buffer_size": 10}},
        },
    )


def test_plain_components_make_a_folder_as_velora_01_has_it(tmp_path: Path) -> None:
    FORMAT.write(plain_ddpg(), tmp_path / "ddpg")
    found = safetensors.numpy.load_file(tmp_path / "ddpg" / "model_state.safetensors")
    networks = ("actor", "critic", "actor_target", "critic_target")
    assert set(found) == {f"{network}.ncp.inter.weight" for network in networks}
    np.testing.assert_array_equal(found["actor.ncp.inter.weight"], [[0, 3], [1, 4], [2, 5]])
    assert safetensors.numpy.load_file(tmp_path / "ddpg" / "optim_state.safetensors") == {}
    reading = FORMAT.read(tmp_path / "ddpg")
    assert set(reading.components["target"]) == {"actor_target", "critic_target"}
    assert reading.components["actor_optimizer"] == plain_ddpg().components["actor_optimizer"]


def test_what_velora_has_no_place_for_is_refused_all_at_once(tmp_path: Path) -> None:
    good = plain_ddpg()
    parts = {**good.components, "env": {}, "agent": {"seed": 3}}
    parts["critic"] = {"w": np.array([{}], object)}
    parts["critic_optimizer"] = {"state": {}, "param_groups": [{"lr": Recorded("os:system")}]}
    del parts["policy"]
    with pytest.raises(UnsupportedError) as caught:
        FORMAT.write(replace(good, components=parts), tmp_path / "out")
    keys = {key for key, _ in caught.value.refusals}
    assert keys == {"policy", "env", "agent.model", "agent.seed", "critic.w", "metadata.json"}
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_of_another_run_is_not_written_over(tmp_path: Path) -> None:
    reading = FORMAT.read(GOLDEN / "ct_buffer_config" / "saves")
    config = tmp_path / "model_config.json"
    config.write_text('{"agent": "Other"}')
    with pytest.raises(AlreadyExistsError, match=r"model_config\.json"):
        FORMAT.write(reading, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_config.json"]
    config.unlink()
    FORMAT.write(reading, tmp_path / "new")
    FORMAT.write(reading, tmp_path / "second")  # the configuration there is the same
    with pytest.raises(AlreadyExistsError):
        FORMAT.write(reading, tmp_path / "second")


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name",
    [
        "metadata.json",
        "model_state.safetensors",
        "optim_state.safetensors",
        "buffer_state.safetensors",
    ],
)
def test_a_missing_or_truncated_file_is_damage_and_is_named(copied: Path, name: str) -> None:
    file = copied / name
    data = file.read_bytes()
    for size in (0, 5, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(DamagedError, match=name):
            FORMAT.read(copied)
    file.unlink()
    with pytest.raises(DamagedError, match=f"{name}.*found nothing"):
        FORMAT.read(copied)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "metadata.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(lambda data: data["buffer"].update(size=2001)), "size 2001"),
        (edited(lambda data: data["buffer"].update(position="7")), "position '7'"),
        (edited(lambda data: data["buffer"].update(capacity=True)), "capacity True"),
        (edited(lambda data: data.update(buffer=[])), "buffer as an object"),
        (edited(lambda data: data.pop("actor_optim")), "of optimizers in the metadata"),
        (
            lambda folder: safetensors.numpy.save_file(
                {"nodots": np.zeros(1)}, folder / "model_state.safetensors"
            ),
            r"network\.parameter",
        ),
        (
            lambda folder: safetensors.numpy.save_file(
                {"critic.w": np.zeros(1)}, folder / "model_state.safetensors"
            ),
            "network `actor`",
        ),
        (
            lambda folder: safetensors.numpy.save_file(
                {"states": np.zeros((4, 1)), "dones": np.zeros(3)},
                folder / "buffer_state.safetensors",
            ),
            "as many rows",
        ),
        (lambda folder: (folder.parent / "model_config.json").write_text("[]"), "JSON object"),
    ],
)
def test_content_that_velora_does_not_write_is_a_format_error(
    copied: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copied)
    with pytest.raises(FormatError, match=message):
        FORMAT.read(copied)


def test_a_buffer_that_the_metadata_does_not_know_is_read_without_its_position(
    copied: Path,
) -> None:
    edited(lambda data: data.pop("buffer"))(copied)
    reading = FORMAT.read(copied)
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert {"replay_buffer.position", "replay_buffer.size"} <= absent
    assert "position" not in reading.components["replay_buffer"]


def test_other_paths_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", folder_of(CASES[0]) / "metadata.json"):
        with pytest.raises(FormatError):
            FORMAT.read(path)


def test_metadata_that_would_take_much_memory_is_refused(copied: Path) -> None:
    with pytest.raises(UnsafeError):
        FORMAT.read(copied, max_bytes=1000)


def test_no_flipped_byte_of_a_header_ends_otherwise_than_in_an_error_of_ours(
    copied: Path,
) -> None:
    file = copied / "optim_state.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    refused = 0
    for position in range(0, 8 + length, 97):
        file.write_bytes(data[:position] + bytes([data[position] ^ 0x15]) + data[position + 1 :])
        try:
            FORMAT.read(copied)
        except RekindleError:
            refused += 1
    assert refused > 20

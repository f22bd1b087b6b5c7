"""Files of Metta, of every age: weights bit for bit, values as they were, and written again."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rekindle import spaces
from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    FormatError,
    NotFoundError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import (
    metta_bundle,
    metta_checkpoint,
    metta_trainer,
    recognition,
    recorded_spaces,
    torch_checkpoint,
)
from rekindle.formats.protocol import Confidence, Kind, Reading
from rekindle.state import Record

GOLDEN = Path(__file__).parents[1] / "golden" / "metta"
CHECKPOINT, TRAINER, BUNDLE = metta_checkpoint.FORMAT, metta_trainer.FORMAT, metta_bundle.FORMAT
STANDARD = "v2_standard/checkpoint.pt"
HEAD = "head_run/checkpoints"
POLICIES = {
    "v1_policy_record/checkpoints/model_0006.pt": (CHECKPOINT, "model_0006.pt"),
    STANDARD: (CHECKPOINT, "model"),
    "v2_standard_gzip/checkpoint.pt.gz": (CHECKPOINT, "model"),
    "v2_standard_zstd/checkpoint.pt.zst": (CHECKPOINT, "model"),
    "v2_training/training_checkpoint.pt": (CHECKPOINT, "model"),
    "v2_production_minimal/production_model.pt": (CHECKPOINT, "model"),
    "raw_module/model_0043.pt": (CHECKPOINT, "model"),
    "raw_state_dict/model_0042.pt": (CHECKPOINT, "model"),
    f"{HEAD}/head_run-v7": (BUNDLE, "policy"),
    f"{HEAD}/head_run-v8": (BUNDLE, "policy"),
    "head_run/remote/head_run-v8.zip": (BUNDLE, "policy"),
}
"""Every file with a policy, its format, and what its arrays are called in `expected.npz`."""
OPTIMIZERS = {
    "v1_policy_record/trainer_state.pt": (TRAINER, "trainer"),
    f"{HEAD}/trainer_state.pt": (TRAINER, "optimizer"),
    "head_run/remote/head_run-v8.zip": (BUNDLE, "optimizer"),
}


def told(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name.partition("/")[0] / "expected.json").read_text())


def expected_arrays(name: str, prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / name.partition("/")[0] / "expected.npz") as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Hold plain data against JSON; what JSON cannot say is there as class and text."""
    if isinstance(expected, dict) and "__class__" in expected:
        kind, text = expected["__class__"], expected["__repr__"]
        if kind.startswith("omegaconf."):
            assert repr(found)[: len(text)] == text, where
        elif kind.startswith("gymnasium."):
            assert isinstance(found, Record), where
            assert found.label.replace(":", ".") == kind, where
            assert repr(spaces.build(recorded_spaces.describe(found))) == text, where
        else:
            assert repr(torch.from_numpy(found.copy())) == text, where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}[{index}]")
    else:
        assert found == expected, where
        assert isinstance(found, type(expected) | np.generic), where


def assert_same_arrays(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    assert expected
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


# --------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", POLICIES)
def test_every_weight_is_bit_for_bit_the_one_that_was_saved(name: str) -> None:
    format_, prefix = POLICIES[name]
    reading = format_.read(GOLDEN / name)
    assert_same_arrays(reading.components["policy"], expected_arrays(name, f"params/{prefix}/"))
    for array in reading.components["policy"].values():
        assert reading.tensors.of(array) is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_moment_of_the_optimizer_is_there(name: str) -> None:
    format_, prefix = OPTIMIZERS[name]
    optimizer = format_.read(GOLDEN / name).components["optimizer"]
    expected = told(name)["optim"][prefix]
    assert_same(optimizer["param_groups"], expected["param_groups"])
    assert len(optimizer["state"]) == expected["n_state"]
    arrays = {
        f"{index}/{key}": value
        for index, state in optimizer["state"].items()
        for key, value in state.items()
    }
    assert_same_arrays(arrays, expected_arrays(name, f"optim/{prefix}/state/"))


@pytest.mark.parametrize("name", [*POLICIES, *OPTIMIZERS])
def test_a_file_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    format_ = (POLICIES | OPTIMIZERS)[name][0]
    copy = tmp_path / "anything.bin"
    if (GOLDEN / name).is_dir():
        shutil.copytree(GOLDEN / name, copy)
    else:
        shutil.copy(GOLDEN / name, copy)
    assert recognition.recognise(copy) is format_


@pytest.mark.parametrize("name", [STANDARD, "v2_training/training_checkpoint.pt"])
def test_everything_beside_the_weights_is_as_it_was(name: str) -> None:
    reading = CHECKPOINT.read(GOLDEN / name)
    assert_same(reading.components["agent"], told(name)["fields"])
    assert reading.step == 1_000_000
    assert reading.counters == {"epochs": 100}
    assert reading.metrics == {"score": 0.95, "navigation": 0.25}
    assert spaces.summary(reading.spaces["action"]) == "MultiDiscrete([3, 4])"


def test_a_record_tells_what_it_recorded() -> None:
    name = "v1_policy_record/checkpoints/model_0006.pt"
    expected = told(name)["model_0006.pt"]
    reading = CHECKPOINT.read(GOLDEN / name)
    agent = dict(reading.components["agent"])
    assert agent.pop("_policy_store") is None
    assert_same(agent, expected["record_attributes"])
    assert reading.step == 192
    assert reading.details["class"].replace(":", ".") == expected["policy_class"]
    assert_modules(reading, expected)
    attributes = reading.details["attributes"]
    assert attributes["hidden_size"] == expected["hidden_size"]
    assert attributes["core_num_layers"] == expected["core_num_layers"]


def assert_modules(reading: Reading, expected: dict[str, Any]) -> None:
    classes = {key: label.replace(":", ".") for key, label in reading.details["classes"].items()}
    assert classes == expected["module_classes"]
    policy = reading.components["policy"]
    parameters = []
    for key, array in policy.items():
        tensor = reading.tensors.of(array)
        if tensor is not None and tensor.is_parameter:
            parameters.append(key)
    names = expected.get("parameter_names", expected.get("parameter_names_in_optimizer_order"))
    assert parameters == names


def test_a_whole_module_tells_its_classes_and_gives_its_weights_in_order() -> None:
    name = "v2_training/training_checkpoint.pt"
    reading = CHECKPOINT.read(GOLDEN / name)
    assert_modules(reading, told(name))
    buffers = set(reading.components["policy"]) - set(told(name)["parameter_names"])
    assert buffers == set(told(name)["buffer_names"])


def test_a_production_file_is_a_policy_and_what_names_its_actions() -> None:
    reading = CHECKPOINT.read(GOLDEN / "v2_production_minimal/production_model.pt")
    assert reading.components["agent"] == {
        "action_names": ["noop", "move", "rotate"],
        "model_config": {"hidden_size": 16},
    }
    assert reading.step is None


def test_the_state_of_the_trainer_is_as_it_was() -> None:
    name = "v1_policy_record/trainer_state.pt"
    reading = TRAINER.read(GOLDEN / name)
    expected = told(name)["trainer_state"]
    assert_same(reading.components["agent"], expected | expected.pop("extra"))
    assert (reading.step, reading.counters) == (192, {"epochs": 6})
    name = f"{HEAD}/trainer_state.pt"
    reading = TRAINER.read(GOLDEN / name)
    agent = dict(reading.components["agent"])
    arrays = expected_arrays(name, "trainer/")
    assert_same_arrays({"avg_reward": agent.pop("avg_reward")}, {
        "avg_reward": arrays["avg_reward"]})  # fmt: skip
    assert_same(agent, told(name)["trainer_state"])
    assert agent["loss_states"]["ppo"]["ent_coef"] == arrays["loss_states/ppo/ent_coef"]
    assert (reading.step, reading.counters) == (12345, {"epochs": 7})


def test_a_bundle_keeps_its_specification_as_text() -> None:
    name = f"{HEAD}/head_run-v7"
    reading = BUNDLE.read(GOLDEN / name)
    assert reading.kind == "policy"
    assert reading.components["agent"] == {"policy_spec": told(name)["policy_spec"]}
    packed = BUNDLE.read(GOLDEN / "head_run/remote/head_run-v8.zip")
    assert packed.kind == "checkpoint"
    agent = dict(packed.components["agent"]["trainer_state"])
    agent.pop("avg_reward")
    assert_same(agent, told(name)["trainer_state"])
    assert packed.step == 12345


@pytest.mark.parametrize("name", [*POLICIES, *OPTIMIZERS])
def test_what_the_file_does_not_hold_is_told_and_not_invented(name: str) -> None:
    format_ = (POLICIES | OPTIMIZERS)[name][0]
    reading = format_.read(GOLDEN / name)
    absent = {note.key for note in reading.notes if note.kind is Kind.ABSENT}
    assert not absent & set(reading.components)
    assert {"policy", "optimizer", "env", "rng"} <= absent | set(reading.components)
    if reading.step is None:
        assert not reading.counters


def test_weights_in_a_file_of_torch_stay_in_the_file(tmp_path: Path) -> None:
    weights = {"components.big": torch.arange(1 << 16, dtype=torch.float32)}
    torch.save(weights, tmp_path / "big.pt")
    reading = CHECKPOINT.read(tmp_path / "big.pt", max_bytes=100_000)
    array = reading.components["policy"]["components.big"]
    BUNDLE.write(content({"components.big": array}), tmp_path / "bundle")
    reading = BUNDLE.read(tmp_path / "bundle", max_bytes=100_000)
    array = reading.components["policy"]["components.big"]
    assert np.array_equal(array, np.arange(1 << 16, dtype=np.float32))


# --------------------------------------------------------------------------- other ages


@pytest.fixture
def metta() -> Iterator[types.SimpleNamespace]:
    """Classes by the names that Metta gave them, while a file is made."""

    def define(module: str, name: str, *bases: type) -> type:
        made = types.ModuleType(module)
        for part in itertools.accumulate(module.split("."), "{}.{}".format):
            made = sys.modules.setdefault(part, types.ModuleType(part))
        cls = type(name, bases, {"__module__": module})
        setattr(made, name, cls)
        return cls

    before = set(sys.modules)
    yield types.SimpleNamespace(
        Record=define("metta.agent.policy_record", "PolicyRecord"),
        Metadata=define("metta.agent.policy_metadata", "PolicyMetadata", dict),
        Agent=define("metta.agent.metta_agent", "MettaAgent", torch.nn.Module),
        Policy=define("metta.agent.brain_policy", "BrainPolicy", torch.nn.Module),
        OldRecord=define("metta.agent.policy_store", "PolicyRecord"),
    )
    for name in set(sys.modules) - before:
        del sys.modules[name]


def module_of(cls: Any, **children: Any) -> Any:
    made = cls()
    for name, child in children.items():
        setattr(made, name, child)
    return made


def record_of(cls: Any, **attributes: Any) -> Any:
    made = cls()
    vars(made).update(attributes)
    return made


def test_a_record_of_august_has_other_names_and_the_same_meaning(
    metta: types.SimpleNamespace, tmp_path: Path
) -> None:
    agent = module_of(metta.Agent, policy=torch.nn.Linear(2, 3))
    record = record_of(
        metta.Record, _policy_store=None, run_name="run", uri="file:///x",
        _metadata=metta.Metadata(agent_step=7, epoch=2, score=0.5), _cached_policy=agent,
    )  # fmt: skip
    torch.save(record, tmp_path / "model.pt")
    reading = CHECKPOINT.read(tmp_path / "model.pt")
    assert CHECKPOINT.sniff(tmp_path / "model.pt") is Confidence.CERTAIN
    assert reading.components["agent"] == {
        "_policy_store": None,
        "run_name": "run",
        "uri": "file:///x",
        "_metadata": {"agent_step": 7, "epoch": 2, "score": 0.5},
    }
    assert (reading.step, reading.counters, reading.metrics) == (7, {"epochs": 2}, {"score": 0.5})
    expected = {name: value.numpy() for name, value in agent.state_dict().items()}
    assert_same_arrays(reading.components["policy"], expected)


def test_an_agent_around_a_model_gives_the_names_of_the_model(
    metta: types.SimpleNamespace, tmp_path: Path
) -> None:
    policy = module_of(metta.Policy, components=torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3)}))
    record = record_of(metta.OldRecord, name="n", metadata={}, _policy=policy)
    torch.save(record, tmp_path / "record.pt")
    torch.save(module_of(metta.Agent, model=policy), tmp_path / "agent.pt")
    for name in ("record.pt", "agent.pt"):
        reading = CHECKPOINT.read(tmp_path / name)
        assert recognition.recognise(tmp_path / name) is CHECKPOINT
        assert list(reading.components["policy"]) == list(policy.state_dict())


def test_a_record_without_a_policy_or_with_something_else_is_refused(
    metta: types.SimpleNamespace, tmp_path: Path
) -> None:
    torch.save(record_of(metta.Record, uri="x", _metadata={}), tmp_path / "none.pt")
    with pytest.raises(FormatError, match="a record with its policy"):
        CHECKPOINT.read(tmp_path / "none.pt")
    odd = record_of(metta.Record, _cached_policy=metta.Metadata(a=1))
    torch.save(odd, tmp_path / "odd.pt")
    with pytest.raises(FormatError, match="expected a module of torch as policy"):
        CHECKPOINT.read(tmp_path / "odd.pt")


def test_a_record_where_a_tensor_is_expected_is_refused(
    metta: types.SimpleNamespace, tmp_path: Path
) -> None:
    weights = OrderedDict({"components.a": torch.zeros(1), "components.b": metta.Metadata(a=1)})
    torch.save(weights, tmp_path / "odd.pt")
    with pytest.raises(FormatError, match=r"policy/components\.b: expected a tensor, found"):
        CHECKPOINT.read(tmp_path / "odd.pt")


# --------------------------------------------------------------------------- what is written


def content(policy: Any, **agent: Any) -> Reading:
    spec = {"class_path": "metta.x", "data_path": "weights.safetensors", "init_kwargs": {}}
    return Reading(
        format="metta.bundle",
        components={"policy": policy, "agent": {"policy_spec": spec, **agent}},
    )


def test_a_standard_file_is_written_as_metta_writes_it(tmp_path: Path) -> None:
    reading = CHECKPOINT.read(GOLDEN / STANDARD)
    CHECKPOINT.write(reading, tmp_path / "again.pt")
    again = CHECKPOINT.read(tmp_path / "again.pt")
    assert again.details["layout"] == "standard"
    assert_same_arrays(again.components["policy"], expected_arrays(STANDARD, "params/model/"))
    assert_same(again.components["agent"], told(STANDARD)["fields"])
    # Metta loads with the whole of pickle; classes of Gymnasium are all that it has to import.
    loaded = torch.load(tmp_path / "again.pt", weights_only=False)
    assert list(loaded) == list(told(STANDARD)["keys"])
    assert type(loaded["model_state_dict"]) is OrderedDict
    assert loaded["metadata"]["action_space"].nvec.tolist() == [3, 4]
    for name, array in expected_arrays(STANDARD, "params/model/").items():
        tensor = loaded["model_state_dict"][name]
        assert tensor.numpy().tobytes() == array.tobytes()
        assert tensor.shape == array.shape


@pytest.mark.parametrize("name", [name for name in POLICIES if "v2" not in name])
def test_policies_of_every_age_become_standard_files(name: str, tmp_path: Path) -> None:
    reading = POLICIES[name][0].read(GOLDEN / name)
    components = {key: reading.components[key] for key in ("policy", "agent")
                  if key in reading.components}  # fmt: skip
    CHECKPOINT.write(replace(reading, components=components), tmp_path / "standard.pt")
    again = CHECKPOINT.read(tmp_path / "standard.pt")
    assert recognition.recognise(tmp_path / "standard.pt") is CHECKPOINT
    assert list(again.components["policy"]) == list(reading.components["policy"])
    assert_same_arrays(again.components["policy"], reading.components["policy"])
    assert again.step == reading.step


def test_a_plain_policy_of_another_library_loads_without_trust(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2, 2), "half": torch.ones(3, dtype=torch.bfloat16)},
               tmp_path / "other.pt")  # fmt: skip
    reading = torch_checkpoint.FORMAT.read(tmp_path / "other.pt")
    CHECKPOINT.write(replace(reading, step=9), tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert loaded["model_state_dict"]["half"].dtype is torch.bfloat16
    assert torch.equal(loaded["model_state_dict"]["half"], torch.ones(3, dtype=torch.bfloat16))
    assert loaded["metadata"] == {"agent_step": 9}
    assert loaded["checkpoint_format_version"] == 2


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("name", [f"{HEAD}/head_run-v7", "head_run/remote/head_run-v8.zip"])
def test_a_bundle_is_written_as_folder_and_as_archive(
    name: str, suffix: str, tmp_path: Path
) -> None:
    reading = BUNDLE.read(GOLDEN / name)
    path = tmp_path / f"run:v1{suffix}"
    BUNDLE.write(reading, path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    again = BUNDLE.read(path)
    assert recognition.recognise(path) is BUNDLE
    assert_same_arrays(again.components["policy"], reading.components["policy"])
    assert again.components["agent"]["policy_spec"] == reading.components["agent"]["policy_spec"]
    assert set(again.components) == set(reading.components)
    folder = path
    if suffix:
        folder = tmp_path / "unpacked"
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            archive.extractall(folder)
    specification = (GOLDEN / HEAD / "head_run-v7/policy_spec.json").read_bytes()
    assert (folder / "policy_spec.json").read_bytes() == specification
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    for key, array in reading.components["policy"].items():
        assert weights[key].numpy().tobytes() == array.tobytes()
    if "optimizer" in reading.components:
        ours = torch.load(folder / "trainer_state.pt", weights_only=True)
        metta_own = torch.load(GOLDEN / HEAD / "trainer_state.pt", weights_only=True)
        assert list(ours) == list(metta_own)
        assert repr(ours) == repr(metta_own)


def test_weights_that_numpy_has_no_type_for_go_through_a_bundle(tmp_path: Path) -> None:
    torch.save({"components.a": torch.linspace(0, 1, 5, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    reading = CHECKPOINT.read(tmp_path / "a.pt")
    BUNDLE.write(content(reading.components["policy"]), tmp_path / "bundle")
    found = safetensors.torch.load_file(tmp_path / "bundle/weights.safetensors")["components.a"]
    assert torch.equal(found, torch.linspace(0, 1, 5, dtype=torch.bfloat16))
    again = BUNDLE.read(tmp_path / "bundle")
    CHECKPOINT.write(replace(again, components={"policy": again.components["policy"]}),
                     tmp_path / "b.pt")  # fmt: skip
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)["model_state_dict"]
    assert torch.equal(loaded["components.a"], found)


def test_what_metta_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    weights = {"a": np.zeros(1, np.float32)}
    record = Record("evil.module:Class", {})
    many: list[tuple[Any, Reading, str]] = [
        (CHECKPOINT, Reading(format="x", components={"agent": {}}), "policy: expected arrays"),
        (CHECKPOINT, Reading(format="x", components={"policy": weights, "optimizer": {}}),
         "optimizer: a policy of Metta cannot hold it"),
        (CHECKPOINT, Reading(format="x", components={"policy": {"a": {}}}), "something else"),
        (CHECKPOINT, Reading(format="x", components={"policy": weights, "agent": []}),
         "agent to be a dictionary"),
        (CHECKPOINT, content(weights, odd=[record]), r"odd\[0\]: the record of evil.module:Class"),
        (CHECKPOINT, content(weights, odd=np.array([None])), "odd: an array of object"),
        (BUNDLE, Reading(format="x", components={"policy": weights}), "expected a specification"),
        (BUNDLE, content(weights, more=1), "agent.more: a bundle cannot hold it"),
        (BUNDLE, content({"a": np.zeros(1, "U3")}), "policy/a: safetensors has no type"),
    ]  # fmt: skip
    for format_, reading, words in many:
        for name in ("out", "out.zip"):
            with pytest.raises(UnsupportedError, match=words):
                format_.write(reading, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    reading = BUNDLE.read(GOLDEN / HEAD / "head_run-v7")
    for format_, source in ((BUNDLE, reading), (CHECKPOINT, CHECKPOINT.read(GOLDEN / STANDARD))):
        path = tmp_path / f"{format_.name}.zip"
        path.write_text("mine")
        with pytest.raises(AlreadyExistsError):
            format_.write(source, path)
        assert path.read_text() == "mine"


# --------------------------------------------------------------------------- bad input


def bundle_at(path: Path, specification: Any = None, weights: bytes | None = None) -> Path:
    """A copy of a bundle with something else in it."""
    source = GOLDEN / HEAD / "head_run-v7"
    path.mkdir()
    text = (source / "policy_spec.json").read_text()
    if isinstance(specification, dict):
        text = json.dumps(json.loads(text) | specification)
    (path / "policy_spec.json").write_text(
        specification if isinstance(specification, str) else text
    )
    data = (source / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(data if weights is None else weights)
    return path


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(*shape: int, at: tuple[int, int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


BAD_WEIGHTS: dict[str, tuple[bytes, type[RekindleError], str]] = {
    "nothing": (b"", DamagedError, "header does not end"),
    "an endless header": (b"\xff" * 8 + b"{}", DamagedError, "header does not end"),
    "no JSON": (b"\x04" + b"\0" * 7 + b"spam", FormatError, "a JSON header"),
    "cut": (header(a=entry(2, at=(0, 8))) + b"\0" * 7, DamagedError, "truncated"),
    "more at the end": (header(a=entry(2, at=(0, 8))) + b"\0" * 9, DamagedError, "a hole"),
    "an overlap": (header(a=entry(2, at=(0, 8)), b=entry(2, at=(4, 12))) + b"\0" * 12,
                   DamagedError, "an overlap"),
    "another size": (header(a=entry(3, at=(0, 8))) + b"\0" * 8, FormatError, "8 bytes for F32"),
    "a type of tomorrow": (header(a=entry(2, at=(0, 8), dtype="F3")) + b"\0" * 8, FormatError,
                           "type, shape and place"),
    "a negative shape": (header(a=entry(-1, -2, at=(0, 8))) + b"\0" * 8, FormatError, "natural"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_damaged_have_their_own_error(case: str, tmp_path: Path) -> None:
    data, error, words = BAD_WEIGHTS[case]
    path = bundle_at(tmp_path / "bundle", weights=data)
    with pytest.raises(error, match=words) as caught:
        BUNDLE.read(path)
    assert type(caught.value) is error


def test_a_bundle_with_a_part_missing_or_malformed_says_which(tmp_path: Path) -> None:
    path = bundle_at(tmp_path / "no_weights")
    (path / "weights.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"expected the file 'weights\.safetensors'"):
        BUNDLE.read(path)
    with pytest.raises(FormatError, match="expected JSON"):
        BUNDLE.read(bundle_at(tmp_path / "no_json", specification='{"class_path": '))
    with pytest.raises(FormatError, match="found it without data_path, init_kwargs"):
        BUNDLE.read(bundle_at(tmp_path / "less", specification='{"class_path": "x"}'))
    with pytest.raises(FormatError, match="a folder or a ZIP archive"):
        BUNDLE.read(GOLDEN / HEAD / "head_run-v7/policy_spec.json")
    with pytest.raises(NotFoundError, match=r"policy_spec\.json"):
        BUNDLE.read(GOLDEN / HEAD)
    assert BUNDLE.sniff(GOLDEN / HEAD) is None


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "C:x", "..", "a\\b"])
def test_weights_outside_the_bundle_are_never_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    path = bundle_at(tmp_path / "bundle", specification={"data_path": name})
    with pytest.raises(UnsafeError, match="Nothing outside the bundle is opened"):
        BUNDLE.read(path)


def test_a_script_in_the_specification_is_shown_and_never_opened(tmp_path: Path) -> None:
    script = tmp_path / "setup.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = bundle_at(tmp_path / "bundle", specification={"setup_script": str(script)})
    notes = [note for note in BUNDLE.read(path).notes if note.kind is Kind.IGNORED]
    assert [note.key for note in notes] == ["agent.policy_spec.setup_script"]
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_damaged_and_of_no_known_kind(tmp_path: Path) -> None:
    compressed = [name for name in POLICIES if name.endswith((".gz", ".zst", ".zip"))]
    for name in (STANDARD, *compressed):
        data = (GOLDEN / name).read_bytes()
        path = tmp_path / "cut"
        path.write_bytes(data[: len(data) // 2])
        assert POLICIES[name][0].sniff(path) is None
        with pytest.raises(DamagedError):
            POLICIES[name][0].read(path)


def test_other_files_of_torch_are_not_taken_for_metta(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 1, "agent_step": 1}, tmp_path / "other.pt")
    torch.save({"optimizer": {"state": 1}, "epoch": 1, "agent_step": 2, "loss_states": {}},
               tmp_path / "odd.pt")  # fmt: skip
    counts = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 1, "agent_step": 2}
    torch.save(counts, tmp_path / "bare.pt")
    assert TRAINER.sniff(tmp_path / "bare.pt") is Confidence.LAYOUT
    assert TRAINER.sniff(GOLDEN / HEAD / "trainer_state.pt") is Confidence.CERTAIN
    for format_ in (CHECKPOINT, TRAINER, BUNDLE):
        assert format_.sniff(tmp_path / "other.pt") is None
        assert format_.sniff(tmp_path) is None
    with pytest.raises(FormatError, match="Read it as the format torch"):
        CHECKPOINT.read(tmp_path / "other.pt")
    with pytest.raises(FormatError, match="with state and param_groups, found none"):
        TRAINER.read(tmp_path / "other.pt")
    with pytest.raises(FormatError, match="with state and param_groups, found dict"):
        TRAINER.read(tmp_path / "odd.pt")


def test_memory_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="max_bytes"):
        CHECKPOINT.read(GOLDEN / "v2_standard_gzip/checkpoint.pt.gz", max_bytes=50_000)
    with pytest.raises(UnsafeError, match="max_bytes"):
        BUNDLE.read(GOLDEN / "head_run/remote/head_run-v8.zip", max_bytes=50_000)

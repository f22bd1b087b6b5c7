"""Conversion: exact there and back, nothing dropped in silence, nothing that will not load."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.same_readings import differences

import rekindle as rk
from rekindle.contents import contents
from rekindle.converting import write
from rekindle.formats import recognition
from rekindle.formats.protocol import Kind, Note, Reading
from rekindle.pickles.records import Recorded, RecordedFunction
from rekindle.state import Record, Reference
from rekindle.tensors import Tensor, Tensors, numpy_type

GOLDEN = Path(__file__).parent / "golden"
VELORA = GOLDEN / "velora" / "ct_buffer_config" / "saves" / "InvertedPendulum_10"
COGYM = GOLDEN / "cogym" / "SAC" / "checkpoint_1"
EQUINOX = GOLDEN / "equinox" / "mlp" / "mlp.eqx"

OTHER_LAYOUTS = {
    "metta.checkpoint": "metta/[!v]*",
    "metta.checkpoint ": "metta/v1_*",
    "metta.checkpoint  ": "metta/v2_[!s]*",
    "metta.checkpoint   ": "metta/v2_standard_*",
    "cogym": "cogym/*.pt",
    "cogym ": "cogym/*.pickle",
    "torch": "torch/*",
    "safetensors": "velora/discrete_untrained/*/optim_state.safetensors",
}
"""What is written in another layout than it had: a part of one, an older one, a whole module, where
its state dict is written; and a file of no arrays."""
SAME_BYTES = ("equinox", "lerax")
"""Formats whose files come back byte for byte. Not those with safetensors, whose header is laid out
in another way, nor archives of torch and SB3, which hold other times and pickles."""


def found() -> Iterator[tuple[Path, str]]:
    """Every checkpoint of another library that stands in the tree, with its format."""
    for path in sorted(GOLDEN.rglob("*")):
        name = path.relative_to(GOLDEN).as_posix()
        if name.startswith("rekindle") or path.name.startswith("expected") or path.suffix == ".py":
            continue
        try:
            format_ = recognition.recognise(path)
        except rk.RekindleError:
            continue
        if not format_.checkpoints(path):
            yield path, format_.name


FOUND = list(found())


def writable() -> Iterator[tuple[Path, str]]:
    for path, name in FOUND:
        inside = path.relative_to(GOLDEN).as_posix()
        is_other = any(
            fnmatch.fnmatchcase(inside, pattern) and key.strip() == name
            for key, pattern in OTHER_LAYOUTS.items()
        )
        if recognition.named(name).can_write and not is_other:
            yield path, name


def label(value: Any) -> str:
    return value.relative_to(GOLDEN).as_posix() if isinstance(value, Path) else str(value)


WRITABLE = list(writable())


def test_there_is_a_file_of_every_format() -> None:
    assert len(FOUND) > 80
    assert len(WRITABLE) > 30
    assert {name for _, name in WRITABLE} >= {
        "velora", "cogym", "equinox", "lerax", "metta.checkpoint", "metta.bundle", "sb3.model",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "name"), FOUND, ids=label)
def test_a_converted_checkpoint_holds_all_that_was_read(
    path: Path, name: str, tmp_path: Path
) -> None:
    report = rk.convert(path, tmp_path / "ours")
    assert (report.format, report.source_format, report.lost) == ("rekindle", name, ())
    assert differences(contents(path), contents(tmp_path / "ours")) == []
    assert rk.verify(tmp_path / "ours")


@pytest.mark.parametrize(("path", "name"), WRITABLE, ids=label)
def test_the_way_there_and_back_is_exact(path: Path, name: str, tmp_path: Path) -> None:
    rk.convert(path, tmp_path / "ours")
    back = tmp_path / "back" / path.name
    report = rk.convert(tmp_path / "ours", back, name)
    assert report.lost == ()
    facts = ("kind", "version", "step", "counters", "metrics", "spaces", "environment", "details")
    # A file of safetensors lists its arrays in an order of its own; YAML and JSON share nothing.
    assert differences(contents(path), contents(back), facts, is_ordered=False) == []
    if name in SAME_BYTES:
        for file in [back] if back.is_file() else sorted(back.rglob("*")):
            original = path / file.relative_to(back)
            assert file.is_dir() or file.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("name", ["module.pt", "module_legacy.pt", "tensors.pt", "script.pt"])
def test_a_file_of_torch_comes_back_with_the_same_arrays(name: str, tmp_path: Path) -> None:
    path = GOLDEN / "torch" / name
    rk.convert(path, tmp_path / "ours")
    rk.convert(tmp_path / "ours", tmp_path / "back.pt", "torch")
    before, after = contents(path), contents(tmp_path / "back.pt")
    assert list(before.components) == list(after.components)
    count = 0
    for key, array in before.components["policy"].items():
        found = after.components["policy"][key]
        assert (array.dtype, array.shape) == (found.dtype, found.shape), key
        assert array.tobytes() == found.tobytes(), key
        count += 1
    assert count > 1


@pytest.mark.parametrize(
    "name", ["raw_module/model_0043.pt", "v1_policy_record/checkpoints/model_0006.pt"]
)
def test_an_older_layout_comes_back_with_the_same_arrays(name: str, tmp_path: Path) -> None:
    path = GOLDEN / "metta" / name
    rk.convert(path, tmp_path / "ours")
    rk.convert(tmp_path / "ours", tmp_path / "back.pt", "metta")
    before, after = contents(path).components, contents(tmp_path / "back.pt").components
    assert list(before["policy"]) == list(after["policy"])
    for key, array in before["policy"].items():
        assert array.tobytes() == after["policy"][key].tobytes()


# --------------------------------------------------------------------------- values of every kind


def reading(**components: Any) -> Reading:
    return Reading(format="torch", components=components, notes=(Note(Kind.ABSENT, "env", "no"),))


def through(content: Reading, directory: Path) -> Reading:
    write(content, directory / "made")
    return contents(directory / "made")


def special(kind: str) -> np.dtype[Any]:
    found = numpy_type(kind)
    assert found is not None
    return found


def test_tensors_of_types_that_numpy_lacks_come_back(tmp_path: Path) -> None:
    tensors = Tensors()
    kinds = {"bfloat16": "<u2", "float8_e4m3fn": "u1", "float8_e4m3fnuz": "u1", "complex32": "<u4"}
    arrays: dict[str, Any] = {}
    for index, (kind, bits) in enumerate(kinds.items()):
        array: Any = np.arange(6).astype(bits).view(special(kind)).reshape(2, 3)
        is_leaf = index % 2 == 0
        arrays[kind] = tensors.note(
            Tensor(array, kind, "cuda:0" if is_leaf else "cpu", is_leaf, is_leaf)
        )
    arrays["plain"] = np.arange(4).astype("<u2").view(special("bfloat16"))
    arrays["complex"] = tensors.note(Tensor(np.array([1 + 2j]), "complex128"))
    content = Reading(format="torch", components={"policy": arrays}, tensors=tensors)
    assert differences(content, through(content, tmp_path)) == []


def test_one_memory_stays_one_memory(tmp_path: Path) -> None:
    memory = np.arange(12.0)
    content = reading(policy={"all": memory, "part": memory[3:6], "again": memory})
    found = through(content, tmp_path).components["policy"]
    assert differences(content, through(content, tmp_path / "b")) == []
    assert found["again"] is found["all"]
    assert np.shares_memory(found["all"], found["part"])


def test_what_a_pickle_told_of_objects_comes_back(tmp_path: Path) -> None:
    inner = Recorded("a.b:C", is_object=True)
    inner.adopt({"x": np.arange(3), "self": inner, "$y": 1})
    inner.elements = [1, "two"]
    call = Recorded("operator:attrgetter")
    call.arguments, call.keywords, call.state = (1, inner), {"k": b"v"}, [inner]
    call.pairs = {("a", 1): inner}
    function = RecordedFunction("m:<lambda>")
    function.adopt({"code": Record("types:CodeType", {"names": ("a",)}), "of": Reference("m:n")})
    content = reading(agent={"call": call, "function": function, Reference("m:key"): 1})
    assert differences(content, through(content, tmp_path)) == []


def test_orders_in_memory_come_back(tmp_path: Path) -> None:
    content = reading(agent=[np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.zeros((0, 3))])
    assert differences(content, through(content, tmp_path)) == []


def test_a_step_that_was_not_told_stays_untold(tmp_path: Path) -> None:
    assert contents(EQUINOX).step is None
    rk.convert(EQUINOX, tmp_path / "made")
    assert rk.open(tmp_path / "made").step == 0
    assert contents(tmp_path / "made").step is None


def test_the_name_of_the_origin_is_taken(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match="no component of the name 'origin'"):
        write(reading(origin={"a": 1}), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_component_that_only_has_the_name_is_a_component(tmp_path: Path) -> None:
    rk.save(tmp_path / "made", origin={"x": 1}, policy=np.zeros(3))
    assert rk.open(tmp_path / "made").load()["origin"] == {"x": 1}


# --------------------------------------------------------------------------- what is lost


def test_what_the_target_cannot_hold_is_told(tmp_path: Path) -> None:
    report = rk.convert(COGYM, tmp_path / "policy.pt", "metta")
    assert [part.component for part in report.carried] == ["policy", "agent"]
    lost = {part.key for part in report.lost}
    assert lost == {
        "critic", "policy_optimizer", "critic_optimizer", "alpha_optimizer", "replay_buffer",
        "progress", "metrics",
    }  # fmt: skip
    assert "lost replay_buffer: a policy of Metta cannot hold it" in str(report)
    assert set(contents(tmp_path / "policy.pt").components) == {"policy", "agent"}


def test_a_target_that_would_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"policy_optimizer: expected it") as caught:
        rk.convert(VELORA, tmp_path / "out", "cogym")
    assert str(tmp_path / "out") in str(caught.value)
    assert ".tmp-" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_live_checkpoint_becomes_a_file_of_another_library(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    policy = torch.nn.Linear(4, 2)
    rk.save(tmp_path / "live", policy=policy, progress={"step": 7}, step=7)
    report = rk.convert(tmp_path / "live", tmp_path / "model.pt", "metta")
    assert {part.key for part in report.lost} == {"progress"}
    state = torch.load(tmp_path / "model.pt", weights_only=True)["model_state_dict"]
    assert all(torch.equal(state[key], value) for key, value in policy.state_dict().items())


def test_a_converted_checkpoint_restores_as_what_it_was(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    trained, fresh = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    torch.save(trained.state_dict(), tmp_path / "policy.pt")
    rk.convert(tmp_path / "policy.pt", tmp_path / "ours.zip")
    report = rk.restore(tmp_path / "ours.zip", policy=fresh)
    assert report.components == ("policy",)
    assert torch.equal(fresh.weight, trained.weight)
    loaded = rk.load(tmp_path / "ours.zip", ["policy"], to="torch")["policy"]
    assert torch.equal(loaded["bias"], trained.bias)


def test_a_folder_of_sb3_goes_there_and_back_whole(tmp_path: Path) -> None:
    folder = GOLDEN / "sb3" / "v2.9.2" / "checkpoint_callback" / "ckpts"
    rk.convert(folder, tmp_path / "ours")
    report = rk.convert(tmp_path / "ours", tmp_path / "back", "sb3")
    assert (report.format, report.lost) == ("sb3.folder", ())
    before, after = contents(folder), contents(tmp_path / "back")
    assert set(before.components) >= {"policy", "agent", "replay_buffer", "normalizer"}
    assert differences(before, after, ("step", "spaces"), is_ordered=False, is_shared=False) == []


def test_what_sb3_means_goes_by_what_there_is(tmp_path: Path) -> None:
    folder = GOLDEN / "sb3" / "v2.9.2" / "checkpoint_callback" / "ckpts"
    rk.convert(folder, tmp_path / "ours")
    report = rk.convert(tmp_path / "ours", tmp_path / "model.zip", "sb3")
    assert report.format == "sb3.model"
    assert {part.key for part in report.lost} == {"replay_buffer", "normalizer"}
    rk.convert(folder.parent / "replay_buffer.pkl", tmp_path / "rows")
    report = rk.convert(tmp_path / "rows", tmp_path / "rows.pkl", "sb3")
    assert (report.format, report.lost) == ("sb3.replay_buffer", ())


def test_what_any_file_holds_is_not_told_as_lost(tmp_path: Path) -> None:
    rk.save(tmp_path / "ours", policy={"w": np.zeros(3)}, agent={"gamma": 0.5, "seed": None})
    report = rk.convert(tmp_path / "ours", tmp_path / "policy.pt", "torch")
    assert report.lost == ()


def test_what_is_ours_is_copied(tmp_path: Path) -> None:
    rk.save(tmp_path / "one", policy=np.arange(5.0), step=3)
    report = rk.convert(tmp_path / "one", tmp_path / "two.zip")
    assert (report.step, report.format, [part.component for part in report.carried]) == (
        3, "rekindle", ["policy"],
    )  # fmt: skip
    assert rk.verify(tmp_path / "two.zip")


# --------------------------------------------------------------------------- names and places


def test_the_names_of_formats(tmp_path: Path) -> None:
    with pytest.raises(rk.FormatError, match=r"nothing: expected a format, one of rekindle, metta"):
        rk.convert(EQUINOX, tmp_path / "out", "nothing")
    with pytest.raises(rk.UnsupportedError, match=r"metta.trainer_state: .* only reads"):
        rk.convert(EQUINOX, tmp_path / "out", "metta.trainer_state")


def test_the_format_to_read_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(rk.FormatError, match="Read it as the format equinox"):
        rk.convert(EQUINOX, tmp_path / "out", format="lerax")
    assert rk.convert(EQUINOX, tmp_path / "out", format="equinox").source_format == "equinox"


def test_what_is_there_stays_unless_asked(tmp_path: Path) -> None:
    for to in ("rekindle", "equinox"):
        out = tmp_path / to
        rk.convert(EQUINOX, out, to)
        with pytest.raises(rk.AlreadyExistsError):
            rk.convert(EQUINOX, out, to)
        rk.convert(EQUINOX, out, to, overwrite=True)
        assert differences(contents(EQUINOX), contents(out), ("step",)) == []


@pytest.mark.parametrize("to", ["rekindle", "equinox"])
def test_nothing_but_a_checkpoint_is_replaced(to: str, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("three years")
    folder = tmp_path / "folder"
    shutil.copytree(VELORA, folder)
    for path in (thesis, folder):
        with pytest.raises(rk.FormatError, match="found something else, which stays"):
            rk.convert(EQUINOX, path, to, overwrite=True)
    assert thesis.read_text() == "three years"
    assert contents(folder).format == "velora"


def test_a_checkpoint_replaces_itself(tmp_path: Path) -> None:
    path = tmp_path / "mlp.eqx"
    shutil.copy(EQUINOX, path)
    rk.convert(path, path, "equinox", overwrite=True)
    assert path.read_bytes() == EQUINOX.read_bytes()


def test_files_beside_a_folder_are_put_there_once(tmp_path: Path) -> None:
    rk.convert(VELORA, tmp_path / "ours")
    saves = tmp_path / "saves"
    rk.convert(tmp_path / "ours", saves / "a", "velora")
    rk.convert(tmp_path / "ours", saves / "b", "velora")
    assert sorted(path.name for path in saves.iterdir()) == ["a", "b", "model_config.json"]
    (saves / "model_config.json").write_text(json.dumps({"agent": "another"}))
    with pytest.raises(rk.AlreadyExistsError, match="found other content"):
        rk.convert(tmp_path / "ours", saves / "c", "velora")
    assert not (saves / "c").exists()


def test_a_writer_that_leaves_an_array_out_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format_ = recognition.named("equinox")
    whole = type(format_).write

    def careless(self: Any, content: Reading, path: Path) -> None:
        leaves = content.components["agent"][:-1]
        whole(self, Reading(format="equinox", components={"agent": leaves}), path)

    monkeypatch.setattr(type(format_), "write", careless)
    with pytest.raises(rk.UnsupportedError, match="expected every array of agent"):
        rk.convert(EQUINOX, tmp_path / "out", "equinox")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- cost


def test_arrays_are_not_loaded_as_a_whole(tmp_path: Path) -> None:
    source = tmp_path / "big.eqx"
    with source.open("wb") as file:
        for index in range(3):
            np.save(file, np.arange(1 << 23, dtype=np.float32) + index)
    size = source.stat().st_size
    for begin, end, to in (("big.eqx", "ours", "rekindle"), ("ours", "back.eqx", "equinox")):
        tracemalloc.start()
        try:
            rk.convert(tmp_path / begin, tmp_path / end, to)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < size / 4, f"{peak:,} of {size:,}"
    assert source.read_bytes() == (tmp_path / "back.eqx").read_bytes()

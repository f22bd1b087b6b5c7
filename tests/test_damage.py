"""Every byte that is not as written is found, and costs no more than what it damages."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle import files

STEP = 1000
FILES = ("agent.json", "agent.safetensors", "policy.json", "policy.safetensors", "progress.json")


def live() -> dict[str, Any]:
    return {
        "policy": {"weights": np.zeros((4, 3), np.float32), "bias": np.zeros(3)},
        "agent": {"name": "", "seen": 0, "table": np.zeros(6, np.int64)},
        "progress": rk.Progress(),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with checkpoints at two steps."""
    path = tmp_path_factory.mktemp("made") / "run"
    state = live()
    with rk.Run(path) as run:
        run.track(**state)
        run.resume()
        for factor in (1, 2):
            state["policy"]["weights"] += np.arange(12, dtype=np.float32).reshape(4, 3)
            state["policy"]["bias"] += factor
            state["agent"] |= {"name": "ada" * factor, "seen": factor}
            state["agent"]["table"] += np.arange(6)
            state["progress"].step = STEP * factor
            run.save()
    return path


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def checkpoint(run) -> Path:
    """The newer one."""
    return run / f"step_{2 * STEP:09d}"


def flip(path: Path, index: int) -> bytes:
    """Change one bit of one byte; the bytes as they were."""
    before = path.read_bytes()
    after = bytearray(before)
    after[index] ^= 1 << index % 8
    path.write_bytes(after)
    return before


def assert_untouched(state: dict[str, Any]) -> None:
    table = state["agent"]["table"]
    assert state["agent"] == {"name": "", "seen": 0, "table": table}
    assert table.tolist() == [0] * 6
    assert [*map(np.any, state["policy"].values())] == [False, False]
    assert vars(state["progress"]) == vars(rk.Progress())


def seal(path: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
    """Change a manifest and give it the digest that it should then have, as an attacker can."""
    content = json.loads((path / "checkpoint.json").read_bytes())
    change(content)
    content.pop("digest")
    text = json.dumps(content | {"digest": "0" * 64}, indent=2) + "\n"
    digest = files.digest(text.encode())
    (path / "checkpoint.json").write_text(text.replace("0" * 64, digest))


def put(path: Path, name: str, data: bytes) -> None:
    """Give one file other bytes, and make the manifest say that these are the right ones."""
    (path / name).unlink(missing_ok=True)
    (path / name).write_bytes(data)
    entry = {"bytes": len(data), "blake3": files.digest(data)}
    seal(path, lambda content: content["files"].update({name: entry}))


def component_of(name: str) -> str:
    return name.partition(".")[0]


def assert_refused(checkpoint: Path, name: str, error: type[rk.RekindleError]) -> None:
    """What needs this file refuses, and everything else still loads."""
    with pytest.raises(error, match=name) as raised:
        rk.load(checkpoint, [component_of(name)])
    assert raised.value.key == name
    others = sorted({component_of(file) for file in FILES} - {component_of(name)})
    assert sorted(rk.load(checkpoint, others)) == others


def resumed(run: Path) -> rk.RestoreReport:
    with rk.Run(run) as again:
        again.track(**live())
        report = again.resume()
    assert report is not None
    return report


# --------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_of_a_file_is_found(checkpoint, name):
    path = checkpoint / name
    for index in range(path.stat().st_size):
        before = flip(path, index)
        report = rk.verify(checkpoint)
        assert not report.ok
        assert [found.key for found in report.differences] == [name]
        assert report.differences[0].expected == f"blake3 {files.digest(before)}"
        assert report.differences[0].found == f"blake3 {files.digest(path.read_bytes())}"
        with pytest.raises(rk.DamagedError) as raised:
            rk.load(checkpoint, [component_of(name)])
        assert raised.value.key == name
        assert raised.value.differences == report.differences
        path.write_bytes(before)
    assert rk.verify(checkpoint)


def test_every_flipped_byte_of_the_manifest_is_found(checkpoint):
    path = checkpoint / "checkpoint.json"
    for index in range(path.stat().st_size):
        before = flip(path, index)
        with pytest.raises(rk.DamagedError):
            rk.open(checkpoint)
        report = rk.verify(checkpoint)
        assert [found.key for found in report.differences] == ["checkpoint.json"]
        path.write_bytes(before)
    assert rk.verify(checkpoint)


def test_every_flipped_byte_of_a_header_of_arrays_is_survived_without_a_check(checkpoint):
    path = checkpoint / "policy.safetensors"
    expected = rk.load(checkpoint)["policy"]
    length = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    refusals = 0
    for index in range(length):
        before = flip(path, index)
        try:
            found = rk.open(checkpoint)["policy"]
            assert {*found} == {*expected}
        except rk.RekindleError:
            refusals += 1
        path.write_bytes(before)
    assert refusals > length // 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_byte_harms_its_component_alone_and_the_run_falls_back(
    run, checkpoint, name, where
):
    size = (checkpoint / name).stat().st_size
    flip(checkpoint / name, {"first": 0, "middle": size // 2, "last": size - 1}[where])

    assert_refused(checkpoint, name, rk.DamagedError)
    state = live()
    with pytest.raises(rk.DamagedError, match=name):
        rk.restore(checkpoint, **state)
    assert_untouched(state)
    report = resumed(run)
    assert report.step == STEP
    assert [skipped for skipped, _ in report.skipped] == [checkpoint.name]
    assert name in report.skipped[0][1]
    assert "blake3" in report.skipped[0][1]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(run, checkpoint, name):
    data = (checkpoint / name).read_bytes()
    for length in sorted({0, 1, 7, 8, len(data) // 2, len(data) - 1}):
        (checkpoint / name).write_bytes(data[:length])
        report = rk.verify(checkpoint)
        assert [str(found) for found in report.differences] == [
            f"{name}: expected {len(data)} bytes, found {length} bytes"
        ]
        assert_refused(checkpoint, name, rk.DamagedError)
        with pytest.raises(rk.DamagedError):
            rk.open(checkpoint)[component_of(name)]
    assert resumed(run).step == STEP


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_has_grown_is_found(run, checkpoint, name):
    with (checkpoint / name).open("ab") as file:
        file.write(b" ")
    assert [found.key for found in rk.verify(checkpoint).differences] == [name]
    assert_refused(checkpoint, name, rk.DamagedError)
    assert resumed(run).step == STEP


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(run, checkpoint, name):
    size = (checkpoint / name).stat().st_size
    (checkpoint / name).unlink()
    assert [str(found) for found in rk.verify(checkpoint).differences] == [
        f"{name}: expected {size} bytes, found no file"
    ]
    assert_refused(checkpoint, name, rk.DamagedError)
    report = resumed(run)
    assert report.step == STEP
    assert "no file" in report.skipped[0][1]


@pytest.mark.parametrize("name", ["notes.txt", "below/notes.txt", "a link"])
def test_an_extra_file_is_found(run, checkpoint, name):
    (checkpoint / name).parent.mkdir(exist_ok=True)
    if name == "a link":
        (checkpoint / name).symlink_to(run)
    else:
        (checkpoint / name).write_text("mine")
    assert [str(found) for found in rk.verify(checkpoint).differences] == [
        f"{name}: expected no such file, found an extra file"
    ]
    assert sorted(rk.load(checkpoint)) == ["agent", "policy", "progress"]
    report = resumed(run)
    assert report.step == STEP
    assert name in report.skipped[0][1]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [empty, fill_with_zeros, halve])
def test_a_harmed_manifest_is_damage(run, checkpoint, harm):
    harm(checkpoint / "checkpoint.json")
    with pytest.raises(rk.DamagedError, match=r"checkpoint\.json"):
        rk.load(checkpoint)
    assert [found.key for found in rk.verify(run).differences] == [
        f"{checkpoint.name}/checkpoint.json"
    ]
    report = resumed(run)
    assert report.step == STEP
    assert [name for name, _ in report.skipped] == [checkpoint.name]


def test_a_checkpoint_without_its_manifest_is_none(run, checkpoint):
    (checkpoint / "checkpoint.json").unlink()
    with pytest.raises(rk.NotFoundError, match="a directory without one"):
        rk.open(checkpoint)
    with pytest.raises(rk.NotFoundError):
        rk.verify(checkpoint)
    assert [str(found) for found in rk.verify(run).differences] == [
        f"{checkpoint.name}/checkpoint.json: expected a manifest, found no file"
    ]
    assert resumed(run).step == STEP


def test_verify_lists_every_damaged_file_of_every_checkpoint(run):
    for step, name in ((STEP, "agent.json"), (2 * STEP, "policy.json"), (2 * STEP, "agent.json")):
        flip(run / f"step_{step:09d}" / name, 3)
    report = rk.verify(run)
    assert [found.key for found in report.differences] == [
        "step_000001000/agent.json",
        "step_000002000/policy.json",
        "step_000002000/agent.json",
    ]
    assert report.num_checkpoints == 2
    assert not report


# --------------------------------------------------------------------------- hostile names


@pytest.mark.parametrize(
    "name",
    ["../secret.json", "/etc/passwd", "a/../../secret.json", "./secret.json", "a//secret.json",
     "a/", "", ".", "..", "a\\b", "C:secret.json", "a\0b"],
)  # fmt: skip
def test_a_name_that_leaves_the_checkpoint_is_refused(run, checkpoint, name):
    secret = b'{"root": "secret"}'
    (run / "secret.json").write_bytes(secret)
    entry = {"bytes": len(secret), "blake3": files.digest(secret)}

    def point_outside(content: dict[str, Any]) -> None:
        content["files"][name] = entry
        content["components"]["agent"]["document"] = name

    seal(checkpoint, point_outside)
    for use in (rk.open, rk.load, rk.verify, lambda path: rk.restore(path, **live())):
        with pytest.raises(rk.UnsafeError, match="not a plain path"):
            use(checkpoint)


@pytest.mark.parametrize("name", ["agent.json", "policy.safetensors"])
def test_a_link_in_place_of_a_file_is_refused(run, checkpoint, name):
    shutil.move(checkpoint / name, run / name)
    (checkpoint / name).symlink_to(run / name)
    with pytest.raises(rk.UnsafeError, match="symbolic link"):
        rk.load(checkpoint, [component_of(name)])
    with pytest.raises(rk.UnsafeError, match="symbolic link"):
        rk.verify(checkpoint)


def test_a_link_in_place_of_a_directory_is_refused(run, checkpoint):
    (run / "elsewhere").mkdir()
    data = (checkpoint / "agent.json").read_bytes()
    (run / "elsewhere" / "agent.json").write_bytes(data)
    (checkpoint / "part").symlink_to(run / "elsewhere")

    def point_there(content: dict[str, Any]) -> None:
        content["files"]["part/agent.json"] = content["files"].pop("agent.json")
        content["components"]["agent"]["document"] = "part/agent.json"

    seal(checkpoint, point_there)
    with pytest.raises(rk.UnsafeError, match="symbolic link"):
        rk.load(checkpoint, ["agent"])


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(checkpoint):
    (checkpoint / "agent.json").unlink()
    os.mkfifo(checkpoint / "agent.json")
    for use in (rk.load, rk.verify):
        with pytest.raises(rk.UnsafeError, match="regular file"):
            use(checkpoint)


# --------------------------------------------------------------------------- hostile documents

MALFORMED = {
    "an unknown tag": {"$what": 1},
    "a shared value that is missing": {"$ref": "agent#99"},
    "a shared value without a number": {"$ref": "agent#x"},
    "a reference that is a number": {"$ref": 5},
    "an array that is missing": {"$array": "agent/none"},
    "an array of another component that is missing": {"$array": "policy/none"},
    "an array whose name is a number": {"$array": 7},
    "an array without a component": {"$array": "weights"},
    "an array of no type": {"$array": "agent/table", "dtype": "|O8"},
    "an array of another type": {"$array": "agent/table", "dtype": "|S7"},
    "an array of an impossible shape": {"$array": "agent/table", "shape": [5, 7]},
    "a view below its host": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                              "offset": -4, "shape": [1], "strides": [4]},
    "a view beyond its host": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                               "offset": 44, "shape": [2], "strides": [4]},
    "a view backwards": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                         "offset": 4, "shape": [3], "strides": [-4]},
    "a view of a negative shape": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                                   "offset": 0, "shape": [-1], "strides": [4]},
    "a view of fractions": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                            "offset": 0.5, "shape": [1], "strides": [4]},
    "a view of too few strides": {"$view": "agent/table", "name": "agent/v", "dtype": "<f4",
                                  "offset": 0, "shape": [1, 1], "strides": [4]},
    "a view of nothing": {"$view": "policy/none", "name": "agent/v", "dtype": "<f4",
                          "offset": 0, "shape": [1], "strides": [4]},
    "a view without a layout": {"$view": "agent/table", "name": "agent/v"},
    "a tuple that is a number": {"$tuple": 5},
    "a list that is a number": {"$list": 5},
    "a dictionary of odd items": {"$dict": [[1, 2, 3]]},
    "a deque of strange length": {"$deque": [], "maxlen": "x"},
    "a slice of five": {"$slice": [1, 2, 3, 4, 5]},
    "objects of another shape": {"$objects": [1, 2], "shape": [3]},
    "objects of a vast shape": {"$objects": [1, 2], "shape": [10**10]},
    "an object without attributes": {"$object": "builtins:dict"},
    "an enumeration without a value": {"$enum": "os:system"},
    "a named tuple without fields": {"$namedtuple": "os:system"},
    "a partial of nothing": {"$partial": None},
    "bytes that are no base64": {"$bytes": "!"},
    "a float that is none": {"$float": "one"},
    "a date that is none": {"$date": "yesterday"},
    "a scalar of objects": {"$scalar": "|O8", "bytes": "AAAA"},
    "a time zone that is a file": {"$zone": "../../../etc/passwd"},
    "a type without end": {"$dtype": {"base": {"base": {"base": {}}}}},
}  # fmt: skip

UNFIT = {
    "an array of no library": {"$array": "agent/table", "library": "../../evil"},
    "a set that holds a list": {"$set": [[1]]},
    "a frozenset that holds a list": {"$frozenset": [[1]]},
    "a dictionary with a list as key": {"$dict": [[[1], 2]]},
    "a dictionary of no class": {"$dict": [[1, 2]], "class": "os:system"},
    "an adapter that is none": {"$adapter": "os.system", "class": "os:system", "state": {}},
    "an adapter without a state": {"$adapter": "generators.python", "class": "random:Random"},
    "a generator of no kind": {"$adapter": "generators.numpy_bits", "class": "numpy:random.X",
                               "state": {"bit_generator": "seed"}},
    "an object of a class that is a number": {"$object": 5, "attributes": {}},
    "an array of strange strides": {"$array": "agent/table", "strides": ["a"]},
    "an array of too few strides": {"$array": "agent/table", "strides": []},
}  # fmt: skip
"""Those that can be read as data, but that no live object can take."""


def as_root(node: Any) -> dict[str, Any]:
    return {"agent.json": node}


def below_the_root(node: Any) -> dict[str, Any]:
    table = {"$array": "agent/table"}
    if table.items() <= node.items():
        table, node = node, 1
    return {"agent.json": {"name": "changed", "table": table, "seen": node}}


def as_a_new_attribute(node: Any) -> dict[str, Any]:
    attributes = {"step": 9, "updates": 9, "episodes": 9, "new": node}
    agent = {"name": "changed", "table": np.zeros(6).tolist(), "seen": 1}
    return {
        "agent.json": agent,
        "progress.json": {"$object": "rekindle.run:Progress", "attributes": attributes},
    }


def try_both(checkpoint: Path, state: dict[str, Any]) -> list[str]:
    """Load and restore; which of them refused."""
    refused = []
    for name, use in (("load", rk.load), ("restore", lambda path: rk.restore(path, **state))):
        try:
            use(checkpoint)
        except rk.RekindleError:
            refused.append(name)
    return refused


@pytest.mark.parametrize("node", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("place", [as_root, below_the_root, as_a_new_attribute])
def test_a_malformed_document_is_refused_and_changes_nothing(checkpoint, node, place):
    for name, root in place(node).items():
        put(checkpoint, name, json.dumps({"root": root}).encode())
    assert rk.verify(checkpoint)
    state = live()
    refused = try_both(checkpoint, state)
    assert_untouched(state)
    assert refused == ["load", "restore"]


@pytest.mark.parametrize("node", UNFIT.values(), ids=UNFIT)
def test_a_document_that_nothing_can_take_changes_nothing(checkpoint, node):
    for name, root in as_a_new_attribute(node).items():
        put(checkpoint, name, json.dumps({"root": root}).encode())
    state = live()
    assert try_both(checkpoint, state) == ["restore"]
    assert_untouched(state)


DOCUMENTS = {
    "no object": b"[]",
    "no root": b"{}",
    "nothing": b"",
    "no JSON": b"{'root': 1}",
    "no text": b'{"root": "\xff"}',
    "itself": b'{"root": {"$ref": "agent"}}',
    "itself in a tuple": b'{"root": {"$tuple": [{"$ref": "agent"}]}}',
    "a value that is itself": b'{"root": {"$ref": "agent#1"}, "hoisted": '
    b'[{"$id": 1, "$ref": "agent#1"}]}',
    "two values that are each other": b'{"root": {"$ref": "agent#1"}, "hoisted": '
    b'[{"$id": 1, "$ref": "agent#2"}, {"$id": 2, "$ref": "agent#1"}]}',
    "a tuple in itself": b'{"root": {"$id": 1, "$frozenset": [{"$ref": "agent#1"}]}}',
    "a slice of itself": b'{"root": {"$id": 1, "$slice": [{"$ref": "agent#1"}]}}',
    "a number for hoisted": b'{"root": 1, "hoisted": 5}',
    "a list as number of a value": b'{"root": {"$id": [], "$list": []}}',
    "a deep list": b'{"root": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a bottomless list": b'{"root": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep tuples": b'{"root": ' + b'{"$tuple":[' * 400 + b"]}" * 400 + b"}",
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_cannot_be_read_is_refused(checkpoint, text):
    put(checkpoint, "agent.json", text)
    state = live()
    with pytest.raises(rk.RekindleError):
        rk.restore(checkpoint, **state)
    assert_untouched(state)
    with contextlib.suppress(rk.RekindleError):
        rk.load(checkpoint, ["agent"])


def test_a_reference_to_no_component_is_refused(checkpoint):
    put(checkpoint, "agent.json", b'{"root": {"$ref": "nobody"}}')
    with pytest.raises(rk.RekindleError, match="nobody"):
        rk.load(checkpoint, ["agent"])


def test_two_components_that_are_each_other_are_refused(checkpoint):
    put(checkpoint, "agent.json", b'{"root": {"$ref": "progress"}}')
    put(checkpoint, "progress.json", b'{"root": {"$ref": "agent"}}')
    with pytest.raises(rk.FormatError):
        rk.load(checkpoint)


@pytest.mark.parametrize(
    "layer",
    ['{"$id": %d, "$slice": [%s, %s]}', '{"$id": %d, "$tuple": [%s, %s]}',
     '{"$id": %d, "$partial": %s, "args": [], "kwargs": {"a": %s}}',
     '{"$id": %d, "$enum": "a:B", "name": "c", "value": [%s, %s]}'],
)  # fmt: skip
def test_a_document_of_many_references_is_read_in_a_moment(checkpoint, layer):
    """Each value holds the next one twice: whoever reads it anew each time never ends."""
    hoisted = []
    for number in range(1, 60):
        reference = json.dumps({"$ref": f"agent#{number + 1}"})
        hoisted.append(layer % (number, reference, reference))
    hoisted.append('{"$id": 60, "$list": []}')
    text = f'{{"root": {{"$ref": "agent#1"}}, "hoisted": [{",".join(hoisted)}]}}'
    put(checkpoint, "agent.json", text.encode())
    rk.load(checkpoint, ["agent"])
    with pytest.raises(rk.RekindleError):
        rk.restore(checkpoint, agent={"name": "", "seen": 0})


def header(kind: Any, shape: list[int], begin: int, end: int) -> bytes:
    entry = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    return json.dumps({"weights": entry}).encode()


HEADERS = {
    "no JSON": b"{,}",
    "no object": b"[]",
    "no text": b"\xff\xfe",
    "an entry that is none": b'{"weights": 5, "bias": 5}',
    "an unknown type": header("F99", [1], 0, 4),
    "a type that is a list": header([], [1], 0, 4),
    "another size": header("F32", [4, 3], 0, 4),
    "a vast shape": header("F32", [2**62 + 1], 0, 4),
    "a negative shape": header("F32", [-1, -1], 0, 4),
    "a beginning after the end": header("F32", [0], 8, 4),
    "an end outside": header("F32", [9], 0, 36),
    "a bottomless list": b"[" * 200_000,
}


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_a_malformed_file_of_arrays_is_refused(checkpoint, text):
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    put(checkpoint, "policy.safetensors", data)
    state = live()
    for use in (lambda: rk.load(checkpoint), lambda: rk.restore(checkpoint, **state),
                lambda: rk.open(checkpoint)["policy"],
                lambda: rk.open(checkpoint).arrays("policy")):  # fmt: skip
        with pytest.raises(rk.RekindleError):
            use()
    assert_untouched(state)
    assert sorted(rk.load(checkpoint, ["agent", "progress"])) == ["agent", "progress"]


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 8, b"\xff" * 7 + b"\x7f" + bytes(64)])
def test_a_file_that_is_no_file_of_arrays_is_refused(checkpoint, data):
    put(checkpoint, "policy.safetensors", data)
    with pytest.raises(rk.DamagedError, match=r"policy\.safetensors"):
        rk.load(checkpoint)


def generators() -> dict[str, Any]:
    return {
        "policy": {"weights": np.zeros(3)},
        "rng": np.random.default_rng(3),
        "python": random.Random(3),
        "legacy": np.random.RandomState(3),
        "words": np.random.Generator(np.random.MT19937(3)),
        "counter": np.random.Generator(np.random.Philox(3)),
    }


def draws(state: dict[str, Any]) -> list[float]:
    """What each generator gives next, and the weights."""
    found = [copy.deepcopy(state["python"]).random(), copy.deepcopy(state["legacy"]).random()]
    found += [copy.deepcopy(state[name]).random() for name in ("rng", "words", "counter")]
    return found + state["policy"]["weights"].tolist()


STATES = {
    "another kind": ("rng", {"bit_generator": "MT19937"}),
    "no kind": ("rng", {"bit_generator": "os"}),
    "a number": ("rng", {"state": 5}),
    "a negative word": ("rng", {"state": {"state": -1, "inc": 1}}),
    "a text": ("rng", {"uinteger": "x"}),
    "another version": ("python", {"version": 9}),
    "too few words": ("python", {"words": [1, 2]}),
    "a text for a number": ("legacy", {"gauss": "x"}),
    "a legacy position outside": ("legacy", {"state": {"key": [0] * 624, "pos": 5000}}),
    "a position outside": ("words", {"state": {"key": [0] * 624, "pos": 5000}}),
    "a position before": ("words", {"state": {"key": [0] * 624, "pos": -1}}),
    "a buffer outside": ("counter", {"buffer_pos": 1000}),
}


@pytest.mark.parametrize(("name", "change"), STATES.values(), ids=STATES)
def test_a_malformed_generator_is_refused_and_changes_nothing(tmp_path, name, change):
    state = generators()
    state["policy"]["weights"] += 1
    for generator in [*state.values()][1:]:
        generator.random()
    path = rk.save(tmp_path / "x", **state).path
    content = json.loads((path / f"{name}.json").read_bytes())
    node = content["root"]
    if name in ("rng", "words", "counter"):
        node = node["state"]["bit_generator"]
    node["state"] |= change
    put(path, f"{name}.json", json.dumps(content).encode())

    live = generators()
    before = draws(live)
    with pytest.raises(rk.RekindleError):
        rk.restore(path, **live)
    assert draws(live) == before

"""docs/format.md holds: its tables are those of the code, it suffices to write a reader, and
checkpoints that were written before still open."""

from __future__ import annotations

import base64
import json
import re
import shutil
import typing
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors
import torch
from blake3 import blake3
from stable_baselines3 import PPO
from tests.golden.rekindle import agents, regenerate

import rekindle as rk
import rekindle.sb3
from rekindle import files, manifest, match, provenance, registry, spaces, state
from rekindle.codecs import arrays
from rekindle.manifest import (
    ArrayRecord,
    ComponentRecord,
    FileEntry,
    Manifest,
    RowsRecord,
    SegmentRecord,
)

SPECIFICATION = Path(__file__).parent.parent / "docs" / "format.md"
GOLDEN = Path(__file__).parent / "golden" / "rekindle"
V1 = GOLDEN / "v1"

Row = dict[str, str]


def tables(text: str) -> Iterator[list[Row]]:
    """The tables of a Markdown text, each a list of rows by column; an empty one has no rows."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("|"):
            continue
        columns = cells(line)
        next(lines)
        rows = []
        for row in lines:
            if not row.startswith("|"):
                break
            rows.append(dict(zip(columns, cells(row), strict=True)))
        yield rows


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(heading: str) -> str:
    """The part of the specification under a heading, up to the next of its rank or higher."""
    text = SPECIFICATION.read_text()
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found, f"docs/format.md has no section {heading!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found.group(1))}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(heading: str, number: int = 0) -> list[Row]:
    return list(tables(section(heading)))[number]


def quoted(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def named(rows: list[Row], column: str) -> list[str]:
    return [name for row in rows for name in quoted(row[column])[:1]]


# --------------------------------------------------------------------------- tables and records

TYPES = {
    str: "text",
    int: "integer",
    list[str]: "list of text",
    dict[str, Any]: "object",
    float | None: "number or null",
    str | None: "text or null",
    dict[str, ComponentRecord]: "object of component records",
    dict[str, FileEntry]: "object of file entries",
    list[RowsRecord]: "list of rows records",
    dict[str, ArrayRecord]: "object of array records",
    list[SegmentRecord]: "list of segment records",
    list[int]: "list of integers",
    dict[str, str]: "object of text",
    int | None: "integer or null",
}


@pytest.mark.parametrize(
    ("number", "record"),
    list(enumerate((Manifest, ComponentRecord, FileEntry, RowsRecord, ArrayRecord, SegmentRecord))),
)
def test_the_manifest_has_the_keys_and_types_that_the_tables_list(
    number: int, record: type
) -> None:
    rows = table("The manifest", number)
    expected = {name: TYPES[kind] for name, kind in typing.get_type_hints(record).items()}
    if record is Manifest:
        del expected["extra"]
        expected["digest"] = "text"
    assert {quoted(row["key"])[0]: row["type"] for row in rows} == expected
    assert {row["since"] for row in rows} == {str(manifest.VERSION)}


def test_a_written_manifest_has_the_keys_in_the_order_of_the_table(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", agent={"a": 1})
    written = json.loads((tmp_path / "c" / "checkpoint.json").read_bytes())
    assert list(written) == named(table("The manifest"), "key")


def redigested(content: dict[str, Any]) -> bytes:
    """The bytes of a manifest as the specification says to make them."""
    body = {**content, "digest": "0" * 64}
    text = json.dumps(body, indent=2).encode()
    return text.replace(b"0" * 64, blake3(text).hexdigest().encode())


@pytest.mark.parametrize("row", table("The manifest"), ids=lambda row: row["key"])
def test_a_manifest_is_refused_exactly_when_it_lacks_a_required_key(
    row: Row, tmp_path: Path
) -> None:
    content = json.loads(manifest.encode(Manifest()))
    del content["digest"]
    key = quoted(row["key"])[0]
    assert manifest.decode(redigested(content), tmp_path) == Manifest()
    if key == "digest":
        text = json.dumps(content).encode()
    else:
        text = redigested({name: value for name, value in content.items() if name != key})
    if row["required"] == "yes":
        with pytest.raises((rk.FormatError, rk.DamagedError)):
            manifest.decode(text, tmp_path)
    else:
        manifest.decode(text, tmp_path)


def test_what_the_environment_says_is_listed() -> None:
    libraries = set(provenance.LIBRARIES)
    assert set(provenance.environment()) - libraries <= set(quoted(section("The manifest")))


@pytest.mark.parametrize(("number", "record"), [(1, ComponentRecord), (2, FileEntry)])
def test_a_record_requires_what_its_table_says(number: int, record: Any) -> None:
    required = [field.name for field in msgspec.structs.fields(record) if field.required]
    rows = table("The manifest", number)
    assert [quoted(row["key"])[0] for row in rows if row["required"] == "yes"] == required


def test_unknown_keys_of_a_manifest_are_kept(tmp_path: Path) -> None:
    content = json.loads(manifest.encode(Manifest()))
    del content["digest"]
    read = manifest.decode(redigested({**content, "later": [1, {"a": 2}]}), tmp_path)
    assert json.loads(manifest.encode(read))["later"] == [1, {"a": 2}]


def test_the_kinds_in_the_table_are_those_of_the_code() -> None:
    row = next(row for row in table("The manifest") if row["key"] == "`kind`")
    assert tuple(quoted(row["meaning"])) == manifest.KINDS


def test_every_tag_has_a_row() -> None:
    assert set(named(table("Plain data"), "tag")) == state.TAGS


def test_every_tag_that_is_read_as_plain_data_is_restored_in_place_too() -> None:
    assert set(match._MATCHERS) == set(state._READERS)


def test_array_types_are_those_of_the_code() -> None:
    listed = {
        quoted(row["safetensors dtype"])[0]: np.dtype(quoted(row["numpy storage"])[0])
        for row in table("Arrays")
    }
    assert listed == arrays.CODES


def test_every_adapter_has_a_row() -> None:
    known = {registry.load(target).name for target in registry.ADAPTERS.values()}
    without_nodes = {"torch.tensor", "external.object", "external.lock", "external.stream"}
    assert set(named(table("Adapters"), "adapter")) | without_nodes == known
    assert without_nodes <= set(quoted(section("Adapters")))


def test_spaces_have_the_fields_that_the_table_lists() -> None:
    listed = {quoted(row["type"])[0]: quoted(row["fields"]) for row in table("Spaces")}
    assert {
        kind: [n for n in names if not n.startswith("[")] for kind, names in listed.items()
    } == {kind: list(fields) for kind, fields in spaces._FIELDS.items()}


def test_a_run_writes_the_keys_that_the_tables_list(tmp_path: Path) -> None:
    with rk.Run(tmp_path / "run") as run:
        run.track(agent={"a": 1})
        run.resume()
        run.save(step=5)
        lock = json.loads((tmp_path / "run" / ".lock").read_bytes())
    about = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert list(about) == named(table("Runs"), "key")
    assert about["format"] in quoted(table("Runs")[0]["meaning"])
    (line,) = (tmp_path / "run" / "checkpoints.jsonl").read_bytes().splitlines()
    assert list(json.loads(line)) == named(table("Runs", 1), "key")
    assert all(f"`{key}`" in section("Runs") for key in lock)


def test_the_features_in_the_table_are_those_that_a_reader_knows() -> None:
    assert set(named(table("Versions and `requires`"), "feature")) == manifest.FEATURES


def test_the_newest_version_in_the_changes_is_the_one_that_is_written() -> None:
    assert int(table("Changes")[-1]["version"]) == manifest.VERSION


def test_names_of_saves_under_way_are_as_specified(tmp_path: Path) -> None:
    with files.new_directory(tmp_path / "step_000000005") as directory:
        pass
    assert re.fullmatch(r"\.tmp-step_000000005-\d+-[0-9a-f]{8}", directory.name)
    assert "`.tmp-<name>-<pid>-<8 hex digits>`" in section("Write and read order")


# --------------------------------------------------------------------------- another reader


class Reader:
    """A reader written from docs/format.md, with nothing of Rekindle in it."""

    def __init__(self, root: Path | zipfile.Path) -> None:
        text = (root / "checkpoint.json").read_bytes()
        found = re.search(rb'"digest": "([0-9a-f]{64})"\s*}\s*$', text)
        assert found
        blank = text[: found.start(1)] + b"0" * 64 + text[found.end(1) :]
        assert blake3(blank).hexdigest().encode() == found.group(1)
        self.manifest = json.loads(text)
        assert (self.manifest["format"], self.manifest["version"]) == ("rekindle", 1)
        assert self.manifest["requires"] == []
        self.documents: dict[str, Any] = {}
        self.data: dict[str, tuple[str, tuple[int, ...], bytearray]] = {}
        self.nodes: dict[str, Any] = {}
        self.known: dict[str, Any] = {}
        for name, entry in self.manifest["files"].items():
            content = (root / name).read_bytes()
            assert len(content) == entry["bytes"]
            assert blake3(content).hexdigest() == entry["blake3"]
        for component, record in self.manifest["components"].items():
            self.documents[component] = json.loads((root / record["document"]).read_bytes())
            for name in record["arrays"]:
                for key, item in safetensors.deserialize((root / name).read_bytes()):
                    stored = (item["dtype"], tuple(item["shape"]), item["data"])
                    self.data[f"{component}/{key}"] = stored
            self._index(self.documents[component], component)

    def _index(self, node: Any, component: str) -> None:
        for item in node if isinstance(node, list) else node.values():
            if isinstance(item, (list, dict)):
                self._index(item, component)
        if isinstance(node, dict) and "$id" in node:
            self.nodes[f"{component}#{node['$id']}"] = (component, node)
        if isinstance(node, dict) and ("$array" in node or "$view" in node):
            self.nodes[node.get("name", node.get("$array"))] = (component, node)

    def component(self, name: str) -> Any:
        return self.node(self.documents[name]["root"], name)

    def node(self, node: Any, component: str) -> Any:
        if isinstance(node, list):
            return [self.node(item, component) for item in node]
        if not isinstance(node, dict):
            return node
        tag = next((key for key in list(node)[:2] if key != "$id"), "")
        if not tag.startswith("$") or tag.startswith("$$"):
            named = [(key, value) for key, value in node.items() if key != "$id"]
            pairs = [[key[1:] if key.startswith("$$") else key, value] for key, value in named]
            return self._fill({}, pairs, node, component)
        return getattr(self, "_" + tag[1:])(node, component)

    def _fill(self, found: Any, items: list[Any], node: Any, component: str) -> Any:
        """Fill a container that is known already, so that what it holds can refer to it."""
        if "$id" in node:
            self.known[f"{component}#{node['$id']}"] = found
        for item in items:
            if isinstance(found, dict):
                found[self.node(item[0], component)] = self.node(item[1], component)
            else:
                found.append(self.node(item, component))
        return found

    def _ref(self, node: Any, component: str) -> Any:
        target = node["$ref"]
        if target in self.known:
            return self.known[target]
        if "/" in target or "#" in target:
            other, found = self.nodes[target]
            return self.node(found, other)
        return self.component(target)

    def _list(self, node: Any, component: str) -> Any:
        return self._fill([], node["$list"], node, component)

    def _tuple(self, node: Any, component: str) -> Any:
        found = tuple(self.node(node["$tuple"], component))
        if "$id" in node:
            self.known[f"{component}#{node['$id']}"] = found
        return found

    def _set(self, node: Any, component: str) -> Any:
        return set(self.node(node["$set"], component))

    def _dict(self, node: Any, component: str) -> Any:
        return self._fill({}, node["$dict"], node, component)

    def _int(self, node: Any, component: str) -> Any:
        return int(node["$int"], 16)

    def _float(self, node: Any, component: str) -> Any:
        return float(node["$float"])

    def _bytes(self, node: Any, component: str) -> Any:
        return base64.b64decode(node["$bytes"])

    def _adapter(self, node: Any, component: str) -> Any:
        return self.node(node["state"], component)

    def _array(self, node: Any, component: str) -> Any:
        name = node["$array"]
        if name in self.known:
            return self.known[name]
        code, shape, data = self.data[name]
        if code == "BF16":
            bits = np.frombuffer(data, "<u2").astype("<u4") << 16
            found = bits.view("<f4").reshape(shape)
        else:
            (storage,) = (row["numpy storage"] for row in table("Arrays")
                          if row["safetensors dtype"] == f"`{code}`")  # fmt: skip
            found = np.frombuffer(data, quoted(storage)[0]).reshape(shape)
            if "dtype" in node:
                found = self._typed(found, np.dtype(node["dtype"]))
        if "shape" in node:
            found = np.broadcast_to(found, node["shape"])
        return self.known.setdefault(name, found)

    def _typed(self, stored: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> Any:
        if dtype.kind == "c":
            return (stored[..., 0] + 1j * stored[..., 1]).astype(dtype)
        if dtype.kind in "iuf":
            return stored.astype(dtype)
        if dtype.kind in "mM":
            return stored.view(dtype.newbyteorder("<"))
        return stored.view(dtype).reshape(stored.shape[:-1])

    def _view(self, node: Any, component: str) -> Any:
        memory = self.data[node["$view"]][2]
        dtype = np.dtype(node["dtype"])
        found = np.ndarray(node["shape"], dtype, memory, node["offset"], node["strides"])
        return self.known.setdefault(node["name"], found)


@pytest.mark.parametrize("name", ["c", "c.zip"])
def test_a_checkpoint_is_read_with_json_blake3_and_safetensors_alone(
    tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    policy = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    policy.half_bias = torch.nn.Parameter(policy[0].bias.detach().bfloat16())
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
    for _ in range(2):
        policy(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    base = np.arange(12.0).reshape(3, 4)
    shared = [1, (2, 3)]
    circle: dict[str, Any] = {"$money": 2**80, "nan": float("-inf"), 5: b"\x00"}
    circle["me"] = circle
    deep: Any = "bottom"
    for _ in range(70):
        deep = [deep]
    data = {
        "base": base, "row": base[1], "back": base[::-1, ::2], "shared": [shared, shared],
        "circle": circle, "deep": deep, "set": {1, "a"}, "weight": policy[0].weight,
        "complex": np.array([1 + 2j, -3j]), "big": np.array([1.5, 2], dtype=">f8"),
        "text": np.array(["a", "☃"]), "dates": np.array(["2026-11-21"], dtype="M8[s]"),
        "table": np.array([(1, 2.5)], dtype=[("a", ">i2"), ("b", "<f8")]),
        "expanded": torch.ones(1, 3).expand(4, 3), "empty": {},
        "plain": [None, True, -0.0, 1e300, "ï"],
    }  # fmt: skip
    rk.save(tmp_path / name, step=12, metrics={"return": 1.5},
            policy=policy, optimizer=optimizer, rng=rk.GlobalRNG(), agent=data)  # fmt: skip

    reader = Reader(zipfile.Path(tmp_path / name) if name == "c.zip" else tmp_path / name)
    assert (reader.manifest["step"], reader.manifest["metrics"]) == (12, {"return": 1.5})

    weights = reader.component("policy")
    assert list(weights) == list(policy.state_dict())
    for name, tensor in policy.state_dict().items():
        np.testing.assert_array_equal(weights[name], tensor.float().numpy(), strict=True)

    moments = reader.component("optimizer")
    expected = optimizer.state_dict()
    for index, entry in expected["state"].items():
        for key, tensor in entry.items():
            np.testing.assert_array_equal(
                moments["state"][index][key], tensor.float().numpy(), strict=True
            )
    assert moments["param_groups"] == expected["param_groups"]

    rng = reader.component("rng")
    np.testing.assert_array_equal(rng["torch"], torch.get_rng_state().numpy(), strict=True)
    np.testing.assert_array_equal(
        rng["numpy"]["state"]["key"], np.random.get_state(legacy=False)["state"]["key"]
    )

    found = reader.component("agent")
    assert list(found) == list(data)
    for name in ("base", "row", "back", "complex", "big", "text", "dates", "table", "expanded"):
        np.testing.assert_array_equal(found[name], np.asarray(data[name]), strict=True)
    assert repr(found["plain"]) == repr(data["plain"])
    assert found["set"] == data["set"]
    assert found["deep"] == deep
    assert {k: v for k, v in found["circle"].items() if k != "me"} == {
        k: v for k, v in circle.items() if k != "me"
    }
    assert found["circle"]["me"] is found["circle"]
    assert found["shared"][0] is found["shared"][1]
    assert found["shared"][0] == shared
    assert found["weight"] is weights["0.weight"]
    found["base"][1, 2] = 99
    assert found["row"][2] == found["back"][1, 1] == 99


def test_the_other_reader_would_find_a_flipped_byte(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", agent={"a": np.arange(3)})
    for name in ("checkpoint.json", "agent.json", "agent.safetensors"):
        path = tmp_path / "c" / name
        content = path.read_bytes()
        path.write_bytes(content.replace(b"a", b"b", 1))
        with pytest.raises(AssertionError):
            Reader(tmp_path / "c")
        path.write_bytes(content)
    Reader(tmp_path / "c")


# --------------------------------------------------------------------------- golden files

FRESH = {"plain": agents.plain, "learner": agents.learner, "run": agents.trained}


def expected(name: str, what: str) -> dict[str, str]:
    return json.loads((V1 / f"{name}.json").read_bytes())[what]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the golden checkpoints of version 1, so that nothing can change them."""
    shutil.copytree(V1, tmp_path / "golden")
    return tmp_path / "golden"


@pytest.mark.parametrize("name", FRESH)
def test_a_golden_checkpoint_is_intact(name: str, golden: Path) -> None:
    report = rk.verify(golden / name)
    assert report, report


@pytest.mark.parametrize("name", FRESH)
def test_a_golden_checkpoint_loads_as_it_always_did(name: str, golden: Path) -> None:
    loaded = rk.load(golden / name, to="torch" if name == "learner" else "numpy")
    assert agents.described(loaded) == expected(name, "loaded")


@pytest.mark.parametrize("name", FRESH)
def test_a_golden_checkpoint_restores_as_it_always_did(name: str, golden: Path) -> None:
    live = FRESH[name](regenerate.SEED + 2)
    before = agents.described(live)
    rk.restore(golden / name, **live)
    after = agents.described(live)
    assert after == expected(name, "restored")
    assert after != before


def test_a_golden_run_resumes(golden: Path) -> None:
    live = agents.trained(9)
    written_in = rk.open(golden / "run").manifest.environment
    other = [item.key for item in provenance.differences(written_in, provenance.environment())]
    about = {"configuration": {"gamma": 0.99}, "algorithm": "none"}
    with rk.Run(golden / "run", **about, allow=other) as run:
        run.track(**live)
        report = run.resume()
        assert report is not None
        assert (report.step, run.steps) == (10, [5, 10])
        assert [entry["metrics"] for entry in run.entries()] == [{"return": 1.0}, {"return": 2.0}]
    assert agents.described(live) == expected("run", "restored")


def nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Every tagged node of a document; what is inside arrays and descriptions of spaces is none."""
    if isinstance(content, dict):
        if state.tag_of(content) is not None:
            yield content
        content = list(content.values())
    for item in content if isinstance(content, list) else []:
        yield from nodes(item)


def golden_nodes() -> list[dict[str, Any]]:
    found = []
    for path in GOLDEN.glob("v*/**/*.json"):
        content = json.loads(path.read_bytes())
        if "root" in content:
            found += nodes(content)
    return found


def test_golden_files_hold_every_tag() -> None:
    held = {state.tag_of(node) for node in golden_nodes()}
    # A zone needs the time zone database, which not every machine has.
    assert held == state.TAGS - {"$zone"}


def fresh_nodes(root: Path) -> Iterator[dict[str, Any]]:
    """Nodes of checkpoints as they are written now, of every kind that the tables list."""
    regenerate.regenerate(root)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    rekindle.sb3.save(model, root / "model")
    for path in root.rglob("*.json"):
        content = json.loads(path.read_bytes())
        if "root" in content:
            yield from nodes(content)


def test_every_key_of_a_node_is_in_the_tables(tmp_path: Path) -> None:
    plain = {quoted(row["tag"])[0]: quoted(row["other keys"]) for row in table("Plain data")}
    array = named(table("Arrays", 1), "key")
    plain["$array"] = array
    plain["$view"] = [*named(table("Aliasing", 1), "key"), *array]
    adapters = {quoted(row["adapter"])[0]: row for row in table("Adapters")}
    for node in [*golden_nodes(), *fresh_nodes(tmp_path)]:
        tag = state.tag_of(node)
        assert tag is not None
        listed = {tag, "$id", *plain[tag]}
        if tag == "$adapter":
            row = adapters[node["$adapter"]]
            listed |= {"class", "state", *quoted(row["other keys"])}
            # A cell that begins with a name lists all of them.
            if row["`state`"].startswith("`") or "`layout`" in row["`state`"]:
                assert node["state"].keys() <= {"$id", *quoted(row["`state`"])}, node
        assert node.keys() <= listed, node


def test_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000
    assert sum(path.stat().st_size for path in V1.rglob("*") if path.is_file()) < 100_000


def test_golden_files_are_never_written_again(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        regenerate.regenerate(GOLDEN)
    written = regenerate.regenerate(tmp_path)
    assert {path.name for path in written.iterdir()} == {path.name for path in V1.iterdir()}
    for name in FRESH:
        content = json.loads((written / f"{name}.json").read_bytes())
        for what, lines in content.items():
            assert list(lines) == list(expected(name, what))

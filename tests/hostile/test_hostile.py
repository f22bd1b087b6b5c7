"""A corpus of hostile files: each is proved live where it can be, and harmless under Rekindle."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.hostile import corpus
from tests.hostile.corpus import Case

ROOT = Path(__file__).parents[2]
_SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Results:
    """What came of every case."""

    cases: dict[str, Case]
    fired: dict[str, bool]
    watched: dict[str, dict[str, Any]]


def write(directory: Path, cases: list[Case]) -> None:
    for case in cases:
        (directory / case.name).write_bytes(case.data)
    warm = directory / "warm"
    warm.mkdir()
    fine = pickle.dumps({"a": [1, "b"]}, 2)
    (warm / "pickle").write_bytes(fine)
    (warm / "torch").write_bytes(corpus._torch_zip(fine))
    (warm / "legacy").write_bytes(corpus._legacy(fine))
    (warm / "gzip").write_bytes(gzip.compress(fine))
    (warm / "zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    (warm / "lz4").write_bytes(b"\x04\x22\x4d\x18")
    (warm / "sb3").write_bytes(corpus._sb3({"a": 1}))


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.hostile.{module}", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def finish(process: subprocess.Popen[str]) -> Any:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return json.loads(out)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    cases = corpus.cases()
    directory = tmp_path_factory.mktemp("hostile")
    write(directory, cases)
    names = [case.name for case in cases]
    watchers = [
        start("watched", str(directory), *names[part::_SIDE_BY_SIDE])
        for part in range(_SIDE_BY_SIDE)
    ]
    executions = [f"{case.loader}={case.name}" for case in cases if case.kind == "execution"]
    fired = finish(start("genuine", str(directory), *executions))
    watched: dict[str, Any] = {}
    for watcher in watchers:
        watched |= finish(watcher)
    return Results({case.name: case for case in cases}, fired, watched)


def test_the_corpus_is_large(results: Results) -> None:
    kinds = [case.kind for case in results.cases.values()]
    assert kinds.count("execution") >= 200
    assert kinds.count("bomb") >= 50
    assert kinds.count("malformed") >= 100


def test_executions_fire_under_the_genuine_loaders(results: Results) -> None:
    live = [name for name, case in results.cases.items() if case.is_live]
    # A function may be gone from another version of Python; those of today are all alive.
    assert [name for name in live if not results.fired[name]] == []
    assert len(live) >= 200


def test_nothing_runs(results: Results) -> None:
    assert {name: found["events"] for name, found in results.watched.items()
            if found.get("events")} == {}  # fmt: skip


def test_nothing_crashes_and_no_stranger_comes_back(results: Results) -> None:
    wrong = {
        (name, reader): outcome
        for name, found in results.watched.items()
        for reader, outcome in found["outcomes"].items()
        if outcome.startswith(("crash", "strange"))
    }
    assert wrong == {}
    assert set(results.watched) == set(results.cases)


def test_nothing_takes_long_or_much_memory(results: Results) -> None:
    # For all ways into a file together; the machine may be busy.
    slow = {name: found["seconds"] for name, found in results.watched.items()
            if found["seconds"] > 15}  # fmt: skip
    assert slow == {}
    large = {name: found["megabytes"] for name, found in results.watched.items()
             if found["megabytes"] > 150}  # fmt: skip
    assert large == {}


def test_bombs_are_refused_rather_than_read(results: Results) -> None:
    """A bomb is an error in every way into it, but for those that are harmless as data."""
    harmless = {
        name
        for name, found in results.watched.items()
        if name.startswith("bomb") and "value" in found["outcomes"].values()
    }
    assert len(harmless) < len([name for name in results.cases if name.startswith("bomb")]) / 2


_BAD_READERS = """
import os, socket, subprocess
from tests.hostile import watched
def evil(name):
    def read(path):
        if name == "import": import this
        if name == "exec": exec("1")
        if name == "write": open(str(path) + "x", "w")
        if name == "socket": socket.socket()
        if name == "process": subprocess.run(["true"])
        if name == "find": __import__("pickle").loads(b"cbuiltins\\nlen\\n.")
        if name == "raises": raise ValueError("x")
        if name == "memory": bytearray(1 << 40)
        if name == "stranger": return [object()]
        if name == "signal": os.abort()
    return read
import sys
sys.stdout, out = open(os.devnull, "w"), sys.stdout
found = {}
for name in sys.argv[2:]:
    watched.READERS.clear()
    watched.READERS[name] = evil(name)
    found[name] = watched.watch([watched.Path(sys.argv[1])])["x"]
out.write(watched.json.dumps(found))
"""


def test_the_watch_sees_what_it_must(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    names = ["import", "exec", "write", "socket", "process", "find", "raises", "memory",
             "stranger", "signal", "fine"]  # fmt: skip
    command = [sys.executable, "-c", _BAD_READERS, str(path), *names]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout)
    for name in ("import", "exec", "write", "socket", "process", "find"):
        assert found[name]["events"], name
    for name in ("raises", "memory", "signal"):
        assert next(iter(found[name]["outcomes"].values())).startswith("crash"), name
    assert found["stranger"]["outcomes"]["stranger"].startswith("strange")
    assert found["fine"] | {"seconds": 0, "megabytes": 0} == {
        "outcomes": {"fine": "value"}, "events": [], "seconds": 0, "megabytes": 0,
    }  # fmt: skip

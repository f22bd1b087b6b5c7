"""The lines of a run: a cache that nobody has to trust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle import entries, manifest

MEASURED = {"written_bytes", "linked_bytes", "stall_seconds", "durable_seconds"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at 10, 20 and 30."""
    with rk.Run(tmp_path / "run") as run:
        run.track(policy={"weights": np.zeros(3)})
        for step in (10, 20, 30):
            run.save(step=step, metrics={"return": float(step)})
    return run.path


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / entries.NAME).read_bytes().splitlines()]


def of_manifests(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What manifests say as well, and so cannot be lost."""
    return [{key: item[key] for key in item if key not in MEASURED} for item in found]


def test_entries_come_from_the_cache_without_reading_a_manifest(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rk.Run(run).entries()
    assert expected == lines(run)
    assert all(item.keys() >= MEASURED for item in expected)
    monkeypatch.setattr(manifest, "read", pytest.fail)
    assert rk.Run(run).entries() == expected


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: None,
        lambda text: b"",
        lambda text: text[:-40],
        lambda text: text[40:],
        lambda text: text.replace(b"\n", b""),
        lambda text: bytes(len(text)),
        lambda text: text.replace(b'"step":20', b'"step":"x"'),
        lambda text: text.replace(b'"name"', b'"nom"'),
        lambda text: b'[1]\n5\nnull\n{"name":[],"step":1,"bytes":1}\n' + text,
        lambda text: text + text,
        lambda text: b"\n".join(reversed(text.splitlines())),
    ],
    ids=["lost", "emptied", "cut in a line", "beginning lost", "run together", "zeros",
         "wrong type", "wrong key", "other lines", "twice", "reversed"],
)  # fmt: skip
def test_a_harmed_cache_is_made_good(run: Path, harm: Callable[[bytes], bytes | None]) -> None:
    expected = of_manifests(rk.Run(run).entries())
    cache = run / entries.NAME
    text = harm(cache.read_bytes())
    cache.unlink() if text is None else cache.write_bytes(text)
    assert of_manifests(rk.Run(run).entries()) == expected
    assert "30" in repr(rk.Run(run))
    with rk.Run(run) as again:
        again.track(policy={"weights": np.zeros(3)})
        again.resume()
        assert of_manifests(lines(run)) == expected
        again.save(step=40)
    assert [entry["step"] for entry in lines(run)] == [10, 20, 30, 40]


def test_entries_follow_what_a_person_removes_adds_and_replaces(run: Path, tmp_path: Path) -> None:
    other = rk.save(
        tmp_path / "other", step=20, metrics={"return": 0.5}, policy={"weights": np.zeros(3)}
    )
    shutil.rmtree(run / "step_000000010")
    shutil.copytree(run / "step_000000030", run / "step_000000040")
    shutil.rmtree(run / "step_000000020")
    shutil.copytree(other.path, run / "step_000000020", copy_function=shutil.copyfile)
    (run / "step_000000030" / "checkpoint.json").write_text("{")

    found = entries.read(run)
    assert [entry["name"][5:] for entry in found] == ["000000020", "000000030", "000000040"]
    assert found[0]["metrics"] == {"return": 0.5}
    assert "checkpoint.json" in found[1]["damaged"]
    assert found[2]["metrics"] == {"return": 30.0}


def test_rows_have_a_column_per_metric_and_a_mark(run: Path) -> None:
    (run / "step_000000030" / "checkpoint.json").write_text("{")
    rows = entries.rows(entries.read(run), pinned={10})
    head, *table = rows
    assert head == ["step", "created", "size", "written", "stall", "durable in", "return", ""]
    assert [row[-1] for row in table] == ["pinned", "", "damaged"]
    assert [row[head.index("return")] for row in table] == ["10", "20", ""]
    assert table[0][head.index("stall")].endswith("ms")
    assert table[2][2:6] == ["?", "", "", ""]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (1234.5678, "1,235"), (3, "3"), ("text", "text"), ({"$float": "nan"}, "nan")],
)
def test_a_metric_is_shown_as_a_person_reads_it(value: object, shown: str) -> None:
    assert entries.cell(value) == shown

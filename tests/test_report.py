"""What a person reads: reports, checkpoints and runs as text, as HTML and as plain data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle.errors import listing
from rekindle.report import Shown, columns, num_bytes, plural


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> rk.Checkpoint:
    monkeypatch.chdir(tmp_path)
    return rk.save(
        "runs/x",
        policy={"weights": np.zeros((64, 64), np.float32), "bias": np.zeros(64, np.float32)},
        agent={"name": "ada"},
        step=1_234_000,
        metrics={"return": -151.25, "solved": True, "note": "a<b"},
        counters={"updates": 12_000},
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (303_104, "303.1 KB"), (10**9, "1.0 GB"),
     (2.5e15, "2500.0 TB")],
)  # fmt: skip
def test_sizes_read_in_decimal_units(count, text):
    assert num_bytes(count) == text


def test_counts_read_as_words():
    assert plural(1, "file") == "1 file"
    assert plural(0, "file") == "0 files"
    assert plural(12_000, "file") == "12,000 files"


def test_columns_are_aligned_without_trailing_blanks():
    assert columns([("a", "b", ""), ("long", "c", "d")]) == "  a     b\n  long  c  d"
    assert columns([]) == ""


def test_a_listing_is_cut_where_nobody_would_read_on():
    differences = [rk.Difference(f"key{n}", "1", "2") for n in range(25)]
    lines = listing(differences).splitlines()
    assert lines[0] == "  key0: expected 1, found 2"
    assert lines[-1] == "  ... and 5 more"
    assert len(lines) == 21


def test_a_checkpoint_reads_as_text(checkpoint):
    lines = repr(checkpoint).splitlines()
    assert lines[0] == "Checkpoint runs/x"
    assert lines[1].startswith("  step 1,234,000 · 20")
    assert lines[1].endswith(f"Z · {num_bytes(checkpoint.num_bytes)}")
    assert [line.split()[0] for line in lines[2:4]] == ["policy", "agent"]
    assert lines[2].endswith(" KB")
    assert lines[4] == "  metrics: return=-151.25, solved=True, note=a<b"
    assert lines[5] == "  counters: updates=12,000"
    assert all(line == line.rstrip() for line in lines)


def test_a_restore_reads_as_text_and_as_data(checkpoint):
    live = {"weights": np.ones((64, 64), np.float32), "bias": np.ones(5, np.float32)}
    report = rk.restore(checkpoint.path, strict=False, policy=live, critic={})
    text = repr(report)
    assert text.startswith("Restored runs/x at step 1,234,000\n  policy")
    assert "2 arrays" in text
    assert "held, not asked for: agent" in text
    assert "asked for, not held: critic" in text
    assert "left as they were, because they do not fit:\n  policy/bias: expected" in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["step"] == 1_234_000
    assert data["restored"] == ["policy"]
    assert data["missing"] == ["critic"]
    assert data["not_asked"] == ["agent"]
    assert data["differences"][0].keys() == {"key", "expected", "found"}


def test_what_was_left_out_at_the_save_is_said_at_the_restore(tmp_path):
    agent: dict[str, Any] = {"a": 1, "writer": object()}
    rk.save(tmp_path / "x", exclude=["agent.writer"], agent=agent)
    report = rk.restore(tmp_path / "x", agent={"a": 0, "writer": None})
    assert report.excluded == ("agent/writer",)
    assert "left out at the save: agent/writer" in repr(report)


def test_a_check_reads_as_text_and_as_data(checkpoint):
    report = rk.verify(checkpoint.path)
    size = num_bytes(checkpoint.num_bytes)
    assert repr(report) == f"runs/x: intact (4 files, {size}, every digest as written)"
    assert bool(report)
    assert report.to_dict()["ok"] is True

    (checkpoint.path / "agent.json").write_text("{}")
    report = rk.verify(checkpoint.path)
    lines = repr(report).splitlines()
    assert lines[0] == f"runs/x: damaged, 1 file of 4 files, {size}"
    assert lines[1].startswith("  agent.json: expected ")
    assert lines[1].endswith(" bytes, found 2 bytes")
    assert not report
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["ok"], len(data["differences"])) == (False, 1)


def test_a_run_reads_as_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = rk.Run("runs/ppo")
    assert repr(run) == "Run runs/ppo\n  no checkpoints yet"
    run.track(agent={"a": 1})
    run.resume()
    run.save(step=10_000)
    run.save(step=20_000, metrics={"return": -151.25, "best": float("inf")})
    path = run.save(step=1_000_000, metrics={"return": 12_345.678}).path
    run.close()
    (path / "checkpoint.json").write_text("{")
    (run.path / "checkpoints.jsonl").unlink()
    lines = repr(run).splitlines()
    assert lines[0] == "Run runs/ppo"
    assert lines[1].split() == ["step", "created", "size", "best", "return"]
    assert [line.split()[0] for line in lines[2:]] == ["10,000", "20,000", "1,000,000"]
    assert lines[3].split()[-2:] == ["inf", "-151.2"]
    assert lines[4].endswith("damaged")
    assert all(line == line.rstrip() for line in lines)
    assert len({len(line.split("  ")[0]) for line in lines[1:]}) == 1


def test_everything_shown_is_text_in_a_notebook(checkpoint):
    html = checkpoint._repr_html_()
    assert html.startswith("<pre>Checkpoint runs/x\n")
    assert html.endswith("</pre>")
    assert "note=a&lt;b" in html


def test_a_kind_of_report_must_say_how_it_reads():
    with pytest.raises(NotImplementedError, match="Shown"):
        repr(Shown())


def test_progress_reads_as_its_counters():
    progress = rk.Progress()
    progress.best = 1.5
    assert repr(progress) == "Progress(step=0, updates=0, episodes=0, best=1.5)"

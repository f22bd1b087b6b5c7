"""The manifest: what it holds, what it refuses, and what it keeps without knowing it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk
from rekindle import files, manifest


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "checkpoint"
    rk.save(path, policy={"weights": np.arange(3.0)}, agent={"seen": 3}, step=7)
    return path


def seal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it the digest that it should then have."""
    content = json.loads((path / "checkpoint.json").read_bytes())
    change(content)
    content.pop("digest")
    text = json.dumps(content | {"digest": "0" * 64}, indent=2) + "\n"
    (path / "checkpoint.json").write_text(text.replace("0" * 64, files.digest(text.encode()), 1))


def uses() -> list[Callable[[Path], object]]:
    live = {"policy": {"weights": np.zeros(3)}}
    return [rk.open, rk.load, rk.verify, lambda path: rk.restore(path, **live)]


def assert_all_refuse(path: Path, error: type[rk.RekindleError], message: str) -> None:
    for use in uses():
        with pytest.raises(error, match=message) as raised:
            use(path)
        assert type(raised.value) is error
        assert str(path) in str(raised.value)
        assert raised.value.path is not None


# --------------------------------------------------------------------------- versions


def test_a_newer_version_is_refused_by_name(checkpoint):
    seal(checkpoint, lambda content: content.update(version=2, unheard={"of": 1}))
    assert_all_refuse(checkpoint, rk.VersionError, "found 2.*pip install -U rekindle")


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.5, [1]])
def test_a_version_that_is_none_is_refused(checkpoint, version):
    seal(checkpoint, lambda content: content.update(version=version))
    assert_all_refuse(checkpoint, rk.VersionError, "format version")


def test_an_unknown_feature_in_requires_is_refused_by_name(checkpoint):
    seal(checkpoint, lambda content: content.update(requires=["wormholes", "segments of time"]))
    assert_all_refuse(checkpoint, rk.VersionError, "segments of time, wormholes")


def test_a_run_does_not_pass_over_a_checkpoint_of_a_newer_version(tmp_path):
    state = {"policy": {"weights": np.ones(3)}, "progress": rk.Progress()}
    with rk.Run(tmp_path / "run") as run:
        run.track(**state)
        run.resume()
        for step in (1, 2):
            state["progress"].step = step
            newest = run.save().path
    seal(newest, lambda content: content.update(version=2))
    with rk.Run(tmp_path / "run") as run:
        run.track(**state)
        with pytest.raises(rk.VersionError):
            run.resume()


def test_keys_that_this_version_does_not_know_are_kept(checkpoint):
    seal(checkpoint, lambda content: content.update(mood="good", extra={"a": [1]}))
    assert rk.verify(checkpoint)
    read = manifest.read(checkpoint)
    assert read.extra == {"mood": "good", "extra": {"a": [1]}}
    written = json.loads(manifest.encode(read))
    assert (written["mood"], written["extra"]) == ("good", {"a": [1]})
    again = manifest.decode(manifest.encode(read), checkpoint)
    assert again == read


# --------------------------------------------------------------------------- not a manifest


@pytest.mark.parametrize(
    "change",
    [
        {"requires": 5},
        {"requires": None},
        {"files": []},
        {"files": {"agent.json": {}}},
        {"files": {}},
        {"components": {"agent": "agent.json"}},
        {"components": {"agent": {"adapter": "data", "document": "none.json"}}},
        {"components": {"agent": {"adapter": "data", "document": "agent.json", "arrays": [5]}}},
        {"metrics": 5},
        {"step": "seven"},
        {"step": 1.5},
        {"kind": None},
        {"notes": "none"},
    ],
    ids=str,
)
def test_a_malformed_manifest_is_refused(checkpoint, change):
    seal(checkpoint, lambda content: content.update(change))
    assert_all_refuse(checkpoint, rk.FormatError, r"malformed|no entry")


def test_a_manifest_of_another_format_is_refused_by_name(checkpoint):
    seal(checkpoint, lambda content: content.update(format="orbax"))
    assert_all_refuse(checkpoint, rk.FormatError, "found 'orbax'")


def test_a_manifest_without_its_digest_is_damaged(checkpoint):
    content = json.loads((checkpoint / "checkpoint.json").read_bytes())
    del content["digest"]
    (checkpoint / "checkpoint.json").write_text(json.dumps(content))
    with pytest.raises(rk.DamagedError, match="digest"):
        rk.open(checkpoint)


def test_json_that_is_no_object_is_refused(checkpoint):
    (checkpoint / "checkpoint.json").write_text("[1, 2]")
    assert_all_refuse(checkpoint, rk.FormatError, "expected a JSON object")


def test_a_manifest_without_end_is_damaged(checkpoint):
    (checkpoint / "checkpoint.json").write_text('{"a": ' * 100_000)
    with pytest.raises(rk.DamagedError):
        rk.open(checkpoint)


# --------------------------------------------------------------------------- not a checkpoint


def test_nothing_at_a_path_is_said(tmp_path):
    assert_all_refuse(tmp_path / "none", rk.NotFoundError, "found nothing")
    assert_all_refuse(tmp_path / "none" / "below", rk.NotFoundError, "found nothing")


def test_a_directory_of_something_else_is_said(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    assert_all_refuse(tmp_path, rk.NotFoundError, "a directory without one")


@pytest.mark.parametrize("data", [b"", b"hello", pickle.dumps({"a": 1}), b"\x93NUMPY"])
def test_a_file_of_something_else_is_said(tmp_path, data):
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert_all_refuse(path, rk.FormatError, "of a known format")
    with pytest.raises(rk.FormatError, match="a file of no known format"):
        manifest.read(path)


def test_a_zip_of_something_else_is_said(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_all_refuse(path, rk.FormatError, "a ZIP archive with other members")
    with pytest.raises(rk.FormatError, match="a zip archive of no known format"):
        manifest.read(path)


def test_a_model_of_stable_baselines3_is_said(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data", "policy.pth", "_stable_baselines3_version"):
            archive.writestr(name, "2.9.2")
    with pytest.raises(rk.FormatError, match=r"Stable-Baselines3 saved: .*rekindle\.open"):
        manifest.read(path)


# --------------------------------------------------------------------------- what may be written


@pytest.mark.parametrize(
    "name", ["checkpoint", "Checkpoint", "a/b", "..", ".hidden", "", "1st", "a b", "ä", "a" * 101]
)
def test_a_component_that_could_not_name_a_file_is_refused(tmp_path, name):
    with pytest.raises(rk.UnsupportedError, match="expected a component named by letters"):
        rk.save(tmp_path / "x", **{name: 1})
    with pytest.raises(rk.UnsupportedError, match="expected a component named by letters"):
        rk.Run(tmp_path / "run").track(**{name: 1})
    assert [*tmp_path.iterdir()] == []


def test_components_whose_names_differ_only_by_case_are_refused(tmp_path):
    """Their files would be one file on a disk that does not tell case."""
    with pytest.raises(rk.UnsupportedError, match="case"):
        rk.save(tmp_path / "x", policy=1, Policy=2)
    assert [*tmp_path.iterdir()] == []


def test_metrics_of_every_kind_of_number_come_back(tmp_path):
    metrics = {
        "return": -151.25,
        "nan": float("nan"),
        "best": float("inf"),
        "worst": -float("inf"),
        "wins": np.int64(3),
        "loss": np.float32(0.5),
        "ratio": np.array(0.25),
        "solved": np.True_,
        "late": True,
        "episodes": 10**30,
        "note": "ünïcode",
        "none": None,
    }
    found = rk.save(tmp_path / "x", policy=1, metrics=metrics, counters={"updates": np.int32(4)})
    again = rk.open(tmp_path / "x")
    for checkpoint in (found, again):
        kept = dict(checkpoint.metrics)
        assert np.isnan(kept.pop("nan"))
        assert kept == {key: value for key, value in metrics.items() if key != "nan"}
        assert {type(value) for value in kept.values()} == {float, int, bool, str, type(None)}
        assert checkpoint.counters == {"updates": 4}
    json.loads((tmp_path / "x" / "checkpoint.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.zeros(2), object(), b"x", 1j, np.complex64(1)])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(rk.UnsupportedError, match=r"metrics\['loss'\]"):
        rk.save(tmp_path / "x", policy=1, metrics={"loss": value})
    with pytest.raises(rk.UnsupportedError, match=r"counters\['updates'\]"):
        rk.save(tmp_path / "x", policy=1, counters={"updates": value})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("node", [{"$uuid": 5}, {"$float": "nan:aa"}, {"$what": 1}, {"$int": []}])
def test_a_metric_that_cannot_be_read_is_refused(checkpoint, node):
    seal(checkpoint, lambda content: content.update(metrics={"loss": node}))
    with pytest.raises(rk.FormatError, match="malformed"):
        rk.open(checkpoint).metrics  # noqa: B018


def test_a_metric_under_a_key_that_is_no_text_is_refused(tmp_path):
    metrics: Any = {5: 1.0}
    with pytest.raises(rk.UnsupportedError, match="text key"):
        rk.save(tmp_path / "x", policy=1, metrics=metrics)


def test_a_manifest_says_what_was_asked_of_it(checkpoint):
    read = manifest.read(checkpoint)
    assert read.num_bytes == sum(
        path.stat().st_size for path in checkpoint.iterdir() if path.name != "checkpoint.json"
    )
    assert read.records().keys() == {"agent.json", "policy.json", "policy.safetensors"}
    assert read.components["policy"].arrays == ["policy.safetensors"]
    assert [*json.loads((checkpoint / "checkpoint.json").read_bytes())][-1] == "digest"
    assert read.environment["rekindle"] == rk.__version__

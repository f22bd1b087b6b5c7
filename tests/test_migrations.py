"""Old versions of our format open as the present one, in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.old_versions import make_old, version_0

import rekindle as rk
from rekindle import manifest, migrations


@pytest.fixture
def old(tmp_path: Path) -> Path:
    rk.save(tmp_path / "old", policy={"weight": np.arange(6.0)}, agent={"lr": 0.5}, step=9)
    return make_old(tmp_path / "old")


def test_there_is_no_version_before_the_first() -> None:
    assert migrations.MIGRATIONS == {}
    assert migrations.oldest(manifest.VERSION) == manifest.VERSION == 1


def test_an_old_checkpoint_opens_as_a_present_one(old: Path) -> None:
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with version_0():
        opened = rk.open(old)
        assert isinstance(opened, rk.Checkpoint)
        assert (opened.step, list(opened.components)) == (9, ["policy", "agent"])
        loaded = rk.load(old)
        assert loaded["agent"] == {"lr": 0.5}
        assert loaded["policy"]["weight"].tolist() == [0, 1, 2, 3, 4, 5]
        live = {"weight": np.zeros(6)}
        rk.restore(old, policy=live)
        assert live["weight"].tolist() == [0, 1, 2, 3, 4, 5]
        assert rk.verify(old)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_a_version_without_a_way_is_refused(old: Path) -> None:
    with pytest.raises(rk.VersionError, match="expected format version 1 or older, found 0"):
        rk.open(old)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    rk.save(tmp_path / "new", policy=1)
    file = tmp_path / "new" / manifest.NAME
    text = file.read_bytes().replace(b'"version": 1', b'"version": 2')
    digest = text[text.rindex(b'"digest": "') + 11 :][:64]
    zeros = text.replace(digest, b"0" * 64)
    from rekindle import files

    file.write_bytes(zeros.replace(b"0" * 64, files.digest(zeros).encode()))
    with version_0(), pytest.raises(rk.VersionError, match="A newer Rekindle wrote it"):
        rk.open(tmp_path / "new")


def test_an_old_checkpoint_is_checked_as_it_was_written(old: Path) -> None:
    (old / "agent.json").write_bytes(b'{"lr": 0.7}')
    with version_0():
        assert not rk.verify(old)
        with pytest.raises(rk.DamagedError):
            rk.load(old)


def test_a_document_that_breaks_the_rules_of_its_version_says_so(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(component: str, content: object) -> object:
        raise KeyError(component)

    with version_0():
        monkeypatch.setitem(migrations.MIGRATIONS, 0, migrations.Migration(document=fails))
        monkeypatch.setattr(
            migrations, "manifest", lambda content, *_: {**content, "components": content["parts"]}
        )
        with pytest.raises(rk.FormatError, match="breaks its rules"):
            rk.load(old)


def test_renewing_writes_the_present_version(old: Path, tmp_path: Path) -> None:
    with version_0():
        rk.convert(old, tmp_path / "new")
        rk.convert(old, tmp_path / "new.zip")
    for name in ("new", "new.zip"):
        assert manifest.read(tmp_path / name).version == 1
        assert rk.verify(tmp_path / name)
        assert rk.load(tmp_path / name)["agent"] == {"lr": 0.5}

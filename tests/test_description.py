"""`run.json`: what a run is, and what must be equal to go on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests import little_loop
from tests.little_loop import loop

import rekindle as rk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def trained(path: Path) -> Path:
    """A run with a checkpoint at step 30."""
    return little_loop.trained(path, every=30)


def test_a_run_says_what_is_trained(path: Path) -> None:
    about = {"algorithm": "PPO", "environment": "Ant-v5", "configuration": {"lr": 1e-3}}
    with loop(path, **about) as made:
        made.run.resume()
    assert {**made.run.about, **about} == made.run.about
    with loop(path, configuration={"lr": 1e-3}) as again:
        again.run.describe(algorithm="PPO", environment="Ant-v5", configuration={"lr": 5})
        again.run.resume()


def test_another_configuration_is_refused_with_every_difference(trained: Path) -> None:
    shutil.rmtree(trained)
    stored = {"lr": 1e-3, "net": {"layers": [64, 64], "act": "tanh"}, "seed": 3, "old": None}
    with loop(trained, algorithm="PPO", environment="Ant-v5", configuration=stored) as made:
        made.run.resume()
        made.progress.step = 5
        made.run.save()
    before = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*.json*"))

    other = {"lr": 1e-4, "net": {"layers": [64, 32], "act": "tanh"}, "seed": 3, "new": [1]}
    with loop(trained, algorithm="SAC", environment="Ant-v4", configuration=other) as made:
        for start in (made.run.resume, made.run.prepare, made.run.save):
            with pytest.raises(rk.MismatchError) as raised:
                start()
        assert made.progress.step == 0
        assert not made.run._lock.is_held, "another start may fix it"

    assert {str(difference) for difference in raised.value.differences} == {
        "algorithm: expected PPO, found SAC",
        "environment: expected Ant-v5, found Ant-v4",
        "configuration.lr: expected 0.001, found 0.0001",
        "configuration.net.layers: expected [64, 64], found [64, 32]",
        "configuration.new: expected nothing, found [1]",
        "configuration.old: expected None, found nothing",
    }
    after = sorted((str(file), file.stat().st_mtime_ns) for file in trained.rglob("*.json*"))
    assert after == before


def test_a_configuration_that_is_no_data_is_refused(path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match="configuration"):
        rk.Run(path, configuration={"env": object()})


@pytest.mark.parametrize(
    ("text", "error"),
    [("", rk.DamagedError), ("{", rk.DamagedError), ("[]", rk.FormatError),
     ('{"format": "other"}', rk.FormatError),
     ('{"format": "rekindle-run", "version": 2}', rk.VersionError),
     ('{"format": "rekindle-run", "version": "x"}', rk.FormatError)],
)  # fmt: skip
def test_a_description_that_cannot_be_read_is_refused(
    trained: Path, text: str, error: type[Exception]
) -> None:
    (trained / "run.json").write_text(text)
    with loop(trained) as made, pytest.raises(error, match=r"run\.json"):
        made.run.resume()
    with pytest.raises(error):
        rk.Run(trained).about  # noqa: B018
    assert rk.Run(trained).latest().step == 30


def test_a_lost_description_is_written_anew(trained: Path) -> None:
    (trained / "run.json").unlink()
    with pytest.raises(rk.NotFoundError, match=r"run\.json"):
        rk.Run(trained).about  # noqa: B018
    with loop(trained, algorithm="PPO") as made:
        assert made.run.resume() is not None
    assert made.run.about["algorithm"] == "PPO"

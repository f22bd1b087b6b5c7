"""A little of what `make fuzz` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import fuzz
from tests.hostile import watched


def test_changed_files_give_a_value_or_a_clear_error() -> None:
    assert fuzz.run(4.0, seed=1) > 20


def test_a_mutant_is_made_again_from_its_seed() -> None:
    first, second = (next(fuzz.mutants(77)) for _ in range(2))
    assert first == second
    assert first.data != fuzz.sources()[first.source]


def test_trouble_is_kept_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(path: Path) -> None:
        raise IndexError(path.name)

    monkeypatch.setattr(watched, "READERS", {"bad": bad})
    with pytest.raises(AssertionError, match="seed 5,"):
        fuzz.run(5.0, seed=5, keep=tmp_path)
    assert (tmp_path / "mutant-5").exists()

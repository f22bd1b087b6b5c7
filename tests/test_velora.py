"""`rekindle.velora` without Velora; with it, see `tests/interop` and `make interop`."""

from __future__ import annotations

import importlib
import sys

import pytest

from rekindle.errors import MissingDependencyError


def test_without_velora_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "velora", None)
    monkeypatch.delitem(sys.modules, "rekindle.velora", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install velora==0\.2\.0") as found:
        importlib.import_module("rekindle.velora")
    assert isinstance(found.value.__cause__, ModuleNotFoundError)

"""Tests against real libraries that need an environment of their own: `make interop`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_IS_INSTALLED = importlib.util.find_spec("velora") is not None

# The development environment has no Velora, so these are no part of `make test`.
collect_ignore_glob = [] if _IS_INSTALLED else ["test_*"]

_WARNINGS = (
    # Velora scripts its networks, which torch would rather have compiled.
    "ignore:`torch.jit:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    """What a library that is tested here warns of is no error of ours."""
    for line in _WARNINGS if _IS_INSTALLED else ():
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Velora puts its database, and its callback's folders, where the process stands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

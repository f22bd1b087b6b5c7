"""The public names are those that `__all__` lists, documented, and cheap to import."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import rekindle as rk

FRAMEWORKS = {
    "torch", "jax", "gymnasium", "stable_baselines3", "mujoco", "pandas", "matplotlib",
    "typer", "rich", "ctypes.util", "asyncio",
}  # fmt: skip


def test_all_lists_exactly_the_public_names() -> None:
    found = {
        name
        for name in dir(rk)
        if not name.startswith("_")
        and not isinstance(getattr(rk, name), types.ModuleType)
        and name not in ("annotations", "VERSION", "Any", "TYPE_CHECKING")
    }
    assert found == set(rk.__all__)
    assert rk.__all__ == sorted(rk.__all__)


def test_what_is_loaded_later_is_what_it_is_called() -> None:
    code = "import rekindle as rk, rekindle.migrating, rekindle.diffing; print(rk.diff, rk.migrate)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.count("<function") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rk.nothing


@pytest.mark.parametrize("name", rk.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    public = getattr(rk, name)
    assert inspect.getdoc(public)
    if inspect.isclass(public):
        for key, member in vars(public).items():
            if not key.startswith("_") and (
                inspect.isfunction(member) or isinstance(member, property)
            ):
                assert inspect.getdoc(member), f"{name}.{key}"


def test_every_error_has_a_code_and_an_exit_code_of_its_own() -> None:
    errors = [value for value in vars(rk).values() if inspect.isclass(value)]
    errors = [value for value in errors if issubclass(value, rk.RekindleError)]
    assert len(errors) > 8
    assert len({error.code for error in errors}) == len(errors)
    assert len({error.exit_code for error in errors}) == len(errors)
    assert all(error.exit_code not in (0, 2) for error in errors)


def test_importing_loads_no_framework() -> None:
    code = "import sys, rekindle; print('\\n'.join(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not FRAMEWORKS & set(output.split())


def test_importing_costs_little_more_than_numpy_does(tmp_path: Path) -> None:
    # Processor time with compiled files at hand: what an installed copy costs. A framework would
    # take many times as long as numpy; `make bench` has the figures.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds: dict[str, list[float]] = {"numpy": [], "rekindle": []}
    for _ in range(6):
        for name, found in seconds.items():
            code = f"import time; a = time.process_time(); import {name}"
            output = subprocess.run(
                [sys.executable, "-c", f"{code}; print(time.process_time() - a)"],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            ).stdout
            found.append(float(output))
    assert min(seconds["rekindle"]) < 2.4 * min(seconds["numpy"]), seconds

"""Every format that can be written, from each file in the tree: read back, and given to its own.

    python -m tests.interop

A file counts as loaded when the library takes what we wrote as it takes the original. Where it
takes neither, as with classes that only the program of that time had, the file is not counted.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.formats.test_sb3_model import algorithm_of
from tests.same_readings import differences
from tests.test_converting import WRITABLE

from rekindle import paths
from rekindle.errors import UnsupportedError
from rekindle.formats import recognition
from rekindle.formats.protocol import Reading


def _velora(path: Path, original: Path) -> None:
    from velora.models import NeuroFlow, NeuroFlowCT

    told = json.loads((path / "metadata.json").read_text())["model"]
    cls = NeuroFlowCT if "log_std" in told else NeuroFlow
    cls.load(path, buffer=(path / "buffer_state.safetensors").exists())


def _sb3_model(path: Path, original: Path) -> None:
    algorithm_of(original).load(path, device="cpu")


def _sb3_pickle(path: Path, original: Path) -> None:
    from stable_baselines3.common.save_util import load_from_pkl

    load_from_pkl(path)


def _equinox(path: Path, original: Path) -> None:
    import equinox
    import jax

    leaves = recognition.recognise(path).read(path).components["agent"]
    like = [jax.numpy.asarray(leaf) for leaf in leaves]
    with path.open("rb") as file:
        if file.peek(1)[:1] == b"{":
            file.readline()
        equinox.tree_deserialise_leaves(file, like)


def _torch(path: Path, original: Path) -> None:
    import torch

    torch.load(path, weights_only=True)


def _safetensors(path: Path, original: Path) -> None:
    import safetensors.torch

    safetensors.torch.load_file(path)


LIBRARIES: dict[str, tuple[str, Callable[[Path, Path], None] | None]] = {
    "velora": ("velora", _velora),
    "sb3.model": ("sb3_contrib", _sb3_model),
    "sb3.replay_buffer": ("stable_baselines3", _sb3_pickle),
    "sb3.normalizer": ("stable_baselines3", _sb3_pickle),
    "equinox": ("equinox", _equinox),
    "torch": ("torch", _torch),
    "safetensors": ("safetensors", _safetensors),
    "lerax": ("lerax", None),
    "cogym": ("co_gym", None),
    "metta.checkpoint": ("metta", None),
    "metta.bundle": ("metta", None),
}
"""Each format's library, and how it loads a file: what we wrote, from which original."""


_KIND = ": as a tensor: "


@dataclass
class Row:
    """What was found of all files of one format."""

    num_files: int = 0
    num_refused: int = 0
    num_arrays: int = 0
    num_values: int = 0
    largest: float = 0.0
    num_loaded: int = 0
    num_loadable: int = 0


def _loads(load: Callable[[Path, Path], None], path: Path, original: Path) -> Exception | None:
    """What the real library says to a file, or None when it takes it."""
    try:
        with redirect_stdout(StringIO()):
            load(path, original)
    except Exception as error:  # noqa: BLE001 - libraries raise whatever they like
        return error
    return None


def _values(arrays: dict[str, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name, array in arrays.items():
        if array.dtype.kind in "biufc":
            yield name, array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _different(one: Reading, other: Reading) -> list[str]:
    """Where values differ; how a tensor lay in memory, or what class of tensor it was, is none."""
    found = differences(one, other, (), is_ordered=False, is_shared=False)
    return [line for line in found if not line.endswith("order in memory") and _KIND not in line]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between numbers of two readings; infinite where one lacks them."""
    if one.keys() != other.keys():
        return float("inf")
    found, largest = dict(_values(other)), 0.0
    for name, array in _values(one):
        if array.shape != found[name].shape:
            return float("inf")
        same = (array == found[name]) | (np.isnan(array) & np.isnan(found[name]))
        if not same.all():
            largest = max(largest, float(np.abs(array - found[name])[~same].max()))
    return largest


def main() -> int:
    """Print the table; 1 when anything is not as it was."""
    warnings.simplefilter("ignore")
    rows: dict[str, Row] = collections.defaultdict(Row)
    wrong: list[str] = []
    for path, name in WRITABLE:
        row, format_ = rows[name], recognition.named(name)
        with tempfile.TemporaryDirectory() as directory:
            reading = format_.read(path)
            target = Path(directory, "parent", path.name)
            target.parent.mkdir()
            try:
                format_.write(reading, target)
            except UnsupportedError:  # it cannot hold this one, and says so
                row.num_refused += 1
                continue
            again = format_.read(target)
            wrong += [f"{path}: {text}" for text in _different(reading, again)]
            one, other = paths.arrays(reading.components), paths.arrays(again.components)
            row.num_files += 1
            row.num_arrays += len(one)
            row.num_values += sum(array.size for array in one.values())
            row.largest = max(row.largest, _difference(one, other))
            library, load = LIBRARIES[name]
            if load is None or importlib.util.find_spec(library) is None:
                continue
            if _loads(load, path, path) is None:
                row.num_loadable += 1
                error = _loads(load, target, path)
                row.num_loaded += error is None
                wrong += [] if error is None else [f"{path}: {library}: {error}"]
    table = Table(
        "format", "files", "refused", "arrays", "values compared", "largest difference", "loads"
    )
    for name, row in sorted(rows.items()):
        numbers = (row.num_files, row.num_refused, row.num_arrays, row.num_values)
        counts = (f"{number:,}" for number in numbers)
        table.add_row(name, *counts, f"{row.largest:g}", _said(name, row))
    Console(width=110).print(table)
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


def _said(name: str, row: Row) -> str:
    library, load = LIBRARIES[name]
    if load is None or importlib.util.find_spec(library) is None:
        return "not installed"
    answer = "yes" if row.num_loaded == row.num_loadable else "no"
    return f"{answer}, {row.num_loaded} of {row.num_loadable}"


if __name__ == "__main__":
    sys.exit(main())

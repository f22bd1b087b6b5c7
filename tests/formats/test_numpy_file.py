"""Files of numpy, written by numpy."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rekindle.errors import DamagedError, FormatError, UnsafeError, UnsupportedError
from rekindle.formats.numpy_file import FORMAT
from rekindle.formats.protocol import Confidence, Reading
from rekindle.formats.recognition import recognise

ARRAYS: dict[str, Any] = {
    "policy/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(3, np.int16),
    "text": np.array(["ab", "c"]),
    "big": np.arange(3, dtype=">f8"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_of_an_archive_is_read(save: Any, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        save(file, **ARRAYS)
    reading = recognise(tmp_path / "x").read(tmp_path / "x")
    assert reading.format == "numpy"
    found = reading.components["agent"]
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_one_array_is_read_by_itself(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5.0))
    reading = recognise(tmp_path / "x.npy").read(tmp_path / "x.npy")
    assert (reading.format, reading.components["agent"].tolist()) == ("numpy", [0, 1, 2, 3, 4])


def test_stored_arrays_stay_in_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(200_000))
    base: Any = FORMAT.read(tmp_path / "x.npz").components["agent"]["a"]
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")


def test_arrays_of_objects_are_refused_and_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(UnsafeError, match="not opened"):
        FORMAT.read(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=np.zeros(2, "i4,f4"))
    with pytest.raises(UnsupportedError, match="structured"):
        FORMAT.read(tmp_path / "y.npz")


def test_other_files_are_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "x"
    np.savez(tmp_path / "x.npz", a=np.ones(3), b=np.ones(3))
    whole = (tmp_path / "x.npz").read_bytes()
    path.write_bytes(whole)
    assert FORMAT.sniff(path) is Confidence.LAYOUT
    one = io.BytesIO()
    np.save(one, np.ones(3))
    for data in (b"", b"PK", whole[:-30], one.getvalue() * 2, one.getvalue()[:-1], b"text"):
        path.write_bytes(data)
        assert FORMAT.sniff(path) is None
        with pytest.raises((FormatError, DamagedError)):
            FORMAT.read(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.npy", one.getvalue())
        archive.writestr("readme.txt", "hello")
    assert FORMAT.sniff(tmp_path / "other.zip") is None
    with pytest.raises(FormatError, match=r"readme\.txt"):
        FORMAT.read(tmp_path / "other.zip")


def test_memory_is_bounded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(5_000_000))
    with pytest.raises(UnsafeError, match="max_bytes"):
        FORMAT.read(tmp_path / "x.npz", max_bytes=1_000_000)


def test_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only"):
        FORMAT.write(Reading(format="x", components={}), tmp_path / "x")

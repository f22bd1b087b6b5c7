"""Files of arrays that are put together in memory before they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rekindle import files
from rekindle.codecs import arrays
from rekindle.codecs.arrays import Image, Stored

RANDOM = np.random.default_rng(0)
MIXED = {
    "weights": RANDOM.standard_normal((16, 8)).astype(np.float32),
    "one byte": np.frombuffer(b"x", np.uint8),
    "flags": RANDOM.random(7) < 0.5,
    "none": np.zeros((0, 3), np.float32),
    "scalar": np.float64(2.5).reshape(()),
    "turned": RANDOM.standard_normal((5, 4)).T,
    "halves": RANDOM.standard_normal(3).astype(np.float16),
}
SETS = {
    "of every kind": MIXED,
    "written past the page cache": {"large": RANDOM.bytes(files.DIRECT_BYTES), "small": b"abc"},
    "of no bytes": {"none": np.zeros((0, 2), np.float32)},
}


def stored(found: dict[str, np.ndarray]) -> dict[str, Stored]:
    return {name: arrays.encode(value)[0] for name, value in found.items()}


def as_arrays(found: dict[str, np.ndarray | bytes]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        for name, value in found.items()
    }


def image_of(found: dict[str, np.ndarray], extra_bytes: int = 0) -> Image:
    memory = np.full(sum(value.nbytes for value in found.values()) + extra_bytes, 7, np.uint8)
    return Image(stored(found), memory)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("extra_bytes", [0, 100])
def test_an_image_is_written_as_the_arrays_themselves_would_be(
    tmp_path: Path, kind: str, extra_bytes: int
) -> None:
    found = as_arrays(SETS[kind])
    image = image_of(found, extra_bytes)
    image.take(stored(found))
    record = image.write(tmp_path / "image")
    assert record == arrays.write(tmp_path / "arrays", stored(found))
    assert (tmp_path / "image").read_bytes() == (tmp_path / "arrays").read_bytes()
    assert image.record() == record == arrays.record(stored(found))


def test_an_image_does_not_change_with_the_arrays(tmp_path: Path) -> None:
    live = {name: value.copy() for name, value in MIXED.items()}
    image = image_of(live)
    taken = stored(live)
    image.take(taken)
    live["weights"][:] = 0
    assert image.write(tmp_path / "x") == arrays.record(stored(MIXED))
    np.testing.assert_array_equal(taken["weights"].raw, MIXED["weights"])


def test_an_image_is_used_again_for_arrays_of_the_same_kinds(tmp_path: Path) -> None:
    image = image_of(MIXED)
    image.take(stored(MIXED))
    others = {name: value + value for name, value in MIXED.items()}
    assert image.fits(stored(others))
    image.take(stored(others))
    assert image.write(tmp_path / "x") == arrays.record(stored(others))


@pytest.mark.parametrize(
    "others",
    [
        MIXED | {"weights": np.zeros((8, 16), np.float32)},
        MIXED | {"weights": np.zeros((16, 8), np.int32)},
        MIXED | {"more": np.zeros(1)},
        {name: value for name, value in MIXED.items() if name != "flags"},
        {name.upper(): value for name, value in MIXED.items()},
        dict(reversed(MIXED.items())),
    ],
)
def test_an_image_of_other_arrays_does_not_fit(others: dict[str, np.ndarray]) -> None:
    assert not image_of(MIXED).fits(stored(others))

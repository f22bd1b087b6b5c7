"""Records of `.npy`, one after the other in some bytes, written by numpy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from rekindle import spans
from rekindle.errors import DamagedError, FormatError
from rekindle.formats import npy_records
from rekindle.limits import Budget


def written(*arrays: Any) -> bytes:
    out = io.BytesIO()
    for array in arrays:
        np.save(out, array)
    return out.getvalue()


def test_records_follow_each_other() -> None:
    arrays = [np.arange(3.0), np.asfortranarray(np.ones((2, 3), np.int8)), np.array(True)]
    span = spans.of_bytes(b"before" + written(*arrays), "it")
    found = [
        npy_records.array(span, record, Budget(name="it"))
        for record in npy_records.records(span, 6)
    ]
    for array, expected in zip(found, arrays, strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()


def test_what_is_not_aligned_stays_only_where_that_does_not_matter() -> None:
    data = b"x" + written(np.ones(100_000))
    span = spans.of_bytes(data, "it")
    (record,) = npy_records.records(span, 1)
    copied = npy_records.array(span, record, Budget(name="it"))
    there = npy_records.array(span, record, Budget(name="it"), needs_alignment=False)
    assert copied.tobytes() == there.tobytes()
    assert not np.shares_memory(copied, span.array())
    assert np.shares_memory(there, span.array())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (written(np.ones(3))[:-1], DamagedError),
        (written(np.ones(3))[:20], DamagedError),
        (b"text", FormatError),
        (written(np.ones(3)).replace(b"'<f8'", b"'<q8'"), FormatError),
        (written(np.ones(3))[:6] + b"\x09" + written(np.ones(3))[7:], FormatError),
    ],
)
def test_bad_records_have_errors_of_their_own(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="record 0"):
        list(npy_records.records(spans.of_bytes(data, "it"), 0))

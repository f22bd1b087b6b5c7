from __future__ import annotations

import numpy as np

from rekindle.pickles.records import Recorded, RecordedClass
from rekindle.state import Record


def test_a_record_shows_its_name_and_fields_in_brief() -> None:
    record = Recorded("a.b:Agent", is_object=True)
    record.adopt({"step": 3, "weights": np.zeros(4), "inner": Record("a:B", {"x": 1})})
    text = repr(record)
    assert text == "<Agent step=3, weights=<float64 (4,)>, inner=<B ...>>"
    assert record.step == 3
    assert record["step"] == 3


def test_circles_and_shared_values_without_end_are_shown_in_brief() -> None:
    record = Recorded("a:B")
    laughs: list[object] = ["ha"]
    for _ in range(200):
        laughs = [laughs] * 10
    record.adopt({"itself": record, "laughs": laughs, "number": 1 << 100_000})
    record.arguments = (record,)
    assert len(repr(record)) < 300
    assert "(1 arguments)" in repr(record)


def test_what_the_pickle_says_comes_before_fields_of_the_same_name() -> None:
    record = Recorded("a:B")
    record.adopt({"state": "field", "other": 1})
    assert record.state is None
    assert record["state"] == "field"


def test_records_are_equal_by_all_that_they_hold() -> None:
    first, second = Recorded("a:B"), Recorded("a:B")
    assert first == second
    second.arguments = (1,)
    assert first != second
    assert first != Record("a:B", {})
    assert hash(first) == hash(Recorded("a:B"))
    assert RecordedClass("a:B") != Recorded("a:C")

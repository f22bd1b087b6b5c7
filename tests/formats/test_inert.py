from __future__ import annotations

import functools
import pickle

import cloudpickle
import numpy as np

from rekindle import spans
from rekindle.formats import inert
from rekindle.formats.protocol import Kind
from rekindle.pickles import reading


class Thing:
    pass


def read(value: object) -> object:
    return reading.read(spans.of_bytes(cloudpickle.dumps(value), "x")).value


def test_every_outermost_record_is_listed_with_its_path() -> None:
    cell = np.array([Thing()], dtype=object)
    value = read(
        {"a": [1, Thing()], "b": {"c": (Thing(),)}, "d": cell, "e": functools.partial(len)}
    )
    found = dict(inert.places(value, "agent"))
    assert set(found) == {"agent.a[1]", "agent.b.c[0]", "agent.d[...]"}


def test_plain_data_has_no_notes() -> None:
    assert inert.notes(read({"a": [1, "b", np.arange(3)], "c": None}), "agent") == []


def test_notes_say_what_a_record_was() -> None:
    class Local:
        pass

    found = inert.notes(read([Thing(), lambda: 0, Local, complex]), "agent")
    texts = {note.key: note.text for note in found}
    assert "attributes are there" in texts["agent[0]"]
    assert "never run" in texts["agent[1]"]
    assert "never made" in texts["agent[2]"]
    assert {note.kind for note in found} == {Kind.INERT}
    assert str(found[0]).startswith("agent[0]: ")


def test_circles_end_and_long_lists_are_cut() -> None:
    loop: list[object] = [Thing()]
    loop.append(loop)
    assert len(inert.notes(read(loop), "agent")) == 1
    many = inert.notes(read([Thing() for _ in range(1000)]), "agent")
    assert len(many) == 201
    assert "more values" in many[-1].text
    assert pickle.HIGHEST_PROTOCOL == 5

"""Configurations of OmegaConf become what they say, and nothing makes that take for ever."""

from __future__ import annotations

import time
from typing import Any

from rekindle.formats import omegaconf_records
from rekindle.pickles.records import Recorded
from rekindle.state import Record


def record(kind: str, **fields: Any) -> Record:
    made = Recorded(f"omegaconf.{kind}", is_object=True)
    made.adopt(fields)
    return made


def node(value: Any) -> Record:
    return record("nodes:AnyNode", _val=value, _parent=None)


def test_a_configuration_becomes_what_it_says() -> None:
    inner = record("listconfig:ListConfig", _content=[node(1), node(None)])
    outer = record("dictconfig:DictConfig", _content={"a": inner, 3: node("${b}")})
    other = {"kept": [1, 2]}
    value = {"config": outer, "other": other, "many": [other, (inner,)]}
    found, paths = omegaconf_records.plain(value)
    assert found == {
        "config": {"a": [1, None], 3: "${b}"},
        "other": other,
        "many": [other, ([1, None],)],
    }
    assert found["other"] is other
    assert paths == ["config"]


def test_a_configuration_that_is_missing_or_refers_to_another_is_that_value() -> None:
    for content in (None, "???", "${other}"):
        found, _ = omegaconf_records.plain([record("dictconfig:DictConfig", _content=content)])
        assert found == [content]


def test_data_without_a_configuration_stays_the_same_object() -> None:
    value = {"a": [1, {"b": (Recorded("x:Y"),)}]}
    assert omegaconf_records.plain(value) == (value, [])
    assert omegaconf_records.plain(value)[0] is value


def test_what_holds_itself_or_is_deep_or_shared_many_times_ends() -> None:
    circle: list[Any] = []
    circle.append(circle)
    config = record("dictconfig:DictConfig", _content={})
    config["_content"]["self"] = config
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    shared: Any = [node(1)]
    for _ in range(60):
        shared = [shared, shared]
    began = time.monotonic()
    found, _ = omegaconf_records.plain([circle, config, deep, shared])
    assert time.monotonic() - began < 2
    assert found[0] is circle
    assert found[1] == {"self": config}
    assert found[2] is deep
    while isinstance(found[3], list):
        found[3] = found[3][0]
    assert found[3] == 1

"""YAML as `yaml.dump` writes it: read like PyYAML does, with nothing constructed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.errors import FormatError, UnsafeError, UnsupportedError
from rekindle.formats import yaml_text

TEXT = st.text(max_size=60) | st.text(" abc:-#'\"\\\n0123.,_eE[]{}~!&*%@", max_size=120)
KEYS = st.text("abc: -#'\"xyz0.1", min_size=1, max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(KEYS, part, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert yaml_text.loads(yaml_text.dumps(value, "value"), "value") == value


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_it_reads_what_pyyaml_writes_and_writes_what_pyyaml_reads(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml_text.loads(yaml.dump(value, default_flow_style=False), "value") == value
    assert yaml.safe_load(yaml_text.dumps(value, "value")) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("--- \na: 1\n...\n", {"a": 1}),
        ("a: 1.0e-08\nb: 1e-08\n", {"a": 1e-08, "b": "1e-08"}),
        ("a: .inf\nb: -.INF\n", {"a": math.inf, "b": -math.inf}),
        ("- yes\n- Off\n- yEs\n- ~\n-\n", [True, False, "yEs", None, None]),
        ("- 0x1F\n- 010\n- 1_000\n- 2026-11-21\n", [31, 8, 1000, "2026-11-21"]),
        ("wall time: 2.5 # seconds\n# comment\nwhen: 2026-11-21_05:56:09\n",
         {"wall time": 2.5, "when": "2026-11-21_05:56:09"}),
        ("a:\n- - 1\n  - 2\n- b: c\n  d: []\n", {"a": [[1, 2], {"b": "c", "d": []}]}),
        ("a: [1, 2.5, x]\nb: {}\n", {"a": [1, 2.5, "x"], "b": {}}),
        ("path: /a long/path that\n  is folded\n\n  twice\nb: 1\n",
         {"path": "/a long/path that is folded\ntwice", "b": 1}),
    ],
)  # fmt: skip
def test_known_text_has_its_known_value(text: str, value: Any) -> None:
    assert yaml_text.loads(text, "known") == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", UnsafeError),
        ("!!python/object:os.system {}\n", UnsafeError),
        ("- " * 60 + "a\n", UnsafeError),
        ("a: &x [1]\nb: *x\n", UnsupportedError),
        ("b: *x\n", UnsupportedError),
        ("a: |\n  text\n", UnsupportedError),
        ("? [a]\n: b\n", UnsupportedError),
        ("a: {b: [c]}\n", UnsupportedError),
        ("a: 1\na: 2\n", FormatError),
        ("a: 1\n  b: 2\n", FormatError),
        ("a: 'open\n", FormatError),
        ('a: "\\q"\n', FormatError),
        ("- 1\nb: 2\n", FormatError),
    ],
)
def test_other_text_is_refused_with_a_line(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="file"):
        yaml_text.loads(text, "file")


def test_what_is_no_plain_value_is_not_written() -> None:
    with pytest.raises(UnsupportedError, match=r"config\.a\[0\]"):
        yaml_text.dumps({"a": [object()]}, "config")

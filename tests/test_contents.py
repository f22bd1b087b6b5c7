"""Any checkpoint as one reading; the specification of converted ones holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.test_format import named, table

import rekindle as rk
from rekindle.checkpoint import is_ours
from rekindle.contents import Origin, contents
from rekindle.formats.protocol import Kind

GOLDEN = Path(__file__).parent / "golden"
SB3 = GOLDEN / "sb3" / "v2.9.2" / "ppo_lr_schedule_custom_net" / "model.zip"


def test_ours_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    rk.save(
        tmp_path / "a", policy={"w": np.arange(3.0)}, step=5, metrics={"return": 1.5},
        counters={"updates": 2},
    )  # fmt: skip
    found = contents(tmp_path / "a")
    assert (found.format, found.step, found.kind) == ("rekindle", 5, "checkpoint")
    assert (found.metrics, found.counters) == ({"return": 1.5}, {"updates": 2})
    assert found.components["policy"]["w"].tolist() == [0, 1, 2]
    assert (found.notes, found.details) == ((), {})


def test_tensors_of_ours_are_known_as_such(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 1).to(torch.bfloat16)
    rk.save(tmp_path / "a", policy=module, rows=np.zeros(3))
    found = contents(tmp_path / "a")
    tensor = found.tensors.of(found.components["policy"]["weight"])
    assert tensor is not None
    assert (tensor.dtype, tensor.is_parameter, tensor.requires_grad) == ("bfloat16", True, True)
    assert found.tensors.of(found.components["rows"]) is None


def test_what_is_ours_is_told_by_content(tmp_path: Path) -> None:
    rk.save(tmp_path / "a.zip", policy=1)
    (tmp_path / "a.zip").rename(tmp_path / "a.pt")
    assert is_ours(tmp_path / "a.pt")
    assert not is_ours(SB3)
    assert not is_ours(tmp_path / "nothing")


def test_a_converted_checkpoint_has_the_keys_that_the_table_lists(tmp_path: Path) -> None:
    rk.convert(SB3, tmp_path / "a")
    origin = rk.load(tmp_path / "a")["origin"]
    assert list(origin) == named(table("Converted checkpoints"), "key")
    assert list(Origin(format="", details={}).to_dict()) == list(origin)
    assert {note["kind"] for note in origin["notes"]} <= {str(kind) for kind in Kind}
    assert "origin" not in contents(tmp_path / "a").components


def test_what_is_told_of_records_is_in_the_table(tmp_path: Path) -> None:
    rk.convert(SB3, tmp_path / "a")
    document = rk.open(tmp_path / "a").document("agent")  # type: ignore[union-attr]
    listed = {
        key
        for row in table("Converted checkpoints", 1)
        for key in row["key"].replace("`", "").split(", ")
    }
    found: set[str] = set()
    pending: list[Any] = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            found |= set(node["told"]) if "$object" in node and "told" in node else set()
            pending += node.values()
    assert {"kind", "is_object", "arguments"} <= found <= listed


def test_a_malformed_origin_is_an_error(tmp_path: Path) -> None:
    rk.save(tmp_path / "a", origin={"format": "x", "details": {}}, policy=1)
    with pytest.raises(rk.FormatError, match="breaks its rules"):
        contents(tmp_path / "a")

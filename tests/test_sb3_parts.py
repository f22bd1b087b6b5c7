"""Every part of SB3's state matters: without it, a resumed run differs, and the comparison says so.

Run with `pytest -m exactness`; the parts that a loop of one's own has too are in `test_loops.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exactness.__main__ import compared, failed, start

PARTS = [
    ("td3_ou_two", 300, "action noise"),
    ("td3_ou_two", 300, "count of updates"),
    ("td3_ou_two", 300, "replay buffer"),
    ("sac", 300, "target network"),
    ("sac", 300, "entropy coefficient"),
    ("sac", 300, "last observation"),
    ("sac_her", 300, "episode lengths"),
    ("sac_normalized_two", 350, "replay buffer"),
    ("dqn", 400, "count of calls"),
    ("dqn", 400, "exploration rate"),
    ("recurrent_ppo", 330, "lstm states"),
    ("recurrent_ppo", 330, "episode starts"),
    ("ppo_gsde_normalized", 600, "returns"),
    ("ppo", 400, "episode statistics"),
    ("ppo", 400, "logger"),
]


@pytest.mark.exactness
@pytest.mark.parametrize(("case", "kill_at", "part"), PARTS)
def test_a_part_that_is_left_out_is_noticed(
    tmp_path: Path, case: str, kill_at: int, part: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert not failed(start("sb3_cases", case, whole))
    assert not failed(start("sb3_cases", case, killed, "--kill-at", str(kill_at)), -9)
    assert not failed(start("sb3_cases", case, killed, "--forget", part))
    found, _ = compared(whole, killed)
    assert [item.component for item in found if not item.is_identical]

"""The plain torch loops of the examples: killed at a random moment, each ends the same."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rekindle as rk

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPONENTS = {"policy", "optimizer", "env", "rng", "progress"}
LOOPS = [
    ("torch_loop.py", 4000, COMPONENTS, 8_000),
    ("sac_loop.py", 1200, COMPONENTS | {"critic", "target", "sampler", "replay_buffer"}, 10_000),
    (
        "ring_buffer.py",
        900,
        {"policy", "target", "optimizer", "env", "replay_buffer", "sampler", "progress"},
        500_000,
    ),
]


def start(name: str, run: Path, total: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLES / name), str(run), str(total)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(name: str, run: Path, total: int) -> str:
    process = start(name, run, total)
    output, _ = process.communicate()
    assert process.returncode == 0
    return output


def kill_after_a_checkpoint(name: str, run: Path, total: int) -> None:
    """SIGKILL at a random moment past the first checkpoint, while the loop still runs."""
    process = start(name, run, total)
    while not rk.Run(run).steps:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("name", "total", "components", "num_values"), LOOPS)
def test_a_killed_loop_ends_as_if_it_had_never_stopped(
    tmp_path: Path, name: str, total: int, components: set[str], num_values: int
) -> None:
    finish(name, tmp_path / "whole", total)
    kill_after_a_checkpoint(name, tmp_path / "killed", total)
    assert "Restored" in finish(name, tmp_path / "killed", total)
    one, two = (rk.Run(tmp_path / run).latest() for run in ("whole", "killed"))
    assert one.step >= total
    found = one.compare(two)
    assert {item.component for item in found} == components
    assert sum(item.num_values for item in found) > num_values
    assert [difference for item in found for difference in item.differences] == []


@pytest.mark.parametrize("name", [loop[0] for loop in LOOPS])
def test_the_example_fits_a_screen(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60

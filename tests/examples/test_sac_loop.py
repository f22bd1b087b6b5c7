"""The SAC loop of the examples: killed at a random moment, it ends the same."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import rekindle as rk

SCRIPT = Path(__file__).parents[2] / "examples" / "sac_loop.py"
TOTAL = "1200"


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run), TOTAL], stdout=subprocess.PIPE, text=True
    )


def finish(run: Path) -> str:
    process = start(run)
    output, _ = process.communicate()
    assert process.returncode == 0
    return output


def kill_after_a_checkpoint(run: Path) -> None:
    """SIGKILL at a random moment past the first checkpoint, while the loop still runs."""
    process = start(run)
    while not rk.Run(run).steps:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_loop_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    kill_after_a_checkpoint(tmp_path / "killed")
    assert "Restored" in finish(tmp_path / "killed")
    one, two = (rk.Run(tmp_path / name).latest() for name in ("whole", "killed"))
    assert one.step == int(TOTAL)
    found = one.compare(two)
    assert {"sampler", "replay_buffer", "target"} < {item.component for item in found}
    assert sum(item.num_values for item in found) > 10_000
    assert [difference for item in found for difference in item.differences] == []


def test_the_example_fits_a_screen() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 60

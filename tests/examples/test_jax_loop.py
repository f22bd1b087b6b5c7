"""The JAX loop of the examples: killed at a random moment, it ends the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import rekindle as rk

SCRIPT = Path(__file__).parents[2] / "examples" / "jax_loop.py"
TOTAL = "200000"


def start(run: Path, hash_seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run), TOTAL],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def finish(run: Path, hash_seed: str) -> str:
    process = start(run, hash_seed)
    output, _ = process.communicate()
    assert process.returncode == 0
    return output


def kill_after_a_checkpoint(run: Path) -> None:
    """SIGKILL at a random moment past the first checkpoint, while the loop still runs."""
    process = start(run, "1")
    while not rk.Run(run).steps:
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(random.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_loop_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole", "0")
    kill_after_a_checkpoint(tmp_path / "killed")
    killed = finish(tmp_path / "killed", "2")
    assert "Restored" in killed
    assert killed.splitlines()[-1] == whole.splitlines()[-1]
    one, two = (rk.Run(tmp_path / name).latest() for name in ("whole", "killed"))
    assert one.step >= int(TOTAL)
    (found,) = one.compare(two)
    assert found.num_values > 3000
    assert found.differences == []


def test_the_example_fits_a_screen() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 60

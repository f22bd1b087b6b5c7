"""Runs `scripts/environments.py` in two processes with different hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "scripts" / "environments.py"


def digests(family: str, folder: Path, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What environments did after a save, without and with a restart in between, by case."""
    return _child("write", family, folder, names, "1"), _child("read", family, folder, [], "2")


def _child(act: str, family: str, folder: Path, names: list[str], hash_seed: str) -> dict[str, str]:
    environment = os.environ | {
        "PYTHONHASHSEED": hash_seed, "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, act, family, folder, *names],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

"""Generators that nobody seeded are found between two starts of one script, and reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import random, sys
import gymnasium as gym, numpy as np, torch
import rekindle as rk

seeded = sys.argv[2].split(",")
if "python" in seeded: random.seed(1)
if "numpy" in seeded: np.random.seed(1)
if "torch" in seeded: torch.manual_seed(1)
env = gym.make("CartPole-v1")
env.reset(seed=1 if "env" in seeded else None)
if "space" in seeded: env.action_space.seed(1)
else: env.action_space.sample()
own = np.random.default_rng(1 if "own" in seeded else None)

run = rk.Run(sys.argv[1])
run.track(rng=rk.GlobalRNG(), env=env, own={"sampler": own}, progress=rk.Progress())
report = run.resume()
if report is None:
    run.save(step=1)
else:
    print("\\n".join(report.unseeded))
"""


def unseeded(tmp_path: Path, seeded: str) -> set[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run"), seeded]
    subprocess.run(command, check=True)
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_script_that_seeds_everything_reports_nothing(tmp_path: Path) -> None:
    assert unseeded(tmp_path, "python,numpy,torch,env,space,own") == set()


def test_each_generator_that_was_not_seeded_is_named(tmp_path: Path) -> None:
    found = unseeded(tmp_path, "torch")
    assert {"rng/python", "rng/numpy", "own/sampler"} <= found
    assert any("_np_random" in path for path in found)
    assert any("action_space" in path for path in found)
    assert "rng/torch" not in found

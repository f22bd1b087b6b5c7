"""What a trail costs: a small PPO run with it and without, turn by turn.

    python benchmarks/trail.py
    python benchmarks/trail.py --steps 50000 --rounds 7

Processor time, the least of all rounds for each side. Exits 1 when the trail costs 5 % or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from stable_baselines3 import PPO

import rekindle as rk
from rekindle import trail
from rekindle.sb3 import Checkpoint

MOST = 0.05


def seconds(path: Path, steps: int, *, has_trail: bool) -> float:
    """Processor time of one run."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=1024, seed=0, device="cpu")
    run = rk.Run(path, every=steps * 2, trail=has_trail)
    began = time.process_time()
    model.learn(steps, callback=Checkpoint(run, verbose=0))
    return time.process_time() - began


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    taken: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(asked.rounds):
            for has_trail in taken:
                path = Path(directory, f"{number}-{has_trail}")
                taken[has_trail].append(seconds(path, asked.steps, has_trail=has_trail))
        records = len(trail.merged(trail.read(path)).records)
        num_bytes = (path / trail.NAME).stat().st_size
    without, with_trail = min(taken[False]), min(taken[True])
    cost = with_trail / without - 1
    print(f"without  {without:.2f} s   with  {with_trail:.2f} s   cost {cost:+.1%}")
    print(f"{records} records, {num_bytes:,} bytes, in {asked.steps:,} steps")
    return 0 if cost < MOST else 1


if __name__ == "__main__":
    sys.exit(main())

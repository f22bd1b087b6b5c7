"""What a trail costs: a small PPO run with it and without, turn by turn.

    python benchmarks/trail.py
    python benchmarks/trail.py --steps 50000 --rounds 7

Processor time, the least of all rounds for each side. Exits 1 when the trail costs 5 % or more.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from timing import Turn, take_turns

import rekindle as rk
from rekindle import trail
from rekindle.sb3 import Checkpoint

MOST = 0.05


class Training:
    """A run of PPO, anew each time."""

    def __init__(self, directory: Path, steps: int, *, has_trail: bool) -> None:
        self._paths = (directory / str(number) for number in itertools.count())
        self._steps, self._has_trail = steps, has_trail
        self.path = directory
        self._model: Any = None
        self._callback: Any = None

    def build(self) -> None:
        """What is not timed: the model and the run."""
        self.path = next(self._paths)
        self._model = PPO("MlpPolicy", "CartPole-v1", n_steps=1024, seed=0, device="cpu")
        run = rk.Run(self.path, every=self._steps * 2, trail=self._has_trail)
        self._callback = Checkpoint(run, verbose=0)

    def learn(self) -> None:
        """What is timed."""
        self._model.learn(self._steps, callback=self._callback)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        trainings = [
            Training(Path(directory, str(has_trail)), asked.steps, has_trail=has_trail)
            for has_trail in (False, True)
        ]
        without, with_trail = (
            timing.least_cpu_seconds
            for timing in take_turns(
                asked.rounds, *(Turn(each.learn, before=each.build) for each in trainings)
            )
        )
        path = trainings[-1].path
        records = len(trail.merged(trail.read(path)).records)
        num_bytes = (path / trail.NAME).stat().st_size
    cost = with_trail / without - 1
    print(f"without  {without:.2f} s   with  {with_trail:.2f} s   cost {cost:+.1%}")
    print(f"{records} records, {num_bytes:,} bytes, in {asked.steps:,} steps")
    return 0 if cost < MOST else 1


if __name__ == "__main__":
    sys.exit(main())

"""A training loop of a few lines, for tests of what runs do around one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import rekindle as rk


class Loop:
    """A little training loop: what it tracks, and the run that saves it."""

    def __init__(self, path: Path, every: Any = None, **about: Any) -> None:
        self.progress = rk.Progress()
        self.policy = {"weights": np.zeros(3)}
        self.run = rk.Run(path, every=every, **about)
        self.run.track(policy=self.policy, progress=self.progress)

    def train(self, until: int, by: int = 1) -> list[int]:
        """Train; the steps at which it saved."""
        saved = []
        while self.progress.step < until:
            self.progress.step += by
            self.policy["weights"] += by
            if self.run.checkpoint(metrics={"return": float(self.progress.step)}):
                saved.append(self.progress.step)
        return saved


@contextmanager
def loop(path: Path, every: Any = None, **about: Any) -> Iterator[Loop]:
    made = Loop(path, every, **about)
    with made.run:
        yield made


def trained(path: Path, every: Any, **about: Any) -> Path:
    """A run that came to step 35."""
    with loop(path, every, **about) as made:
        made.run.resume()
        made.train(35)
    return path


def saved_twice(path: Path) -> Path:
    """A run with checkpoints of plain data at 10 and 20."""
    with rk.Run(path) as run:
        run.track(policy={"weight": np.arange(100.0)}, rng={"seed": 1})
        for step in (10, 20):
            run.save(step=step)
    return run.path


def damage(checkpoint: Path, name: str = "policy.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[-1] ^= 1
    (checkpoint / name).unlink()
    (checkpoint / name).write_bytes(data)

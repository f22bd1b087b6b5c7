"""A training loop of which the whole state is known from the step alone, saved in the background.

As a program it goes on with a run for ever, and says on its standard output before each save that
it begins: `foreseen.py RUN`. As a module it says what a checkpoint must hold.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import rekindle as rk

Array = np.ndarray[Any, Any]

CAPACITY = 3_000
WIDTH = 480
"""Rows of 3.8 KB: this ring is too large to be compared, and too large to be copied whole."""
NUM_FRAMES = 220
"""These rows, 1.5 MB, are compared block by block."""
AT_THE_START = 2_903
"""Rows added before the first step; not yet all that there is room for."""
EVERY = 4
"""Steps between two saves."""


class Memory:
    """A replay buffer: row `n` holds its own number, whatever the step."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.observations = np.zeros((capacity, WIDTH))
        self.rewards = np.zeros(capacity, np.float32)
        self.priorities = np.zeros(capacity, np.float32)
        self.frames = np.zeros((NUM_FRAMES, 84, 84), np.uint8)
        self.added = 0
        self.ring = rk.RingBuffer(
            {
                "observations": self.observations,
                "rewards": self.rewards,
                "priorities": self.priorities,
            },
            added=lambda: self.added,
            changing=("priorities",),
        )
        self.pictures = rk.RingBuffer({"frames": self.frames}, added=lambda: self.added)

    def add(self, count: int) -> None:
        """Add rows at once, the way vectorised environments do: all arrays, then the count."""
        numbers = np.arange(self.added, self.added + count)[-len(self.rewards) :]
        rows = numbers % len(self.rewards)
        self.observations[rows] = numbers[:, None]
        self.rewards[rows] = numbers % 1000
        newest = numbers[-NUM_FRAMES:]
        self.frames[newest % NUM_FRAMES] = (newest % 251)[:, None, None]
        self.added += count


def _numbers(added: int, capacity: int) -> Array:
    """The number of the row that lies at each place, -1 where none does."""
    places = np.arange(capacity)
    newest = added - 1 - (added - 1 - places) % capacity
    return np.where(newest >= 0, newest, -1)


class Training:
    """The loop.

    Args:
        path: Directory of the run.
        capacity: Rows of the memory.
        options: For `rk.Run`.
    """

    def __init__(self, path: Path, *, capacity: int = CAPACITY, **options: Any) -> None:
        self.memory = Memory(capacity)
        self.weights = {"layer": np.zeros((250, 200)), "bias": np.zeros(200, np.float32)}
        self.progress = rk.Progress()
        self.progress.recent = []
        self.progress.seen = {}
        self.added: dict[int, int] = {}
        """How many rows were added until each step, since this loop began."""
        self.run = rk.Run(path, **{"every": EVERY, "background": True, **options})
        self.run.track(replay_buffer=self.memory, policy=self.weights, progress=self.progress)

    def begin(self) -> rk.RestoreReport | None:
        """Resume, or fill the memory on a fresh start."""
        report = self.run.resume()
        if report is None:
            self.memory.add(AT_THE_START)
        self.added[self.progress.step] = self.memory.added
        return report

    def step(self, num_rows: int = 7) -> None:
        """One step of training: rows, priorities anywhere, weights, plain values."""
        progress = self.progress
        progress.step += 1
        step = progress.step
        self.memory.add(num_rows)
        self.memory.priorities[step * 31 % AT_THE_START] = step
        self.weights["layer"][:] = step
        self.weights["bias"][:] = step % 1000
        progress.recent.append(step)
        del progress.recent[:-50]
        progress.seen[step % 40] = step
        self.added[step] = self.memory.added

    @property
    def state(self) -> dict[str, Any]:
        """What is live, in the form of a loaded checkpoint."""
        names = ("observations", "rewards", "priorities", "frames", "added")
        return {
            "replay_buffer": {name: getattr(self.memory, name) for name in names},
            "policy": self.weights,
            "progress": vars(self.progress),
        }


def flaws(state: dict[str, Any], step: int, *, added: int | None = None) -> list[str]:
    """Which parts of a state are not what they must be after so many steps.

    Args:
        state: What was loaded from a checkpoint, or is live.
        step: The step that it is of.
        added: Rows added until then; where each step adds the same number, that says it.
    """
    memory, progress = state["replay_buffer"], state["progress"]
    added = AT_THE_START + 7 * step if added is None else added
    capacity = len(memory["rewards"])
    numbers = _numbers(added, capacity)
    lived = np.arange(max(1, step - AT_THE_START + 1), step + 1)
    priorities = np.zeros(capacity, np.float32)
    priorities[lived * 31 % AT_THE_START] = lived
    pictures = _numbers(added, NUM_FRAMES)
    found = {
        "added": memory["added"] == added,
        "observations": (memory["observations"] == numbers.clip(0)[:, None]).all(),
        "rewards": (memory["rewards"] == np.where(numbers < 0, 0, numbers % 1000)).all(),
        "priorities": (memory["priorities"] == priorities).all(),
        "frames": (memory["frames"] == (pictures % 251)[:, None, None]).all(),
        "layer": (state["policy"]["layer"] == step).all(),
        "bias": (state["policy"]["bias"] == step % 1000).all(),
        "step": progress["step"] == step,
        "recent": progress["recent"] == [*range(max(1, step - 49), step + 1)],
        "seen": sorted(progress["seen"].values()) == [*range(max(1, step - 39), step + 1)],
    }
    return [name for name, is_right in found.items() if not is_right]


def main() -> None:
    """Go on with a run until somebody ends this process."""
    faulthandler.dump_traceback_later(120, exit=True)
    training = Training(Path(sys.argv[1]), keep=rk.Keep(last=3))
    _say("resuming")
    training.begin()
    step = training.progress.step
    assert flaws(training.state, step) == [], (step, flaws(training.state, step))
    _say(f"resumed {step}")
    while True:
        training.step()
        time.sleep(random.random() * 0.01)  # so that a save ends before the next one, or does not
        if training.run.is_due(training.progress.step):
            # `checkpoint` would wait here too; so what is said next says that it is durable.
            training.run.wait()
            _say(f"begin {training.progress.step}")
        training.run.checkpoint()


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()

"""Files of other libraries: opened where they lie, converted, and shown in a fresh process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk
import gymnasium as gym
import memory
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from table import Line, Row, megabytes, ratio
from timing import Turn, duration, take_turns
from workloads import NUM_TRANSITIONS, halfcheetah, matrices

import rekindle as rk

NUM_ROWS = 1_000_000
WIDTH = 59
"""Numbers in an observation of the large buffer, so that it takes 500 MB."""
SHOW_FLOOR = 6.0
"""Times as long as importing numpy takes, which is 50 ms on a quiet machine: 0.3 s."""
IMPORT_FLOOR = 2.4
SHOWING = """
import sys
from rekindle import cli
sys.argv = ["rekindle", "show", {!r}]
assert cli.main() == 0
"""


# --------------------------------------------------------------------------- opened


def open_torch(root: Path, data: Path, rounds: int) -> list[Line]:
    """1 GB that `torch.save` wrote, opened with its arrays mapped."""
    path = root / "matrices.pt"
    torch.save(matrices(), path)
    mine, peer = take_turns(
        rounds * 5,
        Turn(lambda: rk.open(path)),
        Turn(lambda: torch.load(path, mmap=True)),
    )
    disk.remove(path)
    return [
        ratio("open-torch", "1 GB .pt: open, mapped, vs torch.load(mmap=True)", mine, peer, 3.0)
    ]


def open_buffer(root: Path, data: Path, rounds: int) -> list[Line]:
    """A replay buffer of 500 MB that SB3 pickled, opened with its arrays mapped."""
    path = root / "replay_buffer.pkl"
    save_to_pkl(path, large_buffer())
    size = megabytes(path.stat().st_size)
    mine, peer = take_turns(
        rounds,
        Turn(lambda: rk.open(path)),
        Turn(lambda: load_from_pkl(path)),
    )
    times = peer.seconds / mine.seconds
    work = f"SB3's replay buffer, {size}"
    found: list[Line] = [
        Row(
            "open-buffer", f"{work}: open, mapped, vs load_replay_buffer", str(mine), str(peer),
            f"{times:.0f}x faster", "≥ 20x", times >= 20,
        ),
    ]  # fmt: skip
    if memory.is_known():
        # In processes of their own, whose buffers are not warm yet.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ours = pool.apply(_growth, (rk.open, path))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            theirs = pool.apply(_growth, (load_from_pkl, path))
        shown = megabytes(ours)
        found.append(
            Row(
                "open-buffer-memory", f"{work}: peak extra memory of opening it", shown,
                megabytes(theirs), shown, "< 100 MB", ours < 100e6,
            )
        )  # fmt: skip
    disk.remove(path)
    return found


def large_buffer() -> ReplayBuffer:
    """A full buffer of numbers."""
    box = gym.spaces.Box(-1, 1, (WIDTH,), np.float32)
    buffer = ReplayBuffer(NUM_ROWS, box, gym.spaces.Box(-1, 1, (4,), np.float32), device="cpu")
    fill(buffer)
    return buffer


def fill(buffer: Any) -> None:
    """Put numbers into every row."""
    random = np.random.default_rng(0)
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        flat = array.reshape(-1)
        random.random(flat.size, np.float32, out=flat)
    buffer.pos, buffer.full = 0, True


def _growth(opened: Callable[[Path], Any], path: Path) -> int:
    return memory.growth(lambda: opened(path))


# --------------------------------------------------------------------------- converted


def convert(root: Path, data: Path, rounds: int) -> list[Line]:
    """SB3's SAC with 1,000,000 transitions, as its callback saves it, to our own format."""
    source = root / "sac"
    save_agent(source)
    target, copy = root / "converted", root / "copy"
    mine, peer = take_turns(
        rounds,
        Turn(lambda: rk.convert(source, target), after=lambda: disk.remove(target)),
        Turn(lambda: copied(source, copy), after=lambda: disk.remove(copy)),
    )
    size = megabytes(sum(part.stat().st_size for part in source.iterdir()))
    disk.remove(source)
    work = f"SB3's SAC, 1,000,000 transitions, {size}: convert, vs copying its files"
    return [ratio("convert", work, mine, peer, 2.0)]


def save_agent(folder: Path) -> None:
    """A model and its full buffer, under the names that `CheckpointCallback` gives them."""
    model = sb3.SAC("MlpPolicy", halfcheetah(), device="cpu", buffer_size=NUM_TRANSITIONS)
    model.learn(150)
    fill(model.replay_buffer)
    model.num_timesteps = NUM_TRANSITIONS
    folder.mkdir()
    model.save(folder / f"rl_model_{NUM_TRANSITIONS}_steps.zip")
    model.save_replay_buffer(folder / f"rl_model_replay_buffer_{NUM_TRANSITIONS}_steps.pkl")
    disk.flush_all(folder)


def copied(source: Path, target: Path) -> None:
    """The files themselves, flushed."""
    shutil.copytree(source, target)
    disk.flush_all(target)


# --------------------------------------------------------------------------- in a fresh process


def fresh_process(root: Path, data: Path, rounds: int) -> list[Line]:
    """What a command costs before it does anything, and what showing a file costs."""
    files = {"an SB3 model": root / "model.zip", "a .pt": root / "weights.pt",
             "a pickle": root / "buffer.pkl", "a checkpoint": root / "checkpoint"}  # fmt: skip
    model = sb3.SAC("MlpPolicy", halfcheetah(), device="cpu", buffer_size=1000)
    model.save(files["an SB3 model"])
    torch.save(model.policy.state_dict(), files["a .pt"])
    files["a pickle"].write_bytes(pickle.dumps(model.replay_buffer))
    rk.save(files["a checkpoint"], policy=model.policy)
    programs = {
        "import numpy": "import sys, numpy",
        "import rekindle": "import sys, rekindle",
        **{f"rekindle show, {name}": SHOWING.format(str(path)) for name, path in files.items()},
    }
    seconds: dict[str, list[float]] = {what: [] for what in programs}
    for _ in range(rounds * 3):
        for what, program in programs.items():
            seconds[what].append(started(program, root / "compiled"))
    for path in (*files.values(), root / "compiled"):
        disk.remove(path)
    best = {what: min(samples) for what, samples in seconds.items()}
    peer = best.pop("import numpy")
    return [_fresh(what, mine, peer) for what, mine in best.items()]


def _fresh(what: str, mine: float, peer: float) -> Row:
    floor = IMPORT_FLOOR if what == "import rekindle" else SHOW_FLOOR
    work = f"{what}, in a process of its own: CPU time, best, vs import numpy"
    found = mine / peer
    return Row(
        "fresh-process", work, duration(mine), duration(peer), f"{found:.2f}", f"≤ {floor:.2f}",
        found <= floor,
    )  # fmt: skip


def started(program: str, compiled: Path) -> float:
    """Run a program that loads no torch, as where it is installed; its processor time.

    Args:
        program: What to run; it must succeed.
        compiled: Where its modules are compiled to, by the first that needs them.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", f"{program}\nassert 'torch' not in sys.modules"],
        stdout=subprocess.DEVNULL, check=True, env=environment,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


WORKS: dict[str, Callable[[Path, Path, int], list[Line]]] = {
    "open-torch": open_torch,
    "open-buffer": open_buffer,
    "convert": convert,
    "fresh-process": fresh_process,
}

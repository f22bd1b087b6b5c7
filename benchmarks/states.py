"""Plain state saved and loaded: 1 GB, 2000 small tensors, a small policy out of 3 GB."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import disk
import memory
import numpy as np
import safetensors.torch
import torch
from table import Line, Row, megabytes, ratio
from timing import Turn, take_turns
from workloads import State, matrices, vectors

import rekindle as rk

OTHER_BYTES = 3 << 30


def touch(tensors: State) -> float:
    """Read every value."""
    return sum(float(tensor.sum()) for tensor in tensors.values())


def save_rekindle(state: State, path: Path) -> None:
    """Rekindle, which flushes by itself."""
    rk.save(path, policy=state)


def save_safetensors(state: State, path: Path) -> None:
    """safetensors, flushed."""
    safetensors.torch.save_file(state, path)
    disk.flush(path)


def save_torch(state: State, path: Path) -> None:
    """torch, flushed."""
    torch.save(state, path)
    disk.flush(path)


# --------------------------------------------------------------------------- saves


def save_large(root: Path, data: Path, rounds: int) -> list[Line]:
    """1 GB, saved."""
    return _saves("save-large", "1 GB, 60 matrices", matrices(), root, rounds)


def save_small(root: Path, data: Path, rounds: int) -> list[Line]:
    """2000 small tensors, saved."""
    return _saves("save-small", "2000 tensors of 4 KB", vectors(), root, rounds * 5)


def _saves(name: str, what: str, state: State, root: Path, rounds: int) -> list[Line]:
    """Rekindle against safetensors (which has the floor) and torch."""

    def turn(saver: Callable[[State, Path], None]) -> Turn:
        path = root / saver.__name__
        return Turn(lambda: saver(state, path), after=lambda: disk.remove(path))

    savers = (save_rekindle, save_safetensors, save_torch)
    ours, safe, torches = take_turns(rounds, *(turn(saver) for saver in savers))
    work = f"{what}: save until flushed"
    return [
        ratio(name, f"{work}, vs safetensors", ours, safe, 1.0),
        ratio(f"{name}-torch", f"{work}, vs torch.save", ours, torches, None),
    ]


# --------------------------------------------------------------------------- loads


def load_large(root: Path, data: Path, rounds: int) -> list[Line]:
    """1 GB, loaded: mapped; mapped and read; checked against its digest."""
    return _loads("load-large", "1 GB, 60 matrices", matrices(), root, rounds, 2.0)


def load_small(root: Path, data: Path, rounds: int) -> list[Line]:
    """2000 small tensors, loaded."""
    return _loads("load-small", "2000 tensors of 4 KB", vectors(), root, rounds * 5, None)


def _loads(
    name: str, what: str, state: State, root: Path, rounds: int, floor: float | None
) -> list[Line]:
    """Rekindle against safetensors, both from the page cache."""
    path, peer = root / "rekindle", root / "safetensors"
    save_rekindle(state, path)
    save_safetensors(state, peer)
    state.clear()

    def ours(*, verify: bool) -> State:
        return rk.load(path, to="torch", verify=verify)["policy"]

    def theirs() -> State:
        return safetensors.torch.load_file(peer)

    mapped, mapped_peer, read, read_peer, verified = take_turns(
        rounds,
        Turn(lambda: ours(verify=False)),
        Turn(theirs),
        Turn(lambda: touch(ours(verify=False))),
        Turn(lambda: touch(theirs())),
        Turn(lambda: touch(ours(verify=True))),
    )
    disk.remove(path)
    disk.remove(peer)
    return [
        ratio(name, f"{what}: load all, memory-mapped", mapped, mapped_peer, floor),
        ratio(f"{name}-read", f"{what}: load, read every value", read, read_peer, None),
        ratio(f"{name}-verified", f"{what}: verify, load, read", verified, read_peer, None),
    ]


def open_policy(root: Path, data: Path, rounds: int) -> list[Line]:
    """A small policy out of a checkpoint of 3 GB."""
    policy = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Tanh(),
        torch.nn.Linear(256, 8),
    )  # fmt: skip
    block = np.random.default_rng(0).integers(0, 256, 64 << 20, np.uint8)
    frames = np.concatenate([block] * (OTHER_BYTES // block.nbytes))
    path = root / "checkpoint"
    rk.save(path, policy=policy, replay_buffer={"frames": frames})
    del frames

    def ours() -> float:
        return touch(rk.load(path, "policy", to="torch")["policy"])

    def theirs() -> float:
        return touch(safetensors.torch.load_file(path / "policy.safetensors"))

    mine, peer = take_turns(rounds * 5, Turn(ours), Turn(theirs))
    disk.remove(path)
    extra = mine.seconds - peer.seconds
    work = "3 GB checkpoint: open, verify and read its policy, vs its safetensors file"
    result = f"{extra * 1e3:+.2f} ms"
    return [Row("open-policy", work, str(mine), str(peer), result, "< +10 ms", extra < 0.010)]


# --------------------------------------------------------------------------- memory


def extra_memory(root: Path, data: Path, rounds: int) -> list[Line]:
    """Peak memory beyond what the process held, while 1 GB is saved for the first time."""
    if not memory.is_known():
        return []
    found = []
    for saver in (save_rekindle, save_safetensors):
        # In a process of its own, whose buffers are not warm yet.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_growth, (saver, root / saver.__name__)))
    ours, peer = found
    work = "1 GB, 60 matrices: peak extra memory of the first save, vs safetensors"
    shown = megabytes(ours)
    return [Row("memory", work, shown, megabytes(peer), shown, "< 100 MB", ours < 100e6)]


def _growth(saver: Callable[[State, Path], None], path: Path) -> int:
    state = matrices()
    grown = memory.growth(lambda: saver(state, path))
    disk.remove(path)
    return grown


WORKS: dict[str, Callable[[Path, Path, int], list[Line]]] = {
    "save-large": save_large,
    "load-large": load_large,
    "save-small": save_small,
    "load-small": load_small,
    "open-policy": open_policy,
    "memory": extra_memory,
}

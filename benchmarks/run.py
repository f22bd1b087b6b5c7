"""Rekindle side by side with other savers: same data, same disk, one process, turn by turn.

    python benchmarks/run.py                          everything, about two minutes
    python benchmarks/run.py --only save-large --rounds 11
    python benchmarks/run.py --markdown docs/performance.md

Every time is the median of several rounds. In each round all savers take their turn, because a
shared machine changes from minute to minute: trust the ratios, not the seconds. A save is timed
until its bytes are on the disk (`fsync` for those that do not flush by themselves). Needs 10 GB of
memory and 10 GB of disk, and removes what it wrote. Exits 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

import rekindle as rk

State = dict[str, torch.Tensor]

NUM_MATRICES = 60
MATRIX_SHAPE = (2048, 2048)
NUM_SMALL = 2000
SMALL_LENGTH = 1024
OTHER_BYTES = 3 << 30
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Timing:
    """How long one saver took: medians over the rounds."""

    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{_duration(self.seconds)} ({_duration(self.cpu_seconds)})"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    work: str
    rekindle: str
    peer: str
    result: str
    target: str
    ok: bool | None
    """Whether the floor is reached; None where there is none."""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


# --------------------------------------------------------------------------- measuring


Turn = Callable[[], Any]


def take_turns(rounds: int, *turns: tuple[Turn, Turn]) -> list[Timing]:
    """Run each turn once per round, after one round that does not count.

    Args:
        rounds: How many count.
        turns: Pairs of what is timed, and what comes after it untimed.
    """
    samples: list[list[Timing]] = [[] for _ in turns]
    for number in range(rounds + 1):
        for found, (work, clean_up) in zip(samples, turns, strict=True):
            cpu, start = time.process_time(), time.perf_counter()
            result = work()
            sample = Timing(time.perf_counter() - start, time.process_time() - cpu)
            del result
            clean_up()
            if number:
                found.append(sample)
    return [
        Timing(
            statistics.median(sample.seconds for sample in found),
            statistics.median(sample.cpu_seconds for sample in found),
        )
        for found in samples
    ]


def flush(path: Path) -> None:
    """Force a file or directory to the disk, as the peers do not."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a save, so that the next turn does not pay for it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    flush(path.parent)


def nothing() -> None:
    """No cleaning up."""


def matrices() -> State:
    """A state dict of 1 GB: 60 float32 matrices."""
    return {f"layers.{i}.weight": torch.randn(MATRIX_SHAPE) for i in range(NUM_MATRICES)}


def vectors() -> State:
    """A state dict of 2000 tensors of 4 KB."""
    return {f"layers.{i}.bias": torch.randn(SMALL_LENGTH) for i in range(NUM_SMALL)}


def touch(tensors: State) -> float:
    """Read every value."""
    return sum(float(tensor.sum()) for tensor in tensors.values())


# --------------------------------------------------------------------------- savers


def save_rekindle(state: State, path: Path) -> None:
    """Rekindle, which flushes by itself."""
    rk.save(path, policy=state)


def save_safetensors(state: State, path: Path) -> None:
    """safetensors, flushed."""
    safetensors.torch.save_file(state, path)
    flush(path)


def save_torch(state: State, path: Path) -> None:
    """torch, flushed."""
    torch.save(state, path)
    flush(path)


def saves(name: str, what: str, state: State, root: Path, rounds: int) -> list[Row]:
    """Rekindle against safetensors (which has the floor) and torch."""

    def turn(saver: Callable[[State, Path], None]) -> tuple[Turn, Turn]:
        path = root / saver.__name__
        return lambda: saver(state, path), lambda: remove(path)

    savers = (save_rekindle, save_safetensors, save_torch)
    ours, safe, torches = take_turns(rounds, *(turn(saver) for saver in savers))
    work = f"{what}: save until flushed"
    return [
        _ratio(name, f"{work}, vs safetensors", ours, safe, 1.0),
        _ratio(f"{name}-torch", f"{work}, vs torch.save", ours, torches, None),
    ]


def _ratio(name: str, work: str, ours: Timing, peer: Timing, floor: float | None) -> Row:
    ratio = ours.seconds / peer.seconds
    target = "" if floor is None else f"≤ {floor:.2f}"
    ok = None if floor is None else ratio <= floor
    return Row(name, work, str(ours), str(peer), f"{ratio:.2f}", target, ok)


# --------------------------------------------------------------------------- the works


def save_large(root: Path, rounds: int) -> list[Row]:
    """1 GB, saved."""
    return saves("save-large", "1 GB, 60 matrices", matrices(), root, rounds)


def save_small(root: Path, rounds: int) -> list[Row]:
    """2000 small tensors, saved."""
    return saves("save-small", "2000 tensors of 4 KB", vectors(), root, rounds * 5)


def load_large(root: Path, rounds: int) -> list[Row]:
    """1 GB, loaded: mapped; mapped and read; checked against its digest."""
    return loads("load-large", "1 GB, 60 matrices", matrices(), root, rounds, 2.0)


def load_small(root: Path, rounds: int) -> list[Row]:
    """2000 small tensors, loaded."""
    return loads("load-small", "2000 tensors of 4 KB", vectors(), root, rounds * 5, None)


def loads(
    name: str, what: str, state: State, root: Path, rounds: int, floor: float | None
) -> list[Row]:
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
        (lambda: ours(verify=False), nothing),
        (theirs, nothing),
        (lambda: touch(ours(verify=False)), nothing),
        (lambda: touch(theirs()), nothing),
        (lambda: touch(ours(verify=True)), nothing),
    )
    remove(path)
    remove(peer)
    return [
        _ratio(name, f"{what}: load all, memory-mapped", mapped, mapped_peer, floor),
        _ratio(f"{name}-read", f"{what}: load, read every value", read, read_peer, None),
        _ratio(f"{name}-verified", f"{what}: verify, load, read", verified, read_peer, None),
    ]


def open_policy(root: Path, rounds: int) -> list[Row]:
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

    mine, peer = take_turns(rounds * 5, (ours, nothing), (theirs, nothing))
    remove(path)
    extra = mine.seconds - peer.seconds
    work = "3 GB checkpoint: open, verify and read its policy, vs its safetensors file"
    return [
        Row(
            "open-policy", work, str(mine), str(peer),
            f"{extra * 1e3:+.2f} ms", "< +10 ms", extra < 0.010,
        )
    ]  # fmt: skip


def agents(root: Path, rounds: int) -> list[Row]:
    """What a save costs the thread that trains, and a restore, against SB3's own save and load."""
    import rekindle.sb3

    sys.path.insert(0, str(Path(__file__).parent))
    from agents import AGENTS

    rows = []
    for name, build in AGENTS.items():
        model = build()
        parts = rekindle.sb3.components(model)
        parts.pop("replay_buffer", None)
        zipped, run_path = root / "model.zip", root / "run"
        run = rk.Run(run_path, every=1, background=True, exclude=["agent.replay_buffer"])
        run.track(**parts)
        run.resume()
        steps = itertools.count(1)
        stall, peer = take_turns(
            rounds * 5,
            (lambda run=run, steps=steps: run.checkpoint(step=next(steps)), run.wait),
            (lambda model=model, zipped=zipped: model.save(zipped), nothing),
        )
        run.close()
        what = f"{name} without its buffer"
        rows.append(_ratio("agent-stall", f"{what}: stall, vs SB3's save", stall, peer, 1.0))
        restore, load = take_turns(
            rounds,
            (lambda path=run_path, parts=parts: rk.restore(path, **parts), nothing),
            (lambda model=model, zipped=zipped: type(model).load(zipped, device="cpu"), nothing),
        )
        rows.append(_ratio("agent-restore", f"{what}: restore, vs SB3's load", restore, load, 2.0))
        remove(run_path)
        remove(zipped)
    return rows


def memory(root: Path, rounds: int) -> list[Row]:
    """Peak memory beyond what the process held, while 1 GB is saved for the first time."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    found = []
    for saver in (save_rekindle, save_safetensors):
        # In a process of its own, whose buffers are not warm yet.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(extra_memory, (saver, root / saver.__name__)))
    ours, peer = found
    work = "1 GB, 60 matrices: peak extra memory of the first save, vs safetensors"
    return [
        Row(
            "memory", work, f"{ours / 1e6:.1f} MB", f"{peer / 1e6:.1f} MB",
            f"{ours / 1e6:.1f} MB", "< 100 MB", ours < 100e6,
        )
    ]  # fmt: skip


def extra_memory(saver: Callable[[State, Path], None], path: Path) -> int:
    """Bytes by which the process grew at most while it saved."""
    state = matrices()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    saver(state, path)
    grown = _resident("VmHWM") - before
    remove(path)
    return grown


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


WORKS: dict[str, Callable[[Path, int], list[Row]]] = {
    "save-large": save_large,
    "load-large": load_large,
    "save-small": save_small,
    "load-small": load_small,
    "open-policy": open_policy,
    "agents": agents,
    "memory": memory,
}


# --------------------------------------------------------------------------- the report


def machine(root: Path) -> str:
    """What the numbers were measured on, in one line."""
    versions = f"torch {torch.__version__}, safetensors {safetensors.__version__}"
    python = f"Python {platform.python_version()}"
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), {_file_system(root)}, {python}, {versions}"
    )


def _file_system(path: Path) -> str:
    with contextlib.suppress(OSError):
        best = ("", "an unknown file system")
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, kind = line.split()[:3]
            if path.resolve().is_relative_to(mount) and len(mount) > len(best[0]):
                best = (mount, kind)
        return best[1]
    return "an unknown file system"


COLUMNS = ("work", "Rekindle", "peer", "result", "floor", "ok")


def _cells(row: Row) -> tuple[str, ...]:
    ok = {True: "yes", False: "NO", None: ""}[row.ok]
    return row.work, row.rekindle, row.peer, row.result, row.target, ok


def show(rows: list[Row], title: str) -> None:
    """Print the table."""
    table = Table(title=title, caption="medians; in brackets: CPU time")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in rows:
        table.add_row(*_cells(row), style="bold red" if row.ok is False else None)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def markdown(rows: list[Row], title: str) -> str:
    """The table for the documentation."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    body = ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([f"Measured on {title}. Medians; in brackets: CPU time.", "", *head, *body])


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory that goes away."""
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=parent) as name:
        yield Path(name)


def main() -> int:
    """Measure, print, and say by the exit code whether every floor is reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=WORKS, help="one work; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each saver (default 7)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="put the table into this page")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("TMPDIR") or "."),
        help="where to write: a real disk (default: $TMPDIR, else the working directory)",
    )
    arguments = parser.parse_args()
    title = machine(arguments.dir)
    rows: list[Row] = []
    with scratch(arguments.dir) as root:
        print(f"Writing to {root.resolve()}, which is removed afterwards.", file=sys.stderr)
        for name in arguments.only or WORKS:
            print(f"  {name} ...", file=sys.stderr)
            rows += WORKS[name](root, arguments.rounds)
    show(rows, title)
    if arguments.json:
        content = {"machine": title, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    if arguments.markdown:
        put_into(arguments.markdown, markdown(rows, title))
    missed = [row.name for row in rows if row.ok is False]
    if missed:
        print(f"Floors missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

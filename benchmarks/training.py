"""What saves cost a training run that goes on: the second save, and those after it.

Four workloads (`workloads.py`): W1 an agent with a buffer of 175 MB, W2 one with 2.85 GB of frames,
W3 1 GB of weights, W4 2000 small tensors. Rekindle saves through `rk.Run`, in the background.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import costs
import disk
import memory
import numpy as np
import peers
import slowdown
import timing
import torch
import workloads
from costs import Costs
from table import Line, Row, megabytes
from workloads import Agent, Weights

import rekindle as rk
import rekindle.sb3

NUM_CHECKPOINTS = 10
STAGING_BYTES = 64e6


class Run:
    """Rekindle: a run, whose saves go on in the background.

    Args:
        path: The run's directory.
        components: What it tracks.
        step: Gives the step at which the training stands.
        exclude: Paths to leave out.
    """

    def __init__(
        self,
        path: Path,
        components: dict[str, Any],
        step: Callable[[], int],
        *,
        name: str = "Rekindle",
        exclude: Sequence[str] = (),
    ) -> None:
        self.name, self.path, self.components = name, path, components
        self._step, self._exclude = step, exclude
        self._run: rk.Run | None = None

    @property
    def run(self) -> rk.Run:
        """The run, opened at the first use."""
        if self._run is None:
            self._run = rk.Run(self.path, every=1, background=True, exclude=self._exclude)
            self._run.track(**self.components)
            self._run.resume()
        return self._run

    def prepare(self) -> None:
        """Open the run."""
        _ = self.run

    def save(self) -> None:
        """Hand the state over; a thread writes it."""
        if not self.run.checkpoint(step=self._step()):
            raise AssertionError(f"{self.path}: no save was due")

    def finish(self) -> None:
        """Wait for the thread."""
        self.run.wait()

    def is_done(self) -> bool:
        """Whether the newest checkpoint has appeared."""
        return self.newest.exists()

    def save_here(self) -> None:
        """Save in this thread."""
        self.run.save(step=self._step())

    @property
    def newest(self) -> Path:
        """The checkpoint of this step."""
        return self.path / f"step_{self._step():09d}"

    def clean(self) -> None:
        """Keep what was saved: the next save is a second one."""

    def close(self) -> None:
        """End the run and remove it."""
        if self._run is not None:
            self._run.close()
            self._run = None
            disk.remove(self.path)


class FirstSaves(Run):
    """Rekindle, in a new run each time."""

    def clean(self) -> None:
        """Remove the run."""
        self.close()


@contextmanager
def closing(*runs: Run) -> Iterator[None]:
    """End and remove runs, also when something goes wrong."""
    try:
        yield
    finally:
        for run in runs:
            run.close()


def of_peers(root: Path, agent: Agent, kind: type[Run] = Run) -> Run:
    """What the peers save of an agent: all but its environment and the random generators."""
    components = rekindle.sb3.components(agent.model)
    kept = {name: part for name, part in components.items() if name not in ("env", "rng")}
    return kind(root / "run", kept, lambda: agent.step, exclude=["agent/env"])


def of_everything(root: Path, agent: Agent) -> Run:
    """What an exact resume needs."""
    components = rekindle.sb3.components(agent.model)
    return Run(root / "exact", components, lambda: agent.step, name="Rekindle, everything")


def of_weights(root: Path, weights: Weights) -> Run:
    """Tensors alone."""
    return Run(root / "run", {"policy": weights.tensors}, lambda: weights.step)


# --------------------------------------------------------------------------- rows


def _times_less(
    name: str, work: str, ours: Costs, others: Sequence[Costs], key: str, floor: float, goal: str
) -> Row:
    """How many times less than the best peer's Rekindle's `stall` or `durable` is."""
    peer = costs.best(others, key)
    found = getattr(peer, key) / getattr(ours, key)
    shown = f"{key}_seconds"
    of_bests = min(other.least(shown) for other in others) / ours.least(shown)
    return Row(
        name,
        f"{work}, vs {peer.name}",
        ours.shown(shown),
        peer.shown(shown),
        f"{_times(found)} (bests: {of_bests:.3g}x)",
        f"≥ {floor:g}x",
        found >= floor,
        goal,
    )


def _times(found: float) -> str:
    return f"{found:.3g}x less" if found >= 1 else f"{1 / found:.3g}x more"


def _bytes(name: str, work: str, ours: Costs, peer: Costs, most: float, goal: str) -> Row:
    return Row(
        name,
        f"{work}, vs {peer.name}",
        megabytes(ours.num_bytes),
        megabytes(peer.num_bytes),
        _times(peer.num_bytes / ours.num_bytes),
        f"< {megabytes(most)}",
        ours.num_bytes < most,
        goal,
    )


def _memory(name: str, work: str, run: Run, workload: Agent | Weights) -> list[Line]:
    """Peak memory of the first two saves, before anything else has warmed the heap."""
    run.prepare()
    if not memory.is_known():
        return []

    def save() -> None:
        run.save()
        run.finish()

    grown = []
    for _ in range(2):
        workload.advance()
        grown.append(memory.growth(save))
    weights = workloads.num_bytes(workload.weights())
    most = weights + STAGING_BYTES
    return [
        Row(
            f"{name}-memory",
            f"{work}: peak extra memory of the first two saves; weights: {megabytes(weights)}",
            megabytes(max(grown)),
            "",
            megabytes(max(grown)),
            f"< {megabytes(most)}",
            max(grown) < most,
        )
    ]


# --------------------------------------------------------------------------- W1


def w1(root: Path, data: Path, rounds: int) -> list[Line]:
    """SAC: the second save, of what peers save and of everything."""
    agent = workloads.sac(data)
    run, exact = of_peers(root, agent), of_everything(root, agent)
    with closing(run, exact):
        lines = _memory("w1", "W1, SAC with 1,000,000 transitions", run, agent)
        others = [
            peers.StableBaselines(root, agent.model),
            *peers.of_tensors(root, agent.state),
        ]
        found = costs.take_turns([run, exact, *others], rounds, agent.advance)
    ours, everything, *theirs = found
    smallest = costs.best(theirs, "num_bytes")
    work = "W1, second save"
    return [
        _times_less("w1-stall", f"{work}: stall", ours, theirs, "stall", 20, "100x"),
        _times_less(
            "w1-exact-stall", f"{work} of everything: stall", everything, theirs, "stall", 5, "20x"
        ),
        _times_less("w1-durable", f"{work}: until durable", ours, theirs, "durable", 4, "10x"),
        _bytes("w1-bytes", f"{work}: written", ours, smallest, 6e6, "5 MB"),
        *lines,
        *(item.row(work) for item in found),
    ]


def w1_ten(root: Path, data: Path, rounds: int) -> list[Line]:
    """SAC: what ten checkpoints, 10,000 transitions apart, occupy on the disk."""
    agent = workloads.sac(data)
    run = of_peers(root, agent)
    sizes = []
    with closing(run):
        for _ in range(NUM_CHECKPOINTS):
            run.save()
            run.finish()
            sizes.append(disk.usage(run.path))
            agent.advance()
    first, all_ten = sizes[0], sizes[-1]
    return [
        Row(
            "w1-ten",
            "W1, ten checkpoints 10,000 transitions apart: on the disk, vs one",
            megabytes(all_ten),
            megabytes(first),
            f"{all_ten / first:.2f}x one",
            "< 1.4x",
            all_ten < 1.4 * first,
            "1.25x",
        )
    ]


# --------------------------------------------------------------------------- W2


def w2(root: Path, data: Path, rounds: int) -> list[Line]:
    """DQN on frames: the second save, and the first."""
    rounds = max(1, rounds // 2)
    agent = workloads.dqn(data)
    run = of_peers(root, agent)
    base = peers.StableBaselines(root, agent.model)
    with closing(run):
        lines = _memory("w2", "W2, DQN with 100,000 stacks of frames", run, agent)
        others = [base, *peers.of_tensors(root, agent.state)]
        second = costs.take_turns([run, *others], rounds, agent.advance)
    ours, sb3, *_ = second
    fresh = of_peers(root, agent, FirstSaves)
    with closing(fresh):
        first = costs.take_turns([fresh, base], rounds, agent.advance)
    one, its = first
    work, start = "W2, second save", "W2, first save"
    return [
        _times_less("w2-stall", f"{work}: stall", ours, [sb3], "stall", 50, "150x"),
        _times_less("w2-durable", f"{work}: until durable", ours, [sb3], "durable", 20, "80x"),
        _bytes("w2-bytes", f"{work}: written", ours, sb3, 10e6, "1.5 MB"),
        _times_less("w2-first-durable", f"{start}: until durable", one, [its], "durable", 1, "3x"),
        _bytes("w2-first-bytes", f"{start}: written", one, its, 100e6, "30 MB"),
        *lines,
        *(item.row(work) for item in second),
        *(item.row(start) for item in first),
    ]


def w2_restore(root: Path, data: Path, rounds: int) -> list[Line]:
    """DQN on frames: everything put back, against SB3's load of model and buffer."""
    rounds = max(1, rounds // 2)
    agent = workloads.dqn(data)
    run, base = of_everything(root, agent), peers.StableBaselines(root, agent.model)
    with closing(run):
        for _ in range(2):
            agent.advance()
            run.save()
            run.finish()
        base.prepare()
        base.save()
        ours, theirs = timing.take_turns(
            rounds,
            timing.Turn(lambda: rk.restore(run.newest, **run.components)),
            timing.Turn(base.load),
        )
        base.clean()
    found = theirs.seconds / ours.seconds
    return [
        Row(
            "w2-restore",
            "W2, everything restored, vs SB3's load of model and buffer",
            str(ours),
            str(theirs),
            f"{found:.3g}x faster",
            "≥ 1x",
            found >= 1,
            "3x",
        )
    ]


# --------------------------------------------------------------------------- W3 and W4


def w3(root: Path, data: Path, rounds: int) -> list[Line]:
    """1 GB of weights."""
    weights = Weights(workloads.matrices())
    found, lines = _of_weights("w3", "W3, 1 GB of weights", root, weights, rounds)
    ours, safe, *_ = found
    share = ours.durable / safe.durable
    bests = ours.least("durable_seconds") / safe.least("durable_seconds")
    copy = timing.duration(_copy_seconds(weights))
    work = "W3, save"
    return [
        _times_less("w3-stall", f"{work}: stall", ours, [safe], "stall", 2, f"one copy: {copy}"),
        Row(
            "w3-durable",
            f"{work}: until durable, vs {safe.name}",
            ours.shown("durable_seconds"),
            safe.shown("durable_seconds"),
            f"{share:.2f} (bests: {bests:.2f})",
            "≤ 1.10",
            share <= 1.1,
            "the disk's",
        ),
        *lines,
        *(item.row(work) for item in found),
    ]


def w4(root: Path, data: Path, rounds: int) -> list[Line]:
    """2000 tensors of 4 KB."""
    weights = Weights(workloads.vectors())
    work = "W4, save"
    found, lines = _of_weights("w4", "W4, 2000 tensors of 4 KB", root, weights, rounds * 3)
    ours, safe, *_ = found
    return [
        _times_less("w4-stall", f"{work}: stall", ours, [safe], "stall", 2, "10x"),
        _times_less("w4-durable", f"{work}: until durable", ours, [safe], "durable", 1, "3x"),
        *lines,
        *(item.row(work) for item in found),
    ]


def _of_weights(
    name: str, work: str, root: Path, weights: Weights, rounds: int
) -> tuple[list[Costs], list[Line]]:
    """Costs of Rekindle, of safetensors, and of the rest; and the row of the memory."""
    run = of_weights(root, weights)
    with closing(run):
        lines = _memory(name, work, run, weights)
        others = peers.of_tensors(root, weights.state)
        return costs.take_turns([run, *others], rounds, weights.advance), lines


def _copy_seconds(weights: Weights) -> float:
    """How long one copy of all tensors takes, into memory that is there already."""
    arrays = [tensor.numpy() for tensor in weights.tensors.values()]
    room = [np.zeros_like(array) for array in arrays]

    def copy() -> None:
        for source, target in zip(arrays, room, strict=True):
            np.copyto(target, source)

    found = []
    for _ in range(5):
        start = time.perf_counter()
        copy()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


# --------------------------------------------------------------------------- slow-down


def slow(root: Path, data: Path, rounds: int) -> list[Line]:
    """How much slower training is while a save is written."""
    builders: dict[str, Callable[[], Agent | Weights]] = {
        "W1": lambda: workloads.sac(data),
        "W2": lambda: workloads.dqn(data),
        "W3": lambda: Weights(workloads.matrices()),
    }
    lines: list[Line] = []
    for name, build in builders.items():
        lines += _slow(name, root, build(), rounds)
    return lines


def _slow(name: str, root: Path, workload: Agent | Weights, rounds: int) -> list[Line]:
    is_agent = isinstance(workload, Agent)
    run = of_peers(root, workload) if is_agent else of_weights(root, workload)
    rounds = rounds * 3 if name == "W1" else rounds
    lines: list[Line] = []
    with closing(run):
        for _ in range(2):  # the staging memory is faulted in
            workload.advance()
            run.save()
            run.finish()
        # On one thread, the training leaves a core to the writer; on all, it does not.
        for threads, floor in ((1, 0.10), (torch.get_num_threads(), None)):
            with _threads(threads):
                found = slowdown.measure(run, workload.train, workload.advance, rounds)
            on = "one thread" if threads == 1 else f"{threads} threads"
            lines.append(
                Row(
                    f"slow-{name.lower()}-{threads}",
                    f"{name}, training on {on}: slowed down by a save in the background, "
                    "vs the same save without one",
                    timing.duration(found.lost_seconds),
                    timing.duration(found.sync_seconds),
                    f"{found.share:.1%}",
                    "" if floor is None else f"< {floor:.0%}",
                    None if floor is None else found.share < floor,
                    "" if floor is None else "2%",
                )
            )
    return lines


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


WORKS: dict[str, Callable[[Path, Path, int], list[Line]]] = {
    "w1": w1,
    "w1-ten": w1_ten,
    "w2": w2,
    "w2-restore": w2_restore,
    "w3": w3,
    "w4": w4,
    "slow": slow,
}

"""Runs the matrix: `python -m tests.exactness [--only PATTERN] [--markdown FILE]`.

Each case is trained three times in processes of their own: uninterrupted; without any checkpoint on
the way; and killed with SIGKILL at a random step past its first checkpoint, then started again by
the same command. Every process has another hash seed. The ends are compared bit by bit.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import rekindle as rk
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.compare import Comparison
from rekindle.seeding import unseeded

FAMILIES = ("sb3_cases", "loop_cases", "environment_cases", "jax_cases")
HERE = Path(__file__).parent
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


@dataclass
class Outcome:
    """What one case showed."""

    family: str
    case: str
    num_values: int = 0
    largest_difference: float = 0.0
    killed_at: int = 0
    resumed_at: int = 0
    perturbed: bool = False
    unseeded: tuple[str, ...] = ()
    failure: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether the resumed run, and the run without checkpoints, ended the same."""
        return not self.failure and not self.largest_difference and not self.perturbed


def families() -> Iterator[str]:
    """The modules of cases that are there."""
    yield from (name for name in FAMILIES if (HERE / f"{name}.py").exists())


def start(family: str, case: str, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One process of a case, under a hash seed of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": str(random.randrange(1, 2**32 - 1))}
    command = [sys.executable, "-m", f"tests.exactness.{family}", case, str(run), *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=HERE.parents[1]
    )


def failed(process: subprocess.CompletedProcess[str], expected: int = 0) -> str:
    """Why a process did not do what it should; empty when it did."""
    if process.returncode == expected:
        return ""
    return f"exit {process.returncode}: {process.stderr.strip()[-600:]}"


def compared(first: Path, second: Path) -> tuple[list[Comparison], tuple[str, ...]]:
    """The ends of two runs; generators that no one seeded are told apart by how the runs began."""
    runs = rk.Run(first), rk.Run(second)
    free = unseeded(*(run.about.get("start", {}) for run in runs))
    ignore = [*WALL_CLOCK, *(f"{path}*" for path in free)]
    return runs[0].latest().compare(runs[1].latest(), ignore=ignore), free


def try_case(family: str, case: str, total: int, every: int, root: Path) -> Outcome:
    """Train, kill, resume and compare one case."""
    outcome = Outcome(family, case)
    whole, killed, plain = (root / name for name in ("whole", "killed", "plain"))
    outcome.failure = failed(start(family, case, whole))
    if outcome.failure:
        return outcome
    first = rk.Run(whole).steps[0]
    last = rk.Run(whole).steps[-1]
    # Not at once after a checkpoint: its commit may still be under way, and lost with the process.
    low = min(first + max(1, every // 3), last - 2)
    outcome.killed_at = random.randint(low, last - 2)
    outcome.failure = failed(start(family, case, killed, "--kill-at", str(outcome.killed_at)), -9)
    if outcome.failure:
        return outcome
    outcome.resumed_at = max(rk.Run(killed).steps, default=0)
    outcome.failure = failed(start(family, case, killed)) or failed(
        start(family, case, plain, "--every", str(10**9))
    )
    if outcome.failure:
        return outcome
    found, outcome.unseeded = compared(whole, killed)
    outcome.num_values = sum(item.num_values for item in found)
    outcome.largest_difference = max(item.largest_difference for item in found)
    different = [str(item.differences[0]) for item in found if not item.is_identical]
    without = [item for item in compared(whole, plain)[0] if not item.is_identical]
    outcome.perturbed = bool(without)
    different += [f"without checkpoints: {item.differences[0]}" for item in without]
    outcome.failure = "; ".join(different)
    return outcome


def timed(family: str, case: str, total: int, every: int) -> tuple[Outcome, float]:
    """One case in a directory of its own, and how long it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        outcome = try_case(family, case, total, every, Path(root))
    return outcome, time.monotonic() - began


def line(outcome: Outcome, seconds: float) -> str:
    """One case, for a person to read."""
    if outcome.failure:
        return f"{outcome.family:18} {outcome.case:34} DIFFERS {outcome.failure}"
    return (
        f"{outcome.family:18} {outcome.case:34} {outcome.num_values:>10,} values  "
        f"largest difference {outcome.largest_difference}  killed at {outcome.killed_at}, "
        f"resumed at {outcome.resumed_at}  {seconds:.0f} s"
    )


def markdown(outcomes: list[Outcome]) -> str:
    """The table of `docs/exact-resume.md`."""
    rows = [
        "| family | case | values compared | largest difference | never seeded |",
        "|-|-|-|-|-|",
    ]
    for item in outcomes:
        free = ", ".join(f"`{path}`" for path in item.unseeded) or "-"
        family = item.family.removesuffix("_cases").replace("_", " ")
        values, largest = f"{item.num_values:,}", item.largest_difference
        rows.append(f"| {family} | {item.case} | {values} | {largest} | {free} |")
    return "\n".join(rows)


def write_table(path: Path, table: str) -> None:
    """Put the table between its two marks in a page."""
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")


def main() -> int:
    """Run every case that is asked for; 1 when one is not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="cases to run, such as 'sac*'")
    parser.add_argument("--seed", type=int, default=None, help="for the moments of the kills")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--markdown", type=Path, help="page whose table is written anew")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(time.time())
    random.seed(seed)
    print(f"seed {seed}", flush=True)
    chosen = [
        (family, case, total, every)
        for family in families()
        for case, (_, total, every) in importlib.import_module(
            f"tests.exactness.{family}"
        ).CASES.items()
        if fnmatch.fnmatchcase(case, arguments.only)
    ]
    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome, seconds in pool.map(lambda case: timed(*case), chosen):
            outcomes.append(outcome)
            print(line(outcome, seconds), flush=True)
    wrong = [item.case for item in outcomes if not item.is_exact]
    print(f"{len(outcomes) - len(wrong)} passed, {len(wrong)} failed")
    if arguments.markdown and not wrong:
        write_table(arguments.markdown, markdown(outcomes))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""Rekindle side by side with other savers: same data, same disk, one process, turn by turn.

    python benchmarks/run.py                          everything, about twenty minutes
    python benchmarks/run.py --only save-large --rounds 11
    python benchmarks/run.py --markdown docs/performance.md

Every time is the median of several rounds. In each round all savers take their turn, because a
shared machine changes from minute to minute: trust the ratios, not the seconds. A save is timed
until its bytes are on the disk (`fsync` for those that do not flush by themselves). Needs 12 GB of
memory and 10 GB of disk, and removes what it wrote; recordings of environments are kept in --data,
where the next run finds them. Exits 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import agents
import foreign
import states
import table
import training
import workloads
from table import Line, Row

WORKS: dict[str, Callable[[Path, Path, int], list[Line]]] = {
    **states.WORKS,
    **agents.WORKS,
    **foreign.WORKS,
    **training.WORKS,
}

EXPECTED_WARNINGS = (
    ".*precision lowered by casting",  # HalfCheetah's bounds become float32, as they should
    "torch.distributed is disabled",  # DCP saves without a process group
)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory that goes away."""
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=parent) as name:
        yield Path(name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=WORKS, help="one work; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each saver (default 7)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="put the table into this page")
    parser.add_argument(
        "--data",
        type=Path,
        default=workloads.DATA,
        help=f"where recorded environments are kept (default {workloads.DATA})",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("TMPDIR") or "."),
        help="where to write: a real disk (default: $TMPDIR, else the working directory)",
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether every floor is reached."""
    arguments = _arguments()
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=expected)
    title = table.machine(arguments.dir)
    lines: list[Line] = []
    with scratch(arguments.dir) as root:
        print(f"Writing to {root.resolve()}, which is removed afterwards.", file=sys.stderr)
        for name in arguments.only or WORKS:
            print(f"  {name} ...", file=sys.stderr)
            lines += WORKS[name](root, arguments.data, arguments.rounds)
            gc.collect()  # models hold themselves; the next work needs their memory
    table.show(lines, title)
    if arguments.json:
        content = {"machine": title, **table.as_data(lines)}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    if arguments.markdown:
        table.put_into(arguments.markdown, table.markdown(lines, title))
    missed = [line.name for line in lines if isinstance(line, Row) and line.ok is False]
    if missed:
        print(f"Floors missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

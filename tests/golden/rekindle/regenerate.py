"""Writes golden checkpoints of the current version: python -m tests.golden.rekindle.regenerate

Each is a checkpoint (or a run) with a JSON file beside it that says what `load` and `restore` give.
Golden data is never written again: when it no longer opens, the code is wrong. A new version of the
format gets a directory of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.golden.rekindle import agents

import rekindle as rk
from rekindle.manifest import VERSION

HERE = Path(__file__).parent
SEED = 3


def regenerate(root: Path) -> Path:
    """Write every golden checkpoint below `root`.

    Raises:
        FileExistsError: There are golden checkpoints of this version.
    """
    directory = root / f"v{VERSION}"
    directory.mkdir()
    live = agents.plain(SEED)
    rk.save(directory / "plain", **live, step=7, metrics={"return": -1.5, "best": float("inf")},
            counters={"updates": 2}, exclude=["agent.writer"])  # fmt: skip
    expect(directory / "plain", live, "numpy")
    live = agents.learner(SEED)
    rk.save(directory / "learner", **live)
    expect(directory / "learner", live, "torch")
    configuration = {"gamma": 0.99}
    with rk.Run(directory / "run", configuration=configuration, algorithm="none") as run:
        live = agents.trained(1)
        run.track(**live)
        run.resume()
        run.save(metrics={"return": 1.0})
        agents_at_end = agents.trained(2)
        live["progress"].step, live["progress"].updates = 10, 2
        live["policy"]["weights"][...] = agents_at_end["policy"]["weights"]
        run.save(metrics={"return": 2.0})
    (directory / "run" / ".lock").unlink()
    expect(directory / "run", live, "numpy")
    return directory


def expect(path: Path, live: dict[str, Any], to: str) -> None:
    """Write what a checkpoint gives, as it is now."""
    loaded = agents.described(rk.load(path, to=to))
    content = {"loaded": loaded, "restored": agents.described(live)}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        print(regenerate(HERE))
    except FileExistsError:
        sys.exit(f"{HERE / f'v{VERSION}'} exists: golden data is never written again.")

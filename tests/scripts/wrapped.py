"""Saves and restores modules under `torch.compile` and `DistributedDataParallel`, with one process.

Prints, for each pair of how a module was wrapped when it was saved and when it was restored, and
for each way of saving it, whether every tensor came back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rekindle as rk


class Policy(torch.nn.Module):
    def __init__(self, seed: int, *, has_compiled_part: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        body: Any = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
        self.body = torch.compile(body, backend="eager") if has_compiled_part else body
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(seen))


def compiled(module: Any) -> Any:
    return torch.compile(module, backend="eager")


WRAPPERS: dict[str, Callable[[int], Any]] = {
    "plain": Policy,
    "compiled": lambda seed: compiled(Policy(seed)),
    "parallel": lambda seed: DistributedDataParallel(Policy(seed)),
    "both": lambda seed: compiled(DistributedDataParallel(Policy(seed))),
    "part": lambda seed: Policy(seed, has_compiled_part=True),
}


def save(module: Any, way: str, path: Path) -> Path:
    if way == "live":
        rk.save(path, policy=module)
    elif way == "state":
        rk.save(path, policy=module.state_dict())
    else:
        torch.save(module.state_dict(), path)
    return path


def main(folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    found = {}
    for one, make in WRAPPERS.items():
        module = make(1)
        module(torch.randn(5, 3)).sum().backward()
        for way in ("live", "state", "torch"):
            path = save(module, way, folder / f"{one}-{way}")
            for two, other in WRAPPERS.items():
                target = other(2)
                level = rk.compatibility(path, target).level
                rk.restore(path, policy=target)
                sides = [list(side.state_dict().values()) for side in (module, target)]
                same = all(torch.equal(a, b) for a, b in zip(*sides, strict=True))
                found[f"{one} {way} {two}"] = [same, str(level)]
    dist.destroy_process_group()
    print(json.dumps(found))


main(Path(sys.argv[1]))

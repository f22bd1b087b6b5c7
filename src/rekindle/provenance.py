"""What a run's numbers depend on beside its state: versions, threads, processor, flags, commit."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
"""Of this library."""

_LIBRARIES = (
    "numpy", "torch", "gymnasium", "stable_baselines3", "sb3_contrib", "mujoco", "ale_py",
    "jax", "jaxlib", "equinox", "optax", "safetensors",
)  # fmt: skip
_VARIABLES = (
    "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG", "XLA_FLAGS",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions of the libraries that are loaded, and what else can change the last bit."""
    found: dict[str, Any] = {
        "rekindle": VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
    }
    for name in _LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        found["threads"] = torch.get_num_threads()
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        found["deterministic_algorithms"] = torch.are_deterministic_algorithms_enabled()
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if variables:
        found["variables"] = variables
    commit = git_commit(Path.cwd())
    if commit is not None:
        found["git"] = commit
    return found


@cache
def git_commit(directory: Path) -> str | None:
    """The commit that is checked out where the program runs, read from git's own files."""
    for parent in (directory, *directory.parents):
        git = parent / ".git"
        try:
            if git.is_file():
                git = (parent / git.read_text().partition("gitdir:")[2].strip()).resolve()
            if not (git / "HEAD").is_file():
                continue
            head = (git / "HEAD").read_text().strip()
            if not head.startswith("ref:"):
                return head
            return _resolve(git, head.partition(":")[2].strip())
        except OSError:
            return None
    return None


def _resolve(git: Path, reference: str) -> str | None:
    common = git / "commondir"
    roots = [git, (git / common.read_text().strip()).resolve()] if common.is_file() else [git]
    for root in roots:
        if (root / reference).is_file():
            return (root / reference).read_text().strip()
        packed = root / "packed-refs"
        for line in packed.read_text().splitlines() if packed.is_file() else []:
            if line.endswith(" " + reference):
                return line.partition(" ")[0]
    return None

"""What a run's numbers depend on beside its state: versions, threads, processor, flags, commit."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

from rekindle.errors import Difference

VERSION = "0.1.0"
"""Of this library."""

LIBRARIES = (
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
    for name in LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        found["threads"] = torch.get_num_threads()
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        found["deterministic_algorithms"] = torch.are_deterministic_algorithms_enabled()
        found["torch_seed"] = torch.initial_seed()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.version.cuda
            found["cuda_device"] = torch.cuda.get_device_name()
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if variables:
        found["variables"] = variables
    commit = git_commit(Path.cwd())
    if commit is not None:
        found["git"] = commit
    return found


_EXACT = (
    *LIBRARIES, "platform", "threads", "cpu_capability", "deterministic_algorithms", "cuda",
    "cuda_device",
)  # fmt: skip
"""What can change the last bit of a result when it is another than it was."""


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[Difference]:
    """What can make a resumed run differ from an uninterrupted one, although its state is the same.

    Args:
        stored: The environment that a checkpoint was written in.
        found: The present one.
    """
    different = [
        Difference(name, str(stored[name]), str(found[name]))
        for name in _EXACT
        if name in stored and name in found and stored[name] != found[name]
    ]
    versions = [str(side.get("python", "")).rpartition(".")[0] for side in (stored, found)]
    if versions[0] != versions[1]:
        different.append(Difference("python", versions[0], versions[1]))
    variables = [side.get("variables", {}) for side in (stored, found)]
    for name in sorted({*variables[0], *variables[1]}):
        values = [side.get(name, "unset") for side in variables]
        if values[0] != values[1]:
            different.append(Difference(name, values[0], values[1]))
    return different


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

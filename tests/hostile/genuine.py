"""Opens hostile files with the libraries that they are for, each in a process of its own.

`python -m tests.hostile.genuine DIRECTORY LOADER=NAME ...` prints, as JSON, which cases left
something named PWNED behind. A case runs in an empty directory with no more than some time and
memory; what it starts is killed with it.
"""

from __future__ import annotations

import atexit
import copyreg
import gzip
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.gadgets import MODULE

_SECONDS = 10
_MEMORY_BYTES = 6 << 30


def _pickle(path: Path) -> None:
    with path.open("rb") as file:
        pickle.load(file)


def _pickle_twice(path: Path) -> None:
    with path.open("rb") as file:
        pickle.load(file)
        pickle.load(file)


def _extensions(path: Path) -> None:
    copyreg.add_extension("posix", "system", 0xF0)
    _pickle(path)


def _gzip(path: Path) -> None:
    with gzip.open(path) as file:
        pickle.load(file)


def _torch(path: Path) -> None:
    import torch

    torch.load(path, weights_only=False)


def _torch_weights(path: Path) -> None:
    import torch

    torch.load(path, weights_only=True)


def _sb3(path: Path) -> None:
    from stable_baselines3.common.save_util import load_from_zip_file

    load_from_zip_file(str(path))


def _numpy(path: Path) -> None:
    import numpy as np

    found: Any = np.load(path, allow_pickle=True)
    if hasattr(found, "files"):
        [found[name] for name in found.files]


LOADERS: dict[str, Callable[[Path], None]] = {
    "pickle": _pickle,
    "pickle_twice": _pickle_twice,
    "extensions": _extensions,
    "gzip": _gzip,
    "torch": _torch,
    "torch_weights": _torch_weights,
    "sb3": _sb3,
    "numpy": _numpy,
}


def fires(path: Path, loader: str) -> bool:
    """Whether opening a file in earnest executes what is in it."""
    directory = Path(tempfile.mkdtemp(prefix="rekindle-hostile-"))
    (directory / "evil.py").write_text(MODULE)
    child = os.fork()
    if child == 0:
        _run(path, loader, directory)
    try:
        _wait(child)
        return _has_canary(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(path: Path, loader: str, directory: Path) -> None:
    """In the child: open the file, and end as a program ends."""
    try:
        os.setsid()
        os.chdir(directory)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        sys.path.insert(0, "")
        LOADERS[loader](path)
    except BaseException:  # noqa: BLE001 - whatever it raises, the canary tells
        pass
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(0)


def _wait(child: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _has_canary(directory: Path) -> bool:
    """Whether the canary is there; what a case started may need a moment after its end."""
    for _ in range(20):
        if any("PWNED" in entry.name for entry in directory.iterdir()):
            return True
        time.sleep(0.005)
    return False


def main(directory: str, *named: str) -> None:
    """Try every named case, and print which fired."""
    import cloudpickle  # noqa: F401 - loaded once, before the cases fork off
    import numpy as np  # noqa: F401
    import stable_baselines3  # noqa: F401
    import torch.utils.collect_env  # noqa: F401

    warnings.simplefilter("ignore")
    found = {}
    for entry in named:
        loader, _, title = entry.partition("=")
        found[title] = fires(Path(directory).resolve() / title, loader)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

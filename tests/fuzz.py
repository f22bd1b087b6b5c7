"""Mutates real files and opens them: `python -m tests.fuzz --seconds 60` (`make fuzz`).

Whatever a file holds, opening it gives a value or one of Rekindle's errors, soon and in little
memory. A file that does anything else is kept in the directory given by `--keep`, with the seed
that makes it again.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.hostile import watched

from rekindle.errors import RekindleError

GOLDEN = Path(__file__).parent / "golden"
_SLOW_SECONDS = 20.0
_MOST_SEED_BYTES = 200_000
_INTERESTING = (0, 1, 2, 4, 8, 127, 128, 255)
_NUMBERS = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
_TOKENS = (
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x80\x04", b"cos\nsystem\n", b"R", b"b", b"Q",
    b"\x81", b"(", b"t", b"]", b"}", b"s", b"u", b"a", b"e", b"h\x00", b"\x94", b"0", b".", b"N",
    b"\x8e" + bytes(8), b"cnumpy\ndtype\n", b"ctorch\nFloatStorage\n", b"ccollections\ndeque\n",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One file that was changed, and how to make it again."""

    seed: int
    source: str
    data: bytes


def sources() -> dict[str, bytes]:
    """Real files to begin with: those of the libraries, and pickles of every protocol."""
    found = {
        str(path.relative_to(GOLDEN)): path.read_bytes()
        for path in sorted(GOLDEN.rglob("*"))
        if path.is_file()
        and path.suffix in (".pt", ".zip", ".pkl", ".pth", ".bin", ".pickle", ".eqx", ".gz")
        and path.stat().st_size <= _MOST_SEED_BYTES
    }
    value = {
        "arrays": [np.arange(6.0).reshape(2, 3), np.array(["a", 1], dtype=object), np.float32(1)],
        "values": (1, 2.5, "text", b"bytes", None, {1, 2}, frozenset((3,)), 2**80),
        "generator": np.random.default_rng(0),
        "path": Path("a/b"),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found[f"pickle {protocol}"] = pickle.dumps(value, protocol)
    return found


def _inner(data: bytes, source: random.Random) -> bytes:
    """An archive with one member changed, and its checksums made right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return data
    if not members:
        return data
    chosen = source.choice([*members, *(name for name in members if name.endswith(".pkl"))])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            content = _mutate(content, source) if name == chosen else content
            archive.writestr(name, content)
    return buffer.getvalue()


def _mutate(data: bytes, source: random.Random) -> bytes:
    """Some bytes changed in a few places."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 4, 16))):
        if not changed:
            return bytes(changed)
        at = source.randrange(len(changed))
        kind = source.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            changed[at] = source.choice(_INTERESTING)
        elif kind == 2:
            changed[at : at + source.choice((1, 2, 8, 64))] = b""
        elif kind == 3:
            changed[at:at] = source.choice(_TOKENS)
        elif kind == 4:
            other = source.randrange(len(changed))
            changed[at:at] = changed[other : other + source.choice((1, 8, 64, 1024))]
        elif kind == 5:
            size = source.choice((2, 4, 8))
            number = source.choice(_NUMBERS) % 256**size
            changed[at : at + size] = number.to_bytes(size, source.choice(("little", "big")))
        elif kind == 6:
            del changed[at:]
        else:
            changed[at] = source.randrange(256)
    return bytes(changed)


def mutants(seed: int) -> Iterator[Mutant]:
    """Changed files without end; each has a seed of its own."""
    real = sources()
    names = sorted(real)
    while True:
        source = random.Random(seed)
        name = source.choice(names)
        data = real[name]
        changed = _inner(data, source) if source.random() < 0.6 else data
        if changed == data:
            changed = _mutate(data, source)
        yield Mutant(seed, name, changed)
        seed += 1


def trouble(path: Path) -> str | None:
    """What went wrong when a file was opened in every way; None where nothing did."""
    for title, read in watched.READERS.items():
        began = time.process_time()
        try:
            value = read(path)
            strange = sorted(set(watched.strangers(value)))
            if strange:
                return f"{title}: {strange}"
        except RekindleError:
            pass
        except BaseException:  # noqa: BLE001 - any other exception is what is looked for
            return f"{title}: {traceback.format_exc()}"
        seconds = time.process_time() - began
        if seconds > _SLOW_SECONDS:
            return f"{title}: {seconds:.1f} s"
    return None


def run(seconds: float, seed: int, keep: Path | None = None) -> int:
    """Open mutants for some time; how many were opened.

    Raises:
        AssertionError: One of them made trouble.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    deadline = time.monotonic() + seconds
    count = 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mutant"
        for mutant in mutants(seed):
            if time.monotonic() > deadline:
                break
            path.write_bytes(mutant.data)
            found = trouble(path)
            count += 1
            if found is None:
                continue
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"mutant-{mutant.seed}").write_bytes(mutant.data)
            raise AssertionError(f"seed {mutant.seed}, from {mutant.source}: {found}")
    return count


def main() -> None:
    """Run in a child with little memory; a child that dies leaves its last file behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    watched._limit(int(options.seconds) + 120)
    try:
        count = run(options.seconds, options.seed, options.keep)
    except AssertionError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(f"{count} files opened from seed {options.seed} on; each gave a value or a clear error")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()

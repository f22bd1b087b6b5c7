from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from rekindle.errors import DamagedError, MissingDependencyError, UnsafeError
from rekindle.formats import recognition, wrappers
from rekindle.limits import Budget

DATA = os.urandom(1000) + bytes(3_000_000) + os.urandom(1000)
WRAPPED: dict[str, bytes] = {
    "gzip": gzip.compress(DATA),
    "two of gzip": gzip.compress(DATA[:1000]) + gzip.compress(DATA[1000:]),
    "zstd": zstandard.compress(DATA),
    "zstd with a checksum": zstandard.ZstdCompressor(write_checksum=True).compress(DATA),
    "zstd of unknown size": zstandard.ZstdCompressor(write_content_size=False).compress(DATA),
    "two of zstd": zstandard.compress(DATA[:1000]) + zstandard.compress(DATA[1000:]),
    "zstd and what is skipped": zstandard.compress(DATA) + b"\x55\x2a\x4d\x18\x02\0\0\0ab",
    "lz4": lz4.frame.compress(DATA),
    "lz4 with checksums": lz4.frame.compress(DATA, content_checksum=True, block_checksum=True),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_stream_comes_back_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(WRAPPED[name])
    budget = Budget()
    assert wrappers.of_file(path, budget).bytes() == DATA
    assert budget.spent == len(DATA)
    assert wrappers.head(path, 100).bytes() == DATA[:100]


@pytest.mark.parametrize("name", WRAPPED)
def test_a_stream_that_breaks_off_is_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = WRAPPED[name]
    for cut in (1, 3, 4, 8, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:-cut])
        with pytest.raises(DamagedError, match="breaks off"):
            wrappers.of_file(path, Budget())


@pytest.mark.parametrize("name", ["gzip", "lz4 with checksums", "zstd with a checksum"])
def test_a_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytearray(WRAPPED[name])
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        wrappers.of_file(path, Budget())


@pytest.mark.parametrize("name", WRAPPED)
def test_a_stream_larger_than_the_budget_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(WRAPPED[name])
    with pytest.raises(UnsafeError, match="max_bytes"):
        wrappers.of_file(path, Budget(2_000_000))


def test_what_follows_a_stream_is_padding_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"a") + bytes(2000))
    assert wrappers.of_file(path, Budget()).bytes() == b"a"
    wraps: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, zstandard.compress)
    for wrap in wraps:
        path.write_bytes(wrap(b"a") + b"something else")
        with pytest.raises(DamagedError):
            wrappers.of_file(path, Budget())


def test_a_file_that_is_not_wrapped_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"plain")
    budget = Budget(0)
    assert wrappers.of_file(path, budget).bytes() == b"plain"
    assert wrappers.head(path, 2).bytes() == b"plain"


@pytest.mark.parametrize(("package", "name"), [("zstandard", "zstd"), ("lz4", "lz4")])
def test_a_missing_package_is_named(package: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(WRAPPED[name])
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.modules[{package!r}] = None\n"
        "from rekindle.errors import MissingDependencyError\n"
        "from rekindle.formats import recognition\n"
        "try: recognition.recognise(Path(sys.argv[1]))\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"pip install rekindle[{name}]" in done.stdout, done.stderr
    assert MissingDependencyError.code == "missing-dependency"
    assert recognition.formats()

"""A child process is gone when its block ends, with whatever it has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.cli.child import Child

ENDLESS = (
    "import subprocess, sys\n"
    "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(other.pid, flush=True)\n"
    "other.wait()"
)


def start(tmp_path: Path, code: str, **options: dict[str, str]) -> Child:
    with (tmp_path / "errors").open("w") as errors:
        return Child([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, **options)


def test_a_kill_ends_it_and_what_it_has_started(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS) as child:
        assert child._process.stdout is not None
        with child._process.stdout as stdout:
            assert int(stdout.readline()) != child.pid
            child.kill()
            assert stdout.read() == "", "the other has ended too: the pipe has no writer any more"
    assert child.was_killed
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_leaving_the_block_ends_it(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS) as child:
        assert child._process.stdout is not None
        child._process.stdout.readline()
    child._process.stdout.close()
    assert child.was_killed


def test_one_that_ended_by_itself_was_not_killed(tmp_path: Path) -> None:
    code = "import os; raise SystemExit(os.environ['H6'] != 'here')"
    with start(tmp_path, code, variables={"H6": "here"}) as child:
        assert child._process.wait() == 0
        assert child._process.stdout is not None
        child._process.stdout.close()
    child.kill()
    assert not child.was_killed

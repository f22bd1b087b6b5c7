"""Runs `rekindle` as a shell does, and as a program in this process does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from rekindle.cli.app import run

PROGRAM = [sys.executable, "-c", "import sys, rekindle.cli; sys.exit(rekindle.cli.main())"]
"""What the installed script does, wherever it is installed."""


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def rekindle(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """In this process: quick."""
    capsys.readouterr()
    status = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def shell(*arguments: object) -> Result:
    """In a process of its own: the real thing."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    return Result(done.returncode, done.stdout, done.stderr)

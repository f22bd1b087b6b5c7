"""A process that a command starts, and ends with SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self


class Child:
    """A process of its own session, which is gone when its `with` block ends.

    So Ctrl-C reaches this process only, which ends the other, and whatever that has started.

    Args:
        command: What to run.
        stdout: Where its output goes.
        stderr: Where its errors go.
        variables: Environment variables, beside those of this process.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: IO[Any] | int,
        stderr: IO[Any],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL is what ended it."""
        return self._process.poll() == -signal.SIGKILL

    def kill(self) -> None:
        """Send SIGKILL to it and to whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()

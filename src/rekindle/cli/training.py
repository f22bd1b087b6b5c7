"""A training in a process of its own, followed line by line, and killed when asked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import rekindle as rk
from rekindle.cli.child import Child


class Training(Child):
    """A process that trains and says where it stands in lines of JSON (`train --json-lines`).

    Args:
        command: What to run.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.step = 0
        """The last step that it told of."""
        self.mean_return: float | None = None
        """The mean return at that step."""
        self.resumed_from: int | None = None
        """The step of the checkpoint that it went on from."""
        self._first: tuple[int, float] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        super().__init__(command, stdout=subprocess.PIPE, stderr=self._errors)

    @property
    def seconds_per_step(self) -> float:
        """Measured between its first line and now."""
        if self._first is None or self.step == self._first[0]:
            return 0.0
        return (time.monotonic() - self._first[1]) / (self.step - self._first[0])

    def follow(self) -> Iterator[int]:
        """The steps that it tells of, until it ends.

        Raises:
            RekindleError: It ended with an error, which is passed on.
        """
        yield from self._lines()
        if self._process.wait() != 0:
            raise self._failure(None)

    def kill(self) -> None:
        """Send SIGKILL, and read what it had still said."""
        super().kill()
        for _ in self._lines():
            pass

    def _lines(self) -> Iterator[int]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = _parsed(line)
            if "error" in told:
                self._process.wait()
                raise self._failure(told)
            if "step" in told:
                self.step = told["step"]
                self.mean_return = told["return"]
                self.resumed_from = told["resumed_from"]
                self._first = self._first or (self.step, time.monotonic())
                yield self.step

    def _failure(self, told: dict[str, str] | None) -> rk.RekindleError:
        if told is not None:
            kinds = [kind for kind in vars(rk).values() if isinstance(kind, type)]
            errors = {kind.code: kind for kind in kinds if issubclass(kind, rk.RekindleError)}
            kind = errors.get(told["error"], rk.RekindleError)
            return kind(told["message"], path=told["path"], key=told["key"])
        self._errors.seek(0)
        said = self._errors.read().strip()[-4000:]
        return rk.RekindleError(
            f"training (process {self.pid}): expected it to finish, found that it ended with "
            f"status {self._process.returncode} at step {self.step:,}.\n{said}"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def _parsed(line: str) -> dict[str, Any]:
    """One line; one that is cut off by a kill, or printed by an environment, says nothing."""
    try:
        told = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def command(
    *, algorithm: str, environment: str, steps: int, every: int, seed: int, run: object
) -> list[str]:
    """The command that trains, the same one at first and after a kill."""
    return [
        *(sys.executable, "-m", "rekindle", "train", "--json-lines"),
        *("--algo", algorithm),
        *("--env", environment),
        *("--steps", str(steps)),
        *("--model-checkpoint-freq", str(every)),
        *("--seed", str(seed)),
        *("--run", str(run)),
    ]

"""Opening one pickle: the machine records it, and known values are rebuilt from the record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle import spans
from rekindle.collecting import uncollected
from rekindle.errors import FormatError, RekindleError
from rekindle.limits import Budget
from rekindle.pickles import cloudpickle_values, machine, numpy_values, python_values
from rekindle.pickles.machine import Recording
from rekindle.pickles.rebuilding import Builder, Rebuilder
from rekindle.spans import Span

BUILDERS: dict[str, Builder] = {
    **python_values.BUILDERS,
    **numpy_values.BUILDERS,
    **cloudpickle_values.BUILDERS,
}
"""Everything that is rebuilt, by name, but for torch's: a pickle by itself holds no tensors."""

_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Unpickled:
    """One pickle, read."""

    value: Any
    """Plain data: Python's containers and values, numpy's arrays, and records of all else."""
    notes: tuple[str, ...]
    """What was known by name and yet stays a record, and why."""
    size: int
    """How many bytes the pickle took."""


def read(
    span: Span,
    budget: Budget | None = None,
    *,
    at: int = 0,
    buffers: Sequence[memoryview] = (),
    builders: Mapping[str, Builder] = BUILDERS,
    persistent: Callable[[Any], Any] | None = None,
) -> Unpickled:
    """Read one pickle, running nothing.

    Arrays of 64 KB and more are over the memory of the span: of the file, where it is mapped. They
    may begin at any address, so they are copied before anything that needs aligned memory.

    Args:
        span: The bytes.
        budget: Memory that values may take.
        at: Where in the span the pickle begins.
        buffers: What a pickle of protocol 5 keeps outside itself, in order.
        builders: What is rebuilt, by name.
        persistent: Gives the value for an identifier of something outside the pickle.

    Raises:
        DamagedError: It ends before it stops.
        FormatError: It is not a pickle, or breaks the rules of pickles.
        UnsafeError: It asks for more memory or time than any honest file, or changes the program.
    """
    budget = budget or Budget(name=span.name)
    with uncollected(), _explained(span):
        recording = machine.record(span, budget, at=at, buffers=buffers)
        return _rebuilt(recording, budget, builders, persistent)


def rebuild(
    recording: Recording,
    span: Span,
    budget: Budget,
    *,
    builders: Mapping[str, Builder] = BUILDERS,
    persistent: Callable[[Any], Any] | None = None,
) -> Unpickled:
    """Rebuild the values of a pickle that was recorded before; see `read`."""
    with uncollected(), _explained(span):
        return _rebuilt(recording, budget, builders, persistent)


def _rebuilt(
    recording: Recording,
    budget: Budget,
    builders: Mapping[str, Builder],
    persistent: Callable[[Any], Any] | None,
) -> Unpickled:
    rebuilder = Rebuilder(builders, budget, persistent, has_large=recording.has_large)
    value = rebuilder.rebuild(recording.root)
    return Unpickled(value, tuple(rebuilder.notes), recording.size)


def read_file(path: str | Path, *, max_bytes: int | None = None) -> Unpickled:
    """Read a file that is one pickle, running nothing; see `read`."""
    span = spans.of_file(Path(path))
    return read(span, Budget(max_bytes, span.name))


@contextlib.contextmanager
def _explained(span: Span) -> Iterator[None]:
    """Say what an exception of Python's means: the file is malformed in a way of its own."""
    try:
        yield
    except RekindleError:
        raise
    except _FAILURES as error:
        raise FormatError(
            f"{span.name}: expected a pickle of values that can be, found one that breaks their "
            f"rules ({type(error).__name__}: {str(error)[:200]}).",
            path=span.name,
        ) from error

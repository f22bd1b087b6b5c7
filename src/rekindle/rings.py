"""Ring buffers: arrays that are filled row by row, and from the first row again after the last.

A checkpoint keeps the rows of such arrays apart from everything else, so that a save costs the rows
that are new. How they lie on disk: `rekindle.segments`; docs/format.md, "Rows".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rekindle.errors import UnsupportedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Ring:
    """How a set of arrays of equal length is being filled, at the time of a capture.

    Attributes:
        capacity: Length of the first axis of every array.
        position: The row that is written next.
        num_filled: How many rows hold something: the first ones, or all.
        num_added: Rows ever added, where that is known.
        num_steps_per_row: Environment steps that a row takes, at least.
        ahead: Rows from `position` on that may hold something already, as next observations do.
        advanced: Rows added since the capture, now; called from another thread.
    """

    capacity: int
    position: int
    num_filled: int
    num_added: int | None = None
    num_steps_per_row: int = 1
    ahead: int = 0
    advanced: Callable[[], int] = field(repr=False)


class RingBuffer:
    """Says of arrays that they are a ring buffer, so that a save costs only the rows that are new.

    A row may change only by being added: row `added % capacity` is the next. Where more than 1 MB
    of rows are added at once, count them before they are written. Values beyond the rows ever added
    are not kept. Track it as a component of its own, or hold it as an attribute of the object that
    holds the arrays:

        class Memory:
            def __init__(self, capacity):
                self.observations = np.zeros((capacity, 17), np.float32)
                self.rewards = np.zeros(capacity, np.float32)
                self.added = 0
                self.ring = rk.RingBuffer(
                    {"observations": self.observations, "rewards": self.rewards},
                    added=lambda: self.added,
                )

    Args:
        arrays: numpy arrays or torch tensors, by name, all of one length: the capacity.
        added: How many rows were ever added: a function that says so at any time, from any thread;
            or a number to begin with, when `ring.added` itself is to count them.
        changing: Names of arrays of which any row may change at any time, such as priorities. They
            are compared block by block.

    Raises:
        UnsupportedError: The arrays have no rows, or not the same number of them.

    Shapes:
        arrays: (capacity, ...)
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        added: Callable[[], int] | int = 0,
        *,
        changing: tuple[str, ...] = (),
    ) -> None:
        lengths = {name: _length(array) for name, array in arrays.items()}
        if not lengths or len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
            raise UnsupportedError(
                "RingBuffer: expected arrays of one length, at least 1, along their first axis, "
                f"found {lengths or 'none'}. Pass the arrays as they were allocated."
            )
        unknown = [name for name in changing if name not in arrays]
        if unknown:
            raise UnsupportedError(
                f"RingBuffer: expected `changing` to name arrays among {', '.join(arrays)}, "
                f"found {', '.join(unknown)}."
            )
        self.arrays = dict(arrays)
        self.changing = tuple(changing)
        self.capacity = next(iter(lengths.values()))
        self.count = added if callable(added) else None
        self.added = 0 if callable(added) else added

    @property
    def num_added(self) -> int:
        """Rows ever added."""
        return int(self.added if self.count is None else self.count())

    def ring(self) -> Ring:
        """How it stands now."""
        added = self.num_added
        if added < 0:
            raise UnsupportedError(
                f"RingBuffer: expected a number of rows ever added, found {added}."
            )
        return Ring(
            capacity=self.capacity,
            position=added % self.capacity,
            num_filled=min(added, self.capacity),
            num_added=added,
            advanced=lambda: self.num_added - added,
        )

    def __repr__(self) -> str:
        return f"RingBuffer({', '.join(self.arrays)}; {self.num_added} added, {self.capacity} kept)"


def _length(array: Any) -> int:
    shape = getattr(array, "shape", ())
    return int(shape[0]) if shape else 0

"""Saving ring buffers: rows that are known from the checkpoint before are linked, others written.

A group is a set of arrays whose rows are added together. Of a large one only rows that the position
has passed are written; that no other row changed is held against samples of them. Small ones, and
arrays of which any row may change, are compared block by block.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from rekindle import files, segments
from rekindle.codecs import arrays, rows
from rekindle.errors import RekindleError
from rekindle.manifest import ArrayRecord, RowsRecord, SegmentRecord
from rekindle.rings import Ring
from rekindle.segments import Span, changed, circular, lay_out

Array = np.ndarray[Any, Any]

LEAST_BYTES = 1 << 20
"""Arrays that are smaller than this together are written with the others of their component."""
COMPARED_BYTES = 8 << 20
"""Groups whose rows take no more than this are compared block by block."""
STAGED_BYTES = 4 << 20
"""Of the rows that a save in the background writes, those are copied that training will overwrite
next, up to this size; others are read where they are."""
_BLOCK_BYTES = 1 << 20
_MOST_BLOCKS = 64
_SAMPLE_ROWS = 128
_SAMPLE_BYTES = 1 << 20
_THREADS = 4


class OverwrittenError(RekindleError):
    """Training overwrote rows before a save in the background had read them."""

    code = "overwritten"


class Target(Protocol):
    """The checkpoint that is being written."""

    def link(self, name: str) -> None:
        """Give it a file of the checkpoint before.

        Raises:
            FileNotFoundError: That is no longer there.
        """
        ...

    def reserve(self, component: str) -> tuple[str, files.Target]:
        """A new file's name in the checkpoint, and where to write it."""
        ...

    def add(self, name: str, record: Any) -> None:
        """Note that a new file is written."""
        ...


@dataclass(frozen=True, eq=False)
class Known:
    """What a checkpoint holds of a group, and by what the live arrays are known again."""

    ring: Ring
    record: RowsRecord
    step: int
    places: tuple[Any, ...]
    sampled: Array
    """Numbers of the sampled rows, in order."""
    samples: dict[str, Array]
    digests: dict[Span, str] = field(default_factory=dict)
    """Of every block, where the group is compared."""


class Group:
    """Arrays of one draft whose rows are stored in segments.

    Args:
        component: Which component they are part of.
        columns: The live arrays by name, C-contiguous and of one length.
        ring: How they stand.
        is_changing: Whether any row may change at any time.
        step: The step of the checkpoint.
        known: What the checkpoint before holds of them.
    """

    def __init__(
        self,
        component: str,
        columns: Mapping[str, arrays.Stored],
        ring: Ring,
        *,
        is_changing: bool,
        step: int,
        known: Mapping[str, Known],
    ) -> None:
        self.component = component
        self.columns = dict(columns)
        self.ring = ring
        self.step = step
        self.key = f"{component}/{min(columns)}"
        self.row_bytes = sum(stored.raw[0].nbytes for stored in columns.values())
        self.is_compared = is_changing or self.row_bytes * ring.num_filled <= COMPARED_BYTES
        found = known.get(self.key)
        self._known = found if found is not None and self._is_same(found) else None
        self._staged: list[tuple[Span, dict[str, Array]]] = []
        self._is_live = False
        self._witnesses: tuple[Array, dict[str, Array]] | None = None
        if not self.is_compared:
            self._take_witnesses()
        self._layout = self._lay_out()
        self._writing: tuple[list[SegmentRecord], _Jobs, dict[Span, str]] = [], _Jobs(), {}
        """What is linked, what is being written, and digests of blocks that are compared."""
        self.after: Known | None = None
        """What the written checkpoint holds; set by `finish`."""

    def _take_witnesses(self) -> None:
        """Hold sampled rows against what they were, and keep those by which the writer goes on."""
        now: dict[str, Array] | None = None
        if self._known is not None:
            numbers = self._known.sampled
            now = self._rows(numbers)
            if not _is_equal(now, self._known.samples, _none_of(numbers, self._dirty())):
                self._known = None
        if self.ring.num_added is not None:
            return
        # Nothing counts the rows, so a whole round looks like none; some rows themselves tell.
        if self._known is not None and now is not None and self._is_spread(self._known):
            self._witnesses = self._known.sampled, now
        else:
            self._witnesses = self._sample()

    def _is_spread(self, known: Known) -> bool:
        """Whether rows that were sampled for an earlier checkpoint would be so for this one."""
        return len(known.sampled) > 0 and known.ring.num_filled == self.ring.num_filled

    def _is_same(self, known: Known) -> bool:
        """Whether the arrays are those of which something is known."""
        return known.places == self._places() and known.record.arrays == self._described()

    def _places(self) -> tuple[Any, ...]:
        return tuple((name, stored.raw.ctypes.data) for name, stored in self.columns.items())

    def _described(self) -> dict[str, ArrayRecord]:
        return {
            name: ArrayRecord(dtype=stored.code, shape=list(stored.raw.shape))
            for name, stored in self.columns.items()
        }

    # ------------------------------------------------------------------ what to write

    def _dirty(self) -> list[Span]:
        """Rows that the checkpoint before does not hold."""
        assert self._known is not None
        counted = self.ring.num_added is not None and self._known.ring.num_added is not None
        passed = (self.step - self._known.step) // self.ring.num_steps_per_row
        if not counted and passed + 1 >= self.ring.capacity:
            return [(0, self.ring.num_filled)]
        return changed(self._known.ring, self.ring)

    def _lay_out(self) -> segments.Layout:
        earlier = self._known.record.segments if self._known is not None else ()
        dirty = self._dirty() if self._known is not None else ()
        return lay_out(
            earlier, dirty, self.ring.num_filled, self.row_bytes, self.ring.position,
            self.ring.capacity,
        )  # fmt: skip

    def _blocks(self) -> list[Span]:
        filled = self.ring.num_filled
        size = max(_BLOCK_BYTES, self.row_bytes * filled // _MOST_BLOCKS)
        count = max(1, size // max(self.row_bytes, 1))
        return [(low, min(low + count, filled)) for low in range(0, filled, count)]

    @property
    def num_bytes(self) -> int:
        """How many bytes may have to be written, uncompressed."""
        if self.is_compared or self._known is None:
            return self.row_bytes * self.ring.num_filled
        return self.row_bytes * sum(high - low for low, high in self._layout.new)

    # ------------------------------------------------------------------ a consistent snapshot

    def staged(self, *, is_whole: bool) -> list[Span]:
        """Rows to copy before training goes on.

        Args:
            is_whole: Whether to copy all that will be written, however much it is.
        """
        filled, position = self.ring.num_filled, self.ring.position
        if self.is_compared:
            return [(0, filled)] if filled else []
        new = self._layout.new
        if is_whole:
            # With room for the rows next to them, which training amends.
            return _union([*new, *self._edge()])
        count = max(1, STAGED_BYTES // max(self.row_bytes, 1))
        ahead = circular(position, count, self.ring.capacity, filled)
        front = [_common(one, other) for one in ahead for other in new]
        return _union([*(span for span in front if span[0] < span[1]), *self._edge()])

    def _edge(self) -> list[Span]:
        """Rows around the position, that the next step of training may change."""
        return circular(
            self.ring.position - 1, 2 + self.ring.ahead, self.ring.capacity, self.ring.num_filled
        )

    def detach(self, place: Callable[[Array], Array], *, is_whole: bool) -> None:
        """Copy rows that training will change; the others are read from where they are.

        Args:
            place: Copies an array into memory that lasts until the save is done.
            is_whole: See `staged`.
        """
        self._is_live = True
        for low, high in self.staged(is_whole=is_whole):
            copies = {name: place(stored.raw[low:high]) for name, stored in self.columns.items()}
            self._staged.append(((low, high), copies))

    def _pieces(self, name: str, low: int, high: int) -> Iterator[Array]:
        """Rows of one array, from copies where there are any."""
        live = self.columns[name].raw
        position = low
        for (first, end), copies in self._staged:
            if end <= position or first >= high:
                continue
            if first > position:
                yield live[position:first]
                position = first
            last = min(end, high)
            yield copies[name][position - first : last - first]
            position = last
        if position < high:
            yield live[position:high]

    @property
    def _batch(self) -> int:
        """How many rows may be added at once: far fewer than are copied in front."""
        return STAGED_BYTES // 4 // max(self.row_bytes, 1)

    def _overwritten(self) -> list[Span]:
        """Rows that may no longer be what they were at the capture, unless copied.

        Also those of a batch that lies in the arrays already and is not counted yet.
        """
        if not self._is_live:
            return []
        ring = self.ring
        advanced = ring.advanced()
        if advanced < 0:  # it was emptied and is filled anew
            return circular(0, ring.capacity, ring.capacity, ring.num_filled)
        count = advanced + 2 + ring.ahead + self._batch
        return circular(ring.position - 1, count, ring.capacity, ring.num_filled)

    def _check(self, low: int, high: int) -> None:
        """Prove that rows which were read just now were still those of the capture."""
        for first, end in self._overwritten():
            for begin, stop in _outside(_common((low, high), (first, end)), self._staged):
                raise self._overtaken(begin, stop)

    def _overtaken(self, begin: int, stop: int) -> OverwrittenError:
        return OverwrittenError(
            f"{self.key}: rows {begin} to {stop} were overwritten before the save in the "
            "background had read them. The next call saves with a copy instead.",
            key=self.key,
        )

    def _went_round(self) -> bool:
        """Whether rows changed since the capture that the position does not account for."""
        if self._witnesses is None or not self._is_live:
            return False
        numbers, samples = self._witnesses
        # Read first: what training passes meanwhile is counted by then.
        found = self._rows(numbers)
        return not _is_equal(found, samples, _none_of(numbers, self._overwritten()))

    # ------------------------------------------------------------------ writing

    def begin(self, target: Target) -> None:
        """Link what is known, and begin to write the rest; `finish` or `stop` must follow.

        Rows that are compressed are written by other threads, while the caller goes on.

        Raises:
            OverwrittenError: Training was faster; nothing of the checkpoint can be used.
        """
        write = self._write_compared if self.is_compared else self._write_new
        try:
            write(target)
        except FileNotFoundError:
            if self._known is None:
                raise
            # The checkpoint before was removed meanwhile.
            self._known = None
            self._layout = self._lay_out()
            self.begin(target)

    def finish(self) -> RowsRecord:
        """Wait until all is written.

        Raises:
            OverwrittenError: Training was faster; nothing of the checkpoint can be used.
        """
        kept, jobs, digests = self._writing
        written = jobs.results()
        spans = [(item.first, item.first + item.count) for item in written]
        if any(_outside(span, self._staged) for span in spans) and self._went_round():
            raise self._overtaken(0, self.ring.num_filled)
        record = self._record([*kept, *written])
        self.after = self._remember(record, digests)
        return record

    def stop(self) -> None:
        """Wait until no thread writes any more, whatever became of it."""
        self._writing[1].stop()

    def _write_new(self, target: Target) -> None:
        layout = self._layout
        for name in dict.fromkeys(item.file for item in layout.kept):
            target.link(name)
        codecs = self._codecs(layout.new)
        jobs = [(span, *target.reserve(self.component)) for span in layout.new]

        def work(job: tuple[Span, str, files.Target]) -> SegmentRecord:
            span, name, place = job
            return self._write_segment(target, span, name, place, codecs)

        threads = min(_THREADS, len(jobs)) if codecs else 1
        self._writing = layout.kept, _Jobs(work, jobs, threads), {}

    def _write_compared(self, target: Target) -> None:
        digests = {span: self._digest(*span) for span in self._blocks()}
        earlier = {}
        if self._known is not None:
            whole = {(item.first, item.first + item.count): item
                     for item in self._known.record.segments if not item.skip}  # fmt: skip
            earlier = {
                span: whole[span]
                for span, digest in digests.items()
                if self._known.digests.get(span) == digest and span in whole
            }
        for item in earlier.values():
            target.link(item.file)
        new = [span for span in digests if span not in earlier]
        codecs = self._codecs(new)

        def work(span: Span) -> SegmentRecord:
            return self._write_segment(target, span, *target.reserve(self.component), codecs)

        self._writing = [*earlier.values()], _Jobs(work, new, 1), digests

    def _digest(self, low: int, high: int) -> str:
        hasher = blake3()
        for name in self.columns:
            for piece in self._pieces(name, low, high):
                hasher.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        return hasher.hexdigest()

    def _codecs(self, new: list[Span]) -> dict[str, str]:
        if not new:
            return {}
        low, high = new[0]
        threads = min(_THREADS, len(new), files.num_processors())
        found = {}
        for name, stored in self.columns.items():
            num_bytes = stored.raw[0].nbytes * sum(end - first for first, end in new)
            sample = next(self._pieces(name, low, high))
            codec = rows.codec_for(sample, num_bytes, num_threads=threads)
            if codec is not None:
                found[name] = codec
        return found

    def _write_segment(
        self, target: Target, span: Span, name: str, place: files.Target, codecs: dict[str, str]
    ) -> SegmentRecord:
        columns = {
            key: rows.Column(stored.code, list(self._pieces(key, *span)))
            for key, stored in self.columns.items()
        }
        record = rows.write(place, columns, codecs)
        self._check(*span)
        target.add(name, record)
        return SegmentRecord(file=name, first=span[0], count=span[1] - span[0], codecs=dict(codecs))

    def _record(self, found: Iterable[SegmentRecord]) -> RowsRecord:
        return RowsRecord(
            arrays=self._described(),
            segments=sorted(found, key=lambda item: item.first),
            filled=self.ring.num_filled,
            position=self.ring.position,
        )

    # ------------------------------------------------------------------ samples

    def _remember(self, record: RowsRecord, digests: dict[Span, str]) -> Known:
        sampled, samples = np.zeros(0, np.int64), {}
        if not self.is_compared:
            sampled, samples = self._witnesses or self._sample()
        return Known(self.ring, record, self.step, self._places(), sampled, samples, digests)

    def remember(self, record: RowsRecord) -> Known | None:
        """What a checkpoint holds that was just restored into these arrays; None if another's."""
        known = Known(self.ring, record, self.step, self._places(), np.zeros(0, np.int64), {})
        if not self._is_same(known) or record.filled != self.ring.num_filled:
            return None
        digests = {span: self._digest(*span) for span in self._blocks()} if self.is_compared else {}
        return self._remember(record, digests)

    def _sample(self) -> tuple[Array, dict[str, Array]]:
        """Some rows, evenly spread, as they were at the capture."""
        count = max(1, min(_SAMPLE_ROWS, _SAMPLE_BYTES // max(self.row_bytes, 1)))
        last = max(self.ring.num_filled - 1, 0)
        numbers = np.unique(np.linspace(0, last, count).astype(np.int64))
        samples = self._rows(numbers)
        certain = _none_of(numbers, self._overwritten())
        return numbers[certain], {name: sample[certain] for name, sample in samples.items()}

    def _rows(self, numbers: Array) -> dict[str, Array]:
        """Some rows as they are now."""
        return {name: stored.raw[numbers] for name, stored in self.columns.items()}


def _is_equal(found: dict[str, Array], samples: dict[str, Array], certain: Array) -> bool:
    """Whether those of the sampled rows that matter are what they were."""
    return all(
        found[name][certain].tobytes() == sample[certain].tobytes()
        for name, sample in samples.items()
    )


def _none_of(numbers: Array, spans: Iterable[Span]) -> Array:
    """Which of these rows lie in no span."""
    certain = np.ones(len(numbers), bool)
    for low, high in spans:
        certain &= (numbers < low) | (numbers >= high)
    return certain


class _Jobs:
    """Jobs that are done side by side while the caller goes on.

    With one thread, or where no other can be started, they are done here and at once.
    """

    def __init__(
        self,
        work: Callable[[Any], Any] = lambda job: job,
        jobs: Iterable[Any] = (),
        threads: int = 1,
    ) -> None:
        jobs = [*jobs]
        self._pending: list[Future[Any]] = []
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1:
            self._pool = ThreadPoolExecutor(threads, "rekindle-rows", files.manners())
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                for job in jobs:
                    self._pending.append(self._pool.submit(work, job))
        try:
            self._done = [work(job) for job in jobs[len(self._pending) :]]
        except BaseException:
            self.stop()
            raise

    def results(self) -> list[Any]:
        """What the jobs gave, in their order, or the error of the first that failed."""
        try:
            return [*(future.result() for future in self._pending), *self._done]
        finally:
            self.stop()

    def stop(self) -> None:
        """Begin no more of them, and wait for those that have begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _common(one: Span, other: Span) -> Span:
    return max(one[0], other[0]), min(one[1], other[1])


def _union(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that meet as one."""
    joined: list[Span] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        elif low < high:
            joined.append((low, high))
    return joined


def _outside(span: Span, staged: list[tuple[Span, dict[str, Array]]]) -> list[Span]:
    """Parts of a span of which there is no copy."""
    left = [span] if span[0] < span[1] else []
    for (low, high), _ in staged:
        left = [
            part
            for first, end in left
            for part in ((first, min(end, low)), (max(first, high), end))
            if part[0] < part[1]
        ]
    return left


# --------------------------------------------------------------------------- reading


class Segmented:
    """An array whose rows lie in segments.

    Args:
        name: Its name in them.
        record: The group that it is part of.
        find: Opens a segment by the name of its file.
    """

    def __init__(
        self, name: str, record: RowsRecord, find: Callable[[str], arrays.ArrayFile]
    ) -> None:
        described = record.arrays[name]
        self.name = name
        self.code = described.dtype
        self.dtype = arrays.CODES[described.dtype]
        self.shape = tuple(described.shape)
        self._record = record
        self._find = find
        self._check()

    def _check(self) -> None:
        """Refuse a list of segments that breaks the rules.

        Raises:
            ValueError: Rows lie twice, or nowhere, or outside.
        """
        filled = self._record.filled
        if not self.shape or min(self.shape) < 0 or not 0 <= filled <= self.shape[0]:
            raise ValueError(f"rows of shape {self.shape}, {filled} of them filled")
        position = 0
        for item in self._record.segments:
            if item.first != position or item.count < 1 or item.skip < 0:
                raise ValueError(f"a segment of {item.count} rows from {item.first} on")
            position += item.count
        if position != filled:
            raise ValueError(f"segments for {position} of {filled} rows")

    @property
    def num_bytes(self) -> int:
        """Size of the rows that are stored, uncompressed."""
        return self._record.filled * math.prod(self.shape[1:]) * self.dtype.itemsize

    def verify(self) -> None:
        """Open every segment, which compares its bytes with its digest."""
        for item in self._record.segments:
            self._find(item.file)

    def fill(self, target: Array) -> None:
        """Read all rows into an array, side by side; rows that nobody has filled become zero.

        Args:
            target: Of the same shape and type, C-contiguous.
        """

        def work(item: SegmentRecord) -> None:
            part = target[item.first : item.first + item.count]
            codec = item.codecs.get(self.name)
            rows.read_into(self._find(item.file), self.name, codec, item.skip, part)

        for item in self._record.segments:
            self._find(item.file)
        _Jobs(work, self._record.segments, min(_THREADS, len(self._record.segments))).results()
        _clear(target[self._record.filled :])

    def assemble(self) -> Array:
        """The whole array in new memory."""
        whole = np.zeros(self.shape, self.dtype)
        self.fill(whole)
        return whole


def _clear(rest: Array) -> None:
    """Make rows zero; memory that was never touched stays so."""
    flat = rest.reshape(-1).view(np.uint8)
    for first in range(0, flat.size, _BLOCK_BYTES):
        block = flat[first : first + _BLOCK_BYTES]
        if block.any():
            block[...] = 0

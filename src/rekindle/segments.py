"""Which rows of a ring buffer lie in which file: what stays, what is new, what is merged.

Only numbers of rows here, and no bytes. Segments are written by `rekindle.writer` and read by
`rekindle.reader`; docs/format.md, "Rows".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rekindle.manifest import SegmentRecord
from rekindle.rings import Ring

Span = tuple[int, int]
"""Rows from the first number up to, but without, the second."""

SEGMENT_BYTES = 32 << 20
"""No segment is made larger than this, before compression."""
SMALL_BYTES = 4 << 20
"""Segments smaller than this are merged when there are many of them."""
MOST_SMALL = 16
"""How many small segments there may be."""


@dataclass(frozen=True)
class Layout:
    """What the next checkpoint's segments are made of."""

    kept: list[SegmentRecord]
    """Segments of the checkpoint before, or parts of them."""
    new: list[Span]
    """Rows to write, one segment each, those that will be overwritten first before the others."""


def changed(before: Ring, now: Ring) -> list[Span]:
    """Rows that may differ from how they were.

    One row before the old position counts as changed: some buffers amend the row they added last.

    Args:
        before: The ring at the earlier capture.
        now: The same ring later; fewer than `capacity` rows were added unless both count them.
    """
    everything = [(0, now.num_filled)]
    if before.num_added is not None and now.num_added is not None:
        num_added = now.num_added - before.num_added
    else:
        num_added = (now.position - before.position) % now.capacity
        shrank = now.num_filled < before.num_filled
        if shrank or (num_added == 0 and now.num_filled != before.num_filled):
            return everything
    if num_added < 0 or num_added + 1 + now.ahead >= now.capacity:
        return everything
    first = before.position - 1
    return circular(first, num_added + 1 + now.ahead, now.capacity, now.num_filled)


def circular(first: int, count: int, capacity: int, limit: int) -> list[Span]:
    """The `count` rows from `first` on, around the end of a ring; only those below `limit`."""
    if count >= capacity:
        return [(0, limit)] if limit else []
    first %= capacity
    end = first + count
    spans = [(first, min(end, capacity)), (0, end - capacity)]
    return sorted((low, min(high, limit)) for low, high in spans if low < min(high, limit))


def lay_out(
    earlier: Sequence[SegmentRecord],
    dirty: Iterable[Span],
    num_filled: int,
    row_bytes: int,
    position: int = 0,
    capacity: int | None = None,
) -> Layout:
    """Decide what is linked and what is written.

    Args:
        earlier: Segments of the checkpoint before.
        dirty: Rows that changed since.
        num_filled: How many rows there are now.
        row_bytes: Size of one row, over all arrays.
        position: The row that will be overwritten next.
        capacity: Number of rows of the ring; `num_filled` when left out.
    """
    kept = without([*without(earlier, dirty)], [(num_filled, 1 << 62)])
    missing = holes(kept, num_filled)
    largest = max(1, SEGMENT_BYTES // max(row_bytes, 1))
    small = max(1, SMALL_BYTES // max(row_bytes, 1))
    kept, missing = _merge(kept, missing, small, largest)
    pieces = [piece for span in missing for piece in _split(span, largest)]
    length = capacity or num_filled
    pieces.sort(key=lambda span: (span[0] - position) % length if length else 0)
    return Layout(kept, pieces)


def without(segments: Iterable[SegmentRecord], spans: Iterable[Span]) -> list[SegmentRecord]:
    """Segments, or what is left of them when the rows of some spans no longer count."""
    found = list(segments)
    for low, high in spans:
        left: list[SegmentRecord] = []
        for item in found:
            end = item.first + item.count
            if item.first < low:
                left.append(_part(item, item.first, min(end, low)))
            if end > high:
                left.append(_part(item, max(item.first, high), end))
        found = left
    return found


def _part(segment: SegmentRecord, low: int, high: int) -> SegmentRecord:
    skip = segment.skip + low - segment.first
    return SegmentRecord(
        file=segment.file, first=low, count=high - low, skip=skip, codecs=segment.codecs
    )


def holes(segments: Iterable[SegmentRecord], num_filled: int) -> list[Span]:
    """Rows below `num_filled` that no segment holds."""
    spans = []
    position = 0
    for low, high in sorted((item.first, item.first + item.count) for item in segments):
        if low > position:
            spans.append((position, low))
        position = max(position, high)
    if position < num_filled:
        spans.append((position, num_filled))
    return spans


def _merge(
    kept: list[SegmentRecord], missing: list[Span], small: int, largest: int
) -> tuple[list[SegmentRecord], list[Span]]:
    """Write neighbouring small segments anew as one, when there are too many of them."""
    num_small = sum(item.count < small for item in kept)
    num_small += sum(high - low < small for low, high in missing)
    if num_small <= MOST_SMALL:
        return kept, missing
    by_row: list[tuple[Span, SegmentRecord | None]] = [
        ((item.first, item.first + item.count), item) for item in kept
    ]
    by_row += [(span, None) for span in missing]
    by_row.sort(key=lambda pair: pair[0])
    left: list[SegmentRecord] = []
    spans: list[Span] = []
    for run in _runs(by_row, small):
        items = [item for _, item in run]
        if len(run) == 1 and items[0] is not None:
            left.append(items[0])
        else:
            spans.append((run[0][0][0], run[-1][0][1]))
    return left, spans


def _runs(
    pieces: list[tuple[Span, SegmentRecord | None]], small: int
) -> list[list[tuple[Span, SegmentRecord | None]]]:
    """Pieces in the order of rows; small ones and new ones that adjoin stand together."""
    runs: list[list[tuple[Span, SegmentRecord | None]]] = []
    for piece in pieces:
        (low, high), item = piece
        joins = item is None or high - low < small
        previous = runs[-1][-1] if runs else None
        if previous is not None and joins and previous[0][1] == low:
            (before_low, before_high), before = previous
            if before is None or before_high - before_low < small:
                runs[-1].append(piece)
                continue
        runs.append([piece])
    return runs


def _split(span: Span, largest: int) -> list[Span]:
    """A span in pieces of about the same length, none longer than `largest`."""
    low, high = span
    count = -(-(high - low) // largest)
    edges = [low + (high - low) * index // count for index in range(count + 1)] if count else []
    return list(itertools.pairwise(edges))

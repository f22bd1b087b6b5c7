"""Which rows lie in which file: every row once, none stale, and never many files."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle import segments
from rekindle.manifest import SegmentRecord
from rekindle.rings import Ring
from rekindle.segments import changed, circular, holes, lay_out, without

ROW_BYTES = segments.SMALL_BYTES // 8
"""Eight rows are no small segment any more."""


def ring(added: int, capacity: int, *, ahead: int = 0, is_counted: bool = False) -> Ring:
    filled = min(added + ahead, capacity) if added else 0
    return Ring(
        capacity=capacity,
        position=added % capacity,
        num_filled=filled,
        num_added=added if is_counted else None,
        ahead=ahead,
        advanced=lambda: 0,
    )


class Simulated:
    """A ring and the files of its checkpoints, with a number for the content of every row."""

    def __init__(self, capacity: int, ahead: int) -> None:
        self.capacity, self.ahead = capacity, ahead
        self.rows = [0] * capacity
        self.added = 0
        self.files: dict[str, list[int]] = {}
        self.segments: list[SegmentRecord] = []
        self.saved: Ring | None = None

    def add(self, count: int) -> None:
        for _ in range(count):
            position = self.added % self.capacity
            self.added += 1
            self.rows[position] = 2 * self.added
            if self.ahead:
                self.rows[(position + 1) % self.capacity] = 2 * self.added + 1

    def save(self, *, is_counted: bool) -> int:
        """Save; returns how many rows were written."""
        now = ring(self.added, self.capacity, ahead=self.ahead, is_counted=is_counted)
        dirty = [(0, now.num_filled)] if self.saved is None else changed(self.saved, now)
        layout = lay_out(
            self.segments, dirty, now.num_filled, ROW_BYTES, now.position, self.capacity
        )
        written = list(layout.kept)
        for low, high in layout.new:
            name = f"rows.{len(self.files):06d}"
            self.files[name] = self.rows[low:high]
            written.append(SegmentRecord(file=name, first=low, count=high - low))
        self.segments = sorted(written, key=lambda item: item.first)
        self.saved = now
        return sum(high - low for low, high in layout.new)

    def loaded(self) -> list[int]:
        """What a reader finds."""
        assert self.saved is not None
        assert not holes(self.segments, self.saved.num_filled)
        found: list[int] = []
        for item in self.segments:
            assert item.first == len(found)
            found += self.files[item.file][item.skip : item.skip + item.count]
        return found


@settings(max_examples=300, deadline=None)
@given(
    capacity=st.integers(3, 200),
    ahead=st.sampled_from((0, 1)),
    is_counted=st.booleans(),
    additions=st.lists(st.integers(0, 250), min_size=1, max_size=40),
)
def test_what_is_read_is_what_was_there(
    capacity: int, ahead: int, is_counted: bool, additions: list[int]
) -> None:
    simulated = Simulated(capacity, ahead)
    for count in additions:
        # Without a count, the caller sees to it that a whole round is never passed unseen.
        simulated.add(count if is_counted else min(count, capacity - 1))
        simulated.save(is_counted=is_counted)
        filled = min(simulated.added + ahead, capacity) if simulated.added else 0
        assert simulated.loaded() == simulated.rows[:filled]


@settings(max_examples=100, deadline=None)
@given(capacity=st.integers(50, 2000), step=st.integers(1, 40), rounds=st.integers(1, 3))
def test_the_number_of_files_stays_bounded(capacity: int, step: int, rounds: int) -> None:
    simulated = Simulated(capacity, 0)
    largest = 0
    for _ in range(rounds * capacity // step + 1):
        simulated.add(step)
        simulated.save(is_counted=True)
        largest = max(largest, len({item.file for item in simulated.segments}))
    assert largest <= capacity // 8 + segments.MOST_SMALL + 3


def test_a_save_writes_the_rows_that_are_new_and_one_before_them() -> None:
    simulated = Simulated(10_000, 0)
    simulated.add(5_000)
    assert simulated.save(is_counted=False) == 5_000
    simulated.add(100)
    assert simulated.save(is_counted=False) == 101
    simulated.add(0)
    assert simulated.save(is_counted=False) == 1


def test_merging_writes_each_row_a_few_times_at_most() -> None:
    simulated = Simulated(100_000, 0)
    written = 0
    for _ in range(1_000):
        simulated.add(3)
        written += simulated.save(is_counted=True)
    assert written < 8 * 3_000


def test_rows_that_will_be_overwritten_first_are_written_first() -> None:
    layout = lay_out([], [], 1000, segments.SEGMENT_BYTES // 10, 570, 1000)
    first = layout.new[0]
    assert first[0] <= 570 + 10
    begins = [(low - 570) % 1000 for low, _ in layout.new]
    assert begins == sorted(begins)


def test_a_ring_that_was_cleared_is_written_anew() -> None:
    assert changed(ring(90, 100), ring(10, 100)) == [(0, 10)]
    assert changed(ring(90, 100, is_counted=True), ring(10, 100, is_counted=True)) == [(0, 10)]


def test_a_whole_round_is_seen_where_rows_are_counted() -> None:
    before, now = ring(150, 100, is_counted=True), ring(250, 100, is_counted=True)
    assert changed(before, now) == [(0, 100)]


def test_spans_go_around_the_end() -> None:
    assert circular(95, 10, 100, 100) == [(0, 5), (95, 100)]
    assert circular(-1, 2, 100, 100) == [(0, 1), (99, 100)]
    assert circular(-1, 2, 100, 50) == [(0, 1)]
    assert circular(3, 100, 100, 40) == [(0, 40)]


def test_a_segment_that_lost_rows_in_the_middle_becomes_two() -> None:
    segment = SegmentRecord(file="a", first=10, count=20, skip=5)
    left = without([segment], [(15, 20)])
    assert [(item.first, item.count, item.skip) for item in left] == [(10, 5, 5), (20, 10, 15)]

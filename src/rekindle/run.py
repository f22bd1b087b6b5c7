"""A training run: a directory of checkpoints by step, one writer at a time, and exact resume.

The directory holds `run.json` (what is trained), one directory per checkpoint, `checkpoints.jsonl`
(a cache of their manifests) and `.lock`. Layout and rules: docs/format.md, "Runs".
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rekindle import (
    cadence,
    description,
    entries,
    files,
    manifest,
    pins,
    probe,
    provenance,
    retention,
    seeding,
    writer,
)
from rekindle import trail as trails
from rekindle.cadence import Cadence, Moment
from rekindle.checkpoint import Checkpoint, step_directories, verify
from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    Difference,
    FormatError,
    MismatchError,
    NoSpaceError,
    NotFoundError,
    UnsupportedError,
    VersionError,
    listing,
)
from rekindle.files import PathLike
from rekindle.lock import Lock
from rekindle.preemption import EXIT_CODE, Watch
from rekindle.report import RestoreReport, Shown, columns, num_bytes, plural
from rekindle.retention import Keep, PruneReport

logger = logging.getLogger("rekindle")

_MOST_COPIED_BYTES = 64 << 20
"""Rows up to this size are copied when training was faster than a save; else it waits for it."""
_MARGIN_BYTES = 1 << 20
"""Room for what a draft does not count: documents and the manifest."""

_REMEDY = (
    "Every earlier checkpoint is as it was. Make room, `rekindle prune` helps; or train on without "
    'such saves: rk.Run(on_low_disk="continue").'
)


class Progress:
    """Where a training loop stands: its counters, and whatever else the loop keeps on it.

    Attributes set on it (`progress.best = 0.0`, a list of returns) are saved and restored with it.
    """

    def __init__(self) -> None:
        self.step = 0
        """Environment steps, summed over all environments."""
        self.updates = 0
        """Gradient updates."""
        self.episodes = 0
        """Finished episodes."""

    if TYPE_CHECKING:  # a loop may set whatever it has to remember

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        content = ", ".join(f"{key}={value!r}"[:60] for key, value in vars(self).items())
        return f"Progress({content})"


class Run(Shown):
    """A training run on disk.

    Args:
        path: Its directory; made at the first save.
        every: Save when so many environment steps have passed: `10_000`. In other units:
            `rk.Every(seconds=600)`, `rk.Every(updates=1_000)`.
        keep: Which checkpoints stay, `rk.Keep(last=3)`; the others are deleted after a save, when
            that is durable. All of them stay when left out.
        exclude: Paths to leave out of every checkpoint.
        allow: What may differ from the environment that a checkpoint was written in when it is
            resumed, by the names that the refusal lists: `"torch"`, `"threads"`, ...
        background: Whether `checkpoint` goes on as soon as the state is copied, while another
            thread writes it. A failure is raised by the next call, or by `wait` or `close`.
        busy: What `checkpoint` does when a save is due and the one before is still being written:
            `"wait"` for it, or `"skip"`, which saves at the first call after it is done.
        configuration: What must be the same when the run is resumed: plain data.
        algorithm: Name of the algorithm, for `run.json`.
        environment: Name of the environment, for `run.json`.
        on_low_disk: What `checkpoint` does when there is no room for a save. `"raise"` an error,
            or `"continue"` without this save: the log says so, and the next checkpoint notes it.
        preemption: Whether SIGTERM and SIGUSR1 make `checkpoint` save and end the process with
            status 75, instead of ending it at once; a second signal does that. From the first call
            of `checkpoint` to `close`, in the main thread. When left out, only for those of the two
            that have no other handler; with True, other handlers are called as well.
        trail: Whether to write short digests of every part at every step into `trail.jsonl`, by
            which two runs can be compared later; it takes a few percent of the time at most.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        every: Cadence | None = None,
        keep: Keep | None = None,
        exclude: Sequence[str] = (),
        allow: Sequence[str] = (),
        background: bool = False,
        busy: Literal["wait", "skip"] = "wait",
        on_low_disk: Literal["raise", "continue"] = "raise",
        preemption: bool | None = None,
        configuration: Mapping[str, Any] | None = None,
        algorithm: str | None = None,
        environment: str | None = None,
        trail: bool = False,
    ) -> None:
        if on_low_disk not in ("raise", "continue"):
            raise UnsupportedError(f"on_low_disk={on_low_disk!r}: expected 'raise' or 'continue'.")
        if busy not in ("wait", "skip"):
            raise UnsupportedError(f"busy={busy!r}: expected 'wait' or 'skip'.")
        cadence.settled(every)
        self.path = trails.redirected(path)
        self.every = trails.every(every)
        self.keep = keep
        self._cadence = cadence.settled(self.every)
        self._is_full_disk_accepted = on_low_disk == "continue"
        self._watch = Watch(preemption)
        self._exclude = tuple(exclude)
        self._allow = frozenset(allow)
        self._about = {
            "algorithm": algorithm,
            "environment": environment,
            "configuration": description.plain(configuration or {}),
        }
        self._background = background
        self._skips = busy == "skip"
        self._commits = writer.Background()
        settings = trails.asked_for() or (trails.Settings() if trail else None)
        self._trail = None if settings is None else trails.Trail(self.path, settings, exclude)
        self._resumed_from: int | None = None
        self._lock = Lock(self.path)
        self._tracked: dict[str, Any] = {}
        self._last: Moment | None = None
        self._left_out: list[int] = []
        self._parent: writer.Saved | None = None
        self._probe = probe.Probe()
        self._set_aside: set[Path] = set()
        self._started = time.monotonic()
        self._elapsed_before = 0.0
        self._is_open = False

    # ------------------------------------------------------------------ reading

    def __len__(self) -> int:
        return len(step_directories(self.path))

    def __iter__(self) -> Any:
        for directory in step_directories(self.path):
            yield Checkpoint(directory, manifest.read(directory))

    @property
    def steps(self) -> list[int]:
        """Steps of its checkpoints, oldest first."""
        return [int(path.name[5:]) for path in step_directories(self.path)]

    @property
    def about(self) -> dict[str, Any]:
        """`run.json`: what is trained, and with what configuration."""
        return description.read(self.path)

    def latest(self) -> Checkpoint:
        """The newest checkpoint.

        Raises:
            NotFoundError: There is none.
        """
        newest = self._directories()[-1]
        return Checkpoint(newest, manifest.read(newest))

    def _directories(self) -> list[Path]:
        """Its checkpoints, oldest first; at least one."""
        found = step_directories(self.path)
        if not found:
            raise NotFoundError(
                f"{self.path}: expected a run with checkpoints, found none.", path=self.path
            )
        return found

    def entries(self) -> list[dict[str, Any]]:
        """One line per checkpoint, oldest first: step, time, metrics, size.

        Taken from `checkpoints.jsonl`; what that lacks, or what changed since it was written, is
        read from the manifests. A damaged checkpoint's entry says so under `damaged`.
        """
        return entries.read(self.path)

    @property
    def left_out(self) -> list[int]:
        """Steps of the saves that were left out since the last one, because the disk was full."""
        return list(self._left_out)

    @property
    def pins(self) -> list[int]:
        """Steps of its pinned checkpoints, oldest first."""
        pinned = pins.names(self.path)
        return [int(path.name[5:]) for path in step_directories(self.path) if path.name in pinned]

    def pin(self, step: int) -> None:
        """Keep a checkpoint whatever `keep` says; training may be under way.

        Raises:
            NotFoundError: There is no checkpoint at this step.
        """
        pins.pin(self._directory(step))

    def unpin(self, step: int) -> None:
        """Take the pin of a checkpoint away.

        Raises:
            NotFoundError: There is no checkpoint at this step.
        """
        pins.unpin(self._directory(step))

    def prune(self, keep: Keep, *, dry_run: bool = False) -> PruneReport:
        """Delete what a policy does not keep, now; training may be under way.

        The newest checkpoint of which every byte is as written stays, and what is newer than it.

        Args:
            keep: The policy.
            dry_run: Only say what would be deleted.

        Raises:
            NotFoundError: The run has no checkpoints.
        """
        self._directories()
        newest, damaged = retention.newest_intact(self.path)
        held = retention.look(self.path, damaged=damaged)
        decision = retention.decide(keep, held, newest=newest, pinned=pins.names(self.path))
        if not dry_run:
            retention.apply(self.path, decision)
        return PruneReport(str(self.path), decision, dry_run)

    def _directory(self, step: int) -> Path:
        return self.path / f"step_{step:09d}"

    # ------------------------------------------------------------------ training

    def track(self, **components: Any) -> None:
        """Name the live objects that every checkpoint holds and `resume` puts back."""
        manifest.check_components({**self._tracked, **components})
        self._tracked |= components

    def describe(
        self,
        *,
        algorithm: str | None = None,
        environment: str | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what is trained, where the constructor was not told; before the first save."""
        given = {
            "algorithm": algorithm,
            "environment": environment,
            "configuration": description.plain(configuration or {}),
        }
        for key, value in given.items():
            self._about[key] = self._about[key] or value

    def prepare(self) -> None:
        """Take the lock, sweep what a killed save left, and compare the configuration.

        `resume` and the first save do the same; call it to be refused early.
        """
        self._open()

    def peek(self, component: str) -> Any:
        """One component of the newest intact checkpoint as plain data."""
        for directory in reversed(step_directories(self.path)):
            try:
                return _intact(directory).load([component])[component]
            except (DamagedError, FormatError, NotFoundError) as error:
                if isinstance(error, VersionError):
                    raise
        raise NotFoundError(f"{self.path}: expected an intact checkpoint, found none.")

    def resume(self, *, classes: Iterable[type] = ()) -> RestoreReport | None:
        """Restore the newest intact checkpoint into the tracked objects, in place.

        Every byte is compared with its digest first. A damaged checkpoint is passed over for the
        one before it; the report and the log say which and why.

        Args:
            classes: Classes of the program that the state may hold where live objects hold none.

        Returns:
            What was restored, or None when the run has no checkpoint yet.

        Raises:
            DamagedError: There are checkpoints, and none of them is intact.
            MismatchError: The run was started with another configuration or other objects.
            LockedError: Another process writes this run.
        """
        if not self._tracked:
            raise UnsupportedError(
                f"{self.path}: expected tracked objects to restore into, found none. "
                "Call run.track(policy=..., ...) first."
            )
        self._open()
        skipped: list[tuple[str, str]] = []
        found = step_directories(self.path)
        for directory in reversed(found):
            try:
                checkpoint = _intact(directory)
            except (DamagedError, FormatError, NotFoundError) as error:
                if isinstance(error, VersionError):
                    raise
                skipped.append((directory.name, str(error)))
                self._set_aside.add(directory)
                logger.warning("%s is passed over: %s", directory, error)
                continue
            return self._resume_from(checkpoint, skipped, classes)
        if found:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in skipped)
            raise DamagedError(
                f"{self.path}: expected an intact checkpoint, found "
                f"{plural(len(found), 'damaged one')}. "
                f"Nothing was restored, and nothing was started afresh.\n{reasons}\n"
                "Move the run's directory aside to start again from nothing.",
                path=self.path,
            )
        self._note_start()
        self._last = self._moment(0)
        return None

    def _note_start(self) -> None:
        """Remember how the generators stand at a fresh start, to tell later which were seeded."""
        content = {**self.about, "start": seeding.fingerprints(self._tracked, self._exclude)}
        description.write(self.path, content)

    def _check_environment(self, checkpoint: Checkpoint) -> tuple[Difference, ...]:
        """What differs and is accepted; anything else that differs refuses the resume."""
        found = provenance.differences(checkpoint.manifest.environment, provenance.environment())
        refused = [difference for difference in found if difference.key not in self._allow]
        if refused:
            names = ", ".join(repr(difference.key) for difference in refused)
            raise MismatchError(
                f"{checkpoint.path}: resuming here would not give the results of an uninterrupted "
                f"run, because the environment is another one:\n{listing(refused)}\n"
                f"Use the same environment, or accept other results with allow=[{names}].",
                path=checkpoint.path,
                differences=refused,
            )
        return tuple(found)

    def _resume_from(
        self, checkpoint: Checkpoint, skipped: list[tuple[str, str]], classes: Iterable[type]
    ) -> RestoreReport:
        accepted = self._check_environment(checkpoint)
        start = seeding.fingerprints(self._tracked, self._exclude)
        unseeded = seeding.unseeded(self.about.get("start", {}), start)
        report = checkpoint.restore(self._tracked, classes=classes)
        self._resumed_from = checkpoint.step
        self._last = self._moment(checkpoint.step)
        record = checkpoint.manifest
        self._parent = writer.remember(self._tracked, checkpoint.path, record, self._exclude)
        self._elapsed_before = checkpoint.manifest.elapsed_seconds or 0.0
        self._started = time.monotonic()
        probed = self._probe.notes(self._tracked, self._exclude)
        notes = tuple(dict.fromkeys((*report.notes, *probed)))
        return dataclasses.replace(
            report, skipped=tuple(skipped), unseeded=unseeded, accepted=accepted, notes=notes
        )

    def checkpoint(
        self, *, metrics: Mapping[str, Any] | None = None, step: int | None = None
    ) -> bool:
        """Save when a save is due; call it at the top of the loop.

        There, everything that the last iteration did is finished, so a run resumed from here does
        what the uninterrupted one does. When the process was asked to end (`preemption`), this
        saves, closes the run and raises `SystemExit(75)`.

        Args:
            metrics: Measurements to keep beside it.
            step: Environment steps so far; the tracked `progress.step` when left out.

        Returns:
            Whether it saved. With `background=True` the save may still be under way: see `wait`.
        """
        now = self._step(step)
        is_saved = False
        if self.is_due(now):
            is_saved = self._begin(now, metrics, None, background=self._background, is_due=True)
        self.trace(now)
        if self._watch.request is not None:
            self._end(self._watch.request, now, metrics)
        return is_saved

    def _end(self, request: str, now: int, metrics: Mapping[str, Any] | None) -> NoReturn:
        """Save at this safe point, and end the process, which was asked to."""
        self._begin(now, metrics, None, background=False)
        logger.warning(
            "%s: %s: saved at step %s, ending with status %d. The same command goes on from there.",
            self.path, request, f"{now:,}", EXIT_CODE,
        )  # fmt: skip
        self._shut()
        raise SystemExit(EXIT_CODE)

    @property
    def has_trail(self) -> bool:
        """Whether `trace` writes anything."""
        return self._trail is not None

    def trace(self, step: int, *, is_inside: bool = False) -> None:
        """Write digests of the tracked objects, if the run has a trail; `checkpoint` does it too.

        Args:
            step: Environment steps so far.
            is_inside: Whether this is in the middle of an iteration, right after a step of the
                environment.
        """
        if self._trail is not None:
            self._trace(self._trail, step, is_inside=is_inside)

    def _trace(
        self, trail: trails.Trail, step: int, *, is_inside: bool = False, is_whole: bool = False
    ) -> None:
        if not trail.is_begun:
            self._open()
            if self._last is None:
                self._refuse_unresumed()
            trail.begin(self._resumed_from)
        trail.record(self._tracked, step, is_inside=is_inside, is_whole=is_whole)

    def is_due(self, step: int, *, updates: int | None = None) -> bool:
        """Whether `checkpoint` would save at this step.

        Args:
            step: Environment steps so far.
            updates: Gradient updates so far; the tracked `progress.updates` when left out.

        Raises:
            AlreadyExistsError: The run has checkpoints and `resume` was not called.
            OSError: The last save, in the background, failed; told once.
        """
        if self._commits.has_failed:
            self._settle()
        self._watch.begin()
        if self._watch.request is not None or self._commits.is_overwritten:
            return True
        if self._cadence is None or step == 0 or (self._skips and self._commits.is_busy):
            return False
        last = self._last or self._refuse_unresumed()
        return step != last.step and self._cadence.is_due(last, self._moment(step, updates))

    def save(
        self,
        *,
        metrics: Mapping[str, Any] | None = None,
        step: int | None = None,
        counters: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Save the tracked objects now.

        Returns:
            The checkpoint; the existing one when the run stands at a step that is saved already.

        Raises:
            AlreadyExistsError: The run has checkpoints and `resume` was not called.
        """
        now = self._step(step)
        self._begin(now, metrics, counters, background=False)
        assert self._parent is not None
        return Checkpoint(self._parent.path, self._parent.manifest)

    def wait(self) -> None:
        """Wait for a save under way in the background; raise what went wrong with it."""
        self._settle()

    def _begin(
        self,
        now: int,
        metrics: Mapping[str, Any] | None,
        counters: Mapping[str, Any] | None,
        *,
        background: bool,
        is_due: bool = False,
    ) -> bool:
        """Capture the tracked objects, and commit them here or in the background.

        Returns:
            Whether that was possible: when the disk is full, a save that was only due may be left
            out.
        """
        watch = writer.Stopwatch()
        self._open()
        moment = self._moment(now)
        if self._last is None:
            self._refuse_unresumed()
        self._settle()
        is_lost = self._tell_lost()
        parent = self._parent
        if parent is not None and not parent.path.exists():
            parent = dataclasses.replace(parent, known={})
        elif parent is not None and parent.manifest.step == now:
            return True
        plan = writer.draft(
            self._directory(now),
            self._tracked,
            step=now,
            counters=counters,
            metrics=metrics,
            exclude=self._exclude,
            parent=parent,
            watch=watch,
            elapsed_seconds=round(self._elapsed_before + time.monotonic() - self._started, 3),
        )
        plan.manifest.notes.extend(self._notes())
        overwrite = plan.destination in self._set_aside
        self._last = moment
        try:
            self._check_room(plan)
            num_bytes_of_rows = sum(group.num_bytes for group in plan.groups)
            if background and not (is_lost and num_bytes_of_rows > _MOST_COPIED_BYTES):
                self._commits.submit(plan, self._committed, overwrite=overwrite, is_whole=is_lost)
            else:
                self._committed(plan, writer.commit(plan, overwrite=overwrite))
        except OSError as error:
            self._accept(error, now, is_due=is_due)
            return False
        if self._trail is not None:
            self._trace(self._trail, now, is_whole=True)
        return True

    def _tell_lost(self) -> bool:
        """Whether the last save came to nothing because training was faster; the log says so."""
        lost = self._commits.take_overwritten()
        if lost is not None:
            logger.warning("%s: %s", self.path, lost)
        return lost is not None

    def _settle(self) -> None:
        """Wait for a save under way; when it found the disk full, leave it out if that may be."""
        try:
            self._commits.wait()
        except OSError as error:
            self._accept(error, self._last.step if self._last else 0, is_due=True)

    def _check_room(self, plan: writer.Draft) -> None:
        """Refuse a save that the disk has no room for, before anything is written."""
        needed, free = plan.num_bytes + _MARGIN_BYTES, files.free_bytes(self.path)
        if free is not None and free < needed:
            raise NoSpaceError(
                f"{plan.destination}: expected room for {num_bytes(needed)}, found "
                f"{num_bytes(free)} free. {_REMEDY}",
                path=plan.destination,
            )

    def _accept(self, error: OSError, step: int, *, is_due: bool) -> None:
        """Go on without a save for which there is no room, where the user chose so."""
        is_saved = self._parent is not None and self._parent.manifest.step == step
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        if not (is_due and self._is_full_disk_accepted):
            if is_saved or isinstance(error, NoSpaceError):
                raise error
            directory = self._directory(step)
            raise NoSpaceError(
                f"{directory}: expected room for it, found that the disk is full ({error}). "
                f"{_REMEDY}",
                path=directory,
            ) from error
        if is_saved:  # and only its line in a cache is missing
            logger.warning("%s: step %s is saved, and the disk full. %s", self.path, step, error)
            return
        self._left_out.append(step)
        logger.warning("%s: the save at step %s is left out. %s", self.path, f"{step:,}", error)

    def _notes(self) -> list[str]:
        """What the next checkpoint says of environments, and of saves left out before it."""
        found = [*self._probe.notes(self._tracked, self._exclude)]
        if not self._left_out:
            return found
        steps = ", ".join(f"{step:,}" for step in self._left_out)
        return [*found, f"the disk was full: no save before this one at the step(s) {steps}"]

    def _committed(self, plan: writer.Draft, done: writer.Commit) -> None:
        self._parent = done.saved
        self._set_aside.discard(plan.destination)
        self._left_out.clear()
        entries.append(Checkpoint(plan.destination, done.saved.manifest), done)
        if self.keep is not None:
            self._prune(self.keep, plan.destination.name)

    def _prune(self, keep: Keep, newest: str) -> None:
        """Delete what is not to be kept, now that a newer checkpoint is on the disk."""
        damaged = {path.name for path in self._set_aside}
        held = retention.look(self.path, damaged=damaged, with_sizes=keep.budget_gb is not None)
        decision = retention.decide(keep, held, newest=newest, pinned=pins.names(self.path))
        retention.apply(self.path, decision)
        if decision.excess_bytes:
            logger.warning(
                "%s: its checkpoints take %s, more than budget_gb=%s; all that are left are the "
                "newest, the best or pinned.",
                self.path, num_bytes(decision.kept_bytes), keep.budget_gb,
            )  # fmt: skip

    def close(self) -> None:
        """Wait for a save under way, then let others write this run.

        When the process was asked to end and there was no safe point since, it ends here.
        """
        request = self._watch.request
        self._shut()
        if request is not None:
            told = f"{self.path}: {request}: the run is closed"
            if sys.exc_info()[0] is not None:
                logger.warning("%s; an exception is under way, which comes first.", told)
                return
            logger.warning("%s, ending with status %d.", told, EXIT_CODE)
            raise SystemExit(EXIT_CODE)

    def _shut(self) -> None:
        try:
            self._settle()
            self._tell_lost()
        finally:
            try:
                self._commits.close()
            finally:
                if self._trail is not None:
                    self._trail.close()
                self._lock.release()
                self._watch.end()
                self._is_open = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _step(self, step: int | None) -> int:
        return self._counter("step", "step=") if step is None else step

    def _moment(self, step: int, updates: int | None = None) -> Moment:
        """Now, as far as the cadence counts."""
        if self._cadence is None or self._cadence.updates is None:
            updates = 0
        elif updates is None:
            updates = self._counter("updates", "updates=")
        return Moment(step=step, updates=updates, seconds=time.monotonic())

    def _counter(self, name: str, option: str) -> int:
        progress = self._tracked.get("progress")
        found = progress.get(name) if isinstance(progress, dict) else getattr(progress, name, None)
        if found is None:
            raise UnsupportedError(
                f"{self.path}: expected to know {name}, found no `progress` with `{name}` among "
                f"the tracked objects. Track rk.Progress() as progress, or pass {option}."
            )
        return int(found)

    def _refuse_unresumed(self) -> Moment:
        """Begin at step 0, which is only right where nothing was saved before."""
        found = step_directories(self.path)
        if found:
            raise AlreadyExistsError(
                f"{self.path}: expected an empty run, found checkpoints up to {found[-1].name}. "
                "Call run.resume() before the loop to go on from there, or choose another path.",
                path=self.path,
            )
        self._last = self._moment(0, 0)
        return self._last

    def _open(self) -> None:
        """Take the lock, sweep what killed saves left, and hold `run.json` against this script."""
        if self._is_open and self._lock.is_held:
            return
        if self._is_open:  # its lock was taken away, as by someone who removed the directory
            self._commits.wait()
        files.make_parents(self.path)
        self._lock.acquire()
        try:
            files.sweep(self.path)
            self._compare_about()
            entries.mend(self.path)
        except BaseException:
            self._lock.release()
            raise
        self._is_open = True

    def _compare_about(self) -> None:
        if not (self.path / description.NAME).exists():
            description.write(self.path, description.new(self._about))
            return
        stored = self.about
        differences = description.differences(stored, self._about)
        if differences:
            raise MismatchError(
                f"{self.path}: this run was started with another configuration:\n"
                f"{listing(differences)}\n"
                "Use what the run was started with, or give the new one its own directory.",
                path=self.path,
                differences=differences,
            )
        if stored["configuration"] is None:
            description.write(self.path, {**stored, **self._about})

    def _text(self) -> str:
        found = self.entries()
        title = f"Run {self.path}"
        if not found:
            return f"{title}\n  no checkpoints yet"
        return f"{title}\n{columns(entries.rows(found, self.pins))}"


def _intact(directory: Path) -> Checkpoint:
    """The checkpoint, when every byte of it is as written."""
    report = verify(directory)
    if not report.ok:
        raise DamagedError(
            f"{directory}: damaged:\n{listing(report.differences)}",
            path=directory,
            differences=report.differences,
        )
    return Checkpoint(directory, manifest.read(directory))

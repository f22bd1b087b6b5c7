"""A training run: a directory of checkpoints by step, one writer at a time, and exact resume.

The directory holds `run.json` (what is trained), one directory per checkpoint, `checkpoints.jsonl`
(a cache of their manifests) and `.lock`. Layout and rules: docs/format.md, "Runs".
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rekindle import files, manifest, provenance, seeding, writer
from rekindle import trail as trails
from rekindle.checkpoint import Checkpoint, step_directories, verify
from rekindle.codecs import values
from rekindle.errors import (
    AlreadyExistsError,
    DamagedError,
    Difference,
    FormatError,
    LockedError,
    MismatchError,
    NotFoundError,
    RekindleError,
    UnsupportedError,
    VersionError,
    listing,
)
from rekindle.files import PathLike
from rekindle.report import RestoreReport, Shown, columns, num_bytes, plural

logger = logging.getLogger("rekindle")

_RUN_FORMAT = "rekindle-run"
_RUN_VERSION = 1
_CACHE = "checkpoints.jsonl"


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


class Lock:
    """The right to write a run. The system takes it back when its owner dies, however it dies."""

    _held: dict[str, int] = {}  # noqa: RUF012 - one table for the whole process

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = os.path.realpath(path)
        self._fd: int | None = None
        self._pid = 0

    @property
    def is_held(self) -> bool:
        """Whether this process holds it through this object; a forked child does not."""
        return self._fd is not None and self._pid == os.getpid()

    def acquire(self) -> None:
        """Take the lock, or say who has it.

        Raises:
            LockedError: Another process, or another `Run` of this one, writes here.
        """
        if self.is_held:
            return
        import fcntl

        if self._held.get(self._key) == os.getpid():
            raise self._refusal(f"another Run object of this process ({os.getpid()})")
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # A record lock, not flock: a forked worker does not inherit it and cannot outlive us.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = self._owner(fd)
            os.close(fd)
            raise self._refusal(owner) from None
        text = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(text).encode() + b"\n", 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._pid = fd, os.getpid()
        self._held[self._key] = os.getpid()

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            if self.is_held:
                self._held.pop(self._key, None)
            os.close(self._fd)
            self._fd = None

    def _owner(self, fd: int) -> str:
        """Who holds the lock: what the file says, or what the system knows."""
        try:
            said = json.loads(os.pread(fd, 4096, 0))
            return f"process {said['pid']} on {said['host']} since {said['since']}"
        except (ValueError, KeyError, TypeError):
            return f"process {self._owner_pid(fd)}"

    def _owner_pid(self, fd: int) -> str:
        import fcntl

        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, query))
        return str(answer[4])

    def _refusal(self, owner: str) -> LockedError:
        return LockedError(
            f"{self._path.parent}: expected to be the only writer of this run, found {owner}. "
            "Wait for it, end it, or give this run another directory.",
            path=self._path.parent,
        )


class Run(Shown):
    """A training run on disk.

    Args:
        path: Its directory; made at the first save.
        every: Save when this many environment steps have passed since the last save.
        exclude: Paths to leave out of every checkpoint.
        allow: What may differ from the environment that a checkpoint was written in when it is
            resumed, by the names that the refusal lists: `"torch"`, `"threads"`, ...
        background: Whether `checkpoint` goes on as soon as the state is copied, while another
            thread writes it. A failure is raised by the next call, or by `wait` or `close`.
        configuration: What must be the same when the run is resumed: plain data.
        algorithm: Name of the algorithm, for `run.json`.
        environment: Name of the environment, for `run.json`.
        trail: Whether to write short digests of every part at every step into `trail.jsonl`, by
            which two runs can be compared later; it takes a few percent of the time at most.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        every: int | None = None,
        exclude: Sequence[str] = (),
        allow: Sequence[str] = (),
        background: bool = False,
        configuration: Mapping[str, Any] | None = None,
        algorithm: str | None = None,
        environment: str | None = None,
        trail: bool = False,
    ) -> None:
        if every is not None and every < 1:
            raise UnsupportedError(f"every={every}: expected a number of steps, at least 1.")
        self.path = trails.redirected(path)
        self.every = trails.every(every)
        self._exclude = tuple(exclude)
        self._allow = frozenset(allow)
        self._about = {
            "algorithm": algorithm,
            "environment": environment,
            "configuration": _plain(configuration or {}),
        }
        self._background = background
        self._commits = writer.Background()
        settings = trails.asked_for() or (trails.Settings() if trail else None)
        self._trail = None if settings is None else trails.Trail(self.path, settings, exclude)
        self._resumed_from: int | None = None
        self._lock = Lock(self.path / ".lock")
        self._tracked: dict[str, Any] = {}
        self._last_step: int | None = None
        self._parent: Checkpoint | None = None
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
        return _read_about(self.path)

    def latest(self) -> Checkpoint:
        """The newest checkpoint.

        Raises:
            NotFoundError: There is none.
        """
        found = step_directories(self.path)
        if not found:
            raise NotFoundError(
                f"{self.path}: expected a run with checkpoints, found none.", path=self.path
            )
        return Checkpoint(found[-1], manifest.read(found[-1]))

    def entries(self) -> list[dict[str, Any]]:
        """One line per checkpoint, oldest first: step, time, metrics, size.

        Taken from `checkpoints.jsonl`; what that lacks, or what changed since it was written, is
        read from the manifests. A damaged checkpoint's entry says so under `damaged`.
        """
        cache = self.path / _CACHE
        written = _modified(cache)
        cached = {entry["name"]: entry for entry in _read_lines(cache)}
        found = []
        for directory in step_directories(self.path):
            entry = cached.get(directory.name)
            if entry is None or not 0 < _modified(directory / manifest.NAME) <= written:
                entry = _entry_of(directory)
            found.append(entry)
        return found

    def _mend_cache(self) -> None:
        """Write `checkpoints.jsonl` anew where it does not say what the manifests say."""
        entries = [entry for entry in self.entries() if "damaged" not in entry]
        text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        cache = self.path / _CACHE
        if text != (cache.read_bytes() if cache.exists() else b""):
            files.replace_file(cache, text)

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
            "configuration": _plain(configuration or {}),
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
        self._last_step = 0
        return None

    def _note_start(self) -> None:
        """Remember how the generators stand at a fresh start, to tell later which were seeded."""
        content = {**self.about, "start": seeding.fingerprints(self._tracked, self._exclude)}
        self._write_about(content)

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
        self._last_step = self._resumed_from = checkpoint.step
        self._parent = checkpoint
        self._elapsed_before = checkpoint.manifest.elapsed_seconds or 0.0
        self._started = time.monotonic()
        return dataclasses.replace(
            report, skipped=tuple(skipped), unseeded=unseeded, accepted=accepted
        )

    def checkpoint(
        self, *, metrics: Mapping[str, Any] | None = None, step: int | None = None
    ) -> bool:
        """Save when a save is due; call it at the top of the loop.

        There, everything that the last iteration did is finished, so a run resumed from here does
        what the uninterrupted one does.

        Args:
            metrics: Measurements to keep beside it.
            step: Environment steps so far; the tracked `progress.step` when left out.

        Returns:
            Whether a save was due. With `background=True` it may still be under way: see `wait`.
        """
        now = self._step(step)
        is_due = self.is_due(now)
        if is_due:
            self._begin(now, metrics, None, background=self._background)
        self.trace(now)
        return is_due

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
            if self._last_step is None:
                self._refuse_unresumed()
            trail.begin(self._resumed_from)
        trail.record(self._tracked, step, is_inside=is_inside, is_whole=is_whole)

    def is_due(self, step: int) -> bool:
        """Whether `checkpoint` would save at this step.

        Raises:
            AlreadyExistsError: The run has checkpoints and `resume` was not called.
        """
        if self.every is None or step == 0:
            return False
        if self._last_step is None:
            self._refuse_unresumed()
        return step // self.every > (self._last_step or 0) // self.every

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
        return self._parent

    def wait(self) -> None:
        """Wait for a save under way in the background; raise what went wrong with it."""
        self._commits.wait()

    def _begin(
        self,
        now: int,
        metrics: Mapping[str, Any] | None,
        counters: Mapping[str, Any] | None,
        *,
        background: bool,
    ) -> None:
        """Capture the tracked objects, and commit them here or in the background."""
        self._open()
        if self._last_step is None:
            self._refuse_unresumed()
        self._commits.wait()
        if self._parent is not None and self._parent.step == now and self._parent.path.exists():
            return
        plan = writer.draft(
            self.path / f"step_{now:09d}",
            self._tracked,
            step=now,
            counters=counters,
            metrics=metrics,
            exclude=self._exclude,
            parent=self._parent,
            elapsed_seconds=round(self._elapsed_before + time.monotonic() - self._started, 3),
        )
        overwrite = plan.destination in self._set_aside
        self._last_step = now
        if background:
            self._commits.submit(plan, self._committed, overwrite=overwrite)
        else:
            self._committed(plan, writer.commit(plan, overwrite=overwrite))
        if self._trail is not None:
            self._trace(self._trail, now, is_whole=True)

    def _committed(self, plan: writer.Draft, record: manifest.Manifest) -> None:
        self._parent = Checkpoint(plan.destination, record)
        line = msgspec.json.encode(_entry(self._parent))
        files.append_line(self.path / _CACHE, line)

    def close(self) -> None:
        """Wait for a save under way, then let others write this run."""
        try:
            self._commits.close()
        finally:
            if self._trail is not None:
                self._trail.close()
            self._lock.release()
            self._is_open = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _step(self, step: int | None) -> int:
        if step is not None:
            return step
        progress = self._tracked.get("progress")
        found = (
            progress.get("step") if isinstance(progress, dict) else getattr(progress, "step", None)
        )
        if found is None:
            raise UnsupportedError(
                f"{self.path}: expected to know the step, found no `progress` with a `step` among "
                "the tracked objects. Track rk.Progress() as progress, or pass step=."
            )
        return int(found)

    def _refuse_unresumed(self) -> None:
        found = step_directories(self.path)
        if found:
            raise AlreadyExistsError(
                f"{self.path}: expected an empty run, found checkpoints up to {found[-1].name}. "
                "Call run.resume() before the loop to go on from there, or choose another path.",
                path=self.path,
            )
        self._last_step = 0

    def _open(self) -> None:
        """Take the lock, sweep what killed saves left, and hold `run.json` against this script."""
        if self._is_open and self._lock.is_held:
            return
        files.make_parents(self.path)
        self._lock.acquire()
        try:
            files.sweep(self.path)
            self._compare_about()
            self._mend_cache()
        except BaseException:
            self._lock.release()
            raise
        self._is_open = True

    def _write_about(self, content: dict[str, Any]) -> None:
        text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
        files.replace_file(self.path / "run.json", text)

    def _compare_about(self) -> None:
        path = self.path / "run.json"
        if not path.exists():
            content = {
                "format": _RUN_FORMAT,
                "version": _RUN_VERSION,
                "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                **self._about,
                "code": provenance.git_commit(Path.cwd()),
                "parent": None,
            }
            self._write_about(content)
            return
        stored = _read_about(self.path)
        differences = []
        for key in ("algorithm", "environment"):
            if self._about[key] is not None and stored.get(key) not in (None, self._about[key]):
                differences.append(Difference(key, str(stored.get(key)), str(self._about[key])))
        differences += _compare(stored.get("configuration", {}), self._about["configuration"])
        if differences:
            raise MismatchError(
                f"{self.path}: this run was started with another configuration:\n"
                f"{listing(differences)}\n"
                "Use what the run was started with, or give the new one its own directory.",
                path=self.path,
                differences=differences,
            )

    def _text(self) -> str:
        entries = self.entries()
        title = f"Run {self.path}"
        if not entries:
            return f"{title}\n  no checkpoints yet"
        return f"{title}\n{columns(entry_rows(entries))}"


def entry_rows(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Entries of a run as rows of text, with a heading."""
    names = sorted({name for entry in entries for name in entry.get("metrics", {})})
    rows = [["step", "created", "size", *names, ""]]
    for entry in entries:
        metrics = entry.get("metrics", {})
        cells = [_cell(metrics.get(name)) for name in names]
        size = num_bytes(entry["bytes"]) if "bytes" in entry else "?"
        rows.append(
            [f"{entry['step']:,}", entry.get("created", "?"), size, *cells,
             "damaged" if entry.get("damaged") else ""]
        )  # fmt: skip
    return rows


def _cell(value: Any) -> str:
    value = values.decode(value)
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON can hold it, so that it compares equal when it is read again."""
    try:
        return msgspec.json.decode(msgspec.json.encode(dict(configuration)))
    except (TypeError, msgspec.MsgspecError) as error:
        raise UnsupportedError(
            f"configuration: expected plain data, found a value that JSON cannot hold ({error})."
        ) from error


def _compare(stored: Any, found: Any, key: str = "configuration") -> list[Difference]:
    if isinstance(stored, dict) and isinstance(found, dict):
        differences = []
        for name in sorted({*stored, *found}):
            if name not in found or name not in stored:
                missing = Difference(f"{key}.{name}", _shown(stored, name), _shown(found, name))
                differences.append(missing)
            else:
                differences += _compare(stored[name], found[name], f"{key}.{name}")
        return differences
    return [] if stored == found else [Difference(key, repr(stored), repr(found))]


def _shown(holder: dict[str, Any], name: str) -> str:
    return repr(holder[name]) if name in holder else "nothing"


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


def _read_about(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    try:
        content = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: expected a run (a directory with a run.json), found none.", path=path
        ) from None
    except msgspec.DecodeError as error:
        raise DamagedError(
            f"{file}: expected JSON ({error}). The file is damaged; it holds only what was "
            "trained, so it can be deleted and is written anew.",
            path=file,
        ) from error
    if not isinstance(content, dict) or content.get("format") != _RUN_FORMAT:
        raise FormatError(f"{file}: expected the description of a run.", path=file)
    if not isinstance(content.get("version"), int):
        raise FormatError(f"{file}: expected a version, found none.", path=file)
    if content["version"] > _RUN_VERSION:
        raise VersionError(
            f"{file}: expected version {_RUN_VERSION} or older, found {content['version']}. "
            "A newer Rekindle wrote it: upgrade with `pip install -U rekindle`.",
            path=file,
        )
    return content


_ENTRY = {"name": str, "step": int, "created": str, "bytes": int, "metrics": dict}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of the cache that can be read; the rest is rebuilt from the manifests."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(entry, dict) and all(
            isinstance(entry.get(key), kind) for key, kind in _ENTRY.items()
        ):
            found.append(entry)
    return found


def _modified(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _entry(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.path.name,
        "step": checkpoint.step,
        "created": checkpoint.manifest.created,
        "elapsed_seconds": checkpoint.manifest.elapsed_seconds,
        "bytes": checkpoint.num_bytes,
        "metrics": checkpoint.manifest.metrics,
    }


def _entry_of(directory: Path) -> dict[str, Any]:
    try:
        return _entry(Checkpoint(directory, manifest.read(directory)))
    except RekindleError as error:
        return {"name": directory.name, "step": int(directory.name[5:]), "damaged": str(error)}

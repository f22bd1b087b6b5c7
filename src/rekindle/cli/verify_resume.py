"""`rekindle verify-resume`: does a user's own script resume exactly?"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import rekindle as rk
from rekindle import trail
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.cli import side_by_side
from rekindle.cli.child import Child
from rekindle.cli.console import Json, open_console, print_json
from rekindle.compare import Comparison
from rekindle.trail import Parting, Place

if TYPE_CHECKING:
    from rich.console import Console

DIFFERS = 1
_ATTEMPTS = 4
_POLL_SECONDS = 0.003
_TAIL = 3000
"""Characters of a failing script's errors that are shown."""


def verify_resume(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="The script as you start it, after `--`.", metavar="-- COMMAND"),
    ] = None,
    kill_at: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Kill once it has passed this step, or its first checkpoint where that is later.",
            show_default="a random moment past the first checkpoint",
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps between two checkpoints.", show_default="what the script says"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Values that may differ, such as 'progress/started'. May be given several times.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="An empty or new directory for both runs, which are kept there.",
            show_default="a temporary one, kept where they differ",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a script, run it again with a SIGKILL and a restart, and compare the two.

    The script needs no change: wherever it says that its run is, the run goes to another directory
    for this. When the two differ, the first component and the first step are named, and exit is 1.
    """
    if not command:
        raise typer.BadParameter("expected a command, as in: verify-resume -- python train.py")
    # JSON has stdout for itself; a person who waits for it still sees where things stand.
    console = open_console(sys.stderr if json else None)
    with _directory(root) as scratch:
        plan = Plan(tuple(command), scratch.path, kill_at, every, tuple(ignore or ()))
        story = perform(plan, console)
        scratch.is_kept = scratch.is_kept or not story.is_identical
        status = conclude(story, is_kept=scratch.is_kept, as_json=json)
    raise typer.Exit(status)


@dataclass
class _Scratch:
    path: Path
    is_kept: bool


@contextlib.contextmanager
def _directory(asked: Path | None) -> Iterator[_Scratch]:
    """A directory with nothing in it; what somebody keeps there is never touched."""
    if asked is not None:
        if asked.exists() and not (asked.is_dir() and not any(asked.iterdir())):
            raise rk.AlreadyExistsError(
                f"{asked}: expected a new or empty directory, found one that holds something, "
                "which is kept. Choose another --root.",
                path=asked,
            )
        yield _Scratch(asked.absolute(), is_kept=True)
        return
    scratch = _Scratch(Path(tempfile.mkdtemp(prefix="rekindle-verify-")), is_kept=False)
    try:
        yield scratch
    finally:
        if not scratch.is_kept:
            shutil.rmtree(scratch.path, ignore_errors=True)


@dataclass(frozen=True)
class Plan:
    """What is run, and how."""

    command: tuple[str, ...]
    directory: Path
    kill_at: int | None = None
    every: int | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One run of the script, uninterrupted and resumed, side by side."""

    name: str
    """Its directory as the script names it."""
    comparisons: list[Comparison]
    """Its last checkpoints, one comparison per component."""
    steps: tuple[int, int]
    """The steps of those."""
    resumed_from: int | None
    parting: Parting | None
    """Where the trails part."""
    first_places: dict[str, Place]
    """The first known difference of each component."""
    is_repeatable: bool = True
    """Whether two uninterrupted starts of the script were the same as far as that is known."""
    is_narrowed: bool = False
    """Whether every step from the last checkpoint that was equal was looked at."""

    @property
    def is_identical(self) -> bool:
        """Whether the last checkpoints and all steps on the way are the same."""
        return (
            self.num_values > 0
            and self.steps[0] == self.steps[1]
            and self.parting is None
            and all(found.is_identical for found in self.comparisons)
        )

    @property
    def num_values(self) -> int:
        """How many values were compared."""
        return sum(found.num_values for found in self.comparisons)


@dataclass(frozen=True)
class Story:
    """What happened."""

    plan: Plan
    killed_at: int
    """The last step that is known of the killed process."""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def is_identical(self) -> bool:
        """Whether all runs of the script ended as if nothing had happened."""
        return all(outcome.is_identical for outcome in self.outcomes)


# --------------------------------------------------------------------------- the script


class Script(Child):
    """The user's command in a process of its own, with its runs below a directory of ours.

    Args:
        plan: What to run.
        name: Which of its starts this is; its output goes into a file of this name.
        root: Where its runs go.
        dense_from: The step from which every part is looked at at every step.
    """

    def __init__(self, plan: Plan, name: str, root: Path, dense_from: int | None = None) -> None:
        self.name = name
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        variables = {
            trail.ROOT: str(root),
            trail.TRAIL: "1" if dense_from is None else f"dense:{dense_from}",
            trail.IGNORE: "\n".join(plan.ignore),
        }
        if plan.every is not None:
            variables[trail.EVERY] = str(plan.every)
        self._command = shlex.join(plan.command)
        self._errors = plan.directory / f"{name}.stderr.txt"
        try:
            with (
                (plan.directory / f"{name}.stdout.txt").open("wb") as out,
                self._errors.open("wb") as errors,
            ):
                super().__init__(plan.command, stdout=out, stderr=errors, variables=variables)
        except OSError as error:
            raise rk.NotFoundError(
                f"{self._command}: expected a command that can be started, found that it cannot "
                f"({error.strerror}: {error.filename})."
            ) from None

    @property
    def step(self) -> int:
        """The last step that its trails tell of."""
        return max((trail.last_step(run) or 0 for run in runs_of(self.root)), default=0)

    def follow(self, until: Callable[[int], bool] | None = None) -> Iterator[int]:
        """Its steps, until it ends, or until something is so, when it is killed.

        Raises:
            RekindleError: It failed.
        """
        while self._process.poll() is None:
            step = self.step
            yield step
            if until is not None and until(step):
                self.kill()
                return
            time.sleep(_POLL_SECONDS)
        if self._process.returncode != 0:
            raise self._failure()

    def _failure(self) -> rk.RekindleError:
        said = self._errors.read_text(errors="replace").strip()[-_TAIL:]
        return rk.RekindleError(
            f"{self._command}: expected it to finish, found that it failed with status "
            f"{self._process.returncode} ({self.name}, at step {self.step:,}). It said:\n"
            f"{said or '(nothing on its standard error)'}"
        )


def runs_of(root: Path) -> list[Path]:
    """The directories of the runs that a script has made."""
    # Not rglob: what a run is just writing goes away while one looks.
    return sorted(Path(found) for found, _, names in os.walk(root) if trail.NAME in names)


# --------------------------------------------------------------------------- what happens


def perform(plan: Plan, console: Console) -> Story:
    """Run the script uninterrupted; again, kill it, and run it once more; compare."""
    _introduce(plan, console)
    plan.directory.mkdir(parents=True, exist_ok=True)
    whole = plan.directory / "uninterrupted"
    with Script(plan, "uninterrupted", whole) as script:
        _show(console, "uninterrupted", script, script.follow())
    kill_at = _moment(plan, whole, script.step)
    other = plan.directory / "killed"
    killed_at = _kill(plan, other, kill_at, console)
    at_kill = _copy_runs(other, plan.directory / "at-the-kill")
    with Script(plan, "resumed", other) as script:
        _show(console, "started again", script, script.follow())
    names = [str(run.relative_to(whole)) for run in runs_of(whole)]
    _check_names(names, [str(run.relative_to(other)) for run in runs_of(other)])
    outcomes = []
    for name in names:
        outcome = compare(name, whole, other, at_kill, plan.ignore)
        if _can_be_narrowed(outcome):
            outcome = narrow(plan, outcome, whole, at_kill, console)
        outcomes.append(outcome)
    return Story(plan, killed_at, outcomes)


def _moment(plan: Plan, whole: Path, last: int) -> int:
    """The step to kill at, when the uninterrupted run has shown what steps there are."""
    command = shlex.join(plan.command)
    runs = runs_of(whole)
    if not runs:
        raise rk.NotFoundError(
            f"{command}: expected it to train in a rekindle.Run, or with "
            "rekindle.sb3.Checkpoint, found that it made no run."
        )
    steps = sorted(step for run in runs for step in rk.Run(run).steps)
    if not steps:
        raise rk.NotFoundError(
            f"{command}: expected it to make checkpoints, found none in {last:,} steps. "
            "Pass --every with a smaller number."
        )
    if steps[0] >= last:
        raise rk.NotFoundError(
            f"{command}: expected a checkpoint before its end, found that the first one is the "
            f"last, at step {steps[0]:,}. Pass --every with a smaller number."
        )
    if plan.kill_at is None:
        return steps[0] + int(random.random() * 0.9 * (last - steps[0]))
    if plan.kill_at >= last:
        raise rk.UnsupportedError(
            f"--kill-at {plan.kill_at}: expected a step before the script's end, found that it "
            f"ends at step {last:,}."
        )
    return max(plan.kill_at, steps[0])


def _kill(plan: Plan, root: Path, kill_at: int, console: Console) -> int:
    """Run the script and kill it; anew where it was quicker than the kill."""
    for _ in range(_ATTEMPTS):
        with Script(plan, "killed", root) as script:
            _show(console, "the same again", script, script.follow(_is_past(kill_at, root)))
        if script.was_killed:
            return script.step
        shutil.rmtree(root)
        if plan.kill_at is None:
            kill_at //= 2
    raise rk.RekindleError(
        f"{shlex.join(plan.command)}: expected to kill it at step {kill_at:,}, found that it ended "
        f"before that each time it was tried. Let it train for longer, or pass a smaller --kill-at."
    )


def _is_past(kill_at: int, root: Path) -> Callable[[int], bool]:
    return lambda step: step >= kill_at and any(rk.Run(run).steps for run in runs_of(root))


def _copy_runs(source: Path, destination: Path) -> Path:
    """The runs as they are now: what is never changed in place is linked, the rest copied."""

    def copy(one: str, two: str) -> None:
        is_final = "step_" in Path(one).parent.name or Path(one).suffix == ".safetensors"
        (os.link if is_final else shutil.copy2)(one, two)

    shutil.copytree(source, destination, copy_function=copy)
    return destination


def _check_names(whole: Sequence[str], other: Sequence[str]) -> None:
    if list(whole) != list(other):
        raise rk.MismatchError(
            f"expected the script to use the same run directories at every start, found "
            f"{', '.join(whole)} and then {', '.join(other)}. Name them without time or chance."
        )


def compare(name: str, whole: Path, other: Path, at_kill: Path, ignore: Sequence[str]) -> Outcome:
    """Hold the last checkpoints of one run, and its trails, side by side."""
    ends = rk.Run(whole / name).latest(), rk.Run(other / name).latest()
    expected = trail.merged(trail.read(whole / name))
    before_kill = trail.read(at_kill / name)
    killed = trail.merged(before_kill)
    resumed = trail.merged(trail.read(other / name)[len(before_kill) :])
    if resumed.resumed_from is None and rk.Run(at_kill / name).steps:
        raise rk.RekindleError(
            f"{name}: expected the script to resume its run when it was started again, found that "
            "it began anew. Call run.resume() after run.track(...)."
        )
    before = trail.parting(expected, killed)
    return Outcome(
        name,
        ends[0].compare(ends[1], ignore=(*WALL_CLOCK, *ignore)),
        (ends[0].step, ends[1].step),
        resumed.resumed_from,
        before or trail.parting(expected, resumed),
        trail.first_places(expected, killed if before else resumed),
        is_repeatable=before is None,
    )


def _can_be_narrowed(outcome: Outcome) -> bool:
    """Whether looking closer can tell more: not where it differs from where it was resumed."""
    parting = outcome.parting
    return (
        parting is not None
        and outcome.is_repeatable
        and outcome.resumed_from is not None
        and parting.place > Place(outcome.resumed_from, is_loop=True)
    )


def narrow(plan: Plan, outcome: Outcome, whole: Path, at_kill: Path, console: Console) -> Outcome:
    """Run both sides again as far as where they part, and look at every part at every step.

    The uninterrupted side starts from its beginning, because resuming is what is in doubt; the
    other from the checkpoint that it resumed from.
    """
    assert outcome.parting is not None
    assert outcome.resumed_from is not None
    last = outcome.parting.last_equal
    dense_from = outcome.resumed_from if last is None else max(outcome.resumed_from, last.step)
    end = outcome.parting.place.step
    roots = plan.directory / "closer-uninterrupted", plan.directory / "closer-resumed"
    _copy_runs(at_kill, roots[1])
    for run in runs_of(roots[1]):
        (run / trail.NAME).unlink()
    for root, label in zip(roots, ("closer, uninterrupted", "closer, resumed"), strict=True):
        with Script(plan, root.name, root, dense_from) as script:
            _show(console, label, script, script.follow(lambda step: step > end))
    before = trail.merged(trail.read(whole / outcome.name))
    expected, found = (trail.merged(trail.read(root / outcome.name)) for root in roots)
    again = trail.parting(before, expected)
    parting = again or trail.parting(expected, found)
    if parting is None:
        return outcome
    first = {**outcome.first_places, **trail.first_places(expected, found)}
    return Outcome(
        outcome.name,
        outcome.comparisons,
        outcome.steps,
        outcome.resumed_from,
        parting,
        trail.first_places(before, expected) if again else first,
        is_repeatable=again is None,
        is_narrowed=True,
    )


# --------------------------------------------------------------------------- what is shown


def _introduce(plan: Plan, console: Console) -> None:
    from rich.text import Text

    console.print(Text(f"$ {shlex.join(plan.command)}", "dim"), soft_wrap=True)


def _show(console: Console, label: str, script: Script, steps: Iterator[int]) -> None:
    """Follow one start of the script, in a terminal with its step, and say how it ended."""
    from rich.text import Text

    with console.status(label) as status:
        for step in steps:
            status.update(f"{label}, step {step:,}")
    ending = ("SIGKILL", "bold red") if script.was_killed else ("finished", "")
    console.print(Text.assemble(f"{label:<24}", ending, f" at step {script.step:,}"))


def conclude(story: Story, *, is_kept: bool, as_json: bool) -> int:
    """Print what happened and what it proves; returns the exit status."""
    if as_json:
        print_json(_told(story, is_kept=is_kept))
    else:
        _print(story, is_kept=is_kept)
    return 0 if story.is_identical else DIFFERS


def _told(story: Story, *, is_kept: bool) -> dict[str, Any]:
    return {
        "command": list(story.plan.command),
        "identical": story.is_identical,
        "signal": "SIGKILL",
        "killed_at": story.killed_at,
        "kept": str(story.plan.directory) if is_kept else None,
        "runs": [
            {
                "run": outcome.name,
                "identical": outcome.is_identical,
                "resumed_from": outcome.resumed_from,
                "last_steps": list(outcome.steps),
                "values": outcome.num_values,
                "repeatable": outcome.is_repeatable,
                "first_difference": None
                if outcome.parting is None
                else {
                    "step": outcome.parting.place.step,
                    "components": list(outcome.parting.components),
                    "narrowed": outcome.is_narrowed,
                    "meaning": meaning(outcome),
                },
                "components": [_told_component(outcome, item) for item in outcome.comparisons],
            }
            for outcome in story.outcomes
        ],
    }


def _told_component(outcome: Outcome, found: Comparison) -> dict[str, Any]:
    place = outcome.first_places.get(found.component)
    return {
        **side_by_side.as_data(found),
        "first_step": None if place is None else place.step,
        "differences": [asdict(difference) for difference in found.differences[:3]],
    }


def meaning(outcome: Outcome) -> str:
    """Where a run parted from the uninterrupted one, and what that says, for people."""
    parting = outcome.parting
    if parting is None:
        return (
            f"the last checkpoints are of step {outcome.steps[0]:,} and step {outcome.steps[1]:,}"
            if outcome.steps[0] != outcome.steps[1]
            else "the last checkpoints differ, and no step before them is known to"
        )
    first, *others = parting.components
    also = f" (and {', '.join(others)})" if others else ""
    where = f"{first}{also} at {parting.place}"
    if not outcome.is_repeatable:
        return (
            f"first in {where}, and not because of the kill: two uninterrupted starts of this "
            "script differ there as well. Seed everything that it draws from."
        )
    resumed_from = outcome.resumed_from or 0
    if parting.place <= Place(resumed_from, is_loop=True):
        return (
            f"first in {where}, which is where the run was resumed: it was not restored, or the "
            "script changed it after run.resume()."
        )
    roughly = "" if outcome.is_narrowed else " or shortly before"
    return (
        f"first in {where}{roughly}; it was resumed from step {resumed_from:,}. What is tracked "
        "was equal there, so it depends on something that is not tracked: a random generator of "
        "its own, a variable of the loop."
    )


def _print(story: Story, *, is_kept: bool) -> None:
    from rich.text import Text

    console = open_console()
    for outcome in story.outcomes:
        console.print()
        console.print(
            Text.assemble(
                (outcome.name, "bold"),
                f": killed at step {story.killed_at:,}, ",
                ("resumed", "bold green"),
                f" from the checkpoint of step {outcome.resumed_from or 0:,}",
            ),
            soft_wrap=True,
        )
        console.print()
        console.print(side_by_side.table(outcome.comparisons, outcome.first_places))
    console.print()
    if is_kept:
        console.print(Text(f"Both runs are kept: {story.plan.directory}"), soft_wrap=True)
    wrong = next((outcome for outcome in story.outcomes if not outcome.is_identical), None)
    if wrong is None:
        console.print(Text("identical", "bold green"))
        return
    for found in wrong.comparisons:
        if found.differences:
            console.print(Text(f"{found.differences[0]}", "dim"), soft_wrap=True)
    console.print(Text(f"differs: {meaning(wrong)}", "bold red"), soft_wrap=True)

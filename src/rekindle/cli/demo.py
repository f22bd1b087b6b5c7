"""`rekindle demo`: train, kill, resume, and compare with a run that was never interrupted."""

from __future__ import annotations

import random
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import rekindle as rk
from rekindle.cli import side_by_side
from rekindle.cli.console import Json, open_console, print_json
from rekindle.cli.display import Display, number, open_display
from rekindle.cli.proof import Proof, prove
from rekindle.cli.training import Training, command
from rekindle.report import plural

if TYPE_CHECKING:
    from rich.console import Console

DIFFERS = 1
_ATTEMPTS = 3


def demo(
    algo: Annotated[str, typer.Option(help="An algorithm of SB3 or sb3-contrib.")] = "PPO",
    env: Annotated[str, typer.Option(help="A Gymnasium environment.")] = "CartPole-v1",
    steps: Annotated[int, typer.Option(min=2, help="Environment steps to train for.")] = 30_000,
    every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    kill_at: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Kill at this step, or at the first checkpoint where that is later.",
            show_default="a random moment past the first checkpoint",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="An empty or new directory for both runs.", show_default="a new temporary one"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train an agent, kill it with SIGKILL, resume it, and prove that nothing changed.

    The same training is run twice: once to the end, and once killed and started again. Both ends
    are compared value by value. Exit 1 when anything differs.
    """
    if every >= steps:
        raise typer.BadParameter(f"--every {every} must be less than --steps {steps}.")
    if kill_at is not None and kill_at >= steps:
        raise typer.BadParameter(f"--kill-at {kill_at} must be less than --steps {steps}.")
    plan = Plan(algo, env, steps, every, seed, str(_directory(run)))
    # JSON has stdout for itself; a person who waits for it still sees where things stand.
    console = open_console(sys.stderr if json else None)
    story = perform(plan, kill_at, console)
    proof = prove(story.uninterrupted, story.resumed)
    raise typer.Exit(conclude(story, proof, as_json=json))


@dataclass(frozen=True)
class Plan:
    """What both runs train."""

    algorithm: str
    environment: str
    steps: int
    every: int
    seed: int
    directory: str

    def command(self, name: str) -> list[str]:
        """The command that trains one of the runs, at first and after a kill."""
        return command(
            algorithm=self.algorithm,
            environment=self.environment,
            steps=self.steps,
            every=self.every,
            seed=self.seed,
            run=self.run(name),
        )

    def run(self, name: str) -> Path:
        """The directory of one of the runs."""
        return Path(self.directory) / name


@dataclass(frozen=True)
class Killed:
    """How the second run was interrupted."""

    run: str
    step: int
    """The last step that is known of it."""
    mean_return: float | None
    resumed_from: int
    """The step of the checkpoint that the same command went on from."""
    resumed_return: float | None

    @property
    def num_lost(self) -> int:
        """Steps that were done again."""
        return self.step - self.resumed_from


@dataclass(frozen=True)
class Story:
    """What happened, and the two ends."""

    plan: Plan
    killed: Killed
    uninterrupted: rk.Checkpoint
    resumed: rk.Checkpoint
    seconds: float


def _directory(asked: Path | None) -> Path:
    """A directory with nothing in it; what somebody keeps there is never touched."""
    if asked is None:
        return Path(tempfile.mkdtemp(prefix="rekindle-demo-"))
    if asked.exists() and not (asked.is_dir() and not any(asked.iterdir())):
        raise rk.AlreadyExistsError(
            f"{asked}: expected a new or empty directory, found one that holds something, which is "
            "kept. Choose another --run.",
            path=asked,
        )
    return asked


# --------------------------------------------------------------------------- what happens


def perform(plan: Plan, kill_at: int | None, console: Console) -> Story:
    """Train uninterrupted; train again, kill it, and run the same command once more."""
    began = time.monotonic()
    _introduce(plan, console)
    with open_display(console, plan.steps) as display:
        with Training(plan.command("uninterrupted")) as training:
            _follow(display, "uninterrupted", training, training.follow())
        name, first = interrupt(plan, kill_at, display)
        kept = rk.Run(plan.run(name)).latest()
        with Training(plan.command(name)) as second:
            _follow(display, "the same again", second, second.follow())
    if second.resumed_from != kept.step:
        raise rk.RekindleError(
            f"{plan.run(name)}: expected the same command to resume from step {kept.step:,}, found "
            f"that it began from step {second.resumed_from or 0:,}.",
            path=plan.run(name),
        )
    # It may have saved a step that it had no time to tell of.
    step = max(first.step, kept.step)
    killed = Killed(name, step, first.mean_return, kept.step, kept.metrics.get("return"))
    ends = [rk.Run(plan.run(each)).latest() for each in ("uninterrupted", name)]
    return Story(plan, killed, ends[0], ends[1], time.monotonic() - began)


def interrupt(plan: Plan, kill_at: int | None, display: Display) -> tuple[str, Training]:
    """Train and kill; again, in a new directory, where the kill came too late."""
    for attempt in range(_ATTEMPTS):
        name = f"killed-{attempt + 1}" if attempt else "killed"
        run = rk.Run(plan.run(name))
        with Training(plan.command(name)) as training:
            _follow(display, "to be killed", training, _until_killed(training, run, plan, kill_at))
        if training.was_killed and run.latest().step < plan.steps:
            return name, training
        display.say(f"{name} was finished before it could be killed")
        if len(run) == 1:
            break
    raise rk.RekindleError(
        f"{plan.directory}: expected to kill training past its first checkpoint, found that it was "
        f"finished each time. Checkpoints are taken between rollouts, and a rollout of "
        f"{plan.algorithm} may be longer than {plan.every:,} steps. Ask for more --steps"
        f"{', or a smaller --kill-at' if kill_at else ''}.",
        path=plan.directory,
    )


def _until_killed(
    training: Training, run: rk.Run, plan: Plan, kill_at: int | None
) -> Iterator[int]:
    """Follow a training, and send SIGKILL past the first checkpoint and the chosen step."""
    chance = random.SystemRandom()
    target = kill_at or chance.randint(1, plan.steps - plan.every)
    for step in training.follow():
        yield step
        if step >= target and len(run):
            if kill_at is None:
                # Not only where a line was printed: during a save or an update just as well.
                time.sleep(chance.random() * training.seconds_per_step * plan.every / 2)
            training.kill()
            return


def _follow(display: Display, label: str, training: Training, steps: Iterator[int]) -> None:
    """Show one training from its start to its end."""
    display.begin(label, training.pid)
    for step in steps:
        display.advance(step, training.mean_return, training.resumed_from)
    display.end(
        training.step,
        training.mean_return,
        training.resumed_from,
        was_killed=training.was_killed,
    )


def _introduce(plan: Plan, console: Console) -> None:
    from rich.text import Text

    head = Text.assemble((f"{plan.algorithm} on {plan.environment}", "bold"))
    head.append(f", {plan.steps:,} steps, a checkpoint every {plan.every:,}, seed {plan.seed}")
    console.print(head, soft_wrap=True)
    shown = shlex.join(["rekindle", "train", *plan.command("")[5:-1], "..."])
    console.print(Text(f"$ {shown}", "dim"), soft_wrap=True)
    console.print()


# --------------------------------------------------------------------------- what it proves


def conclude(story: Story, proof: Proof, *, as_json: bool) -> int:
    """Print what happened and what it proves; returns the exit status."""
    if as_json:
        print_json(
            {
                **asdict(story.plan),
                "seconds": round(story.seconds, 1),
                "uninterrupted": str(story.uninterrupted.path),
                "resumed": str(story.resumed.path),
                "killed": {**asdict(story.killed), "signal": "SIGKILL",
                           "steps_lost": story.killed.num_lost},
                **proof.to_dict(),
            }
        )  # fmt: skip
    else:
        _print(story, proof)
    return 0 if proof.is_identical else DIFFERS


def _print(story: Story, proof: Proof) -> None:
    from rich.text import Text

    console = open_console()
    killed = story.killed
    console.print()
    console.print(
        Text.assemble(
            ("SIGKILL", "bold red"),
            f" landed at step {killed.step:,}, with a return of {number(killed.mean_return)}. The "
            "same command ",
            ("resumed", "bold green"),
            f" from the checkpoint of step {killed.resumed_from:,}, with a return of "
            f"{number(killed.resumed_return)}: {killed.num_lost:,} steps were lost and done "
            "again.",
        )
    )
    console.print()
    console.print(side_by_side.table(proof.comparisons))
    console.print(
        Text(
            f"{proof.num_ignored:,} wall-clock values (when an episode ended, how long things took)"
            " are not compared: they differ between any two runs.",
            "dim",
        )
    )
    console.print()
    _print_curves(console, story, proof)
    console.print(Text(f"Both runs are kept: rekindle ls {story.plan.directory}"), soft_wrap=True)
    console.print()
    _print_verdict(console, proof)


def _print_curves(console: Console, story: Story, proof: Proof) -> None:
    from rich.text import Text

    from rekindle.cli.plot import plot

    is_ascii = not console.encoding.lower().startswith("utf")
    line, mark = ("..", "o") if is_ascii else ("⣀⠤⠒", "●")
    console.print(
        Text.assemble(
            ("return", "bold"), "   ", (line, "cyan"), " uninterrupted   ",
            (mark, "magenta"), " killed and resumed",
        )
    )  # fmt: skip
    verticals = {"resumed": story.killed.resumed_from, "SIGKILL": story.killed.step}
    width = min(console.width, 90)
    console.print(plot(*proof.curves, verticals, width=width, is_ascii=is_ascii))
    console.print()


def _print_verdict(console: Console, proof: Proof) -> None:
    from rich.text import Text

    if proof.is_identical:
        console.print(Text("identical", "bold green"))
    elif proof.first is None:
        console.print(Text("differs: the checkpoints hold no values to compare", "bold red"))
    else:
        difference = proof.first.differences[0]
        count = sum(len(found.differences) for found in proof.comparisons)
        console.print(
            Text(f"differs: {plural(count, 'place')}, the first in {difference}", "bold red"),
            soft_wrap=True,
        )

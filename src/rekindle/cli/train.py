"""`rekindle train`: train with Stable-Baselines3; the same command again goes on."""

from __future__ import annotations

import ast
import json as json_text
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

import rekindle as rk
from rekindle.cli.console import Json, open_console, print_json
from rekindle.cli.display import Display, open_display

if TYPE_CHECKING:
    from rekindle.sb3_training import Standing


def train(
    algo: Annotated[str, typer.Option(help="An algorithm of SB3 or sb3-contrib.")] = "PPO",
    env: Annotated[str, typer.Option(help="A Gymnasium environment.")] = "CartPole-v1",
    steps: Annotated[int, typer.Option(min=1, help="Environment steps to train for.")] = 30_000,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder.",
            show_default="the one that this command began, or a new one named by algorithm, "
            "environment and time",
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Where folders go that are named so.")] = Path("runs"),
    new: Annotated[bool, typer.Option("--new", help="Start afresh.")] = False,
    save_model: Annotated[bool, typer.Option(help="Whether to save anything.")] = True,
    model_checkpoint_freq: Annotated[
        int, typer.Option(min=1, help="Steps between two checkpoints.")
    ] = 10_000,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep the newest so many.")] = None,
    keep_best: Annotated[
        int | None, typer.Option(min=1, help="Keep so many with the best return.")
    ] = None,
    load_model: Annotated[
        Path | None,
        typer.Option(help="Start from this checkpoint: ours, or a model's zip of SB3."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    n_envs: Annotated[int, typer.Option(min=1, help="Environments side by side.")] = 1,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Normalise observations and rewards.")
    ] = False,
    hyperparameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An argument of the algorithm, such as learning_rate=1e-3. May be given several "
            "times.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What may differ all the same, as a refusal names it. May be given several times.",
        ),
    ] = None,
    json: Json = False,
    json_lines: Annotated[
        bool,
        typer.Option("--json-lines", help="Print progress and the end as lines of JSON."),
    ] = False,
) -> None:
    """Train an agent of Stable-Baselines3. The same command again resumes it exactly.

    Beside each checkpoint stand its configuration, epochs, return, wall time and normaliser. A run
    that has another configuration is refused, with every difference; a finished one is left as it
    is.
    """
    keep = None
    if keep_last is not None or keep_best is not None:
        metric = None if keep_best is None else "return"
        keep = rk.Keep(last=keep_last, best=keep_best, metric=metric)
    asked: dict[str, Any] = {
        "steps": steps,
        "run": run,
        "root": root,
        "new": new,
        "save_model": save_model,
        "model_checkpoint_freq": model_checkpoint_freq,
        "keep": keep,
        "load_model": load_model,
        "seed": seed,
        "n_envs": n_envs,
        "normalize": normalize,
        "hyperparameters": parsed(hyperparameters or ()),
        "allow": tuple(allow or ()),
    }
    if json_lines:
        raise typer.Exit(_tell(algo, env, asked))
    # JSON has stdout for itself; a person who waits for it still sees where things stand.
    console = open_console(sys.stderr if json else None)
    console.print(_head(algo, env, asked), soft_wrap=True, markup=False)
    with open_display(console, steps) as display:
        report = rk.train(algo, env, **asked, on_progress=_Watch(display))
    if json:
        print_json(report.to_dict())
    else:
        console.print(f"{report}", soft_wrap=True, markup=False)


def parsed(given: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters as they were typed: JSON or Python's own notation, else text."""
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--set {item}: expected NAME=VALUE.")
        if name in found:
            raise typer.BadParameter(f"--set {item}: expected {name} once, found it twice.")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json_text.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _head(algorithm: str, environment: str, asked: dict[str, Any]) -> str:
    saves = f"a checkpoint every {asked['model_checkpoint_freq']:,}"
    return (
        f"{algorithm} on {environment}, {asked['steps']:,} steps, "
        f"{saves if asked['save_model'] else 'nothing saved'}, seed {asked['seed']}"
    )


class _Watch:
    """Shows where a training stands."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._is_begun = False

    def __call__(self, standing: Standing) -> None:
        if not self._is_begun:
            self._is_begun = True
            where = "not saved" if standing.run is None else str(standing.run)
            if standing.resumed_from is not None:
                where += f": resumed from step {standing.resumed_from:,}"
            self._display.say(where)
            self._display.begin("training")
        self._display.advance(standing.step, standing.mean_return, standing.resumed_from)


# --------------------------------------------------------------------------- for a program


def _tell(algorithm: str, environment: str, asked: dict[str, Any]) -> int:
    """Train, with a line of JSON for each step that is told of, for the end, or for an error."""

    def on_progress(standing: Standing) -> None:
        _line(
            {
                "step": standing.step,
                "return": standing.mean_return,
                "resumed_from": standing.resumed_from,
            }
        )

    try:
        report = rk.train(algorithm, environment, **asked, on_progress=on_progress)
    except rk.RekindleError as error:
        _line({"error": error.code, "message": str(error), "path": error.path, "key": error.key})
        return error.exit_code
    _line({"finished": True, **report.to_dict()})
    return 0


def _line(content: dict[str, Any]) -> None:
    print(msgspec.json.encode(content).decode(), flush=True)

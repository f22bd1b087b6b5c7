"""The application: its commands, and how any of them ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import rekindle as rk
from rekindle.cli.console import print_json
from rekindle.cli.convert import convert
from rekindle.cli.demo import demo
from rekindle.cli.diff import diff
from rekindle.cli.fork import fork
from rekindle.cli.ls import ls
from rekindle.cli.migrate import migrate
from rekindle.cli.pack import pack, unpack
from rekindle.cli.pin import pin
from rekindle.cli.prune import prune
from rekindle.cli.show import show
from rekindle.cli.train import train
from rekindle.cli.verify import verify
from rekindle.cli.verify_resume import verify_resume

USAGE = 2
INTERRUPTED = 130

# Not exported by name, and the one base of every mistake in what was typed.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="rekindle",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: [bold]rekindle demo[/bold]",
)
app.command(
    epilog="Examples: [bold]rekindle demo[/bold]\n\n"
    "[bold]rekindle demo --algo A2C --steps 20000 --kill-at 12345 --run runs/demo[/bold]"
)(demo)
app.command(
    epilog="Examples: [bold]rekindle train --algo SAC --env Pendulum-v1 --steps 20000[/bold]\n\n"
    "[bold]rekindle train --algo PPO --normalize --n-envs 4 --set learning_rate=1e-3[/bold]\n\n"
    "[bold]rekindle train --env Acrobot-v1 --load-model runs/ppo --run runs/more[/bold]"
)(train)
app.command(
    epilog="Examples: [bold]rekindle show runs/ppo[/bold]\n\n"
    "[bold]rekindle show runs/ppo/step_000010000 --all[/bold]\n\n"
    "[bold]rekindle show rl_model.zip[/bold]"
)(show)
app.command(
    epilog="Examples: [bold]rekindle ls runs/ppo[/bold]\n\n[bold]rekindle ls runs --json[/bold]"
)(ls)
app.command(
    epilog="Examples: [bold]rekindle verify runs/ppo[/bold]\n\n"
    "[bold]rekindle verify runs/ppo/step_000010000 && cp -r runs/ppo /backup[/bold]"
)(verify)
app.command(
    epilog="Examples: [bold]rekindle diff runs/ppo/step_000010000 runs/ppo[/bold]\n\n"
    "[bold]rekindle diff model.zip runs/ppo --all[/bold]"
)(diff)
app.command(
    epilog="Examples: [bold]rekindle convert model.zip agent --to rekindle[/bold]\n\n"
    "[bold]rekindle convert runs/sac sac.zip --to sb3[/bold]\n\n"
    "[bold]rekindle convert policy.pt policy --from torch[/bold]"
)(convert)
app.command(
    epilog="Examples: [bold]rekindle migrate old_runs[/bold]\n\n"
    "[bold]rekindle migrate old_runs new_runs[/bold]\n\n"
    "[bold]rekindle migrate model.zip policy.pt --in-place --no-backup[/bold]"
)(migrate)
app.command(
    epilog="Examples: [bold]rekindle pack runs/ppo/step_000010000 ppo.zip[/bold]\n\n"
    "[bold]rekindle pack runs/ppo newest.zip --overwrite[/bold]"
)(pack)
app.command(
    epilog="Examples: [bold]rekindle unpack ppo.zip ppo[/bold]\n\n"
    "[bold]rekindle unpack ppo.zip ppo --overwrite[/bold]"
)(unpack)
app.command(
    epilog="Examples: [bold]rekindle prune runs/ppo --keep-last 3 --keep-best 2 --dry-run[/bold]"
    "\n\n"
    "[bold]rekindle prune runs/ppo --keep-best 1 --metric loss --mode min --every 100000[/bold]\n\n"
    "[bold]rekindle prune runs/ppo --budget-gb 20[/bold]"
)(prune)
app.command(
    epilog="Examples: [bold]rekindle pin runs/ppo/step_000010000[/bold]\n\n"
    "[bold]rekindle pin runs/ppo/step_000010000 --unpin[/bold]"
)(pin)
app.command(
    epilog="Examples: [bold]rekindle fork runs/ppo/step_000010000 runs/ppo-again[/bold]\n\n"
    "[bold]rekindle fork runs/ppo runs/ppo-again[/bold]"
)(fork)
app.command(
    epilog="Examples: [bold]rekindle verify-resume -- python train.py --seed 3[/bold]\n\n"
    "[bold]rekindle verify-resume --kill-at 5000 --every 1000 -- python train.py[/bold]",
    context_settings={"allow_interspersed_args": False},
)(verify_resume)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rekindle {rk.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def rekindle(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Save, load and resume reinforcement-learning agents, exactly."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends with one message and a status of its own."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode, or a file name that is no text, must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(typed, prog_name="rekindle", standalone_mode=False)
        sys.stdout.flush()
    except rk.RekindleError as error:
        if "--json" in typed:
            told = {"error": error.code, "message": str(error), "path": error.path}
            print_json({**told, "key": error.key}, file=sys.stderr)
        else:
            print(f"rekindle: {error}", file=sys.stderr)
        return error.exit_code
    except UsageError as error:
        _tell_usage(error, as_json="--json" in typed)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has what they wanted; the flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def _tell_usage(error: Exception, *, as_json: bool) -> None:
    message = getattr(error, "format_message", error.__str__)()
    if as_json:
        print_json({"error": "usage", "message": message, "path": None, "key": None}, sys.stderr)
        return
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rekindle"
    print(f"rekindle: {message}\nSee `{command} --help`.", file=sys.stderr)

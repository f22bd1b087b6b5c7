"""Help, versions, mistakes, and how every command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import PROGRAM, rekindle, shell

import rekindle as rk
from rekindle.cli.app import app

COMMANDS = (
    "demo", "train", "show", "ls", "verify", "verify-resume", "pack", "unpack", "prune", "pin",
    "fork", "diff", "convert", "migrate",
)  # fmt: skip
READING = ("show", "ls", "verify")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with rk.Run(tmp_path / "run") as run:
        run.track(policy={"weight": np.ones(3)})
        run.save(step=10)
    return run.path


def test_these_are_the_commands() -> None:
    found = {str(command.callback.__name__) for command in app.registered_commands}
    assert {name.replace("_", "-") for name in found} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, command, "--help")
    assert result.status == 0
    assert f"rekindle {command}" in result.out.partition("Examples:")[2]
    assert "--json" in result.out


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys)
    assert result.status == 0
    assert all(command in result.out for command in COMMANDS)


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    result = rekindle(capsys, "--version")
    assert (result.status, result.out) == (0, f"rekindle {rk.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shw",), "Did you mean 'show'?"),
        (("show",), "path"),
        (("show", "x", "--foo"), "--foo"),
        (("demo", "--steps", "many"), "--steps"),
        (("demo", "--steps", "100", "--every", "100"), "--every 100 must be less"),
        (("demo", "--kill-at", "30000"), "--kill-at 30000 must be less"),
        (("prune", "run"), "expected at least one of --keep-last"),
        (("prune", "run", "--keep-last", "0"), "--keep-last"),
        (("prune", "run", "--keep-best", "1", "--mode", "most"), "--mode"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, *arguments)
    assert result.status == 2
    assert said in result.err
    assert "--help" in result.err
    assert not result.out
    told = json.loads(rekindle(capsys, *arguments, "--json").err)
    assert told["error"] == "usage"
    assert said in told["message"]


@pytest.mark.parametrize("command", READING)
def test_an_error_is_one_message_with_the_status_of_its_class(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing here"
    result = rekindle(capsys, command, missing)
    assert result.status == rk.NotFoundError.exit_code
    assert result.err.startswith(f"rekindle: {missing}: expected ")
    assert "Traceback" not in result.err
    assert not result.out


@pytest.mark.parametrize("command", READING)
def test_an_error_is_json_where_json_is_asked_for(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rekindle(capsys, command, tmp_path / "nothing", "--json")
    assert result.status == rk.NotFoundError.exit_code
    told = json.loads(result.err)
    assert set(told) == {"error", "message", "path", "key"}
    assert told["error"] == "not-found"
    assert told["path"] == str(tmp_path / "nothing")


def test_a_command_in_a_shell_ends_with_the_same_status(tmp_path: Path) -> None:
    result = shell("show", tmp_path / "nothing")
    assert result.status == rk.NotFoundError.exit_code
    assert result.err.count("\n") == 1


def test_reading_commands_load_no_framework(run: Path) -> None:
    code = (
        "import sys\nfrom rekindle.cli.app import run\n"
        f"codes = [run([command, {str(run)!r}]) for command in {READING!r}]\n"
        "names = ('torch', 'gymnasium', 'stable_baselines3', 'jax')\n"
        "print(codes, [name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] []"


def test_the_help_of_all_commands_needs_no_table_or_tree() -> None:
    code = "import sys, rekindle.cli.app; print([n for n in sys.modules if n.startswith('rich')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_ends_a_command_quietly(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    many = {f"array_{index:05d}": np.zeros(1) for index in range(3000)}
    rk.save(tmp_path / "x", policy=many)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "show", tmp_path / "x", "--all", *options],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_a_terminal_without_unicode_gets_plain_text(run: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "verify", run],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"intact" in done.stdout


def test_an_interrupted_demo_ends_quietly_and_takes_its_training_along(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*PROGRAM, "demo", "--run", tmp_path / "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    # The child of a pipe writes line by line when each is flushed.
    line = next(line for line in demo.stdout if "process" in line)
    child = int(line.rpartition(" ")[2])
    os.kill(child, 0)
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert err == ""
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)

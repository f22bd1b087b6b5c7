"""A training process is followed, killed, and its errors are passed on."""

from __future__ import annotations

import os
import sys

import pytest

import rekindle as rk
from rekindle.cli.training import Training, command

ENDLESS = """
import json, time
for step in range(1, 10_000):
    told = {"step": step, "return": step / 2, "resumed_from": 7}
    print(json.dumps(told), flush=True)
    time.sleep(0.001)
"""


def python(code: str) -> Training:
    return Training([sys.executable, "-c", code])


def test_its_lines_say_where_it_stands() -> None:
    code = 'print(\'{"step": 3, "return": null, "resumed_from": 2}\')'
    with python(code) as training:
        assert list(training.follow()) == [3]
    assert (training.step, training.mean_return, training.resumed_from) == (3, None, 2)
    assert not training.was_killed


def test_a_kill_ends_it_with_sigkill() -> None:
    with python(ENDLESS) as training:
        for step in training.follow():
            if step >= 20:
                training.kill()
                break
    assert training.was_killed
    assert 20 <= training.step < 9_999
    assert training.mean_return == training.step / 2
    assert training.seconds_per_step > 0
    with pytest.raises(ProcessLookupError):
        os.kill(training.pid, 0)


def test_one_that_had_ended_was_not_killed() -> None:
    with python('print(\'{"step": 3, "return": null, "resumed_from": null}\')') as training:
        list(training.follow())
        training.kill()
    assert not training.was_killed


def test_leaving_it_ends_it() -> None:
    with python(ENDLESS) as training:
        next(training.follow())
    with pytest.raises(ProcessLookupError):
        os.kill(training.pid, 0)


def test_its_error_is_raised_here_as_what_it_was_there() -> None:
    code = (
        "import json, sys\n"
        "print(json.dumps(dict(error='mismatch', message='no fit', path='runs/x', key='k')))\n"
        "sys.exit(8)"
    )
    with python(code) as training, pytest.raises(rk.MismatchError, match="no fit") as caught:
        list(training.follow())
    assert (caught.value.path, caught.value.key) == ("runs/x", "k")


def test_a_crash_is_told_with_what_it_printed() -> None:
    with python("raise ZeroDivisionError('oh')") as training:  # noqa: SIM117
        with pytest.raises(rk.RekindleError, match=r"(?s)status 1.*ZeroDivisionError: oh"):
            list(training.follow())


def test_what_is_not_a_whole_line_of_json_says_nothing() -> None:
    code = "print('hello'); print('[1]'); print('{\"step\": 5, \"ret', end='')"
    with python(code) as training:
        assert list(training.follow()) == []


def test_the_command_is_the_same_each_time() -> None:
    asked = {"algorithm": "A2C", "environment": "E", "steps": 9, "every": 2, "seed": 1, "run": "r"}
    first = command(**asked)  # type: ignore[arg-type]
    assert first == command(**asked)  # type: ignore[arg-type]
    assert first[1:4] == ["-m", "rekindle", "train"]
    assert first[-2:] == ["--run", "r"]

"""Being asked to end: a save at the next safe point, and a status that says so."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.little_loop import Loop, loop
from tests.no_handlers import no_handlers

import rekindle as rk
from rekindle.preemption import EXIT_CODE


@pytest.fixture(autouse=True)
def nobody_else_listens() -> Iterator[None]:
    with no_handlers():
        yield


TRAINING = """
import sys
import numpy as np
import rekindle as rk

rng = np.random.default_rng(3)
policy = {"weights": np.zeros(500)}
progress = rk.Progress()
run = rk.Run(sys.argv[1], every=10_000, background="background" in sys.argv)
run.track(policy=policy, rng=rng, progress=progress)
with run:
    run.resume()
    while progress.step < 30_000:
        run.checkpoint()
        policy["weights"] += rng.normal(size=500)
        progress.step += 1
        if progress.step % 100 == 0:
            print(progress.step, flush=True)
    run.save()
"""


@contextmanager
def training(path: Path, *options: str, program: str = TRAINING) -> Iterator[Any]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: Any, text: str) -> None:
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def heard(process: Any, text: str) -> None:
    """Read until the program has said so."""
    for line in process.stdout:
        if line == f"{text}\n":
            return
    raise AssertionError(f"it ended without saying {text}: {process.communicate()}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    with training(path) as process:
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0, (out, error)
    return path


@pytest.mark.parametrize(
    ("name", "options"), [("SIGTERM", ("background",)), ("SIGUSR1", ())], ids=["SIGTERM", "SIGUSR1"]
)
def test_a_run_that_is_asked_to_end_saves_and_goes_on_exactly_where_it_was(
    uninterrupted: Path, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    steps = [0]
    for asked_at in ("3700", "12300"):
        with training(tmp_path / "run", *options) as process:
            heard(process, asked_at)
            process.send_signal(getattr(signal, name))
            _, error = process.communicate(timeout=60)
        assert process.returncode == EXIT_CODE == 75
        steps.append(rk.Run(tmp_path / "run").steps[-1])
        assert f"{name}: saved at step {steps[-1]:,}" in error
    assert steps[1] >= 3700
    assert steps[2] >= 12_300
    assert any(step % 10_000 for step in steps), "not only where a save was due anyway"
    with training(tmp_path / "run", *options) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    expected, found = rk.Run(uninterrupted).latest(), rk.Run(tmp_path / "run").latest()
    assert found.step == 30_000
    assert all(item.is_identical for item in expected.compare(found))


IN_AN_ITERATION = """
import signal, sys
import rekindle as rk
progress = rk.Progress()
run = rk.Run(sys.argv[1], every=1_000)
run.track(progress=progress)
run.resume()
run.checkpoint()
print("iteration", flush=True)
while "again" not in sys.stdin.readline():
    print(signal.sigpending() or "noted", flush=True)
sys.stdin.readline()
"""


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with training(tmp_path / "run", program=IN_AN_ITERATION) as process:
        heard(process, "iteration")
        process.send_signal(signal.SIGTERM)
        say(process, "?")
        heard(process, "noted")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == -signal.SIGUSR1


def test_a_second_signal_ends_the_first_process_of_a_container_too(tmp_path: Path) -> None:
    """The kernel keeps it from signals that it has no handler for."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    program = """
import os, sys
import rekindle as rk
assert os.getpid() == 1
run = rk.Run(sys.argv[1], every=1_000)
run.track(progress=rk.Progress())
run.resume()
run.checkpoint()
os.kill(1, 15)
os.kill(1, 15)
"""
    if os.geteuid() != 0:
        command.insert(1, "--map-root-user")
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `unshare` here to make a first process with")
    if probe.returncode:
        pytest.skip(f"a space of process ids is not permitted here: {probe.stderr.strip()}")
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


# --------------------------------------------------------------------------- workers

WORKERS = """
import multiprocessing, os, signal, subprocess, sys
import rekindle as rk

def work(connection):
    connection.send((signal.getsignal(15) == signal.SIG_DFL, signal.pthread_sigmask(0, [])))
    connection.recv()

if __name__ == "__main__":
    run = rk.Run(sys.argv[1], every=1_000)
    run.track(progress=rk.Progress())
    run.resume()
    run.checkpoint()
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        worker = context.Process(target=work, args=(there,))
        worker.start()
        print(method, here.recv() == (True, set()), flush=True)
        worker.terminate()
        worker.join(20)
        print(worker.exitcode, flush=True)
    shown = subprocess.run(["grep", "SigBlk", "/proc/self/status"], capture_output=True, text=True)
    print(int(shown.stdout.split()[1], 16), flush=True)
    print(run.is_due(0), signal.pthread_sigmask(0, []))
"""


def test_workers_are_not_affected_and_end_when_they_are_told_to(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    *lines, blocked, parent = done.stdout.splitlines()
    assert lines == ["fork True", "-15", "spawn True", "-15", "forkserver True", "-15"], done.stderr
    assert blocked == "0"
    assert parent == "False set()", "and its parent was not asked to end"


def test_a_worker_does_not_take_part_in_what_its_parent_was_asked(tmp_path: Path) -> None:
    with loop(tmp_path / "run", every=10) as made:
        made.run.resume()
        made.run.checkpoint()
        os.kill(os.getpid(), signal.SIGTERM)
        child = os.fork()
        if child == 0:
            is_asked = made.run.is_due(0)
            os._exit(3 if is_asked else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        with pytest.raises(SystemExit):
            made.run.checkpoint()


# --------------------------------------------------------------------------- safe points


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def is_default(number: int = signal.SIGTERM) -> bool:
    return signal.getsignal(number) == signal.SIG_DFL


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_run_listens_from_its_first_safe_point_until_it_is_closed(path: Path) -> None:
    with loop(path, every=10) as made:
        made.run.resume()
        made.run.save()
        assert is_default(), "a program that never comes to a safe point ends as it always did"
        made.train(1)
        assert not is_default()
        assert not is_default(signal.SIGUSR1)
    assert is_default()
    with made.run:
        made.train(2)
        assert not is_default(), "also when it is opened again"


def test_the_save_is_made_at_the_safe_point_and_not_before(path: Path) -> None:
    with loop(path, every=10) as made:
        made.run.resume()
        made.train(3)
        ask()
        assert made.run.is_due(3)
        assert rk.Run(path).steps == []
        made.progress.step = 7
        with pytest.raises(SystemExit) as raised:
            made.run.checkpoint(metrics={"return": 0.5})
    assert raised.value.code == 75
    assert rk.Run(path).steps == [7]
    assert rk.Run(path).latest().metrics == {"return": 0.5}
    with loop(path, every=10) as again:
        report = again.run.resume()
        assert report is not None
        assert report.step == 7
        assert again.train(21) == [10, 20]


def test_a_run_without_a_cadence_saves_when_it_is_asked_to_end(path: Path) -> None:
    with loop(path) as made:
        made.run.resume()
        made.train(5)
        ask()
        with pytest.raises(SystemExit):
            made.run.checkpoint()
    assert rk.Run(path).steps == [5]


def test_what_is_saved_already_is_not_saved_again(path: Path) -> None:
    with loop(path, every=5, background=True) as made:
        made.run.resume()
        made.train(5)
        ask()
        with pytest.raises(SystemExit):
            made.run.checkpoint()
    assert rk.Run(path).steps == [5]
    assert len(rk.Run(path).entries()) == 1


def test_a_run_that_comes_to_no_safe_point_any_more_ends_when_it_is_closed(path: Path) -> None:
    made = Loop(path, every=10)
    made.run.resume()
    made.train(3)
    ask()
    with pytest.raises(SystemExit) as raised:
        made.run.close()
    assert raised.value.code == 75
    made.run.close()
    assert rk.Run(path).steps == []


def test_an_exception_comes_before_the_end_that_was_asked_for(path: Path) -> None:
    made = Loop(path, every=10)
    made.run.resume()
    made.train(3)
    ask()

    def fail() -> None:
        with made.run:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_default()


def test_a_save_that_fails_is_an_error_and_not_the_end_that_was_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Loop(path, every=10, on_low_disk="continue")
    made.run.resume()
    made.train(3)
    ask()
    monkeypatch.setattr("rekindle.files.free_bytes", lambda path: 0)

    def checkpoint() -> None:
        with made.run:
            made.run.checkpoint()

    with pytest.raises(rk.NoSpaceError):
        checkpoint()
    assert rk.Run(path).steps == []


def test_all_runs_of_a_process_are_told(tmp_path: Path) -> None:
    first, second = (Loop(tmp_path / name, every=10) for name in "ab")
    for made in (first, second):
        made.run.resume()
        made.train(3)
    ask()
    with pytest.raises(SystemExit):
        second.run.checkpoint()
    assert not is_default(), "the other still listens"
    with pytest.raises(SystemExit):
        first.run.checkpoint()
    assert first.run.steps == second.run.steps == [3]


# --------------------------------------------------------------------------- handlers of others


def test_handlers_of_others_are_left_alone(path: Path) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
    try:
        with loop(path, every=10) as made:
            made.run.resume()
            made.train(3)
            ask()
            assert not made.run.is_due(4)
            ask(signal.SIGUSR1)
            with pytest.raises(SystemExit):
                made.run.checkpoint()
        assert heard == ["theirs"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_of_others_are_called_where_listening_was_asked_for(path: Path) -> None:
    heard = []

    def theirs(number: int, frame: object) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with loop(path, every=10, preemption=True) as made:
            made.run.resume()
            made.train(3)
            ask()
            assert heard == [signal.SIGTERM]
            with pytest.raises(SystemExit):
                made.run.checkpoint()
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_was_set_meanwhile_stays(path: Path) -> None:
    def theirs(number: int, frame: object) -> None: ...

    with loop(path, every=10) as made:
        made.run.resume()
        made.train(3)
        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_an_ignored_signal_stays_ignored(path: Path) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with loop(path, every=10) as made:
            made.run.resume()
            made.train(3)
            ask(signal.SIGUSR1)
            assert not made.run.is_due(4)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_is_not_python_s_is_seen(path: Path) -> None:
    with (path.parent / "traces").open("w") as traces:
        faulthandler.register(signal.SIGUSR1, file=traces)
        try:
            with loop(path, every=10) as made:
                made.run.resume()
                made.train(3)
                ask(signal.SIGUSR1)
                assert not made.run.is_due(4)
            with loop(path, every=10, preemption=True) as made:
                made.run.resume()
                with pytest.raises(rk.UnsupportedError, match="faulthandler"):
                    made.train(1)
                assert is_default(), "and neither of the two is taken over"
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "test_a_handler_that_is_not_python_s_is_seen" in (path.parent / "traces").read_text()


def test_nothing_is_taken_over_where_nobody_wants_it(path: Path) -> None:
    with loop(path, every=10, preemption=False) as made:
        made.run.resume()
        made.train(3)
        assert is_default()


def test_another_thread_cannot_listen_and_says_so_where_it_was_asked_to(path: Path) -> None:
    failures: list[BaseException] = []

    def train(name: str, **options: Any) -> None:
        try:
            with loop(path / name, every=10, **options) as made:
                made.run.resume()
                made.train(3)
                assert is_default()
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    for arguments in ({"name": "a"}, {"name": "b", "preemption": True}):
        thread = threading.Thread(target=train, kwargs=arguments)
        thread.start()
        thread.join()
    (failure,) = failures
    assert isinstance(failure, rk.UnsupportedError)
    assert "the main thread" in str(failure)


DROPPED = """
import gc, os, signal, sys
import rekindle as rk
run = rk.Run(sys.argv[1], every=10)
run.track(progress=rk.Progress())
run.resume()
run.checkpoint()
assert signal.getsignal(15) != signal.SIG_DFL
del run
gc.collect()
os.kill(os.getpid(), 15)
print("still there")
"""


def test_a_run_that_nobody_holds_any_more_listens_no_more(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr


def test_closing_in_another_thread_leaves_the_process_to_its_signals(path: Path) -> None:
    program = DROPPED.replace("del run", "import threading; t = threading.Thread(target=run.close);"
                              " t.start(); t.join()")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
    gc.collect()

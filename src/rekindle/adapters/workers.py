"""Environments in processes of their own: SB3's `SubprocVecEnv`, Gymnasium's `AsyncVectorEnv`.

Each worker captures its environment, the flags of its loop and its global generators where they
live, and restores them there; neither library is changed. An order travels inside an ordinary
command, as an object that unpickles to a call of `_obey`: it runs while the worker receives the
command, finds the worker's loop on the stack, and answers through the loop's own pipe before the
loop answers the command. A restore is two orders, as everywhere: match, and apply when all fits.

Source: SB3 2.9 `common/vec_env/subproc_vec_env.py`, Gymnasium 1.4 `vector/async_vector_env.py`.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rekindle.adapters.attributes import Attributes
from rekindle.adapters.generators import GlobalRNG
from rekindle.codecs.arrays import Stored
from rekindle.errors import RekindleError, UnsupportedError
from rekindle.graph import Captured, Walk, join
from rekindle.match import Match
from rekindle.state import Document

_HARMLESS = "render_mode"
"""An attribute that every environment has, asked for by the command that carries an order."""


# --------------------------------------------------------------------------- in the worker


@dataclass(frozen=True)
class _Loop:
    """A library's loop of a worker: where it is, its pipe, and which variables are state."""

    module: str
    function: str
    pipe: str
    variables: tuple[str, ...]


_LOOPS = (
    _Loop(
        module="stable_baselines3.common.vec_env.subproc_vec_env",
        function="_worker",
        pipe="remote",
        variables=("reset_info",),
    ),
    _Loop(
        module="gymnasium.vector.async_vector_env",
        function="_async_worker",
        pipe="pipe",
        variables=("autoreset", "observation"),
    ),
)


@dataclass(frozen=True)
class _Paths:
    """Where a worker's part stands in a component."""

    component: str
    env: str
    rest: str

    @classmethod
    def of(cls, component: str, path: str, index: int) -> _Paths:
        """Of one worker of the vector environment at `path`."""
        return cls(component, join(path, f"envs.{index}"), join(path, f"workers.{index}"))


class _Worker:
    """The loop that this process runs, seen from a call made inside it."""

    def __init__(self, frame: FrameType, loop: _Loop) -> None:
        self._frame = frame
        self._loop = loop
        self.env = frame.f_locals["env"]
        self.pipe = frame.f_locals[loop.pipe]

    def live(self, paths: _Paths) -> dict[str, Any]:
        """What is captured of it, by path in the component."""
        found = self._frame.f_locals
        variables = {name: found[name] for name in self._loop.variables if name in found}
        rest = {"rng": GlobalRNG(), **variables}
        return {paths.env: self.env, paths.rest: rest}

    def set(self, values: dict[str, Any]) -> None:
        """Set variables of the loop."""
        known = {name: values[name] for name in self._loop.variables if name in values}
        self._frame.f_locals.update(known)
        if sys.version_info < (3, 13):
            # Before PEP 667, the dictionary is a copy that must be written back.
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(self._frame), ctypes.c_int(0))


def _find_worker() -> _Worker | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for loop in _LOOPS:
            where = (frame.f_globals.get("__name__"), frame.f_code.co_name)
            if where == (loop.module, loop.function):
                return _Worker(frame, loop)
        frame = frame.f_back
    return None


class _Excerpt:
    """A source with the part of one component that a worker needs."""

    def __init__(self, component: str, document: Any, arrays: dict[str, Stored]) -> None:
        self._document = Document(component, document)
        self._arrays = arrays

    def document(self, component: str) -> Document:
        """The only document."""
        return self._document

    def segmented(self, name: str) -> None:
        """None: every array is whole."""

    def array(self, name: str) -> Stored:
        """One of the arrays."""
        return self._arrays[name]


@dataclass
class _Answer:
    """What a worker says to an order."""

    content: Any = None
    refusals: tuple[tuple[str, str], ...] = ()
    """Values that cannot be data."""
    failure: str = ""
    """What went wrong, if something did."""


_matched: tuple[Match, dict[str, Any]] | None = None
"""In a worker: the restore that was matched and waits to be applied, and its outcomes."""


def _capture(worker: _Worker, paths: _Paths, exclude: tuple[str, ...]) -> Captured:
    return Walk().part(paths.component, worker.live(paths), exclude)


def _match(worker: _Worker, paths: _Paths, excerpt: Any, options: Any) -> Any:
    global _matched
    match = Match(_Excerpt(paths.component, *excerpt), {}, **options)
    outcomes = match.part(paths.component, worker.live(paths))
    if outcomes[paths.env] is not worker.env and not match.differences:
        match.differ(paths.env, "an environment that is restored in place", "one that is not")
    _matched = match, outcomes[paths.rest]
    return match.differences, match.notes, match.num_values


def _apply(worker: _Worker) -> None:
    global _matched
    assert _matched is not None, "a restore is matched before it is applied"
    match, variables = _matched
    match.apply()
    worker.set(variables)
    _matched = None


def _obey(act: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Run an order, and answer it; called by unpickling, inside the worker's loop.

    Returns:
        What the order becomes: the name that the command asks for.
    """
    worker = _find_worker()
    if worker is not None:
        try:
            answer = _Answer(act(worker, *arguments))
        except UnsupportedError as error:
            answer = _Answer(refusals=error.refusals, failure=str(error))
        except RekindleError as error:
            answer = _Answer(failure=str(error))
        except Exception:  # noqa: BLE001 - one that leaves here would end the worker
            answer = _Answer(failure=traceback.format_exc())
        worker.pipe.send(answer)
    return _HARMLESS


@dataclass(frozen=True)
class _Order:
    """Unpickles to a call of `_obey`."""

    act: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _obey, (self.act, self.arguments)


# --------------------------------------------------------------------------- in the parent


class Workers(Attributes):
    """A vector environment whose environments live in workers.

    Args:
        name: What the file calls it.
        skip: Attributes that are not state: processes, pipes.
        pipes: The attribute that holds the parent's ends of the pipes.
        command: Makes the command that carries an order.
    """

    def __init__(
        self, name: str, skip: frozenset[str], pipes: str, command: Callable[[_Order], Any]
    ) -> None:
        super().__init__(name, skip, strict=True)
        self._pipes = pipes
        self._command = command

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The vector environment's attributes, and what each worker captures."""
        reason = self.in_flight(live)
        if reason:
            walk.refuse(path, reason)
            return {}
        fields = super().capture(live, walk, path)
        num_workers = len(getattr(live, self._pipes))
        where = [_Paths.of(walk.component, path, index) for index in range(num_workers)]
        answers = self._ask(live, _capture, [(paths, walk.exclude) for paths in where])
        envs, workers = fields["state"]["envs"], fields["state"]["workers"] = [], []
        for paths, answer in zip(where, answers, strict=True):
            if answer.failure:
                _refuse(answer, walk, paths)
                continue
            nodes = walk.graft(answer.content)
            envs.append(nodes[paths.env])
            workers.append(nodes[paths.rest])
        return fields

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Match the attributes here and each worker's part there; apply both later."""
        reason = self.in_flight(live)
        if reason:
            match.differ(path, "a vector environment at rest", reason)
            return live
        state = dict(node["state"])
        envs, workers = state.pop("envs"), state.pop("workers")
        super().restore({"state": state}, live, match, path)
        num_workers = len(getattr(live, self._pipes))
        if num_workers != len(envs):
            match.differ(join(path, "envs"), f"{len(envs)} environments", str(num_workers))
            return live
        orders = []
        for index, pair in enumerate(zip(envs, workers, strict=True)):
            paths = _Paths.of(match.component, path, index)
            nodes = dict(zip((paths.env, paths.rest), pair, strict=True))
            orders.append((paths, match.excerpt(nodes), match.options))
        for differences, notes, num_values in self._answers(live, _match, orders, path):
            match.differences.extend(differences)
            match.notes.extend(notes)
            match.num_values += num_values
        match.later(functools.partial(self._apply, live, num_workers, path))
        return live

    def _apply(self, live: Any, num_workers: int, path: str) -> None:
        self._answers(live, _apply, [()] * num_workers, path)

    def in_flight(self, live: Any) -> str:
        """Why the workers cannot be asked now, and what to do; empty when they can."""
        raise NotImplementedError

    def _answers(self, live: Any, act: Any, orders: list[Any], path: str) -> list[Any]:
        answers = self._ask(live, act, orders)
        for index, answer in enumerate(answers):
            if answer.failure:
                raise UnsupportedError(f"{path}: worker {index}: {answer.failure}", key=path)
        return [answer.content for answer in answers]

    def _ask(self, live: Any, act: Any, orders: list[Any]) -> list[_Answer]:
        """Give each worker its order, all at once, and collect the answers."""
        pipes = getattr(live, self._pipes)
        for pipe, arguments in zip(pipes, orders, strict=True):
            _send(pipe, self._command(_Order(act, arguments)))
        return [_receive(pipe) for pipe in pipes]


def _refuse(answer: _Answer, walk: Walk, paths: _Paths) -> None:
    """Refuse what a worker refused, by the paths that it gave, or what it failed at."""
    for path, reason in answer.refusals:
        walk.refuse(path.partition("/")[2], reason)
    if not answer.refusals:
        walk.refuse(paths.env, answer.failure)


def _send(pipe: Any, command: Any) -> None:
    if pipe is not None:
        try:
            pipe.send(command)
        except OSError:
            return  # What is asked of a worker that has ended is answered by `_receive`.


def _receive(pipe: Any) -> _Answer:
    """An answer; the command that carried the order is answered behind it."""
    ended = _Answer(failure="the worker has ended; make the vector environment anew")
    if pipe is None:
        return ended
    try:
        first = pipe.recv()
        if isinstance(first, _Answer):
            pipe.recv()
            return first
    except (EOFError, OSError):
        return ended
    return _Answer(
        failure="the worker runs a loop that is neither Stable-Baselines3's nor Gymnasium's own; "
        "make the vector environment without worker="
    )


_IN_FLIGHT = (
    "a step is in flight in a vector environment: wait for it, with step_wait(), and save or "
    "restore between two steps"
)
_CLOSED = "a vector environment that is closed: save it before close()"


class _Subproc(Workers):
    """SB3's `SubprocVecEnv`."""

    def in_flight(self, live: Any) -> str:
        """Told by `waiting`."""
        return _CLOSED if live.closed else _IN_FLIGHT if live.waiting else ""


class _Async(Workers):
    """Gymnasium's `AsyncVectorEnv`."""

    def in_flight(self, live: Any) -> str:
        """Told by its state."""
        return _CLOSED if live.closed else _IN_FLIGHT if live._state.value != "default" else ""


SUBPROC = _Subproc(
    "workers.subproc",
    frozenset(("remotes", "work_remotes", "processes", "waiting", "closed", "class_attributes")),
    "remotes",
    lambda order: ("get_attr", order),
)
ASYNC = _Async(
    "workers.async",
    frozenset(("env_fns", "parent_pipes", "processes", "error_queue", "worker", "context", "daemon",
               "shared_memory", "_state", "closed")),
    "parent_pipes",
    lambda order: ("_call", (order, (), {})),
)  # fmt: skip

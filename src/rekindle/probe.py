"""Whether an environment, put back to where it was, does the same again.

A capture holds attributes. State that is none is missed by it without a word: a global of a module,
a variable of a class's closure, compiled code behind a number, the clock. So once in a run some
actions are taken in each environment, the captured state is put back, and the same actions are
taken again. That happens in a copy of the process (`rekindle.twin`): whatever state there is, and
wherever it is, is the copy's, and the run goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from rekindle import registry, spaces, twin
from rekindle.adapters.generators import GLOBAL, GlobalRNG
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.codecs import arrays
from rekindle.compare import compare
from rekindle.errors import MismatchError, UnsupportedError, listing
from rekindle.graph import Captured, Walk, attributes_of, join
from rekindle.match import Match
from rekindle.report import Shown, num_bytes, plural
from rekindle.state import Document

logger = logging.getLogger("rekindle")

PROBE = "REKINDLE_PROBE"
"""Variable that switches the probe of a run off: `0`."""

NUM_STEPS = 8
"""Actions that are taken in each environment, twice."""
LIMIT_SECONDS = 0.5
"""The most that a run waits for its probe."""
_LARGEST_BYTES = 64 << 20
"""Environments with more state than this are not tried: the copy would take too much memory."""
_STEP = "step"


@dataclass(frozen=True, repr=False)
class ProbeReport(Shown):
    """What acting twice in a copy of an environment has shown."""

    exact: tuple[str, ...]
    """Environments that did the same again, and for how many actions."""
    inexact: tuple[str, ...]
    """Environments that did not: what differed first, and what to do."""
    not_tried: tuple[str, ...]
    """Environments that could not be tried, and why."""

    @property
    def is_exact(self) -> bool:
        """Whether every environment was tried, and did the same again."""
        return not self.inexact and not self.not_tried

    def __bool__(self) -> bool:
        return self.is_exact

    def _text(self) -> str:
        return "\n".join((*self.exact, *self.inexact, *self.not_tried))


def probe_env(
    env: Any,
    *,
    num_steps: int = NUM_STEPS,
    make: Callable[[], Any] | None = None,
    exclude: Iterable[str] = (),
    limit_seconds: float = 10.0,
) -> ProbeReport:
    """Try whether `capture_env` and `restore_env` miss nothing of an environment.

    In a copy of this process, actions are taken in the environment as it stands, the captured state
    is put back, and the same actions are taken again. Observations, rewards, ends of episodes and
    the state after them are compared bit by bit. The global generators are put back too, as
    `rk.GlobalRNG` does. The environment itself, and everything else in this process, stays as it
    is. A `Run` does this once by itself, for each kind of environment that it tracks.

    In a test of your own: `assert rk.probe_env(env, make=make_env)`.

    Args:
        env: An environment that was reset; or a vector environment, of which one environment of
            each kind is tried.
        num_steps: How many actions are taken. What matters only after more of them is not found.
        make: Makes one like `env`. If given, the state is also put into a new one, as after a
            restart, and that must do the same.
        exclude: Paths to leave out of the capture, such as `"env/*.viewer"`.
        limit_seconds: After how long the copy is ended.

    Raises:
        UnsupportedError: `env` is no environment of Gymnasium's in this process, or there is no way
            to copy a process here.
    """
    if not twin.IS_POSSIBLE:
        raise UnsupportedError(
            "probe_env: expected a system that can copy a process, found one that cannot. "
            "Use Linux."
        )
    if num_steps < 1:
        raise UnsupportedError(f"num_steps={num_steps}: expected a number of actions, at least 1.")
    places = _find_environments({"env": env})
    if not places:
        raise UnsupportedError(
            "probe_env: expected an environment of Gymnasium's, or a vector of such environments "
            f"in this process, found {registry.label(type(env))}. Where environments live in "
            "worker processes, pass one that is made in the same way."
        )
    components = {"env": env, "rng": GlobalRNG()}
    plan = _Plan(components, places, tuple(exclude), num_steps, limit_seconds, make)
    findings = _probe(plan)

    def texts(*kinds: str) -> tuple[str, ...]:
        return tuple(finding.text for finding in findings if finding.kind in kinds)

    return ProbeReport(texts("exact"), texts("inexact"), texts("failed", "limited"))


class Probe:
    """The probe of one run: made once, at its first save or where it is resumed."""

    def __init__(self) -> None:
        self._notes: tuple[str, ...] | None = None

    def notes(self, components: Mapping[str, Any], exclude: Sequence[str] = ()) -> tuple[str, ...]:
        """Environments that are not exact, and those in which an error came up, in words.

        Nothing is said of one that takes too long, or too much memory, to be tried.

        Args:
            components: What the run tracks.
            exclude: Paths that its checkpoints leave out.
        """
        if self._notes is None:
            self._notes = self._probe(components, tuple(exclude))
        return self._notes

    def _probe(self, components: Mapping[str, Any], exclude: tuple[str, ...]) -> tuple[str, ...]:
        is_wanted = twin.IS_SAFE and os.environ.get(PROBE) != "0"
        places = _find_environments(components) if is_wanted else []
        if not places:
            return ()
        findings = _probe(_Plan(components, places, exclude, NUM_STEPS, LIMIT_SECONDS))
        for finding in findings:
            if finding.kind == "inexact":
                logger.warning("%s", finding.text)
        return tuple(finding.text for finding in findings if finding.kind in ("inexact", "failed"))


# --------------------------------------------------------------------------- environments


class _Place(msgspec.Struct, frozen=True):
    """Where an environment stands among components."""

    component: str
    path: str
    """From the component's root."""
    env: Any

    @property
    def name(self) -> str:
        """Its full path and what it is called, for messages."""
        full = f"{self.component}/{self.path}" if self.path else self.component
        inner = _layers(self.env)[-1]
        return f"{full} ({_spec_id(inner) or type(inner).__name__})"

    @property
    def kind(self) -> tuple[str, ...]:
        """What is equal in two environments that are made alike."""
        layers = _layers(self.env)
        return (_spec_id(layers[-1]), *(registry.label(type(layer)) for layer in layers))


def _layers(env: Any) -> list[Any]:
    """An environment's wrappers, and the innermost.

    None of its code is run: a wrapper that is asked for its spec keeps it, and is another then.
    """
    layers = [env]
    while _is_a(layers[-1], "gymnasium", "Wrapper"):
        layers.append(attributes_of(layers[-1])["env"])
    return layers


def _spec_id(innermost: Any) -> str:
    return str(getattr(attributes_of(innermost).get("spec"), "id", ""))


def _find_environments(components: Mapping[str, Any]) -> list[_Place]:
    """One environment of each kind that components hold in this process.

    They are found as components, in lists and dictionaries, and in the vector environments of
    Gymnasium and Stable-Baselines3; not in worker processes.
    """
    found: dict[tuple[str, ...], _Place] = {}
    for component, value in components.items():
        for path, env in _inside("", value):
            place = _Place(component, path, env)
            found.setdefault(place.kind, place)
    return list(found.values())


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _inside(join(path, str(index)), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(join(path, str(key)), item)
    elif _is_a(value, "gymnasium", "Env"):
        yield path, value
    elif _is_a(value, "gymnasium.vector", "AsyncVectorEnv"):
        return
    elif _is_a(value, "gymnasium.vector", "SyncVectorEnv"):
        yield from _inside(join(path, "envs"), value.envs)
    elif _is_a(value, "gymnasium.vector", "VectorWrapper"):
        yield from _inside(join(path, "env"), value.env)
    elif _is_a(value, "gymnasium.vector", "VectorEnv"):
        yield path, value
    elif _is_a(value, "stable_baselines3.common.vec_env", "VecEnvWrapper"):
        yield from _inside(join(path, "venv"), value.venv)
    elif _is_a(value, "stable_baselines3.common.vec_env", "DummyVecEnv"):
        yield from _inside(join(path, "envs"), value.envs)


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class of a framework; one that is not loaded has made no object."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


# --------------------------------------------------------------------------- seen from outside


class _Finding(msgspec.Struct):
    """What was found of one environment."""

    number: int
    """Of the environment; a later finding takes the place of an earlier one."""
    kind: str
    """`exact`, `inexact`, `failed` with an error, `limited` by time or memory."""
    text: str


class _Plan(msgspec.Struct, frozen=True):
    components: Mapping[str, Any]
    places: Sequence[_Place]
    exclude: tuple[str, ...]
    num_steps: int
    limit_seconds: float
    make: Callable[[], Any] | None = None

    def finding(self, number: int, kind: str, text: str) -> _Finding:
        """A finding of the environment of this number."""
        if kind in ("failed", "limited"):
            text = f"whether its capture is exact could not be tried: {text}"
        return _Finding(number, kind, f"{self.places[number].name}: {text}")


def _probe(plan: _Plan) -> list[_Finding]:
    """One finding for each environment."""

    def speak() -> Iterator[bytes]:
        return map(msgspec.json.encode, _findings(plan))

    try:
        heard = twin.listen(speak, limit_seconds=plan.limit_seconds)
    except OSError as error:
        heard = twin.Heard([], False, "")
        kind, reason = "limited", f"no copy of the process could be made ({error})"
    else:
        kind, reason = "limited", f"it took longer than {plan.limit_seconds:g} s"
        if heard.is_over:
            kind, reason = "failed", f"the copy of the process was ended by {heard.end}"
    found = {number: plan.finding(number, kind, reason) for number in range(len(plan.places))}
    for line in heard.lines:
        finding = msgspec.json.decode(line, type=_Finding)
        found[finding.number] = finding
    return list(found.values())


# --------------------------------------------------------------------------- in the copy


def _findings(plan: _Plan) -> Iterator[_Finding]:
    """Try each environment.

    What else is tracked may be what one depends on, by another way than an attribute; so it is put
    back as well where an environment seems not to be exact.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # a twin has no other threads, and torch would wait for them
    for number in range(len(plan.places)):
        finding = _finding(plan, number, is_wide=False)
        yield finding
        if finding.kind == "inexact" and _finding(plan, number, is_wide=True).kind == "exact":
            yield plan.finding(number, "exact", "the same again, with all that is tracked")


def _finding(plan: _Plan, number: int, *, is_wide: bool) -> _Finding:
    try:
        return _Trial(plan, number, is_wide=is_wide).finding()
    except MismatchError as error:
        reason = f"its state does not fit it any more: {listing(error.differences, 1).strip()}"
    except Exception as error:  # noqa: BLE001 - anyone's code runs here; what it raises is told
        reason = _said(error)
    return plan.finding(number, "failed", reason)


class _Trial:
    """One environment of the copied process, to which anything may be done."""

    def __init__(self, plan: _Plan, number: int, *, is_wide: bool) -> None:
        self._plan = plan
        self._number = number
        self._place = plan.places[number]
        names = {self._place.component}
        for name, component in plan.components.items():
            adapter = registry.adapter_for(type(component))
            if is_wide or (adapter is not None and adapter.name.startswith("generators.")):
                names.add(name)
        self._captured = self._capture(names)
        self._live = {name: plan.components[name] for name in self._captured.documents}

    def finding(self) -> _Finding:
        """Act, put back, act again, and compare."""
        size = sum(array.raw.nbytes for held in self._captured.arrays.values()
                   for array in held.values())  # fmt: skip
        if size > _LARGEST_BYTES:
            return self._found("limited", f"its state of {num_bytes(size)} is too large")
        start = _State(self._captured)
        globals_before = _capture_globals()
        first = self._play(self._place.env, self._plan.num_steps, self._seconds())
        if "error" in first[0].record:
            return self._found("failed", f"its first action raised {first[0].record['error']}")
        has_drawn = not _capture_globals().is_equal(globals_before)
        end = self._state()
        self._restore(start, self._live)
        second = self._play(self._place.env, len(first))
        difference = _difference(first, second, end, self._state())
        how = "put back and acted in again"
        if difference is None and self._plan.make is not None:
            how = "put back into a new environment"
            difference = self._play_in_a_new_one(self._plan.make(), start, first)
        if difference is None:
            return self._found("exact", f"the same again for {plural(len(first), 'action')}")
        remedy = difference.remedy(draws_untracked=has_drawn and not start.holds_globals())
        text = f"its capture is not exact: {how}, {difference.text}. {remedy}"
        return self._found("inexact", text)

    def _found(self, kind: str, text: str) -> _Finding:
        return self._plan.finding(self._number, kind, text)

    def _seconds(self) -> float:
        """How long the actions may take the first time, so that all fits into the limit."""
        return self._plan.limit_seconds / 8 / len(self._plan.places)

    def _play_in_a_new_one(
        self, new: Any, start: _State, first: list[_Taken]
    ) -> _Difference | None:
        envs = dict(_inside("", new))
        if self._place.path not in envs:
            raise UnsupportedError("make() gave something else than an environment like this one")
        self._restore(start, {**self._live, self._place.component: new})
        return _difference(first, self._play(envs[self._place.path], len(first)))

    def _play(self, env: Any, count: int, seconds: float = float("inf")) -> list[_Taken]:
        """Take actions, at least one, until one raises or the time is over.

        They come from a generator of their own, and are the same at every call.
        """
        space = spaces.build(spaces.describe(env.action_space))
        space.seed(0)
        began = time.monotonic()
        found: list[_Taken] = []
        for _ in range(count):
            found.append(_Taken(env, space.sample()))
            if "error" in found[-1].record or time.monotonic() - began > seconds:
                break
        return found

    def _capture(self, names: set[str]) -> Captured:
        """Capture components, and those whose roots they refer to."""
        components = self._plan.components
        while True:
            asked = {name: components[name] for name in components if name in names}
            captured = Walk(self._plan.exclude).capture(asked, among=components)
            missing = {
                node["$ref"].partition("/")[0].partition("#")[0]
                for node in _nodes(captured.documents)
                if "$ref" in node
            } - names
            if not missing:
                return captured
            names = names | missing

    def _state(self) -> _State:
        """How it stands now."""
        return _State(Walk(self._plan.exclude).capture(self._live, among=self._plan.components))

    def _restore(self, start: _State, live: Mapping[str, Any]) -> None:
        match = Match(start, live, start.classes())
        match.run()
        if match.differences:
            raise MismatchError("the state does not fit", differences=match.differences)
        match.apply()


def _capture_globals() -> _State:
    return _State(Walk().capture({"rng": GlobalRNG()}))


class _State:
    """What was captured, with arrays of its own: a source to restore from and to compare with."""

    def __init__(self, captured: Captured) -> None:
        self.documents = captured.documents
        self._arrays = {
            f"{component}/{name}": arrays.Stored(array.code, np.array(array.raw, order="C"))
            for component, held in captured.arrays.items()
            for name, array in held.items()
        }

    def segmented(self, name: str) -> None:
        """None: no array is stored in parts."""

    def document(self, component: str) -> Document:
        """The document of one component."""
        return Document(component, self.documents[component])

    def array(self, name: str) -> arrays.Stored:
        """A stored array by its full name."""
        return self._arrays[name]

    def is_equal(self, other: _State) -> bool:
        """Whether nothing at all differs; much quicker than to compare."""
        if msgspec.json.encode(self.documents) != msgspec.json.encode(other.documents):
            return False
        return self._arrays.keys() == other._arrays.keys() and all(
            array.code == other._arrays[name].code
            and array.raw.shape == other._arrays[name].raw.shape
            and array.raw.tobytes() == other._arrays[name].raw.tobytes()
            for name, array in self._arrays.items()
        )

    def classes(self) -> Iterator[type]:
        """Classes of the program's objects in it, which may have to be made again."""
        for name in {node["$object"] for node in _nodes(self.documents) if "$object" in node}:
            module, _, qualified = name.partition(":")
            found: Any = sys.modules.get(module)
            for part in qualified.split("."):
                found = getattr(found, part, None)
            if isinstance(found, type):
                yield found

    def holds_globals(self) -> bool:
        """Whether the global generators are part of it."""
        return any(node.get("$adapter") == GLOBAL.name for node in _nodes(self.documents))


def _nodes(documents: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node that is an object."""
    pending: list[Any] = list(documents.values())
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


# --------------------------------------------------------------------------- what actions gave


class _Taken:
    """What one action gave, as it was then: environments use their arrays again."""

    def __init__(self, env: Any, action: Any) -> None:
        self.record = _take(env, action)
        self.state = _State(Walk().capture({_STEP: self.record}))


def _take(env: Any, action: Any) -> dict[str, Any]:
    try:
        observation, reward, terminated, truncated, _ = env.step(action)
        record = {
            "observation": observation, "reward": reward,
            "terminated": terminated, "truncated": truncated,
        }  # fmt: skip
        if not hasattr(env, "num_envs") and (terminated or truncated):
            record["observation of the reset"] = env.reset()[0]
    except Exception as error:  # noqa: BLE001 - what an environment raises is an outcome too
        return {"error": _said(error)}
    return record


def _said(error: BaseException) -> str:
    """An error in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


class _Difference(msgspec.Struct, frozen=True):
    text: str
    is_of_the_state: bool = False

    def remedy(self, *, draws_untracked: bool) -> str:
        """What to do about it."""
        if draws_untracked:
            return (
                "It draws from the global generators, which are not tracked: "
                "track rng=rk.GlobalRNG()."
            )
        if self.is_of_the_state:
            return "If that does not matter, leave it out with exclude=[this path]."
        return (
            "What decides it is none of its attributes: a global of a module, an attribute of a "
            "class, a variable of a closure, compiled code, the clock. Keep it in an attribute, or "
            "give the environment get_state and set_state as rk.Stateful describes."
        )


def _difference(
    first: list[_Taken],
    second: list[_Taken],
    state: _State | None = None,
    state_again: _State | None = None,
) -> _Difference | None:
    """The first output that differs, or the first place in the state after them."""
    for number, (one, two) in enumerate(zip(first, second, strict=False), 1):
        errors = [taken.record.get("error") for taken in (one, two)]
        if errors[0] != errors[1]:
            said = [error or "a result" for error in errors]
            return _Difference(f"action {number} gave {said[1]} instead of {said[0]}")
        found = compare(_STEP, one.state, two.state).differences
        if found:
            return _Difference(
                f"the {found[0].key.partition('/')[2]} after action {number} differs"
            )
    if state is None or state_again is None or state.is_equal(state_again):
        return None
    for component in state.documents:
        found = compare(component, state, state_again, ignore=WALL_CLOCK).differences
        if found:
            count = plural(len(first), "action")
            return _Difference(f"{count} gave the same, but left {found[0].key} different", True)
    return None

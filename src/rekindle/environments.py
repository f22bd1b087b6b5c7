"""The state of an environment as plain data, in memory; and how a custom one declares its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from rekindle.codecs import arrays
from rekindle.errors import FormatError, MismatchError, RekindleError, listing
from rekindle.graph import Walk
from rekindle.match import Match
from rekindle.report import Restored, RestoreReport, plural
from rekindle.state import Document

_FORMAT = "rekindle.env"
_VERSION = 1
_ENV = "env"


@runtime_checkable
class Stateful(Protocol):
    """An environment, or any object, that says itself what its state is.

    Derive from it, or set `rekindle_state = True` on the class; without that mark, methods of these
    names are not called, because many classes have a `set_state` of another meaning (`MujocoEnv`
    takes positions and velocities). What is marked is captured by `get_state` alone: nothing else
    of the object is looked at, so a subclass that adds state extends both methods.
    """

    rekindle_state: ClassVar[bool] = True

    def get_state(self) -> Any:
        """Everything that decides what comes next, as plain data.

        Returns:
            Numbers, text, bytes, lists, tuples, dicts, sets and numpy arrays.
        """
        ...

    def set_state(self, state: Any) -> None:
        """Go on from a state that `get_state` returned, in this process or in another.

        Args:
            state: An equal value, which the object may keep.
        """
        ...


def capture_env(env: Any, *, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """The whole state of an environment, wrappers and generators included, as plain data.

    The environment may go on; the state stays as it is, and can be restored any number of times, or
    saved: `rk.save(path, env_state=state)`.
    State that is in no attribute is missed; `rk.probe_env(env)` finds out.

    Args:
        env: An environment, a stack of wrappers, or a vector environment.
        exclude: Paths to leave out, such as `"env/*.viewer"`.

    Raises:
        UnsupportedError: Part of it cannot be data; the error lists every such place.
    """
    captured = Walk(exclude).capture({_ENV: env})
    stored = captured.arrays[_ENV]
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "document": captured.documents[_ENV],
        "arrays": {name: np.array(array.raw, order="C") for name, array in stored.items()},
        "codes": {name: array.code for name, array in stored.items()},
        "adapter": captured.adapters[_ENV],
        "excluded": captured.excluded,
        "notes": captured.notes,
    }


def restore_env(env: Any, state: Mapping[str, Any]) -> RestoreReport:
    """Put a state that `capture_env` returned into an environment, in place.

    Args:
        env: An environment built as the captured one was; where it stands does not matter.
        state: The state, which stays as it is.

    Returns:
        What was restored.

    Raises:
        MismatchError: The environment is another one; the error lists every difference, and nothing
            was changed.
        FormatError: `state` is not what `capture_env` returns.
    """
    found = (state.get("format"), state.get("version")) if isinstance(state, Mapping) else state
    if found != (_FORMAT, _VERSION):
        raise FormatError(
            f"restore_env: expected a state that capture_env returned, version {_VERSION}, found "
            f"{found!r:.60}."
        )
    try:
        match = Match(_Memory(state), {_ENV: env})
        match.run()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, RekindleError):
            raise
        raise FormatError(
            f"restore_env: expected a state as capture_env returned it, found one that breaks its "
            f"rules ({type(error).__name__}: {error})."
        ) from error
    if match.differences:
        raise MismatchError(
            "restore_env: the state does not fit this environment; nothing was changed. "
            f"{plural(len(match.differences), 'difference')}:\n{listing(match.differences)}\n"
            "Build the environment as the captured one was built.",
            key=match.differences[0].key,
            differences=match.differences,
        )
    match.apply()
    num_bytes = sum(array.nbytes for array in state["arrays"].values())
    return RestoreReport(
        path="the environment's state",
        step=0,
        restored=(Restored(_ENV, state["adapter"], len(state["arrays"]), num_bytes),),
        excluded=tuple(state["excluded"]),
        notes=(*state["notes"], *match.notes),
    )


class _Memory:
    """A source over a state in memory."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._document = Document(_ENV, state["document"])
        self._arrays = state["arrays"]
        self._codes = state["codes"]

    def document(self, component: str) -> Document:
        """The only document."""
        return self._document

    def segmented(self, name: str) -> None:
        """None: every array is whole."""

    def array(self, name: str) -> arrays.Stored:
        """An array by its full name."""
        short = name.partition("/")[2]
        return arrays.Stored(self._codes[short], self._arrays[short])

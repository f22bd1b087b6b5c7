"""What stands at a place: what is live there now, and what will be there after a restore."""

from __future__ import annotations

from typing import Any

from rekindle.registry import label


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()
"""Stands where the live side has nothing."""


class Pending:
    """An immutable value that is still being built; settled when the second pass runs."""

    def __init__(self, token: str) -> None:
        self.token = token


def present(outcomes: list[Any]) -> list[Any]:
    """Those that there are."""
    return [outcome for outcome in outcomes if outcome is not MISSING]


def describe(live: Any) -> str:
    """A live value in words, for differences."""
    if live is MISSING:
        return "nothing"
    if live is None:
        return "None"
    if isinstance(live, type):
        return f"the class {label(live)}"
    return f"an object of class {label(type(live))}"


def is_same_value(live: Any, outcome: Any) -> bool:
    """Whether a live value can stay for an outcome: the same one, or an equal plain value."""
    if live is outcome:
        return True
    cls = type(live)
    if cls is not type(outcome) or cls not in (int, float, str, bytes):
        return False
    return live == outcome and (cls is not float or bool(live) or repr(live) == repr(outcome))

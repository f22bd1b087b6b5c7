"""Commits in the background that wait until a test lets them go."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rekindle import writer


def held(patch: pytest.MonkeyPatch, seconds: float = 30) -> threading.Event:
    """Hold every commit from now on, until the event is set.

    Args:
        patch: Takes it back at the end of the test.
        seconds: How long a commit waits before it fails instead.
    """
    commit, gate = writer.commit, threading.Event()

    def waiting(*arguments: Any, **options: Any) -> Any:
        assert gate.wait(seconds), "nobody let the commit go"
        return commit(*arguments, **options)

    patch.setattr(writer, "commit", waiting)
    return gate

"""Things that belong to the process, not to the training: kept as they are, known by name only."""

from __future__ import annotations

import sys
from typing import Any

from rekindle.graph import Walk
from rekindle.protocols import Adapter
from rekindle.registry import label


class External(Adapter):
    """Loggers, windows, caches: the live object stays; the file holds its class's name."""

    name = "external.object"
    is_value = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The name of its class."""
        return {"$external": label(type(live))}


class Lock(External):
    """A lock that nobody holds."""

    name = "external.lock"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The name of its class; a held lock is refused."""
        if live.acquire(blocking=False):
            owned = hasattr(live, "_is_owned") and _depth(live) > 1
            live.release()
        else:
            owned = True
        if owned:
            walk.refuse(path, f"{label(type(live))}, a lock that is held")
        return super().capture(live, walk, path)


def _depth(lock: Any) -> int:
    count = repr(lock).partition("count=")[2].partition(" ")[0]
    return int(count) if count.isdigit() else 1


class Stream(External):
    """The standard streams; any other open file carries a position and is refused."""

    name = "external.stream"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The name of its class."""
        standard = (
            sys.stdin,
            sys.stdout,
            sys.stderr,
            sys.__stdout__,
            sys.__stderr__,
            sys.__stdin__,
        )
        if not any(live is stream for stream in standard) and not live.closed:
            walk.refuse(
                path,
                f"{label(type(live))}, an open file: its position cannot be put back",
            )
        return super().capture(live, walk, path)


EXTERNAL = External()
LOCK = Lock()
STREAM = Stream()

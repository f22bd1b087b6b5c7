"""`rk.RingBuffer`: the arrays of a ring, stored by rows, and how many rows were added."""

from __future__ import annotations

from typing import Any

from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter
from rekindle.rings import RingBuffer


class Buffer(Adapter):
    """A declared ring buffer."""

    name = "ring.buffer"

    def capture(self, live: RingBuffer, walk: Walk, path: str) -> dict[str, Any]:
        """The arrays; the number of rows added, where the ring itself counts them."""
        ring = live.ring()
        own = {name: array for name, array in live.arrays.items() if name not in live.changing}
        walk.rows(own.values(), ring)
        walk.rows([live.arrays[name] for name in live.changing], ring, is_changing=True)
        state: dict[str, Any] = {"arrays": walk.children(live.arrays, path)}
        if live.count is None:
            state["added"] = live.added
        return {"state": state}

    def restore(self, node: dict[str, Any], live: RingBuffer, match: Match, path: str) -> Any:
        """Read the rows into the live arrays."""
        state = node["state"]
        nodes = {key: child for key, child in state["arrays"].items() if key != "$id"}
        if set(nodes) != set(live.arrays):
            match.differ(path, f"the arrays {', '.join(nodes)}", ", ".join(live.arrays))
            return live
        for name, child in nodes.items():
            match.node(child, live.arrays[name], join(path, name), strict=True)
        if ("added" in state) != (live.count is None):
            which = "the ring counts" if "added" in state else "a function of the program counts"
            match.differ(join(path, "added"), f"rows that {which}", "that it does not")
        elif "added" in state:
            match.later(lambda: setattr(live, "added", state["added"]))
        return live


BUFFER = Buffer()

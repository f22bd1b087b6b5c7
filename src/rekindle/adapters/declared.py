"""Objects that say themselves what their state is, by `get_state` and `set_state`."""

from __future__ import annotations

import copy
from typing import Any

from rekindle.codecs import values
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter
from rekindle.registry import label
from rekindle.state import tag_of

_CONTAINERS = frozenset(("$list", "$tuple", "$set", "$frozenset", "$deque", "$dict", "$bytearray",
                         "$slice"))  # fmt: skip


class Declared(Adapter):
    """An object of a class with `rekindle_state = True`; see `rekindle.Stateful`."""

    name = "declared.state"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """What `get_state()` returns, which must be plain data."""
        missing = [name for name in ("get_state", "set_state") if not hasattr(live, name)]
        if missing:
            walk.refuse(
                path,
                f"{label(type(live))} has rekindle_state = True but no {' and no '.join(missing)}; "
                "write it, or take the mark away to have its attributes captured",
            )
            return {}
        node = walk.whole({"get_state()": live.get_state()}, path)["get_state()"]
        kind = _not_plain(node)
        if kind is not None:
            walk.refuse(
                join(path, "get_state()"),
                f"{kind}, returned by get_state() of {label(type(live))}: it must return plain "
                "data, of numbers, text, bytes, lists, tuples, dicts, sets and numpy arrays",
            )
        return {"state": node}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Give `set_state` a copy of its own."""
        state = copy.deepcopy(match.value(node["state"]))
        match.later(lambda: live.set_state(state))
        return live


def _not_plain(node: Any) -> str | None:
    """What kind of thing that is not plain data a node holds, or None."""
    pending = [node]
    known: set[str] = set()
    referred: set[str] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            tag = tag_of(node)
            if "$id" in node:
                known.add(str(node["$id"]))
            if tag in ("$array", "$view") and "library" not in node:
                continue
            if tag is None:
                pending.extend(value for key, value in node.items() if key != "$id")
            elif tag in _CONTAINERS:
                pending.append(node[tag])
            elif tag == "$ref":
                referred.update([node[tag].partition("#")[2]] if "/" not in node[tag] else [])
            elif tag not in values.DECODERS:
                return str(node.get("class", node.get("library", node[tag])))
    return "something of the object itself" if referred - known else None


STATE = Declared()

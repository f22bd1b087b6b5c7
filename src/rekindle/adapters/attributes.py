"""Objects whose state is their attributes, except for some that belong to the process."""

from __future__ import annotations

from typing import Any

from rekindle.graph import Walk, attributes_of, join
from rekindle.match import Match
from rekindle.protocols import Adapter


class Attributes(Adapter):
    """Every attribute but some.

    Args:
        name: What the file calls it.
        skip: Attributes that are not state: clocks, handles, values derived from others.
        strict: Whether arrays must have the shape and type of the live ones.
        equal: Attributes in which a checkpoint and a live object must agree: sizes, counts.
    """

    def __init__(
        self,
        name: str,
        skip: frozenset[str] = frozenset(),
        *,
        strict: bool = False,
        equal: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.skip = skip
        self.strict = strict
        self.equal = equal

    def own(self, live: Any) -> dict[str, Any]:
        """The attributes that are state."""
        return {key: value for key, value in attributes_of(live).items() if key not in self.skip}

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The attributes."""
        return {"state": walk.children(self.own(live), path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Match and set the attributes; one that only the live object has does not fit."""
        nodes = self.asked(node["state"], live, match)
        self.compare(nodes, live, match, path)
        for name in self.own(live):
            if name not in node["state"]:
                match.surplus(live, name, path)
        match.attributes(nodes, live, path, strict=self.strict)
        return live

    def compare(self, nodes: dict[str, Any], live: Any, match: Match, path: str) -> None:
        """Note where the attributes that must be equal are not."""
        for name in self.equal:
            expected, found = nodes.get(name), getattr(live, name, None)
            if expected != found:
                match.differ(join(path, name), str(expected), str(found))

    def asked(self, nodes: dict[str, Any], live: Any, match: Match) -> dict[str, Any]:
        """Those of the stored attributes that this restore should put back."""
        return nodes

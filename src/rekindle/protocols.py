"""The contracts: what an adapter is, and what a checkpoint's reader offers it."""

from __future__ import annotations

from typing import Any

from rekindle.graph import Walk
from rekindle.match import Match


class Adapter:
    """One kind of live object to component state and back, in place.

    An adapter is stateless; each module of `rekindle.adapters` makes one instance per kind and
    `rekindle.registry` names it beside the class it is for.
    """

    name: str = ""
    """What the file calls it: `framework.kind`. Never changed once released."""
    rank: int = 1
    """Components are walked in this order; 0 for what gives tensors their names."""
    is_value: bool = False
    """Whether objects are immutable values: `capture` returns the whole node, `build` makes it."""
    is_frozen: bool = False
    """Whether objects are immutable, so that `restore` returns a new one made like the live one."""
    must_match: bool = True
    """Whether a live object of another class is an error rather than replaced by a new one."""

    def inside(self, live: Any) -> Any:
        """What stands in the file for a live object: the one that it only wraps, else itself."""
        return live

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The fields of the node, beside its tag and class: `state` and what else is needed.

        Args:
            live: The object.
            walk: Encodes what the object holds (`walk.node`, `walk.children`, `walk.array`).
            path: Where the object stands in its component.
        """
        raise NotImplementedError(f"{type(self).__name__}.capture")

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare the node with the live object and plan to put its state into it.

        Nothing may be changed here: differences go to `match.differ`, changes to `match.later`.

        Returns:
            What stands in this place afterwards; `live` where it is restored in place.
        """
        raise NotImplementedError(f"{type(self).__name__}.restore")

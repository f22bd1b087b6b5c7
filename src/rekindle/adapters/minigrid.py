"""MiniGrid and BabyAI: what lies in a grid, and what is to be done with it.

The rest of an environment is attributes. These objects differ from episode to episode, so the live
environment, in another episode, has others in their places: they are made anew from their
attributes. Only classes that the program has loaded and that derive from MiniGrid's own are made,
and none of their code runs.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from rekindle.adapters.attributes import Attributes
from rekindle.match import MISSING, Match

_BASES = (
    ("minigrid.core.roomgrid", "Room"),
    ("minigrid.core.world_object", "WorldObj"),
    ("minigrid.envs.babyai.core.verifier", "Instr"),
    ("minigrid.envs.babyai.core.verifier", "ObjDesc"),
)


class Thing(Attributes):
    """A `WorldObj` in a grid, a room, or part of a BabyAI instruction."""

    must_match = False

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Match and set the attributes; those that only the live object has go."""
        for name in self.own(live):
            if name not in node["state"]:
                match.later(functools.partial(live.__dict__.pop, name, None))
        match.attributes(node["state"], live, path)
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new object of the named class with the stored attributes."""
        cls = _class(node["class"])
        if cls is None:
            match.differ(path, f"{node['class']}, one of MiniGrid's classes, to be loaded", "none")
            return MISSING
        new = object.__new__(cls)
        match.register(node, new)
        match.attributes(node["state"], new, path)
        return new


def _class(name: str) -> type | None:
    """A loaded class by its label, if it derives from one of MiniGrid's."""
    bases = tuple(getattr(sys.modules[module], base) for module, base in _BASES
                  if module in sys.modules)  # fmt: skip
    module, _, qualified = name.partition(":")
    found = vars(sys.modules[module]).get(qualified) if module in sys.modules else None
    return found if isinstance(found, type) and issubclass(found, bases) else None


OBJECT = Thing("minigrid.object")

"""Gymnasium's spaces, specs and vectors. Environments and wrappers are ordinary objects."""

from __future__ import annotations

import functools
from typing import Any

from rekindle import spaces
from rekindle.adapters.attributes import Attributes
from rekindle.graph import Walk, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter


class Space(Adapter):
    """A space: what it is must be equal; the generators it samples from are restored."""

    name = "gymnasium.space"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Description, and one generator per space that has one."""
        generators = {
            name: space._np_random
            for name, space in spaces.subspaces(live)
            if getattr(space, "_np_random", None) is not None
        }
        return {
            "state": {
                "description": spaces.describe(live),
                "generators": walk.children(generators, join(path, "np_random")),
            }
        }

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare the description; put the generators in place."""
        expected = node["state"]["description"]
        different = spaces.differences(expected, spaces.describe(live), match.full(path))
        match.differences.extend(different)
        if not different:
            self._generators(node, live, match, path)
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new space from its description."""
        space = spaces.build(node["state"]["description"])
        self._generators(node, space, match, path)
        return space

    def _generators(self, node: dict[str, Any], live: Any, match: Match, path: str) -> None:
        nodes = node["state"]["generators"]
        for name, space in spaces.subspaces(live):
            present = getattr(space, "_np_random", None)
            child = nodes.get(name)
            if child is None:
                outcome = None
            else:
                found = MISSING if present is None else present
                outcome = match.node(child, found, join(path, f"np_random.{name}"))
            if outcome is not present:
                match.later(functools.partial(setattr, space, "_np_random", outcome))


class Spec(Adapter):
    """`EnvSpec`: the recipe of an environment; compared, never rebuilt."""

    name = "gymnasium.spec"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The environment's name and its time limit."""
        return {"state": {"id": live.id, "max_episode_steps": live.max_episode_steps}}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare."""
        for key, expected in node["state"].items():
            found = getattr(live, key)
            if found != expected:
                match.differ(join(path, key), repr(expected), repr(found))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """Nothing: an environment made without a spec goes on without one."""
        return None


SPACE = Space()
SPEC = Spec()
SYNC = Attributes("gymnasium.sync_vector", strict=True, equal=("num_envs",))
STATISTICS = Attributes("gymnasium.episode_statistics", frozenset(("episode_start_time",)))
"""`RecordEpisodeStatistics`; its clock is the process's, so a resumed episode is timed anew."""

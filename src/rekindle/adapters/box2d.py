"""Box2D: worlds are refused by name; LunarLander comes back by playing its episode again.

A world keeps contacts, impulses and sleeping times that its Python binding neither shows nor takes
back. LunarLander makes a new world at each reset, so the actions since then, under the generator
that the reset began with, bring it to the same state. BipedalWalker keeps its world from episode to
episode, and CarRacing takes seconds to replay: both are refused.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rekindle.adapters.attributes import Attributes
from rekindle.errors import Difference, MismatchError
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter
from rekindle.registry import label

RECORDING = "_rekindle_recording"
"""Attribute of an environment under which `rekindle.replay.Replayable` keeps its recording."""

_REMEDY = (
    "resume at an episode's end: leave it out, with exclude=[this path], and reset it after the "
    "restore; what follows is then not bit for bit the same"
)


class Refused(Adapter):
    """What holds part of a Box2D world."""

    name = "box2d.refused"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Refuse."""
        walk.refuse(path, f"{label(type(live))}, a Box2D world or part of one, whose contacts "
                          f"cannot be read; {_REMEDY}")  # fmt: skip
        return {}


class Lander(Attributes):
    """`LunarLander`: its attributes, and the recording by which its world is made again."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Attributes and recording; refused without one."""
        recording = vars(live).get(RECORDING)
        if recording is None:
            walk.refuse(
                path,
                f"{label(type(live))} without a recording of its episode, and its Box2D world "
                "cannot be read; wrap it, rekindle.replay.Replayable(gym.make(...)), and reset it, "
                f"or {_REMEDY}",
            )
            return {}
        fields = super().capture(live, walk, path)
        content = dict(recording, actions=np.array(recording["actions"]))
        fields["state"]["recording"] = walk.whole(content, join(path, "recording"))
        return fields

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Plan to play the episode again, and then to set the attributes."""
        recording = match.value(node["state"]["recording"])
        actions, space = recording["actions"], live.action_space
        if len(actions) and not all(_fits(action, space) for action in actions):
            match.differ(join(path, "recording.actions"), f"actions for {space}", "others")
            return live
        expected = {
            "prev_shaping": match.value(node["state"]["prev_shaping"]),
            "game_over": match.value(node["state"]["game_over"]),
        }
        where = match.full(path)
        match.later(functools.partial(_replay, live, recording, expected, where))
        state = {key: child for key, child in node["state"].items() if key != "recording"}
        super().restore({"state": state}, live, match, path)
        return live


def _fits(action: Any, space: Any) -> bool:
    """Whether an action can be taken in a space; a continuous one is clipped by the lander."""
    return space.contains(action) if hasattr(space, "n") else action.shape == space.shape


def _replay(live: Any, recording: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    live.np_random.bit_generator.state = recording["generator"]
    live.reset(options=recording["options"])
    for action in recording["actions"]:
        live.step(action)
    for name, value in expected.items():
        found = getattr(live, name)
        if found != value:
            difference = Difference(f"{where}.{name}", repr(value), repr(found))
            raise MismatchError(
                f"{difference}. The episode, played again, went another way: its steps or resets "
                "did not all go through Replayable, or this is another Box2D. Reset it.",
                key=difference.key,
                differences=[difference],
            )
    live.__dict__[RECORDING] = dict(recording, actions=list(np.array(recording["actions"])))


_OF_THE_WORLD = frozenset(
    ("world", "moon", "lander", "legs", "drawlist", "particles", "screen", "clock", "surf",
     RECORDING)
)  # fmt: skip

REFUSED = Refused()
LANDER = Lander("box2d.lunar_lander", _OF_THE_WORLD)

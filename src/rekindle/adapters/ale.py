"""The Arcade Learning Environment: the console's whole state, its random generator included.

Source: ale-py 0.12, `ALEInterface.cloneSystemState`, `ALEState.serialize`. The state is the
emulator's own record of its chips: numbers and names that its C++ code reads back, nothing that
Python would run. That code checks names and ends, not every number, so bytes made to harm could
crash it: restore only checkpoints from people you trust.

Two things are no part of that record. The last action, which sticky actions repeat, is found by
trying, on the console itself, which action it would repeat; after that the console is set back. And
what is on the screen: a picture asked for between a save or a restore and the next step is not that
of the last one. Observations of a step are not affected.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import ale_py
import numpy as np

from rekindle import extents
from rekindle.adapters.attributes import Attributes
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter

_SETTINGS: dict[str, tuple[str, ...]] = {
    "getFloat": ("repeat_action_probability",),
    "getInt": ("max_num_frames_per_episode", "frame_skip", "reward_min", "reward_max"),
    "getBool": ("truncate_on_loss_of_life", "color_averaging", "sound_obs"),
}
"""What shapes an episode, by how it is asked for; the console reads it when it loads a game."""


_GENERATOR = re.compile(rb"(?:\d+ ){624}\d+")
"""A Mersenne Twister as C++ writes it: 624 words, and how many of them are used up."""
_ALWAYS, _NEVER = 0, 0x12DD9BB3
"""Words from which it draws the smallest number there is, so that an action sticks whatever the
probability, and the largest, so that none does."""
_UNLIKELY = 1e-15
"""Two actions are told apart as long as one of them sticking is more likely than this."""


class Environment(Attributes):
    """`AtariEnv`: its attributes, one of which is the console."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The attributes; refused where what sticks could not be found."""
        if live.continuous and live.ale.getFloat("repeat_action_probability") > 0:
            walk.refuse(
                path,
                "an Atari environment with continuous actions that stick: with what strength the "
                "last one was taken cannot be found; make it with repeat_action_probability=0",
            )
            return {}
        return super().capture(live, walk, path)


class Interface(Adapter):
    """`ALEInterface`: the state of the console that it runs."""

    name = "ale.interface"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The game, the settings, the system state as bytes."""
        if not live.getString("rom_file"):
            walk.refuse(path, "an Arcade Learning Environment in which no game is loaded")
            return {}
        if live.getBool("color_averaging"):
            walk.refuse(
                path,
                "an Arcade Learning Environment that averages colours: the frame before, which it "
                "averages with, cannot be read; switch color_averaging off",
            )
        state = live.cloneSystemState().serialize()
        system = np.frombuffer(state, np.uint8)
        last_action = None
        if _stickiness(live):
            if len(_GENERATOR.findall(state)) == 0:
                walk.refuse(path, "an Arcade Learning Environment with sticky actions, whose "
                                  "generator this build of ale-py writes in an unknown way; make "
                                  "it with repeat_action_probability=0")  # fmt: skip
                return {}
            last_action = _find_last_action(live, state)
            if last_action is None:
                walk.refuse(path, "an Arcade Learning Environment with sticky actions, whose last "
                                  "action is none of a joystick's; make it with "
                                  "repeat_action_probability=0")  # fmt: skip
        return {
            "state": {
                "game": _game(live),
                "settings": walk.whole(_settings(live), path),
                "random_seed": live.getInt("random_seed"),
                "last_action": last_action,
                "system": walk.node(system, join(path, "system")),
            }
        }

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare the game and the settings; set the system state in place."""
        state = node["state"]
        for key, expected in _flat(state["game"], match.value(state["settings"])).items():
            found = _flat(_game(live), _settings(live)).get(key)
            if expected != found:
                match.differ(join(path, key), repr(expected), repr(found))
        system = np.array(match.value(state["system"]))
        size = len(live.cloneSystemState().serialize()) if live.getString("rom_file") else 0
        if system.dtype != np.uint8 or system.ndim != 1 or abs(system.size - size) > _SLACK_BYTES:
            expected = f"{system.dtype} of shape {system.shape}"
            match.differ(join(path, "system"), expected, f"uint8 of shape ({size},)")
            return live
        seed, last_action = state["random_seed"], state["last_action"]
        if last_action is not None and last_action not in range(_NUM_ACTIONS):
            match.differ(join(path, "last_action"), f"an action under {_NUM_ACTIONS}", "another")
            return live
        match.later(functools.partial(_set_state, live, system.tobytes(), seed, last_action))
        return live


_SLACK_BYTES = 4096
"""By how much two states of one game may differ in size: numbers in it are written as text."""


_NUM_ACTIONS = 18


def _set_state(live: Any, state: bytes, seed: int, last_action: int | None) -> None:
    if last_action is not None:
        live.restoreSystemState(_drawing(state, _NEVER))
        live.act(last_action)
    live.restoreSystemState(ale_py.ALEState(state))
    live.setInt("random_seed", seed)


def _stickiness(live: Any) -> float:
    return live.getFloat("repeat_action_probability")


def _drawing(state: bytes, word: int) -> Any:
    """A state with generators that draw the same number 624 times, written in the same length."""
    text = b" ".join([str(word).encode()] * 624 + [b"0"])
    return ale_py.ALEState(_GENERATOR.sub(lambda found: text.rjust(len(found[0])), state))


def _find_last_action(live: Any, state: bytes) -> int | None:
    """The action that would be repeated, or one that makes no difference to it.

    Each action is taken once where none sticks; then, where all stick, whatever is asked for, the
    console repeats it. The one after which it does what it did at first is the one that it had.
    """
    num_frames = min(60, math.ceil(math.log(_UNLIKELY) / math.log(min(_stickiness(live), 0.9))))
    sticking, taking = _drawing(state, _ALWAYS), _drawing(state, _NEVER)

    def repeated() -> bytes:
        live.restoreSystemState(sticking)
        for _ in range(num_frames):
            live.act(0)
        return live.cloneSystemState().serialize()

    first = repeated()
    minimal = [int(action.value) for action in live.getMinimalActionSet()]
    found = None
    for action in dict.fromkeys([*minimal, *range(_NUM_ACTIONS)]):
        live.restoreSystemState(taking)
        live.act(action)
        if repeated() == first:
            found = action
            break
    live.restoreSystemState(ale_py.ALEState(state))
    return found


def _game(live: Any) -> dict[str, Any]:
    """The game by its file: where it lies does not matter, what it holds does."""
    path = Path(live.getString("rom_file"))
    digest = extents.whole(path).digest().blake3 if path.is_file() else None
    return {"name": path.stem, "blake3": digest}


def _settings(live: Any) -> dict[str, Any]:
    return {key: getattr(live, ask)(key) for ask, keys in _SETTINGS.items() for key in keys}


def _flat(game: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    return {f"game.{key}": value for key, value in game.items()} | settings


class VectorInterface(Adapter):
    """`ALEVectorInterface`: many consoles in threads of C++, none of whose states can be read."""

    name = "ale.vector"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Refuse."""
        walk.refuse(
            path,
            "ale-py's AtariVectorEnv, whose consoles give out no state; use a SyncVectorEnv or an "
            "AsyncVectorEnv of AtariPreprocessing environments, or resume at an episode's end",
        )
        return {}


ENVIRONMENT = Environment("ale.environment")
INTERFACE = Interface()
VECTOR = VectorInterface()

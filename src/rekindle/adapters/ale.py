"""The Arcade Learning Environment: the console's whole state, its random generator included.

Source: ale-py 0.12, `ALEInterface.cloneSystemState`, `ALEState.serialize`. The state is the
emulator's own record of its chips: numbers and names that its C++ code reads back, nothing that
Python would run. That code checks names and ends, not every number, so bytes made to harm could
crash it: restore only checkpoints from people you trust. What is on the screen is no part of the
state: a picture asked for between a restore and the next step is the old one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import ale_py
import numpy as np

from rekindle import files
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter

_SETTINGS: dict[str, tuple[str, ...]] = {
    "getFloat": ("repeat_action_probability",),
    "getInt": ("max_num_frames_per_episode", "frame_skip", "reward_min", "reward_max"),
    "getBool": ("truncate_on_loss_of_life", "color_averaging", "sound_obs"),
}
"""What shapes an episode, by how it is asked for; the console reads it when it loads a game."""


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
        system = np.frombuffer(live.cloneSystemState().serialize(), np.uint8)
        return {
            "state": {
                "game": _game(live),
                "settings": walk.whole(_settings(live), path),
                "random_seed": live.getInt("random_seed"),
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
        match.later(functools.partial(_set_state, live, system, state["random_seed"]))
        return live


_SLACK_BYTES = 4096
"""By how much two states of one game may differ in size: numbers in it are written as text."""


def _set_state(live: Any, system: np.ndarray[Any, Any], seed: int) -> None:
    live.restoreSystemState(ale_py.ALEState(system.tobytes()))
    live.setInt("random_seed", seed)


def _game(live: Any) -> dict[str, Any]:
    """The game by its file: where it lies does not matter, what it holds does."""
    path = Path(live.getString("rom_file"))
    return {"name": path.stem, "blake3": files.digest_file(path).blake3 if path.is_file() else None}


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


INTERFACE = Interface()
VECTOR = VectorInterface()

"""Stable-Baselines3: algorithms, buffers, vector environments, Monitor, callbacks, the logger.

Source: SB3 2.9, `base_class.py`, `buffers.py`, `vec_env`, `callbacks.py` of `common`.
The adapters only say which attributes are state; foreign names stay in this module.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from rekindle import spaces
from rekindle.adapters.attributes import Attributes
from rekindle.graph import Walk, join
from rekindle.match import MISSING, Match
from rekindle.registry import label
from rekindle.rings import Ring

_OF_THE_LOOP = frozenset(
    ("env", "_vec_normalize_env", "_last_obs", "_last_episode_starts", "_last_original_obs")
)
NOT_ARGUMENTS = frozenset(("policy", "env", "device", "verbose", "tensorboard_log",
                           "_init_setup_model", "self", "args", "kwargs"))  # fmt: skip
"""Parameters of an algorithm's constructor that say nothing of what is trained."""


def constructor_arguments(model: Any) -> dict[str, Any]:
    """What an algorithm was constructed with, as its attributes still say."""
    names = _parameters(type(model))
    found = {
        name: getattr(model, name)
        for name in names
        if name not in NOT_ARGUMENTS and hasattr(model, name)
    }
    if "stats_window_size" in names:
        found["stats_window_size"] = model._stats_window_size
    return found


@functools.cache
def _parameters(cls: type) -> tuple[str, ...]:
    """Names of what an algorithm's constructor takes."""
    return tuple(inspect.signature(cls.__init__).parameters)


class Algorithm(Attributes):
    """`BaseAlgorithm`: counters, schedules, last observations, and how to construct it again."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Attributes, and the constructor's arguments."""
        fields = super().capture(live, walk, path)
        fields["constructor"] = {
            "policy": label(live.policy_class),
            "arguments": walk.children(constructor_arguments(live), join(path, "constructor")),
            "n_envs": live.n_envs,
            "observation_space": spaces.describe(live.observation_space),
            "action_space": spaces.describe(live.action_space),
        }
        return fields

    def asked(self, nodes: dict[str, Any], live: Any, match: Match) -> dict[str, Any]:
        """What belongs to a loop is left alone where there is none, or no environment for it."""
        left = frozenset() if match.asks_for("env") else _OF_THE_LOOP
        if not hasattr(live, "_logger"):
            left |= {"_logger"}
        return {key: node for key, node in nodes.items() if key not in left}


class Rollout(Attributes):
    """`RolloutBuffer`: its rows only while a rollout is under way, since each begins with zeros."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Attributes; without rows when the buffer is empty, or full and so consumed."""
        own = self.own(live)
        if 0 < live.pos < live.buffer_size:
            return {"state": walk.children(own, path), "has_rows": True}
        kept = {name: value for name, value in own.items() if not _is_rows(value)}
        return {"state": walk.children(kept, path), "has_rows": False}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Match and set the attributes; without rows, the buffer is emptied as a rollout begins."""
        if node["has_rows"]:
            return super().restore(node, live, match, path)
        self.compare(node["state"], live, match, path)
        match.attributes(node["state"], live, path, strict=True)
        match.later(live.reset)
        return live


class Replay(Attributes):
    """`ReplayBuffer` and those that derive from it: a ring of transitions, stored by rows."""

    _LARGE = ("observations", "next_observations", "actions")
    _SMALL = ("rewards", "dones", "timeouts", "ep_start")
    """Arrays of which a row changes when a transition is added, and until the next one is."""
    _CHANGING = ("ep_length",)
    """Those of which past rows change, when an episode ends or is overwritten."""

    def own(self, live: Any) -> dict[str, Any]:
        """Attributes; of the infos of a HER buffer those of the filled rows, where it keeps any."""
        found = super().own(live)
        if hasattr(live, "copy_info_dict"):
            infos = found.pop("infos")
            if live.copy_info_dict:
                found["infos"] = infos[: _num_filled(live)]
        return found

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The attributes, with the arrays that have one row per transition as a ring.

        A class of the program's own may amend rewards or ends of episodes later on, which are
        small enough to be compared; what it adds to the buffer is stored as any other attribute.
        """
        own = self.own(live)
        ring = _ring(live)
        is_own_class = not type(live).__module__.startswith("stable_baselines3.")
        changing = (*self._CHANGING, *(self._SMALL if is_own_class else ()))
        for name in (*self._LARGE, *self._SMALL, *self._CHANGING):
            walk.rows(_arrays(own.get(name)), ring, is_changing=name in changing)
        return {"state": walk.children(own, path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Match and set the attributes; infos are new ones."""
        super().restore(node, live, match, path)
        if hasattr(live, "copy_info_dict") and "infos" in node["state"]:
            infos = match.node(node["state"]["infos"], MISSING, join(path, "infos"))
            others = live.infos[len(infos) : _num_filled(live)]
            match.later(lambda: np.copyto(live.infos[: len(infos)], infos))
            match.later(lambda: _empty(others))
        return live

    def asked(self, nodes: dict[str, Any], live: Any, match: Match) -> dict[str, Any]:
        """All but the infos of a HER buffer."""
        if not hasattr(live, "copy_info_dict"):
            return nodes
        return {key: node for key, node in nodes.items() if key != "infos"}


def _empty(infos: np.ndarray[Any, Any]) -> None:
    for row in infos:
        row[:] = [{} for _ in row]


def _num_filled(live: Any) -> int:
    """How many rows hold something: the first ones, or all."""
    # After a `reset` HER goes on to sample the episodes that lie there.
    if live.full or (hasattr(live, "ep_length") and live.ep_length[live.pos :].any()):
        return live.buffer_size
    return min(live.pos + _ahead(live), live.buffer_size) if live.pos else 0


def _ahead(live: Any) -> int:
    """The next observation of the newest transition may lie where the one after it will."""
    return int(live.optimize_memory_usage)


def _ring(live: Any) -> Ring:
    position, capacity = live.pos, live.buffer_size
    ahead = _ahead(live)
    return Ring(
        capacity=capacity,
        position=position,
        num_filled=_num_filled(live),
        num_steps_per_row=live.n_envs,
        ahead=ahead,
        advanced=lambda: (live.pos - position) % capacity,
    )


def _arrays(value: Any) -> list[np.ndarray[Any, Any]]:
    held = value.values() if isinstance(value, dict) else [value]
    return [item for item in held if isinstance(item, np.ndarray)]


def _is_rows(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (
        isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values())
    )


class Logger(Attributes):
    """The logger's pending values; where it writes belongs to the process."""

    def own(self, live: Any) -> dict[str, Any]:
        """Values recorded and not yet dumped."""
        kept = ("name_to_value", "name_to_count", "name_to_excluded")
        return {name: getattr(live, name) for name in kept}


class OwnCallback(Attributes):
    """Rekindle's own callback: only how often it was called."""

    def own(self, live: Any) -> dict[str, Any]:
        """The counters of `BaseCallback`."""
        return {"n_calls": live.n_calls, "num_timesteps": live.num_timesteps}


_CALLBACK = frozenset(("locals", "globals", "model", "parent", "_logger"))

ALGORITHM = Algorithm("sb3.algorithm", frozenset(("start_time", "tensorboard_log", "verbose",
                                                  "_custom_logger")))  # fmt: skip
_SIZES = ("buffer_size", "n_envs")
BUFFER = Attributes("sb3.buffer", strict=True, equal=_SIZES)
REPLAY = Replay("sb3.replay_buffer", strict=True, equal=_SIZES)
ROLLOUT = Rollout("sb3.rollout", frozenset(("pad", "pad_and_flatten")), strict=True, equal=_SIZES)
VEC_ENV = Attributes(
    "sb3.vec_env",
    frozenset(("class_attributes", "t_start", "results_writer")),
    equal=("num_envs",),
)
MONITOR = Attributes("sb3.monitor", frozenset(("t_start", "results_writer")))
CALLBACK = Attributes("sb3.callback", _CALLBACK)
OWN_CALLBACK = OwnCallback("sb3.own_callback")
LOGGER = Logger("sb3.logger")

LOCALS = {
    "_do_one_update": (
        "deltas", "policy_deltas", "candidate_weights", "delta_std", "learning_rate",
    ),
    "evaluate_candidates": ("candidate_weights",),
}  # fmt: skip
"""Local variables that are state at the start of a rollout, by function: those of contrib's ARS."""

WALL_CLOCK = (
    "*ep_info_buffer.*.t",
    "*episode_times.*",
    "*time_queue.*",
    "*.episode.t",
    "*name_to_*.time/*",
)
"""Paths of values that say how long something took; they differ between two equal runs."""

"""Recording an episode's actions, where the environment's own state cannot be read."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from rekindle.adapters.box2d import RECORDING
from rekindle.errors import UnsupportedError
from rekindle.registry import label

_REPLAYABLE = frozenset(("gymnasium.envs.box2d.lunar_lander:LunarLander",
                         "gymnasium.envs.box2d.lunar_lander:LunarLanderContinuous"))  # fmt: skip
_TRANSPARENT = (
    gym.wrappers.TimeLimit,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
)
"""Wrappers that hand an action on as it is, and draw no random number."""


class Replayable(gym.Wrapper[Any, Any, Any, Any]):
    """Lets Rekindle save a `LunarLander`: records what was done since the last reset.

    Put it directly around `gym.make("LunarLander-v3")`, inside all other wrappers. Restoring plays
    the episode again, which takes some milliseconds.

    Args:
        env: The environment as `gym.make` gives it, without `render_mode`.

    Raises:
        UnsupportedError: Replaying this would not be exact.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        name = label(type(env.unwrapped))
        if name not in _REPLAYABLE:
            raise UnsupportedError(
                f"Replayable: expected a LunarLander, found {name}, which does not go the same way "
                "again. Environments made of Python objects need no recording."
            )
        if env.unwrapped.render_mode is not None:
            raise UnsupportedError(
                f"Replayable: expected render_mode=None, found {env.unwrapped.render_mode!r}: "
                "drawing moves particles of the world. Make the environment without render_mode."
            )
        while env is not env.unwrapped:
            if not isinstance(env, _TRANSPARENT):
                raise UnsupportedError(
                    f"Replayable: expected gym.make's own wrappers inside, found {type(env)}. "
                    "Put Replayable directly around gym.make(...), and the others around it."
                )
            env = env.env

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset, and begin a new recording with the generator as it is then."""
        base: Any = self.env.unwrapped
        generator = base.np_random if seed is None else seeding.np_random(seed)[0]
        recording = {
            "generator": generator.bit_generator.state, "options": options, "actions": []
        }  # fmt: skip
        result = self.env.reset(seed=seed, options=options)
        base.__dict__[RECORDING] = recording
        return result

    def step(self, action: Any) -> Any:
        """Step, and record the action."""
        kept = np.array(action)
        result = self.env.step(action)
        self.env.unwrapped.__dict__[RECORDING]["actions"].append(kept)
        return result

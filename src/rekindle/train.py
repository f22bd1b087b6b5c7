"""Training with Stable-Baselines3 from one command, the same one at first and after any kill.

    python -m rekindle.train --algo PPO --env CartPole-v1 --steps 30000 --every 2000 --run runs/ppo

Progress goes to stdout as JSON lines, for a program to read.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekindle.cadence import Cadence
from rekindle.errors import MissingDependencyError, NotFoundError, RekindleError, UnsupportedError
from rekindle.files import PathLike
from rekindle.retention import Keep
from rekindle.sb3 import Checkpoint

try:
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.preprocessing import is_image_space
except ImportError as error:
    raise MissingDependencyError(
        "rekindle.train: expected stable-baselines3 to be installed, found that it is not. "
        "Install it with `pip install rekindle[sb3]`."
    ) from error

_NUM_POINTS = 200
_NUM_LINES = 1000


class Curve(BaseCallback):
    """The learning curve: the mean return of recent episodes, at the end of rollouts.

    It is a callback like any other, so its points are saved and restored with the run.

    Args:
        interval: Environment steps between two points, at least.
    """

    def __init__(self, *, interval: int = 1) -> None:
        super().__init__()
        self.interval = interval
        self.steps: list[int] = []
        """Environment steps of each point."""
        self.returns: list[float] = []
        """Mean return at each point."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        found = mean_return(self.model)
        is_due = not self.steps or self.num_timesteps - self.steps[-1] >= self.interval
        if found is not None and is_due:
            self.steps.append(self.num_timesteps)
            self.returns.append(found)


class Lines(BaseCallback):
    """Says where training stands, as JSON lines on stdout.

    Args:
        checkpoint: The callback that resumed, for the step that it resumed from.
        interval: Environment steps between two lines.
    """

    def __init__(self, checkpoint: Checkpoint, *, interval: int) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._interval = interval

    def _on_step(self) -> bool:
        before = self.num_timesteps - self.training_env.num_envs
        if self.num_timesteps // self._interval > before // self._interval:
            _write(
                step=self.num_timesteps,
                resumed_from=resumed_from(self._checkpoint),
                **{"return": mean_return(self.model)},
            )
        return True


def train(
    *,
    run: PathLike,
    algorithm: str = "PPO",
    environment: str = "CartPole-v1",
    steps: int = 30_000,
    every: Cadence = 2_000,
    keep: Keep | None = None,
    seed: int = 0,
    says: bool = False,
) -> Checkpoint:
    """Train an agent, or go on where a killed training stopped; the call is the same.

    Hyper-parameters are the algorithm's own defaults, except that a replay buffer is no longer than
    the run. Torch is set to one thread, because sums depend on how many there are.

    Args:
        run: Directory of the run.
        algorithm: Name of an algorithm of stable-baselines3 or sb3-contrib.
        environment: Name of a Gymnasium environment.
        steps: Environment steps to train for.
        every: Environment steps between two checkpoints, or `rk.Every`; they are taken between
            rollouts.
        keep: Which checkpoints stay, such as `rk.Keep(last=3)`; all of them when left out.
        seed: Seed of everything random.
        says: Write progress to stdout as JSON lines.

    Returns:
        The callback that saved and resumed, with its run, its model and its report.

    Raises:
        UnsupportedError: There is no such algorithm, or it cannot act in this environment.
        NotFoundError: There is no such environment.
        MismatchError: The run was started with something else.
    """
    torch.set_num_threads(1)
    model = build(algorithm, environment, steps=steps, seed=seed)
    checkpoint = Checkpoint(run, every=every, keep=keep, verbose=0)
    callbacks: list[BaseCallback] = [checkpoint, Curve(interval=max(1, steps // _NUM_POINTS))]
    if says:
        callbacks.append(Lines(checkpoint, interval=max(1, steps // _NUM_LINES)))
    model.learn(steps, callback=callbacks)
    return checkpoint


def build(algorithm: str, environment: str, *, steps: int, seed: int) -> BaseAlgorithm:
    """A fresh model by the names of its algorithm and environment; see `train`."""
    cls = algorithm_class(algorithm)
    env = _environment(environment)
    arguments: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if "buffer_size" in inspect.signature(cls).parameters:
        arguments["buffer_size"] = min(steps, 1_000_000)
    try:
        return cls(_policy(cls, env.observation_space), env, **arguments)
    except AssertionError as error:  # how SB3 refuses a space
        raise UnsupportedError(
            f"{algorithm} in {environment}: expected an algorithm for this environment's spaces, "
            f"found that it cannot act there. {error}",
            key="algorithm",
        ) from error


def algorithm_class(name: str) -> Any:
    """An algorithm of stable-baselines3 or sb3-contrib by name.

    Raises:
        UnsupportedError: There is none of this name; the message has the nearest one.
    """
    known = {
        key: value
        for library in _libraries()
        for key, value in vars(library).items()
        if isinstance(value, type) and issubclass(value, BaseAlgorithm)
    }
    if name in known:
        return known[name]
    upper = {key.upper(): key for key in known}
    close = difflib.get_close_matches(name.upper(), upper, n=1)
    meant = f"Did you mean {upper[close[0]]}?" if close else "Choose one of them."
    raise UnsupportedError(
        f"algorithm {name!r}: expected one of {', '.join(sorted(known))}, found none of this name. "
        f"{meant}",
        key="algorithm",
    )


def _libraries() -> list[Any]:
    try:
        import sb3_contrib
    except ImportError:
        return [stable_baselines3]
    return [stable_baselines3, sb3_contrib]


def _environment(name: str) -> Any:
    try:
        return gymnasium.make(name)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingDependencyError(f"environment {name!r}: {error}", key="environment") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise NotFoundError(
            f"environment {name!r}: expected one that Gymnasium knows, found none. {error}",
            key="environment",
        ) from error


def _policy(cls: Any, space: Any) -> str:
    """The name of the policy that suits what is observed, as this algorithm calls it."""
    if isinstance(space, gymnasium.spaces.Dict):
        kind = "MultiInput"
    else:
        kind = "Cnn" if is_image_space(space) else "Mlp"
    return next((name for name in cls.policy_aliases if name.startswith(kind)), f"{kind}Policy")


def mean_return(model: BaseAlgorithm) -> float | None:
    """Mean return of the last episodes, or None before the first has ended."""
    returns = [float(episode["r"]) for episode in model.ep_info_buffer or ()]
    return sum(returns) / len(returns) if returns else None


def resumed_from(checkpoint: Checkpoint) -> int | None:
    """The step that training went on from, or None on a fresh start."""
    return None if checkpoint.report is None else checkpoint.report.step


def _write(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rekindle.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--algo", default="PPO", help="an algorithm of SB3 or sb3-contrib")
    parser.add_argument("--env", default="CartPole-v1", help="a Gymnasium environment")
    parser.add_argument("--steps", type=int, default=30_000, help="environment steps to train for")
    parser.add_argument("--every", type=int, default=2_000, help="steps between two checkpoints")
    parser.add_argument("--keep-last", type=int, help="delete all but the newest so many")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--run", type=Path, required=True, help="directory of the run")
    asked = parser.parse_args(arguments)
    try:
        checkpoint = train(
            algorithm=asked.algo,
            environment=asked.env,
            steps=asked.steps,
            every=asked.every,
            keep=None if asked.keep_last is None else Keep(last=asked.keep_last),
            seed=asked.seed,
            run=asked.run,
            says=True,
        )
        _write(
            finished=True,
            step=checkpoint.model.num_timesteps,
            resumed_from=resumed_from(checkpoint),
            **{"return": mean_return(checkpoint.model)},
        )
    except RekindleError as error:
        _write(error=error.code, message=str(error), path=error.path, key=error.key)
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:  # whoever read the lines is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # By its own name, so that checkpoints call its classes the same however it was started.
    from rekindle import train as itself

    sys.exit(itself.main())

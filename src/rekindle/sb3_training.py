"""Models of Stable-Baselines3 by the names of algorithm and environment: built, begun, trained.

`rekindle.training` puts these together; what is here needs Stable-Baselines3.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import sb3
from rekindle.checkpoint import Checkpoint as SavedCheckpoint
from rekindle.errors import (
    Difference,
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
    listing,
)
from rekindle.files import PathLike
from rekindle.foreign import ForeignCheckpoint
from rekindle.opening import open_any
from rekindle.sb3 import Checkpoint
from rekindle.state import Record

try:
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
except ImportError as error:
    raise MissingDependencyError(
        "rekindle.train: expected stable-baselines3 to be installed, found that it is not. "
        "Install it with `pip install rekindle[sb3]`."
    ) from error

_NUM_POINTS = 200
_NUM_TOLD = 1000
_RESERVED = frozenset(("self", "env", "seed", "_init_setup_model"))
"""Arguments of an algorithm that have options of their own."""
_NOT_COMPARED = frozenset(("policy", "seed", "total_timesteps"))
"""What may differ from the checkpoint to start from; of networks, the shapes are compared."""
_BEGUN_ANEW = (
    "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates",
    "_n_calls", "_current_progress_remaining", "_last_obs", "_last_episode_starts",
    "_last_original_obs", "_last_lstm_states", "ep_info_buffer", "ep_success_buffer", "seed", "env",
    "action_space", "observation_space", "device", "rollout_buffer", "_logger",
)  # fmt: skip
"""Attributes of a model that are not taken from the checkpoint that a training starts from."""
_LEARNT = ("log_ent_coef", "ent_coef_tensor")
"""Numbers of a model that no component of a zip of SB3 holds but `agent`."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a training stands."""

    run: Path | None
    """Its folder; None where nothing is saved."""
    step: int
    mean_return: float | None
    """Mean return of the last episodes; None before the first has ended."""
    resumed_from: int | None
    """The step that training went on from; None on a fresh start."""


# --------------------------------------------------------------------------- callbacks


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


class Teller(BaseCallback):
    """Tells where training stands; it is no part of the state.

    Args:
        listen: Is told.
        checkpoint: The callback that saves and has resumed, if any.
        interval: Environment steps between two tellings.
    """

    def __init__(
        self,
        listen: Callable[[Standing], object] | None,
        checkpoint: Checkpoint | None,
        *,
        interval: int,
    ) -> None:
        super().__init__()
        self._listen = listen
        self._checkpoint = checkpoint
        self._interval = interval
        self._is_first = True
        self.num_epochs = 0
        """Rollouts since this process began."""

    def _on_rollout_end(self) -> None:
        self.num_epochs += 1

    def _on_rollout_start(self) -> None:
        if self._is_first:  # now it is known what was resumed
            self._is_first = False
            self._tell()

    def _on_step(self) -> bool:
        before = self.num_timesteps - self.training_env.num_envs
        if self.num_timesteps // self._interval > before // self._interval:
            self._tell()
        return True

    def _tell(self) -> None:
        if self._listen is not None:
            self._listen(
                Standing(
                    run=None if self._checkpoint is None else self._checkpoint.run.path,
                    step=self.model.num_timesteps,
                    mean_return=mean_return(self.model),
                    resumed_from=resumed_from(self._checkpoint),
                )
            )


def learn(
    model: BaseAlgorithm,
    steps: int,
    checkpoint: Checkpoint | None,
    on_progress: Callable[[Standing], object] | None,
) -> int:
    """Train a model to its end; returns how many epochs that were, also before it was resumed."""
    curve = Curve(interval=max(1, steps // _NUM_POINTS))
    # The same callbacks whoever listens: they are a part of what is saved.
    callbacks: list[BaseCallback] = [] if checkpoint is None else [checkpoint]
    teller = Teller(on_progress, checkpoint, interval=max(1, steps // _NUM_TOLD))
    model.learn(steps, callback=[*callbacks, curve, teller])
    return teller.num_epochs if checkpoint is None else checkpoint.num_epochs


def mean_return(model: BaseAlgorithm) -> float | None:
    """Mean return of the last episodes, or None before the first has ended."""
    returns = [float(episode["r"]) for episode in model.ep_info_buffer or ()]
    return sum(returns) / len(returns) if returns else None


def resumed_from(checkpoint: Checkpoint | None) -> int | None:
    """The step that training went on from, or None on a fresh start."""
    report = None if checkpoint is None else checkpoint.report
    return None if report is None else report.step


# --------------------------------------------------------------------------- a fresh model


def build(
    algorithm: str,
    environment: str,
    *,
    steps: int,
    seed: int,
    n_envs: int = 1,
    normalize: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
) -> BaseAlgorithm:
    """A fresh model by the names of its algorithm and environment; see `rekindle.train`."""
    torch.set_num_threads(1)  # before weights are drawn: making them orthogonal is a sum, too
    cls = algorithm_class(algorithm)
    given = copy.deepcopy(dict(hyperparameters or {}))  # SB3 adds to `policy_kwargs` in place
    known = _parameters(cls)
    _check_names(algorithm, given, known)
    env = _environment(environment, n_envs)
    arguments: dict[str, Any] = {"device": "cpu", **given}
    if "buffer_size" in known:
        arguments.setdefault("buffer_size", min(steps, 1_000_000))
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = _policy_arguments(arguments["policy_kwargs"])
    policy = arguments.pop("policy", None) or _policy(cls, env.observation_space)
    try:
        if normalize:
            env = _normalized(env, arguments.get("gamma", known["gamma"].default))
        return cls(policy, env, seed=seed, **arguments)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        # How SB3 and torch refuse what they were given.
        told = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise UnsupportedError(
            f"{algorithm} in {environment}: expected an algorithm for this environment's spaces"
            f"{', with hyper-parameters that it takes' if given else ''}, found that it cannot act "
            f"there{f' with {told}' if told else ''}. {error}",
            key="hyperparameters" if given else "algorithm",
        ) from error


def configuration(model: BaseAlgorithm, steps: int) -> dict[str, Any]:
    """What must be the same for a run to be resumed, of a model that was not yet trained."""
    return {**sb3.configuration(model), "total_timesteps": steps}


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
    raise UnsupportedError(
        f"algorithm {name!r}: expected one of {', '.join(sorted(known))}, found none of this name. "
        f"{_meant(name, known) or 'Choose one of them.'}",
        key="algorithm",
    )


def _meant(name: str, known: Iterable[str]) -> str | None:
    upper = {key.upper(): key for key in known}
    close = difflib.get_close_matches(name.upper(), upper, n=1)
    return f"Did you mean {upper[close[0]]}?" if close else None


def _libraries() -> list[Any]:
    try:
        import sb3_contrib
    except ImportError:
        return [stable_baselines3]
    return [stable_baselines3, sb3_contrib]


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(cls.__init__).parameters
    return {name: found[name] for name in found if name not in _RESERVED}


def _check_names(algorithm: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        wrong = "; ".join(f"{name}. {_meant(name, known) or ''}".rstrip() for name in unknown)
        raise UnsupportedError(
            f"{algorithm}: expected hyper-parameters among {', '.join(known)}, found {wrong}",
            key=unknown[0],
        )


def _environment(name: str, count: int) -> VecEnv:
    def make() -> Any:
        return Monitor(gymnasium.make(name))

    if count < 1:
        raise UnsupportedError(f"n_envs={count}: expected at least 1.", key="n_envs")
    try:
        return DummyVecEnv([make] * count)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingDependencyError(f"environment {name!r}: {error}", key="environment") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise NotFoundError(
            f"environment {name!r}: expected one that Gymnasium knows, found none. {error}",
            key="environment",
        ) from error


def _normalized(env: VecEnv, gamma: float) -> VecNormalize:
    """The environment with running statistics; pixels have a range that is known."""
    return VecNormalize(env, norm_obs=not is_image_space(env.observation_space), gamma=gamma)


def _policy(cls: Any, space: Any) -> str:
    """The name of the policy that suits what is observed, as this algorithm calls it."""
    if isinstance(space, gymnasium.spaces.Dict):
        kind = "MultiInput"
    else:
        kind = "Cnn" if is_image_space(space) else "Mlp"
    return next((name for name in cls.policy_aliases if name.startswith(kind)), f"{kind}Policy")


def _policy_arguments(given: Any) -> Any:
    """`policy_kwargs` with the class of an activation that was given by name, such as `"ELU"`."""
    name = given.get("activation_fn") if isinstance(given, Mapping) else None
    if not isinstance(name, str):
        return given
    found = getattr(torch.nn, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise UnsupportedError(
            f"policy_kwargs: expected a module of torch.nn as activation_fn, found {name!r}.",
            key="policy_kwargs",
        )
    return {**given, "activation_fn": found}


# --------------------------------------------------------------------------- another's weights


def start_from(model: BaseAlgorithm, path: PathLike, *, allow: Iterable[str] = ()) -> None:
    """Give a fresh model what another has learnt: networks, optimizers, buffer, normaliser.

    Args:
        model: A fresh model.
        path: A checkpoint or run of ours, or a model's zip of Stable-Baselines3.
        allow: Names of what may differ in the configuration. With `"buffer_size"` or `"n_envs"`
            among them, and different, the replay buffer begins empty.

    Raises:
        MismatchError: The two have other configurations, components or shapes; the error lists
            every difference, and nothing was changed.
        NotFoundError, FormatError: There is no checkpoint.
    """
    saved = open_any(path)
    if "policy" not in saved or "agent" not in saved:
        raise UnsupportedError(
            f"{saved.path}: expected a model of Stable-Baselines3, with policy and agent, found "
            f"{', '.join(saved) or 'nothing'}.",
            path=saved.path,
        )
    live = {
        name: part for name, part in sb3.components(model).items() if name not in ("env", "rng")
    }
    stored = _stored(saved)
    found = list(_differences(stored, model))
    if not isinstance(saved, SavedCheckpoint):
        live.pop("replay_buffer", None)  # a zip has none
    accepted = {difference.key for difference in found} & set(allow)
    if accepted & {"buffer_size", "n_envs"}:
        live.pop("replay_buffer", None)
    names = [*live, *(name for name in saved if name.endswith("optimizer") and name not in live)]
    found += [
        Difference(name, *("one" if name in side else "none" for side in (saved, live)))
        for name in [*names, *(["normalizer"] if "normalizer" in saved else [])]
        if (name in saved) != (name in live)
    ]
    refused = [difference for difference in found if difference.key not in allow]
    if refused:
        raise MismatchError(
            f"{saved.path}: expected the configuration that it was trained with, found another:\n"
            f"{listing(refused)}\nUse what it was trained with (--set NAME=VALUE), or accept a "
            f"difference with allow=[{refused[0].key!r}].",
            path=saved.path,
            key=refused[0].key,
            differences=refused,
        )
    asked = {name: part for name, part in live.items() if name in saved}
    if isinstance(saved, SavedCheckpoint):
        kept = {*_BEGUN_ANEW, *accepted}
        kept |= {"lr_schedule"} if "learning_rate" in accepted else set()
        saved.restore(asked, keep=[f"agent/{name}" for name in sorted(kept)])
    else:
        saved.restore(
            asked, skip=[f"agent/{name}" for name in saved["agent"] if name not in _LEARNT]
        )


def _stored(saved: SavedCheckpoint | ForeignCheckpoint) -> dict[str, Any]:
    """The attributes of the algorithm that was saved."""
    return dict(saved["agent"])


_OPAQUE: Any = object()
"""Stands for a value that is no plain data, and is not compared."""


def _differences(stored: Mapping[str, Any], model: BaseAlgorithm) -> Iterator[Difference]:
    for name, value in sb3.configuration(model).items():
        if name in _NOT_COMPARED or name not in stored:
            continue
        sides = _comparable(stored[name]), _comparable(value)
        if _OPAQUE not in sides and sides[0] != sides[1]:
            yield Difference(name, repr(sides[0]), repr(sides[1]))


def _comparable(value: Any) -> Any:
    """A hyper-parameter as plain data, or `_OPAQUE`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Record):
        return _OPAQUE
    if isinstance(value, Mapping):
        held = {str(key): _comparable(item) for key, item in value.items()}
        return {key: item for key, item in held.items() if item is not _OPAQUE}
    if isinstance(value, (list, tuple)):
        held = [_comparable(item) for item in value]
        return _OPAQUE if any(item is _OPAQUE for item in held) else held
    return _OPAQUE

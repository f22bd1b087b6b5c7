"""A policy alone, for production: what acting needs, and nothing that only learning does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle import spaces, writer
from rekindle.checkpoint import Checkpoint, check_destination
from rekindle.errors import UnsupportedError
from rekindle.files import PathLike
from rekindle.rings import RingBuffer

KIND = "policy"
"""What the manifest of a checkpoint says that does not suffice to go on training."""

_LEARNING = frozenset((
    "torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler",
    "torch.amp.grad_scaler.GradScaler",
))  # fmt: skip
_BUFFERS = frozenset((
    "rekindle.rings.RingBuffer", "stable_baselines3.common.buffers.BaseBuffer",
    "torchrl.data.replay_buffers.replay_buffers.ReplayBuffer",
))  # fmt: skip


def is_replay_buffer(value: Any) -> bool:
    """Whether an object holds what was experienced: by its class, or as it holds a ring of rows."""
    if _is_any(value, _BUFFERS):
        return True
    held = getattr(value, "__dict__", None)
    return isinstance(held, dict) and any(type(item) is RingBuffer for item in held.values())


def is_for_learning(value: Any) -> bool:
    """Whether an object is of a class that only learning needs: optimizers, and replay buffers."""
    return _is_any(value, _LEARNING) or is_replay_buffer(value)


def _is_any(value: Any, names: frozenset[str]) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" in names for base in type(value).__mro__)


def save_policy(
    path: PathLike,
    policy: Any,
    *,
    env: Any = None,
    action_names: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Checkpoint:
    """Save the least that a policy needs to act elsewhere: weights, spaces, names, configuration.

    No optimizer, replay buffer, gradient or generator is in it, and no environment. It is a
    checkpoint like any other: `rk.restore(path, policy=module)` puts the weights into a module of
    the same class. The code that computes actions is not in the file, and never is.

    Args:
        path: The directory to make, or one file where the name ends in `.zip`.
        policy: A module, or what else holds the weights.
        env: What has the spaces: an environment, or a policy of a library that keeps them. The
            policy itself when left out, where it has some.
        action_names: What the actions are called, in their order.
        config: What else whoever runs it must know, as plain data.
        step: Environment steps so far.
        metrics: Measurements to keep beside it.
        overwrite: Replace an existing checkpoint, in one step.

    Raises:
        AlreadyExistsError: Something is at `path` and `overwrite` is false.
        UnsupportedError: Something cannot be data; names of actions are not text.
    """
    wrong = [name for name in action_names if not isinstance(name, str)]
    if isinstance(action_names, str) or wrong:
        raise UnsupportedError(
            f"action_names: expected names as text in a list, found {action_names!r}.",
            key="action_names",
        )
    about: dict[str, Any] = {}
    if action_names:
        about["action_names"] = list(action_names)
    if config is not None:
        about["config"] = dict(config)
    components = {KIND: policy} | ({"agent": about} if about else {})
    return write(
        Path(path),
        components,
        kind=KIND,
        omit=is_for_learning,
        described={} if env is None else described_spaces(env),
        step=step,
        metrics=metrics,
        overwrite=overwrite,
    )


def write(
    destination: Path,
    components: Mapping[str, Any],
    *,
    overwrite: bool,
    **options: Any,
) -> Checkpoint:
    """Save components as `writer.draft` captures them; see there for the options."""
    check_destination(destination, overwrite=overwrite)
    draft = writer.draft(destination, components, **options)
    return Checkpoint(destination, writer.commit(draft, overwrite=overwrite).saved.manifest)


def described_spaces(env: Any) -> dict[str, Any]:
    """Descriptions of the spaces of an environment, those of one copy where it is a vector."""
    found = {}
    for name in ("observation", "action"):
        space = getattr(env, f"single_{name}_space", None) or getattr(env, f"{name}_space", None)
        if space is not None and hasattr(space, "sample"):
            found[name] = spaces.describe(space)
    return found

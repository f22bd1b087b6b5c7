"""Velora: one callback that saves and resumes exactly, and save and load of an agent.

    from rekindle.velora import Checkpoint
    agent.train(128, n_episodes=1_000, callbacks=[Checkpoint("runs/nf", every=10_000)])

The script does not change between the first start and any restart. Written for Velora 0.2.0.
"""

from __future__ import annotations

import builtins
import datetime
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, ClassVar, Literal

import numpy as np

from rekindle.adapters.generators import GlobalRNG
from rekindle.cadence import Cadence
from rekindle.checkpoint import ORIGIN
from rekindle.checkpoint import Checkpoint as SavedCheckpoint
from rekindle.checkpoint import save as save_components
from rekindle.contents import contents
from rekindle.errors import (
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
)
from rekindle.files import PathLike
from rekindle.foreign import ForeignCheckpoint
from rekindle.opening import open_any
from rekindle.report import RestoreReport
from rekindle.retention import Keep
from rekindle.run import Progress, Run

try:
    import torch
    import velora.models  # noqa: F401 - first, because Velora's modules import each other in a circle
    from sqlmodel import select
    from velora.callbacks import TrainCallback
    from velora.metrics.models import Episode
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "rekindle.velora: expected velora to be installed, found that it is not. "
        "Install it with `pip install velora==0.2.0 sqlmodel==0.0.24 array-api-compat`."
    ) from error

_OPTIMIZERS = "torch.optim."
"""What Velora puts before the name of an optimizer's class, wherever that is from."""
_LEARNT = (
    "policy", "critic", "critic2", "target", "entropy",
    "actor_optimizer", "critic_optimizer", "critic2_optimizer", "entropy_optimizer",
)  # fmt: skip
"""Components that make an agent, beside its replay buffer and the generators."""
_TRAINING = ("batch_size", "n_episodes", "max_steps", "warmup_steps", "window_size")
"""Arguments of `train` that decide what an agent learns."""
_WINDOWS = ("_ep_rewards", "_ep_lengths")
_WINDOW = ("window", "position", "size")
_STEPS = ("critic_losses", "actor_losses", "entropy_losses", "position", "size")
_TOTALS = ("_actor_loss", "_critic_loss", "_entropy_loss", "step_total")
_STATE = ("current_ep", "current_step", "ep_reward", "stop_training", "logging_type")
_COLUMNS: dict[str, Any] = {
    "episode_num": np.int64, "reward": np.float64, "length": np.int64,
    "reward_moving_avg": np.float64, "reward_moving_std": np.float64, "actor_loss": np.float64,
    "critic_loss": np.float64, "entropy_loss": np.float64,
}  # fmt: skip
"""What Velora's database holds of each episode."""


def components(agent: Any, *, buffer: bool = True) -> dict[str, Any]:
    """The named parts of an agent, as its checkpoints hold them.

    The names are those that reading one of Velora's own folders gives, so either can be converted
    to the other; `entropy` is what Velora does not save.
    """
    actor, critic, entropy = agent.actor, agent.critic, agent.entropy
    found: dict[str, Any] = {
        "policy": actor.network,
        "critic": critic.network1,
        "critic2": critic.network2,
        "target": {"critic_target": critic.target1, "critic2_target": critic.target2},
        "actor_optimizer": actor.optim,
        "critic_optimizer": critic.optim1,
        "critic2_optimizer": critic.optim2,
        "entropy_optimizer": entropy.optim,
        "entropy": {"log_alpha": entropy.log_alpha},
    }
    if buffer:
        found["replay_buffer"] = agent.buffer
    found["env"] = agent.eval_env
    found["rng"] = GlobalRNG()
    found["agent"] = {"model": dict(agent.metadata), "config": _config(agent)}
    return found


def _config(agent: Any) -> dict[str, Any]:
    """What Velora writes into `model_config.json`."""
    return agent.config.model_dump(mode="json", exclude_none=True)


# --------------------------------------------------------------------------- save and load


def save(
    agent: Any,
    path: PathLike,
    *,
    buffer: bool = True,
    config: bool = True,
    overwrite: bool = False,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    exclude: Iterable[str] = (),
) -> SavedCheckpoint:
    """Save an agent: networks, optimizers, entropy coefficient, random generators, environment.

    Args:
        agent: An agent of Velora.
        path: The directory to make, or one file where the name ends in `.zip`.
        buffer: Whether to save the replay buffer too.
        config: Whether to save what Velora keeps in `model_config.json`.
        overwrite: Replace an existing checkpoint, in one step.
        step: Environment steps so far, which an agent of Velora does not count.
        metrics: Measurements to keep beside it.
        exclude: Paths to leave out, such as `"env"`.

    Raises:
        UnsupportedError: Some values cannot be data; the error lists them.
    """
    excluded = tuple(exclude)
    found = components(agent, buffer=buffer)
    if not config:
        del found["agent"]["config"]
    return save_components(
        path,
        step=step,
        counters={"updates": _num_updates(agent)},
        metrics=metrics,
        overwrite=overwrite,
        exclude=excluded,
        **{name: part for name, part in found.items() if name not in excluded},
    )


def _num_updates(agent: Any) -> int:
    """Gradient updates so far, as the optimizer of the actor counts them, if it does."""
    counts = [int(state["step"]) for state in agent.actor.optim.state.values() if "step" in state]
    return max(counts, default=0)


def load(
    path: PathLike,
    agent: Any,
    *,
    buffer: bool = True,
    device: Any = None,
    **replace: Any,
) -> Any:
    """Put a checkpoint into an agent, or build the agent from it.

    The global random generators go on from where they stood at the save. The environment's state is
    not put back, since Velora's `train` resets it; to go on exactly where training stopped, use
    `Checkpoint`. A folder that Velora itself wrote can be loaded too, without what it lacks: the
    entropy coefficient and the generators stay as they are in the agent.

    Args:
        path: What `save`, `Checkpoint` or Velora wrote, or a run (its newest checkpoint).
        agent: The agent to put it into, or the class of one to build: `NeuroFlow`, `NeuroFlowCT`.
        buffer: Whether to put back the replay buffer.
        device: Where a new agent's networks go; as they were when left out.
        **replace: Constructor arguments of a new agent to use instead of the stored ones.

    Returns:
        The agent.

    Raises:
        NotFoundError: There is no replay buffer in it, and one was asked for.
        MismatchError: It is of another class of agent, or does not fit this one.
        UnsupportedError: It was trained with an optimizer that is not torch's own.
    """
    checkpoint = _opened(path)
    about = checkpoint.load(["agent"])["agent"] if "agent" in checkpoint else None
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise NotFoundError(
            f"{checkpoint.path}: expected an agent of Velora as `agent`, found "
            f"{', '.join(checkpoint)}. Save it with rekindle.velora.save.",
            path=checkpoint.path,
            key="agent",
        )
    cls = agent if isinstance(agent, type) else type(agent)
    saved = about.get("config", {}).get("agent", cls.__name__)
    if saved != cls.__name__:
        raise MismatchError(
            f"{checkpoint.path}: expected an agent of class {saved}, found {cls.__name__}. "
            "Load it with the class that was saved.",
            path=checkpoint.path,
            key="agent",
        )
    if isinstance(agent, type):
        agent = _built(checkpoint, agent, about["model"], device, replace)
    found = components(agent)
    names = [*_LEARNT, *(["replay_buffer"] if buffer else [])]
    if isinstance(checkpoint, ForeignCheckpoint):
        names = [name for name in names if name != "entropy" or name in checkpoint]
        asked = {name: found[name] for name in names}
        checkpoint.restore(asked, skip=["replay_buffer.device"])
    else:
        checkpoint.restore({name: found[name] for name in (*names, "rng")})
    return agent


def _opened(path: PathLike) -> SavedCheckpoint | ForeignCheckpoint:
    """A checkpoint; one of Velora's own, converted, as the foreign one that it was."""
    checkpoint = open_any(path)
    if isinstance(checkpoint, SavedCheckpoint) and ORIGIN in checkpoint:
        return ForeignCheckpoint(checkpoint.path, contents(checkpoint.path))
    return checkpoint


def _built(
    checkpoint: SavedCheckpoint | ForeignCheckpoint,
    cls: type,
    stored: dict[str, Any],
    device: Any,
    replace: dict[str, Any],
) -> Any:
    """A new agent, made with the arguments that it was made with."""
    arguments = {**stored, "device": stored["device"] if device is None else device, **replace}
    if "optim" not in replace:
        arguments["optim"] = _optimizer_class(checkpoint, stored["optim"])
    if arguments["device"] is not None:
        arguments["device"] = torch.device(arguments["device"])
    return cls(**arguments)


def _optimizer_class(checkpoint: SavedCheckpoint | ForeignCheckpoint, name: str) -> Any:
    """One of torch's optimizers; nothing else that a file names is looked up."""
    found = getattr(torch.optim, name.removeprefix(_OPTIMIZERS), None)
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found
    raise UnsupportedError(
        f"{checkpoint.path}: agent.model.optim: expected an optimizer of torch.optim, found "
        f"{name!r}. Pass its class as optim=...",
        path=checkpoint.path,
        key="agent.model.optim",
    )


# --------------------------------------------------------------------------- the callback


class Checkpoint(TrainCallback):
    """Saves every so many steps, and resumes exactly when the same script is started again.

    Checkpoints are taken between episodes, where nothing is under way. When the run's directory
    holds checkpoints, training goes on from the newest intact one, as if it had never stopped; a
    finished run does nothing. Everything is restored into what the script has built: networks,
    optimizers, entropy coefficient, replay buffer, environment, random generators, moving averages,
    other callbacks.

    Velora begins a new experiment in its database at every start; the episodes so far are added to
    it, so the newest experiment of a run holds all of them. Earlier ones are left as they are.

    Args:
        run: Directory of the run, or a `Run`.
        every: Environment steps between two checkpoints, warm-up not counted; or
            `rk.Every(seconds=600)`, `rk.Every(updates=1_000)`.
        keep: Which checkpoints stay, such as `rk.Keep(last=3)`; all of them when left out.
        exclude: Paths to leave out of the checkpoints.
        allow: What may differ in the environment when resuming, such as `"threads"`; see `Run`.
        on_low_disk: Whether training ends with an error when there is no room for a checkpoint, or
            goes on without it; see `Run`.
        preemption: Whether SIGTERM and SIGUSR1 save before the next episode and end the process
            with status 75; see `Run`.
        verbose: 1 says in one line what was resumed; 0 says nothing.

    Raises:
        MismatchError: The run was started with another agent, environment, configuration or number
            of episodes; raised before anything is changed.
    """

    def __init__(
        self,
        run: PathLike | Run,
        *,
        every: Cadence = 10_000,
        keep: Keep | None = None,
        exclude: Iterable[str] = (),
        allow: Iterable[str] = (),
        on_low_disk: Literal["raise", "continue"] = "raise",
        preemption: bool | None = None,
        verbose: int = 1,
    ) -> None:
        self.verbose = verbose
        self._target = run
        self._options: dict[str, Any] = {
            "every": every,
            "keep": keep,
            "exclude": tuple(exclude),
            "allow": tuple(allow),
            "on_low_disk": on_low_disk,
            "preemption": preemption,
        }
        self._loop: _Loop | None = None
        self.report: RestoreReport | None = None
        """What was resumed; None on a fresh start."""

    @property
    def run(self) -> Run:
        """The run, once training has started."""
        if self._loop is None:
            raise UnsupportedError(
                "the run is opened when training starts. Call agent.train first."
            )
        return self._loop.run

    def config(self) -> tuple[str, dict[str, Any]]:
        """Its name and settings, as Velora asks every callback for them."""
        path = self._target.path if isinstance(self._target, Run) else self._target
        return type(self).__name__, {"run": str(path)}

    def info(self) -> str:
        """One line for what Velora prints when training starts."""
        return f"'{type(self).__name__}' enabled with 'run={self.config()[1]['run']}'."

    def __call__(self, state: Any) -> Any:
        """Take part in Velora's training loop."""
        if state.status == "start":
            self.report = None
            self._loop = _Loop(self, state)
        elif self._loop is not None:
            self._loop.event(state)
        return state

    def _open_run(self, about: dict[str, Any]) -> Run:
        if isinstance(self._target, Run):
            self._target.describe(**about)
            return self._target
        return Run(self._target, background=True, **self._options, **about)


class _Loop:
    """One call of `agent.train`, from its first callback to its last.

    Velora numbers its episodes with `range`, which knows no other beginning than 1. That one name
    is looked up here while this loop begins, so that episodes go on with the right number, and a
    checkpoint can be taken where every callback has done its part of the episode before.
    """

    def __init__(self, callback: Checkpoint, state: Any) -> None:
        self._callback = callback
        self._handler = _frame("_run_callbacks", lambda live: live.state is state).f_locals["self"]
        self._train = _frame("train", lambda live: live is state.agent)
        self._progress: Any = Progress()
        self._progress.finished = False
        self._is_exhausted = False
        self._is_begun = False
        self.run = callback._open_run(_about(state.agent, self._train))
        self.run.prepare()
        self._train.f_globals["range"] = self._range

    def _range(self, *arguments: int) -> Iterable[int]:
        """What `range` is until the loop over episodes has begun."""
        if self._train is not sys._getframe(1):
            return builtins.range(*arguments)
        del self._train.f_globals["range"]
        self._is_begun = True
        return self._episodes(*arguments)

    def _episodes(self, first: int, stop: int) -> Iterator[int]:
        """The numbers of the episodes that are still to come; checkpoints between them."""
        progress, handler = self._progress, self._handler
        others = [callback for callback in handler.callbacks if callback is not self._callback]
        parts = components(handler.agent)
        parts["env"] = handler.env
        history = _History(handler)
        self.run.track(**parts, callbacks=others, history=history, progress=progress)
        self._callback.report = self.run.resume()
        if self._callback.report is not None and self._callback.verbose:
            done = "finished already" if progress.finished else "resumed"
            self._say(f"{self.run.path}: {done} after episode {progress.episodes:,}")
        for episode in builtins.range(first + progress.episodes, stop):
            if progress.finished:
                break
            self.run.checkpoint(metrics=history.metrics())
            yield episode
            progress.episodes = episode
        self._is_exhausted = True

    def _say(self, text: str) -> None:
        print(f"rekindle: {text}", flush=True)  # noqa: T201 - what verbose=1 asks for

    def event(self, state: Any) -> None:
        """One of Velora's events after the first."""
        if not self._is_begun:
            self._train.f_globals.pop("range", None)
            if sys.exc_info()[0] is None:
                raise UnsupportedError(
                    "rekindle.velora.Checkpoint: expected the training loop of Velora 0.2.0, "
                    "which counts episodes with range, found another. Save in it with rk.Run."
                )
        elif state.status == "step":
            self._progress.step += 1
            self._progress.updates += 1
        elif state.status == "complete":
            self._complete(state)

    def _complete(self, state: Any) -> None:
        """Save the end of the run, unless it is an error that ends it."""
        if self._is_exhausted or state.stop_training:
            self._progress.episodes = state.current_ep
            self._progress.finished = True
            self.run.save(metrics=_History(self._handler).metrics())
        self.run.close()


def _frame(name: str, is_ours: Callable[[Any], bool]) -> FrameType:
    """The innermost running method of this name, of the object that is meant."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == name and is_ours(frame.f_locals.get("self")):
            return frame
        frame = frame.f_back
    raise UnsupportedError(
        f"rekindle.velora.Checkpoint: expected to be called by agent.train, found no call of "
        f"{name}. Pass it as one of callbacks= to train."
    )


def _about(agent: Any, train: FrameType) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    asked = {name: train.f_locals.get(name) for name in _TRAINING}
    configuration = {key: value for key, value in agent.metadata.items() if key != "env_id"}
    return {
        "configuration": {**configuration, **asked},
        "algorithm": type(agent).__name__,
        "environment": agent.metadata["env_id"],
    }


class _History:
    """What Velora's handler has gathered: moving averages, losses, and the learning curve."""

    rekindle_state: ClassVar[bool] = True

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def metrics(self) -> dict[str, float]:
        """The mean return of the episodes in Velora's window, if there are any."""
        rewards = self._handler.metrics._ep_rewards
        if not rewards.size:
            return {}
        return {"return": float(rewards.window[: rewards.size].mean())}

    def get_state(self) -> dict[str, Any]:
        """Everything, as plain data; the curve as one array per column."""
        metrics, state = self._handler.metrics, self._handler.state
        return {
            "windows": {name: _numbers(getattr(metrics, name), _WINDOW) for name in _WINDOWS},
            "steps": _numbers(metrics._current_losses, _STEPS),
            "totals": {name: getattr(metrics, name).cpu().numpy() for name in _TOTALS},
            "state": {name: getattr(state, name) for name in _STATE},
            "episodes": self._episodes(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there; the curve so far is put into the experiment that has just begun."""
        metrics = self._handler.metrics
        for name, window in state["windows"].items():
            _set_numbers(getattr(metrics, name), window)
        _set_numbers(metrics._current_losses, state["steps"])
        for name, total in state["totals"].items():
            setattr(metrics, name, torch.from_numpy(total).to(metrics.device))
        for name, value in state["state"].items():
            setattr(self._handler.state, name, value)
        self._add_episodes(state["episodes"])

    def _episodes(self) -> dict[str, Any]:
        """The episodes of this experiment in Velora's database, by column."""
        asked = [getattr(Episode, name) for name in (*_COLUMNS, "created_at")]
        number = Episode.experiment_id == self._handler.metrics.experiment_id
        rows = self._handler.session.exec(select(*asked).where(number).order_by(Episode.id)).all()
        found = {
            name: np.array([row[index] for row in rows], _COLUMNS[name])
            for index, name in enumerate(_COLUMNS)
        }
        return {**found, "created_at": [row[-1].isoformat() for row in rows]}

    def _add_episodes(self, columns: dict[str, Any]) -> None:
        session, number = self._handler.session, self._handler.metrics.experiment_id
        for index, created in enumerate(columns["created_at"]):
            values = {name: columns[name][index].item() for name in _COLUMNS}
            created_at = datetime.datetime.fromisoformat(created)
            session.add(Episode(experiment_id=number, created_at=created_at, **values))
        session.commit()


def _numbers(live: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(live, name) for name in names}
    return {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in found.items()
    }


def _set_numbers(live: Any, stored: dict[str, Any]) -> None:
    for name, value in stored.items():
        if isinstance(value, np.ndarray):
            getattr(live, name).copy_(torch.from_numpy(value))
        else:
            setattr(live, name, value)

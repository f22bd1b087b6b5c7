"""Training with Stable-Baselines3 in one call, the same one at first and after any kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rekindle import description, folders
from rekindle.cadence import Cadence, settled
from rekindle.checkpoint import step_directories
from rekindle.errors import AlreadyExistsError, UnsupportedError
from rekindle.files import PathLike
from rekindle.report import Shown
from rekindle.retention import Keep
from rekindle.run import Run

if TYPE_CHECKING:
    from rekindle.sb3_training import Standing


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainReport(Shown):
    """How a call of `rekindle.train` ended."""

    model: Any
    """The model of Stable-Baselines3, trained."""
    run: Path | None
    """Its folder; None where nothing was saved."""
    step: int
    num_epochs: int
    """Rollouts, each with the updates after it."""
    mean_return: float | None
    """Mean return of the last episodes; None where none has ended."""
    wall_time_seconds: float
    """Of all processes that trained it."""
    resumed_from: int | None
    """The step that training went on from; None on a fresh start."""
    was_finished: bool
    """Whether there was nothing left to do."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, without the model."""
        return {
            "run": None if self.run is None else str(self.run),
            "step": self.step,
            "epochs": self.num_epochs,
            "return": self.mean_return,
            "wall_time_seconds": self.wall_time_seconds,
            "resumed_from": self.resumed_from,
            "was_finished": self.was_finished,
        }

    def _text(self) -> str:
        where = "not saved" if self.run is None else str(self.run)
        ending = "finished already" if self.was_finished else "finished"
        number = "-" if self.mean_return is None else f"{self.mean_return:,.1f}"
        return (
            f"{where}: {ending} at step {self.step:,}, epoch {self.num_epochs:,}, return {number}, "
            f"{self.wall_time_seconds:,.0f} s"
        )


def train(
    algorithm: str,
    environment: str,
    *,
    steps: int,
    run: PathLike | None = None,
    root: PathLike = "runs",
    new: bool = False,
    save_model: bool = True,
    model_checkpoint_freq: Cadence = 10_000,
    keep: Keep | None = None,
    load_model: PathLike | None = None,
    seed: int = 0,
    n_envs: int = 1,
    normalize: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
    allow: Iterable[str] = (),
    on_progress: Callable[[Standing], object] | None = None,
) -> TrainReport:
    """Train an agent of Stable-Baselines3, or go on where a killed training stopped.

    The same call does both: a run with the same configuration that is not finished is resumed
    exactly, and a finished one is left as it is. Beside each checkpoint stand the configuration,
    epochs, return, wall time and the statistics of the normaliser.

    Hyper-parameters are the algorithm's own defaults, except that a replay buffer is no longer than
    the run. Torch is set to one thread, because sums depend on how many there are.

    Args:
        algorithm: Name of an algorithm of stable-baselines3 or sb3-contrib, such as `"SAC"`.
        environment: Name of a Gymnasium environment, such as `"Pendulum-v1"`.
        steps: Environment steps to train for, summed over all environments.
        run: The run's folder. When left out, the one that the same call has begun under `root`, or
            a new one named by algorithm, environment and time.
        root: Where folders go that are named so.
        new: Start afresh, whatever was begun before.
        save_model: Whether to save anything.
        model_checkpoint_freq: Environment steps between two checkpoints, or `rk.Every`; they are
            taken between rollouts, and at the end.
        keep: Which checkpoints stay, such as `rk.Keep(last=3)`; all of them when left out.
        load_model: A checkpoint to start from, ours or a model's zip of Stable-Baselines3: its
            networks, optimizers, entropy coefficient, replay buffer and normaliser. Counters,
            environment and generators begin anew.
        seed: Seed of everything random.
        n_envs: Environments side by side, in this process.
        normalize: Whether to normalise observations and rewards by their running statistics.
        hyperparameters: Arguments of the algorithm, such as `{"learning_rate": 1e-3}`.
        allow: What may differ all the same, by the names that a refusal lists: from the process
            that is resumed (`"torch"`), or from what `load_model` was trained with (`"gamma"`).
        on_progress: Called now and then with where training stands.

    Raises:
        UnsupportedError: There is no such algorithm or hyper-parameter, or it cannot act in this
            environment.
        NotFoundError: There is no such environment, or nothing at `load_model`.
        MismatchError: The run, or what `load_model` names, has another configuration; the error
            lists every difference.
        AlreadyExistsError: `new` was asked for, and `run` holds checkpoints.
    """
    settled(model_checkpoint_freq)
    if run is not None and not save_model:
        raise UnsupportedError(
            f"run={str(run)!r}, save_model=False: expected a folder only for what is saved. "
            "Leave out one of the two."
        )
    # Imported on use: it loads torch.
    from rekindle import sb3_training

    model = sb3_training.build(
        algorithm,
        environment,
        steps=steps,
        seed=seed,
        n_envs=n_envs,
        normalize=normalize,
        hyperparameters=hyperparameters,
    )
    names = tuple(allow)
    started = time.monotonic()
    if not save_model:
        if load_model is not None:
            sb3_training.start_from(model, load_model, allow=names)
        num_epochs = sb3_training.learn(model, steps, None, on_progress)
        return TrainReport(
            model=model,
            run=None,
            step=model.num_timesteps,
            num_epochs=num_epochs,
            mean_return=sb3_training.mean_return(model),
            wall_time_seconds=round(time.monotonic() - started, 3),
            resumed_from=None,
            was_finished=False,
        )
    about = {
        "algorithm": type(model).__name__,
        "environment": environment,
        "configuration": description.plain(
            {
                **sb3_training.configuration(model, steps),
                "normalize": normalize,
                "load_model": None if load_model is None else str(load_model),
            }
        ),
    }
    begun = _begun(run, Path(root), about, new=new)
    if load_model is not None and (begun is None or not step_directories(begun)):
        # Before a folder is made, which a refusal would leave empty.
        sb3_training.start_from(model, load_model, allow=names)
    folder = begun or folders.new(Path(root), about["algorithm"], environment)
    saved = Run(
        folder,
        every=model_checkpoint_freq,
        keep=keep,
        background=True,
        allow=names,
        **about,
    )
    saved.track(configuration=about["configuration"])
    was_finished = folders.is_finished(folder)
    checkpoint = sb3_training.Checkpoint(saved, verbose=0)
    with saved:  # whatever ends it, others may write the run afterwards
        num_epochs = sb3_training.learn(model, steps, checkpoint, on_progress)
    return TrainReport(
        model=model,
        run=folder,
        step=model.num_timesteps,
        num_epochs=num_epochs,
        mean_return=sb3_training.mean_return(model),
        wall_time_seconds=saved.latest().manifest.elapsed_seconds or 0.0,
        resumed_from=sb3_training.resumed_from(checkpoint),
        was_finished=was_finished,
    )


def _begun(run: PathLike | None, root: Path, about: Mapping[str, Any], *, new: bool) -> Path | None:
    """The folder that was named, or else the one that the same call has begun, if any."""
    if run is None:
        return None if new else folders.find(root, about)
    folder = Path(run)
    if new and step_directories(folder):
        raise AlreadyExistsError(
            f"{folder}: expected a new run, found one with checkpoints, which stays. "
            "Choose another folder, or leave out --new to go on with it.",
            path=folder,
        )
    return folder

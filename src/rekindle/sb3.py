"""Stable-Baselines3: one callback that saves and resumes exactly, and save and load of a model.

    from rekindle.sb3 import Checkpoint
    model.learn(100_000, callback=Checkpoint("runs/ppo", every=10_000))

The script does not change between the first start and any restart.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Literal

import numpy as np

from rekindle import spaces
from rekindle.adapters import sb3 as adapters
from rekindle.adapters.generators import GlobalRNG
from rekindle.cadence import Cadence
from rekindle.checkpoint import Checkpoint as SavedCheckpoint
from rekindle.checkpoint import open_checkpoint
from rekindle.checkpoint import save as save_components
from rekindle.errors import (
    MismatchError,
    MissingDependencyError,
    UnsupportedError,
    listing,
)
from rekindle.files import PathLike
from rekindle.graph import attributes_of
from rekindle.match import Match, set_attribute
from rekindle.reader import Reader
from rekindle.registry import label
from rekindle.report import RestoreReport, plural
from rekindle.retention import Keep
from rekindle.run import Progress, Run
from rekindle.state import tag_of, unescape

try:
    import torch
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import BaseBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import ActionNoise
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
except ImportError as error:
    raise MissingDependencyError(
        "rekindle.sb3: expected stable-baselines3 to be installed, found that it is not. "
        "Install it with `pip install rekindle[sb3]`."
    ) from error

_PACKAGES = ("stable_baselines3", "sb3_contrib", "torch.nn", "torch.optim")
"""Whose classes a checkpoint may name without the caller passing them."""
_KINDS = (BaseAlgorithm, BaseBuffer, ActionNoise, torch.nn.Module, torch.optim.Optimizer)
"""What those classes must be."""
_SCHEDULES = "stable_baselines3.common.utils"
"""Where SB3 keeps its schedules, which have no base class."""


def components(model: BaseAlgorithm) -> dict[str, Any]:
    """The named parts of a model, as its checkpoints hold them."""
    found: dict[str, Any] = {"policy": model.policy}
    found |= _optimizers(model)
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        found["replay_buffer"] = buffer
    if model.env is not None:
        normalize = unwrap_vec_normalize(model.env)
        if normalize is not None:
            found["normalizer"] = _Statistics(normalize)
        found["env"] = model.env
    found["rng"] = GlobalRNG()
    found["agent"] = model
    return found


class _Statistics:
    """The running statistics of a `VecNormalize`, which a policy needs to act."""

    def __init__(self, normalize: Any) -> None:
        for name in ("obs_rms", "ret_rms"):
            if hasattr(normalize, name):
                setattr(self, name, getattr(normalize, name))


def _optimizers(model: BaseAlgorithm) -> dict[str, Any]:
    """Every optimizer: `optimizer` for the policy's only one, else `actor_optimizer`, ..."""
    found: dict[str, Any] = {}
    for prefix, module in model.policy.named_modules():
        for value in vars(module).values():
            if isinstance(value, torch.optim.Optimizer):
                name = prefix.replace(".", "_")
                found[f"{name}_optimizer" if name else "optimizer"] = value
    for name, value in vars(model).items():
        if isinstance(value, torch.optim.Optimizer):
            found[name if name.endswith("optimizer") else f"{name}_optimizer"] = value
    return found


# --------------------------------------------------------------------------- the callback


class Checkpoint(BaseCallback):
    """Saves every so many steps, and resumes exactly when the same script is started again.

    Checkpoints are taken between rollouts, where nothing is under way. When the run's directory
    holds checkpoints, training goes on from the newest intact one, as if it had never stopped; a
    finished run does nothing. Everything is restored into the objects that the script has built:
    networks, optimizers, environment, random generators, counters, logger, other callbacks.

    Args:
        run: Directory of the run, or a `Run`.
        every: Environment steps between two checkpoints, summed over all environments; or
            `rk.Every(seconds=600)`, `rk.Every(updates=1_000)`.
        keep: Which checkpoints stay, such as `rk.Keep(last=3)`; all of them when left out.
        exclude: Paths to leave out of the checkpoints.
        allow: What may differ in the environment when resuming, such as `"threads"`; see `Run`.
        classes: Classes of the program that the state may hold where live objects hold none.
        on_low_disk: Whether training ends with an error when there is no room for a checkpoint, or
            goes on without it; see `Run`.
        preemption: Whether SIGTERM and SIGUSR1 save at the start of the next rollout and end the
            process with status 75; see `Run`.
        verbose: 1 says in one line what was resumed; 0 says nothing.

    Raises:
        MismatchError: The run was started with another algorithm, environment, configuration or
            number of steps; raised before anything is changed.
    """

    def __init__(
        self,
        run: PathLike | Run,
        *,
        every: Cadence = 10_000,
        keep: Keep | None = None,
        exclude: Iterable[str] = (),
        allow: Iterable[str] = (),
        classes: Iterable[type] = (),
        on_low_disk: Literal["raise", "continue"] = "raise",
        preemption: bool | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        self._target = run
        self._options: dict[str, Any] = {
            "every": every,
            "keep": keep,
            "exclude": tuple(exclude),
            "allow": tuple(allow),
            "on_low_disk": on_low_disk,
            "preemption": preemption,
        }
        self._classes = tuple(classes)
        self._run: Run | None = None
        self._progress = Progress()
        self._learn: FrameType | None = None
        self._is_pending = False
        self.report: RestoreReport | None = None
        """What was resumed; None on a fresh start."""

    @property
    def run(self) -> Run:
        """The run, once training has started."""
        if self._run is None:
            raise UnsupportedError(
                "the run is opened when training starts. Call model.learn first."
            )
        return self._run

    @property
    def num_epochs(self) -> int:
        """Rollouts so far, each with the updates after it; those before a resume count."""
        return self._progress.epochs

    def _on_training_start(self) -> None:
        self._learn = _frame_of_learn(self.model)
        self._run = self._open_run()
        self._progress.iteration = 0
        self._progress.epochs = 0
        self._progress.finished = False
        self._progress.locals = {}
        root = self.locals["callback"]
        self._run.track(**components(self.model), callbacks=root, progress=self._progress)
        self._is_pending = True
        self._run.prepare()
        if len(self._run) and self._run.peek("progress").get("finished"):
            self._resume()

    def _open_run(self) -> Run:
        about = {
            "configuration": configuration(self.model),
            "algorithm": type(self.model).__name__,
            "environment": environment_name(self.model),
        }
        if isinstance(self._target, Run):
            self._target.describe(**about)
            return self._target
        return Run(self._target, background=True, **self._options, **about)

    def _on_rollout_start(self) -> None:
        if self._is_pending:
            self._note_locals()
            self._resume()
        elif self.run.has_trail:
            # A trail must not depend on when the run was saved.
            self._note_progress()
            self._note_locals()
        steps = self.model.num_timesteps
        if self.run.is_due(steps, updates=self.model._n_updates):
            self._note_progress()
            self._note_locals()
            self.run.checkpoint(metrics=self._metrics())
        self.run.trace(steps)

    def _note_locals(self) -> None:
        """Hold what the algorithm keeps in local variables at this point, where it keeps any."""
        if "async_eval" in self.locals and self.locals["async_eval"] is not None:
            raise UnsupportedError(
                "rekindle.sb3.Checkpoint: expected ARS to evaluate in this process, found "
                "async_eval, whose worker processes hold state of their own. Train without it."
            )
        self._progress.locals = {
            frame.f_code.co_name: {
                name: frame.f_locals[name] for name in adapters.LOCALS[frame.f_code.co_name]
            }
            for frame in self._frames()
        }

    def _frames(self) -> Iterator[FrameType]:
        """Functions of the algorithm under way whose local variables are state."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._learn:
            is_own = frame.f_code.co_name in adapters.LOCALS
            if is_own and frame.f_locals.get("self") is self.model:
                yield frame
            frame = frame.f_back

    def _resume(self) -> None:
        """Put the newest intact checkpoint over everything that `learn` has set up so far."""
        self._is_pending = False
        self.report = self.run.resume(classes=self._classes)
        if self.report is None or self._learn is None:
            return
        progress: Any = self._progress
        if progress.finished:
            # Early stopping ends a run below its total; the loop must not go on from there.
            set_local(self._learn, "total_timesteps", self.model.num_timesteps)
        if "iteration" in self._learn.f_locals:
            set_local(self._learn, "iteration", progress.iteration)
        for frame in self._frames():
            for name, value in progress.locals[frame.f_code.co_name].items():
                set_local(frame, name, value)
        if self.verbose:
            done = "finished already" if progress.finished else "resumed"
            self._say(f"{self.run.path}: {done} at step {self.report.step:,}")

    def _say(self, text: str) -> None:
        print(f"rekindle: {text}", flush=True)  # noqa: T201 - what verbose=1 asks for

    def _note_progress(self) -> None:
        assert self._learn is not None
        progress: Any = self._progress
        progress.step = self.model.num_timesteps
        progress.updates = self.model._n_updates
        progress.episodes = self.model._episode_num
        progress.iteration = self._learn.f_locals.get("iteration", 0)

    def _metrics(self) -> dict[str, float]:
        episodes = self.model.ep_info_buffer or ()
        returns = [float(episode["r"]) for episode in episodes]
        return {"return": sum(returns) / len(returns)} if returns else {}

    def _on_step(self) -> bool:
        self.run.trace(self.model.num_timesteps, is_inside=True)
        return True

    def _on_rollout_end(self) -> None:
        self._progress.epochs += 1

    def _on_training_end(self) -> None:
        self._note_progress()
        self._progress.locals = {}
        self._progress.finished = True
        self.run.save(metrics=self._metrics())
        self.run.close()
        self._learn = None


def _frame_of_learn(model: BaseAlgorithm) -> FrameType:
    """The running loop of `model.learn`: the innermost, where a subclass calls its base's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "learn" and frame.f_locals.get("self") is model:
            return frame
        frame = frame.f_back
    raise UnsupportedError(
        "rekindle.sb3.Checkpoint: expected to be called by model.learn, found no such call. "
        "Pass it as callback= to learn."
    )


def set_local(frame: FrameType, name: str, value: Any) -> None:
    """Set a local variable of a running function.

    The one counter of SB3's loop that lives nowhere else (`iteration`) decides when logs are
    written. Python 3.13 writes through `f_locals` (PEP 667); before, CPython is told to.
    """
    frame.f_locals[name] = value
    if sys.version_info < (3, 13):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def configuration(model: BaseAlgorithm) -> dict[str, Any]:
    """What must be the same for a run to be resumed: hyper-parameters, sizes, seed."""
    found = {name: _plain(value) for name, value in adapters.constructor_arguments(model).items()}
    return {
        "policy": label(model.policy_class),
        "n_envs": model.n_envs,
        "total_timesteps": model._total_timesteps,
        **found,
    }


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON: classes and functions by name, objects by name and attributes."""
    if isinstance(value, (enum.Enum, np.generic)):
        return _plain(value.value if isinstance(value, enum.Enum) else value.item())
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return label(value)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    attributes = {
        key: item
        for key, item in attributes_of(value).items()
        if isinstance(item, (bool, int, float, str, type(None)))
    }
    return {"class": label(type(value)), **attributes}


def environment_name(model: BaseAlgorithm) -> str | None:
    """The name of the environment that a model trains in, where it has one."""
    env: Any = model.env
    while env is not None:
        name = getattr(getattr(env, "spec", None), "id", None)
        if name:
            return str(name)
        inner = getattr(env, "envs", None)
        env = inner[0] if inner else getattr(env, "venv", None)
    return None


# --------------------------------------------------------------------------- save and load


def save(
    model: BaseAlgorithm,
    path: PathLike,
    *,
    overwrite: bool = False,
    metrics: Mapping[str, Any] | None = None,
    exclude: Iterable[str] = (),
) -> SavedCheckpoint:
    """Save a model: networks, optimizers, buffers, counters, environment, random generators.

    Args:
        model: Any algorithm of Stable-Baselines3 or sb3-contrib.
        path: The directory to make, or one file where the name ends in `.zip`.
        overwrite: Replace an existing checkpoint, in one step.
        metrics: Measurements to keep beside it.
        exclude: Paths to leave out, such as `"env"`.
    """
    counters = {"updates": model._n_updates, "episodes": model._episode_num}
    excluded = tuple(exclude)
    named = {name: part for name, part in components(model).items() if name not in excluded}
    return save_components(
        path,
        step=model.num_timesteps,
        counters=counters,
        metrics=metrics,
        overwrite=overwrite,
        exclude=excluded,
        **named,
    )


def load(
    path: PathLike,
    env: Any = None,
    device: str = "auto",
    *,
    classes: Iterable[type] = (),
    **replace: Any,
) -> Any:
    """Build a ready model from data alone, to play or to go on training.

    The global random generators are left as they are, and the environment's state is not restored:
    the next `learn` resets it. To go on exactly where a run stopped, use `Checkpoint`.

    Args:
        path: A checkpoint of a model, or a run (its newest checkpoint).
        env: An environment to train in; its spaces must be those of the checkpoint. Running
            statistics of a `VecNormalize` are restored into it.
        device: Where the networks go.
        classes: Classes that are not SB3's own and that the model was made with: a policy, a
            features extractor, an activation.
        **replace: Constructor arguments to use instead of the stored ones, such as
            `learning_rate=3e-4` where that was a function.

    Returns:
        A model of the class that was saved.

    Raises:
        UnsupportedError: The checkpoint names classes or functions that were not passed; the error
            lists them all.
        MismatchError: The environment's spaces differ, or a network's shapes.
    """
    checkpoint = open_checkpoint(path)
    document = checkpoint.document("agent")["root"]
    if document.get("$adapter") != adapters.ALGORITHM.name:
        raise UnsupportedError(
            f"{checkpoint.path}: expected a model of Stable-Baselines3 as `agent`, found "
            f"{document.get('$adapter') or 'something else'}.",
            path=checkpoint.path,
        )
    builder = _Builder(checkpoint, document, classes, replace)
    with _generators_kept():
        model = builder.model(env, device)
    asked = {
        name: part
        for name, part in components(model).items()
        if name in checkpoint and name not in ("env", "rng")
    }
    replaced = [f"agent/{name}" for name in replace]
    if "learning_rate" in replace:
        replaced.append("agent/lr_schedule")
    checkpoint.restore(asked, classes=builder.classes.values(), keep=replaced)
    return model


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the global generators back after SB3's constructor has seeded them anew."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


class _Builder:
    """A model from the constructor's arguments that a checkpoint holds."""

    def __init__(
        self,
        checkpoint: SavedCheckpoint,
        document: dict[str, Any],
        classes: Iterable[type],
        replace: Mapping[str, Any],
    ) -> None:
        self._checkpoint = checkpoint
        self._document = document
        self._stored = document["constructor"]
        self._replace = replace
        self.classes = {label(cls): cls for cls in classes}
        self._missing: list[tuple[str, str]] = []

    def model(self, env: Any, device: str) -> Any:
        """Construct the model, set up but not yet restored."""
        cls = self._class(self._document["class"], "agent", BaseAlgorithm)
        policy = self._class(self._stored["policy"], "policy", BasePolicy)
        arguments = {
            name: self._replace[name] if name in self._replace else self._value(node, name)
            for name, node in self._stored["arguments"].items()
        }
        arguments |= {k: v for k, v in self._replace.items() if k not in arguments}
        if self._missing:
            raise self._refusal()
        if env is None and _relabels_goals(arguments.get("replay_buffer_class")):
            raise UnsupportedError(
                f"{self._checkpoint.path}: expected an environment, because the model's "
                "HerReplayBuffer asks it for rewards, found none. Pass env=...",
                path=self._checkpoint.path,
                key="env",
            )
        model = cls(policy=policy, env=None, device=device, _init_setup_model=False, **arguments)
        model.observation_space = spaces.build(self._stored["observation_space"])
        model.action_space = spaces.build(self._stored["action_space"])
        model.n_envs = self._stored["n_envs"]
        if env is not None:
            self._set_env(model, env)
        model._setup_model()
        return model

    def _set_env(self, model: Any, env: Any) -> None:
        wrapped: VecEnv = model._wrap_env(env, 0, True)
        differences = [
            difference
            for kind in ("observation", "action")
            for difference in spaces.differences(
                self._stored[f"{kind}_space"],
                spaces.describe(getattr(wrapped, f"{kind}_space")),
                kind,
            )
        ]
        if differences:
            raise MismatchError(
                f"{self._checkpoint.path}: the environment is not the one this agent was trained "
                f"in:\n{listing(differences)}\nPass an environment with these spaces.",
                path=self._checkpoint.path,
                differences=differences,
            )
        model.env = wrapped
        model.n_envs = wrapped.num_envs
        model._vec_normalize_env = unwrap_vec_normalize(wrapped)

    def _class(self, name: str, where: str, base: type | None = None) -> Any:
        """A class by its label: passed in, or one of SB3's and torch's own that are loaded."""
        found = self.classes.get(name) or self._own_class(name)
        if not isinstance(found, type) or (base is not None and not issubclass(found, base)):
            kind = "" if base is None else f", a subclass of {base.__name__}"
            self._missing.append((where, f"the class {name}{kind}"))
            return None
        return found

    def _own_class(self, name: str) -> Any:
        """A class of the known packages; only of the kinds that a model is made of."""
        module, _, qualified = name.partition(":")
        if module == "numpy":
            number = getattr(np, qualified, None)
            return number if isinstance(number, type) and issubclass(number, np.generic) else None
        if not any(module == package or module.startswith(f"{package}.") for package in _PACKAGES):
            return None
        if module.startswith("sb3_contrib"):
            _import_contrib()
        found = getattr(sys.modules.get(module), qualified, None)
        if not isinstance(found, type) or found.__module__ != module:
            return None
        return found if issubclass(found, _KINDS) or module == _SCHEDULES else None

    def _value(self, node: Any, where: str) -> Any:
        """A constructor argument: plain data, with classes looked up among the known ones."""
        if isinstance(node, list):
            return [self._value(item, f"{where}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        tag = tag_of(node)
        if tag is None:
            return {
                unescape(key): self._value(item, f"{where}[{key!r}]")
                for key, item in node.items()
                if key != "$id"
            }
        if tag == "$class":
            return self._class(node["$class"], where)
        if tag in ("$tuple", "$list"):
            items = self._value(node[tag], where)
            return tuple(items) if tag == "$tuple" else items
        if tag == "$function":
            self._missing.append((where, f"the function {node['$function']}"))
            return None
        if tag == "$object":
            return self._object(node, where)
        if tag == "$ref":
            return self._shared(node, where)
        return self._decoded(node, where)

    def _shared(self, node: dict[str, Any], where: str) -> Any:
        """A value that stands elsewhere in the agent's document."""
        component, _, number = node["$ref"].partition("#")
        if number:
            found = _find_shared(self._checkpoint.document(component), int(number))
            if found is not None:
                return self._value(found, where)
        return self._decoded(node, where)

    def _decoded(self, node: dict[str, Any], where: str) -> Any:
        match = Match(self._reader(), {}, self.classes.values())
        match.enter("agent")
        value = match.node(node, None, where)
        self._missing += [(item.key, item.expected) for item in match.differences]
        match.apply()
        return value

    def _reader(self) -> Reader:
        return Reader(self._checkpoint.path, self._checkpoint.manifest, verify=True)

    def _object(self, node: dict[str, Any], where: str) -> Any:
        """A schedule or noise of SB3's own: its class is known, its attributes are data."""
        cls = self._class(node["$object"], where)
        if cls is None:
            return None
        shell = object.__new__(cls)
        for key, item in node["attributes"].items():
            if key != "$id":
                set_attribute(shell, unescape(key), self._value(item, f"{where}.{key}"))
        return shell

    def _refusal(self) -> UnsupportedError:
        wanted = sorted(set(self._missing))
        lines = "\n".join(f"  {where}: {what}" for where, what in wanted)
        return UnsupportedError(
            f"{self._checkpoint.path}: {plural(len(wanted), 'thing')} that the model was made with "
            f"cannot come from a file:\n{lines}\n"
            "Pass classes as classes=[...], and functions by the argument's name "
            "(learning_rate=...).",
            path=self._checkpoint.path,
            refusals=wanted,
        )


def _relabels_goals(buffer: Any) -> bool:
    return isinstance(buffer, type) and issubclass(buffer, HerReplayBuffer)


def _find_shared(content: Any, number: int) -> Any:
    pending = [content]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get("$id") == number:
                return node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return None


def _import_contrib() -> None:
    try:
        import sb3_contrib  # noqa: F401 - its classes are looked up among the loaded modules
    except ImportError as error:
        raise MissingDependencyError(
            "the model is one of sb3-contrib's, which is not installed. "
            "Install it with `pip install rekindle[sb3]`."
        ) from error

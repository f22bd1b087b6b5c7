"""A mixin that gives a class `save` and `load`, and remembers how it was constructed."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from rekindle.bundle import KIND, is_for_learning, is_replay_buffer, write
from rekindle.checkpoint import Checkpoint, open_checkpoint
from rekindle.codecs import values
from rekindle.errors import FormatError, MismatchError, NotFoundError
from rekindle.files import PathLike
from rekindle.graph import CONSTRUCTOR
from rekindle.registry import adapter_for, label
from rekindle.report import RestoreReport

_CONTAINERS = (dict, list, tuple, set, frozenset)


class Saveable:
    """Mixin for an agent of your own: a `torch.nn.Module` or any class.

        class Agent(rk.Saveable, torch.nn.Module):
            def __init__(self, num_inputs, hidden=64): ...

        agent.save("agents/one")                # to act: small
        agent = Agent.load("agents/one")        # constructed with the same arguments
        agent.save_for_training("agents/two")   # everything
        agent = Agent.load_for_training("agents/two")

    The arguments of the constructor are kept as data beside the state. An argument that is not data
    (an environment, a class, a function) is passed again to `load`, by its name.
    """

    replay_buffers: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that hold what was experienced, where Rekindle does not know their class.

    It knows what holds a `rk.RingBuffer`, and the buffers of Stable-Baselines3 and TorchRL.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments; constructing goes on as it would without the mixin."""
        self = super().__new__(cls)
        self.__dict__[CONSTRUCTOR] = (_kept(args), _kept(kwargs))
        return self

    def save(
        self,
        path: PathLike,
        buffer: bool = False,
        config: bool | Mapping[str, Any] = False,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        exclude: Iterable[str] = (),
    ) -> Checkpoint:
        """Save what the object needs to act, and how it was constructed.

        Left out, wherever they stand, are gradients, optimizers and what schedules them, and replay
        buffers. Everything else that it holds is saved: what Rekindle does not know is not left
        out. The checkpoint says that it does not suffice to train on.

        Args:
            path: The directory to make, or one file where the name ends in `.zip`.
            buffer: Whether to keep what learning goes on with after all: replay buffers and
                optimizers. It is then what `save_for_training` saves, without the gradients.
            config: Whether to keep the configuration as a component of its own for people to read:
                the object's `config`, or the arguments of its constructor. Or a configuration.
            step: Environment steps so far.
            metrics: Measurements to keep beside it.
            overwrite: Replace an existing checkpoint, in one step.
            exclude: Paths to leave out, such as `"agent.writer"`.
        """
        return self._write(
            Path(path),
            config,
            has_buffer=buffer,
            kind="checkpoint" if buffer else KIND,
            omit=_nothing if buffer else self._omitted(is_for_learning),
            step=step,
            metrics=metrics,
            overwrite=overwrite,
            exclude=tuple(exclude),
        )

    def save_for_training(
        self,
        path: PathLike,
        buffer: bool = True,
        config: bool | Mapping[str, Any] = False,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        exclude: Iterable[str] = (),
    ) -> Checkpoint:
        """Save everything that the object holds, and how it was constructed.

        Args:
            path: The directory to make, or one file where the name ends in `.zip`.
            buffer: Whether to keep replay buffers. Without them, and so without gradients,
                training goes on with an empty one.
            config: As in `save`.
            step: Environment steps so far.
            metrics: Measurements to keep beside it.
            overwrite: Replace an existing checkpoint, in one step.
            exclude: Paths to leave out, such as `"agent.writer"`.
        """
        return self._write(
            Path(path),
            config,
            has_buffer=buffer,
            kind="checkpoint",
            omit=None if buffer else self._omitted(is_replay_buffer),
            step=step,
            metrics=metrics,
            overwrite=overwrite,
            exclude=tuple(exclude),
        )

    @classmethod
    def load(
        cls, path: PathLike, buffer: bool = False, *, classes: Iterable[type] = (), **arguments: Any
    ) -> Self:
        """Construct the object as it was constructed, then put its state back.

        Args:
            path: A checkpoint that `save` or `save_for_training` made, or a run of such.
            buffer: Whether to put replay buffers back too; they stay as constructed if not.
            classes: Classes of the program that the state may hold where a new object holds none.
            **arguments: Constructor arguments to use instead of the stored ones, and those that
                could not be stored.

        Raises:
            MismatchError: It was saved by another class, arguments must be passed again (the error
                names them), or the state does not fit the object they give.
            NotFoundError: Replay buffers are asked for, and none was saved.
        """
        checkpoint = open_checkpoint(path)
        self = cls._constructed(checkpoint, classes, arguments, buffer=buffer)
        omit = None if buffer else self._omitted(is_replay_buffer)
        checkpoint.restore({"agent": self}, classes=classes, omit=omit)
        return self

    @classmethod
    def load_for_training(
        cls, path: PathLike, *, classes: Iterable[type] = (), **arguments: Any
    ) -> Self:
        """Construct the object as it was constructed, then put back all that it held.

        Args:
            path: A checkpoint that `save_for_training` made, or a run of such.
            classes: As in `load`.
            **arguments: As in `load`.

        Raises:
            MismatchError: As in `load`.
            NotFoundError: It was saved to act, without what training needs.
        """
        checkpoint = open_checkpoint(path)
        if checkpoint.manifest.kind == KIND:
            raise NotFoundError(
                f"{checkpoint.path}: expected a checkpoint to train on, found one that was saved "
                f"to act{_left_out(checkpoint)}. Load it with load(), or save with "
                "save_for_training().",
                path=checkpoint.path,
            )
        self = cls._constructed(checkpoint, classes, arguments)
        checkpoint.restore({"agent": self}, classes=classes)
        return self

    def restore(
        self, path: PathLike, *, strict: bool = True, classes: Iterable[type] = ()
    ) -> RestoreReport:
        """Put a saved state into this object, in place; see `rekindle.restore`."""
        checkpoint = open_checkpoint(path)
        return checkpoint.restore({"agent": self}, strict=strict, classes=classes)

    @staticmethod
    def metadata(path: PathLike) -> dict[str, Any]:
        """What a save tells of itself, without reading any array.

        Args:
            path: A checkpoint that `save` or `save_for_training` made, or a run of such.

        Returns:
            `class`, `kind` (`policy`: to act; `checkpoint`: to train on), `step`, `created`,
            `counters`, `metrics`, and `config`: what `config=` kept, else the arguments of the
            constructor.
        """
        checkpoint = open_checkpoint(path)
        stored = checkpoint["constructor"]
        return {
            "class": stored["class"],
            "kind": checkpoint.manifest.kind,
            "step": checkpoint.step,
            "created": checkpoint.manifest.created,
            "counters": checkpoint.counters,
            "metrics": checkpoint.metrics,
            "config": checkpoint["config"] if "config" in checkpoint else stored["arguments"],
        }

    def _write(
        self,
        path: Path,
        config: bool | Mapping[str, Any],
        *,
        has_buffer: bool,
        overwrite: bool,
        **options: Any,
    ) -> Checkpoint:
        given = _bound(type(self), *self.__dict__[CONSTRUCTOR])
        constructor = {
            "class": label(type(self)),
            "arguments": {name: value for name, value in given.items() if _is_data(value)},
            "passed": {
                name: label(value if isinstance(value, type) else type(value))
                for name, value in given.items()
                if not _is_data(value)
            },
            "buffer": has_buffer,
        }
        components: dict[str, Any] = {"agent": self, "constructor": constructor}
        if config is True:
            components["config"] = getattr(self, "config", constructor["arguments"])
        elif config is not False:
            components["config"] = dict(config)
        return write(path, components, overwrite=overwrite, **options)

    @classmethod
    def _constructed(
        cls,
        checkpoint: Checkpoint,
        classes: Iterable[type],
        arguments: Mapping[str, Any],
        *,
        buffer: bool = False,
    ) -> Self:
        """A new object, constructed as the one that was saved."""
        stored = _constructor(checkpoint, classes)
        if buffer and not stored.get("buffer", True):
            raise NotFoundError(
                f"{checkpoint.path}: expected a checkpoint with replay buffers, found one that was "
                f"saved without{_left_out(checkpoint)}. Save with buffer=True, or load without it.",
                path=checkpoint.path,
                key="replay_buffer",
            )
        if stored["class"] != label(cls):
            raise MismatchError(
                f"{checkpoint.path}: expected an object of class {label(cls)}, found "
                f"{stored['class']}. Load it with the class that saved it.",
                path=checkpoint.path,
            )
        missing = {k: v for k, v in stored["passed"].items() if k not in arguments}
        if missing:
            lines = "\n".join(f"  {name}: an object of {kind}" for name, kind in missing.items())
            names = ", ".join(f"{name}=..." for name in missing)
            raise MismatchError(
                f"{checkpoint.path}: arguments of the constructor that are not data must be passed "
                f"again:\n{lines}\nCall {cls.__name__}.load(path, {names}).",
                path=checkpoint.path,
                key=next(iter(missing)),
            )
        return _constructed(cls, {**stored["arguments"], **arguments})

    def _omitted(self, is_known: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """What says of an object that it is left out: known by its class, or named by this one."""
        named = [getattr(self, name, None) for name in self.replay_buffers]
        own = {id(value) for value in named if values.encoder_for(type(value)) is None}
        return lambda value: value is not self and (is_known(value) or id(value) in own)


def _nothing(value: Any) -> bool:
    """Leaves out no object: gradients alone are left out where anything may be."""
    return False


def _left_out(checkpoint: Checkpoint) -> str:
    names = checkpoint.manifest.excluded
    return f" (left out: {', '.join(names[:5])})" if names else ""


def _kept(value: Any) -> Any:
    """A copy of plain containers, so that later changes to an argument are not taken for it."""
    if type(value) is dict:
        return {key: _kept(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_kept(item) for item in value)
    return value


def _bound(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the constructor's parameters, defaults included."""
    bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def _constructed(cls: type, arguments: dict[str, Any]) -> Any:
    """Call the constructor with arguments by parameter, starred parameters included."""
    signature = inspect.signature(cls.__init__)
    bound = inspect.BoundArguments(signature, {})
    extra = dict(arguments)
    for position, (name, parameter) in enumerate(signature.parameters.items()):
        if position == 0:
            bound.arguments[name] = None
        elif name in extra:
            bound.arguments[name] = extra.pop(name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[name] = {}
    catch_all = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    if catch_all:
        bound.arguments[catch_all[0]] = {**bound.arguments.get(catch_all[0], {}), **extra}
        extra = {}
    return cls(*bound.args[1:], **bound.kwargs, **extra)


def _is_data(value: Any) -> bool:
    """Whether an argument can be rebuilt from a file alone."""
    cls = type(value)
    if values.encoder_for(cls) is not None or isinstance(value, enum.Enum):
        return True
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, dict):
        return all(_is_data(item) for pair in value.items() for item in pair)
    if isinstance(value, _CONTAINERS):
        return all(_is_data(item) for item in value)
    if dataclasses.is_dataclass(cls):
        return all(_is_data(getattr(value, field.name)) for field in dataclasses.fields(cls))
    adapter = adapter_for(cls)
    return adapter is not None and (adapter.is_value or hasattr(adapter, "build"))


def _constructor(checkpoint: Checkpoint, classes: Iterable[type]) -> dict[str, Any]:
    """The constructor's arguments as the objects that they were."""
    if "constructor" not in checkpoint:
        raise NotFoundError(
            f"{checkpoint.path}: expected a checkpoint that an object's save() made, found one "
            f"with {', '.join(checkpoint)}. Construct the object and use rekindle.restore.",
            path=checkpoint.path,
        )
    built = checkpoint.build("constructor", classes=classes)
    if not isinstance(built, dict) or not {"class", "arguments", "passed"} <= built.keys():
        raise FormatError(
            f"{checkpoint.path}: expected the arguments of a constructor, found something else.",
            path=Path(checkpoint.path),
        )
    return built

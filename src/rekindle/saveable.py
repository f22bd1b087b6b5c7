"""A mixin that gives a class `save`, `load` and `restore`, and remembers how it was constructed."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from rekindle.checkpoint import Checkpoint, open_checkpoint, save
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

        agent.save("agents/one")
        agent = Agent.load("agents/one")        # constructed with the same arguments

    The arguments of the constructor are kept as data beside the state. An argument that is not data
    (an environment, a class, a function) is passed again to `load`, by its name.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments; constructing goes on as it would without the mixin."""
        self = super().__new__(cls)
        self.__dict__[CONSTRUCTOR] = (_kept(args), _kept(kwargs))
        return self

    def save(
        self,
        path: PathLike,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        exclude: Iterable[str] = (),
    ) -> Checkpoint:
        """Save everything that the object holds, and how it was constructed.

        Args:
            path: The directory to make, or one file where the name ends in `.zip`.
            step: Environment steps so far.
            metrics: Measurements to keep beside it.
            overwrite: Replace an existing checkpoint, in one step.
            exclude: Paths to leave out, such as `"agent.writer"`.
        """
        given = _bound(type(self), *self.__dict__[CONSTRUCTOR])
        constructor = {
            "class": label(type(self)),
            "arguments": {name: value for name, value in given.items() if _is_data(value)},
            "passed": {
                name: label(value if isinstance(value, type) else type(value))
                for name, value in given.items()
                if not _is_data(value)
            },
        }
        return save(
            path,
            step=step,
            metrics=metrics,
            overwrite=overwrite,
            exclude=tuple(exclude),
            agent=self,
            constructor=constructor,
        )

    @classmethod
    def load(cls, path: PathLike, *, classes: Iterable[type] = (), **arguments: Any) -> Self:
        """Construct the object as it was constructed, then put its state back.

        Args:
            path: A checkpoint that `save` made, or a run of such.
            classes: Classes of the program that the state may hold where a new object holds none.
            **arguments: Constructor arguments to use instead of the stored ones, and those that
                could not be stored.

        Raises:
            MismatchError: It was saved by another class, arguments must be passed again (the error
                names them), or the state does not fit the object they give.
        """
        checkpoint = open_checkpoint(path)
        stored = _constructor(checkpoint, classes)
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
        self = _constructed(cls, {**stored["arguments"], **arguments})
        checkpoint.restore({"agent": self}, classes=classes)
        return self

    def restore(
        self, path: PathLike, *, strict: bool = True, classes: Iterable[type] = ()
    ) -> RestoreReport:
        """Put a saved state into this object, in place; see `rekindle.restore`."""
        checkpoint = open_checkpoint(path)
        return checkpoint.restore({"agent": self}, strict=strict, classes=classes)


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

"""What the golden checkpoints of format version 1 hold, and values written out to be compared.

Nothing here changes once golden files exist: they name these classes.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import logging
import math
import operator
import pathlib
import random
import types
import uuid
from typing import Any, NamedTuple

import numpy as np
import torch

import rekindle as rk


class Kind(enum.Enum):
    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


class Transition(NamedTuple):
    observation: Any
    reward: float


@dataclasses.dataclass
class Settings:
    gamma: float
    kind: Kind


class Buffer(collections.OrderedDict):
    """An object of a class that derives from a container, and has attributes."""


class Agent:
    """An object of a class without an adapter."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.log = logging.getLogger("golden")
        self.writer = object()
        self.method = self.act
        self.owner = self

    def act(self) -> int:
        return self.number


def counter(start: int) -> Any:
    total = [start]

    def count() -> int:
        total[0] += 1
        return total[0]

    return count


def plain(seed: int) -> dict[str, Any]:
    """Components of plain data, numpy arrays and ordinary objects; equal for equal seeds."""
    rng = np.random.default_rng(seed)
    shared = [seed, "shared"]
    circle: dict[str, Any] = {"name": "circle"}
    circle["self"] = circle
    knot: tuple[Any, ...] = ([seed],)
    knot[0].append(knot)
    deep: list[Any] = [seed]
    for _ in range(60):
        deep = [deep]
    base = rng.normal(size=(3, 4))
    memory = rng.integers(0, 100, 10)
    values = {
        "none": None,
        "true": True,
        "integer": seed - 10,
        "big": -(2**70) - seed,
        "float": seed / 7,
        "negative zero": -0.0,
        "nan": math.nan,
        "infinity": -math.inf,
        "text": "naïve ☃",
        "surrogate": "\ud800",
        "complex": complex(seed, -0.0),
        "bytes": bytes([0, 255, seed]),
        "bytearray": bytearray([seed, 1]),
        "range": range(seed, 20, 3),
        "slice": slice(None, seed),
        "datetime": datetime.datetime(2026, 11, 21, 6, 50, seed, 7, tzinfo=datetime.UTC, fold=1),
        "date": datetime.date(2026, 11, 21),
        "time": datetime.time(6, 50, seed),
        "timedelta": datetime.timedelta(days=-1, microseconds=seed),
        "timezone": datetime.timezone(datetime.timedelta(hours=seed % 12), "here"),
        "decimal": decimal.Decimal("1.50"),
        "fraction": fractions.Fraction(seed, 7),
        "uuid": uuid.UUID(int=seed),
        "path": pathlib.PurePosixPath("runs", str(seed)),
        "ellipsis": ...,
        "scalar": np.float32(seed / 7),
        "scalar nan": np.float16("nan"),
        "dtype": np.dtype(">i4"),
        "$key": {"$$": 1},
    }
    containers = {
        "list": [1, [2, []]],
        "tuple": (1, (2,)),
        "set": {seed, "a"},
        "frozenset": frozenset([seed]),
        "deque": collections.deque([seed, 2], maxlen=3),
        "keys": {(1, "a"): seed, None: 2, 3.5: 4, Kind.DISCRETE: 5},
        "ordered": collections.OrderedDict(b=1, a=seed),
        "default": collections.defaultdict(list, {1: [seed]}),
        "counter": collections.Counter("hello"),
        "proxy": types.MappingProxyType({"a": seed}),
        "objects": np.array([[None, "a"], [seed, 1.5]], dtype=object),
        "named": Transition(np.arange(3.0) + seed, 1.0),
        "settings": Settings(0.9 + seed / 1000, Kind.CONTINUOUS),
        "buffer": Buffer(first=seed),
        "partial": functools.partial(operator.add, seed),
        "function": counter(seed),
        "class": dict,
        "module": math,
    }
    arrays = {
        **{name: rng.integers(0, 2, (2, 3)).astype(name) for name in
           ("float64", "float32", "float16", "int64", "int32", "int16", "int8",
            "uint64", "uint32", "uint16", "uint8", "bool", "complex64", "complex128")},
        "big-endian": rng.normal(size=3).astype(">f8"),
        "text": np.array(["a", "☃", str(seed)]),
        "bytes": np.array([b"ab", bytes([65 + seed])]),
        "dates": np.array(["2026-11-21", "NaT"], dtype="M8[D]"),
        "structured": np.array(
            [(seed, [1, 2]), (3, [4, 5])], dtype=[("a", "<i4"), ("b", ">f8", (2,))]
        ),
        "scalar": np.array(float(seed)),
        "empty": np.zeros((0, 3), np.float32),
        "fortran": np.asfortranarray(rng.normal(size=(2, 3))),
        "expanded": np.broadcast_to(rng.normal(size=(1, 3)), (4, 3)),
    }  # fmt: skip
    aliases = {
        "one": shared,
        "two": shared,
        "circle": circle,
        "knot": knot,
        "deep": deep,
        "base": base,
        "row": base[1],
        "reversed": base[::-1, ::2],
        "left": memory[:6],
        "right": memory[4:],
    }
    agent = Agent(seed)
    return {
        "values": values,
        "containers": containers,
        "arrays": arrays,
        "aliases": aliases,
        "agent": agent,
        "again": {"array": arrays["float64"], "agent": agent, "list": shared},
    }


def learner(seed: int) -> dict[str, Any]:
    """Components of torch and random generators; equal for equal seeds."""
    torch.manual_seed(seed)
    policy = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)
    )
    policy.register_buffer("clock", torch.tensor([seed]), persistent=False)
    policy.register_buffer("nothing", None)
    policy[1].eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01 * seed)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    for _ in range(seed):
        optimizer.zero_grad()
        policy(torch.randn(4, 2)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    memory = torch.arange(6.0) * seed
    half = torch.tensor([1.5, -2.0, seed], dtype=torch.bfloat16)
    tensors = {
        "weight": policy[0].weight,
        "memory": memory,
        "part": memory[2:5],
        "bfloat16": half,
        "bfloat16 part": half[1:],
        "float8": torch.tensor([0.5, seed]).to(torch.float8_e4m3fn),
        "float8 wide": torch.tensor([0.5, seed]).to(torch.float8_e5m2),
        "complex": torch.tensor([1 + 2j, seed]),
        "transposed": torch.arange(6).reshape(2, 3).mul(seed).T,
        "sparse": torch.eye(2).mul(seed).to_sparse(),
        "result": policy[0].weight.sum(),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, seed]),
    }
    generators = {
        "python": random.Random(seed),
        "numpy": np.random.default_rng(seed),
        "legacy": np.random.RandomState(seed),
        "seeds": np.random.SeedSequence(seed),
        "torch": torch.Generator().manual_seed(seed),
    }
    return {
        "policy": policy,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "tensors": tensors,
        "generators": generators,
    }


def trained(seed: int) -> dict[str, Any]:
    """What the golden run tracks."""
    progress = rk.Progress()
    progress.step, progress.updates = 5 * seed, seed
    weights = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    return {"policy": {"weights": weights, "unchanged": [1, 2]}, "progress": progress}


# --------------------------------------------------------------------------- written out


def described(components: Any) -> dict[str, str]:
    """Every value below, by path, as text that is equal only for equal values and aliases."""
    writer = _Writer()
    writer.write(components, "")
    return writer.lines


class _Writer:
    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self._seen: dict[int, str] = {}
        self._arrays: list[tuple[str, np.ndarray[Any, Any]]] = []
        self._keep: list[Any] = []

    def write(self, value: Any, path: str) -> None:
        plain = (bool, int, float, str, bytes, complex, type(None), type(...), type)
        if isinstance(value, plain):
            self.lines[path] = f"{type(value).__name__} {value!a}"
            return
        if isinstance(value, (np.generic, np.dtype, types.ModuleType)):
            self.lines[path] = _named(value)
            return
        if id(value) in self._seen:
            self.lines[path] = f"the same as {self._seen[id(value)]}"
            return
        self._seen[id(value)] = path
        self._keep.append(value)
        if isinstance(value, torch.Tensor):
            self._tensor(value, path)
        elif isinstance(value, np.ndarray):
            self._array(value, path)
        else:
            self._holder(value, path)

    def _tensor(self, value: torch.Tensor, path: str) -> None:
        grad = " requires grad" if value.requires_grad and value.is_leaf else ""
        self.lines[path] = f"{value.dtype}{grad}"
        data = value.detach()
        if data.layout is torch.sparse_coo:
            self.lines[path] += f" {data.layout}"
            self.write(data.coalesce().indices(), f"{path}.indices")
            self.write(data.coalesce().values(), f"{path}.values")
            return
        bits = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8,
                torch.float8_e5m2: torch.uint8}.get(data.dtype, data.dtype)  # fmt: skip
        self._array(data.view(bits).numpy(), f"{path}.data")
        if value.is_leaf and value.grad is not None:
            self.write(value.grad, f"{path}.grad")

    def _array(self, value: np.ndarray[Any, Any], path: str) -> None:
        if value.dtype == object:
            self.lines[path] = f"objects {value.shape}"
            return self._items(enumerate(value.reshape(-1).tolist()), path)
        content = value.tobytes()
        shown = value.tolist() if len(content) < 200 else hashlib.sha256(content).hexdigest()
        self.lines[path] = f"{value.dtype} {value.shape} {shown!a}"
        shared = [name for name, other in self._arrays if np.shares_memory(value, other)]
        if shared:
            self.lines[path] += f" shares the memory of {', '.join(shared)}"
        return self._arrays.append((path, value))

    def _holder(self, value: Any, path: str) -> None:
        name = type(value).__name__
        if isinstance(value, rk.Record):
            self.lines[path] = f"record {value.label}"
            self._items(value.items(), path)
        elif isinstance(value, (enum.Enum, torch.dtype)) or name in _PRINTED:
            self.lines[path] = f"{name} {value!a}"
        elif isinstance(value, (set, frozenset)):
            self.lines[path] = f"{name} {sorted(map(ascii, value))}"
        elif isinstance(value, (dict, types.MappingProxyType)):
            self.lines[path] = f"{name} of {len(value)}"
            self._items(value.items(), path)
            self._items(getattr(value, "__dict__", {}).items(), path)
        elif isinstance(value, (list, tuple, collections.deque)):
            depth = 1
            while len(value) == 1 and type(value) is type(value[0]) is list:
                depth, value = depth + 1, value[0]
            self.lines[path] = f"{name} of {len(value)}" + (f", {depth} deep" if depth > 1 else "")
            self._items(enumerate(value), path)
        else:
            self.lines[path] = name
            self._items(_state(value).items(), path)

    def _items(self, items: Any, path: str) -> None:
        for key, item in items:
            self.write(item, f"{path}.{key}" if path else str(key))


def _named(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, np.dtype):
        return f"dtype {value.str}"
    return f"{value.dtype} {value.item()!a}"


_PRINTED = {
    "bytearray", "range", "slice", "datetime", "date", "time", "timedelta", "timezone", "Decimal",
    "Fraction", "UUID", "PurePosixPath", "device", "Size", "Reference",
}  # fmt: skip


def _state(value: Any) -> dict[str, Any]:
    """What an object without items of its own consists of."""
    if isinstance(value, torch.nn.Module):
        flags = {f"{name}.training": part.training for name, part in value.named_modules()}
        return dict(value.named_parameters()) | dict(value.named_buffers()) | flags
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    if isinstance(value, random.Random):
        return {"state": hashlib.sha256(repr(value.getstate()).encode()).hexdigest()}
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, torch.Generator):
        return {"state": value.get_state()}
    if isinstance(value, np.random.SeedSequence):
        return value.state
    if isinstance(value, functools.partial):
        return {"function": value.func.__name__, "arguments": value.args}
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return {name: cell.cell_contents for name, cell in cells}
    if isinstance(value, types.MethodType):
        return {"name": value.__name__, "self": value.__self__}
    if isinstance(value, logging.Logger) or type(value) is object:
        return {}
    return {key: item for key, item in vars(value).items() if not key.startswith("_")}

"""What belongs to the process stays; compiled objects that hold state are refused by path."""

from __future__ import annotations

import collections
import io
import logging
import re
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rekindle as rk


class Agent:
    """A plain class with a handle to something of the process beside its state."""

    def __init__(self, handle: Any = None) -> None:
        self.handle = handle
        self.step = 0


KEPT: dict[str, Callable[[], Any]] = {
    "a logger": lambda: logging.getLogger("rekindle.tests"),
    "a logger's adapter": lambda: logging.LoggerAdapter(logging.getLogger("x"), {}),
    "a free lock": threading.Lock,
    "a free reentrant lock": threading.RLock,
    "standard output": lambda: sys.__stdout__,
    "a closed file": lambda: _closed(),
    "a weak reference": lambda: weakref.ref(KEPT_FOR_REFERENCE),
}


class _Target:
    pass


KEPT_FOR_REFERENCE = _Target()


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("name", KEPT)
def test_things_of_the_process_stay_as_they_are(name: str, tmp_path: Path) -> None:
    agent = Agent(KEPT[name]())
    agent.step = 7
    rk.save(tmp_path / "saved", agent=agent)
    fresh = Agent(KEPT[name]())
    handle = fresh.handle
    rk.restore(tmp_path / "saved", agent=fresh)
    assert fresh.handle is handle
    assert fresh.step == 7
    held = rk.load(tmp_path / "saved")["agent"]["handle"]
    assert isinstance(held, str), "only its class is in the file"


def test_a_held_lock_is_refused(tmp_path: Path) -> None:
    lock, reentrant = threading.Lock(), threading.RLock()
    with lock, reentrant, pytest.raises(rk.UnsupportedError, match="a lock that is held") as caught:
        rk.save(tmp_path / "saved", agent=Agent([lock, reentrant]))
    assert [path for path, _ in caught.value.refusals] == ["agent/handle.0", "agent/handle.1"]
    assert lock.acquire(blocking=False), "the save left it locked"
    lock.release()


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as stream, pytest.raises(
        rk.UnsupportedError, match=r"agent/handle: .*an open file"
    ):  # fmt: skip
        rk.save(tmp_path / "saved", agent=Agent(stream))


def _suspended() -> Any:
    generator = (n for n in range(9))
    next(generator)
    return generator


NATIVE: dict[str, Callable[[], Any]] = {
    "a compiled pattern's matcher": lambda: re.compile("a").scanner("aa"),
    "a suspended generator": _suspended,
    "an iterator": lambda: iter([1, 2]),
    "a thread": lambda: threading.Thread(target=print),
    "a memory view": lambda: memoryview(b"ab"),
    "an iterator of numpy": lambda: np.nditer(np.arange(3)),
    "a frame": lambda: sys._getframe(),
    "a subclass of an array": lambda: np.ma.masked_array([1, 2], mask=[0, 1]),
    "an ordered iterator": lambda: iter(collections.deque([1])),
}


@pytest.mark.parametrize("name", NATIVE)
def test_an_object_of_compiled_code_without_an_adapter_is_refused_by_path(
    name: str, tmp_path: Path
) -> None:
    env: Any = gym.make("CartPole-v1")
    env.reset(seed=1)
    env.unwrapped.engine = {"parts": [None, NATIVE[name]()]}
    with pytest.raises(rk.UnsupportedError) as caught:
        rk.save(tmp_path / "saved", env=env, agent=Agent(NATIVE[name]()))
    paths = [path for path, _ in caught.value.refusals]
    assert paths == ["env/env.env.env.engine.parts.1", "agent/handle"]
    assert type(NATIVE[name]()).__name__ in str(caught.value)
    assert not list(tmp_path.iterdir()), "something was written"


def test_what_is_refused_can_be_left_out_by_its_path(tmp_path: Path) -> None:
    agent = Agent(_suspended())
    agent.step = 5
    rk.save(tmp_path / "saved", exclude=["agent.handle"], agent=agent)
    fresh = Agent("mine")
    report = rk.restore(tmp_path / "saved", agent=fresh)
    assert (fresh.handle, fresh.step) == ("mine", 5)
    assert report.excluded == ("agent/handle",)

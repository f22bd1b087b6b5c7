"""Real agents of Velora, trained briefly, and whether two of them are the same bit for bit.

Run as a program, it trains one with checkpoints, and may be killed: see `test_resume`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import velora.models  # noqa: F401 - first, because Velora's modules import each other in a circle
from velora.callbacks import EarlyStopping, TrainCallback
from velora.models import NeuroFlow, NeuroFlowCT

from rekindle.velora import Checkpoint

KINDS: dict[str, tuple[Any, str]] = {
    "discrete": (NeuroFlow, "CartPole-v1"),
    "continuous": (NeuroFlowCT, "InvertedPendulum-v5"),
}
BATCH = 16


def built(kind: str, **options: Any) -> Any:
    cls, environment = KINDS[kind]
    given = {"actor_neurons": 20, "critic_neurons": 32, "buffer_size": 150, "seed": 3, **options}
    return cls(environment, **given)


def trained(kind: str, **options: Any) -> Any:
    agent = built(kind, **options)
    train(agent, n_episodes=4)
    return agent


def train(agent: Any, **options: Any) -> None:
    """Train, beginning with transitions that are the same in every process.

    Velora fills its buffer from environments that it does not seed, so two of its own runs differ.
    """
    if not len(agent.buffer):
        _fill(agent, 2 * BATCH)
    agent.train(BATCH, warmup_steps=0, display_count=1000, max_steps=40, window_size=5, **options)


def _fill(agent: Any, count: int) -> None:
    env = agent.eval_env
    hidden = None
    state, _ = env.reset(seed=5)
    for _ in range(count):
        action, hidden = agent.predict(state, hidden, train_mode=True)
        following, reward, terminated, truncated, _ = env.step(action)
        agent.buffer.add(state, action, reward, following, terminated or truncated, hidden)
        state = following
        if terminated or truncated:
            state, _ = env.reset()
            hidden = None


def tensors(agent: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that Velora itself saves, by name; and the entropy coefficient."""
    state = agent.state_dict()
    for network, part in state["modules"].items():
        for name, tensor in part.items():
            yield f"{network}.{name}", tensor
    for optimizer, part in state["optimizers"].items():
        for index, moments in part["state"].items():
            for name, tensor in moments.items():
                yield f"{optimizer}.{index}.{name}", tensor
    for name, tensor in agent.buffer.state_dict().items():
        yield f"buffer.{name}", tensor
    yield "log_alpha", agent.entropy.log_alpha.detach()


def differences(one: Any, other: Any) -> list[str]:
    """Names of what is not bit for bit the same in two agents."""
    found, expected = dict(tensors(other)), dict(tensors(one))
    assert found.keys() == expected.keys()
    return [
        name
        for name, tensor in expected.items()
        if (tensor.dtype, tensor.shape) != (found[name].dtype, found[name].shape)
        or tensor.numpy().tobytes() != found[name].numpy().tobytes()
    ]


def digest(agent: Any) -> str:
    """Everything of an agent, and of the generators that it draws from, in one word."""
    found = hashlib.sha256()
    for name, tensor in tensors(agent):
        found.update(name.encode() + tensor.numpy().tobytes())
    for key, value in sorted(agent.buffer.metadata().items()):
        found.update(f"{key}={value}".encode())
    found.update(torch.get_rng_state().numpy().tobytes())
    return found.hexdigest()


def actions(agent: Any) -> list[bytes]:
    """What an agent does in twenty observations, with its memory, deterministic and not."""
    generator = torch.Generator().manual_seed(7)
    found, hidden = [], None
    torch.manual_seed(11)
    for index in range(20):
        state = torch.randn(agent.state_dim, generator=generator)
        action, hidden = agent.predict(state, hidden, train_mode=index % 2 == 1)
        found += [action.numpy().tobytes(), hidden.numpy().tobytes()]
    return found


class Interrupt(TrainCallback):
    """Sends this process a signal in the middle of an episode, after so many steps of its own."""

    left = 0
    number = signal.SIGKILL

    def __init__(self) -> None: ...

    def __call__(self, state: Any) -> Any:
        if state.status == "step":
            # On the class, which belongs to the process: on the object it would be restored.
            Interrupt.left -= 1
            if Interrupt.left == 0:
                os.kill(os.getpid(), Interrupt.number)
        return state

    def config(self) -> tuple[str, dict[str, Any]]:
        return type(self).__name__, {}

    def info(self) -> str:
        return type(self).__name__


class Quiet(EarlyStopping):
    """Counts episodes of at least ten steps, and never stops at them."""

    def __call__(self, state: Any) -> Any:
        self.count += state.status == "episode" and state.ep_reward >= 10
        return state


def main(kind: str, run: Path, after: int, name: str, exclude: str) -> None:
    torch.set_num_threads(1)
    Interrupt.left, Interrupt.number = after, getattr(signal, name)
    agent = built(kind)
    saving = Checkpoint(run, every=30, exclude=[exclude] if exclude else [])
    # The one that counts comes after it: what it does in an episode is in the checkpoint too.
    counting = Quiet(1e9)
    train(agent, n_episodes=16, callbacks=[saving, counting, Interrupt()])
    print(digest(agent), counting.count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])

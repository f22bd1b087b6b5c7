"""Trains an Equinox network under several optimizers; tests save it half-way and go on elsewhere.

main() with STEPS FROM TO [FROM TO ...]   restores each checkpoint, trains on, saves again

The name of `TO` is `CASE`, or `CASE-PART` to leave that part as it was made.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import rekindle as rk

OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "adamw_chain": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 3, 12), weight_decay=0.1),
    ),
    "sgd_injected": optax.inject_hyperparams(optax.sgd)(
        learning_rate=optax.exponential_decay(0.01, 5, 0.5), momentum=0.9
    ),
    "multi_steps": optax.MultiSteps(optax.rmsprop(1e-2), every_k_schedule=3),
}
PARTS = ("model", "opt_state", "key", "state")


class Network(eqx.Module):
    """Layers of several kinds: with state, with noise, with parameters only."""

    mlp: eqx.nn.MLP
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    heads: list[eqx.nn.Linear]
    scale: float

    def __init__(self, key: jax.Array, width: int = 8) -> None:
        keys = jax.random.split(key, 3)
        self.mlp = eqx.nn.MLP(3, width, width, 2, activation=jax.nn.tanh, key=keys[0])
        self.norm = eqx.nn.BatchNorm(width, axis_name="batch", mode="ema")
        self.dropout = eqx.nn.Dropout(0.2)
        self.heads = [eqx.nn.Linear(width, 1, key=key) for key in keys[1:]]
        self.scale = 0.5

    def __call__(self, x: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        hidden, state = self.norm(self.mlp(x), state)
        hidden = self.dropout(hidden, key=key)
        return self.scale * sum(head(hidden)[0] for head in self.heads), state


def start(case: str, seed: int = 0, width: int = 8) -> rk.Progress:
    loop = rk.Progress()
    loop.model, loop.state = eqx.nn.make_with_state(Network)(jax.random.key(seed), width)
    loop.opt_state = OPTIMIZERS[case].init(eqx.filter(loop.model, eqx.is_inexact_array))
    loop.key = jax.random.key(seed + 1)
    return loop


def update(optimizer: Any, model: Any, opt_state: Any, state: Any, key: jax.Array) -> Any:
    key, data, noise = jax.random.split(key, 3)
    x = jax.random.normal(data, (16, 3))

    def loss(model: Any) -> Any:
        network = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
        y, new = network(x, state, jax.random.split(noise, 16))
        return jnp.square(y - jnp.sin(x).sum(1)).mean(), new

    grads, state = eqx.filter_grad(loss, has_aux=True)(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    changes, opt_state = optimizer.update(grads, opt_state, params)
    return eqx.apply_updates(model, changes), opt_state, state, key


UPDATES = {
    case: eqx.filter_jit(functools.partial(update, optimizer))
    for case, optimizer in OPTIMIZERS.items()
}


def train(loop: rk.Progress, case: str, num_steps: int) -> None:
    for _ in range(num_steps):
        loop.model, loop.opt_state, loop.state, loop.key = UPDATES[case](
            loop.model, loop.opt_state, loop.state, loop.key
        )
        loop.step += 1


def main() -> None:
    num_steps, *paths = sys.argv[1:]
    for source, target in zip(paths[::2], paths[1::2], strict=True):
        case, _, part = Path(target).name.partition("-")
        loop = start(case, seed=7)
        fresh = dict(vars(loop))
        rk.restore(source, progress=loop)
        if part:
            setattr(loop, part, fresh[part])
        train(loop, case, int(num_steps))
        rk.save(target, progress=loop)

"""JAX: jitted loops over Equinox, flax and plain pytrees, with typed and raw keys.

python -m tests.exactness.jax_cases CASE RUN [--kill-at STEP] [--every N]
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import rekindle as rk

Case = tuple[Callable[[Any], Callable[[Any], None]], int, int]
"""Puts the state on the loop and gives one iteration; total steps; steps between saves."""


def equinox(loop: Any) -> Callable[[Any], None]:
    """An Equinox module, a chain of optax with a schedule, typed keys."""
    schedule = optax.cosine_decay_schedule(1e-2, 400)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    loop.key, key = jax.random.split(jax.random.key(0))
    loop.model = eqx.nn.MLP(3, 1, 16, 2, key=key)
    loop.optimizer = optimizer.init(eqx.filter(loop.model, eqx.is_array))

    @eqx.filter_jit
    def update(model: eqx.nn.MLP, state: optax.OptState, key: jax.Array) -> Any:
        inputs = jax.random.normal(key, (8, 3))
        grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(inputs) - inputs.sum(1)) ** 2))
        changes, state = optimizer.update(grads(model), state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, changes), state

    def iterate(loop: Any) -> None:
        loop.key, key = jax.random.split(loop.key)
        loop.model, loop.optimizer = update(loop.model, loop.optimizer, key)

    return iterate


def pytree(loop: Any) -> Callable[[Any], None]:
    """Parameters in plain dictionaries, raw keys, a learning rate that stays weakly typed."""
    optimizer = optax.adam(1e-2)
    loop.key = jax.random.PRNGKey(1)
    loop.parameters = {"w": jnp.ones((4, 2)), "b": jnp.zeros(2), "scale": jnp.asarray(0.5)}
    loop.optimizer = optimizer.init(loop.parameters)
    loop.weak = jnp.asarray(1.0) * 2.0

    @jax.jit
    def update(parameters: Any, state: Any, weak: jax.Array, key: jax.Array) -> Any:
        inputs = jax.random.normal(key, (8, 4))

        def loss(p: Any) -> jax.Array:
            return jnp.mean((inputs @ p["w"] * p["scale"] + p["b"] - weak) ** 2)

        changes, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, changes), state, weak * 0.999

    def iterate(loop: Any) -> None:
        loop.key, key = jax.random.split(loop.key)
        new = update(loop.parameters, loop.optimizer, loop.weak, key)
        loop.parameters, loop.optimizer, loop.weak = new

    return iterate


def flax(loop: Any) -> Callable[[Any], None]:
    """A flax.nnx module with dropout and its optimizer, changed in place."""
    loop.model = nnx.Sequential(
        nnx.Linear(3, 8, rngs=nnx.Rngs(0)),
        nnx.Dropout(0.3, rngs=nnx.Rngs(1)),
        nnx.Linear(8, 1, rngs=nnx.Rngs(2)),
    )
    loop.optimizer = nnx.Optimizer(loop.model, optax.adam(1e-2), wrt=nnx.Param)
    loop.key = jax.random.key(3)

    @nnx.jit
    def update(model: Any, optimizer: Any, key: jax.Array) -> None:
        inputs = jax.random.normal(key, (8, 3))
        grads = nnx.grad(lambda m: jnp.mean((m(inputs)[:, 0] - inputs.sum(1)) ** 2))(model)
        optimizer.update(model, grads)

    def iterate(loop: Any) -> None:
        loop.key, key = jax.random.split(loop.key)
        update(loop.model, loop.optimizer, key)

    return iterate


CASES: dict[str, Case] = {
    "equinox": (equinox, 300, 60),
    "pytree": (pytree, 300, 60),
    "flax_nnx": (flax, 200, 40),
}


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("run")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--every", type=int)
    arguments = parser.parse_args()
    build, total, every = CASES[arguments.case]
    loop: Any = rk.Progress()
    iterate = build(loop)
    run = rk.Run(arguments.run, every=arguments.every or every)
    run.track(progress=loop)
    run.resume()
    while loop.step < total:
        if arguments.kill_at is not None and loop.step >= arguments.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        run.checkpoint()
        iterate(loop)
        loop.step += 1
    run.save()


if __name__ == "__main__":
    main()

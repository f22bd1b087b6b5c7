"""REINFORCE in JAX, environment and update in one jitted function: kill it, start it again."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import rekindle as rk

path, total = sys.argv[1], int(sys.argv[2])
NUM_ENVS, NUM_STEPS = 16, 64
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))


def env_step(state: jax.Array, force: jax.Array):
    """A cart on a line: stay near the middle, with little force."""
    velocity = 0.95 * state[1] + 0.1 * force
    position = jnp.clip(state[0] + velocity, -3, 3)
    return jnp.stack([position, velocity]), -jnp.square(position) - 0.01 * jnp.square(force)


@eqx.filter_jit
def update(policy: eqx.nn.MLP, opt_state: optax.OptState, states: jax.Array, key: jax.Array):
    def loss(policy: eqx.nn.MLP):
        def act(states: jax.Array, key: jax.Array):
            mean = jax.vmap(policy)(states)[:, 0]
            force = jax.lax.stop_gradient(mean + 0.3 * jax.random.normal(key, mean.shape))
            states, rewards = jax.vmap(env_step)(states, force)
            return states, (rewards, -jnp.square((force - mean) / 0.3) / 2)

        keys = jax.random.split(key, NUM_STEPS)
        last, (rewards, log_probs) = jax.lax.scan(act, states, keys)
        returns = jnp.cumsum(rewards[::-1], 0)[::-1]
        advantages = (returns - returns.mean(1, keepdims=True)) / (returns.std() + 1e-6)
        return -jnp.mean(log_probs * advantages), (last, rewards.mean())

    grads, (states, reward) = eqx.filter_grad(loss, has_aux=True)(policy)
    changes, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(policy, changes), opt_state, states, reward


loop = rk.Progress()  # holds the pytrees, since these cannot be changed in place
loop.key, key = jax.random.split(jax.random.key(0))
loop.policy = eqx.nn.MLP(2, 1, 32, 2, key=key)
loop.opt_state = optimizer.init(eqx.filter(loop.policy, eqx.is_array))
loop.states, loop.reward = jax.random.uniform(key, (NUM_ENVS, 2), minval=-1), 0.0
run = rk.Run(path, every=10 * NUM_ENVS * NUM_STEPS)
run.track(progress=loop)
print(run.resume() or "a fresh start", flush=True)
while loop.step < total:
    run.checkpoint()
    loop.key, key = jax.random.split(loop.key)
    new = update(loop.policy, loop.opt_state, loop.states, key)
    loop.policy, loop.opt_state, loop.states, loop.reward = new
    loop.step += NUM_ENVS * NUM_STEPS
run.save(metrics={"reward": float(loop.reward)})
print(f"finished at step {loop.step} with a reward of {loop.reward:.3f}", flush=True)

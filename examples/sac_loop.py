"""SAC on Pendulum in plain torch: kill it, start it again, and it ends the same."""

import random
import sys
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear, ReLU, Sequential

import rekindle as rk

torch.set_num_threads(1)
path, total, alpha = sys.argv[1], int(sys.argv[2]), 0.1
_ = [seed(0) for seed in (torch.manual_seed, np.random.seed, random.seed)]
env, sampler = gym.make("Pendulum-v1"), np.random.default_rng(0)
actor, critic, target = (Sequential(Linear(n, 64), ReLU(), Linear(64, 2)) for n in (3, 4, 4))
target.load_state_dict(critic.state_dict())
optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3) for network in (critic, actor)]
replay, loop = np.zeros((total, 8), np.float32), rk.Progress()
loop.observation, loop.reward = env.reset(seed=0)[0], 0.0
run = rk.Run(path, every=200)
run.track(policy=actor, critic=critic, target=target, optimizer=optimizers, env=env)
run.track(replay_buffer=replay, sampler=sampler, rng=rk.GlobalRNG(), progress=loop)
print(run.resume() or "a fresh start", flush=True)


def act(observation: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = actor(observation).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    raw = normal.rsample()
    return 2 * raw.tanh(), normal.log_prob(raw) - torch.log(1 - raw.tanh() ** 2 + 1e-6)


def losses(state: Tensor, action: Tensor, reward: Tensor, next_: Tensor) -> Iterator[Tensor]:
    chosen, log_prob = act(next_)
    value = target(torch.cat((next_, chosen), 1)).amin(1, True) - alpha * log_prob
    yield (critic(torch.cat((state, action), 1)) - reward - 0.99 * value.detach()).pow(2).mean()
    chosen, log_prob = act(state)
    yield (alpha * log_prob - critic(torch.cat((state, chosen), 1)).amin(1, True)).mean()


while loop.step < total:
    run.checkpoint(metrics={"reward": loop.reward})
    action = act(torch.as_tensor(loop.observation))[0].detach().numpy()
    following, loop.reward, _, truncated, _ = env.step(action)
    replay[loop.step] = (*loop.observation, *action, loop.reward, *following)
    loop.observation = env.reset()[0] if truncated else following
    loop.step += 1
    batch = torch.as_tensor(replay[sampler.integers(loop.step, size=64)]).split((3, 1, 1, 3), 1)
    for optimizer, loss in zip(optimizers, losses(*batch), strict=True):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.005)
run.save(metrics={"reward": loop.reward})

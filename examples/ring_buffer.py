"""DQN on CartPole with a replay buffer of its own, of which each save writes the new rows."""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch.nn import Linear, ReLU, Sequential

import rekindle as rk


class Replay:
    """The newest transitions."""

    def __init__(self, capacity: int) -> None:
        sizes = {"observations": 4, "actions": 1, "rewards": 1, "following": 4, "terminated": 1}
        arrays = {name: np.zeros((capacity, size), np.float32) for name, size in sizes.items()}
        self.ring = rk.RingBuffer(arrays)  # whose `added` counts the rows

    def add(self, *transition: object) -> None:
        for array, value in zip(self.ring.arrays.values(), transition, strict=True):
            array[self.ring.added % self.ring.capacity] = value
        self.ring.added += 1

    def sample(self, rng: np.random.Generator, count: int) -> list[torch.Tensor]:
        rows = rng.integers(min(self.ring.added, self.ring.capacity), size=count)
        return [torch.as_tensor(array[rows]) for array in self.ring.arrays.values()]


torch.set_num_threads(1)
torch.manual_seed(0)
path, total = sys.argv[1], int(sys.argv[2])
env, sampler, replay = gym.make("CartPole-v1"), np.random.default_rng(0), Replay(50_000)
network, target = (Sequential(Linear(4, 64), ReLU(), Linear(64, 2)) for _ in range(2))
target.load_state_dict(network.state_dict())
optimizer, loop = torch.optim.Adam(network.parameters(), lr=1e-3), rk.Progress()
loop.observation, _ = env.reset(seed=0)
run = rk.Run(path, every=200, keep=rk.Keep(last=3), background=True)
run.track(policy=network, target=target, optimizer=optimizer, env=env)
run.track(replay_buffer=replay, sampler=sampler, progress=loop)
print(run.resume() or "a fresh start", flush=True)
while loop.step < total:
    run.checkpoint()
    values = network(torch.as_tensor(loop.observation)).detach()
    action = int(values.argmax() if sampler.random() < 0.9 else sampler.integers(2))
    following, reward, terminated, truncated, _ = env.step(action)
    replay.add(loop.observation, action, reward, following, terminated)
    loop.observation = env.reset()[0] if terminated or truncated else following
    loop.step += 1
    now, actions, rewards, later, ends = replay.sample(sampler, 64)
    best = rewards + 0.99 * (1 - ends) * target(later).amax(1, True).detach()
    loss = (network(now).gather(1, actions.long()) - best).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.01)
run.save()

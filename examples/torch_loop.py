"""REINFORCE on CartPole in plain torch: kill it, start it again, and it ends the same."""

import random
import sys

import gymnasium as gym
import numpy as np
import torch

import rekindle as rk

path, total = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
for seed in (torch.manual_seed, np.random.seed, random.seed):
    seed(0)
env = gym.make("CartPole-v1")
observation, _ = env.reset(seed=0)
policy = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)

loop = rk.Progress()  # what the loop itself has to remember
loop.observation, loop.returns = observation, []

run = rk.Run(path, every=500)
run.track(policy=policy, optimizer=optimizer, env=env, rng=rk.GlobalRNG(), progress=loop)
print(run.resume() or "a fresh start", flush=True)

while loop.step < total:
    run.checkpoint(metrics={"return": loop.returns[-1] if loop.returns else 0.0})
    log_probs, rewards, done = [], [], False
    while not done:
        logits = policy(torch.as_tensor(loop.observation))
        distribution = torch.distributions.Categorical(logits=logits)
        action = distribution.sample()
        loop.observation, reward, terminated, truncated, _ = env.step(action.item())
        log_probs.append(distribution.log_prob(action))
        rewards.append(reward)
        loop.step += 1
        done = terminated or truncated
    loop.observation, _ = env.reset()
    returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
    advantage = (returns - returns.mean()) / (returns.std() + 1e-6)
    loss = -(torch.stack(log_probs) * advantage).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loop.updates += 1
    loop.episodes += 1
    loop.returns.append(sum(rewards))

run.save(metrics={"return": loop.returns[-1]})
print(f"finished at step {loop.step} after {loop.episodes} episodes", flush=True)

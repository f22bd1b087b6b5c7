"""Plain torch loops in the style of CleanRL: each its own loop, with what people put into theirs.

python -m tests.exactness.loop_cases CASE RUN [--kill-at STEP] [--every STEPS] [--forget PART]
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils
from torch.utils.data import DataLoader, TensorDataset

import rekindle as rk

Case = tuple[Callable[["Session"], None], int, int]
"""Trains; total steps; steps between two checkpoints."""


class Session:
    """A case's run: begun as the command line asks, and killed when its time has come.

    Args:
        path: Directory of the run.
        total: Environment steps to train.
        every: Environment steps between two checkpoints.
        kill_at: Step past which the process ends by SIGKILL.
        forget: What is not put back when the run is resumed: names of tracked objects,
            `rng.python`, `rng.numpy` or `rng.torch`, and `gradients`.
    """

    def __init__(
        self,
        path: Path,
        total: int,
        every: int,
        kill_at: int | None = None,
        forget: Iterable[str] = (),
    ) -> None:
        self.run = rk.Run(path, every=every)
        self.loop = rk.Progress()
        self.total = total
        self._kill_at = kill_at
        self._forget = frozenset(forget)

    def begin(self, **parts: Any) -> None:
        """Track what a case names, and go on from the newest checkpoint if there is one."""
        parts |= {"rng": rk.GlobalRNG(), "progress": self.loop}
        known = {*parts, "gradients", *(f"rng.{name}" for name in _GENERATORS)}
        assert self._forget <= known, f"no part named {self._forget - known}"
        fresh = {name: get() for name, (get, _) in _GENERATORS.items()}
        self.run.track(**{name: part for name, part in parts.items() if name not in self._forget})
        self.run.resume()
        self.run.track(**parts)
        for name, (_, put_back) in _GENERATORS.items():
            if f"rng.{name}" in self._forget:
                put_back(fresh[name])
        if "gradients" in self._forget:
            for part in parts.values():
                if isinstance(part, nn.Module):
                    part.zero_grad()

    def advance(self, num_steps: int = 1) -> None:
        """Count environment steps; past the moment of the kill this does not return."""
        self.loop.step += num_steps
        if self._kill_at is not None and self.loop.step >= self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


_GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "python": (random.getstate, random.setstate),
    "numpy": (np.random.get_state, np.random.set_state),
    "torch": (torch.get_rng_state, torch.set_rng_state),
}


def seed_everything() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


def orthogonal(layer: nn.Linear, gain: float = 2**0.5) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


# --------------------------------------------------------------------------- on-policy


class ActorCritic(nn.Module):
    """Policy and value of CartPole, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(orthogonal(nn.Linear(4, 32)), nn.Tanh(), nn.Dropout(0.1))
        self.actor = orthogonal(nn.Linear(32, 2), 0.01)
        self.critic = orthogonal(nn.Linear(32, 1), 1.0)

    def forward(
        self, observations: torch.Tensor
    ) -> tuple[torch.distributions.Categorical, torch.Tensor]:
        hidden = self.body(observations)
        policy = torch.distributions.Categorical(logits=self.actor(hidden))
        return policy, self.critic(hidden).squeeze(-1)


def ppo(session: Session, envs: gym.vector.VectorEnv) -> None:
    """PPO with AdamW, a cosine schedule and an average of the weights."""
    seed_everything()
    num_steps, loop = 16, session.loop
    agent = ActorCritic()
    average = swa_utils.AveragedModel(agent, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.95))
    optimizer = torch.optim.AdamW(agent.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    loop.observations, _ = envs.reset(seed=4)
    loop.dones = np.zeros(envs.num_envs, dtype=bool)
    loop.losses = []
    session.begin(policy=agent, average=average, optimizer=optimizer, schedule=schedule, env=envs)
    while loop.step < session.total:
        session.run.checkpoint()
        rows: list[tuple[Any, ...]] = []
        for _ in range(num_steps):
            with torch.no_grad():
                policy, value = agent(tensor(loop.observations))
                action = policy.sample()
            before = tensor(loop.observations), action, policy.log_prob(action), value
            loop.observations, reward, ended, cut, _ = envs.step(action.numpy())
            rows.append((*before, tensor(reward), tensor(loop.dones)))
            loop.dones = ended | cut
            session.advance(envs.num_envs)
        columns = map(torch.stack, zip(*rows, strict=True))
        states, actions, log_probs, values, rewards, dones = columns
        with torch.no_grad():
            upcoming = agent(tensor(loop.observations))[1]
        advantages, running = torch.zeros_like(rewards), torch.zeros(envs.num_envs)
        done = tensor(loop.dones)
        for t in reversed(range(num_steps)):
            delta = rewards[t] + 0.99 * upcoming * (1 - done) - values[t]
            running = delta + 0.99 * 0.95 * (1 - done) * running
            advantages[t], upcoming, done = running, values[t], dones[t]
        returns = (advantages + values).flatten()
        batch = states.flatten(0, 1), actions.flatten(), log_probs.flatten(), advantages.flatten()
        indices = np.arange(len(returns))
        for _ in range(2):
            np.random.shuffle(indices)
            for part in torch.as_tensor(indices).split(32):
                state, action, old, advantage = (item[part] for item in batch)
                policy, value = agent(state)
                ratio = (policy.log_prob(action) - old).exp()
                clipped = ratio.clamp(0.8, 1.2)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                gain = torch.min(ratio * advantage, clipped * advantage).mean()
                loss = F.mse_loss(value, returns[part]) - gain - 0.01 * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                average.update_parameters(agent)
                loop.updates += 1
        schedule.step()
        loop.losses.append(loss.item())
    session.run.save()
    envs.close()


def cartpoles(count: int = 4) -> list[Callable[[], gym.Env]]:
    return [lambda: gym.make("CartPole-v1")] * count


def ppo_sync(session: Session) -> None:
    ppo(session, gym.vector.SyncVectorEnv(cartpoles()))


def ppo_async(session: Session) -> None:
    ppo(session, gym.vector.AsyncVectorEnv(cartpoles(2)))


def reinforce_compiled(session: Session) -> None:
    """REINFORCE with a compiled policy, saved and restored through its compiled wrapper."""
    seed_everything()
    loop = session.loop
    env = gym.make("CartPole-v1")
    loop.observation, _ = env.reset(seed=4)
    loop.returns = []
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    compiled = torch.compile(policy, backend="eager")
    optimizer = torch.optim.RMSprop(compiled.parameters(), lr=3e-3, momentum=0.5)
    session.begin(policy=compiled, optimizer=optimizer, env=env)
    while loop.step < session.total:
        session.run.checkpoint()
        log_probs, rewards, done = [], [], False
        while not done:
            logits = compiled(tensor(loop.observation))
            distribution = torch.distributions.Categorical(logits=logits)
            action = distribution.sample()
            loop.observation, reward, ended, cut, _ = env.step(action.item())
            log_probs.append(distribution.log_prob(action))
            rewards.append(float(reward))
            done = ended or cut
            session.advance()
        loop.observation, _ = env.reset()
        returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
        loss = -(torch.stack(log_probs) * (returns - returns.mean())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.updates += 1
        loop.returns.append(sum(rewards))
    session.run.save()


def actor_critic_schedules(session: Session) -> None:
    """One-step actor-critic: chained schedules, groups of parameters, weight and batch norms."""
    seed_everything()
    loop = session.loop
    envs = gym.vector.SyncVectorEnv(cartpoles(8))
    loop.observations, _ = envs.reset(seed=4)
    body = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 24)), nn.BatchNorm1d(24), nn.ReLU()
    )
    agent = nn.ModuleDict({"body": body, "actor": nn.Linear(24, 2), "critic": nn.Linear(24, 1)})
    optimizer = torch.optim.Adam(
        [
            {"params": agent["body"].parameters(), "lr": 1e-3},
            {"params": agent["actor"].parameters(), "lr": 3e-4, "betas": (0.8, 0.99)},
            {"params": agent["critic"].parameters(), "lr": 2e-3, "weight_decay": 1e-3},
        ]
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20),
            torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=15),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97),
        ],
        milestones=[20, 60],
    )
    session.begin(policy=agent, optimizer=optimizer, schedule=schedule, env=envs)
    while loop.step < session.total:
        session.run.checkpoint()
        hidden = agent["body"](tensor(loop.observations))
        policy = torch.distributions.Categorical(logits=agent["actor"](hidden))
        action = policy.sample()
        loop.observations, reward, ended, _, _ = envs.step(action.numpy())
        session.advance(envs.num_envs)
        agent.eval()
        with torch.no_grad():
            upcoming = agent["critic"](agent["body"](tensor(loop.observations))).squeeze(-1)
        agent.train()
        target = tensor(reward) + 0.99 * upcoming * (1 - tensor(ended))
        advantage = target - agent["critic"](hidden).squeeze(-1)
        loss = advantage.pow(2).mean() - (policy.log_prob(action) * advantage.detach()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loop.updates += 1
    session.run.save()


# --------------------------------------------------------------------------- off-policy


class Replay:
    """Transitions of Pendulum in numpy arrays, and where the next one goes."""

    def __init__(self, capacity: int, sampler: np.random.Generator) -> None:
        self.rows = np.zeros((capacity, 3 + 1 + 1 + 3 + 1), np.float32)
        self.count = 0
        self._sampler = sampler

    def __len__(self) -> int:
        return min(self.count, len(self.rows))

    def add(self, *parts: Any) -> None:
        self.rows[self.count % len(self.rows)] = np.concatenate([np.ravel(part) for part in parts])
        self.count += 1

    def sample(self, size: int) -> tuple[torch.Tensor, ...]:
        chosen = self._sampler.integers(len(self), size=size)
        return torch.as_tensor(self.rows[chosen]).split((3, 1, 1, 3, 1), dim=1)


def network(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, num_outputs),
    )  # fmt: skip


class Actor(nn.Module):
    """A squashed Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(3, 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.body(observations).chunk(2, dim=-1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        raw = normal.rsample()
        squashed = torch.tanh(raw)
        log_prob = normal.log_prob(raw) - torch.log(1 - squashed.pow(2) + 1e-6)
        return squashed * self.scale, log_prob


def sac(session: Session) -> None:
    """SAC with replay in numpy arrays, target networks by polyak, and a learnt temperature."""
    seed_everything()
    loop = session.loop
    env = gym.make("Pendulum-v1")
    env.action_space.seed(5)
    loop.observation, _ = env.reset(seed=4)
    actor, critics, targets = Actor(), network(4, 2), network(4, 2)
    targets.load_state_dict(critics.state_dict())
    log_alpha = nn.Parameter(torch.zeros(1))
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    critic_optimizer = torch.optim.Adam(critics.parameters(), lr=1e-3)
    alpha_optimizer = torch.optim.Adam([log_alpha], lr=1e-2)
    sampler = np.random.default_rng(6)
    replay = Replay(250, sampler)
    session.begin(
        policy=actor, critic=critics, target=targets, temperature=log_alpha,
        actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer,
        alpha_optimizer=alpha_optimizer, env=env, action_space=env.action_space,
        sampler=sampler, replay_buffer=replay,
    )  # fmt: skip
    while loop.step < session.total:
        session.run.checkpoint()
        if loop.step < 60:
            action = env.action_space.sample()
        else:
            with torch.no_grad():
                action = actor(tensor(loop.observation))[0].numpy()
        upcoming, reward, ended, cut, _ = env.step(action)
        replay.add(loop.observation, action, reward, upcoming, ended)
        loop.observation = env.reset()[0] if ended or cut else upcoming
        session.advance()
        if loop.step < 60:
            continue
        state, action, reward, following, done = replay.sample(32)
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            chosen, log_prob = actor(following)
            value = targets(torch.cat((following, chosen), 1)).min(1, keepdim=True).values
            goal = reward + 0.99 * (1 - done) * (value - alpha * log_prob)
        critic_loss = (critics(torch.cat((state, action), 1)) - goal).pow(2).mean()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        if loop.step % 2 == 0:
            chosen, log_prob = actor(state)
            value = critics(torch.cat((state, chosen), 1)).min(1, keepdim=True).values
            actor_optimizer.zero_grad()
            (alpha * log_prob - value).mean().backward()
            actor_optimizer.step()
            alpha_optimizer.zero_grad()
            (-log_alpha.exp() * (log_prob.detach() - 1.0)).mean().backward()
            alpha_optimizer.step()
        with torch.no_grad():
            for target, source in zip(targets.parameters(), critics.parameters(), strict=True):
                target.lerp_(source, 0.01)
        loop.updates += 1
    session.run.save()


Transition = collections.namedtuple("Transition", "state action reward following done")


def dqn(session: Session) -> None:
    """DQN with python's `random`, a deque, mixed precision, a scaler and gathered gradients."""
    seed_everything()
    loop = session.loop
    env = gym.make("CartPole-v1")
    env.action_space.seed(5)
    loop.observation, _ = env.reset(seed=4)
    q, target = network(4, 2), network(4, 2)
    target.load_state_dict(q.state_dict())
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-2, momentum=0.9)
    # Growth by no power of two, so that the scale decides how gradients are rounded.
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_factor=1.3, growth_interval=5)
    replay: collections.deque[Transition] = collections.deque(maxlen=150)
    session.begin(
        policy=q, target=target, optimizer=optimizer, scaler=scaler, env=env,
        action_space=env.action_space, replay_buffer=replay,
    )  # fmt: skip
    while loop.step < session.total:
        session.run.checkpoint()
        if random.random() < max(0.1, 1.0 - loop.step / 400):
            action = env.action_space.sample()
        else:
            with torch.no_grad():
                action = q(tensor(loop.observation)).argmax().numpy()
        following, reward, ended, cut, _ = env.step(action)
        replay.append(Transition(loop.observation, action, float(reward), following, ended))
        loop.observation = env.reset()[0] if ended or cut else following
        session.advance()
        if loop.step < 40:
            continue
        batch = Transition(*map(np.array, zip(*random.choices(replay, k=16), strict=True)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                value = target(tensor(batch.following)).max(1).values
                goal = tensor(batch.reward) + 0.99 * value * (1 - tensor(batch.done))
            index = torch.as_tensor(batch.action).unsqueeze(1)
            chosen = q(tensor(batch.state)).gather(1, index).squeeze(1)
            loss = F.smooth_l1_loss(chosen.float(), goal.float()) / 4
        scaler.scale(loss).backward()
        if loop.step % 4 == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loop.updates += 1
        if loop.step % 90 == 0:
            target.load_state_dict(q.state_dict())
    session.run.save()


def fitted_dataloader(session: Session) -> None:
    """Fits the next observation with a `DataLoader` that goes to its end between checkpoints."""
    seed_everything()
    loop = session.loop
    env = gym.make("CartPole-v1")
    env.action_space.seed(5)
    loop.observation, _ = env.reset(seed=4)
    model = nn.Sequential(nn.Linear(6, 24), nn.Dropout(0.1), nn.GELU(), nn.Linear(24, 4))
    optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3)
    inputs, outputs = torch.zeros(48, 6), torch.zeros(48, 4)
    shuffle = torch.Generator()
    shuffle.manual_seed(6)
    dataset = TensorDataset(inputs, outputs)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, generator=shuffle)
    loop.losses = collections.deque(maxlen=20)
    session.begin(policy=model, optimizer=optimizer, env=env, loader=loader, shuffle=shuffle)
    while loop.step < session.total:
        session.run.checkpoint()
        for row in range(len(dataset)):
            action = env.action_space.sample()
            inputs[row] = torch.cat((tensor(loop.observation), F.one_hot(torch.tensor(action), 2)))
            following, _, ended, cut, _ = env.step(action)
            outputs[row] = tensor(following - loop.observation)
            loop.observation = env.reset()[0] if ended or cut else following
            session.advance()
        for _ in range(2):
            for before, after in loader:
                loss = F.mse_loss(model(before), after)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loop.updates += 1
                loop.losses.append(loss.item())
    session.run.save()


CASES: dict[str, Case] = {
    "ppo_sync": (ppo_sync, 1600, 300),
    "ppo_async": (ppo_async, 640, 150),
    "sac": (sac, 420, 110),
    "dqn": (dqn, 700, 150),
    "reinforce_compiled": (reinforce_compiled, 1500, 300),
    "actor_critic_schedules": (actor_critic_schedules, 1200, 250),
    "fitted_dataloader": (fitted_dataloader, 1200, 250),
}


def main() -> None:
    """Train one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--every", type=int)
    parser.add_argument("--forget", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, total, every = CASES[arguments.case]
    session = Session(
        arguments.run, total, arguments.every or every, arguments.kill_at, arguments.forget
    )
    train(session)
    session.run.close()


if __name__ == "__main__":
    main()

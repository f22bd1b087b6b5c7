"""Trains SB3 PPO under `rekindle.sb3.Checkpoint`; the tests start it, kill it and start it again.

python ppo.py RUN CASE [--kill-at STEP [--kill-with SIGTERM]] [--disturb PART]
"""

import argparse
import os
import signal

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rekindle.sb3 import Checkpoint

torch.set_num_threads(1)


def cartpole() -> PPO:
    return PPO("MlpPolicy", "CartPole-v1", seed=3, n_steps=128, batch_size=32, device="cpu")


def pendulum() -> PPO:
    venv = DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1")) for _ in range(2)])
    env = VecNormalize(venv, gamma=0.95)
    return PPO(
        "MlpPolicy",
        env,
        seed=4,
        n_steps=96,
        batch_size=48,
        use_sde=True,
        sde_sample_freq=4,
        target_kl=0.05,
        learning_rate=lambda remaining: 1e-3 * remaining,
        policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.ReLU},
        device="cpu",
    )


class Curve(BaseCallback):
    """The learning curve, and the end of the process when its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float, float]] = []

    def _on_step(self) -> bool:
        # Read from the command line, not from an attribute: those are state, and come back.
        if arguments.kill_at is not None and self.num_timesteps >= arguments.kill_at:
            arguments.kill_at = None
            os.kill(os.getpid(), getattr(signal, arguments.kill_with))
        return True

    def _on_rollout_end(self) -> None:
        returns = [float(episode["r"]) for episode in self.model.ep_info_buffer]
        loss = self.logger.name_to_value.get("train/loss", 0.0)
        self.points.append((self.num_timesteps, sum(returns) / max(1, len(returns)), float(loss)))


class Disturb(BaseCallback):
    """Takes one part of the state away after a resume, as a checkpoint without it would."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        part, arguments.disturb = arguments.disturb, None
        if checkpoint.report is None or part is None:
            return
        if part == "rng":
            torch.manual_seed(99)
        elif part == "env":
            self.model._last_obs = self.training_env.reset()
        elif part == "optimizer":
            self.model.policy.optimizer.state.clear()
        elif part == "policy":
            next(self.model.policy.parameters()).data[0, 0] += 1e-7
        elif part == "normalizer":
            self.model.get_vec_normalize_env().obs_rms.count = 1e-4
        elif part == "progress":
            self.model.num_timesteps -= 1


parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("case", choices=["cartpole", "pendulum"])
parser.add_argument("--kill-at", type=int)
parser.add_argument("--kill-with", default="SIGKILL")
parser.add_argument("--disturb")
parser.add_argument("--steps", type=int, default=1200)
arguments = parser.parse_args()

model = {"cartpole": cartpole, "pendulum": pendulum}[arguments.case]()
checkpoint = Checkpoint(arguments.run, every=300)
callbacks = [checkpoint, Curve(), Disturb()]
model.learn(arguments.steps, callback=callbacks, log_interval=2)

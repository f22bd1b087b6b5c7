"""Stable-Baselines3 and sb3-contrib: one small model per case, every algorithm and option.

python -m tests.exactness.sb3_cases CASE RUN [--kill-at STEP]
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib as contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from rekindle.sb3 import Checkpoint

Case = tuple[Callable[[], Any], int, int]
"""Builds the model; total steps; steps between two checkpoints."""


def pendulums(count: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1")) for _ in range(count)])


def cartpoles(count: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1")) for _ in range(count)])


class Pictures(gym.Env[np.ndarray, int]):
    """Small random pictures in which the brightest corner is the action to take."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.count = 0
        self.bright = 0

    def _picture(self) -> np.ndarray:
        picture = self.np_random.integers(0, 200, (36, 36, 1)).astype(np.uint8)
        self.bright = int(self.np_random.integers(2))
        picture[:4, 32 * self.bright : 32 * self.bright + 4] = 255
        return picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return self._picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        reward = float(action == self.bright)
        return self._picture(), reward, False, self.count >= 20, {}


class Named(gym.ObservationWrapper):
    """CartPole with its observation in two named parts."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {
                "cart": spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "pole": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"cart": observation[:2].copy(), "pole": observation[2:].copy()}


class Masked(gym.Wrapper):
    """CartPole in which an action is forbidden now and then."""

    def action_masks(self) -> np.ndarray:
        step = self.get_wrapper_attr("_elapsed_steps") or 0
        return np.array([step % 5 != 0, True])


SMALL = {"net_arch": [16]}
ON = {"seed": 5, "device": "cpu", "policy_kwargs": SMALL}
OFF = {**ON, "learning_starts": 60, "batch_size": 32, "buffer_size": 1000}
QUANTILES = {"net_arch": [16], "n_quantiles": 10}


def on_policy(cls: Any, env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    return cls(policy, env, **copy.deepcopy({**ON, **kwargs}))


def off_policy(cls: Any, env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    return cls(policy, env, **copy.deepcopy({**OFF, **kwargs}))


def normalized(count: int, **kwargs: Any) -> VecNormalize:
    return VecNormalize(pendulums(count), **kwargs)


def ou_noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))


def normal_noise() -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))


def goals() -> Any:
    return Monitor(BitFlippingEnv(n_bits=4, continuous=True, max_steps=8))


def frames() -> VecFrameStack:
    return VecFrameStack(VecTransposeImage(DummyVecEnv([lambda: Monitor(Pictures())])), 2)


CASES: dict[str, Case] = {
    "ppo": (lambda: on_policy(sb3.PPO, cartpoles(), n_steps=64, batch_size=32), 640, 150),
    "ppo_gsde_normalized": (
        lambda: on_policy(
            sb3.PPO, normalized(2), n_steps=48, batch_size=32, use_sde=True, sde_sample_freq=4,
            target_kl=0.05, learning_rate=lambda left: 1e-3 * left,
        ), 768, 200,
    ),
    "ppo_dict": (
        lambda: on_policy(
            sb3.PPO, Named(gym.make("CartPole-v1")), "MultiInputPolicy", n_steps=64, batch_size=32
        ), 512, 150,
    ),
    "ppo_cnn_stack": (
        lambda: on_policy(
            sb3.PPO, frames(), "CnnPolicy", n_steps=32, batch_size=16, n_epochs=2,
            policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}},
        ), 192, 64,
    ),
    "ppo_subprocess": (
        lambda: on_policy(
            sb3.PPO,
            VecNormalize(SubprocVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 2)),
            n_steps=48, batch_size=32,
        ), 576, 180,
    ),
    "ppo_vecmonitor": (
        lambda: on_policy(
            sb3.PPO, VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)),
            n_steps=32, batch_size=32,
        ), 576, 180,
    ),
    "ppo_dropout_batchnorm": (
        lambda: on_policy(
            sb3.PPO, cartpoles(), n_steps=64, batch_size=32,
            policy_kwargs={"net_arch": [16], "activation_fn": Noisy},
        ), 512, 150,
    ),
    "a2c": (lambda: on_policy(sb3.A2C, cartpoles(2)), 600, 150),
    "a2c_rms_normalized": (
        lambda: on_policy(sb3.A2C, normalized(2), use_rms_prop=True, use_sde=True), 600, 150
    ),
    "trpo": (lambda: on_policy(contrib.TRPO, cartpoles(), n_steps=64, batch_size=32), 512, 150),
    "maskable_ppo": (
        lambda: on_policy(
            contrib.MaskablePPO, Monitor(Masked(gym.make("CartPole-v1"))), n_steps=64, batch_size=32
        ), 512, 150,
    ),
    "recurrent_ppo": (
        lambda: on_policy(
            contrib.RecurrentPPO, cartpoles(2), "MlpLstmPolicy", n_steps=32, batch_size=32,
            policy_kwargs={"lstm_hidden_size": 8, "net_arch": [8]},
        ), 384, 120,
    ),
    "ars": (
        lambda: contrib.ARS("LinearPolicy", Monitor(gym.make("CartPole-v1")), n_delta=4, seed=5,
                            device="cpu"), 1600, 300,
    ),
    "dqn": (
        lambda: off_policy(
            sb3.DQN, cartpoles(), target_update_interval=100, exploration_fraction=0.5
        ), 600, 150,
    ),
    "dqn_memory_optimized": (
        lambda: off_policy(
            sb3.DQN, cartpoles(), optimize_memory_usage=True, buffer_size=200,
            replay_buffer_kwargs={"handle_timeout_termination": False},
        ), 600, 150,
    ),
    "dqn_cnn": (
        lambda: off_policy(
            sb3.DQN, frames(), "CnnPolicy", buffer_size=150, batch_size=16,
            policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}},
        ), 240, 80,
    ),
    "qr_dqn": (lambda: off_policy(contrib.QRDQN, cartpoles(), policy_kwargs=QUANTILES), 500, 130),
    "sac": (lambda: off_policy(sb3.SAC, pendulums()), 400, 110),
    "sac_normalized_two": (lambda: off_policy(sb3.SAC, normalized(2)), 500, 130),
    "sac_gsde": (lambda: off_policy(sb3.SAC, pendulums(), use_sde=True), 400, 110),
    "sac_fixed_entropy_wrapped_buffer": (
        lambda: off_policy(sb3.SAC, pendulums(), ent_coef=0.1, buffer_size=150), 400, 110
    ),
    "sac_her": (
        lambda: off_policy(
            sb3.SAC, goals(), "MultiInputPolicy", replay_buffer_class=sb3.HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": 2},
        ), 400, 110,
    ),
    "td3_ou_two": (
        lambda: off_policy(
            sb3.TD3, pendulums(2), action_noise=VectorizedActionNoise(ou_noise(), 2)
        ), 500, 130,
    ),
    "td3_normal_episode": (
        lambda: off_policy(
            sb3.TD3, pendulums(), action_noise=normal_noise(), train_freq=(1, "episode"),
            gradient_steps=20,
        ), 1000, 150,
    ),
    "ddpg": (lambda: off_policy(sb3.DDPG, pendulums(), action_noise=ou_noise()), 400, 110),
    "tqc": (lambda: off_policy(contrib.TQC, pendulums(), policy_kwargs=QUANTILES), 400, 110),
    "crossq": (lambda: off_policy(contrib.CrossQ, pendulums()), 400, 110),
    "ppo_evaluated": (lambda: on_policy(sb3.PPO, cartpoles(), n_steps=64, batch_size=32), 640, 150),
    "ppo_stopped_early": (
        lambda: on_policy(sb3.PPO, cartpoles(), n_steps=64, batch_size=32), 5000, 150
    ),
}  # fmt: skip


class Noisy(torch.nn.Module):
    """An activation with dropout and running statistics, both of which are easy to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.2)
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dropout(self.norm(values)))


class Curve(BaseCallback):
    """Every row that the logger dumps, and the end of the process when its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_training_start(self) -> None:
        dump = self.logger.dump

        def dump_and_keep(step: int = 0) -> None:
            values = self.logger.name_to_value.items()
            self.rows.append({k: v for k, v in values if k not in _CLOCKS} | {"step": step})
            dump(step)

        self.logger.dump = dump_and_keep  # type: ignore[method-assign]

    def _on_step(self) -> bool:
        if self.num_timesteps >= _kill_at[0]:
            # These runs are so short that the first commit could still be under way.
            _own[0].run.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return True


class Forget(BaseCallback):
    """Takes one part of the state away after a resume, as a checkpoint without it would."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if _own[0].report is not None and _forget:
            FORGET[_forget.pop()](self.model)


def _zeroed_lstm(model: Any) -> None:
    for part in (*model._last_lstm_states.pi, *model._last_lstm_states.vf):
        part.zero_()


def _one_more(name: str) -> Callable[[Any], None]:
    return lambda model: setattr(model, name, getattr(model, name) + 1)


FORGET: dict[str, Callable[[Any], Any]] = {
    "action noise": lambda model: model.action_noise.reset(),
    "count of updates": _one_more("_n_updates"),
    "count of calls": _one_more("_n_calls"),
    "exploration rate": lambda model: setattr(model, "exploration_rate", 1.0),
    "replay buffer": lambda model: model.replay_buffer.reset(),
    "episode lengths": lambda model: model.replay_buffer.ep_length[:16].fill(0),
    "returns": lambda model: model.get_vec_normalize_env().returns.fill(0),
    "lstm states": _zeroed_lstm,
    "episode starts": lambda model: model._last_episode_starts.fill(True),
    "last observation": lambda model: model._last_obs.fill(0),
    "episode statistics": lambda model: model.ep_info_buffer.clear(),
    "logger": lambda model: model.logger.name_to_value.clear(),
    "target network": lambda model: model.critic_target.load_state_dict(model.critic.state_dict()),
    "entropy coefficient": lambda model: model.log_ent_coef.data.fill_(0),
}
"""How each part is taken away."""

_CLOCKS = ("time/fps", "time/time_elapsed")
_kill_at: list[float] = [float("inf")]
_own: list[Checkpoint] = []
_forget: list[str] = []


def seeded() -> Monitor:
    env = Monitor(gym.make("CartPole-v1"))
    env.reset(seed=11)
    return env


def callbacks(case: str, model: Any) -> list[BaseCallback]:
    """Other callbacks beside ours, for the cases that are about them."""
    if case == "ppo_evaluated":
        return [EvalCallback(seeded(), eval_freq=100, n_eval_episodes=2, verbose=0)]
    if case == "ppo_stopped_early":
        stop = StopTrainingOnRewardThreshold(reward_threshold=40, verbose=0)
        return [EvalCallback(seeded(), callback_on_new_best=stop, eval_freq=128,
                             n_eval_episodes=2, verbose=0)]  # fmt: skip
    return []


def main() -> None:
    """Train one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("run")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--every", type=int)
    parser.add_argument("--forget", choices=FORGET)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    build, total, every = CASES[arguments.case]
    model = build()
    own = Checkpoint(arguments.run, every=arguments.every or every)
    _own.append(own)
    if arguments.kill_at is not None:
        _kill_at[0] = arguments.kill_at
    if arguments.forget:
        _forget.append(arguments.forget)
    others = [Curve(), Forget(), *callbacks(arguments.case, model)]
    model.learn(total, callback=[own, *others], log_interval=2)


if __name__ == "__main__":
    main()

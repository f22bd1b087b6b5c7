"""Loops that resume exactly pass; each way of resuming wrongly is found, and named."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rekindle as rk
from rekindle.testing import Loop, assert_resumes_exactly

STEPS = 12


def make(tamper: Callable[[dict[str, Any]], None] | None = None, **changes: Any) -> Loop:
    """A small learner in CartPole that uses every global generator."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    env = gym.make("CartPole-v1")
    loop: Any = rk.Progress()
    loop.observation, _ = env.reset(seed=0)
    policy = torch.nn.Linear(4, 2)
    components: dict[str, Any] = {
        "policy": policy,
        "optimizer": torch.optim.Adam(policy.parameters(), lr=1e-3),
        "env": env,
        "rng": rk.GlobalRNG(),
        "progress": loop,
        **changes,
    }

    def step() -> None:
        logits = policy(torch.as_tensor(loop.observation) + random.random() * 1e-3)
        action = int(torch.distributions.Categorical(logits=logits).sample())
        loop.observation, _, done, cut, _ = env.step(action if np.random.rand() < 0.9 else 0)
        if done or cut:
            loop.observation, _ = env.reset()
        components["optimizer"].zero_grad()
        (logits**2).sum().backward()
        components["optimizer"].step()
        loop.step += 1
        if tamper is not None:
            tamper(components)

    return components, step


def without(*names: str) -> Callable[[], Loop]:
    def make_less() -> Loop:
        components, step = make()
        return {name: part for name, part in components.items() if name not in names}, step

    return make_less


def message(build: Callable[[], Loop], **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_resumes_exactly(build, **{"steps": STEPS, "at": 5, **options})
    return str(caught.value)


def test_a_loop_whose_state_is_all_tracked_passes() -> None:
    assert_resumes_exactly(make, steps=STEPS, at=5)


def test_it_may_be_interrupted_anywhere_and_often() -> None:
    assert_resumes_exactly(make, steps=STEPS, at=range(STEPS))


@pytest.mark.parametrize(
    ("missing", "first"),
    [("policy", "optimizer"), ("optimizer", "policy"), ("env", "progress"), ("rng", "policy")],
)
def test_a_component_left_out_is_noticed_by_what_depends_on_it(missing: str, first: str) -> None:
    said = message(without(missing))
    assert said.startswith(first), said
    assert "the loop was resumed after 5" in said
    step = re.search(r"after (\d+) iterations", said)
    assert step is not None
    assert 5 < int(step[1]) <= STEPS


def test_a_generator_that_is_not_tracked_is_told_from_those_that_are() -> None:
    def build() -> Loop:
        generator = np.random.default_rng(3)
        noise: list[float] = []
        components, step = make(lambda _: noise.append(generator.random()), noise=noise)
        return components, step

    said = message(build)
    assert said.startswith("noise differs first after 6 iterations; the loop was resumed after 5.")
    assert "noise/5: expected 0." in said
    assert "a random generator of its own" in said


def test_what_make_changes_behind_the_restore_is_named_at_once() -> None:
    """A learning rate held by a class that forgets to put it back."""

    class Forgetful:
        rekindle_state = True

        def __init__(self) -> None:
            self.rate = 1.0

        def get_state(self) -> dict[str, float]:
            return {"rate": self.rate}

        def set_state(self, state: dict[str, float]) -> None:
            pass

    def build() -> Loop:
        held = Forgetful()
        components, step = make(lambda _: setattr(held, "rate", held.rate * 0.9), held=held)
        return components, step

    said = message(build)
    assert said.startswith("held differs at once where the loop was resumed, after 5 iterations")


def test_the_smallest_change_of_one_moment_is_found_at_its_iteration() -> None:
    made: list[int] = []

    def build() -> Loop:
        made.append(0)
        number = len(made)

        def tamper(components: dict[str, Any]) -> None:
            if number == 3 and components["progress"].step == 9:
                state = next(iter(components["optimizer"].state.values()))
                state["exp_avg_sq"].view(-1)[0] += 1e-12

        return make(tamper)

    said = message(build)
    assert said.startswith("optimizer differs first after 9 iterations; the loop was resumed")
    assert "optimizer/state.0.exp_avg_sq: expected the same bytes, found 1 of 8 values" in said


def test_a_loop_that_is_never_the_same_twice_is_told_apart() -> None:
    def build() -> Loop:
        entropy = np.random.default_rng()
        seen: list[float] = []
        return make(lambda _: seen.append(entropy.random()), seen=seen)

    said = message(build)
    assert said.startswith("the loop is not the same twice, without any interruption: seen")
    assert "after 1 iteration." in said


def test_what_may_differ_can_be_ignored() -> None:
    def build() -> Loop:
        components, step = make(lambda c: setattr(c["progress"], "at", time.perf_counter()))
        components["progress"].at = 0.0
        return components, step

    assert "progress/at: expected" in message(build)
    assert_resumes_exactly(build, steps=STEPS, at=5, ignore=["progress/at"])
    assert_resumes_exactly(build, steps=STEPS, at=5, ignore=["at"])


def test_the_generators_of_the_test_run_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert_resumes_exactly(make, steps=3, at=1)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


@pytest.mark.parametrize("at", [-1, STEPS, [], [3, 99]])
def test_a_moment_outside_the_loop_is_refused(at: Any) -> None:
    with pytest.raises(rk.UnsupportedError, match="expected numbers of iterations from 0 to 11"):
        assert_resumes_exactly(make, steps=STEPS, at=at)

"""What cannot be saved or resumed exactly is refused by name, with the remedy."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch
from gymnasium.utils import EzPickle
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import rekindle as rk
from rekindle.graph import Walk
from rekindle.sb3 import Checkpoint, components

# --------------------------------------------------------------------------- what is no data


def number_by_number() -> Iterator[int]:
    yield from range(9)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Things that carry state which cannot be written down, by where a loop keeps them."""
    suspended = number_by_number()
    next(suspended)
    with socket.socket() as connection, (tmp_path / "log.txt").open("w") as log:
        yield {
            "native": np.nditer(np.arange(3)),
            "suspended": suspended,
            "connection": connection,
            "log": log,
        }


def track(run: rk.Run, **kept: Any) -> rk.Progress:
    progress = rk.Progress()
    progress.step = 5
    vars(progress).update(kept)
    run.track(progress=progress)
    return progress


def test_whatever_is_no_data_is_refused_at_a_save_with_path_type_and_remedies(
    tmp_path: Path, unwritable: dict[str, Any]
) -> None:
    with rk.Run(tmp_path / "run") as run:
        track(run, **unwritable)
        with pytest.raises(rk.UnsupportedError) as caught:
            run.save()
    refused = dict(caught.value.refusals)
    assert list(refused) == [f"progress/{name}" for name in unwritable]
    for name, kind in (
        ("native", "numpy:nditer, an object of compiled code"),
        ("suspended", "a suspended generator"),
        ("connection", "socket:socket, an object of compiled code"),
        ("log", "_io:TextIOWrapper, an open file"),
    ):
        assert kind in refused[f"progress/{name}"]
        assert f"progress/{name}: {refused[f'progress/{name}']}" in str(caught.value)
    assert "exclude=[path]" in str(caught.value)
    assert "rk.Stateful" in str(caught.value)
    assert run.steps == []
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    assert not list((tmp_path / "run").glob("*step*"))


def test_what_is_left_out_is_said_when_it_is_resumed(
    tmp_path: Path, unwritable: dict[str, Any]
) -> None:
    paths = [f"progress/{name}" for name in unwritable]
    with rk.Run(tmp_path / "run", exclude=paths) as run:
        track(run, **unwritable)
        run.save()
    with rk.Run(tmp_path / "run", exclude=paths) as again:
        fresh = track(again, **unwritable)
        fresh.step = 0
        report = again.resume()
    assert report is not None
    assert report.excluded == tuple(paths)
    assert all(path in repr(report) for path in paths)
    assert fresh.step == 5


class Engine(rk.Stateful):
    """Holds a suspended generator, and says itself where it stands."""

    def __init__(self) -> None:
        self.given = 0
        self.numbers = number_by_number()

    def __next__(self) -> int:
        self.given += 1
        return next(self.numbers)

    def get_state(self) -> int:
        return self.given

    def set_state(self, state: int) -> None:
        self.numbers, self.given = number_by_number(), 0
        while self.given < state:
            next(self)


def test_an_object_that_says_its_state_itself_is_saved_whatever_it_holds(tmp_path: Path) -> None:
    engine, again = Engine(), Engine()
    assert [next(engine), next(engine)] == [0, 1]
    rk.save(tmp_path / "saved", agent={"engine": engine})
    rk.restore(tmp_path / "saved", agent={"engine": again})
    assert next(again) == next(engine) == 2


class Simulated(gym.Env[np.ndarray, int], EzPickle):
    """An environment whose pickle is a fresh one, over a simulator of compiled code."""

    def __init__(self) -> None:
        EzPickle.__init__(self)
        self.simulator = np.nditer(np.arange(9))


def test_an_environment_that_pickles_as_a_fresh_one_is_refused_for_what_it_holds(
    tmp_path: Path,
) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"env/simulator: numpy:nditer, .* no adapter"):
        rk.save(tmp_path / "saved", env=Simulated())
    with pytest.raises(rk.UnsupportedError, match="env/simulator"):
        rk.capture_env(Simulated())
    rk.save(tmp_path / "saved", env=Simulated(), exclude=["env.simulator"])
    assert rk.restore(tmp_path / "saved", env=Simulated()).excluded == ("env/simulator",)


# --------------------------------------------------------------------------- DataLoader


def rows() -> TensorDataset:
    return TensorDataset(torch.arange(10.0))


class Stream(IterableDataset[int]):
    """Numbers without an index."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "here": lambda: DataLoader(rows(), batch_size=4),
    "here, shuffled": lambda: DataLoader(
        rows(), batch_size=4, shuffle=True, generator=torch.Generator()
    ),
    "here, without batches": lambda: DataLoader(rows(), batch_size=None),
    "here, a stream": lambda: DataLoader(Stream(), batch_size=2),
    "in a worker": lambda: DataLoader(rows(), batch_size=4, num_workers=1),
}
EACH_LOADER = pytest.mark.parametrize("name", LOADERS)


@EACH_LOADER
def test_a_data_loader_in_mid_iteration_is_refused_with_the_remedy(
    name: str, tmp_path: Path
) -> None:
    loader = LOADERS[name]()
    batches = iter(loader)
    next(batches)
    with pytest.raises(rk.UnsupportedError, match="save between epochs") as caught:
        rk.save(tmp_path / "saved", agent={"batches": batches})
    assert [path for path, _ in caught.value.refusals] == ["agent/batches"]
    assert "DataLoader in mid-iteration" in str(caught.value)
    assert not list(tmp_path.iterdir())


@EACH_LOADER
def test_a_loop_over_a_tracked_loader_is_found_although_nothing_tracked_holds_it(
    name: str, tmp_path: Path
) -> None:
    loader = LOADERS[name]()
    rk.save(tmp_path / "before", agent={"loader": loader})
    for _ in loader:
        with pytest.raises(rk.UnsupportedError, match=r"agent/loader: .*in mid-iteration"):
            rk.save(tmp_path / "within", agent={"loader": loader})
        with pytest.raises(rk.MismatchError, match=r"agent/loader: .*in mid-iteration"):
            rk.restore(tmp_path / "before", agent={"loader": loader})
        break
    rk.save(tmp_path / "after", agent={"loader": loader})


@EACH_LOADER
def test_an_iterator_at_its_end_holds_no_state_and_is_saved(name: str, tmp_path: Path) -> None:
    loader = LOADERS[name]()
    batches = iter(loader)
    assert len(list(batches)) > 2
    rk.save(tmp_path / "saved", agent={"loader": loader, "batches": batches})
    live: dict[str, Any] = {"loader": LOADERS[name](), "batches": None}
    before = torch.get_rng_state()
    rk.restore(tmp_path / "saved", agent=live)
    assert list(live["batches"]) == []
    assert torch.equal(torch.get_rng_state(), before)
    rk.save(tmp_path / "again", agent=live)


def test_workers_that_stay_alive_are_refused_even_at_the_end(tmp_path: Path) -> None:
    loader = DataLoader(rows(), batch_size=4, num_workers=1, persistent_workers=True)
    rk.save(tmp_path / "fresh", agent={"loader": loader})
    assert len(list(loader)) == 3
    with pytest.raises(rk.UnsupportedError, match="persistent_workers=False"):
        rk.save(tmp_path / "used", agent={"loader": loader})


def test_a_loader_is_shuffled_on_as_it_would_have_been(tmp_path: Path) -> None:
    def shuffled(seed: int) -> DataLoader[Any]:
        generator = torch.Generator()
        generator.manual_seed(seed)
        return DataLoader(rows(), batch_size=4, shuffle=True, generator=generator)

    def epoch(loader: DataLoader[Any]) -> list[float]:
        return torch.cat([batch for (batch,) in loader]).tolist()

    loader, other = shuffled(1), shuffled(2)
    epoch(loader)
    rk.save(tmp_path / "saved", agent={"loader": loader})
    expected = epoch(loader)
    assert epoch(other) != expected
    rk.restore(tmp_path / "saved", agent={"loader": other})
    assert epoch(other) == expected


# --------------------------------------------------------------------------- steps in flight


def cartpole() -> Any:
    return gym.make("CartPole-v1")


def of_gymnasium() -> Any:
    envs = gym.vector.AsyncVectorEnv([cartpole])
    envs.reset(seed=1)
    return envs


def of_sb3() -> Any:
    envs = SubprocVecEnv([cartpole], start_method="fork")
    envs.seed(1)
    envs.reset()
    return envs


@pytest.mark.parametrize("make", [of_gymnasium, of_sb3])
def test_a_run_is_not_saved_while_a_step_is_in_flight(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    envs = make()
    with rk.Run(tmp_path / "run") as run:
        track(run)
        run.track(env=envs)
        envs.step_async(np.zeros(1, np.int64))
        with pytest.raises(rk.UnsupportedError, match=r"env: a step is in flight.*step_wait\(\)"):
            run.save()
        assert run.steps == []
        envs.step_wait()
        run.save()
        assert run.steps == [5]
    envs.close()


# --------------------------------------------------------------------------- another agent


def picture(parts: dict[str, Any]) -> bytes:
    """Everything that a checkpoint of these objects would hold."""
    captured = Walk().capture(parts)
    rows = {
        component: [(name, array.code, array.raw.tobytes().hex()) for name, array in part.items()]
        for component, part in captured.arrays.items()
    }
    return msgspec.json.encode([captured.documents, rows])


class Loop:
    """A plain loop that was advanced: network, optimizer, environments, counters, generator."""

    def __init__(
        self, width: int = 8, num_envs: int = 2, env: str = "CartPole-v1", rate: float = 0.1
    ) -> None:
        envs = gym.vector.SyncVectorEnv([lambda: gym.make(env)] * num_envs)
        envs.reset(seed=1)
        for _ in range(3):
            envs.step(envs.action_space.sample())
        policy = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
        optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
        policy(torch.ones(4)).sum().backward()
        optimizer.step()
        progress = rk.Progress()
        progress.step = random.randrange(100, 200)
        self.parts: dict[str, Any] = {
            "policy": policy, "optimizer": optimizer, "env": envs, "progress": progress,
            "sampler": np.random.default_rng(progress.step), "rng": rk.GlobalRNG(),
        }  # fmt: skip

    def run(self, path: Path, **configuration: Any) -> rk.Run:
        run = rk.Run(path, configuration=configuration)
        run.track(**self.parts)
        return run


def resume_refused(loop: Loop, path: Path, **configuration: Any) -> str:
    """The refusal of a resume, after which the loop's objects are as they were."""
    before = picture(loop.parts)
    with loop.run(path, **configuration) as run, pytest.raises(rk.MismatchError) as caught:
        run.resume()
    assert picture(loop.parts) == before
    assert caught.value.differences
    return str(caught.value)


def test_another_loop_is_refused_with_every_difference_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    with Loop().run(tmp_path / "run") as run:
        run.save()
    said = resume_refused(Loop(width=9, num_envs=3), tmp_path / "run")
    for line in (
        "policy/0.weight: expected float32 of shape (8, 4), found float32 of shape (9, 4)",
        "policy/0.bias",
        "policy/1.weight",
        "optimizer/params.0",
        "optimizer/params.2",
        "env/num_envs: expected 2, found 3",
    ):
        assert line in said
    said = resume_refused(Loop(env="Acrobot-v1"), tmp_path / "run")
    for line in ("env/envs.0", "env/envs.1", "CartPole", "Acrobot"):
        assert line in said


def test_another_algorithm_of_a_loop_is_refused(tmp_path: Path) -> None:
    with Loop().run(tmp_path / "run") as run:
        run.save()
    other = Loop()
    other.parts["optimizer"] = torch.optim.SGD(other.parts["policy"].parameters(), lr=0.1)
    other.parts["sampler"] = random.Random(1)
    said = resume_refused(other, tmp_path / "run")
    assert "optimizer: expected an object of class torch.optim.adam:Adam" in said
    assert "sampler: expected an object of class numpy.random._generator:Generator" in said


def test_another_configuration_of_a_loop_is_refused_with_every_difference(tmp_path: Path) -> None:
    with Loop().run(tmp_path / "run", total_timesteps=1000, rate=0.1, gamma=0.99) as run:
        run.save()
    said = resume_refused(Loop(), tmp_path / "run", total_timesteps=2000, rate=0.2, gamma=0.99)
    assert "configuration.total_timesteps: expected 1000, found 2000" in said
    assert "configuration.rate: expected 0.1, found 0.2" in said
    assert "gamma" not in said


# --------------------------------------------------------------------------- another SB3 model


def model(
    cls: Any = PPO, *, env: str = "CartPole-v1", num_envs: int = 1, width: int = 8, **options: Any
) -> Any:
    envs = DummyVecEnv([lambda: gym.make(env)] * num_envs)
    options = {"n_steps": 16, "seed": 0, "device": "cpu", **options}
    return cls("MlpPolicy", envs, policy_kwargs={"net_arch": [width]}, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    model(batch_size=16).learn(64, callback=Checkpoint(path, every=32, verbose=0))
    return path


@pytest.mark.parametrize(
    ("other", "total", "said"),
    [
        (lambda: model(A2C), 64, ("algorithm: expected PPO, found A2C",)),
        (lambda: model(batch_size=16, width=9), 64, ("policy_kwargs.net_arch",)),
        (
            lambda: model(batch_size=16, env="Acrobot-v1"),
            64,
            ("environment: expected CartPole-v1, found Acrobot-v1",),
        ),
        (
            lambda: model(batch_size=16, num_envs=2),
            64,
            ("n_envs: expected 1, found 2",),
        ),
        (lambda: model(batch_size=16), 128, ("total_timesteps: expected 64, found 128",)),
        (
            lambda: model(batch_size=8, env="Acrobot-v1", num_envs=2, width=9, gamma=0.9),
            96,
            ("environment", "n_envs", "net_arch", "total_timesteps", "batch_size", "gamma"),
        ),
    ],
    ids=["algorithm", "network", "environment", "number", "total", "all of them"],
)
def test_another_model_is_refused_with_every_difference_and_nothing_is_changed(
    trained: Path, other: Callable[[], Any], total: int, said: tuple[str, ...]
) -> None:
    live = other()
    run = rk.Run(trained)
    before = run.about, run.steps
    own = Checkpoint(trained, every=32, verbose=0)
    live.learn(0)  # what a start sets up, so that the refused one is compared with no other
    parts = {name: part for name, part in components(live).items() if name in WEIGHTS}
    state = picture(parts)
    with pytest.raises(rk.MismatchError) as caught:
        live.learn(total, callback=own)
    for text in said:
        assert text in str(caught.value)
    assert picture(parts) == state
    assert live.num_timesteps == 0
    assert (run.about, run.steps) == before


WEIGHTS = ("policy", "optimizer")
"""What a start leaves alone: it resets environments, and seeds generators from them."""

"""What every adapter must do, tried on one live object of each kind that the registry names."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import random
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import rekindle as rk
from rekindle import registry
from rekindle.adapters.external import External
from rekindle.graph import Walk

# --------------------------------------------------------------------------- one of each kind


def _nothing(live: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How to make live objects of one kind."""

    make: Callable[[int], Any]
    """A freshly built one; the number makes two of them differ where they can."""
    use: Callable[[Any], Any] = _nothing
    """Something that changes its state."""
    unfit: Callable[[], Any] | None = None
    """One of the same class that what `make` makes does not fit into."""
    parts: Callable[[Any], dict[str, Any]] = lambda live: {"agent": {"part": live}}
    """The components to save it as."""


def _torch() -> Any:
    return importlib.import_module("torch")


def _tensor(seed: int) -> Any:
    return _torch().full((3, 2), float(seed))


def _module(seed: int, width: int = 4) -> Any:
    torch = _torch()
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))


def _script(seed: int, width: int = 4) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _torch().jit.script(_module(seed, width))


def _optimizer(seed: int, width: int = 4) -> Any:
    return _torch().optim.Adam(_module(seed, width).parameters(), lr=0.1)


def _step(optimizer: Any) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = parameter.detach().clone()
    optimizer.step()


def _scaler(seed: int, enabled: bool = True) -> Any:
    return _torch().amp.GradScaler("cpu", init_scale=2.0**seed, enabled=enabled)


def _distribution(seed: int) -> Any:
    torch = _torch()
    return torch.distributions.Categorical(logits=torch.full((2,), float(seed)))


def _dictionary(seed: int, width: int = 4) -> Any:
    torch, made = _torch(), importlib.import_module("tensordict").TensorDict
    inner = made({"b": torch.arange(3)}, batch_size=[3])
    return made({"a": torch.full((3, width), float(seed)), "c": inner}, batch_size=[3])


def _gymnasium() -> Any:
    return importlib.import_module("gymnasium")


def _space(seed: int, size: int = 4) -> Any:
    spaces = _gymnasium().spaces
    return spaces.Dict({"a": spaces.Discrete(size), "b": spaces.Box(-1, 1, (2,))}, seed=seed)


def _vector(seed: int, count: int = 2) -> Any:
    env = _gymnasium().vector.SyncVectorEnv([lambda: _gymnasium().make("CartPole-v1")] * count)
    env.reset(seed=seed)
    return env


def _counted(seed: int) -> Any:
    env = _gymnasium().wrappers.RecordEpisodeStatistics(_gymnasium().make("CartPole-v1"))
    env.reset(seed=seed)
    return env


def _push(env: Any) -> None:
    if env.step(1)[2]:
        env.reset()


def _loader(seed: int) -> Any:
    data = importlib.import_module("torch.utils.data")
    generator = _torch().Generator()
    generator.manual_seed(seed)
    rows = data.TensorDataset(_torch().arange(6.0))
    return data.DataLoader(rows, batch_size=4, shuffle=True, generator=generator)


def _finished_pass(seed: int) -> Any:
    batches = iter(_loader(seed))
    assert list(batches)
    return batches


def _sb3(name: str) -> Any:
    return importlib.import_module(f"stable_baselines3.{name}")


def _vec_env(seed: int, count: int = 2, name: str = "CartPole-v1") -> Any:
    monitored = functools.partial(_monitor, seed, name)
    env = _sb3("common.vec_env").DummyVecEnv([monitored] * count)
    env.seed(seed)
    env.reset()
    return env


def _monitor(seed: int, name: str = "CartPole-v1") -> Any:
    env = _sb3("common.monitor").Monitor(_gymnasium().make(name))
    env.reset(seed=seed)
    return env


def _algorithm(seed: int, width: int = 8) -> Any:
    env = _vec_env(seed)
    options: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu"}
    net = {"net_arch": [width]}
    model = _sb3("ppo").PPO("MlpPolicy", env, seed=seed, policy_kwargs=net, **options)
    model.set_logger(_logger(seed))
    return model


def _advance(model: Any) -> None:
    """Some of what learning changes, without the rollout that a save leaves out once consumed."""
    model.num_timesteps += 16
    model._n_updates += 2
    model.ep_info_buffer = [{"r": 1.0, "l": 9}]
    _step(model.policy.optimizer)
    _act(model.get_env())


def _buffer(name: str, seed: int, size: int = 6) -> Any:
    spaces = _gymnasium().spaces
    cls = getattr(_sb3("common.buffers"), name)
    buffer = cls(size, spaces.Box(-1, 1, (3,)), spaces.Discrete(2), device="cpu")
    buffer.reset()
    return buffer


def _own_buffer(seed: int, size: int = 6) -> Any:
    """A buffer of a user's own class."""
    base = _sb3("common.buffers").BaseBuffer
    spaces = _gymnasium().spaces
    sampled = {"_get_samples": lambda self, *_: None}
    cls = type("OwnBuffer", (base,), sampled)
    buffer = cls(size, spaces.Box(-1, 1, (3,)), spaces.Discrete(2), device="cpu")
    buffer.rows = np.full((size, 3), seed)
    return buffer


def _sb3_policy(seed: int, width: int = 8) -> Any:
    return _algorithm(seed, width).policy


def _add_rows(buffer: Any) -> None:
    torch = _torch()
    for row in range(2):
        observation = np.full((1, 3), float(row + 1), np.float32)
        action, reward, done = np.ones((1, 1)), np.full(1, 0.5), np.zeros(1)
        if type(buffer).__name__ == "ReplayBuffer":
            buffer.add(observation, observation, action, reward, done, [{}])
        else:
            buffer.add(observation, action, reward, done, torch.zeros(1), torch.zeros(1))


def _logger(seed: int) -> Any:
    return _sb3("common.logger").Logger(None, [])


def _evaluation(seed: int) -> Any:
    callback = _sb3("common.callbacks").EvalCallback(_vec_env(seed), verbose=0)
    callback.best_mean_reward = float(seed)
    return callback


def _own_callback(seed: int) -> Any:
    return importlib.import_module("rekindle.sb3").Checkpoint("unused", every=8)


def _count(callback: Any) -> None:
    callback.n_calls += 5
    callback.num_timesteps += 10


def _act(env: Any) -> None:
    for action in (1, 0, 1):
        env.step(np.full(env.num_envs, action) if hasattr(env, "num_envs") else action)


def _draw(generator: Any) -> None:
    generator.random()


def _draw_globally(_: Any) -> None:
    random.random()
    np.random.random()


class _Reference:
    """Something for a weak reference to point at."""


_REFERRED = _Reference()
_LRU_CACHED = functools.lru_cache(lambda: 1)


def _surface(seed: int) -> Any:
    return importlib.import_module("pygame").Surface((2, 2))


def _clock(seed: int) -> Any:
    return importlib.import_module("pygame").time.Clock()


def _closed_stream(seed: int) -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


def _results_writer(seed: int) -> Any:
    return _sb3("common.monitor").ResultsWriter.__new__(_sb3("common.monitor").ResultsWriter)


def _progress_bar(seed: int) -> Any:
    callbacks = _sb3("common.callbacks")
    return callbacks.ProgressBarCallback.__new__(callbacks.ProgressBarCallback)


KINDS: dict[str, Kind] = {
    "torch.Tensor": Kind(make=_tensor, use=lambda live: live.add_(1)),
    "torch.dtype": Kind(make=lambda seed: (_torch().int8, _torch().bfloat16)[seed % 2]),
    "torch.device": Kind(make=lambda seed: _torch().device("cpu")),
    "torch.Size": Kind(make=lambda seed: _torch().Size([seed, 2])),
    "torch._C.Generator": Kind(
        make=lambda seed: _torch().Generator().manual_seed(seed),
        use=lambda live: _torch().rand(3, generator=live),
    ),
    "torch.distributions.distribution.Distribution": Kind(
        make=_distribution, use=lambda live: live.probs
    ),
    "torch.nn.modules.module.Module": Kind(
        make=_module,
        use=lambda live: live(_torch().ones(2, 3)).sum().backward(),
        unfit=lambda: _module(3, width=5),
    ),
    "torch.jit._script.ScriptModule": Kind(
        make=_script,
        use=lambda live: live(_torch().ones(2, 3)).sum().backward(),
        unfit=lambda: _script(3, width=5),
    ),
    "torch.optim.optimizer.Optimizer": Kind(
        make=_optimizer, use=_step, unfit=lambda: _optimizer(3, width=5)
    ),
    "torch.amp.grad_scaler.GradScaler": Kind(
        make=_scaler,
        use=lambda live: live.scale(_torch().ones(())),
        unfit=lambda: _scaler(3, enabled=False),
    ),
    "random.Random": Kind(make=random.Random, use=_draw),
    "numpy.random._generator.Generator": Kind(
        make=np.random.default_rng,
        use=_draw,
        unfit=lambda: np.random.Generator(np.random.SFC64(3)),
    ),
    "numpy.random.bit_generator.BitGenerator": Kind(
        make=np.random.PCG64, use=lambda live: live.random_raw(3)
    ),
    "numpy.random.mtrand.RandomState": Kind(
        make=np.random.RandomState,
        use=lambda live: live.standard_normal(),
        unfit=lambda: np.random.RandomState(np.random.PCG64(3)),
    ),
    "numpy.random.bit_generator.SeedSequence": Kind(
        make=lambda seed: np.random.SeedSequence(7), use=lambda live: live.spawn(2)
    ),
    "rekindle.adapters.generators.GlobalRNG": Kind(
        make=lambda seed: rk.GlobalRNG(), use=_draw_globally
    ),
    "gymnasium.spaces.space.Space": Kind(
        make=_space, use=lambda live: live.sample(), unfit=lambda: _space(3, size=5)
    ),
    "gymnasium.envs.registration.EnvSpec": Kind(
        make=lambda seed: _gymnasium().spec("CartPole-v1"),
        unfit=lambda: _gymnasium().spec("Acrobot-v1"),
    ),
    "gymnasium.vector.sync_vector_env.SyncVectorEnv": Kind(
        make=_vector, use=_act, unfit=lambda: _vector(3, count=3)
    ),
    "gymnasium.wrappers.common.RecordEpisodeStatistics": Kind(make=_counted, use=_push),
    "torch.utils.data.dataloader.DataLoader": Kind(make=_loader, use=list),
    "torch.utils.data.dataloader._BaseDataLoaderIter": Kind(make=_finished_pass),
    "stable_baselines3.common.base_class.BaseAlgorithm": Kind(
        make=_algorithm,
        use=_advance,
        unfit=lambda: _algorithm(3, width=9),
        parts=lambda live: {"agent": live, "env": live.get_env()},
    ),
    "stable_baselines3.common.logger.Logger": Kind(
        make=_logger, use=lambda live: live.record("loss", 0.5)
    ),
    "stable_baselines3.common.buffers.BaseBuffer": Kind(
        make=_own_buffer,
        use=lambda live: live.rows.__iadd__(1),
        unfit=lambda: _own_buffer(3, size=7),
    ),
    "stable_baselines3.common.policies.BaseModel": Kind(
        make=_sb3_policy,
        use=lambda live: live.action_net.weight.data.add_(1),
        unfit=lambda: _sb3_policy(3, 9),
    ),
    "tensordict._td.TensorDict": Kind(
        make=_dictionary,
        use=lambda live: live["a"].add_(1),
        unfit=lambda: _dictionary(3, width=5),
    ),
    "rekindle.rings.RingBuffer": Kind(
        make=lambda seed: rk.RingBuffer({"a": np.full((6, 2), seed)}, 6 + seed),
        use=lambda live: setattr(live, "added", live.added + 3),
        unfit=lambda: rk.RingBuffer({"b": np.zeros((6, 2))}),
    ),
    "stable_baselines3.common.buffers.ReplayBuffer": Kind(
        make=functools.partial(_buffer, "ReplayBuffer"),
        use=_add_rows,
        unfit=lambda: _buffer("ReplayBuffer", 3, size=7),
    ),
    "stable_baselines3.common.buffers.RolloutBuffer": Kind(
        make=functools.partial(_buffer, "RolloutBuffer"),
        use=_add_rows,
        unfit=lambda: _buffer("RolloutBuffer", 3, size=7),
    ),
    "stable_baselines3.common.vec_env.base_vec_env.VecEnv": Kind(
        make=_vec_env, use=_act, unfit=lambda: _vec_env(3, name="Acrobot-v1")
    ),
    "stable_baselines3.common.monitor.Monitor": Kind(
        make=_monitor, use=_act, unfit=lambda: _monitor(3, "Acrobot-v1")
    ),
    "rekindle.sb3.Checkpoint": Kind(make=_own_callback, use=_count),
    "stable_baselines3.common.callbacks.BaseCallback": Kind(make=_evaluation, use=_count),
    "stable_baselines3.common.callbacks.ProgressBarCallback": Kind(make=_progress_bar),
    "stable_baselines3.common.monitor.ResultsWriter": Kind(make=_results_writer),
    "logging.Logger": Kind(make=lambda seed: logging.getLogger(f"rekindle.{seed}")),
    "logging.LoggerAdapter": Kind(
        make=lambda seed: logging.LoggerAdapter(logging.getLogger("x"), {})
    ),
    "_thread.lock": Kind(make=lambda seed: threading.Lock()),
    "_thread.RLock": Kind(make=lambda seed: threading.RLock()),
    "pygame.surface.Surface": Kind(make=_surface),
    "pygame.time.Clock": Kind(make=_clock),
    "functools._lru_cache_wrapper": Kind(make=lambda seed: _LRU_CACHED),
    "weakref.ReferenceType": Kind(make=lambda seed: weakref.ref(_REFERRED)),
    "_io._IOBase": Kind(make=_closed_stream),
}


TRIED_APART = {
    "ale", "box2d", "declared", "equinox", "jax_values", "minigrid", "mujoco", "torchrl", "velora",
    "workers",
}  # fmt: skip
"""Modules of adapters whose objects need another library, process or protocol: see their tests."""


def _module_of(target: str) -> str:
    return target.partition(":")[0].rpartition(".")[2]


def _adapter(name: str) -> Any:
    return registry.load(registry.ADAPTERS[name])


def _is_left_alone(name: str) -> bool:
    return isinstance(_adapter(name), External)


REPLACED = {
    "torch.dtype", "torch.Size", "torch.device", "torch.utils.data.dataloader._BaseDataLoaderIter",
}  # fmt: skip
"""Plain values, which take the place of whatever is there."""
STATEFUL = [name for name in KINDS if not _is_left_alone(name)]
EXTERNAL = [name for name in KINDS if _is_left_alone(name)]
UNFIT = [name for name, kind in KINDS.items() if kind.unfit is not None]


def _bytes(parts: dict[str, Any]) -> Any:
    captured = Walk().capture(parts)
    stored = {
        component: [(name, item.code, item.raw.tobytes()) for name, item in part.items()]
        for component, part in captured.arrays.items()
    }
    return msgspec.json.encode(captured.documents), stored


def _used(name: str, seed: int) -> Any:
    live = KINDS[name].make(seed)
    KINDS[name].use(live)
    return live


@pytest.fixture(autouse=True)
def _global_generators() -> Iterator[None]:
    torch = _torch()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


# --------------------------------------------------------------------------- the suite


def test_every_adapter_is_tried() -> None:
    tried = {registry.ADAPTERS[name] for name in KINDS}
    others = {t for t in registry.ADAPTERS.values() if _module_of(t) not in TRIED_APART}
    assert others == tried


@pytest.mark.parametrize("name", KINDS)
def test_an_object_of_the_named_class_finds_its_adapter(name: str) -> None:
    live = KINDS[name].make(1)
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(live).__mro__]
    assert name in names
    assert registry.adapter_for(type(live)) is _adapter(name)


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_is_found_by_the_name_that_it_writes(name: str) -> None:
    adapter = _adapter(name)
    assert re.fullmatch(r"[a-z0-9]+\.[a-z_]+", adapter.name)
    assert registry.adapter_named(adapter.name) is adapter


def test_no_two_adapters_write_the_same_name() -> None:
    adapters = {registry.ADAPTERS[name]: _adapter(name) for name in KINDS}
    names = [adapter.name for adapter in adapters.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", KINDS)
def test_capturing_twice_gives_equal_bytes(name: str) -> None:
    parts = KINDS[name].parts(_used(name, 1))
    assert _bytes(parts) == _bytes(parts)


@pytest.mark.parametrize("is_used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("name", STATEFUL)
def test_what_is_restored_is_captured_as_equal_bytes(
    name: str, is_used: bool, tmp_path: Path
) -> None:
    kind = KINDS[name]
    live = _used(name, 1)
    expected = _bytes(kind.parts(live))
    rk.save(tmp_path / "saved", **kind.parts(live))
    assert _bytes(kind.parts(live)) == expected, "saving changed it"
    other = _used(name, 2) if is_used else kind.make(2)
    parts = kind.parts(other)
    report = rk.restore(tmp_path / "saved", **parts)
    assert _bytes(parts) == expected
    assert not report.notes
    assert not report.differences
    if not _adapter(name).is_value and isinstance(parts["agent"], dict):
        assert parts["agent"]["part"] is other


@pytest.mark.parametrize("name", STATEFUL)
def test_what_is_saved_loads_as_plain_data(name: str, tmp_path: Path) -> None:
    parts = KINDS[name].parts(_used(name, 1))
    rk.save(tmp_path / "saved", **parts)
    assert rk.load(tmp_path / "saved").keys() == parts.keys()


class Stranger:
    """An object of a class that nothing here was saved from."""


@pytest.mark.parametrize("name", STATEFUL)
def test_an_object_of_another_class_is_a_difference(name: str, tmp_path: Path) -> None:
    witness = random.Random(5)
    rk.save(tmp_path / "saved", agent={"part": _used(name, 1), "witness": random.Random(4)})
    live: dict[str, Any] = {"part": Stranger(), "witness": witness}
    state = witness.getstate()
    if name in REPLACED:
        rk.restore(tmp_path / "saved", agent=live)
        assert registry.adapter_for(type(live["part"])) is _adapter(name)
        return
    with pytest.raises(rk.MismatchError, match="agent/part: expected"):
        rk.restore(tmp_path / "saved", agent=live)
    assert type(live["part"]) is Stranger
    assert not vars(live["part"])
    assert witness.getstate() == state


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_a_difference_and_is_not_changed(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    assert kind.unfit is not None
    rk.save(tmp_path / "saved", **kind.parts(_used(name, 1)))
    parts = kind.parts(kind.unfit())
    before = _bytes(parts)
    with pytest.raises(rk.MismatchError, match="nothing was changed") as caught:
        rk.restore(tmp_path / "saved", **parts)
    assert caught.value.differences
    assert _bytes(parts) == before


@pytest.mark.parametrize("name", EXTERNAL)
def test_what_belongs_to_the_process_stays_the_live_object(name: str, tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent={"part": KINDS[name].make(1), "step": 5})
    live = {"part": KINDS[name].make(2), "step": 0}
    part = live["part"]
    rk.restore(tmp_path / "saved", agent=live)
    assert live["part"] is part
    assert live["step"] == 5

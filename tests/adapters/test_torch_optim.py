"""Every optimizer, scheduler and gradient scaler of torch goes on exactly."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import rekindle as rk
from rekindle.graph import Walk

# --------------------------------------------------------------------------- a small training


def classes_in(module: Any, base: type) -> dict[str, Any]:
    """The public classes of a module that derive from a class."""
    return {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base and name[0] != "_"
    }


OPTIMIZERS = classes_in(torch.optim, torch.optim.Optimizer)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"amsgrad": True, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "centered": True},
    {"maximize": True},
    {"lr": torch.tensor(0.01)},
    {"history_size": 4, "line_search_fn": "strong_wolfe"},
]


def _accepts(cls: type, options: dict[str, Any]) -> bool:
    return options.keys() <= inspect.signature(cls).parameters.keys()


CASES = [
    pytest.param(cls, options, id=f"{name}-{'-'.join(map(str, options))}")
    for name, cls in OPTIMIZERS.items()
    for options in OPTIONS
    if _accepts(cls, options)
]


def build(cls: Any, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A freshly made network and its optimizer, as a user's script makes them."""
    torch.manual_seed(5)
    if cls.__name__ == "SparseAdam":
        module: nn.Module = nn.Sequential(nn.Embedding(9, 7, sparse=True))
    else:
        # Muon takes matrices alone.
        bias = cls.__name__ != "Muon"
        module = nn.Sequential(nn.Linear(5, 7, bias=bias), nn.Tanh(), nn.Linear(7, 3, bias=bias))
    return module, cls(module.parameters(), **{"lr": 0.01, **options})


def train(module: Any, optimizer: Any, num_steps: int, seed: int) -> list[float]:
    """Take steps on data drawn from a seed; the losses."""
    generator = torch.Generator().manual_seed(seed)
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(x).square().sum()
        loss.backward()
        return loss.detach()

    for _ in range(num_steps):
        if isinstance(module[0], nn.Embedding):
            x = torch.randint(0, 9, (6,), generator=generator)
        else:
            x = torch.randn(6, 5, generator=generator)
        losses.append(float(optimizer.step(closure)))
    return losses


def tensors(module: nn.Module, optimizer: Any) -> list[Any]:
    """Everything that a further step depends on, to compare bit for bit."""
    found: list[Any] = [tensor.tolist() for tensor in module.state_dict().values()]
    documents, arrays = Walk().capture({"module": module, "optimizer": optimizer}), []
    for part in documents.arrays.values():
        arrays += [(name, item.raw.tobytes()) for name, item in part.items()]
    return [*found, arrays]


# --------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_an_optimizer_goes_on_exactly(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module, optimizer = build(cls, **options)
    train(module, optimizer, 3, seed=1)
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    expected = train(module, optimizer, 4, seed=2)

    fresh, fresh_optimizer = build(cls, **options)
    train(fresh, fresh_optimizer, 1, seed=8)
    rk.restore(tmp_path / "saved", policy=fresh, optimizer=fresh_optimizer)
    assert train(fresh, fresh_optimizer, 4, seed=2) == expected
    assert tensors(fresh, fresh_optimizer) == tensors(module, optimizer)

    loaded = rk.load(tmp_path / "saved", to="torch")
    plain, plain_optimizer = build(cls, **options)
    plain.load_state_dict(loaded["policy"], strict=True)
    plain_optimizer.load_state_dict(loaded["optimizer"])
    assert train(plain, plain_optimizer, 4, seed=2) == expected


STATELESS = {"SGD"}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - STATELESS))
def test_without_its_state_an_optimizer_goes_another_way(name: str, tmp_path: Path) -> None:
    module, optimizer = build(OPTIMIZERS[name])
    train(module, optimizer, 3, seed=1)
    rk.save(tmp_path / "saved", exclude=["optimizer.*state*"], policy=module, optimizer=optimizer)
    rk.save(tmp_path / "module", policy=module)
    expected = train(module, optimizer, 4, seed=2)
    fresh, fresh_optimizer = build(OPTIMIZERS[name])
    rk.restore(tmp_path / "module", policy=fresh)
    assert train(fresh, fresh_optimizer, 4, seed=2) != expected


def test_the_module_alone_goes_with_another_lr_another_way(tmp_path: Path) -> None:
    module, optimizer = build(torch.optim.SGD, lr=0.01)
    optimizer.param_groups[0]["lr"] = 0.002
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    expected = train(module, optimizer, 3, seed=2)
    for parts, is_same in ((("policy", "optimizer"), True), (("policy",), False)):
        fresh, fresh_optimizer = build(torch.optim.SGD, lr=0.01)
        live = {"policy": fresh, "optimizer": fresh_optimizer}
        rk.restore(tmp_path / "saved", **{name: live[name] for name in parts})
        assert (train(fresh, fresh_optimizer, 3, seed=2) == expected) == is_same


def _in_groups(module: Any, amsgrad: bool = True) -> torch.optim.Optimizer:
    groups = [
        {"params": [module[0].weight], "lr": 0.1, "betas": (0.8, 0.9)},
        {"params": [module[0].bias, module[2].bias], "weight_decay": 0.2, "name": "biases"},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, amsgrad=amsgrad)
    optimizer.add_param_group({"params": [module[2].weight], "lr": torch.tensor(0.05)})
    return optimizer


def test_groups_keep_their_options_and_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    module, _ = build(torch.optim.SGD)
    optimizer = _in_groups(module)
    module[0].bias.requires_grad_(False)
    train(module, optimizer, 3, seed=1)
    optimizer.param_groups[0]["lr"] = 0.003
    optimizer.param_groups[1]["note"] = ["a user's own", 1]
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    expected = train(module, optimizer, 3, seed=2)
    fresh, _ = build(torch.optim.SGD)
    fresh_optimizer = _in_groups(fresh)
    rk.restore(tmp_path / "saved", policy=fresh, optimizer=fresh_optimizer)
    assert not fresh[0].bias.requires_grad
    assert fresh_optimizer.param_groups[1]["note"] == ["a user's own", 1]
    assert train(fresh, fresh_optimizer, 3, seed=2) == expected
    assert tensors(fresh, fresh_optimizer) == tensors(module, optimizer)
    for group, other in zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True):
        drop = {"params", "lr"}
        assert {k: v for k, v in group.items() if k not in drop} == {
            k: v for k, v in other.items() if k not in drop
        }
        assert type(group["lr"]) is type(other["lr"])


@pytest.mark.parametrize("alone", [True, False])
def test_gradients_that_are_still_accumulating_go_on(alone: bool, tmp_path: Path) -> None:
    module, optimizer = build(torch.optim.Adam)
    train(module, optimizer, 2, seed=1)
    optimizer.zero_grad()
    rk.save(tmp_path / "weights", policy=module)
    module(torch.ones(2, 5)).sum().backward()
    module[2].bias.grad = None
    parts = {"optimizer": optimizer} if alone else {"policy": module, "optimizer": optimizer}
    rk.save(tmp_path / "saved", **parts)

    def resumed() -> tuple[Any, Any]:
        fresh, fresh_optimizer = build(torch.optim.Adam)
        train(fresh, fresh_optimizer, 1, seed=4)
        rk.restore(tmp_path / "weights", policy=fresh)
        live = {"policy": fresh, "optimizer": fresh_optimizer}
        rk.restore(tmp_path / "saved", **{name: live[name] for name in parts})
        return fresh, fresh_optimizer

    def finish(module: Any, optimizer: Any) -> list[Any]:
        module(torch.full((2, 5), 0.5)).sum().backward()
        optimizer.step()
        return [tensor.tolist() for tensor in module.parameters()]

    fresh, fresh_optimizer = resumed()
    set_where = [parameter.grad is not None for parameter in fresh.parameters()]
    assert set_where == [True, True, True, False]
    expected = finish(module, optimizer)
    assert finish(fresh, fresh_optimizer) == expected
    without, without_optimizer = resumed()
    without_optimizer.zero_grad()
    assert finish(without, without_optimizer) != expected


def test_state_that_a_fresh_start_would_not_have_is_forgotten(tmp_path: Path) -> None:
    module, optimizer = build(torch.optim.Adam)
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    train(module, optimizer, 3, seed=1)
    rk.restore(tmp_path / "saved", policy=module, optimizer=optimizer)
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in module.parameters())


def test_an_optimizer_and_its_module_share_what_they_share(tmp_path: Path) -> None:
    module, optimizer = build(torch.optim.Adam)
    train(module, optimizer, 1, seed=1)
    checkpoint = rk.save(tmp_path / "saved", optimizer=optimizer, policy=module)
    names = checkpoint.arrays("policy")
    assert {"0.weight", "2.bias", "grad.0.weight"} <= names.keys()
    assert not any("grad" in name for name in checkpoint.arrays("optimizer"))


def test_optimizer_hooks_are_left_alone(tmp_path: Path) -> None:
    calls: list[int] = []
    module, optimizer = build(torch.optim.SGD)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    rk.save(tmp_path / "saved", optimizer=optimizer)
    rk.restore(tmp_path / "saved", optimizer=optimizer)
    train(module, optimizer, 2, seed=1)
    assert calls == [1, 1]


# --------------------------------------------------------------------------- what does not fit


def _wider() -> tuple[Any, Any]:
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    return module, torch.optim.SGD(module.parameters(), lr=0.5)


def _fewer() -> tuple[Any, Any]:
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    return module, torch.optim.SGD(module[0].parameters(), lr=0.5)


def _halves() -> tuple[Any, Any]:
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).half()
    return module, torch.optim.SGD(module.parameters(), lr=0.5)


def _other_class() -> tuple[Any, Any]:
    return build(torch.optim.Adam)


def _own_option() -> tuple[Any, Any]:
    module, optimizer = build(torch.optim.SGD)
    optimizer.param_groups[0]["schedule"] = "mine"
    return module, optimizer


UNFIT = {
    "shapes": (_wider, ["params.0", "params.1", "params.2"], "shape \\(7, 5\\)"),
    "groups": (_fewer, ["param_groups"], "4"),
    "types": (_halves, ["params.0", "params.3"], "float16"),
    "class": (_other_class, [""], "Adam"),
    "option": (_own_option, ["param_groups.0.schedule"], "schedule"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_optimizer_that_does_not_fit_is_not_changed(name: str, tmp_path: Path) -> None:
    make, expected, message = UNFIT[name]
    # SGD without momentum has no state, so only what it says of its parameters can tell.
    _, optimizer = build(torch.optim.SGD)
    rk.save(tmp_path / "saved", optimizer=optimizer)
    module, other = make()
    before = tensors(module, other)
    with pytest.raises(rk.MismatchError, match=message) as caught:
        rk.restore(tmp_path / "saved", optimizer=other)
    found = [difference.key for difference in caught.value.differences]
    assert {f"optimizer/{path}" if path else "optimizer" for path in expected} <= set(found)
    assert tensors(module, other) == before


# --------------------------------------------------------------------------- schedulers


def _two_groups() -> tuple[Any, Any]:
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(5, 3))
    groups = [
        {"params": [module[0].weight], "lr": 0.1},
        {"params": [module[0].bias], "lr": 0.2},
    ]
    return module, torch.optim.SGD(groups, lr=0.1, momentum=0.9)


S = lr_scheduler
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: S.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (1 + n)]),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda n: 0.95),
    "StepLR": lambda o: S.StepLR(o, 2),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 5, 5, 7]),
    "ConstantLR": lambda o: S.ConstantLR(o, total_iters=6),
    "LinearLR": lambda o: S.LinearLR(o, total_iters=8),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9),
    "CyclicLR-function": lambda o: S.CyclicLR(o, 0.01, 0.1, 3, scale_fn=lambda x: 0.5**x),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.1, total_steps=30),
    "SequentialLR": lambda o: S.SequentialLR(
        o, [S.ConstantLR(o, total_iters=3), S.ExponentialLR(o, 0.9)], [6]
    ),
    "ChainedScheduler": lambda o: S.ChainedScheduler(
        [S.ConstantLR(o, total_iters=6), S.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=1, cooldown=1),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.05, anneal_epochs=8),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    tried = {name.partition("-")[0] for name in SCHEDULERS}
    assert classes_in(lr_scheduler, lr_scheduler.LRScheduler).keys() <= tried


def schedule(module: Any, optimizer: Any, scheduler: Any, num_steps: int, seed: int) -> list[Any]:
    """Train, and what the scheduler made of every group."""
    generator = torch.Generator().manual_seed(seed)
    rates = []
    for _ in range(num_steps):
        train(module, optimizer, 1, seed=int(torch.randint(99, (), generator=generator)))
        metric = [float(torch.rand((), generator=generator))]
        scheduler.step(*(metric if isinstance(scheduler, S.ReduceLROnPlateau) else []))
        rates.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_exactly(name: str, tmp_path: Path) -> None:
    module, optimizer = _two_groups()
    scheduler = SCHEDULERS[name](optimizer)
    schedule(module, optimizer, scheduler, 5, seed=1)
    parts = {"policy": module, "optimizer": optimizer}
    rk.save(tmp_path / "saved", scheduler=scheduler, **parts)
    expected = schedule(module, optimizer, scheduler, 8, seed=2)

    fresh, fresh_optimizer = _two_groups()
    fresh_scheduler = SCHEDULERS[name](fresh_optimizer)
    live = {"policy": fresh, "optimizer": fresh_optimizer}
    rk.restore(tmp_path / "saved", scheduler=fresh_scheduler, **live)
    assert schedule(fresh, fresh_optimizer, fresh_scheduler, 8, seed=2) == expected
    assert tensors(fresh, fresh_optimizer) == tensors(module, optimizer)


# CosineAnnealingWarmRestarts and ExponentialLR go on from the rates in the optimizer's groups.
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"MultiplicativeLR", "ExponentialLR"}))
def test_without_its_own_state_a_scheduler_goes_another_way(name: str, tmp_path: Path) -> None:
    module, optimizer = _two_groups()
    scheduler = SCHEDULERS[name](optimizer)
    schedule(module, optimizer, scheduler, 5, seed=1)
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    expected = schedule(module, optimizer, scheduler, 8, seed=2)
    fresh, fresh_optimizer = _two_groups()
    fresh_scheduler = SCHEDULERS[name](fresh_optimizer)
    rk.restore(tmp_path / "saved", policy=fresh, optimizer=fresh_optimizer)
    assert schedule(fresh, fresh_optimizer, fresh_scheduler, 8, seed=2) != expected


def test_a_scheduler_saved_alone_takes_its_optimizer_along(tmp_path: Path) -> None:
    module, optimizer = _two_groups()
    scheduler = S.StepLR(optimizer, 2)
    schedule(module, optimizer, scheduler, 5, seed=1)
    rk.save(tmp_path / "saved", scheduler=scheduler)
    _, fresh_optimizer = _two_groups()
    fresh_scheduler = S.StepLR(fresh_optimizer, 2)
    rk.restore(tmp_path / "saved", scheduler=fresh_scheduler)
    assert fresh_scheduler.optimizer is fresh_optimizer
    assert fresh_scheduler.get_last_lr() == scheduler.get_last_lr()
    momenta = [
        [state["momentum_buffer"].tolist() for state in each.state.values()]
        for each in (optimizer, fresh_optimizer)
    ]
    assert momenta[0] == momenta[1]
    assert len(momenta[0]) == 2


def test_another_schedule_is_a_difference(tmp_path: Path) -> None:
    _, optimizer = _two_groups()
    rk.save(tmp_path / "saved", scheduler=S.LambdaLR(optimizer, lambda n: 0.5**n))
    _, optimizer = _two_groups()
    for other in (S.LambdaLR(optimizer, float), S.StepLR(optimizer, 2)):
        before = dict(vars(other))
        with pytest.raises(rk.MismatchError, match="scheduler"):
            rk.restore(tmp_path / "saved", scheduler=other)
        assert vars(other) == before


def test_an_averaged_model_goes_on_exactly(tmp_path: Path) -> None:
    def make() -> tuple[Any, Any, Any]:
        module, optimizer = build(torch.optim.Adam)
        return module, optimizer, swa_utils.AveragedModel(module)

    def average(module: Any, optimizer: Any, averaged: Any, seed: int) -> list[Any]:
        for step in range(3):
            train(module, optimizer, 1, seed=seed + step)
            averaged.update_parameters(module)
        return [tensor.tolist() for tensor in averaged.state_dict().values()]

    parts = make()
    average(*parts, seed=1)
    module, optimizer, averaged = parts
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer, target=averaged)
    expected = average(*parts, seed=10)
    parts = make()
    rk.restore(tmp_path / "saved", policy=parts[0], optimizer=parts[1], target=parts[2])
    assert average(*parts, seed=10) == expected
    parts = make()
    rk.restore(tmp_path / "saved", policy=parts[0], optimizer=parts[1])
    assert average(*parts, seed=10) != expected


# --------------------------------------------------------------------------- the gradient scaler


def _scaled(module: Any, optimizer: Any, scaler: Any, num_steps: int, seed: int) -> list[Any]:
    """Train with a scaler; the scales, and the weights at the end."""
    generator = torch.Generator().manual_seed(seed)
    scales: list[Any] = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(torch.randn(4, 5, generator=generator)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return [scales, [tensor.tolist() for tensor in module.parameters()]]


def _with_scaler() -> tuple[Any, Any, Any]:
    module, optimizer = build(torch.optim.Adam)
    return module, optimizer, torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)


def test_a_gradient_scaler_goes_on_exactly(tmp_path: Path) -> None:
    module, optimizer, scaler = _with_scaler()
    _scaled(module, optimizer, scaler, 5, seed=1)
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer, scaler=scaler)
    expected = _scaled(module, optimizer, scaler, 7, seed=2)
    assert len(set(expected[0])) > 2, "the scale never changed, so it proves nothing"
    for is_whole in (True, False):
        fresh, fresh_optimizer, fresh_scaler = _with_scaler()
        parts = {"scaler": fresh_scaler} if is_whole else {}
        rk.restore(tmp_path / "saved", policy=fresh, optimizer=fresh_optimizer, **parts)
        found = _scaled(fresh, fresh_optimizer, fresh_scaler, 7, seed=2)
        assert (found == expected) == is_whole


def test_a_gradient_scaler_in_the_middle_of_a_step_is_refused(tmp_path: Path) -> None:
    module, optimizer, scaler = _with_scaler()
    _scaled(module, optimizer, scaler, 2, seed=1)
    scaler.scale(module(torch.ones(1, 5)).sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(rk.UnsupportedError, match=r"scaler: .*save after scaler\.update\(\)"):
        rk.save(tmp_path / "saved", scaler=scaler)
    assert not (tmp_path / "saved").exists()


def test_restoring_a_gradient_scaler_ends_the_step_that_it_is_in(tmp_path: Path) -> None:
    module, optimizer, scaler = _with_scaler()
    _scaled(module, optimizer, scaler, 4, seed=1)
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer, scaler=scaler)
    expected = _scaled(module, optimizer, scaler, 3, seed=2)
    scaler.scale(module(torch.ones(1, 5)).sum()).backward()
    scaler.unscale_(optimizer)
    rk.restore(tmp_path / "saved", policy=module, optimizer=optimizer, scaler=scaler)
    assert _scaled(module, optimizer, scaler, 3, seed=2) == expected


def test_a_scaler_that_is_switched_off_is_kept_too(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    rk.save(tmp_path / "saved", scaler=scaler)
    rk.restore(tmp_path / "saved", scaler=torch.amp.GradScaler("cpu", enabled=False))
    with pytest.raises(rk.MismatchError):
        rk.restore(tmp_path / "saved", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))


def test_the_losses_are_the_same_to_the_last_bit_wherever_memory_begins(tmp_path: Path) -> None:
    # LBFGS takes dot products of loaded arrays, whose rounding depends on where they begin.
    module, optimizer = build(torch.optim.LBFGS)
    train(module, optimizer, 2, seed=1)
    rk.save(tmp_path / "saved", optimizer=optimizer)
    state = rk.load(tmp_path / "saved", to="torch")["optimizer"]["state"][0]
    held = [state["d"], state["prev_flat_grad"], *state["old_dirs"], *state["old_stps"]]
    assert len(held) > 8
    assert {tensor.data_ptr() % 64 for tensor in held} == {0}
    _, fresh = build(torch.optim.LBFGS)
    rk.restore(tmp_path / "saved", optimizer=fresh)
    lists: Any = next(iter(fresh.state.values()))
    restored = itertools.chain(lists["old_dirs"], lists["old_stps"])
    assert {tensor.data_ptr() % 64 for tensor in restored} == {0}

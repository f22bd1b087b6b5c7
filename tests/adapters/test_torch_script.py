"""TorchScript modules come back whole, in place: tensors, counters, flags and gradients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import rekindle as rk
from rekindle.errors import MismatchError, UnsupportedError


class Counting(torch.nn.Module):
    """State in the places where a scripted module may keep it."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.count = 0
        self.scale = 0.5
        self.seen = [0.0]
        self.sums = torch.zeros(width)
        self.device = torch.device("cpu")
        self.nothing = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.scale *= 0.9
        self.seen.append(float(self.count))
        x = self.norm(self.layer(x)) * self.scale
        self.sums += x.detach().sum(0)
        return x


def scripted(seed: int, width: int = 2) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.script(Counting(width))
    return module, torch.optim.Adam(module.parameters(), lr=0.1)


def learn(module: Any, optimizer: torch.optim.Optimizer, count: int) -> None:
    for index in range(count):
        optimizer.zero_grad()
        module(torch.arange(8.0).reshape(4, 2) + index).square().sum().backward()
        optimizer.step()


def everything(module: Any) -> list[Any]:
    tensors = module.state_dict(keep_vars=True)
    found: list[Any] = [tensor.detach().numpy().tobytes() for tensor in tensors.values()]
    found += [p.grad.numpy().tobytes() for p in module.parameters()]
    return [*found, module.count, module.scale, module.seen, module.sums.tolist()]


def test_it_goes_on_as_the_saved_one_with_its_optimizer(tmp_path: Path) -> None:
    module, optimizer = scripted(1)
    learn(module, optimizer, 3)
    module.norm.eval()
    rk.save(tmp_path / "saved", policy=module, optimizer=optimizer)
    other, other_optimizer = scripted(2)
    rk.restore(tmp_path / "saved", policy=other, optimizer=other_optimizer)
    assert everything(other) == everything(module)
    assert (other.training, other.norm.training) == (True, False)
    for one in ((module, optimizer), (other, other_optimizer)):
        learn(*one, 3)
    assert everything(other) == everything(module)


def test_its_tensors_have_the_names_of_its_state_dict(tmp_path: Path) -> None:
    module, _ = scripted(1)
    rk.save(tmp_path / "saved", policy=module)
    loaded = rk.load(tmp_path / "saved")["policy"]
    assert loaded.keys() == module.state_dict().keys()
    assert {"layer.weight", "norm.running_mean", "sums"} <= set(
        rk.open(tmp_path / "saved").arrays("policy")
    )


def test_one_of_another_shape_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    module, optimizer = scripted(1)
    learn(module, optimizer, 1)
    rk.save(tmp_path / "saved", policy=module)
    other, _ = scripted(2, width=3)
    before = other.layer.weight.tolist()
    with pytest.raises(MismatchError, match=r"policy/layer\.weight: expected float32"):
        rk.restore(tmp_path / "saved", policy=other)
    assert (other.layer.weight.tolist(), other.count) == (before, 0)


def test_what_cannot_be_put_back_is_refused_at_the_save(tmp_path: Path) -> None:
    class Holding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [torch.zeros(2)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.parts[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.script(Holding())
    with pytest.raises(UnsupportedError, match="policy/parts: list, held by a TorchScript module"):
        rk.save(tmp_path / "saved", policy=module)

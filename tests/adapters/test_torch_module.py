"""torch modules come back whole: every tensor, flag and attribute, in place."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rekindle as rk
from rekindle.graph import Captured, Walk

WIDTH = 4
ROOT = Path(__file__).parents[2]


def content(**components: Any) -> tuple[Any, Any]:
    """All that a checkpoint of these would hold."""
    captured: Captured = Walk().capture(components)
    stored = {
        name: {key: (item.code, item.raw.tobytes()) for key, item in part.items()}
        for name, part in captured.arrays.items()
    }
    return captured.documents, stored


def disturb(module: nn.Module) -> None:
    """Change every number that a fresh module has."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.ones_like(tensor))


class Statistics(nn.Module):
    """State in all the places where a module of one's own may keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(WIDTH)
        self.count = 0
        self.scale = 0.5
        self.seen: dict[str, Any] = {"first": [1, 2]}
        self.activation = torch.tanh
        self.layers = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)]
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.inner.calls = 0
        self.register_buffer("hidden", torch.zeros(WIDTH), persistent=False)
        self.register_buffer("later", None)
        self.register_parameter("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean += x.mean(0)
        self.count += 1
        self.scale *= 0.9
        self.seen["last"] = self.count
        self.hidden += 1
        self.later = torch.full((2,), float(self.count))
        self.inner.calls += 1
        for layer in (self.inner, *self.layers):
            x = self.activation(layer(x))
        return x


class Tied(nn.Module):
    """Two names of one weight, and two names of one submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.Linear(WIDTH, WIDTH)
        self.decoder.weight = self.encoder.weight
        self.again = self.encoder
        self.register_buffer("front", self.encoder.bias.detach()[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.decoder(self.encoder(x)))


def _frozen_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))


def _parametrized() -> nn.Module:
    apply = nn.utils.parametrizations
    return nn.Sequential(
        apply.weight_norm(nn.Linear(WIDTH, WIDTH)), apply.spectral_norm(nn.Linear(WIDTH, WIDTH))
    )


def _averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(
        nn.Linear(WIDTH, WIDTH), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )


def _with_frozen_part() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))


def _forward(module: nn.Module) -> None:
    module(torch.randn(6, WIDTH)).sum().backward()


def _forward_then_freeze(module: nn.Module) -> None:
    _forward(module)
    module[1].eval()
    module[0].weight.requires_grad_(False)


def _update(module: nn.Module) -> None:
    for _ in range(3):
        module.update_parameters(nn.Linear(WIDTH, WIDTH))


def _look_up(module: nn.Module) -> None:
    module(torch.tensor([1, 2, 1])).sum().backward()


def _nothing(module: nn.Module) -> None:
    return None


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], None]]] = {
    "linear": (lambda: nn.Linear(3, 5), _nothing),
    "frozen batch norm": (_frozen_norm, _forward_then_freeze),
    "parametrized": (_parametrized, _forward),
    "state of its own": (Statistics, _forward),
    "tied": (Tied, _forward),
    "averaged": (_averaged, _update),
    "partly frozen": (_with_frozen_part, _forward_then_freeze),
    "bfloat16": (lambda: nn.Linear(3, 5).bfloat16(), _nothing),
    "complex": (lambda: nn.Linear(3, 5, dtype=torch.complex64), _nothing),
    "channels last": (
        lambda: nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        _nothing,
    ),
    "recurrent": (lambda: nn.LSTM(WIDTH, 3, num_layers=2), _nothing),
    "no biases": (lambda: nn.LayerNorm(WIDTH, bias=False), _forward),
    "attention": (lambda: nn.MultiheadAttention(WIDTH, 2), _nothing),
    "lists and dicts": (
        lambda: nn.ModuleDict({
            "a": nn.ModuleList([nn.Linear(2, 2)]),
            "b": nn.ParameterList([torch.ones(2)]),
            "c": nn.ParameterDict({"x": torch.ones(3)}),
        }),
        _nothing,
    ),
    "sparse gradients": (lambda: nn.Embedding(5, 3, sparse=True), _look_up),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_restored_whole_and_in_place(name: str, tmp_path: Path) -> None:
    build, use = MODULES[name]
    module = build()
    use(module)
    expected = content(policy=module)
    rk.save(tmp_path / "saved", policy=module)
    fresh = build()
    before = {key: id(tensor) for key, tensor in fresh.named_parameters()}
    disturb(fresh)
    report = rk.restore(tmp_path / "saved", policy=fresh)
    assert content(policy=fresh) == expected
    assert {key: id(tensor) for key, tensor in fresh.named_parameters()} == before
    assert report.components == ("policy",)
    assert not report.differences
    assert not report.notes
    assert content(policy=module) == expected, "the save changed the module"


@pytest.mark.parametrize("name", MODULES)
def test_plain_torch_can_load_the_state_dict(name: str, tmp_path: Path) -> None:
    build, use = MODULES[name]
    module = build()
    use(module)
    rk.save(tmp_path / "saved", policy=module)
    loaded = rk.load(tmp_path / "saved", to="torch")["policy"]
    assert list(loaded) == list(module.state_dict())
    for key, tensor in module.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
        assert loaded[key].dtype == tensor.dtype
    fresh = build()
    if any(buffer is None for buffer in vars(fresh)["_buffers"].values()):
        del loaded["later"]  # torch itself cannot load a buffer that is not there yet.
    fresh.load_state_dict(loaded, strict=True)


def test_a_buffer_that_was_not_there_yet_is_forgotten(tmp_path: Path) -> None:
    module = Statistics()
    rk.save(tmp_path / "saved", policy=module)
    assert module.later is None
    _forward(module)
    assert module.later is not None
    rk.restore(tmp_path / "saved", policy=module)
    assert module.later is None
    assert "later" in module._buffers


def test_train_and_eval_flags_are_those_of_each_submodule(tmp_path: Path) -> None:
    module = _frozen_norm()
    module[1].eval()
    rk.save(tmp_path / "saved", policy=module)
    fresh = _frozen_norm()
    fresh.eval()
    rk.restore(tmp_path / "saved", policy=fresh)
    assert [part.training for part in fresh.modules()] == [True, True, False, True]


def test_a_state_dict_alone_would_not_have_sufficed(tmp_path: Path) -> None:
    module = Statistics()
    _forward(module)
    fresh = Statistics()
    fresh.later = torch.zeros(2)
    fresh.load_state_dict(module.state_dict(), strict=True)
    assert content(policy=fresh) != content(policy=module)
    rk.save(tmp_path / "saved", policy=module)
    rk.restore(tmp_path / "saved", policy=fresh)
    assert content(policy=fresh) == content(policy=module)


@pytest.mark.parametrize("left_out", ["count", "hidden", "later", "layers", "inner.calls", "mean"])
def test_leaving_a_part_out_shows(left_out: str, tmp_path: Path) -> None:
    module = Statistics()
    _forward(module)
    saved = rk.save(tmp_path / "saved", exclude=[f"policy.{left_out}"], policy=module)
    assert saved.manifest.excluded == [f"policy/{left_out}"]
    torch.manual_seed(1)
    fresh = Statistics()
    rk.restore(saved.path, policy=fresh)
    assert content(policy=fresh) != content(policy=module)


def test_what_is_shared_comes_back_shared(tmp_path: Path) -> None:
    module = Tied()
    rk.save(tmp_path / "saved", policy=module)
    assert len(rk.open(tmp_path / "saved").arrays("policy")) == 4, "stored more than once"
    fresh = Tied()
    rk.restore(tmp_path / "saved", policy=fresh)
    assert fresh.decoder.weight is fresh.encoder.weight
    assert fresh.again is fresh.encoder
    with torch.no_grad():
        fresh.encoder.bias.fill_(7)
    assert fresh.front.tolist() == [7, 7]


def test_a_weight_that_was_tied_becomes_tied_again(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", policy=Tied())
    fresh = Tied()
    fresh.decoder.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH))
    rk.restore(tmp_path / "saved", policy=fresh)
    assert fresh.decoder.weight is fresh.encoder.weight


def test_hooks_are_left_alone(tmp_path: Path) -> None:
    calls: list[str] = []
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda *_: calls.append("saved"))
    rk.save(tmp_path / "saved", policy=module)
    fresh = nn.Linear(2, 2)
    fresh.register_forward_hook(lambda *_: calls.append("live"))
    fresh.weight.register_hook(lambda grad: calls.append("gradient"))
    rk.restore(tmp_path / "saved", policy=fresh)
    fresh(torch.ones(1, 2)).sum().backward()
    assert calls == ["live", "gradient"]
    assert torch.equal(fresh.weight, module.weight)


def test_gradients_are_set_where_they_were_and_only_there(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module(torch.ones(1, 2)).sum().backward()
    module.bias.grad = None
    rk.save(tmp_path / "saved", policy=module)
    fresh = nn.Linear(2, 2)
    fresh.bias.grad = torch.ones(2)
    rk.restore(tmp_path / "saved", policy=fresh)
    assert module.weight.grad is not None
    assert fresh.weight.grad is not None
    assert torch.equal(fresh.weight.grad, module.weight.grad)
    assert fresh.bias.grad is None


@pytest.mark.parametrize("saved_as", ["plain", "compiled", "parallel"])
@pytest.mark.parametrize("restored_as", ["plain", "compiled", "parallel"])
def test_wrappers_that_only_run_a_module_are_looked_through(
    saved_as: str, restored_as: str, tmp_path: Path
) -> None:
    wrap: dict[str, Callable[[nn.Module], Any]] = {
        "plain": lambda module: module,
        "compiled": functools.partial(torch.compile, backend="eager"),
        "parallel": nn.DataParallel,
    }
    module, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    rk.save(tmp_path / "saved", policy=wrap[saved_as](module), agent={"model": module})
    assert list(rk.load(tmp_path / "saved", ["policy"])["policy"]) == ["weight", "bias"]
    agent = {"model": fresh}
    rk.restore(tmp_path / "saved", policy=wrap[restored_as](fresh), agent=agent)
    assert torch.equal(fresh.weight, module.weight)


def test_wrapped_modules_and_their_state_dicts_go_into_each_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tests" / "scripts" / "wrapped.py", tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # Saved and restored as plain, compiled, distributed, both, or with a compiled part; by
    # rekindle, as a state dict by rekindle, and as a state dict by torch.
    assert len(found) == 5 * 3 * 5
    assert {name: said for name, said in found.items() if said != [True, "full"]} == {}


def test_a_compiled_part_has_the_names_that_it_has_without(tmp_path: Path) -> None:
    def build() -> Any:
        module = nn.Module()
        module.body = torch.compile(nn.Linear(3, 2), backend="eager")
        module.tied = module.body
        return module

    module, plain = build(), nn.Module()
    module.body(torch.ones(1, 3)).sum().backward()
    rk.save(tmp_path / "saved", policy=module)
    assert set(rk.open(tmp_path / "saved").arrays("policy")) == {
        "body.weight", "body.bias", "grad.body.weight", "grad.body.bias",
    }  # fmt: skip
    plain.body = plain.tied = nn.Linear(3, 2)
    rk.restore(tmp_path / "saved", policy=plain)
    assert torch.equal(plain.body.weight, module.body.weight)
    assert plain.body.weight.grad is not None
    fresh = build()
    wrapper = fresh.body
    rk.restore(tmp_path / "saved", policy=fresh)
    assert fresh.body is wrapper
    assert torch.equal(fresh.body.weight, module.body.weight)


def test_a_state_dict_of_ours_goes_into_a_module(tmp_path: Path) -> None:
    module, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    rk.save(tmp_path / "saved", policy=module.state_dict())
    report = rk.restore(tmp_path / "saved", policy=fresh)
    assert report.components == ("policy",)
    assert torch.equal(fresh.weight, module.weight)
    before = fresh.weight.detach().clone()
    other = nn.Linear(3, 2, bias=False)
    with pytest.raises(rk.MismatchError, match=r"bias: expected a tensor of this name"):
        rk.restore(tmp_path / "saved", policy=other)
    with pytest.raises(rk.MismatchError, match=r"weight"):
        rk.restore(tmp_path / "saved", policy=nn.Linear(4, 2))
    rk.save(tmp_path / "less", policy={"weight": torch.zeros(2, 3)})
    with pytest.raises(rk.MismatchError, match=r"bias: expected no tensor of this name"):
        rk.restore(tmp_path / "less", policy=fresh)
    assert torch.equal(fresh.weight, before)


def test_a_module_and_its_wrapper_stay_two_names_of_one(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        module = nn.Linear(3, 2)
        return {"raw": module, "run": torch.compile(module, backend="eager"), "again": module}

    agent = build()
    rk.save(tmp_path / "saved", agent=agent)
    assert len(rk.open(tmp_path / "saved").arrays("agent")) == 2
    fresh = build()
    raw, runner = fresh["raw"], fresh["run"]
    rk.restore(tmp_path / "saved", agent=fresh)
    assert fresh["raw"] is raw
    assert fresh["again"] is raw
    assert fresh["run"] is runner
    assert torch.equal(raw.weight, agent["raw"].weight)


# --------------------------------------------------------------------------- what does not fit


class Net(nn.Module):
    def __init__(self, width: int = 8, bias: bool = True, head: Any = nn.Tanh) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width, bias=bias), head())
        self.tail = nn.Linear(width, 2)
        self.register_buffer("scale", torch.ones(width))


def _renamed() -> nn.Module:
    net = Net()
    net.end = net.tail
    del net.tail
    return net


def _retyped() -> nn.Module:
    return Net().double()


def _with_attribute() -> nn.Module:
    net = Net()
    net.temperature = 2.0
    return net


UNFIT: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "width": (
        lambda: Net(width=9),
        ["policy/body.0.weight", "policy/body.0.bias", "policy/tail.weight", "policy/scale"],
    ),
    "no bias": (lambda: Net(bias=False), ["policy/body.0.bias"]),
    "activation": (lambda: Net(head=nn.ReLU), ["policy/body.1"]),
    "name": (_renamed, ["policy/tail", "policy/tail.weight", "policy/end", "policy/end.weight"]),
    "type": (_retyped, ["policy/body.0.weight", "policy/tail.bias", "policy/scale"]),
    "attribute": (_with_attribute, ["policy/temperature"]),
    "class": (lambda: nn.Linear(3, 2), ["policy"]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_module_that_does_not_fit_is_not_changed_at_all(name: str, tmp_path: Path) -> None:
    build, expected = UNFIT[name]
    rk.save(tmp_path / "saved", policy=Net())
    other = build()
    other.eval()
    before = content(policy=other)
    with pytest.raises(rk.MismatchError, match="nothing was changed") as caught:
        rk.restore(tmp_path / "saved", policy=other)
    found = [difference.key for difference in caught.value.differences]
    assert set(expected) <= set(found)
    assert content(policy=other) == before


def test_a_parameter_that_was_none_does_not_fit_one_that_is_there(tmp_path: Path) -> None:
    rk.save(tmp_path / "without", policy=Net(bias=False))
    with pytest.raises(
        rk.MismatchError, match=r"policy/body\.0\.bias: expected None, found a parameter"
    ):
        rk.restore(tmp_path / "without", policy=Net())


def test_lenient_restoring_puts_back_what_fits(tmp_path: Path) -> None:
    module = Net()
    rk.save(tmp_path / "saved", policy=module)
    other = Net(width=9)
    report = rk.restore(tmp_path / "saved", policy=other, strict=False)
    assert torch.equal(other.tail.bias, module.tail.bias)
    assert {item.key for item in report.differences} == set(UNFIT["width"][1])


def test_a_lazy_module_is_refused_until_it_has_a_shape(tmp_path: Path) -> None:
    lazy = nn.LazyLinear(2)
    with pytest.raises(rk.UnsupportedError, match=r"policy/weight.*run one forward pass first"):
        rk.save(tmp_path / "saved", policy=lazy)
    assert not (tmp_path / "saved").exists()
    rk.save(tmp_path / "saved", policy=nn.Linear(3, 2))
    with pytest.raises(rk.MismatchError):
        rk.restore(tmp_path / "saved", policy=lazy)

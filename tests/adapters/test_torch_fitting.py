"""State dicts of foreign files go into live torch objects: exactly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rekindle as rk

GOLDEN = Path(__file__).parents[1] / "golden"


def network(inputs: int = 3) -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )


def trained(
    make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, steps: int = 3, **options: Any
) -> tuple[Any, torch.optim.Optimizer]:
    module = network()
    optimizer = make(module.parameters(), lr=0.01, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


def goes_on_alike(
    one: tuple[Any, torch.optim.Optimizer],
    other: tuple[Any, torch.optim.Optimizer],
) -> bool:
    """Whether two more updates end in the same weights, bit for bit."""
    inputs = [torch.randn(5, 3) for _ in range(2)]
    for module, optimizer in (one, other):
        for batch in inputs:
            optimizer.zero_grad()
            module(batch).square().sum().backward()
            optimizer.step()
    pairs = zip(one[0].state_dict().values(), other[0].state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adadelta, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.Adamax, {}),
        (torch.optim.Rprop, {}),
    ],
)
def test_training_goes_on_as_it_would_have(
    make: Callable[..., torch.optim.Optimizer], options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    saved = trained(make, **options)
    model, optimizer = (part.state_dict() for part in saved)
    torch.save({"model_state_dict": model, "optimizer_state_dict": optimizer}, tmp_path / "x.pt")
    held = rk.open(tmp_path / "x.pt").arrays("policy")["0.weight"].copy()
    fresh = trained(make, steps=0, **options)
    report = rk.restore(tmp_path / "x.pt", policy=fresh[0], optimizer=fresh[1])
    assert report.components == ("policy", "optimizer")
    assert goes_on_alike(saved, fresh)
    assert rk.open(tmp_path / "x.pt").arrays("policy")["0.weight"].tolist() == held.tolist()


def test_a_wider_network_changes_nothing_and_lists_all_that_differs(tmp_path: Path) -> None:
    module, optimizer = trained()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x")
    live = network(5)
    other = torch.optim.Adam(live.parameters(), lr=0.5)
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    with pytest.raises(rk.MismatchError, match="nothing was changed") as caught:
        rk.restore(tmp_path / "x", policy=live, optimizer=other)
    found = [difference.key for difference in caught.value.differences]
    assert found == [
        "policy.0.weight",
        "optimizer.state.0.exp_avg",
        "optimizer.state.0.exp_avg_sq",
    ]
    assert "expected float32 of shape (4, 3), found float32 of shape (4, 5)" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in live.state_dict().items())
    assert not other.state
    assert other.param_groups[0]["lr"] == 0.5


def test_names_that_only_one_side_has_are_differences(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(4, 3), "head.weight": torch.zeros(1)}, tmp_path / "x")
    live: Any = torch.nn.Sequential(torch.nn.Linear(3, 4))
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "x", policy=live)
    assert [str(difference) for difference in caught.value.differences] == [
        "policy.head.weight: expected float32 of shape (1,), found no tensor of this name",
        "policy.0.bias: expected no tensor of this name, found float32 of shape (4,)",
    ]
    report = rk.restore(tmp_path / "x", policy=live, strict=False)
    assert len(report.differences) == 2
    assert not live[0].weight.any()
    rk.restore(tmp_path / "x", policy=live, skip=["policy.head.*", "policy/0.bias"])


def test_what_is_skipped_stays_as_it_is(tmp_path: Path) -> None:
    module = network()
    torch.save(module.state_dict(), tmp_path / "x")
    live = network()
    before = live[2].weight.clone()
    rk.restore(tmp_path / "x", policy=live, skip=["policy.2"])
    assert torch.equal(live[2].weight, before)
    assert torch.equal(live[0].weight, module[0].weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_name_of_a_wrapper_is_left_out(prefix: str, tmp_path: Path) -> None:
    module = network()
    torch.save({prefix + key: value for key, value in module.state_dict().items()}, tmp_path / "x")
    live = network()
    report = rk.restore(tmp_path / "x", policy=live)
    assert torch.equal(live[0].weight, module[0].weight)
    assert "names begin with the name of a wrapper" in str(report)


def test_a_wrapped_live_module_takes_the_plain_names(tmp_path: Path) -> None:
    module = network()
    torch.save(module.state_dict(), tmp_path / "x")
    live: Any = torch.nn.DataParallel(network())
    rk.restore(tmp_path / "x", policy=live)
    assert torch.equal(live.module[0].weight, module[0].weight)


def test_another_type_is_a_difference(tmp_path: Path) -> None:
    torch.save(network().half().state_dict(), tmp_path / "x")
    with pytest.raises(rk.MismatchError, match="expected float16 of shape"):
        rk.restore(tmp_path / "x", policy=network())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_that_numpy_lacks_arrive_as_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2).to(dtype)
    torch.save(module.state_dict(), tmp_path / "x")
    live = torch.nn.Linear(3, 2).to(dtype)
    rk.restore(tmp_path / "x", policy=live)
    assert torch.equal(live.weight, module.weight)


def test_options_that_the_file_does_not_tell_of_stay(tmp_path: Path) -> None:
    module, optimizer = trained()
    state = optimizer.state_dict()
    del state["param_groups"][0]["amsgrad"]
    torch.save({"model": module.state_dict(), "optimizer": state}, tmp_path / "x")
    other = torch.optim.Adam(network().parameters(), amsgrad=True)
    report = rk.restore(tmp_path / "x", optimizer=other)
    assert other.param_groups[0]["amsgrad"] is True
    assert other.param_groups[0]["lr"] == 0.01
    assert "does not tell of amsgrad" in report.notes[0]


def test_groups_and_options_that_do_not_fit_are_differences(tmp_path: Path) -> None:
    module, optimizer = trained()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x")
    live = network()
    two = torch.optim.Adam([{"params": live[0].parameters()}, {"params": live[2].parameters()}])
    with pytest.raises(rk.MismatchError, match=r"param_groups: expected 1 group of \[6\]"):
        rk.restore(tmp_path / "x", optimizer=two)
    with pytest.raises(rk.MismatchError, match=r"betas: expected .*found no such option"):
        rk.restore(tmp_path / "x", optimizer=torch.optim.SGD(live.parameters(), lr=1))
    with pytest.raises(rk.MismatchError, match="no tensor of this name"):
        rk.restore(tmp_path / "x", optimizer=live)
    with pytest.raises(rk.MismatchError, match="an optimizer, which takes its state dict"):
        rk.restore(tmp_path / "x", policy=torch.optim.SGD(live.parameters(), lr=1))


class Note:
    """An object that is no data."""

    text = "x"


def test_a_record_where_a_tensor_is_expected_is_a_difference(tmp_path: Path) -> None:
    module, optimizer = trained()
    state = {**module.state_dict(), "0.bias": Note()}
    moments = optimizer.state_dict()
    moments["state"][0]["exp_avg"] = Note()
    moments["param_groups"][0]["lr"] = Note()
    torch.save({"optimizer": moments, "agent": state}, tmp_path / "x")
    live = network()
    before = live[0].weight.clone()
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(
            tmp_path / "x",
            optimizer=torch.optim.Adam(live.parameters()),
            policy=live,
        )
    found = {difference.key: difference for difference in caught.value.differences}
    assert list(found) == [
        "optimizer.param_groups.0.lr",
        "optimizer.state.0.exp_avg",
        "policy.0.bias",
    ]
    assert "an object of class" in found["policy.0.bias"].expected
    assert "tensor float32 of shape (4,)" in found["policy.0.bias"].found
    assert torch.equal(live[0].weight, before)
    given = {"optimizer.param_groups.0.lr": 3e-4}
    other = torch.optim.Adam(live.parameters())
    rk.restore(tmp_path / "x", optimizer=other, replace=given, skip=["optimizer.state.0.exp_avg"])
    assert other.param_groups[0]["lr"] == 3e-4
    assert "exp_avg" not in other.state[live[0].weight]
    assert "exp_avg" in other.state[live[0].bias]


def test_without_strictness_the_state_of_a_parameter_is_all_there_or_not(tmp_path: Path) -> None:
    _, optimizer = trained()
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save({"optimizer": state}, tmp_path / "x")
    live = network()
    other = torch.optim.Adam(live.parameters())
    report = rk.restore(tmp_path / "x", optimizer=other, strict=False)
    assert [item.key for item in report.differences] == ["optimizer.state.0.exp_avg"]
    assert not other.state.get(live[0].weight)
    assert other.state[live[0].bias]["step"] == 3
    live(torch.randn(5, 3)).sum().backward()
    other.step()
    assert other.state[live[0].weight]["step"] == 1


def test_a_generator_takes_its_state(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(7, generator=generator)
    torch.save({"generator": generator.get_state(), "note": 1}, tmp_path / "x")
    live = torch.Generator()
    rk.restore(tmp_path / "x", agent={"generator": live, "note": 0})
    assert torch.equal(torch.rand(3, generator=live), torch.rand(3, generator=generator))


def test_a_policy_of_stable_baselines3_goes_into_a_live_one() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    path = GOLDEN / "sb3/v2.9.2/ddpg_pendulum/model.zip"
    expected = sb3.DDPG.load(path, device="cpu")
    live = sb3.DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs=expected.policy_kwargs, device="cpu")
    rk.restore(
        path,
        policy=live.policy,
        actor_optimizer=live.actor.optimizer,
        critic_optimizer=live.critic.optimizer,
    )
    for name, tensor in expected.policy.state_dict().items():
        assert torch.equal(live.policy.state_dict()[name], tensor), name
    moments = live.actor.optimizer.state_dict()["state"]
    for index, state in expected.actor.optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[index][key], value) for key, value in state.items())

"""`rekindle.diff`: what differs between two checkpoints, of whatever formats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rekindle as rk

GOLDEN = Path(__file__).parent / "golden"
SB3 = GOLDEN / "sb3" / "v2.9.2" / "checkpoint_callback" / "ckpts"


def saved(path: Path, **components: Any) -> Path:
    rk.save(path, **components)
    return path


def part(found: rk.Diff, name: str) -> Any:
    return next(item for item in found.components if item.name == name)


def test_a_checkpoint_is_the_same_as_itself_saved_again(tmp_path: Path) -> None:
    state = {"weight": np.arange(6.0).reshape(2, 3), "nan": math.nan, "names": ("a", "b")}
    paths = [saved(tmp_path / name, policy=state, agent={"k": 1}) for name in "ab"]
    found = rk.diff(*paths)
    assert not found
    assert found.is_same
    assert "the same state" in str(found)
    assert "same: policy, agent" in str(found)


def test_weights_are_told_by_layer_the_furthest_apart_first(tmp_path: Path) -> None:
    near: Any = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    a = saved(tmp_path / "a", policy=near)
    weight = near[0].weight.detach().clone()
    with torch.no_grad():
        near[0].weight += 0.5
        near[1].bias += 100
    found = rk.diff(a, saved(tmp_path / "b", policy=near))
    policy = part(found, "policy")
    assert [layer.name for layer in policy.layers] == ["1", "0"]
    assert [item.key for item in policy.layers[1].arrays] == ["0.weight"]
    expected = math.sqrt(12 * 0.25) / float(torch.linalg.norm(weight))
    assert policy.layers[1].relative == pytest.approx(expected, rel=1e-5)
    assert policy.layers[1].largest == pytest.approx(0.5)
    assert policy.layers[1].share_equal == 0.0
    assert policy.num_arrays == 4


def test_what_one_side_alone_holds_is_named(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", policy={"w": np.zeros(2), "old": np.zeros(3)}, env={"x": 1})
    b = saved(tmp_path / "b", policy={"w": np.zeros(2)}, rng={"seed": 3})
    found = rk.diff(a, b)
    assert [item.key for item in found.only_first] == ["env"]
    assert [item.key for item in found.only_second] == ["rng"]
    assert [str(item) for item in part(found, "policy").only_first] == ["old (float64 (3,))"]
    for said in ("only in A: env", "only in B: rng", "only in A: old (float64 (3,))"):
        assert said in str(found)


def test_shapes_and_types_that_differ_are_told(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", policy={"w": np.zeros((2, 3)), "v": np.ones(2)})
    b = saved(tmp_path / "b", policy={"w": np.zeros((2, 4)), "v": np.ones(2, np.float32)})
    policy = part(rk.diff(a, b), "policy")
    assert [str(item) for item in policy.types] == [
        "w: expected float64 (2, 3), found float64 (2, 4)",
        "v: expected float64 (2,), found float32 (2,)",
    ]
    assert policy.arrays == ()  # the same numbers in another type


def test_hyper_parameters_and_moments_of_an_optimizer_are_told(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    paths = []
    for name in "ab":
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        paths.append(saved(tmp_path / name, optimizer=optimizer))
        optimizer.param_groups[0]["lr"] = 0.01
    found = part(rk.diff(*paths), "optimizer")
    assert {layer.name for layer in found.layers} >= {"exp_avg", "exp_avg_sq", "step"}
    rates = [item for item in found.values if item.key.endswith("param_groups.0.lr")]
    assert [(item.expected, item.found) for item in rates] == [("0.1", "0.01")]


def test_counters_metrics_and_spaces_are_told(tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    for name, env, step in (("a", "CartPole-v1", 1), ("b", "Acrobot-v1", 2)):
        rk.save(
            tmp_path / name,
            step=step,
            counters={"updates": 5},
            metrics={"return": math.nan, "loss": float(step)},
            env=gymnasium.make(env),
        )
    found = rk.diff(tmp_path / "a", tmp_path / "b")
    assert [str(item) for item in found.facts["counters"]] == ["step: expected 1, found 2"]
    assert [item.key for item in found.facts["metrics"]] == ["loss"]
    assert "observation.shape" in [item.key for item in found.facts["spaces"]]


def test_a_counter_alone_makes_two_checkpoints_differ(tmp_path: Path) -> None:
    for step in (1, 2):
        rk.save(tmp_path / f"{step}", step=step, policy={"w": np.zeros(1)})
    found = rk.diff(tmp_path / "1", tmp_path / "2")
    assert found
    assert found.summary == "differ: counters"


def test_a_normaliser_is_compared_like_anything_else(tmp_path: Path) -> None:
    def state(mean: float) -> dict[str, Any]:
        return {"observation": {"mean": np.full(3, mean), "count": 10.0 + mean}}

    paths = [saved(tmp_path / f"{mean}", normalizer=state(mean)) for mean in (1.0, 2.0)]
    found = part(rk.diff(*paths), "normalizer")
    assert [layer.name for layer in found.layers] == ["observation"]
    assert [item.key for item in found.values] == ["observation.count"]


def test_what_two_components_share_is_told_once(tmp_path: Path) -> None:
    class Agent:
        def __init__(self, module: torch.nn.Module) -> None:
            self.network = module
            self.cycle = self

    module = torch.nn.Linear(3, 2)
    a = saved(tmp_path / "a", policy=module, agent=Agent(module))
    with torch.no_grad():
        module.weight += 1
    found = rk.diff(a, saved(tmp_path / "b", policy=module, agent=Agent(module)))
    assert not part(found, "policy").is_same
    assert part(found, "agent").is_same


def test_a_list_that_grew_is_one_difference(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", agent={"returns": [1.0, 2.0], "pair": (1, 2)})
    b = saved(tmp_path / "b", agent={"returns": [1.0, 5.0, 6.0, 7.0], "pair": [1, 2]})
    agent = part(rk.diff(a, b), "agent")
    assert [str(item) for item in agent.values] == [
        "returns: expected 2 items, found 4 items",
        "returns.1: expected 2, found 5",
    ]
    assert not agent.only_second


def test_numbers_that_print_alike_and_flags_are_told_apart(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", agent={"rate": 0.1, "flag": True, "same": 1})
    b = saved(tmp_path / "b", agent={"rate": 0.1 + 1e-12, "flag": 1, "same": np.int64(1)})
    values = {item.key: item for item in part(rk.diff(a, b), "agent").values}
    assert set(values) == {"rate", "flag"}
    assert values["rate"].expected != values["rate"].found
    assert values["flag"].expected != values["flag"].found


def test_two_zips_of_stable_baselines3(tmp_path: Path) -> None:
    paths = [SB3 / f"rl_model_{step}_steps.zip" for step in (100, 200)]
    found = rk.diff(*paths)
    assert {item.key for item in found.facts["counters"]} == {"step", "updates"}
    assert part(found, "policy").num_arrays == len(part(found, "policy").arrays) == 22
    assert not rk.diff(paths[0], paths[0])
    assert not found.versions


def test_an_algorithm_against_another_one_is_still_readable() -> None:
    found = rk.diff(
        GOLDEN / "velora" / "ct_buffer_config" / "saves" / "InvertedPendulum_10",
        GOLDEN / "cogym" / "SAC",
    )
    assert (found.first.format, found.second.format) == ("velora", "cogym")
    text = str(found)
    assert len(text.splitlines()) < 70
    for said in ("only in A: target", "capacity: 2000 → 1500", "return             nothing"):
        assert said in text


def test_a_file_of_another_library_against_our_own_save_of_it(tmp_path: Path) -> None:
    source = SB3 / "rl_model_100_steps.zip"
    content = rk.load(source)
    ours = saved(tmp_path / "ours", policy=content["policy"])
    found = rk.diff(source, ours)
    assert part(found, "policy").is_same
    assert {item.key for item in found.only_first} == set(content) - {"policy"}


@pytest.mark.parametrize("name", ["sb3", "velora", "metta"])
def test_a_file_is_the_same_as_what_it_was_converted_to(name: str, tmp_path: Path) -> None:
    sources = {
        "sb3": SB3 / "rl_model_100_steps.zip",
        "velora": GOLDEN / "velora" / "ct_buffer_config" / "saves" / "InvertedPendulum_10",
        "metta": GOLDEN / "metta" / "v2_standard" / "checkpoint.pt",
    }
    rk.convert(sources[name], tmp_path / "ours", to="rekindle")
    found = rk.diff(sources[name], tmp_path / "ours")
    assert not found, str(found)
    assert (found.second.format, found.versions) == ("rekindle", ())


def test_large_arrays_of_another_library_are_compared_in_blocks() -> None:
    callbacks = [SB3 / f"rl_model_replay_buffer_{step}_steps.pkl" for step in (100, 200)]
    found = part(rk.diff(*callbacks), "replay_buffer")
    assert {"observations", "actions", "rewards"} <= {item.key for item in found.arrays}


def test_the_report_folds_and_json_does_not(tmp_path: Path) -> None:
    state = {f"layer{index}.weight": np.full(2, float(index + 1)) for index in range(30)}
    a = saved(tmp_path / "a", policy=state)
    b = saved(tmp_path / "b", policy={name: value + 1 for name, value in state.items()})
    found = rk.diff(a, b)
    assert "... and 23 more layers (--all shows them)" in str(found)
    (section,) = [s for s in found.sections(everything=True) if s.title == "policy"]
    assert len(section.rows) == 30
    told = found.to_dict()["components"]["policy"]
    assert len(told["layers"]) == 30
    assert told["layers"][0]["relative"] == pytest.approx(1.0)
    assert found.to_dict()["same"] is False


def test_errors_of_either_side_come_through(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", policy={"w": np.zeros(2)})
    with pytest.raises(rk.NotFoundError):
        rk.diff(a, tmp_path / "nothing")
    (tmp_path / "text").write_text("nothing that anybody knows")
    with pytest.raises(rk.FormatError):
        rk.diff(tmp_path / "text", a)
    (a / "policy.safetensors").write_bytes(b"")
    with pytest.raises(rk.DamagedError):
        rk.diff(a, a)

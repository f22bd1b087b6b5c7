"""Equinox modules and their optimizers go on as if never stopped; the structure is the code's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.scripts.equinox_mlp import OPTIMIZERS, PARTS, start, train

import rekindle as rk

BEFORE, AFTER = 4, 5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each optimizer a run in one go; its middle; and runs that went on in another process."""
    root = tmp_path_factory.mktemp("runs")
    pairs = []
    for case in OPTIMIZERS:
        loop = start(case)
        train(loop, case, BEFORE)
        rk.save(root / "middle" / case, progress=loop)
        train(loop, case, AFTER)
        rk.save(root / "whole" / case, progress=loop)
        pairs += [root / "middle" / case, root / "resumed" / case]
    for part in PARTS:
        pairs += [root / "middle" / "adam", root / "resumed" / f"adam-{part}"]
    subprocess.run(
        # Imported under the same name as here, since classes are compared by name.
        [sys.executable, "-c", "from tests.scripts.equinox_mlp import main; main()",
         str(AFTER), *map(str, pairs)],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    return root


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_training_goes_on_bit_for_bit_in_another_process(case: str, runs: Path) -> None:
    whole, resumed = rk.open(runs / "whole" / case), rk.open(runs / "resumed" / case)
    (found,) = whole.compare(resumed)
    assert found.differences == []
    assert found.num_values > 300
    (moved,) = whole.compare(rk.open(runs / "middle" / case))
    assert moved.largest_difference > 0


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_left_out_is_noticed(part: str, runs: Path) -> None:
    whole = rk.open(runs / "whole" / "adam")
    (found,) = whole.compare(rk.open(runs / "resumed" / f"adam-{part}"))
    assert found.largest_difference > 0


def test_restoring_keeps_the_structure_and_causes_no_new_trace(tmp_path: Path) -> None:
    traces = []

    @eqx.filter_jit
    def forward(model: Any, state: Any, opt_state: Any) -> Any:
        traces.append(1)
        return jax.tree.map(lambda x: x + 1, eqx.filter((model, state, opt_state), eqx.is_array))

    loop = start("adam")
    train(loop, "adam", 2)
    rk.save(tmp_path / "c", progress=loop)
    forward(loop.model, loop.state, loop.opt_state)
    fresh = start("adam", seed=3)
    rk.restore(tmp_path / "c", progress=fresh)
    for name in ("model", "state", "opt_state"):
        structures = [jax.tree.structure(getattr(side, name)) for side in (loop, fresh)]
        assert structures[0] == structures[1]
    forward(fresh.model, fresh.state, fresh.opt_state)
    assert traces == [1]


def test_a_live_module_is_replaced_and_not_changed(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", progress=start("adam", seed=1))
    loop = start("adam", seed=2)
    model, weight = loop.model, loop.model.mlp.layers[0].weight
    state, values = loop.state, jax.tree.leaves(loop.state)
    rk.restore(tmp_path / "c", progress=loop)
    assert loop.model is not model
    assert model.mlp.layers[0].weight is weight
    assert not np.array_equal(loop.model.mlp.layers[0].weight, weight)
    assert loop.model.mlp.activation is model.mlp.activation
    assert all(a is b for a, b in zip(jax.tree.leaves(state), values, strict=True))


def test_numbers_of_a_module_that_are_no_arrays_come_back(tmp_path: Path) -> None:
    trained = start("adam")
    trained.model = eqx.nn.inference_mode(eqx.tree_at(lambda m: m.scale, trained.model, 0.25))
    rk.save(tmp_path / "c", progress=trained)
    loop = start("adam")
    rk.restore(tmp_path / "c", progress=loop)
    assert loop.model.scale == 0.25
    assert loop.model.dropout.inference is True


def test_a_target_network_comes_apart_from_the_one_it_was_copied_from(tmp_path: Path) -> None:
    trained = start("adam")
    trained.target = trained.model
    train(trained, "adam", 1)
    rk.save(tmp_path / "c", progress=trained)
    loop = start("adam", seed=5)
    loop.target = loop.model
    rk.restore(tmp_path / "c", progress=loop)
    assert eqx.tree_equal(loop.model, trained.model)
    assert eqx.tree_equal(loop.target, trained.target)
    assert not eqx.tree_equal(loop.model, loop.target)


def test_a_module_that_stands_in_two_places_comes_back_in_both(tmp_path: Path) -> None:
    trained = start("adam")
    trained.target = trained.model
    rk.save(tmp_path / "c", progress=trained)
    loop = start("adam", seed=5)
    loop.target = start("adam", seed=6).model
    rk.restore(tmp_path / "c", progress=loop)
    assert loop.model is loop.target
    assert eqx.tree_equal(loop.model, trained.model)


def test_every_leaf_of_another_network_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", progress=start("adam"))
    loop = start("adam", width=6)
    before = dict(vars(loop))
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "c", progress=loop)
    found = {item.key: (item.expected, item.found) for item in caught.value.differences}
    assert found["progress/model.mlp.layers.0.weight"] == (
        "float32 of shape (8, 3)", "float32 of shape (6, 3)")  # fmt: skip
    assert found["progress/model.mlp.width_size"] == ("8", "6")
    arrays = [key for key, sides in found.items() if "shape" in sides[0]]
    stored = rk.open(tmp_path / "c").arrays("progress")
    assert {key.removeprefix("progress/") for key in arrays} == {
        name for name, array in stored.items() if 8 in array.shape
    }
    assert all(vars(loop)[name] is value for name, value in before.items())


class Stack(eqx.Module):
    layers: list[Any]
    extra: Any
    name: str = eqx.field(static=True)
    activation: Any = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, **given: Any) -> None:
        key = jax.random.key(0)
        self.layers = [eqx.nn.Linear(2, 2, key=key) for _ in range(given.get("depth", 2))]
        self.extra = given.get("extra")
        self.name = given.get("name", "stack")
        self.activation = given.get("activation", jnp.tanh)
        self.sizes = given.get("sizes", (2, 2))


@pytest.mark.parametrize(
    ("stored", "live", "difference"),
    [
        ({"depth": 3}, {}, "progress/it.layers: expected 3 elements, found 2"),
        ({"depth": 1}, {}, "progress/it.layers: expected 1 elements, found 2"),
        ({"name": "a"}, {"name": "b"}, "progress/it.name: expected 'a', found 'b'"),
        ({"sizes": (1, 2)}, {}, "progress/it.sizes: expected (1, 2), found (2, 2)"),
        ({"activation": jnp.sin}, {}, "progress/it.activation: expected the function"),
        ({"extra": jnp.ones(1)}, {}, "progress/it.extra: expected a value, found None"),
        ({}, {"extra": jnp.ones(1)}, "progress/it.extra: expected None, found a value"),
        ({"extra": {"a": 1}}, {"extra": {"b": 1}}, "progress/it.extra.a: expected a value"),
        ({"extra": {"a": 1}}, {"extra": {"a": 1, "b": 2}}, "progress/it.extra.b: expected nothing"),
        ({"extra": (1, 2)}, {"extra": (1,)}, "progress/it.extra: expected a tuple of 2"),
    ],
)
def test_another_structure_is_refused(
    stored: Any, live: Any, difference: str, tmp_path: Path
) -> None:
    one, two = rk.Progress(), rk.Progress()
    one.it, two.it = Stack(**stored), Stack(**live)
    rk.save(tmp_path / "c", progress=one)
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "c", progress=two)
    assert any(str(item).startswith(difference) for item in caught.value.differences)


def test_a_module_as_a_component_comes_from_into(tmp_path: Path) -> None:
    trained = start("adam")
    train(trained, "adam", 1)
    checkpoint = rk.save(tmp_path / "c", policy=trained.model, state=trained.state)
    fresh = start("adam", seed=4)
    with pytest.raises(rk.MismatchError, match=r"rk\.open\(path\)\.into\('policy', \.\.\.\)"):
        rk.restore(tmp_path / "c", policy=fresh.model)
    before = jax.tree.leaves(eqx.filter(fresh.model, eqx.is_array))
    model, state = (
        checkpoint.into(*part) for part in (("policy", fresh.model), ("state", fresh.state))
    )
    assert eqx.tree_equal(model, trained.model)
    assert eqx.tree_equal(state, trained.state)
    after = jax.tree.leaves(eqx.filter(fresh.model, eqx.is_array))
    assert all(a is b for a, b in zip(before, after, strict=True))
    with pytest.raises(rk.MismatchError, match=r"policy/mlp\.layers\.0\.weight"):
        checkpoint.into("policy", start("adam", width=4).model)


def test_a_state_that_was_used_up_is_refused(tmp_path: Path) -> None:
    loop = start("adam")
    index = loop.model.norm.ema_first_time_index
    loop.state.set(index, jnp.asarray(False))
    with pytest.raises(rk.UnsupportedError, match=r"progress/state.*replaced by a newer one"):
        rk.save(tmp_path / "c", progress=loop)

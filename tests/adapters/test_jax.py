"""Arrays and keys of JAX come back as they were, where the live ones stand, without retracing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx, struct
from flax.training.train_state import TrainState
from jax.sharding import Mesh

import rekindle as rk


def holder(**values: Any) -> rk.Progress:
    """A loop that keeps these values."""
    loop = rk.Progress()
    for name, value in values.items():
        setattr(loop, name, value)
    return loop


def again(path: Path, stored: Any, live: Any) -> Any:
    """What stands in the place of `live` when `stored` was saved and restored there."""
    rk.save(path / "c", overwrite=True, progress=holder(it=stored))
    loop = holder(it=live)
    rk.restore(path / "c", progress=loop)
    return loop.it


def content(array: Any) -> bytes:
    data = jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
    return np.asarray(data).tobytes()


def assert_same(found: Any, expected: jax.Array) -> None:
    assert isinstance(found, jax.Array)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert content(found) == content(expected)
    assert getattr(found, "weak_type", False) == getattr(expected, "weak_type", False)
    assert found.committed == expected.committed


def run_elsewhere(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


TYPES = (
    "bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32",
    "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e4m3b11fnuz", "float8_e3m4", "float8_e4m3", "int4", "uint4",
)  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_every_type_keeps_its_bits(name: str, tmp_path: Path) -> None:
    array = jnp.asarray([[0, 1], [1, 2], [4, 1]]).astype(name)
    assert_same(again(tmp_path, array, jnp.zeros_like(array)), array)


KINDS: dict[str, Callable[[], jax.Array]] = {
    "a scalar": lambda: jnp.float32(2.5),
    "an empty array": lambda: jnp.zeros((0, 3)),
    "not a number": lambda: jnp.asarray([jnp.nan, -0.0, jnp.inf]),
    "a weak scalar": lambda: jnp.asarray(1.5),
    "a weak array": lambda: jax.jit(lambda: jnp.full((2, 3), 1.5))(),
    "a weak integer": lambda: jnp.asarray(7),
    "bound to its device": lambda: jax.device_put(jnp.arange(3.0), jax.devices()[0]),
    "a weak one bound to it": lambda: jax.device_put(jnp.asarray(2.0), jax.devices()[0]),
    "a typed key": lambda: jax.random.key(5),
    "typed keys": lambda: jax.random.split(jax.random.key(5), (2, 3)),
    "a key of rbg": lambda: jax.random.key(5, impl="rbg"),
    "a key of unsafe_rbg": lambda: jax.random.key(5, impl="unsafe_rbg"),
    "a raw key": lambda: jax.random.PRNGKey(5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("live", ["another", "nothing"])
def test_every_kind_of_array_comes_back_as_it_was(kind: str, live: str, tmp_path: Path) -> None:
    array = KINDS[kind]()
    present = None if live == "nothing" else jax.tree.map(jnp.copy, array)
    assert_same(again(tmp_path, array, present), array)


def test_the_file_is_not_needed_after_a_restore(tmp_path: Path) -> None:
    found = again(tmp_path, jnp.arange(1 << 12, dtype=jnp.float32), None)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert_same(found, jnp.arange(1 << 12, dtype=jnp.float32))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_key_goes_on_with_the_same_numbers(make: Callable[[int], Any], tmp_path: Path) -> None:
    def draw(key: jax.Array) -> list[float]:
        drawn = []
        for _ in range(4):
            key, part = jax.random.split(key)
            drawn.append(float(jax.random.normal(part)))
        return drawn

    key = jax.random.split(make(3))[0]
    assert draw(again(tmp_path, key, make(4))) == draw(key)
    assert draw(make(4)) != draw(key)


def test_restoring_makes_nothing_be_traced_or_compiled_again(tmp_path: Path) -> None:
    traces = 0

    @jax.jit
    def update(state: Any) -> Any:
        nonlocal traces
        traces += 1
        count, weights, key, bound = state
        key, part = jax.random.split(key)
        return count + 1, weights + jax.random.normal(part, weights.shape), key, bound * 2

    def fresh() -> Any:
        bound = jax.device_put(jnp.ones(2), jax.devices()[0])
        return jnp.asarray(0), jnp.zeros(3), jax.random.key(0), bound

    state = fresh()
    for _ in range(3):
        state = update(state)
    before = traces, update._cache_size()
    rk.save(tmp_path / "c", progress=holder(state=state))
    loop = holder(state=fresh())
    rk.restore(tmp_path / "c", progress=loop)
    one, two = update(state), update(loop.state)
    assert (traces, update._cache_size()) == before
    for a, b in zip(one, two, strict=True):
        assert_same(b, a)


def test_a_lost_weak_type_would_be_traced_again() -> None:
    traced = []
    double = jax.jit(lambda x: traced.append(x) or x * 2)
    double(jnp.asarray(1.0))
    double(jnp.float32(1.0))
    assert len(traced) == 2


def test_a_restored_array_can_be_donated(tmp_path: Path) -> None:
    found = again(tmp_path, jnp.arange(64.0), jnp.zeros(64))
    jax.jit(lambda x: x + 1, donate_argnums=0)(found)
    assert found.is_deleted()


def test_a_donated_array_is_refused_by_its_path(tmp_path: Path) -> None:
    weights = jnp.arange(3.0)
    jax.jit(lambda x: x + 1, donate_argnums=0)(weights)
    with pytest.raises(rk.UnsupportedError, match="deleted or donated") as caught:
        rk.save(tmp_path / "c", progress=holder(model={"weights": weights}))
    assert caught.value.key == "progress/model.weights"
    assert list(tmp_path.iterdir()) == []


def test_what_was_donated_is_replaced(tmp_path: Path) -> None:
    live = jnp.zeros(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(live)
    assert_same(again(tmp_path, jnp.arange(3.0), live), jnp.arange(3.0))


@pytest.mark.parametrize("under", [jax.jit, jax.grad, jax.vmap])
def test_a_tracer_is_refused_by_its_path(under: Any, tmp_path: Path) -> None:
    def save(x: jax.Array) -> jax.Array:
        rk.save(tmp_path / "c", progress=holder(inner=[x]))
        return x

    with pytest.raises(rk.UnsupportedError, match=r"Save outside of functions under jax\.jit") as e:
        under(save)(jnp.ones(2) if under is jax.vmap else 1.0)
    assert e.value.key == "progress/inner.0"
    assert list(tmp_path.iterdir()) == []


def test_64_bits_are_never_halved_in_silence(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        rk.save(tmp_path / "c", progress=holder(it=jnp.asarray([0.1, 0.2]), n=jnp.arange(2)))
    loop = holder(it=None, n=None)
    with pytest.raises(rk.MismatchError, match="jax_enable_x64") as caught:
        rk.restore(tmp_path / "c", progress=loop)
    assert [item.key for item in caught.value.differences] == ["progress/it", "progress/n"]
    assert loop.it is None
    with pytest.raises(rk.UnsupportedError, match="jax_enable_x64"):
        rk.load(tmp_path / "c", to="jax")
    with jax.enable_x64(True):
        rk.restore(tmp_path / "c", progress=loop)
        assert loop.it.dtype == jnp.float64
        assert loop.it.tolist() == [0.1, 0.2]
        assert rk.load(tmp_path / "c", to="jax")["progress"]["n"].dtype == jnp.int64


@pytest.mark.parametrize("live", [0, 0.0, False, np.float32(1), np.zeros(()), jnp.zeros(())])
def test_an_array_may_stand_where_the_loop_began_with_a_number(live: Any, tmp_path: Path) -> None:
    stored = jnp.zeros(()) + 3
    assert_same(again(tmp_path, stored, live), stored)


def test_every_leaf_that_does_not_fit_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", progress=holder(
        params={"dense": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}, key=jax.random.key(0),
        raw=jax.random.PRNGKey(0), count=jnp.int32(2), rows=[jnp.ones(2)],
        kind=jnp.ones(2)))  # fmt: skip
    loop = holder(
        params={"dense": {"w": jnp.zeros((2, 4)), "b": jnp.zeros(3), "extra": jnp.zeros(1)}},
        key=jax.random.PRNGKey(1), raw=jax.random.key(1), count=jnp.float32(0), rows=[jnp.zeros(3)],
        kind="text",
    )  # fmt: skip
    before = dict(vars(loop))
    kept = loop.params["dense"]["b"]
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "c", progress=loop)
    assert {item.key: (item.expected, item.found) for item in caught.value.differences} == {
        "progress/params.dense.w": ("float32 of shape (2, 3)", "float32 of shape (2, 4)"),
        "progress/params.dense.extra": (
            "nothing of this name", "an object of class jaxlib._jax:ArrayImpl"),
        "progress/key": ("PRNG keys of threefry2x32 of shape ()", "uint32 of shape (2,)"),
        "progress/raw": ("uint32 of shape (2,)", "PRNG keys of threefry2x32 of shape ()"),
        "progress/count": ("int32 of shape ()", "float32 of shape ()"),
        "progress/rows.0": ("float32 of shape (2,)", "float32 of shape (3,)"),
        "progress/kind": ("float32 of shape (2,)", "an object of class builtins:str"),
    }  # fmt: skip
    assert all(vars(loop)[name] is value for name, value in before.items())
    assert loop.params["dense"]["b"] is kept


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.MismatchError, match="PRNG keys of rbg"):
        again(tmp_path, jax.random.key(0, impl="rbg"), jax.random.key(0))


def test_two_names_of_one_array_come_back_as_two_names_of_one(tmp_path: Path) -> None:
    one = jnp.arange(3.0)
    rk.save(tmp_path / "c", progress=holder(a=one, b=[one, jnp.arange(3.0)]))
    loop = holder(a=jnp.zeros(3), b=[jnp.zeros(3), jnp.zeros(3)])
    rk.restore(tmp_path / "c", progress=loop)
    assert loop.a is loop.b[0]
    assert loop.a is not loop.b[1]
    assert_same(loop.a, one)


def test_what_was_two_comes_apart_where_the_live_side_has_one(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", progress=holder(params={"w": jnp.ones(2)}, target={"w": jnp.zeros(2)}))
    fresh = {"w": jnp.full(2, 5.0)}
    loop = holder(params=fresh, target=fresh)
    rk.restore(tmp_path / "c", progress=loop)
    assert loop.params["w"].tolist() == [1, 1]
    assert loop.target["w"].tolist() == [0, 0]


def test_dictionaries_lists_and_attributes_are_changed_in_place(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", params={"w": jnp.ones(2)}, rows=[jnp.ones(2)], loop=SimpleNamespace(
        w=jnp.ones(2)))  # fmt: skip
    params, rows, loop = {"w": jnp.zeros(2)}, [jnp.zeros(2)], SimpleNamespace(w=jnp.zeros(2))
    rk.restore(tmp_path / "c", params=params, rows=rows, loop=loop)
    assert [array.tolist() for array in (params["w"], rows[0], loop.w)] == [[1, 1]] * 3


# --------------------------------------------------------------------------- immutable roots


def test_a_root_that_cannot_be_changed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    optimizer = optax.adam(1e-3)
    used = optimizer.update({"w": jnp.ones(2)}, optimizer.init({"w": jnp.zeros(2)}))[1]
    rk.save(tmp_path / "c", optimizer=used, key=jax.random.key(1))
    fresh, key = optimizer.init({"w": jnp.zeros(2)}), jax.random.key(0)
    for name, live in (("optimizer", fresh), ("key", key)):
        with pytest.raises(rk.MismatchError, match=rf"into\('{name}', \.\.\.\)"):
            rk.restore(tmp_path / "c", **{name: live})
    assert fresh[0].mu["w"].tolist() == [0, 0]


def test_into_returns_a_new_value_and_leaves_the_given_one(tmp_path: Path) -> None:
    optimizer = optax.adam(1e-3)
    used = optimizer.update({"w": jnp.ones(2)}, optimizer.init({"w": jnp.zeros(2)}))[1]
    numbers = np.arange(3.0)
    checkpoint = rk.save(tmp_path / "c", optimizer=used, key=jax.random.key(1), numbers=numbers)
    fresh = optimizer.init({"w": jnp.zeros(2)})
    found = checkpoint.into("optimizer", fresh)
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(used), strict=True):
        assert_same(one, two)
    assert fresh[0].mu["w"].tolist() == [0, 0]
    assert int(fresh[0].count) == 0
    assert_same(checkpoint.into("key", jax.random.key(0)), jax.random.key(1))
    live = np.zeros(3)
    assert checkpoint.into("numbers", live).tolist() == [0, 1, 2]
    assert live.tolist() == [0, 0, 0]


def test_into_refuses_what_does_not_fit_and_what_it_cannot_make_anew(tmp_path: Path) -> None:
    checkpoint = rk.save(tmp_path / "c", params={"w": jnp.ones(2)}, loop=holder(w=jnp.ones(2)))
    with pytest.raises(rk.MismatchError, match=r"params/w: expected float32 of shape \(2,\)"):
        checkpoint.into("params", {"w": jnp.zeros(3)})
    with pytest.raises(rk.MismatchError, match="which only restore can fill"):
        checkpoint.into("loop", holder(w=jnp.zeros(2)))


@pytest.mark.parametrize(
    ("stored", "live"),
    [
        (optax.adam(1e-3), optax.sgd(1e-3)),
        (optax.chain(optax.clip(1.0), optax.scale(2.0)), optax.clip(1.0)),
        (optax.adam(1e-3), optax.adam(optax.linear_schedule(1e-3, 0.0, 10))),
    ],
)
def test_the_state_of_another_optimizer_is_refused(stored: Any, live: Any, tmp_path: Path) -> None:
    params = {"w": jnp.ones(2)}
    with pytest.raises(rk.MismatchError, match="progress/it"):
        again(tmp_path, stored.init(params), live.init(params))


# --------------------------------------------------------------------------- functions and the rest


def named(x: Any) -> Any:
    return x


def test_functions_devices_and_types_of_jax_are_told_by_name_and_stay(tmp_path: Path) -> None:
    def fresh() -> rk.Progress:
        return holder(
            jitted=jax.jit(named), activation=jax.nn.relu, add=jnp.add, kind=jnp.bfloat16,
            dtype=jnp.dtype("bfloat16"), eight=jnp.dtype("float8_e4m3fn"),
            schedule=optax.cosine_decay_schedule(1.0, 5),
            device=jax.devices()[0], mesh=Mesh(np.array(jax.devices()), ("a",)),
            tree=jax.tree.structure({"a": 1}), sharding=jnp.ones(1).sharding,
            key_type=jax.random.key(0).dtype, compiled=jax.jit(named).lower(1.0).compile(),
            optimizer=optax.adamw(optax.warmup_cosine_decay_schedule(0, 1e-3, 5, 10)),
        )  # fmt: skip

    rk.save(tmp_path / "c", progress=fresh())
    loop = fresh()
    before = dict(vars(loop))
    rk.restore(tmp_path / "c", progress=loop)
    assert {name for name, value in vars(loop).items() if value is not before[name]} <= {
        "dtype", "eight",
    }  # fmt: skip
    assert (loop.dtype, loop.eight) == (jnp.dtype("bfloat16"), jnp.dtype("float8_e4m3fn"))
    assert loop.optimizer == before["optimizer"]


@pytest.mark.parametrize(
    ("stored", "live"), [(jax.nn.relu, jax.nn.gelu), (jax.jit(named), jax.jit(lambda x: x))]
)
def test_another_function_is_refused(stored: Any, live: Any, tmp_path: Path) -> None:
    with pytest.raises(rk.MismatchError, match="progress/it: expected the function"):
        again(tmp_path, stored, live)


def test_an_optimizer_with_another_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.MismatchError) as caught:
        again(tmp_path, optax.adam(1e-3, b1=0.8), optax.adam(1e-2))
    found = {item.key.rpartition(".")[2]: item for item in caught.value.differences}
    assert (found["b1"].expected, found["b1"].found) == ("0.8", "0.9")
    assert (found["step_size"].expected, found["step_size"].found) == ("-0.001", "-0.01")
    assert len(found) == 2


# --------------------------------------------------------------------------- flax


@struct.dataclass
class Agent:
    params: Any
    rate: float = struct.field(pytree_node=False)


def test_a_frozen_dataclass_of_arrays_is_replaced_in_its_holder(tmp_path: Path) -> None:
    fresh = Agent({"w": jnp.zeros(2)}, 0.5)
    found = again(tmp_path, Agent({"w": jnp.ones(2)}, 0.5), fresh)
    assert found.params["w"].tolist() == [1, 1]
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    with pytest.raises(rk.MismatchError, match=r"progress/it\.params\.w"):
        again(tmp_path, fresh, Agent({"w": jnp.zeros(3)}, 0.5))


def linen_state(seed: int, rate: float = 1e-2, width: int = 3) -> TrainState:
    network = linen.Dense(width)
    params = network.init(jax.random.key(seed), jnp.zeros(2))
    return TrainState.create(apply_fn=network.apply, params=params, tx=optax.adam(rate))


@jax.jit
def linen_update(state: TrainState, x: jax.Array) -> TrainState:
    def loss(params: Any) -> jax.Array:
        return jnp.square(state.apply_fn(params, x)).sum()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def test_a_train_state_of_linen_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    x = jnp.arange(4.0).reshape(2, 2)
    whole = linen_update(linen_update(linen_state(0), x), x)
    found = again(tmp_path, linen_update(linen_state(0), x), linen_state(1))
    assert int(found.step) == 1
    found = linen_update(found, x)
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
        assert_same(two, one)


def test_a_train_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.MismatchError, match=r"step_size: expected -0\.01, found -0\.1"):
        again(tmp_path, linen_state(0), linen_state(0, rate=1e-1))
    with pytest.raises(rk.MismatchError, match=r"progress/it\.params\.params\.kernel"):
        again(tmp_path, linen_state(0), linen_state(0, width=4))


class Network(nnx.Module):
    def __init__(self, width: int, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(2, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.norm(self.dropout(jax.nn.relu(self.first(x)))))


@nnx.jit
def nnx_update(network: Network, optimizer: nnx.Optimizer[Any]) -> None:
    x = jnp.arange(8.0).reshape(4, 2)
    grads = nnx.grad(lambda network: jnp.square(network(x) - 1).sum())(network)
    optimizer.update(network, grads)


ADAM = optax.adam(1e-2)
"""One for all: JAX tells functions apart by identity, so another one is another program to it."""


def nnx_pair(seed: int, width: int = 4) -> tuple[Network, nnx.Optimizer[Any]]:
    network = Network(width, seed)
    return network, nnx.Optimizer(network, ADAM, wrt=nnx.Param)


def test_a_module_of_nnx_goes_on_in_place_as_if_never_stopped(tmp_path: Path) -> None:
    whole, optimizer = nnx_pair(0)
    for _ in range(2):
        nnx_update(whole, optimizer)
    rk.save(tmp_path / "c", policy=whole, optimizer=optimizer)
    nnx_update(whole, optimizer)
    network, other = nnx_pair(1)
    kernel = network.first.kernel
    rk.restore(tmp_path / "c", policy=network, optimizer=other)
    traced = nnx_update.jitted_fn._cache_size()
    nnx_update(network, other)
    assert nnx_update.jitted_fn._cache_size() == traced
    assert network.first.kernel is kernel
    for one, two in zip(
        jax.tree.leaves(nnx.state((whole, optimizer))),
        jax.tree.leaves(nnx.state((network, other))),
        strict=True,
    ):
        assert_same(two, one)


def test_a_module_of_nnx_with_other_shapes_is_refused(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", policy=nnx_pair(0)[0])
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "c", policy=nnx_pair(0, width=5)[0])
    keys = {item.key.removesuffix("._raw_value") for item in caught.value.differences}
    assert {"policy/first.kernel", "policy/first.bias", "policy/last.kernel"} <= keys


# --------------------------------------------------------------------------- loading, devices


def test_loading_gives_arrays_of_jax_whatever_library_wrote_them(tmp_path: Path) -> None:
    rk.save(
        tmp_path / "c", numbers=np.arange(3, dtype=">f4"), text=np.array(["a"]),
        tensor=torch.ones(2, dtype=torch.bfloat16), key=jax.random.key(1), weak=jnp.asarray(1.0),
        eight=jnp.ones(2, jnp.float8_e4m3fnuz),
        torch_eight=torch.ones(2, dtype=torch.float8_e5m2fnuz),
    )  # fmt: skip
    found = rk.load(tmp_path / "c", to="jax")
    assert isinstance(found["text"], np.ndarray)
    assert_same(found["numbers"], jnp.arange(3, dtype=jnp.float32))
    assert_same(found["tensor"], jnp.ones(2, jnp.bfloat16))
    assert_same(found["key"], jax.random.key(1))
    assert_same(found["weak"], jnp.asarray(1.0))
    assert_same(found["eight"], jnp.ones(2, jnp.float8_e4m3fnuz))
    assert_same(found["torch_eight"], jnp.ones(2, jnp.float8_e5m2fnuz))
    plain = rk.load(tmp_path / "c", ["key", "weak"])
    np.testing.assert_array_equal(plain["key"], jax.random.key_data(jax.random.key(1)))
    assert type(plain["weak"]) is np.ndarray


def test_loading_onto_an_unknown_device_is_refused(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", numbers=jnp.ones(2))
    found = rk.load(tmp_path / "c", to="jax", device="cpu:0")["numbers"]
    assert found.committed
    for device in ("cpu:7", "abacus", "cpu:x"):
        with pytest.raises(rk.UnsupportedError, match="expected a device of JAX, found cpu:0"):
            rk.load(tmp_path / "c", to="jax", device=device)


def test_without_jax_the_error_names_what_to_install(tmp_path: Path) -> None:
    rk.save(tmp_path / "c", numbers=np.ones(2))
    code = f"""
import sys
sys.modules["jax"] = None
import rekindle as rk
try:
    rk.load({str(tmp_path / "c")!r}, to="jax")
except rk.MissingDependencyError as error:
    print(error)
"""
    assert "pip install rekindle[jax]" in run_elsewhere(code)


def test_arrays_come_back_on_the_device_and_in_the_sharding_of_the_live_ones(
    tmp_path: Path,
) -> None:
    code = f"""
import jax, jax.numpy as jnp, numpy as np, rekindle as rk
from jax.sharding import Mesh, NamedSharding, PartitionSpec
zero, one = jax.devices()
mesh = NamedSharding(Mesh(np.array(jax.devices()), "a"), PartitionSpec("a"))
def fresh(first, sharding):
    loop = rk.Progress()
    with jax.default_device(first):
        loop.free = jnp.arange(4.0)
    loop.bound = jax.device_put(jnp.arange(4.0), sharding)
    loop.keys = jax.device_put(jax.random.split(jax.random.key(0), 4), sharding)
    loop.absent = loop.free
    return loop
rk.save({str(tmp_path / "c")!r}, progress=fresh(zero, zero))
rk.save({str(tmp_path / "m")!r}, progress=fresh(one, mesh))
for name, first, sharding in (("c", one, one), ("c", one, mesh), ("m", zero, zero)):
    loop = fresh(first, sharding)
    expected = dict(free=loop.free.sharding, bound=loop.bound.sharding, keys=loop.keys.sharding)
    loop.absent = None
    rk.restore({str(tmp_path)!r} + "/" + name, progress=loop)
    assert loop.free.sharding == expected["free"] and not loop.free.committed, loop.free.sharding
    assert loop.bound.sharding == expected["bound"] and loop.bound.committed
    assert loop.keys.sharding == expected["keys"]
    assert loop.bound.tolist() == loop.free.tolist() == [0, 1, 2, 3]
loaded = rk.load({str(tmp_path / "c")!r}, to="jax", device="cpu:1")["progress"]
assert loaded["free"].devices() == {{one}}
print("done")
"""
    flags = "--xla_force_host_platform_device_count=2"
    assert run_elsewhere(code, XLA_FLAGS=flags) == "done\n"

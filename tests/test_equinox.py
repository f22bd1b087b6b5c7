"""Any Equinox module comes back from a file with its numbers, in the structure of the code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekindle as rk

pytest.importorskip("equinox")

import equinox as eqx
import jax
import jax.numpy as jnp
from tests.formats.test_equinox_leaves import odd

from rekindle.equinox import Serializable, deserialize, serialize

GOLDEN = Path(__file__).parent / "golden"


class Torso(eqx.Module):
    layers: list[eqx.nn.Linear]
    activation: Any

    def __init__(self, width: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 2)
        self.layers = [eqx.nn.Linear(4, width, key=keys[0]), eqx.nn.Linear(width, 2, key=keys[1])]
        self.activation = jax.nn.relu

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers[1](self.activation(self.layers[0](x)))


class Policy(Serializable):
    """Everything that a module may hold, but for typed keys."""

    torso: Torso
    half: jax.Array
    weak: jax.Array
    plain: np.ndarray[Any, Any]
    count: int
    epsilon: float
    flag: bool
    nothing: Any
    name: str
    size: int = eqx.field(static=True)

    def __init__(self, width: int = 8, *, size: int = 3, seed: int = 0) -> None:
        self.torso = Torso(width, key=jax.random.key(seed))
        self.half = jnp.full(3, seed + 0.5, jnp.bfloat16)
        self.weak = jax.lax.full_like(jnp.asarray(1.0 + seed), 2.0 + seed)
        self.plain = np.arange(3.0) + seed
        self.count, self.epsilon, self.flag = seed, seed / 7, seed > 0
        self.nothing, self.name, self.size = None, "policy", size


class Sampler(Serializable):
    """Keys of both kinds."""

    typed: jax.Array
    many: jax.Array
    raw: jax.Array

    def __init__(self, seed: int) -> None:
        self.typed = jax.random.key(seed)
        self.many = jax.random.split(jax.random.key(seed, impl="rbg"), 2)
        self.raw = jax.random.PRNGKey(seed)


class Normed(Serializable):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="ema")
        self.linear = eqx.nn.Linear(3, 2, key=key)


@pytest.fixture(params=["policy", "policy.zip", "policy.eqx"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_a_module_comes_back_with_every_number_and_its_type(path: Path) -> None:
    saved = Policy(seed=5)
    saved.serialize(path)
    found = Policy.deserialize(path)
    assert eqx.tree_equal(found, saved, typematch=True)
    assert not eqx.tree_equal(Policy(), saved)
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    assert found.half.dtype == jnp.bfloat16
    weak = eqx.tree_at(lambda p: p.weak, Policy(), jnp.asarray(2.0))
    for like in (Policy(), weak):
        assert deserialize(path, like).weak.weak_type == saved.weak.weak_type
    assert (type(found.plain), type(found.count), type(found.flag)) == (np.ndarray, int, bool)
    probe = jnp.arange(4.0)
    np.testing.assert_array_equal(found.torso(probe), saved.torso(probe))


def test_a_weak_type_is_kept_and_no_function_is_traced_again(path: Path) -> None:
    traces = []

    @eqx.filter_jit
    def double(tree: Any) -> Any:
        traces.append(1)
        return jax.tree.map(lambda leaf: leaf * 2, eqx.filter(tree, eqx.is_array))

    saved = {"a": jnp.asarray(2.0), "b": jnp.ones(2)}
    weak = jax.jit(lambda: 3.0 * 1.5)()
    saved["weak"] = weak
    serialize(saved, path)
    like = {**saved, "a": jnp.asarray(0.0)}
    double(like)
    found = deserialize(path, like)
    assert weak.weak_type
    assert found["weak"].weak_type
    assert not found["b"].weak_type
    double(found)
    assert traces == [1]


def test_functions_and_static_fields_are_those_of_the_constructor(path: Path) -> None:
    Policy(seed=1).serialize(path)
    found = Policy.deserialize(path, 8, size=3)
    assert found.torso.activation is jax.nn.relu
    assert found.size == 3
    with pytest.raises(rk.MismatchError, match=r"size|fingerprint"):
        Policy.deserialize(path, size=4)


def test_another_structure_names_the_leaf_that_differs(path: Path) -> None:
    Policy(8).serialize(path)
    with pytest.raises(rk.MismatchError) as caught:
        Policy.deserialize(path, 9)
    keys = [difference.key for difference in caught.value.differences]
    assert len(keys) >= 3
    text = str(caught.value)
    assert "layers" in keys[0]
    assert "weight" in keys[0]
    assert "(8, 4)" in text
    assert "(9, 4)" in text


@pytest.mark.parametrize("name", ["sampler", "sampler.zip"])
def test_keys_of_both_kinds_come_back(name: str, tmp_path: Path) -> None:
    Sampler(7).serialize(tmp_path / name)
    found = Sampler.deserialize(tmp_path / name, 0)
    assert found.typed.dtype == jax.random.key(0).dtype
    assert str(jax.random.key_impl(found.many)) == "rbg"
    saved = Sampler(7)
    np.testing.assert_array_equal(found.raw, saved.raw)
    for one, other in ((found.typed, saved.typed), (found.many, saved.many)):
        np.testing.assert_array_equal(jax.random.key_data(one), jax.random.key_data(other))


def test_an_eqx_file_cannot_hold_typed_keys(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"typed PRNG keys at typed, many\. Name a"):
        Sampler(7).serialize(tmp_path / "s.eqx")
    assert not list(tmp_path.iterdir())


def test_a_module_and_its_state_come_back_together(path: Path) -> None:
    make = eqx.nn.make_with_state(Normed)
    model, state = make(key=jax.random.key(1))
    batched = jax.vmap(model.norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = batched(jnp.arange(12.0).reshape(4, 3), state)
    serialize((model, state), path)
    like = make(key=jax.random.key(2))
    found, found_state = deserialize(path, like)
    assert eqx.tree_equal((found, found_state), (model, state))
    assert not eqx.tree_equal(like, (model, state))
    out = [jax.vmap(eqx.nn.inference_mode(m.norm), axis_name="batch", in_axes=(0, None))(
        jnp.ones((2, 3)), s)[0] for m, s in ((model, state), (found, found_state))]  # fmt: skip
    np.testing.assert_array_equal(*out)


def test_the_real_equinox_reads_what_stands_after_the_fingerprint(tmp_path: Path) -> None:
    saved = Policy(seed=4)
    saved.serialize(tmp_path / "p.eqx")
    with (tmp_path / "p.eqx").open("rb") as file:
        assert (
            file.read(32).hex()
            == rk.open(tmp_path / "p.eqx", "lerax").reading.details[  # type: ignore[union-attr]
                "fingerprint"
            ]
        )
        assert eqx.tree_equal(eqx.tree_deserialise_leaves(file, Policy()), saved)


def test_what_the_real_equinox_wrote_is_read(tmp_path: Path) -> None:
    saved = Policy(seed=4)
    eqx.tree_serialise_leaves(tmp_path / "p.eqx", saved)
    assert eqx.tree_equal(Policy.deserialize(tmp_path / "p.eqx"), saved)


def test_a_module_of_equinox_itself_is_read_from_its_golden_file() -> None:
    like = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))
    folder = GOLDEN / "equinox" / "mlp"
    found = deserialize(folder / "mlp.eqx", like)
    probes = np.load(folder / "expected.npz")
    outputs = jax.vmap(found)(probes["probe/obs"])
    np.testing.assert_allclose(outputs, probes["probe/outputs"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["v0.0.5", "head"])
def test_a_file_of_lerax_is_read_by_a_class_of_the_same_fields(version: str) -> None:
    class MyModule(Serializable):
        a: float
        b: float

    (file,) = (GOLDEN / "lerax" / version / "custom_doc_example").glob("*.eqx")
    expected = np.load(file.parent / "expected.npz")
    like = MyModule(0.0, 0.0)
    found = deserialize(file, like, check_fingerprint=False)
    values = sorted(float(expected[key]) for key in expected.files if expected[key].shape == ())
    assert sorted((found.a, found.b)) == values[:2]
    assert type(found.a) is float
    assert MyModule.deserialize(file, 0.0, 0.0).a == found.a


def test_every_kind_of_leaf_of_a_file_of_lerax_comes_back_and_is_written_the_same(
    tmp_path: Path,
) -> None:
    golden = GOLDEN / "lerax" / "head" / "custom_odd_leaves" / "odd.eqx"
    found = deserialize(golden, odd())
    assert found.bf16.dtype == jnp.bfloat16
    assert found.act is jax.nn.relu
    serialize(found, tmp_path / "again.eqx")
    assert (tmp_path / "again.eqx").read_bytes() == golden.read_bytes()


def test_another_class_with_the_same_leaves_is_refused_by_the_fingerprint(tmp_path: Path) -> None:
    class One(Serializable):
        a: float

    class Two(Serializable):
        a: float

    One(1.0).serialize(tmp_path / "one.eqx")
    with pytest.raises(rk.MismatchError, match="every leaf fits") as caught:
        Two.deserialize(tmp_path / "one.eqx", 0.0)
    assert caught.value.key == "fingerprint"
    assert deserialize(tmp_path / "one.eqx", Two(0.0), check_fingerprint=False).a == 1.0


def test_what_is_there_is_not_overwritten_unasked(path: Path) -> None:
    Policy(seed=1).serialize(path)
    with pytest.raises(rk.AlreadyExistsError):
        Policy(seed=2).serialize(path)
    Policy(seed=2).serialize(path, overwrite=True)
    assert Policy.deserialize(path).count == 2
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_no_module_is_not_found(tmp_path: Path) -> None:
    rk.save(tmp_path / "x", weight=np.ones(3))
    with pytest.raises(rk.NotFoundError, match="found weight"):
        Policy.deserialize(tmp_path / "x")
    with pytest.raises(rk.NotFoundError):
        Policy.deserialize(tmp_path / "nothing.eqx")


def test_a_zip_is_one_of_arrays_and_json(tmp_path: Path) -> None:
    Policy().serialize(tmp_path / "p.zip")
    names = zipfile.ZipFile(tmp_path / "p.zip").namelist()
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors"}
    assert "torso.layers.0.weight" in rk.open(tmp_path / "p.zip").arrays("agent")


def test_a_base_without_fields_leaves_the_structure_as_it_is() -> None:
    class Bare(eqx.Module):
        a: float

    class Both(Bare, Serializable):
        pass

    assert Both(1.0).a == 1.0
    assert jax.tree.leaves(Both(1.0)) == [1.0]


def test_the_name_of_the_module_does_not_hide_the_library() -> None:
    code = (
        "import sys, rekindle; assert 'equinox' not in sys.modules; import rekindle.equinox; "
        "import equinox; assert equinox.Module in rekindle.equinox.Serializable.__mro__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

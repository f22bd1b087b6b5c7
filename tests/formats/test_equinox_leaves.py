"""Files of Equinox and Lerax: every leaf bit for bit, named by a skeleton, and written again."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.fixtures import cases

from rekindle.errors import (
    DamagedError,
    FormatError,
    MismatchError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import equinox_leaves, recognition
from rekindle.formats.equinox_leaves import COMPONENT, EQUINOX, LERAX
from rekindle.formats.protocol import Confidence, Kind, Reading

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = cases("equinox", "lerax")
FORMATS = {"equinox": EQUINOX, "lerax": LERAX}


def case_id(case: Path) -> str:
    return "-".join(case.parts[-3:])


def expected_of(case: Path) -> tuple[Path, dict[str, Any], list[np.ndarray[Any, Any]]]:
    """The file of a case, what is known of it, and its leaves in order."""
    told = json.loads((case / "expected.json").read_text())
    arrays = np.load(case / "expected.npz")
    names = [name for name in sorted(arrays) if name.startswith(("leaf/", "block/"))]
    return next(case.glob("*.eqx")), told, [arrays[name] for name in names]


def format_of(told: dict[str, Any]) -> Any:
    return LERAX if "fingerprint_hex" in told else EQUINOX


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_leaf_is_bit_for_bit_the_one_that_was_written(case: Path) -> None:
    path, told, expected = expected_of(case)
    leaves = format_of(told).read(path).components[COMPONENT]
    assert len(leaves) == len(expected) == len(told["npy_stream"])
    for leaf, array, record in zip(leaves, expected, told["npy_stream"], strict=True):
        assert leaf.dtype.str == record["descr"]
        assert list(leaf.shape) == record["shape"]
        if leaf.dtype.kind == "V":
            leaf = leaf.view(jnp.bfloat16).astype(np.float32)
        assert leaf.dtype == array.dtype
        assert leaf.tobytes() == array.tobytes()


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_stands_before_the_leaves_is_told(case: Path) -> None:
    path, told, _ = expected_of(case)
    details = format_of(told).read(path).details
    expected: dict[str, Any] = {}
    if "header_json" in told:
        expected = {"header": told["header_json"]}
    if "fingerprint_hex" in told:
        expected = {"fingerprint": told["fingerprint_hex"]}
    assert details == expected


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_file_is_known_by_its_content(case: Path, tmp_path: Path) -> None:
    path, told, _ = expected_of(case)
    copy = tmp_path / "anything.pt"
    copy.write_bytes(path.read_bytes())
    assert recognition.recognise(copy) is format_of(told)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_was_read_is_written_byte_for_byte(case: Path, tmp_path: Path) -> None:
    path, told, _ = expected_of(case)
    format_ = format_of(told)
    format_.write(format_.read(path), tmp_path / "again.eqx")
    assert (tmp_path / "again.eqx").read_bytes() == path.read_bytes()


def test_what_the_file_does_not_hold_is_told() -> None:
    reading = LERAX.read(GOLDEN / "lerax/head/custom_odd_leaves/odd.eqx")
    assert [(note.kind, note.key) for note in reading.notes] == [
        (Kind.ABSENT, "agent"),
        (Kind.ABSENT, "agent[2]"),
    ]
    assert "2 bytes" in reading.notes[1].text


# --------------------------------------------------------------------------- names


class Odd(eqx.Module):
    """As the class that wrote `custom_odd_leaves`."""

    f32: Any
    f16: Any
    bf16: Any
    i8: Any
    u32: Any
    b: Any
    c64: Any
    empty: Any
    scalar: Any
    np64: Any
    npf: Any
    pyint: Any
    pyfloat: Any
    pybool: Any
    pycomplex: Any
    npscalar: Any
    none: Any
    text: Any
    act: Any
    nested: Any
    tup: Any
    static: int = eqx.field(static=True)


def odd(*, static: int = 5, width: int = 2) -> Odd:
    return Odd(
        jnp.zeros((3, width)), jnp.zeros(4, jnp.float16), jnp.zeros((2, 3), jnp.bfloat16),
        jnp.zeros(5, jnp.int8), jnp.zeros(3, jnp.uint32), jnp.zeros(2, bool),
        jnp.zeros(1, jnp.complex64), jnp.zeros((0, 3)), jnp.float32(0), np.zeros((2, 2)),
        np.zeros((2, 3)), 0, 0.0, False, 0j, np.float64(0), None, "hello", jax.nn.relu,
        {"z": jnp.zeros(2), "a": [jnp.zeros(1), 0]},
        (jnp.zeros((1, 1)), {"k": jnp.zeros(2, jnp.int32)}), static,
    )  # fmt: skip


def test_a_skeleton_gives_every_leaf_its_name_and_type() -> None:
    path, told, expected = expected_of(GOLDEN / "lerax/head/custom_odd_leaves")
    found = equinox_leaves.named(LERAX.read(path), odd())
    names = [leaf["path"].removeprefix(".") for leaf in told["leaves"] if leaf["written"]]
    assert list(found) == names
    assert found["bf16"].dtype == jnp.bfloat16
    for array, leaf in zip(expected, found.values(), strict=True):
        assert leaf.astype(array.dtype).tobytes() == array.tobytes()


def test_shapes_alone_are_skeleton_enough() -> None:
    def mlp() -> eqx.nn.MLP:
        return eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))

    path, told, _ = expected_of(GOLDEN / "equinox/mlp")
    found = equinox_leaves.named(EQUINOX.read(path), eqx.filter_eval_shape(mlp))
    assert list(found) == [
        leaf["path"].removeprefix(".") for leaf in told["leaves"] if leaf["written"]
    ]


def test_leaves_inside_a_state_have_records_of_their_own() -> None:
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    path = GOLDEN / "equinox/batchnorm_state/bn.eqx"
    like = make(3, "batch", mode="ema")
    found = equinox_leaves.named(EQUINOX.read(path), like)
    assert [array.shape for array in found.values()] == [(3,), (3,), (), (), (3,), (3,)]


def test_numbers_that_lerax_narrowed_fit_their_leaves() -> None:
    @dataclass
    class Floats:
        a: Any
        b: Any

    jax.tree_util.register_dataclass(Floats, ["a", "b"], [])
    for folder, dtype in (("v0.0.5", np.float32), ("head", np.float64)):
        path, told, expected = expected_of(GOLDEN / "lerax" / folder / "custom_doc_example")
        found = equinox_leaves.named(format_of(told).read(path), Floats(0.0, 0.0))
        assert [array.dtype for array in found.values()] == [dtype, dtype]
        assert list(found.values()) == expected


def test_a_skeleton_that_does_not_fit_is_refused_with_each_leaf_that_differs() -> None:
    reading = LERAX.read(GOLDEN / "lerax/head/custom_odd_leaves/odd.eqx")
    with pytest.raises(MismatchError) as caught:
        equinox_leaves.named(reading, replace(odd(width=7), i8=jnp.zeros(5, jnp.int16)))
    assert [difference.key for difference in caught.value.differences] == ["f32", "i8"]
    assert "f32: expected float32 (3, 7), found float32 (3, 2)" in str(caught.value)


def test_a_file_that_ends_before_the_skeleton_does_is_found_out(tmp_path: Path) -> None:
    whole = (GOLDEN / "equinox/no_suffix/weights.eqx").read_bytes()
    (tmp_path / "cut.eqx").write_bytes(whole[:136])
    reading = EQUINOX.read(tmp_path / "cut.eqx")
    with pytest.raises(MismatchError, match=r"\['b'\]: expected .*, found the end of the file"):
        equinox_leaves.named(reading, {"a": 0, "b": jnp.zeros(2)})
    with pytest.raises(MismatchError, match="no more leaves"):
        equinox_leaves.named(EQUINOX.read(GOLDEN / "equinox/no_suffix/weights.eqx"), {"a": 0})


def test_raw_bytes_are_no_leaf_of_another_type() -> None:
    reading = LERAX.read(GOLDEN / "lerax/head/custom_odd_leaves/odd.eqx")
    with pytest.raises(MismatchError, match=r"bf16: expected float16.*2 raw bytes"):
        equinox_leaves.named(reading, replace(odd(), bf16=jnp.zeros((2, 3), jnp.float16)))


# --------------------------------------------------------------------------- the real Equinox


def test_the_real_equinox_loads_what_is_written_and_computes_the_same(tmp_path: Path) -> None:
    like = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))
    for case in ("mlp", "mlp_json_header"):
        path, told, _ = expected_of(GOLDEN / "equinox" / case)
        probes = np.load(path.parent / "expected.npz")
        named = equinox_leaves.named(EQUINOX.read(path), like)
        content = replace(EQUINOX.read(path), components={"policy": named})
        EQUINOX.write(content, tmp_path / f"{case}.eqx")
        with (tmp_path / f"{case}.eqx").open("rb") as file:
            if "header_json" in told:
                assert json.loads(file.readline()) == told["header_json"]
            model = eqx.tree_deserialise_leaves(file, like)
        found = jax.vmap(model)(probes["probe/obs"])
        np.testing.assert_allclose(found, probes["probe/outputs"], rtol=1e-5, atol=1e-6)


def test_the_real_equinox_gets_back_every_kind_of_leaf(tmp_path: Path) -> None:
    keys = iter(jax.random.split(jax.random.key(1), 30))

    def filled(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.random.normal(next(keys), leaf.shape).astype(leaf.dtype)
        return leaf

    tree = jax.tree_util.tree_map(filled, odd())
    eqx.tree_serialise_leaves(tmp_path / "real.eqx", tree)
    reading = EQUINOX.read(tmp_path / "real.eqx")
    content = replace(reading, components={"agent": equinox_leaves.named(reading, odd())})
    EQUINOX.write(content, tmp_path / "ours.eqx")
    found = eqx.tree_deserialise_leaves(tmp_path / "ours.eqx", odd())
    assert eqx.tree_equal(found, tree)


def test_a_fingerprint_is_that_of_lerax(tmp_path: Path) -> None:
    _, told, _ = expected_of(GOLDEN / "lerax/head/custom_odd_leaves")
    assert equinox_leaves.fingerprint(odd()) == told["fingerprint_hex"]
    assert equinox_leaves.fingerprint(odd(static=6)) != told["fingerprint_hex"]
    treedef = told["treedef_repr"].encode()
    assert hashlib.sha256(treedef).hexdigest() == told["fingerprint_hex"]
    reading = EQUINOX.read(GOLDEN / "equinox/mlp/mlp.eqx")
    with pytest.raises(UnsupportedError, match="expected the fingerprint"):
        LERAX.write(reading, tmp_path / "none.eqx")
    assert not list(tmp_path.iterdir())
    details = {"fingerprint": equinox_leaves.fingerprint([1])}
    LERAX.write(replace(reading, details=details), tmp_path / "lerax.eqx")
    assert LERAX.read(tmp_path / "lerax.eqx").details == details


def test_aligned_leaves_stay_in_the_file_and_others_are_copied(tmp_path: Path) -> None:
    big = np.arange(1 << 16, dtype=np.float32)
    reading = Reading(format="equinox", components={"agent": [big, True, big]})
    EQUINOX.write(reading, tmp_path / "big.eqx")
    first, _, second = EQUINOX.read(tmp_path / "big.eqx").components["agent"]
    assert first.base is not None
    assert not first.flags.owndata
    assert second.flags.aligned
    assert np.array_equal(first, big)
    assert np.array_equal(second, big)
    with pytest.raises(RekindleError, match="max_bytes"):
        EQUINOX.read(tmp_path / "big.eqx", max_bytes=100_000)
    EQUINOX.write(replace(reading, components={"agent": [big, True]}), tmp_path / "one.eqx")
    mapped = EQUINOX.read(tmp_path / "one.eqx", max_bytes=100_000).components["agent"][0]
    assert np.array_equal(mapped, big)


# --------------------------------------------------------------------------- bad input


def record(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + data


GOOD = record("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", b"\0" * 8)
SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
BAD: dict[str, tuple[bytes, type[RekindleError], str]] = {
    "empty": (b"", FormatError, "found other bytes"),
    "other bytes": (b"hello" * 20, FormatError, "found other bytes"),
    "fingerprint alone": (b"\1" * 32, FormatError, "found other bytes"),
    "cut in a header": (GOOD + GOOD[:20], DamagedError, "truncated"),
    "cut in a magic": (GOOD + GOOD[:4], DamagedError, "truncated"),
    "cut in values": (GOOD + GOOD[:-1], DamagedError, "truncated"),
    "something between": (GOOD + b"x" + GOOD, FormatError, "record 1, at byte"),
    "a version to come": (record("{}", version=b"\x09\x00"), FormatError, "found 9.0"),
    "a header of 4 GB": (
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 64, FormatError, "at most 10,000"),
    "a header that is code": (record("__import__('os').system('true')"), FormatError, "as numpy"),
    "a header of brackets": (record("(" * 5000), FormatError, "as numpy"),
    "no shape": (record("{'descr': '<f4', 'fortran_order': False, }"), FormatError, "as numpy"),
    "objects": (record("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", b"\x80\x04N."),
                UnsafeError, "pickle"),
    "fields": (record("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", b"0000"),
               UnsupportedError, "structured"),
    "no type": (record("{'descr': 'spam', 'fortran_order': False, 'shape': (), }"), FormatError,
                "type of an array"),
    "more than there is": (record(SHAPE % "9999999999, 9999999999"), DamagedError, "truncated"),
    "a shape beyond arrays": (record(SHAPE % "0, 9999999999999999999, 9"), FormatError, "shape"),
    "a hundred axes": (record(SHAPE % ", ".join(["1"] * 100), b"0000"), FormatError, "shape"),
    "a negative size": (record(SHAPE % "-1,"), FormatError, "as numpy"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_error_and_is_never_guessed(case: str, tmp_path: Path) -> None:
    data, error, words = BAD[case]
    path = tmp_path / "bad.eqx"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=words) as caught:
            EQUINOX.read(path)
        assert type(caught.value) is error
        assert str(path) in str(caught.value)
        assert EQUINOX.sniff(path) in (None, Confidence.CONTAINER)


def test_one_file_of_numpy_is_not_taken_for_certain(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert EQUINOX.sniff(tmp_path / "one.npy") is Confidence.CONTAINER
    assert EQUINOX.sniff(tmp_path) is None


def test_a_format_named_wrongly_says_which_one_it_is() -> None:
    path = GOLDEN / "lerax/head/q_cartpole/model.eqx"
    with pytest.raises(FormatError, match="Read it as the format lerax"):
        EQUINOX.read(path)
    with pytest.raises(FormatError, match="Read it as the format equinox"):
        LERAX.read(GOLDEN / "equinox/mlp/mlp.eqx")


def test_what_stands_before_may_look_like_something_else(tmp_path: Path) -> None:
    for prefix, details in (
        (b'{"a": "' + b"x" * 22 + b'"}\n', {"header": {"a": "x" * 22}}),
        (b'{"b":1}\n', {"header": {"b": 1}, "header_text": '{"b":1}'}),
        (b'{"a": "' + b"x" * 24 + b"\n", None),
    ):
        path = tmp_path / "file.eqx"
        path.write_bytes(prefix + GOOD + GOOD)
        format_ = EQUINOX if details else LERAX
        reading = format_.read(path)
        assert reading.details == (details or {"fingerprint": prefix.hex()})
        format_.write(reading, tmp_path / "again.eqx")
        assert EQUINOX.sniff(path) == (Confidence.LAYOUT if details else None)
        (tmp_path / "again.eqx").unlink()


def test_components_that_are_no_row_of_leaves_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    row = np.zeros(2)
    for components, words in (
        ({"policy": [row], "optimizer": [row]}, "one component"),
        ({"policy": {"a": row, "b": {"c": row}}}, r"policy\['b'\]: a dict"),
        ({"policy": [np.array([None])]}, r"policy\[0\]: a ndarray"),
    ):
        with pytest.raises(UnsupportedError, match=words) as caught:
            EQUINOX.write(Reading(format="torch", components=components), tmp_path / "no.eqx")
        assert caught.value.refusals
    assert not list(tmp_path.iterdir())

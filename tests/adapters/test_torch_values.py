"""torch's tensors come back with their type, strides, memory and identity; its small values too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rekindle as rk

# torch says so whenever a tensor of this type is made.
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits in the same layout."""
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape or mine.layout != theirs.layout:
        return False
    if mine.layout != torch.strided:
        return torch.equal(mine.to_dense(), theirs.to_dense())
    if mine.stride() != theirs.stride() or mine.requires_grad != theirs.requires_grad:
        return False
    sides = [side.detach().resolve_conj().resolve_neg().contiguous() for side in (mine, theirs)]
    if not sides[0].numel():
        return True
    return torch.equal(*(side.reshape(-1).view(torch.uint8) for side in sides))


DTYPES = [
    getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
        "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "complex128", "complex64",
        "complex32", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64",
        "bool",
    )
    if hasattr(torch, name)
]  # fmt: skip


def _bits(dtype: torch.dtype, shape: tuple[int, ...] = (3, 5)) -> torch.Tensor:
    """A tensor of a type with many different bits, NaN and infinities among them."""
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.arange(count) % 3 == 0).reshape(shape)
    raw = torch.arange(count * dtype.itemsize, dtype=torch.int64).mul_(37).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def _half_expanded() -> torch.Tensor:
    return torch.arange(3.0).reshape(3, 1).expand(3, 4)


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    **{str(dtype): lambda dtype=dtype: _bits(dtype) for dtype in DTYPES},
    "no axes": lambda: torch.tensor(3.5),
    "empty": lambda: torch.zeros(0, 4),
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).T,
    "transposed bfloat16": lambda: _bits(torch.bfloat16).T,
    "every other": lambda: torch.arange(12.0)[::2],
    "expanded": _half_expanded,
    "expanded bfloat16": lambda: _half_expanded().bfloat16()[:, :1].expand(3, 4),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "of gradients": lambda: torch.ones(3, requires_grad=True),
    "infinities": lambda: torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0]),
    "sparse": lambda: torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse(),
    "sparse with sums": lambda: torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0]), (4,), check_invariants=True
    ),
    "sparse rows of vectors": lambda: torch.eye(3).to_sparse(1),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_where_there_was_none(name: str, tmp_path: Path) -> None:
    tensor = TENSORS[name]()
    rk.save(tmp_path / "saved", agent={"x": tensor})
    live: dict[str, Any] = {"x": None}
    rk.restore(tmp_path / "saved", agent=live)
    assert _same(live["x"], tensor.resolve_conj().resolve_neg())
    if tensor.layout == torch.strided and tensor.numel():
        assert live["x"].data_ptr() % 64 == 0, "sums over it may round otherwise"


@pytest.mark.parametrize("name", [name for name in TENSORS if "sparse" not in name])
def test_a_tensor_is_restored_in_place(name: str, tmp_path: Path) -> None:
    tensor = TENSORS[name]()
    rk.save(tmp_path / "saved", agent={"x": tensor})
    held = torch.empty_like(tensor.detach().contiguous(), memory_format=torch.preserve_format)
    is_expanded = 0 in tensor.stride()
    if not is_expanded:
        held = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    live = {"x": held}
    rk.restore(tmp_path / "saved", agent=live)
    if not is_expanded:
        assert live["x"] is held
    assert torch.equal(
        *(
            x.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            if x.numel()
            else x.reshape(-1)
            for x in (live["x"], tensor)
        )
    )
    assert live["x"].requires_grad == tensor.requires_grad


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_loads_as_one_of_torch(name: str, tmp_path: Path) -> None:
    tensor = TENSORS[name]()
    rk.save(tmp_path / "saved", agent={"x": tensor})
    loaded = rk.load(tmp_path / "saved", to="torch")["agent"]["x"]
    if tensor.layout == torch.sparse_coo:
        loaded = torch.sparse_coo_tensor(
            loaded["_indices"], loaded["_values"], loaded["shape"], check_invariants=True
        )
    else:
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        loaded = loaded.contiguous()
    assert _same(loaded, tensor)


def test_two_names_of_one_tensor_stay_two_names_of_one(tmp_path: Path) -> None:
    tensor = torch.arange(6.0)
    rk.save(tmp_path / "saved", agent={"a": tensor, "b": [tensor], "c": tensor.clone()})
    live: dict[str, Any] = {"a": torch.zeros(6), "b": [torch.zeros(6)], "c": None}
    rk.restore(tmp_path / "saved", agent=live)
    assert live["a"] is live["b"][0]
    assert live["c"] is not live["a"]
    loaded = rk.load(tmp_path / "saved", to="torch")["agent"]
    assert loaded["a"] is loaded["b"][0]
    assert loaded["c"] is not loaded["a"]


@pytest.mark.parametrize("kind", ["restored", "loaded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_of_one_memory_stay_views_of_it(
    dtype: torch.dtype, kind: str, tmp_path: Path
) -> None:
    # An odd number of items, so that the file does not hold it where torch's memory would begin.
    base = torch.arange(7).to(dtype)
    rk.save(tmp_path / "saved", agent={"pad": torch.ones(3), "base": base, "tail": base[3:]})
    live: dict[str, Any] = {"pad": None, "base": None, "tail": None}
    if kind == "restored":
        rk.restore(tmp_path / "saved", agent=live)
    else:
        live = rk.load(tmp_path / "saved", to="torch")["agent"]
    with torch.no_grad():
        live["base"].fill_(9)
    assert live["tail"].float().tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("live", ["nothing", "apart", "together"])
def test_views_that_overlap_without_a_whole_stay_overlapping(live: str, tmp_path: Path) -> None:
    base = torch.arange(10.0)
    rk.save(tmp_path / "saved", agent={"a": base[:6], "b": base[4:]})
    other = torch.zeros(10)
    agent: dict[str, Any] = {
        "nothing": {"a": None, "b": None},
        "apart": {"a": torch.zeros(6), "b": torch.zeros(6)},
        "together": {"a": other[:6], "b": other[4:]},
    }[live]
    rk.restore(tmp_path / "saved", agent=agent)
    assert agent["b"].tolist() == base[4:].tolist()
    agent["a"].fill_(-1)
    assert agent["b"].tolist() == [-1, -1, 6, 7, 8, 9]


def test_what_was_apart_does_not_stay_together(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent={"a": torch.zeros(3), "b": torch.ones(3)})
    shared = torch.full((3,), 5.0)
    agent = {"a": shared, "b": shared}
    rk.restore(tmp_path / "saved", agent=agent)
    assert (agent["a"].tolist(), agent["b"].tolist()) == ([0, 0, 0], [1, 1, 1])


def test_a_tensor_over_an_array_goes_on_sharing_its_memory(tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        array = torch.arange(5.0).numpy()
        return {"array": array, "tensor": torch.from_numpy(array)}

    agent = make()
    agent["array"] += 1
    rk.save(tmp_path / "saved", agent=agent)
    live = make()
    rk.restore(tmp_path / "saved", agent=live)
    live["array"][0] = 99
    assert live["tensor"].tolist() == [99, 2, 3, 4, 5]


def test_a_parameter_comes_back_as_a_parameter(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    rk.save(tmp_path / "saved", agent={"x": parameter})
    live: dict[str, Any] = {"x": None}
    rk.restore(tmp_path / "saved", agent=live)
    assert type(live["x"]) is torch.nn.Parameter
    assert not live["x"].requires_grad


def test_whether_gradients_are_wanted_is_restored(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent=[torch.ones(2, requires_grad=True), torch.ones(2)])
    live = [torch.zeros(2), torch.zeros(2, requires_grad=True)]
    rk.restore(tmp_path / "saved", agent=live)
    assert [tensor.requires_grad for tensor in live] == [True, False]
    assert all(tensor.is_leaf for tensor in live)


def test_a_tensor_in_the_middle_of_a_graph_keeps_its_values_only(tmp_path: Path) -> None:
    leaf = torch.ones(2, requires_grad=True)
    rk.save(tmp_path / "saved", agent={"hidden": leaf * 3})
    live = {"hidden": torch.zeros(2, requires_grad=True) * 2}
    rk.restore(tmp_path / "saved", agent=live)
    assert live["hidden"].tolist() == [3, 3]
    assert live["hidden"].grad_fn is None


def test_a_restored_tensor_can_grow(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent={"x": torch.ones(3)})
    live: dict[str, Any] = {"x": None}
    rk.restore(tmp_path / "saved", agent=live)
    live["x"].resize_(5)
    assert live["x"][:3].tolist() == [1, 1, 1]


REFUSED: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.empty(3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "sparse parameter": lambda: torch.nn.Parameter(torch.eye(2).to_sparse()),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_a_tensor_without_plain_memory_is_refused_by_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"agent/held\.x"):
        rk.save(tmp_path / "saved", agent={"held": {"x": REFUSED[name]()}})
    assert not (tmp_path / "saved").exists()


def test_small_values_come_back(tmp_path: Path) -> None:
    values = {
        "dtype": torch.bfloat16,
        "size": torch.Size([3, 4]),
        "device": torch.device("cpu"),
        "default": {"dtypes": (torch.float32, torch.int8)},
    }
    rk.save(tmp_path / "saved", agent=values)
    live: dict[str, Any] = {
        "dtype": torch.float32, "size": None, "device": None, "default": {"dtypes": ()}
    }  # fmt: skip
    rk.restore(tmp_path / "saved", agent=live)
    assert live == values
    assert type(live["size"]) is torch.Size


def test_a_device_is_that_of_the_live_object(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent={"device": torch.device("cuda:1")})
    live = {"device": torch.device("cpu")}
    rk.restore(tmp_path / "saved", agent=live)
    assert live["device"] == torch.device("cpu")


def test_a_distribution_comes_back_with_what_it_has_computed(tmp_path: Path) -> None:
    made = torch.distributions.Categorical(logits=torch.arange(3.0))
    made.probs  # noqa: B018 - computed when first asked for, and kept
    rk.save(tmp_path / "saved", agent={"a": made, "b": made})
    live: dict[str, Any] = {"a": None, "b": torch.distributions.Categorical(torch.ones(4))}
    rk.restore(tmp_path / "saved", agent=live)
    assert live["a"] is live["b"]
    assert torch.equal(live["a"].logits, made.logits)
    assert torch.equal(vars(live["a"])["probs"], made.probs)

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.hostile import corpus

from rekindle import spans
from rekindle.errors import DamagedError, FormatError, UnsafeError
from rekindle.formats import torch_files, torch_modules
from rekindle.formats.torch_files import TorchFile
from rekindle.limits import Budget
from rekindle.tensors import Tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"
EXPECTED = np.load(GOLDEN / "expected.npz")


def read(path: Path) -> TorchFile:
    span = spans.of_file(path)
    return torch_files.read(span, Budget(name=span.name))


def read_bytes(data: bytes) -> TorchFile:
    return torch_files.read(spans.of_bytes(data, "a file"), Budget(name="a file"))


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "kind"), [("tensors.pt", "zip"), ("tensors_legacy.pt", "legacy")])
def test_tensors_of_every_layout_are_read_bit_for_bit(name: str, kind: str) -> None:
    file = read(GOLDEN / name)
    assert (file.kind, file.notes) == (kind, ())
    live: dict[str, torch.Tensor] = torch.load(GOLDEN / name, weights_only=False)
    assert list(file.value) == list(live)
    assert len(live) > 15
    for key, tensor in live.items():
        array, about = file.value[key], file.tensors.of(file.value[key])
        assert about is not None
        assert about.dtype == str(tensor.dtype).removeprefix("torch.")
        assert about.requires_grad is tensor.requires_grad
        assert about.is_parameter is isinstance(tensor, torch.nn.Parameter)
        assert array.shape == tensor.shape
        expected = EXPECTED[key] if key in EXPECTED else EXPECTED[f"bits/{key}"]
        assert array.tobytes() == expected.tobytes(), key
        if array.size and not tensor.is_conj():
            steps = [step // array.itemsize for step in array.strides]
            sizes = zip(array.shape, steps, tensor.stride(), strict=True)
            assert all(a == b for size, a, b in sizes if size > 1), key
    assert np.shares_memory(file.value["plain"], file.value["row"])
    assert file.value["bfloat16"].dtype.itemsize == 2


def test_tensors_stay_in_the_file() -> None:
    for name in ("tensors.pt", "tensors_legacy.pt"):
        span = spans.of_file(GOLDEN / name)
        file = torch_files.read(span, Budget())
        assert np.shares_memory(file.value["plain"], span.array())


@pytest.mark.parametrize("name", ["module.pt", "module_legacy.pt"])
def test_a_whole_module_gives_its_state_dict_without_its_class(name: str) -> None:
    file = read(GOLDEN / name)
    assert torch_modules.is_module(file.value)
    found = torch_modules.state_dict(file.value, file.tensors)
    expected = [key for key in EXPECTED.files if key.startswith("module/")]
    assert [f"module/{key}" for key in found] == expected
    for key, array in found.items():
        assert array.tobytes() == EXPECTED[f"module/{key}"].tobytes()
    if name == "module_legacy.pt":
        label = next(label for label in file.sources if label.endswith(":Inner"))
        assert "class Inner(nn.Module)" in file.sources[label]


def test_torchscript_gives_its_state_dict() -> None:
    file = read(GOLDEN / "script.pt")
    assert file.kind == "script"
    assert file.value.sizes == [1, 2]
    found = torch_modules.state_dict(file.value, file.tensors)
    assert {f"script/{key}" for key in found} == {k for k in EXPECTED if k.startswith("script/")}
    for key, array in found.items():
        assert array.tobytes() == EXPECTED[f"script/{key}"].tobytes()


def old_tar() -> bytes:
    """A tar archive of the layout before 0.1.10, with a part of a storage, as torch still reads."""
    values = np.arange(12, dtype="<f4")
    storages = pickle.dumps(1, 2) + _named(b"(K\x64X\x03\x00\x00\x00cpuctorch\nFloatStorage\nt.")
    storages += struct.pack("<q", 12) + values.tobytes() + pickle.dumps([(101, 100, 4, 8)], 2)
    tensors = pickle.dumps(2, 2)
    for key, storage, shape, stride, offset in (
        (1, 100, (3, 4), (4, 1), 0), (2, 101, (2, 2), (1, 4), 1),
    ):  # fmt: skip
        tensors += _named(b"(K" + bytes((key,)) + b"K" + bytes((storage,)) + b"Nt.")
        tensors += struct.pack("<iI", 2, 0) + struct.pack("<4q", *shape, *stride)
        tensors += struct.pack("<q", offset)
    reference = (
        b"\x80\x02}(X\x01\x00\x00\x00aX\x01\x00\x00\x001QX\x01\x00\x00\x00bX\x01\x00\x00\x002Qu."
    )
    return corpus._old_tar(reference, storages=storages, tensors=tensors)


def _named(code: bytes) -> bytes:
    return b"\x80\x02" + code


def test_the_tar_archives_of_the_first_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(old_tar())
    live = torch.load(path, weights_only=False)
    file = read(path)
    assert file.kind == "tar"
    assert set(file.value) == {"a", "b"}
    for key, tensor in live.items():
        assert np.array_equal(file.value[key], tensor.numpy())


def test_numbers_of_a_big_endian_machine_are_turned_round() -> None:
    data = saved({"x": torch.arange(4.0)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            content = b"big" if name.endswith("byteorder") else content
            if name.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    found = read_bytes(buffer.getvalue()).value["x"]
    assert np.array_equal(found, np.arange(4.0))
    assert found.dtype == np.dtype(">f4")


def test_an_archive_that_was_compressed_again_is_unpacked() -> None:
    data = saved({"x": torch.arange(4000.0)})
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert np.array_equal(read_bytes(buffer.getvalue()).value["x"], np.arange(4000.0))


def test_values_that_are_no_tensors_come_with_them() -> None:
    value = {
        "size": torch.Size([1, 2]), "device": torch.device("cuda:1"), "type": torch.float16,
        "layout": torch.sparse_coo, "array": np.arange(3), "step": 3, "nothing": None,
    }  # fmt: skip
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        found = read_bytes(saved(value, **options)).value
        assert found["size"] == (1, 2)
        assert dict(found["device"]) == {"name": "cuda:1"}
        assert found["type"] == "torch:float16"
        assert found["layout"] == "torch:sparse_coo"
        assert np.array_equal(found["array"], np.arange(3))
        assert (found["step"], found["nothing"]) == (3, None)


def test_tensors_without_dense_memory_stay_records_of_their_parts() -> None:
    sparse = torch.eye(3).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to remove what old files may hold
        quantized = torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8)
    found = read_bytes(saved({"s": sparse, "q": quantized, "m": torch.empty(3, device="meta")}))
    assert found.value["s"].label == "torch._utils:_rebuild_sparse_tensor"
    indices, values = found.value["s"].arguments[1][:2]
    assert np.array_equal(values, np.ones(3))
    assert indices.shape == (2, 3)
    assert found.value["q"].label == "torch._utils:_rebuild_qtensor"
    assert found.value["m"].label == "torch._utils:_rebuild_meta_tensor_no_storage"


class Subclass(torch.Tensor):
    pass


def test_a_tensor_with_a_class_or_attributes_of_its_own_is_read() -> None:
    tensor = torch.arange(3.0).as_subclass(Subclass)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.tag = "x"  # type: ignore[attr-defined]
    file = read_bytes(saved([tensor, parameter]))
    first, second = (file.tensors.of(array) for array in file.value)
    assert first is not None
    assert second is not None
    assert str(first.attributes["__class__"]).endswith(":Subclass")
    assert np.array_equal(file.value[0], np.arange(3.0))
    assert second.is_parameter
    assert second.attributes == {"tag": "x"}


def test_tensors_in_a_plain_pickle_are_read() -> None:
    data = pickle.dumps({"t": torch.arange(3.0), "again": [torch.ones(2, 2)]})
    tensors = Tensors()
    found = torch_files.read_pickle(spans.of_bytes(data, "x"), Budget(), tensors=tensors).value
    assert np.array_equal(found["t"], np.arange(3.0))
    assert len(tensors) == 2


def test_shared_parameters_of_an_optimizer_stay_shared() -> None:
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    found = read_bytes(saved([layer.weight, layer.weight, optimizer.state_dict()])).value
    assert found[0] is found[1]
    assert found[2]["param_groups"][0]["params"] == [0, 1]
    assert found[2]["state"][0]["step"] == 1.0


def test_an_outline_says_what_is_inside_without_values() -> None:
    data = saved({"state_dict": {"w": torch.ones(2)}, "data": {"a": 1}, 3: 4})
    outline = torch_files.outline(spans.of_bytes(data, "x"))
    assert outline.keys == {"state_dict", "data"}
    assert outline.inner["state_dict"] == {"w"}
    outline = torch_files.outline(spans.of_file(GOLDEN / "module_legacy.pt"))
    assert outline.label.endswith("Agent") or outline.label == ""
    assert "_modules" in outline.keys


def test_what_is_no_file_of_torch_is_refused() -> None:
    for data in (b"", b"PK\x05\x06" + bytes(18), b"text", pickle.dumps(1)):
        assert torch_files.kind_of(spans.of_bytes(data, "x")) is None
        with pytest.raises((FormatError, DamagedError)):
            read_bytes(data)


def test_every_cut_is_an_error() -> None:
    for data in (saved({"x": torch.arange(3.0)}), (GOLDEN / "tensors_legacy.pt").read_bytes()):
        for end in range(0, len(data) - 1, max(1, len(data) // 300)):
            with pytest.raises((FormatError, DamagedError)):
                read_bytes(data[:end])
    data = old_tar()
    for end in range(0, 3600, 97):
        with pytest.raises((FormatError, DamagedError)):
            read_bytes(data[:end])


def test_a_storage_of_another_size_than_it_claims_is_refused() -> None:
    data = saved({"x": torch.arange(4.0)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + b"\0" * name.endswith("data/0"))
    with pytest.raises(FormatError, match="a storage '0' of 16 bytes, found 17"):
        read_bytes(buffer.getvalue())


def test_an_expanded_tensor_larger_than_memory_is_refused() -> None:
    data = corpus._torch_zip(corpus.assemble(corpus._tensor((2**40,), (0,))), _0=corpus._FOUR)
    with pytest.raises(UnsafeError, match="max_bytes"):
        read_bytes(data)


def test_a_tensor_that_leaves_its_storage_is_refused() -> None:
    for size, stride in (((2**32 + 1, 1), (2**32, 1)), ((5,), (1,)), ((2, 2), (2**62, 1))):
        data = corpus._torch_zip(corpus.assemble(corpus._tensor(size, stride)), _0=corpus._FOUR)
        with pytest.raises(FormatError, match="inside its storage"):
            read_bytes(data)


def test_links_and_other_members_of_a_tar_archive_are_not_followed() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for title in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(title)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    assert torch_files.kind_of(spans.of_bytes(buffer.getvalue(), "x")) is None

"""Small files that would take for ever with all the memory they want."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hostile import corpus
from tests.hostile.assembly import assemble, call, emit, text

from rekindle import spans
from rekindle.errors import RekindleError, UnsafeError
from rekindle.formats import inert, recorded_spaces, torch_files, torch_modules
from rekindle.limits import Budget
from rekindle.pickles import reading
from rekindle.pickles.records import Recorded
from rekindle.state import Record
from rekindle.tensors import Tensors

_SECONDS = 12.0
"""Of one core, on a machine that may be busy; each of these took hours before it was stopped."""
_MEGABYTES = 1500


def repeated(head: bytes, again: bytes, times: int) -> bytes:
    """A pickle of a list of one thing done again and again with what is in the memo."""
    return b"\x80\x04" + head + b"](" + again * times + b"e."


def _numbers(count: int, step: int) -> bytes:
    return b"".join(b"\x8a\x0a" + (n * step).to_bytes(10, "little") for n in range(count))


_LONG = text("a" * 60_000)
_PRIME = sys.hash_info.modulus
_EMPTY_ARRAY = call(
    "numpy.core.multiarray:_reconstruct", corpus.Name("numpy", "ndarray"), (0,), b"b"
)
WORK: dict[str, bytes] = {
    "one list of colliding numbers in many sets": repeated(
        b"](" + _numbers(4000, _PRIME) + b"e\x94cbuiltins\nfrozenset\n\x94", b"h\x01h\x00\x85R",
        20_000),
    "one list of numbers in many sets": repeated(
        b"](" + _numbers(4000, 1 << 40) + b"e\x94cbuiltins\nset\n\x94", b"h\x01h\x00\x85R", 50_000),
    "one list in many arrays": repeated(
        b"](" + b"N" * 100_000 + b"e\x94" + emit(corpus._dtype("O")) + b"\x94",
        emit(_EMPTY_ARRAY) + b"(K\x01J\xa0\x86\x01\x00\x85h\x01\x89h\x00tb", 20_000),
    "one tuple as many keys": repeated(
        b"(" + b"K\x01" * 250 + b"t\x94", b"}h\x00Ns", 200_000),
    "one table of fields in many types": repeated(
        b"(" + b"".join(text(f"f{n}") for n in range(4000)) + b"t\x94}("
        + b"".join(text(f"f{n}") + emit(corpus._dtype("f4")) + b"J" + struct.pack("<i", 4 * n)
                   + b"\x86" for n in range(4000)) + b"u\x94",
        b"cnumpy\ndtype\n" + text("V16000") + b"\x89\x88\x87R(K\x03" + text("|")
        + b"Nh\x00h\x01J\x80\x3e\x00\x00K\x01K\x00tb", 20_000),
    "a name that grows": b"\x80\x04" + text("a" * 1000) + b"\x94cbuiltins\ngetattr\n\x94ca\nb\n\x94"
    + b"".join(b"h\x01j" + struct.pack("<I", 2 + n) + b"h\x00\x86R\x94" for n in range(50_000))
    + b".",
    "one long name in many functions": repeated(
        _LONG + b"\x94ccloudpickle.cloudpickle\n_make_function\n\x94", b"h\x01(NNh\x00NNtR",
        100_000),
    "one long name in many classes": repeated(
        text("a" * 2000) + b"\x94", b"h\x00h\x00\x93", 300_000),
    "one long name of a class called": repeated(
        text("a" * 2000) + b"\x94h\x00\x93\x94", b"h\x01)R", 300_000),
    "one long name in many devices": repeated(
        _LONG + b"\x94ctorch\ndevice\n\x94", b"h\x01h\x00\x85R", 100_000),
    "one file in many places": repeated(
        emit(corpus._legacy(pickle.dumps(1, 2))) + b"\x94ctorch.storage\n_load_from_bytes\n\x94",
        b"h\x01h\x00\x85R", 200_000),
    "one text in many bytes": repeated(
        _LONG + b"\x94c_codecs\nencode\n\x94" + text("latin1") + b"\x94",
        b"h\x01h\x00h\x02\x86R", 200_000),
}  # fmt: skip


def _nested(levels: int, times: int) -> bytes:
    """A file that holds another many times, which holds another many times, and so on."""
    data = corpus._legacy(pickle.dumps(1, 2))
    for _ in range(levels):
        head = emit(data) + b"q\x000ctorch.storage\n_load_from_bytes\nq\x010"
        data = corpus._legacy(b"\x80\x02" + head + b"](" + b"h\x01h\x00\x85R" * times + b"e.")
    return data


WORK["files in files in files"] = _nested(5, 40)


def bounded(function: Callable[[], Any]) -> Any:
    """What a function gives, or a refusal, in bounded time and memory."""
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = function()
    except RekindleError as error:
        found = error
    assert time.process_time() - began < _SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < _MEGABYTES
    return found


@pytest.mark.parametrize("title", WORK)
def test_work_is_bounded_by_the_size_of_a_file(title: str) -> None:
    span = spans.of_bytes(WORK[title], title)
    read = torch_files.read if title == "files in files in files" else torch_files.read_pickle
    options: dict[str, Any] = {} if read is torch_files.read else {"tensors": Tensors()}
    bounded(lambda: read(span, Budget(1 << 30, title), **options))


def test_files_read_again_and_again_are_refused() -> None:
    span = spans.of_bytes(WORK["one file in many places"], "x")
    with pytest.raises(UnsafeError, match="again and again"):
        torch_files.read_pickle(span, Budget(), tensors=Tensors())
    span = spans.of_bytes(WORK["files in files in files"], "x")
    with pytest.raises(UnsafeError, match="again and again"):
        torch_files.read(span, Budget())


def test_many_tensors_in_a_plain_pickle_are_none_of_these() -> None:
    import torch

    data = pickle.dumps([torch.ones(2) for _ in range(500)])
    span = spans.of_bytes(data, "x")
    assert len(torch_files.read_pickle(span, Budget(), tensors=Tensors()).value) == 500


def record(label: str, **fields: Any) -> Recorded:
    made = Recorded(label, is_object=True)
    made.adopt(fields)
    return made


def test_spaces_and_modules_that_share_parts_without_end_are_refused() -> None:
    space: Any = record("gymnasium.spaces.discrete:Discrete", n=2, dtype=np.dtype("i8"))
    module: Any = record("a:M", _parameters={}, _buffers={}, _modules={})
    for _ in range(40):
        space = record("gymnasium.spaces.tuple:Tuple", spaces=[space] * 4)
        children = {"a": module, "b": module}
        module = record("a:M", _parameters={}, _buffers={}, _modules=children)
    assert bounded(lambda: recorded_spaces.describe(space)) is None
    assert isinstance(bounded(lambda: torch_modules.state_dict(module, Tensors())), UnsafeError)
    laughs: list[Any] = [record("a:B")]
    for _ in range(100):
        laughs = [laughs] * 10
    assert len(bounded(lambda: inert.notes(laughs, "agent"))) <= 1


def test_a_field_cannot_tell_numpy_of_memory() -> None:
    address = {"data": (1, False), "shape": (100,), "typestr": "<f8", "version": 3}
    names = ("__array_interface__", "__array_struct__", "__array__", "__cuda_array_interface__",
             "__dlpack__", "__torch_function__", "__deepcopy__", "__rich__")  # fmt: skip
    fields = assemble(dict.fromkeys(names, address))
    data = b"\x80\x02ca\nb\n)\x81" + fields[2:-1] + b"b."
    found = reading.read(spans.of_bytes(data, "x")).value
    for made in (found, Record("a:B", dict.fromkeys(names, address))):
        assert made["__array_interface__"] == address
        for name in names:
            assert getattr(made, name, None) is None
        assert np.asarray(made, dtype=object).dtype == object


def test_an_archive_of_many_small_members_opens_in_time(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        for index in range(5_000):
            archive.writestr(f"archive/data/{index}", b"")
    span = spans.of_bytes(buffer.getvalue(), "x")
    assert bounded(lambda: torch_files.read(span, Budget())).value == {}

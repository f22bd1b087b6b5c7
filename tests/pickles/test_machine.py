from __future__ import annotations

import pickle
import pickletools
import struct
from typing import Any

import pytest

from rekindle import spans
from rekindle.errors import DamagedError, FormatError, UnsafeError
from rekindle.limits import Budget
from rekindle.pickles import machine
from rekindle.pickles.machine import Machine
from rekindle.pickles.nodes import Call, Global, Pairs, Persistent


def record(code: bytes, max_bytes: int | None = None) -> Any:
    return machine.record(spans.of_bytes(code, "a pickle"), Budget(max_bytes, "a pickle"))


def test_every_opcode_of_python_is_known() -> None:
    known = {chr(opcode) for opcode in machine._OPERATIONS}
    assert known == {opcode.code for opcode in pickletools.opcodes}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"I00\n.", False), (b"I01\n.", True), (b"I-5\n.", -5), (b"L123L\n.", 123),
        (b"F1.5\n.", 1.5), (b"S'a\\x41'\n.", "aA"), (b'S"b"\n.', "b"), (b"S'\\xff'\n.", b"\xff"),
        (b"T\x02\x00\x00\x00ab.", "ab"), (b"U\x01\xff.", b"\xff"), (b"V\xe9\\u0041\n.", "éA"),
        (b"(K\x01K\x02t.", (1, 2)), (b"(K\x01l.", [1]), (b"K\x01K\x020.", 1),
        (b"K\x01(K\x021.", 1), (b"K\x012\x86.", (1, 1)), (b"\x8b\x01\x00\x00\x00\xff.", -1),
        (b"N(0.", None),
    ],
)  # fmt: skip
def test_old_operations_mean_what_they_meant(code: bytes, value: Any) -> None:
    found = record(code).root
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_numbers_of_the_extension_registry_are_refused(opcode: bytes) -> None:
    with pytest.raises(UnsafeError, match="extension"):
        record(opcode + b".")


@pytest.mark.parametrize(
    "target", [b"cos\nsystem\n", b"]", b"}", b"K\x05", b"N)\x85", b"\x8c\x01a", b"\x8f"]
)
def test_a_state_for_something_outside_is_refused(target: bytes) -> None:
    with pytest.raises(UnsafeError, match="change the program"):
        record(b"\x80\x04" + target + b"}\x8c\x01xK\x01sb.")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"\x80\x09.", "protocol"), (b"\x80\x04z.", "an operation"), (b".", "a value"),
        (b"a.", "empty stack"), (b"N\x93.", "empty stack"), (b"K\x01K\x02\x93.", "two texts"),
        (b"K\x05)R.", "a name to call"), (b"\x8c\x02os)R.", "a name to call"),
        (b"Nt.", "a mark"), (b"(N(K\x01du.", "a value for each key"), (b"h\x05.", "memo"),
        (b"N(u.", "a dictionary"), (b"NNa.", "a list"), (b"]NNs.", "a dictionary"),
        (b"I" + b"9" * 5000 + b"\n.", "digits"), (b"Ix\n.", "a number"),
        (b"S'x\n.", "quotes"), (b"\x8c\x01\xff.", "UTF-8"), (b"(o.", "a class"),
        (b"Np-1\n.", "memo"), (b"N\x98.", "buffer"), (b"\x86.", "empty stack"),
        (b"c" + b"a" * 5000 + b"\nb\n.", "a name"), (b"Fx\n.", "a number"), (b"e.", "a mark"),
    ],
)  # fmt: skip
def test_what_breaks_the_rules_is_malformed(code: bytes, expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        record(code)


@pytest.mark.parametrize(
    "code",
    [
        b"", b"\x80", b"N", b"J\x01", b"G\x00", b"X\x05\x00\x00\x00a", b"cos\nsys", b"Vabc",
        b"\x8e" + struct.pack("<Q", 2**63) + b".", b"\x8d" + struct.pack("<Q", 100) + b".",
        b"\x96" + struct.pack("<Q", 2**64 - 1) + b".", b"\x95" + struct.pack("<Q", 2**40) + b"N.",
        b"B" + struct.pack("<I", 2**32 - 1) + b".", b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        b"\x8b" + struct.pack("<i", -1) + b".", b"T" + struct.pack("<i", -1) + b".",
    ],
)  # fmt: skip
def test_what_ends_early_or_claims_more_than_there_is_is_truncated(code: bytes) -> None:
    with pytest.raises(DamagedError, match="truncated"):
        record(code)


def test_a_pickle_does_not_read_beyond_its_span() -> None:
    data = b"X\x05\x00\x00\x00abcde."
    whole = spans.of_bytes(data, "all")
    for end in range(len(data)):
        with pytest.raises(DamagedError):
            machine.record(whole.part(0, end, "part"), Budget())


def test_large_numbers_in_the_memo_take_no_memory() -> None:
    found = record(b"\x80\x04N" + b"r\xff\xff\xff\xff" + b"0K\x01q\x000j\xff\xff\xff\xff.")
    assert found.root is None
    many = b"".join(b"r" + struct.pack("<I", 1000 + 7 * index) for index in range(10_000))
    with pytest.raises(FormatError, match="one after the other"):
        record(b"N" + many + b".")


def test_the_memo_is_numbered_as_python_numbers_it() -> None:
    code = b"K\x01\x94K\x02q\x05K\x03\x94h\x02."
    assert record(code).root == pickle.loads(code) == 3


def test_names_and_calls_are_recorded_and_not_made() -> None:
    root = record(b"cos\nsystem\n(S'echo'\ntR.").root
    assert type(root) is Call
    assert (root.function.label, root.arguments, root.is_new) == ("os:system", ("echo",), False)
    root = record(b"(S'echo'\nios\nsystem\n.").root
    assert (root.function.label, root.arguments, root.is_new) == ("os:system", ("echo",), True)
    root = record(b"(cos\nsystem\nS'echo'\no.").root
    assert (root.function.label, root.arguments) == ("os:system", ("echo",))
    root = record(b"\x8c\x02os\x8c\x06system\x93)}\x92.").root
    assert type(root.keywords) is Pairs


def test_what_is_outside_is_listed() -> None:
    found = record(b"\x80\x02(Pabc\nK\x07Ql.")
    assert [type(node) for node in found.root] == [Persistent, Persistent]
    assert [node.identifier for node in found.outside] == ["abc", 7]


def test_the_first_name_is_found_without_reading_on() -> None:
    data = pickle.dumps([1, {"a": pickletools.OpcodeInfo}])
    found = Machine(spans.of_bytes(data, "x"), Budget()).first_name()
    assert type(found) is Global
    assert found.label == "pickletools:OpcodeInfo"
    for code in (b"", b"\x80\x04N.", b"zzz", b"]" * 1000):
        assert Machine(spans.of_bytes(code, "x"), Budget()).first_name() is None


def test_atoms_and_empty_containers_are_charged() -> None:
    for atom in (b"]", b"}", b"\x8f", b"N\x85", b"F1\n", b"(", b"\x94", b"cm\nn\n", b"C\x02ab",
                 b"\x8c\x03\xe2\x82\xac", b"M\xff\xff"):  # fmt: skip
        code = b"N" + atom * (300_000 // len(atom))
        with pytest.raises(UnsafeError, match="max_bytes"):
            record(code + b".", 1_000_000)


def test_payloads_are_not_charged_for_staying_in_the_file() -> None:
    payload = b"\x8e" + struct.pack("<Q", 3_000_000) + bytes(3_000_000)
    assert len(record(payload + b".", 100_000).root.memory) == 3_000_000

"""The pickle machine, without what makes it dangerous: it records, and calls nothing.

Every protocol from 0 to 5 is understood. A name becomes a `Global`, a call a `Call`; both are
records that nobody runs. Dictionaries and sets are kept as lists, so no key from the file is
hashed. What the machine can hold is None, booleans, integers, floats, text, bytes, lists, tuples
and the nodes of `nodes`: that is the whole argument why opening a file runs nothing.

Source: CPython, `Lib/pickletools.py`, the description of every opcode.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle.errors import DamagedError, FormatError, RekindleError, UnsafeError
from rekindle.limits import MAPPED_BYTES, Budget
from rekindle.pickles.nodes import (
    Call,
    FrozenMembers,
    Global,
    Members,
    Pairs,
    Payload,
    Persistent,
)
from rekindle.spans import Span

HIGHEST_PROTOCOL = 5
_LONGEST_NAME = 4096
_LONGEST_DIGITS = 4300
"""Python's own limit: turning text into an integer takes time with the square of its length."""
_LARGE_BYTES = 512
"""Integers of more bytes, or digits, are none that a program uses as keys."""
_MOST_SPARSE = 4096
"""Most values in the memo out of turn; they are found by a hash of the file's choosing."""
_STEPS = 2048
"""Operations between two looks at what was spent."""
_ATOM_BYTES = 20
"""Most memory that one byte of an operation can make, where the operation charges nothing."""
_LIST_BYTES = 104
_PAIRS_BYTES = 120
_CALL_BYTES = 136
_TUPLE_BYTES = 64
_NODE_BYTES = 64

# Loaded now, so that opening a file imports nothing.
codecs.lookup("raw-unicode-escape")

_UINT2 = struct.Struct("<H").unpack_from
_INT4 = struct.Struct("<i").unpack_from
_UINT4 = struct.Struct("<I").unpack_from
_UINT8 = struct.Struct("<Q").unpack_from
_FLOAT = struct.Struct(">d").unpack_from


class _Stopped(Exception):  # noqa: N818 - the end of a pickle, no error
    """The pickle said STOP."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What one pickle said."""

    root: Any
    """The value on top when it stopped: an atom, list, tuple or node."""
    size: int
    """How many bytes it took, STOP included."""
    outside: tuple[Persistent, ...]
    """What it keeps outside itself, in order."""
    has_large: bool = False
    """Whether there are integers that take long to hash."""


def record(
    span: Span,
    budget: Budget,
    *,
    at: int = 0,
    buffers: Sequence[memoryview] = (),
) -> Recording:
    """Run one pickle through the machine that only records.

    Args:
        span: The bytes.
        budget: Memory that may be taken.
        at: Where in the span the pickle begins.
        buffers: What a pickle of protocol 5 keeps outside itself, in order.

    Returns:
        What it said. Payloads of `limits.MAPPED_BYTES` and more stay in the span.

    Raises:
        DamagedError: It ends before it stops.
        FormatError: It is not a pickle, or breaks the rules of pickles.
        UnsafeError: It asks for more memory than the budget holds, or names things by numbers that
            only the program that wrote it knows.
    """
    return Machine(span, budget, at, buffers).run()


class Machine:
    """Runs the operations of one pickle; see `record`.

    Each operation is a method that is given the position after its opcode and returns the position
    of the next one.
    """

    def __init__(
        self, span: Span, budget: Budget, at: int = 0, buffers: Sequence[memoryview] = ()
    ) -> None:
        self._span = span
        self._data = span.buffer
        self._begin = span.start + at
        self._stop = span.stop
        self._budget = budget
        self._buffers = iter(buffers)
        self._stack: list[Any] = []
        self._push = self._stack.append
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._sparse_memo: dict[int, Any] = {}
        self._outside: list[Persistent] = []
        self._has_large = False
        self._spent = 0
        self._kept = 0
        self._operations: list[Callable[[int], int]] = [self._unknown] * 256
        for opcode, method in _OPERATIONS.items():
            self._operations[opcode] = method.__get__(self)

    def run(self) -> Recording:
        """Run to the end of the pickle."""
        position = self._begin
        try:
            while True:
                position = self._some(position)
                self._account(position)
        except _Stopped as stopped:
            position = stopped.args[0]
        except (IndexError, struct.error, ValueError) as error:
            raise self._explain(error) from error
        finally:
            self._operations = []  # bound methods: without this, only the collector frees it all
        self._account(position)
        if not self._stack:
            raise self._malformed("a value before its end", "none")
        size = position - self._begin
        return Recording(self._stack[-1], size, tuple(self._outside), self._has_large)

    def first_name(self, steps: int = 64) -> Global | None:
        """The first name that the pickle mentions within some operations, or None."""
        position = self._begin
        data, operations = self._data, self._operations
        try:
            for _ in range(steps):
                position = operations[data[position]](position + 1)
                if self._stack and type(self._stack[-1]) is Global:
                    return self._stack[-1]
        except (_Stopped, IndexError, struct.error, ValueError, RekindleError):
            pass
        return None

    def _some(self, position: int) -> int:
        """Run a limited number of operations; the only loop of the machine."""
        data, operations = self._data, self._operations
        for _ in range(_STEPS):
            position = operations[data[position]](position + 1)
        return position

    def _account(self, position: int) -> None:
        """Charge what the operations since the last look made; the bytes of payloads made none."""
        if position > self._stop:
            raise self._truncated()
        self._budget.charge(self._spent)
        self._spent = 0
        made = _ATOM_BYTES * (position - self._begin - self._kept)
        if self._budget.spent + made > self._budget.max_bytes:
            raise self._budget.exceeded()

    # ----------------------------------------------------------------- errors

    def _explain(self, error: Exception) -> RekindleError:
        """What an exception of Python's means for the file."""
        if isinstance(error, RekindleError):
            return error
        if isinstance(error, UnicodeDecodeError):
            return self._malformed("text in UTF-8", str(error))
        if isinstance(error, ValueError) and not isinstance(error, struct.error):
            return self._malformed("a number", str(error))
        if isinstance(error, IndexError) and "range" not in str(error):
            return self._malformed("operations that find their operands", str(error))
        return self._truncated()

    def _truncated(self) -> DamagedError:
        return DamagedError(
            f"{self._span.name}: expected a pickle that stops, found its end after "
            f"{self._stop - self._begin:,} bytes. The file is truncated, or no pickle.",
            path=self._span.name,
        )

    def _malformed(self, expected: str, found: str) -> FormatError:
        return FormatError(
            f"{self._span.name}: expected {expected}, found {found[:200]}. "
            "The file is damaged, or no pickle.",
            path=self._span.name,
        )

    def _unknown(self, position: int) -> int:
        opcode = self._data[position - 1]
        at = position - 1 - self._begin
        raise self._malformed("an operation of a pickle", f"byte 0x{opcode:02x} at {at:,}")

    # ----------------------------------------------------------------- operands

    def _bytes(self, position: int, size: int) -> bytes:
        end = position + size
        if size < 0 or end > self._stop:
            raise self._truncated()
        self._copy(size)
        return self._data[position:end]

    def _copy(self, size: int) -> None:
        """Charge bytes that are about to be copied, and decoded; few are charged with the rest."""
        if size >= MAPPED_BYTES:
            self._budget.charge(4 * size)
            self._kept += size

    def _line(self, position: int) -> tuple[bytes, int]:
        end = self._data.find(b"\n", position, self._stop)
        if end < 0:
            raise self._truncated()
        self._copy(end - position)
        return self._data[position:end], end + 1

    def _name(self, position: int) -> tuple[str, int]:
        text, after = self._line(position)
        if len(text) > _LONGEST_NAME:
            raise self._malformed(f"a name of at most {_LONGEST_NAME} bytes", f"{len(text):,}")
        return text.decode(), after

    def _keep(self, kind: str, position: int, size: int) -> int:
        """Push bytes, or text: small ones as a value, large ones as a view of the file."""
        end = position + size
        if end > self._stop:
            raise self._truncated()
        if size >= MAPPED_BYTES:
            begin = position - self._span.start
            memory = self._span.view(begin, begin + size)
            self._push(Payload(kind, memory))
            self._kept += size
            self._spent += _NODE_BYTES
        else:
            data = self._data[position:end]
            value: Any = data
            if kind == "str":
                value = data.decode("utf-8", "surrogatepass")
            elif kind == "bytearray":
                value = bytearray(data)
                self._spent += _NODE_BYTES + size
            self._push(value)
        return end

    def _old_text(self, data: bytes) -> None:
        """Push a string of Python 2: text where it is such, else bytes."""
        try:
            self._push(data.decode())
        except UnicodeDecodeError:
            self._push(data)

    def _integer(self, text: bytes) -> int:
        if len(text) > _LONGEST_DIGITS:
            raise self._malformed(f"an integer of at most {_LONGEST_DIGITS} digits", "a longer one")
        self._has_large |= len(text) > _LARGE_BYTES
        return int(text)

    def _pop(self) -> Any:
        try:
            return self._stack.pop()
        except IndexError:
            raise self._malformed("operations that find their operands", "an empty stack") from None

    def _top(self) -> Any:
        if not self._stack:
            raise self._malformed("operations that find their operands", "an empty stack")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        if not self._marks:
            raise self._malformed("a mark on the stack", "none")
        stack, mark = self._stack, self._marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    # ----------------------------------------------------------------- atoms

    def _none(self, position: int) -> int:
        self._push(None)
        return position

    def _true(self, position: int) -> int:
        self._push(True)
        return position

    def _false(self, position: int) -> int:
        self._push(False)
        return position

    def _binint(self, position: int) -> int:
        self._push(_INT4(self._data, position)[0])
        return position + 4

    def _binint1(self, position: int) -> int:
        self._push(self._data[position])
        return position + 1

    def _binint2(self, position: int) -> int:
        self._push(_UINT2(self._data, position)[0])
        return position + 2

    def _int(self, position: int) -> int:
        text, after = self._line(position)
        known = {b"00": False, b"01": True}
        self._push(known[text] if text in known else self._integer(text))
        return after

    def _long(self, position: int) -> int:
        text, after = self._line(position)
        self._push(self._integer(text.removesuffix(b"L")))
        return after

    def _long1(self, position: int) -> int:
        return self._binary_long(position + 1, self._data[position])

    def _long4(self, position: int) -> int:
        return self._binary_long(position + 4, _INT4(self._data, position)[0])

    def _binary_long(self, position: int, size: int) -> int:
        data = self._bytes(position, size)
        self._has_large |= size > _LARGE_BYTES
        self._push(int.from_bytes(data, "little", signed=True))
        return position + size

    def _float(self, position: int) -> int:
        text, after = self._line(position)
        self._push(float(text))
        return after

    def _binfloat(self, position: int) -> int:
        self._push(_FLOAT(self._data, position)[0])
        return position + 8

    # ----------------------------------------------------------------- text and bytes

    def _string(self, position: int) -> int:
        text, after = self._line(position)
        text = text.strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise self._malformed("a string in quotes", repr(text[:40]))
        self._old_text(codecs.escape_decode(text[1:-1])[0])
        return after

    def _binstring(self, position: int) -> int:
        size = _INT4(self._data, position)[0]
        self._old_text(self._bytes(position + 4, size))
        return position + 4 + size

    def _short_binstring(self, position: int) -> int:
        size = self._data[position]
        self._old_text(self._bytes(position + 1, size))
        return position + 1 + size

    def _unicode(self, position: int) -> int:
        text, after = self._line(position)
        self._push(str(text, "raw-unicode-escape"))
        return after

    def _short_binunicode(self, position: int) -> int:
        end = position + 1 + self._data[position]
        self._push(self._data[position + 1 : end].decode("utf-8", "surrogatepass"))
        return end

    def _binunicode(self, position: int) -> int:
        return self._keep("str", position + 4, _UINT4(self._data, position)[0])

    def _binunicode8(self, position: int) -> int:
        return self._keep("str", position + 8, _UINT8(self._data, position)[0])

    def _short_binbytes(self, position: int) -> int:
        return self._keep("bytes", position + 1, self._data[position])

    def _binbytes(self, position: int) -> int:
        return self._keep("bytes", position + 4, _UINT4(self._data, position)[0])

    def _binbytes8(self, position: int) -> int:
        return self._keep("bytes", position + 8, _UINT8(self._data, position)[0])

    def _bytearray8(self, position: int) -> int:
        return self._keep("bytearray", position + 8, _UINT8(self._data, position)[0])

    def _next_buffer(self, position: int) -> int:
        memory = next(self._buffers, None)
        if memory is None:
            raise FormatError(
                f"{self._span.name}: expected a pickle with all that it says, found one that keeps "
                "buffers outside itself. Pass them as buffers=, in order.",
                path=self._span.name,
            )
        self._push(Payload("bytearray", memoryview(memory).cast("B")))
        self._spent += _NODE_BYTES
        return position

    def _readonly_buffer(self, position: int) -> int:
        payload = self._pop()
        if type(payload) is not Payload:
            raise self._malformed("a buffer to make read-only", type(payload).__name__)
        self._push(Payload("bytes", payload.memory))
        self._spent += _NODE_BYTES
        return position

    # ----------------------------------------------------------------- containers

    def _mark(self, position: int) -> int:
        self._marks.append(len(self._stack))
        return position

    def _empty_list(self, position: int) -> int:
        self._push([])
        self._spent += _LIST_BYTES
        return position

    def _list(self, position: int) -> int:
        items = self._since_mark()
        self._push(items)
        self._spent += _LIST_BYTES
        return position

    def _append(self, position: int) -> int:
        item = self._pop()
        self._extend([item])
        return position

    def _appends(self, position: int) -> int:
        self._extend(self._since_mark())
        return position

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is Call:
            if target.elements is None:
                target.elements = []
                self._spent += _LIST_BYTES
            target.elements.extend(items)
        else:
            raise self._malformed("a list to append to", type(target).__name__)

    def _empty_tuple(self, position: int) -> int:
        self._push(())
        return position

    def _tuple(self, position: int) -> int:
        items = self._since_mark()
        self._push(tuple(items))
        self._spent += _TUPLE_BYTES + 8 * len(items)
        return position

    def _tuple1(self, position: int) -> int:
        return self._last(position, 1)

    def _tuple2(self, position: int) -> int:
        return self._last(position, 2)

    def _tuple3(self, position: int) -> int:
        return self._last(position, 3)

    def _last(self, position: int, count: int) -> int:
        """Put the last values of the stack into a tuple."""
        stack = self._stack
        if len(stack) < count:
            raise self._malformed("operations that find their operands", "an empty stack")
        stack[-count:] = [tuple(stack[-count:])]
        self._spent += _TUPLE_BYTES
        return position

    def _empty_dict(self, position: int) -> int:
        self._push(Pairs())
        self._spent += _PAIRS_BYTES
        return position

    def _dict(self, position: int) -> int:
        items = self._since_mark()
        self._check_pairs(items)
        self._push(Pairs(items))
        self._spent += _PAIRS_BYTES
        return position

    def _setitem(self, position: int) -> int:
        items = self._stack[-2:]
        del self._stack[-2:]
        self._set(items)
        return position

    def _setitems(self, position: int) -> int:
        self._set(self._since_mark())
        return position

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        self._check_pairs(items)
        if type(target) is Pairs:
            target += items
        elif type(target) is Call:
            if target.pairs is None:
                target.pairs = []
                self._spent += _LIST_BYTES
            target.pairs += items
        else:
            raise self._malformed("a dictionary to put items into", type(target).__name__)

    def _check_pairs(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self._malformed("a value for each key", f"{len(items)} keys and values")

    def _empty_set(self, position: int) -> int:
        self._push(Members())
        self._spent += _PAIRS_BYTES
        return position

    def _additems(self, position: int) -> int:
        items = self._since_mark()
        target = self._top()
        if type(target) is Members:
            target += items
        else:
            self._extend(items)
        return position

    def _frozenset(self, position: int) -> int:
        self._push(FrozenMembers(self._since_mark()))
        self._spent += _PAIRS_BYTES
        return position

    # ----------------------------------------------------------------- the stack and the memo

    def _discard(self, position: int) -> int:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
            return position
        call = self._pop()
        # How an object's own function sets its state: called with both, its result thrown away.
        if type(call) is Call and self._stack and type(self._stack[-1]) is Call:
            given = call.arguments
            if type(given) is tuple and len(given) == 2 and given[0] is self._stack[-1]:
                self._give(given[0], given[1])
        return position

    def _discard_marked(self, position: int) -> int:
        self._since_mark()
        return position

    def _dup(self, position: int) -> int:
        self._push(self._top())
        return position

    def _memoize(self, position: int) -> int:
        if self._sparse_memo:
            self._put(len(self._memo) + len(self._sparse_memo))
        else:
            self._memo.append(self._top())
        return position

    def _put(self, index: int) -> None:
        value = self._top()
        memo = self._memo
        if index == len(memo):
            memo.append(value)
            self._sparse_memo.pop(index, None)
        elif 0 <= index < len(memo):
            memo[index] = value
        elif index > 0 and len(self._sparse_memo) < _MOST_SPARSE:
            self._sparse_memo[index] = value
            self._spent += _CALL_BYTES
        else:
            raise self._malformed("places in the memo one after the other", f"{index:.6g}")

    def _get(self, index: int) -> None:
        if 0 <= index < len(self._memo):
            self._push(self._memo[index])
        elif index in self._sparse_memo:
            self._push(self._sparse_memo[index])
        else:
            raise self._malformed("a value in the memo", f"none at {index}")

    def _text_put(self, position: int) -> int:
        text, after = self._line(position)
        self._put(self._integer(text))
        return after

    def _binput(self, position: int) -> int:
        self._put(self._data[position])
        return position + 1

    def _long_binput(self, position: int) -> int:
        self._put(_UINT4(self._data, position)[0])
        return position + 4

    def _text_get(self, position: int) -> int:
        text, after = self._line(position)
        self._get(self._integer(text))
        return after

    def _binget(self, position: int) -> int:
        self._get(self._data[position])
        return position + 1

    def _long_binget(self, position: int) -> int:
        self._get(_UINT4(self._data, position)[0])
        return position + 4

    # ----------------------------------------------------------------- names and calls

    def _global(self, position: int) -> int:
        module, position = self._name(position)
        name, position = self._name(position)
        self._push_name(module, name)
        return position

    def _stack_global(self, position: int) -> int:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise self._malformed("two texts for a name", f"{module!r:.80} and {name!r:.80}")
        self._push_name(module, name)
        return position

    def _push_name(self, module: str, name: str) -> None:
        if len(module) + len(name) > _LONGEST_NAME:
            raise self._malformed(f"a name of at most {_LONGEST_NAME} letters", "a longer one")
        self._push(Global(module, name))
        self._spent += _NODE_BYTES + 4 * (len(module) + len(name))

    def _reduce(self, position: int) -> int:
        arguments, function = self._pop(), self._pop()
        return self._call(position, function, arguments)

    def _inst(self, position: int) -> int:
        module, position = self._name(position)
        name, position = self._name(position)
        arguments = tuple(self._since_mark())
        return self._call(position, Global(module, name), arguments, is_new=True)

    def _obj(self, position: int) -> int:
        items = self._since_mark()
        if not items:
            raise self._malformed("a class to make an object of", "none")
        return self._call(position, items[0], tuple(items[1:]), is_new=True)

    def _newobj(self, position: int) -> int:
        arguments, cls = self._pop(), self._pop()
        return self._call(position, cls, arguments, is_new=True)

    def _newobj_ex(self, position: int) -> int:
        keywords, arguments, cls = self._pop(), self._pop(), self._pop()
        return self._call(position, cls, arguments, keywords, is_new=True)

    def _call(
        self,
        position: int,
        function: Any,
        arguments: Any,
        keywords: Any = None,
        *,
        is_new: bool = False,
    ) -> int:
        if type(function) not in (Global, Call, Persistent):
            raise self._malformed("a name to call", type(function).__name__)
        self._push(Call(function, arguments, keywords, is_new))
        self._spent += _CALL_BYTES
        if type(arguments) is tuple:
            self._spent += _TUPLE_BYTES + 8 * len(arguments)
        return position

    def _build(self, position: int) -> int:
        state, target = self._pop(), self._top()
        if type(target) is not Call:
            found = f"{target.label}" if type(target) is Global else type(target).__name__
            raise UnsafeError(
                f"{self._span.name}: expected a state for an object that the pickle makes, found "
                f"one for {found[:200]}, which lives outside it. The file was made to change the "
                "program that opens it.",
                path=self._span.name,
            )
        self._give(target, state)
        return position

    def _give(self, target: Call, state: Any) -> None:
        if target.states is None:
            target.states = []
            self._spent += _LIST_BYTES
        target.states.append(state)

    def _text_persid(self, position: int) -> int:
        text, after = self._line(position)
        self._persist(text.decode("ascii", "backslashreplace"))
        return after

    def _binpersid(self, position: int) -> int:
        self._persist(self._pop())
        return position

    def _persist(self, identifier: Any) -> None:
        node = Persistent(identifier)
        self._push(node)
        self._outside.append(node)
        self._spent += _NODE_BYTES

    def _extension(self, position: int) -> int:
        raise UnsafeError(
            f"{self._span.name}: expected names in full, found a number of the extension registry, "
            "which only the program that wrote it can read. Save it again without copyreg's "
            "extension codes.",
            path=self._span.name,
        )

    # ----------------------------------------------------------------- the frame around it all

    def _proto(self, position: int) -> int:
        protocol = self._data[position]
        if protocol > HIGHEST_PROTOCOL:
            raise self._malformed(f"a protocol up to {HIGHEST_PROTOCOL}", str(protocol))
        return position + 1

    def _frame(self, position: int) -> int:
        size = _UINT8(self._data, position)[0]
        if position + 8 + size > self._stop:
            raise self._truncated()
        return position + 8

    def _end(self, position: int) -> int:
        raise _Stopped(position)


_OPERATIONS: dict[int, Callable[[Machine, int], int]] = {
    ord(opcode): method
    for opcode, method in {
        "N": Machine._none, "\x88": Machine._true, "\x89": Machine._false,
        "J": Machine._binint, "K": Machine._binint1, "M": Machine._binint2, "I": Machine._int,
        "L": Machine._long, "\x8a": Machine._long1, "\x8b": Machine._long4,
        "F": Machine._float, "G": Machine._binfloat,
        "S": Machine._string, "T": Machine._binstring, "U": Machine._short_binstring,
        "V": Machine._unicode, "X": Machine._binunicode, "\x8c": Machine._short_binunicode,
        "\x8d": Machine._binunicode8,
        "B": Machine._binbytes, "C": Machine._short_binbytes, "\x8e": Machine._binbytes8,
        "\x96": Machine._bytearray8,
        "\x97": Machine._next_buffer, "\x98": Machine._readonly_buffer,
        "(": Machine._mark, "]": Machine._empty_list, "l": Machine._list,
        "a": Machine._append, "e": Machine._appends,
        ")": Machine._empty_tuple, "t": Machine._tuple, "\x85": Machine._tuple1,
        "\x86": Machine._tuple2, "\x87": Machine._tuple3,
        "}": Machine._empty_dict, "d": Machine._dict, "s": Machine._setitem,
        "u": Machine._setitems,
        "\x8f": Machine._empty_set, "\x90": Machine._additems, "\x91": Machine._frozenset,
        "0": Machine._discard, "1": Machine._discard_marked, "2": Machine._dup,
        "p": Machine._text_put, "q": Machine._binput, "r": Machine._long_binput,
        "\x94": Machine._memoize,
        "g": Machine._text_get, "h": Machine._binget, "j": Machine._long_binget,
        "c": Machine._global, "\x93": Machine._stack_global,
        "R": Machine._reduce, "i": Machine._inst, "o": Machine._obj,
        "\x81": Machine._newobj, "\x92": Machine._newobj_ex, "b": Machine._build,
        "P": Machine._text_persid, "Q": Machine._binpersid,
        "\x82": Machine._extension, "\x83": Machine._extension, "\x84": Machine._extension,
        "\x80": Machine._proto, "\x95": Machine._frame, ".": Machine._end,
    }.items()
}  # fmt: skip
"""Every opcode; a test holds it against `pickletools`."""

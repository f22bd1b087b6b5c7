"""Values of Python's own library that are rebuilt from a pickle: containers, dates, paths.

Source: the `__reduce__` methods of CPython 3.11 and of Python 2.7.
"""

from __future__ import annotations

import collections
import datetime
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

from rekindle.pickles.nodes import Call, Global, Pairs, Payload
from rekindle.pickles.rebuilding import Builder, Rebuilder, Steps, Unfit, called, canonical, each
from rekindle.pickles.records import Recorded
from rekindle.state import Record, Reference

_CHUNK_BYTES = 1 << 20
_MOST_DIGITS = 4300
_ITEM_BYTES = 64
"""What one item of a container counts: more than it takes, since one list may go into many."""
_LONGEST_NAME = 4096
_MOST_ARGUMENTS = 1_000_000


def arguments(call: Call, least: int, most: int | None = None) -> tuple[Any, ...]:
    """The nodes that a known name is called with, and nothing done to it after.

    Raises:
        Unfit: They are too few or too many, or something was done after.
    """
    plain(call)
    return nodes(call, least, most)


def nodes(call: Call, least: int, most: int | None = None) -> tuple[Any, ...]:
    """The nodes that a known name is called with."""
    found = call.arguments
    if type(found) is not tuple or call.keywords is not None:
        raise Unfit("its arguments are not given in a row")
    if not least <= len(found) <= (least if most is None else most):
        raise Unfit(f"{len(found)} arguments")
    return found


def plain(call: Call) -> None:
    """Refuse a call after which something was done to the result."""
    if call.states or call.pairs or call.elements:
        raise Unfit("something is done to it after it is made")


def of_type(value: Any, *kinds: type) -> Any:
    """A value, if it is of exactly one of some types."""
    if type(value) not in kinds:
        raise Unfit(f"{type(value).__name__} where {kinds[0].__name__} stands")
    return value


def items_of(node: Any) -> list[Any] | tuple[Any, ...]:
    """The nodes in a list or tuple."""
    return of_type(node, list, tuple)


def short(text: Any) -> str:
    """A text of a file, if it is short enough to be a name."""
    if len(of_type(text, str)) > _LONGEST_NAME:
        raise Unfit("a name that is too long")
    return text


# --------------------------------------------------------------------------- builtins


def _sequence(kind: type) -> Builder:
    """`list(x)`, `tuple(x)`, as Python 2 and subclasses write them."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        given = arguments(call, 0, 1)
        source = items_of(given[0]) if given else ()
        rebuilder.budget.charge(_ITEM_BYTES * len(source))
        return kind((yield from each(source)))

    return build


def _set(kind: Any) -> Builder:
    """`set(x)`, `frozenset(x)`, as protocols before 4 write them."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        given = arguments(call, 0, 1)
        return rebuilder.collection(list(items_of(given[0]) if given else ()), kind)

    return build


def _dict(make: Callable[[], dict[Any, Any]]) -> Builder:
    """`dict()`, `OrderedDict()`, with items put in after, or pairs given at once."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        if call.elements:
            raise Unfit("something is appended to it")
        given = nodes(call, 0, 1)
        pairs = list(call.pairs or ())
        if given and pairs:
            raise Unfit("items in two places")
        if given:
            pairs = _flat(given[0])
        target = make()
        if call.states:
            yield from _set_metadata(target, call)
        return (yield from rebuilder.dictionary(call, pairs, target))

    return build


def _flat(node: Any) -> list[Any]:
    """Keys and values in turn, of a dictionary or a list of pairs."""
    if type(node) is Pairs:
        return list(node)
    flat: list[Any] = []
    for pair in items_of(node):
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise Unfit("a pair that is none")
        flat.extend(pair)
    return flat


def _set_metadata(target: dict[Any, Any], call: Call) -> Steps:
    """The one attribute that is known of an ordered dictionary: that of torch's state dicts."""
    state = call.states[0] if call.states and len(call.states) == 1 else None
    if type(state) is not Pairs or len(state) != 2 or type(state[0]) is not str:
        raise Unfit("attributes of its own")
    if state[0] != "_metadata" or type(target) is not collections.OrderedDict:
        raise Unfit("attributes of its own")
    target._metadata = yield state[1]  # type: ignore[attr-defined]


_FACTORIES = {
    f"builtins:{kind.__name__}": kind
    for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}


def _defaultdict(rebuilder: Rebuilder, call: Call) -> Steps:
    """`defaultdict(factory)`, where the factory is a builtin type; others stay records."""
    given = nodes(call, 0, 1)
    factory: Any = None
    if given and given[0] is not None:
        name = canonical(of_type(given[0], Global).label)
        if name not in _FACTORIES:
            raise Unfit(f"values made by {name}")
        factory = _FACTORIES[name]
    if call.states or call.elements:
        raise Unfit("something is done to it after it is made")
    target = collections.defaultdict(factory)
    return (yield from rebuilder.dictionary(call, list(call.pairs or ()), target))


def _counter(rebuilder: Rebuilder, call: Call) -> Steps:
    given = arguments(call, 0, 1)
    pairs = list(of_type(given[0], Pairs)) if given else []
    return (yield from rebuilder.dictionary(call, pairs, collections.Counter()))


def _deque(rebuilder: Rebuilder, call: Call) -> Any:
    given = nodes(call, 0, 2)
    if call.states or call.pairs:
        raise Unfit("something is done to it after it is made")
    limit = of_type(given[1], type(None), int) if len(given) == 2 else None
    out: collections.deque[Any] = collections.deque(maxlen=limit)
    items = [*(items_of(given[0]) if given else ()), *(call.elements or ())]
    rebuilder.budget.charge(_ITEM_BYTES * len(items))
    return rebuilder.shell(call, out, _fill(out, items))


def _fill(out: collections.deque[Any], items: list[Any]) -> Steps:
    for item in items:
        out.append((yield item))


def _bytes(kind: Callable[[Any], Any]) -> Builder:
    """`bytes()`, and `bytearray(b)` or `bytearray(text, encoding)` of protocols before 5."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        given = arguments(call, 0, 2)
        if len(given) == 2:
            data = _encoded(rebuilder, *given)
        elif given and type(given[0]) is list:
            data = bytes(given[0])
        else:
            data = of_type((yield given[0]) if given else b"", bytes, bytearray)
        rebuilder.budget.charge(len(data))
        return kind(data)

    return build


def _encode(rebuilder: Rebuilder, call: Call) -> Any:
    """`_codecs.encode(text, "latin1")`: bytes, as protocols before 3 write them."""
    text, encoding = arguments(call, 2)
    return _encoded(rebuilder, text, encoding)


def _encoded(rebuilder: Rebuilder, text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii") or type(encoding) is not str:
        raise Unfit("another encoding than latin1")
    if type(text) is Payload and text.kind == "str":
        return _encoded_payload(rebuilder, text, encoding)
    rebuilder.budget.charge(len(of_type(text, str)))
    return text.encode(encoding)


def _encoded_payload(rebuilder: Rebuilder, text: Payload, encoding: str) -> bytes:
    """The bytes that a long text stands for, piece by piece: the whole text is never in memory."""
    rebuilder.budget.charge(len(text.memory))
    parts = bytearray()
    begin = 0
    while begin < len(text.memory):
        end = begin + _CHUNK_BYTES
        while end < len(text.memory) and text.memory[end] & 0xC0 == 0x80:
            end += 1  # not inside a character
        parts += str(text.memory[begin:end], "utf-8", "surrogatepass").encode(encoding)
        begin = end
    return bytes(parts)


def _number(kind: Callable[..., Any], *given: type) -> Builder:
    """`int(x)`, `complex(real, imaginary)`: a number from numbers."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        values = yield from each(arguments(call, 0, 2))
        if not all(type(value) in given for value in values):
            raise Unfit("other arguments than numbers")
        if any(type(value) is str and len(value) > _MOST_DIGITS for value in values):
            raise Unfit("too many digits")
        return kind(*values)

    return build


def _range(rebuilder: Rebuilder, call: Call) -> Any:
    return range(*[of_type(node, int) for node in arguments(call, 1, 3)])


def _slice(rebuilder: Rebuilder, call: Call) -> Steps:
    return slice(*(yield from each(arguments(call, 1, 3))))


def _getattr(rebuilder: Rebuilder, call: Call) -> Steps:
    """`getattr(x, name)`: of a name, a longer name; of anything else, a bound method's record."""
    owner, name = arguments(call, 2)
    found = yield owner
    if isinstance(found, Reference):
        return Reference(short(f"{found}.{short(name)}"))
    of_type(name, str)
    return Record("types:MethodType", {"name": name, "self": found})


# --------------------------------------------------------------------------- dates, paths, UUIDs


def _moment(kind: Any, size: int) -> Builder:
    """`datetime(bytes)`, with a time zone where there is one; Python checks the bytes."""

    def build(rebuilder: Rebuilder, call: Call) -> Steps:
        given = arguments(call, 1, 2)
        data = yield given[0]
        if type(data) is str:
            data = data.encode("latin1")
        if len(of_type(data, bytes)) != size:
            raise Unfit(f"{len(data)} bytes")
        if len(given) == 1:
            return kind(data)
        return kind(data, of_type((yield given[1]), datetime.timezone))

    return build


def _timedelta(rebuilder: Rebuilder, call: Call) -> Any:
    return datetime.timedelta(*[of_type(node, int) for node in arguments(call, 3)])


def _timezone(rebuilder: Rebuilder, call: Call) -> Steps:
    given = arguments(call, 1, 2)
    offset = of_type((yield given[0]), datetime.timedelta)
    return datetime.timezone(offset, *[of_type(name, str) for name in given[1:]])


def _path(kind: Callable[..., pathlib.PurePath]) -> Builder:
    """A path, as a pure one: it touches no disk and exists on every system."""

    def build(rebuilder: Rebuilder, call: Call) -> Any:
        parts = arguments(call, 0, 1000)
        return kind(*[of_type(part, str) for part in parts])

    return build


def _uuid(rebuilder: Rebuilder, call: Call) -> Steps:
    nodes(call, 0)
    return (yield from _numbered(call))


def _numbered(call: Call) -> Steps:
    """A UUID, from the one number in its state."""
    if not call.states or len(call.states) != 1:
        raise Unfit("no number")
    state = yield call.states[0]
    pairs = call.states[0]
    if type(pairs) is not Pairs or type(state) is not dict or "int" not in state:
        raise Unfit("no number")
    return uuid.UUID(int=of_type(state["int"], int))


# --------------------------------------------------------------------------- objects


def _partial(rebuilder: Rebuilder, call: Call) -> Any:
    """`functools.partial`: a record of what would be called with what."""
    nodes(call, 1)
    state = call.states[0] if call.states and len(call.states) == 1 else None
    if type(state) is not tuple or len(state) != 4:
        raise Unfit("no arguments")
    fields: dict[str, Any] = {}
    return rebuilder.shell(call, Record("functools:partial", fields), _fill_partial(fields, state))


def _fill_partial(fields: dict[str, Any], state: tuple[Any, ...]) -> Steps:
    for name, node in zip(("func", "args", "kwargs"), state, strict=False):
        fields[name] = yield node


def _object(rebuilder: Rebuilder, call: Call) -> Any:
    """`copyreg._reconstructor(cls, base, state)`, as protocols 0 and 1 make objects."""
    cls, base, content = nodes(call, 3)
    if canonical(of_type(cls, Global).label) == "uuid:UUID":
        return _numbered(call)
    record = Recorded(of_type(cls, Global).label, is_object=True)
    name = canonical(of_type(base, Global).label)
    return rebuilder.shell(call, record, _fill_object(rebuilder, record, call, name, content))


def _fill_object(
    rebuilder: Rebuilder, record: Recorded, call: Call, base: str, content: Any
) -> Steps:
    yield from rebuilder.fill_record(record, call)
    if base == "builtins:dict" and record.pairs is None:
        record.pairs = yield content
    elif base == "builtins:list" and record.elements is None:
        record.elements = yield content
    elif base != "builtins:object":
        record.arguments = ((yield content),)


def _new_object(rebuilder: Rebuilder, call: Call) -> Any:
    """`copyreg.__newobj__(cls, *args)`."""
    cls, *given = nodes(call, 1, _MOST_ARGUMENTS)
    record = Recorded("", is_object=True)
    return rebuilder.shell(call, record, _fill_new(rebuilder, record, call, (cls, tuple(given))))


def _new_object_ex(rebuilder: Rebuilder, call: Call) -> Any:
    """`copyreg.__newobj_ex__(cls, args, kwargs)`."""
    given = nodes(call, 3)
    of_type(given[1], tuple)
    record = Recorded("", is_object=True)
    return rebuilder.shell(call, record, _fill_new(rebuilder, record, call, given))


def _fill_new(rebuilder: Rebuilder, record: Recorded, call: Call, given: tuple[Any, ...]) -> Steps:
    record.name(called((yield given[0]), given[0]))
    record.arguments = yield rebuilder.held(given[1])
    if len(given) == 3:
        record.keywords = yield given[2]
    yield from rebuilder.fill_record(record, call)


BUILDERS: dict[str, Builder] = {
    "builtins:list": _sequence(list),
    "builtins:tuple": _sequence(tuple),
    "builtins:set": _set(set),
    "builtins:frozenset": _set(frozenset),
    "builtins:dict": _dict(dict),
    "builtins:bytes": _bytes(bytes),
    "builtins:bytearray": _bytes(bytearray),
    "builtins:int": _number(int, int, str),
    "builtins:long": _number(int, int, str),
    "builtins:float": _number(float, float, int, str),
    "builtins:complex": _number(complex, float, int),
    "builtins:range": _range,
    "builtins:xrange": _range,
    "builtins:slice": _slice,
    "builtins:getattr": _getattr,
    "_codecs:encode": _encode,
    "collections:OrderedDict": _dict(collections.OrderedDict),
    "collections:Counter": _counter,
    "collections:defaultdict": _defaultdict,
    "collections:deque": _deque,
    "datetime:date": _moment(datetime.date, 4),
    "datetime:time": _moment(datetime.time, 6),
    "datetime:datetime": _moment(datetime.datetime, 10),
    "datetime:timedelta": _timedelta,
    "datetime:timezone": _timezone,
    "pathlib:PosixPath": _path(pathlib.PurePosixPath),
    "pathlib:PurePosixPath": _path(pathlib.PurePosixPath),
    "pathlib:WindowsPath": _path(pathlib.PureWindowsPath),
    "pathlib:PureWindowsPath": _path(pathlib.PureWindowsPath),
    "uuid:UUID": _uuid,
    "functools:partial": _partial,
    "copyreg:_reconstructor": _object,
    "copyreg:__newobj__": _new_object,
    "copyreg:__newobj_ex__": _new_object_ex,
}
"""What each name of Python's library is rebuilt by. Names that are not here stay records."""

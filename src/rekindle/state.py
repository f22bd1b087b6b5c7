"""What a document says, as plain Python: nested containers, arrays, and records with a name.

A document is JSON: plain values as themselves, everything else an object with one `$tag`
(`docs/format.md`, "Plain data"). Reading one builds only the types named here. Names of classes in
it are labels; nothing is imported or called because a file says so.
"""

from __future__ import annotations

import collections
import functools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from rekindle.codecs import arrays, dtypes, values
from rekindle.errors import FormatError

COMPONENTS = (
    "policy", "critic", "target", "optimizer", "replay_buffer", "normalizer",
    "env", "rng", "progress", "agent",
)  # fmt: skip
"""Names with a fixed meaning, in the order in which they are shown."""


class Record(Mapping[str, Any]):
    """An object of a class that is not needed to read it: the class's name and the fields.

    Fields are read as attributes or as items; a field whose name is also a method of `dict`'s is
    read as an item.
    """

    __slots__ = ("_fields", "_label")

    def __init__(self, label: str, fields: dict[str, Any]) -> None:
        self._label = label
        self._fields = fields

    @property
    def label(self) -> str:
        """The class that it was an object of, as `module:name`."""
        return self._label

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __getattr__(self, name: str) -> Any:
        # Slots are not set yet while a copy is made. Names with two underscores are Python's and
        # numpy's own: one from a file could tell numpy of memory that is not its own.
        if name in Record.__slots__ or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(
                f"{self._label}: no field {name!r}. Fields: {', '.join(map(str, self._fields))}."
            ) from None

    def _told(self) -> dict[str, Any]:
        """What a file told of it beside its class and its fields."""
        return {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self._label == other._label and self._fields == other._fields

    def __hash__(self) -> int:
        # By class alone: fields may not be hashable, and are not all there while a cycle is read.
        return hash(self._label)

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={_short(value)}" for key, value in self._fields.items())
        return f"<{self._label.rpartition(':')[2]} {fields}>"


class Reference(str):
    """A name that stands for something outside the data: a class, a function, a module."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self!s}>"


class _Brief(reprlib.Repr):
    """One line for any value, large, shared or in circles: what a record holds is not entered."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        """Integers that Python itself does not write, by their size."""
        bits = x.bit_length()
        return super().repr_int(x, level) if bits <= 8192 else f"<integer of {bits} bits>"

    def repr_instance(self, x: Any, level: int) -> str:
        """What is neither a builtin container nor a string."""
        if isinstance(x, Record):
            return f"<{x.label.rpartition(':')[2]} ...>"
        if isinstance(x, np.ndarray):
            return f"<{x.dtype} {x.shape}>"
        if isinstance(x, dict):
            return self.repr_dict(x, level)
        if isinstance(x, collections.deque):
            return self.repr_deque(x, level)
        return super().repr_instance(x, level)


def _short(value: Any) -> str:
    text = _Brief().repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Segmented(Protocol):
    """An array that is stored in parts, and that need not be in memory as a whole."""

    code: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def verify(self) -> None:
        """Compare every byte that will be read with its digest."""
        ...

    def fill(self, target: np.ndarray[Any, Any]) -> None:
        """Read it into an array of this shape and type, C-contiguous."""
        ...


class Source(Protocol):
    """Where documents and arrays of a checkpoint come from."""

    def segmented(self, name: str) -> Segmented | None:
        """An array that is stored in parts, by its full name; None for any other."""
        ...

    def document(self, component: str) -> Document:
        """The document of one component."""
        ...

    def array(self, name: str) -> arrays.Stored:
        """A stored array by its full name, `component/name`."""
        ...


class Document:
    """One component's document, with its shared nodes by number and arrays by name.

    `hosts` are the names of the arrays of which others are views; `hoisted` the numbers of the
    nodes that stand outside the root because they are nested deep.
    """

    def __init__(self, component: str, content: Any) -> None:
        if not isinstance(content, dict) or "root" not in content:
            raise FormatError(f"{component}: expected a document with a root, found none.")
        self.component = component
        self.root: Any = content["root"]
        if self.root == {"$ref": component}:
            raise FormatError(f"{component}: expected a value, found a reference to itself.")
        self.shared: dict[int, Any] = {}
        self.arrays: dict[str, dict[str, Any]] = {}
        self.hosts: set[str] = set()
        hoisted = content.get("hoisted", [])
        self.hoisted = {node["$id"] for node in hoisted if isinstance(node, dict) and "$id" in node}
        pending = [self.root, *hoisted]
        while pending:
            node = pending.pop()
            if isinstance(node, list):
                pending.extend(node)
            elif isinstance(node, dict):
                if "$id" in node:
                    self.shared[node["$id"]] = node
                if "$view" in node:
                    self.hosts.add(node["$view"])
                name = node.get("$array") or node.get("$view")
                if name is not None:
                    self.arrays[node.get("name", name)] = node
                else:
                    pending.extend(node.values())


def tag_of(node: dict[str, Any]) -> str | None:
    """The tag of a node, or None where it is a plain dictionary."""
    for key in node:
        if key.startswith("$") and not key.startswith("$$"):
            if key == "$id":
                continue
            return key
        return None
    return None


def array_name(node: dict[str, Any]) -> str:
    """The full name of an array node: of its own storage, or of the view it is."""
    return node["name"] if "$view" in node else node["$array"]


def view_of(memory: np.ndarray[Any, Any], node: dict[str, Any], dtype: np.dtype[Any]) -> Any:
    """Part of an array's memory as an array of its own, checked against its bounds.

    Args:
        memory: All bytes of the host, one axis of uint8.
        node: A `$view` node: `offset`, `shape` and `strides` in bytes.
        dtype: Type of the items.
    """
    shape, strides, offset = node["shape"], node["strides"], node["offset"]
    low = offset + sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    high = offset + sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    if any(n < 0 for n in shape) or low < 0 or high + dtype.itemsize > memory.size:
        raise FormatError(
            f"{array_name(node)}: expected a view inside {node['$view']} "
            f"({memory.size} bytes), found one that leaves it. The document is malformed."
        )
    return np.ndarray(tuple(shape), dtype, memory.data, offset, tuple(strides))


class Plain:
    """Decodes documents into plain data, without any live object.

    A set, or the keys of a dictionary, that hold objects come as a list: objects are told apart by
    identity, their records by content. Containers are filled after what holds them exists, so that
    cycles close and no chain needs a deep stack.

    Args:
        source: Where documents and arrays come from.
        convert: Turns `(numpy array, array node)` into the array type that the caller wants.
        alignment: At a multiple of how many bytes arrays must begin; one that does not is copied.
    """

    def __init__(
        self,
        source: Source,
        convert: Callable[[np.ndarray[Any, Any], dict[str, Any]], Any] | None = None,
        alignment: int = 1,
    ) -> None:
        self.readers: Mapping[str, Callable[[Plain, dict[str, Any], Document], Any]] = {}
        """Readers of tags that take the place of those that stand here."""
        self._source = source
        self._alignment = alignment
        self._aligned: dict[str, arrays.Stored] = {}
        self._convert = convert or (lambda array, node: array)
        self._done: dict[str, Any] = {}
        self._waiting: collections.deque[Callable[[], Any]] = collections.deque()

    def component(self, name: str) -> Any:
        """The whole of one component."""
        return self._finished(self._root(name))

    def _root(self, name: str) -> Any:
        if name not in self._done:
            document = self._source.document(name)
            self._done[name] = self._node(document.root, document)
        return self._done[name]

    def _finished(self, value: Any) -> Any:
        while self._waiting:
            self._waiting.popleft()()
        return value

    def array(self, name: str) -> Any:
        """One array by its full name."""
        if name not in self._done:
            document = self._source.document(name.partition("/")[0])
            node = document.arrays.get(name, {"$array": name})
            self._done[name] = self._convert(self._raw(node), node)
        return self._done[name]

    def decode(self, node: Any, document: Document) -> Any:
        """One node of a document."""
        return self._finished(self._node(node, document))

    def _raw(self, node: dict[str, Any]) -> np.ndarray[Any, Any]:
        if "$view" in node:
            host = self._stored(node["$view"]).raw
            memory = host.reshape(-1).view(np.uint8)
            view = view_of(memory, node, dtypes.build(node["dtype"]))
            return arrays.view_bits(view, node["code"]) if "code" in node else view
        return arrays.decode(self._stored(node["$array"]), node)

    def _stored(self, name: str) -> arrays.Stored:
        """A stored array where it must begin; the same memory for it and all views of it."""
        if name in self._aligned:
            return self._aligned[name]
        stored = self._source.array(name)
        if stored.raw.ctypes.data % self._alignment:
            raw = arrays.aligned_copy(stored.raw, self._alignment)
            stored = self._aligned[name] = arrays.Stored(stored.code, raw)
        return stored

    def _node(self, node: Any, document: Document) -> Any:
        if isinstance(node, list):
            return self._list({"$list": node}, document)
        if not isinstance(node, dict):
            return node
        if "$id" in node:
            token = f"{document.component}#{node['$id']}"
            if token in self._done:
                return self._done[token]
        tag = tag_of(node)
        if tag is None:
            return self._filled(
                node, document, {}, lambda out: out.update(self._items(node, document))
            )
        if tag in values.DECODERS:
            return values.decode(node)
        reader = self.readers.get(tag) or _READERS.get(tag)
        if reader is None:
            raise FormatError(
                f"{document.component}: expected a tag of format version 1, found {tag}. "
                "The document is malformed, or was written by a newer version."
            )
        value = reader(self, node, document)
        if "$id" in node:
            # Met again, it is the same object, and is not read once more.
            self._done.setdefault(f"{document.component}#{node['$id']}", value)
        return value

    def _items(self, node: dict[str, Any], document: Document) -> dict[str, Any]:
        return {
            unescape(key): self._node(value, document)
            for key, value in node.items()
            if key != "$id"
        }

    def _filled(
        self, node: dict[str, Any], document: Document, shell: Any, fill: Callable[[Any], Any]
    ) -> Any:
        """Make a container known now and fill it later."""
        self._waiting.append(functools.partial(fill, shell))
        return self._built(node, document, shell)

    # Each reader handles one tag of a value that holds others.

    def _list(self, node: dict[str, Any], document: Document) -> Any:
        return self._filled(
            node, document, [], lambda out: out.extend(self._each(node["$list"], document))
        )

    def _each(self, nodes: list[Any], document: Document) -> list[Any]:
        return [self._node(item, document) for item in nodes]

    def _tuple(self, node: dict[str, Any], document: Document) -> Any:
        return self._built(node, document, tuple(self._each(node["$tuple"], document)))

    def _frozenset(self, node: dict[str, Any], document: Document) -> Any:
        build = frozenset if self._are_hashable(node["$frozenset"], document) else list
        return self._built(node, document, build(self._each(node["$frozenset"], document)))

    def _built(self, node: dict[str, Any], document: Document, value: Any) -> Any:
        if "$id" in node:
            self._done[f"{document.component}#{node['$id']}"] = value
        return value

    def _set(self, node: dict[str, Any], document: Document) -> Any:
        shell: Any = set() if self._are_hashable(node["$set"], document) else []
        add = shell.update if isinstance(shell, set) else shell.extend
        return self._filled(
            node, document, shell, lambda _: add(self._each(node["$set"], document))
        )

    def _are_hashable(self, nodes: Iterable[Any], document: Document) -> bool:
        """Whether the plain forms of these can be told apart in a set, as what they stand for."""
        return all(self._is_hashable(node, document) for node in nodes)

    def _is_hashable(self, node: Any, document: Document) -> bool:
        if not isinstance(node, dict):
            return not isinstance(node, list)
        tag = tag_of(node)
        if tag in ("$tuple", "$frozenset"):
            return self._are_hashable(node[tag], document)
        if tag == "$namedtuple":
            return self._are_hashable(self._plain_values(node["fields"]), document)
        if tag == "$ref" and "/" not in node["$ref"]:
            target, other = self._resolve(node["$ref"], document)
            return self._is_hashable(target, other)
        return tag in values.DECODERS or tag in ("$enum", "$class", "$module")

    @staticmethod
    def _plain_values(node: dict[str, Any]) -> list[Any]:
        return [value for key, value in node.items() if key != "$id"]

    def _deque(self, node: dict[str, Any], document: Document) -> Any:
        shell: collections.deque[Any] = collections.deque(maxlen=node.get("maxlen"))
        return self._filled(
            node, document, shell, lambda out: out.extend(self._each(node["$deque"], document))
        )

    def _bytearray(self, node: dict[str, Any], document: Document) -> Any:
        data = bytearray(values.decode({"$bytes": node["$bytearray"]}))
        return self._built(node, document, data)

    def _dict(self, node: dict[str, Any], document: Document) -> Any:
        return self.mapping(node, document, {})

    def mapping(self, node: dict[str, Any], document: Document, shell: Any) -> Any:
        """Fill a dictionary; a list of pairs comes back where keys cannot be told apart."""
        nodes = node["$dict"]
        is_dict = self._are_hashable([key for key, _ in nodes], document)

        def fill(out: Any) -> None:
            pairs = [(self._node(k, document), self._node(v, document)) for k, v in nodes]
            out.update(pairs) if is_dict else out.extend(pairs)
            if is_dict and type(out) is not dict and "attributes" in node:
                vars(out).update(self._items(node["attributes"], document))

        return self._filled(node, document, shell if is_dict else [], fill)

    def _objects(self, node: dict[str, Any], document: Document) -> Any:
        shape = tuple(node["shape"])
        array = np.empty(len(node["$objects"]), dtype=object)

        def fill(out: np.ndarray[Any, Any]) -> None:
            for index, item in enumerate(node["$objects"]):
                out.reshape(-1)[index] = self._node(item, document)

        return self._filled(node, document, array.reshape(shape), fill)

    def _record(self, node: dict[str, Any], document: Document) -> Any:
        tag = tag_of(node) or ""
        fields: dict[str, Any] = {}
        part = "fields" if tag == "$namedtuple" else "attributes"

        def fill(_: Any) -> None:
            if "items" in node:
                fields["items"] = self._node(node["items"], document)
            fields.update(self._items(node[part], document))

        return self._filled(node, document, Record(node[tag], fields), fill)

    def record(
        self,
        node: dict[str, Any],
        document: Document,
        make: Callable[[str, dict[str, Any], Mapping[str, Any]], Record],
    ) -> Any:
        """A record with what a file told of the object beside its attributes.

        Args:
            node: An `$object` node.
            document: Where it stands.
            make: Makes it of its label, its fields, and what is told, both filled later.
        """
        nodes = node.get("told")
        if nodes is None:
            return self._record(node, document)
        fields: dict[str, Any] = {}

        def fill(record: Any) -> None:
            fields.update(self._items(node["attributes"], document))
            for key, value in nodes.items():
                if key == "fields":
                    record.adopt(self._node(value, document))
                elif key not in ("kind", "is_object"):
                    setattr(record, key, self._node(value, document))

        return self._filled(node, document, make(node["$object"], fields, nodes), fill)

    def _enum(self, node: dict[str, Any], document: Document) -> Any:
        return Record(
            node["$enum"], {"name": node["name"], "value": self._node(node["value"], document)}
        )

    def _adapter(self, node: dict[str, Any], document: Document) -> Any:
        content = node.get("state")
        if isinstance(content, dict) and tag_of(content) is None:
            return self._filled(
                node, document, {}, lambda out: out.update(self._items(content, document))
            )
        return self._built(node, document, self._node(content, document))

    def _array(self, node: dict[str, Any], document: Document) -> Any:
        name = array_name(node)
        if name not in self._done:
            self._done[name] = self._convert(self._raw(node), node)
        return self._done[name]

    def _ref(self, node: dict[str, Any], document: Document) -> Any:
        target = node["$ref"]
        if target in self._done:
            return self._done[target]
        if "/" in target:
            return self.array(target)
        if "#" not in target:
            return self._root(target)
        return self._node(*self._resolve(target, document))

    def _resolve(self, target: str, document: Document) -> tuple[Any, Document]:
        """The node that a reference to a component, or to a shared value of one, stands for."""
        component, is_shared, number = target.partition("#")
        other = self._source.document(component)
        try:
            return (other.shared[int(number)] if is_shared else other.root), other
        except (KeyError, ValueError):
            raise FormatError(
                f"{document.component}: expected the shared value {target}, found none. "
                "The document is malformed."
            ) from None

    def _partial(self, node: dict[str, Any], document: Document) -> Any:
        nodes = {"func": node["$partial"], "args": node["args"], "kwargs": node["kwargs"]}
        return self._named(node, document, "functools:partial", nodes)

    def _named(
        self, node: dict[str, Any], document: Document, label: str, nodes: dict[str, Any]
    ) -> Record:
        fields: dict[str, Any] = {}
        return self._filled(
            node, document, Record(label, fields),
            lambda _: fields.update({k: self._node(v, document) for k, v in nodes.items()}),
        )  # fmt: skip

    def _slice(self, node: dict[str, Any], document: Document) -> Any:
        return slice(*self._each(node["$slice"], document))

    def _method(self, node: dict[str, Any], document: Document) -> Any:
        nodes = {"name": node["$method"], "self": node["self"]}
        return self._named(node, document, "types:MethodType", nodes)

    def _name(self, node: dict[str, Any], document: Document) -> Any:
        return Reference(node[tag_of(node) or ""])


_READERS: dict[str, Callable[[Plain, dict[str, Any], Document], Any]] = {
    "$list": Plain._list,
    "$tuple": Plain._tuple,
    "$set": Plain._set,
    "$frozenset": Plain._frozenset,
    "$deque": Plain._deque,
    "$dict": Plain._dict,
    "$bytearray": Plain._bytearray,
    "$objects": Plain._objects,
    "$namedtuple": Plain._record,
    "$object": Plain._record,
    "$part": Plain._record,
    "$enum": Plain._enum,
    "$adapter": Plain._adapter,
    "$array": Plain._array,
    "$view": Plain._array,
    "$ref": Plain._ref,
    "$partial": Plain._partial,
    "$slice": Plain._slice,
    "$method": Plain._method,
    "$class": Plain._name,
    "$function": Plain._name,
    "$module": Plain._name,
    "$external": Plain._name,
    "$excluded": Plain._name,
}

TAGS = frozenset(values.DECODERS) | frozenset(_READERS)
"""Every tag of format version 1; `docs/format.md` lists the same."""


def escape(key: str) -> str:
    """A dictionary key as it stands in JSON: a leading `$` is doubled."""
    return "$" + key if key.startswith("$") else key


def unescape(key: str) -> str:
    """Undo `escape`."""
    return key[1:] if key.startswith("$$") else key

"""What a document says, as plain Python: nested containers, arrays, and records with a name.

A document is JSON: plain values as themselves, everything else an object with one `$tag`
(`docs/format.md`, "Plain data"). Reading one builds only the types named here. Names of classes in
it are labels; nothing is imported or called because a file says so.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
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
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(
                f"{self._label}: no field {name!r}. Fields: {', '.join(map(str, self._fields))}."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self._label == other._label and self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={_short(value)}" for key, value in self._fields.items())
        return f"<{self._label.rpartition(':')[2]} {fields}>"


class Reference(str):
    """A name that stands for something outside the data: a class, a function, a module."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self!s}>"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Source(Protocol):
    """Where documents and arrays of a checkpoint come from."""

    def document(self, component: str) -> Document:
        """The document of one component."""
        ...

    def array(self, name: str) -> arrays.Stored:
        """A stored array by its full name, `component/name`."""
        ...


class Document:
    """One component's document, with its shared nodes by number and arrays by name."""

    def __init__(self, component: str, content: Any) -> None:
        if not isinstance(content, dict) or "root" not in content:
            raise FormatError(f"{component}: expected a document with a root, found none.")
        self.component = component
        self.root: Any = content["root"]
        self.shared: dict[int, Any] = {}
        self.arrays: dict[str, dict[str, Any]] = {}
        pending = [self.root, *content.get("hoisted", [])]
        while pending:
            node = pending.pop()
            if isinstance(node, list):
                pending.extend(node)
            elif isinstance(node, dict):
                if "$id" in node:
                    self.shared[node["$id"]] = node
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

    Args:
        source: Where documents and arrays come from.
        convert: Turns `(numpy array, array node)` into the array type that the caller wants.
    """

    def __init__(
        self,
        source: Source,
        convert: Callable[[np.ndarray[Any, Any], dict[str, Any]], Any] | None = None,
    ) -> None:
        self._source = source
        self._convert = convert or (lambda array, node: array)
        self._done: dict[str, Any] = {}

    def component(self, name: str) -> Any:
        """The whole of one component."""
        if name in self._done:
            return self._done[name]
        document = self._source.document(name)
        value = self._node(document.root, document)
        return self._done.setdefault(name, value)

    def array(self, name: str) -> Any:
        """One array by its full name."""
        if name not in self._done:
            document = self._source.document(name.partition("/")[0])
            node = document.arrays.get(name, {"$array": name})
            self._done[name] = self._convert(self._raw(node), node)
        return self._done[name]

    def decode(self, node: Any, document: Document) -> Any:
        """One node of a document."""
        return self._node(node, document)

    def _raw(self, node: dict[str, Any]) -> np.ndarray[Any, Any]:
        if "$view" in node:
            host = self._source.array(node["$view"]).raw
            memory = host.reshape(-1).view(np.uint8)
            return view_of(memory, node, dtypes.build(node["dtype"]))
        return arrays.decode(self._source.array(node["$array"]), node)

    def _node(self, node: Any, document: Document) -> Any:
        if isinstance(node, list):
            return [self._node(item, document) for item in node]
        if not isinstance(node, dict):
            return node
        tag = tag_of(node)
        if tag is None:
            return self._filled(
                node, document, {}, lambda out: out.update(self._items(node, document))
            )
        if tag in values.DECODERS:
            return values.decode(node)
        reader = _READERS.get(tag)
        if reader is None:
            raise FormatError(
                f"{document.component}: expected a tag of format version 1, found {tag}. "
                "The document is malformed, or was written by a newer version."
            )
        return reader(self, node, document)

    def _items(self, node: dict[str, Any], document: Document) -> dict[str, Any]:
        return {
            unescape(key): self._node(value, document)
            for key, value in node.items()
            if key != "$id"
        }

    def _filled(
        self, node: dict[str, Any], document: Document, shell: Any, fill: Callable[[Any], Any]
    ) -> Any:
        """Make a container known before it is filled, so that cycles find it."""
        if "$id" in node:
            shell = self._done.setdefault(f"{document.component}#{node['$id']}", shell)
        if node is document.root:
            shell = self._done.setdefault(document.component, shell)
        fill(shell)
        return shell

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
        return self._built(node, document, frozenset(self._each(node["$frozenset"], document)))

    def _built(self, node: dict[str, Any], document: Document, value: Any) -> Any:
        if "$id" in node:
            self._done[f"{document.component}#{node['$id']}"] = value
        return value

    def _set(self, node: dict[str, Any], document: Document) -> Any:
        return self._filled(
            node, document, set(), lambda out: out.update(self._each(node["$set"], document))
        )

    def _deque(self, node: dict[str, Any], document: Document) -> Any:
        shell: collections.deque[Any] = collections.deque(maxlen=node.get("maxlen"))
        return self._filled(
            node, document, shell, lambda out: out.extend(self._each(node["$deque"], document))
        )

    def _bytearray(self, node: dict[str, Any], document: Document) -> Any:
        data = bytearray(values.decode({"$bytes": node["$bytearray"]}))
        return self._built(node, document, data)

    def _dict(self, node: dict[str, Any], document: Document) -> Any:
        def fill(out: dict[Any, Any]) -> None:
            for key, value in node["$dict"]:
                out[self._node(key, document)] = self._node(value, document)

        return self._filled(node, document, {}, fill)

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
        component, is_array, _ = target.partition("/")
        if is_array:
            return self.array(target)
        component, is_shared, number = target.partition("#")
        if not is_shared:
            return self.component(component)
        other = self._source.document(component)
        try:
            return self._node(other.shared[int(number)], other)
        except (KeyError, ValueError):
            raise FormatError(
                f"{document.component}: expected the shared value {target}, found none. "
                "The document is malformed."
            ) from None

    def _partial(self, node: dict[str, Any], document: Document) -> Any:
        parts = {key: self._node(node[key], document) for key in ("args", "kwargs")}
        return Record(
            "functools:partial", {"func": self._node(node["$partial"], document), **parts}
        )

    def _slice(self, node: dict[str, Any], document: Document) -> Any:
        return slice(*self._each(node["$slice"], document))

    def _method(self, node: dict[str, Any], document: Document) -> Any:
        return Record("types:MethodType", {"name": node["$method"]})

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

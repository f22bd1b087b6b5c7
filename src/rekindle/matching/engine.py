"""The engine of a restore: two passes, who answers for what, and what differs.

It knows of no kind of value: `rekindle.match` says which function matches which.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import fnmatch
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from rekindle.codecs import arrays, dtypes, values
from rekindle.errors import Difference, FormatError
from rekindle.graph import attributes_of, join
from rekindle.matching.filling import can_have, set_attribute
from rekindle.matching.memory import Memory
from rekindle.matching.outcomes import MISSING, Pending, describe
from rekindle.registry import adapter_for, label
from rekindle.state import Document, Plain, Source, tag_of, unescape, view_of

DEEPEST = 32
"""What containers nested deeper than this hold is matched later, from a stack that is not deep."""


def _arrays_by_name(root: Any) -> dict[str, Any] | None:
    """Nodes of a dictionary that holds arrays under names and nothing else, as state dicts do."""
    if not isinstance(root, dict):
        return None
    tag = tag_of(root)
    pairs = root["$dict"] if tag == "$dict" else None
    if tag is None:
        pairs = [(unescape(key), node) for key, node in root.items() if key != "$id"]
    for name, node in pairs or ():
        if not isinstance(name, str) or not isinstance(node, dict):
            return None
        is_shared = tag_of(node) == "$ref" and "/" in node["$ref"]
        if not is_shared and tag_of(node) not in ("$array", "$view"):
            return None
    return dict(pairs) if pairs else None


class Engine(abc.ABC):
    """One restore.

    Args:
        source: Where documents and arrays come from.
        roots: The live objects, by component.
        classes: Classes of records that the checkpoint may hold where the live side has none.
        keep: Patterns of paths to attributes that stay as they are.
        is_apart: Whether live objects only guide, and what is matched with them is made anew.
        omit: Says of a live object that it stays as it is, wherever it stands.
    """

    def __init__(
        self,
        source: Source,
        roots: Mapping[str, Any],
        classes: Iterable[type] = (),
        keep: Iterable[str] = (),
        *,
        is_apart: bool = False,
        omit: Callable[[Any], bool] | None = None,
    ) -> None:
        self.source = source
        self._omit = omit
        self._is_apart = is_apart
        self._keep_patterns = tuple(keep)
        self.roots = dict(roots)
        self.classes = {label(cls): cls for cls in classes}
        self.options = {
            "classes": tuple(self.classes.values()), "keep": self._keep_patterns,
        }  # fmt: skip
        self.outcomes: dict[str, Any] = {}
        """What stands for an array or a shared value, by its name in references."""
        self._claimed: dict[int, str] = {}
        self._memory = Memory(source, self._hosts)
        self._actions: list[Callable[[], None]] = []
        self._hashing: list[Callable[[], None]] = []
        self._refills: list[Callable[[], None]] = []
        self._waiting: collections.deque[tuple[str, Callable[[], Any]]] = collections.deque()
        self.depth = 0
        """How many nodes are being matched, one inside the other."""
        self._num_unfinished = 0
        self._is_loose = False
        self._keep: list[Any] = []
        self._document: Document | None = None
        self.component = ""
        self.differences: list[Difference] = []
        self.notes: list[str] = []
        self.num_values = 0

    # ------------------------------------------------------------------ the whole

    def run(self) -> None:
        """First pass over every asked-for component; `apply` is the second."""
        for name, live in self.roots.items():
            self.enter(name)
            outcome = self.outcomes.get(name, MISSING)
            if outcome is MISSING:
                outcome = self._root(name, live)
            self._finish()
            if outcome is not live and not self._in_place(outcome, live):
                self.differ(
                    "", f"an object that can be changed in place, of {describe(outcome)}",
                    f"{describe(live)}, which cannot. Restore an object that holds it, such as "
                    f"rk.Progress(), or take a new value from rk.open(path).into({name!r}, ...)",
                )  # fmt: skip

    def _root(self, name: str, live: Any) -> Any:
        assert self._document is not None
        root = self._document.root
        if isinstance(root, dict) and tag_of(root) not in values.DECODERS:
            self.outcomes[name] = live
        adapter = adapter_for(type(live))
        nodes = _arrays_by_name(root) if hasattr(adapter, "restore_arrays") else None
        if adapter is not None and nodes is not None:
            adapter.restore_arrays(nodes, adapter.inside(live), self, "")
            return live
        return self.node(root, live, "", strict=True)

    @staticmethod
    def _in_place(outcome: Any, live: Any) -> bool:
        try:
            return type(outcome) is type(live) and bool(outcome == live)
        except (ValueError, TypeError, RuntimeError):
            return False

    def build(self, component: str, like: Any = MISSING) -> Any:
        """First pass over a component that has no live object: all of it is new, from data.

        Where there is something `like` it, the structure of that is asked for.
        """
        self.enter(component)
        assert self._document is not None
        outcome = self.node(self._document.root, like, "", strict=like is not MISSING)
        self._finish()
        return outcome

    def part(self, component: str, live: Mapping[str, Any]) -> dict[str, Any]:
        """First pass over values that are part of a component; see `Walk.part`.

        Args:
            component: The component that they are part of.
            live: The live values by their paths in it.

        Returns:
            What will stand in their places, by path.
        """
        self.enter(component)
        assert self._document is not None
        nodes = self._document.root
        outcomes = {path: self.node(nodes[path], value, path) for path, value in live.items()}
        self._finish()
        return outcomes

    def excerpt(self, nodes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, arrays.Stored]]:
        """Nodes of the current component as a document of their own, and the arrays they name."""
        assert self._document is not None
        prefix = f"{self.component}#"
        names: dict[str, None] = {}
        known: set[int] = set()
        referred: list[int] = []
        hoisted: list[Any] = []
        pending: list[Any] = list(nodes.values())
        while pending or referred:
            if not pending:
                number = referred.pop()
                if number not in known:
                    hoisted.append(self._document.shared[number])
                    pending.append(hoisted[-1])
                continue
            node = pending.pop()
            if isinstance(node, dict):
                if "$id" in node:
                    known.add(node["$id"])
                name = node.get("$view", node.get("$array"))
                target = node.get("$ref", "")
                if name is not None:
                    names[name] = None
                elif target.startswith(prefix):
                    referred.append(int(target[len(prefix) :]))
                pending.extend(node.values())
            elif isinstance(node, list):
                pending.extend(node)
        document = {"root": dict(nodes), "hoisted": hoisted}
        return document, {name: self.source.array(name) for name in names}

    def _finish(self) -> None:
        """Match what containers hold that were too deep, or inside a value not yet built."""
        while self._waiting:
            component, descend = self._waiting.popleft()
            self.enter(component)
            descend()

    def apply(self) -> None:
        """Second pass: change the live objects.

        Sets and dictionaries with keys of other types than text come after what their members'
        hashes depend on; those that derive from a container after the container.
        """
        for action in (*self._actions, *self._hashing, *self._refills):
            action()

    def enter(self, component: str) -> None:
        """Read nodes of this component's document from now on."""
        self.component = component
        self._document = self.source.document(component)

    # ------------------------------------------------------------------ for adapters

    def differ(self, path: str, expected: str, found: str) -> None:
        """Note a mismatch between the checkpoint (`expected`) and the live object (`found`)."""
        self.differences.append(Difference(self.full(path), expected, found))

    def later(self, action: Callable[[], None]) -> None:
        """Do something in the second pass."""
        self._actions.append(action)

    def later_hashed(self, action: Callable[[], None]) -> None:
        """The same for what puts members into a set, or keys: after what their hashes depend on."""
        self._hashing.append(action)

    def later_refilled(self, action: Callable[[], None]) -> None:
        """The same for an object that derives from a container: after the container is filled."""
        self._refills.append(action)

    def full(self, path: str) -> str:
        """A path with its component's name before it."""
        return f"{self.component}/{path}" if path else self.component

    def settle(self, value: Any) -> Any:
        """The final object for an outcome that was not built yet when it was asked for."""
        return self.outcomes[value.token] if isinstance(value, Pending) else value

    def asks_for(self, component: str) -> bool:
        """Whether this component is among those being restored."""
        return component in self.roots

    def claim(self, live: Any, path: str) -> bool:
        """Let a live object answer for the node at `path`; false when it answers for another."""
        if self._is_apart or id(live) in self._claimed:
            return False
        self._claimed[id(live)] = self.full(path)
        self._keep.append(live)
        return True

    def claim_memory(
        self,
        array: np.ndarray[Any, Any],
        node: dict[str, Any],
        whole: np.ndarray[Any, Any] | None = None,
    ) -> bool:
        """Let live memory answer for a stored array.

        Args:
            array: The live array.
            node: The stored one.
            whole: All bytes of the allocation that the live array is part of, if that is known.

        Returns:
            False when it overlaps another array's memory, or when the stored array is part of
            memory that others share and the live one is not, in the same way.
        """
        return not self._is_apart and self._memory.claim(array, node, whole)

    def is_shared(self, node: dict[str, Any]) -> bool:
        """Whether other arrays are views of the same memory as an array."""
        return self._memory.is_shared(node)

    def _hosts(self) -> set[str]:
        documents = [self.source.document(name) for name in {*self.roots, self.component}]
        return {name for document in documents for name in document.hosts}

    def place(self, node: dict[str, Any], data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A new array with the values of a node, in the memory that it shares with others.

        Args:
            node: The array's node.
            data: Its values, from `stored`.
        """
        array = self._memory.place(node, data.dtype, data.shape)
        self.later(functools.partial(np.copyto, array, data))
        return array

    def stored(self, node: dict[str, Any]) -> tuple[np.ndarray[Any, Any], str]:
        """The values of an array node and the safetensors type of their bits."""
        self.num_values += 1
        if "$view" in node:
            host = self.source.array(node["$view"]).raw.reshape(-1).view(np.uint8)
            dtype = dtypes.build(node["dtype"])
            return view_of(host, node, dtype), node.get("code", "")
        stored = self.source.array(node["$array"])
        if stored.code in arrays.BITS_ONLY:
            raw = stored.raw
            if "shape" in node:
                raw = np.broadcast_to(raw, tuple(node["shape"]))
            return raw, stored.code
        return arrays.decode(stored, node), stored.code

    def filler(
        self, node: dict[str, Any], memory: np.ndarray[Any, Any]
    ) -> Callable[[], None] | None:
        """How to read an array that is stored in parts straight into live memory.

        Args:
            node: The array's node.
            memory: The live array.

        Returns:
            What `later` takes; None where the array is stored as a whole, or does not fit.
        """
        if "$array" not in node or not (memory.flags.c_contiguous and memory.flags.writeable):
            return None
        found = self.source.segmented(node["$array"])
        if found is None or found.shape != memory.shape or found.dtype != memory.dtype:
            return None
        found.verify()
        self.num_values += 1
        return functools.partial(found.fill, memory)

    def measure(self, node: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any], str]:
        """Shape, type and safetensors type of a stored array, whose files are checked by this."""
        found = self.source.segmented(node["$array"]) if "$array" in node else None
        if found is None:
            data, code = self.stored(node)
            return data.shape, data.dtype, code
        found.verify()
        self.num_values += 1
        return found.shape, found.dtype, found.code

    def again(self) -> Self:
        """Another restore from the same source, for what only this one's second pass makes."""
        other = type(self)(self.source, {}, **self.options)
        other.enter(self.component)
        return other

    def value(self, node: Any) -> Any:
        """Plain data from a node, without any live object: scalars, containers, numpy arrays."""
        assert self._document is not None
        return Plain(self.source).decode(node, self._document)

    def attributes(
        self,
        nodes: Mapping[str, Any],
        live: Any,
        path: str,
        *,
        strict: bool = False,
    ) -> None:
        """Match named attribute nodes with those of a live object, and set them later."""
        found = attributes_of(live)
        for key, node in nodes.items():
            name = unescape(key)
            if name == "$id" or self._keeps(join(path, name)):
                continue
            outcome = self.node(node, found.get(name, MISSING), join(path, name), strict=strict)
            if outcome is found.get(name, MISSING) or outcome is MISSING:
                continue
            if name not in found and not can_have(live, name):
                self.differ(join(path, name), "an attribute of this name", "no place for one")
            else:
                self.later(functools.partial(self.set_settled, live, name, outcome))

    def _keeps(self, path: str) -> bool:
        full = self.full(path) if self._keep_patterns else ""
        return any(fnmatch.fnmatchcase(full, pattern) for pattern in self._keep_patterns)

    def surplus(self, live: Any, name: str, path: str) -> None:
        """An attribute that only the live object has.

        It is forgotten where it is a cache or hides a default of its class; else it does not fit.
        """
        if name in getattr(live, "__dict__", {}) and _is_in_class(type(live), name):
            self.later(functools.partial(live.__dict__.pop, name, None))
        else:
            self.differ(join(path, name), "no such attribute", "one")

    def set_settled(self, live: Any, name: str, outcome: Any) -> None:
        """Set an attribute to an outcome that may not have been built when it was found."""
        set_attribute(live, name, self.settle(outcome))

    # ------------------------------------------------------------------ one node

    def node(self, node: Any, live: Any, path: str, *, strict: bool = False) -> Any:
        """What will stand at this place after the second pass.

        Args:
            node: The stored node.
            live: What stands there now, or `MISSING`.
            path: Where, from the component's root.
            strict: Whether arrays must fit what is live in shape and type.
        """
        if not isinstance(node, (list, dict)):
            self.num_values += 1
            return node
        if self._omit is not None and live is not MISSING and self._omit(live):
            self.notes.append(f"{self.full(path)}: left as it is, which was asked for")
            return self.register(node, live) if isinstance(node, dict) else live
        self.depth += 1
        outcome = self._tagged(node, live, path, strict)
        self.depth -= 1
        return outcome

    @abc.abstractmethod
    def _tagged(self, node: Any, live: Any, path: str, strict: bool) -> Any:
        """What will stand at the place of a list or dictionary; see `node`."""

    def outcome(self, token: str) -> Any:
        """What stands for an array or a shared value, by its name in references; else `MISSING`."""
        return self.outcomes.get(token, MISSING)

    def register(self, node: dict[str, Any], outcome: Any) -> Any:
        """Note what stands for a node, for the references to it."""
        if "$id" in node:
            self.outcomes[f"{self.component}#{node['$id']}"] = outcome
        return outcome

    # ------------------------------------------------------------------ for the kinds of values

    def target(self, node: dict[str, Any], live: Any, path: str, cls: type, new: Any) -> Any:
        """The live container if it is of the right type and free, else a new one."""
        target = live if type(live) is cls and self.claim(live, path) else new
        return self.register(node, target)

    def descend(self, match: Callable[[], None]) -> None:
        """Match what a container holds; later where the stack is deep.

        Later too inside an immutable value: that is there then for what refers to it.
        """
        if self.depth < DEEPEST and not self._num_unfinished:
            match()
        else:
            self.wait(match)

    def wait(self, match: Callable[[], Any]) -> None:
        """Match something later, still in the first pass, in the component that is read now."""
        self._waiting.append((self.component, match))

    def must_fit(self, live: Any) -> bool:
        """Whether what only the live side has is a difference.

        Among the attributes of the program's own objects only where it holds arrays: what else
        their dictionaries and tuples hold comes and goes.
        """
        return not self._is_loose or _holds_arrays(live)

    @contextlib.contextmanager
    def loosely(self, is_loose: bool) -> Iterator[None]:
        """Meanwhile what only the live side has need not fit; see `must_fit`."""
        before, self._is_loose = self._is_loose, is_loose
        yield
        self._is_loose = before

    def miss(self, node: Any, path: str) -> None:
        """Note that nothing stands where the checkpoint holds only a name, unless it is noted."""
        tag = tag_of(node) or ""
        if tag in ("$excluded", "$external", "$part", "$ref"):
            self.differ(path, f"what the checkpoint holds only by name, {node[tag]}", "nothing")

    def parts(self, node: dict[str, Any], match: Callable[[], list[Any]]) -> list[Any]:
        """Outcomes for what an immutable value holds; it is there only when they are."""
        with self.unfinished(f"{self.component}#{node['$id']}" if "$id" in node else None):
            outcomes = match()
        if any(isinstance(outcome, Pending) for outcome in outcomes):
            raise ValueError("an immutable value that holds itself")
        return outcomes

    @contextlib.contextmanager
    def unfinished(self, token: str | None) -> Iterator[None]:
        """Meanwhile what a name in references stands for is not there yet."""
        if token is None:
            yield
            return
        self.outcomes[token] = Pending(token)
        self._num_unfinished += 1
        yield
        self._num_unfinished -= 1

    def record_class(
        self, name: str, live: Any, path: str, is_record: Callable[[type], bool]
    ) -> Any | None:
        """The class of a record: the live object's, one the caller passed, or one of the program.

        Only classes of records (named tuples, dataclasses, enums) are found by name, among modules
        that the program has loaded, and only their fields are set: none of their code runs.
        """
        if live is not MISSING and live is not None and label(type(live)) == name:
            return type(live)
        cls = self.classes.get(name) or _loaded_class(name)
        if cls is not None and is_record(cls):
            return cls
        self.differ(path, f"an object of class {name} to restore into", describe(live))
        return None

    def taken(self, live: Any) -> str:
        """Why a live object cannot answer for a node, in words."""
        other = self._claimed.get(id(live))
        if other is None:
            return f"{describe(live)}, which only restore can fill"
        return f"the one that already stands for {other}"

    def referred(self, target: str) -> tuple[str, Any]:
        """The component and the node that a reference names."""
        component = target.partition("/")[0].partition("#")[0]
        document = self.source.document(component)
        if component == target:
            return component, document.root
        if "/" in target:
            return component, document.arrays.get(target, {"$array": target})
        stored = document.shared.get(int(target.rpartition("#")[2]))
        if stored is None:
            raise FormatError(
                f"{self.component}: expected the shared value {target}, found none. "
                "The document is malformed."
            )
        return component, stored


def _holds_arrays(live: Any) -> bool:
    if isinstance(live, Mapping):
        return any(map(_holds_arrays, live.values()))
    if isinstance(live, (list, tuple)):
        return any(map(_holds_arrays, live))
    return hasattr(live, "dtype") and bool(getattr(live, "shape", ()))


def _loaded_class(name: str) -> type | None:
    """A class of the running program by its label; nothing is imported for it."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _is_in_class(cls: type, name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__)

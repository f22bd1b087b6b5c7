"""TorchRL's replay buffers: storages by rows, writers, samplers.

A storage does not know in which order its rows are written; its writer does, and so a buffer that
holds both says which rows are new. A storage that is tracked alone is compared row by row. Source:
torchrl 0.14, `torchrl/data/replay_buffers`.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, is_tensor_collection
from torch.utils._pytree import tree_leaves
from torchrl.data.replay_buffers.storages import LazyTensorStorage
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter, RoundRobinWriter

from rekindle.adapters import tensordict
from rekindle.adapters.attributes import Attributes
from rekindle.adapters.torch_values import from_numpy
from rekindle.errors import MismatchError, listing
from rekindle.graph import Walk, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label
from rekindle.rings import Ring
from rekindle.state import tag_of, unescape

_ROUNDS = itertools.count()


class Watch:
    """Counts the rows that the writers of a storage write, attached to it as a buffer is.

    What else changes rows does not tell: `rb[3] = row`, `rb.storage.set(...)`. The storage counts
    every change, though, so it is known whether there was any that this did not hear of. A writer
    that does not write in turn is heard, and ends where it should not.

    Args:
        storage: An initialized storage.
        position: The row that its writer writes next.
    """

    def __init__(self, storage: Any, position: int) -> None:
        self.width = _width(storage)
        self.first = next(_ROUNDS) << 48
        self.added = self.first + position
        """Rows heard of, counted from a number that no other watch comes to."""
        self.heard = 0
        self.before = int(storage._mutation_revision)
        self.is_ring = True
        """Whether every row was written in turn so far, as the captures found."""

    def mark_update(self, index: Any, **_: Any) -> None:
        """Called by a writer, after it has written rows of these numbers."""
        rows = torch.as_tensor(index)
        self.added += len(rows) // self.width if rows.ndim else 1
        self.heard += 1

    def position(self, capacity: int) -> int:
        """The row that is written next, if all were written in turn."""
        return (self.added - self.first) % capacity

    def missed(self, storage: Any) -> int:
        """How many changes there were that it did not hear of, or has not yet."""
        return int(storage._mutation_revision) - self.before - self.heard


def _capacity(storage: Any) -> int:
    """Rows of a storage; one of more than one dimension has as many items in each."""
    return int(storage._total_shape[0])


def _width(storage: Any) -> int:
    return storage._total_shape[1:].numel()


def _leaves(storage: Any) -> Iterator[torch.Tensor]:
    data = storage._storage
    if is_tensor_collection(data):
        held: Iterable[Any] = data.values(True, True)
    else:
        held = tree_leaves(data)
    return (value for value in held if isinstance(value, torch.Tensor))


def _watch(storage: Any, position: int) -> Watch:
    for entity in storage._attached_entities:
        if isinstance(entity, Watch):
            return entity
    watch = Watch(storage, position)
    storage.attach(watch)
    return watch


def _stand(writer: Any) -> tuple[int, int] | None:
    """Rows ever written, and the row that is next; None of a writer that chooses among rows."""
    if isinstance(writer, ImmutableDatasetWriter):
        return 0, 0
    if isinstance(writer, RoundRobinWriter) and not writer._compilable:
        return int(writer._write_count), int(writer._cursor)
    return None


def _ring(storage: Any, writer: Any) -> Ring | None:
    """How a storage is being filled; None where it is not known to be filled in turn."""
    begun = _stand(writer)
    if begun is None:
        return None
    capacity = _capacity(storage)
    position = begun[1]
    watch = _watch(storage, position)
    if watch.missed(storage) or watch.position(capacity) != position:
        watch.is_ring = False
    if not watch.is_ring:
        return None
    added = watch.added

    def advanced() -> int:
        # A writer counts rows and moves on before it writes them, and is heard after that.
        now, cursor = _stand(writer) or (0, 0)
        count, heard = now - begun[0], watch.added - added
        is_in_turn = 0 <= heard <= count and (cursor - position) % capacity == count % capacity
        is_known = watch.missed(storage) <= (count > heard)
        return count if is_in_turn and is_known else -1

    return Ring(
        capacity=capacity,
        position=position,
        num_filled=int(storage._len_along_dim0),
        num_added=added,
        advanced=advanced,
    )


class Storage(Attributes):
    """`TensorStorage`, `LazyTensorStorage`, `LazyMemmapStorage`: tensors, and how many rows count.

    The files of a memory-mapped one stay those of the live storage.
    """

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The rows that are filled, compared unless the buffer says how they are filled."""
        fields = super().capture(live, walk, path)
        data = None
        if live.initialized:
            self.say(live, None, walk)
            data = walk.node(live._storage, join(path, "data"))
        return {**fields, "data": data, "length": len(live), "cursor": live._last_cursor_index}

    def say(self, live: Any, writer: Any, walk: Walk) -> None:
        """Say of the tensors of a storage that they have rows."""
        ring = None if writer is None else _ring(live, writer)
        is_changing = ring is None
        if ring is None:
            capacity, filled = _capacity(live), int(live._len_along_dim0)
            ring = Ring(capacity=capacity, position=0, num_filled=filled, advanced=lambda: 0)
        walk.rows(_leaves(live), ring, is_changing=is_changing)
        generations = getattr(live, "_slot_generations", None)
        if generations is not None and len(generations) == ring.capacity:
            walk.rows([generations], ring, is_changing=True)

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Read the rows into the live tensors; a storage that waits for its first row gets them."""
        super().restore(node, live, match, path)
        data, inside = node["data"], join(path, "data")
        if data is None:
            if live.initialized and not isinstance(live, LazyTensorStorage):
                match.differ(path, "a storage without rows yet", f"one with {len(live)}")
            match.later(functools.partial(_forget, live))
        elif live.initialized:
            outcome = match.node(data, live._storage, inside, strict=True)
            if outcome is not live._storage:
                match.differ(inside, "tensors to restore into", label(type(live._storage)))
        else:
            self._begin(data, live, match, inside)
        match.later(functools.partial(_settle, live, node["length"], node["cursor"]))
        return live

    def compare(self, nodes: dict[str, Any], live: Any, match: Match, path: str) -> None:
        """Sizes must agree; one of several dimensions is rounded up at its first row."""
        if nodes["ndim"] == 1 or nodes["initialized"] is live.initialized:
            super().compare(nodes, live, match, path)
        elif nodes["ndim"] != live.ndim:
            match.differ(join(path, "ndim"), str(nodes["ndim"]), str(live.ndim))

    def _begin(self, node: Any, live: Any, match: Match, path: str) -> None:
        """Plan to make the tensors as the first row would have, and to read the rows into them."""
        row = _first_row(node, match, path)
        found = next(iter(tree_leaves(row.to_dict() if isinstance(row, TensorDict) else row)))
        expected, inner = _length(node, match), found.shape[: live.ndim - 1].numel()
        if expected != -(live.max_size // -inner):
            match.differ(path, f"{expected} rows", f"{-(live.max_size // -inner)}")
            return
        again = match.again()

        def begin() -> None:
            live._init(row)
            again.node(node, live._storage, path, strict=True)
            if again.differences:
                raise MismatchError(
                    f"{path}: the storage made other tensors than those of the checkpoint:\n"
                    f"{listing(again.differences)}",
                    differences=again.differences,
                )
            again.apply()

        match.later(begin)


def _first_row(node: Any, match: Match, path: str) -> Any:
    """What a storage that holds such tensors was begun with: one row, of which no value counts."""
    if isinstance(node, list):
        return [_first_row(child, match, join(path, str(i))) for i, child in enumerate(node)]
    tag = tag_of(node)
    if tag in ("$array", "$view"):
        shape, dtype, code = match.measure(node)
        return from_numpy(np.zeros(shape[1:], dtype), code, node)
    if tag == "$tuple":
        return tuple(_first_row(node["$tuple"], match, path))
    if tag is None:
        nodes = {unescape(key): child for key, child in node.items() if key != "$id"}
        return {key: _first_row(child, match, join(path, key)) for key, child in nodes.items()}
    if node.get("$adapter") == tensordict.DICTIONARY.name:
        nodes = tensordict.values_of(node)
        row = {key: _first_row(child, match, join(path, key)) for key, child in nodes.items()}
        return TensorDict(row, batch_size=node["batch_size"][1:])
    match.differ(path, f"a storage that has had its first row, of {node.get(tag, tag)}", "none yet")
    return torch.zeros(0)


def _length(node: Any, match: Match) -> int:
    """The first axis of the stored tensors."""
    pending = [node]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            if tag_of(found) in ("$array", "$view"):
                return match.measure(found)[0][0]
            pending.extend(found.values())
        elif isinstance(found, list):
            pending.extend(found)
    return 0


def _forget(live: Any) -> None:
    """Make a storage wait for its first row again."""
    live._storage = None
    live.initialized = False
    live.__dict__.pop("_total_shape_value", None)
    live._storage_keys = None


def _settle(live: Any, length: int, cursor: int | None) -> None:
    """Set the counts of a storage whose rows are restored, and tell samplers of other rows."""
    if hasattr(live, "_len"):
        live._len = length
    if live._compilable:
        live._last_cursor_index_value.fill_(-1 if cursor is None else cursor)
    else:
        live._last_cursor_index_value.value = -1 if cursor is None else cursor
    live._bump_mutation_revision()
    live._attached_entities[:] = [
        entity for entity in live._attached_entities if not isinstance(entity, Watch)
    ]


class Items(Attributes):
    """`ListStorage`: whatever its list holds, written whole at each save."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Every item."""
        fields = super().capture(live, walk, path)
        data = walk.node(live._storage, join(path, "data"))
        return {**fields, "data": data, "cursor": live._last_cursor_index}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Fill the live list with new items."""
        super().restore(node, live, match, path)
        outcome = match.node(node["data"], MISSING, join(path, "data"))

        def fill() -> None:
            live._storage[:] = match.settle(outcome)

        match.later(fill)
        match.later(functools.partial(_settle, live, 0, node["cursor"]))
        return live


class Refused(Adapter):
    """What holds rows in a way that nothing here reads."""

    name = "torchrl.refused"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Refuse."""
        walk.refuse(
            path,
            f"{label(type(live))}, whose rows cannot be read; use a TensorStorage, "
            "LazyTensorStorage, LazyMemmapStorage or ListStorage, and track the members of an "
            "ensemble one by one",
        )
        return {}


class Writer(Attributes):
    """Writers: where they write next, and how many rows they wrote."""

    _COUNTERS = ("_cursor", "_write_count")

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Attributes, and the counters as numbers."""
        counters = {name: int(getattr(live, name)) for name in self._COUNTERS if _has(live, name)}
        return {**super().capture(live, walk, path), "counters": counters}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set the attributes, and the counters through their properties."""
        super().restore(node, live, match, path)
        for name, count in node["counters"].items():
            match.later(functools.partial(setattr, live, name, count))
        return live


def _has(live: Any, name: str) -> bool:
    return hasattr(type(live), name) or name in vars(live)


_DERIVED: dict[str, Callable[[], Any]] = {
    "_cache": dict,
    "_fragmented_index": lambda: None,
    "_group_index": lambda: None,
    "_row_rewards": lambda: None,
    "_index_len": int,
    "_cache_storage_id": lambda: None,
}
"""Attributes of samplers that they compute from the storage; and what they are at first."""


class Sampler(Attributes):
    """Samplers that are their attributes."""

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set the attributes; what was computed from other rows is forgotten."""
        super().restore(node, live, match, path)
        for name, empty in _DERIVED.items():
            if name in vars(live):
                match.later(functools.partial(setattr, live, name, empty()))
        return live


_PRIORITIES: weakref.WeakKeyDictionary[Any, dict[str, torch.Tensor]] = weakref.WeakKeyDictionary()
"""Leaves of the trees of each sampler, in memory that stays, so that a save knows it again."""


class Prioritized(Sampler):
    """`PrioritizedSampler`: its trees are objects of compiled code, and their leaves are all.

    Each inner node of a tree is computed anew from the two below it when one of those changes, so
    equal leaves make an equal tree.
    """

    _TREES = ("_sum_tree", "_min_tree")

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Attributes, and the leaves of both trees."""
        fields = super().capture(live, walk, path)
        held = _PRIORITIES.setdefault(live, {})
        rows = torch.arange(live._max_capacity, device=live.device)
        for name in self._TREES:
            leaves = torch.as_tensor(getattr(live, name)[rows]).cpu()
            if name not in held or held[name].shape != leaves.shape:
                held[name] = leaves.clone()
            held[name].copy_(leaves)
        count = live._max_capacity
        ring = Ring(capacity=count, position=0, num_filled=count, advanced=lambda: 0)
        walk.rows(held.values(), ring, is_changing=True)
        return {**fields, "trees": walk.whole(held, path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set every leaf of both trees."""
        super().restore(node, live, match, path)
        rows = torch.arange(live._max_capacity, device=live.device)
        for name in self._TREES:
            tree = getattr(live, name)
            like = torch.empty_like(torch.as_tensor(tree[rows]), device="cpu")
            leaves = match.node(node["trees"][name], like, join(path, name), strict=True)
            match.later(functools.partial(_plant, tree, rows, leaves))
        return live


def _plant(tree: Any, rows: torch.Tensor, leaves: torch.Tensor) -> None:
    tree[rows] = leaves.to(rows.device)


class Buffer(Attributes):
    """`ReplayBuffer` and those that derive from it: a storage, a writer, a sampler, transforms."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The parts, and batches that were sampled ahead."""
        if not live.initialized:
            walk.refuse(
                path, f"{label(type(live))}, which makes its parts at its first use; use it once, "
                "or pass delayed_init=False"
            )  # fmt: skip
            return {}
        live.synchronize()
        fields = super().capture(live, walk, path)
        if hasattr(live.storage, "_len_along_dim0") and live.storage.initialized:
            STORAGE.say(live.storage, live.writer, walk)
        ahead = [future.result() for future in live._prefetch_queue]
        return {**fields, "ahead": walk.node(ahead, join(path, "ahead"))}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Restore the parts in place."""
        if not live.initialized:
            match.differ(path, "a buffer that has made its parts", "one that waits for its use")
            return live
        live.synchronize()
        super().restore(node, live, match, path)
        ahead = match.node(node["ahead"], MISSING, join(path, "ahead"))
        if len(ahead) > live._prefetch_cap:
            match.differ(
                path, f"room for {len(ahead)} batches sampled ahead", f"for {live._prefetch_cap}"
            )

        def fill() -> None:
            live._prefetch_queue.clear()
            live._prefetch_queue.extend(_done(batch) for batch in match.settle(ahead))

        match.later(fill)
        return live


def _done(batch: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(tuple(batch))
    return future


_OF_THE_PROCESS = frozenset((
    "_attached_entities_list", "_auto_cleanup", "_checkpointer", "_cleaned_up", "_compilable",
    "_init_directory", "_init_event", "_init_lock", "_last_cursor_index_value", "_len_value",
    "_mutation_revision_value", "_scratch_dir_is_temp", "_storage", "_storage_keys",
    "_total_shape_value", "cleanup_memmap", "consolidated", "device", "existsok", "scratch_dir",
    "shared_init",
))  # fmt: skip

STORAGE = Storage("torchrl.storage", _OF_THE_PROCESS, equal=("max_size", "ndim"))
ITEMS = Items("torchrl.list_storage", _OF_THE_PROCESS, equal=("max_size",))
REFUSED = Refused()
WRITER = Writer(
    "torchrl.writer",
    frozenset(("_compilable", "_cursor", "_cursor_value", "_storage", "_write_count_value")),
)
SAMPLER = Sampler("torchrl.sampler", frozenset((*_DERIVED, "_get_index", "_gpu_device", "compile")))
PRIORITIZED = Prioritized(
    "torchrl.prioritized_sampler",
    frozenset((*_DERIVED, "_sum_tree", "_min_tree", "_device", "_get_index", "_gpu_device")),
    equal=("_max_capacity",),
)
BUFFER = Buffer(
    "torchrl.buffer",
    frozenset((
        "_collate_fn", "_distributed_service", "_futures_lock", "_init_checkpointer",
        "_init_collate_fn", "_init_compilable", "_init_consume_after_n_samples",
        "_init_generator", "_init_sampler", "_init_storage", "_init_transform",
        "_init_transform_factory", "_init_writer", "_iterator", "_pending_update_futures",
        "_prefetch_executor", "_prefetch_queue", "_replay_lock", "_sample_dependency",
        "_service_shutdown", "_update_executor", "_write_lock",
    )),
)  # fmt: skip

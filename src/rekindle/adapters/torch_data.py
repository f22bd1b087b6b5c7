"""`torch.utils.data`: a `DataLoader`, between two passes over its data.

What a pass would give next lives in a suspended generator, and with workers in their queues: in the
middle of one, a save is refused. A loader does not know its passes, so those that are under way are
found among what refers to its sampler.

Source: torch 2.13 `utils/data/dataloader.py`.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data.dataloader import DataLoader, _BaseDataLoaderIter, _DatasetKind

from rekindle.adapters.attributes import Attributes
from rekindle.graph import Walk, attributes_of
from rekindle.match import Match
from rekindle.protocols import Adapter

_UNDER_WAY = (
    "a torch DataLoader in mid-iteration, and what it would give next cannot be written down; "
    "save between epochs, when the loop over the loader has come to its end"
)
_PERSISTENT = (
    "a torch DataLoader with workers that stay alive and hold random generators of their own; "
    "make it with persistent_workers=False"
)


def _obstacle(iterator: Mapping[str, Any]) -> str:
    """Why an iterator with these attributes cannot be saved; empty when it is at its end."""
    if iterator["_num_workers"]:
        if iterator["_persistent_workers"]:
            return _PERSISTENT
        return "" if iterator.get("_shutdown", True) else _UNDER_WAY
    if iterator["_dataset_kind"] == _DatasetKind.Iterable:
        return "" if iterator["_dataset_fetcher"].ended else _UNDER_WAY
    rest = iterator["_sampler_iter"]
    if isinstance(rest, types.GeneratorType):
        return "" if rest.gi_frame is None else _UNDER_WAY
    return "" if iterator["_num_yielded"] >= len(iterator["_index_sampler"]) else _UNDER_WAY


def _obstacle_of(loader: DataLoader[Any]) -> str:
    """Why a loader cannot be saved now: the first pass over it that is not at its end."""
    sampler = loader._index_sampler
    for holder in gc.get_referrers(sampler):
        # Python shows an object's attributes as a dictionary of their own once someone asked.
        found = attributes_of(holder) if isinstance(holder, _BaseDataLoaderIter) else holder
        if isinstance(found, dict) and "_sampler_iter" in found:
            reason = _obstacle(found)
            if reason:
                return reason
    return ""


class Loader(Attributes):
    """`DataLoader`: its attributes, among them the sampler and the generator that shuffles."""

    def capture(self, live: DataLoader[Any], walk: Walk, path: str) -> dict[str, Any]:
        """The attributes; refused in the middle of a pass."""
        reason = _obstacle_of(live)
        if reason:
            walk.refuse(path, reason)
            return {}
        return super().capture(live, walk, path)

    def restore(self, node: dict[str, Any], live: DataLoader[Any], match: Match, path: str) -> Any:
        """Match and set the attributes of a loader that is not in use."""
        reason = _obstacle_of(live)
        if reason:
            match.differ(path, "a torch DataLoader at rest", reason)
            return live
        return super().restore(node, live, match, path)


class Finished(Adapter):
    """A pass over a `DataLoader` that has come to its end, and so has no state."""

    name = "torch.dataloader_iterator"
    is_value = True

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """Nothing; refused in the middle of a pass."""
        reason = _obstacle(attributes_of(live))
        if reason:
            walk.refuse(path, reason)
        return {"$adapter": self.name, "state": {}}

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """Another that has come to its end, and drew from no generator that anyone uses."""
        iterator = iter(DataLoader((), generator=torch.Generator()))  # type: ignore[arg-type]
        next(iterator, None)
        return iterator


LOADER = Loader("torch.dataloader")
ITERATOR = Finished()

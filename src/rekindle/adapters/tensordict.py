"""tensordict: dictionaries of tensors that share their first axes.

Source: tensordict 0.14, `tensordict/_td.py`.
"""

from __future__ import annotations

import functools
from typing import Any

from tensordict import TensorDict

from rekindle.graph import Walk, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.state import unescape


class Dictionary(Adapter):
    """`TensorDict`; one that the live side has not made yet is built, on the device of its tensors.

    Whether it is locked, shared or lies in files is the live one's.
    """

    name = "tensordict.dictionary"

    def capture(self, live: TensorDict, walk: Walk, path: str) -> dict[str, Any]:
        """Its tensors, and what else it holds, by name."""
        return {
            "state": walk.children(_items(live), path),
            "batch_size": list(live.batch_size),
            "names": live.names if live._has_names() else None,
        }

    def restore(self, node: dict[str, Any], live: TensorDict, match: Match, path: str) -> Any:
        """Match the tensors one by one, in place."""
        nodes = values_of(node)
        found = dict(_items(live))
        if list(live.batch_size) != node["batch_size"]:
            match.differ(path, f"batch size {node['batch_size']}", str(list(live.batch_size)))
        elif set(nodes) != set(found):
            match.differ(path, f"the keys {', '.join(nodes)}", ", ".join(found) or "none")
        else:
            for name, child in nodes.items():
                outcome = match.node(child, found[name], join(path, name), strict=True)
                if outcome is not found[name]:
                    match.later(functools.partial(_set, live, name, outcome, match))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new one with these tensors."""
        found = {
            name: match.node(child, MISSING, join(path, name))
            for name, child in values_of(node).items()
        }
        return TensorDict(found, batch_size=node["batch_size"], names=node["names"])


def _items(live: TensorDict) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in live.items()]


def _set(live: TensorDict, name: str, value: Any, match: Match) -> None:
    with live.unlock_():
        live.set(name, match.settle(value))


def values_of(node: dict[str, Any]) -> dict[str, Any]:
    """What a stored dictionary holds: nodes by name."""
    return {unescape(key): child for key, child in node["state"].items() if key != "$id"}


DICTIONARY = Dictionary()

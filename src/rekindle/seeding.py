"""Which random generators nobody seeded, found by how they stand when a script starts.

A script that seeds a generator brings it to the same state at every start. One that differs between
two starts took its numbers from the system: it is restored all the same, but two uninterrupted runs
would differ in it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from rekindle import files
from rekindle.codecs import arrays
from rekindle.compare import children
from rekindle.graph import Walk

_PREFIX = "generators."


def fingerprints(components: Mapping[str, Any], exclude: tuple[str, ...] = ()) -> dict[str, str]:
    """A short digest of each random generator among live objects, by its path."""
    captured = Walk(exclude).capture(components)
    found: dict[str, str] = {}
    for component, document in captured.documents.items():
        stored = captured.arrays[component]
        for path, node in _generators(document["root"], component):
            found[path] = _digest(node, stored)
    return found


def unseeded(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[str, ...]:
    """Generators that stood differently at two starts of one script."""
    return tuple(path for path in first if path in second and first[path] != second[path])


def _generators(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _generators(item, f"{path}.{index}")
        return
    if not isinstance(node, dict):
        return
    adapter = node.get("$adapter", "")
    separator = "." if "/" in path else "/"
    if adapter == f"{_PREFIX}global":
        for name, part in node["state"].items():
            yield f"{path}{separator}{name}", part
    elif adapter.startswith(_PREFIX):
        yield path, node["state"]
    else:
        for name, child in children(node).items():
            yield from _generators(child, f"{path}{separator}{name}")


def _digest(node: Any, stored: Mapping[str, arrays.Stored]) -> str:
    parts = [msgspec.json.encode(node)]
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            name = item.get("$array")
            if name is not None and name.partition("/")[2] in stored:
                parts.append(stored[name.partition("/")[2]].raw.tobytes())
            pending.extend(item.values())
    return files.digest(b"".join(parts))[:16]

"""Configurations of OmegaConf, from the records of them in a pickle, as plain containers.

A `DictConfig` keeps its items in `_content`, each wrapped in a node with `_val`, and each with a
reference to its parent. Interpolations stay the text that they are. Source: omegaconf 2.3,
`basecontainer.py`, `nodes.py`.
"""

from __future__ import annotations

from typing import Any

from rekindle.state import Record

_DEEPEST = 100


def plain(value: Any) -> tuple[Any, list[str]]:
    """The same data with dictionaries, lists and values in place of configurations.

    What holds itself, or is nested deeper than any configuration, stays as it is.

    Args:
        value: Plain data, with records in it. Containers without a configuration stay the same
            objects, and what is shared is looked at once.

    Returns:
        The data, and the path of each configuration that was replaced.
    """
    walk = _Walk()
    return walk.plain(value, "", 0, is_inside=False), walk.paths


def is_configuration(value: Any) -> bool:
    """Whether a record is that of a configuration, or of a value in one."""
    if not isinstance(value, Record) or not value.label.startswith("omegaconf."):
        return False
    return "_content" in value or "_val" in value


class _Walk:
    def __init__(self) -> None:
        self.paths: list[str] = []
        self._met: dict[int, Any] = {}

    def plain(self, value: Any, path: str, depth: int, *, is_inside: bool) -> Any:
        """What stands for a value; for one that is being looked at already, the value itself."""
        is_record = is_configuration(value)
        if depth > _DEEPEST or not (is_record or isinstance(value, (dict, list, tuple))):
            return value
        if id(value) not in self._met:
            self._met[id(value)] = value
            if isinstance(value, Record):
                if not is_inside:
                    self.paths.append(path)
                content = value["_val"] if "_val" in value else value["_content"]
                found = self.plain(content, path, depth + 1, is_inside=True)
            else:
                found = self._container(value, path, depth + 1, is_inside)
            self._met[id(value)] = found
        return self._met[id(value)]

    def _container(self, value: Any, path: str, depth: int, is_inside: bool) -> Any:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        made: list[tuple[Any, Any]] = []
        is_same = True
        for key, part in items:
            step = f".{str(key)[:80]}" if isinstance(value, dict) else f"[{key}]"
            found = self.plain(part, f"{path}{step}".lstrip("."), depth, is_inside=is_inside)
            is_same = is_same and found is part
            made.append((key, found))
        if is_same:
            return value
        if isinstance(value, dict):
            return dict(made)
        return type(value)([part for _, part in made])

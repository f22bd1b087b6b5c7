"""What `rekindle show` prints of a file of another library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import rekindle as rk
from rekindle import paths, spaces
from rekindle.cli.console import open_console, print_json
from rekindle.cli.trees import add_arrays, add_pairs, described, lines_of, printable
from rekindle.report import num_bytes, plural

if TYPE_CHECKING:
    from rich.tree import Tree

_LONGEST_VALUE = 48


def show(checkpoint: rk.ForeignCheckpoint, fold: int | None, *, as_json: bool) -> None:
    """Print it as a tree, or as JSON."""
    found = {name: _component(checkpoint, name) for name in checkpoint}
    if as_json:
        told = {"path": str(checkpoint.path), "bytes": checkpoint.num_bytes, **checkpoint.info}
        print_json(paths.as_json(told | {"components": found}))
    else:
        _print(checkpoint, found, fold)


def _component(checkpoint: rk.ForeignCheckpoint, name: str) -> dict[str, Any]:
    """One component as plain data: its arrays, its values, its records."""
    value = checkpoint.components[name]
    records = checkpoint.records(name)
    inside = tuple(f"{path.removeprefix(f'{name}.')}." for path in records)
    held = checkpoint.arrays(name)
    arrays = described({key: held[key] for key in held if not key.startswith(inside)})
    return {
        "bytes": sum(array["bytes"] for array in arrays),
        "arrays": arrays,
        "values": {path: paths.as_json(item) for path, item in paths.values(value).items()},
        "records": {path: paths.as_json(record) for path, record in records.items()},
    }


def _print(checkpoint: rk.ForeignCheckpoint, found: Mapping[str, Any], fold: int | None) -> None:
    from rich.text import Text
    from rich.tree import Tree

    console = open_console()
    tree = Tree(
        Text(str(checkpoint.path), "bold", overflow="ignore", no_wrap=True), guide_style="dim"
    )
    facts = [f"{checkpoint.format} {printable(checkpoint.version or '')}".strip()]
    if checkpoint.kind != "checkpoint":
        facts.append(f"a {checkpoint.kind}")
    facts.append("step unknown" if checkpoint.step is None else f"step {checkpoint.step:,}")
    facts.append(num_bytes(checkpoint.num_bytes))
    tree.add(Text(" · ".join(facts), "dim"))
    shown: set[str] = set()
    for name, content in found.items():
        shown |= _add_component(tree, name, content, fold, console.width)
    environment = checkpoint.info["environment"]
    described_spaces = {key: spaces.summary(space) for key, space in checkpoint.spaces.items()}
    for title, pairs in (
        ("metrics", checkpoint.metrics),
        ("counters", checkpoint.counters),
        ("spaces", described_spaces),
        ("environment", environment),
    ):
        add_pairs(tree, title, pairs, console.width)
    for note in checkpoint.notes:
        if note.key not in shown:
            style = "dim" if note.kind == "ignored" else "yellow"
            text = printable(str(note))
            tree.add(Text.assemble((str(note.kind).ljust(7), style), f"  {text}"))
    console.print(tree)


def _add_component(
    tree: Tree, name: str, content: Mapping[str, Any], fold: int | None, width: int
) -> set[str]:
    """Add one component; the paths of records that were shown."""
    from rich.text import Text

    arrays, values, records = (content[key] for key in ("arrays", "values", "records"))
    facts = [plural(len(arrays), "array")] if arrays else []
    facts += [num_bytes(content["bytes"])] if arrays else []
    facts += [plural(len(values), "value")] if values else []
    facts += [plural(len(records), "record")] if records else []
    line = " · ".join(facts) or "empty"
    branch = tree.add(Text.assemble((printable(name), "bold cyan"), (f"  {line}", "dim")))
    add_arrays(branch, arrays, fold)
    lines = list(_lines(values, width - 8))
    most = len(lines) if fold is None or len(lines) <= fold // 2 else fold // 2 - 1
    for where, line in lines[:most]:
        branch.add(Text.assemble((where, "dim"), line, no_wrap=True))
    if most < len(lines):
        rest = plural(len(lines) - most, "more line")
        branch.add(Text(f"... and {rest} of values (--all shows them)", "dim"))
    told = list(records.items())
    for path, text in told[: len(told) if fold is None or len(told) <= fold else fold - 1]:
        label = path.removeprefix(f"{name}.")
        branch.add(
            Text.assemble(
                ("record ", "yellow"),
                printable(f"{label}  {text}"),
                no_wrap=True,
                overflow="ellipsis",
            )
        )
    if fold is not None and len(told) > fold:
        rest = len(told) - fold + 1
        branch.add(Text(f"... and {plural(rest, 'more record')} (--all shows them)", "dim"))
    return set(records)


def _lines(values: Mapping[str, Any], width: int) -> Iterator[tuple[str, str]]:
    """Values in lines, with the path that all of a line have in common before them."""
    groups: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        parent, _, name = path.rpartition(".")
        groups.setdefault(parent, {})[name or "value"] = _short(value)
    for parent, pairs in groups.items():
        where = printable(f"{parent}  ") if parent else ""
        for line in lines_of(pairs, width - len(where)):
            yield where, line


def _short(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        value = str(value)
    if not isinstance(value, str):
        return value
    return value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 3]}..."

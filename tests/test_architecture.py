"""The floors: a module imports only from lower ones, so no import circle is possible."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path

import pytest

import rekindle

SOURCE = Path(rekindle.__file__).parent

FLOORS = [
    ("errors",),
    ("limits", "prefixes", "spans"),
    ("cadence", "collecting", "lock", "preemption"),
    ("files", "spaces", "registry", "rings", "twin"),
    ("extents", "zip_records"),
    ("archive", "zips"),
    ("places",),
    ("codecs.dtypes",),
    ("codecs.values", "codecs.arrays", "codecs"),
    ("codecs.rows", "tensors"),
    ("state", "graph"),
    ("matching", "matching.outcomes", "matching.filling", "matching.memory"),
    ("matching.engine",),
    ("matching.containers",),
    ("matching.*",),
    ("match",),
    ("pickles", "pickles.nodes"),
    ("pickles.machine", "pickles.records", "pickles.writing"),
    ("pickles.rebuilding",),
    ("pickles.python_values",),
    ("pickles.numpy_values", "pickles.cloudpickle_values"),
    ("pickles.torch_values", "pickles.reading"),
    ("formats", "formats.protocol", "formats.wrappers", "formats.known_objects"),
    ("formats.torch_files",),
    (
        "formats.inert",
        "formats.npy_records",
        "formats.recorded_spaces",
        "formats.schedules",
        "formats.torch_modules",
        "formats.torch_writing",
        "formats.yaml_text",
    ),
    ("formats.torch_layouts",),
    ("formats.omegaconf_records", "formats.safetensors_span", "formats.sb3_values"),
    ("formats.metta_checkpoint",),
    ("formats.metta_trainer", "formats.sb3_model", "formats.sb3_parts"),
    ("formats.*",),
    ("formats.recognition",),
    ("paths", "migrations"),
    ("protocols", "manifest", "provenance", "report", "compare", "seeding"),
    ("fitting",),
    ("segments",),
    ("rowgroups",),
    ("adapters", "adapters.attributes"),
    (
        "adapters.torch_values",
        "adapters.jax_values",
        "adapters.generators",
        "adapters.box2d",
        "adapters.tensordict",
    ),
    ("adapters.torch_module",),
    ("adapters.*", "reader", "writer"),
    ("blocks", "checkpoint"),
    ("trail", "probe", "entries", "description", "pins", "contents"),
    ("foreign", "soundness"),
    ("opening",),
    ("retention",),
    ("bundle", "diffing"),
    ("run", "fork", "packing", "saveable", "environments", "compatible"),
    ("converting",),
    ("migrating",),
    ("sb3", "replay", "folders", "equinox", "velora"),
    ("sb3_training",),
    ("training", "testing"),
    ("",),
    ("cli.*", "cli"),
    ("__main__",),
]
"""Lowest first. `design` numbers them more coarsely; within one of its floors these are finer."""

SIDEWAYS = {("graph", "state"), ("seeding", "compare")}
"""Imports within one floor; each pair in one direction only."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def floor_of(name: str) -> int:
    for number, patterns in enumerate(FLOORS):
        if name in patterns:
            return number
    for number, patterns in enumerate(FLOORS):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return number
    raise AssertionError(f"rekindle.{name} stands on no floor: name it in FLOORS")


def imports(name: str, text: str, known: set[str]) -> set[str]:
    """Modules of the package that a module imports: at the top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [t if t[len("rekindle.") :] in known else node.module for t in targets]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in targets:
            if target == "rekindle" or target.startswith("rekindle."):
                found.add(target[len("rekindle.") :] if target != "rekindle" else "")
    return found - {name}


def wrong_imports(sources: dict[str, str]) -> list[str]:
    known = set(sources)
    wrong = []
    for name, text in sources.items():
        for target in imports(name, text, known):
            inside = name.startswith("cli") and target.startswith("cli")
            if floor_of(target) < floor_of(name) or (name, target) in SIDEWAYS or inside:
                continue
            wrong.append(f"rekindle.{name} imports rekindle.{target}")
    return wrong


def test_every_module_imports_only_from_lower_floors() -> None:
    sources = {name: path.read_text() for name, path in modules().items()}
    assert wrong_imports(sources) == []


def test_an_import_upwards_would_be_found() -> None:
    sources = {name: path.read_text() for name, path in modules().items()}
    sources["files"] += "\ndef hidden():\n    from rekindle.run import Run\n"
    assert wrong_imports(sources) == ["rekindle.files imports rekindle.run"]


def test_the_command_line_uses_only_what_users_may_use() -> None:
    private = {"graph", "match", "state", "files", "registry", "protocols"}
    for name, path in modules().items():
        if name.startswith("cli"):
            assert not imports(name, path.read_text(), set(modules())) & private, name


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_says_what_it_owns(name: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[name].read_text()))

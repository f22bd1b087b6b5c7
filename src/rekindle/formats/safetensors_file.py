"""Files of safetensors: arrays by name, and text beside them.

Layout: https://huggingface.co/docs/safetensors, "Format". Rekindle's own files of arrays are such
files too, and open one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rekindle import files, spans
from rekindle.codecs import arrays
from rekindle.errors import RekindleError, UnsupportedError
from rekindle.formats import safetensors_span
from rekindle.formats.protocol import Confidence, Format, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.tensors import Tensors

_COMPONENTS = "rekindle.components"
"""Under which the metadata says which parts of names are those of components."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", re.ASCII)


class SafetensorsFile(Format):
    """Any file of safetensors."""

    name = "safetensors"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """A header of safetensors, whose arrays fill the file."""
        if not path.is_file():
            return None
        try:
            span = spans.of_file(path)
            if span.bytes(8, 9) != b"{":
                return None
            safetensors_span.check(span, Budget(SNIFF_BYTES, span.name))
        except (RekindleError, OSError):
            return None
        return Confidence.CERTAIN

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The arrays as `policy`, by their names; or by component, where Rekindle wrote several."""
        span = spans.of_file(path)
        budget = Budget(max_bytes, span.name)
        budget.admit(len(span))
        tensors = Tensors()
        found, metadata = safetensors_span.read(span, budget, tensors)
        components: dict[str, dict[str, Any]] = {}
        names = metadata.get(_COMPONENTS, "").split()
        is_parted = bool(names) and all(name.partition(".")[0] in names for name in found)
        for name, array in found.items():
            component, _, rest = name.partition(".") if is_parted else ("policy", "", name)
            components.setdefault(component, {})[rest] = array
        return Reading(
            format=self.name,
            kind="policy" if set(components) <= {"policy"} else "checkpoint",
            components=components or {"policy": {}},
            details={"metadata": metadata},
            tensors=tensors,
        )

    def write(self, content: Reading, path: Path) -> None:
        """Write one component by the names of its arrays, or several as `component.name`.

        Raises:
            UnsupportedError: It lists values that are no arrays, and types that safetensors lacks.
            AlreadyExistsError: Something is at the path.
        """
        named, refusals = _named(content)
        if refusals or not named:
            listed = "\n".join(f"  {key}: {reason}" for key, reason in refusals)
            raise UnsupportedError(
                f"{path}: expected arrays that safetensors can hold, found otherwise:\n"
                f"{listed or '  no arrays'}\nLeave it out, or choose another format.",
                path=path,
                refusals=refusals,
            )
        metadata = dict(content.details.get("metadata", {}))
        metadata.pop(_COMPONENTS, None)
        if len(content.components) > 1:
            metadata[_COMPONENTS] = " ".join(content.components)
        with files.new_file(path) as temporary:
            arrays.write(temporary, named, metadata=metadata)


def _named(content: Reading) -> tuple[dict[str, arrays.Stored], list[tuple[str, str]]]:
    """Arrays by their names in the file, and what cannot be in it, with its place."""
    found: dict[str, arrays.Stored] = {}
    refusals: list[tuple[str, str]] = []
    is_alone = len(content.components) == 1
    for component, value in content.components.items():
        for name, part in _parts(value):
            stored = safetensors_span.stored(part) if isinstance(part, np.ndarray) else None
            full = name if is_alone else f"{component}.{name}"
            if not isinstance(part, np.ndarray):
                refusals.append((component, f"{name or 'it'} is no array"))
            elif stored is None:
                refusals.append((component, f"{name}: safetensors has no type {part.dtype}"))
            elif full in found or not name:
                refusals.append((component, f"{name or 'an array'} has no name of its own"))
            else:
                found[full] = stored
    return found, refusals


def _parts(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What some containers hold, by name; what is nested has points between its names."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _parts(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _parts(part, f"{prefix}.{index}" if prefix else str(index))
    else:
        yield prefix, value


FORMAT = SafetensorsFile()

"""Anything else that `torch.save` wrote: state dicts, whole modules, and dictionaries of them.

Which part of it is which component, the names in it tell: see `torch_layouts`.
"""

from __future__ import annotations

from pathlib import Path

from rekindle.errors import RekindleError
from rekindle.formats import inert, torch_files, torch_layouts, torch_writing, wrappers
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget

_HEAD_BYTES = 4096


class TorchCheckpoint(Format):
    """A file of `torch.save` or `torch.jit.save`, of any version."""

    name = "torch"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch, with anything inside."""
        try:
            head = wrappers.head(path, _HEAD_BYTES)
        except RekindleError:
            return None
        if torch_files.kind_of(head) is not None or torch_files.begins(head):
            return Confidence.CONTAINER
        return None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """State dicts by component; a whole module as its state dict; the rest as `agent`."""
        budget = Budget(max_bytes, str(path))
        file = torch_files.read(wrappers.of_file(path, budget), budget)
        notes = [Note(Kind.INERT, "agent", text) for text in file.notes]
        found = torch_layouts.sort(file.value, file.tensors)
        for name, value in found.components.items():
            notes += inert.notes(value, name)
        return Reading(
            format=self.name,
            kind="policy" if set(found.components) <= {torch_layouts.POLICY} else "checkpoint",
            components=found.components,
            step=found.step,
            counters=found.counters,
            metrics=found.metrics,
            details={
                "layout": file.kind,
                "sources": file.sources,
                "form": found.form,
                "places": found.places,
            },
            notes=(*notes, *found.notes),
            tensors=file.tensors,
        )

    def write(self, content: Reading, path: Path) -> None:
        """Write components where they were in the file that they came from, or under their names.

        Raises:
            UnsupportedError: It lists every value that is no plain data.
            AlreadyExistsError: Something is at the path.
        """
        components = content.components
        places = content.details.get("places")
        if not isinstance(places, list):
            form = "whole" if set(components) == {torch_layouts.POLICY} else "dict"
            places = [[name, name, None] for name in components]
        else:
            form = content.details.get("form", "dict")
        value = torch_layouts.arranged(components, places, form)
        states = [part for name, part in components.items() if name not in torch_layouts.PLAIN]
        also = torch_writing.ids(*states)
        torch_writing.save(path, value, content.tensors, also)


FORMAT = TorchCheckpoint()

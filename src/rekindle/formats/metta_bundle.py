"""Metta's bundle since 2026: `weights.safetensors` beside `policy_spec.json`, a folder or a ZIP.

The specification names the class that Metta's own loader calls, with its arguments, and a script
that this loader would run first; all of it is text here. The archive may hold `trainer_state.pt`
too. Source: Metta at a8d1ecee19, `CheckpointManager`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle import files, spans
from rekindle.codecs import arrays
from rekindle.errors import (
    FormatError,
    NotFoundError,
    RekindleError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.formats import (
    inert,
    metta_checkpoint,
    metta_trainer,
    safetensors_span,
    torch_files,
    torch_writing,
)
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.spans import Span
from rekindle.tensors import Tensors
from rekindle.zips import Zip, is_zip

SPECIFICATION = "policy_spec.json"
WEIGHTS = "weights.safetensors"
_LARGEST_SPECIFICATION_BYTES = 16 << 20
_TRAINER = "trainer_state"
_KEYS = ("class_path", "data_path", "init_kwargs")


class MettaBundle(Format):
    """`<run>:v<epoch>`, a folder, or `<run>:v<epoch>.zip`."""

    name = "metta.bundle"
    can_write = True
    files = (SPECIFICATION, "*.safetensors", metta_trainer.FILE)

    def sniff(self, path: Path) -> Confidence | None:
        """`policy_spec.json`, with the class of a policy."""
        try:
            members = _Members(path, Budget(SNIFF_BYTES, str(path)))
            specification = members.specification()
        except (RekindleError, OSError):
            return None
        is_own = str(specification.get("class_path")).startswith("metta.")
        return Confidence.CERTAIN if is_own else Confidence.LAYOUT

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Weights as `policy`, the specification in `agent`, and the trainer's state where it is.

        Metta packs the trainer's state that lay in the folder at the time, which may be that of an
        earlier save than the weights.
        """
        budget = Budget(max_bytes, str(path))
        members = _Members(path, budget)
        specification = members.specification()
        tensors = Tensors()
        policy, metadata = safetensors_span.read(
            members.span(_weights_name(specification, path)), budget, tensors
        )
        components: dict[str, Any] = {"policy": policy, "agent": {"policy_spec": specification}}
        details = {"metadata": metadata} if metadata else {}
        notes = _notes(specification)
        told: dict[str, Any] = {}
        if metta_trainer.FILE in members:
            file = torch_files.read(members.span(metta_trainer.FILE), budget, tensors=tensors)
            optimizer, trainer = metta_trainer.split(file.value, f"{path}:{metta_trainer.FILE}")
            components["optimizer"] = optimizer
            components["agent"][_TRAINER] = trainer
            told = metta_checkpoint.progress(trainer)
            notes += [Note(Kind.INERT, "agent.trainer_state", text) for text in file.notes]
            notes += inert.notes(optimizer, "optimizer") + inert.notes(trainer, "agent")
        notes += [
            Note(Kind.ABSENT, name, text)
            for name, text in metta_checkpoint.NOT_HELD.items()
            if name not in components
        ]
        return Reading(
            format=self.name,
            kind="checkpoint" if "optimizer" in components else "policy",
            components=components,
            **told,
            details=details,
            notes=tuple(notes),
            tensors=tensors,
        )

    def write(self, content: Reading, path: Path) -> None:
        """Write weights and specification: a ZIP archive where the path ends in `.zip`.

        Raises:
            UnsupportedError: `agent` holds no `policy_spec`, without which Metta cannot build the
                policy; or there is something that a bundle cannot hold.
        """
        metta_checkpoint.check_components(content, path, also=("optimizer",))
        text = json.dumps(_specification_of(content, path), separators=(",", ":"))
        weights = _stored(content, path)
        if path.suffix != ".zip":
            with files.new_directory(path) as folder:
                _write(folder, weights, text, content)
            return
        with files.new_file(path) as temporary:
            folder = temporary.parent
            names = _write(folder, weights, text, content)
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:
                    archive.write(folder / name, name)
                    (folder / name).unlink()


class _Members:
    """The files of a bundle, in a folder or an archive."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._archive: Zip | None = None
        if path.is_dir():
            return
        span = spans.of_file(path)
        if not is_zip(span):
            raise FormatError(
                f"{path}: expected a bundle of Metta, a folder or a ZIP archive, found other "
                "bytes.",
                path=path,
            )
        self._archive = Zip(span, budget)

    def __contains__(self, name: str) -> bool:
        if self._archive is not None:
            return name in self._archive
        return (self._path / name).is_file()

    def span(self, name: str) -> Span:
        """The bytes of one of them."""
        if name not in self:
            raise NotFoundError(
                f"{self._path}: expected the file {name!r} of a bundle of Metta, found none. Fetch "
                "the whole bundle.",
                path=self._path,
                key=name,
            )
        if self._archive is not None:
            return self._archive.span(name)
        return spans.of_file(self._path / name)

    def specification(self) -> dict[str, Any]:
        """What `policy_spec.json` holds."""
        span = self.span(SPECIFICATION)
        try:
            if len(span) > _LARGEST_SPECIFICATION_BYTES:
                raise ValueError(f"{len(span):,} bytes of it")
            content = json.loads(span.bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{span.name}: expected JSON ({str(error)[:200]}).", path=span.name
            ) from error
        missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
        if missing:
            raise FormatError(
                f"{span.name}: expected a JSON object with {', '.join(_KEYS)}, found it without "
                f"{', '.join(missing)}.",
                path=span.name,
                key=missing[0],
            )
        return content


def _weights_name(specification: Mapping[str, Any], path: Path) -> str:
    """The file that holds the weights, which is beside the specification and nowhere else."""
    name = specification["data_path"]
    if not isinstance(name, str) or not name:
        raise FormatError(
            f"{path}: expected data_path to name a file, found {str(name)[:80]}.",
            path=path,
            key="data_path",
        )
    if "/" in name or not files.is_plain(name):
        raise UnsafeError(
            f"{path}: expected data_path to name a file beside {SPECIFICATION}, found "
            f"{name[:200]!r}. Nothing outside the bundle is opened.",
            path=path,
            key="data_path",
        )
    return name


def _notes(specification: Mapping[str, Any]) -> list[Note]:
    script = specification.get("setup_script")
    if script is None:
        return []
    text = f"a script that Metta's own loader runs, {str(script)[:200]!r}; it is not opened"
    return [Note(Kind.IGNORED, "agent.policy_spec.setup_script", text)]


# --------------------------------------------------------------------------- writing


def _specification_of(content: Reading, path: Path) -> dict[str, Any]:
    agent = content.components.get("agent")
    agent = agent if isinstance(agent, Mapping) else {}
    specification = agent.get("policy_spec")
    refusals = [
        (f"agent.{key}", "a bundle cannot hold it")
        for key in agent
        if key != "policy_spec" and not (key == _TRAINER and "optimizer" in content.components)
    ]
    if not isinstance(specification, Mapping) or not specification.keys() >= set(_KEYS):
        refusals.append(("agent.policy_spec", "expected a specification, found none"))
    if refusals or not isinstance(specification, Mapping):
        shown = "; ".join(f"{key}: {reason}" for key, reason in refusals[:20])
        raise UnsupportedError(
            f"{path}: expected a policy with the policy_spec from which Metta builds it, found "
            f"{shown}. Write the format metta.checkpoint instead.",
            path=path,
            key=refusals[0][0],
            refusals=refusals,
        )
    return {**specification, "data_path": WEIGHTS}


def _stored(content: Reading, path: Path) -> dict[str, arrays.Stored]:
    """Arrays as safetensors names them."""
    found: dict[str, arrays.Stored] = {}
    refusals: list[tuple[str, str]] = []
    for name, array in content.components["policy"].items():
        stored = safetensors_span.stored(array)
        if stored is None:
            refusals.append((f"policy/{name}", f"safetensors has no type {array.dtype}"))
        else:
            found[name] = stored
    if refusals:
        shown = "; ".join(f"{key}: {reason}" for key, reason in refusals[:20])
        raise UnsupportedError(
            f"{path}: expected arrays that safetensors can hold, found {shown}.",
            path=path,
            key=refusals[0][0],
            refusals=refusals,
        )
    return found


def _write(
    folder: Path, weights: dict[str, arrays.Stored], text: str, content: Reading
) -> list[str]:
    """Write the files of a bundle; their names, in the order in which Metta packs them."""
    files.write_bytes(folder / SPECIFICATION, text.encode())
    arrays.write(folder / WEIGHTS, weights)
    optimizer = content.components.get("optimizer")
    if optimizer is None:
        return [SPECIFICATION, WEIGHTS]
    trainer = {"optimizer": optimizer, **content.components["agent"].get(_TRAINER, {})}
    torch_writing.save(folder / metta_trainer.FILE, trainer, content.tensors)
    return [SPECIFICATION, WEIGHTS, metta_trainer.FILE]


FORMAT = MettaBundle()

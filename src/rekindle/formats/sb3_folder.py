"""A folder of Stable-Baselines3: what `CheckpointCallback` writes, or a model and its companions.

The callback writes up to three files per checkpoint, named by the same number of steps; here they
are one checkpoint, and the newest is read. Only files at the top of the folder count. What a file
is, its content tells; its name tells which others belong to it. Source: SB3 2.9,
`common/callbacks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rekindle.errors import FormatError, RekindleError
from rekindle.files import new_directory
from rekindle.formats import sb3_model, sb3_parts
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading

_STEPS = re.compile(r"(?:(?P<prefix>.+)_)?(?P<steps>\d{1,18})_steps", re.ASCII)
_PARTS = {
    "replay_buffer": (sb3_parts.REPLAY_BUFFER, re.compile(r"_?replay_buffer$")),
    "normalizer": (sb3_parts.NORMALIZER, re.compile(r"_?vec_?normalize$")),
}
"""What may be beside a model, by component: its format, and how the callback marks its name."""
_NAMES = {"model": "model.zip", "replay_buffer": "replay_buffer.pkl",
          "normalizer": "vecnormalize.pkl"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_][\w. -]{0,200}", re.ASCII)
_MOST_FILES = 10_000


@dataclass
class _Saved:
    """The files of one checkpoint."""

    model: Path
    steps: int | None
    parts: dict[str, Path] = field(default_factory=dict)


class Folder(Format):
    """A folder with at least one model, and the files that belong to it."""

    name = "sb3.folder"
    can_write = True

    def sniff(self, path: Path) -> Confidence | None:
        """A folder that holds a model of Stable-Baselines3."""
        if not path.is_dir():
            return None
        found = [sb3_model.FORMAT.sniff(file) for file in _archives(path)]
        known = [confidence for confidence in found if confidence is not None]
        return max(known, default=None)

    def checkpoints(self, path: Path) -> list[Path]:
        """The models: the folder itself is none of theirs, and may hold anything beside them."""
        return [file for file in _archives(path) if sb3_model.FORMAT.sniff(file) is not None]

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The newest model, with the replay buffer and the normaliser of the same step."""
        saved, others = _newest(path)
        model = sb3_model.FORMAT.read(saved.model, max_bytes=max_bytes)
        components = dict(model.components)
        notes = [note for note in model.notes if note.key not in saved.parts]
        for component, file in saved.parts.items():
            part = _PARTS[component][0].read(file, max_bytes=max_bytes)
            components[component] = part.components[component]
            notes += part.notes
            model.tensors.adopt(part.tensors)
        sources = {"model": saved.model.name}
        sources |= {component: file.name for component, file in saved.parts.items()}
        if others:
            text = f"of the checkpoints in {path}, {saved.model.name} was read; others: "
            notes.insert(0, Note(Kind.IGNORED, "", text + ", ".join(others)))
        return replace(
            model,
            format=self.name,
            components=components,
            notes=tuple(notes),
            details={**model.details, "files": sources},
        )

    def fitted(self, content: Reading) -> Reading:
        """As the formats of the files."""
        content = sb3_parts.NORMALIZER.fitted(sb3_model.FORMAT.fitted(content))
        return sb3_parts.REPLAY_BUFFER.fitted(content)

    def write(self, content: Reading, path: Path) -> None:
        """Write a folder with a model, and with the replay buffer and normaliser that there are.

        Raises:
            UnsupportedError: As the formats of the files.
            AlreadyExistsError: Something is at the path.
        """
        names = _names(content)
        parts = {name: content.components[name] for name in _PARTS if name in content.components}
        rest = {name: part for name, part in content.components.items() if name not in parts}
        with new_directory(path) as folder:
            try:
                sb3_model.FORMAT.write(replace(content, components=rest), folder / names["model"])
                for name, part in parts.items():
                    alone = replace(content, components={name: part}, details={})
                    _PARTS[name][0].write(alone, folder / names[name])
            except RekindleError as error:
                error.args = (str(error).replace(str(folder), str(path)), *error.args[1:])
                raise


def _names(content: Reading) -> dict[str, str]:
    """What the files are called: as where they were read from, where those are plain names."""
    told = content.details.get("files")
    named = {
        key: name
        for key, name in (told.items() if isinstance(told, dict) else ())
        if key in _NAMES and isinstance(name, str) and _NAME.fullmatch(name)
    }
    names = {**_NAMES, **named}
    return names if len(set(names.values())) == len(names) else dict(_NAMES)


def _archives(path: Path) -> Iterator[Path]:
    """Files of the folder that may be models: not those that are marked as something else."""
    try:
        files = sorted(file for file in path.iterdir() if file.is_file())
    except OSError:
        return
    if len(files) <= _MOST_FILES:
        yield from (file for file in files if file.suffix in (".zip", ""))


def _is_model(file: Path) -> bool:
    """Whether a file is a model, or is named as one and damaged: it must not be passed over."""
    is_named = file.suffix == ".zip" and _STEPS.fullmatch(file.stem) is not None
    return is_named or sb3_model.FORMAT.sniff(file) is not None


def _newest(path: Path) -> tuple[_Saved, list[str]]:
    """The files of the newest checkpoint, and the names of the other models."""
    if not path.is_dir():
        raise FormatError(
            f"{path}: expected a folder, found {'a file' if path.exists() else 'nothing'}. "
            "Read a model by itself as the format sb3.model.",
            path=path,
        )
    models = [file for file in _archives(path) if _is_model(file)]
    numbered = {file: match for file in models if (match := _STEPS.fullmatch(file.stem))}
    prefixes = {match["prefix"] or "" for match in numbered.values()}
    if not models or len(prefixes) > 1 or (not numbered and len(models) > 1):
        names = ", ".join(file.name for file in models[:5])
        raise FormatError(
            f"{path}: expected the models of one run of Stable-Baselines3, found "
            f"{names or 'none'}. Name the file that is meant.",
            path=path,
        )
    chosen = max(numbered, key=lambda file: int(numbered[file]["steps"]), default=models[0])
    saved = _Saved(chosen, int(numbered[chosen]["steps"]) if numbered else None)
    for component, files in _beside(path, numbered[chosen] if numbered else None).items():
        if len(files) > 1:
            raise FormatError(
                f"{path}: expected one file with the {component} of {chosen.name}, found "
                f"{', '.join(file.name for file in files)}. Leave one of them there.",
                path=path,
                key=component,
            )
        saved.parts[component] = files[0]
    return saved, [file.name for file in models if file != chosen]


def _beside(path: Path, match: re.Match[str] | None) -> dict[str, list[Path]]:
    """Files that belong to a model, by component: of its number, or any where it has none."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.suffix == ".zip":
            continue
        own = _STEPS.fullmatch(file.stem)
        if (match is None) != (own is None):
            continue
        for component, (format_, mark) in _PARTS.items():
            if match is not None and own is not None:
                rest = (own["prefix"] or "").removeprefix(match["prefix"] or "")
                if own["steps"] != match["steps"] or not mark.fullmatch(rest):
                    continue
            if format_.sniff(file) is not None:
                found.setdefault(component, []).append(file)
    return found


FORMAT = Folder()

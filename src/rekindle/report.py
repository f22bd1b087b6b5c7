"""What a save, a restore or a check found, as records that print as something to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle.errors import Difference, listing


def num_bytes(count: int) -> str:
    """A size for people: `303.1 KB`. Decimal units."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`, with thousands set apart."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def columns(rows: Iterable[Sequence[str]], indent: str = "  ") -> str:
    """Rows of text set in columns."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return "\n".join(
        (
            indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


class Shown:
    """Prints as text in a REPL and as preformatted text in a notebook."""

    def __repr__(self) -> str:
        return self._text()

    def _text(self) -> str:
        raise NotImplementedError(type(self).__name__)

    def _repr_html_(self) -> str:
        import html  # in a notebook only

        return f"<pre>{html.escape(self._text())}</pre>"


@dataclass(frozen=True, repr=False)
class Restored:
    """One component that was put back."""

    component: str
    adapter: str
    num_arrays: int
    num_bytes: int


@dataclass(frozen=True, repr=False)
class RestoreReport(Shown):
    """What a restore did and did not do."""

    path: str
    """The checkpoint."""
    step: int | None
    """Environment steps at which it was written; None where another library's file says nothing."""
    restored: tuple[Restored, ...]
    """What was put back."""
    not_asked: tuple[str, ...] = ()
    """Components that the checkpoint holds and nobody asked for."""
    missing: tuple[str, ...] = ()
    """Components that were asked for and that the checkpoint does not hold."""
    differences: tuple[Difference, ...] = ()
    """Places left as they were because they do not fit (only with `strict=False`)."""
    excluded: tuple[str, ...] = ()
    """Paths that were left out when the checkpoint was written."""
    notes: tuple[str, ...] = ()
    """What could not be kept exactly, in words."""
    unseeded: tuple[str, ...] = ()
    """Generators that nobody seeded: restored, but two uninterrupted runs differ in them too."""
    accepted: tuple[Difference, ...] = ()
    """What differs in the environment and was accepted with `allow=`; results may differ by it."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Newer checkpoints that were passed over, with the reason."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of what was restored."""
        return tuple(item.component for item in self.restored)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "path": self.path,
            "step": self.step,
            "restored": list(self.components),
            "not_asked": list(self.not_asked),
            "missing": list(self.missing),
            "differences": [vars(difference) for difference in self.differences],
            "excluded": list(self.excluded),
            "notes": list(self.notes),
            "unseeded": list(self.unseeded),
            "accepted": [vars(difference) for difference in self.accepted],
            "skipped": [list(item) for item in self.skipped],
        }

    def _text(self) -> str:
        when = "" if self.step is None else f" at step {self.step:,}"
        lines = [f"Restored {self.path}{when}"]
        rows = [
            (
                item.component,
                item.adapter,
                plural(item.num_arrays, "array"),
                num_bytes(item.num_bytes),
            )
            for item in self.restored
        ]
        if rows:
            lines.append(columns(rows))
        for title, names in (
            ("held, not asked for", self.not_asked),
            ("asked for, not held", self.missing),
            ("left out at the save", self.excluded),
            ("never seeded, so two uninterrupted runs differ in it too", self.unseeded),
            ("accepted, though results may differ", self.accepted),
            ("note", self.notes),
        ):
            lines.extend(f"  {title}: {name}" for name in names)
        lines.extend(f"  passed over {name}: {reason}" for name, reason in self.skipped)
        if self.differences:
            lines.append("  left as they were, because they do not fit:")
            lines.append(listing(self.differences))
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class VerifyReport(Shown):
    """Whether every byte is the one that was written."""

    path: str
    num_checkpoints: int
    num_files: int
    num_bytes: int
    differences: tuple[Difference, ...] = field(default=())
    """Each damaged, missing or extra file: what the manifest says and what is there."""
    unchecked: tuple[tuple[str, str], ...] = ()
    """Files of another library whose bytes nothing tells about, with the reason."""
    is_foreign: bool = False
    """Whether another library wrote it, so that it has checksums of its own or none."""

    @property
    def ok(self) -> bool:
        """True when every byte was compared and none differs."""
        return not self.differences and not self.unchecked

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {
            "path": self.path,
            "ok": self.ok,
            "checkpoints": self.num_checkpoints,
            "files": self.num_files,
            "bytes": self.num_bytes,
            "differences": [vars(difference) for difference in self.differences],
            "unchecked": [list(item) for item in self.unchecked],
        }

    def _text(self) -> str:
        size = f"{plural(self.num_files, 'file')}, {num_bytes(self.num_bytes)}"
        if self.num_checkpoints != 1:
            size = f"{plural(self.num_checkpoints, 'checkpoint')}, {size}"
        if self.ok:
            kind = "checksum" if self.is_foreign else "digest"
            return f"{self.path}: intact ({size}, every {kind} as written)"
        if not self.differences:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in self.unchecked)
            return (
                f"{self.path}: read without finding damage, but not all of it can be checked "
                f"({size})\n{lines}"
            )
        return (
            f"{self.path}: damaged, {plural(len(self.differences), 'file')} of {size}\n"
            f"{listing(self.differences)}"
        )

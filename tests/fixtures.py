"""Checkpoints that the real systems wrote, with what is in them beside each."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
BESIDE = Path(__file__).parents[2] / "shared" / "fixtures"
"""More of them, where this project is developed; it stands alone without."""


def cases(*systems: str) -> list[Path]:
    """Directories with `expected.json`: the project's own, and those beside it that it lacks."""
    own = {case.relative_to(GOLDEN): case for case in _found(GOLDEN, systems)}
    more = {case.relative_to(BESIDE): case for case in _found(BESIDE, systems)}
    return [case for _, case in sorted((more | own).items())]


def _found(root: Path, systems: tuple[str, ...]) -> list[Path]:
    return [path.parent for name in systems for path in root.glob(f"{name}/**/expected.json")]

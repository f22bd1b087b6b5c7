"""The page for those who come from Velora: its code runs, in the order of the page."""

from __future__ import annotations

from pathlib import Path

from tests.test_docs import of_language

PAGE = Path(__file__).parents[2] / "docs" / "coming-from" / "velora.md"


def test_python_in_the_page_runs(inside: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    found = of_language(PAGE, "python")
    assert len(found) == 7
    for block in found:
        exec(compile("\n" * block.line + block.text, str(PAGE), "exec"), namespace)
    assert (inside / "models" / "again").is_dir()

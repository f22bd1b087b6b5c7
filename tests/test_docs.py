"""What the README and the docs show is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))

NOT_RUN = ("<!-- not run -->", "<!-- run by make interop -->")


class Block(NamedTuple):
    """A fenced block of a Markdown page."""

    line: int
    language: str
    text: str
    is_run: bool


def blocks(text: str) -> Iterator[Block]:
    above = ""
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        opening = re.fullmatch(r"(\s*)```(\w*).*", line)
        if opening is None:
            above = line.strip() or above
            continue
        closing = opening.group(1) + "```"
        inside: list[str] = []
        for _, content in lines:
            if content.rstrip() == closing:
                break
            inside.append(content)
        body = textwrap.dedent("\n".join(inside)) + "\n"
        yield Block(number, opening.group(2), body, above not in NOT_RUN)
        above = ""


def of_language(page: Path, *languages: str) -> list[Block]:
    return [block for block in blocks(page.read_text()) if block.language in languages]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PAGES_WITH_PYTHON = [page for page in PAGES if of_language(page, "python")]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name)
def test_python_in_the_docs_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in of_language(page, "python"):
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if block.is_run:
            exec(code, namespace)


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each `rekindle ...` line of a block, as far as they are for `rekindle`."""
    for line in block.text.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["rekindle"]:
            yield words[: words.index("--")] if "--" in words else words


def known_commands() -> dict[str, set[str]]:
    """Commands of the command line, with the options of each."""
    import typer

    from rekindle.cli import app

    group = typer.main.get_command(app.app)
    found = {}
    for command, given in group.commands.items():  # type: ignore[attr-defined]
        options = {
            flag for option in given.params for flag in (*option.opts, *option.secondary_opts)
        }
        found[command] = options | {"--help"}
    return found


def test_commands_in_the_docs_exist_with_their_options() -> None:
    known = known_commands()
    for page in PAGES:
        for block in of_language(page, "console", "bash", "sh"):
            for words in commands(block):
                where = f"{name(page)}, line {block.line}: {' '.join(words)}"
                if words[1:2] and words[1].startswith("-"):
                    continue
                assert words[1] in known, where
                flags = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
                assert flags <= known[words[1]], where


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([.\w]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shown = "\n".join(b.text for b in of_language(page, "console", "bash", "sh"))
        shown += "\n".join(re.findall(r"`(make .*?)`", page.read_text()))
        named = set(re.findall(r"^make ([.a-z]+)", shown, re.MULTILINE))
        assert named <= targets, f"{name(page)}: make {named - targets}"


def test_an_unknown_command_would_be_found() -> None:
    (block,) = blocks("```console\n$ rekindle fly --high  # away\nflying\n```\n")
    assert list(commands(block)) == [["rekindle", "fly", "--high"]]
    assert "fly" not in known_commands()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    outside_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+\.(?:py|md))`", text):
        assert (ROOT / path).is_file(), f"{name(page)}: {path}"


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_is_short(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < 60
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_is_run_by_a_test(example: Path) -> None:
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(example.name in path.read_text() for path in others), f"no test runs {name(example)}"

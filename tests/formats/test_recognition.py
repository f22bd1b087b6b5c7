from __future__ import annotations

from pathlib import Path

import pytest

from rekindle import registry
from rekindle.errors import FormatError, NotFoundError, UnsupportedError
from rekindle.formats import recognition
from rekindle.formats.protocol import Confidence, Format, Reading

GOLDEN = Path(__file__).parents[1] / "golden"


class Sure(Format):
    name = "sure"

    def sniff(self, path: Path) -> Confidence | None:
        return Confidence.CERTAIN if path.name == "x" else None


SURE = Sure()


def test_every_format_of_the_registry_has_its_own_name() -> None:
    found = [format_.name for format_ in recognition.formats()]
    assert found == list(registry.FORMATS)
    assert all(recognition.named(name).name == name for name in registry.FORMATS)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(FormatError, match="one of sb3"):
        recognition.named("nothing")


def test_a_file_that_two_formats_are_sure_of_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"one": f"{__name__}:SURE", "two": f"{__name__}:SURE"}
    monkeypatch.setattr(recognition, "formats", lambda: [SURE, SURE])
    (tmp_path / "x").write_text("x")
    with pytest.raises(FormatError, match="could be sure and sure"):
        recognition.recognise(tmp_path / "x")
    assert both


def test_nothing_and_something_unknown_have_errors_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="found nothing"):
        recognition.recognise(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FormatError, match="of a known format"):
        recognition.recognise(tmp_path / "text")
    with pytest.raises(NotFoundError, match="of a known format"):
        recognition.recognise(tmp_path)


def test_a_format_that_only_reads_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only"):
        SURE.write(Reading(format="sure", components={}), tmp_path / "x")


def test_no_real_file_could_be_of_two_formats() -> None:
    ours = GOLDEN / "rekindle"  # recognised before any other
    known: dict[str, int] = {}
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_relative_to(ours):
            continue
        sure = [(format_.sniff(path), format_.name) for format_ in recognition.formats()]
        found = [(confidence, name) for confidence, name in sure if confidence is not None]
        best = [name for confidence, name in found if confidence == max(found)[0]]
        assert len(best) <= 1, path
        for name in best:
            known[name] = known.get(name, 0) + 1
    assert known.keys() >= {"velora", "metta.bundle", "equinox", "safetensors", "numpy", "torch"}
    assert known["sb3.model"] > 5

"""A directory and an archive are the same to whoever reads a checkpoint or writes one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle import files, places
from rekindle.archive import Archive
from rekindle.errors import (
    AlreadyExistsError,
    Difference,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
)
from rekindle.files import FileRecord
from rekindle.places import Directory, Place

MEMBERS = {"a.json": b"{}", "b/rows.000000.safetensors": b"rows" * 3000, "empty": b""}

KINDS = pytest.mark.parametrize("name", ["x", "x.zip"])
"""Names of new checkpoints, one of each kind of place."""


def write(path: Path, members: dict[str, bytes]) -> Place:
    with places.new(path) as place:
        for name, data in members.items():
            place.write(name, data)
    return places.at(path)


def records(members: dict[str, bytes]) -> dict[str, FileRecord]:
    return {name: FileRecord(len(data), files.digest(data)) for name, data in members.items()}


def read(place: Place) -> dict[str, bytes]:
    return {name: place.extent(name).read() for name in place.names()}


# --------------------------------------------------------------------------- reading


@KINDS
def test_every_place_gives_what_was_written(tmp_path: Path, name: str) -> None:
    place = write(tmp_path / name, MEMBERS)
    assert place.path == tmp_path / name
    assert place.names() == sorted(MEMBERS)
    assert read(place) == MEMBERS
    for key, data in MEMBERS.items():
        extent = place.extent(key)
        assert extent.path == tmp_path / name / key
        assert extent.map().tobytes() == data
        assert extent.digest() == records(MEMBERS)[key]
    assert place.flaws() == []
    assert places.check_files(place, records(MEMBERS), set()) == []


@KINDS
def test_every_place_refuses_names_that_lead_out_and_lacks_what_is_not_there(
    tmp_path: Path, name: str
) -> None:
    place = write(tmp_path / name, MEMBERS)
    (tmp_path / "secret").write_bytes(b"secret")
    for key in ("../secret", "/etc/passwd", "", "a.json/", "b\\rows", "b/../a.json"):
        with pytest.raises(UnsafeError) as raised:
            place.extent(key)
        assert raised.value.key == key
    with pytest.raises(NotFoundError) as missing:
        place.extent("c.json")
    assert missing.value.key == "c.json"


def test_what_is_there_decides_and_not_its_name(tmp_path: Path) -> None:
    write(tmp_path / "x.zip", MEMBERS)
    (tmp_path / "x.zip").rename(tmp_path / "a file")
    (tmp_path / "directory.zip").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a file")
    assert isinstance(places.at(tmp_path / "a file"), Archive)
    assert isinstance(places.at(tmp_path / "link"), Archive)
    assert isinstance(places.at(tmp_path / "directory.zip"), Directory)
    assert isinstance(places.at(tmp_path / "missing.zip"), Directory)


def test_a_directory_does_not_follow_links_and_names_them(tmp_path: Path) -> None:
    place = write(tmp_path / "x", MEMBERS)
    (tmp_path / "x" / "link").symlink_to(tmp_path / "x" / "a.json")
    (tmp_path / "x" / "folder").symlink_to(tmp_path / "x" / "b")
    assert place.names() == sorted([*MEMBERS, "link", "folder"])
    for key in ("link", "folder/rows.000000.safetensors"):
        with pytest.raises(UnsafeError, match="symbolic link"):
            place.extent(key)


@KINDS
def test_every_difference_from_a_list_of_files_is_found(tmp_path: Path, name: str) -> None:
    found = {"good": b"good", "flipped": b"flippeD", "short": b"shor", "in/extra": b"", "own": b""}
    place = write(tmp_path / name, found)
    expected = {key: key.encode() for key in ("good", "flipped", "short", "missing")}
    digests = {key: files.digest(data) for key, data in {**expected, **found}.items()}
    assert places.check_files(place, records(expected), {"own"}) == [
        Difference("flipped", f"blake3 {files.digest(b'flipped')}", f"blake3 {digests['flipped']}"),
        Difference("short", "5 bytes", "4 bytes"),
        Difference("missing", "7 bytes", "no file"),
        Difference("in/extra", "no such file", "an extra file"),
    ]


def test_damage_around_a_member_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    write(path, MEMBERS)
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # the time in the first header
    path.write_bytes(data)
    found = places.check_files(places.at(path), records(MEMBERS), set())
    assert [difference.key for difference in found] == ["a.json"]


# --------------------------------------------------------------------------- writing


@KINDS
def test_a_file_is_written_at_once_or_piece_by_piece_or_linked(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_bytes(b"linked")
    with places.new(tmp_path / name) as place:
        assert place.write("a/b/one", b"whole") == FileRecord(5, files.digest(b"whole"))
        output = files.output(place.target("a/c/two"), 6)
        output.write(b"pie")
        output.write(b"ces")
        assert output.close() == FileRecord(6, files.digest(b"pieces"))
        is_free = place.link(tmp_path / "source", "d/three")
        assert not (tmp_path / name).exists()
    assert read(places.at(tmp_path / name)) == {
        "a/b/one": b"whole", "a/c/two": b"pieces", "d/three": b"linked",
    }  # fmt: skip
    assert is_free == (name == "x")
    assert (tmp_path / "source").stat().st_nlink == 1 + is_free


def test_a_name_that_ends_in_zip_becomes_one_file(tmp_path: Path) -> None:
    for name in ("x.zip", "Y.ZIP", "a/b.zip"):
        write(tmp_path / name, MEMBERS)
        assert (tmp_path / name).is_file()
    for name in ("x", "zip", "x.zip.d", "a.zip.old"):
        write(tmp_path / name, MEMBERS)
        assert (tmp_path / name).is_dir()


@KINDS
@pytest.mark.parametrize("fails", ["the block", "an output", "the end"])
def test_a_place_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no disk")

    def build() -> None:
        with places.new(tmp_path / name) as place:
            place.write("a", b"a")
            output = files.output(place.target("b"), 6)
            output.write(b"b")
            if fails == "the block":
                output.abandon()
                fail()
            if fails == "an output":
                monkeypatch.setattr(os, "pwrite", fail)
            else:
                monkeypatch.setattr(files, "flush", fail)
            output.write(b"bbbbb")
            output.close()

    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(OSError, match="no disk"):
        build()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


@KINDS
def test_what_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, MEMBERS)
    with pytest.raises(AlreadyExistsError):
        write(tmp_path / name, {"other": b""})
    assert read(places.at(tmp_path / name)) == MEMBERS
    with places.new(tmp_path / name, overwrite=True) as place:
        place.write("other", b"")
    assert read(places.at(tmp_path / name)) == {"other": b""}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_directory_stays_where_it_cannot_be_replaced_by_a_file_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "a").touch()
    monkeypatch.setattr(files, "_rename_with_flags", lambda *_, **__: False)

    def build() -> None:
        with places.new(tmp_path / "x.zip", overwrite=True) as place:
            place.write("b", b"")

    with pytest.raises(UnsupportedError, match="one step"):
        build()
    assert [path.name for path in (tmp_path / "x.zip").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@settings(max_examples=40, deadline=None)
@given(
    members=st.dictionaries(
        st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}\.[a-z])?", fullmatch=True),
        st.binary(max_size=5000),
        max_size=6,
    )
)
def test_both_places_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    folders = {name.partition("/")[0] for name in members if "/" in name}
    members = {name: data for name, data in members.items() if name not in folders}
    directory = tmp_path_factory.mktemp("x")
    found = [write(directory / name, members) for name in ("x", "x.zip")]
    assert read(found[0]) == read(found[1]) == members
    for place in found:
        assert places.check_files(place, records(members), set()) == []

"""A checkpoint in one file is the same checkpoint: to load, to restore, to check, to carry away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import rekindle as rk
from rekindle import files, packing, places
from rekindle.archive import Archive

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def state(value: float = 1.0) -> dict[str, Any]:
    """Components of each kind: arrays of a page and less, a shared one, plain data, counters."""
    weights = np.arange(3000, dtype=np.float32).reshape(30, 100) * value
    progress = rk.Progress()
    progress.step, progress.updates = int(7 * value), 3
    return {
        "policy": {"weights": weights, "bias": np.arange(5) * value, "name": "ada"},
        "target": {"weights": weights, "half": weights[:3]},
        "agent": {"rate": 0.25 * value, "seen": {1, 2}, "list": [1, None, "ä"]},
        "progress": progress,
    }


def blank() -> dict[str, Any]:
    made = state(0.0)
    made["agent"] |= {"seen": set(), "list": []}
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return rk.save(tmp_path / "saved", metrics={"return": 2.5}, **state()).path


@pytest.fixture
def packed(directory: Path, tmp_path: Path) -> Path:
    return rk.pack(directory, tmp_path / "packed.zip").path


def assert_same(found: Any, wanted: Any) -> None:
    """Whether two trees of plain data are the same, arrays bit by bit."""
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
    elif isinstance(wanted, dict):
        assert [*found] == [*wanted]
        for key in wanted:
            assert_same(found[key], wanted[key])
    else:
        assert repr(found) == repr(wanted)


def names_in(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


# --------------------------------------------------------------------------- the same checkpoint

READS: dict[str, Callable[[rk.Checkpoint], Any]] = {
    "load": lambda found: found.load(),
    "load of one": lambda found: found.load(["policy"]),
    "load unchecked": lambda found: found.load(verify=False),
    "[]": lambda found: found["target"],
    "arrays": lambda found: found.arrays("policy"),
    "document": lambda found: found.document("agent"),
    "info": lambda found: found.info,
    "components": lambda found: [*found],
    "step": lambda found: (found.step, found.counters, found.metrics, found.num_bytes),
    "build": lambda found: found.build("agent"),
    "into": lambda found: found.into("agent", blank()["agent"]),
    "text": lambda found: str(found).replace(str(found.path), ""),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_everything_reads_as_from_the_directory(
    directory: Path, packed: Path, read: Callable[[rk.Checkpoint], Any]
) -> None:
    assert_same(read(rk.open(packed)), read(rk.open(directory)))


def test_tensors_are_those_of_the_directory(directory: Path, packed: Path) -> None:
    found, wanted = (
        rk.load(path, ["policy"], to="torch")["policy"] for path in (packed, directory)
    )
    for key in ("weights", "bias"):
        assert torch.equal(found[key], wanted[key])
        assert found[key].data_ptr() % 64 == 0


def test_live_objects_are_restored_in_place(tmp_path: Path) -> None:
    torch.manual_seed(3)
    policy = torch.nn.Linear(4, 200)
    optimizer = torch.optim.Adam(policy.parameters())
    policy(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    path = tmp_path / "x.zip"
    saved = rk.save(path, policy=policy, optimizer=optimizer, rng=np.random.default_rng(5))
    assert saved.path == path
    fresh = torch.nn.Linear(4, 200)
    again = torch.optim.Adam(fresh.parameters())
    rng = np.random.default_rng(6)
    report = rk.restore(path, policy=fresh, optimizer=again, rng=rng)
    assert report.components == ("policy", "optimizer", "rng")
    assert report.path == str(path)
    assert all(map(torch.equal, fresh.parameters(), policy.parameters()))
    assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    assert rng.random() == np.random.default_rng(5).random()


def test_both_are_compared_and_verified_as_one(directory: Path, packed: Path) -> None:
    found = rk.open(directory).compare(rk.open(packed))
    assert [(one.component, one.differences) for one in found] == [
        (name, []) for name in rk.open(directory)
    ]
    report, wanted = rk.verify(packed), rk.verify(directory)
    assert report.ok
    assert (report.num_files, report.num_bytes) == (wanted.num_files, wanted.num_bytes)


def test_an_object_saves_itself_into_one_file(tmp_path: Path) -> None:
    class Agent(rk.Saveable):
        def __init__(self, size: int) -> None:
            self.weights = np.zeros(size)

    agent = Agent(9)
    agent.weights += 4
    agent.save(tmp_path / "agent.zip")
    assert (tmp_path / "agent.zip").is_file()
    assert Agent.load(tmp_path / "agent.zip").weights.tolist() == [4.0] * 9


def test_rows_in_segments_are_kept(tmp_path: Path) -> None:
    memory = {"observations": np.random.default_rng(3).random((5000, 64))}
    ring = rk.RingBuffer(memory, added=4000)
    saved = rk.save(tmp_path / "x.zip", replay_buffer=ring)
    assert any("/" in name for name in saved.manifest.files)
    again = rk.RingBuffer({"observations": np.zeros((5000, 64))}, added=0)
    rk.restore(tmp_path / "x.zip", replay_buffer=again)
    assert again.num_added == 4000
    assert np.array_equal(again.arrays["observations"][:4000], memory["observations"][:4000])
    assert rk.verify(tmp_path / "x.zip")
    rk.unpack(tmp_path / "x.zip", tmp_path / "x")
    assert rk.verify(tmp_path / "x")
    rk.pack(tmp_path / "x", tmp_path / "y.zip")
    assert rk.verify(tmp_path / "y.zip")


def test_the_name_need_not_say_what_it_is(packed: Path, directory: Path) -> None:
    packed.rename(packed.with_name("agent"))
    assert_same(rk.load(packed.with_name("agent")), rk.load(directory))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=9),
    arrays_of.arrays(
        st.sampled_from(["f4", "f8", "i2", "u1", "c8", ">f4", "?", "U3"]),
        arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    ),
)
STATES = st.dictionaries(
    st.sampled_from(["policy", "critic", "agent"]),
    st.dictionaries(st.text(min_size=1, max_size=5), VALUES | st.lists(VALUES, max_size=3)),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(components=STATES)
def test_whatever_is_saved_comes_back_from_one_file_as_from_a_directory(
    tmp_path_factory: pytest.TempPathFactory, components: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("x")
    rk.save(path / "d", **components)
    rk.save(path / "direct.zip", **components)
    rk.pack(path / "d", path / "packed.zip")
    rk.unpack(path / "packed.zip", path / "again")
    wanted = rk.load(path / "d")
    for name in ("direct.zip", "packed.zip", "again"):
        assert_same(rk.load(path / name), wanted)
        assert rk.verify(path / name)
    rk.pack(path / "again", path / "twice.zip")
    assert (path / "twice.zip").read_bytes() == (path / "packed.zip").read_bytes()


# --------------------------------------------------------------------------- to others


def test_it_is_read_with_zipfile_json_and_safetensors_alone(packed: Path) -> None:
    with zipfile.ZipFile(packed) as found:
        assert found.testzip() is None
        listed = json.loads(found.read("checkpoint.json"))
        assert {*found.namelist()} == {"checkpoint.json", *listed["files"]}
        for name, entry in listed["files"].items():
            assert entry == {
                "bytes": len(found.read(name)),
                "blake3": files.digest(found.read(name)),
            }
        record = listed["components"]["policy"]
        root = json.loads(found.read(record["document"]))["root"]
        (name,) = record["arrays"]
        stored = safetensors.numpy.load(found.read(name))
    assert root["name"] == "ada"
    assert np.array_equal(stored["weights"], state()["policy"]["weights"])


def test_safetensors_maps_it_where_it_lies(packed: Path) -> None:
    """Whoever knows where a member begins needs to copy nothing."""
    extent = Archive(packed).extent("policy.safetensors")
    data = np.memmap(packed, np.uint8, "r", extent.begin, (extent.size,))
    assert np.array_equal(
        safetensors.numpy.load(data.tobytes())["weights"], state()["policy"]["weights"]
    )


def test_packing_twice_gives_the_same_bytes(directory: Path, packed: Path, tmp_path: Path) -> None:
    os.utime(directory / "policy.json", (1, 1))
    again = rk.pack(directory, tmp_path / "again.zip").path
    assert again.read_bytes() == packed.read_bytes()
    unpacked = rk.unpack(packed, tmp_path / "unpacked").path
    assert {path.name: path.read_bytes() for path in unpacked.iterdir()} == {
        path.name: path.read_bytes() for path in directory.iterdir()
    }
    rk.pack(unpacked, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == packed.read_bytes()


def test_a_manifest_that_another_version_wrote_is_kept_byte_by_byte(
    directory: Path, tmp_path: Path
) -> None:
    content = json.loads((directory / "checkpoint.json").read_bytes())
    text = json.dumps({"mood": "good", **content, "digest": "0" * 64}, indent=1)
    text = text.replace("0" * 64, files.digest(text.encode()))
    (directory / "checkpoint.json").write_text(text)
    rk.pack(directory, tmp_path / "x.zip")
    rk.unpack(tmp_path / "x.zip", tmp_path / "x")
    assert (tmp_path / "x" / "checkpoint.json").read_text() == text
    assert rk.open(tmp_path / "x.zip").info["extra"] == {"mood": "good"}


def test_what_others_unpacked_or_stored_is_a_checkpoint(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as found:
        found.extractall(tmp_path / "extracted")
    assert rk.verify(tmp_path / "extracted")
    with zipfile.ZipFile(tmp_path / "stored.zip", "w") as new:
        for path in sorted((tmp_path / "extracted").iterdir()):
            new.write(path, path.name)
    assert rk.verify(tmp_path / "stored.zip")
    assert_same(rk.load(tmp_path / "stored.zip"), rk.load(packed))
    rk.pack(tmp_path / "stored.zip", tmp_path / "ours.zip")
    assert (tmp_path / "ours.zip").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("shift", range(8))
def test_arrays_that_others_stored_anywhere_are_aligned(packed: Path, shift: int) -> None:
    path = packed.with_name("stored.zip")
    with zipfile.ZipFile(packed) as found, zipfile.ZipFile(path, "w") as new:
        new.writestr("before", bytes(shift))
        for name in found.namelist():
            new.writestr(name, found.read(name))
    held = rk.load(path, ["policy"])["policy"]
    assert_same(held, rk.load(packed, ["policy"])["policy"])
    assert held["weights"].flags.aligned
    assert held["bias"].flags.aligned
    held["weights"][...] = 0


def test_what_others_compressed_is_said_with_the_remedy(directory: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "x"), "zip", directory)
    for use in (rk.open, rk.load, rk.verify):
        with pytest.raises(rk.FormatError, match=r"compressed.*`rekindle pack`"):
            use(tmp_path / "x.zip")


# --------------------------------------------------------------------------- memory


def maps_of(path: Path) -> list[tuple[int, int]]:
    """Where this process has mapped a file."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(low, 16), int(high, 16)) for low, high in spans]


@linux
@pytest.mark.parametrize("read", ["load", "[]", "arrays"])
def test_arrays_are_mapped_out_of_the_file(packed: Path, read: str) -> None:
    found = rk.open(packed)
    held = {
        "load": lambda: found.load(["policy"])["policy"],
        "[]": lambda: found["policy"],
        "arrays": lambda: found.arrays("policy"),
    }[read]()
    spans = maps_of(packed)
    for key in ("weights", "bias"):
        address = held[key].ctypes.data
        assert any(low <= address and address + held[key].nbytes <= high for low, high in spans)
        # As in a directory: what is a multiple of 64 bytes long begins at one.
        assert address % 64 == 0 or held[key].nbytes % 64
        held[key][...] = -1
    assert rk.verify(packed)
    packed.unlink()
    assert (held["weights"] == -1).all()


PROGRAM = """
import sys, resource, numpy as np, rekindle as rk
from pathlib import Path
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
def now():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
def private():
    line = next(l for l in open("/proc/self/smaps_rollup") if l.startswith("Private_Dirty"))
    return int(line.split()[1]) << 10
what, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "save":
    rk.save(path + ".warm.zip", policy={"weights": np.ones(1 << 20)})
    weights = np.full(size // 8, 3.0)
    before = peak()
    rk.save(path, policy={"weights": weights}, agent={"table": weights[::-1]})
    print(peak() - before)
else:
    rk.open(path)
    before, dirty = now(), private()
    held = rk.open(path)["policy"]["weights"] if what == "open" else None
    if what == "load":
        held = rk.load(path, ["policy"])["policy"]["weights"]
    assert held[:: len(held) // 3][0] == 3.0 and held.nbytes == size
    print(now() - before if what == "open" else private() - dirty)
"""


@linux
def test_neither_saving_nor_loading_takes_memory_for_the_arrays(tmp_path: Path) -> None:
    size = 200 << 20
    grown = {}
    for what in ("save", "open", "load"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, what, tmp_path / "x.zip", str(size)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown[what] = int(done.stdout)
    assert (tmp_path / "x.zip").stat().st_size > size
    # Opening maps; a checked load also reads the file once, through a buffer.
    assert grown["open"] < 8 << 20
    assert grown["load"] < 32 << 20
    assert grown["save"] < 64 << 20


# --------------------------------------------------------------------------- damage


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "agent.json"])
@pytest.mark.parametrize("where", ["data", "header"])
def test_damage_to_one_file_is_named_and_others_still_load(
    packed: Path, name: str, where: str
) -> None:
    extent = Archive(packed).extent(name)
    flip(packed, extent.begin + extent.size // 2 if where == "data" else extent.begin - 1)
    report = rk.verify(packed)
    assert [found.key for found in report.differences] == [name]
    damaged = name.partition(".")[0]
    others = [part for part in state() if part not in (damaged, "target")]
    assert [*rk.load(packed, others)] == others
    if where == "header":
        return  # only padding, which hinders nobody from reading the file
    with pytest.raises(rk.DamagedError, match=name) as raised:
        rk.load(packed, [damaged])
    assert raised.value.key == name
    live = blank()
    with pytest.raises(rk.DamagedError):
        rk.restore(packed, **live)
    assert not live["policy"]["weights"].any()
    assert live["progress"].step == 0


@pytest.mark.parametrize("offset", [-1, -10, -22, -60])
def test_damage_to_the_end_or_the_directory_is_damage_of_the_whole(
    packed: Path, offset: int
) -> None:
    flip(packed, packed.stat().st_size + offset)
    for use in (rk.open, rk.load):
        with pytest.raises(rk.DamagedError, match=r"packed\.zip"):
            use(packed)
    report = rk.verify(packed)
    assert not report
    assert report.differences[0].key in (packed.name, "checkpoint.json")


def test_a_damaged_manifest_is_found(packed: Path) -> None:
    extent = Archive(packed).extent("checkpoint.json")
    flip(packed, extent.begin + 30)
    with pytest.raises(rk.DamagedError):
        rk.open(packed)
    assert [found.key for found in rk.verify(packed).differences] == ["checkpoint.json"]


def test_a_file_that_was_cut_off_is_damaged(packed: Path) -> None:
    os.truncate(packed, packed.stat().st_size - 1)
    with pytest.raises(rk.DamagedError, match="truncated"):
        rk.open(packed)
    assert not rk.verify(packed)


def test_files_that_the_manifest_does_not_list_are_found(packed: Path, tmp_path: Path) -> None:
    rk.unpack(packed, tmp_path / "d")
    (tmp_path / "d" / "more.txt").write_text("more")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        for path in (tmp_path / "d").iterdir():
            new.write(path, path.name)
    assert [found.key for found in rk.verify(tmp_path / "x.zip").differences] == ["more.txt"]
    with pytest.raises(rk.DamagedError, match=r"more\.txt.*an extra file"):
        rk.pack(tmp_path / "x.zip", tmp_path / "y.zip")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: flip(path / "policy.safetensors", 4000),
    "flipped document": lambda path: flip(path / "agent.json", 3),
    "cut off": lambda path: os.truncate(path / "policy.safetensors", 4000),
    "missing": lambda path: (path / "agent.json").unlink(),
    "extra": lambda path: (path / "more.txt").touch(),
    "manifest": lambda path: flip(path / "checkpoint.json", 40),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_not_packed(
    directory: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(directory)
    with pytest.raises(rk.DamagedError):
        rk.pack(directory, tmp_path / "x.zip")
    assert names_in(tmp_path) == ["saved"]


@pytest.mark.parametrize("name", ["policy.safetensors", "agent.json", "checkpoint.json"])
def test_what_is_damaged_is_not_unpacked(packed: Path, tmp_path: Path, name: str) -> None:
    extent = Archive(packed).extent(name)
    flip(packed, extent.begin + 20)
    with pytest.raises(rk.DamagedError):
        rk.unpack(packed, tmp_path / "x")
    assert names_in(tmp_path) == ["packed.zip", "saved"]


# --------------------------------------------------------------------------- what is refused


def test_a_name_says_what_is_to_be_made(directory: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"ends in \.zip.*Name it x\.zip"):
        rk.pack(directory, tmp_path / "x")
    with pytest.raises(rk.UnsupportedError, match="name of a directory"):
        rk.unpack(packed, tmp_path / "x.zip")
    with pytest.raises(rk.FormatError, match="an archive to unpack, found a directory"):
        rk.unpack(directory, tmp_path / "x")
    assert names_in(tmp_path) == ["packed.zip", "saved"]


@pytest.mark.parametrize("use", ["save", "pack", "unpack"])
def test_what_is_there_is_kept_or_replaced_as_asked(
    directory: Path, packed: Path, tmp_path: Path, use: str
) -> None:
    path = tmp_path / ("x" if use == "unpack" else "x.zip")
    make: Callable[..., object] = {
        "save": lambda **options: rk.save(path, step=9, agent={"new": 1}, **options),
        "pack": lambda **options: rk.pack(directory, path, **options),
        "unpack": lambda **options: rk.unpack(packed, path, **options),
    }[use]
    rk.save(path, step=1, agent={"old": 1})
    with pytest.raises(rk.AlreadyExistsError, match="overwrite=True"):
        make()
    assert rk.open(path).step == 1
    make(overwrite=True)
    assert rk.open(path).step == (9 if use == "save" else 7)
    assert names_in(tmp_path) == ["packed.zip", "saved", path.name]


OTHERS: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: path.write_text("my thesis"),
    "another archive": lambda path: shutil.make_archive(
        str(path)[:-4], "zip", Path(__file__).parent / "scripts"
    ),
    "a damaged archive": lambda path: path.write_bytes(b"PK\3\4" + bytes(100)),
    "a directory": lambda path: (path / "photos").mkdir(parents=True),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_nothing_but_a_checkpoint_is_replaced(
    directory: Path, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.zip"
    make(path)
    before = path.read_bytes() if path.is_file() else names_in(path)
    for use in (
        lambda: rk.save(path, overwrite=True, agent={"a": 1}),
        lambda: rk.pack(directory, path, overwrite=True),
    ):
        with pytest.raises(rk.FormatError, match="something else, which stays"):
            use()
    assert (path.read_bytes() if path.is_file() else names_in(path)) == before
    assert names_in(tmp_path) == ["saved", "x.zip"]


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x.zip").touch()
    rk.save(tmp_path / "x.zip", overwrite=True, agent={"a": 1})
    assert rk.verify(tmp_path / "x.zip")


def test_a_value_that_cannot_be_data_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError):
        rk.save(tmp_path / "x.zip", agent={"file": (lambda: 1).__code__})
    assert names_in(tmp_path) == []


def test_a_directory_may_bear_the_name_of_a_file_and_is_replaced_by_one(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", agent={"a": 1})
    (tmp_path / "saved").rename(tmp_path / "x.zip")
    assert rk.load(tmp_path / "x.zip")["agent"] == {"a": 1}
    rk.save(tmp_path / "x.zip", overwrite=True, agent={"a": 2})
    assert (tmp_path / "x.zip").is_file()
    assert rk.load(tmp_path / "x.zip")["agent"] == {"a": 2}
    assert names_in(tmp_path) == ["x.zip"]


# --------------------------------------------------------------------------- runs


def test_a_run_holds_directories_and_any_of_them_is_packed(tmp_path: Path) -> None:
    live = state()
    with rk.Run(tmp_path / "run") as run:
        run.track(**live)
        run.resume()
        for step in (10, 20):
            live["progress"].step = step
            run.save()
    newest = rk.pack(run.path, tmp_path / "newest.zip")
    first = rk.pack(run.path / "step_000000010", tmp_path / "first.zip")
    assert (newest.step, first.step) == (20, 10)
    assert newest.manifest.parent == "step_000000010"
    fresh = blank()
    assert rk.restore(first.path, **fresh).step == 10
    assert fresh["progress"].step == 10
    assert np.array_equal(fresh["policy"]["weights"], live["policy"]["weights"])


def test_a_file_is_no_run(packed: Path) -> None:
    with pytest.raises(rk.NotFoundError, match="expected a directory, found a file"):
        rk.Run(packed).prepare()
    assert rk.verify(packed)


def test_pack_reads_the_manifest_that_it_copies(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkpoint may take the place of the one that was opened a moment ago."""
    opened = packing.open_checkpoint

    def replaced(path: Any) -> rk.Checkpoint:
        found = opened(path)
        rk.save(directory, overwrite=True, step=99, agent={"other": 1})
        return found

    monkeypatch.setattr(packing, "open_checkpoint", replaced)
    made = rk.pack(directory, tmp_path / "x.zip")
    assert made.step == 99
    assert rk.verify(tmp_path / "x.zip")
    assert places.at(tmp_path / "x.zip").names() == ["agent.json", "checkpoint.json"]

"""Bytes on disk are whole, flushed and where they belong, or an error says so and they are gone."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from rekindle import files
from rekindle.errors import AlreadyExistsError, NotFoundError, UnsafeError
from rekindle.files import BUFFER_BYTES, DIRECT_BYTES, FileRecord, Output

BLOCK = 4096
LARGE = 6 * BUFFER_BYTES + 17
"""More buffers than there are: all are in flight at once, and each is used again."""

SIZES = sorted(
    {0, 1, LARGE, *(edge + step for edge in (BLOCK, BUFFER_BYTES, DIRECT_BYTES, 3 * BUFFER_BYTES)
                    for step in (-1, 0, 1))}
)  # fmt: skip

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")


def content(size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def written(path: Path, data: np.ndarray[Any, Any], part_bytes: int = 1_000_003) -> FileRecord:
    output = Output(path, data.size)
    try:
        for begin in range(0, data.size, part_bytes):
            output.write(data[begin : begin + part_bytes])
    except BaseException:
        output.abandon()
        raise
    return output.close()


def is_whole(path: Path, data: np.ndarray[Any, Any], record: FileRecord) -> bool:
    found = path.read_bytes()
    same = found == data.tobytes()
    return same and record == FileRecord(data.size, blake3(found).hexdigest())


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def outcome(work: Callable[[], Any]) -> BaseException | None:
    """The error that some work ends with; fails where it never ends."""
    found: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for ever"
    return found[0]


def refuse_direct_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that creates the file before it refuses direct I/O, as some do."""
    open_file = os.open

    def refusing(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        fd = open_file(path, flags & ~os.O_DIRECT, *rest, **options)
        if flags & os.O_DIRECT:
            os.close(fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return fd

    monkeypatch.setattr(os, "open", refusing)


# --------------------------------------------------------------------------- one new file


@pytest.mark.parametrize("size", SIZES)
def test_a_file_holds_what_was_written_and_its_record_says_so(tmp_path, size):
    data = content(size)
    assert is_whole(tmp_path / "x", data, written(tmp_path / "x", data))


def test_bytes_and_arrays_of_any_shape_follow_each_other(tmp_path):
    parts = [b"", b"abc", np.arange(6.0).reshape(2, 3), np.float32(1.5).reshape(()),
             np.zeros((0, 4)), np.array([True, False])]  # fmt: skip
    output = Output(tmp_path / "x", 100)
    for part in parts:
        output.write(part)
    record = output.close()
    expected = b"".join(part if isinstance(part, bytes) else part.tobytes() for part in parts)
    assert (tmp_path / "x").read_bytes() == expected
    assert record == FileRecord(len(expected), blake3(expected).hexdigest())


@pytest.mark.parametrize("announced", [0, LARGE // 2, 2 * LARGE])
def test_a_file_of_another_size_than_announced_is_whole_too(tmp_path, announced):
    data = content(LARGE)
    output = Output(tmp_path / "x", announced)
    output.write(data)
    assert is_whole(tmp_path / "x", data, output.close())


def test_an_existing_file_is_not_written_over(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        Output(tmp_path / "x", LARGE)
    assert (tmp_path / "x").read_bytes() == b"old"


@linux
@pytest.mark.parametrize("size", [DIRECT_BYTES + 1, LARGE])
def test_a_file_system_that_refuses_direct_io_at_open_gets_it_buffered(tmp_path, monkeypatch, size):
    refuse_direct_at_open(monkeypatch)
    data = content(size)
    assert is_whole(tmp_path / "x", data, written(tmp_path / "x", data))


@linux
def test_a_file_system_that_refuses_direct_io_at_the_first_write_gets_it_buffered(
    tmp_path, monkeypatch
):
    import fcntl

    write, refused = os.pwrite, []

    def refusing(fd: int, *rest: Any) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(fd, *rest)

    monkeypatch.setattr(os, "pwrite", refusing)
    data = content(LARGE)
    assert is_whole(tmp_path / "x", data, written(tmp_path / "x", data))
    if not refused:
        pytest.skip("this file system has no direct I/O to begin with")


@pytest.mark.parametrize("answer", [None, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_reserve_space_is_written_all_the_same(
    tmp_path, monkeypatch, answer
):
    allocate = None if answer is None else lambda fd, size: answer
    monkeypatch.setattr(files, "_fallocate", lambda: allocate)
    data = content(LARGE)
    assert is_whole(tmp_path / "x", data, written(tmp_path / "x", data))


@linux
def test_a_disk_without_the_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    asked: list[int] = []

    def full(fd: int, size: int) -> int:
        asked.append(size)
        return errno.ENOSPC

    monkeypatch.setattr(files, "_fallocate", lambda: full)
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("it wrote"))
    before = num_open_files()
    error = outcome(lambda: Output(tmp_path / "x", LARGE).abandon())
    if not asked:
        pytest.skip("this file system has no direct I/O")
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert num_open_files() == before


def test_writes_that_take_only_a_part_are_continued(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, offset: write(fd, data[: 5 * BLOCK * 64], offset)
    )
    data = content(LARGE)
    assert is_whole(tmp_path / "x", data, written(tmp_path / "x", data))


@linux
@pytest.mark.parametrize("path", ["in place", "direct", "buffered"])
@pytest.mark.parametrize("failing", ["first", "middle", "last", "all"])
def test_a_failing_write_surfaces_and_leaves_no_thread_and_no_open_file(
    tmp_path, monkeypatch, path, failing
):
    size = {"in place": BUFFER_BYTES - 5, "direct": LARGE, "buffered": LARGE}[path]
    if path == "buffered":
        refuse_direct_at_open(monkeypatch)
    num_writes = -(-size // BUFFER_BYTES)
    point = {"first": 1, "middle": num_writes // 2 + 1, "last": num_writes, "all": 0}[failing]
    write, guard, calls = os.pwrite, threading.Lock(), [0]

    def failing_write(*arguments: Any) -> int:
        with guard:
            calls[0] += 1
            number = calls[0]
        if number == min(point, num_writes) or not point:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", failing_write)
    open_before = num_open_files()
    error = outcome(lambda: written(tmp_path / "x", content(size)))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert calls[0] >= 1
    assert num_open_files() == open_before
    assert not [t for t in threading.enumerate() if t.name.startswith("rekindle-output")]

    monkeypatch.setattr(os, "pwrite", write)
    data = content(LARGE, seed=1)
    assert is_whole(tmp_path / "y", data, written(tmp_path / "y", data))


def test_an_abandoned_file_leaves_no_thread_and_no_open_file(tmp_path):
    before = len(threading.enumerate())
    output = Output(tmp_path / "x", LARGE)
    output.write(content(LARGE - 1))
    output.abandon()
    output.abandon()
    assert len(threading.enumerate()) == before
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(output._fd)


def test_files_written_at_the_same_time_do_not_mix(tmp_path):
    size = 2 * DIRECT_BYTES
    datas = [content(size, seed) for seed in range(3)]
    outputs = [Output(tmp_path / f"{n}", size) for n in range(3)]
    for begin in range(0, size, 500_000):
        for output, data in zip(outputs, datas, strict=True):
            output.write(data[begin : begin + 500_000])
    for number, (output, data) in enumerate(zip(outputs, datas, strict=True)):
        assert is_whole(tmp_path / f"{number}", data, output.close())

    with ThreadPoolExecutor(3) as pool:
        records = pool.map(lambda n: written(tmp_path / f"t{n}", datas[n]), range(3))
    for number, record in enumerate(records):
        assert is_whole(tmp_path / f"t{number}", datas[number], record)


@linux
def test_a_forked_process_has_staging_buffers_of_its_own():
    program = (
        "import os\n"
        "from rekindle import files\n"
        "buffers = files._take_buffers()\n"
        "buffers[:] = 7\n"
        "files._give_back(buffers)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    files._take_buffers()[:] = 9\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert (files._take_buffers() == 7).all()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_parts_of_a_file_have_digests_of_their_own(tmp_path):
    data = content(3 * BUFFER_BYTES)
    edges = [0, 0, 1, 4097, BUFFER_BYTES, BUFFER_BYTES + 5, 3 * BUFFER_BYTES]
    output = Output(tmp_path / "x", data.size)
    found = []
    for begin, end in itertools.pairwise(edges):
        output.write(b"between")
        output.begin_part(end - begin)
        output.write(data[begin:end])
        found.append(output.end_part())
    assert output.position == data.size + 7 * len(found)
    output.close()
    parts = [data[begin:end].tobytes() for begin, end in itertools.pairwise(edges)]
    assert found == [(blake3(part).hexdigest(), zlib.crc32(part)) for part in parts]
    assert (tmp_path / "x").read_bytes() == b"".join(b"between" + part for part in parts)


# --------------------------------------------------------------------------- flush, link, replace


def test_a_link_costs_no_space_and_a_copy_stands_in_where_there_are_no_links(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"data")
    assert files.link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def refusing(*_: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refusing)
    assert not files.link_or_copy(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"data"
    assert not (tmp_path / "copied").samefile(source)


def test_a_link_that_fails_for_another_reason_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "missing", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_flushing_many_files_reports_the_one_that_fails(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(FileNotFoundError):
        files.flush_all([tmp_path / "x", tmp_path / "missing", tmp_path])


def test_all_that_is_new_is_flushed_before_it_has_its_name_and_the_parent_after(
    tmp_path, monkeypatch
):
    old = tmp_path / "old"
    old.write_bytes(b"flushed before")
    events: list[Any] = []
    fsync, publish = os.fsync, files._publish

    def watched_fsync(fd: int) -> None:
        events.append(os.fstat(fd).st_ino)
        fsync(fd)

    def watched_publish(*arguments: Any, **options: Any) -> bool:
        events.append("rename")
        return publish(*arguments, **options)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(files, "_publish", watched_publish)
    with files.new_directory(tmp_path / "new") as directory:
        (directory / "inside").mkdir()
        new = [directory, directory / "inside", directory / "a", directory / "inside" / "b"]
        (directory / "a").write_bytes(b"a")
        (directory / "inside" / "b").write_bytes(b"b")
        files.link_or_copy(old, directory / "linked")
        expected = {path.stat().st_ino for path in new}
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert set(before) == expected
    assert after == [tmp_path.stat().st_ino]


def test_replacing_a_file_shows_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    replace = os.replace

    def watched(source: Any, destination: Any) -> None:
        assert path.read_bytes() == b"old"
        assert Path(source).read_bytes() == b"new"
        replace(source, destination)
        assert path.read_bytes() == b"new"

    monkeypatch.setattr(os, "replace", watched)
    files.replace_file(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_replacement_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, call):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def failing(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="space"):
        files.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_lines_are_added_to_a_file(tmp_path):
    for line in (b"one", b"two"):
        files.append_line(tmp_path / "x", line)
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"


def test_bytes_are_changed_where_they_are(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    files.overwrite_at(tmp_path / "x", [(8, b"ab"), (0, b"c")])
    assert (tmp_path / "x").read_bytes() == b"c1234567ab"


# --------------------------------------------------------------------------- one new file


def test_a_file_appears_whole_and_at_once(tmp_path):
    destination = tmp_path / "a" / "b" / "new"
    with files.new_file(destination) as path:
        path.write_bytes(b"x")
        assert not destination.exists()
    assert destination.read_bytes() == b"x"
    assert [path.name for path in destination.parent.iterdir()] == ["new"]


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    def fail() -> None:
        with files.new_file(tmp_path / "new") as path:
            path.write_bytes(b"x")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_flushed_before_it_has_its_name_and_its_directory_after(tmp_path, monkeypatch):
    events: list[Any] = []
    fsync, publish = os.fsync, files._publish

    def watched_fsync(fd: int) -> None:
        events.append(os.fstat(fd).st_ino)
        fsync(fd)

    def watched_publish(*arguments: Any, **options: Any) -> Any:
        events.append("rename")
        return publish(*arguments, **options)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(files, "_publish", watched_publish)
    with files.new_file(tmp_path / "new") as path:
        path.write_bytes(b"x")
    assert events == [(tmp_path / "new").stat().st_ino, "rename", tmp_path.stat().st_ino]


EXCHANGES = pytest.mark.parametrize("exchanges", [pytest.param(True, marks=linux), False])
"""Where the system can exchange two names in one step, and where it cannot."""


def without_exchange(monkeypatch: pytest.MonkeyPatch, *, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_rename_with_flags", lambda *_, **__: False)


@EXCHANGES
@pytest.mark.parametrize("appears", ["before", "meanwhile"])
def test_an_existing_file_is_kept(tmp_path, monkeypatch, appears, exchanges):
    without_exchange(monkeypatch, exchanges=exchanges)

    def build() -> None:
        with files.new_file(tmp_path / "new") as path:
            path.write_bytes(b"ours")
            if appears == "meanwhile":
                (tmp_path / "new").write_bytes(b"theirs")

    if appears == "before":
        (tmp_path / "new").write_bytes(b"theirs")
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        build()
    assert (tmp_path / "new").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@EXCHANGES
def test_overwriting_replaces_the_file(tmp_path, monkeypatch, exchanges):
    without_exchange(monkeypatch, exchanges=exchanges)
    for data in (b"one", b"two"):
        with files.new_file(tmp_path / "new", overwrite=True) as path:
            path.write_bytes(data)
    assert (tmp_path / "new").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@EXCHANGES
@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_whose_name_cannot_be_flushed_is_as_it_was(
    tmp_path, monkeypatch, is_there, exchanges
):
    without_exchange(monkeypatch, exchanges=exchanges)
    if is_there:
        (tmp_path / "new").write_bytes(b"old")
    flush = files.flush

    def failing(path: Path) -> None:
        if path == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(path)

    def build() -> None:
        with files.new_file(tmp_path / "new", overwrite=is_there) as path:
            path.write_bytes(b"new")

    monkeypatch.setattr(files, "flush", failing)
    with pytest.raises(OSError, match="Input/output"):
        build()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == ({"new": b"old"} if is_there else {})


@linux
def test_a_file_replaces_a_directory_and_is_replaced_by_one(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old").touch()
    with files.new_file(tmp_path / "new", overwrite=True) as path:
        path.write_bytes(b"x")
    assert (tmp_path / "new").read_bytes() == b"x"
    with files.new_directory(tmp_path / "new", overwrite=True) as directory:
        (directory / "y").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["y"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# --------------------------------------------------------------------------- one new directory


def test_a_directory_appears_whole_and_at_once(tmp_path):
    destination = tmp_path / "a" / "b" / "new"
    with files.new_directory(destination) as directory:
        (directory / "x").write_bytes(b"x")
        assert not destination.exists()
    assert (destination / "x").read_bytes() == b"x"
    assert [path.name for path in destination.parent.iterdir()] == ["new"]


def test_a_directory_that_fails_half_way_leaves_nothing(tmp_path):
    def fail() -> None:
        with files.new_directory(tmp_path / "new") as directory:
            (directory / "x").write_bytes(b"x")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("appears", ["before", "meanwhile"])
def test_an_existing_directory_is_kept(tmp_path, appears):
    def build() -> None:
        with files.new_directory(tmp_path / "new"):
            if appears == "meanwhile":
                (tmp_path / "new").mkdir()
                (tmp_path / "new" / "x").write_bytes(b"theirs")

    if appears == "before":
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "x").write_bytes(b"theirs")
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        build()
    assert (tmp_path / "new" / "x").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@linux
def test_overwriting_exchanges_the_whole_directory(tmp_path):
    for content_ in (b"one", b"two"):
        with files.new_directory(tmp_path / "new", overwrite=True) as directory:
            (directory / content_.decode()).write_bytes(content_)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_file_where_a_parent_directory_should_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="found a file"):
        files.make_parents(tmp_path / "file" / "inside")


@linux
def test_sweeping_keeps_what_a_living_process_builds_and_removes_what_a_dead_one_left(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rekindle import files\n"
        f"with files.new_directory(Path({str(tmp_path / 'new')!r})) as directory:\n"
        "    (directory / 'x').write_bytes(b'x')\n"
        "    print('built', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "built\n"
        (leavings,) = tmp_path.iterdir()
        assert files.sweep(tmp_path) == []
        assert (leavings / "x").exists()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
    assert files.sweep(tmp_path, "another") == []
    assert files.sweep(tmp_path, "new") == [leavings.name]
    assert list(tmp_path.iterdir()) == []


def test_sweeping_removes_nothing_but_leavings(tmp_path):
    kept = [".tmp-mine", ".tmp-notes-1", "step_1", ".tmp-x-12345678.txt"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".tmp-run.json-0123abcd").touch()
    (tmp_path / ".tmp-step_1-77-0123abcd").mkdir()
    (tmp_path / ".tmp-step_1-77-0123abcd" / "x").touch()
    assert len(files.sweep(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert files.sweep(tmp_path / "missing") == []


# --------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "../x", "a/../x", "a/..", "./x", "a//b", "a/", "/", "a\\..\\x",
     "C:/x", "c:x", "a\0b"],
)  # fmt: skip
def test_a_name_that_could_leave_the_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(UnsafeError, match="not a plain path"):
        files.check_name(name, tmp_path)
    with pytest.raises(UnsafeError):
        files.open_inside(tmp_path, name)


@pytest.mark.parametrize("name", ["x", "a/b/x.safetensors", "..x", "a..b/...", "with ünïcode"])
def test_a_plain_name_is_accepted(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert files.open_inside(tmp_path, name) == path


def test_a_link_is_not_followed_out_of_the_checkpoint(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "x").touch()
    (root / "file").symlink_to(outside / "x")
    (root / "directory").symlink_to(outside)
    for name in ("file", "directory/x"):
        with pytest.raises(UnsafeError, match="symbolic link"):
            files.open_inside(root, name)


@linux
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(UnsafeError, match="regular file"):
            files.open_inside(tmp_path, name)
    with pytest.raises(NotFoundError, match="manifest lists"):
        files.open_inside(tmp_path, "missing")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have priorities on Linux")
def test_workers_leave_the_processors_to_others_only_where_that_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, found = os.pwrite, []

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def watched(fd: int, data: Any, offset: int) -> int:
        found.append(priority())
        return write(fd, data, offset)

    def write_one(name: str) -> set[int]:
        found.clear()
        data = np.zeros(files.DIRECT_BYTES, np.uint8)
        output = files.Output(tmp_path / name, data.nbytes)
        output.write(data)
        output.close()
        return set(found)

    monkeypatch.setattr(os, "pwrite", watched)
    usual = priority()
    assert write_one("before") == {usual}
    with files.giving_way():
        assert write_one("inside") == {19}
    assert write_one("after") == {usual}
    assert priority() == usual, "of the thread that started them"

"""Writing a tree: nothing outside it, everything as the archive says."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from wingsd.archive.policy import member_path
from wingsd.archive.tree_writer import TreeWriter
from wingsd.errors import StorageError

pytestmark = pytest.mark.root

TIME = 1_700_000_000_123_456_789


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def writer(root: Path) -> Iterator[TreeWriter]:
    writer = TreeWriter(str(root), None)
    yield writer
    writer.close()


def put(writer: TreeWriter, name: str, data: bytes = b"", mode: int = 0o644) -> None:
    writer.file(member_path(name.encode()), mode, TIME, [memoryview(data)] if data else [])


def folder(writer: TreeWriter, name: str, mode: int = 0o755, mtime: int = TIME) -> None:
    writer.directory(member_path(name.encode()), mode, mtime)


def link(writer: TreeWriter, name: str, text: str) -> None:
    writer.symlink(member_path(name.encode()), TIME, text.encode())


def hard(writer: TreeWriter, name: str, target: str) -> None:
    writer.hard_link(member_path(name.encode()), member_path(target.encode()))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_with_mode_and_time(writer: TreeWriter, root: Path) -> None:
    writer.file((b"f",), 0o640, TIME, [memoryview(b"one"), memoryview(b"two")])
    assert (root / "f").read_bytes() == b"onetwo"
    assert mode_of(root / "f") == 0o640
    assert (root / "f").stat().st_mtime_ns == TIME


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_umask_takes_nothing(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        writer = TreeWriter(str(root), None)
        for mode in (0o777, 0o644, 0o666, 0o444, 0o000, 0o1755):
            put(writer, f"d/{mode:o}", b"x", mode)
            assert mode_of(root / f"d/{mode:o}") == mode
        folder(writer, "e", 0o1777)
        writer.finish()
        writer.close()
    finally:
        os.umask(before)
    assert mode_of(root / "d") == 0o755
    assert mode_of(root / "e") == 0o1777


def test_everything_gets_its_owner(root: Path) -> None:
    writer = TreeWriter(str(root), (1234, 4321))
    put(writer, "implied/f")
    folder(writer, "d")
    link(writer, "s", "nowhere")
    writer.file((b"sparse",), 0o644, TIME, [], size=10, segments=array("q"))
    writer.finish()
    writer.close()
    for name in ("implied", "implied/f", "d", "s", "sparse"):
        found = (root / name).lstat()
        assert (found.st_uid, found.st_gid) == (1234, 4321), name
    assert root.stat().st_uid == os.getuid()


def test_directories_get_modes_and_times_at_the_end(writer: TreeWriter, root: Path) -> None:
    folder(writer, ".", 0o750, TIME)
    folder(writer, "a", 0o500, TIME + 1)
    folder(writer, "a/b", 0o000, TIME + 2)
    put(writer, "a/b/f")
    assert mode_of(root / "a/b") == 0o700
    writer.finish()
    for name, mode, time in ((".", 0o750, TIME), ("a", 0o500, TIME + 1), ("a/b", 0, TIME + 2)):
        assert mode_of(root / name) == mode
        assert (root / name).stat().st_mtime_ns == time


def test_an_existing_directory_is_kept(writer: TreeWriter, root: Path) -> None:
    put(writer, "d/f", b"x")
    folder(writer, "d", 0o711)
    writer.finish()
    assert (root / "d/f").read_bytes() == b"x"
    assert mode_of(root / "d") == 0o711


def test_a_symlink_is_kept_as_it_is(writer: TreeWriter, root: Path) -> None:
    link(writer, "s", "../../outside/victim")
    assert os.readlink(root / "s") == "../../outside/victim"
    assert (root / "s").lstat().st_mtime_ns == TIME


def test_hard_links_are_one_file(writer: TreeWriter, root: Path) -> None:
    put(writer, "a/f", b"x")
    hard(writer, "b/c/h", "a/f")
    assert (root / "a/f").samefile(root / "b/c/h")
    hard(writer, "b/c/h", "a/f")
    hard(writer, "a/f", "a/f")
    assert (root / "a/f").stat().st_nlink == 2


def test_deep_and_many_directories_need_few_descriptors(writer: TreeWriter, root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    deep = "/".join(["d"] * 200)
    other = "/".join(["o"] * 200)
    put(writer, f"{deep}/f", b"deep")
    for n in range(100):
        put(writer, f"side{n}/f")
    hard(writer, f"{other}/h", f"{deep}/f")
    put(writer, f"{other}/g", b"x")
    assert len(os.listdir("/proc/self/fd")) - before <= 65
    writer.finish()
    assert (root / deep / "f").samefile(root / other / "h")
    assert len(os.listdir("/proc/self/fd")) - before <= 65


def test_sparse_files_have_holes(writer: TreeWriter, root: Path) -> None:
    segments = array("q", [0, 0, 1 << 20, 4096, 4 << 20, 3, 8 << 20, 0])
    data = b"a" * 4096 + b"end"
    pieces = [memoryview(data[:100]), memoryview(data[100:4098]), memoryview(data[4098:])]
    writer.file((b"f",), 0o600, TIME, pieces, size=8 << 20, segments=segments)
    content = (root / "f").read_bytes()
    assert len(content) == 8 << 20
    assert content[1 << 20 : (1 << 20) + 4096] == b"a" * 4096
    assert content[4 << 20 : (4 << 20) + 3] == b"end"
    assert content.count(0) == (8 << 20) - 4099
    found = (root / "f").stat()
    assert found.st_blocks * 512 < 1 << 20
    assert (found.st_mtime_ns, mode_of(root / "f")) == (TIME, 0o600)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full; free space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENXIO, "No such device"),
    ],
)
def test_the_disks_failures_say_what_to_do(
    writer: TreeWriter, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.setattr(os, "write", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(StorageError, match=f'"d/f" could not be written: .*{words}'):
        put(writer, "d/f", b"x")


def test_short_writes_end(writer: TreeWriter, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    put(writer, "f", b"0123456789")
    monkeypatch.undo()
    assert (root / "f").read_bytes() == b"0123456789"


def test_errors_of_the_source_are_not_taken_for_the_disks(writer: TreeWriter) -> None:
    def failing() -> Iterator[memoryview]:
        yield memoryview(b"x")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        writer.file((b"f",), 0o644, TIME, failing())


def test_a_root_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("missing", "link"):
        with pytest.raises(StorageError, match=name):
            TreeWriter(str(tmp_path / name), None)


def test_a_root_by_descriptor_stays_the_callers(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    writer = TreeWriter(fd, None)
    put(writer, "f")
    writer.close()
    assert os.listdir(fd) == ["f"]
    os.close(fd)

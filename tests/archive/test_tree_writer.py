"""Writing a tree: nothing outside it, everything as the archive says."""

from __future__ import annotations

import errno
import os
import stat
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


def hard(writer: TreeWriter, name: str, target: str) -> None:
    writer.hard_link(member_path(name.encode()), member_path(target.encode()))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


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

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.attributes import reading
from wingsd.filesystem.walk import BATCH
from wingsd.moves.scan import Scan, first_difference
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveTree


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"file")
    (tmp_path / "a" / "file").chmod(0o4755)
    (tmp_path / "a" / "other").hardlink_to(tmp_path / "a" / "file")
    (tmp_path / "a" / "b" / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def seen(root: int) -> MoveTree:
    return Scan(lambda line: None, reading(root), None, SeenDirectories()).run(root)


def keep_times(path: Path, change: Callable[[Path], object]) -> None:
    """Change something in a directory, whose times stay."""
    found = os.stat(path)
    change(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def other_link(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").symlink_to("else")


def no_link(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").mkdir()


def other_file(directory: Path) -> None:
    (directory / "other").unlink()
    (directory / "other").write_bytes(b"file")


def test_what_nobody_has_changed_is_the_same(root: int) -> None:
    tree = seen(root)
    assert first_difference(root, tree, reading(root)) is None
    assert first_difference(root, tree, reading(root)) is None


def test_a_directory_with_many_names_is_the_same(root: int, tmp_path: Path) -> None:
    for number in range(BATCH + 10):
        (tmp_path / "a" / "b" / f"{number}").touch()
    assert first_difference(root, seen(root), reading(root)) is None


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda top: (top / "a/file").write_bytes(b"FILE"), b"a/file"),
        (lambda top: (top / "a/file").chmod(0o600), b"a/file"),
        (lambda top: os.utime(top / "a/file", ns=(1, 1)), b"a/file"),
        (lambda top: (top / "new").touch(), b""),
        (lambda top: (top / "a").chmod(0o700), b"a"),
        (lambda top: (top / "a/other").unlink(), b"a"),
        (lambda top: (top / "a/b").rename(top / "a/c"), b"a"),
        (lambda top: keep_times(top, lambda top: (top / "new").touch()), b"new"),
        (lambda top: keep_times(top, lambda top: (top / "new").mkdir()), b"new"),
        (lambda top: keep_times(top / "a/b", lambda b: (b / "link").unlink()), b""),
        (lambda top: keep_times(top / "a/b", other_link), b"a/b/link"),
        (lambda top: keep_times(top / "a/b", no_link), b"a/b/link"),
        # it has one name less
        (lambda top: keep_times(top / "a", other_file), b"a/file"),
    ],
)
def test_what_was_changed_is_named(
    root: int, tmp_path: Path, change: Callable[[Path], object], path: bytes
) -> None:
    tree = seen(root)
    change(tmp_path)
    assert first_difference(root, tree, reading(root)) == path

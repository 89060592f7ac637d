"""Deleting trees: deep, wide, while others change them, and never beyond a link."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from wingsd.errors import FileMissing, FileWorkCancelled, PathInvalid
from wingsd.filesystem import removal
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

p = ServerPath.parse


def nested(home: Path, depth: int) -> None:
    """Make a directory `top` with so many directories in each other, and a file in the last."""
    (home / "top").mkdir()
    fd = os.open(home / "top", os.O_RDONLY)
    for number in range(depth):
        os.mkdir("d", dir_fd=fd)
        if number % 100 == 0:
            os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)


def test_everything_in_a_directory_is_deleted_and_no_link_followed(
    root: ServerRoot, home: Path, outside: Path
) -> None:
    (home / "top/a/b").mkdir(parents=True)
    (home / "top/empty").mkdir()
    (home / "top/a/file").write_text("x")
    os.mkfifo(home / "top/a/b/fifo")
    (home / "top/out").symlink_to(outside)
    (home / "top/a/out").symlink_to(outside / "secret")
    (home / "other").symlink_to(outside)
    root.remove(p("top"))
    root.remove(p("other"))
    assert os.listdir(home) == []
    assert os.listdir(outside) == ["secret"]


@pytest.mark.promise("deletion-is-bounded")
def test_a_tree_of_any_depth_is_deleted(opener: DirectoryOpener) -> None:
    # In memory, since a disk takes seconds for as many directories.
    with TemporaryDirectory(dir="/dev/shm") as place, ServerRoot(place, opener) as root:
        nested(Path(place), 10_000)
        root.remove(p("top"))
        assert os.listdir(place) == []


@pytest.mark.promise("deletion-is-bounded")
def test_a_wide_tree_is_deleted_in_parts(
    root: ServerRoot, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_MAX_NAMES", 3)
    monkeypatch.setattr(removal, "_MAX_ALL_NAMES", 7)
    for number in range(20):
        for other in range(5):
            (home / f"top/{number}/{other}").mkdir(parents=True)
            (home / f"top/{number}/{other}/file").touch()
    root.remove(p("top"))
    assert os.listdir(home) == []


def test_what_is_deleted_counts(root: ServerRoot, home: Path, usage: UsageCounter) -> None:
    usage.used = 1000
    (home / "top/a").mkdir(parents=True)
    (home / "top/a/file").write_bytes(b"x" * 100)
    (home / "top/file").write_bytes(b"x" * 10)
    os.link(home / "top/file", home / "top/a/same")
    os.link(home / "top/a/file", home / "kept")
    (home / "top/link").symlink_to("a")
    root.remove(p("top"))
    assert usage.used == 990


def test_what_cannot_be_deleted_is_refused(root: ServerRoot, home: Path) -> None:
    (home / "file").touch()
    for path in ("missing", "missing/a", "file/a"):
        with pytest.raises(FileMissing):
            root.remove(p(path))
    for path in ("/", "a/..", ""):
        with pytest.raises(PathInvalid):
            root.remove(p(path))
    assert os.listdir(home) == ["file"]


def test_a_deletion_is_cancelled_in_between(root: ServerRoot, home: Path) -> None:
    nested(home, 200)
    calls = iter([False] * 100)
    with pytest.raises(FileWorkCancelled):
        root.remove(p("top"), lambda: next(calls, True))
    assert os.listdir(home) == ["top"]


class Disturbed:
    """Opens directories, and changes something each time before one in a tree is opened."""

    def __init__(self, opener: DirectoryOpener, disturb: Iterator[object]) -> None:
        self._opener = opener
        self._disturb = disturb

    def directory(self, root: int, path: ServerPath) -> int:
        return self._opener.directory(root, path)

    def subdirectory(self, parent: int, name: bytes) -> int:
        next(self._disturb, None)
        return self._opener.subdirectory(parent, name)

    def new_file(self, root: int, path: ServerPath) -> int:
        return self._opener.new_file(root, path)


@contextmanager
def disturbed(
    home: Path, opener: DirectoryOpener, disturb: Iterator[object]
) -> Iterator[ServerRoot]:
    given: Any = Disturbed(opener, disturb)
    with ServerRoot(str(home), given) as root:
        yield root


def test_a_directory_that_becomes_a_link_is_deleted_as_a_link(
    home: Path, outside: Path, opener: DirectoryOpener
) -> None:
    def swap() -> Iterator[None]:
        yield
        (home / "top/a").rename(home / "away")
        (home / "top/a").symlink_to(outside)
        yield

    (home / "top/a/b").mkdir(parents=True)
    with disturbed(home, opener, swap()) as root:
        root.remove(p("top"))
    assert os.listdir(home) == ["away"]
    assert os.listdir(outside) == ["secret"]


def test_directories_that_move_on_the_way_back_are_looked_for_again(
    home: Path, opener: DirectoryOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_LAST_OPEN", 2)

    def move() -> Iterator[None]:
        for _ in range(15):
            yield
        (home / "top/d/d").rename(home / "top/moved")
        yield

    nested(home, 12)
    with disturbed(home, opener, move()) as root:
        root.remove(p("top"))
    assert os.listdir(home) == []


def test_a_directory_that_is_filled_for_ever_ends_the_deletion(
    home: Path, opener: DirectoryOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleting = os.rmdir

    def filled(name: bytes, *, dir_fd: int) -> None:
        (home / "top/new").touch()
        deleting(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", filled)
    (home / "top").mkdir()
    with ServerRoot(str(home), opener) as root, pytest.raises(PathInvalid) as caught:
        root.remove(p("top"))
    assert caught.value.status == 400


@pytest.mark.root
def test_a_tree_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    tree = tmp_path / "-rf"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "file").touch()
    (tree / "closed").chmod(0)
    (tree / "link").symlink_to(precious)
    remove_tree(str(tree))
    remove_tree(str(tree))
    assert list(tmp_path.iterdir()) == [precious]


@pytest.mark.root
def test_what_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = b"/bin/rm: cannot remove 'x/y': Operation not permitted\nand more\n"
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, b"", complaint)
    )
    with pytest.raises(OSError, match=r"^cannot remove 'x/y': Operation not permitted$"):
        remove_tree(str(tmp_path))

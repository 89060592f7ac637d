"""A server's directory: files that are written and copied, in both ways to open directories."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.filesystem.places import mode, names, owner, p, special
from tests.support.owner import OWNER
from wingsd.errors import (
    DiskLimitExceeded,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    IsDirectory,
    NameConflict,
    NotDirectory,
    PathInvalid,
    UploadInProgress,
)
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.filesystem.writable_file import OpenFiles

pytestmark = pytest.mark.root

KEEP = NewFileOptions(replace=False)


def test_an_upload_with_a_lease_is_not_waited_for(root: ServerRoot, home: Path) -> None:
    with root.partial_file(p("file"), "user"):
        (own,) = home.iterdir()
    with own.open("w") as leased:
        fcntl.fcntl(leased, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(UploadInProgress):
            root.partial_file(p("file"), "user")
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    root.partial_file(p("file"), "user").close()


def test_files_are_written_where_the_file_system_has_no_locks(
    root: ServerRoot, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    root.write(p("file"), [b"new"])
    assert (home / "file").read_bytes() == b"new"


def test_a_file_is_written_with_the_directories_on_the_way(root: ServerRoot, home: Path) -> None:
    entry = root.write(p("/a/b/file"), [b"one", memoryview(b"two")], NewFileOptions(modified=5))
    assert (home / "a/b/file").read_bytes() == b"onetwo"
    assert (entry.name, entry.size, entry.permissions, entry.modified) == (b"file", 6, 0o644, 5)
    assert entry.changed == root.stat(p("a/b/file")).changed
    assert {owner(home / name) for name in ("a", "a/b", "a/b/file")} == {OWNER}
    assert (mode(home / "a"), mode(home / "a/b")) == (0o755, 0o755)
    assert names(root, "a/b") == ["file"]


@pytest.mark.promise("files-stay-inside-the-server")
def test_a_file_in_place_of_another_keeps_its_mode(root: ServerRoot, home: Path) -> None:
    (home / "file").write_text("old")
    (home / "file").chmod(0o4750)
    os.link(home / "file", home / "other")
    root.write(p("file"), [b"new"])
    assert ((home / "file").read_text(), mode(home / "file")) == ("new", 0o750)
    assert owner(home / "file") == OWNER
    assert (home / "other").read_text() == "old"
    root.write(p("file"), [b"new"], NewFileOptions(mode=0o6600, durable=False))
    assert mode(home / "file") == 0o600


def test_a_umask_changes_nothing(root: ServerRoot, home: Path) -> None:
    before = os.umask(0o077)
    try:
        root.write(p("a/file"), [b""])
    finally:
        os.umask(before)
    assert (mode(home / "a"), mode(home / "a/file")) == (0o755, 0o644)


def test_what_is_no_file_is_not_written(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "file").write_text("old")
    special(home)
    (home / "out").symlink_to(outside / "secret")
    (home / "away").symlink_to(outside)
    (home / "directory").mkdir()
    for name in ("fifo", "device", "socket", "link", "out"):
        with pytest.raises(FileTypeRefused):
            root.write(p(name), [b"new"])
    for name in ("directory", "/"):
        with pytest.raises(NameConflict, match="existing directory by the same name"):
            root.write(p(name), [b"new"])
    with pytest.raises(NotDirectory):
        root.write(p("file/a"), [b"new"])
    with pytest.raises(FileMissing):
        root.write(p("away/new"), [b"new"])
    with pytest.raises(NameConflict):
        root.write(p("file"), [b"new"], KEEP)
    assert (home / "file").read_text() == "old"
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert [name for name in os.listdir(home) if name.startswith(".wingsd")] == []


def test_a_file_to_be_written_in_place_is_created_inside_and_only_once(
    root: ServerRoot, home: Path, outside: Path
) -> None:
    (home / "a").mkdir()
    (home / "file").write_text("old")
    for name, text in (("in", "a"), ("away", "../outside"), ("a/dangling", "../b"), ("to", "b")):
        (home / name).symlink_to(text)

    def create(name: str) -> None:
        with root.writable_file(p(name), OpenFiles(), mode=0o7640) as file:
            file.write_at(0, b"new")

    for name in ("in/new", "a/b/c/new"):
        create(name)
    for name in ("a/new", "a/b/c/new"):
        assert (home / name).read_text() == "new"
        assert (mode(home / name), owner(home / name)) == (0o640, OWNER)
    assert owner(home / "a/b/c") == OWNER
    for name in ("file", "a", "in/new", "a/dangling", "to", "/"):
        with pytest.raises(NameConflict):
            create(name)
    with pytest.raises(NotDirectory):
        create("file/a")
    with pytest.raises(FileMissing):
        create("away/new")
    assert not (home / "b").exists()
    assert (home / "file").read_text() == "old"
    assert sorted(os.listdir(outside)) == ["secret"]


@pytest.mark.promise("hidden-names-are-refused")
@pytest.mark.parametrize("end", ["part", "upload"])
def test_no_file_gets_a_name_by_which_it_would_be_hidden_and_deleted(
    root: ServerRoot, home: Path, end: str
) -> None:
    (home / "file").write_text("kept")
    name = p(f".wingsd-{'0' * 32}.{end}")
    for action in (
        lambda: root.write(name, [b"x"]),
        lambda: root.writable_file(name, OpenFiles(), mode=0o644),
        lambda: root.partial_file(name, "user"),
        lambda: root.copy(p("file"), name),
        lambda: root.rename(p("file"), name),
        lambda: root.link(p("file"), name),
    ):
        with pytest.raises(PathInvalid):
            action()
    assert names(root) == ["file"]


@pytest.mark.promise("files-are-old-or-new")
def test_a_file_is_whole_or_not_there(root: ServerRoot, home: Path, usage: UsageCounter) -> None:
    (home / "file").write_text("old")
    with root.new_file(p("file")) as file:
        file.write(b"new")
        assert (home / "file").read_text() == "old"
        assert names(root) == ["file"]
        assert len(os.listdir(home)) == 2
        assert usage.used == 3  # beside the old one
        file.write(b"er")
        assert usage.used == 5
    assert (home / "file").read_text() == "old"
    assert os.listdir(home) == ["file"]
    assert usage.used == 0

    def broken() -> list[bytes]:
        raise ValueError("the client went away")

    with pytest.raises(ValueError, match="went away"):
        root.write(p("file"), (piece for _ in range(1) for piece in broken()))
    assert os.listdir(home) == ["file"]


@pytest.mark.promise("user-files-respect-the-disk-limit")
def test_what_is_written_counts_and_is_refused_above_the_limit(
    root: ServerRoot, home: Path, usage: UsageCounter
) -> None:
    usage.limit = 100
    root.write(p("a"), [b"x" * 60], NewFileOptions(size=60))
    assert usage.used == 60
    with pytest.raises(DiskLimitExceeded) as caught:
        root.new_file(p("b"), NewFileOptions(size=41))
    assert (caught.value.status, caught.value.message) == (
        400,
        "There is not enough disk space available to perform that action.",
    )
    with pytest.raises(DiskLimitExceeded):
        root.write(p("b"), [b"x" * 40, b"x"], NewFileOptions(size=40))
    assert (os.listdir(home), usage.used) == (["a"], 60)
    root.write(p("a"), [b"x" * 100])
    root.write(p("a"), [b"x" * 10])
    assert usage.used == 10
    root.write(p("b"), [b"xy"], NewFileOptions(size=90))
    assert usage.used == 12
    usage.add(80)
    with pytest.raises(DiskLimitExceeded):
        root.copy(p("a"), p("c"))
    usage.free(80)
    root.copy(p("a"), p("c"))
    assert usage.used == 22
    root.rename(p("b"), p("a"), replace=True)
    assert usage.used == 12
    usage.limit = 5
    assert names(root) == ["a", "c"]
    root.write(p("c"), [b"x"])  # smaller than before
    root.remove(p("c"))
    assert usage.used == 2


def test_hard_links_count_once(root: ServerRoot, home: Path, usage: UsageCounter) -> None:
    root.write(p("a"), [b"x" * 10])
    os.link(home / "a", home / "b")
    root.write(p("a"), [b"y"])
    assert usage.used == 11
    os.link(home / "b", home / "c")
    root.remove(p("b"))
    assert usage.used == 11
    root.remove(p("c"))
    assert usage.used == 1


def test_a_copy_has_the_mode_and_the_holes(root: ServerRoot, home: Path) -> None:
    with (home / "a").open("wb") as file:
        file.write(b"begin")
        file.seek(8 << 20)
        file.write(b"middle")
        file.truncate(16 << 20)
    (home / "a").chmod(0o750)
    entry = root.copy(p("a"), p("new/b"), KEEP)
    assert (entry.size, entry.permissions) == (16 << 20, 0o750)
    assert (home / "a").read_bytes() == (home / "new/b").read_bytes()
    assert (home / "new/b").stat().st_blocks == (home / "a").stat().st_blocks
    assert owner(home / "new/b") == OWNER
    with pytest.raises(NameConflict):
        root.copy(p("a"), p("new/b"), KEEP)
    with pytest.raises(FileWorkCancelled):
        root.copy(p("a"), p("c"), cancelled=lambda: True)
    with pytest.raises(IsDirectory):
        root.copy(p("new"), p("c"))
    assert names(root) == ["a", "new"]


def test_a_copy_is_made_where_the_kernel_cannot(
    root: ServerRoot, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 << 20)
    (home / "a").write_bytes(data)

    def refused(*arguments: object) -> int:
        raise OSError(22, "invalid")

    monkeypatch.setattr(os, "copy_file_range", refused)
    monkeypatch.setattr(os, "lseek", refused)
    root.copy(p("a"), p("b"))
    assert (home / "b").read_bytes() == data

"""A server's directory: changing its entries, in both ways to open directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystem.places import mode, names, owner, p, special
from tests.support.owner import OWNER
from wingsd.errors import (
    FileMissing,
    FileTypeRefused,
    NameConflict,
    NameTooLong,
    NotDirectory,
    PathInvalid,
    StorageError,
    WingsdError,
)
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.openers import OpenatOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot

pytestmark = pytest.mark.root

KEEP = NewFileOptions(replace=False)


def test_directories_are_made_with_those_on_the_way(root: ServerRoot, home: Path) -> None:
    (home / "file").touch()
    (home / "dangling").symlink_to("missing")
    (home / "link").symlink_to("a")
    entry = root.make_directory(p("a/b/c"))
    assert (entry.name, entry.is_directory, entry.permissions) == (b"c", True, 0o755)
    assert owner(home / "a/b/c") == OWNER
    (home / "a").chmod(0o700)
    root.make_directory(p("a"))
    assert mode(home / "a") == 0o700
    root.make_directory(p("link/d"))
    assert (home / "a/d").is_dir()
    with pytest.raises(NameConflict, match="existing file by the same name"):
        root.make_directory(p("file"))
    for path in ("file/a", "dangling/a"):
        with pytest.raises(NotDirectory) as caught:
            root.make_directory(p(path))
        assert (
            caught.value.message == "Part of the path being created is not a directory (ENOTDIR)."
        )


def test_everything_is_renamed_as_it_is(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "file").write_text("file")
    (home / "link").symlink_to(outside)
    (home / "directory/a").mkdir(parents=True)
    root.rename(p("file"), p("new/deep/file"))
    assert (home / "new/deep/file").read_text() == "file"
    root.rename(p("link"), p("new/link"))
    assert os.readlink(home / "new/link") == str(outside)
    root.rename(p("directory"), p("new/directory"))
    assert (home / "new/directory/a").is_dir()
    assert names(root) == ["new"]


@pytest.mark.parametrize("target", ["b", "directory", "full", "link", "a"])
def test_a_rename_replaces_nothing(root: ServerRoot, home: Path, target: str) -> None:
    (home / "a").write_text("a")
    (home / "b").write_text("b")
    (home / "full/a").mkdir(parents=True)
    (home / "directory").mkdir()
    (home / "link").symlink_to("missing")
    with pytest.raises(NameConflict) as caught:
        root.rename(p("a"), p(target))
    assert caught.value.message == "Cannot move or rename file, destination already exists."
    assert names(root) == ["a", "b", "directory", "full", "link"]
    if target in ("full", "directory"):
        with pytest.raises(NameConflict):
            root.rename(p("a"), p(target), replace=True)
    else:
        root.rename(p("a"), p(target), replace=True)
        assert (home / target).read_text() == "a"


def test_a_rename_that_cannot_be_is_refused(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "a/b").mkdir(parents=True)
    (home / "link").symlink_to("a")
    (home / "out").symlink_to(outside)
    for source, target in (("a", "a/c"), ("a", "a/b/c"), ("a", "link/c"), ("/", "c"), ("a", "/")):
        with pytest.raises(PathInvalid):
            root.rename(p(source), p(target))
    for source, target in (("missing", "b"), ("a", "out/a"), ("out/secret", "b")):
        with pytest.raises(FileMissing):
            root.rename(p(source), p(target))
    assert names(root) == ["a", "link", "out"]
    assert os.listdir(outside) == ["secret"]


def test_a_name_is_kept_where_the_file_system_has_no_exclusive_rename(
    root: ServerRoot, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(22, "invalid")

    monkeypatch.setattr("wingsd.filesystem.new_file.renameat2", unsupported)
    (home / "a").touch()
    (home / "b").mkdir()
    with pytest.raises(NameConflict):
        root.rename(p("a"), p("b"))
    root.rename(p("a"), p("c"))
    root.write(p("d"), [b""], KEEP)
    assert names(root) == ["b", "c", "d"]


@pytest.mark.promise("files-stay-inside-the-server")
def test_a_mode_is_set_and_no_link_followed(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "file").touch()
    (home / "directory").mkdir()
    (home / "out").symlink_to(outside / "secret")
    (home / "away").symlink_to(outside)
    before = mode(outside / "secret")
    root.set_mode(p("file"), 0o7777)
    root.set_mode(p("directory"), 0o700)
    assert (mode(home / "file"), mode(home / "directory")) == (0o777, 0o700)
    special(home)
    kinds = ("fifo", "device", "socket", "link", "out")
    modes = [mode(home / name) for name in kinds]
    for name in kinds:
        with pytest.raises(FileTypeRefused):
            root.set_mode(p(name), 0o777)
    assert [mode(home / name) for name in kinds] == modes
    with pytest.raises(FileMissing):
        root.set_mode(p("away/secret"), 0o777)
    with pytest.raises(PathInvalid):
        root.set_mode(p("/"), 0)
    assert mode(outside / "secret") == before


def test_times_are_set_and_no_link_followed(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "file").touch()
    (home / "out").symlink_to(outside / "secret")
    before = (outside / "secret").stat()
    for name in ("file", "out", "/"):
        root.set_times(p(name), 1, 2)
        entry = root.stat(p(name))
        assert (entry.accessed, entry.modified) == (1, 2)
    after = (outside / "secret").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_a_symlink_is_made_with_any_text_and_its_owner(root: ServerRoot, home: Path) -> None:
    (home / "d").mkdir()
    entry = root.make_symlink(p("d/link"), b"/etc/\xff")
    assert (entry.is_symlink, os.readlink(os.fsencode(home / "d/link"))) == (True, b"/etc/\xff")
    assert owner(home / "d/link") == OWNER
    for path, text, error in (
        ("d/link", b"x", NameConflict),
        ("d", b"x", NameConflict),
        ("gone/link", b"x", FileMissing),
        ("/", b"x", PathInvalid),
        ("y", b"", PathInvalid),
        ("y", b"a\0b", PathInvalid),
        ("y", b"a" * 4096, NameTooLong),
    ):
        with pytest.raises(error):
            root.make_symlink(p(path), text)
    assert sorted(each.name for each in home.iterdir()) == ["d"]


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    for name in ("link", "missing"):
        with pytest.raises(StorageError):
            ServerRoot(str(tmp_path / name), OpenatOpener())


def test_an_action_goes_on_in_the_directory_that_it_began_in(
    root: ServerRoot, home: Path, tmp_path: Path
) -> None:
    home.rename(tmp_path / "before")
    home.mkdir()
    root.write(p("file"), [b"x"])
    assert (tmp_path / "before/file").exists()
    assert os.listdir(home) == []


ACTIONS: dict[str, Callable[[ServerRoot, ServerPath], object]] = {
    "stat": ServerRoot.stat,
    "open": ServerRoot.open_file,
    "list": ServerRoot.directory,
    "readlink": ServerRoot.link_text,
    "write": lambda root, path: root.write(path, [b"new"]),
    "copy to": lambda root, path: root.copy(p("file"), path),
    "copy from": lambda root, path: root.copy(path, p("new")),
    "mkdir": ServerRoot.make_directory,
    "rename to": lambda root, path: root.rename(p("file"), path),
    "rename from": lambda root, path: root.rename(path, p("new")),
    "remove": ServerRoot.remove,
    "chmod": lambda root, path: root.set_mode(path, 0o777),
    "utimes": lambda root, path: root.set_times(path, 1, 1),
}


@pytest.mark.promise("files-stay-inside-the-server")
@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_beyond_a_link_that_leads_out_is_touched(
    root: ServerRoot, home: Path, outside: Path, action: str
) -> None:
    (home / "file").touch()
    (outside / "directory").mkdir()
    (home / "absolute").symlink_to(outside)
    (home / "relative").symlink_to("../outside")
    (home / "a").mkdir()
    (home / "a/upwards").symlink_to("../..")
    before = snapshot(outside)
    for way in ("absolute", "relative", "a/upwards/outside"):
        for name in ("secret", "directory", "missing", "directory/missing"):
            with pytest.raises(WingsdError) as caught:
                ACTIONS[action](root, p(f"{way}/{name}"))
            assert caught.value.status == 404
    assert snapshot(outside) == before


def snapshot(directory: Path) -> list[tuple[str, int, tuple[int, int], int, int]]:
    return sorted(
        (path.name, mode(path), owner(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in (directory, *directory.rglob("*"))
    )

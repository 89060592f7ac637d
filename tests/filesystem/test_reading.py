"""A server's directory: reading its files, in both ways to open directories."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.filesystem.places import names, p, special
from wingsd.errors import (
    DirectoryMissing,
    FileInUse,
    FileMissing,
    FileTypeRefused,
    IsDirectory,
    NameTooLong,
)
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.root import ServerRoot

pytestmark = pytest.mark.root


def test_a_listing_has_everything_as_it_is(root: ServerRoot, home: Path) -> None:
    (home / "file").write_text("four")
    (home / "file").chmod(0o640)
    os.utime(home / "file", ns=(1, 2))
    (home / "directory").mkdir()
    os.link(home / "file", home / "hard")
    kinds = special(home)
    (home / os.fsdecode(b"\xff")).touch()
    with root.directory(p("/")) as directory:
        entries = {entry.text: entry for entry in directory.entries()}
        assert sorted(entries) == sorted(["file", "directory", "hard", "\U0010feff", *kinds])
        assert {name: entries[name].mode for name in kinds} == kinds
    file, link = entries["file"], entries["link"]
    assert (file.size, file.links, file.permissions) == (4, 2, 0o640)
    assert (file.accessed, file.modified) == (1, 2)
    assert file.is_regular
    assert not file.is_symlink
    assert link.is_symlink
    assert (link.is_regular, link.is_directory, link.size) == (False, False, 4)
    assert entries["directory"].is_directory
    assert entries["file"] == root.stat(p("file"))


def test_a_listing_lasts_while_entries_vanish(root: ServerRoot, home: Path) -> None:
    for number in range(10):
        (home / f"{number}").touch()
    with root.directory(p("")) as directory:
        entries = directory.entries()
        seen = [next(entries).text]
        for path in home.iterdir():
            path.unlink()
        seen += [entry.text for entry in entries]
    assert len(seen) == 1


@pytest.mark.parametrize("path", ["missing", "file", "file/a", "link", "out", "out/a", "fifo"])
def test_only_a_directory_is_listed(
    root: ServerRoot, home: Path, outside: Path, path: str
) -> None:
    (home / "file").touch()
    (home / "directory").mkdir()
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to("directory")
    (home / "out").symlink_to(outside)
    with pytest.raises(DirectoryMissing) as caught:
        root.directory(p(path))
    assert caught.value.message == "The requested directory does not exist."
    assert caught.value.status == 404


def test_a_regular_file_is_read(root: ServerRoot, home: Path) -> None:
    (home / "a").mkdir()
    (home / "a/file").write_text("0123456789")
    (home / "link").symlink_to("a")
    for path in ("a/file", "/link/file", "a/../a/./file"):
        with root.open_file(p(path)) as file:
            assert file.entry.size == 10
            assert (file.read(4), file.read_at(8, 9), file.read(99)) == (b"0123", b"89", b"456789")
            assert file.read(1) == b""
            assert os.fstat(file.fileno()).st_ino == (home / "a/file").stat().st_ino


@pytest.mark.promise("files-stay-inside-the-server")
def test_what_is_no_file_is_not_opened(root: ServerRoot, home: Path, outside: Path) -> None:
    (home / "file").touch()
    special(home)
    (home / "out").symlink_to(outside / "secret")
    for name in ("fifo", "device", "socket", "link", "out"):
        with pytest.raises(FileTypeRefused) as caught:
            root.open_file(p(name))
        assert (caught.value.status, caught.value.message) == (
            400,
            "Cannot open files of this type.",
        )
    with pytest.raises(IsDirectory) as directory:
        root.open_file(p("/"))
    assert directory.value.message == "Cannot perform that action: file is a directory."
    (home / "away").symlink_to(outside)
    for name in ("missing", "away/secret", "file/a", "missing/a"):
        with pytest.raises(FileMissing) as missing:
            root.open_file(p(name))
        assert missing.value.message == "The requested resources was not found on the system."
        assert missing.value.status == 404
    with pytest.raises(FileMissing, match="leads out of the server's files"):
        root.open_file(p("away/secret"))


def test_a_file_with_a_lease_is_not_waited_for(root: ServerRoot, home: Path) -> None:
    with (home / "file").open("w") as leased:
        # In place of SIGIO, which would end this process; SIGURG is ignored.
        fcntl.fcntl(leased, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(FileInUse) as caught:
            root.open_file(p("file"))
        assert caught.value.status == 400
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    root.open_file(p("file")).close()


def test_links_are_read_and_not_followed(root: ServerRoot, home: Path) -> None:
    (home / "link").symlink_to("/etc/passwd")
    (home / "file").touch()
    assert root.link_text(p("link")) == b"/etc/passwd"
    for path in ("file", "/"):
        with pytest.raises(FileTypeRefused):
            root.link_text(p(path))
    assert root.stat(p("link")).is_symlink
    assert root.stat(p("/")).is_directory


@pytest.mark.promise("files-are-old-or-new")
def test_a_file_that_was_left_over_is_deleted_when_it_is_listed(
    root: ServerRoot, home: Path
) -> None:
    for digit in "012":
        (home / f".wingsd-{digit * 32}.part").touch()
    os.utime(home / f".wingsd-{'0' * 32}.part", (1, 1))
    directory = f".wingsd-{'3' * 32}.part"
    (home / directory).mkdir()
    with root.new_file(p("file")) as file:
        os.utime(file.fileno(), (1, 1))
        kept = {name for name in os.listdir(home) if not name.startswith(".wingsd-000")}
        assert names(root) == [directory]
        assert set(os.listdir(home)) == kept
        file.commit()
    assert names(root) == [directory, "file"]


def test_a_program_hides_nothing_by_the_name_of_a_file_that_is_written(
    root: ServerRoot, home: Path
) -> None:
    part = f".wingsd-{'0' * 32}.part"
    (home / part).touch()
    os.utime(home / part, (2**33, 2**33))
    assert names(root) == []
    assert os.listdir(home) == []
    (home / part).symlink_to("elsewhere")
    assert names(root) == [part]


def test_an_entry_is_a_value() -> None:
    entry = Entry(b"\xff", stat.S_IFREG | 0o4755, 1, 2, 3, 4, 5, 6, 7)
    assert (entry.text, entry.permissions) == ("\U0010feff", 0o4755)


def test_a_real_path_has_no_symlinks_on_the_way(root: ServerRoot, home: Path) -> None:
    (home / "a/b").mkdir(parents=True)
    (home / "a/up").symlink_to("../a/b")
    (home / "last").symlink_to("a")
    found = {
        path: str(root.real_path(p(path)))
        for path in ("a/up/x", "a/up", "last/up/new/x", "last", "/", "gone/up/x", "a/b")
    }
    assert found == {
        "a/up/x": "a/b/x",
        "a/up": "a/up",
        "last/up/new/x": "a/b/new/x",
        "last": "last",
        "/": "",
        "gone/up/x": "gone/up/x",
        "a/b": "a/b",
    }


def test_a_path_that_leads_out_has_no_real_path(root: ServerRoot, home: Path) -> None:
    (home / "out").symlink_to("..")
    (home / "loop").symlink_to("loop")
    for path in ("out/outside/secret", "loop/x"):
        with pytest.raises(FileMissing):
            root.real_path(p(path))


def test_a_directory_may_be_too_deep_for_a_real_path(root: ServerRoot, home: Path) -> None:
    # The path in the server's directory is short enough, and the one from `/` is not.
    deep = p("/".join([*["d" * 250] * 16, "e" * 70]))
    root.make_directory(deep)
    with pytest.raises(NameTooLong):
        root.real_path(deep.child(b"f"))

"""A server's directory: changing its entries, in both ways to open directories."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.filesystem.places import mode, names, owner, p, special
from tests.support.archives import run
from tests.support.owner import OWNER
from wingsd.errors import (
    DiskLimitExceeded,
    FileInUse,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    IsDirectory,
    NameConflict,
    NameTooLong,
    NotDirectory,
    PathInvalid,
    StorageError,
    UploadInProgress,
)
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.openers import OpenatOpener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.filesystem.writable_file import OpenFiles

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
    assert root.link_text(p("d/link")) == b"/etc/\xff"
    with pytest.raises(FileTypeRefused):
        root.link_text(p("d"))
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


# A server's directory: reading its files, in both ways to open directories


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


# A server's directory: files that are written and copied, in both ways to open directories


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


def test_no_file_is_written_in_place_of_a_directory(root: ServerRoot, home: Path) -> None:
    (home / "directory").mkdir()
    for name in ("directory", "/"):
        with pytest.raises(NameConflict, match="existing directory by the same name"):
            root.write(p(name), [b"new"])


def test_a_umask_changes_nothing(root: ServerRoot, home: Path) -> None:
    before = os.umask(0o077)
    try:
        root.write(p("a/file"), [b""])
    finally:
        os.umask(before)
    assert (mode(home / "a"), mode(home / "a/file")) == (0o755, 0o644)


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


# File systems that are mounted in a server's directory. As root, who can mount them


@pytest.fixture
def mounted(home: Path) -> Iterator[Path]:
    """A small file system in the server's directory."""
    place = home / "top/mounted"
    place.mkdir(parents=True)
    with ExitStack() as cleanup:
        run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
        cleanup.callback(run, "umount", str(place))
        (place / "file").write_text("kept")
        yield place


@pytest.mark.promise("deletion-is-bounded")
def test_a_mounted_file_system_is_used_and_not_deleted(root: ServerRoot, mounted: Path) -> None:
    with root.open_file(p("top/mounted/file")) as file:
        assert file.read(9) == b"kept"
    for path in ("top", "top/mounted"):
        with pytest.raises(PathInvalid) as caught:
            root.remove(p(path))
        assert caught.value.message == "Cannot perform that action: a mount point is not deleted."
    assert (mounted / "file").read_text() == "kept"
    with pytest.raises(PathInvalid, match="another file system"):
        root.rename(p("top/mounted/file"), p("file"))
    root.copy(p("top/mounted/file"), p("file"))
    root.remove(p("top/mounted/file"))
    assert os.listdir(mounted) == []


@pytest.mark.promise("files-are-old-or-new")
@pytest.mark.parametrize("options", [NewFileOptions(), NewFileOptions(size=100_000)])
def test_a_full_disk_is_told_and_nothing_is_left(
    home: Path, mounted: Path, options: NewFileOptions
) -> None:
    usage = UsageCounter(used=0)
    with ServerRoot(str(home), OpenatOpener(), None, usage) as root:
        with pytest.raises(DiskLimitExceeded) as caught:
            root.write(p("top/mounted/file"), [bytes(100_000)], options)
        assert "the disk is full" in caught.value.detail
    assert (os.listdir(mounted), usage.used) == (["file"], 0)
    assert (mounted / "file").read_text() == "kept"

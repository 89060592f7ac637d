"""Archives that `compress` makes, as other programs read them."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import lz4.frame
import pytest
import pyzstd

from tests.files.conftest import guard, plant, tree
from tests.filesystem.places import special
from tests.support.owner import OWNER
from wingsd.archive.compress import Compression
from wingsd.errors import (
    ArchiveFormatUnsupported,
    BadRequest,
    DiskLimitExceeded,
    FileDenied,
    FileMissing,
    FileWorkCancelled,
)
from wingsd.files import archives
from wingsd.files.archives import (
    Compressing,
    compress,
    default_name,
    kind_of_extension,
    kind_of_format,
)
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem.directory import OpenFile, open_regular
from wingsd.filesystem.openers import Openat2Opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

pytestmark = pytest.mark.root

p = ServerPath.parse
FORMATS = ["tar", "tar_gz", "tar_xz", "tar_bz2", "tar_lz4", "tar_zstd", "zip"]


def asked(*files: str, top: str = "", kind: str = "tar_gz", **options: bool) -> Compressing:
    return Compressing(p(top), [p(each) for each in files], kind_of_format(kind), **options)  # type: ignore[arg-type]


def packed(
    root: ServerRoot, guard: Guard, progress: Progress, *files: str, kind: str = "tar"
) -> list[str]:
    """Return the names in an archive of these files, as tar or unzip lists them."""
    guard.progress = progress
    path, _ = compress(guard, asked(*files, kind=kind), [p("made.archive")])
    home = os.readlink(f"/proc/self/fd/{root._fd}")
    return listed(Path(home) / str(path), kind)


def listed(path: Path, kind: str) -> list[str]:
    if kind == "zip":
        return sorted(zipfile.ZipFile(path).namelist())
    with tarfile.open(path) as found:
        return sorted(f"{each.name}/" if each.isdir() else each.name for each in found)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read_by_its_own_program(
    home: Path, tmp_path: Path, free: Guard, progress: Progress, kind: str
) -> None:
    plant(home, "d/a", "d/empty/", "b", "not chosen")
    (home / "d/large").write_bytes(os.urandom(300_000) + bytes(300_000))
    (home / "d/link").symlink_to("a")
    (home / "b").chmod(0o754)
    os.utime(home / "b", (1_000_000_000, 1_000_000_000))
    compression = Compression.NONE if kind == "tar_xz" else Compression.GOOD_COMPRESSION
    what = Compressing(p(""), [p("d"), p("b")], kind_of_format(kind), compression)
    path, entry = compress(free, what, [p("x")])
    archive = home / "x"
    assert (str(path), entry.size) == ("x", archive.stat().st_size)
    assert archive.stat().st_uid == OWNER[0]
    out = tmp_path / "out"
    out.mkdir()
    unpack(archive, out, kind)
    assert tree(out) == ["b", "d", "d/a", "d/empty", "d/large", "d/link"]
    assert (out / "d/large").read_bytes() == (home / "d/large").read_bytes()
    assert os.readlink(out / "d/link") == "a"
    found = (out / "b").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o754, 1_000_000_000)
    data = sum(len(name) for name in ("d/a", "b")) + 600_000
    assert (progress.bytes_done, progress.bytes_total) == (data, data)


def unpack(archive: Path, out: Path, kind: str) -> None:
    if kind == "zip":
        # Python's own: it knows no symlinks, which are files with their text.
        with zipfile.ZipFile(archive) as found:
            assert found.testzip() is None
            for info in found.infolist():
                mode = info.external_attr >> 16
                path = out / info.filename
                if stat.S_ISLNK(mode):
                    path.symlink_to(found.read(info).decode())
                    continue
                found.extract(info, out)
                if not info.is_dir():
                    path.chmod(mode & 0o777)
                    os.utime(path, (1_000_000_000, 1_000_000_000))
        return
    data = decompressed(archive, kind)
    command = ["tar", "-C", str(out), "-x", "-f", "-" if data else str(archive)]
    if kind in ("tar_gz", "tar_xz", "tar_bz2"):
        command.append({"tar_gz": "-z", "tar_xz": "-J", "tar_bz2": "-j"}[kind])
    subprocess.run(command, input=data, check=True)


def decompressed(archive: Path, kind: str) -> bytes:
    if kind == "tar_lz4":
        return bytes(lz4.frame.decompress(archive.read_bytes()))
    if kind == "tar_zstd":
        return bytes(pyzstd.decompress(archive.read_bytes()))
    return b""


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_link_is_followed_and_no_pipe_is_opened(
    root: ServerRoot, home: Path, outside: Path, free: Guard, progress: Progress, kind: str
) -> None:
    plant(home, "d/a")
    special(home / "d", "/etc/passwd")
    (home / "d/out").symlink_to(outside)
    done = threading.Event()
    found: list[list[str]] = []

    def work() -> None:
        found.append(packed(root, free, progress, "d", kind=kind))
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(20)
    assert found == [["d/", "d/a", "d/link", "d/out"]]


@pytest.mark.parametrize("other", ["link", "fifo", "directory", "gone"])
def test_a_file_that_becomes_something_else_before_it_is_opened_is_left_out(
    root: ServerRoot,
    home: Path,
    outside: Path,
    free: Guard,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    plant(home, "d/a", "d/b")
    file = home / "d/b"
    made: dict[str, Callable[[], object]] = {
        "link": lambda: file.symlink_to(outside / "secret"),
        "fifo": lambda: os.mkfifo(file),
        "directory": file.mkdir,
        "gone": lambda: None,
    }

    def replaced_first(parent: int, name: bytes) -> OpenFile:
        if name == b"b":
            file.unlink()
            made[other]()
        return open_regular(parent, name)

    monkeypatch.setattr(archives, "open_regular", replaced_first)
    assert packed(root, free, progress, "d") == ["d/", "d/a"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_what_is_denied_is_left_out(
    root: ServerRoot, home: Path, progress: Progress, kind: str
) -> None:
    plant(home, "d/a", "d/secret.key", "d/hidden/b", "e/f", "real/x")
    (home / "link").symlink_to("real")
    denied = guard(root, "*.key", "hidden/", "/e")
    assert packed(root, denied, progress, "d", "e", "d/secret.key", kind=kind) == ["d/", "d/a"]
    for names in (("e",), ("d/secret.key", "d/hidden")):
        with pytest.raises(FileDenied):
            compress(denied, asked(*names), [p("n")])
    with pytest.raises(FileDenied):
        compress(denied, asked("d"), [p("n.key")])


def test_a_link_to_the_directory_hides_nothing_that_is_denied(
    root: ServerRoot, home: Path
) -> None:
    plant(home, "real/x/secret", "real/x/a")
    (home / "link").symlink_to("real")
    denied = guard(root, "/real/x/secret")
    what = asked("secret", "a", top="link/x", kind="tar")
    compress(denied, what, [p("link/x/made")])
    assert listed(home / "real/x/made", "tar") == ["a"]


def test_an_archive_does_not_hold_itself(home: Path, free: Guard) -> None:
    plant(home, "a", "made")
    what = asked("", "a", kind="tar", overwrite=True)
    compress(free, what, [p("made")])
    assert listed(home / "made", "tar") == ["a"]


def test_an_archive_gets_the_first_free_name(home: Path, free: Guard) -> None:
    plant(home, "a", "x")
    os.mkfifo(home / "y")
    path, _ = compress(free, asked("a"), map(p, ("x", "y", "z")))
    assert str(path) == "z"
    assert (home / "x").read_text() == "x"


@pytest.mark.parametrize("kind", ["tar_gz", "zip"])
@pytest.mark.parametrize("where", ["archive", "at the end"])
def test_an_archive_above_the_limit_is_removed(
    home: Path, usage: UsageCounter, free: Guard, kind: str, where: str
) -> None:
    (home / "a").write_bytes(os.urandom(1_000_000))
    usage.used, usage.limit = 1_000_000, 1_000_000 + (500_000 if where == "archive" else 1_000_050)
    with pytest.raises(DiskLimitExceeded):
        compress(free, asked("a", kind=kind), [p("x")])
    assert tree(home) == ["a"]
    assert usage.used == 1_000_000


@pytest.mark.parametrize("kind", ["tar_gz", "zip"])
def test_an_archive_that_is_cancelled_is_removed(
    root: ServerRoot, home: Path, usage: UsageCounter, kind: str
) -> None:
    plant(home, "a")

    class Stopped(Progress):
        files = 0

        def check(self) -> None:
            self.files += 1
            if self.files == 3:
                self.cancel()
            super().check()

    (home / "b").write_bytes(bytes(1_000_000))
    stopped = Guard(root, progress=Stopped())
    with pytest.raises(FileWorkCancelled):
        compress(stopped, asked("a", "b", kind=kind), [p("x")])
    assert tree(home) == ["a", "b"]
    assert usage.used == 0


def shrink(path: Path) -> None:
    path.write_bytes(b"short")


@pytest.mark.parametrize("change", [shrink, Path.unlink])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_files_that_change_while_they_are_read_damage_nothing(
    root: ServerRoot, home: Path, free: Guard, change: Callable[[Path], None], kind: str
) -> None:
    (home / "a").write_bytes(b"a" * 1_000_000)
    (home / "b").write_bytes(b"b" * 1_000_000)

    class Changing(Progress):
        seen = 0

        def check(self) -> None:
            if self.bytes_done and not self.seen:
                self.seen = 1
                change(home / "a")
                change(home / "b")

    packed(root, free, Changing(), "a", "b", kind=kind)
    assert "a" in listed(home / "made.archive", kind)
    if kind == "zip":
        assert zipfile.ZipFile(home / "made.archive").testzip() is None


def test_missing_files_are_an_error_or_are_passed_over(home: Path, free: Guard) -> None:
    plant(home, "a")
    with pytest.raises(FileMissing):
        compress(free, asked("a", "gone"), [p("x")])
    with pytest.raises(FileMissing):
        compress(free, asked("gone", skip_missing=True), [p("x")])
    assert tree(home) == ["a"]
    compress(free, asked("a", "gone", kind="tar", skip_missing=True), [p("x")])
    assert listed(home / "x", "tar") == ["a"]


@pytest.mark.promise("server-files-are-bounded")
@pytest.mark.parametrize(("limit", "most"), [("MAX_ZIP_MEMBERS", 3), ("MAX_ZIP_NAMES", 200)])
def test_a_zip_of_too_many_files_is_refused(
    home: Path, free: Guard, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(archives, limit, most)
    plant(home, *(f"d/{number}" for number in range(4)))
    with pytest.raises(BadRequest):
        compress(free, asked("d", kind="zip"), [p("x")])
    assert not (home / "x").exists()


def test_names_and_times_that_a_zip_does_not_have_are_changed(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "old", "late", "ünï")
    (home / os.fsdecode(b"\xff")).touch()
    os.utime(home / "old", (0, 0))
    os.utime(home / "late", (2**33, 2**33))
    names = packed(root, free, progress, "", kind="zip")
    assert names == ["late", "old", "ünï", "\U0010feff"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_times_that_no_calendar_has_are_packed(progress: Progress, kind: str) -> None:
    # In memory, where a file may have any time.
    with TemporaryDirectory(dir="/dev/shm") as top, ServerRoot(top, Openat2Opener()) as root:
        for name, seconds in (("first", -(2**60)), ("last", 2**60)):
            (Path(top) / name).touch()
            os.utime(Path(top) / name, (seconds, seconds))
        assert packed(root, Guard(root), progress, "", kind=kind) == ["first", "last"]


@pytest.mark.parametrize(
    ("extension", "suffix"),
    [
        *((each, each) for each in ("zip", "tar.gz", "tar.bz2", "tar.xz")),
        ("tgz", "tar.gz"),
        ("tbz2", "tar.bz2"),
        ("txz", "tar.xz"),
        (".ZIP", "zip"),
        ("", "tar.gz"),
        ("rar", "tar.gz"),
    ],
)
def test_extensions_are_pelicans(extension: str, suffix: str) -> None:
    assert kind_of_extension(extension).suffix == suffix


@pytest.mark.parametrize("name", ["seven_zip", "tar_lzip", "", "rar"])
def test_formats_that_are_not_made_are_refused(name: str) -> None:
    with pytest.raises(ArchiveFormatUnsupported):
        kind_of_format(name)


def test_the_default_name_is_the_time_without_colons() -> None:
    name = default_name(1_700_000_000)
    assert name.startswith(b"archive-2023-11-1")
    assert b":" not in name

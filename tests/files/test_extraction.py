"""Archives of users extracted: nothing leaves the directory, and each refusal has its reason."""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from tests.archive.hostile.case import symlink
from tests.files.conftest import guard, plant, tree
from tests.support.archives import END, member, pax
from tests.support.owner import OWNER
from tests.support.user_archives import ParsedHere, ZipMember, zipped
from tests.user_archives.hostile import CORPUS, UserArchive, tar
from wingsd.errors import (
    ArchiveMethodUnsupported,
    DiskLimitExceeded,
    FileDenied,
    FileInUse,
    FileMissing,
    FileWorkCancelled,
    OverwritesFileInUse,
    WingsdError,
)
from wingsd.files import extraction
from wingsd.files.extraction import ExtractedMembers, Extracting, extract
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem import root as root_module
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

pytestmark = pytest.mark.root

p = ServerPath.parse


def extracted(
    root: ServerRoot, guard: Guard, archive: str, top: str = "", progress: Progress | None = None
) -> ExtractedMembers:
    asked, parse = Extracting(p(archive), p(top)), cast("Any", ParsedHere)
    guard.progress = progress or Progress()
    return extract(guard, asked, parse)


def content(path: Path) -> bytes | str | None:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return path.read_bytes() if stat.S_ISREG(mode) else None


@pytest.mark.promise("user-archive-stays-inside")
@pytest.mark.parametrize("case", CORPUS, ids=[case.title for case in CORPUS])
def test_hostile_archives(
    root: ServerRoot, home: Path, outside: Path, usage: UsageCounter, case: UserArchive
) -> None:
    plant(home, "top/old", "top/dir/")
    os.mkfifo(home / "top/fifo")
    (home / "top/out").symlink_to(outside)
    (home / "top/up").symlink_to("../..")
    (home / "top" / case.name).write_bytes(case.data)
    before = {path: content(home / path) for path in tree(home)}
    beside = {path: content(path) for path in home.parent.rglob("*") if home not in path.parents}
    usage.limit = 10 << 20
    denied = guard(root, "*.key", "no/")
    archive = f"top/{case.name}"
    if case.code:
        with pytest.raises(WingsdError) as caught:
            extracted(root, denied, archive, "top")
        assert caught.value.code == case.code, caught.value
        assert caught.value.status < 500
        whole = {**before, **{path: content(home / path) for path in before}}
        assert whole == before
    else:
        found = extracted(root, denied, archive, "top")
        assert found.passed_over == case.passed_over, found
        now = {path: content(home / path) for path in tree(home)}
        made = {f"top/{path}": what for path, what in case.tree.items()}
        assert now == before | made
    assert not list(home.rglob(".wingsd-*"))
    after = {path: content(path) for path in home.parent.rglob("*") if home not in path.parents}
    assert after == beside


def test_the_corpus_is_large_and_its_titles_are_its_own() -> None:
    assert len({case.title for case in CORPUS}) == len(CORPUS) >= 80
    refused = sum(bool(case.code) for case in CORPUS)
    assert min(refused, len(CORPUS) - refused) >= 30


def test_modes_times_and_the_owner_are_kept_and_set_id_bits_are_not(
    root: ServerRoot, home: Path, free: Guard
) -> None:
    parts = (
        member(b"d/", typeflag=b"5", mode=0o2570),
        member(b"d/f", b"x", mode=0o4755),
        member(b"unreadable", b"x", mode=0),
    )
    (home / "a.tar").write_bytes(b"".join(parts) + END)
    assert extracted(root, free, "a.tar").written == 3
    modes = {name: (home / name).stat().st_mode & 0o7777 for name in ("d", "d/f", "unreadable")}
    assert modes == {"d": 0o770, "d/f": 0o755, "unreadable": 0o600}
    for name in modes:
        found = (home / name).stat()
        assert found.st_mtime == 1_700_000_000
        assert (found.st_uid, found.st_gid) == OWNER


@pytest.mark.promise("user-archive-stays-inside")
def test_names_that_wait_for_the_end_take_bounded_memory(
    root: ServerRoot, home: Path, free: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "MAX_WAITING", 2500)
    deep = b"/".join([b"abcdefgh"] * 100)
    links = (pax((b"path", deep + b"/%d" % n)) + symlink(b"l", b"x") for n in range(5))
    (home / "a.tar").write_bytes(tar(*links))
    found = extracted(root, free, "a.tar")
    assert (found.written, found.passed_over) == (2, 3)


@pytest.mark.promise("user-archive-stays-inside")
def test_directories_without_files_stop_at_the_disk_limit(
    root: ServerRoot, home: Path, free: Guard, usage: UsageCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_module, "FREE_ENTRIES", 10)
    usage.limit = 1 << 20
    deep = b"/".join([b"ab"] * 200)
    files = (pax((b"path", top + deep + b"/f")) + member(b"f", b"") for top in (b"", b"b/"))
    (home / "a.tar").write_bytes(tar(*files))
    with pytest.raises(DiskLimitExceeded):
        extracted(root, free, "a.tar")
    assert sum(path.is_dir() for path in home.rglob("*")) == 10 + (1 << 20) // 4096


def test_the_progress_tells_bytes_and_files(root: ServerRoot, home: Path, free: Guard) -> None:
    (home / "a.zip").write_bytes(zipped(ZipMember(b"f", bytes(30)), ZipMember(b"g", bytes(7))))
    progress = Progress()
    extracted(root, free, "a.zip", progress=progress)
    assert (progress.bytes_total, progress.bytes_done, progress.files_done) == (37, 37, 2)


@pytest.mark.promise("files-are-old-or-new")
def test_one_that_is_cancelled_leaves_the_old_file(
    root: ServerRoot, home: Path, free: Guard
) -> None:
    (home / "f").write_bytes(b"old")
    (home / "a.zip").write_bytes(zipped(ZipMember(b"f", bytes(1 << 20))))
    progress = Progress()
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            progress.cancel()
        Progress.check(progress)

    progress.check = check  # type: ignore[method-assign]
    with pytest.raises(FileWorkCancelled):
        extracted(root, free, "a.zip", progress=progress)
    assert tree(home) == ["a.zip", "f"]
    assert (home / "f").read_bytes() == b"old"


def test_a_file_that_is_in_use_is_told_in_the_words_of_wings(
    root: ServerRoot, home: Path, free: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_file(*_: object) -> None:
        raise FileInUse("f")

    monkeypatch.setattr(ServerRoot, "new_file", new_file)
    (home / "a.zip").write_bytes(zipped(ZipMember(b"f")))
    with pytest.raises(OverwritesFileInUse) as caught:
        extracted(root, free, "a.zip")
    assert caught.value.message == (
        "One or more files this archive is attempting to overwrite are currently in use by "
        "another process. Please try again."
    )


def test_a_library_that_is_missing_is_named(
    root: ServerRoot, home: Path, free: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def library() -> None:
        raise OSError("libarchive.so.13: cannot open shared object file")

    monkeypatch.setattr("wingsd.user_archives.child.library", library)
    (home / "a.zip").write_bytes(zipped(ZipMember(b"f")))
    with pytest.raises(ArchiveMethodUnsupported, match=r"missing on this node: libarchive\.so"):
        extracted(root, free, "a.zip")


def test_an_archive_that_is_denied_or_absent_is_not_read(root: ServerRoot, home: Path) -> None:
    (home / "a.zip").write_bytes(zipped(ZipMember(b"f")))
    with pytest.raises(FileDenied):
        extracted(root, guard(root, "a.zip"), "a.zip")
    with pytest.raises(FileMissing):
        extracted(root, guard(root), "b.zip")


@pytest.mark.parametrize(
    ("name", "made"),
    [("x.log.gz", "x.log"), ("X.GZ", "X"), ("odd", "odd.out"), ("x.svgz", "x.svgz.out")],
)
def test_a_single_file_gets_the_name_without_the_suffix_and_the_archives_mode(
    root: ServerRoot, home: Path, free: Guard, name: str, made: str
) -> None:
    (home / name).write_bytes(gzip.compress(b"text"))
    (home / name).chmod(0o640)
    os.utime(home / name, (1, 1_000_000_000))
    extracted(root, free, name, "new/place")
    found = (home / "new/place" / made).stat()
    assert (home / "new/place" / made).read_bytes() == b"text"
    assert (found.st_mode & 0o777, found.st_mtime) == (0o640, 1_000_000_000)

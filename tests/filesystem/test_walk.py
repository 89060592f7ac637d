"""Walking a tree: its order, its bounds, and what cannot be read."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest

from tests.support.archives import run
from wingsd.archive.compress import Compression
from wingsd.archive.pack import pack
from wingsd.archive.partition import split
from wingsd.errors import StorageError
from wingsd.filesystem import walk as walking
from wingsd.filesystem.walk import (
    BATCH,
    ENTRY_SIZE,
    MAX_SIZE,
    FirstNames,
    Listing,
    Measured,
    measure,
    opened,
    opened_again,
    survey,
    walk,
)

pytestmark = pytest.mark.root


def walked(root: Path) -> tuple[list[Listing], list[str]]:
    left_out: list[str] = []
    with opened(str(root)) as fd:
        listings = list(walk(fd, lambda name, why: left_out.append(f"{name!r} {why}")))
    return listings, left_out


@contextmanager
def deep_tree(at: Path, name: bytes, depth: int) -> Iterator[None]:
    """Make directories in one another, deeper than any path reaches."""
    at.mkdir()
    here = os.open(at, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        yield
    finally:
        run("rm", "-rf", str(at))  # shutil's recursion ends before the tree does


def test_the_order_depends_on_names_alone(tmp_path: Path) -> None:
    for name in ("b", "a", "a/z", "a/y", "c"):
        (tmp_path / name).mkdir()
    for name in ("z", "a/f", "a/y/g", "B"):
        (tmp_path / name).touch()
    (tmp_path / "s").symlink_to("nowhere")
    os.mkfifo(tmp_path / "p")
    listings, _ = walked(tmp_path)
    assert [b"/".join(listing.path) for listing in listings] == [
        b"",
        b"a",
        b"a/y",
        b"a/z",
        b"b",
        b"c",
    ]
    root = listings[0]
    assert (root.files, root.symlinks, root.others) == ([b"B", b"z"], [b"s"], [b"p"])
    assert root.directories == [b"a", b"b", b"c"]
    assert (listings[2].prefix, listings[2].files) == (b"a/y/", [b"g"])


def open_directories(disk: int) -> int:
    """Return how many directories of a disk are open: threads of other tests close sockets."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing, or of another thread
            found = os.fstat(int(name))
            count += found.st_dev == disk and stat.S_ISDIR(found.st_mode)
    return count


def test_deep_and_wide_trees_need_few_descriptors(tmp_path: Path) -> None:
    disk = tmp_path.stat().st_dev
    before = open_directories(disk)
    count = most = 0
    with deep_tree(tmp_path / "t", b"d", 3000):
        for level in range(0, 400, 7):
            (tmp_path / "t" / ("d/" * level) / "side").mkdir()
        with opened(str(tmp_path / "t")) as root:
            for _ in walk(root, lambda name, why: None):
                count += 1
                most = max(most, open_directories(disk) if count % 50 == 0 else 0)
    assert count == 3001 + 58
    assert most - before <= 70
    assert most - before > 1
    assert open_directories(disk) == before


def test_what_is_too_deep_is_said_so(tmp_path: Path) -> None:
    with (
        deep_tree(tmp_path / "t", b"n" * 255, 70),
        pytest.raises(StorageError, match=r"nested too deeply.*move it up or delete it"),
    ):
        walked(tmp_path / "t")


def test_a_root_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "s").symlink_to(tmp_path)
    for name, why in (("missing", "does not exist"), ("f", "not a directory"), ("s", "directory")):
        with pytest.raises(StorageError, match=f"{name}: .*{why}") as caught:
            walked(tmp_path / name)
        assert caught.value.message == "the server's files could not be read"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "permission denied; .* may read"),
        (errno.EIO, "kernel log"),
        (errno.EMFILE, "too many open files"),
    ],
)
def test_a_directory_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "locked").mkdir()
    real = os.open

    def fail(path: str | bytes, flags: int, dir_fd: int | None = None) -> int:
        if path == b"locked":
            raise OSError(code, os.strerror(code))
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StorageError, match=f'"locked" could not be read: .*{words}'):
        measure(str(tmp_path))


def test_missing_and_replaced_files_are_reported(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / "t" / name / "below").mkdir(parents=True)
    (tmp_path / "outside/secret").mkdir(parents=True)
    told: list[str] = []
    seen = []
    with opened(str(tmp_path / "t")) as root:
        for listing in walk(root, lambda name, why: told.append(f"{name!r} {why}")):
            seen.append(b"/".join(listing.path))
            if listing.path == (b"a",):
                for name in ("b", "c"):
                    (tmp_path / "t" / name).rename(tmp_path / f"moved-{name}")
                (tmp_path / "t/b").symlink_to(tmp_path / "outside")
                (tmp_path / "t/d").rename(tmp_path / "moved-d")
                (tmp_path / "t/d").touch()
    assert seen == [b"", b"a", b"a/below"]
    assert told == [
        "b'b' it was replaced by something else meanwhile",
        "b'c' it vanished meanwhile",
        "b'd' it was replaced by something else meanwhile",
    ]


def test_measuring_counts_a_hard_linked_file_once(tmp_path: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "t/f").write_bytes(b"x" * 1000)
    (tmp_path / "t/d/g").write_bytes(b"y" * 37)
    os.link(tmp_path / "t/f", tmp_path / "t/d/h")
    os.link(tmp_path / "t/d/g", tmp_path / "outside-too")
    (tmp_path / "t/s").symlink_to("f")
    os.mkfifo(tmp_path / "t/p")
    os.truncate(tmp_path / "t/d/g", 5037)
    assert measure(str(tmp_path / "t")) == 6037


def test_measuring_ignores_what_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"123")
    real = os.stat

    def vanishing(path: bytes, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        (tmp_path / "b").unlink(missing_ok=True)
        return real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", vanishing)
        assert measure(str(tmp_path)) == 3


def test_measuring_reports_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", Mock(side_effect=OSError(errno.EIO, "")))
        with pytest.raises(StorageError, match=r'"f" could not be read: the disk failed'):
            measure(str(tmp_path))


def test_a_directory_with_many_names_comes_in_batches(tmp_path: Path) -> None:
    for number in range(BATCH + 700):
        (tmp_path / f"f{number}").touch()
    for number in range(300):
        (tmp_path / f"d{number}" / "below").mkdir(parents=True)
    found, _ = walked(tmp_path)
    first, second, *below = found
    assert [first.is_first, second.is_first] == [True, False]
    assert [first.path, second.path] == [(), ()]
    for kind in ("files", "directories"):
        one, other = getattr(first, kind), getattr(second, kind)
        assert (one, other) == (sorted(one), sorted(other))
    assert sorted(first.files + second.files) == sorted(
        b"f%d" % number for number in range(BATCH + 700)
    )
    # each directory is entered once, after all files beside it
    entered = [listing.path for listing in below]
    assert sorted(path[0] for path in entered if len(path) == 1) == sorted(
        b"d%d" % number for number in range(300)
    )
    assert len(entered) == 600
    assert all(listing.is_first for listing in below)


MANY = 12_000
#: Bytes of memory, for names of 200 bytes of which all together take 3 MiB.
LITTLE = 2_800_000
MIB = 1 << 20


def needed(work: Callable[[], object]) -> int:
    """Return the most bytes of memory that `work` takes at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.promise("huge-directories-need-little-memory")
def test_a_directory_of_many_names_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "BATCH", BATCH // 4)
    for number in range(MANY):
        os.mknod(tmp_path / f"{number:0200}", 0o600)
    assert needed(lambda: measure(str(tmp_path))) < LITTLE
    assert needed(lambda: split(str(tmp_path), 3)) < LITTLE
    packing = partial(
        pack,
        str(tmp_path),
        lambda block: None,
        links=True,
        compression=Compression.NONE,
        warn=print,
        progress=lambda total, files: None,
        threads=False,
    )
    assert needed(packing) < LITTLE + MIB  # with its buffers


def test_a_root_that_is_opened_again_is_listed_beside_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "BATCH", 8)
    names = {b"%0200d" % number for number in range(1000)}  # the kernel tells them in parts
    for name in names:
        (tmp_path / name.decode()).touch()
    with opened(str(tmp_path)) as root, opened_again(root) as again:
        listings, others = (walk(fd, lambda path, why: None) for fd in (root, again))
        found = next(listings).files
        assert {name for each in others for name in each.files} == names
        found += [name for each in listings for name in each.files]
    assert len(found) == len(names)
    assert set(found) == names


@pytest.mark.promise("huge-directories-need-little-memory")
def test_too_many_directories_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "MAX_PENDING", 1010)
    (tmp_path / "wide").mkdir()
    for number in range(101):
        (tmp_path / "wide" / f"{number:09}").mkdir()
    with pytest.raises(StorageError, match=r'"wide" holds too many directories: .*delete some'):
        measure(str(tmp_path))
    (tmp_path / "wide" / f"{0:09}").rmdir()
    assert measure(str(tmp_path)) == 0
    # those that were entered are not counted any more
    (tmp_path / "also").mkdir()
    for number in range(90):
        (tmp_path / "also" / f"{number:09}").mkdir()
    assert measure(str(tmp_path)) == 0


@pytest.mark.promise("huge-directories-need-little-memory")
def test_too_many_hard_links_are_reported() -> None:
    names = FirstNames(3 * 260)
    assert [names.add((1, number), b"12345") for number in (1, 2, 1, 3)] == [
        True,
        True,
        False,
        True,
    ]
    with pytest.raises(StorageError, match="more than 3 of its files have several hard links"):
        names.add((1, 4), b"12345")


@pytest.mark.promise("size-is-counted-alike")
def test_directories_and_links_beyond_the_free_ones_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "FREE_ENTRIES", 3)
    (tmp_path / "f").write_bytes(b"x" * 100)
    (tmp_path / "large").write_bytes(b"x" * 1000)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "s").symlink_to("f")
    assert measure(str(tmp_path)) == 1100
    os.link(tmp_path / "f", tmp_path / "a/b/g")
    (tmp_path / "c").mkdir()
    found = survey(str(tmp_path))
    # of files the blocks, which small ones need not have, and of all others one each
    assert found == Measured(1100 + 2 * ENTRY_SIZE, b"large", 1000, found.on_disk, 6)
    assert 4 * ENTRY_SIZE <= found.on_disk <= 6 * ENTRY_SIZE


@pytest.mark.promise("room-is-checked-before-the-stop")
def test_neither_holes_nor_what_was_allocated_beforehand_is_on_the_disk() -> None:
    keep_size, size = 1, ctypes.c_int64(1 << 20)
    with TemporaryDirectory(dir="/dev/shm") as top:
        with open(f"{top}/sparse", "wb") as file:
            file.truncate(1 << 30)
        with open(f"{top}/log", "wb", buffering=0) as file:
            file.write(b"x" * 5000)
            libc = ctypes.CDLL(None)
            assert libc.fallocate(file.fileno(), keep_size, ctypes.c_int64(0), size) == 0
            assert os.fstat(file.fileno()).st_blocks * 512 == 1 << 20
        found = survey(top)
        assert (found.size, found.on_disk) == ((1 << 30) + 5000, 2 * ENTRY_SIZE)


@pytest.mark.promise("server-files-are-bounded")
def test_a_size_is_never_more_than_messages_and_databases_hold() -> None:
    # In memory, where a file may have 8 EiB of holes.
    with TemporaryDirectory(dir="/dev/shm") as top:
        for name in ("a", "b", "c"):
            with open(f"{top}/{name}", "wb") as file:
                os.truncate(file.fileno(), MAX_SIZE)
        assert survey(top) == Measured(MAX_SIZE, b"a", MAX_SIZE, 0, 3)

"""A tree that is divided, sent in several archives at a time, and received so."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve

from tests.archive.packing import packed
from tests.support.archives import END, TIME, in_blocks, member, odd_tree, pax, seen, stamp
from wingsd.archive import partition
from wingsd.archive.extract import Extracted, SharedTreeWriter
from wingsd.archive.partition import (
    FILES,
    SYMLINKS,
    Part,
    PartitionBuilder,
    TreeKey,
    TreeRange,
    directory_key,
    split,
)
from wingsd.archive.policy import Kind
from wingsd.archive.quota import DEFAULT, ArchiveLimits
from wingsd.errors import ArchiveError, DiskLimitExceeded, WingsdError
from wingsd.filesystem.open_directories import Path as TreePath

pytestmark = pytest.mark.root


def join(
    archives: Sequence[bytes],
    into: Path,
    limits: ArchiveLimits = DEFAULT,
    *,
    threads: bool = False,
) -> list[Extracted]:
    """Extract them, one after the other or all at the same time."""
    into.mkdir()
    notes: list[str] = []
    with closing(SharedTreeWriter(str(into), None, limits, len(archives))) as tree:

        def one(archive: bytes) -> Extracted:
            return tree.extract(in_blocks(archive), notes.append)

        if threads:
            with ThreadPoolExecutor(len(archives)) as pool:
                done = list(pool.map(one, archives))
        else:
            done = [one(archive) for archive in archives]
        tree.finish()
    assert notes == []
    return done


def fails(archives: Sequence[bytes], into: Path, limits: ArchiveLimits = DEFAULT) -> WingsdError:
    with pytest.raises(WingsdError) as caught:
        join(archives, into, limits)
    return caught.value


def pack(part: Part, *, links: bool = True) -> bytes:
    return bytes(packed(part, links=links).archive)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Odd names and kinds, links across directories, and many small files."""
    root = tmp_path / "source"
    root.mkdir()
    odd_tree(root)
    for number in range(40):
        path = root / f"region{number % 7}" / f"r.{number}.mca"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(3000 * (number % 5)))
    os.link(root / "region0" / "r.0.mca", root / "region6" / "again")
    os.link(root / "region3" / "r.3.mca", root / "region1" / "again")
    os.symlink("../region2/r.2.mca", root / "region5" / "latest")
    (root / "region4" / "empty").mkdir()
    stamp(root)
    return root


@pytest.mark.parametrize(
    ("count", "backwards", "threads"),
    [(1, False, False), (2, True, False), (5, False, True), (16, True, True)],
)
def test_a_tree_that_was_divided_is_the_same_again(
    tree: Path, tmp_path: Path, count: int, backwards: bool, threads: bool
) -> None:
    parts = split(str(tree), count)
    assert parts == split(str(tree), count)
    archives = [pack(part) for part in parts]
    assert archives == [pack(part) for part in parts]
    done = join(archives[::-1] if backwards else archives, tmp_path / "out", threads=threads)
    assert seen(tmp_path / "out", owner=False) == seen(tree, owner=False)
    whole = packed(tree).packed
    assert sum(each.counts[Kind.FILE] for each in done) == whole.counts[Kind.FILE]
    assert sum(each.counts[Kind.HARD_LINK] for each in done) == whole.counts[Kind.HARD_LINK]
    assert sum(each.counts[Kind.SYMLINK] for each in done) == whole.counts[Kind.SYMLINK]
    assert sum(each.unpacked_bytes for each in done) == whole.packed_bytes


def test_without_links_each_name_is_a_file_in_exactly_one_part(tree: Path) -> None:
    names: list[str] = []
    for part in split(str(tree), 6):
        with tarfile.open(fileobj=io.BytesIO(pack(part, links=False))) as archive:
            names += [each.name for each in archive if each.isfile()]
    assert sorted(names) == sorted(set(names))
    assert {"region0/r.0.mca", "region6/again", "region5/latest"} <= set(names)


def test_what_comes_between_the_walks_is_in_one_part(tree: Path, tmp_path: Path) -> None:
    parts = split(str(tree), 5)
    for directory in ("region0", "region3", "region6"):
        (tree / directory / "new").write_bytes(b"new")
    join([pack(part) for part in parts], tmp_path / "out")
    assert (tmp_path / "out" / "region3" / "new").read_bytes() == b"new"
    assert (tmp_path / "out" / "region6" / "new").read_bytes() == b"new"


def test_a_first_name_that_is_another_file_is_not_linked_to(tree: Path, tmp_path: Path) -> None:
    parts = split(str(tree), 5)
    data = (tree / "region0" / "r.0.mca").read_bytes()
    (tree / "region0" / "r.0.mca").unlink()
    (tree / "region0" / "r.0.mca").write_bytes(b"another")
    join([pack(part) for part in parts], tmp_path / "out")
    assert (tmp_path / "out" / "region6" / "again").read_bytes() == data
    assert (tmp_path / "out" / "region0" / "r.0.mca").read_bytes() == b"another"


def test_an_archive_whose_end_a_go_node_would_miss_says_the_root_once_more(tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "file").write_bytes(b"y" * 60_000)
    roots = []
    for size in range(30_000, 30_000 + 64 * 512, 512):
        (root / "b" / "file").write_bytes(b"x" * size)
        archive = pack(split(str(root), 2)[1])
        assert len(archive) % (32 * 1024)
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            roots.append([each.name for each in members].count("."))
    assert sorted(roots) == [0] * 63 + [1]


# What other senders may bring


def test_directories_are_shared_and_the_most_said_of_them_holds(tmp_path: Path) -> None:
    time = pax((b"mtime", b"%.9f" % (TIME / 1e9)))
    archives = [
        member(b"a/b/one", b"1") + END,
        time + member(b"a/", typeflag=b"5", mode=0o710) + END,
        member(b"a/b/two", b"2") + time + member(b"a/b/", typeflag=b"5", mode=0o701) + END,
    ]
    join(archives, tmp_path / "out")
    for name, mode in (("a", 0o710), ("a/b", 0o701)):
        found = (tmp_path / "out" / name).stat()
        assert found.st_mode & 0o7777 == mode
        assert int(found.st_mtime) == TIME // 10**9
    assert sorted(os.listdir(tmp_path / "out" / "a" / "b")) == ["one", "two"]


def test_a_directory_that_nobody_may_enter_is_closed_after_all_is_in_it(tmp_path: Path) -> None:
    closed = member(b"a/", typeflag=b"5", mode=0o500) + member(b"a/b/", typeflag=b"5", mode=0o500)
    join([closed + END, member(b"a/b/file", b"1") + END], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b").stat().st_mode & 0o7777 == 0o500
    assert (tmp_path / "out" / "a" / "b" / "file").read_bytes() == b"1"


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize(
    "other",
    [
        member(b"x", b"other"),
        member(b"x", typeflag=b"2", link=b"elsewhere"),
        member(b"y", b"") + member(b"x", typeflag=b"1", link=b"y"),
        member(b"x/", typeflag=b"5"),
    ],
    ids=["file", "symlink", "hard link", "directory"],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_what_comes_twice_is_refused(tmp_path: Path, other: bytes, backwards: bool) -> None:
    archives = [member(b"x", b"one") + END, other + END]
    error = fails(archives[::-1] if backwards else archives, tmp_path / "out")
    assert isinstance(error, ArchiveError)
    assert "comes more than once" in error.detail


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize("backwards", [False, True])
def test_no_symlink_of_another_archive_is_followed(tmp_path: Path, backwards: bool) -> None:
    (tmp_path / "outside").mkdir()
    link = member(b"x", typeflag=b"2", link=b"../outside") + END
    archives = [link, member(b"x/file", b"1") + END]
    error = fails(archives[::-1] if backwards else archives, tmp_path / "out")
    assert isinstance(error, ArchiveError)
    assert os.listdir(tmp_path / "outside") == []


def test_a_hard_link_may_come_before_its_file(tmp_path: Path) -> None:
    link = member(b"dir/name", typeflag=b"1", link=b"other/file") + END
    join([link, member(b"other/file", b"data") + END], tmp_path / "out")
    out = tmp_path / "out"
    assert os.path.samefile(out / "dir" / "name", out / "other" / "file")


def test_a_hard_link_to_a_missing_file_is_an_error(tmp_path: Path) -> None:
    link = member(b"name", typeflag=b"1", link=b"missing") + END
    error = fails([link, member(b"file", b"") + END], tmp_path / "out")
    assert "which does not exist" in error.detail


def test_the_limits_are_for_all_of_them_together(tmp_path: Path) -> None:
    half = b"x" * 600_000
    archives = [member(b"a", half) + END, member(b"b", half) + END]
    error = fails(archives, tmp_path / "disk", DEFAULT.for_server(1))
    assert isinstance(error, DiskLimitExceeded)
    few = [member(b"a%d" % n, b"") + member(b"b%d" % n, b"") + END for n in range(3)]
    error = fails(few, tmp_path / "members", evolve(DEFAULT, members=5))
    assert "more than 5 files" in error.detail
    join(few, tmp_path / "enough", evolve(DEFAULT, members=6))


def listed(tree: dict[TreePath, list[bytes]]) -> list[TreeKey]:
    """Return the places of all directories and of the files in them, in the order of a walk."""
    keys = []
    for path, files in tree.items():
        keys.append(directory_key(path))
        keys += [(*directory_key(path), (FILES, name)) for name in files]
    return sorted(keys)


TREE: dict[TreePath, list[bytes]] = {
    (): [b"a", b"z"],
    (b"a",): [b"1", b"2"],
    (b"a", b"deep"): [b"x"],
    (b"a", b"deeper"): [],
    (b"b",): [b"0"],
}


def equal_ranges(keys: list[TreeKey], sizes: list[int], count: int) -> list[TreeRange]:
    builder = PartitionBuilder()
    for key, size in zip(keys, sizes, strict=True):
        builder.add(key, size)
    return builder.ranges(count)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_name_is_in_exactly_one(count: int) -> None:
    keys = listed(TREE)
    ranges = equal_ranges(keys, [10] * len(keys), count)
    assert len(ranges) == count
    for key in keys:
        assert sum(each.contains(key) for each in ranges) == 1
    # As is a name that was not there when the tree was divided.
    for key in [((FILES, b"new"),), ((partition.DIRECTORIES, b"a"), (SYMLINKS, b"new"))]:
        assert sum(each.contains(key) for each in ranges) == 1


def test_they_are_about_equal_and_always_the_same() -> None:
    rng = random.Random(7)
    keys: list[TreeKey] = [((FILES, b"%06d" % number),) for number in range(30_000)]
    sizes = [rng.choice([0, 100, 10_000, 3_000_000]) for _ in keys]
    ranges = equal_ranges(keys, sizes, 5)
    assert ranges == equal_ranges(keys, sizes, 5)
    held = [
        sum(size for key, size in zip(keys, sizes, strict=True) if each.contains(key))
        for each in ranges
    ]
    assert sum(held) == sum(sizes)
    fair = sum(sizes) / 5
    # As near as the places that are remembered, and the largest file, allow.
    allowed = 3_000_000 + 4 * sum(sizes) / partition.MAX_MARKS
    assert all(abs(each - fair) <= allowed for each in held)

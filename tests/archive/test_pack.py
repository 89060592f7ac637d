"""Whole trees, packed: as every reader takes them out again."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.archive.packing import packed, unpacked
from tests.support.archives import run, seen
from wingsd.archive import pack as members
from wingsd.archive.compress import Compression
from wingsd.archive.policy import Kind
from wingsd.errors import DiskLimitExceeded, StorageError
from wingsd.filesystem.walk import measure

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.mark.parametrize(
    ("compression", "threads"),
    [(Compression.NONE, False), (Compression.BEST_SPEED, True), (Compression.GOOD_SPEED, True)],
)
def test_our_own_extractor_takes_everything_back(
    tree: Path, tmp_path: Path, compression: Compression, threads: bool
) -> None:
    sent = packed(tree, compression=compression, threads=threads)
    done = unpacked(sent, tmp_path / "out")
    assert seen(tmp_path / "out", owner=False) == seen(tree, owner=False)
    assert sent.notes == []
    assert sent.packed.sha256 == done.sha256 == hashlib.sha256(sent.archive).hexdigest()
    assert sent.packed.archive_bytes == done.archive_bytes == len(sent.archive)
    assert sent.packed.packed_bytes == done.unpacked_bytes == measure(str(tree))
    assert sent.packed.counts[Kind.FILE] == done.counts[Kind.FILE]
    assert sent.packed.counts[Kind.DIRECTORY] == done.counts[Kind.DIRECTORY] == 8
    assert (sent.packed.counts[Kind.SYMLINK], sent.packed.counts[Kind.HARD_LINK]) == (4, 1)
    assert sent.packed.counts[Kind.SKIPPED] == 0


READERS = {
    "gnu": "tar -xzpf - --same-permissions --delay-directory-restore",
    "bsd": "bsdtar -xzpf -",
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.BEST_COMPRESSION])
def test_other_tools_unpack_it(
    tree: Path, tmp_path: Path, reader: str, compression: Compression
) -> None:
    sent = packed(tree, compression=compression)
    out = tmp_path / "out"
    out.mkdir()
    run(*READERS[reader].split(), cwd=out, data=bytes(sent.archive))
    found, expected = seen(out, owner=False), seen(tree, owner=False)
    if reader == "bsd":  # it leaves the directory it works in as it is, its own archives' as well
        del found[b""], expected[b""]
    assert found == expected
    run("gzip", "-t", data=bytes(sent.archive))


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.BEST_SPEED])
@pytest.mark.parametrize("portions", [1, 5])
def test_the_tar_never_ends_where_a_go_node_would_not_read_on(
    tmp_path: Path, compression: Compression, portions: int
) -> None:
    # Such a node hashes what its inflater takes in, which gives out 32 KiB at once.
    top = tmp_path / "t"
    top.mkdir()
    (top / "f").touch()
    for path in (top / "f", top):
        os.utime(path, ns=(0, 10**18))
    empty = len(gzip.decompress(packed(top).archive))
    for missing in (0, 512):
        (top / "f").write_bytes(b"d" * (portions * 32768 - missing - empty))
        for path in (top / "f", top):
            os.utime(path, ns=(0, 10**18))
        sent = packed(top, compression=compression)
        tar = gzip.decompress(sent.archive)
        assert portions * 32768 - missing <= len(tar) <= portions * 32768 + 2048
        assert len(tar) % 32768
        out = tmp_path / f"out-{missing}"
        done = unpacked(sent, out)
        assert seen(out) == seen(top)
        assert sent.packed.counts[Kind.DIRECTORY] == done.counts[Kind.DIRECTORY]


def test_set_id_bits_stay_and_the_rest_of_a_mode_goes(tmp_path: Path) -> None:
    (tmp_path / "t/shared").mkdir(parents=True)
    (tmp_path / "t/f").touch()
    (tmp_path / "t/f").chmod(0o4755)
    (tmp_path / "t/shared").chmod(0o3777)
    sent = packed(tmp_path / "t")
    unpacked(sent, tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out/f").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out/shared").stat().st_mode) == 0o1777
    what = "is sent without its set-user-id or set-group-id bit"
    assert sent.notes == [f'"f" {what}', f'"shared" {what}']


def test_a_time_out_of_range_is_clamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # not every file system goes as far as the true limit, the year 2262
    limit = 10**18
    monkeypatch.setattr("wingsd.archive.pack._LATEST", limit)
    top, out = tmp_path / "t", tmp_path / "out"
    top.mkdir()
    for name, time in (("early", -limit - 1), ("late", limit + 1), ("last", limit)):
        (top / name).symlink_to("anywhere") if name == "early" else (top / name).touch()
        os.utime(top / name, ns=(time, time), follow_symlinks=False)
    os.utime(top, ns=(0, 0))
    sent = packed(top)
    unpacked(sent, out)
    times = [(out / name).lstat().st_mtime_ns for name in ("early", "late", "last")]
    assert times == [-limit, limit, limit]
    words = "is sent with another modification time: its own is out of range"
    assert sent.notes == [f'"late" {words}', f'"early" {words}']


def test_sockets_and_fifos_are_left_out(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "d").mkdir(parents=True)
    os.mkfifo(top / "d/pipe")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(top / "sock"))
    sent = packed(top)
    unpacked(sent, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["d"]
    assert sent.notes == [
        '"sock" is left out: it is a socket',
        '"d/pipe" is left out: it is a FIFO',
    ]
    assert sent.packed.counts[Kind.SKIPPED] == 2


def test_hard_links_across_directories_and_out_of_the_tree(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    (top / "a/f").write_bytes(b"one")
    (top / "b/alone").write_bytes(b"two")
    (top / "s").symlink_to("a/f")
    os.link(top / "a/f", top / "b/g")
    os.link(top / "b/alone", tmp_path / "elsewhere")
    os.link(top / "s", top / "b/t", follow_symlinks=False)
    sent = packed(top)
    unpacked(sent, tmp_path / "out")
    assert seen(tmp_path / "out", owner=False) == seen(top, owner=False)
    assert (tmp_path / "out/a/f").samefile(tmp_path / "out/b/g")
    assert (sent.packed.counts[Kind.HARD_LINK], sent.packed.counts[Kind.SYMLINK]) == (2, 1)


@pytest.mark.promise("foreign-files-are-not-sent")
@pytest.mark.parametrize("links", [True, False])
def test_a_foreign_file_with_several_links_is_not_sent(tmp_path: Path, links: bool) -> None:
    top = tmp_path / "t"
    top.mkdir()
    os.chown(top, 1234, 1235)
    for name, owner in (("own", 1234), ("others", 0)):
        (top / name).write_bytes(b"data")
        os.chown(top / name, owner, owner)
    os.link(top / "own", top / "again")
    assert packed(top, links=links).notes == []
    (tmp_path / "shadow").write_bytes(b"secret")
    os.link(tmp_path / "shadow", top / "linked")
    with pytest.raises(
        StorageError,
        match=r'"linked" belongs to user 0, .* user 1234, and it has 2 hard links.*chown 1234\)',
    ) as caught:
        packed(top, links=links)
    assert caught.value.message == "the server's files could not be read"
    os.chown(top / "linked", 1234, 0)
    assert packed(top, links=links).notes == []


@pytest.mark.promise("oversized-server-is-not-sent")
def test_a_sparse_file_beyond_the_limit_is_refused_before_its_data(tmp_path: Path) -> None:
    top = tmp_path / "t"
    top.mkdir()
    (top / "a").write_bytes(b"x" * MIB)
    with (top / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
    with pytest.raises(DiskLimitExceeded) as caught:
        packed(top, limit=2 * MIB)
    assert caught.value.detail.startswith(
        'with "sparse", which takes 64 MiB (0 MiB on this disk), the server\'s files take '
        "65 MiB, its disk limit is 2 MiB; raise its disk limit"
    )
    os.truncate(top / "sparse", MIB)
    assert packed(top, limit=2 * MIB).notes == []


@pytest.mark.promise("oversized-server-is-not-sent")
def test_a_file_with_large_holes_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_LARGE_HOLES", 3 * MIB)
    top = tmp_path / "t"
    top.mkdir()
    for name, size in (("large", 3 * MIB), ("small", 3 * MIB - 1)):
        with (top / name).open("wb") as file:
            file.truncate(size)
    assert packed(top).notes == [
        '"large" is sparse: its 3 MiB are sent in full, 0 MiB are on this disk'
    ]


def test_without_links_everything_is_a_file(tmp_path: Path) -> None:
    top, out = tmp_path / "t", tmp_path / "out"
    (top / "libraries").mkdir(parents=True)
    (top / "libraries/args.txt").write_bytes(b"-jar server.jar")
    (top / "libraries/args.txt").chmod(0o640)
    os.utime(top / "libraries/args.txt", ns=(1, 1_650_000_000_123_456_789))
    os.link(top / "libraries/args.txt", top / "hard")
    (top / "user_args.txt").symlink_to("libraries/args.txt")
    (top / "inside").symlink_to("/home/container/user_args.txt")
    (top / "libs").symlink_to("libraries")
    (top / "gone").symlink_to("missing.jar")
    (top / "loop").symlink_to("loop")
    (top / "passwd").symlink_to("/etc/passwd")
    sent = packed(top, links=False)
    done = unpacked(sent, out)
    for name in ("libraries/args.txt", "hard", "user_args.txt", "inside"):
        found = (out / name).lstat()
        assert stat.S_ISREG(found.st_mode)
        assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o640, 1)
        assert found.st_mtime_ns == 1_650_000_000_123_456_789
        assert (out / name).read_bytes() == b"-jar server.jar"
    assert set(os.listdir(out)) == {"libraries", "hard", "user_args.txt", "inside"}
    assert sent.notes == [
        '"gone" is left out: it is a symlink to "missing.jar", which does not exist',
        '"libs" is left out: it is a symlink to a directory, which the other node does not accept',
        '"loop" is left out: it is a symlink in a loop of symlinks',
        '"passwd" is left out: it is a symlink to "/etc/passwd", outside the server\'s directory',
    ]
    kinds = (Kind.FILE, Kind.SYMLINK, Kind.HARD_LINK)
    assert [done.counts[kind] for kind in kinds] == [4, 0, 0]
    assert (sent.packed.counts[Kind.FILE], sent.packed.counts[Kind.SKIPPED]) == (4, 4)
    assert sent.packed.packed_bytes == 4 * 15
    assert measure(str(top)) == 15


def test_a_tree_300_deep(tmp_path: Path) -> None:
    deep = tmp_path / "t" / "/".join(["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"bottom")
    (deep / "s").symlink_to("../" * 300 + "top")
    (tmp_path / "t/top").write_bytes(b"top")
    out = tmp_path / "out"
    out.mkdir()
    open_before = len(os.listdir("/proc/self/fd"))
    open_most = 0

    def look(_: int) -> None:
        nonlocal open_most
        open_most = max(open_most, len(os.listdir("/proc/self/fd")))

    sent = packed(tmp_path / "t", links=False, meanwhile=look)
    assert open_most - open_before < 140
    run("tar", "-xzf", "-", cwd=out, data=bytes(sent.archive))
    assert (out / "/".join(["d"] * 300) / "f").read_bytes() == b"bottom"
    assert (out / "/".join(["d"] * 300) / "s").read_bytes() == b"top"


leaf = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text("aé\n. ", min_size=1, max_size=100).map(str.encode),
).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name) and len(name) <= 255)
where = st.integers(0, 10**6)
when = st.integers(-(2**31) * 10**9, 2**33 * 10**9)
mode = st.integers(0, 0o1777)
step = st.one_of(
    st.tuples(st.just("file"), where, leaf, mode, when, st.binary(max_size=1200)),
    st.tuples(st.just("directory"), where, leaf, mode, when, st.just(b"")),
    st.tuples(st.just("symlink"), where, leaf, st.just(0), when, leaf),
    st.tuples(st.just("hard link"), where, leaf, st.just(0), when, st.just(b"")),
)


def grow(root: bytes, steps: list[tuple[str, int, bytes, int, int, bytes]]) -> None:
    """Make a tree, each step somewhere in what the steps before made."""
    directories, files = [root], []
    dressed: list[tuple[bytes, int, int]] = []
    for kind, number, name, mode_, mtime, data in steps:
        path = os.path.join(directories[number % len(directories)], name)
        if os.path.lexists(path):
            continue
        if kind == "file":
            with open(path, "wb") as file:
                file.write(data)
            files.append(path)
        elif kind == "directory":
            os.mkdir(path)
            directories.append(path)
        elif kind == "symlink":
            os.symlink(data, path)
        elif files:
            os.link(files[number % len(files)], path)
            continue
        else:
            continue
        dressed.append((path, mode_, mtime))
    for path, mode_, mtime in reversed(dressed):
        if not os.path.islink(path):
            os.chmod(path, mode_)
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=14))
def test_any_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, bytes, int, int, bytes]],
) -> None:
    place = tmp_path_factory.mktemp("any")
    (place / "t").mkdir()
    grow(os.fsencode(place / "t"), steps)
    sent = packed(place / "t", compression=Compression.BEST_SPEED)
    unpacked(sent, place / "out")
    assert seen(place / "out", owner=False) == seen(place / "t", owner=False)
    assert sent.progress[-1] == measure(str(place / "t"))
    assert sent.notes == []

"""Whole archives, as the tools of the trade write them, and such as are cut or damaged."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.archive.packing import unpack
from tests.support.archives import (
    END,
    member,
    run,
    seen,
    sparse_file,
)
from wingsd.archive.extract import extract
from wingsd.archive.policy import MAX_WARNINGS, Kind
from wingsd.errors import ArchiveError

pytestmark = pytest.mark.root

RANDOM = random.Random("extract")


WRITERS = {
    "gnu": "tar --format=gnu -cf - .",
    "gnu-gzip": "tar --format=gnu -czf - .",
    "gnu-zstd": "tar --format=gnu --zstd -cf - .",
    "oldgnu": "tar --format=oldgnu -cf - .",
    "pax": "tar --format=pax -cf - .",
    "bsd-pax": "bsdtar --format=pax -cf - .",
    "bsd-gnu": "bsdtar --format=gnutar -czf - .",
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("threads", [False, True])
def test_trees_come_out_unchanged(tree: Path, tmp_path: Path, writer: str, threads: bool) -> None:
    archive = run(*WRITERS[writer].split(), cwd=tree)
    exact = "pax" in writer
    done, notes = unpack(archive, tmp_path / "out", threads=threads)
    expected = seen(tree, nanoseconds=exact, owner=False)
    assert seen(tmp_path / "out", nanoseconds=exact, owner=False) == expected
    assert done.sha256 == hashlib.sha256(archive).hexdigest()
    assert done.archive_bytes == len(archive)
    assert (done.counts[Kind.HARD_LINK], done.counts[Kind.SYMLINK], notes) == (1, 4, [])
    files = sum(path.is_file() and not path.is_symlink() for path in tree.rglob("*"))
    assert done.counts[Kind.FILE] == files - 1


@pytest.mark.parametrize(
    "writer",
    [
        "tar --format=gnu -S -cf - f",
        "tar --format=pax --sparse-version=0.0 -S -cf - f",
        "tar --format=pax --sparse-version=0.1 -S -cf - f",
        "tar --format=pax --sparse-version=1.0 -S -cf - f",
        "bsdtar --format=pax --read-sparse -cf - f",
    ],
)
def test_sparse_files_stay_sparse(tmp_path: Path, writer: str) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    sparse_file(tree / "f", holes=30)
    archive = run(*writer.split(), cwd=tree)
    assert len(archive) < 2 << 20
    unpack(archive, out, 1000)
    assert (out / "f").read_bytes() == (tree / "f").read_bytes()
    assert (out / "f").stat().st_blocks <= (tree / "f").stat().st_blocks + 64


def test_everything_gets_the_owner(tree: Path, tmp_path: Path) -> None:
    unpack(run("tar", "-cf", "-", ".", cwd=tree), tmp_path / "out", owner=(1234, 4321))
    assert {entry[-2:] for entry in seen(tmp_path / "out").values()} == {(1234, 4321)}


@pytest.mark.parametrize(("size", "form"), [(1, "gnu"), (511, "pax"), (513, "gnu")])
def test_block_borders_do_not_matter(tmp_path: Path, size: int, form: str) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / ("n" * 150)).write_bytes(bytes(range(256)) * 9)
    sparse_file(tree / "s", 2)
    archive = run("tar", f"--format={form}", "-S", "-czf", "-", ".", cwd=tree)
    unpack(archive, out, size, threads=size > 100)
    assert seen(out, nanoseconds=form == "pax") == seen(tree, nanoseconds=form == "pax")


def test_notes_are_bounded(tmp_path: Path) -> None:
    archive = b"".join(member(b"p%d" % n, typeflag=b"6") for n in range(MAX_WARNINGS + 7))
    _, notes = unpack(archive + END, tmp_path / "out")
    assert len(notes) == MAX_WARNINGS + 1
    assert notes[-1] == "and 7 more warnings"


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_every_truncation_is_seen(tmp_path: Path, form: str) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / ("n" * 150)).write_bytes(b"x" * 700)
    (tree / "g").write_bytes(b"y" * 512)
    archive = run("tar", f"--format={form}", "--sort=name", "-b1", "-cf", "-", ".", cwd=tree)
    end = len(archive.rstrip(b"\0")) + -len(archive.rstrip(b"\0")) % 512
    cuts = [*range(0, end + 1, 512), *(RANDOM.randrange(1, end) for _ in range(60))]
    for cut in cuts:
        with pytest.raises(ArchiveError, match=r"ends in the middle|empty|unknown kind"):
            unpack(archive[:cut], tmp_path / "out")
    unpack(archive[: end + 512], tmp_path / "out")


def test_all_is_read_and_hashed(tmp_path: Path) -> None:
    archive = member(b"f", b"x") + END + b"whatever follows" * 1000
    done, _ = unpack(archive, tmp_path / "out", threads=True)
    assert done.archive_bytes == len(archive)
    assert done.sha256 == hashlib.sha256(archive).hexdigest()


def test_a_failure_wakes_a_source_that_waits(tmp_path: Path) -> None:
    aborted, before = threading.Event(), set(threading.enumerate())

    def waiting() -> Iterator[bytes]:
        yield member(b"../evil") + bytes(1 << 16)
        assert aborted.wait(10)

    with pytest.raises(ArchiveError, match="its name contains"):
        extract(waiting(), str(tmp_path), None, print, abort=aborted.set)
    assert aborted.is_set()
    assert set(threading.enumerate()) <= before


part = st.text("abé. ", min_size=1, max_size=120).filter(lambda p: p not in {".", ".."})
entry = st.tuples(
    st.lists(part, min_size=1, max_size=4).map("/".join),
    st.binary(max_size=1500),
    st.integers(0, 0o777),
    st.integers(0, 2**32),
)

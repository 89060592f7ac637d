"""Hostile archives: nothing outside the directory is touched, whatever becomes of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from typing import Any

import pytest

from tests.archive.hostile import CORPUS, Case
from tests.archive.hostile.case import directory, hard_link, symlink
from tests.support.archives import END, in_blocks, member
from wingsd.archive.extract import extract
from wingsd.errors import WingsdError

pytestmark = [pytest.mark.root, pytest.mark.promise("archive-stays-inside-the-server")]

ABSOLUTE = (Path("/tmp/wingsd-evil"), Path("/etc/wingsd-evil"))

#: What an extraction that others disturb may end with.
RACED = "not followed|not there|No such file|File exists|would replace"


def canaries(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return all there is about everything below `root` but its directory `out`."""
    found: dict[str, tuple[Any, ...]] = {}
    for where, directories, files in os.walk(root):
        if root / "out" == Path(where):
            directories.clear()
            continue
        for path in [Path(where), *(Path(where) / name for name in files)]:
            entry = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(entry.st_mode) else b""
            text = os.readlink(path) if path.is_symlink() else ""
            # all but the time of the last reading
            found[str(path)] = (*entry[:7], entry.st_mtime_ns, entry.st_ctime_ns, content, text)
    return found


LARGEST_FILE = 16 << 40


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where to extract to, with canaries all around, one of them the working directory."""
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "victim").write_bytes(b"precious")
    (outside / "d" / "deep").write_bytes(b"deep")
    (outside / "link").symlink_to("victim")
    os.link(outside / "victim", tmp_path / "twin")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(outside)
    before = canaries(tmp_path)
    # As of ext4: in memory, or in XFS, the largest file has as many bytes as there are numbers.
    size, most = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (LARGEST_FILE, most))
    yield tmp_path / "out"
    setrlimit(RLIMIT_FSIZE, (size, most))
    assert canaries(tmp_path) == before
    assert not [path for path in ABSOLUTE if path.exists()]


def tree(root: Path) -> dict[bytes, bytes | str | None]:
    found: dict[bytes, bytes | str | None] = {}
    # by descriptors, as some names are longer than a path may be
    for where, directories, files, fd in os.fwalk(os.fsencode(root)):
        prefix = where[len(os.fsencode(root)) + 1 :]
        for leaf in (*directories, *files):
            mode = os.stat(leaf, dir_fd=fd, follow_symlinks=False).st_mode
            name = prefix + b"/" + leaf if prefix else leaf
            if stat.S_ISLNK(mode):
                found[name] = os.fsdecode(os.readlink(leaf, dir_fd=fd))
            elif stat.S_ISDIR(mode):
                found[name] = None
            else:
                with open(os.open(leaf, os.O_RDONLY, dir_fd=fd), "rb") as file:
                    found[name] = file.read()
    return found


@pytest.mark.promise(
    "archive-memory-is-bounded",
    "archive-respects-the-disk-limit",
    "archive-stays-inside-the-server",
)
@pytest.mark.parametrize("case", CORPUS, ids=[case.name for case in CORPUS])
def test_hostile_archives(place: Path, case: Case) -> None:
    threads = len(case.name) % 2 == 1  # every second one
    notes: list[str] = []
    blocks = in_blocks(case.archive, 10_000)
    if case.words:
        with pytest.raises(WingsdError) as caught:
            extract(blocks, str(place), None, notes.append, limits=case.limits, threads=threads)
        assert re.search(case.words, str(caught.value)), caught.value
    else:
        extract(blocks, str(place), None, notes.append, limits=case.limits, threads=threads)
        assert tree(place) == case.tree
        assert tuple(notes) == case.notes
    for _, directories, files, fd in os.fwalk(place):
        for name in (*directories, *files):
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            assert not mode & (stat.S_ISUID | stat.S_ISGID)
            assert stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def test_the_corpus_is_large_and_its_names_are_its_own() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS) >= 60
    refused = sum(bool(case.words) for case in CORPUS)
    assert min(refused, len(CORPUS) - refused) >= 30


class Planter:
    """Somebody who puts a symlink to `outside` in the place of `directory`, and takes it away."""

    def __init__(self, directory: Path, outside: Path) -> None:
        self._directory = directory
        self._aside = directory.with_name("aside")
        self._outside = outside
        self._over = threading.Event()
        self.planted = 0
        self.thread = threading.Thread(target=self._run)

    def stop(self) -> None:
        self._over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                os.rename(self._directory, self._aside)
            except FileNotFoundError:
                continue
            try:
                os.symlink(self._outside, self._directory)
                self.planted += 1
                os.unlink(self._directory)
                os.rename(self._aside, self._directory)
            except OSError:  # the extraction made a directory of its own there meanwhile
                shutil.rmtree(self._aside, ignore_errors=True)


def raced() -> bytes:
    """Return an archive in which everything is done again and again below one directory."""
    parts = [directory(b"d/", 0o777)]
    for n in range(20):
        parts += [
            member(b"d/victim", b"evil"),
            directory(b"d/d/", 0o777),
            member(b"d/d/deep", b"evil"),
            symlink(b"d/link", b"evil"),
            hard_link(b"d/h%d" % n, b"d/victim"),
            directory(b"d/d%d/" % n, 0o777),
            # so many that no descriptor of those before is still open
            *(member(b"other%d/f" % k) for k in range(70)),
        ]
    return b"".join(parts) + END


def test_a_link_planted_meanwhile_changes_nothing_outside(place: Path) -> None:
    archive = raced()
    outside = place.parent / "outside"
    refused = planted = 0
    # How often it is planted in one round is for a busy machine to say.
    for n in range(100):
        if planted > 100 and refused:
            break
        root = place / str(n)
        root.mkdir()
        planter = Planter(root / "d", outside)
        planter.thread.start()
        try:
            extract(in_blocks(archive), str(root), (1234, 4321), print, threads=False)
        except WingsdError as error:
            assert re.search(RACED, str(error)), error
            refused += 1
        finally:
            planter.stop()
        planted += planter.planted
    assert planted > 100
    assert refused

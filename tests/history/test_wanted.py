"""A server gets what a backup has of a point: alone, or laid over its present files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.history.worlds import Model, model
from tests.support.archives import Tree, seen
from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import pack
from wingsd.archive.partition import Part
from wingsd.backups.points import IgnoreList
from wingsd.history.rewriting import Rewriting
from wingsd.history.wanted import Wanted
from wingsd.restores.storage import overlay

ACTS = 12
LINES = ["a", "!/b/a", "a.b/", "/-"]
MEMORY = 1 << 20


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    with model(tmp_path, 1) as made:
        yield made


def as_an_archive(history: Model, number: int, ignore: IgnoreList, *, truncate: bool) -> Tree:
    """Return what the server has when the backup is restored from an archive."""
    history.rebuilt(number)
    archive, into = history.directory / "archive", history.directory / "restored"
    with archive.open("wb") as file:
        pack(
            Part(str(history.directory / "rebuilt"), select=ignore.select),
            file.write,
            links=True,
            form=ArchiveFormat.TAR,
            compression=Compression.NONE,
            warn=lambda line: None,
            progress=lambda size, files: None,
        )
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    command = ["tar", "-xpf", str(archive), "--xattrs", "--acls", "-C", str(into)]
    subprocess.run(command, check=True, capture_output=True)
    if not truncate:
        fd = os.open(into, os.O_RDONLY)
        overlay(str(history.world.root), fd, (os.geteuid(), os.getegid()), MEMORY)
        os.close(fd)
    return seen(into)


def as_a_point(history: Model, number: int, ignore: IgnoreList, *, truncate: bool) -> Tree:
    """Restore the backup by its point; return what the server has then."""
    place = history.directory / "place"
    wanted = Wanted(number, ignore.leaves_out, keeps_present=not truncate)
    with Rewriting(str(history.world.root), str(place)) as rewriting:
        drafted = rewriting.prepare(history.store, wanted)
        if truncate:
            history.world.change(3)
            history.make()
        rewriting.commit(history.store, wanted, (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    shutil.rmtree(place)
    return seen(history.world.root)


def comparable(tree: Tree) -> Tree:
    """Return the same without what an overlay has otherwise: times of directories, and links.

    A file that is as in the backup stays, with a present name that the backup lacks; an archive
    has another file in its place.
    """
    found = {}
    for name, (mode, time, content, _, *rest) in tree.items():
        is_directory = stat.S_ISDIR(int(mode, 8))
        found[name] = (mode, 0 if is_directory else time, content, *rest)
    return found


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("lines", [(), LINES])
@pytest.mark.parametrize("seed", range(4))
def test_a_restore_leads_to_the_same_files_as_that_of_an_archive(
    tmp_path: Path, seed: int, lines: list[str], truncate: bool
) -> None:
    with model(tmp_path, seed) as history:
        for _ in range(ACTS):
            history.act()
        for number in history.numbers()[-3:]:
            history.world.change(3)
            history.make()
            ignore = IgnoreList(lines)
            expected = as_an_archive(history, number, ignore, truncate=truncate)
            found = as_a_point(history, number, ignore, truncate=truncate)
            if truncate:
                assert found == expected
            else:
                del found[b""], expected[b""]
                assert comparable(found) == comparable(expected)
            history.make()


def test_a_file_that_gets_another_first_name_is_as_the_server_has_left_it(
    history: Model,
) -> None:
    root, wanted = history.world.root, Wanted(1, keeps_present=True)
    (root / "a").write_bytes(b"then")
    history.make()
    (root / "a").unlink()
    (root / "a").write_bytes(b"mine")
    os.link(root / "a", root / "b")
    history.make()
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        drafted = rewriting.prepare(history.store, wanted)
        (root / "b").write_bytes(b"written at the stop")
        history.make()
        rewriting.commit(history.store, wanted, (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    found = {each: (root / each).read_bytes() for each in ("a", "b")}
    assert found == {"a": b"then", "b": b"written at the stop"}


def test_a_present_name_keeps_its_file_where_a_link_of_a_left_out_file_replaces_it(
    history: Model,
) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"then")
    os.link(root / "a", root / "b")
    history.make()
    (root / "b").unlink()
    (root / "a").write_bytes(b"later")
    (root / "b").write_bytes(b"mine")
    os.link(root / "b", root / "c")
    history.make()
    as_a_point(history, 1, IgnoreList(["/a"]), truncate=False)
    found = {each: (root / each).read_bytes() for each in ("a", "b", "c")}
    assert found == {"a": b"later", "b": b"then", "c": b"mine"}

"""Extended attributes and ACLs in moves: read with what is read, kept, or left out and counted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from tests.moves.moving import Destination
from tests.moves.test_live_source import Move
from tests.support.archives import seen
from tests.support.attributes import ACCESS, DEFAULT, acl
from wingsd.filesystem.attributes import EVERYTHING, NOTHING, AttributesKept
from wingsd.moves.ledger import LedgerReader, LedgerWriter
from wingsd.moves.source import MoveSource

pytestmark = pytest.mark.root

ACL = acl(users={4033: 7}, group=0, mask=7)
LARGE = 100_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "server"
    (tree / "world" / "deep").mkdir(parents=True)
    (tree / "world" / "small").write_bytes(b"small")
    (tree / "world" / "large").write_bytes(os.urandom(LARGE))
    (tree / "world" / "empty").write_bytes(b"")
    (tree / "world" / "also").hardlink_to(tree / "world" / "empty")
    (tree / "plain").write_bytes(b"plain")
    for name in ("small", "large", "empty", "deep"):
        os.setxattr(tree / "world" / name, "user.note", name.encode())
        os.setxattr(tree / "world" / name, ACCESS, ACL)
    os.setxattr(tree / "world", DEFAULT, acl(users={4033: 7}, group=0, mask=7))
    os.setxattr(tree, "user.root", b"root")
    (tree / "world" / "deep" / "file").write_bytes(b"inherits nothing")
    return tree


def moved(tree: Path, there: Destination, kept: AttributesKept = EVERYTHING) -> list[str]:
    """Move a stopped server; return what is said of it."""
    said: list[str] = []
    with there.open() as to:
        move = Move(tree, to)
        move.source.close()
        with closing(MoveSource(str(tree), said.append, kept=kept)) as source:
            move.source = source
            move.round(running=False)
            to.finish()
    return said


@pytest.fixture
def move(tmp_path: Path, tree: Path) -> Iterator[Move]:
    with Destination(tmp_path / "there").open() as to:
        made = Move(tree, to)
        with closing(made.source):
            yield made
        vars(made).clear()  # pytest keeps what tests are given


def check_same(move: Move, tmp_path: Path) -> None:
    move.to.finish()
    assert seen(tmp_path / "there/tree") == seen(move.tree)


def test_a_server_keeps_them(tmp_path: Path, tree: Path) -> None:
    assert moved(tree, there := Destination(tmp_path / "there")) == []
    assert seen(there.tree) == seen(tree)


@pytest.mark.promise("attributes-are-moved")
def test_a_change_is_seen_by_ctime_and_only_its_file_is_read(
    move: Move, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move.round()
    asked: list[int] = []
    real = os.listxattr

    def listed(fd: int) -> list[str]:
        asked.append(os.fstat(fd).st_ino)
        return real(fd)

    monkeypatch.setattr("wingsd.filesystem.attributes.os.listxattr", listed)
    assert move.round() == 0
    assert asked == [tree.stat().st_ino]  # nothing was changed

    asked.clear()
    times = os.stat(tree / "world" / "small")
    os.setxattr(tree / "world" / "small", "user.note", b"other")
    os.removexattr(tree / "world" / "large", ACCESS)
    os.utime(tree / "world" / "small", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert move.round() == len(b"small")  # of the large file no block
    files = {(tree / "world" / name).stat().st_ino for name in ("small", "large", "empty")}
    assert files & set(asked) == {
        (tree / "world" / name).stat().st_ino for name in ("small", "large")
    }
    monkeypatch.undo()
    os.setxattr(tree / "world" / "deep", "user.note", b"changed")  # only ctime tells
    os.setxattr(tree / "world" / "also", "user.note", b"changed")
    move.round(running=False)
    check_same(move, tmp_path)
    assert move.warnings == []


@pytest.mark.promise("attributes-are-moved")
def test_what_was_removed_goes_after_a_commit_that_came_to_nothing(
    move: Move, tree: Path, tmp_path: Path
) -> None:
    move.round(running=False)
    check_same(move, tmp_path)
    for name in ("small", "large", "deep"):
        for attribute in os.listxattr(tree / "world" / name):
            os.removexattr(tree / "world" / name, attribute)
    (tree / "world" / "new").write_bytes(b"new")
    os.removexattr(tree / "world" / "new", ACCESS)  # of the default ACL
    (tree / "world" / "new").chmod(0o600)
    (tree / "world" / "directory").mkdir()
    for attribute in os.listxattr(tree / "world" / "directory"):
        os.removexattr(tree / "world" / "directory", attribute)

    move.round(running=False, resume=True)
    check_same(move, tmp_path)


@pytest.mark.promise("attributes-are-moved")
def test_a_destination_that_dies_has_them_in_its_ledger(tmp_path: Path, tree: Path) -> None:
    there = Destination(tmp_path / "there")
    moved(tree, there)
    with there.open() as to:  # as after a crash before the swap
        assert os.listxattr(there.tree / "world") == []
        assert os.listxattr(there.tree / "world/small") == []
        to.finish()
    assert seen(there.tree) == seen(tree)


@pytest.mark.promise("attributes-are-moved")
@pytest.mark.parametrize("kept", [NOTHING, AttributesKept(user=True, acls=False)])
def test_where_acls_are_not_kept_the_group_gets_what_its_entry_says(
    tmp_path: Path, tree: Path, kept: AttributesKept
) -> None:
    said = moved(tree, there := Destination(tmp_path / "there"), kept)

    count = 6 if kept == NOTHING else 5
    assert len(said) == 1
    assert said[0].startswith(f"{count} files and directories without")
    for name in ("small", "large", "empty", "deep"):
        before, after = (
            stat.S_IMODE((each / "world" / name).stat().st_mode) for each in (tree, there.tree)
        )
        assert before & 0o070 == 0o070
        assert after == before & 0o707
        assert os.listxattr(there.tree / "world" / name) == (["user.note"] if kept.user else [])


def test_a_source_that_knows_none_adopts_a_copy_without_them(tmp_path: Path, tree: Path) -> None:
    there = Destination(tmp_path / "there")
    moved(tree, there)
    with there.open() as to:
        to.drop_attributes()
        with closing(MoveSource(str(tree), lambda line: None, kept=NOTHING)) as source:
            move = Move(tree, to)
            move.source.close()
            move.source = source
            assert move.round(running=False, resume=True) == 0
            to.finish()
    found = seen(there.tree)
    assert not any(isinstance(field, tuple) for entry in found.values() for field in entry)


@pytest.mark.promise("other-versions-are-respected")
def test_a_ledger_of_the_first_version_goes_on(tmp_path: Path, tree: Path) -> None:
    there = Destination(tmp_path / "there")
    moved(tree, there, NOTHING)
    as_of_version_1(there.place / "ledger")

    moved(tree, there)

    assert seen(there.tree) == seen(tree)
    reader = LedgerReader([(there.place / "ledger").read_bytes()])
    assert sum(1 for _ in reader.records()) > 0


def as_of_version_1(path: Path) -> None:
    """Write a ledger as the daemon before this version has done."""
    data = path.read_bytes()
    assert data[8] == 2
    reader = LedgerReader([data])
    records = list(reader.records())
    with mock.patch("wingsd.moves.ledger.VERSION", 1):
        writer = LedgerWriter()
        assert reader.move is not None
        head = writer.header(reader.move)
        written = [head, *(writer.record(each.type, each.payload) for each in records)]
    path.write_bytes(b"".join(written))
    assert path.read_bytes()[8] == 1

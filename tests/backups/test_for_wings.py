"""Backups at rest are rewritten so that Wings can restore them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import DeferredLock

from tests.archive.test_regular_files import contents
from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.support.go import GoRestoreFailed, restore_as_go
from tests.support.present import present
from tests.support.reactor import until
from wingsd.backups.at_rest import BackupRewrites, Rewrite, rewrite_archive
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import BackupMissing, BackupNotForWings, ServerBusy
from wingsd.files.guard import Progress
from wingsd.servers.operations import Operation

pytestmark = pytest.mark.promise("backups-suit-the-destination")
Make = Callable[..., BackupNode]


class _Servers:
    def __init__(self, *servers: object) -> None:
        self.servers = servers

    def all(self) -> list[object]:
        return [*self.servers]


def rewrites_of(node: BackupNode) -> BackupRewrites:
    servers: Any = _Servers(node.server)
    node.made.family, node.made.terms = node.family, node.terms
    return BackupRewrites(node.made, servers, DeferredLock())


async def rewritten(node: BackupNode, backup: str = BACKUP) -> Rewrite:
    rewrite = await rewrites_of(node).begin(backup)
    await until(lambda: rewrite.is_over)
    return rewrite


def archive_of(node: BackupNode) -> Path:
    return Path(node.store.path(node.stored().place))


def is_whole(node: BackupNode) -> bool:
    """Return whether the archive in its place is the one of its catalogue."""
    found, data = node.catalogue(), archive_of(node).read_bytes()
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return (
        found.bytes,
        found.sha256,
        found.checksum,
    ) == (len(data), hashlib.sha256(data).hexdigest(), sha1)


def restored(node: BackupNode, at: Path) -> Path:
    at.mkdir()
    restore_as_go(archive_of(node), at)
    return at


def fill(node: BackupNode) -> None:
    (node.home / "empty").mkdir()
    (node.home / "a").write_bytes(os.urandom(300_000))
    os.link(node.home / "a", node.home / "b")
    (node.home / "link").symlink_to("a")


async def test_wings_restores_a_backup_that_was_rewritten(make_node: Make, tmp_path: Path) -> None:
    node = make_node(PELICAN)
    fill(node)
    await node.make()
    before = node.stored()
    with pytest.raises(GoRestoreFailed):
        restored(node, tmp_path / "before")
    rewrite = await rewritten(node)
    assert (rewrite.error, rewrite.is_unchanged) == (None, False)
    assert rewrite.not_kept == (
        "1 hard link as whole copies (293.0 KiB more), without 1 symlink, 1 empty directory"
    )
    assert contents(restored(node, tmp_path / "after")) == contents(node.home)
    after = node.stored()
    assert (after.place, after.server, after.size) == (before.place, SERVER, rewrite.size)
    assert after.modified == pytest.approx(before.modified, abs=1e-3)
    assert is_whole(node)
    assert node.left() == [SERVER, f"{SERVER}/{BACKUP}.catalogue.json", before.place]


async def test_a_second_time_nothing_is_written(node: BackupNode) -> None:
    fill(node)
    await node.make()
    await rewritten(node)
    inode = archive_of(node).stat().st_ino
    rewrite = await rewritten(node)
    assert (rewrite.is_unchanged, rewrite.error, rewrite.size) == (True, None, node.stored().size)
    assert archive_of(node).stat().st_ino == inode


async def test_one_without_a_catalogue_gets_none(node: BackupNode, tmp_path: Path) -> None:
    fill(node)
    await node.make()
    (node.backups / f"{BACKUP}.catalogue.json").unlink()
    assert (await rewritten(node)).error is None
    assert node.left() == [f"{BACKUP}.tar.gz"]
    assert contents(restored(node, tmp_path / "after")) == contents(node.home)


@pytest.mark.parametrize(
    "operation", [Operation.TRANSFER_OUT, Operation.FOLLOW, Operation.RESTORE, Operation.DELETE]
)
@pytest.mark.parametrize("owner", ["known", "unknown"])
async def test_one_that_may_be_in_use_is_refused(
    node: BackupNode, operation: Operation, owner: str
) -> None:
    await node.make()
    if owner == "unknown":
        (node.backups / f"{BACKUP}.catalogue.json").unlink()
    node.server.operations.place_hold(operation, "why")
    with pytest.raises(ServerBusy):
        await rewrites_of(node).begin(BACKUP)


async def test_meanwhile_no_transfer_or_restore_may_take_the_server(node: BackupNode) -> None:
    fill(node)
    await node.make()
    rewrite = await rewrites_of(node).begin(BACKUP)
    for operation in (Operation.TRANSFER_OUT, Operation.RESTORE):
        with pytest.raises(ServerBusy):
            node.server.operations.check(operation)
    # A deletion of the server ends it.
    node.server.operations.place_hold(Operation.DELETE, "why")
    await until(lambda: rewrite.is_over)
    assert isinstance(rewrite.error, BackupNotForWings)
    assert is_whole(node)
    assert not [name for name in node.left() if name.endswith(".part")]


async def test_what_cannot_be_rewritten_is_refused(
    make_node: Make,
) -> None:
    node = make_node()
    with pytest.raises(BackupMissing):
        await rewrites_of(node).begin(BACKUP)
    with pytest.raises(BackupMissing):
        rewrites_of(node).last(BACKUP)
    await node.begin(BACKUP)
    with pytest.raises(BackupNotForWings, match="being made"):
        await rewrites_of(node).begin(BACKUP)
    await node.over()
    (node.backups / f"{OTHER}.tar.zst").write_bytes(b"")
    with pytest.raises(BackupNotForWings, match="Wings knows only"):
        await rewrites_of(node).begin(OTHER)
    node.family = CALAGOPUS
    with pytest.raises(BackupNotForWings, match="Calagopus"):
        await rewrites_of(node).begin(BACKUP)


@pytest.mark.parametrize("place", [10, -5, -1])
async def test_a_damaged_one_stays(node: BackupNode, place: int) -> None:
    fill(node)
    await node.make()
    path = archive_of(node)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    damaged, left = bytes(data), node.left()
    rewrite = await rewritten(node)
    assert rewrite.error is not None
    assert "damaged" in str(rewrite.error)
    assert (path.read_bytes(), node.left()) == (damaged, left)


async def test_one_that_is_deleted_meanwhile_does_not_come_back(
    node: BackupNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(node)
    await node.make()
    found = node.stored()
    replace = node.store.replace

    def deleted_first(*arguments: Any) -> bool:
        node.store.remove(found)
        return replace(*arguments)

    monkeypatch.setattr(node.store, "replace", deleted_first)
    rewrite = await rewritten(node)
    assert "it was deleted meanwhile" in str(rewrite.error)
    assert node.left() == []


async def test_a_full_disk_leaves_the_old_one(make_node: Make, tmp_path: Path) -> None:
    node = make_node()
    fill(node)
    await node.make()
    left = node.left()
    node.terms = node.terms.__class__(
        node.terms.form, node.terms.compression, "sha1", 0, reserve=1 << 60
    )
    monkey = pytest.MonkeyPatch()
    monkey.setattr("wingsd.backups.creation._SHARE", 1)
    rewrite = await rewritten(node)
    monkey.undo()
    assert "not enough disk space" in str(rewrite.error)
    assert node.left() == left
    assert is_whole(node)


class Killed(BaseException):
    """Nothing reaches the disk after it."""


class MortalDisk:
    """The calls that change a disk, of which only some take effect, as before a SIGKILL."""

    CALLS = ("open", "write", "fsync", "rename", "unlink", "utime")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.left = count
        self.names: list[str] = []
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._mortal(name, getattr(os, name)))

    def _mortal(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return call(*arguments, **options)
            if self.left <= 0:
                raise Killed
            self.left -= 1
            self.names.append(name)
            return call(*arguments, **options)

        return mortal


async def test_after_a_kill_at_any_moment_there_is_one_whole_archive(
    make_node: Make, tmp_path: Path
) -> None:
    node = make_node(PELICAN)
    fill(node)
    await node.make()
    found, path = node.stored(), archive_of(node)
    old, catalogue = path.read_bytes(), node.catalogue()
    outcomes = []
    for count in range(100):
        opened = present(node.store.open(SERVER, BACKUP))
        with pytest.MonkeyPatch.context() as patch:
            disk = MortalDisk(patch, count)
            try:
                assert rewrite_archive(node.made, *opened, Progress(), None) is not None
            except Killed:
                pass
            else:
                break
        # The next daemon's start.
        node.store.remove_parts(lambda backup: False)
        outcomes.append("old" if path.read_bytes() == old else "new")
        assert is_whole(node), disk.names
        assert node.left() == [SERVER, f"{SERVER}/{BACKUP}.catalogue.json", found.place]
        path.write_bytes(old)
        node.store.write_catalogue(found.place, catalogue)
    assert (outcomes[0], outcomes[-1]) == ("old", "new")
    assert len(outcomes) > 8
    assert contents(restored(node, tmp_path / "after")) == contents(node.home)

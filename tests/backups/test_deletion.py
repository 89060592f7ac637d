"""Backups are deleted by their own server, with what is left of them."""

from __future__ import annotations

import os

import pytest

from tests.backups.conftest import Make
from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.support.present import present
from wingsd.errors import BackupMissing

STRANGER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"


@pytest.mark.promise("backup-is-for-its-server")
async def test_a_backup_is_deleted_by_its_own_server_alone(node: BackupNode) -> None:
    await node.make()
    with pytest.raises(BackupMissing):
        await node.made.delete(STRANGER, BACKUP)
    assert len(node.left()) == 2
    await node.made.delete(SERVER, BACKUP)
    assert node.left() == []
    with pytest.raises(BackupMissing):
        await node.made.delete(SERVER, BACKUP)


async def test_a_backup_of_wings_is_deleted_like_ones_own(node: BackupNode) -> None:
    node.backups.mkdir()
    (node.backups / f"{BACKUP}.tar.gz").write_bytes(b"by wings")
    await node.made.delete(SERVER, BACKUP)
    assert node.left() == []


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_backup_that_is_being_made_is_cancelled(node: BackupNode) -> None:
    await node.begin_slowly()
    with pytest.raises(BackupMissing):
        await node.made.delete(STRANGER, BACKUP)
    await node.made.delete(SERVER, BACKUP)
    assert (node.left(), dict(node.made.making)) == ([], {})


async def test_the_server_of_a_backup_is_known_without_being_named(node: BackupNode) -> None:
    await node.make(OTHER)
    await node.begin_slowly()
    for backup in (BACKUP, OTHER):
        assert await node.made.owner("", backup) == SERVER
    await node.made.cancel(BACKUP)
    (node.backups / f"{STRANGER}.tar.gz").write_bytes(b"by wings")
    assert await node.made.owner("", STRANGER) == ""
    assert await node.made.owner(SERVER, STRANGER) == SERVER


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_download_of_a_deleted_backup_goes_on(node: BackupNode) -> None:
    await node.make()
    opened = present(node.store.open(SERVER, BACKUP))
    await node.made.delete(SERVER, BACKUP)
    with opened[1] as file:
        assert len(file.read(1 << 20)) == opened[0].size


async def test_all_of_one_server_are_deleted(make_node: Make) -> None:
    node = make_node(write_limit=4096)
    await node.make()
    node.backups.joinpath(SERVER).mkdir()
    for place in (f"{SERVER}/{STRANGER}.tar.gz", f"{STRANGER}.tar.gz"):
        (node.backups / place).write_bytes(b"by wings")
    (node.home / "a").write_bytes(os.urandom(100_000))
    await node.begin(OTHER)
    assert await node.made.delete_all(SERVER) == 2
    # Nothing tells that this one is the server's.
    assert node.left() == [f"{STRANGER}.tar.gz"]


async def test_a_deletion_is_reported(node: BackupNode) -> None:
    await node.make()
    assert await node.made.owner(SERVER, BACKUP) == SERVER
    await node.made.delete_and_report(SERVER, BACKUP)
    await node.made.delete_and_report(SERVER, BACKUP)
    assert [path for path, _ in node.panel.calls[1:]] == [f"/backups/{BACKUP}/deletion"] * 2
    assert node.panel.bodies[1:] == [{"successful": True}, {"successful": False}]
    assert [(each.name, each.args) for each in node.published] == [("backup deleted", (BACKUP,))]
    with pytest.raises(BackupMissing):
        assert await node.made.owner(SERVER, BACKUP) == SERVER

"""Old and new content change places at once, or not at all, and are found again after a kill."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.owner import OWNER
from wingsd.errors import StorageError
from wingsd.filesystem.syscalls import renameat2
from wingsd.restores.storage import RestoreStorage
from wingsd.servers.quotas import ProjectQuotas
from wingsd.statedb import RestoreRecord
from wingsd.transfers.storage.staging import Staging

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


def no_exchange(*_: object) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class StorageHarness:
    def __init__(self, directory: Path, *, exchanges: bool) -> None:
        self.data = directory / "volumes"
        self.staging = Staging(str(self.data), OWNER, durable=True)
        self.staging.prepare()
        self.place = self.data / UUID
        self.storage = RestoreStorage(
            self.staging,
            self.data,
            OWNER,
            ProjectQuotas(str(self.data), enabled=False),
            durable=True,
            exchange=renameat2 if exchanges else no_exchange,
        )

    def stage(self) -> int:
        """Stage the new content; return its inode."""
        fd = self.storage.create(UUID)
        (Path(self.storage.path(UUID)) / "new").write_text("new")
        inode = self.storage.flush(fd)
        os.close(fd)
        return inode

    def prepare(self) -> int:
        """Make the old content, and stage the new; return its inode."""
        self.place.mkdir()
        (self.place / "old").write_text("old")
        return self.stage()

    def recover(self, inode: int | None, *, keep: bool = True) -> str | None:
        """Do as the next daemon does with the record of a restore."""
        record = RestoreRecord(UUID, UUID, 0.0, truncate=True, inode=inode)
        self.staging.clear(self.storage.names([record]))
        self.staging.delete_cleared()
        return self.storage.recover(record, keep=keep)

    def names(self, path: Path) -> list[str]:
        return sorted(each.name for each in path.iterdir())

    def staged(self) -> list[str]:
        return [name for name in self.names(Path(self.staging.path)) if name != ".lock"]


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def harness(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StorageHarness]:
    made = StorageHarness(tmp_path, exchanges=request.param)
    yield made
    made.staging.close()


EXCHANGE = pytest.mark.parametrize("harness", [True], indirect=True)
TWO_RENAMES = pytest.mark.parametrize("harness", [False], indirect=True)


def test_new_content_takes_the_place_of_the_old(harness: StorageHarness) -> None:
    inode = harness.prepare()
    assert not harness.storage.is_in_place(UUID, inode)
    harness.storage.put_into_place(UUID, inode)
    assert harness.storage.is_in_place(UUID, inode)
    assert harness.names(harness.place) == ["new"]
    kept = harness.storage.retire(UUID, keep=True)
    assert kept is not None
    assert harness.names(Path(kept)) == ["old"]
    assert harness.staged() == [".quarantine"]


def test_replaced_content_that_is_not_kept_is_deleted(harness: StorageHarness) -> None:
    harness.storage.put_into_place(UUID, harness.prepare())
    assert harness.storage.retire(UUID, keep=False) is None
    harness.storage.discard(UUID)
    assert harness.staged() == []
    assert harness.names(harness.place) == ["new"]


def test_a_server_without_a_directory_gets_one(harness: StorageHarness) -> None:
    harness.storage.put_into_place(UUID, harness.stage())
    assert harness.names(harness.place) == ["new"]
    assert harness.storage.retire(UUID, keep=True) is None
    assert harness.staged() == []


def test_a_symlink_in_the_servers_place_is_replaced_and_not_followed(
    harness: StorageHarness, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    harness.place.symlink_to(tmp_path / "outside")
    harness.storage.put_into_place(UUID, harness.stage())
    harness.storage.retire(UUID, keep=False)
    harness.storage.discard(UUID)
    assert harness.names(harness.place) == ["new"]
    assert (tmp_path / "outside/secret").read_text() == "secret"
    assert harness.staged() == []


def test_a_failed_restore_leaves_nothing_and_meets_no_later_one(harness: StorageHarness) -> None:
    harness.prepare()
    harness.storage.withdraw(UUID)
    second = harness.stage()
    harness.storage.discard(UUID)
    harness.storage.put_into_place(UUID, second)
    assert harness.names(harness.place) == ["new"]


@pytest.mark.promise("restore-is-old-or-new")
@pytest.mark.parametrize("done", ["nothing", "exchanged", "retired"])
@pytest.mark.parametrize("keep", [True, False])
def test_the_next_daemon_completes_what_was_whole(
    harness: StorageHarness, done: str, keep: bool
) -> None:
    inode = harness.prepare()
    if done != "nothing":
        harness.storage.put_into_place(UUID, inode)
    if done == "retired":
        harness.storage.retire(UUID, keep=keep)
    harness.recover(inode, keep=keep)
    harness.storage.discard(UUID)
    assert harness.names(harness.place) == ["new"]
    assert harness.staged() == ([".quarantine"] if keep else [])


@TWO_RENAMES
def test_the_next_daemon_completes_the_second_of_two_renames(harness: StorageHarness) -> None:
    inode = harness.prepare()
    harness.place.rename(Path(harness.staging.path) / f"{UUID}.replaced")
    kept = harness.recover(inode)
    assert harness.names(harness.place) == ["new"]
    assert kept is not None
    assert harness.names(Path(kept)) == ["old"]


def test_what_was_not_whole_is_deleted_and_the_old_content_stays(harness: StorageHarness) -> None:
    harness.prepare()
    assert harness.recover(None) is None
    assert harness.names(harness.place) == ["old"]
    assert harness.staged() == []


@pytest.mark.promise("restore-is-old-or-new")
@TWO_RENAMES
def test_a_second_rename_that_fails_is_undone(
    harness: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = harness.prepare()
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".restored"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(StorageError):
        harness.storage.put_into_place(UUID, inode)
    assert harness.names(harness.place) == ["old"]


@TWO_RENAMES
def test_a_disk_that_fails_between_two_renames_loses_nothing(
    harness: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = harness.prepare()
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self != harness.place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fails)
        with pytest.raises(StorageError):
            harness.storage.put_into_place(UUID, inode)
    assert harness.storage.is_undecided(UUID)
    assert harness.recover(inode) is not None
    assert harness.names(harness.place) == ["new"]
    assert not harness.storage.is_undecided(UUID)


@pytest.mark.promise("restore-is-old-or-new")
@EXCHANGE
def test_an_exchange_that_cannot_be_made_durable_is_undone(
    harness: StorageHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = harness.prepare()

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError):
        harness.storage.put_into_place(UUID, inode)
    assert harness.names(harness.place) == ["old"]
    assert not harness.storage.is_in_place(UUID, inode)


def test_something_else_in_the_staging_area_is_not_put_into_place(
    harness: StorageHarness,
) -> None:
    inode = harness.prepare()
    with pytest.raises(StorageError, match="is not the content that was prepared"):
        harness.storage.put_into_place(UUID, inode + 1)
    assert harness.names(harness.place) == ["old"]

"""Backups on a real file system: staged, in place, taken back, and never another one's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest

from tests.backups.harness import inode, record_flushes
from tests.support.present import present
from tests.support.sample_server import sha256
from wingsd.backups import received as incomingfile
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.store import Backup, BackupStore
from wingsd.config import CALAGOPUS, PELICAN, SystemConfig
from wingsd.errors import Conflict, StorageError

SERVER = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
ONE = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)
TWO = Backup("6b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12", "tar.zst", CALAGOPUS)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def backups(directory: Path) -> ReceivedBackups:
    return ReceivedBackups(str(directory), "/srv/volumes", durable=True, reserve=0)


def store(backups: ReceivedBackups) -> None:
    for backup, data in ((ONE, b"one"), (TWO, b"two")):
        assert backups.store(SERVER, backup, iter([data[:1], data[1:]])) == sha256(data)
    backups.flush(SERVER)


def files(directory: Path) -> dict[str, str]:
    """Return what is in place: each path, and what it holds."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and ".wingsd-" not in str(path)
    }


def staged(directory: Path) -> list[str]:
    home = next(directory.glob(".wingsd-*"), None)
    if home is None:
        return []  # Where nothing is staged, there is no such directory either.
    return sorted(path.name for path in home.iterdir())


WHOLE = {f"{SERVER}/{ONE.uuid}.tar.gz": "one", f"{TWO.uuid}.tar.zst": "two"}


def test_an_empty_staging_directory_is_removed(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    backups.store(OTHER, ONE, iter([b"one"]))
    backups.discard(SERVER)
    assert staged(directory) == [OTHER]
    backups.discard(OTHER)
    assert list(directory.glob(".wingsd-*")) == []


def test_a_leftover_staging_place_is_removed(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    (home,) = directory.glob(".wingsd-*")
    backups.discard(SERVER)
    home.mkdir()
    assert backups.clear() == []
    assert not home.exists()


def test_no_directory_is_made_without_backups(backups: ReceivedBackups, directory: Path) -> None:
    backups.flush(SERVER)
    assert backups.place(SERVER) == []
    backups.take_back(SERVER)
    backups.discard(SERVER)
    assert (backups.clear(), backups.retract(SERVER)) == ([], None)
    assert not directory.exists()


def test_backups_are_placed_all_together(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    assert files(directory) == {}
    assert {*backups.place(SERVER)} == {ONE, TWO}
    assert files(directory) == WHOLE
    place = directory / SERVER / f"{ONE.uuid}.tar.gz"
    assert place.stat().st_mode & 0o777 == 0o600
    assert staged(directory) == [SERVER]
    backups.discard(SERVER)
    assert (files(directory), staged(directory)) == (WHOLE, [])
    assert place.stat().st_nlink == 1


def test_placed_backups_are_on_stable_storage(
    backups: ReceivedBackups, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = record_flushes(monkeypatch)
    store(backups)
    backups.place(SERVER)
    places = [directory / place for place in WHOLE]
    assert {inode(path) for place in places for path in (place, place.parent)} <= flushed


def test_a_file_system_without_hard_links_is_named_in_the_error(
    backups: ReceivedBackups, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(backups)
    monkeypatch.setattr(
        os, "link", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted"))
    )
    with pytest.raises(StorageError) as caught:
        backups.place(SERVER)
    assert "does not support hard links" in caught.value.detail
    assert "system.backup_directory" in caught.value.detail
    assert files(directory) == {}


@pytest.mark.promise("attached-backups-arrive-whole")
@pytest.mark.parametrize("placed", range(3))
def test_whenever_a_daemon_dies_the_next_one_places_or_takes_back_all(
    backups: ReceivedBackups, directory: Path, placed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(backups)
    links: list[Path] = []
    link = os.link

    def mortal(source: Path, target: Path) -> None:
        if len(links) == placed:
            raise KeyboardInterrupt
        links.append(target)
        link(source, target)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, "link", mortal)
        backups.place(SERVER)
    assert len(files(directory)) == placed
    again = ReceivedBackups(str(directory), "/srv/volumes", durable=True, reserve=0)
    assert again.clear({SERVER}) == []
    assert {*again.place(SERVER)} == {ONE, TWO}
    assert files(directory) == WHOLE
    for _ in range(2):
        again.take_back(SERVER)
    assert files(directory) == {}
    assert not (directory / SERVER).exists()
    assert {*again.place(SERVER)} == {ONE, TWO}


def test_an_unreadable_directory_counts_as_empty(
    backups: ReceivedBackups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listdir", Mock(side_effect=PermissionError(errno.EACCES, "")))
    assert backups.clear() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_bad_directory_fails_no_server_without_backups(
    backups: ReceivedBackups, directory: Path
) -> None:
    directory.mkdir(mode=0o700)
    os.seteuid(4711)
    try:
        backups.discard(SERVER)
        backups.flush(SERVER)
        assert backups.place(SERVER) == []
        backups.take_back(SERVER)
        backups.discard(SERVER)
        assert (backups.clear(), backups.retract(SERVER)) == ([], None)
        with pytest.raises(StorageError, match="permission denied"):
            backups.store(SERVER, ONE, [b"one"])
    finally:
        os.seteuid(0)


def test_incomplete_backups_are_cleared(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    assert backups.clear() == [SERVER]
    assert (files(directory), staged(directory)) == ({}, [])


def test_another_nodes_staged_backups_stay(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    other = ReceivedBackups(str(directory), "/srv/others", durable=True, reserve=0)
    assert other.clear() == []
    assert backups.clear() == [SERVER]


def test_staged_backups_of_another_machine_are_left_alone(directory: Path) -> None:
    system = SystemConfig(backup_directory=str(directory))
    one, other = (ReceivedBackups.configured(system, uuid) for uuid in ("one", "other"))
    store(one)
    assert other.clear() == []
    assert {*one.place(SERVER)} == {ONE, TWO}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_another_backup_is_kept(backups: ReceivedBackups, directory: Path, kind: str) -> None:
    place = directory / f"{TWO.uuid}.tar.zst"
    directory.mkdir()
    (directory / "precious").write_text("two")
    place.write_text("precious") if kind == "file" else place.symlink_to("precious")
    before = place.read_text()
    with pytest.raises(Conflict):
        backups.store(SERVER, TWO, iter([b"two"]))
    assert place.read_text() == before
    assert place.is_symlink() is (kind == "link")


def test_a_backup_that_appears_later_is_kept(backups: ReceivedBackups, directory: Path) -> None:
    store(backups)
    place = directory / f"{TWO.uuid}.tar.zst"
    place.write_text("precious")
    with pytest.raises(Conflict):
        backups.place(SERVER)
    backups.take_back(SERVER)
    assert files(directory) == {place.name: "precious"}


@pytest.mark.promise("attached-backups-arrive-whole")
def test_an_identical_backup_counts_and_stays(backups: ReceivedBackups, directory: Path) -> None:
    place = directory / f"{TWO.uuid}.tar.zst"
    directory.mkdir()
    place.write_text("two")
    inode = place.stat().st_ino
    store(backups)
    assert {*backups.place(SERVER)} == {ONE, TWO}
    backups.take_back(SERVER)
    assert files(directory) == {place.name: "two"}
    backups.place(SERVER)
    backups.discard(SERVER)
    assert (files(directory), place.stat().st_ino) == (WHOLE, inode)


@pytest.mark.promise("full-backup-disk-is-refused")
def test_a_disk_without_space_is_an_error_before_it_is_full(directory: Path) -> None:
    backups = ReceivedBackups(str(directory), "/srv/volumes", durable=True, reserve=1)
    with pytest.raises(StorageError, match="the disk is full"):
        backups.store(SERVER, ONE, iter([_Huge(b"x")]))
    assert files(directory) == {}


class _Huge(bytes):
    """Says that it is larger than any disk."""

    def __len__(self) -> int:
        return 1 << 60


def test_an_error_of_the_sender_is_raised(backups: ReceivedBackups, directory: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise StorageError("cut")

    with pytest.raises(StorageError, match="cut"):
        backups.store(SERVER, ONE, broken())
    backups.discard(SERVER)
    assert (files(directory), staged(directory)) == ({}, [])


def test_free_space_is_read_in_steps(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def require(found: object, reserve: int, name: str, more: int) -> None:
        asked.append(more)

    monkeypatch.setattr(incomingfile, "require_free_space", require)
    backups = ReceivedBackups(str(directory), "/srv/volumes", durable=False, reserve=1)
    backups.store(SERVER, ONE, iter([bytes(1 << 20)] * 17))
    assert len(asked) == 3


def test_published_backups_have_catalogues_of_what_was_received(
    backups: ReceivedBackups, directory: Path
) -> None:
    store(backups)
    backups.place(SERVER)
    backups.publish(SERVER)
    assert staged(directory) == []
    found = {each.uuid: each for each in BackupStore(str(directory), PELICAN).all(SERVER)}
    assert set(found) == {ONE.uuid, TWO.uuid}
    for uuid, data in ((ONE.uuid, b"one"), (TWO.uuid, b"two")):
        catalogue = present(found[uuid].catalogue)
        assert (catalogue.server, catalogue.sha256) == (SERVER, sha256(data))
        assert (catalogue.bytes, catalogue.checksum, catalogue.files) == (3, "", None)


def test_a_catalogue_that_is_there_stays(backups: ReceivedBackups, directory: Path) -> None:
    """As with nodes that keep their backups in one directory."""
    for _ in range(2):
        store(backups)
        backups.place(SERVER)
        backups.publish(SERVER)
        shared = BackupStore(str(directory), PELICAN)
        (found,) = (each for each in shared.all(SERVER) if each.uuid == ONE.uuid)
        catalogue = present(found.catalogue)
        if catalogue.files is None:
            shared.write_catalogue(found.place, attrs.evolve(catalogue, files=7))
    assert catalogue is not None
    assert catalogue.files == 7


def test_what_an_earlier_daemon_received_has_no_catalogue(
    backups: ReceivedBackups, directory: Path
) -> None:
    store(backups)
    later = ReceivedBackups(str(directory), "/srv/volumes", durable=True, reserve=0)
    later.place(SERVER)
    place = directory / ONE.path(SERVER)
    place.with_name(f".{ONE.uuid}.0a1b2c3d.json").write_text("{")  # It died there.
    later.publish(SERVER)
    assert files(directory) == WHOLE

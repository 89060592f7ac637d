"""Backups are found where each family keeps them, and only by their own server."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from tests.backups.test_catalogue import BACKUP, MADE, SERVER
from tests.support.logged_errors import Logged
from wingsd.backups.catalogue import catalogue_name
from wingsd.backups.store import BackupStore, StoredBackup, part_name
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import StorageError

OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
FLAT, BY_SERVER = f"{BACKUP}.tar.gz", f"{SERVER}/{BACKUP}.tar.gz"


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    return BackupStore(str(tmp_path), PTERODACTYL)


def put(store: BackupStore, place: str, server: str = "") -> None:
    """Make a backup at a place, with a catalogue for a server."""
    path = Path(store.path(place))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"archive")
    if server:
        catalogue = attrs.evolve(MADE, server=server, archive=path.name)
        store.write_catalogue(place, catalogue)


@pytest.mark.parametrize(
    ("family", "place"), [(PTERODACTYL, FLAT), (PELICAN, BY_SERVER), (CALAGOPUS, FLAT)]
)
def test_each_family_has_its_place(tmp_path: Path, family: str, place: str) -> None:
    assert BackupStore(str(tmp_path), family).place(SERVER, BACKUP, "tar.gz") == place
    assert part_name(place) == f".{BACKUP}.tar.gz.part"


@pytest.mark.promise("backup-is-for-its-server")
@pytest.mark.parametrize(
    ("place", "owner", "finders"),
    [
        (FLAT, SERVER, {SERVER, ""}),
        (FLAT, "", {SERVER, OTHER, ""}),
        (BY_SERVER, SERVER, {SERVER, ""}),
        (BY_SERVER, "", {SERVER, ""}),
        # The catalogue is not of this place.
        (BY_SERVER, OTHER, {SERVER, ""}),
    ],
)
def test_a_backup_is_found_by_its_server_alone_where_something_tells_whose_it_is(
    store: BackupStore, place: str, owner: str, finders: set[str]
) -> None:
    put(store, place, owner)
    found = {each for each in (SERVER, OTHER, "") if store.find(each, BACKUP) is not None}
    assert found == finders
    assert store.find(SERVER, OTHER) is None


def test_an_opened_backup_has_what_was_stored(store: BackupStore) -> None:
    put(store, FLAT, SERVER)
    opened = store.open(SERVER, BACKUP)
    assert opened is not None
    found, file = opened
    with file:
        assert file.read(100) == b"archive"
    assert found.catalogue is not None
    assert (found.server, found.suffix, found.size) == (SERVER, "tar.gz", 7)
    assert store.at(FLAT) == found
    assert store.at(BY_SERVER) is None


def test_all_are_listed_with_those_that_wings_has_made(store: BackupStore) -> None:
    assert store.all() == []
    put(store, FLAT, SERVER)
    put(store, f"{OTHER}/{OTHER}.tar.gz")
    put(store, f"{SERVER}.zip")
    for name in ("notes.txt", f".{OTHER}.tar.gz.part", f"{BACKUP.upper()}.tar.gz"):
        (Path(store.directory) / name).write_text("no backup")
    (Path(store.directory) / f"{OTHER}.tar").symlink_to("/etc/passwd")
    listed = {each.place: each.server for each in store.all()}
    assert listed == {
        FLAT: SERVER,
        f"{OTHER}/{OTHER}.tar.gz": OTHER,
        f"{SERVER}.zip": "",
    }
    assert [each.place for each in store.all(OTHER)] == [f"{OTHER}/{OTHER}.tar.gz"]


@pytest.mark.parametrize("place", [FLAT, BY_SERVER])
def test_a_removed_backup_leaves_nothing(store: BackupStore, place: str) -> None:
    put(store, place, SERVER)
    found = store.find(SERVER, BACKUP)
    assert found is not None
    store.remove(found)
    store.remove(found)
    assert list(Path(store.directory).rglob("*")) == []


def test_the_directory_of_a_server_stays_while_something_is_in_it(store: BackupStore) -> None:
    put(store, BY_SERVER)
    put(store, f"{SERVER}/{OTHER}.tar.gz")
    found = store.find(SERVER, BACKUP)
    assert found is not None
    store.remove(found)
    assert [each.uuid for each in store.all()] == [OTHER]


@pytest.mark.promise("damaged-backup-is-found")
def test_a_damaged_catalogue_is_no_catalogue(store: BackupStore) -> None:
    put(store, FLAT, SERVER)
    (Path(store.directory) / catalogue_name(BACKUP)).write_bytes(b"{")
    found = store.find(OTHER, BACKUP)
    assert isinstance(found, StoredBackup)
    assert found.catalogue is None


@pytest.mark.parametrize("place", [FLAT, BY_SERVER])
def test_a_part_gets_its_place_with_its_catalogue(store: BackupStore, place: str) -> None:
    path = Path(store.path(place))
    path.parent.mkdir(exist_ok=True)
    path.with_name(part_name(place)).write_bytes(b"archive")
    store.put_into_place(place, MADE)
    found = store.find(SERVER, BACKUP)
    assert found is not None
    assert (found.catalogue, path.read_bytes()) == (MADE, b"archive")
    assert not path.with_name(part_name(place)).exists()


def test_leftovers_are_removed_and_others_stay(store: BackupStore) -> None:
    put(store, FLAT, SERVER)
    put(store, f"{OTHER}.tar.gz", SERVER)
    (Path(store.directory) / part_name(FLAT)).write_bytes(b"half")
    store.remove_leftovers(FLAT, BACKUP)
    assert store.at(FLAT) is not None
    store.remove_leftovers(FLAT, BACKUP, archive=True)
    store.remove_leftovers("absent/x.tar.gz", BACKUP)
    assert [each.uuid for each in store.all()] == [OTHER]


def test_a_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = BackupStore(str(tmp_path / "file"), PTERODACTYL)
    with pytest.raises(StorageError):
        store.all()


@pytest.mark.promise("damaged-backup-is-found")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_cannot_be_opened_is_listed_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.chdir(tmp_path)
    store = BackupStore(".", PTERODACTYL)
    put(store, FLAT, SERVER)
    put(store, f"{OTHER}.tar.gz")
    put(store, f"{OTHER}/{SERVER}.tar.gz")
    for name in (f"{OTHER}.tar.gz", OTHER):
        os.chmod(store.path(name), 0)
    os.chown(store.path(FLAT), 4711, 4711)
    os.chown(store.directory, 4711, 4711)
    os.seteuid(4711)
    try:
        for _ in range(2):
            assert {each.place: each.size for each in store.all()} == {
                FLAT: 7,
                f"{OTHER}.tar.gz": 7,
            }
            assert store.find("", SERVER) is None
        with pytest.raises(StorageError, match="permission denied"):
            store.find(SERVER, OTHER)
        with pytest.raises(StorageError, match="permission denied"):
            store.find(OTHER, SERVER)
    finally:
        os.seteuid(0)
    named = [line for line in logged.lines if "cannot be read" in line]
    assert sum(f"{OTHER}.tar.gz" in line for line in named) == 1
    assert len(named) == 2

"""Backups on the disk: where they are, which part is which, and what a daemon has left."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backups.test_catalogue import BACKUP, MADE, SERVER
from tests.support.logged_errors import Logged
from tests.support.present import present
from wingsd.backups.catalogue import CatalogueFiles, catalogue_name
from wingsd.backups.store import (
    SUFFIXES,
    AttachedLog,
    Backup,
    BackupChecksum,
    BackupStore,
    LocalBackup,
    StoredBackup,
    attachment_of,
    backup_at,
    find_backups,
    part_name,
    remove_backup,
)
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import BadRequest, StorageError
from wingsd.statedb import BackupRecord

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
    opened = present(store.open(SERVER, BACKUP))
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
    found = present(store.find(SERVER, BACKUP))
    store.remove(found)
    store.remove(found)
    assert list(Path(store.directory).rglob("*")) == []


def test_the_directory_of_a_server_stays_while_something_is_in_it(store: BackupStore) -> None:
    put(store, BY_SERVER)
    put(store, f"{SERVER}/{OTHER}.tar.gz")
    found = present(store.find(SERVER, BACKUP))
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
    found = present(store.find(SERVER, BACKUP))
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


def part_in(directory: Path, family: str, size: int = 7) -> BackupRecord:
    """Write a part of seven bytes, and the catalogue of an archive of `size` bytes."""
    store = BackupStore(str(directory), family)
    place = store.place(SERVER, BACKUP, "tar.gz")
    path = Path(store.part_path(place))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"archive")
    store.write_catalogue(place, attrs.evolve(MADE, bytes=size))
    return BackupRecord(BACKUP, SERVER, "s3", place, 0.0)


def left(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
def test_a_complete_archive_is_found_again(tmp_path: Path, family: str) -> None:
    record = part_in(tmp_path, family)
    made = present(BackupStore(str(tmp_path), family).made_before(record.place, BACKUP))
    assert Path(made.path).read_bytes() == b"archive"
    assert (made.place, made.catalogue.backup) == (record.place, BACKUP)


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
def test_what_is_not_complete_is_removed(tmp_path: Path, family: str) -> None:
    record = part_in(tmp_path, family, size=8)
    unfinished = Path(tmp_path / record.place).with_name(f".{BACKUP}.0a1b2c3d.json")
    unfinished.write_text("{")
    assert BackupStore(str(tmp_path), family).made_before(record.place, BACKUP) is None
    assert left(tmp_path) == []


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    record = BackupRecord(BACKUP, SERVER, "s3", f"{SERVER}/{BACKUP}.tar.gz", 0.0)
    assert BackupStore(str(tmp_path), PELICAN).made_before(record.place, BACKUP) is None


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
def test_only_parts_that_nothing_needs_are_removed(tmp_path: Path, family: str) -> None:
    part_in(tmp_path, family)
    (tmp_path / f"{BACKUP}.tar.gz").write_bytes(b"a local backup")
    store = BackupStore(str(tmp_path), family)
    store.remove_parts(lambda backup: backup == BACKUP)
    assert len(left(tmp_path)) == 3
    store.remove_parts(lambda backup: False)
    # A catalogue beside an archive is of that one, whatever becomes of a part.
    catalogue = [] if family == PELICAN else [f"{BACKUP}.catalogue.json"]
    assert sorted(left(tmp_path)) == [*catalogue, f"{BACKUP}.tar.gz"]
    BackupStore(str(tmp_path / "missing"), family).remove_parts(lambda backup: False)


def test_a_removal_that_ends_in_between_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = part_in(tmp_path, PTERODACTYL)
    store = BackupStore(str(tmp_path), PTERODACTYL)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CatalogueFiles, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            store.remove_leftovers(record.place, BACKUP)
    store.remove_parts(lambda backup: False)
    assert left(tmp_path) == []


def kept(path: Path, data: bytes = b"backup") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("place", ["", SERVER])
def test_a_backup_is_found_in_any_familys_place(tmp_path: Path, place: str, suffix: str) -> None:
    file = kept(tmp_path / place / f"{BACKUP}.{suffix}")
    (found,) = find_backups(str(tmp_path), SERVER, [BACKUP], CALAGOPUS)
    assert found == LocalBackup(
        Backup(BACKUP, suffix, CALAGOPUS), str(file), 6, str(file.relative_to(tmp_path))
    )
    assert b"".join(found.blocks()) == b"backup"


@pytest.mark.parametrize("kind", ["directory", "symlink", "of another server", "another's name"])
def test_other_files_are_not_backups(tmp_path: Path, kind: str) -> None:
    name = f"{BACKUP}.tar.gz"
    if kind == "directory":
        (tmp_path / name).mkdir()
    elif kind == "symlink":
        (tmp_path / name).symlink_to(kept(tmp_path / "secret"))
    elif kind == "of another server":
        kept(tmp_path / BACKUP / name)
    else:
        kept(tmp_path / f"{BACKUP}.exe")
    with pytest.raises(StorageError, match=f"does not have {BACKUP}") as caught:
        find_backups(str(tmp_path), SERVER, [BACKUP], PELICAN)
    assert (
        caught.value.message == "a backup that is to be sent with the server is not on this node"
    )


@pytest.mark.parametrize("after", [b"", b"short", b"much longer"])
def test_a_backup_that_changes_meanwhile_is_not_sent(tmp_path: Path, after: bytes) -> None:
    file = kept(tmp_path / f"{BACKUP}.tar.gz")
    (found,) = find_backups(str(tmp_path), SERVER, [BACKUP], PELICAN)
    file.write_bytes(after)
    with pytest.raises(StorageError):
        list(found.blocks())


@pytest.mark.parametrize("then", ["gone", "a symlink"])
def test_an_unreadable_backup_is_named(tmp_path: Path, then: str) -> None:
    file = kept(tmp_path / f"{BACKUP}.tar.gz")
    (found,) = find_backups(str(tmp_path), SERVER, [BACKUP], PELICAN)
    file.unlink()
    if then == "a symlink":
        file.symlink_to(kept(tmp_path / "secret", b"secret"))
    with pytest.raises(StorageError, match=str(file)):
        list(found.blocks())


@pytest.mark.parametrize("place", [f"{BACKUP}.tar", f"{SERVER}/{BACKUP}.tar.gz"])
def test_a_moved_backup_is_removed_with_its_empty_directory(tmp_path: Path, place: str) -> None:
    kept(tmp_path / place)
    kept((tmp_path / place).with_name(f"{BACKUP}.catalogue.json"))
    remove_backup(str(tmp_path), place)
    remove_backup(str(tmp_path), place)  # as after a kill
    assert list(tmp_path.iterdir()) == []


def test_other_backups_stay(tmp_path: Path) -> None:
    other = kept(tmp_path / SERVER / "other.tar.gz")
    kept(tmp_path / SERVER / f"{BACKUP}.tar.gz")
    remove_backup(str(tmp_path), f"{SERVER}/{BACKUP}.tar.gz")
    assert list((tmp_path / SERVER).iterdir()) == [other]


@pytest.mark.parametrize("place", ["../secret", "", f"{BACKUP}.exe", f"{BACKUP}.tar/../../secret"])
def test_only_backups_are_removed(tmp_path: Path, place: str) -> None:
    secret = kept(tmp_path / "secret")
    (tmp_path / "backups").mkdir()
    remove_backup(str(tmp_path / "backups"), place)
    assert secret.exists()


def test_a_backup_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    kept(tmp_path / f"{BACKUP}.tar" / "file")
    with pytest.raises(StorageError) as caught:
        remove_backup(str(tmp_path), f"{BACKUP}.tar")
    assert (
        caught.value.message == "a backup that has moved to another node could not be removed here"
    )


WINGS = "backup/wings"


@pytest.mark.parametrize("name", ["install_logs", "install-logs"])
def test_a_log_has_either_name(name: str) -> None:
    assert attachment_of(name, "install.log", "text/plain") == AttachedLog()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_backup_goes_where_its_family_keeps_it(suffix: str) -> None:
    file = f"{BACKUP}.{suffix}"
    pelicans = attachment_of(f"backup_{file}", file)
    calagopus = attachment_of(f"backup-{BACKUP}", file, WINGS)
    assert pelicans == Backup(BACKUP, suffix, PELICAN)
    assert calagopus == Backup(BACKUP, suffix, CALAGOPUS)
    assert pelicans.path(SERVER) == f"{SERVER}/{file}"
    assert calagopus.path(SERVER) == file
    for backup in (pelicans, calagopus):
        assert backup_at(backup.path(SERVER)) == backup


def test_a_checksum_belongs_to_a_backup() -> None:
    assert attachment_of(f"checksum_backup_{BACKUP}.tar.gz") == BackupChecksum(BACKUP)
    assert attachment_of(f"backup-checksum-{BACKUP}", "x", "text/plain") == BackupChecksum(BACKUP)


@pytest.mark.parametrize(
    "name", [f"../../etc/{BACKUP}.tar.gz", f"/etc/{BACKUP.upper()}.tar.gz", f"..\\{BACKUP}.tar.gz"]
)
def test_directories_in_names_are_ignored(name: str) -> None:
    assert attachment_of(f"backup_{name}") == Backup(BACKUP, "tar.gz", PELICAN)
    assert attachment_of(f"backup-{BACKUP}", name, WINGS) == Backup(BACKUP, "tar.gz", CALAGOPUS)


@pytest.mark.promise("attached-backups-arrive-whole")
@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("backup_", "", ""),
        ("backup_world.tar.gz", "world.tar.gz", ""),
        (f"backup_{BACKUP}", BACKUP, ""),
        (f"backup_{BACKUP}.tar.gz.exe", "", ""),
        (f"backup_{BACKUP}.tar.gz/", "", ""),
        (f"backup_{BACKUP}.TAR.GZ", "", ""),
        (f"backup_{BACKUP}.tar.gz\n", "", ""),
        (f"backup_{'-' * 36}.tar.gz", "", ""),
        (f"checksum_backup_{BACKUP}", "", ""),
        ("backup-x", f"{BACKUP}.tar", WINGS),
        (f"backup-{BACKUP}", "", WINGS),
        (f"backup-{BACKUP}", "passwd", WINGS),
        (f"backup-{BACKUP}", f"{BACKUP}.tar", "backup/restic"),
        (f"backup-{BACKUP}", f"{BACKUP}.tar", ""),
        ("backup-checksum-x", "", "text/plain"),
    ],
)
def test_a_backup_that_cannot_be_kept_is_refused(name: str, file: str, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        attachment_of(name, file, kind)
    assert caught.value.detail.startswith(f"the part {name[:80]!r}: ")


@pytest.mark.parametrize("name", ["", "x", "archive", "backup", "backups", "install.log"])
def test_other_parts_are_not_attachments(name: str) -> None:
    assert attachment_of(name) is None


@given(
    st.sampled_from(["backup_", "backup-", f"backup-{BACKUP}"]),
    st.text() | st.builds("{}{}.{}".format, st.text(), st.just(BACKUP), st.sampled_from(SUFFIXES)),
)
def test_no_name_leads_out_of_its_directory(prefix: str, text: str) -> None:
    try:
        found = attachment_of(prefix if BACKUP in prefix else prefix + text, text, WINGS)
    except BadRequest:
        return
    assert isinstance(found, Backup)
    assert found.uuid == BACKUP
    assert found.path(SERVER) in {
        f"{where}{BACKUP}.{suffix}" for where in ("", f"{SERVER}/") for suffix in SUFFIXES
    }

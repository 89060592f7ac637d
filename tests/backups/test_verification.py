"""A backup at rest is read to its end, and any damage is found."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.archive.hostile.streams import bomb
from tests.backups.test_catalogue import BACKUP, MADE, SERVER
from tests.support.sample_server import archive
from wingsd.backups.at_rest import VerifiedBackup, verified_catalogue, verify_archive
from wingsd.backups.catalogue import COMPLETE, DAMAGED
from wingsd.backups.store import BackupStore
from wingsd.config import PTERODACTYL
from wingsd.errors import FileWorkCancelled
from wingsd.files.guard import Progress

GOOD = archive(300_000)
PLACE = f"{BACKUP}.tar.gz"


def verified(
    directory: Path, data: bytes, made: bytes | None, suffix: str = "tar.gz"
) -> VerifiedBackup:
    """Verify a backup of `data`, whose catalogue is that of `made`."""
    store = BackupStore(str(directory), PTERODACTYL)
    place = f"{BACKUP}.{suffix}"
    (directory / place).write_bytes(data)
    if made is not None:
        sha256 = hashlib.sha256(made).hexdigest()
        catalogue = attrs.evolve(MADE, archive=place, bytes=len(made), sha256=sha256)
        store.write_catalogue(place, catalogue)
    opened = store.open(SERVER, BACKUP)
    assert opened is not None
    with opened[1] as file:
        return verify_archive(opened[0], file, Progress())


@pytest.mark.parametrize("made", [GOOD, None])
def test_a_whole_backup_has_no_fault(tmp_path: Path, made: bytes | None) -> None:
    found = verified(tmp_path, GOOD, made)
    assert (found.fault, found.bytes) == ("", len(GOOD))
    assert found.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert found.files


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]


def without_end(data: bytes) -> bytes:
    """Return an archive whose tar has no end, though its compression has."""
    return gzip.compress(gzip.decompress(data).rstrip(b"\0"))


@pytest.mark.promise("damaged-backup-is-found")
@pytest.mark.parametrize("has_catalogue", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data: data[:-9],
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda _: b"<html>",
        without_end,
        lambda data: data + b"more",
    ],
    ids=["flipped", "cut", "half", "empty", "page", "endless", "longer"],
)
def test_damage_is_found(
    tmp_path: Path, damage: Callable[[bytes], bytes], has_catalogue: bool
) -> None:
    assert verified(tmp_path, damage(GOOD), GOOD if has_catalogue else None).fault


def test_another_whole_archive_is_not_the_one_that_was_made(tmp_path: Path) -> None:
    assert verified(tmp_path, archive(299_999), GOOD).fault


def test_a_hostile_member_is_a_fault(tmp_path: Path) -> None:
    tar = bytearray(gzip.decompress(GOOD))
    assert verified(tmp_path, bytes(tar), None, "tar").fault == ""
    escaping = gzip.decompress(GOOD).replace(b"server", b"../../", 1)
    assert verified(tmp_path, escaping, None, "tar").fault


def test_much_data_takes_little_memory(tmp_path: Path) -> None:
    found = verified(tmp_path, bomb(64), None)
    assert found.fault == ""


def test_of_a_zip_only_the_checksum_is_compared(tmp_path: Path) -> None:
    found = verified(tmp_path, b"PK", b"PK", "zip")
    assert (found.fault, found.files) == ("", None)
    assert verified(tmp_path, b"KP", b"PK", "zip").fault


def test_it_is_cancelled(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    (tmp_path / PLACE).write_bytes(GOOD)
    progress = Progress()
    progress.cancel()
    opened = store.open(SERVER, BACKUP)
    assert opened is not None
    with opened[1] as file, pytest.raises(FileWorkCancelled):
        verify_archive(opened[0], file, progress)


def test_the_catalogue_notes_the_result(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    verified(tmp_path, GOOD, GOOD)
    found = store.find(SERVER, BACKUP)
    assert found is not None
    good = verified_catalogue(found, VerifiedBackup(3, "ab" * 32, 1))
    bad = verified_catalogue(found, VerifiedBackup(3, "ab" * 32, 1, "it is cut"))
    assert good is not None
    assert bad is not None
    assert (good.state, good.fault) == (COMPLETE, "")
    assert (bad.state, bad.fault) == (DAMAGED, "it is cut")
    assert good.checked > 0


def test_a_backup_without_catalogue_gets_one_where_its_server_is_known(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    (tmp_path / PLACE).write_bytes(GOOD)
    flat = store.find(SERVER, BACKUP)
    (tmp_path / SERVER).mkdir()
    (tmp_path / PLACE).rename(tmp_path / SERVER / PLACE)
    known = store.find(SERVER, BACKUP)
    assert flat is not None
    assert known is not None
    result = VerifiedBackup(len(GOOD), "ab" * 32, 2)
    assert verified_catalogue(flat, result) is None
    made = verified_catalogue(known, result)
    assert made is not None
    assert (made.server, made.files, made.checksum) == (SERVER, 2, "")
    assert verified_catalogue(known, VerifiedBackup(1, "ab" * 32, None, "damaged")) is None

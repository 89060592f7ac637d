"""What a daemon has left of archives that it uploads, and what the next one does with that."""

from __future__ import annotations

from pathlib import Path

import pytest

from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue, CatalogueFiles
from wingsd.backups.store import BackupStore
from wingsd.config import PELICAN, PTERODACTYL
from wingsd.statedb import BackupRecord

SERVER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"


def part_in(directory: Path, family: str, size: int = 7) -> BackupRecord:
    """Write a part of seven bytes, and the catalogue of an archive of `size` bytes."""
    store = BackupStore(str(directory), family)
    place = store.place(SERVER, BACKUP, "tar.gz")
    path = Path(store.part_path(place))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"archive")
    catalogue = Catalogue(
        version=VERSION,
        backup=BACKUP,
        server=SERVER,
        state=COMPLETE,
        archive=f"{BACKUP}.tar.gz",
        bytes=size,
        files=1,
        sha256="0" * 64,
        checksum_type="sha1",
        checksum="0" * 40,
        made=1.0,
    )
    store.write_catalogue(place, catalogue)
    return BackupRecord(BACKUP, SERVER, "s3", place, 0.0)


def left(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
def test_a_complete_archive_is_found_again(tmp_path: Path, family: str) -> None:
    record = part_in(tmp_path, family)
    made = BackupStore(str(tmp_path), family).made_before(record.place, BACKUP)
    assert made is not None
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

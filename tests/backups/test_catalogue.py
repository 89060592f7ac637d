"""The catalogue of a backup is read strictly, and never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from wingsd.backups.catalogue import (
    COMPLETE,
    DAMAGED,
    VERSION,
    Catalogue,
    CatalogueFiles,
    catalogue_name,
    parse_catalogue,
)
from wingsd.errors import InvalidData
from wingsd.util.serialization import unstructure

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
SERVER = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
MADE = Catalogue(
    version=VERSION,
    backup=BACKUP,
    server=SERVER,
    state=COMPLETE,
    archive=f"{BACKUP}.tar.gz",
    bytes=1234,
    sha256="ab" * 32,
    made=1_700_000_000.25,
    checksum_type="sha1",
    checksum="cd" * 20,
    files=7,
)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[CatalogueFiles]:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield CatalogueFiles(directory)
    os.close(directory)


@pytest.mark.parametrize(
    "catalogue",
    [
        MADE,
        attrs.evolve(MADE, state=DAMAGED, checked=5.0, fault="it is cut"),
        attrs.evolve(MADE, checksum_type="", checksum="", files=None),
    ],
)
def test_a_catalogue_is_read_as_it_was_written(
    files: CatalogueFiles, tmp_path: Path, catalogue: Catalogue
) -> None:
    files.write(MADE)
    files.write(catalogue)
    assert files.read(BACKUP) == catalogue
    assert [path.name for path in tmp_path.iterdir()] == [catalogue_name(BACKUP)]
    assert (tmp_path / catalogue_name(BACKUP)).stat().st_mode & 0o777 == 0o600
    files.remove(BACKUP)
    files.remove(BACKUP)
    assert files.read(BACKUP) is None


def changed(**changes: Any) -> bytes:
    return json.dumps({**unstructure(MADE), **changes}).encode()


@pytest.mark.promise("damaged-backup-is-found")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 50_000,
        b"{}".ljust((64 << 10) + 1),
        changed(version=2),
        changed(version="1"),
        changed(more=1),
        changed(backup=BACKUP.upper()),
        changed(server="../x"),
        changed(server=None),
        changed(state="whole"),
        changed(archive="../../etc/passwd"),
        changed(archive=".hidden"),
        changed(bytes=-1),
        changed(bytes=True),
        changed(sha256=""),
        changed(sha256="AB" * 32),
        changed(checksum="x"),
        changed(checksum_type="md5"),
        changed(made="now"),
        changed(files="7"),
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidData):
        parse_catalogue(content)


def test_the_catalogue_of_another_backup_is_refused(files: CatalogueFiles, tmp_path: Path) -> None:
    files.write(MADE)
    (tmp_path / catalogue_name(BACKUP)).rename(tmp_path / catalogue_name(SERVER))
    with pytest.raises(InvalidData):
        files.read(SERVER)


def test_a_symlink_and_a_fifo_are_not_read(files: CatalogueFiles, tmp_path: Path) -> None:
    path = tmp_path / catalogue_name(BACKUP)
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        files.read(BACKUP)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidData):
        files.read(BACKUP)


def test_what_cannot_be_written_leaves_the_one_before(
    files: CatalogueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(MADE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wingsd.backups.catalogue.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(attrs.evolve(MADE, bytes=1))
    assert files.read(BACKUP) == MADE
    assert len(list(tmp_path.iterdir())) == 1

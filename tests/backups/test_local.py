"""Backups on the disk, looked for and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sample_server import UUID
from wingsd.backups.store import SUFFIXES, Backup, LocalBackup, find_backups, remove_backup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import StorageError

ONE = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"


def kept(path: Path, data: bytes = b"backup") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("place", ["", UUID])
def test_a_backup_is_found_in_any_familys_place(tmp_path: Path, place: str, suffix: str) -> None:
    file = kept(tmp_path / place / f"{ONE}.{suffix}")
    (found,) = find_backups(str(tmp_path), UUID, [ONE], CALAGOPUS)
    assert found == LocalBackup(
        Backup(ONE, suffix, CALAGOPUS), str(file), 6, str(file.relative_to(tmp_path))
    )
    assert b"".join(found.blocks()) == b"backup"


@pytest.mark.parametrize("kind", ["directory", "symlink", "of another server", "another's name"])
def test_other_files_are_not_backups(tmp_path: Path, kind: str) -> None:
    name = f"{ONE}.tar.gz"
    if kind == "directory":
        (tmp_path / name).mkdir()
    elif kind == "symlink":
        (tmp_path / name).symlink_to(kept(tmp_path / "secret"))
    elif kind == "of another server":
        kept(tmp_path / ONE / name)
    else:
        kept(tmp_path / f"{ONE}.exe")
    with pytest.raises(StorageError, match=f"does not have {ONE}") as caught:
        find_backups(str(tmp_path), UUID, [ONE], PELICAN)
    assert (
        caught.value.message == "a backup that is to be sent with the server is not on this node"
    )


@pytest.mark.parametrize("after", [b"", b"short", b"much longer"])
def test_a_backup_that_changes_meanwhile_is_not_sent(tmp_path: Path, after: bytes) -> None:
    file = kept(tmp_path / f"{ONE}.tar.gz")
    (found,) = find_backups(str(tmp_path), UUID, [ONE], PELICAN)
    file.write_bytes(after)
    with pytest.raises(StorageError):
        list(found.blocks())


@pytest.mark.parametrize("then", ["gone", "a symlink"])
def test_an_unreadable_backup_is_named(tmp_path: Path, then: str) -> None:
    file = kept(tmp_path / f"{ONE}.tar.gz")
    (found,) = find_backups(str(tmp_path), UUID, [ONE], PELICAN)
    file.unlink()
    if then == "a symlink":
        file.symlink_to(kept(tmp_path / "secret", b"secret"))
    with pytest.raises(StorageError, match=str(file)):
        list(found.blocks())


@pytest.mark.parametrize("place", [f"{ONE}.tar", f"{UUID}/{ONE}.tar.gz"])
def test_a_moved_backup_is_removed_with_its_empty_directory(tmp_path: Path, place: str) -> None:
    kept(tmp_path / place)
    kept((tmp_path / place).with_name(f"{ONE}.catalogue.json"))
    remove_backup(str(tmp_path), place)
    remove_backup(str(tmp_path), place)  # as after a kill
    assert list(tmp_path.iterdir()) == []


def test_other_backups_stay(tmp_path: Path) -> None:
    other = kept(tmp_path / UUID / "other.tar.gz")
    kept(tmp_path / UUID / f"{ONE}.tar.gz")
    remove_backup(str(tmp_path), f"{UUID}/{ONE}.tar.gz")
    assert list((tmp_path / UUID).iterdir()) == [other]


@pytest.mark.parametrize("place", ["../secret", "", f"{ONE}.exe", f"{ONE}.tar/../../secret"])
def test_only_backups_are_removed(tmp_path: Path, place: str) -> None:
    secret = kept(tmp_path / "secret")
    (tmp_path / "backups").mkdir()
    remove_backup(str(tmp_path / "backups"), place)
    assert secret.exists()


def test_a_backup_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    kept(tmp_path / f"{ONE}.tar" / "file")
    with pytest.raises(StorageError) as caught:
        remove_backup(str(tmp_path), f"{ONE}.tar")
    assert (
        caught.value.message == "a backup that has moved to another node could not be removed here"
    )

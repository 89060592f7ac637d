"""Storage pools: what nodes tell each other of them, and marks on a shared volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.sample_server import UUID
from wingsd.errors import Conflict, StorageError
from wingsd.transfers.storage.shared_volume import (
    Volume,
    is_same_pool,
)

pytestmark = pytest.mark.promise("pool-names-are-verified")

OWNER = (os.getuid(), os.getgid())
OTHER = "9d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / UUID).mkdir()
    (tmp_path / UUID / "world").touch()
    return Volume(str(tmp_path), OWNER, "attic")


def fault(volume: Volume, mark: str = "") -> str:
    with pytest.raises(StorageError) as caught:
        volume.check(UUID, mark)
    assert caught.value.message == "the server's files in the storage pool cannot be used"
    return caught.value.detail


def test_a_mark_is_seen_from_another_node_of_the_volume(tmp_path: Path, volume: Volume) -> None:
    mark = volume.marks.leave(UUID)
    there = Volume(str(tmp_path), OWNER, "ATTIC")
    assert there.features(UUID, "attic", mark) == ["shared-volume", "storage-pool"]
    assert there.features(UUID, "cellar", mark) == ["shared-volume"]
    assert Volume(str(tmp_path), OWNER, "").features(UUID, "attic", mark) == ["shared-volume"]
    there.check(UUID, mark)


@pytest.mark.parametrize("mark", ["", "0" * 32, "../../etc/passwd", "*", "A" * 32, "0" * 33])
def test_an_invalid_mark_proves_nothing(volume: Volume, mark: str) -> None:
    volume.marks.leave(UUID)
    assert volume.features(UUID, "attic", mark) == []


@pytest.mark.promise("pool-names-are-verified", "sent-backups-go-with-the-server")
def test_a_backup_mark_is_good_for_its_server_alone(tmp_path: Path, volume: Volume) -> None:
    for name in ("volumes", "other", "backups"):
        (tmp_path / name).mkdir()
    here, there = (
        Volume(str(tmp_path / name), OWNER, "", str(tmp_path / "backups"))
        for name in ("volumes", "other")
    )
    mark = here.backup_marks.leave(UUID)
    assert there.features(UUID, "", "", mark) == ["shared-backups"]
    assert there.features(OTHER, "", "", mark) == []
    assert there.features(UUID, "", "", "*") == []
    assert volume.features(UUID, "", "", mark) == []
    old, mark = mark, here.backup_marks.leave(UUID)
    assert there.features(UUID, "", "", old) == []
    here.backup_marks.remove(UUID)
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_new_mark_takes_the_place_of_one_that_was_left(tmp_path: Path, volume: Volume) -> None:
    old, other = volume.marks.leave(UUID), volume.marks.leave(OTHER)
    new = volume.marks.leave(UUID)
    assert volume.features(UUID, "attic", old) == []
    volume.marks.remove(UUID, old)
    assert volume.features(UUID, "attic", new) != []
    volume.marks.remove(UUID)
    assert volume.features(UUID, "attic", new) == []
    assert volume.features(OTHER, "attic", other) != []
    volume.marks.remove(OTHER)
    assert [path.name for path in tmp_path.iterdir()] == [UUID]


def test_an_empty_directory_is_accepted_with_a_mark_only(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / UUID / "world").unlink()
    assert "is empty; check that the volume that both nodes share is mounted" in fault(volume)
    volume.check(UUID, volume.marks.leave(UUID))


def test_a_missing_mark_means_two_volumes(volume: Volume) -> None:
    assert "is not the volume that the other node has" in fault(volume, "0" * 32)


def test_a_missing_directory_means_an_unmounted_volume(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / UUID).rename(tmp_path / "elsewhere")
    assert f"{UUID} is not there; check that the volume" in fault(volume)


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_only_a_directory_is_followed(tmp_path: Path, volume: Volume, kind: str) -> None:
    (tmp_path / UUID).rename(tmp_path / "elsewhere")
    if kind == "symlink":
        (tmp_path / UUID).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / UUID).touch()
    assert "is not a directory" in fault(volume)


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / UUID).mkdir()
    volume = Volume(str(tmp_path), (OWNER[0] + 1, OWNER[1]), "attic")
    detail = fault(volume)
    assert f"belongs to the user id {OWNER[0]}, and the servers of this node to" in detail
    assert "set system.user to the same" in detail


@pytest.mark.parametrize("mode", [0o077, 0o600])
def test_an_unusable_directory_is_refused(tmp_path: Path, volume: Volume, mode: int) -> None:
    (tmp_path / UUID).chmod(mode)
    try:
        assert f"has the mode {mode:o}; its user needs all of rwx" in fault(volume)
    finally:
        (tmp_path / UUID).chmod(0o755)


def test_a_copy_may_only_come_where_nothing_is(tmp_path: Path, volume: Volume) -> None:
    volume.require_free(OTHER)
    (tmp_path / OTHER).symlink_to("nowhere")
    for server in (UUID, OTHER):
        with pytest.raises(Conflict, match=r"set system\.transfers\.storage_pool on both"):
            volume.require_free(server)


# What nodes tell each other of a storage pool, and what follows from that


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("Attic", "attic", True),
        ("attic", "attic", True),
        ("attic", "cellar", False),
        ("attic", "", False),
        ("", "attic", False),
        ("", "", False),
        ("attic", "attic ", False),
    ],
)
def test_pool_names_are_compared_without_case(ours: str, theirs: str, same: bool) -> None:
    assert is_same_pool(ours, theirs) is same

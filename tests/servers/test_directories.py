"""Directories of servers: made, and deleted without a trace of anything else."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from wingsd.errors import StorageError
from wingsd.servers.files import ServerDirectories

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "volumes"


@pytest.fixture
def directories(data: Path) -> ServerDirectories:
    return ServerDirectories(str(data), (os.getuid(), os.getgid()))


def test_a_directory_is_made_once(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    assert (data / UUID).stat().st_mode & 0o777 == 0o755
    (data / UUID / "world").touch()
    directories.make(UUID)
    assert os.listdir(data / UUID) == ["world"]


def test_a_new_directory_belongs_to_its_owner(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def give(fd: int, *owner: int) -> None:
        given.append((os.readlink(f"/proc/self/fd/{fd}"), *owner))

    monkeypatch.setattr(os, "fchown", give)
    ServerDirectories(str(data), (12345, 54321)).make(UUID)
    assert given == [(str(data / UUID), 12345, 54321)]


def test_a_file_that_takes_the_place_of_a_new_directory_keeps_its_owner(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.mkdir()
    (foreign := tmp_path / "foreign").touch()
    given: list[object] = []
    for change in ("chown", "lchown", "fchown"):
        monkeypatch.setattr(os, change, lambda *call: given.append(call))
    monkeypatch.setattr(os, "mkdir", lambda path, mode: os.link(foreign, path))
    with pytest.raises(StorageError, match=UUID):
        ServerDirectories(str(data), (12345, 54321)).make(UUID)
    assert given == []


def test_a_symlink_in_its_place_is_no_directory(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    data.mkdir()
    (data / UUID).symlink_to(tmp_path)
    with pytest.raises(StorageError, match=UUID):
        directories.make(UUID)


def test_a_deletion_moves_the_files_first(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    (data / UUID / "world").mkdir()
    (data / UUID / "world" / "region").write_bytes(b"x")
    apart = directories.set_aside(UUID)
    assert apart is not None
    assert not (data / UUID).exists()
    directories.make(UUID)
    assert directories.unfinished() == [apart]
    directories.delete(apart)
    assert os.listdir(data) == [UUID]
    assert directories.unfinished() == []
    directories.delete(apart)


def test_what_is_deleted_may_be_of_any_depth(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    # From the inside out: no path is as long as what this becomes.
    for _ in range(1500):
        (data / "outer").mkdir()
        (data / UUID).rename(data / "outer" / "inner")
        (data / "outer").rename(data / UUID)
    apart = directories.set_aside(UUID)
    assert apart is not None
    directories.delete(apart)
    assert os.listdir(data) == []


def test_a_missing_directory_needs_no_deletion(directories: ServerDirectories, data: Path) -> None:
    assert directories.set_aside(UUID) is None
    assert directories.unfinished() == []


def test_symlinks_go_and_what_they_point_to_stays(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    directories.make(UUID)
    (data / UUID / "link").symlink_to(precious)
    (data / OTHER).symlink_to(precious)
    for uuid in (UUID, OTHER):
        apart = directories.set_aside(uuid)
        assert apart is not None
        directories.delete(apart)
    assert os.listdir(data) == []
    assert (precious / "file").exists()


def test_only_what_was_set_apart_is_taken_for_unfinished(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    data.mkdir()
    for name in (UUID, ".deleting-me", f".deleting-{UUID}", f"x.deleting-{UUID}-abc", ".staging"):
        (data / name).mkdir()
    (data / f".deleting-{UUID}-file").touch()
    (data / f".deleting-{UUID}-link").symlink_to(tmp_path)
    (data / f".deleting-{UUID}-abc").mkdir()
    assert directories.unfinished() == [str(data / f".deleting-{UUID}-abc")]


@pytest.mark.promise("pool-nodes-keep-apart")
def test_nodes_of_one_volume_finish_their_own_deletions(data: Path) -> None:
    owner = (os.getuid(), os.getgid())
    node, other = (ServerDirectories(str(data), owner, name) for name in (UUID, OTHER))
    node.make(UUID)
    apart = node.set_aside(UUID)
    # Of before this was a volume of several nodes.
    (data / f".deleting-{UUID}-abc").mkdir()
    assert other.unfinished() == [str(data / f".deleting-{UUID}-abc")]
    assert apart in node.unfinished()
    node.delete(apart or "")
    assert node.unfinished() == other.unfinished()


def test_a_failure_says_where_and_leaves_the_files(
    directories: ServerDirectories, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.make(UUID)
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(16, "Device or resource busy")))
    with pytest.raises(StorageError, match=f"{UUID} cannot be moved away.*busy.*by hand"):
        directories.set_aside(UUID)
    assert os.listdir(data) == [UUID]

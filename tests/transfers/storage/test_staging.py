"""How received files become a server's on a real file system; installation logs."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.sample_server import UUID
from wingsd.errors import StorageError
from wingsd.transfers.storage import staging as installlog
from wingsd.transfers.storage import staging as storage
from wingsd.transfers.storage.staging import InstallLogs, Staging

# Only root can give files away.
OWNER = (1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "node" / "volumes"


@pytest.fixture
def staging(data: Path) -> Iterator[Staging]:
    staging = Staging(str(data), OWNER, durable=True)
    staging.prepare()
    yield staging
    staging.close()


def tree(data: Path) -> list[str]:
    """Return every path beside and below `data`, its own parents left out."""
    return sorted(str(path.relative_to(data.parent)) for path in data.parent.rglob("*"))


def receive(staging: Staging) -> Path:
    path = Path(staging.create(UUID))
    (path / "world").write_text("new")
    staging.flush(UUID)
    return path


def swap(staging: Staging) -> str | None:
    aside = staging.set_aside(UUID)
    staging.swap(UUID)
    staging.finish(UUID)
    return aside


def test_the_staging_area_is_beside_the_data_and_private(staging: Staging, data: Path) -> None:
    path = receive(staging)
    assert UUID in path.name
    assert path.parent.parent == data.parent
    assert path.parent.stat().st_mode & 0o777 == 0o700
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o755, *OWNER)
    assert list(data.iterdir()) == []


def test_a_swap_makes_the_files_the_servers(staging: Staging, data: Path) -> None:
    inode = receive(staging).stat().st_ino
    assert swap(staging) is None
    assert (data / UUID).stat().st_ino == inode
    assert tree(data) == [
        ".volumes.staging",
        ".volumes.staging/.lock",
        "volumes",
        f"volumes/{UUID}",
        f"volumes/{UUID}/world",
    ]


@pytest.mark.parametrize("found", ["directory", "empty directory", "file", "dangling link"])
def test_an_existing_directory_is_set_aside(staging: Staging, data: Path, found: str) -> None:
    place = data / UUID
    if "directory" in found:
        place.mkdir()
    if found == "directory":
        (place / "precious").write_text("old")
    if found == "file":
        place.write_text("old")
    if found == "dangling link":
        place.symlink_to("nowhere")
    before = os.lstat(place).st_ino
    receive(staging)
    aside = swap(staging)
    assert aside is not None
    assert Path(aside).name.startswith(f"{UUID}.set-aside-")
    assert Path(aside).parent == data
    assert os.lstat(aside).st_ino == before
    assert (place / "world").read_text() == "new"


def test_a_swap_that_cannot_be_made_durable_is_rolled_back(
    staging: Staging, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = receive(staging)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, "")))
    with pytest.raises(StorageError, match="the disk failed"):
        staging.swap(UUID)
    assert path.exists()
    assert list(data.iterdir()) == []


OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


def test_the_sync_is_of_a_descriptor_older_than_the_files(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    # syncfs(2) tells only of errors that came after its descriptor was opened.
    before = os.stat(staging.path)
    synced: list[os.stat_result] = []
    monkeypatch.setattr(storage, "syncfs", lambda fd: synced.append(os.fstat(fd)))
    staging.create(UUID)
    staging.sync(UUID)
    assert [os.path.samestat(each, before) for each in synced] == [True]
    staging.finish(UUID)


def test_a_failed_sync_counts_for_each_server_that_arrives(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in (UUID, OTHER):
        staging.create(server)
    fails = Mock(side_effect=OSError(errno.EIO, ""))
    monkeypatch.setattr(storage, "syncfs", fails)
    with pytest.raises(StorageError):
        staging.sync(UUID)
    fails.side_effect = None
    staging.sync(UUID)
    with pytest.raises(StorageError):  # the kernel has reported it once
        staging.sync(OTHER)
    staging.sync(OTHER)


def test_a_second_daemon_is_kept_out_and_clears_nothing(staging: Staging, data: Path) -> None:
    path = receive(staging)
    with pytest.raises(StorageError):
        Staging(str(data), OWNER, durable=True).prepare()
    assert (path / "world").exists()


@pytest.mark.promise("destination-completes-or-rolls-back")
def test_leftovers_of_a_killed_daemon_are_cleared(staging: Staging, data: Path) -> None:
    receive(staging)
    data.with_name(".volumes.staging").joinpath("stray file").write_text("")
    (data / "other").mkdir()
    staging.close()
    again = Staging(str(data), OWNER, durable=True)
    again.prepare()
    with pytest.MonkeyPatch.context() as patch:
        # The start does not wait for the deletion of a large tree.
        patch.setattr(storage, "remove_tree", Mock(side_effect=AssertionError))
        assert again.clear() == [UUID, "stray file"]
        assert again.clear() == []
    again.delete_cleared()
    assert tree(data) == [
        ".volumes.staging",
        ".volumes.staging/.lock",
        "volumes",
        "volumes/other",
    ]
    again.close()


@pytest.mark.promise("pool-nodes-keep-apart")
@pytest.mark.parametrize("other", ["", "other"])
def test_nodes_of_one_volume_have_areas_of_their_own(data: Path, other: str) -> None:
    nodes = [Staging(str(data), OWNER, durable=True, node=name) for name in ("one", other)]
    for node in nodes:
        node.prepare()
    path = receive(nodes[0])
    assert nodes[1].clear() == []
    assert (path / "world").exists()
    assert tree(data).count("volumes") == 1
    with pytest.raises(StorageError):
        Staging(str(data), OWNER, durable=True, node="one").prepare()
    for node in nodes:
        node.close()


@pytest.fixture
def mounted(data: Path) -> Iterator[Path]:
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", data], check=True)
    try:
        yield data
    finally:
        subprocess.run(["umount", data], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_data_that_is_a_mount_of_its_own_is_staged_inside(mounted: Path) -> None:
    staging = Staging(str(mounted), OWNER, durable=True)
    staging.prepare()
    path = receive(staging)
    assert path.stat().st_dev == mounted.stat().st_dev != mounted.parent.stat().st_dev
    swap(staging)
    assert tree(mounted) == [
        "volumes",
        "volumes/.staging",
        "volumes/.staging/.lock",
        f"volumes/{UUID}",
        f"volumes/{UUID}/world",
    ]
    staging.close()


@pytest.fixture
def alone(data: Path) -> Iterator[Path]:
    """Data that can be written, in a directory that cannot: `ReadWritePaths=` of a service."""
    data.mkdir(parents=True)
    above = data.parent
    for command in (
        ["mount", "--bind", str(above), str(above)],
        ["mount", "--bind", str(data), str(data)],
        ["mount", "-o", "remount,bind,ro", str(above)],
    ):
        subprocess.run(command, check=True)
    try:
        yield data
    finally:
        subprocess.run(["umount", data], check=True)
        subprocess.run(["umount", above], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_data_in_a_directory_that_cannot_be_written_is_staged_inside(alone: Path) -> None:
    staging = Staging(str(alone), OWNER, durable=True)
    staging.prepare()
    receive(staging)
    swap(staging)
    staging.close()
    assert (alone / UUID).is_dir()
    assert os.listdir(alone.parent) == [alone.name]


def test_what_is_not_received_any_more_cannot_be_synced(tmp_path: Path) -> None:
    staging = Staging(str(tmp_path / "volumes"), (os.getuid(), os.getgid()), durable=True)
    staging.prepare()
    staging.create(UUID)
    staging.sync(UUID)
    staging.finish(UUID)
    with pytest.raises(StorageError):
        staging.sync(UUID)
    staging.close()


# Logs of installations on the disk, read to be sent along


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "install").mkdir()
    return tmp_path / "install" / f"{UUID}.log"


@pytest.fixture
def logs(tmp_path: Path) -> InstallLogs:
    staging = Staging(str(tmp_path / "volumes"), (os.getuid(), os.getgid()), durable=False)
    return InstallLogs(str(tmp_path), staging, reserve=0)


def read(logs: InstallLogs) -> bytes:
    log = logs.open(UUID)
    assert log is not None
    with closing(log):
        return b"".join(log.blocks())


@pytest.mark.parametrize("size", [0, 1, 600_000])
def test_a_log_is_read_to_its_end(logs: InstallLogs, place: Path, size: int) -> None:
    data = os.urandom(size)
    place.write_bytes(data)
    assert read(logs) == data


def test_no_more_of_a_log_is_read_than_is_kept(
    logs: InstallLogs, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installlog, "LOG_LIMIT", 300_000)
    data = os.urandom(600_000)
    place.write_bytes(data)
    assert read(logs) == data[:300_000]


@pytest.mark.parametrize("kind", ["a symlink", "a directory", "a FIFO"])
def test_only_a_file_is_a_log(logs: InstallLogs, place: Path, kind: str) -> None:
    if kind == "a symlink":
        place.symlink_to("/etc/passwd")
    elif kind == "a directory":
        place.mkdir()
    else:
        os.mkfifo(place)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match=str(place)):
        logs.open(UUID)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fails_is_named(logs: InstallLogs, place: Path) -> None:
    place.write_bytes(b"log")
    log = logs.open(UUID)
    assert log is not None
    log.close()
    with pytest.raises(StorageError, match=f"{place}: Bad file descriptor"):
        list(log.blocks())

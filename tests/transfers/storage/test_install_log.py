"""Logs of installations on the disk, read to be sent along."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.sample_server import UUID
from wingsd.errors import StorageError
from wingsd.transfers.storage import staging as installlog
from wingsd.transfers.storage.staging import InstallLogs, Staging


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


def test_a_missing_log_is_not_an_error(logs: InstallLogs, place: Path) -> None:
    assert logs.open(UUID) is None
    place.parent.rmdir()
    assert logs.open(UUID) is None


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

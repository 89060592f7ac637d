"""What is sent along with a server: its backups, and the log of its installation."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.sample_server import UUID
from tests.transfers.sending import BACKUPS, House, keep, sending
from wingsd.backups.attachments import Backup, InstallLog
from wingsd.config import CALAGOPUS, PELICAN

house = pytest.fixture(sending)


# Backups that come along


@pytest.mark.parametrize(("asked", "family"), [("", PELICAN), ("tar_zstd", CALAGOPUS)])
@pytest_twisted.ensureDeferred
async def test_backups_come_along_from_wherever_they_are(
    house: House, asked: str, family: str
) -> None:
    first, second = random.Random("along").randbytes(600_000), b"second"
    keep(house, f"{UUID}/{BACKUPS[0]}.tar.gz", first)
    keep(house, f"{BACKUPS[1]}.tar.gz", second)
    keep(house, f"{BACKUPS[2]}.tar.gz", b"not asked for")
    await house.start(archive_format=asked, backups=tuple(BACKUPS[:2]))
    assert house.destination.came_along == {
        Backup(BACKUPS[0], "tar.gz", family): first,
        Backup(BACKUPS[1], "tar.gz", family): second,
    }
    assert house.destination.checksums.backups == {
        BACKUPS[0]: hashlib.sha256(first).hexdigest(),
        BACKUPS[1]: hashlib.sha256(second).hexdigest(),
    }
    assert house.states[-2:] == ["success", "completed"]


@pytest_twisted.ensureDeferred
async def test_one_that_is_missing_fails_it_before_the_server_is_stopped(house: House) -> None:
    keep(house, f"{BACKUPS[0]}.tar.gz", b"here")
    (house.tree.parent / "backups" / f"{BACKUPS[1]}.tar.gz").symlink_to("/etc/passwd")
    await house.start(backups=tuple(BACKUPS))
    assert house.said(f"there is no {BACKUPS[1]}, no {BACKUPS[2]}")
    assert house.world.calls == []
    assert (house.world.told, house.world.hold) == (["failure"], "")


@pytest_twisted.ensureDeferred
async def test_pelicans_nodes_are_sent_no_other_form_of_backup(house: House) -> None:
    keep(house, f"{BACKUPS[0]}.tar.zst", b"zst")
    await house.start(backups=(BACKUPS[0],))
    assert house.said("the nodes of Pelican keep only backups that are a tar.gz")
    assert house.world.calls == []


# The log of its installation


def keep_log(house: House, data: bytes) -> Path:
    file: Path = house.logs / "install" / f"{UUID}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("asked", ["", "tar_zstd"])
@pytest_twisted.ensureDeferred
async def test_the_log_of_its_installation_comes_along(house: House, asked: str) -> None:
    log = random.Random("along").randbytes(600_000)
    keep_log(house, log)
    keep(house, f"{BACKUPS[0]}.tar.gz", b"backup")
    await house.start(archive_format=asked, backups=tuple(BACKUPS[:1]))
    assert house.destination.came_along == {
        InstallLog(): log,
        Backup(BACKUPS[0], "tar.gz", CALAGOPUS if asked else PELICAN): b"backup",
    }
    assert house.destination.log_name == (b"install-logs" if asked else b"install_logs")
    assert house.states[-2:] == ["success", "completed"]


@pytest_twisted.ensureDeferred
async def test_no_transfer_fails_for_a_log(house: House) -> None:
    file = keep_log(house, b"secret")
    file.rename(file.with_name("another.log"))
    file.symlink_to("another.log")
    await house.start()
    assert house.said(f"the server goes without its installation log {file}")
    assert house.destination.came_along == {}
    assert house.states[-2:] == ["success", "completed"]


@pytest_twisted.ensureDeferred
async def test_nobody_is_told_of_a_log_that_there_is_not(house: House) -> None:
    await house.start()
    assert not house.said("log")
    assert house.destination.came_along == {}

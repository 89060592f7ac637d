"""What is sent along with a server: its backups, and the log of its installation."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS, Sender, sending
from wingsd.backups.local import AttachedLog, Backup
from wingsd.config import CALAGOPUS, PELICAN

sender = pytest.fixture(sending)


@pytest.mark.parametrize(("asked", "family"), [("", PELICAN), ("tar_zstd", CALAGOPUS)])
async def test_backups_are_sent_from_every_place(sender: Sender, asked: str, family: str) -> None:
    first, second = random.Random("along").randbytes(600_000), b"second"
    sender.keep(f"{UUID}/{BACKUPS[0]}.tar.gz", first)
    sender.keep(f"{BACKUPS[1]}.tar.gz", second)
    sender.keep(f"{BACKUPS[2]}.tar.gz", b"not asked for")
    await sender.start(archive_format=asked, backups=tuple(BACKUPS[:2]))
    assert sender.destination.attachments == {
        Backup(BACKUPS[0], "tar.gz", family): first,
        Backup(BACKUPS[1], "tar.gz", family): second,
    }
    assert sender.destination.checksums.backups == {
        BACKUPS[0]: hashlib.sha256(first).hexdigest(),
        BACKUPS[1]: hashlib.sha256(second).hexdigest(),
    }
    assert sender.states[-2:] == ["success", "completed"]


async def test_a_missing_backup_fails_before_the_server_is_stopped(sender: Sender) -> None:
    sender.keep(f"{BACKUPS[0]}.tar.gz", b"here")
    (sender.tree.parent / "backups" / f"{BACKUPS[1]}.tar.gz").symlink_to("/etc/passwd")
    await sender.start(backups=tuple(BACKUPS))
    assert sender.said(f"does not have {BACKUPS[1]}, {BACKUPS[2]}")
    assert sender.calls == []
    assert (sender.panel.calls, sender.server.hold) == (["failure"], "")


async def test_only_tar_gz_backups_are_sent_to_pelican_nodes(sender: Sender) -> None:
    sender.keep(f"{BACKUPS[0]}.tar.zst", b"zst")
    await sender.start(backups=(BACKUPS[0],))
    assert sender.said("the nodes of Pelican keep only backups that are a tar.gz")
    assert sender.calls == []


def keep_log(sender: Sender, data: bytes) -> Path:
    file: Path = sender.logs / "install" / f"{UUID}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("asked", ["", "tar_zstd"])
async def test_the_installation_log_is_sent(sender: Sender, asked: str) -> None:
    log = random.Random("along").randbytes(600_000)
    keep_log(sender, log)
    sender.keep(f"{BACKUPS[0]}.tar.gz", b"backup")
    await sender.start(archive_format=asked, backups=tuple(BACKUPS[:1]))
    assert sender.destination.attachments == {
        AttachedLog(): log,
        Backup(BACKUPS[0], "tar.gz", CALAGOPUS if asked else PELICAN): b"backup",
    }
    assert sender.destination.log_name == (b"install-logs" if asked else b"install_logs")
    assert sender.states[-2:] == ["success", "completed"]


async def test_a_log_that_cannot_be_read_fails_no_transfer(sender: Sender) -> None:
    file = keep_log(sender, b"secret")
    file.rename(file.with_name("another.log"))
    file.symlink_to("another.log")
    await sender.start()
    assert sender.said(f"the server is sent without its installation log {file}")
    assert sender.destination.attachments == {}
    assert sender.states[-2:] == ["success", "completed"]


async def test_a_missing_log_is_not_mentioned(sender: Sender) -> None:
    await sender.start()
    assert not sender.said("log")
    assert sender.destination.attachments == {}

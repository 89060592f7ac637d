"""What is sent along with a server: its backups, and the log of its installation."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.archive.test_regular_files import contents, packed, restored, rewritten
from tests.archive.test_sparse import write
from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS, Sender, sending
from wingsd.backups.store import AttachedLog, Backup
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


@pytest.fixture
def kept_tree(tmp_path: Path) -> Path:
    """A backup and its contents."""
    tree = tmp_path / "kept"
    (tree / "empty").mkdir(parents=True)
    (tree / "a").write_bytes(random.Random("along").randbytes(600_000))
    os.link(tree / "a", tree / "b")
    write(tree / "holes", 8 << 20, (3 << 20, b"x"))
    (tree / "link").symlink_to("a")
    return tree


@pytest.mark.promise("backups-suit-the-destination")
async def test_a_node_in_go_gets_backups_that_it_can_restore(
    sender: Sender, kept_tree: Path, tmp_path: Path
) -> None:
    sender.destination.features = ""
    as_stored = packed(kept_tree)
    stored, other = as_stored.data, rewritten(as_stored)[0]
    sender.keep(f"{UUID}/{BACKUPS[0]}.tar.gz", stored)
    sender.keep(f"{UUID}/{BACKUPS[1]}.tar.gz", other)
    sender.keep(f"{UUID}/{BACKUPS[2]}.tar.gz", b"no archive")
    await sender.start(backups=tuple(BACKUPS))
    assert sender.states[-2:] == ["success", "completed"]
    found = sender.destination.attachments
    sent = found[Backup(BACKUPS[0], "tar.gz", PELICAN)]
    assert contents(restored(sent, tmp_path)) == contents(kept_tree)
    assert sender.destination.checksums.backups[BACKUPS[0]] == hashlib.sha256(sent).hexdigest()
    assert sender.said(
        f"the backup {BACKUPS[0]} is sent as the destination's node can restore it: 1 hard link "
        "as whole copies (585.9 KiB more), without 1 symlink, 1 empty directory"
    )
    # One that is in that form keeps the checksum that its Panel has of it.
    assert found[Backup(BACKUPS[1], "tar.gz", PELICAN)] == other
    assert found[Backup(BACKUPS[2], "tar.gz", PELICAN)] == b"no archive"
    assert sender.said(f"the backup {BACKUPS[2]} cannot be read and is sent as it is")


@pytest.mark.parametrize(("features", "asked"), [("symlinks, hard-links", ""), ("", "tar_gz")])
async def test_other_nodes_get_backups_as_they_are(
    sender: Sender, kept_tree: Path, features: str, asked: str
) -> None:
    sender.destination.features = features
    stored = packed(kept_tree).data
    sender.keep(f"{BACKUPS[0]}.tar.gz", stored)
    await sender.start(archive_format=asked, backups=(BACKUPS[0],))
    assert list(sender.destination.attachments.values()) == [stored]


async def test_a_backup_found_to_be_damaged_while_it_is_sent_fails_the_transfer(
    sender: Sender, kept_tree: Path
) -> None:
    sender.destination.features = ""
    sender.keep(f"{BACKUPS[0]}.tar.gz", packed(kept_tree).data[:-5000])
    await sender.start(backups=(BACKUPS[0],))
    assert sender.said("a backup that is to be sent with the server is damaged")
    assert sender.said("delete the backup in the Panel, or leave it out of the transfer")
    assert sender.states[-1] == "failure"


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


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_a_log_that_cannot_be_read_fails_no_transfer(sender: Sender) -> None:
    file = keep_log(sender, b"secret")
    file.rename(file.with_name("another.log"))
    file.symlink_to("another.log")
    await sender.start()
    assert sender.said(f"the server is sent without its installation log {file}")
    assert sender.destination.attachments == {}
    assert sender.states[-2:] == ["success", "completed"]


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_a_missing_log_is_not_mentioned(sender: Sender) -> None:
    await sender.start()
    assert not sender.said("log")
    assert sender.destination.attachments == {}

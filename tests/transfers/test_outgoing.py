"""Outgoing transfers: their steps, how they end, and what is sent along."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.archive.test_regular_files import contents, packed, restored, rewritten
from tests.archive.test_sparse import write
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.sender import (
    BACKUPS,
    Sender,
    at_answer,
    at_question,
    at_removal,
    at_stop,
    at_upload,
    sending,
)
from tests.transfers.peers import closed_port
from wingsd import callbacks
from wingsd.archive.extract import extract
from wingsd.backups.store import AttachedLog, Backup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    BadRequest,
    Conflict,
    DaemonStopping,
)
from wingsd.panel.schemas import Build, Configuration, Settings
from wingsd.servers.operations import Operation
from wingsd.transfers import manager
from wingsd.transfers.outgoing import source as streams
from wingsd.transfers.outgoing.source import EVERY, MOVED, StandstillNotice, TransferRequest
from wingsd.transfers.steps import SendStep, StepLog, UploadFigures
from wingsd.util.retry import Backoff

sender = pytest.fixture(sending)


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


async def test_a_server_goes_through_every_step_in_order(sender: Sender) -> None:
    await sender.start()
    assert sender.calls == ["stop", "remove"]
    assert sender.states == ["pending", "processing", "success", "completed"]
    assert sender.panel.calls == []
    assert members(sender.destination.archives[0])["link"].issym()
    # What is left of it here is not to be started.
    assert sender.server.hold == MOVED


@pytest.mark.promise("activity-precedes-the-move")
async def test_the_panel_gets_what_users_did_before_the_destination_has_the_server(
    sender: Sender,
) -> None:
    had: list[list[str]] = []
    sender.destination.on_request = lambda: had.append([*sender.panel.activity])
    sender.use()
    await sender.start()
    assert sender.states[-1] == "completed"
    assert had[-1] == ["server:power.restart"]


@pytest.mark.promise("server-runs-until-its-slot")
async def test_a_change_of_its_files_is_cancelled_and_its_end_awaited(sender: Sender) -> None:
    operations = sender.server.operations
    cancelled: list[bool] = []
    with operations.during(Operation.CHANGE_FILES, lambda: cancelled.append(True)):
        over = sender.start()
        await until(lambda: [each.step for each in sender.transfers.progress] == [SendStep.STOP])
        assert cancelled == [True]
        with pytest.raises(Conflict):
            operations.check(Operation.CHANGE_FILES)
        assert (sender.calls, sender.destination.archives) == ([], []), "it runs meanwhile"
    await over
    assert sender.calls == ["stop", "remove"]
    assert len(sender.destination.archives) == 1


async def test_the_figures_of_the_upload_are_those_of_the_server(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Callable[[], UploadFigures | None]] = []

    def keep(_: StepLog[SendStep], *args: object, figures: Any = None, **__: object) -> None:
        if figures is not None:
            given.append(figures)

    monkeypatch.setattr(StepLog, "show_progress", keep)
    await sender.start()
    (archive,) = sender.destination.archives
    files = [member for member in members(archive).values() if member.isreg()]
    figures = given[0]()
    assert figures is not None
    assert (figures.files, figures.read) == (len(files), sum(member.size for member in files))
    assert figures.total >= figures.read
    assert figures.sent > 0


@pytest.mark.promise("server-runs-until-its-slot")
async def test_a_server_that_waits_for_a_slot_is_not_stopped_yet(sender: Sender) -> None:
    """Moves of servers that run may have the slots for hours."""
    slots = sender.sender.parts.slots
    for _ in range(2):
        await slots.acquire()
    over = sender.start()
    await until(lambda: slots.waiting)
    assert sender.calls == []
    slots.release()
    await over
    assert sender.calls == ["stop", "remove"]


async def test_a_node_that_does_not_say_that_it_keeps_links_gets_copies(sender: Sender) -> None:
    sender.destination.features = ""
    await sender.start()
    link = members(sender.destination.archives[0])["link"]
    assert (link.isreg(), link.size) == (True, 128_000)


def allow(sender: Sender, disk_space: int) -> None:
    """Have the Panel say that the server may have so many MiB."""
    sender.server.configuration = Configuration(Settings(UUID, build=Build(disk_space=disk_space)))


@pytest.mark.promise("oversized-server-is-not-sent")
async def test_a_server_over_its_disk_limit_is_neither_stopped_nor_sent(sender: Sender) -> None:
    allow(sender, 1)
    with (sender.tree / "world" / "sparse").open("wb") as file:
        file.truncate(64 << 20)
    # Neither before it is measured, nor afterwards.
    for measured in (None, 64 << 20):
        sender.server.disk_bytes = measured
        await sender.start()
        assert sender.said(
            'its disk limit is 1.0 MiB; the largest is "world/sparse" with 64.0 MiB.'
        )
        sender.lines.clear()
    assert sender.calls == []
    assert sender.destination.archives == []
    assert sender.server.hold == ""
    # Files may have been deleted since it was measured.
    (sender.tree / "world" / "sparse").unlink()
    await sender.start()
    assert sender.states[-1] == "completed"


async def test_a_refusal_reaches_the_console_and_the_panel(sender: Sender) -> None:
    sender.destination.status = 409
    sender.destination.body = b'{"error": "this server is already on this node"}'
    await sender.start()
    assert sender.said("this server is already on this node")
    assert sender.states == ["pending", "processing", "failed", "failure"]
    assert sender.panel.calls.count("failure") == 1
    assert sender.calls == ["stop", "remove", "restore"]
    assert sender.server.hold == ""


async def test_a_server_is_not_stopped_for_a_node_that_cannot_be_reached(sender: Sender) -> None:
    with closed_port() as port:
        await sender.start(port)
    assert sender.calls == []
    assert sender.panel.calls == ["failure"]
    assert sender.states == ["pending", "failed", "failure"]
    assert sender.server.hold == ""


@pytest.mark.promise("container-is-made-again")
async def test_a_failed_transfer_is_open_until_its_container_is_restored(sender: Sender) -> None:
    sender.destination.status = 500
    sender.waits["restore"] = Deferred()
    await sender.start()
    # Nobody waits for it, but a daemon that ends now must find what it has to do.
    assert (sender.states[-1], sender.server.hold) == ("failure", "")
    (entry,) = sender.store.unfinished()
    assert entry.step == "FAILED"
    sender.waits["restore"].callback(None)
    assert sender.store.unfinished() == []


@pytest.mark.parametrize(
    ("asked", "filename", "begins"),
    [
        ("", b"archive.tar.gz", b"\x1f\x8b"),
        ("tar", b"archive.tar", b"./"),
        ("tar_xz", b"archive.tar.xz", b"\xfd7zXZ"),
        ("tar_lz4", b"archive.tar.lz4", b"\x04\x22\x4d\x18"),
        ("tar_zstd", b"archive.tar.zst", b"\x28\xb5\x2f\xfd"),
    ],
)
async def test_the_archive_goes_in_the_format_that_is_asked_for(
    sender: Sender, asked: str, filename: bytes, begins: bytes, tmp_path: Path
) -> None:
    await sender.start(archive_format=asked)
    assert sender.destination.filenames == [filename]
    (archive,) = sender.destination.archives
    assert archive.startswith(begins)
    (tmp_path / "arrived").mkdir()
    extract(iter([archive]), str(tmp_path / "arrived"), None, print)
    arrived = tmp_path / "arrived" / "world" / "level.dat"
    assert arrived.read_bytes() == (sender.tree / "world" / "level.dat").read_bytes()
    assert sender.states[-2:] == ["success", "completed"]


@pytest.mark.parametrize(("asked", "is_compressed"), [("", True), ("none", False)])
async def test_the_requested_level_counts(sender: Sender, asked: str, is_compressed: bool) -> None:
    await sender.start(compression_level=asked)
    (archive,) = sender.destination.archives
    assert (len(archive) < 128_000 / 2) is is_compressed


async def test_an_unknown_format_is_logged_and_the_default_sent(sender: Sender) -> None:
    await sender.start(archive_format="itaf_zstd", compression_level="ultra")
    assert sender.destination.filenames == [b"archive.tar.gz"]
    assert sender.said("the archive format 'itaf_zstd' is not one that this node writes")
    assert sender.said("the compression level 'ultra' is not one that this node writes")
    assert sender.states[-2:] == ["success", "completed"]


async def test_a_second_transfer_of_a_server_is_refused(sender: Sender) -> None:
    over = await sender.start_until(at_answer)
    with pytest.raises(Conflict) as caught:
        sender.start()
    assert caught.value.message == "A transfer is already in progress for this server."
    sender.destination.waits["POST"].callback(None)
    await over


def test_a_request_without_a_valid_url_is_refused_and_holds_nothing(sender: Sender) -> None:
    server: Any = sender.server
    with pytest.raises(BadRequest):
        sender.transfers.start(server, TransferRequest("nowhere", "Bearer token"))
    assert (sender.server.hold, sender.states) == ("", [])


async def test_a_daemon_that_stops_aborts_a_transfer_that_is_not_sent(sender: Sender) -> None:
    await sender.start_until(at_stop)
    await sender.transfers.stop()
    assert sender.panel.calls == ["failure"]
    with pytest.raises(DaemonStopping):
        sender.start()


async def test_a_daemon_that_stops_waits_for_a_full_uploads_answer(sender: Sender) -> None:
    await sender.start_until(at_answer)
    stopped = sender.transfers.stop()
    assert not stopped.called
    sender.destination.waits["POST"].callback(None)
    await stopped
    assert sender.states[-1] == "completed"


async def test_a_success_is_counted_with_the_bytes_sent(sender: Sender) -> None:
    await sender.start()
    ((way, error, moved),) = sender.heard.over
    assert (way, error) == ("out", None)
    (archive,) = sender.destination.archives
    # Around it is the form, with the checksum.
    assert 0 < (moved or 0) - len(archive) < 1000
    steps = [step for step, _ in sender.heard.steps]
    assert steps == ["ask", "stop", "retire", "send", "await"]


# Outgoing transfers that are cancelled, and servers that are deleted meanwhile


MOMENTS = [at_question, at_stop, at_removal, at_upload, at_answer]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_cancel_ends_each_step_at_once(
    sender: Sender, moment: Callable[[Sender], Deferred[None]]
) -> None:
    over = await sender.start_until(moment)
    sender.transfers.cancel(UUID)
    await over.addTimeout(60, reactor)
    assert sender.states[-2:] == ["failed", "failure"]
    assert sender.said("the transfer was cancelled")
    assert sender.panel.calls.count("failure") == 1
    assert sender.server.hold == ""
    with pytest.raises(Conflict) as caught:
        sender.transfers.cancel(UUID)
    assert caught.value.message == "Server is not currently being transferred."


@pytest.mark.promise("cancel-is-quick-and-safe")
async def test_a_cancelled_server_that_may_have_moved_is_held_while_the_panel_denies_its_transfer(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    sender.panel.denials = 1_000_000
    over = await sender.start_until(at_answer)
    sender.transfers.cancel(UUID)
    await until(lambda: sender.panel.calls.count("failure") > 2)
    assert sender.server.hold != ""
    sender.panel.owned = False
    await over
    assert sender.states[-2:] == ["success", "completed"]
    assert "restore" not in sender.calls


@pytest.mark.parametrize("moment", MOMENTS[:-1])
async def test_a_deletion_during_the_upload_cancels_the_transfer(
    sender: Sender, moment: Callable[[Sender], Deferred[None]]
) -> None:
    over = await sender.start_until(moment)
    await sender.delete()
    assert sender.transfers.servers == ()
    assert sender.panel.calls == ["failure"]
    await over


async def test_a_deletion_after_the_upload_is_a_success(sender: Sender) -> None:
    over = await sender.start_until(at_answer)
    released = Deferred.fromCoroutine(sender.transfers.release(UUID))
    # At once: the Panel waits for it with its own answer to the destination.
    assert released.called
    sender.transfers.deleted(UUID)
    assert sender.states[-2:] == ["success", "completed"]
    with pytest.raises(Conflict):
        sender.transfers.cancel(UUID)
    sender.destination.waits["POST"].callback(None)
    await over
    assert sender.panel.calls == []
    assert "restore" not in sender.calls


async def test_an_answer_that_is_lost_after_the_deletion_changes_nothing(sender: Sender) -> None:
    there = at_answer(sender)
    sender.destination.drop = True
    over = sender.start()
    await there
    await sender.delete()
    sender.destination.waits["POST"].callback(None)
    await over
    assert sender.panel.calls == []
    assert sender.states[-1] == "completed"


@pytest.mark.promise("source-copy-goes-when-moved")
@pytest.mark.parametrize("ours", [False, True])
async def test_a_server_that_moved_and_was_not_deleted_is_asked_about(
    sender: Sender, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "DELETION_WITHIN", 0.02)
    sender.panel.owned = ours
    await sender.start()
    (entry,) = sender.store.unfinished()
    assert entry.step == "SEND"
    await until(lambda: sender.store.unfinished() == [])
    if ours:
        # The destination took it and is lost, or its success was not wanted.
        assert sender.panel.calls == ["owns", "failure"]
        assert sender.server.hold == ""
    else:
        assert sender.calls[-2:] == ["discard", "store away"]


@pytest.mark.promise("source-copy-goes-when-moved")
async def test_a_late_deletion_completes_the_transfer(sender: Sender) -> None:
    await sender.start()
    await sender.transfers.release(UUID)
    # Until its files are out of its place, a daemon that dies leaves them to the next.
    await sender.disk.run(int)
    assert len(sender.store.unfinished()) == 1
    sender.transfers.deleted(UUID)
    assert sender.store.unfinished() == []


# What is sent along with a server: its backups, and the log of its installation


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


# A destination that is there and takes nothing of a single upload: people are told


class Upload:
    """An upload that stands still."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.sent, self.is_full = 0, True
        self.told: list[str] = []
        self.notice = StandstillNotice(
            self.clock, lambda: self.sent, lambda: self.is_full, self.told.append
        )

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(int(seconds / streams.LOOK_EVERY)):
            self.clock.advance(streams.LOOK_EVERY)


def test_it_is_told_every_five_minutes_and_when_it_goes_on() -> None:
    upload = Upload()
    upload.pass_seconds(EVERY - streams.LOOK_EVERY)
    assert upload.told == []
    upload.pass_seconds(EVERY + streams.LOOK_EVERY)
    assert [line.split(":")[0] for line in upload.told] == [
        "the destination has taken nothing for 300 s",
        "the destination has taken nothing for 600 s",
    ]
    upload.sent = 1
    upload.pass_seconds(EVERY)
    assert upload.told[2].startswith("the upload goes on, after 605 s")


async def test_the_console_of_a_server_tells_that_its_upload_is_not_taken(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(streams, "EVERY", 0.1)
    uploading = at_upload(sender)
    over = sender.start()
    await uploading
    await until(lambda: sender.said("the destination has taken nothing for "))
    sender.transfers.cancel(UUID)
    await over

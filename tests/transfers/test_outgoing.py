"""An outgoing transfer: its steps, and what is reported and left when it ends."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender, at_answer, at_stop, sending
from tests.transfers.peers import closed_port
from wingsd.archive.extract import extract
from wingsd.errors import (
    BadRequest,
    Conflict,
    DaemonStopping,
    DestinationRefused,
    EnvironmentFailed,
    PanelUnreachable,
)
from wingsd.panel.schemas import Build, Configuration, Settings
from wingsd.servers.operations import Operation
from wingsd.transfers.outgoing import source
from wingsd.transfers.outgoing.source import MOVED, TransferRequest
from wingsd.transfers.steps import SendStep, StepLog, UploadFigures

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


@pytest.mark.promise("activity-precedes-the-move")
async def test_a_panel_that_takes_no_activity_delays_a_transfer_for_a_bounded_time(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ACTIVITY_WITHIN", 0.05)
    sender.panel.activity_answer = Deferred()
    sender.use()
    await sender.start()
    assert sender.states[-1] == "completed"
    assert sender.panel.activity == ["server:power.restart"]


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


async def test_waiting_for_a_slot_is_not_counted_as_sending(sender: Sender) -> None:
    now, slots = [0.0], sender.sender.parts.slots
    for _ in range(2):
        await slots.acquire()
    over = sender.start()
    await until(lambda: slots.waiting)
    (step_log,) = sender.heard.begun
    step_log.seconds = lambda: now[0]
    now[0] = 1e9
    slots.release()
    await over
    assert dict(sender.heard.steps)["send"] == 0


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


@pytest.mark.promise("oversized-server-is-not-sent")
async def test_a_file_that_grew_beyond_the_disk_limit_is_not_sent(sender: Sender) -> None:
    allow(sender, 1)
    sender.server.disk_bytes = 200_000
    with (sender.tree / "world" / "sparse").open("wb") as file:
        file.truncate(64 << 20)
    await sender.start()
    assert sender.said('with "world/sparse", which takes 64 MiB (0 MiB on this disk)')
    assert sender.destination.archives == []
    assert sender.panel.calls.count("failure") == 1
    assert sender.server.hold == ""


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


async def test_a_server_that_cannot_be_stopped_stays(sender: Sender) -> None:
    sender.faults["stop"] = EnvironmentFailed("the engine is away")
    await sender.start()
    assert sender.said("the engine is away")
    assert sender.calls == ["stop"]
    assert (sender.panel.calls, sender.server.hold) == (["failure"], "")


async def test_unreadable_files_fail_the_transfer(sender: Sender) -> None:
    sender.tree.rename(sender.tree.with_name("gone"))
    await sender.start()
    assert sender.destination.archives == []
    assert sender.panel.calls == ["failure"]
    assert sender.states[-1] == "failure"


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
        ("tar_gz", b"archive.tar.gz", b"\x1f\x8b"),
        ("tar_xz", b"archive.tar.xz", b"\xfd7zXZ"),
        ("tar_bz2", b"archive.tar.bz2", b"BZh"),
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


async def test_an_unreachable_panel_does_not_hold_the_server(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(uuid: str) -> Deferred[bool]:
        return fail(PanelUnreachable("down", "x"))

    monkeypatch.setattr(sender.panel, "transfer_failed", down)
    sender.faults["stop"] = EnvironmentFailed("the engine is away")
    await sender.start()
    assert sender.server.hold == ""


async def test_a_success_is_counted_with_the_bytes_sent(sender: Sender) -> None:
    await sender.start()
    ((way, error, moved),) = sender.heard.over
    assert (way, error) == ("out", None)
    (archive,) = sender.destination.archives
    # Around it is the form, with the checksum.
    assert 0 < (moved or 0) - len(archive) < 1000
    steps = [step for step, _ in sender.heard.steps]
    assert steps == ["ask", "stop", "retire", "send", "await"]


async def test_a_refusal_is_counted_with_its_error(sender: Sender) -> None:
    sender.destination.status = 500
    await sender.start()
    ((_, error, _),) = sender.heard.over
    assert isinstance(error, DestinationRefused)

"""Incoming transfers: their steps, how they end, and what a failure rolls back and reports."""

from __future__ import annotations

import re
import threading
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from tests.support.receiver import DATA, SINGLE, Receiver, Source
from tests.support.sample_server import UUID
from wingsd import callbacks as firstminute
from wingsd.app.daemon import DAY
from wingsd.callbacks import COMMITS_WITHIN
from wingsd.errors import (
    ArchiveError,
    BadRequest,
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    PanelRefused,
    PanelUnreachable,
    ServerAlreadyExists,
    ServerNotFound,
    StorageError,
    TooManyTransfers,
    TransferCancelled,
    TransferRevoked,
    UploadTruncated,
    WingsdError,
)
from wingsd.filesystem.walk import measure
from wingsd.statedb import Outcome
from wingsd.threadio import Feed
from wingsd.transfers.incoming import transfer as arrival
from wingsd.transfers.incoming.transfer import HOLD
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.util.retry import Backoff


async def test_a_good_upload_goes_through_every_step_in_order(receiver: Receiver) -> None:
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    assert list(receiver.transfers.servers) == [UUID]
    await transfer.run(Source(), SINGLE)
    assert receiver.calls == ["owns", "describe", "create", "success", "sync"]
    assert receiver.states == ["pending", "processing", "success", "completed"]
    assert receiver.servers.holds == {UUID: ""}
    assert receiver.left() == [UUID]
    assert list(receiver.transfers.servers) == []
    # The size of its files is known, since they were just written.
    assert receiver.servers.sizes == [measure(str(receiver.data / UUID))]


class Unread(Source):
    """An upload of which not one byte may be taken."""

    def deliver(self, consumer: Feed) -> None:
        raise AssertionError("it is read")


async def test_another_nodes_container_is_found_before_the_body(receiver: Receiver) -> None:
    receiver.environment.conflict = "a container of that name is another node's"
    error = await receiver.fails(Conflict, Unread())
    assert error.detail.startswith("a container of that name is another node's. ")
    assert receiver.calls == ["owns", "describe", "failure"]
    assert (receiver.left(), receiver.servers.holds) == ([], {})
    (ended,) = receiver.store.transfers()
    assert "a container of that name" in ended.reason


@pytest.mark.promise("nodes-can-share-an-engine")
async def test_an_engine_that_is_silent_is_found_before_the_first_byte(receiver: Receiver) -> None:
    receiver.faults["conflict"] = EnvironmentFailed("the engine does not answer")
    await receiver.fails(EnvironmentFailed, Unread())
    assert receiver.calls == ["owns", "describe", "failure"]


async def test_an_impossible_variable_is_refused_before_the_archive(receiver: Receiver) -> None:
    receiver.panel.known[UUID].settings.environment["STARTUP=sh"] = "x"
    source = Source()
    with pytest.raises(EnvironmentFailed):
        await receiver.receive(source)
    assert receiver.calls == ["owns", "describe"]
    assert receiver.left() == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("owns", PanelUnreachable("down", "x")),
        ("describe", ServerNotFound("unknown", "x")),
        ("describe", PanelRefused("no", "x", 401)),
    ],
)
async def test_a_transfer_that_was_not_admitted_is_not_reported(
    receiver: Receiver, call: str, error: WingsdError
) -> None:
    receiver.faults[call] = error
    assert await receiver.fails(type(error)) is error
    assert "failure" not in receiver.calls
    assert (receiver.states, receiver.left()) == ([], [])


async def test_a_server_of_this_node_is_not_received(receiver: Receiver) -> None:
    receiver.panel.owned = [True]
    await receiver.fails(ServerAlreadyExists)
    assert receiver.calls == ["owns"]
    assert (receiver.heard.begun, receiver.heard.over) == ([], [])


def not_multipart() -> Source:
    source = Source()
    source.content_type = "text/plain"
    return source


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (not_multipart(), BadRequest),
        (Source(checksum="0"), BadRequest),
        (Source(data=b"nonsense"), ArchiveError),
        (Source(data=DATA[:-5]), ArchiveError),
        (Source(error=UploadTruncated("cut", "x")), UploadTruncated),
        (Source(data=b"", error=UploadTruncated("cut", "x")), UploadTruncated),
    ],
)
async def test_an_invalid_upload_is_rolled_back_and_reported_once(
    receiver: Receiver, source: Source, kind: type[WingsdError]
) -> None:
    await receiver.fails(kind, source)
    assert receiver.calls == ["owns", "describe", "failure"]
    assert receiver.states[-2:] == ["failed", "failure"]
    assert receiver.servers.holds == {}
    assert receiver.left() == []


async def test_a_failed_container_rolls_back_the_files(receiver: Receiver) -> None:
    receiver.faults["create"] = EnvironmentFailed("no image")
    await receiver.fails(EnvironmentFailed)
    assert receiver.calls == ["owns", "describe", "create", "failure", "remove"]
    assert receiver.left() == []


async def test_a_failed_rollback_step_is_logged_and_the_rest_continues(
    receiver: Receiver, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stick() -> None:
        monkeypatch.setattr(receiver.staging, "discard", Mock(side_effect=StorageError("stuck")))

    receiver.faults["create"] = EnvironmentFailed("no image")
    receiver.before["create"] = stick
    await receiver.fails(EnvironmentFailed)
    assert receiver.calls[-2:] == ["failure", "remove"]
    assert [line for line in logged.lines if "rollback failed" in line and "stuck" in line]


async def test_a_failure_is_reported_until_the_next_transfer(receiver: Receiver) -> None:
    receiver.faults["failure"] = PanelUnreachable("down", "x")
    await receiver.fails(BadRequest, Source(checksum="0"))
    assert receiver.states[-2:] == ["failed", "failure"]
    assert receiver.servers.holds == {}
    # It is told again until it is heard, or the Panel has begun another transfer.
    assert len(receiver.store.unsettled()) == 1
    receiver.panel.owned = [False]
    await receiver.receive()
    assert receiver.store.unsettled() == []
    assert receiver.calls.count("failure") == 1


async def test_a_refused_report_of_a_server_owned_here_is_a_success(receiver: Receiver) -> None:
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    receiver.panel.owned = [False, True]
    await receiver.receive()
    assert receiver.calls == ["owns", "describe", "create", "success", "owns", "sync"]
    assert (receiver.states[-1], receiver.left()) == ("completed", [UUID])


@pytest.mark.promise("refused-server-is-quarantined")
@pytest.mark.parametrize("code", [404, 409])
async def test_a_refused_server_goes_into_quarantine(receiver: Receiver, code: int) -> None:
    receiver.faults["success"] = PanelRefused("no transfer open", "x", code)
    receiver.panel.owned = [False, False]
    await receiver.fails(TransferRevoked)
    # It has said that no transfer is open: a failure is no news to it.
    assert receiver.calls[-3:] == ["success", "owns", "remove"]
    assert receiver.left() == [".quarantine"]
    (kept,) = (receiver.data.with_name(".volumes.staging") / ".quarantine").iterdir()
    assert kept.name.startswith(f"{UUID}.")
    assert (kept / "server.properties").exists()
    assert receiver.servers.holds == {}
    assert receiver.store.unfinished() == []


async def test_the_sender_waits_while_the_panel_may_not_have_committed_the_transfer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    monkeypatch.setattr(firstminute, "MINUTE_BACKOFF", Backoff(0.06, 0.06))
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    receiver.panel.describes_all = True
    receiver.panel.owned = [False] * 100
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    receiving = Deferred.fromCoroutine(transfer.run(Source(), SINGLE))
    await until(lambda: receiver.calls.count("success") >= 3)
    # By now a Panel that does not answer would not be waited for.
    assert not receiving.called
    assert receiver.left() == [UUID]
    del receiver.faults["success"]
    await receiving
    assert receiver.states[-1] == "completed"


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "PATIENCE", 0.05)
    monkeypatch.setattr(firstminute, "BACKOFF", Backoff(0.05, 0.05))


@pytest.mark.promise("success-is-repeated")
@pytest.mark.parametrize(
    "error",
    [
        PanelRefused("slower", "x", 403),
        PanelUnreachable("down", "x"),
        RuntimeError("a mistake"),
    ],
)
async def test_a_received_server_is_held_until_its_success_is_reported(
    receiver: Receiver,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    impatient(monkeypatch)
    receiver.faults["success"] = error
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    # The sender has its answer all the same: the data is safe, and will be told.
    await transfer.run(Source(), SINGLE)
    assert receiver.left() == [UUID]
    assert receiver.servers.holds == {UUID: HOLD}
    with pytest.raises(ServerAlreadyExists):
        receiver.transfers.open(UploadTransfer, UUID)
    with pytest.raises(Conflict):
        receiver.transfers.cancel(UUID)
    (entry,) = receiver.store.unfinished()
    assert entry.step == "REPORT"
    assert len(receiver.store.unsettled()) == 1
    assert receiver.states[-1] == "processing"
    del receiver.faults["success"]
    await transfer.over
    assert receiver.states[-1] == "completed"
    assert receiver.servers.holds == {UUID: ""}
    assert receiver.store.unfinished() == []
    assert receiver.store.unsettled() == []
    logged.take(RuntimeError)


async def test_a_server_that_the_panel_refuses_later_goes_into_quarantine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    receiver.faults["success"] = PanelUnreachable("down", "x")
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    await transfer.run(Source(), SINGLE)
    receiver.panel.owned = [False]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await transfer.over
    assert receiver.left() == [".quarantine"]
    assert receiver.states[-1] == "failure"
    assert receiver.servers.holds == {}


# Incoming transfers that are given up, cancelled, deleted, or left by their sender


def give_up_at(receiver: Receiver, call: str) -> UploadTransfer:
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    receiver.before[call] = lambda: transfer.abort(DaemonStopping())
    return transfer


async def test_a_stop_before_the_archive_aborts_the_transfer(receiver: Receiver) -> None:
    with pytest.raises(DaemonStopping):
        await give_up_at(receiver, "describe").run(Source(), SINGLE)
    assert receiver.calls == ["owns", "describe", "failure"]
    assert receiver.left() == []


async def test_a_stop_after_verification_lets_the_transfer_finish(receiver: Receiver) -> None:
    source = Source()
    await give_up_at(receiver, "create").run(source, SINGLE)
    assert receiver.calls[-2:] == ["success", "sync"]
    assert source.stopped == []


async def test_a_receiver_that_stops_refuses_new_transfers(receiver: Receiver) -> None:
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    stopped: list[Deferred[object]] = []
    receiver.before["create"] = lambda: stopped.append(receiver.transfers.stop())
    await transfer.run(Source(), SINGLE)
    await stopped[0]
    with pytest.raises(DaemonStopping):
        receiver.transfers.open(UploadTransfer, UUID)


async def test_a_transfer_answered_at_the_nodes_end_is_recorded_before_the_database_closes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.waits["success"] = Deferred()
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source(), SINGLE))
    await until(lambda: transfer.has_arrived)
    node, published = receiver.node, threading.Event()
    node.booted = succeed(True)
    node._daily.start(DAY)
    monkeypatch.setattr(receiver.storage.logs, "publish", lambda _: published.wait(10))
    stopping = node.stopService()
    receiver.waits["success"].callback(None)
    await until(lambda: transfer.is_answered)
    published.set()
    await stopping
    await outcome
    receiver.store.open()
    assert receiver.store.unfinished() == []


@pytest.mark.promise("full-queue-refuses-early")
async def test_more_uploads_than_may_wait_are_refused_with_503(receiver: Receiver) -> None:
    others = [f"{number}{UUID[1:]}" for number in range(4)]
    for server in others[:3]:
        receiver.transfers.open(UploadTransfer, server)
    with pytest.raises(TooManyTransfers) as caught:
        receiver.transfers.open(UploadTransfer, others[3])
    assert (caught.value.status, caught.value.retry_after) == (503, 60)
    assert list(receiver.transfers.servers) == others[:3]


async def test_a_hanging_engine_is_aborted_at_the_end(receiver: Receiver) -> None:
    receiver.waits["create"] = Deferred()
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source(), SINGLE))
    made: Deferred[None] = Deferred()
    # Not at once: the engine answers in a later turn of the reactor, if it does.
    receiver.before["create"] = lambda: reactor.callLater(0, made.callback, None)
    await made
    transfer.abort(DaemonStopping())
    assert not outcome.called
    receiver.transfers.abort_all()
    with pytest.raises(DaemonStopping):
        await outcome
    await transfer.over
    assert receiver.calls[-2:] == ["failure", "remove"]
    assert receiver.left() == []


@pytest.mark.promise("second-transfer-is-refused")
def test_a_second_transfer_of_a_server_is_refused(receiver: Receiver) -> None:
    receiver.transfers.open(UploadTransfer, UUID)
    with pytest.raises(ServerAlreadyExists) as caught:
        receiver.transfers.open(UploadTransfer, UUID)
    assert re.fullmatch(
        r"the transfer under way began \d+ s ago and is waiting for the archive; if its sender is "
        "gone, it ends after 120 s of silence: send the server again then",
        caught.value.detail,
    )


async def test_the_next_attempt_waits_for_the_previous_rollback(receiver: Receiver) -> None:
    hanging: Deferred[None] = Deferred()
    receiver.waits["remove"] = hanging
    receiver.faults["create"] = EnvironmentFailed("no image")
    with pytest.raises(EnvironmentFailed):
        await receiver.receive()
    del receiver.faults["create"]
    receiver.panel.owned = [False]
    second = Deferred.fromCoroutine(receiver.receive())
    assert receiver.calls.count("owns") == 1
    with pytest.raises(ServerAlreadyExists):
        receiver.transfers.open(UploadTransfer, UUID)
    hanging.callback(None)
    await second
    assert (receiver.states[-1], receiver.left()) == ("completed", [UUID])
    assert list(receiver.transfers.servers) == []


@pytest.mark.parametrize("call", ["describe", "create"])
async def test_a_cancelled_transfer_leaves_nothing(receiver: Receiver, call: str) -> None:
    receiver.before[call] = lambda: receiver.transfers.cancel(UUID)
    if call == "create":
        receiver.waits["create"] = Deferred()
        receiver.before[call] = lambda: reactor.callLater(0, receiver.transfers.cancel, UUID)
    await receiver.fails(TransferCancelled)
    assert receiver.calls.count("failure") == 1
    assert (receiver.servers.holds, receiver.left()) == ({}, [])


async def test_no_cancel_is_possible_once_success_may_be_reported(receiver: Receiver) -> None:
    refused: list[Conflict] = []

    def cancel() -> None:
        with pytest.raises(Conflict) as caught:
            receiver.transfers.cancel(UUID)
        refused.append(caught.value)

    receiver.before["success"] = cancel
    await receiver.receive()
    assert refused[0].message == "Server is not currently being transferred."
    assert receiver.states[-1] == "completed"


async def test_a_deletion_aborts_the_transfer(receiver: Receiver) -> None:
    await receiver.transfers.release(UUID)
    released: list[Deferred[None]] = []
    receiver.waits["create"] = Deferred()

    def release() -> None:
        released.append(Deferred.fromCoroutine(receiver.transfers.release(UUID)))

    receiver.before["create"] = lambda: reactor.callLater(0, release)
    await receiver.fails(TransferCancelled)
    await released[0]
    assert (receiver.servers.holds, receiver.left()) == ({}, [])


#: When a transfer was ordered, by the clock of its Panel.
ORDERED = 1_900_000_000.0


@pytest.mark.promise("next-transfer-is-not-ended")
@pytest.mark.parametrize(
    ("end", "seconds_later", "expected"),
    [
        ("cancel", 1.0, 0.0),
        ("the source is gone", 1.0, 0.0),
        ("the upload ends early", 1.0, 0.0),
        ("no container", 1.0, COMMITS_WITHIN),
        ("no container", None, COMMITS_WITHIN),
        ("no container", COMMITS_WITHIN, 0.0),
    ],
)
async def test_a_failure_is_reported_again_only_where_the_panel_may_not_know_the_transfer_yet(
    receiver: Receiver, end: str, seconds_later: float | None, expected: float
) -> None:
    receiver.panel.date = None if seconds_later is None else ORDERED + seconds_later
    source = Source()
    receiver.waits["create"] = Deferred()
    if end == "cancel":
        receiver.before["create"] = lambda: reactor.callLater(0, receiver.transfers.cancel, UUID)
    elif end == "the source is gone":
        receiver.before["create"] = lambda: reactor.callLater(0, source.go)
    elif end == "the upload ends early":
        source = Source(error=UploadTruncated("cut", "x"))
    else:
        receiver.faults["create"] = EnvironmentFailed("no image")
        receiver.waits["create"].callback(None)
    transfer = receiver.transfers.open(UploadTransfer, UUID, ordered=ORDERED)
    with pytest.raises(WingsdError):
        await transfer.run(source, SINGLE)
    await transfer.over
    (report,) = receiver.store.reports()
    assert (report.outcome, report.commits_within) == (Outcome.FAILURE, expected)


async def test_a_failed_sync_of_settings_does_not_fail_the_transfer(receiver: Receiver) -> None:
    receiver.faults["sync"] = PanelUnreachable("down", "x")
    await receiver.receive()
    assert (receiver.states[-1], receiver.left()) == ("completed", [UUID])

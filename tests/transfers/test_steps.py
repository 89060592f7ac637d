"""The steps of a transfer: their order, their log, and what the console shows of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.receiver import DATA, SINGLE, Receiver, Source
from tests.support.recording_observer import RecordingObserver
from tests.support.sample_server import UUID
from wingsd.errors import (
    BadRequest,
    ChecksumMismatch,
    DaemonStopping,
    DestinationDisconnected,
)
from wingsd.events import Event, EventBus
from wingsd.statedb import Direction, TransferRecord
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.transfers.steps import (
    DESTINATION,
    SOURCE,
    ProgressMeter,
    ReceiveStep,
    SendStep,
    StepLog,
    StepLogs,
    UploadFigures,
    console_line,
    progress_bar,
)


class Database:
    """Takes everything at once."""

    def begin(self, *_: object, direct: bool) -> Deferred[int]:
        return succeed(1)

    def enter(self, *_: object) -> Deferred[None]:
        return succeed(None)


class StepLogHarness:
    """A step log, its clock and its observer, and what a browser would get of it."""

    def __init__(self, steps: Any, server: str = UUID) -> None:
        self.clock, self.heard = Clock(), RecordingObserver()
        self.events: list[Event] = []
        bus = EventBus()
        bus.subscribe(server, self.events.append)
        authority: Any = SimpleNamespace(is_direct=False, step_texts={})
        database: Any = Database()
        logs = StepLogs(database, bus, self.heard, self.clock)
        self.step_log: StepLog[Any] = StepLog(server, steps, logs, authority)

    async def begin(self) -> None:
        await self.step_log.begin()

    def resume(self, step: ReceiveStep) -> None:
        self.step_log.resume(TransferRecord(1, UUID, Direction.IN, step.name, 0, 0), step)

    def said(self) -> list[str]:
        lines = [event.args[0] for event in self.events if event.name == "transfer logs"]
        return [line.partition(" Node]:\x1b[0m ")[2] for line in lines]

    def states(self) -> list[str]:
        return [event.args[0] for event in self.events if event.name == "transfer status"]


ENDS = [ReceiveStep.DONE, ReceiveStep.FAILED, SendStep.DONE, SendStep.FAILED]


def at(step: Any) -> StepLog[Any]:
    """Return the log of a transfer that has come to a step."""
    log = StepLogHarness(type(step)).step_log
    if step is not log.current:
        log.advance(step)
    return log


@pytest.mark.parametrize("step", ENDS)
def test_nothing_follows_an_end(step: ReceiveStep | SendStep) -> None:
    for to in type(step):
        with pytest.raises(ValueError, match="cannot go from"):
            at(step).advance(to)


async def test_a_transfer_goes_back_to_an_earlier_step_until_its_end() -> None:
    harness = StepLogHarness(ReceiveStep)
    await harness.begin()
    log, earlier = harness.step_log, ReceiveStep.ADMIT
    await log.enter(ReceiveStep.RECEIVE)
    for later in (ReceiveStep.RECEIVE, ReceiveStep.FAILED):
        with pytest.raises(ValueError, match="cannot go back"):
            await log.go_back(later)
    await log.go_back(earlier)
    assert log.current is earlier
    log.advance(ReceiveStep.FAILED)
    with pytest.raises(ValueError, match="cannot go back"):
        await log.go_back(earlier)


# The step log reports each step and end of a transfer to the observer


async def test_each_step_is_observed_with_its_duration() -> None:
    harness = StepLogHarness(ReceiveStep)
    await harness.begin()
    harness.clock.advance(1)
    await harness.step_log.enter(ReceiveStep.RECEIVE)
    harness.clock.advance(5000)
    assert (harness.step_log.step, harness.step_log.step_seconds) == ("receive", 5000)
    harness.step_log.advance(ReceiveStep.DONE)
    assert harness.heard.steps == [("admit", 1), ("receive", 5000)]


async def test_waiting_for_a_slot_is_not_counted(receiver: Receiver) -> None:
    now, slots = [0.0], receiver.slots
    for other in "ab":
        await slots.acquire(other)
    outcome = Deferred.fromCoroutine(receiver.receive())
    await until(lambda: slots.waiting)
    (step_log,) = receiver.heard.begun
    step_log.seconds = lambda: now[0]
    now[0] = 1e9
    slots.release("a")
    await outcome
    assert dict(receiver.heard.steps)["receive"] == 0


async def test_a_server_that_has_moved_after_all_is_a_success() -> None:
    harness = StepLogHarness(SendStep)
    await harness.begin()
    harness.step_log.fail(DestinationDisconnected("the line broke", body_sent=True))
    harness.step_log.advance(SendStep.SETTLE)
    harness.step_log.advance(SendStep.DONE)
    assert harness.heard.over == [("out", None, 0)]


def test_a_step_of_an_earlier_daemon_has_no_duration() -> None:
    harness = StepLogHarness(ReceiveStep)
    harness.clock.advance(1000)
    harness.resume(ReceiveStep.SWAP)
    harness.clock.advance(2)
    assert harness.step_log.step_seconds == 2
    harness.step_log.advance(ReceiveStep.ENVIRONMENT)
    harness.clock.advance(3)
    harness.step_log.advance(ReceiveStep.DONE)
    assert harness.heard.steps == [("environment", 3)]
    assert harness.heard.over == [("in", None, 0)]


async def test_a_failed_transfer_is_counted_with_its_error(receiver: Receiver) -> None:
    error = await receiver.fails(ChecksumMismatch, Source(checksum="0" * 64))
    assert receiver.heard.over == [("in", error, len(DATA))]


async def test_transfers_that_wait_for_a_slot_are_counted(receiver: Receiver) -> None:
    slots = receiver.slots
    for other in "ab":
        await slots.acquire(other)
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    assert receiver.transfers.waiting == 0
    outcome = Deferred.fromCoroutine(transfer.run(Source(), SINGLE))
    await until(lambda: slots.waiting)
    assert receiver.transfers.waiting == 1
    transfer.abort(DaemonStopping())
    with pytest.raises(DaemonStopping):
        await outcome
    assert receiver.transfers.waiting == 0


async def test_an_internal_error_leaves_no_transfer_active(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(
        receiver.storage.logs, "publish", Mock(side_effect=RuntimeError("a mistake"))
    )
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    await transfer.run(Source(), SINGLE)
    await transfer.over
    assert receiver.heard.over == [("in", None, len(DATA))]
    assert receiver.servers.holds == {UUID: ""}
    assert receiver.store.unfinished() == []
    logged.take(RuntimeError)


async def test_an_internal_error_after_the_report_leaves_no_transfer_active(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("a mistake")

    def mistaken(server: str) -> None:
        finish(server)
        if receiver.store.reports():
            raise error

    finish = receiver.staging.finish
    monkeypatch.setattr(receiver.staging, "finish", mistaken)
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    with pytest.raises(OSError, match="a mistake"):
        await transfer.run(Source(), SINGLE)
    await transfer.over
    assert receiver.heard.over == [("in", error, len(DATA))]
    # The next daemon goes on with it.
    (entry,) = receiver.store.unfinished()
    assert entry.step == "REPORT"


# What a transfer prints in the console of its server


GIB = 1 << 30


@pytest.fixture
def heard() -> StepLogHarness:
    """A transfer to another node, and what a browser would get of it."""
    return StepLogHarness(SendStep, "a-server")


async def test_each_state_is_sent_once_and_each_step_has_a_line(heard: StepLogHarness) -> None:
    steps = [SendStep.WAIT, SendStep.STOP, SendStep.SEND, SendStep.AWAIT, SendStep.DONE]
    await heard.begin()
    for step in steps[1:]:
        heard.step_log.advance(step)
    assert heard.states() == ["pending", "processing", "success", "completed"]
    assert heard.said() == [step.text for step in steps]
    status, line = "transfer status", "transfer logs"
    names = [event.name for event in heard.events]
    assert names == [status, line, line, status, line, line, line, status, status]


def test_progress_is_shown_every_five_seconds_until_it_is_hidden(heard: StepLogHarness) -> None:
    done = [0]
    heard.step_log.show_progress(lambda: f"Uploading {progress_bar(done[0], 100)}")
    heard.clock.advance(4.9)
    assert heard.said() == []
    done[0] = 20
    heard.clock.advance(0.2)
    done[0] = 40
    heard.clock.advance(5)
    assert heard.said() == [
        "Uploading [=====                    ] 20 B / 100 B",
        "Uploading [==========               ] 40 B / 100 B",
    ]
    heard.step_log.hide_progress()
    heard.clock.advance(60)
    assert len(heard.said()) == 2
    assert heard.clock.getDelayedCalls() == []


@pytest.mark.promise("silent-destination-is-named")
def test_what_is_waited_for_is_printed_and_logged_every_minute(
    heard: StepLogHarness, logged: Logged
) -> None:
    heard.step_log.show_waiting("the destination has not answered for")
    heard.clock.pump([59.0, 1.0, 60.0])
    expected = [f"the destination has not answered for {each}" for each in ("1 min", "2 min")]
    assert heard.said() == expected
    assert logged.lines[-2:] == [f"a-server: {each}" for each in expected]
    heard.step_log.hide_progress()


def test_the_figures_of_an_upload_are_published_with_its_lines(heard: StepLogHarness) -> None:
    known: list[UploadFigures] = []
    heard.step_log.show_progress(lambda: "x", figures=lambda: known[-1] if known else None)
    heard.clock.advance(5)
    known.append(UploadFigures(read=20, sent=10, total=100, files=3))
    heard.clock.advance(5)
    (figures,) = (event.args[0] for event in heard.events if event.name == "transfer progress")
    assert json.loads(figures) == {
        "archive_bytes_processed": 20,
        "network_bytes_processed": 10,
        "bytes_total": 100,
        "files_processed": 3,
        "archive_progress": 20,
        "network_progress": 10,
        "total": 100,
    }
    heard.step_log.hide_progress()


def test_a_console_line_about_an_error_ends_with_its_code(heard: StepLogHarness) -> None:
    heard.step_log.warn("the two nodes have different trees", "move-root-mismatch")
    assert heard.said() == ["the two nodes have different trees (move-root-mismatch)"]


def test_a_line_has_the_date_and_the_node() -> None:
    assert console_line(1_700_000_000, SOURCE, "hi") == (
        "\x1b[33m\x1b[1mTue, 14 Nov 2023 22:13:20 UTC [Transfer System] [Source Node]:\x1b[0m hi"
    )
    assert "[Destination Node]:" in console_line(0, DESTINATION, "x")


@pytest.mark.promise("log-lines-cannot-be-forged")
def test_text_from_outside_is_escaped_in_a_line() -> None:
    assert console_line(0, SOURCE, "a\x1b[2J\nb").endswith(":\x1b[0m a\\x1b[2J\\nb")


@pytest.mark.parametrize(
    ("done", "total", "bar"),
    [
        (0, 10 * GIB, f"[{' ' * 25}] 0 B / 10.0 GiB"),
        (2 * GIB, 10 * GIB, f"[{'=' * 5}{' ' * 20}] 2.0 GiB / 10.0 GiB"),
        (10 * GIB, 10 * GIB, f"[{'=' * 25}] 10.0 GiB / 10.0 GiB"),
        (5 << 20, 0, "5.0 MiB of an unknown total"),
        (3 * GIB, 2 * GIB, f"[{'=' * 25}] 3.0 GiB / 3.0 GiB"),  # it grew
    ],
)
def test_the_bar_is_as_long_as_what_is_done(done: int, total: int, bar: str) -> None:
    assert progress_bar(done, total) == bar


# How far a transfer is, in figures


def test_what_was_there_counts_for_how_far_it_is_and_not_for_the_rate() -> None:
    clock, counted = Clock(), [0]
    meter = ProgressMeter(clock.seconds, lambda: counted[0])
    assert meter.pace(100) == ""
    meter.start()
    clock.advance(5)
    counted[0] = 1 << 30
    meter.skip()
    assert meter.pace(2 << 30) == ""
    clock.advance(10)
    counted[0] += 20 << 20
    assert (meter.rate, meter.done) == (2 << 20, (1 << 30) + (20 << 20))
    assert meter.pace(2 << 30) == ", 2.0 MiB/s, 8 min left"
    assert meter.pace(0) == ", 2.0 MiB/s"


def test_what_is_there_at_the_start_or_passed_over_later_does_not_count_for_the_rate() -> None:
    clock, counted = Clock(), [1 << 30]
    meter = ProgressMeter(clock.seconds, lambda: counted[0])
    meter.start()
    clock.advance(1)
    assert meter.rate == 0
    counted[0] = 0  # it is read again, and a gigabyte of it is there
    meter.skip(1 << 30)
    clock.advance(1)
    counted[0] = 1 << 29
    assert meter.rate == 0
    clock.advance(1)
    counted[0] = (1 << 30) + (10 << 20)
    assert meter.rate == 5 << 20


async def test_a_transfer_shows_its_step_and_bytes_received(receiver: Receiver) -> None:
    made: Deferred[None] = Deferred()
    receiver.waits["create"] = made
    source = Source()
    source.size = len(DATA) + 500
    running = Deferred.fromCoroutine(receiver.receive(source))
    await until(lambda: not "create" not in receiver.calls)
    (now,) = receiver.transfers.progress
    assert (now.server, now.step) == (UUID, ReceiveStep.ENVIRONMENT)
    assert now.step_text == "configuring the environment"
    assert (now.bytes, now.total, now.is_direct) == (len(DATA), len(DATA) + 500, False)
    assert now.rate > 0
    (entry,) = receiver.store.unfinished()
    assert now.entry == entry.id
    made.callback(None)
    await running
    assert receiver.transfers.progress == []


async def test_the_outcome_is_in_the_database(receiver: Receiver) -> None:
    receiver.panel.owned = [False, False]
    await receiver.fails(BadRequest, Source(checksum="0" * 64))
    await receiver.receive()
    success, failure = receiver.store.ended(2)
    assert "checksum-mismatch" in failure.reason
    assert (failure.bytes, failure.files) == (None, None)
    assert (success.reason, success.bytes, success.files) == ("", len(DATA), 2)

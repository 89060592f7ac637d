"""The chain of a transfer: what is done, undone and told when any of its steps fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.task import deferLater

from tests.daemon.house import UUID, sha256
from tests.daemon.house import archive as packed
from tests.logs import LoggedErrors
from wingsd.bridge import Feed, Workers
from wingsd.config import Form
from wingsd.errors import (
    AlreadyHere,
    ArchiveError,
    BadRequest,
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    NotWanted,
    PanelRefused,
    PanelUnreachable,
    StorageError,
    TooManyTransfers,
    TransferCancelled,
    UnknownServer,
    UploadCutShort,
    WingsdError,
)
from wingsd.events import Event, EventBus
from wingsd.journal import Direction, Entry, Journal, Outcome, Report
from wingsd.journal.store import Store
from wingsd.model import Configuration, Settings
from wingsd.testing import SynchronousWorkers
from wingsd.transfers import arrival
from wingsd.transfers.attic import Attic
from wingsd.transfers.formdata import UploadForm
from wingsd.transfers.incoming import HOLD, IncomingTransfer
from wingsd.transfers.lifecycle import ReceiveStep
from wingsd.transfers.means import ReceivingMeans
from wingsd.transfers.outbox import Outbox
from wingsd.transfers.receiver import Receiver
from wingsd.transfers.recovery import durable
from wingsd.transfers.staging import Staging

reactor: Any = installed_reactor
DATA = packed()
OWNER = (os.getuid(), os.getgid())
#: The steps that are written down before they are taken.
JOURNALED = {"RECEIVE", "VERIFY", "DURABLE", "SWAP", "ENVIRONMENT", "REPORT"}


class World:
    """A Panel and an engine that note what they are asked, and fail where they are told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.owned = [False]
        self.before: dict[str, Callable[[], object]] = {}
        self.waits: dict[str, Deferred[None]] = {}
        #: Each server that the node knows, and why it is held.
        self.registered: dict[str, str] = {}

    # The node's servers

    def admit(self, configuration: Configuration, hold: str) -> World:
        self.registered[configuration.settings.uuid] = hold
        return self

    def forget(self, uuid: str) -> None:
        self.registered.pop(uuid, None)

    def known(self, configuration: Configuration) -> World:
        return self

    def get(self, uuid: str) -> World:
        return self

    def let_go(self) -> None:
        self.registered[UUID] = ""

    def disown(self, why: str) -> None:
        self.registered[UUID] = why

    async def sync(self) -> None:
        self._called("sync")

    # The Panel and the engine

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before.get(name, lambda: None)()
        if name in self.faults:
            raise self.faults[name]

    async def owns(self, uuid: str) -> bool:
        self._called("owns")
        return self.owned.pop(0)

    async def describe(self, uuid: str) -> Configuration:
        self._called("server")
        return Configuration(Settings(uuid))

    async def transfer_succeeded(self, uuid: str) -> None:
        self._called("success")

    async def transfer_failed(self, uuid: str) -> bool:
        self._called("failure")
        await self.waits.get("failure", succeed(None))
        return True

    async def create(self, server: Settings) -> bool:
        self._called("create")
        await self.waits.get("create", succeed(None))
        return True

    async def remove(self, uuid: str) -> None:
        self._called("remove")
        await self.waits.get("remove", succeed(None))


class Source:
    """An upload that is there at once, whole or broken off with `error`."""

    content_type = "multipart/form-data; boundary=x"
    user_agent = ""
    size = 0

    def __init__(
        self, data: bytes = DATA, checksum: str = "", error: WingsdError | None = None
    ) -> None:
        self.data, self.error = data, error
        self.checksum = checksum or sha256(data)
        self.stopped: list[WingsdError] = []

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[str]:
        feed.write(self.data)
        if self.error:
            feed.fail(self.error)
            return fail(self.error)
        feed.finish()
        return succeed(self.checksum)

    def stop(self, error: WingsdError) -> None:
        self.stopped.append(error)

    def when_gone(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def go(self) -> None:
        self._tell()


class House:
    """A receiver with real files and threads between a faked Panel and a faked engine."""

    def __init__(self, directory: Path, pool: Workers) -> None:
        self.world, self.data = World(), directory / "volumes"
        self.staging = Staging(str(self.data), OWNER, durable=True)
        self.staging.prepare()
        self.store = Store(str(directory))
        self.store.open()
        workers: Any = SynchronousWorkers()
        self.journal = Journal(self.store, workers, reactor.seconds)
        self.states: list[str] = []
        self.lines: list[str] = []
        bus = EventBus()
        bus.subscribe(UUID, self._note)
        self.receiver = Receiver(
            ReceivingMeans(
                reactor=reactor,
                panel=self.world,  # type: ignore[arg-type]
                journal=self.journal,
                outbox=Outbox(self.world, self.journal, reactor),  # type: ignore[arg-type]
                environment=self.world,  # type: ignore[arg-type]
                servers=self.world,  # type: ignore[arg-type]
                staging=self.staging,
                bus=bus,
                owner=OWNER,
                attic=Attic(self.staging, pool, days=30),
                form=Form(),
                extractors=pool,
                slots=DeferredSemaphore(2),
                disk=pool,
            ),
            places=3,
        )

    def _note(self, event: Event) -> None:
        if event.name == "transfer status":
            self.states += event.args
        else:
            assert event.name == "transfer logs"
            self.lines += event.args

    async def fails(self, kind: type[WingsdError], source: Source | None = None) -> WingsdError:
        transfer = self.receiver.open(UUID)
        with pytest.raises(kind) as caught:
            await transfer.run(source or Source())
        await transfer.over
        assert list(self.receiver.servers) == []
        return caught.value

    def left(self) -> list[str]:
        places = (self.data, self.data.with_name(".volumes.staging"))
        names = [path.name for place in places for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    pool = Workers(reactor, "test", 4)
    pool.start()
    yield House(tmp_path, pool)
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_good_upload_goes_through_every_step_in_order(house: House) -> None:
    transfer = house.receiver.open(UUID)
    assert list(house.receiver.servers) == [UUID]
    await transfer.run(Source())
    assert house.world.calls == ["owns", "server", "create", "success", "sync"]
    assert house.states == ["pending", "processing", "success", "completed"]
    assert house.world.registered == {UUID: ""}
    assert house.left() == [UUID]
    assert list(house.receiver.servers) == []


@pytest_twisted.ensureDeferred
async def test_the_files_are_in_place_before_the_environment_is_made(house: House) -> None:
    seen = []
    house.world.before["create"] = lambda: seen.append(house.left())
    await house.receiver.open(UUID).run(Source())
    assert seen == [[UUID]]
    assert (house.data / UUID / "server.properties").exists()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("owns", PanelUnreachable("down", "x")),
        ("server", UnknownServer("unknown", "x")),
        ("server", PanelRefused("no", "x", 401)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_was_not_admitted_is_not_told(
    house: House, call: str, error: WingsdError
) -> None:
    house.world.faults[call] = error
    assert await house.fails(type(error)) is error
    assert "failure" not in house.world.calls
    assert (house.states, house.left()) == ([], [])


@pytest_twisted.ensureDeferred
async def test_a_server_of_this_node_is_not_received(house: House) -> None:
    house.world.owned = [True]
    await house.fails(AlreadyHere)
    assert house.world.calls == ["owns"]


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
        (Source(error=UploadCutShort("cut", "x")), UploadCutShort),
        (Source(data=b"", error=UploadCutShort("cut", "x")), UploadCutShort),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_upload_is_undone_and_told_once(
    house: House, source: Source, kind: type[WingsdError]
) -> None:
    await house.fails(kind, source)
    assert house.world.calls == ["owns", "server", "failure"]
    assert house.states[-2:] == ["failed", "failure"]
    assert house.world.registered == {}
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_an_environment_that_fails_takes_the_files_with_it(house: House) -> None:
    house.world.faults["create"] = EnvironmentFailed("no image")
    await house.fails(EnvironmentFailed)
    assert house.world.calls == ["owns", "server", "create", "failure", "remove"]
    assert house.left() == []


@pytest.mark.parametrize("step", ["create", "flush", "swap"])
@pytest_twisted.ensureDeferred
async def test_a_disk_that_fails_is_told_and_undone(
    house: House, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(server: str) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.staging, step, full)
    await house.fails(StorageError)
    assert house.world.calls == ["owns", "server", "failure"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_undone_is_logged_and_the_rest_goes_on(
    house: House, logged_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(server: str) -> None:
        raise StorageError("stuck")

    def stick() -> None:
        monkeypatch.setattr(house.staging, "discard", stuck)

    house.world.faults["create"] = EnvironmentFailed("no image")
    house.world.before["create"] = stick
    await house.fails(EnvironmentFailed)
    assert house.world.calls[-2:] == ["failure", "remove"]
    assert [line for line in logged_errors.lines if "not undone" in line and "stuck" in line]


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_panel_that_is_slow_to_hear(house: House) -> None:
    hanging: Deferred[None] = Deferred()
    house.world.waits["failure"] = hanging
    await house.fails(BadRequest, Source(checksum="0"))
    (report,) = house.store.reports(unsettled=True)
    assert report.outcome is Outcome.FAILURE
    hanging.callback(None)
    assert house.store.reports(unsettled=True) == []


@pytest_twisted.ensureDeferred
async def test_what_was_set_aside_for_a_transfer_that_fails_is_put_back(house: House) -> None:
    (house.data / UUID).mkdir()
    (house.data / UUID / "precious").write_text("old")
    house.world.faults["create"] = EnvironmentFailed("no image")
    await house.fails(EnvironmentFailed)
    assert house.left() == [UUID]
    assert (house.data / UUID / "precious").read_text() == "old"


@pytest_twisted.ensureDeferred
async def test_a_panel_that_cannot_be_told_of_a_failure_changes_nothing(house: House) -> None:
    house.world.faults["failure"] = PanelUnreachable("down", "x")
    await house.fails(BadRequest, Source(checksum="0"))
    assert house.states[-2:] == ["failed", "failure"]
    assert house.world.registered == {}
    # It is told again until it is heard, or the Panel has begun another transfer.
    assert len(house.store.reports(unsettled=True)) == 1
    house.world.owned = [False]
    await house.receiver.open(UUID).run(Source())
    assert house.store.reports(unsettled=True) == []
    assert house.world.calls.count("failure") == 1


# The Panel does not take the success


@pytest_twisted.ensureDeferred
async def test_it_turns_out_that_the_panel_had_heard_it(house: House) -> None:
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    house.world.owned = [False, True]
    await house.receiver.open(UUID).run(Source())
    assert house.world.calls == ["owns", "server", "create", "success", "owns", "sync"]
    assert (house.states[-1], house.left()) == ("completed", [UUID])


@pytest.mark.parametrize("code", [404, 409])
@pytest_twisted.ensureDeferred
async def test_the_panel_does_not_want_it_here(house: House, code: int) -> None:
    house.world.faults["success"] = PanelRefused("no transfer open", "x", code)
    house.world.owned = [False, False]
    await house.fails(NotWanted)
    # It has said that no transfer is open: a failure is no news to it.
    assert house.world.calls[-3:] == ["success", "owns", "remove"]
    assert house.left() == [".quarantine"]
    (room,) = (house.data.with_name(".volumes.staging") / ".quarantine").iterdir()
    assert room.name.startswith(f"{UUID}.")
    assert (room / "server.properties").exists()
    assert house.world.registered == {}
    assert house.store.transfers(unfinished=True) == []


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "PATIENCE", 0.05)


@pytest.mark.parametrize(
    "error",
    [
        PanelRefused("slower", "x", 401),
        PanelRefused("slower", "x", 403),
        PanelRefused("slower", "x", 429),
        PanelUnreachable("down", "x"),
        RuntimeError("a mistake"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_until_the_panel_has_heard_of_it_it_stays_and_is_held(
    house: House,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    logged_errors: LoggedErrors,
) -> None:
    impatient(monkeypatch)
    house.world.faults["success"] = error
    transfer = house.receiver.open(UUID)
    # The sender has its answer all the same: the data is safe, and will be told.
    await transfer.run(Source())
    assert house.left() == [UUID]
    assert house.world.registered == {UUID: HOLD}
    with pytest.raises(AlreadyHere):
        house.receiver.open(UUID)
    with pytest.raises(Conflict):
        house.receiver.cancel(UUID)
    (entry,) = house.store.transfers(unfinished=True)
    assert entry.step == "REPORT"
    assert len(house.store.reports(unsettled=True)) == 1
    assert house.states[-1] == "processing"
    del house.world.faults["success"]
    await transfer.over
    assert house.states[-1] == "completed"
    assert house.world.registered == {UUID: ""}
    assert house.store.transfers(unfinished=True) == []
    assert house.store.reports(unsettled=True) == []
    logged_errors.take(RuntimeError)


@pytest_twisted.ensureDeferred
async def test_a_server_that_turns_out_to_be_unwanted_later_is_kept_apart(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    house.world.faults["success"] = PanelUnreachable("down", "x")
    transfer = house.receiver.open(UUID)
    await transfer.run(Source())
    house.world.owned = [False]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await transfer.over
    assert house.left() == [".quarantine"]
    assert house.states[-1] == "failure"
    assert house.world.registered == {}


# Giving up


def give_up_at(house: House, call: str) -> IncomingTransfer:
    transfer = house.receiver.open(UUID)
    house.world.before[call] = lambda: transfer.give_up(DaemonStopping())
    return transfer


@pytest_twisted.ensureDeferred
async def test_before_the_archive_nothing_is_received_any_more(house: House) -> None:
    with pytest.raises(DaemonStopping):
        await give_up_at(house, "server").run(Source())
    assert house.world.calls == ["owns", "server", "failure"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_after_the_verification_it_goes_on(house: House) -> None:
    source = Source()
    await give_up_at(house, "create").run(source)
    assert house.world.calls[-2:] == ["success", "sync"]
    assert source.stopped == []


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_stops_waits_and_takes_nothing_new(house: House) -> None:
    transfer = house.receiver.open(UUID)
    stopped: list[Deferred[object]] = []
    house.world.before["create"] = lambda: stopped.append(house.receiver.stop())
    await transfer.run(Source())
    await stopped[0]
    with pytest.raises(DaemonStopping):
        house.receiver.open(UUID)


@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_slot_can_be_given_up(house: House) -> None:
    slots = house.receiver._means.slots
    for _ in range(2):
        await slots.acquire()
    transfer = house.receiver.open(UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source()))
    transfer.give_up(DaemonStopping())
    with pytest.raises(DaemonStopping):
        await outcome
    assert house.world.calls[-1] == "failure"
    assert slots.waiting == []


@pytest_twisted.ensureDeferred
async def test_more_servers_than_there_are_places_for_are_sent_away(house: House) -> None:
    others = [f"{number}{UUID[1:]}" for number in range(4)]
    for server in others[:3]:
        house.receiver.open(server)
    with pytest.raises(TooManyTransfers) as caught:
        house.receiver.open(others[3])
    assert (caught.value.status, caught.value.retry_after) == (503, 60)
    assert list(house.receiver.servers) == others[:3]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_whole_takes_nobodys_place(house: House) -> None:
    house.world.waits["create"] = Deferred()
    others = [f"{number}{UUID[1:]}" for number in range(3)]
    transfer = house.receiver.open(UUID)
    made: Deferred[None] = Deferred()
    house.world.before["create"] = lambda: reactor.callLater(0, made.callback, None)
    outcome = Deferred.fromCoroutine(transfer.run(Source()))
    await made
    for server in others:
        house.receiver.open(server)
    with pytest.raises(TooManyTransfers):
        house.receiver.open(f"9{UUID[1:]}")
    house.world.waits["create"].callback(None)
    await outcome


@pytest_twisted.ensureDeferred
async def test_an_engine_that_hangs_is_given_up_at_the_very_end(house: House) -> None:
    house.world.waits["create"] = Deferred()
    transfer = house.receiver.open(UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source()))
    made: Deferred[None] = Deferred()
    # Not at once: the engine answers in a later turn of the reactor, if it does.
    house.world.before["create"] = lambda: reactor.callLater(0, made.callback, None)
    await made
    transfer.give_up(DaemonStopping())
    assert not outcome.called
    house.receiver.abandon()
    with pytest.raises(DaemonStopping):
        await outcome
    await transfer.over
    assert house.world.calls[-2:] == ["failure", "remove"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_an_idle_receiver_stops_at_once(house: House) -> None:
    await house.receiver.stop()


def test_one_server_has_one_transfer(house: House) -> None:
    house.receiver.open(UUID)
    with pytest.raises(AlreadyHere, match="already being received"):
        house.receiver.open(UUID)


@pytest_twisted.ensureDeferred
async def test_the_next_attempt_waits_until_the_last_one_is_tidied_up(house: House) -> None:
    hanging: Deferred[None] = Deferred()
    house.world.waits["remove"] = hanging
    house.world.faults["create"] = EnvironmentFailed("no image")
    with pytest.raises(EnvironmentFailed):
        await house.receiver.open(UUID).run(Source())
    del house.world.faults["create"]
    house.world.owned = [False]
    second = Deferred.fromCoroutine(house.receiver.open(UUID).run(Source()))
    assert house.world.calls.count("owns") == 1
    with pytest.raises(AlreadyHere):
        house.receiver.open(UUID)
    hanging.callback(None)
    await second
    assert (house.states[-1], house.left()) == ("completed", [UUID])
    assert list(house.receiver.servers) == []


# Cancelling, and a sender that goes


@pytest.mark.parametrize("call", ["server", "create"])
@pytest_twisted.ensureDeferred
async def test_a_cancelled_transfer_leaves_nothing_and_is_told_once(
    house: House, call: str
) -> None:
    house.world.before[call] = lambda: house.receiver.cancel(UUID)
    if call == "create":
        house.world.waits["create"] = Deferred()
        house.world.before[call] = lambda: reactor.callLater(0, house.receiver.cancel, UUID)
    await house.fails(TransferCancelled)
    assert house.world.calls.count("failure") == 1
    assert (house.world.registered, house.left()) == ({}, [])


@pytest_twisted.ensureDeferred
async def test_after_success_may_have_been_told_there_is_no_cancel(house: House) -> None:
    refused: list[Conflict] = []

    def cancel() -> None:
        with pytest.raises(Conflict) as caught:
            house.receiver.cancel(UUID)
        refused.append(caught.value)

    house.world.before["success"] = cancel
    await house.receiver.open(UUID).run(Source())
    assert refused[0].message == "Server is not currently being transferred."
    assert house.states[-1] == "completed"


def test_what_is_not_received_cannot_be_cancelled(house: House) -> None:
    with pytest.raises(Conflict):
        house.receiver.cancel(UUID)


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_deleted_is_received_no_further(house: House) -> None:
    await house.receiver.release(UUID)
    released: list[Deferred[None]] = []
    house.world.waits["create"] = Deferred()

    def release() -> None:
        released.append(Deferred.fromCoroutine(house.receiver.release(UUID)))

    house.world.before["create"] = lambda: reactor.callLater(0, release)
    await house.fails(TransferCancelled)
    await released[0]
    assert (house.world.registered, house.left()) == ({}, [])


@pytest_twisted.ensureDeferred
async def test_a_sender_that_goes_before_its_answer_keeps_its_server(house: House) -> None:
    source = Source()
    house.world.waits["create"] = Deferred()
    house.world.before["create"] = lambda: reactor.callLater(0, source.go)
    await house.fails(UploadCutShort, source)
    assert house.world.calls[-2:] == ["failure", "remove"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_sender_that_goes_once_success_may_be_told_changes_nothing(house: House) -> None:
    source = Source()
    house.world.before["success"] = source.go
    await house.receiver.open(UUID).run(source)
    assert (house.states[-1], house.left()) == ("completed", [UUID])


@pytest_twisted.ensureDeferred
async def test_the_console_tells_what_goes_on(house: House) -> None:
    await house.receiver.open(UUID).run(Source())
    said = [line.partition("[Destination Node]:\x1b[0m ")[2] for line in house.lines]
    assert said == [step.words for step in ReceiveStep if step is not ReceiveStep.FAILED]


@pytest_twisted.ensureDeferred
async def test_new_settings_that_are_not_to_be_had_do_not_undo_it(house: House) -> None:
    house.world.faults["sync"] = PanelUnreachable("down", "x")
    await house.receiver.open(UUID).run(Source())
    assert (house.states[-1], house.left()) == ("completed", [UUID])


# The journal


@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in JOURNALED])
@pytest_twisted.ensureDeferred
async def test_a_journal_that_cannot_be_written_fails_the_transfer_and_loses_nothing(
    house: House, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = house.store.enter

    def full(transfer: int, name: str, now: float) -> None:
        if name == step.name:
            raise StorageError("the disk is full")
        write(transfer, name, now)

    monkeypatch.setattr(house.store, "enter", full)
    await house.fails(StorageError)
    assert "success" not in house.world.calls
    assert house.world.calls.count("failure") == 1
    assert (house.left(), house.world.registered) == ([], {})
    assert house.store.transfers(unfinished=True) == []


@pytest_twisted.ensureDeferred
async def test_without_a_journal_nothing_begins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.store, "begin", full)
    source = Source()
    await house.fails(StorageError, source)
    assert (house.left(), house.world.registered) == ([], {})


@pytest_twisted.ensureDeferred
async def test_a_success_that_cannot_be_written_down_is_not_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = house.store.add_report

    def full(server: str, outcome: Outcome, now: float) -> Report:
        if outcome is Outcome.SUCCESS:
            raise StorageError("the disk is full")
        return add(server, outcome, now)

    monkeypatch.setattr(house.store, "add_report", full)
    await house.fails(StorageError)
    assert "success" not in house.world.calls
    assert house.left() == []


# After a restart


async def resumed(house: House, step: ReceiveStep) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    entry = house.store.begin(UUID, Direction.IN, step.name, 1.0)
    directory = Path(house.staging.create(UUID))
    (directory / "world").write_text("whole")
    if step in (ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        house.staging.swap(UUID)
    (found,) = house.store.transfers(unfinished=True)
    assert found.id == entry
    house.receiver.resume(found)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)


@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
@pytest_twisted.ensureDeferred
async def test_what_was_whole_goes_on_where_it_stood(house: House, step: ReceiveStep) -> None:
    await resumed(house, step)
    made = ["create"] if step is not ReceiveStep.REPORT else []
    assert house.world.calls == ["owns", "server", *made, "success", "sync"]
    assert (house.data / UUID / "world").read_text() == "whole"
    assert house.states[-1] == "completed"
    assert house.store.transfers(unfinished=True) == []


@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
@pytest_twisted.ensureDeferred
async def test_what_was_not_whole_is_told_to_have_failed(house: House, step: ReceiveStep) -> None:
    await resumed(house, step)
    assert house.world.calls == ["failure"]
    assert house.states[-1] == "failure"
    assert house.store.transfers(unfinished=True) == []


@pytest_twisted.ensureDeferred
async def test_what_the_panel_had_heard_is_not_told_twice_over(house: House) -> None:
    house.world.owned = [True, True]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(house, ReceiveStep.REPORT)
    assert house.world.calls == ["owns", "server", "success", "owns", "sync"]
    assert house.left() == [UUID]


@pytest_twisted.ensureDeferred
async def test_what_the_panel_does_not_want_any_more_is_kept_apart(house: House) -> None:
    house.world.owned = [False, False]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(house, ReceiveStep.SWAP)
    assert house.left() == [".quarantine"]


def test_what_is_whole_is_told_by_its_step() -> None:
    steps = [*ReceiveStep]
    entries = [
        Entry(number, step.name, Direction.IN, step.name, 0, 0)
        for number, step in enumerate(steps)
    ]
    entries.append(Entry(99, "sent", Direction.OUT, "SEND", 0, 0))
    assert durable(entries) == {step.name for step in steps[steps.index(ReceiveStep.SWAP) :]}

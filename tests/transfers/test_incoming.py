"""The chain of a transfer: what is done, undone and told when any of its steps fails."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.logged_errors import LoggedErrors
from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, DATA, House, Source
from wingsd.archive import measure
from wingsd.archive.errors import ArchiveError
from wingsd.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    ServerAlreadyExists,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.panel.errors import PanelRefused, PanelUnreachable
from wingsd.statedb import Outcome
from wingsd.transfers import panel_callbacks as firstminute
from wingsd.transfers.errors import TransferRevoked, UploadTruncated
from wingsd.transfers.incoming import commit as arrival
from wingsd.transfers.incoming.transfer import HOLD
from wingsd.transfers.incoming.uploads import UploadConsumer
from wingsd.util.retry import Backoff


@pytest_twisted.ensureDeferred
async def test_a_good_upload_goes_through_every_step_in_order(house: House) -> None:
    transfer = house.receiver.open(UUID)
    assert list(house.receiver.servers) == [UUID]
    await transfer.run(Source(), ALONE)
    assert house.world.calls == ["owns", "server", "create", "success", "sync"]
    assert house.states == ["pending", "processing", "success", "completed"]
    assert house.world.registered == {UUID: ""}
    assert house.left() == [UUID]
    assert list(house.receiver.servers) == []
    # The size of its files is known, since they were just written.
    assert house.world.sizes == [measure(str(house.data / UUID))]


class Unread(Source):
    """An upload of which not one byte may be taken."""

    def deliver(self, consumer: UploadConsumer) -> None:
        raise AssertionError("it is read")


@pytest_twisted.ensureDeferred
async def test_a_container_of_another_nodes_is_found_before_the_first_byte(house: House) -> None:
    house.world.conflict = "a container of that name is another node's"
    error = await house.fails(Conflict, Unread())
    assert error.detail.startswith("a container of that name is another node's. ")
    assert house.world.calls == ["owns", "server", "failure"]
    assert (house.left(), house.world.registered) == ([], {})
    (ended,) = house.store.transfers()
    assert "a container of that name" in ended.reason


@pytest_twisted.ensureDeferred
async def test_an_engine_that_is_silent_is_found_before_the_first_byte(house: House) -> None:
    house.world.faults["conflict"] = EnvironmentFailed("the engine does not answer")
    await house.fails(EnvironmentFailed, Unread())
    assert house.world.calls == ["owns", "server", "failure"]


@pytest_twisted.ensureDeferred
async def test_a_variable_that_no_container_can_have_is_refused_before_the_archive(
    house: House,
) -> None:
    house.world.variables = {"STARTUP=sh": "x"}
    source = Source()
    with pytest.raises(EnvironmentFailed, match="'STARTUP=sh' cannot be the name"):
        await house.receiver.open(UUID).run(source, ALONE)
    assert house.world.calls == ["owns", "server"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_the_files_are_in_place_before_the_environment_is_made(house: House) -> None:
    seen = []
    house.world.before["create"] = lambda: seen.append(house.left())
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert seen == [[UUID]]
    assert (house.data / UUID / "server.properties").exists()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("owns", PanelUnreachable("down", "x")),
        ("server", ServerNotFound("unknown", "x")),
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
    await house.fails(ServerAlreadyExists)
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
        (Source(error=UploadTruncated("cut", "x")), UploadTruncated),
        (Source(data=b"", error=UploadTruncated("cut", "x")), UploadTruncated),
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
    assert [line for line in logged_errors.lines if "rollback failed" in line and "stuck" in line]


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_panel_that_is_slow_to_hear(house: House) -> None:
    hanging: Deferred[None] = Deferred()
    house.world.waits["failure"] = hanging
    await house.fails(BadRequest, Source(checksum="0"))
    (report,) = house.store.unsettled()
    assert report.outcome is Outcome.FAILURE
    hanging.callback(None)
    assert house.store.unsettled() == []


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
    assert len(house.store.unsettled()) == 1
    house.world.owned = [False]
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert house.store.unsettled() == []
    assert house.world.calls.count("failure") == 1


# The Panel does not take the success


@pytest_twisted.ensureDeferred
async def test_it_turns_out_that_the_panel_had_heard_it(house: House) -> None:
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    house.world.owned = [False, True]
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert house.world.calls == ["owns", "server", "create", "success", "owns", "sync"]
    assert (house.states[-1], house.left()) == ("completed", [UUID])


@pytest.mark.parametrize("code", [404, 409])
@pytest_twisted.ensureDeferred
async def test_the_panel_does_not_want_it_here(house: House, code: int) -> None:
    house.world.faults["success"] = PanelRefused("no transfer open", "x", code)
    house.world.owned = [False, False]
    await house.fails(TransferRevoked)
    # It has said that no transfer is open: a failure is no news to it.
    assert house.world.calls[-3:] == ["success", "owns", "remove"]
    assert house.left() == [".quarantine"]
    (room,) = (house.data.with_name(".volumes.staging") / ".quarantine").iterdir()
    assert room.name.startswith(f"{UUID}.")
    assert (room / "server.properties").exists()
    assert house.world.registered == {}
    assert house.store.unfinished() == []


@pytest_twisted.ensureDeferred
async def test_the_sender_waits_while_the_panel_may_not_have_committed_the_transfer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    monkeypatch.setattr(firstminute, "MINUTE_BACKOFF", Backoff(0.2, 0.2))
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    house.world.describes_all = True
    house.world.owned = [False] * 100
    transfer = house.receiver.open(UUID)
    receiving = Deferred.fromCoroutine(transfer.run(Source(), ALONE))
    while house.world.calls.count("success") < 3:
        await house.passes()
    # By now a Panel that does not answer would not be waited for.
    assert not receiving.called
    assert house.left() == [UUID]
    del house.world.faults["success"]
    await receiving
    assert house.states[-1] == "completed"


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
    await transfer.run(Source(), ALONE)
    assert house.left() == [UUID]
    assert house.world.registered == {UUID: HOLD}
    with pytest.raises(ServerAlreadyExists):
        house.receiver.open(UUID)
    with pytest.raises(Conflict):
        house.receiver.cancel(UUID)
    (entry,) = house.store.unfinished()
    assert entry.step == "REPORT"
    assert len(house.store.unsettled()) == 1
    assert house.states[-1] == "processing"
    del house.world.faults["success"]
    await transfer.over
    assert house.states[-1] == "completed"
    assert house.world.registered == {UUID: ""}
    assert house.store.unfinished() == []
    assert house.store.unsettled() == []
    logged_errors.take(RuntimeError)


@pytest_twisted.ensureDeferred
async def test_a_server_that_turns_out_to_be_unwanted_later_is_kept_apart(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    house.world.faults["success"] = PanelUnreachable("down", "x")
    transfer = house.receiver.open(UUID)
    await transfer.run(Source(), ALONE)
    house.world.owned = [False]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await transfer.over
    assert house.left() == [".quarantine"]
    assert house.states[-1] == "failure"
    assert house.world.registered == {}

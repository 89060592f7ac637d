"""What becomes of a move by hand when something fails, is asked, or dies."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.direct_transfers.harness import UUID, Station, until
from tests.direct_transfers.outcomes import hold, moved, moved_and_gone, reason, stays
from tests.direct_transfers.scenarios import Ends
from tests.support import Hang
from wingsd.direct_transfers import outgoing as sending
from wingsd.errors import Conflict, EnvironmentFailed, StorageError, WingsdError
from wingsd.http.request import StreamingRequest
from wingsd.transfers.errors import DaemonRestarted

# Failures, and what is asked then


def lose_answer(station: Station, method: str = "POST", times: int = 1) -> None:
    """Have the answer to a request cut off, so many times."""
    left = [times]

    def lose(request: StreamingRequest) -> bool:
        left[0] -= request.method == method.encode()
        return request.method == method.encode() and left[0] >= 0

    station.lose = lose


@pytest.mark.parametrize("remove", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_lost_after_success_is_asked_for(ends: Ends, remove: bool) -> None:
    lose_answer(ends.destination)
    await ends.send(await ends.destination.invite(), remove=remove)
    await (moved_and_gone(ends) if remove else moved(ends))


@pytest_twisted.ensureDeferred
async def test_it_is_asked_for_until_it_is_told(ends: Ends) -> None:
    lose_answer(ends.destination)
    invitation = await ends.destination.invite()
    asked: list[str] = []

    def lose(request: StreamingRequest) -> bool:
        asked.append(request.method.decode())
        return request.method == b"POST" or asked.count("DELETE") in (1, 2)

    ends.destination.lose = lose
    await ends.send(invitation)
    await moved(ends)
    assert asked.count("DELETE") == 3


@pytest_twisted.ensureDeferred
async def test_a_failure_at_the_destination_is_undone_and_read(ends: Ends) -> None:
    ends.destination.environment.faults["create"] = EnvironmentFailed("the engine is gone")
    await ends.send(await ends.destination.invite(), remove=True)
    await stays(ends)
    assert "the engine is gone" in reason(ends.source)
    assert ends.destination.store.descriptions() == []
    # Its own container, which was removed to send it, is there again.
    assert UUID in ends.source.environment.containers


@pytest_twisted.ensureDeferred
async def test_a_failure_whose_answer_is_lost_is_one(ends: Ends) -> None:
    ends.destination.environment.faults["create"] = EnvironmentFailed("the engine is gone")
    lose_answer(ends.destination)
    await ends.send(await ends.destination.invite(), remove=True)
    await stays(ends)


@pytest_twisted.ensureDeferred
async def test_an_arrival_that_cannot_be_written_down_is_none(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(ends.destination.store, "mark_arrived", full)
    await ends.send(await ends.destination.invite(), remove=True)
    await stays(ends)
    assert "the disk is full" in reason(ends.source)


def is_sent_and_waits(ends: Ends) -> bool:
    """Return whether all is sent, and the destination's transfer waits for a slot to read it."""
    sending = [progress.step.name for progress in ends.source.sender.progress]
    return sending == ["AWAIT"] and ends.destination.receiver.waiting == 1


@pytest_twisted.ensureDeferred
async def test_a_question_cancels_a_transfer_that_waits_for_a_slot(ends: Ends) -> None:
    await ends.destination.slots.acquire()
    invitation = await ends.destination.invite()
    await ends.send(invitation)
    await until(lambda: is_sent_and_waits(ends))
    ends.source.sender.cancel(UUID)
    await stays(ends)
    assert "cancelled" in reason(ends.source)
    # With that token it never comes any more.
    await ends.send(invitation)
    await stays(ends)
    again = "it was used for a transfer before; run wingsctl receive there again"
    assert again in reason(ends.source)


@pytest_twisted.ensureDeferred
async def test_who_does_not_want_to_wait_for_a_dead_destination_keeps_it(ends: Ends) -> None:
    gone: list[bool] = []

    def lose(request: StreamingRequest) -> bool:
        gone.append(request.method == b"DELETE")
        return request.method not in (b"PUT", b"OPTIONS")

    ends.destination.lose = lose
    await ends.send(await ends.destination.invite(), remove=True)
    await until(lambda: gone.count(True) > 2)
    assert [p.step_text for p in ends.source.sender.progress] == [
        "asking the destination whether it has the server"
    ]
    ends.source.sender.cancel(UUID)
    await until(lambda: not ends.source.sender.servers)
    assert (hold(ends.source), ends.source.left()) == ("", [UUID])


@pytest_twisted.ensureDeferred
async def test_a_panel_that_deletes_it_meanwhile_is_no_word_that_it_has_moved(ends: Ends) -> None:
    await ends.destination.slots.acquire()
    await ends.send(await ends.destination.invite())
    await until(lambda: is_sent_and_waits(ends))
    await ends.source.sender.release(UUID)
    ends.source.sender.deleted(UUID)
    await ends.over()
    assert ends.source.entries() == [("out", "failure")]


@pytest_twisted.ensureDeferred
async def test_it_is_sent_once_at_a_time(ends: Ends) -> None:
    await ends.destination.slots.acquire()
    invitation = await ends.destination.invite()
    await ends.send(invitation)
    with pytest.raises(Conflict, match="already in progress"):
        await ends.send(invitation)
    ends.source.sender.cancel(UUID)
    await ends.over()


# Daemons that die


@pytest.mark.parametrize("at", ["SWAP", "ENVIRONMENT", "REPORT"])
@pytest_twisted.ensureDeferred
async def test_a_destination_that_died_late_has_it(
    ends: Ends, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = ends.destination
    # Asked before it has it all, it never would.
    may_ask: Deferred[None] = Deferred()
    ask = sending.DirectSending._ask

    async def ask_later(self: sending.DirectSending) -> bool:
        await may_ask
        return await ask(self)

    monkeypatch.setattr(sending.DirectSending, "_ask", ask_later)
    station.die_at(at)
    await ends.send(await station.invite())
    await until(lambda: [e.step for e in station.store.transfers()] == [at])
    again = await ends.restart("destination")
    await again.recover()
    await until(lambda: again.entries() == [("in", "success")])
    may_ask.callback(None)
    await moved(ends)
    assert again.environment.containers.keys() == ({UUID} if at != "REPORT" else set())


@pytest_twisted.ensureDeferred
async def test_a_destination_that_is_asked_before_it_has_it_all_never_has(ends: Ends) -> None:
    station = ends.destination
    station.die_at("ENVIRONMENT")
    await ends.send(await station.invite())
    await until(lambda: [e.step for e in station.store.transfers()] == ["ENVIRONMENT"])
    again = await ends.restart("destination")
    again.environment.faults["create"] = hang = Hang()
    await again.recover()
    await until(lambda: "create" in [name for name, *_ in again.environment.calls])
    await stays(ends)
    hang.release()


@pytest_twisted.ensureDeferred
async def test_a_destination_that_has_just_been_started_does_not_say_yet(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = ends.destination
    station.die_at("SWAP")
    asked: list[int] = []
    say = sending.DirectSending._log_unknown

    def note(self: sending.DirectSending, error: WingsdError, pause: float) -> None:
        asked.append(getattr(error, "response_status", 0))
        say(self, error, pause)

    monkeypatch.setattr(sending.DirectSending, "_log_unknown", note)
    await ends.send(await station.invite())
    await until(lambda: [e.step for e in station.store.transfers()] == ["SWAP"])
    again = await ends.restart("destination")
    # It listens, and has not taken up yet what was under way.
    await until(lambda: 503 in asked)
    again.environment.faults["create"] = hang = Hang()
    await again.recover()
    await stays(ends)
    hang.release()


@pytest.mark.parametrize("at", ["RECEIVE", "VERIFY", "DURABLE"])
@pytest_twisted.ensureDeferred
async def test_a_destination_that_died_early_has_not(ends: Ends, at: str) -> None:
    station = ends.destination
    station.die_at(at)
    await ends.send(await station.invite())
    await until(lambda: [e.step for e in station.store.transfers()] == [at])
    await (await ends.restart("destination")).recover()
    await stays(ends)
    assert ends.destination.store.descriptions() == []


@pytest.mark.parametrize("remove", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_source_that_died_asks_when_it_is_back(ends: Ends, remove: bool) -> None:
    station = ends.source
    ends.destination.lose = lambda request: request.method in (b"POST", b"DELETE")
    await ends.send(await ends.destination.invite(), remove=remove)
    await until(lambda: ends.destination.entries() == [("in", "success")])
    await until(lambda: any(p.step.name == "SETTLE" for p in station.sender.progress))
    again = await ends.restart("source")
    await again.recover()
    # Another daemon has it in no place but the directory, until its Panel tells.
    assert again.entries() == [("out", None)]
    ends.destination.lose = lambda _: False
    await until(lambda: again.entries() == [("out", "success")])
    await until(lambda: again.left() == ([] if remove else [UUID]))
    assert again.store.order(1) is None
    assert again.heard.over == [("out", None, None)]


@pytest_twisted.ensureDeferred
async def test_a_source_that_died_before_it_sent_anything_has_it(ends: Ends) -> None:
    station = ends.source
    station.environment.containers[UUID] = station.servers.get(UUID).configuration.settings
    station.die_at("RETIRE")
    await ends.send(await ends.destination.invite(), remove=True)
    await until(lambda: [e.step for e in station.store.transfers()] == ["RETIRE"])
    again = await ends.restart("source")
    await again.recover()
    await until(lambda: again.entries() == [("out", "failure")])
    assert reason(again) == "this node was restarted meanwhile"
    assert again.left() == [UUID]
    ((_, error, _),) = again.heard.over
    assert isinstance(error, DaemonRestarted)


@pytest_twisted.ensureDeferred
async def test_after_a_restart_nobody_need_wait_for_a_dead_destination(ends: Ends) -> None:
    ends.destination.lose = lambda request: request.method in (b"POST", b"DELETE")
    await ends.send(await ends.destination.invite())
    await until(lambda: any(p.step.name == "SETTLE" for p in ends.source.sender.progress))
    again = await ends.restart("source")
    await again.recover()
    await until(lambda: again.direct_transfers.cancel(UUID))
    await until(lambda: again.entries() == [("out", "failure")])
    assert again.left() == [UUID]

"""A destination that has everything and gives no answer: how long it is waited for, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.sample_server import UUID
from tests.transfers.sending import House, answer, reactor, sending, until
from wingsd.transfers import coordinator, panel_callbacks
from wingsd.transfers.outgoing import transfer as outgoing
from wingsd.util.retry import Backoff


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "GRACE_BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(outgoing, "WAITING_EVERY", 0.01)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from sending(tmp_path, answer_grace=600)


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[House]:
    yield from sending(tmp_path, answer_grace=600, answer_timeout=0.1)


async def lose_answer(house: House) -> Deferred[None]:
    """Send the server, lose the answer, and return when the Panel was asked some times."""
    house.destination.drop = True
    over = house.start()
    await until(lambda: house.world.told.count("owns") > 2)
    assert not over.called
    return over


@pytest_twisted.ensureDeferred
async def test_when_the_answer_is_lost_the_panel_is_asked_until_the_server_has_moved(
    house: House,
) -> None:
    over = await lose_answer(house)
    await until(lambda: house.said("the Panel is asked whether the server has moved, for 0 s"))
    assert house.said("the destination may still be at work: for 10 min")
    assert house.states == ["pending", "processing"]
    assert house.world.hold != ""
    house.world.owned = False
    await over
    assert house.states[-2:] == ["success", "completed"]
    assert house.said("it has moved: only its answer was lost")
    assert "failure" not in house.world.told
    assert not house.said("failed while")


@pytest_twisted.ensureDeferred
async def test_a_cancel_ends_the_grace_at_once(house: House) -> None:
    over = await lose_answer(house)
    house.sender.cancel(UUID)
    await over.addTimeout(2, reactor)
    assert house.world.told[-2:] == ["owns", "failure"]
    assert house.states[-2:] == ["failed", "failure"]
    assert (house.world.calls[-1], house.world.hold) == ("restore", "")
    assert house.said("the destination node gave no answer")


@pytest_twisted.ensureDeferred
async def test_a_deletion_by_the_panel_ends_the_grace_as_a_success(house: House) -> None:
    over = await lose_answer(house)
    await house.sender.release(UUID)
    house.sender.deleted(UUID)
    await over
    assert house.states[-2:] == ["success", "completed"]
    assert "failure" not in house.world.told
    assert house.store.unfinished() == []


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_ends_leaves_the_grace_to_the_next(house: House) -> None:
    over = await lose_answer(house)
    await house.sender.stop()
    await over
    assert "failure" not in house.world.told
    assert house.world.hold != ""
    (entry,) = house.store.unfinished()
    assert entry.step == "SETTLE"


@pytest.mark.parametrize("status", [408, 502, 503, 504, 524])
@pytest_twisted.ensureDeferred
async def test_a_proxys_answer_in_the_nodes_place_is_a_lost_answer(
    house: House, status: int
) -> None:
    house.destination.status, house.destination.body = status, b"<html>Gateway timeout</html>"
    over = house.start()
    await until(lambda: house.world.told.count("owns") > 2)
    assert "failure" not in house.world.told
    house.world.owned = False
    await over
    assert house.states[-1] == "completed"


@pytest.mark.parametrize(
    ("status", "body"), [(503, b'{"error": "this node is shutting down"}'), (500, b""), (404, b"")]
)
@pytest_twisted.ensureDeferred
async def test_a_nodes_own_refusal_is_not(house: House, status: int, body: bytes) -> None:
    house.destination.status, house.destination.body = status, body
    await house.start()
    assert house.world.told == ["owns", "failure"]
    assert house.states[-1] == "failure"


@pytest_twisted.ensureDeferred
async def test_a_refused_server_is_free_while_its_failure_is_told_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Panel has not committed the transfer yet, or the destination was the first to tell.
    monkeypatch.setattr(panel_callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    house.world.denials = 3
    house.destination.status, house.destination.body = 400, b'{"error": "checksums don\'t match"}'
    await house.start()
    assert (house.states[-1], house.world.hold) == ("failure", "")
    await until(lambda: house.store.unsettled() == [])
    assert house.world.told.count("failure") == 4


@pytest_twisted.ensureDeferred
async def test_a_silent_destination_is_waited_for_with_a_line_every_minute(house: House) -> None:
    there = answer(house)
    over = house.start()
    await there
    await until(lambda: house.said("the destination has everything, and has not answered for 0 s"))
    house.destination.waits["POST"].callback(None)
    await over
    assert house.states[-1] == "completed"
    assert house.world.told == []


@pytest_twisted.ensureDeferred
async def test_a_destination_that_stays_silent_fails_the_transfer(impatient: House) -> None:
    impatient.destination.waits["POST"] = Deferred()
    await impatient.start()
    assert impatient.said("it has said nothing for 0.1 s")
    # It has had its time: no grace comes after that.
    assert impatient.world.told == ["owns", "failure"]
    assert (impatient.states[-1], impatient.world.hold) == ("failure", "")

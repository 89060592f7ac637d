"""Outgoing transfers that are cancelled, and servers that are deleted meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.sample_server import UUID
from tests.transfers.sending import House, answer, ask, reactor, retire, send, sending, stop, until
from wingsd.errors import Conflict
from wingsd.transfers.outgoing import manager as sender

house = pytest.fixture(sending)
MOMENTS = [ask, stop, retire, send, answer]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest_twisted.ensureDeferred
async def test_a_cancel_ends_it_at_once_wherever_it_is(
    house: House, moment: Callable[[House], Deferred[None]]
) -> None:
    there = moment(house)
    over = house.start()
    await there
    house.sender.cancel(UUID)
    await over.addTimeout(2, reactor)
    assert house.states[-2:] == ["failed", "failure"]
    assert house.said("the transfer was cancelled")
    assert house.world.told.count("failure") == 1
    assert house.world.hold == ""
    with pytest.raises(Conflict) as caught:
        house.sender.cancel(UUID)
    assert caught.value.message == "Server is not currently being transferred."


@pytest.mark.parametrize("moment", MOMENTS[:-1])
@pytest_twisted.ensureDeferred
async def test_a_deletion_before_everything_is_sent_cancels_it(
    house: House, moment: Callable[[House], Deferred[None]]
) -> None:
    there = moment(house)
    over = house.start()
    await there
    await house.sender.release(UUID)
    house.sender.deleted(UUID)
    assert house.sender.servers == ()
    assert house.world.told == ["failure"]
    await over


@pytest_twisted.ensureDeferred
async def test_a_deletion_after_that_is_the_word_of_success(house: House) -> None:
    there = answer(house)
    over = house.start()
    await there
    released = Deferred.fromCoroutine(house.sender.release(UUID))
    # At once: the Panel waits for it with its own answer to the destination.
    assert released.called
    house.sender.deleted(UUID)
    assert house.states[-2:] == ["success", "completed"]
    with pytest.raises(Conflict):
        house.sender.cancel(UUID)
    house.destination.waits["POST"].callback(None)
    await over
    assert house.world.told == []
    assert "restore" not in house.world.calls


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_lost_after_the_deletion_changes_nothing(house: House) -> None:
    there = answer(house)
    house.destination.drop = True
    over = house.start()
    await there
    await house.sender.release(UUID)
    house.sender.deleted(UUID)
    house.destination.waits["POST"].callback(None)
    await over
    assert house.world.told == []
    assert house.states[-1] == "completed"


@pytest.mark.parametrize("ours", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_server_that_moved_and_was_not_deleted_is_asked_about(
    house: House, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "DELETION_WITHIN", 0.02)
    house.world.owned = ours
    await house.start()
    (entry,) = house.store.unfinished()
    assert entry.step == "SEND"
    await until(lambda: house.store.unfinished() == [])
    if ours:
        # The destination took it and is lost, or its success was not wanted.
        assert house.world.told == ["owns", "failure"]
        assert house.world.hold == ""
    else:
        assert house.world.calls[-2:] == ["forget", "store away"]


@pytest_twisted.ensureDeferred
async def test_one_that_is_deleted_later_is_done_with(house: House) -> None:
    await house.start()
    await house.sender.release(UUID)
    # Until its files are out of its place, a daemon that dies leaves them to the next.
    await house.disk.run(int)
    assert len(house.store.unfinished()) == 1
    house.sender.deleted(UUID)
    assert house.store.unfinished() == []

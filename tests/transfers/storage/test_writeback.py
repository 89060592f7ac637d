"""When the disk is made to begin."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from wingsd.transfers.storage.staging import WRITE_BACK_EVERY as EVERY
from wingsd.transfers.storage.staging import WriteBack


def test_writeback_continues_while_any_server_arrives() -> None:
    clock, calls = Clock(), []

    def write_back() -> Deferred[None]:
        calls.append(clock.seconds())
        return succeed(None)

    write = WriteBack(write_back, clock)
    with write.during():
        clock.pump([EVERY] * 2)
        with write.during():
            clock.advance(EVERY)
        clock.advance(EVERY)
    clock.pump([EVERY] * 10)
    assert calls == [EVERY, 2 * EVERY, 3 * EVERY, 4 * EVERY]
    with write.during():
        clock.advance(EVERY)
    assert len(calls) == 5
    clock.advance(EVERY)
    assert not clock.getDelayedCalls()


def test_a_disk_that_takes_long_is_not_asked_again_meanwhile() -> None:
    clock, asked = Clock(), list[Deferred[None]]()

    def write_back() -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    with WriteBack(write_back, clock).during():
        clock.pump([EVERY] * 5)
        assert len(asked) == 1
        asked[0].callback(None)
        clock.advance(EVERY)
        assert len(asked) == 2
        asked[1].callback(None)


def test_a_server_that_begins_during_the_last_writeback_is_written_back_too() -> None:
    clock, asked = Clock(), list[Deferred[None]]()

    def write_back() -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    write = WriteBack(write_back, clock)
    with write.during():
        clock.advance(EVERY)
    with write.during():
        asked[0].callback(None)
        clock.advance(EVERY)
        assert len(asked) == 2
        asked[1].callback(None)
        clock.advance(EVERY)
        assert len(asked) == 3
    asked[2].callback(None)
    clock.advance(EVERY)
    assert not clock.getDelayedCalls()

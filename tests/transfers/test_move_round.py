"""How a round is sent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.task import Clock

from wingsd.config import MovesConfig
from wingsd.errors import DestinationUnreachable, FinalPassStalled
from wingsd.statedb import Direction, MoveRecord
from wingsd.transfers.outgoing import move_round
from wingsd.transfers.outgoing.move import MoveSending
from wingsd.transfers.outgoing.move_round import BatchSize, RoundSender
from wingsd.transfers.peer.moves import BegunAnswer


class Threads:
    """Runs work at once."""

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return execute(work, *args, **kwargs)


@attrs.define(slots=False)
class Source:
    """A source with nothing to send, and what was asked of it."""

    size = round = last = unread = left = 0
    walk_seconds = 0.0
    can_go_on = True
    is_same: bool = True
    is_broken: bool = False
    calls: list[str] = attrs.field(factory=list)

    def scan(self, *, running: bool, goes_on: bool) -> None:
        self.calls.append("scan")

    def plan(self, numbers: object, *, leave_hot: bool) -> None:
        self.calls.append("plan")

    def walk_again(self) -> bool:
        self.calls.append("walk")
        return self.is_same

    def next_shape(self) -> None:
        self.calls.append("shape")

    def next_data(self) -> None:
        self.calls.append("data")
        if self.is_broken:
            raise LookupError

    def root(self) -> bytes:
        return b"root"

    def unproven(self, *, is_same: bool) -> str:
        return "" if is_same else "world/file"

    def closed(self) -> None:
        self.calls.append("closed")


class Client:
    """A destination that takes all."""

    yields = False

    def __init__(self) -> None:
        self.is_closed = False
        self.looks = 0

    async def look(self) -> None:
        self.looks += 1
        if self.looks == 1:
            raise DestinationUnreachable("it is away")

    async def close_round(self, number: int, last: int, root: bytes) -> None:
        self.is_closed = True

    def interrupt(self) -> None:
        pass


def sender(
    source: Any, client: Any = None, threads: Any = None, clock: Clock | None = None
) -> RoundSender:
    client, threads = client or Client(), threads or Threads()
    size = BatchSize(1 << 20)
    parts = Mock(packers=threads, followers=threads, reactor=clock or Clock())
    return RoundSender(client, source, parts, size, 2, zstd=False)


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_stopped_server_is_walked_through_again_while_it_is_sent(is_same: bool) -> None:
    source = Source(is_same=is_same)
    rounds = sender(source)
    await rounds.plan(None, running=False)
    closed = await rounds.send()
    assert source.calls == ["scan", "plan", "walk", "shape", "data", "closed"]
    assert closed.unproven == ("" if is_same else "world/file")


async def test_a_running_server_is_not() -> None:
    source = Source()
    rounds = sender(source)
    await rounds.plan(None, running=True)
    assert (await rounds.send()).unproven == ""
    assert "walk" not in source.calls


async def test_what_cannot_be_sent_is_an_error_when_the_walk_has_ended() -> None:
    source = Source(is_broken=True)
    rounds = sender(source)
    await rounds.plan(None, running=False)
    with pytest.raises(LookupError):
        await rounds.send()
    assert "walk" in source.calls


async def test_nothing_that_waits_for_its_turn_is_left_behind_when_a_round_is_cancelled() -> None:
    class ReadsOn(Threads):
        def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            is_data = getattr(work, "__name__", "") == "next_data"
            return Deferred() if is_data else super().run(work, *args, **kwargs)

    rounds = sender(Source(), threads=ReadsOn())
    await rounds.plan(None, running=True)
    sending = Deferred.fromCoroutine(rounds.send())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        sending.cancel()
        with pytest.raises(CancelledError):
            await sending
    assert not found


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize("slow", ["scan", "next_data"])
@pytest.mark.parametrize("running", [True, False])
async def test_while_it_reads_the_destination_hears_of_it(slow: str, running: bool) -> None:
    source, client, clock = Source(), Client(), Clock()
    reading: Deferred[None] = Deferred()

    class ReadsOn(Threads):
        def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            name = getattr(work, "func", work).__name__
            return reading if name == slow else super().run(work, *args, **kwargs)

    rounds = sender(source, client, ReadsOn(), clock)

    async def send() -> None:
        await rounds.plan(None, running=running)
        await rounds.send()

    sending = Deferred.fromCoroutine(send())
    clock.pump([move_round.ASKED_EVERY] * 3)
    assert client.looks == 3
    reading.callback(None)
    await sending
    assert clock.getDelayedCalls() == []


async def test_a_round_is_closed_while_the_walk_goes_on() -> None:
    source, client = Source(), Client()
    walking: Deferred[bool] = Deferred()

    class WalksOn(Threads):
        def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            return walking if work == source.walk_again else super().run(work, *args, **kwargs)

    rounds = sender(source, client, WalksOn())
    await rounds.plan(None, running=False)
    sending = Deferred.fromCoroutine(rounds.send())
    assert client.is_closed
    assert "closed" not in source.calls
    walking.callback(False)
    assert (await sending).unproven == "world/file"


class Watched:
    """The last round of a stopped server whose work does not end, by a clock."""

    def __init__(self) -> None:
        self.clock, self.interrupted = Clock(), 0
        self.source, self.client = Mock(read=0, files=0, steps=(0,)), Mock(steps=0)
        self.client.interrupt = self._interrupt
        self.working: Deferred[None] = Deferred()
        parts = Mock(reactor=self.clock)
        parts.config.moves = MovesConfig()
        url, request = "http://node.invalid/", '{"order": {"bytes": 0, "version": 1}}'
        record = MoveRecord(1, "s", Direction.OUT, "m", "k", "t", url, request=request)
        begun = BegunAnswer("m", 1, 1 << 20, 1)
        self.move = MoveSending(Mock(), parts, record, begun, (), False, False)
        self.move._client = self.client
        self.move._source = self.source
        self.move._deliver_once = self._work  # type: ignore[method-assign]

    async def _work(self) -> None:
        await self.working

    def _interrupt(self) -> None:
        self.interrupted += 1
        self.working.errback(CancelledError())

    def read(self) -> None:
        self.source.read += 1

    def scan(self) -> None:
        self.source.steps = (self.source.steps[0] + 1,)

    def close_there(self) -> None:
        self.client.steps += 1


@pytest.mark.promise("stuck-final-round-is-given-up")
@pytest.mark.parametrize("goes_on", [Watched.read, Watched.scan, Watched.close_there])
async def test_a_last_round_is_given_up_when_neither_node_makes_progress(
    goes_on: Callable[[Watched], None],
) -> None:
    watched = Watched()
    delivering = Deferred.fromCoroutine(watched.move.send(print, 120))
    for _ in range(10):
        watched.clock.pump([1.0] * 100)
        goes_on(watched)
    assert not delivering.called
    watched.clock.pump([1.0] * 119)
    assert watched.interrupted == 0
    watched.clock.pump([1.0] * 2)
    assert watched.interrupted == 1
    with pytest.raises(FinalPassStalled):
        await delivering
    assert watched.clock.getDelayedCalls() == []

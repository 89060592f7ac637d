"""Rounds of a move: batches sent by several requests at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock, succeed
from twisted.internet.defer import DeferredSemaphore as Semaphore
from twisted.internet.interfaces import IReactorTime

from wingsd.errors import WingsdError
from wingsd.moves.filling import LEAST_SIZE, Batch, BatchBody, batch_body
from wingsd.moves.source import MoveSource
from wingsd.moves.stop_rule import RoundFigures
from wingsd.transfers.outgoing.attached import BatchSize
from wingsd.transfers.outgoing.source import OutgoingParts
from wingsd.transfers.peer.moves import MoveClient, MoveResumed, MoveSmaller, ResumeNeeded
from wingsd.util.retry import Watch

#: Seconds between two questions.
ASKED_EVERY = 20.0


def asking(client: MoveClient, clock: IReactorTime) -> Watch:
    """Ask the destination regularly how far it is, until that is stopped.

    So it does not give the move up while this node reads or waits, and this sees that it works.
    Whether it answers does not matter.
    """
    return Watch(
        clock,
        ASKED_EVERY,
        lambda: Deferred.fromCoroutine(_look(client)),
        "asking the destination failed",
    )


async def _look(client: MoveClient) -> None:
    # a request of the move itself finds out what is wrong
    with suppress(WingsdError, ResumeNeeded, CancelledError):
        await client.look()


P = ParamSpec("P")
T = TypeVar("T")

#: The level of zstd on a line that is slower than so many bytes a second: reading and compressing
#: is not what takes the time there.
SLOW_LEVEL, SLOW = 3, 25e6


@attrs.frozen(repr=False)
class PlannedRound:
    """A round before it is sent: seconds of its walk, and bytes of files.

    `unread` are to be read. `hot` are those of files that change all the time, and `left` those
    that are left out for that, and read before the end.
    """

    seconds: float
    unread: int
    left: int
    hot: int


@attrs.frozen(repr=False)
class ClosedRound:
    """A round with the same root at both nodes, and the time that its parts took.

    `unproven` is what was changed in the server's directory meanwhile, although it had ended.
    """

    number: int
    root: bytes
    figures: RoundFigures
    unproven: str = ""


@attrs.define(eq=False, repr=False, slots=False)
class RoundSender:
    """Sends rounds of the tree in `source`, by at most `streams` requests at once.

    One more batch is made while others are sent.
    """

    _client: MoveClient
    source: MoveSource
    _parts: OutgoingParts
    _size: BatchSize
    _streams: int
    _zstd: bool = attrs.field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._clock = self._parts.reactor
        #: Bytes of files in batches that were taken, and how many batches.
        self.taken = self.done = 0
        #: Bytes a second that the last body went at, times the requests that are sent at once.
        self._rate = inf
        self._is_failed = self._is_running = False
        #: Bytes of files in the batches of this session that were taken and may be lost, by their
        #: numbers.
        self.undurable: dict[int, int] = {}
        #: The root, once all contents were read.
        self._rooting: Deferred[bytes] | None = None
        #: Seconds of this round in which files were read, and of all requests with batches.
        self._read_seconds = self._put_seconds = 0.0

    async def plan(
        self, resumed: MoveResumed | None, *, running: bool, leave_hot: bool = False
    ) -> PlannedRound:
        """Find out what the destination lacks; without `resumed` it has the last round.

        `running` is whether the server runs. Raises as `send`.
        """
        source = self.source
        self._is_running = self._client.yields = running
        with asking(self._client, self._clock):
            await self._in_thread(partial(source.scan, running=running, goes_on=resumed is None))
            if resumed is not None:
                for number in range(1, resumed.pages + 1):
                    await self._in_thread(source.add_page, await self._client.page(number))
                self.undurable.clear()
            await self._in_thread(partial(source.plan, resumed, leave_hot=leave_hot))
        return PlannedRound(source.walk_seconds, source.unread, source.left, source.hot)

    async def send(self) -> ClosedRound:
        """Send what was planned, and close the round.

        Raises `ResumeNeeded`, `MoveSmaller`, `StorageError`, `DestinationError` and
        `CancelledError`. Nothing is under way then.
        """
        self._parts.senders.add(self)
        try:
            return await self._send()
        finally:
            self._parts.senders.discard(self)

    async def _send(self) -> ClosedRound:
        source, taken = self.source, self.taken
        self._read_seconds = self._put_seconds = 0.0
        with asking(self._client, self._clock):
            walking = succeed(False) if self._is_running else self._in_thread(source.walk_again)
            try:
                while (shape := await self._next(source.next_shape)) is not None:
                    await self._put(await self._body(shape))
                await self._send_data()
                assert self._rooting is not None  # noqa: S101 - all contents were read
                root = await self._rooting
                unproven = await self._close(root, walking)
            except BaseException:
                await DeferredList([walking], consumeErrors=True)
                raise
            self.undurable.clear()
            await self._in_thread(source.closed)
        figures = RoundFigures(
            source.unread,
            self._read_seconds,
            self.taken - taken,
            self._put_seconds / self._streams,
        )
        return ClosedRound(source.round, root, figures, unproven)

    async def _close(self, root: bytes, walking: Deferred[bool]) -> str:
        """Close the round; return what was changed meanwhile although the server had ended."""
        source = self.source
        closing = self._client.close_round(source.round, source.last, root)
        work: list[Deferred[Any]] = [
            Deferred.fromCoroutine(each) for each in (closing, self._unproven(walking))
        ]
        done = await DeferredList(work, consumeErrors=True)
        for is_good, result in done:
            if not is_good:
                result.raiseException()
        return str(done[1][1])

    async def _unproven(self, walking: Deferred[bool]) -> str:
        is_same = await walking
        if self._is_running:
            return ""
        return await self._in_thread(partial(self.source.unproven, is_same=is_same))

    async def _send_data(self) -> None:
        """Send all contents; the root is made while the last batches are sent."""
        self._is_failed, self._rooting = False, None
        reading, sending = DeferredLock(), Semaphore(self._streams)
        errors: list[BaseException] = []

        async def work() -> None:
            while not self._is_failed:
                async with reading:
                    batch = None if self._is_failed else await self._next_data()
                if batch is None:
                    return
                body = await self._body(batch)
                del batch
                async with sending:
                    if not self._is_failed:
                        await self._put(body)
                del body  # while the next one is read

        async def guarded() -> None:
            try:
                await work()
            except (Exception, CancelledError) as error:
                errors.append(error)
                if not self._is_failed:
                    self._is_failed = True
                    self._client.interrupt()

        # One more than requests: it reads and packs the next batch meanwhile.
        await DeferredList([Deferred.fromCoroutine(guarded()) for _ in range(self._streams + 1)])
        if errors:
            if self._rooting is not None:
                await DeferredList([self._rooting], consumeErrors=True)
            raise errors[0]

    async def _next_data(self) -> Batch | None:
        if self._rooting is not None:
            return None
        batch = await self._next(self.source.next_data)
        if batch is None:
            self._rooting = self._in_thread(self.source.root)
        return batch

    @property
    def _share(self) -> int:
        """The bytes of a batch, so that many moves have no more of them in memory than one."""
        most = self._parts.config.moves.batch << 20
        return max(most // len(self._parts.senders), LEAST_SIZE)

    async def _next(self, read: Callable[[], Batch | None]) -> Batch | None:
        self.source.size = min(self._size.value, self._share)
        began = self._clock.seconds()
        try:
            return await self._in_thread(read)
        finally:
            self._read_seconds += self._clock.seconds() - began

    def _body(self, batch: Batch) -> Deferred[BatchBody]:
        level = SLOW_LEVEL if self._rate < SLOW else 1
        return self._in_thread(batch_body, batch, zstd=self._zstd, level=level)

    async def _put(self, body: BatchBody) -> None:
        began, size = self._clock.seconds(), max(body.data, body.size)
        try:
            durable = await self._client.put(
                body.number, body.blocks, partial(self._size.cut, size), zstd=body.zstd
            )
        except MoveSmaller as refused:
            if not refused.was_cut:
                self._size.refused(size, refused.error)
            raise
        seconds = self._clock.seconds() - began
        if body.size >= LEAST_SIZE:  # a smaller one says little about the line
            self._rate = body.size / max(seconds, 0.001) * self._streams
        self.undurable[body.number] = body.data
        for number in [each for each in self.undurable if each <= durable]:
            del self.undurable[number]
        self.taken += body.data
        self.done += 1
        self._put_seconds += seconds
        self._size.taken(size, seconds)

    def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        workers = self._parts.followers if self._is_running else self._parts.packers
        return workers.run(work, *args, **kwargs)

"""One round of a move to another node: what it lacks, read in threads and sent in batches."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.internet.defer import DeferredSemaphore as Semaphore
from twisted.internet.interfaces import IReactorTime

from wingsd.moves.bodies import BatchBody, batch_body
from wingsd.moves.filling import LEAST_SIZE, Batch
from wingsd.moves.source import MoveNumbers, MoveSource
from wingsd.threadio import Workers
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.peer.move_answers import MoveResumed, MoveSmaller
from wingsd.transfers.peer.moves import MoveClient

__all__ = ["BatchSize", "ClosedRound", "RoundSender"]

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes of the first batches.
FIRST = 1 << 20
#: Seconds in which a batch is to be sent: it passes every proxy, and a break costs little.
SECONDS = 10.0


class BatchSize:
    """The size of the next batch in bytes: what is sent in ten seconds, up to `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.value = min(FIRST, most)

    def taken(self, size: int, seconds: float) -> None:
        """A body of so many bytes was taken after so many seconds."""
        if 2 * size < self.value:
            return  # it says little about the line
        wanted = min(size / max(seconds, 0.001) * SECONDS, 2 * self.value, self.most)
        self.value = max(int(wanted), LEAST_SIZE)

    def refused(self, error: DestinationRefused) -> None:
        """A body was too large for the destination. Raises `error` for the smallest."""
        if self.value <= LEAST_SIZE:
            raise error
        self.most = self.value = max(self.value // 2, LEAST_SIZE)


@attrs.frozen(repr=False)
class ClosedRound:
    """A round that both nodes have the same root of."""

    number: int
    root: bytes


class RoundSender:
    """Sends rounds of the tree in `source`, by at most `streams` requests at once.

    `packers` are the threads that read; one more batch is made while others are sent.
    """

    def __init__(
        self,
        client: MoveClient,
        source: MoveSource,
        packers: Workers,
        clock: IReactorTime,
        size: BatchSize,
        streams: int,
        *,
        zstd: bool,
    ) -> None:
        #: Bytes of files in batches that were taken.
        self.taken = 0
        self._client = client
        self._source = source
        self._packers = packers
        self._clock = clock
        self._size = size
        self._streams = streams
        self._zstd = zstd
        self._is_failed = False

    async def run(self, resumed: MoveResumed) -> ClosedRound:
        """Send what the destination lacks, and close the round.

        Raises `ResumeNeeded`, `MoveSmaller`, `StorageError`, `DestinationError` and
        `CancelledError`. Nothing is under way then.
        """
        source = self._source
        await self._in_thread(source.scan)
        for number in range(1, resumed.pages + 1):
            await self._in_thread(source.add_page, await self._client.page(number))
        numbers = MoveNumbers(resumed.round, resumed.next, resumed.shape, resumed.file)
        await self._in_thread(source.plan, numbers)
        while (shape := await self._next(source.next_shape)) is not None:
            await self._put(await self._body(shape))
        await self._send_data()
        root = await self._in_thread(source.root)
        await self._client.close_round(resumed.round, source.last, root)
        return ClosedRound(resumed.round, root)

    async def _send_data(self) -> None:
        self._is_failed = False
        reading, sending = DeferredLock(), Semaphore(self._streams)
        errors: list[BaseException] = []

        async def work() -> None:
            while not self._is_failed:
                batch = await self._holding(reading, self._next(self._source.next_data))
                if batch is None:
                    return
                await self._holding(sending, self._put(await self._body(batch)))

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
            raise errors[0]

    async def _holding(
        self, what: DeferredLock | Semaphore, work: Coroutine[Deferred[Any], Any, T]
    ) -> T | None:
        """Do `work` when it is its turn; nothing after a failure."""
        await what.acquire()
        try:
            if self._is_failed:
                work.close()
                return None
            return await work
        finally:
            what.release()

    async def _next(self, read: Callable[[], Batch | None]) -> Batch | None:
        self._source.size = self._size.value
        return await self._in_thread(read)

    def _body(self, batch: Batch) -> Deferred[BatchBody]:
        return self._in_thread(batch_body, batch, zstd=self._zstd)

    async def _put(self, body: BatchBody) -> None:
        began, size = self._clock.seconds(), body.size
        try:
            await self._client.put(body.number, body.blocks, zstd=body.zstd)
        except MoveSmaller as refused:
            self._size.refused(refused.error)
            raise
        self.taken += body.data
        self._size.taken(size, self._clock.seconds() - began)

    def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self._packers.run(work, *args, **kwargs)

"""Several uploads of one server, read at the same time into one tree: all of them, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore

from wingsd.archive import JointTree, extract_part
from wingsd.errors import WingsdError
from wingsd.transfers.incomingpart import IncomingPart, ReceivedPart
from wingsd.transfers.interrupt import Interruptible

__all__ = ["Together"]


class Together:
    """The uploads of one server, the first of them before the others.

    Of those that it is read by, `slots` threads are its own.
    """

    def __init__(
        self, parts: Sequence[IncomingPart], tree: JointTree, slots: int, chain: Interruptible
    ) -> None:
        self._parts = parts
        self._tree = tree
        self._slots = DeferredSemaphore(slots)
        self._chain = chain
        self._error: Exception | None = None

    async def read(self, note: Any) -> list[ReceivedPart]:
        """Take all of them; raise what the first of them to fail has failed with.

        `note` gets a line for each member that was left out or written otherwise.
        """
        first, *others = self._parts
        jobs = [Deferred.fromCoroutine(self._read(part, note)) for part in others]
        if self._slots.limit < len(self._parts):
            # A sender may end its first stream only when the others are with us. It must not hold
            # a place that one of them waits for.
            await DeferredList(jobs)
        jobs.insert(0, Deferred.fromCoroutine(self._read(first, note)))
        done = await DeferredList(jobs, consumeErrors=True)
        if self._error is not None:
            raise self._error
        return [received for _, received in done]

    async def _read(self, part: IncomingPart, note: Any) -> ReceivedPart:
        await self._slots.acquire()
        try:
            received = await part.read(
                lambda blocks, abort: extract_part(blocks, self._tree, note, abort=abort)
            )
            # Already now: there is no sense in reading the others to their ends.
            received.verify()
        except Exception as error:
            self._fail(part, error)
            raise
        finally:
            self._slots.release()
        return received

    def _fail(self, part: IncomingPart, error: Exception) -> None:
        if self._error is not None:
            return
        self._error = error
        told = error if isinstance(error, WingsdError) else WingsdError(str(error))
        if told is not self._chain.reason:
            told.told_of(part.name)
        for each in self._parts:
            each.upload.stop(told)

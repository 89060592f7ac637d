"""Places that transfers wait for: each has as many as it needs, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import DeferredList, DeferredSemaphore

from wingsd.transfers.interrupt import Interruptible

__all__ = ["slots_held"]


@asynccontextmanager
async def slots_held(
    slots: DeferredSemaphore, count: int, chain: Interruptible
) -> AsyncIterator[int]:
    """Hold `count` of the slots, or all there are; yield how many.

    They are asked for at once, and given in turn: of two transfers that need several never does
    each hold what the other waits for. Raises the reason when `chain` is interrupted meanwhile.
    """
    wanted = min(count, slots.limit)
    asked = [slots.acquire() for _ in range(wanted)]
    chain.is_waiting = True
    try:
        await chain.wait(DeferredList(asked, consumeErrors=True))
        chain.check()
        chain.is_waiting = False
        yield wanted
    finally:
        chain.is_waiting = False
        for each in asked:
            each.addCallback(_give_back)


def _give_back(slots: DeferredSemaphore | None) -> None:
    if slots is not None:  # It was cancelled before its turn.
        slots.release()

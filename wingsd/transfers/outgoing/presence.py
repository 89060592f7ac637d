"""Asks a destination how far it is while a source reads, or waits for the end of a round.

So the destination does not give it up, and the source sees that it works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.errors import WingsdError
from wingsd.transfers.peer.move_answers import ResumeNeeded
from wingsd.transfers.peer.moves import MoveClient

__all__ = ["asking"]

#: Seconds between two questions.
EVERY = 20.0

_log = Logger()


@contextmanager
def asking(client: MoveClient, clock: IReactorTime) -> Iterator[None]:
    """Ask the destination regularly how far it is; whether it answers does not matter."""

    def ask() -> Deferred[None]:
        return Deferred.fromCoroutine(_look(client))

    asks = LoopingCall(ask)
    asks.clock = clock
    started: Deferred[Any] = asks.start(EVERY, now=False)
    started.addErrback(lambda failure: _log.failure("asking the destination failed", failure))
    try:
        yield
    finally:
        if asks.running:
            asks.stop()


async def _look(client: MoveClient) -> None:
    # a request of the move itself finds out what is wrong
    with suppress(WingsdError, ResumeNeeded, CancelledError):
        await client.look()

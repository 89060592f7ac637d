"""Asks both sides, before a running server is stopped, whether it could run at its destination.

The destination pulls the image, rehearses the container, and asks its Panel; then this node asks
its own. Without both answers the server is not stopped: it would be down until they are there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.errors import WingsdError
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.peer.moves import MoveClient

__all__ = ["Rehearsal"]

#: Seconds for which the answers count.
GOOD_FOR = 60.0
#: Seconds between two lines about what is in the way.
EVERY = 300.0
#: Seconds for each of the requests.
WITHIN = 30.0
#: Seconds between two questions to a destination that answers at once.
PAUSE = 1.0
#: The most seconds that a destination is believed to need to make a container.
LONGEST_MAKING = 600.0
#: How often in a row it is tried what fails until a person has changed something.
FINAL_TRIES = 3
#: Answers after which there is no move any more that could be prepared.
_ENDED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


class Rehearsal:
    """The rehearsal of one server by `client`; `say` gets lines for people.

    `measure` returns what its files take by then, as the requests have it.

    After `patience` seconds without both answers it gives up, and after `FINAL_TRIES` that have
    failed for a reason which does not go away by itself.
    """

    def __init__(
        self,
        client: MoveClient,
        measure: Callable[[], Awaitable[dict[str, int]]],
        clock: IReactorTime,
        patience: float,
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._measure = measure
        self._clock = clock
        self._patience = patience
        self._say = say
        #: Seconds that making its container takes at the destination; 0 until it was rehearsed.
        self.container_seconds = 0.0
        #: Until when the last answers count, since when there are none, and when that is told.
        self._good_until = float("-inf")
        self._since: float | None = None
        self._next_line = 0.0
        #: How many in a row have failed for such a reason.
        self._final = 0

    async def passed(self, ask_panel: Callable[[], Awaitable[None]]) -> bool:
        """Return whether the server may be stopped; where not, this is to be called again later.

        `ask_panel` asks this node's Panel. Raises the reason when it gives up, or the destination
        has ended the move.
        """
        if self._clock.seconds() < self._good_until:
            return True
        began: float = self._clock.seconds()
        try:
            await self._rehearse(began + self._patience)
            await ask_panel()
        except WingsdError as error:
            if isinstance(error, DestinationRefused) and error.response_status in _ENDED:
                raise
            self._note(error, began)
            return False
        self._since, self._final = None, 0
        self._good_until = self._clock.seconds() + GOOD_FOR
        return True

    async def _rehearse(self, end: float) -> None:
        await self._client.prepare(await self._measure(), WITHIN)
        tag = ""
        while True:
            progress = await self._client.progress(tag, WITHIN)
            found = progress.preparation
            if progress.outcome:
                raise DestinationRefused(
                    f"the destination node says: {progress.error}",
                    progress.detail,
                    HTTPStatus.GONE,
                )
            if found is None or found.state == "failed":
                why = found.error if found is not None else "it was started anew"
                detail = found.detail if found is not None else "it is asked again"
                refused = DestinationRefused(
                    f"the destination node is not ready for the server: {why}",
                    detail,
                    HTTPStatus.SERVICE_UNAVAILABLE,
                )
                refused.is_final = found is not None and found.final
                raise refused
            if found.state == "ready":
                self.container_seconds = min(max(found.container_seconds, 0.0), LONGEST_MAKING)
                return
            if self._clock.seconds() >= end:
                raise DestinationRefused(
                    "the destination node is not ready for the server: it prepares without an end",
                    "see its log, and whether it can pull the image",
                    HTTPStatus.SERVICE_UNAVAILABLE,
                )
            if progress.tag == tag:
                pausing: Deferred[None] = deferLater(self._clock, PAUSE)
                await pausing
            tag = progress.tag

    def _note(self, error: WingsdError, began: float) -> None:
        """Tell why the server is not stopped yet. Raises `error` when it gives up."""
        now: float = self._clock.seconds()
        if self._since is None:
            self._since, self._next_line = began, now
        self._final = self._final + 1 if error.is_final else 0
        if now - self._since >= self._patience or self._final >= FINAL_TRIES:
            raise error
        if now >= self._next_line:
            self._next_line = now + EVERY
            self._say(f"the server is not stopped yet, and runs on: {error}")

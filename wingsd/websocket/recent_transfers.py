"""Transfers as browsers that connect late must see them: the lines so far, and how they ended.

A Panel's page closes its WebSocket on most states of a transfer and opens another one. It would
lose what is sent in between. Without the end of a transfer it would show for ever that the server
is being transferred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from wingsd.events import TRANSFER_LOGS, TRANSFER_STATUS, Event, EventBus
from wingsd.servers.console import Console

__all__ = ["COMPLETED", "FAILED", "PENDING", "RecentTransfers"]

#: States of a transfer, as pages know them: it has begun, and its two ends.
PENDING = "pending"
COMPLETED = "completed"
FAILED = "failed"

#: Seconds for which an ended transfer is kept, and how many of them are kept at most.
KEPT_SECONDS = 60.0
ENDED_MAX = 100
#: How often the end of a transfer is sent again to one user.
REPEATS_MAX = 3
#: Seconds after the end in which a token may have been issued for which it is sent again. A page
#: that has a later one has asked the Panel since. Some Panels date tokens in whole seconds.
ISSUED_WITHIN = 1.0


@attrs.define(eq=False)
class _Transfer:
    """The last lines of a transfer and, when it has ended, its last state and the time of that."""

    lines: Console
    end: str = ""
    ended: float = 0.0
    repeats: Counter[str] = attrs.field(factory=Counter)


class RecentTransfers:
    """The transfers that are under way on this node, and those that ended within a minute.

    They are what `bus` publishes. `now` returns the seconds since the epoch, the clock of tokens.
    Of each transfer at most `lines_max` lines are kept.
    """

    def __init__(
        self, bus: EventBus, reactor: Any, now: Callable[[], float], lines_max: int
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._lines_max = lines_max
        self._under_way: dict[str, _Transfer] = {}
        # The one that ended first is the first.
        self._ended: dict[str, _Transfer] = {}
        bus.subscribe_to_all(self._take)

    def lines(self, server: str) -> list[str]:
        """Return the last lines of the server's transfer, the oldest first."""
        transfer = self._under_way.get(server) or self._ended.get(server)
        return [] if transfer is None else transfer.lines.lines(self._lines_max)

    def is_under_way(self, server: str) -> bool:
        """Return whether the server is being sent or received."""
        return server in self._under_way

    def has_moved(self, server: str) -> bool:
        """Return whether the last transfer of the server ended within a minute, as a success."""
        transfer = self._ended.get(server)
        return transfer is not None and transfer.end == COMPLETED

    def repeat(self, server: str, user: str, issued: float, *, is_here: bool) -> str:
        """Return the state that a user's browser may have missed; empty when there is none.

        It is `failed` where the server `is_here`, and `completed` where it is not any more. The
        browser's token was `issued` then, in seconds since the epoch. Each call counts.
        """
        transfer = self._ended.get(server)
        if transfer is None or transfer.end != (FAILED if is_here else COMPLETED):
            return ""
        # Else a page would be made to connect again and again.
        if issued > transfer.ended + ISSUED_WITHIN or transfer.repeats[user] >= REPEATS_MAX:
            return ""
        transfer.repeats[user] += 1
        return transfer.end

    def _take(self, event: Event) -> None:
        if event.name == TRANSFER_STATUS:
            self._enter(event.server, *event.args)
        elif event.name == TRANSFER_LOGS:
            # Without a transfer there is nothing whose end would let go of the line.
            transfer = self._under_way.get(event.server) or self._ended.get(event.server)
            if transfer is not None:
                transfer.lines.add(*event.args)

    def _enter(self, server: str, state: str) -> None:
        if state in (COMPLETED, FAILED):
            self._end(server, state)
        elif state == PENDING or not (server in self._under_way or server in self._ended):
            self._ended.pop(server, None)
            self._under_way[server] = self._new()

    def _end(self, server: str, state: str) -> None:
        transfer = self._under_way.pop(server, None) or self._new()
        transfer.end, transfer.ended = state, self._now()
        self._ended.pop(server, None)
        self._ended[server] = transfer
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._reactor.callLater(KEPT_SECONDS, self._expire, server, transfer)

    def _new(self) -> _Transfer:
        return _Transfer(Console(self._lines_max))

    def _expire(self, server: str, transfer: _Transfer) -> None:
        if self._ended.get(server) is transfer:
            del self._ended[server]

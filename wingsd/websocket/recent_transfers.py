"""The log lines and final states of recent transfers, for browsers that connect late.

A Panel's page closes its WebSocket on most states of a transfer and opens another one. It would
miss messages in between, and without the final state it would show the transfer for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.events import TRANSFER_LOGS, TRANSFER_STATUS, Event, EventBus
from wingsd.servers.console import Console

__all__ = ["COMPLETED", "FAILED", "PENDING", "RecentTransfers"]

#: States of a transfer in the Panel's page: its begin, and its two ends.
PENDING = "pending"
COMPLETED = "completed"
FAILED = "failed"

#: Seconds for which an ended transfer is kept, and how many of them are kept at most.
KEPT_SECONDS = 60.0
ENDED_MAX = 100
#: How often the final state is sent again to one user.
REPEATS_MAX = 3
#: Seconds after the end: a browser whose token was issued later gets no final state, as its page
#: has asked the Panel since. Some Panels date tokens in whole seconds.
ISSUED_WITHIN = 1.0


@attrs.define(eq=False)
class _Transfer:
    """The last lines of a transfer and, when it has ended, its final state and the time."""

    lines: Console
    end: str = ""
    ended: float = 0.0
    repeats: Counter[str] = attrs.field(factory=Counter)


class RecentTransfers:
    """The transfers of this node that are under way, or have ended within a minute.

    They are read from the events of `bus`. `now` returns seconds since the epoch, as in tokens. Of
    each transfer at most `lines_max` lines are kept.
    """

    def __init__(
        self, bus: EventBus, reactor: IReactorTime, now: Callable[[], float], lines_max: int
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._lines_max = lines_max
        self._under_way: dict[str, _Transfer] = {}
        # In the order of their ends.
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
        """Return the final state that a user's browser may have missed; empty when there is none.

        It is `failed` where the server `is_here`, else `completed`. `issued` is the time of the
        browser's token, in seconds since the epoch. Each call counts as a repetition.
        """
        transfer = self._ended.get(server)
        if transfer is None or transfer.end != (FAILED if is_here else COMPLETED):
            return ""
        # Else a page would connect again and again.
        if issued > transfer.ended + ISSUED_WITHIN or transfer.repeats[user] >= REPEATS_MAX:
            return ""
        transfer.repeats[user] += 1
        return transfer.end

    def _take(self, event: Event) -> None:
        if event.name == TRANSFER_STATUS:
            self._enter(event.server, *event.args)
        elif event.name == TRANSFER_LOGS:
            # Without a transfer, no end would ever discard the line.
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

"""The log lines and final states of recent transfers, for browsers that connect late.

A Panel's page closes its WebSocket on most states of a transfer and opens another one. It would
miss messages in between, and without the final state it would show the transfer for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.events import TRANSFER_LOGS, TRANSFER_REPORTED, TRANSFER_STATUS, Event, EventBus
from wingsd.servers.console import Console

#: States of a transfer in the Panel's page: its two ends, and those with which it may begin.
COMPLETED = "completed"
FAILED = "failed"
_BEGINNINGS = ("pending", "starting", "processing")

#: Seconds for which an ended transfer is kept, and how many of them are kept at most.
KEPT_SECONDS = 60.0
ENDED_MAX = 100
#: Seconds after the Panel knows of the end: a browser whose token was issued later gets no final
#: state, as its page has asked the Panel since. Some Panels date tokens in whole seconds.
ISSUED_WITHIN = 1.0


@attrs.define(eq=False)
class _Transfer:
    """The last lines of a server's transfer and, when it has ended, its final state and the time.

    `heard` has the users whose pages were sent its present state.
    """

    server: str
    lines: Console
    end: str = ""
    ended: float = 0.0
    heard: set[str] = attrs.field(factory=set)


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
        self._ended: deque[_Transfer] = deque(maxlen=ENDED_MAX)
        bus.subscribe_to_all(self._take)

    def lines(self, server: str) -> list[str]:
        """Return the last lines of the server's transfers, the oldest first.

        A page reads why the last one failed when the next one is under way, too.
        """
        kept = [transfer for transfer in self._ended if transfer.server == server]
        if server in self._under_way:
            kept.append(self._under_way[server])
        lines = [line for each in kept for line in each.lines.lines(self._lines_max)]
        return lines[-self._lines_max :]

    def is_under_way(self, server: str) -> bool:
        """Return whether the server is being sent or received."""
        return server in self._under_way

    def has_moved(self, server: str) -> bool:
        """Return whether the last transfer of the server ended within a minute, as a success."""
        transfer = self._last(server)
        return transfer is not None and transfer.end == COMPLETED

    def heard(self, server: str) -> set[str]:
        """Return the users whose pages were sent the present state of the server's transfer.

        They are in lower case. The session that sends the state adds its user.
        """
        transfer = self._last(server)
        return set() if transfer is None else transfer.heard

    def missed(self, server: str, issued: float, *, is_here: bool) -> str:
        """Return the final state that a browser may have missed; empty when there is none.

        It is `failed` where the server `is_here`, else `completed`. `issued` is the time of the
        browser's token, in seconds since the epoch.
        """
        transfer = self._last(server)
        if transfer is None or transfer.end != (FAILED if is_here else COMPLETED):
            return ""
        return transfer.end if issued <= transfer.ended + ISSUED_WITHIN else ""

    def _last(self, server: str) -> _Transfer | None:
        """Return the transfer under way, else the one that ended last."""
        ended = (transfer for transfer in reversed(self._ended) if transfer.server == server)
        return self._under_way.get(server) or next(ended, None)

    def _take(self, event: Event) -> None:
        if event.name == TRANSFER_STATUS:
            self._enter(event.server, *event.args)
        elif event.name == TRANSFER_LOGS:
            # Without a transfer, no end would ever discard the line.
            transfer = self._last(event.server)
            if transfer is not None:
                transfer.lines.add(*event.args)
        elif event.name == TRANSFER_REPORTED:
            transfer = self._last(event.server)
            if transfer is not None:
                transfer.ended = self._now()

    def _enter(self, server: str, state: str) -> None:
        if state in (COMPLETED, FAILED):
            transfer = self._under_way.pop(server, None) or self._new(server)
            transfer.end, transfer.ended, transfer.heard = state, self._now(), set()
            self._ended.append(transfer)
            self._reactor.callLater(KEPT_SECONDS, self._expire, transfer)
        elif state in _BEGINNINGS and server not in self._under_way:
            self._under_way[server] = self._new(server)

    def _new(self, server: str) -> _Transfer:
        return _Transfer(server, Console(self._lines_max))

    def _expire(self, transfer: _Transfer) -> None:
        if transfer in self._ended:
            self._ended.remove(transfer)

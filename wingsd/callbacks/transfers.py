"""The reports of transfers' outcomes, and what the Panel's answers to them mean.

A Panel commits the row of a transfer only after it has the source's 202. A report that comes
before that gets 409 or 404, the same answers as after the transfer's end. So right after the order
neither proves anything, and the report is sent again. Later, a success is settled by asking whose
server it is, and a failure was reported by the other node.

A Panel does not look at which node reports: a report of the destination that is sent again may
close the next transfer of the server, to another node. The source sends it again for a minute: the
next transfer is ordered there, which ends that. The destination does so for seconds.
"""

from __future__ import annotations

from http import HTTPStatus

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.errors import ServerNotFound
from wingsd.panel.client import Panel
from wingsd.panel.http_client import PanelError, PanelRefused
from wingsd.statedb import Outcome, Report
from wingsd.util.retry import Backoff

__all__ = ["COMMITS_WITHIN", "MINUTE", "FirstMinute", "TransferDelivery", "TransferNotCommitted"]

#: Seconds after its beginning in which a transfer that the Panel denies may still be committed.
MINUTE = 60.0
#: The same for reports of the destination, after the order.
COMMITS_WITHIN = 10.0
#: Seconds between two attempts in that time.
MINUTE_BACKOFF = Backoff(0.5, 15.0, jitter=True)
#: Answers by which the Panel says that no such transfer is open.
_NOT_OPEN = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


class TransferNotCommitted(PanelError):
    """The Panel denies a transfer that it may still be about to commit.

    It is to be asked again in `pause` seconds.
    """

    code = "transfer-not-committed"

    def __init__(self, pause: float) -> None:
        super().__init__("the Panel does not know this transfer yet")
        self.pause = pause


class FirstMinute:
    """The rest of the first minute, or `seconds`, of a transfer that began `age` seconds ago.

    A negative age comes from a clock that was set back: that time is over then.
    """

    def __init__(self, reactor: IReactorTime, age: float = 0.0, seconds: float = MINUTE) -> None:
        left = seconds - age if age >= 0 else 0.0
        self._reactor = reactor
        self._end = reactor.seconds() + left
        self._pauses = iter(MINUTE_BACKOFF)

    def next_pause(self) -> float:
        """Return the seconds until the next attempt, growing; 0 when the time is over.

        The last pause ends with it.
        """
        left: float = self._end - self._reactor.seconds()
        if left <= 0:
            return 0.0
        return min(next(self._pauses), left)


@attrs.frozen(eq=False, repr=False)
class TransferDelivery:
    """Sends the report of a transfer's outcome."""

    _panel: Panel
    _report: Report
    _first_minute: FirstMinute

    async def attempt(self) -> tuple[bool, str]:
        """Send it once; return whether it is accepted, and a text for the log.

        Raises `TransferNotCommitted`, and the errors of the Panel after which it is sent again.
        """
        server = self._report.server
        if self._report.outcome is Outcome.FAILURE:
            return await self._send_failure()
        try:
            await self._panel.transfer_succeeded(server, self._report.backups)
        except PanelRefused as error:
            if error.response_status not in _NOT_OPEN:
                raise
            if await self._panel.owns(server):
                return True, "the success had reached the Panel before"
            await self._require_over()
            return False, f"the Panel has closed the transfer: {error.detail}"
        return True, "the success was reported to the Panel"

    async def _send_failure(self) -> tuple[bool, str]:
        try:
            closed = await self._panel.transfer_failed(self._report.server)
        except PanelRefused as error:
            if error.response_status != HTTPStatus.NOT_FOUND:
                raise
            await self._require_over()
            return True, "the Panel does not know the server any more"
        if closed:
            return True, "the failure was reported to the Panel"
        await self._require_over()
        return True, "the failure was reported to the Panel by the other node"

    async def _require_over(self) -> None:
        """Raise `TransferNotCommitted` while the Panel may still commit the transfer."""
        pause = self._first_minute.next_pause()
        if not pause:
            return
        try:
            await self._panel.describe(self._report.server)
        except ServerNotFound:
            # It described the server when the transfer began. Where it does not any more, the
            # transfer was committed, and is over.
            return
        raise TransferNotCommitted(pause)

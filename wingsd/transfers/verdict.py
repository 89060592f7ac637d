"""At the source: what became of a server that was sent whole. The Panel alone decides.

Nothing is ever concluded from silence.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import PanelError
from wingsd.panel import Panel

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Verdict"]

#: Seconds between two questions to a Panel that does not answer.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class Verdict:
    """The Panel's word on one server's transfer."""

    _log = Logger()

    def __init__(self, server: str, panel: Panel, reactor: Any) -> None:
        self._server = server
        self._panel = panel
        self._reactor = reactor

    async def has_moved(self) -> bool:
        """Find out, at the source, what became of a server that was sent whole.

        Unless the Panel says that it has moved, it is told that it has not, and its answer
        counts: of a success and a failure it takes the first. Asks until it answers.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._ask()
            except PanelError as error:
                self._log.warn(
                    "{server}: whether it has moved is not known yet, asking again in "
                    "{pause:.0f} s: {error}",
                    server=self._server,
                    pause=pause,
                    error=error,
                )
            await deferLater(self._reactor, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _ask(self) -> bool:
        if not await self._panel.owns(self._server):
            return True
        if await self._panel.transfer_failed(self._server):
            return False
        # No transfer was open any more: the destination had told its end before.
        return not await self._panel.owns(self._server)

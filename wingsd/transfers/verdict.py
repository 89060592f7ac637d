"""What the Panel makes of a transfer: it alone decides whose a server is.

Both nodes report through here, and here doubts are settled by asking. Nothing is ever concluded
from silence.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import NotReported, PanelError, PanelRefused
from wingsd.panel import Panel

__all__ = ["NotWanted", "Verdict"]

#: Answers by which the Panel plainly says that no transfer brings the server here. Any other
#: refusal (too many requests, a credential it does not like) says nothing about the server.
_NOT_WANTED = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
#: Seconds between two questions to a Panel that does not answer.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class NotWanted(PanelRefused):
    """The Panel says that the server stays with its source (its 404 or 409 to a success)."""


class Verdict:
    """The conversation with the Panel about one server's transfer."""

    _log = Logger()

    def __init__(self, server: str, panel: Panel, reactor: Any) -> None:
        self._server = server
        self._panel = panel
        self._reactor = reactor

    async def succeeded(self) -> None:
        """Tell that the server is here, and make sure that this is what the Panel thinks.

        Raises `NotWanted`, or `NotReported` where nobody knows whether it was heard.
        """
        try:
            await self._panel.transfer_succeeded(self._server)
        except PanelError as error:
            await self._doubt(error)

    async def _doubt(self, error: PanelError) -> None:
        try:
            ours = await self._panel.owns(self._server)
        except PanelError:
            ours = None
        if ours:
            return  # It was heard before, and only the answer got lost.
        if ours is None or not isinstance(error, PanelRefused) or error.code not in _NOT_WANTED:
            raise NotReported(str(error)) from error
        raise NotWanted(error.message, error.detail, error.code) from error

    async def failed(self) -> None:
        """Tell that the server stays with its source. A Panel that cannot be told is logged."""
        try:
            await self._panel.transfer_failed(self._server)
        except PanelError as error:
            self._log.error(
                "{server}: the Panel was not told of the failure: {error}",
                server=self._server,
                error=error,
            )
        else:
            self._log.info("{server}: the Panel was told of the failure", server=self._server)

    async def has_moved(self) -> bool:
        """Find out, at the source, what became of a server that was sent whole.

        Unless the Panel says that it has moved, it is told that it has not, and its answer
        counts: of a success and a failure it takes the first. Asks until it answers.
        """
        pause = _FIRST_PAUSE
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
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _ask(self) -> bool:
        if not await self._panel.owns(self._server):
            return True
        if await self._panel.transfer_failed(self._server):
            return False
        # No transfer was open any more: the destination had told its end before.
        return not await self._panel.owns(self._server)

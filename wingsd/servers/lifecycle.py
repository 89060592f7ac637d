"""How servers are loaded from the Panel at the node's start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import EnvironmentFailed
from wingsd.panel.client import Panel
from wingsd.panel.http_client import PanelError
from wingsd.panel.schemas import Configuration
from wingsd.servers.server import Server
from wingsd.util.retry import Backoff

__all__ = ["Loader"]

T = TypeVar("T")

#: Servers that the engine is asked about at a time.
CONCURRENT_LOOKUPS = 4

#: Seconds between two attempts.
BACKOFF = Backoff(1.0, 60.0, jitter=True)


class Loader:
    """The steps of a node's start. Each is repeated until it has succeeded or is cancelled."""

    _log = Logger()

    def __init__(self, panel: Panel, reactor: IReactorTime) -> None:
        self._panel = panel
        self._reactor = reactor

    async def load(self) -> list[Configuration]:
        """Return this node's servers, as the Panel lists them."""
        return await self._retry("list the servers of this node", self._panel.servers)

    async def reset(
        self, when_idle: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        """Report the node's restart to the Panel, which ends unfinished server states.

        Each attempt is passed to `when_idle`, which makes it when it may be made.
        """
        await self._retry("note the restart of this node", lambda: when_idle(self._panel.reset))

    async def adopt(self, servers: Sequence[Server]) -> list[Server]:
        """Watch the programs of servers that run; return the servers the engine failed for."""
        slots = DeferredSemaphore(CONCURRENT_LOOKUPS)
        failed: list[Server] = []
        errors: list[EnvironmentFailed] = []

        async def adopt(server: Server) -> None:
            try:
                await server.adopt()
            except EnvironmentFailed as error:
                failed.append(server)
                errors.append(error)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("{server}: its state is unknown", server=server.uuid)

        lookups = [slots.run(adopt, server) for server in servers]
        results: list[tuple[bool, Any]] = await DeferredList(lookups, consumeErrors=True)
        for succeeded, failure in results:
            if not succeeded:
                failure.raiseException()
        if failed:
            self._log.error(
                "{count} servers are in an unknown state, asking again: {error}",
                count=len(failed),
                error=errors[0],
            )
        return failed

    async def adopt_later(
        self, servers: Sequence[Server], is_known: Callable[[Server], bool]
    ) -> None:
        """Repeat `adopt` for servers that are still known, until the engine has answered."""
        pauses = iter(BACKOFF)
        while servers:
            await deferLater(self._reactor, next(pauses))
            servers = await self.adopt([server for server in servers if is_known(server)])

    async def _retry(self, request: str, call: Callable[[], Awaitable[T]]) -> T:
        pauses = iter(BACKOFF)
        while True:
            try:
                return await call()
            except PanelError as error:
                self._log.error(
                    "the request to {request} failed and is repeated: {error}",
                    request=request,
                    error=error,
                )
            await deferLater(self._reactor, next(pauses))

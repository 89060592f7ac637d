"""How a node comes to know its servers: asked of the Panel until it tells, whatever it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, DeferredList, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import EnvironmentFailed
from wingsd.panel.errors import PanelError
from wingsd.panel.schemas import Configuration
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.server import Server
from wingsd.util.retry import Backoff

__all__ = ["Boot"]

T = TypeVar("T")

#: Servers looked for in the engine at a time.
AT_A_TIME = 4

#: Seconds between two attempts.
BACKOFF = Backoff(1.0, 60.0, jitter=True)


class Boot:
    """The steps of a node's start. Each goes on until it has succeeded or is cancelled."""

    _log = Logger()

    def __init__(self, means: ServerCollaborators) -> None:
        self._means = means

    async def load(self) -> list[Configuration]:
        """Return this node's servers, as the Panel lists them."""
        return await self._insist("the servers of this node", self._means.panel.servers)

    async def reset(self) -> None:
        """Tell the Panel that the node has started anew: what servers were doing is over."""
        await self._insist("to note the restart of this node", self._means.panel.reset)

    async def adopt(self, servers: Sequence[Server]) -> list[Server]:
        """Look for the servers' running programs, once; return where the engine did not tell."""
        slots = DeferredSemaphore(AT_A_TIME)
        failed: list[Server] = []
        why: list[EnvironmentFailed] = []

        async def look(server: Server) -> None:
            try:
                await server.adopt()
            except EnvironmentFailed as error:
                failed.append(server)
                why.append(error)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("{server}: whether it runs is not known", server=server.uuid)

        looking = [slots.run(look, server) for server in servers]
        outcomes: list[tuple[bool, Any]] = await DeferredList(looking, consumeErrors=True)
        for seen, failure in outcomes:
            if not seen:
                failure.raiseException()
        if failed:
            self._log.error(
                "whether {count} servers run is not known and is asked again: {error}",
                count=len(failed),
                error=why[0],
            )
        return failed

    async def adopt_later(
        self, servers: Sequence[Server], still_here: Callable[[Server], bool]
    ) -> None:
        """Go on looking for those, as long as the node has them, until the engine has told."""
        pauses = iter(BACKOFF)
        while servers:
            await deferLater(self._means.reactor, next(pauses))
            servers = await self.adopt([server for server in servers if still_here(server)])

    async def _insist(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        pauses = iter(BACKOFF)
        while True:
            try:
                return await ask()
            except PanelError as error:
                self._log.error(
                    "the Panel was asked {what}, and will be again: {error}",
                    what=what,
                    error=error,
                )
            await deferLater(self._means.reactor, next(pauses))

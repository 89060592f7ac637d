"""How servers come to this node: loaded from the Panel at the node's start, or created.

Each step of `Loader` is repeated until it has succeeded. `Creation` makes one new server; the
installation script of its egg is not run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.docker.runtime import Environment
from wingsd.errors import EnvironmentFailed, ServerNotFound, WingsdError
from wingsd.panel.client import Panel
from wingsd.panel.http_client import PanelError
from wingsd.panel.schemas import Configuration
from wingsd.servers.server import Server
from wingsd.util.retry import Backoff

__all__ = ["Creation", "Loader"]

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

    async def reset(self) -> None:
        """Report the node's restart to the Panel, which ends unfinished server states."""
        await self._retry("note the restart of this node", self._panel.reset)

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


NOT_INSTALLED = (
    "Nothing was installed: this node does not run an egg's installation script. Put the "
    "server's files into place before it is started."
)


class Creation:
    """The creation of one server."""

    _log = Logger()

    def __init__(self, panel: Panel, environment: Environment) -> None:
        self._panel = panel
        self._environment = environment
        #: Whether the server has all that it needs to be started.
        self.succeeded = False
        self._environment_requested = False

    async def make(self, server: Server) -> None:
        """Make the server's directory and environment, and report its installation to the Panel.

        A failure is shown in the server's console and logged; the next start tries again. For the
        Panel the directory alone counts, since nothing else is installed: a server whose
        installation is reported as failed could not be started from there any more.
        """
        installed = await self._try(server, "directory", server.files.make())
        if installed:
            self._environment_requested = True
            creating = self._environment.create(server.configuration.settings)
            self.succeeded = await self._try(server, "container", creating)
            server.say(NOT_INSTALLED, keep=True)
        await self._report(server.uuid, successful=installed)

    async def roll_back(self, uuid: str, why: BaseException) -> None:
        """Remove what was made, and report the failure, unless the Panel itself caused it."""
        cancelled = isinstance(why, CancelledError)
        reason = "it was deleted meanwhile" if cancelled else why
        self._log.error("{server}: not created: {reason}", server=uuid, reason=reason)
        if self._environment_requested:
            try:
                await self._environment.remove(uuid)
            except WingsdError as error:
                self._log.error(
                    "{server}: its container was not removed: {error}", server=uuid, error=error
                )
        if not (cancelled or isinstance(why, ServerNotFound)):
            await self._report(uuid, successful=False)

    async def _try(self, server: Server, what: str, making: Awaitable[object]) -> bool:
        try:
            await making
        except CancelledError:
            raise
        except Exception as error:
            if isinstance(error, WingsdError):
                why = error.detail or error.message
            else:
                self._log.failure(
                    "{server}: its {what} could not be made", server=server.uuid, what=what
                )
                why = "internal error; see the node's log"
            server.say(f"The server's {what} could not be created: {why}", keep=True)
            server.say("The next start of the server tries again.", keep=True)
            return False
        return True

    async def _report(self, uuid: str, *, successful: bool) -> None:
        try:
            await self._panel.installed(uuid, successful=successful)
        except PanelError as error:
            self._log.error(
                "{server}: the result of its installation was not reported, and the Panel shows "
                "it as installing until this node is started again: {error}",
                server=uuid,
                error=error,
            )

"""Making a new server: its directory, its environment, and the Panel's being told."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from wingsd.errors import ServerNotFound, WingsdError
from wingsd.panel.errors import PanelError
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.server import Server

__all__ = ["Creation"]

NOT_INSTALLED = (
    "Nothing was installed: this node does not run an egg's installation script. Put the "
    "server's files into place before it is started."
)


class Creation:
    """One server's making."""

    _log = Logger()

    def __init__(self, means: ServerCollaborators) -> None:
        self._means = means
        #: Whether the server has all that it needs to be started.
        self.succeeded = False
        self._asked_environment = False

    async def make(self, server: Server) -> None:
        """Make the server's directory and environment, and tell the Panel of its installation.

        What cannot be made is told in the server's console and logged; its next start makes it.
        To the Panel the directory alone counts, for nothing else is installed: a server that is
        told to have failed could not be started from there any more.
        """
        installed = await self._works(server, "directory", server.make_directory())
        if installed:
            self._asked_environment = True
            creating = self._means.environment.create(server.configuration.settings)
            self.succeeded = await self._works(server, "container", creating)
            server.say(NOT_INSTALLED, keep=True)
        await self._tell(server.uuid, successful=installed)

    async def fail(self, uuid: str, why: BaseException) -> None:
        """Undo what was made, and tell the Panel, unless it asked for that itself."""
        cancelled = isinstance(why, CancelledError)
        reason = "it was deleted meanwhile" if cancelled else why
        self._log.error("{server}: not created: {reason}", server=uuid, reason=reason)
        if self._asked_environment:
            try:
                await self._means.environment.remove(uuid)
            except WingsdError as error:
                self._log.error("{server}: not undone: {error}", server=uuid, error=error)
        if not (cancelled or isinstance(why, ServerNotFound)):
            await self._tell(uuid, successful=False)

    async def _works(self, server: Server, what: str, making: Awaitable[object]) -> bool:
        try:
            await making
        except CancelledError:
            raise
        except Exception as error:
            if isinstance(error, WingsdError):
                why = error.detail or error.message
            else:
                self._log.failure("{server}: creating its {what}", server=server.uuid, what=what)
                why = "an unforeseen error; the node's log has more"
            server.say(f"The server's {what} could not be made: {why}", keep=True)
            server.say("The next start of the server tries that again.", keep=True)
            return False
        return True

    async def _tell(self, uuid: str, *, successful: bool) -> None:
        try:
            await self._means.panel.installed(uuid, successful=successful)
        except PanelError as error:
            self._log.error(
                "{server}: the Panel was not told how its installation ended, and shows it as "
                "installing until this node is started again: {error}",
                server=uuid,
                error=error,
            )

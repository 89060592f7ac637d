"""Making a new server: its directory, its environment, and the Panel's being told."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from wingsd.errors import PanelError, UnknownServer, WingsdError
from wingsd.servers.directories import Directories
from wingsd.servers.means import Means
from wingsd.servers.server import Server

__all__ = ["Creation"]

NOT_INSTALLED = (
    "Nothing was installed: this node does not run an egg's installation script. Put the "
    "server's files into place before it is started."
)


class Creation:
    """One server's making; `fail` undoes what `make` did."""

    _log = Logger()

    def __init__(self, means: Means, directories: Directories) -> None:
        self._means = means
        self._directories = directories
        self._made_directory = False
        self._asked_environment = False

    async def make(self, server: Server) -> None:
        """Make the server. Raises `StorageError`, `EnvironmentFailed`."""
        means = self._means
        self._made_directory = await means.disk.run(self._directories.make, server.uuid)
        self._asked_environment = True
        await means.environment.create(server.configuration.settings)
        server.say(NOT_INSTALLED)
        try:
            # Successful, or the Panel would show the server to nobody.
            await means.panel.installed(server.uuid, successful=True)
        except PanelError as error:
            self._log.error(
                "{server}: created, but the Panel was not told and shows it as installing until "
                "this node starts anew: {error}",
                server=server.uuid,
                error=error,
            )

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
        if self._made_directory:
            await self._means.disk.run(self._directories.unmake, uuid)
        if cancelled or isinstance(why, UnknownServer):
            return
        try:
            await self._means.panel.installed(uuid, successful=False)
        except PanelError as error:
            self._log.error(
                "{server}: the Panel was not told that its installation failed: {error}",
                server=uuid,
                error=error,
            )

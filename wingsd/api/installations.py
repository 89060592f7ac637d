"""`/api/servers/{uuid}/install` and the like: installations of the servers of this node."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import ServerResource
from wingsd.errors import BadRequest, StorageError
from wingsd.http.operations import INVALID, PlainText, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.panel.schemas import InstallScript
from wingsd.servers.installation import InstallOptions
from wingsd.util.serialization import Keywords

__all__ = [
    "AbortEndpoint",
    "InstallEndpoint",
    "InstallLogEndpoint",
    "InstallOutputEndpoint",
    "ReinstallEndpoint",
]

#: Lines of a log that are returned unless more or fewer are asked for.
DEFAULT_LINES = 1000
_STARTED = "The installation has started."
_CONFLICT = (HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR)


class _InstallPath(ServerResource):
    topic = Topic.SERVERS

    async def log(self, *, output: bool) -> str:
        """Return the log of the last installation. Raises `StorageError`."""
        text = await self._node.installations.log(self.uuid, output=output)
        if text is None:
            raise StorageError(
                "there is none: the server was not installed on this node",
                "failed to read the log for the installation process.",
            )
        return text


class InstallEndpoint(_InstallPath):
    """`/api/servers/{uuid}/install`."""

    @call("POST", Success(HTTPStatus.ACCEPTED, _STARTED), fails=_CONFLICT)
    async def install_server(self, request: StreamingRequest) -> None:
        """Run the installation script of a server's egg again.

        The result is reported to the Panel as that of a first installation.
        """
        await self._node.installations.repeat(self.game_server, reinstall=False)


@attrs.frozen(eq=False, repr=False)
class Reinstallation:
    """How a server is installed again; everything may be left out."""

    truncate_directory: Annotated[bool, "Delete the server's files first."] = False
    installation_script: Annotated[
        InstallScript | None, "Run this script in place of the egg's."
    ] = None


class ReinstallEndpoint(_InstallPath):
    """`/api/servers/{uuid}/reinstall`."""

    @call("POST", Success(HTTPStatus.ACCEPTED, _STARTED), fails=_CONFLICT)
    async def reinstall_server(
        self, request: StreamingRequest, body: Reinstallation | None = None
    ) -> None:
        """Stop a server, fetch its settings, and run the installation script of its egg again.

        Its files stay, unless `truncate_directory` is true.
        """
        asked = body or Reinstallation()
        options = InstallOptions(
            truncate=asked.truncate_directory, script=asked.installation_script
        )
        await self._node.installations.repeat(self.game_server, options, reinstall=True)


class AbortEndpoint(_InstallPath):
    """`/api/servers/{uuid}/install/abort`."""

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The installation is being stopped."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def abort_installation(self, request: StreamingRequest) -> None:
        """Stop an installation, which is then reported to the Panel as failed."""
        self._node.installations.abort(self.uuid)


@attrs.frozen(eq=False, repr=False)
class InstallOutput:
    """What the script of the last installation has written."""

    data: str


class InstallOutputEndpoint(_InstallPath):
    """`/api/servers/{uuid}/install-logs`."""

    @call(
        "GET",
        Success(HTTPStatus.OK, "The output."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def get_install_output(self, request: StreamingRequest) -> InstallOutput:
        """Return what the script of the server's last installation has written."""
        return InstallOutput(await self.log(output=True))


@attrs.frozen(eq=False, repr=False)
class InstallLogQuery:
    """How many lines to return."""

    lines: Annotated[
        str,
        "Number of lines, the last ones.",
        Keywords(type="integer", minimum=1, default=DEFAULT_LINES),
    ] = ""


class InstallLogEndpoint(_InstallPath):
    """`/api/servers/{uuid}/logs/install`."""

    @call(
        "GET",
        Success(HTTPStatus.OK, "The lines."),
        fails=(HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def get_install_log(
        self, request: StreamingRequest, query: InstallLogQuery
    ) -> PlainText:
        """Return the last lines of the log of the server's last installation."""
        try:
            count = int(query.lines or DEFAULT_LINES)
        except ValueError:
            count = 0
        if count <= 0:
            raise BadRequest(INVALID, "lines: expected a number of lines from 1")
        lines = (await self.log(output=False)).splitlines(keepends=True)
        return PlainText("".join(lines[-count:]))

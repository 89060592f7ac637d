"""The consoles of servers: their WebSockets, and the tokens and users that lose access."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Annotated, Protocol

import attrs
from twisted.logger import Logger
from twisted.web.resource import IResource

from wingsd.api.resource import Endpoint, ServerResource
from wingsd.api.revocations import Revocations, UserSessions
from wingsd.config import Config
from wingsd.errors import BadRequest, ServerNotFound, Unprocessable
from wingsd.http.operations import INVALID, Call, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.sftp.listener import SftpListener
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid, canonical_uuids

__all__ = [
    "ConsoleResources",
    "DeauthorizeEndpoint",
    "DenyEndpoint",
    "PermissionsEndpoint",
    "SocketEndpoint",
]

Uuid = Annotated[str, Keywords(format="uuid")]


class ConsoleResources(Protocol):
    """The WebSockets of servers, and the resources that open them."""

    def resource(self, server: Server) -> IResource:
        """Return the resource of a server."""

    def resource_of_moved(self, server: str) -> IResource | None:
        """Return the resource of a server that has just left this node; None for others."""

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's WebSockets of these servers, of all when there are none."""


class SocketEndpoint(ServerResource):
    """`/api/servers/{uuid}/ws`: for browsers, which send their token in the first message."""

    topic = Topic.CONSOLE

    def __init__(
        self,
        config: Config,
        servers: Servers,
        sockets: ConsoleResources,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, servers, parts)
        self._sockets = sockets

    @call(
        "GET",
        Success(HTTPStatus.SWITCHING_PROTOCOLS, "The WebSocket is open."),
        fails=(HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UPGRADE_REQUIRED),
    )
    async def open_console(self, request: StreamingRequest) -> None:
        """Open a WebSocket (RFC 6455) for the console and the events of a server.

        The first message must be `{"event": "auth", "args": [TOKEN]}`, with a token issued by the
        Panel. On a node of Pelican's, the WebSocket of a suspended server is closed at once,
        with the code 4409.

        For a minute after the server was transferred to another node the WebSocket can still be
        opened; it sends the end of the transfer and accepts nothing else.
        """
        request.render(self._sockets.resource(self.game_server))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run the call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        try:
            await super().handle(request, call)
        except ServerNotFound:
            moved = self._sockets.resource_of_moved(self.uuid)
            if moved is None:
                raise
            request.render(moved)


class _RevokingPath(Endpoint):
    topic = Topic.CONSOLE

    def __init__(
        self,
        config: Config,
        revocations: Revocations,
        sftp: SftpListener,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, parts)
        self._revocations = revocations
        self._sftp = sftp


@attrs.frozen(eq=False, repr=False)
class DeniedTokens:
    """Ids of tokens, the claim `jti`."""

    jtis: tuple[str, ...]


class DenyEndpoint(_RevokingPath):
    """`/api/servers/{uuid}/ws/deny`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "The tokens are refused from now on."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def deny_tokens(self, request: StreamingRequest, body: DeniedTokens) -> None:
        """Refuse tokens for the WebSocket that were issued until now.

        The id of a token is unique, whatever server the path has. It does not say whose it is:
        the Panel is asked five seconds later whether the users of the server's SFTP sessions may
        go on.
        """
        self._sftp.check_server(self.uuid)
        await self._revocations.revoke(body.jtis)


@attrs.frozen(eq=False, repr=False)
class UserPermissions:
    """The present permissions of a user for the server."""

    user: Uuid
    permissions: tuple[str, ...] = ()
    ignored_files: tuple[str, ...] = ()


@attrs.frozen(eq=False, repr=False)
class ChangedPermissions:
    """The users whose permissions have changed."""

    user_permissions: tuple[UserPermissions, ...]


class PermissionsEndpoint(_RevokingPath):
    """`/api/servers/{uuid}/ws/permissions`, for Calagopus' Panel."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "Tokens with other permissions are refused from now on."),
        fails=(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def change_permissions(
        self, request: StreamingRequest, body: ChangedPermissions
    ) -> None:
        """Refuse the tokens of users whose permissions for a server have changed.

        Their pages get a new token from the Panel, which has the present permissions. Their SFTP
        sessions are closed.
        """
        users = [_user(each.user, "user_permissions.user") for each in body.user_permissions]
        await self._revocations.revoke_users(users, (self.uuid,), self._sftp)


@attrs.frozen(eq=False, repr=False)
class UserAndServers:
    """A user, and servers; none stands for all servers."""

    user: Uuid
    servers: tuple[Uuid, ...] = ()


@attrs.frozen(eq=False, repr=False)
class DeauthorizedUser:
    """A user who has lost the access to servers, or whose permissions have changed."""

    user: Annotated[str, "The user's UUID.", Keywords(format="uuid")] = ""
    servers: Annotated[tuple[str, ...], "UUIDs of servers. Without any, all are meant."] = ()
    json: Annotated[
        UserAndServers | None, "The same, in place of the other two, as Pelican's Panel sends it."
    ] = None


class DeauthorizeEndpoint(_RevokingPath):
    """`/api/deauthorize-user`."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        revocations: Revocations,
        sftp: SftpListener,
        sockets: UserSessions,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, revocations, sftp, parts)
        self._sockets = sockets

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "The tokens are void, WebSockets and sessions closed."),
        fails=(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def deauthorize_user(self, request: StreamingRequest, body: DeauthorizedUser) -> None:
        """Close a user's WebSockets and SFTP sessions of some servers.

        Tokens issued until now are refused.
        """
        given = body.json or UserAndServers(body.user, body.servers)
        if not given.user:
            raise BadRequest(INVALID, "user: is missing and has no default")
        user, servers = _user(given.user, "user"), canonical_uuids(given.servers)
        if servers is None:
            raise Unprocessable(INVALID, "servers: expected the UUIDs of servers")
        sftp = self._sftp.close_user(user, servers)
        closed = await self._revocations.revoke_users((user,), servers, self._sockets)
        self._log.info(
            "user {user} deauthorized for {servers}: {closed} WebSockets and {sftp} SFTP sessions "
            "closed",
            user=user,
            servers=", ".join(servers) or "all servers",
            closed=closed,
            sftp=sftp,
        )


def _user(text: str, path: str) -> str:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise Unprocessable(INVALID, f"{path}: expected the UUID of a user")
    return uuid

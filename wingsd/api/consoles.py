"""The consoles of servers: their WebSockets, and the tokens and users that lose access."""

from __future__ import annotations

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.logger import Logger

from wingsd.api.context import NodeContext
from wingsd.api.resource import Endpoint, ServerResource
from wingsd.auth.tokens import user_key
from wingsd.errors import BadRequest, ServerNotFound, Unprocessable
from wingsd.http.operations import INVALID, Call, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid, canonical_uuids

__all__ = [
    "DeauthorizeEndpoint",
    "DenyEndpoint",
    "PermissionsEndpoint",
    "SocketEndpoint",
]

Uuid = Annotated[str, Keywords(format="uuid")]


class SocketEndpoint(ServerResource):
    """`/api/servers/{uuid}/ws`: for browsers, which send their token in the first message."""

    topic = Topic.CONSOLE

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
        request.render(self._node.sockets.resource(self.game_server))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run the call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        try:
            await super().handle(request, call)
        except ServerNotFound:
            moved = self._node.sockets.resource_of_moved(self.uuid)
            if moved is None:
                raise
            request.render(moved)


async def revoke(node: NodeContext, keys: tuple[str, ...]) -> None:
    """Refuse tokens that were issued until now, by their `jti` or by `user_key`.

    Raises `StorageError` where that cannot be recorded.
    """
    node.denied.deny(keys, node.now())
    # After the answer the Panel relies on it, also when this process is restarted.
    await node.database.deny(keys)


async def revoke_users(
    node: NodeContext,
    users: Collection[str],
    servers: Collection[str],
    close: Callable[[str, Collection[str]], int],
) -> int:
    """Refuse the tokens of users for these servers, of all when there are none.

    Close what they have open there, and return how many. Raises `StorageError`.
    """
    names = [(user, server) for user in users for server in (servers or ("",))]
    try:
        await revoke(node, tuple(user_key(*each) for each in names))
    finally:
        # Also where the disk fails: the tokens are refused as long as this daemon runs.
        closed = sum(close(user, servers) for user in users)
    return closed


@attrs.frozen(eq=False, repr=False)
class DeniedTokens:
    """Ids of tokens, the claim `jti`."""

    jtis: tuple[str, ...]


class DenyEndpoint(Endpoint):
    """`/api/servers/{uuid}/ws/deny`."""

    topic = Topic.CONSOLE

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
        self._node.sftp.check_server(self.uuid)
        await revoke(self._node, body.jtis)


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


class PermissionsEndpoint(Endpoint):
    """`/api/servers/{uuid}/ws/permissions`, for Calagopus' Panel."""

    topic = Topic.CONSOLE

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
        await revoke_users(self._node, users, (self.uuid,), self._node.sftp.close_user)


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


class DeauthorizeEndpoint(Endpoint):
    """`/api/deauthorize-user`."""

    topic = Topic.CONSOLE
    _log = Logger()

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
        sftp = self._node.sftp.close_user(user, servers)
        closed = await revoke_users(self._node, (user,), servers, self._node.sockets.close_user)
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

"""The paths that browsers call by signed URLs: whose token is accepted, and how often.

A Panel's page gets such an address for a click of its user. The node's own token is not needed.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from wingsd.api.resource import Endpoint
from wingsd.auth.signed_urls import SignedToken, signed_token
from wingsd.config import CALAGOPUS, Config
from wingsd.errors import Forbidden, ServerNotFound, SignedUrlVoid
from wingsd.http.operations import Access, Topic
from wingsd.http.proxies import TrustedProxies
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.util.addresses import parse_address

__all__ = ["SignedPath", "client_address"]


def client_address(config: Config, request: StreamingRequest) -> str:
    """Return the address of the user; empty where it is not known."""
    text = TrustedProxies(config.api.trusted_proxies).client_of(request)
    try:
        return str(parse_address(text))
    except ValueError:
        return ""


class SignedPath(Endpoint):
    """A path for browsers, whose `token` is in the query.

    No record of used tokens is lost with the daemon.
    """

    topic = Topic.FILES
    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    token: SignedToken

    def authorize(self, request: StreamingRequest, access: Access) -> None:
        """Check the token, which is for the path. Raises `Unauthorized`, `SignedUrlVoid`."""
        assert access.kind is not None  # noqa: S101 - that of each signed path
        config = self._config
        token = signed_token(request.argument("token"), config.token, access.kind, config.family)
        if self._node.denied.revoked(token):
            raise SignedUrlVoid("the access of its user was changed after it was issued")
        self.token = token

    def server_for(self, operation: Operation) -> Server:
        """Return the server of the token, with which `operation` can be done now.

        Raises `SignedUrlVoid`, `Forbidden` for one that is suspended, `ServersNotLoaded` and
        `ServerBusy`.
        """
        try:
            server = self._node.servers.get(self.token.server)
        except ServerNotFound as error:
            raise SignedUrlVoid("its server is not on this node") from error
        if server.suspended:
            raise Forbidden("server is suspended", "only the Panel's administrators can help")
        server.operations.check(operation)
        return server

    async def use(self, request: StreamingRequest, *, resumes: bool) -> None:
        """Count a use of the token, before the first byte is sent or read.

        With `resumes` the request continues one from the same address, which counted. Raises
        `SignedUrlVoid` where it was used as often as it may be, and `StorageError`.
        """
        config, token = self._config, self.token
        most = config.api.max_jwt_uses if config.family == CALAGOPUS else 1
        address = client_address(config, request)
        if not await self._node.database.use_url(
            token.digest, token.expires, most, address, resumes=resumes
        ):
            raise SignedUrlVoid("it was used before")

"""The paths that browsers call by signed URLs: whose token is accepted, and how often.

A Panel's page gets such an address for a click of its user. The node's own token is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.resource import Public
from wingsd.auth.signed_urls import SIGNED_URLS, SignedToken, signed_token
from wingsd.auth.tokens import DenyList
from wingsd.config import CALAGOPUS, Config
from wingsd.errors import Forbidden, PathNotFound, ServerNotFound, SignedUrlVoid
from wingsd.http.operations import Access, Topic
from wingsd.http.proxies import TrustedProxies
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.util.addresses import parse_address

__all__ = ["SignedPath", "SignedUrls"]


class UsedUrls(Protocol):
    """The record of used signed URLs, which outlives the daemon. Fails with `StorageError`."""

    def use_url(
        self, digest: str, expires: float, most: int, address: str, *, resumes: bool
    ) -> Deferred[bool]:
        """Count a use; see `Store.use_url`."""


@attrs.frozen(eq=False, repr=False)
class SignedUrls:
    """What the tokens of signed URLs are judged by: revoked and used ones, and the servers."""

    servers: Servers
    denied: DenyList
    used: UsedUrls

    def token(self, config: Config, text: str, path: str) -> SignedToken:
        """Return a token for one of `SIGNED_URLS`.

        Raises `Unauthorized`, `SignedUrlVoid`, and `PathNotFound` for a path that nodes of this
        family do not have.
        """
        kind, families = SIGNED_URLS[path]
        if config.family not in families:
            raise PathNotFound(
                path,
                f"nodes of {', '.join(families)} have it; when this node's Panel is of that "
                "family, say so by `family` in its configuration",
            )
        token = signed_token(text, config.token, kind, config.family)
        if self.denied.revoked(token):
            raise SignedUrlVoid("the access of its user was changed after it was issued")
        return token

    def server(self, token: SignedToken, operation: Operation) -> Server:
        """Return the server of a token, with which `operation` can be done now.

        Raises `SignedUrlVoid`, `Forbidden` for one that is suspended, `ServersNotLoaded` and
        `ServerBusy`.
        """
        try:
            server = self.servers.get(token.server)
        except ServerNotFound as error:
            raise SignedUrlVoid("its server is not on this node") from error
        if server.suspended:
            raise Forbidden("server is suspended", "only the Panel's administrators can help")
        server.operations.check(operation)
        return server

    async def use(
        self, config: Config, request: StreamingRequest, token: SignedToken, *, resumes: bool
    ) -> None:
        """Count a use of a token, before the first byte is sent or read.

        With `resumes` the request continues one from the same address, which counted. Raises
        `SignedUrlVoid` where it was used as often as it may be, and `StorageError`.
        """
        most = config.api.max_jwt_uses if config.family == CALAGOPUS else 1
        address = client_address(config, request)
        if not await self.used.use_url(
            token.digest, token.expires, most, address, resumes=resumes
        ):
            raise SignedUrlVoid("it was used before")


def client_address(config: Config, request: StreamingRequest) -> str:
    """Return the address of the user; empty where it is not known."""
    text = TrustedProxies(config.api.trusted_proxies).client_of(request)
    try:
        return str(parse_address(text))
    except ValueError:
        return ""


class SignedPath(Public):
    """One of the paths for browsers, `SIGNED_URLS`, whose token is in the query."""

    access = Access.SIGNED
    topic = Topic.FILES
    path: ClassVar[str]
    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )

    def __init__(self, config: Config, urls: SignedUrls, parts: Mapping[str, bytes] = {}) -> None:
        super().__init__(config, parts)
        self._urls = urls

    def token(self, request: StreamingRequest) -> SignedToken:
        """Return the token of a request; see `SignedUrls.token`."""
        return self._urls.token(self._config, request.argument("token"), self.path)

"""`/api/transfers/{uuid}`: a transfer to this node; for the Panel, and for moves by hand.

Whoever moves a server here by hand has a token of this node's for it. With that its source tells
what the server is, before it sends it, and asks what became of it, where no answer came.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import attrs

from wingsd.errors import NotAuthorized
from wingsd.tokens import TransferToken, is_jwt, token_was_used, transfer_token
from wingsd.web.answers import Answer
from wingsd.web.bodies import parse
from wingsd.web.endpoint import Endpoint, server_in_path
from wingsd.web.request import StreamingRequest
from wingsd.web.services import Services

__all__ = ["IncomingEndpoint"]


@attrs.frozen
class _Description:
    settings: dict[str, Any]
    process_configuration: dict[str, Any] = attrs.field(factory=dict)


class IncomingEndpoint(Endpoint):
    """The transfer of the server with the UUID `path`."""

    def __init__(self, services: Services, path: bytes) -> None:
        super().__init__(services.config)
        self._services = services
        self._path = path

    def authorize(self, request: StreamingRequest) -> None:
        """Let the Panel pass, and who has a token for this server; others raise."""
        if request.method == b"PUT" or is_jwt(request.header("Authorization")):
            self._token(request)
        else:
            super().authorize(request)

    async def handle_PUT(self, request: StreamingRequest) -> Answer:
        """Take the word of a server's source for what the server is, to be sent here by hand."""
        token = self._token(request)
        if await self._services.journal.was_used(token.digest, token.expires):
            raise token_was_used()
        description = parse(request.content.read(), _Description)
        self._services.by_hand.arrivals.describe(token, attrs.asdict(description))
        return Answer(HTTPStatus.NO_CONTENT)

    async def handle_DELETE(self, request: StreamingRequest) -> Answer:
        """Cancel the transfer; by hand, tell also whether the server has moved here before."""
        if is_jwt(request.header("Authorization")):
            token = self._token(request)
            moved = await self._services.by_hand.arrivals.conclude(token)
            return Answer(HTTPStatus.OK, {"moved": moved})
        self._services.receiver.cancel(server_in_path(self._path))
        return Answer(HTTPStatus.ACCEPTED)

    def _token(self, request: StreamingRequest) -> TransferToken:
        """Return the token for this server. Raises `NotAuthorized`."""
        token = transfer_token(
            request.header("Authorization"),
            self.config.token,
            self.config.api.public_url,
            # What became of a transfer is asked when it is over, which may be much later.
            expired_too=request.method == b"DELETE",
        )
        if not token.by_hand or token.server != server_in_path(self._path):
            raise NotAuthorized(
                "The token is not valid",
                "it is not for moving this server by hand; take the one that wingsctl receive "
                "printed",
            )
        return token

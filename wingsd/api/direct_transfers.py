"""`/api/transfers/{uuid}/by-hand`: what the source of a move by hand tells and asks this node.

Whoever moves a server here by hand has a token of this node's for it. With that its source tells
what the server is, before it sends it, and asks what became of it, where no answer came.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import attrs

from wingsd.api.resource import Public
from wingsd.auth.tokens import AGAIN_BY_HAND, TransferToken, token_was_used, transfer_token
from wingsd.errors import NotAuthorized
from wingsd.http.operations import Access, Call, Success, Topic, call
from wingsd.http.request import StreamingRequest

__all__ = ["ByHandEndpoint"]


@attrs.frozen
class Description:
    """What a server is: what a Panel answers for it."""

    settings: dict[str, Any]
    process_configuration: Annotated[
        dict[str, Any] | None, "How it is started and stopped, and its files that an egg rewrites."
    ] = None


@attrs.frozen
class Moved:
    """What became of a server."""

    moved: Annotated[bool, "Whether it is here, by this token. If it is not, it never will be."]


class ByHandEndpoint(Public):
    """The move of the server with that UUID, for who has the token for it."""

    access = Access.HAND
    topic = Topic.TRANSFERS
    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    _token: TransferToken

    def authorize(self, request: StreamingRequest) -> None:
        """Let who has the token for this server pass. Raises `NotAuthorized`, `UnknownServer`."""
        config = self.services.config
        self._token = transfer_token(
            request.header("Authorization"),
            config.token,
            config.api.public_url,
            # What became of a transfer is asked when it is over, which may be much later.
            expired_too=request.method == b"DELETE",
            again=AGAIN_BY_HAND,
        )
        if not self._token.by_hand or self._token.server != self.uuid:
            raise NotAuthorized(
                "The token is not valid",
                "it is not for moving this server by hand; take the one that wingsctl receive "
                "printed",
            )

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call. Raises `NotAuthorized`, `UnknownServer`."""
        self.authorize(request)
        await super().handle(request, call)

    @call("PUT", Success(HTTPStatus.NO_CONTENT, "It may be sent."))
    async def describe_server(self, request: StreamingRequest, order: Description) -> None:
        """Tell what the server is that is about to be sent here by hand."""
        token = self._token
        if await self.services.journal.was_used(token.digest, token.expires):
            raise token_was_used(AGAIN_BY_HAND)
        described = attrs.asdict(order, filter=lambda _, value: value is not None)
        self.services.by_hand.arrivals.describe(token, described)

    @call(
        "DELETE",
        Success(HTTPStatus.OK, "It is told."),
        fails=(HTTPStatus.SERVICE_UNAVAILABLE,),
    )
    async def conclude_move(self, request: StreamingRequest) -> Moved:
        """Call off a move by hand, and tell whether the server had moved here before.

        A token that has expired is good for this.
        """
        return Moved(await self.services.by_hand.arrivals.conclude(self._token))

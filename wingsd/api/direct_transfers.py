"""`/api/transfers/{uuid}/by-hand`: what the source of a direct transfer sends and asks."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import attrs

from wingsd.api.resource import Endpoint
from wingsd.auth.tokens import RENEW_DIRECT, TransferToken, token_was_used
from wingsd.errors import TokenInvalid
from wingsd.http.operations import Access, Success, Topic, call
from wingsd.http.request import StreamingRequest

__all__ = ["DirectTransferEndpoint"]


@attrs.frozen(repr=False)
class Description:
    """A server's configuration, in the form of a Panel's answer."""

    settings: dict[str, Any]
    process_configuration: Annotated[
        dict[str, Any] | None,
        "How it is started and stopped, and the configuration files that its egg rewrites.",
    ] = None


@attrs.frozen(eq=False, repr=False)
class Moved:
    """The result of a direct transfer."""

    moved: Annotated[
        bool,
        "True: the server was received with this token. False: it was not, and never will be.",
    ]


class DirectTransferEndpoint(Endpoint):
    """`/api/transfers/{uuid}/by-hand`: for the source of a direct transfer.

    The source has a token that this node has issued. It sends the server's configuration before
    the upload, and asks for the result when the upload was not answered.
    """

    topic = Topic.TRANSFERS
    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    _token: TransferToken

    def authorize(self, request: StreamingRequest, access: Access) -> None:
        """Check the token for this server. Raises `Unauthorized`, `ServerNotFound`."""
        self._token = self.transfer_token(
            request,
            # The result may be asked for long after the transfer.
            accept_expired=request.method == b"DELETE",
            again=RENEW_DIRECT,
        )
        if not self._token.direct or self._token.server != self.uuid:
            raise TokenInvalid(
                "The token is not valid",
                "it is not for a direct transfer of this server; use the one printed by wingsctl "
                "receive",
            )

    @call("PUT", Success(HTTPStatus.NO_CONTENT, "The server may be sent."))
    async def describe_server(self, request: StreamingRequest, body: Description) -> None:
        """Send the configuration of a server before its direct transfer to this node."""
        token = self._token
        if await self._node.database.was_used(token.digest, token.expires):
            raise token_was_used(RENEW_DIRECT)
        described = attrs.asdict(body, filter=lambda _, value: value is not None)
        self._node.direct_transfers.incoming.describe(token, described)

    @call(
        "DELETE",
        Success(HTTPStatus.OK, "The result."),
        fails=(HTTPStatus.SERVICE_UNAVAILABLE,),
    )
    async def conclude_move(self, request: StreamingRequest) -> Moved:
        """Cancel a direct transfer, unless the server was received before; return which.

        An expired token is accepted.
        """
        return Moved(await self._node.direct_transfers.incoming.conclude(self._token))

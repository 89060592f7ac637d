"""`/api/transfers` and `/api/servers/{uuid}/transfer`: servers that come here, and that go."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.errors import BadRequest, WingsdError
from wingsd.model import canonical_uuid
from wingsd.structure import Keywords
from wingsd.tokens import TransferToken, token_was_used, transfer_token
from wingsd.transfers.incoming import IncomingTransfer
from wingsd.transfers.order import TransferOrder
from wingsd.web.bodies import INVALID
from wingsd.web.calls import Access, Success, Topic, call
from wingsd.web.endpoint import Endpoint, Public, ServerPath
from wingsd.web.request import BodyReader, StreamingRequest
from wingsd.web.upload import Upload

__all__ = ["IncomingEndpoint", "OutgoingEndpoint", "TransfersEndpoint"]

Uuid = Annotated[str, Keywords(format="uuid")]


@attrs.frozen
class UploadParts:
    """A server's archive, and after it what tells that it has come whole."""

    archive: Annotated[
        bytes, "A tar, compressed by gzip, zstd, xz, bzip2 or lz4, or not at all. It comes first."
    ]
    checksum: Annotated[
        str, "The archive's SHA-256 in hexadecimal. Pelican's nodes call it `checksum_archive`."
    ]
    install_logs: Annotated[
        bytes | None, "What the server's installation has printed; also as `install-logs`."
    ] = None


class TransfersEndpoint(Public):
    """`/api/transfers`: opens a transfer for each POST with a good token.

    A token is good for one: it is used up when the first of a body is taken.
    """

    topic = Topic.TRANSFERS
    _log = Logger()

    @call(
        "POST",
        Success(HTTPStatus.OK, "The server is here and the Panel knows."),
        access=Access.TRANSFER,
        form=UploadParts,
        fails=(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.CONFLICT,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    def receive_server(self, request: StreamingRequest) -> BodyReader:
        """Take a server that another node sends.

        The answer comes when the server is here and the Panel knows. A client that sends the
        header `Multiplex-Stream` or `Multiplex-Stream-Count`, as Calagopus' nodes do, takes every
        answer for success; to it, a refusal is a connection that ends without one.
        """
        api = self.services.config.api
        # Only Calagopus' nodes number their streams, also when there is but one. They take every
        # answer for success, and may then delete the backups that were to move along.
        numbers = ("Multiplex-Stream-Count", "Multiplex-Stream")
        request.minds_status = not any(map(request.header, numbers))
        try:
            header = request.header("Authorization")
            config = self.services.config
            token = transfer_token(header, config.token, api.public_url, scoped=config.is_pelican)
        except WingsdError as error:
            self._tell_refused(request, error)
            raise
        upload = Upload(request, partial(self._use_up, token), self.services.download_bucket)
        outcome = Deferred.fromCoroutine(self._receive(request, token, upload))
        outcome.addCallbacks(
            lambda _: request.answer(HTTPStatus.OK),
            request.fail,
        )
        return upload

    #: By this name the request finds it: its body is taken as it arrives.
    open_body = receive_server

    @call(
        "OPTIONS",
        Success(
            HTTPStatus.NO_CONTENT,
            "It is in the headers.",
            {
                "Allow": "The methods of this path.",
                "Transfer-Features": "A comma list, such as `symlinks, hard-links`.",
            },
        ),
    )
    async def get_transfer_features(self, request: StreamingRequest) -> None:
        """Tell what the node keeps of a server beyond what every node does."""
        request.setHeader("Transfer-Features", "symlinks, hard-links")

    async def _receive(
        self, request: StreamingRequest, token: TransferToken, upload: Upload
    ) -> None:
        try:
            transfer = await self._open(token)
        except WingsdError as error:
            self._tell_refused(request, error)
            raise
        await transfer.run(upload)

    async def _open(self, token: TransferToken) -> IncomingTransfer:
        # Before there is a transfer: what a used token is sent with says nothing about the
        # server, and the Panel is not to hear of it.
        if await self.services.journal.was_used(token.digest, token.expires):
            raise token_was_used()
        by_hand = self.services.by_hand
        authority = by_hand.arrivals.authority(token) if token.by_hand else None
        return self.services.receiver.open(token.server, authority)

    async def _use_up(self, token: TransferToken) -> None:
        # Calagopus' nodes can send one transfer in several requests (`Multiplex-Stream`), all
        # with one token: those after the first belong to the transfer that has used it up.
        if not await self.services.journal.use_token(token.digest, token.expires):
            raise token_was_used()

    def _tell_refused(self, request: StreamingRequest, error: Exception) -> None:
        self._log.warn("an upload from {peer} is refused: {error}", peer=request.peer, error=error)


class IncomingEndpoint(Endpoint):
    """`/api/transfers/{uuid}`: a transfer to this node."""

    topic = Topic.TRANSFERS

    @call(
        "DELETE",
        Success(HTTPStatus.ACCEPTED, "It is being cancelled."),
        fails=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    )
    async def cancel_receiving(self, request: StreamingRequest) -> None:
        """Cancel a transfer to this node."""
        self.services.receiver.cancel(self.uuid)


@attrs.frozen
class MovedServer:
    """The server, once more."""

    uuid: Annotated[str | None, Keywords(format="uuid")] = None


@attrs.frozen
class Destination:
    """Where a server is sent."""

    url: Annotated[str, "Where the other node takes uploads.", Keywords(format="uri")]
    token: Annotated[str, "The whole value of the header Authorization there."]
    server: MovedServer = MovedServer()
    backups: Annotated[
        tuple[Uuid, ...],
        "Local backups that are sent along. One that is not on this node fails the transfer "
        "before the server is stopped.",
    ] = ()
    archive_format: Annotated[
        str | None,
        "Calagopus': tar, tar_gz, tar_xz, tar_bz2, tar_lz4 or tar_zstd. By default, and for any "
        "other, it is tar_gz.",
    ] = None
    compression_level: Annotated[
        str | None,
        "Calagopus': best_speed, good_speed, good_compression or best_compression, and none. By "
        "default, and for any other, it is the node's own.",
    ] = None


class OutgoingEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/transfer`: a transfer from this node."""

    topic = Topic.TRANSFERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The transfer is begun."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def send_server(self, request: StreamingRequest, order: Destination) -> None:
        """Send a server to another node."""
        named = order.server.uuid
        if named is not None and canonical_uuid(named) != self.game_server.uuid:
            raise BadRequest(INVALID, "server.uuid: expected the server that the path names")
        self.services.sender.start(
            self.game_server,
            TransferOrder(
                url=order.url,
                token=order.token,
                archive_format=order.archive_format or "",
                compression_level=order.compression_level or "",
                backups=_uuids(order.backups),
            ),
        )

    @call(
        "DELETE",
        Success(HTTPStatus.ACCEPTED, "It is being cancelled."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def cancel_sending(self, request: StreamingRequest) -> None:
        """Cancel a transfer from this node; the server stays."""
        self.services.sender.cancel(self.game_server.uuid)


def _uuids(backups: tuple[str, ...]) -> tuple[str, ...]:
    """Return each of them once. Only what is a UUID may become part of a path."""
    uuids = [canonical_uuid(each) for each in backups]
    if None in uuids:
        raise BadRequest(INVALID, "backups: expected the UUIDs of backups")
    return tuple(dict.fromkeys(each for each in uuids if each is not None))

"""`/api/transfers` and `/api/servers/{uuid}/transfer`: transfers to this node and from it."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.resource import Endpoint, Public, ServerPath
from wingsd.api.upload import UploadBody
from wingsd.auth.tokens import (
    RENEW_DIRECT,
    TokenInvalid,
    TransferToken,
    token_was_used,
    transfer_token,
)
from wingsd.errors import BadRequest, WingsdError, error_code
from wingsd.http.operations import INVALID, Access, Call, Success, Topic, call
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.multistream import StreamGroup
from wingsd.transfers.incoming.uploads import COUNT, NUMBER
from wingsd.transfers.outgoing.request import TransferOrder
from wingsd.transfers.storage.shared_volume import BACKUPS_MARK, MARK, POOL
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = ["ByHandEndpoint", "IncomingEndpoint", "OutgoingEndpoint", "TransfersEndpoint"]

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


@attrs.frozen
class StreamHeaders:
    """Which of several requests with one server it is."""

    multiplex_stream_count: Annotated[
        str,
        "How many others there are beside this one, the first.",
        Keywords(type="integer", minimum=0),
    ] = ""
    multiplex_stream: Annotated[
        str, "The number of one of those others, from 0 on.", Keywords(type="integer", minimum=0)
    ] = ""


class TransfersEndpoint(Public):
    """`/api/transfers`: opens a transfer for each POST with a good token.

    A token is good for one: it is used up when the first of a body is taken. Other requests with
    it belong to the transfer under way, or are refused.
    """

    topic = Topic.TRANSFERS
    _log = Logger()

    @call(
        "POST",
        Success(HTTPStatus.OK, "The server is here and the Panel knows."),
        access=Access.TRANSFER,
        form=UploadParts,
        headers=StreamHeaders,
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

        The answer comes when the server is here and the Panel knows.

        It may come in several requests at the same time, all with one token: each with an archive
        of some of the files, and its checksum. The first has the header `Multiplex-Stream-Count`
        with the number of the others, and all that comes beside the files; each of those has
        `Multiplex-Stream` with its own number, from 0 on. They have one outcome, which is the
        answer to each of them.

        A client that sends one of these headers, as Calagopus' nodes do, takes every answer for
        success; to it, a refusal is a connection that ends without one. Only wingsd, by its
        User-Agent, is answered.
        """
        # Calagopus' nodes number their streams also when there is but one. They take every answer
        # for success, and may then delete the backups that were to move along.
        is_numbered = any(map(request.header, (COUNT, NUMBER)))
        is_ours = request.header("User-Agent").startswith("wingsd/")
        request.minds_status = is_ours or not is_numbered
        try:
            token = self._token(request)
        except WingsdError as error:
            self._tell_refused(request, error)
            raise
        group = self.services.streams.of(token)
        upload = UploadBody(request, group.admit, self.services.download_bucket)
        outcome = Deferred.fromCoroutine(self._receive(request, group, upload))
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
                "Transfer-Features": "A comma list, such as `symlinks, hard-links, streams`.",
            },
        ),
    )
    async def get_transfer_features(self, request: StreamingRequest) -> None:
        """Tell what the node keeps of a server beyond what every node does.

        With `streams`, the requests that a server comes in have one outcome, and a hard link in
        one may have its file in another.

        To a sender with a transfer's token that names its storage pool, in `X-Storage-Pool`, and a
        mark that it has left there, in `X-Storage-Pool-Mark`, also whether it has that pool. To
        one that names a mark in its directory of backups, in `X-Backup-Directory-Mark`, also
        whether it has that directory.
        """
        features = ["symlinks", "hard-links", "streams"]
        with suppress(WingsdError):  # It is told why when it sends something.
            features += await self._features_for(self._token(request), request)
        request.setHeader("Transfer-Features", ", ".join(features))

    async def _features_for(self, token: TransferToken, request: StreamingRequest) -> list[str]:
        receiver = self.services.receiver
        if not token.direct:
            receiver.expect(token.server)
        marks = request.header(MARK), request.header(BACKUPS_MARK)
        if not any(marks):
            return []
        return await receiver.pool_features(token.server, request.header(POOL), *marks)

    def _token(self, request: StreamingRequest) -> TransferToken:
        config = self.services.config
        header, address = request.header("Authorization"), config.api.public_url
        return transfer_token(header, config.token, address, scoped=config.is_pelican)

    async def _receive(
        self, request: StreamingRequest, group: StreamGroup, upload: UploadBody
    ) -> None:
        number, count = request.header(NUMBER), request.header(COUNT)
        try:
            if number:
                rest = await group.join(number, count, upload)
            else:
                rest = await group.open(count, upload, lambda: self._authority(group.token))
        except WingsdError as error:
            self._tell_refused(request, error)
            raise
        await rest()

    def _authority(self, token: TransferToken) -> ReceivingCoordinator | None:
        return self.services.by_hand.arrivals.authority(token) if token.direct else None

    def _tell_refused(self, request: StreamingRequest, error: Exception) -> None:
        self._log.warn(
            "upload from {peer} refused: {code}: {error}",
            peer=request.peer,
            code=error_code(error),
            error=error,
        )


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
class TransferDestination:
    """Where a server is sent."""

    url: Annotated[str, "Where the other node takes uploads.", Keywords(format="uri")]
    token: Annotated[str, "The whole value of the header Authorization there."]
    server: MovedServer = MovedServer()
    backups: Annotated[
        tuple[Uuid, ...],
        "Local backups that are sent along. One that is not on this node fails the transfer "
        "before the server is stopped.",
    ] = ()
    delete_backups: Annotated[
        bool | None,
        "Calagopus': remove those backups here, when the server has moved and the Panel says so.",
    ] = None
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
    multiplex_streams: Annotated[
        int,
        "Calagopus': in how many requests beside the first, all at the same time. More than "
        "`system.transfers.streams.most` or 7 are not made.",
        Keywords(minimum=0),
    ] = 0


class OutgoingEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/transfer`: a transfer from this node."""

    topic = Topic.TRANSFERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The transfer is begun."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def send_server(self, request: StreamingRequest, order: TransferDestination) -> None:
        """Send a server to another node."""
        named = order.server.uuid
        if named is not None and canonical_uuid(named) != self.game_server.uuid:
            raise BadRequest(INVALID, "server.uuid: expected the server that the path names")
        if order.multiplex_streams < 0:
            raise BadRequest(INVALID, "multiplex_streams: expected a number, 0 for none")
        self.services.sender.start(
            self.game_server,
            TransferOrder(
                url=order.url,
                token=order.token,
                archive_format=order.archive_format or "",
                compression_level=order.compression_level or "",
                backups=_uuids(order.backups),
                delete_backups=bool(order.delete_backups),
                streams=order.multiplex_streams,
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
        """Let who has the token for this server pass. Raises `Unauthorized`, `ServerNotFound`."""
        config = self.services.config
        self._token = transfer_token(
            request.header("Authorization"),
            config.token,
            config.api.public_url,
            # What became of a transfer is asked when it is over, which may be much later.
            expired_too=request.method == b"DELETE",
            again=RENEW_DIRECT,
        )
        if not self._token.direct or self._token.server != self.uuid:
            raise TokenInvalid(
                "The token is not valid",
                "it is not for moving this server by hand; take the one that wingsctl receive "
                "printed",
            )

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call. Raises `Unauthorized`, `ServerNotFound`."""
        self.authorize(request)
        await super().handle(request, call)

    @call("PUT", Success(HTTPStatus.NO_CONTENT, "It may be sent."))
    async def describe_server(self, request: StreamingRequest, order: Description) -> None:
        """Tell what the server is that is about to be sent here by hand."""
        token = self._token
        if await self.services.journal.was_used(token.digest, token.expires):
            raise token_was_used(RENEW_DIRECT)
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

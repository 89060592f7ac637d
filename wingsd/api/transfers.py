"""`/api/transfers` and `/api/servers/{uuid}/transfer`: transfers to this node and from it.

Those of operators have `/api/transfers/{uuid}/by-hand` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.api.resource import Endpoint, ServerResource
from wingsd.auth.tokens import RENEW_DIRECT, TransferToken, token_was_used
from wingsd.errors import (
    BadRequest,
    TokenInvalid,
    TransferNotActive,
    UploadTruncated,
    WingsdError,
    error_code,
)
from wingsd.http.operations import INVALID, Access, Topic, call
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.threadio import Feed, Share, TokenBucket
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.uploads import COUNT, NUMBER, StreamGroup
from wingsd.transfers.outgoing.source import (
    FOLLOWS,
    KEEPS_ATTRIBUTES,
    MOVES,
    MOVES_ATTRIBUTES,
    TAKES_POINTS,
    TransferRequest,
)
from wingsd.transfers.storage.shared_volume import BACKUPS_MARK, MARK, POOL
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid, canonical_uuids, require_uuid

# In place of Twisted's words, which do not say at which end to look.
_GONE = "the sender gave up, or its connection broke; its own log says which"


@implementer(IPushProducer)
class UploadStream:
    """The body of one `POST /api/transfers`.

    The client is paused until `deliver`, and the little that arrives before is kept. With a
    `bucket`, the body is then read at the rate that it has there.
    """

    def __init__(self, request: StreamingRequest, bucket: TokenBucket | None = None) -> None:
        self.content_type = request.header("Content-Type")
        self.user_agent = request.header("User-Agent")
        self.pool, self.mark = request.header(POOL), request.header(MARK)
        length = request.header("Content-Length")
        self.size = int(length) if length.isdecimal() else 0
        self._request = request
        self._bucket = bucket
        self._share: Share | None = None
        self._consumer: Feed | None = None
        self._consumer_is_full = False
        self._early: list[bytes] = []
        #: Whether the whole body has arrived, and whether the consumer has taken it.
        self._ended = self._finished = False
        self._stopped: WingsdError | None = None
        self._on_gone: Callable[[], None] = lambda: None
        request.pause()

    # What the transfer calls

    def deliver(self, consumer: Feed) -> None:
        """Begin to write the body to `consumer`. Raises what `stop` was given before."""
        if self._stopped is not None:
            raise self._stopped
        self._consumer = consumer
        consumer.registerProducer(self, True)
        if self._bucket is not None:
            self._share = self._bucket.join(self._resume)
        early, self._early = self._early, []
        for chunk in early:
            self.data(chunk)
        if self._ended:
            self.end()
        self._request.proceed()
        self._resume()

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""
        if self._stopped is None and not self._finished:
            self._stopped = error
            self._leave_bucket()
            if self._consumer is not None:
                self._consumer.fail(error)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the sender disconnects while its body is not being read."""
        self._on_gone = callback

    # What the request calls

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._stopped is not None or self._finished:
            return
        if self._consumer is None:
            self._early.append(chunk)
            return
        if self._share is not None:
            self._share.take(len(chunk))
        try:
            self._consumer.write(chunk)
        except WingsdError as error:
            self.stop(error)
        # Also when it was paused before: the transport resumes itself after some writes.
        if self._share is not None and self._share.held:
            self._request.pause()

    def end(self) -> None:
        """Take the body's end."""
        self._ended = True
        self._leave_bucket()
        # Read on, though nothing more may come: only so is it seen when the client disconnects.
        self._request.resume()
        if self._consumer is not None and self._stopped is None:
            try:
                self._consumer.finish()
            except WingsdError as error:
                self.stop(error)
            else:
                self._finished = True

    def lost(self, reason: Failure) -> None:
        """Take the connection's end; before the body's it is the end of the upload."""
        if not self._ended:
            went = reason.check(ConnectionDone, ConnectionLost)
            detail = _GONE if went else reason.getErrorMessage()
            self.stop(UploadTruncated("the upload ended before it was complete", detail))
        if self._ended or self._consumer is None:
            self._on_gone()

    # What the consumer calls

    def pauseProducing(self) -> None:
        """Slow the client down."""
        self._consumer_is_full = True
        self._request.pause()

    def resumeProducing(self) -> None:
        """Let the client continue."""
        self._consumer_is_full = False
        self._resume()

    def stopProducing(self) -> None:
        """Part of the interface; no consumer needs it, the transfer calls `stop`."""

    def _resume(self) -> None:
        # Only when both the consumer and the bucket allow it.
        if not self._consumer_is_full and (self._share is None or not self._share.held):
            self._request.resume()

    def _leave_bucket(self) -> None:
        if self._share is not None:
            self._share.leave()


Uuid = Annotated[str, Keywords(format="uuid")]


@attrs.frozen(eq=False, repr=False)
class UploadParts:
    """The archive of a server, and its checksum."""

    archive: Annotated[
        bytes,
        "A tar, plain or compressed with gzip, zstd, xz, bzip2 or lz4. The first part.",
    ]
    checksum: Annotated[
        str, "SHA-256 of the archive in hexadecimal; also as `checksum_archive` (Pelican)."
    ]
    install_logs: Annotated[
        bytes | None, "The log of the server's installation; also as `install-logs`."
    ] = None


@attrs.frozen(eq=False, repr=False)
class TransferFeatures:
    """The optional features of transfers that this node supports."""

    features: Annotated[list[str], "Such as `symlinks`, `hard-links`, `streams` and `move-1`."]


@attrs.frozen(eq=False, repr=False)
class StreamHeaders:
    """The number of this request, when a server is sent in several."""

    multiplex_stream_count: Annotated[
        str,
        "In the first request: how many others there are.",
        Keywords(type="integer", minimum=0),
    ] = ""
    multiplex_stream: Annotated[
        str, "In each of the others: its number, from 0.", Keywords(type="integer", minimum=0)
    ] = ""


#: Statuses of the errors of requests by which a server begins to arrive.
ARRIVAL_FAILS = (400, 401, 404, 409, 500, 503)


class TransfersEndpoint(Endpoint):
    """`/api/transfers`: each POST with a valid token starts a transfer.

    A token is valid once: it is marked as used when the body is read. Further requests with it
    belong to the transfer in progress, or are refused.
    """

    topic = Topic.TRANSFERS
    _log = Logger()

    @call(
        200,
        "The server is received, and the Panel has confirmed it.",
        form=UploadParts,
        headers=StreamHeaders,
        fails=ARRIVAL_FAILS,
    )
    def receive_server(self) -> BodyReader:
        """Receive a server from another node.

        The answer is sent when the server is installed here and the Panel has confirmed it.

        A server may be sent in several requests at the same time, all with one token: each has an
        archive of some of the files, and its checksum. The first has the header
        `Multiplex-Stream-Count` with the number of the others, and everything beside the files;
        each of the others has `Multiplex-Stream` with its own number, from 0. They have one
        result, which is the answer to each of them.

        A client that sends one of these headers, as nodes of Calagopus do, takes every answer for
        success; for it, a failure is a connection closed without an answer. wingsd, recognized by
        its User-Agent, gets an answer.
        """
        # Nodes of Calagopus number their streams, also a single one. They take every answer for
        # success, and may then delete the backups that should have moved.
        is_numbered = any(map(self._request.header, (COUNT, NUMBER)))
        is_wingsd = self._request.header("User-Agent").startswith("wingsd/")
        self._request.reads_status = is_wingsd or not is_numbered
        try:
            token = self.transfer_token()
        except WingsdError as error:
            self._log_refused(error)
            raise
        group = self._node.streams.of(token)
        upload = UploadStream(self._request, self._node.bucket)
        result = Deferred.fromCoroutine(self._receive(group, upload))
        result.addCallbacks(lambda _: self._request.answer(HTTPStatus.OK), self._request.fail)
        return upload

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of a body."""
        reader: BodyReader = self.receive_server()
        return reader

    @call(
        200,
        "The features, in the headers as well.",
        answer_headers={
            "Allow": "The methods of this path.",
            "Transfer-Features": "A comma-separated list, as in the body.",
        },
    )
    async def get_transfer_features(self) -> TransferFeatures:
        """List optional features of transfers that this node supports.

        With `streams`, the requests in which a server is sent have one result, and a hard link in
        one may refer to a file in another. With `attributes` it restores extended attributes and
        ACLs of archives. With `move-1` it takes moves that resume, with `move-2` also those of
        extended attributes and ACLs. With `backup-points` it takes backups that are points of
        the history of a server that moves.

        A sender with a transfer token may name its storage pool in `X-Storage-Pool`, and a marker
        file that it has created there in `X-Storage-Pool-Mark`: the features then include whether
        this node has that pool. With a marker file in its backup directory, named in
        `X-Backup-Directory-Mark`, they include whether this node has that directory.
        """
        features = ["symlinks", "hard-links", "streams", KEEPS_ATTRIBUTES]
        if self._config.system.transfers.moves.enabled:
            features += [MOVES, MOVES_ATTRIBUTES, FOLLOWS]
            if self._config.system.transfers.backups_follow and not self.is_calagopus:
                features.append(TAKES_POINTS)
        with suppress(WingsdError):  # An invalid token is refused when the sender uploads.
            token = self.transfer_token()
            if not token.direct:
                self._node.receiver.expect(token.server)
            pool, *marks = map(self._request.header, (POOL, MARK, BACKUPS_MARK))
            if any(marks):
                features += await self._node.receiver.pool_features(token.server, pool, *marks)
        self._request.setHeader("Transfer-Features", ", ".join(features))
        return TransferFeatures(features)

    async def _receive(self, group: StreamGroup, upload: UploadStream) -> None:
        number, count = self._request.header(NUMBER), self._request.header(COUNT)
        try:
            if number:
                outcome = await group.join(number, count, upload)
            else:
                outcome = await group.open(count, upload, lambda: self._coordinator(group.token))
        except WingsdError as error:
            self._log_refused(error)
            raise
        await outcome

    def _coordinator(self, token: TransferToken) -> ReceivingCoordinator | None:
        return self._node.direct_transfers.coordinator(token) if token.direct else None

    def _log_refused(self, error: Exception) -> None:
        self._log.warn(
            "upload from {peer} refused: {error}",
            peer=self._request.peer,
            code=error_code(error),
            error=error,
        )


@attrs.frozen(eq=False, repr=False)
class CancelledTransfer:
    """The server whose transfer has been cancelled."""

    server_id: Uuid


class IncomingEndpoint(Endpoint):
    """The calls that cancel a transfer to this node."""

    topic = Topic.TRANSFERS

    @call(202, "The transfer is being cancelled.", fails=(404, 409))
    async def cancel_receiving(self) -> None:
        """Cancel a transfer to this node."""
        self._node.receiver.cancel(self.uuid)

    @call(204, "There is no such transfer, or no longer.")
    async def cancel_by_panel(self, body: CancelledTransfer) -> None:
        """Cancel a transfer to this node that may have ended, since its source was asked first."""
        refusal = BadRequest(INVALID, "server_id: expected the UUID of a server")
        server = require_uuid(body.server_id, refusal)
        with suppress(TransferNotActive):
            self._node.receiver.cancel(server)


@attrs.frozen(eq=False, repr=False)
class MovedServer:
    """The server, as in the path."""

    uuid: Annotated[str | None, Keywords(format="uuid")] = None


@attrs.frozen(eq=False, repr=False)
class TransferDestination:
    """The destination of a transfer, and how the server is sent."""

    url: Annotated[str, "The upload address of the other node.", Keywords(format="uri")]
    token: Annotated[str, "The value of the header `Authorization` for it."]
    server: MovedServer = MovedServer()
    backups: Annotated[
        tuple[Uuid, ...],
        "Local backups to send with the server. One that is not on this node fails the transfer "
        "before the server is stopped.",
    ] = ()
    delete_backups: Annotated[
        bool | None,
        "Calagopus: remove these backups here when the Panel confirms that the server has moved.",
    ] = None
    archive_format: Annotated[
        str | None,
        "Calagopus: tar, tar_gz, tar_xz, tar_bz2, tar_lz4 or tar_zstd. The default, also for "
        "unknown values, is tar_gz.",
    ] = None
    compression_level: Annotated[
        str | None,
        "Calagopus: none, best_speed, good_speed, good_compression or best_compression. The "
        "default, also for unknown values, is `system.backups.compression_level`.",
    ] = None
    multiplex_streams: Annotated[
        int,
        "Calagopus: the number of parallel requests beside the first; at most "
        "`system.transfers.streams.most`, and 7.",
        Keywords(minimum=0),
    ] = 0


class OutgoingEndpoint(ServerResource):
    """`/api/servers/{uuid}/transfer`: a transfer from this node."""

    topic = Topic.TRANSFERS

    @call(202, "The transfer has started.", fails=(409,))
    async def send_server(self, body: TransferDestination) -> None:
        """Send a server to another node."""
        named = body.server.uuid
        if named is not None and canonical_uuid(named) != self.game_server.uuid:
            raise BadRequest(INVALID, "server.uuid: expected the UUID in the path")
        if body.multiplex_streams < 0:
            raise BadRequest(INVALID, "multiplex_streams: expected 0 or more")
        # They become part of paths.
        backups = canonical_uuids(body.backups)
        if backups is None:
            raise BadRequest(INVALID, "backups: expected the UUIDs of backups")
        await self._node.sender.start(
            self.game_server,
            TransferRequest(
                url=body.url,
                token=body.token,
                archive_format=body.archive_format or "",
                compression_level=body.compression_level or "",
                backups=backups,
                delete_backups=bool(body.delete_backups),
                streams=body.multiplex_streams,
            ),
        )

    @call(202, "The transfer is being cancelled.", fails=(409,))
    async def cancel_sending(self) -> None:
        """Cancel a transfer from this node; the server stays here."""
        self._node.sender.cancel(self.game_server.uuid)


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
    fails: ClassVar[tuple[int, ...]] = (401, 404, 500)
    _token: TransferToken

    def authorize(self, access: Access) -> None:
        """Check the token for this server. Raises `Unauthorized`, `ServerNotFound`."""
        self._token = self.transfer_token(
            # The result may be asked for long after the transfer.
            accept_expired=self._request.method == b"DELETE",
            again=RENEW_DIRECT,
        )
        if not self._token.direct or self._token.server != self.uuid:
            raise TokenInvalid(
                "The token is not valid",
                "it is not for a direct transfer of this server; use the one printed by wingsctl "
                "receive",
            )

    @call(204, "The server may be sent.")
    async def describe_server(self, body: Description) -> None:
        """Send the configuration of a server before its direct transfer to this node."""
        token = self._token
        if await self._node.database.was_used(token.digest, token.expires):
            raise token_was_used(RENEW_DIRECT)
        described = attrs.asdict(body, filter=lambda _, value: value is not None)
        self._node.direct_transfers.describe(token, described)

    @call(200, "The result.", fails=(503,))
    async def conclude_move(self) -> Moved:
        """Cancel a direct transfer, unless the server was received before; return which.

        An expired token is accepted.
        """
        return Moved(await self._node.direct_transfers.conclude(self._token))

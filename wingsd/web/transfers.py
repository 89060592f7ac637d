"""`/api/transfers`: another node sends a server here, and the Panel calls it off."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.config import Config
from wingsd.errors import WingsdError
from wingsd.tokens import transfer_token
from wingsd.transfers.receiver import Receiver
from wingsd.web.answers import Answer
from wingsd.web.endpoint import Endpoint, Public, server_in_path
from wingsd.web.request import BodyReader, StreamingRequest
from wingsd.web.upload import Upload

__all__ = ["TransfersEndpoint"]


class TransfersEndpoint(Public):
    """Opens a transfer for each POST with a good token; OPTIONS tells what may be in its archive.

    Below it, by the UUID of their servers, are the transfers under way.
    """

    methods = "OPTIONS, POST"  # Not by a `handle_POST`: its body is taken as it arrives.
    features: ClassVar[dict[str, str]] = {"Transfer-Features": "symlinks, hard-links"}
    _log = Logger()

    def __init__(self, config: Config, receiver: Receiver) -> None:
        super().__init__(config)
        self._receiver = receiver

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Start the transfer that the request's token is for; its end is the answer."""
        upload = Upload(request)
        outcome = self._start(request, upload)
        outcome.addCallbacks(
            lambda _: request.answer(HTTPStatus.OK),
            request.fail,
        )
        return upload

    def _start(self, request: StreamingRequest, upload: Upload) -> Deferred[None]:
        try:
            header, config = request.header("Authorization"), self.config
            token = transfer_token(header, config.token, config.api.public_url)
            transfer = self._receiver.open(token.server)
        except WingsdError as error:
            self._log.warn(
                "an upload from {peer} is refused: {error}", peer=request.peer, error=error
            )
            return fail(Failure())
        return Deferred.fromCoroutine(transfer.run(upload))

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return the transfer of a server."""
        return _IncomingEndpoint(self.config, self._receiver, path)


class _IncomingEndpoint(Endpoint):
    """`/api/transfers/{uuid}`: a transfer to this node."""

    def __init__(self, config: Config, receiver: Receiver, path: bytes) -> None:
        super().__init__(config)
        self._receiver = receiver
        self._path = path

    async def handle_DELETE(self, request: StreamingRequest) -> Answer:
        """Cancel the transfer."""
        self._receiver.cancel(server_in_path(self._path))
        return Answer(HTTPStatus.ACCEPTED)

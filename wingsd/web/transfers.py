"""`POST /api/transfers`: another node sends a server here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.errors import WingsdError
from wingsd.tokens import transfer_token
from wingsd.transfers.receiver import Receiver
from wingsd.web.request import BodyReader, StreamingRequest
from wingsd.web.site import NotFound, error_body
from wingsd.web.upload import Upload

__all__ = ["TransfersResource"]


class TransfersResource(Resource):
    """Opens a transfer for each request with a good token. `key` is the node's `token`."""

    _log = Logger()

    def __init__(self, receiver: Receiver, key: str) -> None:
        super().__init__()
        self._receiver = receiver
        self._key = key

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
            token = transfer_token(request.header("Authorization"), self._key)
            transfer = self._receiver.open(token.server)
        except WingsdError as error:
            peer = request.getClientAddress().host
            self._log.warn("an upload from {peer} is refused: {error}", peer=peer, error=error)
            return fail(Failure())
        return Deferred.fromCoroutine(transfer.run(upload))

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """There is nothing below."""
        return NotFound()

    def render(self, request: Any) -> bytes:
        """Answer all other methods."""
        request.setHeader("Allow", "POST")
        return error_body(request, 405, "send transfers with POST")

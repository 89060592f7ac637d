"""`/api/transfers`: another node sends a server here, and the Panel calls it off."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import ClassVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.errors import WingsdError
from wingsd.tokens import TransferToken, token_was_used, transfer_token
from wingsd.transfers.incoming import IncomingTransfer
from wingsd.web.endpoint import Public
from wingsd.web.incoming import IncomingEndpoint
from wingsd.web.request import BodyReader, StreamingRequest
from wingsd.web.services import Services
from wingsd.web.upload import Upload

__all__ = ["TransfersEndpoint"]


class TransfersEndpoint(Public):
    """Opens a transfer for each POST with a good token; OPTIONS tells what may be in its archive.

    A token is good for one: it is used up when the first of a body is taken. Below it, by the
    UUID of their servers, are the transfers under way.
    """

    methods = "OPTIONS, POST"  # Not by a `handle_POST`: its body is taken as it arrives.
    features: ClassVar[dict[str, str]] = {"Transfer-Features": "symlinks, hard-links"}
    _log = Logger()

    def __init__(self, services: Services) -> None:
        super().__init__(services.config)
        self._services = services

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Start the transfer that the request's token is for; its end is the answer."""
        api = self.config.api
        # Only Calagopus' nodes number their streams, also when there is but one. They take every
        # answer for success, and may then delete the backups that were to move along.
        numbers = ("Multiplex-Stream-Count", "Multiplex-Stream")
        request.minds_status = not any(map(request.header, numbers))
        try:
            header = request.header("Authorization")
            token = transfer_token(header, self.config.token, api.public_url)
        except WingsdError as error:
            self._tell_refused(request, error)
            raise
        upload = Upload(request, partial(self._use_up, token), self._services.download_bucket)
        outcome = Deferred.fromCoroutine(self._receive(request, token, upload))
        outcome.addCallbacks(
            lambda _: request.answer(HTTPStatus.OK),
            request.fail,
        )
        return upload

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
        if await self._services.journal.was_used(token.digest, token.expires):
            raise token_was_used()
        by_hand = self._services.by_hand
        authority = by_hand.arrivals.authority(token) if token.by_hand else None
        return self._services.receiver.open(token.server, authority)

    async def _use_up(self, token: TransferToken) -> None:
        # Calagopus' nodes can send one transfer in several requests (`Multiplex-Stream`), all
        # with one token: those after the first belong to the transfer that has used it up.
        if not await self._services.journal.use_token(token.digest, token.expires):
            raise token_was_used()

    def _tell_refused(self, request: StreamingRequest, error: Exception) -> None:
        self._log.warn("an upload from {peer} is refused: {error}", peer=request.peer, error=error)

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return the transfer of a server."""
        return IncomingEndpoint(self._services, path)

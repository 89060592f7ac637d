"""`/api/transfers/{uuid}/move`: moves to this node are begun; see `docs/moves.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from wingsd.api.move_bodies import MoveBegin, MoveBegun
from wingsd.api.resource import Public
from wingsd.auth.tokens import TokenInvalid, TransferToken, transfer_token
from wingsd.config import Config
from wingsd.direct_transfers.incoming import IncomingDirectTransfers
from wingsd.http.errors import PathNotFound
from wingsd.http.operations import Access, Call, Repeated, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.moves.errors import MoveVersionUnknown
from wingsd.transfers.incoming.moves.attachments import AnnouncedBackup
from wingsd.transfers.incoming.moves.beginning import MoveBeginning
from wingsd.transfers.incoming.moves.errors import MoveRequestInvalid
from wingsd.transfers.incoming.moves.manager import IncomingMoves

__all__ = ["MovesEndpoint"]

#: The versions of these requests. With the second one there are extended attributes.
VERSIONS = (1, 2)
_MIB = 1 << 20
_KEY = re.compile(r"[0-9a-f]{64}")


class MovesEndpoint(Public):
    """`/api/transfers/{uuid}/move`."""

    access = Access.TRANSFER
    topic = Topic.TRANSFERS
    _token: TransferToken

    def __init__(
        self,
        config: Config,
        moves: IncomingMoves,
        direct: IncomingDirectTransfers,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, parts)
        self._moves = moves
        self._direct = direct

    def authorize(self, request: StreamingRequest) -> None:
        """Check the token for this server. Raises `Unauthorized`, `ServerNotFound`."""
        if not self._moves.settings.enabled:
            raise PathNotFound(request.path.decode("latin-1"))
        # The first answer may have been lost: an old token is good for the same move.
        self._token = self._parsed(request, accept_expired=True)
        if self._token.server != self.uuid:
            raise TokenInvalid("The token is not valid", "it is for another server")

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Raises `Unauthorized`, `ServerNotFound`."""
        self.authorize(request)
        await super().handle(request, call)

    def _parsed(self, request: StreamingRequest, *, accept_expired: bool) -> TransferToken:
        config = self._config
        return transfer_token(
            request.header("Authorization"),
            config.token,
            config.family,
            config.api.public_url,
            accept_expired=accept_expired,
        )

    @call(
        "POST",
        Success(HTTPStatus.CREATED, "The move has begun."),
        fails=(
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.CONFLICT,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    async def begin_move(
        self, request: StreamingRequest, body: MoveBegin
    ) -> MoveBegun | Repeated[MoveBegun]:
        """Begin to move a server to this node.

        It is admitted as with an upload, and then sent in any number of requests. The same request
        again, with the same token and key, has the same answer.
        """
        if body.version not in VERSIONS:
            raise MoveVersionUnknown(body.version, VERSIONS[-1])
        if not _KEY.fullmatch(body.key):
            raise MoveRequestInvalid("the key is not 64 hexadecimal digits")
        token, direct = self._token, self._direct
        known = await self._moves.begun(token, body.key)
        if known is not None:
            return Repeated(await self._answer(known, body))
        token = self._parsed(request, accept_expired=False)
        if body.only_known:
            known = await self._moves.withdraw(token, body.key)
            return Repeated(await self._answer(known, body))
        move = await self._moves.begin(
            token,
            body.key,
            MoveBeginning(
                family=body.family[:64],
                bytes=max(body.bytes, 0),
                disk_bytes=max(body.disk_bytes, 0),
                files=max(body.files, 0),
                backups=tuple(
                    AnnouncedBackup(each.uuid, each.path, each.bytes) for each in body.backups
                ),
                log=body.log,
                running=body.running,
                follow=body.follow and token.direct,
                version=body.version,
            ),
            lambda: direct.coordinator(token, body.follow) if token.direct else None,
        )
        return await self._answer(move, body)

    async def _answer(self, move: str, body: MoveBegin) -> MoveBegun:
        settings = self._moves.settings
        return MoveBegun(
            id=move,
            version=body.version,
            attributes=(await self._moves.attributes_kept(body.version)).names,
            batch=settings.batch * _MIB,
            streams=settings.streams,
            encodings=["zstd"] if "zstd" in body.encodings else [],
        )

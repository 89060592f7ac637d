"""`/api/transfers/{uuid}/move`: moves to this node that resume; see `docs/moves.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import ClassVar

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from wingsd.api.move_bodies import (
    Durable,
    KeepQuery,
    MoveCommit,
    MovePrepare,
    MoveResume,
    MoveSession,
    MoveStatus,
    Offset,
    PieceQuery,
    PreparationStatus,
    Root,
    RoundEnd,
    SessionQuery,
    TreePageQuery,
    WaitQuery,
)
from wingsd.api.resource import Public
from wingsd.api.upload import UploadStream
from wingsd.config import Config
from wingsd.http.operations import Access, Call, Success, Topic, TreePage, call
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.moves.batch import ZSTD_CONTENT_TYPE
from wingsd.statedb import Outcome
from wingsd.threadio import TokenBucket
from wingsd.transfers.incoming.moves.errors import (
    MoveCommitted,
    MoveGivenUp,
    MoveKeyInvalid,
    MoveOver,
    MoveRequestInvalid,
)
from wingsd.transfers.incoming.moves.manager import EndedMove, IncomingMoves
from wingsd.transfers.incoming.moves.reception import Commit, Phase, Reception
from wingsd.transfers.incoming.moves.transfer import MoveTransfer

__all__ = [
    "MoveAttachmentEndpoint",
    "MoveBatchEndpoint",
    "MoveCommitEndpoint",
    "MoveEndpoint",
    "MovePrepareEndpoint",
    "MoveResumeEndpoint",
    "MoveRoomEndpoint",
    "MoveRoundEndpoint",
    "MoveTreeEndpoint",
]

#: Seconds that `GET` waits for a change at most.
MAX_WAIT = 30.0
#: Requests of one move that wait for a change at a time; further ones are answered at once.
MOST_WAITING = 16
_KEY = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOVE_FAILS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class _MovePath(Public):
    """A path of one move, for its source."""

    access = Access.MOVE
    topic = Topic.TRANSFERS
    fails: ClassVar[tuple[HTTPStatus, ...]] = _MOVE_FAILS

    def __init__(
        self,
        config: Config,
        moves: IncomingMoves,
        reactor: IReactorTime,
        bucket: TokenBucket | None,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, parts)
        self._moves = moves
        self._reactor = reactor
        self._bucket = bucket
        self._key = ""
        self._transfer: MoveTransfer | None = None

    def authorize(self, request: StreamingRequest) -> None:
        """Check the key, if the move has not ended. Raises `Unauthorized`, `ServerNotFound`."""
        scheme, _, key = request.header("Authorization").strip().partition(" ")
        if scheme.lower() != "bearer" or not _KEY.fullmatch(key.strip()):
            raise MoveKeyInvalid
        self._key = key.strip()
        self._transfer = self._moves.authorized(self.uuid, self._part("move"), self._key)

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Raises `Unauthorized`, `ServerNotFound`."""
        # How far a move is, told once more by a proxy, would be taken for the present state.
        request.setHeader("Cache-Control", "no-store")
        self.authorize(request)
        await super().handle(request, call)

    async def _ended(self) -> EndedMove | None:
        """Return how the move has ended, None where it has not.

        Raises `MoveNotFound` and `MoveKeyInvalid`.
        """
        transfer = self._transfer
        if transfer is not None and not (transfer.has_failed or transfer.over.called):
            return None
        return await self._moves.ended(self.uuid, self._part("move"), self._key)

    async def _reception(self) -> Reception:
        """Return what takes the requests. Raises `MoveOver` at the end."""
        if await self._ended() is not None or self._transfer is None:
            raise MoveOver
        return self._transfer.reception

    def _part(self, name: str) -> str:
        return self._parts[name].decode("latin-1")

    def _number(self) -> int:
        return _number(self._part("number"), "the number in the path")


class MoveEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}`."""

    @call("GET", Success(HTTPStatus.OK, "How far it is."))
    async def get_move(self, request: StreamingRequest, query: WaitQuery) -> MoveStatus:
        """Return how far a move is, or how it has ended."""
        wait = min(float(_number(query.wait, "wait")), MAX_WAIT)
        status, transfer = await self._status(), self._transfer
        if transfer is None or transfer.waiting >= MOST_WAITING:
            return status
        end = self._reactor.seconds() + wait
        transfer.waiting += 1
        try:
            while status.tag == query.since and (left := end - self._reactor.seconds()) > 0:
                try:
                    await transfer.changes.next().addTimeout(left, self._reactor)
                except defer.TimeoutError:
                    break
                self._transfer = self._moves.find(self.uuid, self._part("move"))
                status = await self._status()
        finally:
            transfer.waiting -= 1
        return status

    @call("DELETE", Success(HTTPStatus.NO_CONTENT, "It ends."), fails=(HTTPStatus.CONFLICT,))
    async def delete_move(self, request: StreamingRequest, query: KeepQuery) -> None:
        """End a move that has failed at its source."""
        if await self._ended() is not None or self._transfer is None:
            return
        error = MoveGivenUp(keeps=query.keep == "1")
        # After a commit its source has asked the Panel before, which has ended the transfer.
        if not self._transfer.abort(error, verified=True):
            raise MoveCommitted

    async def _status(self) -> MoveStatus:
        ended = await self._ended()
        if ended is not None or self._transfer is None:
            return _ended_status(ended or EndedMove(Outcome.FAILURE))
        return _status(self._transfer)


class MoveResumeEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/resume`."""

    @call("POST", Success(HTTPStatus.OK, "The session."), fails=(HTTPStatus.CONFLICT,))
    async def resume_move(
        self, request: StreamingRequest, body: MoveResume | None = None
    ) -> MoveSession:
        """Begin a session of a move, and a round with what this node holds.

        What is under way of the move ends, and requests of earlier sessions are refused.
        """
        session, held = await (await self._reception()).resume()
        return MoveSession(
            session=session,
            round=held.round,
            next=held.next,
            shape=held.shape,
            file=held.file,
            pages=held.pages,
            bytes=held.bytes,
        )


class MoveTreeEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/tree`."""

    @call("GET", Success(HTTPStatus.OK, "The page."), fails=(HTTPStatus.CONFLICT,))
    async def get_held_tree(self, request: StreamingRequest, query: TreePageQuery) -> TreePage:
        """Return a page of what this node held when the session began."""
        reception = await self._reception()
        return TreePage(await reception.page(query.session, _number(query.page, "page")))


class _BodyPath(_MovePath):
    """A path that reads the bodies of one method as they arrive."""

    keeps_connection = True
    streamed_methods: frozenset[bytes]
    _stream: UploadStream

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of a body, which the call asks for in its turn."""
        self.authorize(request)
        self._stream = UploadStream(request, self._bucket)
        Deferred.fromCoroutine(self._respond(request))
        return self._stream


class MoveBatchEndpoint(_BodyPath):
    """`/api/transfers/{uuid}/move/{move}/batches/{number}`."""

    streamed_methods = frozenset({b"PUT"})

    @call(
        "PUT",
        Success(HTTPStatus.OK, "It is here."),
        raw=True,
        fails=(
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.INSUFFICIENT_STORAGE,
        ),
    )
    async def put_batch(self, request: StreamingRequest, query: SessionQuery) -> Durable:
        """Send a batch, `application/vnd.wingsd.batch`; it may come again.

        Compressed as one zstd frame it is `application/vnd.wingsd.batch+zstd`.
        """
        kind = request.header("Content-Type").partition(";")[0].strip().lower()
        reception = await self._reception()
        durable = await reception.receive_batch(
            query.session, self._number(), self._stream, zstd=kind == ZSTD_CONTENT_TYPE
        )
        return Durable(durable)


class MoveRoundEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/rounds/{number}`."""

    @call("POST", Success(HTTPStatus.OK, "The round is closed."), fails=(HTTPStatus.CONFLICT,))
    async def close_round(
        self, request: StreamingRequest, query: SessionQuery, body: RoundEnd
    ) -> Root:
        """Close a round: both nodes have the same root then."""
        reception = await self._reception()
        root = _root(body.root)
        await reception.close_round(query.session, self._number(), body.last, root)
        return Root(body.root)


class MoveAttachmentEndpoint(_BodyPath):
    """`/api/transfers/{uuid}/move/{move}/attachments/{name}`."""

    streamed_methods = frozenset({b"PATCH"})

    @call("GET", Success(HTTPStatus.OK, "How much of it."), fails=(HTTPStatus.CONFLICT,))
    async def get_attachment(self, request: StreamingRequest, query: SessionQuery) -> Offset:
        """Return how much of an attachment is here."""
        reception = await self._reception()
        return Offset(await reception.offset(query.session, self._part("name")))

    @call(
        "PATCH",
        Success(HTTPStatus.OK, "How much of it is here now."),
        raw=True,
        fails=(
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.INSUFFICIENT_STORAGE,
        ),
    )
    async def append_attachment(self, request: StreamingRequest, query: PieceQuery) -> Offset:
        """Send a piece of an attachment, the bytes behind those that are here."""
        sha = query.sha256.lower()
        if sha and not _KEY.fullmatch(sha):
            raise MoveRequestInvalid("sha256 is not 64 hexadecimal digits")
        reception = await self._reception()
        offset = _number(query.offset, "offset")
        name = self._part("name")
        return Offset(
            await reception.receive_piece(query.session, name, offset, sha, self._stream)
        )


class MovePrepareEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/prepare`."""

    @call("POST", Success(HTTPStatus.ACCEPTED, "It is tried."), fails=(HTTPStatus.CONFLICT,))
    async def prepare_move(
        self, request: StreamingRequest, body: MovePrepare | None = None
    ) -> None:
        """Try what the server needs here, while it runs at its source.

        The Panel is asked about it, its image is pulled, and a container made and removed. `GET`
        of the move tells the outcome.
        """
        if await self._ended() is not None or self._transfer is None:
            raise MoveOver
        if body is not None:
            self._transfer.note_size(body.disk_bytes, body.files)
        self._transfer.prepare()


class MoveRoomEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/room`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "There is room."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.INSUFFICIENT_STORAGE),
    )
    async def check_room(self, request: StreamingRequest, body: MovePrepare) -> None:
        """Check that what the server's files take by now fits on the disk, before more is sent."""
        if await self._ended() is not None or self._transfer is None:
            raise MoveOver
        self._transfer.note_size(body.disk_bytes, body.files)
        await self._transfer.require_room()


class MoveCommitEndpoint(_MovePath):
    """`/api/transfers/{uuid}/move/{move}/commit`."""

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "It is being put into place."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def commit_move(
        self, request: StreamingRequest, query: SessionQuery, body: MoveCommit
    ) -> None:
        """Have the server put into place; `GET` of the move tells the outcome."""
        commit = Commit(body.round, _root(body.root), body.running)
        ended = await self._ended()
        if ended is not None and ended.outcome is Outcome.SUCCESS:
            return
        await (await self._reception()).commit(query.session, commit)


def _root(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise MoveRequestInvalid("root is not 64 hexadecimal digits")
    return bytes.fromhex(text)


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MoveRequestInvalid(f"{name} is not a number")
    return int(text)


def _status(transfer: MoveTransfer) -> MoveStatus:
    phase, step, text, reception = transfer.status
    setback = reception.setback if reception is not None else None
    session = reception.session if reception is not None else ""
    progress = reception.copy.progress if reception is not None else None
    in_round = progress.round if progress is not None else 0
    code = setback.code if setback is not None else ""
    preparation, tried = None, transfer.preparation
    if tried.count:
        error = tried.error
        preparation = PreparationStatus(
            state=tried.state.value,
            error=error.message if error is not None else "",
            detail=error.detail if error is not None else "",
            code=error.code if error is not None else "",
            final=error is not None and error.is_final,
            container_seconds=tried.container_seconds,
        )
    return MoveStatus(
        phase=phase,
        step=step,
        text=text,
        tag=_tag(phase, step, session, str(in_round), code, f"{tried.count}{tried.state.value}"),
        session=session or None,
        round=in_round,
        received=progress.received if progress is not None else 0,
        durable=progress.durable if progress is not None else 0,
        steps=reception.copy.steps if reception is not None else 0,
        preparation=preparation,
        outcome=None,
        error=setback.message if setback is not None else "",
        detail=setback.detail if setback is not None else "",
        code=code,
    )


def _ended_status(ended: EndedMove) -> MoveStatus:
    outcome = ended.outcome.value
    step = "done" if ended.outcome is Outcome.SUCCESS else "failed"
    return MoveStatus(
        phase=Phase.OVER,
        step=step,
        text="done, the server is here" if step == "done" else "rolled back",
        tag=_tag(Phase.OVER, outcome),
        session=None,
        round=0,
        received=0,
        durable=0,
        steps=0,
        preparation=None,
        outcome=outcome,
        error=ended.error,
        detail=ended.detail,
        code=ended.code,
    )


def _tag(*state: str) -> str:
    return sha256("\0".join(state).encode()).hexdigest()[:16]

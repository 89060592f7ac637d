"""`/api/transfers/{uuid}/move`: moves to this node that resume; see `docs/protocol.md`."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, ClassVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred

from wingsd.api.resource import Endpoint
from wingsd.api.transfers import ARRIVAL_FAILS, UploadStream
from wingsd.auth.tokens import TransferToken
from wingsd.backups.store import backup_uuid
from wingsd.errors import (
    MoveBusy,
    MoveCommitted,
    MoveGivenUp,
    MoveKeyInvalid,
    MoveOver,
    MoveRequestInvalid,
    MoveVersionUnknown,
    PathNotFound,
    TokenInvalid,
    WingsdError,
)
from wingsd.history.names import PointName
from wingsd.http.operations import (
    Access,
    BytesAnswer,
    Call,
    Repeated,
    Topic,
    TreePage,
    call,
)
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.moves.batch import ZSTD_CONTENT_TYPE
from wingsd.statedb import Outcome, TransferRecord
from wingsd.transfers.incoming.moves.inbox import (
    Commit,
    Inbox,
    MoveBeginning,
    MovedBackup,
    MovedHistory,
    Phase,
    check_announced,
    check_history,
)
from wingsd.transfers.incoming.moves.partial_copy import MoveProgress
from wingsd.transfers.incoming.moves.transfer import MoveTransfer
from wingsd.transfers.manager import EndedMove
from wingsd.transfers.peer.moves import (
    Digest,
    Durable,
    FollowingStatus,
    HistoryStatus,
    Offset,
    PreparationStatus,
    Root,
    WantedBlocks,
)
from wingsd.util.deferreds import fires_within
from wingsd.util.serialization import Keywords

#: The versions of these requests. With the second one there are extended attributes.
VERSIONS = (1, 2)
#: Seconds that `GET` waits for a change at most.
MAX_WAIT = 30.0
#: Requests of one move that wait for a change at a time; further ones are answered at once.
MOST_WAITING = 16
_MIB = 1 << 20
_KEY = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOVE_FAILS = (400, 401, 404, 410, 500, 503)

Number = Annotated[int, Keywords(minimum=0)]


@attrs.frozen(eq=False, repr=False)
class MoveBegin:
    """The state of a move."""

    version: Annotated[int, "The version of these requests: 1 or 2."]
    key: Annotated[
        str,
        "32 random bytes in hexadecimal digits, by which all other requests are authorized.",
        Keywords(pattern="^[0-9a-f]{64}$"),
    ] = attrs.field(repr=False)
    family: Annotated[str, "The family of the source."] = ""
    bytes: Annotated[int, "The size of the server's files; 0 where it is not known."] = 0
    disk_bytes: Annotated[
        int, "What they take on the disk, without holes; 0 where it is not known."
    ] = 0
    files: Annotated[
        int, "The number of its files, directories and symlinks; 0 where it is not known."
    ] = 0
    backups: Annotated[tuple[MovedBackup, ...], "Local backups that come with it."] = ()
    log: Annotated[int | None, "Bytes of its installation log."] = None
    encodings: Annotated[tuple[str, ...], "How the source can compress batches: `zstd`."] = ()
    running: Annotated[bool, "Whether the server runs at the source."] = False
    follow: Annotated[
        bool, "Whether the copy follows the server until another transfer, or its own end."
    ] = False
    only_known: Annotated[
        bool, "Whether nothing is begun: without a move of this token it is used up (404)."
    ] = False


@attrs.frozen(eq=False, repr=False)
class MoveBegun:
    """A move that has begun."""

    id: Annotated[str, "Its id, in hexadecimal digits."]
    version: int
    attributes: Annotated[
        list[str], "With version 2, the extended attributes that are kept: `user` and `acl`."
    ]
    batch: Annotated[int, "Bytes that a body may have."]
    streams: Annotated[int, "Requests with batches that may be under way at once."]
    encodings: Annotated[list[str], "How batches may be compressed."]
    takes_backups: Annotated[
        bool, "Whether local backups may follow the server when it has moved."
    ] = False
    takes_history: Annotated[bool, "Whether its history may follow it."] = False
    takes_points: Annotated[
        bool, "Whether backups that are points of its history may, with that."
    ] = False


@attrs.frozen(eq=False, repr=False)
class MoveResume:
    """Nothing, so far."""


@attrs.frozen(eq=False, repr=False)
class MoveSession:
    """A session of a move, and what this node holds."""

    session: str
    round: Number
    next: Annotated[int, "The number of the next batch."]
    shape: Annotated[int, "The number of the last shape batch, or 0."]
    file: Annotated[int, "The highest number of a file, or 0."]
    pages: Annotated[int, "The pages of what is held."]
    bytes: Number


@attrs.frozen(eq=False, repr=False)
class RoundEnd:
    """The end of a round."""

    last: Annotated[int, "The number of its last batch.", Keywords(minimum=0)]
    root: Digest


@attrs.frozen(eq=False, repr=False)
class MoveCommit:
    """The content to be put into place."""

    round: Annotated[int, "The round that was closed last."]
    root: Digest
    running: Annotated[bool, "Whether the server ran at the source when the move began."] = False
    backups: Annotated[
        tuple[MovedBackup, ...], "Local backups that follow the server when it has moved."
    ] = ()
    history: Annotated[MovedHistory | None, "Its history, which follows it."] = None


@attrs.frozen(eq=False, repr=False)
class MovePrepare:
    """The present size of the server's files; 0 where it is not known."""

    disk_bytes: Annotated[int, "Bytes on the disk, without holes."] = 0
    files: Annotated[int, "Files, directories and symlinks."] = 0


@attrs.frozen(eq=False, repr=False)
class MoveStatus:
    """How far a move is."""

    phase: Annotated[str, Keywords(enum=("open", "commit", "over"))]
    step: str
    text: Annotated[str, "What is done in this step."]
    tag: Annotated[str, "Names this state, for `since`."]
    session: str | None
    round: int
    received: Annotated[int, "All batches up to this number are here."]
    durable: Annotated[int, "All batches up to this number are on stable storage."]
    steps: Annotated[int, "Grows while this node works on what was asked."]
    preparation: Annotated[PreparationStatus | None, "Of `prepare`; null before."]
    outcome: Annotated[str | None, Keywords(enum=("success", "failure", "cancelled", None))]
    error: Annotated[str, "Why it has failed, or why the last commit came to nothing."] = ""
    detail: str = ""
    code: str = ""


@attrs.frozen(eq=False, repr=False)
class SessionQuery:
    """In which session."""

    session: Annotated[str, "The session, from the answer to `resume`."] = ""


@attrs.frozen(eq=False, repr=False)
class TreePageQuery(SessionQuery):
    """Which page of which session."""

    page: Annotated[str, "The number of the page, from 1."] = "1"


@attrs.frozen(eq=False, repr=False)
class PieceQuery(SessionQuery):
    """Which piece of an attachment."""

    offset: Annotated[str, "How many bytes come before the piece."] = "0"
    sha256: Annotated[str, "With the last piece: the SHA-256 of the whole."] = ""


@attrs.frozen(eq=False, repr=False)
class FollowingQuery:
    """How it is asked about a backup that follows its server."""

    mark: Annotated[str, "Names a file that the source has made in its directory of backups."] = ""
    ordered: Annotated[str, "`1`: it is taken whatever the Panel says."] = ""


@attrs.frozen(eq=False, repr=False)
class FollowingPieceQuery:
    """Which piece of a backup that follows its server."""

    offset: Annotated[str, "How many bytes come before the piece."] = "0"
    sha256: Annotated[str, "With the last piece: the SHA-256 of the whole."] = ""


@attrs.frozen(eq=False, repr=False)
class DeltaQuery:
    """Which delta of a history that follows its server."""

    newer: Annotated[str, "The number of the point that it goes before."] = "0"
    bytes: Annotated[str, "How many bytes it has."] = "0"


@attrs.frozen(eq=False, repr=False)
class HistoryQuery(DeltaQuery):
    """How it is asked about a history that follows its server."""

    ordered: Annotated[str, "`1`: it is taken although it was to stay."] = ""


@attrs.frozen(eq=False, repr=False)
class HistoryPieceQuery(DeltaQuery):
    """Which piece of a delta."""

    offset: Annotated[str, "How many bytes come before the piece."] = "0"
    sha256: Annotated[str, "With the last piece: the SHA-256 of the whole."] = ""


@attrs.frozen(eq=False, repr=False)
class HistoryPageQuery:
    """Which page of the catalogue of a point."""

    point: Annotated[str, "The number of the point."] = "0"
    offset: Annotated[str, "How many bytes come before the page."] = "0"


@attrs.frozen(eq=False, repr=False)
class HistoryEndQuery:
    """How it ends."""

    whole: Annotated[str, "`1`: all of it is here."] = ""


@attrs.frozen(eq=False, repr=False)
class BlocksOfPoint:
    """Blocks at a point of a history, sorted as its entries are."""

    point: int
    wanted: tuple[WantedBlocks, ...]


@attrs.frozen(eq=False, repr=False)
class WaitQuery:
    """A wait for the next change."""

    wait: Annotated[str, "Seconds to wait for a change, 30 at most."] = "0"
    since: Annotated[str, "The `tag` of the state that is known."] = ""


@attrs.frozen(eq=False, repr=False)
class KeepQuery:
    """The choice to keep what has arrived."""

    keep: Annotated[str, "`1` keeps it for the next transfer of the server."] = ""


class MovesEndpoint(Endpoint):
    """`/api/transfers/{uuid}/move`."""

    topic = Topic.TRANSFERS
    _token: TransferToken

    def authorize(self, access: Access) -> None:
        """Check the token for this server. Raises `Unauthorized`, `ServerNotFound`."""
        if not self._node.moves.settings.enabled:
            raise PathNotFound(self._request.path.decode("latin-1"))
        # The first answer may have been lost: an old token is good for the same move.
        self._token = self.transfer_token(accept_expired=True)
        if self._token.server != self.uuid:
            raise TokenInvalid("The token is not valid", "it is for another server")

    @call(201, "The move has begun.", fails=ARRIVAL_FAILS)
    async def begin_move(self, body: MoveBegin) -> MoveBegun | Repeated[MoveBegun]:
        """Begin to move a server to this node.

        It is admitted as with an upload, and then sent in any number of requests. The same request
        again, with the same token and key, has the same answer.
        """
        if body.version not in VERSIONS:
            raise MoveVersionUnknown(body.version, VERSIONS[-1])
        if not _KEY.fullmatch(body.key):
            raise MoveRequestInvalid("the key is not 64 hexadecimal digits")
        token, direct = self._token, self._node.direct_transfers
        known = await self._node.moves.begun(token, body.key)
        if known is not None:
            return Repeated(await self._answer(known, body))
        token = self.transfer_token()
        if body.only_known:
            known = await self._node.moves.withdraw(token, body.key)
            return Repeated(await self._answer(known, body))
        move = await self._node.moves.begin(
            token,
            body.key,
            MoveBeginning(
                family=body.family[:64],
                bytes=max(body.bytes, 0),
                disk_bytes=max(body.disk_bytes, 0),
                files=max(body.files, 0),
                backups=body.backups,
                log=body.log,
                running=body.running,
                follow=body.follow and token.direct,
                version=body.version,
            ),
            lambda: direct.coordinator(token, body.follow) if token.direct else None,
        )
        return await self._answer(move, body)

    async def _answer(self, move: str, body: MoveBegin) -> MoveBegun:
        settings = self._node.moves.settings
        takes_backups = self._config.system.transfers.backups_follow and not self.is_calagopus
        return MoveBegun(
            id=move,
            version=body.version,
            attributes=(await self._node.moves.attributes_kept(body.version)).names,
            batch=settings.batch * _MIB,
            streams=settings.streams,
            encodings=["zstd"] if "zstd" in body.encodings else [],
            takes_backups=takes_backups,
            takes_history=self._node.arriving_histories.takes(self.uuid),
            takes_points=takes_backups,
        )


class MoveEndpoint(Endpoint):
    """The calls of one move, for its source."""

    topic = Topic.TRANSFERS
    fails: ClassVar[tuple[int, ...]] = _MOVE_FAILS
    _key: str
    _transfer: MoveTransfer | None

    def authorize(self, access: Access) -> None:
        """Check the key, if the move has not ended. Raises `Unauthorized`, `ServerNotFound`."""
        scheme, _, key = self._request.header("Authorization").strip().partition(" ")
        if scheme.lower() != "bearer" or not _KEY.fullmatch(key.strip()):
            raise MoveKeyInvalid
        self._key = key.strip()
        self._transfer = self._node.moves.authorized(self.uuid, self.part("move"), self._key)

    async def handle(self, call: Call) -> None:
        """Run a call. Raises `Unauthorized`, `ServerNotFound`."""
        # How far a move is, told once more by a proxy, would be taken for the present state.
        self._request.setHeader("Cache-Control", "no-store")
        await super().handle(call)

    async def _ended(self) -> EndedMove | None:
        """Return how the move has ended, None where it has not.

        Raises `MoveNotFound` and `MoveKeyInvalid`.
        """
        transfer = self._transfer
        if transfer is not None and not (transfer.has_failed or transfer.over.called):
            return None
        return await self._node.moves.ended(self.uuid, self.part("move"), self._key)

    async def _open(self) -> MoveTransfer:
        """Return the move. Raises `MoveOver` where it has ended."""
        if await self._ended() is not None or self._transfer is None:
            raise MoveOver
        return self._transfer

    async def _inbox(self) -> Inbox:
        """Return what takes the requests. Raises `MoveOver` at the end."""
        return (await self._open()).inbox

    async def _moved(self) -> TransferRecord:
        """Return the transfer that has brought the server. Raises `MoveBusy` before its end."""
        if self._transfer is not None:  # its source has heard of it before it is recorded here
            await fires_within(self._transfer.over, MAX_WAIT, self._node.reactor)
        ended = await self._ended()
        if ended is None:
            raise MoveBusy("the server has not moved yet; send it again")
        if ended.entry is None:
            raise MoveOver("the server has not moved")
        return ended.entry

    def _number(self) -> int:
        return _number(self.part("number"), "the number in the path")

    @call(200, "How far it is.")
    async def get_move(self, query: WaitQuery) -> MoveStatus:
        """Return how far a move is, or how it has ended."""
        wait = min(float(_number(query.wait, "wait")), MAX_WAIT)
        status, transfer = await self._status(), self._transfer
        if transfer is None or transfer.waiting >= MOST_WAITING:
            return status
        end = self._node.reactor.seconds() + wait
        transfer.waiting += 1
        try:
            while status.tag == query.since and (left := end - self._node.reactor.seconds()) > 0:
                try:
                    await transfer.changes.next().addTimeout(left, self._node.reactor)
                except defer.TimeoutError:
                    break
                self._transfer = self._node.moves.find(self.uuid, self.part("move"))
                status = await self._status()
        finally:
            transfer.waiting -= 1
        return status

    @call(204, "It ends.", fails=(409,))
    async def delete_move(self, query: KeepQuery) -> None:
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

    @call(200, "The session.", fails=(409,))
    async def resume_move(self, body: MoveResume | None = None) -> MoveSession:
        """Begin a session of a move, and a round with what this node holds.

        What is under way of the move ends, and requests of earlier sessions are refused.
        """
        session, held = await (await self._inbox()).resume()
        return MoveSession(session, **attrs.asdict(held))

    @call(200, "The page.", fails=(409,))
    async def get_held_tree(self, query: TreePageQuery) -> TreePage:
        """Return a page of what this node held when the session began."""
        inbox = await self._inbox()
        return TreePage(await inbox.page(query.session, _number(query.page, "page")))

    @call(200, "The round is closed.", fails=(409,))
    async def close_round(self, query: SessionQuery, body: RoundEnd) -> Root:
        """Close a round: both nodes have the same root then."""
        inbox = await self._inbox()
        root = _root(body.root)
        await inbox.close_round(query.session, self._number(), body.last, root)
        return Root(body.root)

    @call(202, "It is tried.", fails=(409,))
    async def prepare_move(self, body: MovePrepare | None = None) -> None:
        """Try what the server needs here, while it runs at its source.

        The Panel is asked about it, its image is pulled, and a container made and removed. `GET`
        of the move tells the outcome.
        """
        transfer = await self._open()
        if body is not None:
            transfer.note_size(body.disk_bytes, body.files)
        transfer.prepare()

    @call(204, "There is room.", fails=(409, 507))
    async def check_room(self, body: MovePrepare) -> None:
        """Check that what the server's files take by now fits on the disk, before more is sent."""
        transfer = await self._open()
        transfer.note_size(body.disk_bytes, body.files)
        await transfer.require_room()

    @call(202, "It is being put into place.", fails=(409,))
    async def commit_move(self, query: SessionQuery, body: MoveCommit) -> None:
        """Begin to put the server into place; `GET` of the move has the outcome."""
        check_announced(body.backups)
        root, history = _root(body.root), body.history
        if history is not None:
            check_history(history)
        commit = Commit(body.round, root, body.running, body.backups, history)
        ended = await self._ended()
        if ended is not None and ended.outcome is Outcome.SUCCESS:
            return
        (await self._open()).require_placing()
        await (await self._inbox()).commit(query.session, commit)


_BODY_FAILS = (409, 413, 507)


class MoveBodyEndpoint(MoveEndpoint):
    """The calls whose bodies are read as they arrive, and that of the same path."""

    keeps_connection = True
    _stream: UploadStream

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of a body, which the call asks for in its turn."""
        self.authorize(Access.MOVE)
        self._stream = UploadStream(request, self._node.bucket)
        Deferred.fromCoroutine(self._respond())
        return self._stream

    @call(200, "It is here.", form=bytes, fails=_BODY_FAILS)
    async def put_batch(self, query: SessionQuery) -> Durable:
        """Send a batch, `application/vnd.wingsd.batch`; it may come again.

        Compressed as one zstd frame it is `application/vnd.wingsd.batch+zstd`.
        """
        kind = self._request.header("Content-Type").partition(";")[0].strip().lower()
        inbox = await self._inbox()
        durable = await inbox.receive_batch(
            query.session, self._number(), self._stream, zstd=kind == ZSTD_CONTENT_TYPE
        )
        return Durable(durable)

    @call(200, "How much of it.", fails=(409,))
    async def get_attachment(self, query: SessionQuery) -> Offset:
        """Return how much of an attachment is here."""
        inbox = await self._inbox()
        return Offset(await inbox.offset(query.session, self.part("name")))

    @call(200, "How much of it is here now.", form=bytes, fails=_BODY_FAILS)
    async def append_attachment(self, query: PieceQuery) -> Offset:
        """Send a piece of an attachment, the bytes behind those that are here."""
        offset, sha = _number(query.offset, "offset"), _digest(query.sha256)
        inbox = await self._inbox()
        name = self.part("name")
        return Offset(await inbox.receive_piece(query.session, name, offset, sha, self._stream))


class FollowingBackupEndpoint(MoveBodyEndpoint):
    """The calls about a backup that follows a server which has moved here, for its source."""

    def _backup(self) -> str:
        return backup_uuid(self.part("backup"))

    @call(200, "What is to be done.")
    async def get_following_backup(self, query: FollowingQuery) -> FollowingStatus:
        """Return whether a backup that follows its server is to be sent, and from where on."""
        return await self._node.arriving_backups.status(
            await self._moved(), self._backup(), query.mark, is_ordered=query.ordered == "1"
        )

    @call(200, "How much of it is here now.", form=bytes, fails=_BODY_FAILS)
    async def append_following_backup(self, query: FollowingPieceQuery) -> Offset:
        """Send a piece of a backup, the bytes behind those that are here.

        After the last one it is on stable storage, in its place.
        """
        offset, sha = _number(query.offset, "offset"), _digest(query.sha256)
        backup, moved = self._backup(), await self._moved()
        arriving = self._node.arriving_backups
        return Offset(await arriving.receive_piece(moved, backup, offset, sha, self._stream))

    @call(204, "It is forgotten.")
    async def forget_following_backup(self) -> None:
        """Report that a backup stays at its source, or was removed there."""
        await self._node.arriving_backups.forget(await self._moved(), self._backup())


class PointNameEndpoint(MoveEndpoint):
    """The call about a backup that is a point of a history that follows, for its source."""

    @call(204, "The backup is here, on stable storage.", fails=(409, 507))
    async def name_point(self, body: PointName) -> None:
        """Give a point of the server's history here the name of a backup that it is."""
        if body.name != backup_uuid(self.part("backup")):
            raise MoveRequestInvalid("the name is not that of the backup")
        await self._node.arriving_backups.name_point(await self._moved(), body)


class HistoryBaseEndpoint(MoveEndpoint):
    """The calls about the point that the deltas of a history go before, for its source."""

    @call(200, "The page.", fails=(409,))
    async def get_history_base(self, query: HistoryPageQuery) -> BytesAnswer:
        """Return a page of the catalogue of a point of the server's history here."""
        point, offset = _number(query.point, "point"), _number(query.offset, "offset")
        found = self._node.arriving_histories.base_page(await self._moved(), point, offset)
        return BytesAnswer(await found)

    @call(200, "The digests.", fails=(409,))
    async def get_history_blocks(self, body: BlocksOfPoint) -> BytesAnswer:
        """Return the first 16 bytes of the SHA-256 of blocks, one digest after the other."""
        moved = await self._moved()
        found = self._node.arriving_histories.digests(moved, body.point, body.wanted)
        return BytesAnswer(await found)


class FollowingHistoryEndpoint(MoveBodyEndpoint):
    """The calls about the deltas of a history that follows its server, for its source."""

    @call(200, "What is to be done.")
    async def get_following_history(self, query: HistoryQuery) -> HistoryStatus:
        """Return what of a history that follows its server is to be sent next."""
        newer, size = _number(query.newer, "newer"), _number(query.bytes, "bytes")
        return await self._node.arriving_histories.status(
            await self._moved(), newer, size, is_ordered=query.ordered == "1"
        )

    @call(200, "How much of it is here now.", form=bytes, fails=_BODY_FAILS)
    async def append_following_history(self, query: HistoryPieceQuery) -> Offset:
        """Send a piece of a delta, the bytes behind those that are here.

        After the last one its point is one of the history here, on stable storage.
        """
        offset, sha = _number(query.offset, "offset"), _digest(query.sha256)
        newer, size = _number(query.newer, "newer"), _number(query.bytes, "bytes")
        moved, arriving = await self._moved(), self._node.arriving_histories
        return Offset(await arriving.receive_piece(moved, newer, size, offset, sha, self._stream))

    @call(204, "It is forgotten.")
    async def forget_following_history(self, query: HistoryEndQuery) -> None:
        """Report that the rest of a history stays at its source, or that all of it is here."""
        arriving = self._node.arriving_histories
        await arriving.forget(await self._moved(), is_whole=query.whole == "1")


def _digest(text: str) -> str:
    """Return a SHA-256 of a query in lower case, empty without one."""
    sha = text.lower()
    if sha and not _KEY.fullmatch(sha):
        raise MoveRequestInvalid("sha256 is not 64 hexadecimal digits")
    return sha


def _root(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise MoveRequestInvalid("root is not 64 hexadecimal digits")
    return bytes.fromhex(text)


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MoveRequestInvalid(f"{name} is not a number")
    return int(text)


def _status(transfer: MoveTransfer) -> MoveStatus:
    phase, step, text, inbox = transfer.status
    session = inbox.session if inbox is not None else ""
    progress = inbox.copy.progress if inbox is not None else MoveProgress(round=0)
    message, detail, code = _words(inbox.setback if inbox is not None else None)
    preparation, tried = None, transfer.preparation
    if tried.count:
        preparation = PreparationStatus(
            tried.state,
            *_words(tried.error),
            final=tried.error is not None and tried.error.is_final,
            container_seconds=tried.container_seconds,
        )
    tried_so = f"{tried.count}{tried.state}"
    return MoveStatus(
        phase=phase,
        step=step,
        text=text,
        tag=_tag(phase, step, session, str(progress.round), code, tried_so),
        session=session or None,
        round=progress.round,
        received=progress.received,
        durable=progress.durable,
        steps=inbox.copy.steps if inbox is not None else 0,
        preparation=preparation,
        outcome=None,
        error=message,
        detail=detail,
        code=code,
    )


def _words(error: WingsdError | None) -> tuple[str, str, str]:
    """Return the message, the detail and the code of an error, empty without one."""
    return ("", "", "") if error is None else (error.message, error.detail, error.code)


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

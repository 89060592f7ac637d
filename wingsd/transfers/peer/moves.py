"""A client of a destination of moves that resume: each request is repeated until it is answered.

docs/protocol.md has the requests, and the action after each answer. Several batches may be under
way at once. The bounds of what a move repeats are in the table below: how often, and with
which pauses. For how long a request is repeated is configured: `MovesConfig.patience`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationUnreachable,
    InvalidData,
)
from wingsd.history.names import PointName
from wingsd.http_client.exchange import (
    Answer,
    Block,
    BlocksBody,
    HttpExchange,
    PersistentConnections,
    plain,
)
from wingsd.moves.batch import CONTENT_TYPE, ZSTD_CONTENT_TYPE
from wingsd.moves.tree import MAX_PART, Resumption
from wingsd.statedb import MoveRecord
from wingsd.threadio import TokenBucket
from wingsd.transfers.peer.client import PeerAddress, answer_code, refusal_of
from wingsd.util.retry import Backoff, Budget, seconds_asked_for
from wingsd.util.serialization import Keywords, structure

T = TypeVar("T")

#: Statuses after which the same request is sent again. 520 to 524 are Cloudflare's.
_AGAIN = frozenset({408, 429, 500, 502, 503, 504, *range(520, 525)})
#: Those of proxies that did not get a body through, or no answer in time.
_CUT = frozenset({408, 502, 504, *range(520, 525)})
_RESUME = frozenset(
    {
        "move-resume-needed",
        "move-root-mismatch",
        "move-batch-conflict",
        "move-round-incomplete",
    }
)
#: The code for a batch that came before another one that it needs.
_EARLY = "move-shape-missing"
#: Statuses, and the codes of them, with which something that does not know moves answers.
_PATH_UNKNOWN = frozenset({404, 405, 501})
_UNKNOWN_CODES = frozenset({"", "path-not-found", "method-not-allowed"})


#: Backups that may come with a server, and that may follow it.
MOST_BACKUPS = 4096
#: The code for a version of moves that the destination does not know.
VERSION_UNKNOWN = "move-version-unknown"


class ResumeNeeded(Exception):
    """The source must resume: ask the destination what it holds; `error` is why."""

    def __init__(self, error: DestinationRefused) -> None:
        super().__init__(str(error))
        self.error = error


class MoveSmaller(Exception):
    """A body was too large for the destination, or for a proxy in front of it.

    One that `was_cut` did not get through, and a later one of that size may.
    """

    def __init__(self, error: DestinationError, *, was_cut: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.was_cut = was_cut


@attrs.frozen(repr=False)
class BegunAnswer:
    """The answer to the beginning: `batch` is the most bytes of a body, `streams` of requests.

    `attributes` are the kinds of extended attributes that the destination keeps. Earlier versions
    do not say that they take the backups that follow a server, its history, or backups that are
    points of that.
    """

    id: str
    version: int
    batch: int
    streams: int
    encodings: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    takes_backups: bool = False
    takes_history: bool = False
    takes_points: bool = False


Digest = Annotated[str, "A SHA-256 in hexadecimal digits.", Keywords(pattern="^[0-9a-f]{64}$")]


@attrs.frozen(repr=False)
class MoveResumed(Resumption):
    """The beginning of a session, and what the destination holds."""

    session: str


@attrs.frozen(eq=False, repr=False)
class Durable:
    """How far a move is on stable storage."""

    durable: Annotated[int, "All batches up to this number are on stable storage."]


@attrs.frozen(eq=False, repr=False)
class Root:
    """The root of what is held."""

    root: Digest


@attrs.frozen(eq=False, repr=False)
class Offset:
    """How much of an attachment is here."""

    offset: Annotated[int, "Bytes of it."]


class Following(Enum):
    """The answer of a destination about a backup that is to follow its server."""

    #: It is to be sent, from the offset on.
    SEND = "send"
    #: It is durable in its place, or with the node that the server has moved on to.
    HERE = "here"
    #: A file of its size was there before. It is here when an empty last piece fits its SHA-256.
    FOUND = "found"
    #: Its user has deleted it there.
    DELETED = "deleted"
    #: It has another file of this backup, or a damaged one: a person has to decide.
    CONFLICT = "conflict"
    #: Both nodes keep their backups in one directory.
    SHARED = "shared"
    #: The Panel has no record of it.
    MISSING = "missing"
    #: The Panel has said nothing, or something else is to be done first: ask again later.
    UNKNOWN = "unknown"


@attrs.frozen(eq=False, repr=False)
class FollowingStatus:
    """The state of a backup that follows its server, and how much of it is here."""

    state: Annotated[str, Keywords(enum=tuple(each.value for each in Following))]
    offset: Annotated[int, "Bytes of it."] = 0


@attrs.frozen(eq=False, repr=False)
class HistoryStatus:
    """The delta that is to be sent next of a history, and how much of it is here.

    It goes before the point `base`. Points up to `floor` are here already.
    """

    state: Annotated[str, Keywords(enum=("send", "unknown", "missing", "deleted", "conflict"))]
    base: Annotated[int, "The number of a point here."] = 0
    floor: Annotated[int, "The newest point from an earlier stay of the server, or 0."] = 0
    offset: Annotated[int, "Bytes of the delta that the request names."] = 0


@attrs.frozen(eq=False, repr=False)
class WantedBlocks:
    """Blocks of 4 KiB of a file: so many from the number `first` on."""

    path: Annotated[str, "The path, each byte a character of ISO 8859-1."]
    first: Annotated[int, Keywords(minimum=0)]
    blocks: Annotated[int, Keywords(minimum=1)]


@attrs.frozen(eq=False, repr=False)
class PreparationStatus:
    """How far the last preparation is; why it has failed."""

    state: Annotated[str, Keywords(enum=("under way", "ready", "failed"))]
    error: str = ""
    detail: str = ""
    code: str = ""
    #: Earlier versions do not say so.
    final: Annotated[bool, "Whether it fails again until a person has changed something."] = False
    container_seconds: Annotated[
        float, "What it took to make the server's container, its image being there; 0 before."
    ] = 0.0


@attrs.frozen(repr=False)
class ProgressAnswer:
    """How far the destination is; `outcome` is empty until it is known.

    `session` is the one that has the word, empty without. `steps` grow while it works on what was
    asked; earlier versions do not report them.
    """

    phase: str
    preparation: PreparationStatus | None = None
    tag: str = ""
    session: str = ""
    steps: int = 0
    step: str = ""
    text: str = ""
    outcome: str = ""
    error: str = ""
    detail: str = ""
    code: str = ""


_OF_PROXY = "; see whether a proxy in front of it answers in its place"


def unusable(detail: str, status: int = HTTPStatus.OK) -> DestinationRefused:
    """Return the error of an answer that cannot be used."""
    what = "the destination node's answer is not one to a move"
    return DestinationRefused(what, detail, status)


def fields(answer: Answer, kind: type[T]) -> T:
    """Return the fields of an answer. Raises `DestinationRefused` where they are not as agreed."""
    try:
        return structure(json.loads(answer.body), kind)
    except (ValueError, RecursionError, InvalidData) as error:
        raise unusable(plain(str(error)) + _OF_PROXY, answer.code) from error


def progress_of(answer: Answer) -> ProgressAnswer:
    """Return how far the destination is, with its texts as lines. Raises as `fields`."""
    found = fields(answer, ProgressAnswer)
    tried = found.preparation
    if tried is not None:
        tried = attrs.evolve(tried, error=plain(tried.error), detail=plain(tried.detail))
    error, detail = plain(found.error), plain(found.detail)
    return attrs.evolve(found, error=error, detail=detail, preparation=tried)


def failure_of(progress: ProgressAnswer) -> DestinationRefused:
    """Return the error of a move that has failed at the destination."""
    text = progress.error or "the move has failed there"
    error = DestinationRefused(f"the destination node says: {text}", progress.detail, 502)
    error.answer_code = progress.code
    return error


def is_path_unknown(answer: Answer) -> bool:
    """Return whether the answer is of something that does not know moves, or not this version."""
    code = answer_code(answer)
    is_unknown = answer.code in _PATH_UNKNOWN and code in _UNKNOWN_CODES
    return is_unknown or (answer.code == HTTPStatus.BAD_REQUEST and code == VERSION_UNKNOWN)


def refusal(answer: Answer) -> DestinationRefused:
    """Return the error of an answer other than success."""
    error = refusal_of(answer)
    error.is_temporary = answer.code in _AGAIN
    error.is_foreign = not error.answer_code
    return error


class Cause(Enum):
    """Why a part of a move is repeated."""

    #: A batch arrived damaged.
    BATCH_DAMAGED = auto()
    #: The root of a round differs there.
    ROOT_DIFFERS = auto()
    #: A file was changed in a round, or arrived damaged.
    FILE_CHANGED = auto()
    #: The destination had to be asked what it holds, since it took a batch.
    NOTHING_TAKEN = auto()
    #: A round was begun again, since one was closed.
    NO_ROUND_CLOSED = auto()
    #: A piece of a backup or the log was taken in part; a whole one makes up for it.
    PIECE_IN_PART = auto()
    #: The commit came to nothing.
    NOT_COMMITTED = auto()
    #: The rest was sent after a commit that came to nothing, for whatever reason.
    SENT_AFTER_COMMIT = auto()
    #: A rehearsal has failed, in a row, until a person changes something.
    REHEARSAL_FAILED = auto()
    #: The last round came to a halt, and the server was started again.
    HALTED = auto()


#: How often each may be: of one request, of a rehearsal or, the others, of a move.
MOST: dict[Cause, int] = {
    Cause.BATCH_DAMAGED: 3,
    Cause.ROOT_DIFFERS: 3,
    Cause.FILE_CHANGED: 3,
    Cause.NOTHING_TAKEN: 10,
    Cause.NO_ROUND_CLOSED: 200,
    Cause.PIECE_IN_PART: 200,
    Cause.NOT_COMMITTED: 5,
    Cause.SENT_AFTER_COMMIT: 20,
    Cause.REHEARSAL_FAILED: 2,
    Cause.HALTED: 2,
}
#: Seconds between two attempts at a request.
PAUSES = Backoff(0.5, 30.0, jitter=True)
#: Seconds after which a batch comes again that was too early, and one for which there was no room.
SOON, NO_SPACE_PAUSE = 1.0, 30.0
#: Seconds for which the first request is repeated that gets no answer, at least: as long as its
#: token is good, the destination may have begun the move.
BEGIN_WITHIN = 30.0
#: Seconds before a destination is asked again what it holds, or whether it has committed.
RESUME_AFTER = 1.0
#: Seconds for which a request is repeated after the commit, before others are asked as well.
LOST = 3.0
#: Seconds for which it is tried to learn why a destination has ended the move, and how often it is
#: asked for that, though it reports something new each time.
ASKED_WITHIN, ASKED_AT_MOST = 3.0, 20
#: Seconds for the destination to hear that a move has failed, which else finds out by itself, and
#: for each of the requests that end a move which may have begun.
DISCARD_WITHIN, WITHDRAW_WITHIN = 30.0, 10.0
#: Seconds for each request of a rehearsal, and between two questions how far it is.
PREPARED_WITHIN, PREPARE_PAUSE = 30.0, 1.0
#: Seconds after which it is tried again whether the server may be stopped.
REHEARSE_EVERY = 10.0
#: Seconds for which a request of a seed's round is repeated before the round has failed, and
#: between two rounds of which the first has failed.
ROUND_PATIENCE, ROUND_PAUSES = 60.0, Backoff(60.0, 3600.0, jitter=True)
#: Seconds that the destination may wait for a change before it reports how far it is.
WAIT, LEAST_WAIT = 25, 1
#: Seconds between two such questions, at least: a destination may report something new each time.
PROGRESS_EVERY = 0.1
#: Codes of a node that stops or starts; a proxy's answers have none.
_NOT_YET = frozenset({"", "daemon-stopping", "servers-not-loaded"})
_ID = re.compile(r"[0-9a-f]{32}")
_WORD = re.compile(r"[A-Za-z0-9_.~-]{1,200}")
#: What a number is at most, and that of a round, so that they fit the frames.
_MOST, _MOST_ROUNDS = 1 << 62, 1 << 32
#: Bytes of a page of what the destination holds, and the seconds that it takes.
MAX_PAGE = MAX_PART + 1
PAGE_WITHIN = 300.0
#: Seconds in which a request without a large body is answered. Proxies end it after a minute; a
#: node that is asked what it holds may take longer.
ANSWERED_WITHIN = 120.0
#: Statuses of refusals whose bodies say what follows.
_NEEDS_BODY = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT)


def _nothing(_: Answer) -> bool:
    return False


@attrs.frozen(eq=False, repr=False)
class _Request:
    """A request of a move, and how long it is repeated: `patience` in seconds.

    `target` is below the address of transfers. A large body comes as `blocks`; `smaller` is asked,
    with how often it was cut on its way, whether it is to be made smaller. `is_page` says that
    the answer may be large. `passed` is whether an answer other than success ends it. With
    `only_lost` any of the node itself does, unless it is being started again.
    """

    method: str
    target: str
    authorization: str
    patience: float
    content: bytes = b""
    content_type: str = "application/json"
    blocks: Sequence[Block] | None = None
    smaller: Callable[[int], bool] | None = None
    is_page: bool = False
    passed: Callable[[Answer], bool] = _nothing
    only_lost: bool = False


@attrs.define(eq=False, repr=False, slots=False)
class MoveTrouble:
    """Reports that a destination accepts no data, and that it does again, not each attempt.

    `show` has the cause as long as this lasts, then an empty text.
    """

    #: Seconds between two lines.
    EVERY = 300.0

    _clock: IReactorTime
    _say: Callable[[str], None] = lambda line: None
    _show: Callable[[str], None] = lambda cause: None
    _since: float | None = attrs.field(default=None, init=False)
    _next: float = attrs.field(default=0.0, init=False)

    def note(self, error: DestinationError) -> None:
        """A request has failed, and is sent again."""
        now: float = self._clock.seconds()
        if self._since is None:
            self._since = self._next = now
        if now >= self._next:
            self._next = now + self.EVERY
            self._say(f"waiting for the destination, asking it again: {error.cause}")
            self._show(error.cause)

    def end(self) -> None:
        """Say no more: the move has ended, and only its destination is to hear of that."""
        self._say = self._show = lambda text: None

    def over(self) -> None:
        """A request got through."""
        if self._since is not None:
            waited = self._clock.seconds() - self._since
            self._since = None
            self._show("")
            self._say(f"the move goes on, after {waited:.0f} s")


@attrs.define(eq=False, repr=False, slots=False)
class MoveClient:
    """A client of the move of `record`, at the rate of `bucket`.

    The node may leave what it is sent unacknowledged for `stall_timeout` seconds. Each method
    raises `ResumeNeeded` where the destination has to be asked what it holds, else a
    `DestinationError` when the move has failed: at once where it was refused, or after `patience`
    seconds in which this request did not get through.
    """

    _address: PeerAddress
    _clock: IReactorTime
    _stall_timeout: float
    _bucket: TokenBucket | None
    _record: MoveRecord
    _trouble: MoveTrouble
    #: Seconds for which a request is repeated that does not get through.
    patience: float

    def __attrs_post_init__(self) -> None:
        record = self._record
        #: The steps of the destination's work, as it has reported last.
        self.steps = 0
        #: Those bytes of batches and attachments that were sent and not taken.
        self.bytes_again = 0
        #: Whether batches that are begun now leave a part of the rate to others.
        self.yields = False
        self._server = record.server
        self._key = record.key
        self._wait = WAIT
        #: When it may be asked again how far it is.
        self._next_progress = 0.0
        self._move = f"/{record.server}/move/{record.move}" if record.move else ""
        self._session = ""
        self._connections = PersistentConnections(self._clock)
        self._under_way: dict[HttpExchange, BlocksBody | None] = {}
        #: Bytes of bodies that are not under way any more.
        self._bytes_over = 0
        self._sleeping: set[Deferred[None]] = set()
        self._is_aborted = False

    @property
    def bytes_out(self) -> int:
        """Bytes of batches and attachments that were handed over for sending."""
        bodies = [body for body in self._under_way.values() if body is not None]
        return self._bytes_over + sum(body.bytes_out for body in bodies)

    # The requests

    async def begin(
        self,
        authorization: str,
        order: Mapping[str, Any],
        patience: float,
        *,
        may_differ: bool,
    ) -> BegunAnswer | None:
        """Begin the move, or go on with it, by the whole header `authorization`.

        With `may_differ`, return None where the destination does not know moves, or not those of
        this version: the token is unused then.
        """
        answer = await self._ask(
            "POST",
            "",
            {**order, "key": self._key},
            target=f"/{self._server}/move",
            authorization=authorization,
            patience=patience,
            passed=is_path_unknown if may_differ else _nothing,
            # A node that does not take the server now is not waited for, unless it had begun it.
            only_lost=may_differ,
        )
        if not answer.good:
            return None
        begun = fields(answer, BegunAnswer)
        _expect(_ID.fullmatch(begun.id) is not None, f"its id is {begun.id[:40]!r}")
        _expect(begun.batch > 0 and begun.streams > 0, "it takes no batch")
        self._move = f"/{self._server}/move/{begun.id}"
        return begun

    async def resume(self) -> MoveResumed | None:
        """Begin a session; return what the destination holds.

        None where it is putting the server into place already.
        """
        answer = await self._ask("POST", "/resume", {}, passed=_is_committed)
        if not answer.good:
            return None
        resumed = fields(answer, MoveResumed)
        numbers = (resumed.shape, resumed.file, resumed.pages, resumed.bytes)
        _expect(
            0 < resumed.round < _MOST_ROUNDS
            and 0 < resumed.next < _MOST
            and all(0 <= number < _MOST for number in numbers),
            "its numbers are out of range",
        )
        _expect(_WORD.fullmatch(resumed.session) is not None, "it has no session")
        self._session = resumed.session
        return resumed

    async def page(self, number: int) -> bytes:
        """Return a page of what the destination holds, an index."""
        path = f"/tree?session={self._session}&page={number}"
        return (await self._ask("GET", path, is_page=True)).body

    async def put(
        self, number: int, blocks: Sequence[Block], smaller: Callable[[int], bool], *, zstd: bool
    ) -> int:
        """Send a batch; return up to which number all are durable. Raises `MoveSmaller`.

        `smaller` is asked each time that it was cut on its way, with how often that was, whether
        it is to be made smaller.
        """
        path = f"/batches/{number}?session={self._session}"
        kind = ZSTD_CONTENT_TYPE if zstd else CONTENT_TYPE
        answer = await self._ask("PUT", path, blocks=blocks, content_type=kind, smaller=smaller)
        return fields(answer, Durable).durable

    async def close_round(self, number: int, last: int, root: bytes) -> None:
        """Close a round after batch `last`. Raises `ResumeNeeded` where the root is another."""
        body = {"last": last, "root": root.hex()}
        path = f"/rounds/{number}?session={self._session}"
        closed = fields(await self._ask("POST", path, body), Root)
        _expect(closed.root == root.hex(), "the root of the round differs")

    async def offset(self, name: str) -> int:
        """Return how many bytes of an attachment have arrived."""
        path = f"/attachments/{name}?session={self._session}"
        return fields(await self._ask("GET", path), Offset).offset

    async def patch(
        self,
        name: str,
        offset: int,
        block: bytes,
        smaller: Callable[[int], bool],
        sha256: str = "",
        *,
        target: str = "",
    ) -> tuple[int, bool]:
        """Send a piece of an attachment, or of what follows the server to that `target`, a path.

        Return where to go on, and whether this piece was taken. `sha256` is sent with the last;
        `smaller` as of `put`. Raises `MoveSmaller`.
        """
        path = f"{target or f'/attachments/{name}?session={self._session}&'}offset={offset}"
        if sha256:
            path += f"&sha256={sha256}"
        answer = await self._ask(
            "PATCH",
            path,
            blocks=[block],
            content_type="application/octet-stream",
            smaller=smaller,
            passed=lambda answer: answer_code(answer) == "move-offset-wrong",
        )
        return fields(answer, Offset).offset, answer.good

    async def prepare(self, measured: Mapping[str, int], patience: float) -> None:
        """Ask the destination to try what it needs, before the server is stopped here.

        `measured` is what the server's files take now, as in the order of `begin`.
        """
        await self._ask("POST", "/prepare", measured, patience=patience)

    async def require_room(self, measured: Mapping[str, int]) -> None:
        """Raise `DestinationRefused` where what the server's files take by now does not fit there.

        `measured` as of `prepare`. Earlier versions are not asked.
        """
        answer = await self._ask("POST", "/room", measured, passed=_is_full_or_unknown)
        if answer.code == HTTPStatus.INSUFFICIENT_STORAGE:
            raise refusal(answer)

    async def commit(
        self,
        number: int,
        root: bytes,
        *,
        running: bool,
        patience: float,
        backups: Sequence[Mapping[str, Any]] = (),
        history: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask for the commit of a round that is closed; it may have been asked for before.

        `backups` are those that follow the server, as its `history` does.
        """
        body: dict[str, Any] = {"round": number, "root": root.hex(), "running": running}
        if backups:  # which earlier versions do not know
            body["backups"] = list(backups)
        if history:
            body["history"] = history
        path = f"/commit?session={self._session}"
        await self._ask("POST", path, body, patience=patience, passed=_is_committed)

    async def progress(self, tag: str, patience: float) -> ProgressAnswer:
        """Return how far the destination is, when that is not as with `tag`, or after a while.

        A proxy may end a request before it is answered: then the next ones wait for half as long.
        """
        if (early := self._next_progress - self._clock.seconds()) > 0:
            await self._sleep(early)
        self._next_progress = self._clock.seconds() + PROGRESS_EVERY
        answer = None
        if tag:
            with suppress(DestinationError):
                waiting = f"?wait={self._wait}&since={tag}"
                answer = await self._ask("GET", waiting, patience=0.0)
        if answer is None:
            answer = await self._ask("GET", "", patience=patience)
            if tag:  # the destination is there
                self._wait = max(self._wait // 2, LEAST_WAIT)
        found = progress_of(answer)
        _expect(not found.tag or _WORD.fullmatch(found.tag) is not None, "its tag is invalid")
        return found

    async def look(self) -> ProgressAnswer:
        """Return how far the destination is. It is asked once, and trouble is not reported."""
        found = await self._look(0.0)
        self.steps = found.steps
        return found

    async def _look(self, patience: float) -> ProgressAnswer:
        return progress_of(await self._repeat(self._request("GET", "", patience=patience)))

    async def delete(self, *, keep: bool, patience: float) -> None:
        """Report that the move has failed at this node; with `keep` the partial copy is kept."""
        self._trouble.end()
        await self._ask("DELETE", "?keep=1" if keep else "", patience=patience)

    # When the server has moved: the backups that follow it

    async def backup(self, backup: str, mark: str, *, is_ordered: bool) -> FollowingStatus:
        """Return what the destination says of a backup; `is_ordered` by an operator, it takes it.

        By the `mark` it sees whether both nodes have one directory of backups.
        """
        path = f"/backups/{backup}?mark={mark}{'&ordered=1' if is_ordered else ''}"
        return fields(await self._ask("GET", path), FollowingStatus)

    def mark(self, backup: str) -> str:
        """Return the name of a mark that no other move leaves, for a question about a backup."""
        return hashlib.sha256(f"{self._key} {backup}".encode()).hexdigest()[:32]

    async def forget_backup(self, backup: str) -> None:
        """Report that a backup stays here, or was removed here."""
        await self._ask("DELETE", f"/backups/{backup}")

    async def name_point(self, name: PointName) -> None:
        """Give a backup, whose point is there, its name. Its history is not taken without that."""
        await self._ask("PUT", f"/backups/{name.name}/point", attrs.asdict(name))

    async def history(self, newer: int = 0, size: int = 0, *, is_ordered: bool) -> HistoryStatus:
        """Return what is to be sent next of the server's history; `is_ordered` by an operator.

        With `newer` also how much is there of the delta of so many bytes that goes before that
        point.
        """
        path = f"/history?newer={newer}&bytes={size}{'&ordered=1' if is_ordered else ''}"
        return fields(await self._ask("GET", path), HistoryStatus)

    async def history_base(self, point: int, offset: int) -> bytes:
        """Return a page of the catalogue of a point there."""
        path = f"/history/base?point={point}&offset={offset}"
        return (await self._ask("GET", path, is_page=True)).body

    async def history_blocks(self, point: int, wanted: Sequence[WantedBlocks]) -> bytes:
        """Return the digests of blocks at a point there."""
        body = {"point": point, "wanted": [attrs.asdict(each) for each in wanted]}
        return (await self._ask("POST", "/history/blocks", body, is_page=True)).body

    async def forget_history(self, *, is_there: bool) -> None:
        """Report that the rest of a history stays here, or that all `is_there`."""
        await self._ask("DELETE", f"/history?whole={int(is_there)}")

    def interrupt(self) -> None:
        """End everything that is under way, by `CancelledError`. More may follow."""
        for sleeping in tuple(self._sleeping):
            sleeping.cancel()
        for exchange in tuple(self._under_way):
            exchange.abort(CancelledError())

    def rest(self) -> None:
        """Close connections that are idle: large writes leave memory to each."""
        self._connections.close_resting()

    def abort(self) -> None:
        """End everything that is under way or follows, by `CancelledError`."""
        self._is_aborted = True
        self.interrupt()
        self._connections.close()

    # How they are sent

    def _request(self, method: str, path: str, body: object = None, **options: Any) -> _Request:
        usual: dict[str, Any] = {
            "target": self._move + path,
            "authorization": f"Bearer {self._key}",
            "patience": self.patience,
            "content": b"" if body is None else json.dumps(body).encode(),
        }
        return _Request(method, **usual | options)

    async def _ask(self, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """Send a request of the move until it is answered, with `options` of `_Request`."""
        answer = await self._repeat(self._request(method, path, body, **options))
        self._trouble.over()
        return answer

    async def _repeat(self, asked: _Request) -> Answer:
        """Send a request until it is answered well, or as it accepts."""
        budget = Budget(self._clock, asked.patience, MOST)
        pauses, cuts = iter(PAUSES), 0
        while True:
            if self._is_aborted:
                raise CancelledError
            error: DestinationError
            try:
                answer = await self._send(asked)
            except DestinationError as failure:
                if budget.is_over:
                    raise
                error, is_cut = failure, not isinstance(failure, DestinationUnreachable)
                pause = next(pauses)
                self._trouble.note(error)
            else:
                if answer.good or asked.passed(answer):
                    return answer
                error = refusal(answer)
                # by a proxy that could not pass it on, or not in time
                is_cut = answer.code in _CUT and not error.answer_code
                pause = _pause_after(answer, error, asked, budget, pauses)
                if not _is_early(error):
                    self._trouble.note(error)
            await self._sleep(pause)
            if asked.blocks:
                await self._check_session(asked.patience)
                cuts += is_cut
                if is_cut and asked.smaller is not None and asked.smaller(cuts):
                    raise MoveSmaller(error, was_cut=True)

    async def _check_session(self, patience: float) -> None:
        """Return when the destination answers; raise `ResumeNeeded` where it has lost the session.

        One that is away, or still starting, is asked without a body that would have to come again.
        """
        found = await self._look(patience)
        if found.phase == "open" and found.session != self._session:
            lost = DestinationRefused(
                "the destination node has to be asked what it holds",
                "it was started again, or another request of this move has begun a session",
                HTTPStatus.CONFLICT,
            )
            raise ResumeNeeded(lost)

    async def _send(self, asked: _Request) -> Answer:
        """Return the answer to one attempt, whatever its status.

        Raises `DestinationUnreachable`, `DestinationDisconnected` without one, or where it broke
        off and says nothing without its body, and `CancelledError` after `interrupt`.
        """
        body, length = None, len(asked.content)
        if asked.blocks is not None:
            body = BlocksBody(asked.blocks, self._bucket, yields=self.yields)
            length = sum(map(len, asked.blocks))
        headers = [("Authorization", asked.authorization)]
        if asked.method not in ("GET", "DELETE"):
            headers += [("Content-Type", asked.content_type), ("Content-Length", str(length))]
        exchange = self._address.send(
            self._address.request(asked.method, headers, asked.target),
            timeout=ANSWERED_WITHIN,
            connections=self._connections,
            body=body,
            content=asked.content,
            stall_timeout=self._stall_timeout,
            taken_within=max(self._stall_timeout, ANSWERED_WITHIN),
        )
        if asked.is_page:
            exchange.max_answer, exchange.answer_within = MAX_PAGE, PAGE_WITHIN
        self._under_way[exchange] = body
        is_taken = False
        try:
            answer: Answer = await exchange.answer
            if not answer.whole and (answer.good or answer.code in _NEEDS_BODY):
                raise DestinationDisconnected("its answer broke off", body_sent=False)
            is_taken = answer.good
        finally:
            del self._under_way[exchange]
            if body is not None:
                self._bytes_over += body.bytes_out
                self.bytes_again += 0 if is_taken else body.bytes_out
        return answer

    async def _sleep(self, seconds: float) -> None:
        sleeping: Deferred[None] = deferLater(self._clock, seconds)
        self._sleeping.add(sleeping)
        try:
            await sleeping
        finally:
            self._sleeping.discard(sleeping)


def _pause_after(
    answer: Answer,
    error: DestinationRefused,
    asked: _Request,
    budget: Budget[Cause],
    pauses: Iterator[float],
) -> float:
    """Return the pause after an answer other than success, of which `error` is the error.

    Raises what ends it: `ResumeNeeded`, `DestinationRefused`, and `MoveSmaller` for a body that
    can be made smaller.
    """
    code, is_full = error.answer_code, answer.code == HTTPStatus.INSUFFICIENT_STORAGE
    is_final = not (is_full or answer.code in _AGAIN)
    match answer.code:
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE if asked.smaller is not None:
            raise MoveSmaller(error)
        case HTTPStatus.CONFLICT if code in _RESUME:
            raise ResumeNeeded(error)
        case HTTPStatus.CONFLICT if code == _EARLY:
            is_final = False
        case HTTPStatus.BAD_REQUEST if code == "move-batch-damaged":
            is_final = False
            budget.spend(Cause.BATCH_DAMAGED, error)
    # One that is being started again has said nothing yet.
    is_enough = asked.only_lost and code not in _NOT_YET
    if is_final or budget.is_over or is_enough:
        raise error
    if _is_early(error):
        return SOON
    # no longer than this may take: what follows is due then
    wished = min(seconds_asked_for(answer.header("retry-after")), budget.left)
    if is_full:
        return max(wished, NO_SPACE_PAUSE)
    return wished or next(pauses)


def _is_early(error: DestinationRefused) -> bool:
    """Return whether a batch came before another one that it needs."""
    return (error.response_status, error.answer_code) == (HTTPStatus.CONFLICT, _EARLY)


def _is_committed(answer: Answer) -> bool:
    return answer_code(answer) == "move-committed"


def _is_full_or_unknown(answer: Answer) -> bool:
    return answer.code == HTTPStatus.INSUFFICIENT_STORAGE or is_path_unknown(answer)


def _expect(is_so: bool, fault: str) -> None:
    """Raise `DestinationRefused` for an answer that cannot be used."""
    if not is_so:
        raise unusable(fault + _OF_PROXY)

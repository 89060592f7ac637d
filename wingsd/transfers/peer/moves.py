"""A client of a destination of moves that resume: each request is repeated until it is answered.

docs/moves.md has the requests and what follows which answer. Several requests with batches may be
under way at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import attrs
import h11
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd import __version__
from wingsd.http_upload.exchange import (
    Answer,
    Block,
    BlocksBody,
    PersistentConnections,
    PersistentExchange,
)
from wingsd.moves.batch import CONTENT_TYPE, ZSTD_CONTENT_TYPE
from wingsd.moves.snapshot import MAX_PART
from wingsd.threadio import TokenBucket
from wingsd.transfers.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationUnreachable,
)
from wingsd.transfers.peer.client import PeerAddress
from wingsd.transfers.peer.move_answers import (
    AttachmentOffset,
    BatchTaken,
    BegunAnswer,
    MoveResumed,
    MoveSmaller,
    ProgressAnswer,
    Reaction,
    ResumeNeeded,
    RoundClosed,
    answer_code,
    fields,
    is_of_proxy,
    is_path_unknown,
    progress_of,
    reaction,
    refusal,
)
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Backoff, seconds_asked_for

__all__ = ["MoveClient", "MoveRequest", "MoveRequests", "MoveTrouble"]

T = TypeVar("T")

#: Seconds between two attempts at a request.
PAUSES = Backoff(0.5, 30.0, jitter=True)
#: Seconds after which a batch comes again that was too early, and one for which there was no room.
SOON, NO_SPACE_PAUSE = 1.0, 30.0
#: How often a batch is sent again that arrived damaged.
DAMAGES = 3
#: Seconds that the destination may wait for a change before it tells how far it is.
WAIT, LEAST_WAIT = 25, 1
#: Seconds between two such questions, at least: a destination may tell something new each time.
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
JSON = "application/json"
#: Statuses of refusals whose bodies say what follows.
_NEEDS_BODY = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT)


@attrs.frozen(eq=False, repr=False)
class MoveRequest:
    """A request: `target` is below the address of transfers. A large body comes as `blocks`.

    `is_page` tells that the answer may be large.
    """

    method: str
    target: str
    authorization: str = attrs.field(repr=False)
    content: bytes = b""
    content_type: str = JSON
    blocks: Sequence[Block] | None = None
    is_page: bool = False


class MoveRequests:
    """Sends requests to a node, at the rate of `bucket`.

    The node may leave what it is sent unacknowledged for `stall_timeout` seconds.
    """

    def __init__(
        self,
        address: PeerAddress,
        reactor: Reactor,
        stall_timeout: float,
        bucket: TokenBucket | None = None,
    ) -> None:
        #: Bytes of large bodies that were handed over for sending.
        self.bytes_out = 0
        #: Those of them that the node has not taken: they are sent again.
        self.bytes_again = 0
        #: Whether large bodies that are begun now leave a part of the rate to others.
        self.yields = False
        self._address = address
        self._reactor = reactor
        self._stall_timeout = stall_timeout
        self._bucket = bucket
        self._connections = PersistentConnections(reactor)
        self._under_way: set[PersistentExchange] = set()

    async def send(self, asked: MoveRequest) -> Answer:
        """Return the answer, whatever its status.

        Raises `DestinationUnreachable`, `DestinationDisconnected` without one, or where it broke
        off and says nothing without its body, and `CancelledError` after `interrupt`.
        """
        body = None if asked.blocks is None else _CountedBody(self, asked.blocks, self._bucket)
        route = self._address.route()
        verify = route.verifier.verify_name if route.verifier is not None else None
        exchange = PersistentExchange(
            self._reactor, self._head(asked), body, verify, self._stall_timeout, asked.content
        )
        exchange.taken_within = max(self._stall_timeout, ANSWERED_WITHIN)
        if asked.is_page:
            exchange.max_answer, exchange.answer_within = MAX_PAGE, PAGE_WITHIN
        self._under_way.add(exchange)
        starting = self._connections.start(exchange, route.endpoint, ANSWERED_WITHIN)
        answer: Deferred[Answer] = starting
        answer.addErrback(
            lambda failure: self._address.explain(
                failure,
                route.verifier,
                begun=exchange.begun,
                uploads=True,
                request_sent=False,
            )
        )
        is_taken = False
        try:
            found = await answer
            if not found.whole and (found.good or found.code in _NEEDS_BODY):
                raise DestinationDisconnected("its answer broke off", body_sent=False)
            is_taken = found.good
        finally:
            self._under_way.discard(exchange)
            if body is not None and not is_taken:
                self.bytes_again += body.bytes_out
        return found

    def interrupt(self) -> None:
        """End all that is under way."""
        for exchange in tuple(self._under_way):
            exchange.abort(CancelledError())

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _head(self, asked: MoveRequest) -> h11.Request:
        blocks = asked.blocks
        length = len(asked.content) if blocks is None else sum(len(block) for block in blocks)
        headers = [
            ("Host", self._address.netloc),
            ("User-Agent", f"wingsd/{__version__}"),
            ("Authorization", asked.authorization),
        ]
        if asked.method not in ("GET", "DELETE"):
            headers += [("Content-Type", asked.content_type), ("Content-Length", str(length))]
        target = self._address.target(asked.target)
        return h11.Request(method=asked.method, target=target, headers=headers)


class _CountedBody(BlocksBody):
    """A body whose bytes are counted with all others."""

    def __init__(
        self, requests: MoveRequests, blocks: Sequence[Block], bucket: TokenBucket | None
    ) -> None:
        super().__init__(blocks, bucket, yields=requests.yields)
        self.bytes_out = 0
        self._requests = requests

    def _hand_over(self, block: bytes) -> None:
        self.bytes_out += len(block)
        self._requests.bytes_out += len(block)
        super()._hand_over(block)


class MoveTrouble:
    """Reports that a destination takes nothing, and when it goes on: not each attempt."""

    #: Seconds between two lines.
    EVERY = 300.0

    def __init__(
        self,
        clock: IReactorTime,
        say: Callable[[str], None],
        show: Callable[[str], None] = lambda cause: None,
    ) -> None:
        """`show` has the cause as long as this lasts, then an empty text."""
        self._clock = clock
        self._say = say
        self._show = show
        self._since: float | None = None
        self._next = 0.0

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


@attrs.frozen(eq=False, repr=False)
class _Persistence:
    """How long a request is repeated: `patience` in seconds.

    `only_lost`: any answer of the node itself ends it, unless it is being started anew. `smaller`
    is asked, with how often its body was cut on its way, whether it is to be made smaller.
    """

    patience: float
    only_lost: bool = False
    smaller: Callable[[int], bool] | None = None


class _Attempts:
    """The attempts at one request, all of which have failed so far."""

    def __init__(self, clock: IReactorTime, persistence: _Persistence) -> None:
        self._clock = clock
        self._persistence = persistence
        self._end = clock.seconds() + persistence.patience
        self._pauses = iter(PAUSES)
        self._damages = self._cuts = 0

    def after_cut(self, error: DestinationError) -> None:
        """A body did not get through to a destination that answers. Raises `MoveSmaller`."""
        self._cuts += 1
        smaller = self._persistence.smaller
        if smaller is not None and smaller(self._cuts):
            raise MoveSmaller(error, was_cut=True)

    def after_loss(self, error: DestinationError) -> float:
        """Return the pause after an attempt without an answer; raise `error` after the last."""
        if self._clock.seconds() >= self._end:
            raise error
        return next(self._pauses)

    def after(self, answer: Answer) -> float:
        """Return the pause after an answer that is none of success.

        Raises what ends it: `ResumeNeeded`, `DestinationRefused`, and `MoveSmaller` for a body
        that can be made smaller.
        """
        error = refusal(answer)
        reaction_ = reaction(answer)
        match reaction_:
            case Reaction.RESUME:
                raise ResumeNeeded(error, answer_code(answer))
            case Reaction.SMALLER if self._persistence.smaller is not None:
                raise MoveSmaller(error)
            case Reaction.DAMAGED:
                self._damages += 1
                if self._damages > DAMAGES:
                    raise error
        is_over = self._clock.seconds() >= self._end
        is_final = reaction_ in (Reaction.FAIL, Reaction.SMALLER)
        if is_final or is_over or self._is_enough(answer):
            raise error
        if reaction_ is Reaction.SOON:
            return SOON
        # no longer than this may take: what follows is due then
        left = self._end - self._clock.seconds()
        wished = min(seconds_asked_for(answer.header("retry-after")), left)
        if reaction_ is Reaction.NO_SPACE:
            return max(wished, NO_SPACE_PAUSE)
        return wished or next(self._pauses)

    def _is_enough(self, answer: Answer) -> bool:
        """Return whether the node has said no to a request that is repeated only if it is lost.

        One that is being started anew has said nothing yet.
        """
        return self._persistence.only_lost and answer_code(answer) not in _NOT_YET


class MoveClient:
    """A client of one move of `server`, with its `key`.

    Each method raises `ResumeNeeded` where the destination has to be asked what it holds, else a
    `DestinationError` when the move has failed: at once where it was refused, or after `patience`
    seconds in which this request did not get through.
    """

    def __init__(
        self,
        requests: MoveRequests,
        server: str,
        key: str,
        clock: IReactorTime,
        trouble: MoveTrouble,
        patience: float,
    ) -> None:
        self._requests = requests
        self._server = server
        self._key = key
        self._clock = clock
        self._trouble = trouble
        #: Seconds for which a request is repeated that does not get through.
        self.patience = patience
        #: The steps of the destination's work, as it has reported last.
        self.steps = 0
        self._wait = WAIT
        #: When it may be asked again how far it is.
        self._next_progress = 0.0
        self._move = ""
        self._session = ""
        self._sleeping: set[Deferred[None]] = set()
        self._is_aborted = False

    @property
    def bytes_out(self) -> int:
        """Bytes of batches and attachments that were handed over for sending."""
        return self._requests.bytes_out

    @property
    def bytes_again(self) -> int:
        """Those of them that were not taken."""
        return self._requests.bytes_again

    @property
    def yields(self) -> bool:
        """Whether batches that are begun now leave a part of the rate to others."""
        return self._requests.yields

    @yields.setter
    def yields(self, value: bool) -> None:
        self._requests.yields = value

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
        content = json.dumps({**order, "key": self._key}).encode()
        asked = MoveRequest("POST", f"/{self._server}/move", authorization, content)
        # A node that does not take the server now is not waited for, unless it had begun before.
        persistence = _Persistence(patience, only_lost=may_differ)
        passed = is_path_unknown if may_differ else _nothing
        answer = await self._persist(asked, persistence, passed)
        if not answer.good:
            return None
        begun = fields(answer, BegunAnswer)
        _expect(_ID.fullmatch(begun.id) is not None, f"its id is {begun.id[:40]!r}")
        _expect(begun.batch > 0 and begun.streams > 0, "it takes no batch")
        self._move = f"/{self._server}/move/{begun.id}"
        return begun

    def go_on(self, move: str) -> None:
        """Use the id of a move that was begun before."""
        self._move = f"/{self._server}/move/{move}"

    async def resume(self) -> MoveResumed | None:
        """Begin a session; return what the destination holds.

        None where it is putting the server into place already.
        """
        asked = self._request("POST", "/resume", {})
        answer = await self._persist(asked, _Persistence(self.patience), _is_committed)
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
        asked = attrs.evolve(self._request("GET", path), is_page=True)
        return (await self._persist(asked, _Persistence(self.patience), _nothing)).body

    async def put(
        self, number: int, blocks: Sequence[Block], smaller: Callable[[int], bool], *, zstd: bool
    ) -> int:
        """Send a batch; return up to which number all are durable. Raises `MoveSmaller`.

        `smaller` is asked each time that it was cut on its way, with how often that was, whether
        it is to be made smaller.
        """
        path = f"/batches/{number}?session={self._session}"
        kind = ZSTD_CONTENT_TYPE if zstd else CONTENT_TYPE
        asked = attrs.evolve(self._request("PUT", path), blocks=blocks, content_type=kind)
        persistence = _Persistence(self.patience, smaller=smaller)
        return fields(await self._persist(asked, persistence, _nothing), BatchTaken).durable

    async def close_round(self, number: int, last: int, root: bytes) -> None:
        """Close a round after batch `last`. Raises `ResumeNeeded` where the root is another."""
        body = {"last": last, "root": root.hex()}
        path = f"/rounds/{number}?session={self._session}"
        closed = fields(await self._ask("POST", path, body), RoundClosed)
        _expect(closed.root == root.hex(), "the root of the round is another one")

    async def offset(self, name: str) -> int:
        """Return how many bytes of an attachment have arrived."""
        path = f"/attachments/{name}?session={self._session}"
        return fields(await self._ask("GET", path), AttachmentOffset).offset

    async def patch(
        self,
        name: str,
        offset: int,
        block: bytes,
        smaller: Callable[[int], bool],
        sha256: str = "",
    ) -> int:
        """Send a piece of an attachment; return where to go on. `sha256` is sent with the last.

        `smaller` as of `put`. Raises `MoveSmaller`.
        """
        path = f"/attachments/{name}?session={self._session}&offset={offset}"
        if sha256:
            path += f"&sha256={sha256}"
        kind = "application/octet-stream"
        asked = attrs.evolve(self._request("PATCH", path), blocks=[block], content_type=kind)
        persistence = _Persistence(self.patience, smaller=smaller)
        answer = await self._persist(asked, persistence, _is_offset_wrong)
        return fields(answer, AttachmentOffset).offset

    async def prepare(self, measured: Mapping[str, int], patience: float) -> None:
        """Have the destination try what it needs before the server is stopped here.

        `measured` is what the server's files take now, as in the order of `begin`.
        """
        asked = self._request("POST", "/prepare", measured)
        await self._persist(asked, _Persistence(patience), _nothing)

    async def require_room(self, measured: Mapping[str, int]) -> None:
        """Raise `DestinationRefused` where what the server's files take by now does not fit there.

        `measured` as of `prepare`. Earlier versions are not asked.
        """
        asked = self._request("POST", "/room", measured)
        answer = await self._persist(asked, _Persistence(self.patience), _is_told_or_unknown)
        if answer.code == HTTPStatus.INSUFFICIENT_STORAGE:
            raise refusal(answer)

    async def commit(self, number: int, root: bytes, *, running: bool, patience: float) -> None:
        """Ask for the commit of a round that is closed; it may have been asked for before."""
        body = {"round": number, "root": root.hex(), "running": running}
        asked = self._request("POST", f"/commit?session={self._session}", body)
        await self._persist(asked, _Persistence(patience), _is_committed)

    async def progress(self, tag: str, patience: float) -> ProgressAnswer:
        """Return how far the destination is, when that is not as with `tag`, or after a while.

        A proxy may end a request before it is answered: then the next ones wait for half as long.
        """
        if (early := self._next_progress - self._clock.seconds()) > 0:
            await self._sleep(early)
        self._next_progress = self._clock.seconds() + PROGRESS_EVERY
        answer = await self._waited(tag) if tag else None
        if answer is None:
            asked = self._request("GET", "")
            answer = await self._persist(asked, _Persistence(patience), _nothing)
            if tag:  # the destination is there
                self._wait = max(self._wait // 2, LEAST_WAIT)
        found = progress_of(answer)
        _expect(not found.tag or _WORD.fullmatch(found.tag) is not None, "its tag is invalid")
        return found

    async def look(self) -> ProgressAnswer:
        """Return how far the destination is. It is asked once, and trouble is not reported."""
        asked, once = self._request("GET", ""), _Persistence(0.0)
        found = progress_of(await self._repeat(asked, once, _nothing))
        self.steps = found.steps
        return found

    async def _waited(self, tag: str) -> Answer | None:
        """Return the answer that waits for a change; None where there was none."""
        asked = self._request("GET", f"?wait={self._wait}&since={tag}")
        try:
            return await self._persist(asked, _Persistence(0.0), _nothing)
        except DestinationError:
            return None

    async def delete(self, *, keep: bool, patience: float) -> None:
        """Tell that the move has failed at this node; with `keep` the partial copy is kept."""
        self._trouble.end()
        asked = self._request("DELETE", "?keep=1" if keep else "")
        await self._persist(asked, _Persistence(patience), _nothing)

    def interrupt(self) -> None:
        """End everything that is under way, by `CancelledError`. More may follow."""
        for sleeping in tuple(self._sleeping):
            sleeping.cancel()
        self._requests.interrupt()

    def abort(self) -> None:
        """End everything that is under way or follows, by `CancelledError`."""
        self._is_aborted = True
        self.interrupt()
        self._requests.close()

    # How they are sent

    def _request(self, method: str, path: str, body: object = None) -> MoveRequest:
        content = b"" if body is None else json.dumps(body).encode()
        return MoveRequest(method, self._move + path, f"Bearer {self._key}", content)

    async def _ask(self, method: str, path: str, body: object = None) -> Answer:
        return await self._persist(
            self._request(method, path, body), _Persistence(self.patience), _nothing
        )

    async def _persist(
        self,
        asked: MoveRequest,
        persistence: _Persistence,
        passed: Callable[[Answer], bool],
    ) -> Answer:
        """Send a request until it is answered well, or as `passed` accepts it."""
        answer = await self._repeat(asked, persistence, passed)
        self._trouble.over()
        return answer

    async def _repeat(
        self,
        asked: MoveRequest,
        persistence: _Persistence,
        passed: Callable[[Answer], bool],
    ) -> Answer:
        attempts = _Attempts(self._clock, persistence)
        while True:
            self._check()
            try:
                answer = await self._requests.send(asked)
            except DestinationError as failure:
                error, is_cut = failure, not isinstance(failure, DestinationUnreachable)
                pause = attempts.after_loss(error)
                self._trouble.note(error)
            else:
                if answer.good or passed(answer):
                    return answer
                error, is_cut = refusal(answer), is_of_proxy(answer)
                pause = attempts.after(answer)
                if reaction(answer) is not Reaction.SOON:
                    self._trouble.note(error)
            await self._sleep(pause)
            if asked.blocks:
                await self._check_session(persistence)
                if is_cut:
                    attempts.after_cut(error)

    async def _check_session(self, persistence: _Persistence) -> None:
        """Return when the destination answers; raise `ResumeNeeded` where it has lost the session.

        One that is away, or still starting, is asked without a body that would have to come again.
        """
        without_body = attrs.evolve(persistence, smaller=None)
        answer = await self._repeat(self._request("GET", ""), without_body, _nothing)
        found = progress_of(answer)
        if found.phase == "open" and found.session != self._session:
            lost = DestinationRefused(
                "the destination node has to be asked what it holds",
                "it was started again, or another request of this move has begun a session",
                HTTPStatus.CONFLICT,
            )
            raise ResumeNeeded(lost, "move-resume-needed")

    def _check(self) -> None:
        if self._is_aborted:
            raise CancelledError

    async def _sleep(self, seconds: float) -> None:
        sleeping: Deferred[None] = deferLater(self._clock, seconds)
        self._sleeping.add(sleeping)
        try:
            await sleeping
        finally:
            self._sleeping.discard(sleeping)


def _nothing(_: Answer) -> bool:
    return False


def _is_committed(answer: Answer) -> bool:
    return answer_code(answer) == "move-committed"


def _is_told_or_unknown(answer: Answer) -> bool:
    return answer.code == HTTPStatus.INSUFFICIENT_STORAGE or is_path_unknown(answer)


def _is_offset_wrong(answer: Answer) -> bool:
    return answer_code(answer) == "move-offset-wrong"


def _expect(is_so: bool, fault: str) -> None:
    """Raise `DestinationRefused` for an answer that cannot be used."""
    if not is_so:
        raise DestinationRefused(
            "the destination node's answer is not one to a move",
            f"{fault}; see whether a proxy in front of it answers in its place",
            HTTPStatus.OK,
        )

"""The move of one server in batches, which goes on after each break: see docs/moves.md."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem.attributes import AttributesKept
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.moves.errors import SourceFileChanged
from wingsd.moves.source import LiveSource, MoveSource, SourceStopped
from wingsd.threadio import relayed
from wingsd.transfers.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
    FinalPassStalled,
)
from wingsd.transfers.outgoing.move_round import (
    BatchSize,
    ClosedRound,
    PlannedRound,
    RoundSender,
    asking,
)
from wingsd.transfers.outgoing.retries import RepeatLimits, StallWatch
from wingsd.transfers.outgoing.source import SourceStorage
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.move_answers import (
    MoveResumed,
    MoveSmaller,
    ResumeNeeded,
    failure_of,
)
from wingsd.transfers.peer.moves import MoveClient
from wingsd.util.observer import Observer
from wingsd.util.text import readable_size

__all__ = [
    "AttachedFile",
    "AttachmentReader",
    "Delivery",
    "MoveOrder",
    "OutgoingMove",
    "Rehearsal",
]

_NOT_READ = "a file that is to be sent with the server could not be read"
_HASHED = 1 << 20


@attrs.frozen(repr=False)
class AttachedFile:
    """A file of `size` bytes at `path`, and the `name` that it is sent by.

    Of one that `may_grow` only so many bytes are sent.
    """

    name: str
    path: str
    size: int
    may_grow: bool = False


class AttachmentReader:
    """Reads a file in pieces, and hashes it. Methods raise `StorageError`."""

    def __init__(self, file: AttachedFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        #: How many bytes were hashed: the next piece begins there.
        self.position = 0

    def piece(self, offset: int, size: int) -> tuple[bytes, str]:
        """Return the bytes from `offset` on, and with the last ones the SHA-256 of the whole."""
        file = self._file
        try:
            descriptor = os.open(file.path, FILE_FLAGS)
            with open(descriptor, "rb", buffering=0) as opened:
                self._skip_to(opened.fileno(), offset)
                data = _exactly(opened.fileno(), offset, min(size, file.size - offset))
                is_longer = not file.may_grow and opened.seek(0, os.SEEK_END) > file.size
        except OSError as error:
            raise StorageError(f"{file.path}: {error.strerror}", _NOT_READ) from error
        if len(data) < min(size, file.size - offset) or is_longer:
            raise StorageError(f"{file.path} was changed while it was sent", _NOT_READ)
        self._digest.update(data)
        self.position += len(data)
        return data, self._digest.hexdigest() if self.position == file.size else ""

    def _skip_to(self, descriptor: int, offset: int) -> None:
        """Hash what is before `offset`."""
        if offset < self.position:
            self._digest, self.position = hashlib.sha256(), 0
        while self.position < offset:
            data = os.pread(descriptor, min(_HASHED, offset - self.position), self.position)
            if not data:
                return  # it is shorter: the next piece is, too
            self._digest.update(data)
            self.position += len(data)


def _exactly(descriptor: int, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return bytes(data)


#: Seconds for which the answers count.
GOOD_FOR = 60.0
#: Seconds between two lines about what is in the way.
LINE_EVERY = 300.0
#: Seconds for each of the requests.
PREPARED_WITHIN = 30.0
#: Seconds between two questions to a destination that answers at once.
PREPARE_PAUSE = 1.0
#: The most seconds that a destination is believed to need to make a container.
LONGEST_MAKING = 600.0
#: How often in a row it is tried what fails until a person has changed something.
FINAL_TRIES = 3
#: Answers after which there is no move any more that could be prepared.
_ENDED_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


class Rehearsal:
    """The rehearsal of one server by `client`; `say` gets lines for people.

    `measure` returns what its files take by then, as the requests have it.

    After `patience` seconds without both answers it gives up, and after `FINAL_TRIES` that have
    failed for a reason which does not go away by itself.
    """

    def __init__(
        self,
        client: MoveClient,
        measure: Callable[[], Awaitable[dict[str, int]]],
        clock: IReactorTime,
        patience: float,
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._measure = measure
        self._clock = clock
        self._patience = patience
        self._say = say
        #: Seconds that making its container takes at the destination; 0 until it was rehearsed.
        self.container_seconds = 0.0
        #: Until when the last answers count, since when there are none, and when that is told.
        self._good_until = float("-inf")
        self._since: float | None = None
        self._next_line = 0.0
        #: How many in a row have failed for such a reason.
        self._final = 0

    async def passed(self, ask_panel: Callable[[], Awaitable[None]]) -> bool:
        """Return whether the server may be stopped; where not, this is to be called again later.

        `ask_panel` asks this node's Panel. Raises the reason when it gives up, or the destination
        has ended the move.
        """
        if self._clock.seconds() < self._good_until:
            return True
        began: float = self._clock.seconds()
        try:
            await self._rehearse(began + self._patience)
            await ask_panel()
        except WingsdError as error:
            if isinstance(error, DestinationRefused) and error.response_status in _ENDED_STATUSES:
                raise
            self._note(error, began)
            return False
        self._since, self._final = None, 0
        self._good_until = self._clock.seconds() + GOOD_FOR
        return True

    async def _rehearse(self, end: float) -> None:
        await self._client.prepare(await self._measure(), PREPARED_WITHIN)
        tag = ""
        while True:
            progress = await self._client.progress(tag, PREPARED_WITHIN)
            found = progress.preparation
            if progress.outcome:
                raise DestinationRefused(
                    f"the destination node says: {progress.error}",
                    progress.detail,
                    HTTPStatus.GONE,
                )
            if found is None or found.state == "failed":
                why = found.error if found is not None else "it was started anew"
                detail = found.detail if found is not None else "it is asked again"
                refused = DestinationRefused(
                    f"the destination node is not ready for the server: {why}",
                    detail,
                    HTTPStatus.SERVICE_UNAVAILABLE,
                )
                refused.is_final = found is not None and found.final
                raise refused
            if found.state == "ready":
                self.container_seconds = min(max(found.container_seconds, 0.0), LONGEST_MAKING)
                return
            if self._clock.seconds() >= end:
                raise DestinationRefused(
                    "the destination node is not ready for the server: it prepares without an end",
                    "see its log, and whether it can pull the image",
                    HTTPStatus.SERVICE_UNAVAILABLE,
                )
            if progress.tag == tag:
                pausing: Deferred[None] = deferLater(self._clock, PREPARE_PAUSE)
                await pausing
            tag = progress.tag

    def _note(self, error: WingsdError, began: float) -> None:
        """Tell why the server is not stopped yet. Raises `error` when it gives up."""
        now: float = self._clock.seconds()
        if self._since is None:
            self._since, self._next_line = began, now
        self._final = self._final + 1 if error.is_final else 0
        if now - self._since >= self._patience or self._final >= FINAL_TRIES:
            raise error
        if now >= self._next_line:
            self._next_line = now + LINE_EVERY
            self._say(f"the server is not stopped yet, and runs on: {error}")


T = TypeVar("T")

#: Seconds before a destination is asked again.
RESUME_AFTER = 1.0
#: Seconds for which it is tried to learn why a destination has ended the move.
ASKED_WITHIN = 3.0
#: How often it is asked for that, though it tells something new each time.
ASKED_AT_MOST = 20
#: Bytes of a piece of an attachment.
PIECE = 4 << 20
LEAST_PIECE = 64 << 10


@attrs.frozen(eq=False, repr=False)
class MoveOrder:
    """What is moved, and how: at most `streams` batches of at most `batch` bytes at once.

    Temporary files are in `scratch`. `total` are the bytes of the server's files, 0 where they
    were not measured.

    `running` is whether the server ran before the move, `is_resumed` whether an earlier daemon
    began it, `is_asked` whether that may have asked for the commit. After the commit a destination
    may be silent for `lost_after` seconds; what does not get on is tried for `patience` seconds.
    If the move fails, the destination is told so for `discard_within` seconds. Of extended
    attributes those are sent that the destination keeps, `attributes`.
    """

    server: str
    directory: str
    scratch: str
    total: int
    attachments: tuple[AttachedFile, ...]
    batch: int
    streams: int
    zstd: bool
    attributes: AttributesKept
    running: bool
    is_resumed: bool
    is_asked: bool
    lost_after: float
    patience: float
    discard_within: float


class Delivery:
    """Sends what is ordered by `client`. `close` must be called.

    `say` gets lines for people, `observer` hears that it goes on after a break. `kept` is what an
    earlier move of the server has read. Methods raise `StorageError` and `DestinationError`, and
    `CancelledError` after `stop` and an abort of `client`.
    """

    def __init__(
        self,
        order: MoveOrder,
        client: MoveClient,
        uploader: Uploader,
        say: Callable[[str], None],
        observer: Observer,
        live: LiveSource | None,
        kept: MoveSource | None = None,
    ) -> None:
        self.limits = RepeatLimits()
        #: The last round that was closed.
        self.closed: ClosedRound | None = None
        #: How often the destination was asked what it holds.
        self.sessions = 0
        #: Bytes that had arrived, and had to be sent again.
        self.lost = 0
        #: Gets a line for each file that is left out or sent otherwise, from any thread.
        self.warn: Callable[[str], None] = say
        #: Called when it is known what is to be sent, with the bytes that are there where the
        #: destination was asked for them.
        self.planned: Callable[[int | None], None] = lambda there: None
        self._order = order
        self._client = client
        self._uploader = uploader
        self._say = say
        self._observer = observer
        self._live = live
        self._size = BatchSize(order.batch)
        self._source = self._kept = kept
        self._sender: RoundSender | None = None
        self._is_planned = False
        #: Whether the destination has what was closed last, and nothing has happened since.
        self._is_in_session = False
        #: Bytes of the files beside the server that are there, and whether all are.
        self._attached = 0
        self._is_attached = False
        self._piece = BatchSize(min(PIECE, order.batch), first=PIECE, least=LEAST_PIECE)
        #: What the destination held at the last resumption, and what it had taken before that.
        self._held = self._taken_before = 0
        self._stall: StallWatch | None = None

    @property
    def read(self) -> int:
        """The bytes of files and attachments that were read, or that were there already."""
        return self._attached + (self._source.read if self._source is not None else 0)

    @property
    def files(self) -> int:
        """The number of files that have been read."""
        return self._source.files if self._source is not None else 0

    def stop(self) -> None:
        """Have what is being read end soon."""
        if self._source is not None:
            self._source.stop()

    def hand_over(self) -> MoveSource | None:
        """Return what was read so far, for a later move of the server, once nothing is under way.

        It is not closed here then.
        """
        source, self._source = self._source, None
        return source

    async def close(self) -> None:
        """Close files."""
        source, self._source = self._source, None
        if source is not None:
            await self._uploader.packers.run(source.close)

    # A server that runs

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        """Find out what the destination lacks of a server that runs."""

        async def plan() -> PlannedRound:
            planned = await self._plan(running=True, leave_hot=leave_hot)
            if planned is None:
                raise DestinationRefused(
                    "the destination node's answer is not one to a move",
                    "it commits a server whose commit was not asked for",
                    409,
                )
            return planned

        return await self._persist(plan)

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send what was planned; after a break what it is then."""

        async def send() -> ClosedRound:
            sender = self._sender
            if sender is None or not self._is_planned:
                await self._plan(running=True, leave_hot=leave_hot)
            return await self._send()

        return await self._persist(send)

    def was_started(self) -> None:
        """Note that the server was started after `deliver` had begun."""
        self._is_in_session = False
        if self._source is not None:
            self._source.was_started()

    async def look_again(self, *, has_failed: bool, starts_over: bool = False) -> None:
        """Read another directory from here on, where one is in the server's place now.

        If something `has_failed`, go on as if nothing had: the destination is asked what it holds.
        With `starts_over` all files are read again.
        """
        if has_failed:
            self.limits, self._is_in_session = RepeatLimits(), False
        source, run = self._source, self._uploader.packers.run
        if source and (starts_over or not await run(source.is_of, self._order.directory)):
            self._sender, self._kept, self._is_in_session = None, None, False
            await self.close()

    # A server that has ended

    async def deliver(self, patience: float = 0.0, *, reopens: bool = False) -> None:
        """Send what the destination lacks, until both nodes have the same.

        Raises `FinalPassStalled` where it makes no progress for `patience` seconds; 0 is without
        an end. Where a commit was asked for before, and this `reopens` the move, it does so only
        when the destination has begun a session since: it takes no commit of an earlier one then.
        """
        if not patience:
            await self._persist(self._deliver_once)
            return
        clock, before = self._uploader.reactor, self.sessions

        def mark() -> Hashable:
            return clock.seconds() if reopens and self.sessions == before else self._mark

        stall = StallWatch(clock, patience, mark, self._client.interrupt)
        self._stall = stall
        try:
            await self._persist(self._deliver_once)
        finally:
            stall.stop()
            self._stall = None

    def lose_session(self) -> None:
        """Have the destination be asked what it holds before anything else is sent."""
        self._is_in_session = False

    def pause(self) -> Deferred[None]:
        """Wait for a moment."""
        pausing: Deferred[None] = deferLater(self._uploader.reactor, RESUME_AFTER)
        return pausing

    # Its parts

    @property
    def _mark(self) -> Hashable:
        """A value that changes whenever this node or the destination makes progress."""
        source, sender = self._source, self._sender
        return (
            self.read,
            self.files,
            self.sessions,
            sender.done if sender is not None else 0,
            source.steps if source is not None else (),
            self._client.steps,
        )

    async def _persist(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Do some work until it succeeds."""
        while True:
            try:
                if self._stall is not None and self._stall.is_over:
                    raise FinalPassStalled(self._stall.patience)
                return await work()
            except ResumeNeeded as needed:
                self._is_in_session = False
                self.limits.count(needed)
                await self.pause()
            except MoveSmaller:  # of a batch: its size was noted
                self.limits.count_again()
            except SourceFileChanged as changed:
                self.limits.count_change(changed)
                await self.pause()
            except SourceStopped:
                raise CancelledError from None
            except DestinationRefused as error:
                raise await _explained(error, self._client) from error
            except CancelledError:
                if self._stall is None or not self._stall.is_over:
                    raise

    async def _deliver_once(self) -> None:
        if await self._plan(running=False) is None:
            return
        closed = await self._send()
        if closed.unproven:
            raise SourceFileChanged(closed.unproven)

    async def _open(self) -> RoundSender:
        """Return what sends the rounds."""
        if self._sender is None:
            source = self._source = await self._opened()
            self._sender = RoundSender(
                self._client,
                source,
                self._uploader.packers,
                self._uploader.followers,
                self._uploader.reactor,
                self._size,
                self._order.streams,
                zstd=self._order.zstd,
            )
        return self._sender

    async def _opened(self) -> MoveSource:
        """Return what reads the files: that of an earlier move, where there is one."""
        run, kept = self._uploader.packers.run, self._kept
        self._kept = None
        if kept is not None and kept.kept != self._order.attributes:
            await run(kept.close)  # all is read again, for others than it has
        elif kept is not None:
            log = self._live.log if self._live is not None else None
            await run(kept.hand_over, self._tell, log)
            return kept
        scratch = self._order.scratch
        return await run(
            MoveSource,
            self._order.directory,
            self._tell,
            self._live,
            scratch=scratch,
            kept=self._order.attributes,
        )

    def _tell(self, line: str) -> None:
        self.warn(line)

    async def _plan(self, *, running: bool, leave_hot: bool = False) -> PlannedRound | None:
        """Plan a round; None where the destination puts the server into place already."""
        await self.look_again(has_failed=False)
        sender = await self._open()
        self._is_planned = False
        resumed = None
        if not self._is_in_session or not sender.can_go_on:
            with asking(self._client, self._uploader.reactor):
                resumed = await self._client.resume()
            if resumed is None:
                return None
            self._note(resumed, sender)
        planned = await sender.plan(resumed, running=running, leave_hot=leave_hot)
        self._is_planned = True
        self.planned(None if resumed is None else resumed.bytes)
        return planned

    async def _send(self) -> ClosedRound:
        sender = self._sender
        assert sender is not None  # noqa: S101 - by `_plan`
        self._is_planned = False
        try:
            closed = await sender.send()
        finally:
            if sender.taken > self._taken_before:
                self.limits.progressed()
        self.closed, self._is_in_session = closed, True
        self.limits.closed()
        if not self._is_attached:
            self._attached = 0
            for file in self._order.attachments:
                await self._attach(file)
            self._is_attached = True
        return closed

    def _note(self, resumed: MoveResumed, sender: RoundSender) -> None:
        """Note what the destination holds, and tell it where the move goes on."""
        is_first = self.sessions == 0
        self.sessions += 1
        self._is_attached = False
        if not is_first:
            missing = self._held + sender.taken - self._taken_before - resumed.bytes
            # The rest has come in place of what was there before.
            self.lost += min(max(missing, 0), sender.undurable)
        self._held, self._taken_before = resumed.bytes, sender.taken
        if self._order.is_resumed or not is_first:
            self._observer.move_resumed()
        if resumed.bytes:
            there = readable_size(resumed.bytes)
            if self._order.total:
                there += f" of {readable_size(max(self._order.total, resumed.bytes))}"
            self._say(f"resumed: {there} were there")

    async def _attach(self, file: AttachedFile) -> None:
        """Send what the destination lacks of a file beside the server."""
        reader = AttachmentReader(file)
        offset = await self._client.offset(file.name)
        before = self._attached
        while True:
            if offset > file.size:
                raise DestinationRefused(
                    "the destination node's answer is not one to a move",
                    f"it has {offset} bytes of {file.name}, which has {file.size}",
                    200,
                )
            piece = self._uploader.packers.run(reader.piece, offset, self._piece.value)
            data, sha256 = await piece
            size, began = len(data), self._uploader.reactor.seconds()
            smaller = partial(self._piece.cut, size)
            try:
                reached = await self._client.patch(file.name, offset, data, smaller, sha256)
            except MoveSmaller as refused:
                if not refused.was_cut:
                    self._piece.refused(size, refused.error)
                continue
            self._piece.taken(size, self._uploader.reactor.seconds() - began)
            if reached < offset or (data and reached == offset):  # it did not arrive as sent
                self.limits.count_damage(file.path)
            else:
                self.limits.count_piece(file.name, is_whole=reached >= offset + size)
            offset = reached
            self._attached = before + offset
            if sha256 and offset == file.size:
                return


async def _explained(error: DestinationRefused, client: MoveClient) -> DestinationError:
    """Return why the destination has ended the move, where `error` only says that it has."""
    tag = ""
    for _ in range(ASKED_AT_MOST if error.response_status == HTTPStatus.GONE else 0):
        try:
            progress = await client.progress(tag, ASKED_WITHIN)
        except DestinationError:
            break
        if progress.outcome:
            return failure_of(progress)
        if progress.tag == tag:  # it has not found out within half a minute
            break
        tag = progress.tag
    return error


#: Seconds for which a request is repeated after the commit, before others are asked as well.
LOST = 3.0
#: Bytes to read of a round before which the room for it is looked for.
MUCH = 64 << 20
#: Seconds after which it is tried again whether the server may be stopped.
REHEARSE_EVERY = 10.0
#: What it says where there is none any more.
_ENDED_CODES = frozenset({"move-not-found", "move-key-invalid", "move-over"})


class OutgoingMove:
    """A move by `client`, which `connect` also makes anew.

    `say` gets lines for people, `observer` hears that it goes on after a break. With `live` the
    server may be followed while it runs. `kept` is what an earlier move of it has read.
    """

    _log = Logger()

    def __init__(
        self,
        order: MoveOrder,
        connect: Callable[[], MoveClient],
        uploader: Uploader,
        say: Callable[[str], None],
        observer: Observer,
        storage: SourceStorage,
        live: LiveSource | None = None,
        kept: MoveSource | None = None,
    ) -> None:
        self._order = order
        self._connect = connect
        self._client = connect()
        self._uploader = uploader
        self._say = say
        self._observer = observer
        self._storage = storage
        self._delivery = Delivery(order, self._client, uploader, say, observer, live, kept)
        self._delivery.warn = relayed(uploader.reactor, say)
        self._rehearsal = Rehearsal(
            self._client,
            partial(storage.figures, order.server, may_be_known=True),
            uploader.reactor,
            order.patience,
            say,
        )
        self._is_followed = live is not None
        #: Whether the server ran when it was asked to stop.
        self.running = order.running
        self._is_committing = order.is_asked
        #: Whether a commit was asked for that may still come; whether the destination is silent
        #: since then; and when it was last heard of.
        self._is_asked, self._is_lost = order.is_asked, False
        self._heard = 0.0

    # How far it is

    @property
    def begun(self) -> bool:
        """Whether the destination may have any of it."""
        return self._delivery.sessions > 0

    @property
    def body_sent(self) -> bool:
        """Whether the commit was asked for: only then the destination can have the server."""
        return self._is_committing

    @property
    def is_asked(self) -> bool:
        """Whether a commit was asked for that may still come."""
        return self._is_asked

    @property
    def is_live(self) -> bool:
        """Whether the server ran while it was moved."""
        return self._is_followed and self.running

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return self._client.bytes_out

    @property
    def bytes_again(self) -> int:
        """How many of them had to be sent again."""
        return self._client.bytes_again + self._delivery.lost

    @property
    def read(self) -> int:
        """The bytes of files and attachments that were read, or that were there already."""
        return self._delivery.read

    @property
    def files(self) -> int:
        """The number of files that have been read."""
        return self._delivery.files

    @property
    def container_seconds(self) -> float:
        """The seconds that making its container takes at the destination; 0 if not known yet."""
        return self._rehearsal.container_seconds

    def follow_plans(self, planned: Callable[[int | None], None]) -> None:
        """Have `planned` be called whenever it is known what is to be sent; see `Delivery`."""
        self._delivery.planned = planned

    # What it does

    async def may_be_stopped(self, ask_panel: Callable[[], Awaitable[None]]) -> bool:
        """Return whether a running server may be stopped now: it could run at the destination.

        `ask_panel` asks this node's Panel. Where not, the server runs on, people are told why, and
        this is to be called again later: after the next round, or some seconds. That both have
        answered counts for a minute. Raises the reason once it has not changed for `patience`
        seconds, or where the destination has ended the move.
        """
        return await self._rehearsal.passed(ask_panel)

    async def rehearse(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Return when a running server may be stopped. Raises as `may_be_stopped`."""
        while not await self.may_be_stopped(ask_panel):
            pausing: Deferred[None] = deferLater(self._uploader.reactor, REHEARSE_EVERY)
            await pausing

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        """Find out what the destination lacks of a server that runs. Raises as `send`.

        A later round with much to send raises why there is no room for it.
        """
        planned = await self._delivery.plan_round(leave_hot=leave_hot)
        if self._delivery.closed is not None and planned.unread + planned.left >= MUCH:
            await self._client.require_room(await self._storage.figures(self._order.server))
        return planned

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send that. Raises as `send`."""
        return await self._delivery.send_round(leave_hot=leave_hot)

    def wait_for(self, seconds: float | None) -> None:
        """Repeat each request for so many seconds; None for the usual patience."""
        self._client.patience = self._order.patience if seconds is None else seconds

    async def look_again(self, *, has_failed: bool, starts_over: bool) -> None:
        """Look, before a round, whether the server has another directory now; see `Delivery`."""
        await self._delivery.look_again(has_failed=has_failed, starts_over=starts_over)

    async def ended(self) -> DestinationError | None:
        """Return why the destination has ended the move; None where it has not said so.

        It is asked once.
        """
        try:
            progress = await self._client.look()
        except DestinationRefused as error:
            return error if error.answer_code in _ENDED_CODES else None
        except DestinationError:
            return None
        return failure_of(progress) if progress.outcome else None

    def hand_over(self) -> MoveSource | None:
        """Return what was read, for a later move of the server; see `Delivery`."""
        return self._delivery.hand_over()

    def was_started(self) -> None:
        """Note that the server runs again, after `send` has failed."""
        self._delivery.was_started()

    async def send(self, warn: Callable[[str], None], patience: float = 0.0) -> None:
        """Send all of a server that has ended; return when only the commit is missing.

        `warn` gets a line for each file that is left out or sent otherwise, from any thread.
        Raises `StorageError`, `DestinationError`, and `CancelledError` after `abort`;
        `FinalPassStalled` where it makes no progress for `patience` seconds; 0 is without an end.
        """
        self._delivery.warn = warn
        await self._delivery.deliver(patience)

    async def answered(
        self, has_moved: Callable[[], Awaitable[bool]], patience: float = 0.0
    ) -> None:
        """Ask for the commit; return when the destination has the server.

        While it gives no answer, `has_moved` is asked whether it has, too. Raises the reason why
        it has not, or that this is not known. After `FinalPassStalled` it has not, and cannot get
        it by what was asked so far: the commit came to nothing, the destination has begun a
        session since, and taken nothing for so many seconds of `patience`.
        """
        self._is_committing = True
        limit, clock = self._uploader.answer_timeout, self._uploader.reactor
        end = clock.seconds() + limit if limit else inf
        self._heard = clock.seconds()
        while not await self._is_committed(end):
            if self._is_lost and await has_moved():
                self._say("moved: only the destination's answer was lost")
                return
            if not self._is_lost:
                # One of the nodes was started anew before that: nothing is committed until it is
                # asked again.
                self._delivery.limits.count_reopened()
                self._delivery.lose_session()
                try:
                    await self._delivery.deliver(patience, reopens=True)
                except FinalPassStalled:
                    self._is_committing = self._is_asked = False
                    raise

    def abort(self) -> None:
        """End it at once."""
        self._delivery.stop()
        self._client.abort()

    async def close(self) -> None:
        """Close connections and files."""
        self._client.abort()
        self._observer.sent_again(self.bytes_again)
        await self._delivery.close()

    async def discard(self, *, keep: bool) -> None:
        """Tell the destination that the move has failed; `keep` what it has for the next one."""
        client = self._connect()
        try:
            await client.delete(keep=keep, patience=self._order.discard_within)
        except (DestinationError, ResumeNeeded, CancelledError) as error:
            self._log.info(
                "{server}: the destination was not told that the move has failed: {error}",
                server=self._order.server,
                error=error,
            )
        finally:
            client.abort()

    # Its parts

    async def _is_committed(self, end: float) -> bool:
        """Return whether the destination has the server.

        False where that is not known, or it has to be asked what it holds.
        """
        clock = self._uploader.reactor
        try:
            return await self._commit(end)
        except ResumeNeeded as needed:
            self._is_lost = False
            self._delivery.limits.count(needed)
        except DestinationError as error:
            if not (error.may_complete or _is_temporary(error)):
                raise
            self._is_lost = True
            if clock.seconds() - self._heard >= self._order.lost_after:
                raise DestinationDisconnected(str(error), body_sent=True) from error
        return False

    async def _commit(self, end: float) -> bool:
        """Return whether it was committed; False where it came to nothing."""
        closed = self._delivery.closed
        # Without one the destination commits what an earlier daemon has asked for.
        if not self._is_asked and closed is not None:
            await self._client.commit(
                closed.number, closed.root, running=self.running, patience=LOST
            )
        self._is_asked = True
        tag = ""
        while True:
            progress = await self._client.progress(tag, LOST)
            self._is_lost, self._heard = False, self._uploader.reactor.seconds()
            if progress.outcome == "success":
                return True
            if progress.outcome:
                raise failure_of(progress)
            if progress.phase == "open":
                self._is_asked = False
                self._delivery.limits.count_setback(progress)
                return False
            if self._heard >= end:
                raise DestinationTimeout(self._uploader.answer_timeout)
            if progress.tag == tag:
                await self._delivery.pause()
            tag = progress.tag


def _is_temporary(error: DestinationError) -> bool:
    """Return whether it says nothing about the server, and may do so when it is asked again."""
    is_not_now = isinstance(error, DestinationRefused) and error.is_temporary
    return is_not_now or isinstance(error, DestinationUnreachable)

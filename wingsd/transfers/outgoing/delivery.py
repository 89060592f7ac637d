"""What a move sends before the commit: rounds of the tree, and the files beside the server.

It goes on after each break: the destination tells what it holds, and gets what it lacks. While the
server runs, `plan_round` and `send_round` follow it; `deliver` sends what is there when it has
ended, as of a server that does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from wingsd.filesystem.attributes import AttributesKept
from wingsd.moves.errors import SourceFileChanged
from wingsd.moves.source import LiveSource, MoveSource, SourceStopped
from wingsd.transfers.errors import DestinationError, DestinationRefused, FinalPassStalled
from wingsd.transfers.outgoing.attached import AttachedFile, AttachmentReader
from wingsd.transfers.outgoing.batch_size import BatchSize
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound, RoundSender
from wingsd.transfers.outgoing.presence import asking
from wingsd.transfers.outgoing.repeat_limits import RepeatLimits
from wingsd.transfers.outgoing.stall_watch import StallWatch
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

__all__ = ["Delivery", "MoveOrder"]

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
                self.limits.count_damage(file)
            else:
                self.limits.count_piece(file, is_whole=reached >= offset + size)
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

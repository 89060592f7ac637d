"""The move of one server in batches, which goes on after each break: see docs/moves.md.

Like `OutgoingStreams`, it sends all and then waits for the answer. Only from the commit on, which
`answered` asks for, the destination may have the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import StorageError, WingsdError
from wingsd.moves.errors import SourceFileChanged
from wingsd.moves.source import MoveSource, SourceStopped
from wingsd.transfers.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
)
from wingsd.transfers.outgoing.attached import AttachedFile, AttachmentReader
from wingsd.transfers.outgoing.move_round import BatchSize, ClosedRound, RoundSender
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.move_answers import (
    MoveProgress,
    MoveResumed,
    MoveSmaller,
    ResumeNeeded,
)
from wingsd.transfers.peer.moves import MoveClient
from wingsd.util.observer import Observer
from wingsd.util.text import readable_size

__all__ = ["MoveOrder", "OutgoingMove"]

#: How often a round is sent again whose root differs, or in which a file was changed.
DIFFERENCES = 3
#: How often the destination is asked what it holds, and takes no batch after that.
RESUMPTIONS = 10
#: How often the commit is asked for, and comes to nothing.
SETBACKS = 5
#: Seconds before that is asked again.
RESUME_AFTER = 1.0
#: Seconds for which a request is repeated after the commit, before others are asked as well.
LOST = 3.0
#: Bytes of a piece of an attachment.
PIECE = 4 << 20
LEAST_PIECE = 64 << 10
#: Seconds for the destination to hear that the move has failed.
DISCARD_WITHIN = 30.0


@attrs.frozen(eq=False, repr=False)
class MoveOrder:
    """What is moved, and how: at most `streams` batches of at most `batch` bytes at once.

    `total` are the bytes of the server's files, 0 where they were not measured.

    `running` is whether the server ran before the move, `is_resumed` whether an earlier daemon
    began it. After the commit a destination may be silent for `lost_after` seconds.
    """

    server: str
    directory: str
    total: int
    attachments: tuple[AttachedFile, ...]
    batch: int
    streams: int
    zstd: bool
    running: bool
    is_resumed: bool
    lost_after: float


class OutgoingMove:
    """A move by `client`, which `connect` also makes anew.

    `say` gets lines for people, `observer` hears that it goes on after a break.
    """

    _log = Logger()

    def __init__(
        self,
        order: MoveOrder,
        connect: Callable[[], MoveClient],
        uploader: Uploader,
        say: Callable[[str], None],
        observer: Observer,
    ) -> None:
        self._order = order
        self._connect = connect
        self._client = connect()
        self._uploader = uploader
        self._say = say
        self._observer = observer
        self._size = BatchSize(order.batch)
        self._source: MoveSource | None = None
        self._round: RoundSender | None = None
        self._closed: ClosedRound | None = None
        self._attached = 0
        self._piece = min(PIECE, order.batch)
        self._sessions = 0
        self._is_committing = False
        #: Whether a commit was asked for that may still come; whether the destination is silent
        #: since then; and when it was last heard of.
        self._is_asked = self._is_lost = False
        self._heard = 0.0
        self._limits = _Limits()
        #: What the destination held at the last resumption, and what it had taken before that.
        self._held = self._taken_before = 0
        self._lost = 0

    # How far it is

    @property
    def begun(self) -> bool:
        """Whether the destination may have any of it."""
        return self._sessions > 0

    @property
    def body_sent(self) -> bool:
        """Whether the commit was asked for: only then the destination can have the server."""
        return self._is_committing

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return self._client.bytes_out

    @property
    def bytes_again(self) -> int:
        """How many of them had to be sent again."""
        return self._client.bytes_again + self._lost

    @property
    def read(self) -> int:
        """The bytes of files and attachments that were read, or that were there already."""
        return self._attached + (self._source.read if self._source is not None else 0)

    @property
    def files(self) -> int:
        """The number of files that have been read."""
        return self._source.files if self._source is not None else 0

    # What it does

    async def send(self, warn: Callable[[str], None]) -> None:
        """Send all; return when only the commit is missing.

        `warn` gets a line for each file that is left out or sent otherwise, from any thread.
        Raises `StorageError`, `DestinationError`, and `CancelledError` after `abort`.
        """
        opening = self._uploader.packers.run(MoveSource, self._order.directory, warn)
        self._source = await opening
        self._round = RoundSender(
            self._client,
            self._source,
            self._uploader.packers,
            self._uploader.reactor,
            self._size,
            self._order.streams,
            zstd=self._order.zstd,
        )
        await self._deliver()

    async def answered(self, has_moved: Callable[[], Awaitable[bool]]) -> None:
        """Ask for the commit; return when the destination has the server.

        While it gives no answer, `has_moved` is asked whether it has, too. Raises the reason why
        it has not, or that this is not known.
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
                # It was started anew before that: nothing is committed until it is asked again.
                await self._deliver()

    def abort(self) -> None:
        """End it at once."""
        if self._source is not None:
            self._source.stop()
        self._client.abort()

    async def close(self) -> None:
        """Close connections and files."""
        self._client.abort()
        self._observer.sent_again(self.bytes_again)
        source, self._source = self._source, None
        if source is not None:
            await self._uploader.packers.run(source.close)

    async def discard(self, *, keep: bool) -> None:
        """Tell the destination that the move has failed; `keep` what it has for the next one."""
        client = self._connect()
        try:
            await client.delete(keep=keep, patience=DISCARD_WITHIN)
        except (DestinationError, ResumeNeeded, MoveSmaller, CancelledError) as error:
            self._log.info(
                "{server}: the destination was not told that the move has failed: {error}",
                server=self._order.server,
                error=error,
            )
        finally:
            client.abort()

    # Its parts

    async def _deliver(self) -> None:
        """Send what the destination lacks, until both nodes have the same."""
        while True:
            try:
                await self._deliver_once()
            except ResumeNeeded as needed:
                self._limits.count(needed)
                await self._pause()
            except MoveSmaller:
                continue
            except SourceFileChanged as changed:
                self._limits.count_change(changed)
                await self._pause()
            except SourceStopped:
                raise CancelledError from None
            else:
                return

    async def _deliver_once(self) -> None:
        sender = self._round
        assert sender is not None  # noqa: S101 - by `send`
        resumed = await self._client.resume()
        if resumed is None:
            return
        self._note(resumed, sender.taken)
        try:
            self._closed = await sender.run(resumed)
        finally:
            if sender.taken > self._taken_before:
                self._limits.progressed()
        self._attached = 0
        for file in self._order.attachments:
            await self._attach(file)

    def _note(self, resumed: MoveResumed, taken: int) -> None:
        """Note what the destination holds, and tell it where the move goes on."""
        is_first = self._sessions == 0
        self._sessions += 1
        if not is_first:
            self._lost += max(self._held + taken - self._taken_before - resumed.bytes, 0)
        self._held, self._taken_before = resumed.bytes, taken
        if self._order.is_resumed or not is_first:
            self._observer.move_resumed()
        if resumed.bytes:
            there = readable_size(resumed.bytes)
            if self._order.total:
                there += f" of {readable_size(max(self._order.total, resumed.bytes))}"
            self._say(f"resumed: {there} were there")

    def _pause(self) -> Deferred[None]:
        pausing: Deferred[None] = deferLater(self._uploader.reactor, RESUME_AFTER)
        return pausing

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
            piece = self._uploader.packers.run(reader.piece, offset, self._piece)
            data, sha256 = await piece
            try:
                reached = await self._client.patch(file.name, offset, data, sha256)
            except MoveSmaller as refused:
                if self._piece <= LEAST_PIECE:
                    raise refused.error from refused
                self._piece //= 2
                continue
            if reached < offset or (data and reached == offset):  # it did not arrive as sent
                self._limits.count_damage(file)
            offset = reached
            self._attached = before + offset
            if sha256 and offset == file.size:
                return

    async def _is_committed(self, end: float) -> bool:
        """Return whether the destination has the server.

        False where that is not known, or it has to be asked what it holds.
        """
        clock = self._uploader.reactor
        try:
            return await self._commit(end)
        except ResumeNeeded as needed:
            self._is_lost = False
            self._limits.count(needed)
        except DestinationError as error:
            if not (error.may_complete or isinstance(error, DestinationUnreachable)):
                raise
            self._is_lost = True
            if clock.seconds() - self._heard >= self._order.lost_after:
                raise DestinationDisconnected(str(error), body_sent=True) from error
        return False

    async def _commit(self, end: float) -> bool:
        """Return whether it was committed; False where it came to nothing."""
        closed = self._closed
        assert closed is not None  # noqa: S101 - by `send`
        if not self._is_asked:
            running = self._order.running
            await self._client.commit(closed.number, closed.root, running=running, patience=LOST)
            self._is_asked = True
        tag = ""
        while True:
            progress = await self._client.progress(tag, LOST)
            self._is_lost, self._heard = False, self._uploader.reactor.seconds()
            if progress.outcome == "success":
                return True
            if progress.outcome:
                raise _failure(progress)
            if progress.phase == "open":
                self._is_asked = False
                self._limits.count_setback(progress)
                return False
            if self._heard >= end:
                raise DestinationTimeout(self._uploader.answer_timeout)
            if progress.tag == tag:
                await self._pause()
            tag = progress.tag


class _Limits:
    """How often a move goes on that does not get on."""

    def __init__(self) -> None:
        self._differences = self._resumptions = self._changes = self._setbacks = 0

    def count(self, needed: ResumeNeeded) -> None:
        """Count a resumption. Raises its error where there were too many."""
        self._resumptions += 1
        if needed.code == "move-root-mismatch":
            self._differences += 1
        if self._differences > DIFFERENCES or self._resumptions > RESUMPTIONS:
            raise needed.error

    def count_change(self, changed: WingsdError) -> None:
        """Count a file that was changed. Raises `changed` where there were too many."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise changed

    def count_setback(self, progress: MoveProgress) -> None:
        """Count a commit that came to nothing. Raises its error where there were too many."""
        self._setbacks += 1
        if self._setbacks > SETBACKS:
            raise _failure(progress)

    def count_damage(self, file: AttachedFile) -> None:
        """Count that a file arrived damaged. Raises an error where that was too often."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise StorageError(
                f"{file.path} arrives damaged again and again; check both nodes' disks and memory"
            )

    def progressed(self) -> None:
        """A batch was taken."""
        self._resumptions = 0


def _failure(progress: MoveProgress) -> DestinationRefused:
    text = progress.error or "the move has failed there"
    return DestinationRefused(f"the destination node says: {text}", progress.detail, 502)

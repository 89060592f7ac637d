"""What the source of one move asks of it: sessions, batches, rounds, attachments, the commit.

One session at a time has the word; what an earlier one asks is refused, and what is under way of
it ends before the next one begins. A batch holds a slot while it is read, in a thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import TypeVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from wingsd.config import MovesConfig
from wingsd.errors import WingsdError
from wingsd.moves.batch import BatchReader
from wingsd.moves.destination import Resumption
from wingsd.moves.errors import MoveBatchTooLarge
from wingsd.threadio import Feed, Workers
from wingsd.transfers.incoming.moves.answering import KeptWork
from wingsd.transfers.incoming.moves.attachments import Attachments
from wingsd.transfers.incoming.moves.bodies import ArrivingBody, BodyStream, BoundedFeed
from wingsd.transfers.incoming.moves.checkpoints import Checkpoints
from wingsd.transfers.incoming.moves.errors import (
    AttachmentsIncomplete,
    MoveBusy,
    MoveCommitted,
    MoveResumeNeeded,
)
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.transfers.incoming.moves.reading_behind import ReadingBehind
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.util.deferreds import Changes, fires_within, when_fired

__all__ = ["Commit", "Phase", "Reception"]

T = TypeVar("T")

#: Seconds that a batch waits for a slot, so that no proxy ends the request meanwhile.
TURN = 20.0
_MIB = 1 << 20


class Phase:
    """The phases of a move, as `GET` tells them."""

    OPEN = "open"
    COMMIT = "commit"
    OVER = "over"


@attrs.frozen(repr=False)
class Commit:
    """What a source wants committed; `running` is whether the server ran there."""

    round: int
    root: bytes
    running: bool


class Reception:
    """The requests of one move, between its admission and its end.

    `behind` reads back what has arrived, None where that is not wanted. Its phase, session and
    round are among `changes`. Each method raises the `WingsdError` that its request is answered
    with.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        copy: PartialCopy,
        attachments: Attachments,
        extraction: Extraction,
        disk: Workers,
        settings: MovesConfig,
        behind: ReadingBehind | None,
        changes: Changes,
    ) -> None:
        self.copy = copy
        self.attachments = attachments
        #: Those of `held`, and of blocks that have come in the place of others.
        self._held = 0
        #: Those that have arrived since.
        self.arrived = 0
        #: What the server's files take on the disk, and how many there are; 0 if not known.
        self.disk_bytes = self.disk_files = 0
        self.phase = Phase.OPEN
        #: The session that has the word; empty without.
        self.session = ""
        #: How many sessions there were in this daemon.
        self.sessions = 0
        #: Why the last commit came to nothing, until the next session.
        self.setback: WingsdError | None = None
        #: Called when a session begins, with what is held.
        self.on_session: Callable[[Resumption], object] = lambda _: None
        #: The context in which files beside the server's arrive: batches have checkpoints.
        self.writing_back: Callable[[], AbstractContextManager[None]] = nullcontext
        self._server = server
        self._extraction = extraction
        self._disk = disk
        #: How many bytes a batch may have, and how many bodies may be under way at once.
        self._most, self._streams = settings.batch * _MIB, settings.streams
        self._behind = behind
        self._changes = changes
        self._counting = Lock()
        self._bodies: dict[str, ArrivingBody] = {}
        self._resuming: KeptWork[Resumption] = KeptWork(extraction.reactor)
        #: The request that began a session last, or is about to.
        self._resumer = object()
        self._closing: KeptWork[None] = KeptWork(extraction.reactor)
        self._commit: Deferred[Commit] | None = None
        #: What was asked to be committed, until another session begins.
        self._committed: Commit | None = None
        self._is_committing = False
        self._closed: WingsdError | None = None
        self._checkpoints = Checkpoints(server, copy, disk, extraction.reactor, self._read_back)

    def open(self, *, is_new: bool) -> int:
        """Begin the copy, or open it again; return how many bytes it has. Blocking."""
        self.attachments.drop_others()
        return self.copy.begin() if is_new else self.copy.reopen()

    @property
    def held(self) -> int:
        """Bytes of files and attachments that are here; what was here before included.

        Blocks that come again in one session count again, up to the size of all files.
        """
        return min(self._held, self.copy.progress.bytes + self.attachments.size)

    @held.setter
    def held(self, value: int) -> None:
        self._held = value

    def to_come(self) -> tuple[int, int]:
        """Return how many bytes of files are not here yet, and how many files. Blocking."""
        here = max(self.held - self._attached(), 0)
        return max(self.disk_bytes - here, 0), max(self.disk_files - self.copy.files, 0)

    # What the source asks

    async def resume(self) -> tuple[str, Resumption]:
        """Begin a session and a round; return its name, and what is held."""
        self._check_open()
        if self._is_committing:
            raise MoveCommitted
        self._resumer = mine = object()
        self.session, self._committed = "", None
        held = await self._resuming.result("resume", self._rebased)
        self._check_open()
        if self._resumer is not mine:
            raise MoveResumeNeeded
        self._resuming.taken()
        # another session may have begun when this one is told
        self.session = session = secrets.token_hex(8)
        self.setback = None
        self.phase = Phase.OPEN
        self.sessions += 1
        self.held = held.bytes + await self._work(self._attached)
        self.on_session(held)
        self._changes.changed()
        return session, held

    async def _rebased(self) -> Resumption:
        await self._end_bodies(MoveResumeNeeded())
        return await self._long_work(self.copy.resume)

    async def page(self, session: str, number: int) -> bytes:
        """Return a page of what is held."""
        self._check(session)
        return await self._work(self.copy.page, number)

    async def receive_batch(
        self, session: str, number: int, stream: BodyStream, *, zstd: bool
    ) -> int:
        """Receive a batch; return the number up to which all are durable."""
        self._check(session)
        reader = BatchReader(zstd=zstd, most=self._most)

        def receive(pieces: Iterator[bytes]) -> int:
            return self.copy.receive(number, reader, pieces, self._count)

        durable = await self._read(f"batch {number}", session, stream, self._most, receive)
        self._checkpoints.later()
        self._read_back()
        return durable

    async def close_round(self, session: str, in_round: int, last: int, root: bytes) -> None:
        """Close a round."""
        self._check(session)
        asked = (session, in_round, last, root)
        await self._closing.result(asked, lambda: self._closed_round(in_round, last, root))
        self._closing.taken()

    async def _closed_round(self, in_round: int, last: int, root: bytes) -> None:
        await self._checkpoints.beside(self.copy.prepare_root)
        await self._work(self.copy.close_round, in_round, last, root)
        self._changes.changed()

    async def offset(self, session: str, name: str) -> int:
        """Return how many bytes of an attachment are here."""
        self._check(session)
        return await self._work(self.attachments.offset, name)

    async def receive_piece(
        self, session: str, name: str, offset: int, sha256: str, stream: BodyStream
    ) -> int:
        """Receive a piece of an attachment; return how many bytes of it are here."""
        self._check(session)

        def receive(pieces: Iterator[bytes]) -> int:
            return self.attachments.append(name, offset, sha256, self._counted(pieces))

        with self.writing_back():
            return await self._read(name, session, stream, self._most, receive)

    async def commit(self, session: str, commit: Commit) -> None:
        """Have the server put into place. Doing so twice is allowed."""
        if self._committed == commit:
            return  # also when it has gone on since: the answer was lost
        self._check_open()
        self._check(session)
        await self._work(self.copy.check_committable, commit.round, commit.root)
        missing = await self._work(self.attachments.missing)
        if missing:
            raise AttachmentsIncomplete(", ".join(missing))
        if self._committed == commit:
            return
        self._check(session)
        self._committed, self.phase = commit, Phase.COMMIT
        self._changes.changed()
        if self._commit is not None:
            asked, self._commit = self._commit, None
            asked.callback(commit)

    # What the transfer asks

    def committed(self) -> Deferred[Commit]:
        """Return the next commit that is asked for."""
        if self._committed is not None:
            return succeed(self._committed)
        self._commit = Deferred()
        return self._commit

    def is_withdrawn(self, commit: Commit) -> bool:
        """Return whether another session has begun since the commit was asked for."""
        return self._committed is not commit

    def reject(self, commit: Commit, error: WingsdError) -> None:
        """Note that a commit came to nothing, and why; the source has to resume."""
        if not self.is_withdrawn(commit):
            self.session, self._committed, self.setback = "", None, error
            self.phase = Phase.OPEN
            self._changes.changed()

    async def verify(self, commit: Commit) -> None:
        """Read back what was not read back yet. Raises `RootMismatch`, `MoveResumeNeeded`."""
        if self._behind is None:
            return

        def is_stopped() -> bool:
            return self._closed is not None or self.is_withdrawn(commit)

        await self._behind.stop()
        await self._work(self.copy.checkpoint)
        work = partial(self._extraction.workers.run, self.copy.read_back, is_stopped)
        await self._in_turn(work, None)
        if is_stopped():
            raise MoveResumeNeeded
        self.copy.check_read_back()

    async def read_behind(self) -> None:
        """Return when what has arrived by now was read back, so that little is left at the end.

        An error is found again then.
        """
        if self._behind is not None:
            await self._behind.caught_up()

    async def finish(self) -> int:
        """Set modes and times; return the bytes of all files when they are durable."""
        work = partial(self._extraction.workers.run, self.copy.finish)
        return await self._in_turn(work, None)

    def seal(self, commit: Commit) -> None:
        """Take no session any more: the server is put into place. Raises `MoveResumeNeeded`."""
        if self.is_withdrawn(commit):
            raise MoveResumeNeeded
        self._is_committing = True

    async def close(self, error: WingsdError) -> None:
        """Refuse all requests from now on, with `error`; return when none is under way."""
        self._closed = self._closed or error
        self.session = ""
        self._changes.changed()
        self._checkpoints.stop()
        await self._end_bodies(error)
        if self._behind is not None:
            await self._behind.stop()
        await self._resuming.ended()
        try:
            await self._work(self.copy.close)
        except WingsdError as failure:
            self._log.warn("{server}: {error}", server=self._server, error=failure)

    # Bodies

    async def _read(
        self,
        name: str,
        session: str,
        stream: BodyStream,
        most: int,
        work: Callable[[Iterator[bytes]], T],
    ) -> T:
        if stream.size > most:
            raise MoveBatchTooLarge(most)
        # One that is sent again takes the place of the earlier one.
        if name not in self._bodies and len(self._bodies) >= self._streams:
            raise MoveBusy(
                f"{self._streams} requests of the move are under way, as many as it may have "
                "(system.transfers.moves.streams); wait for the end of one"
            )
        body = ArrivingBody(stream, self._extraction.reactor)
        reading = self._read_alone(name, session, body, most, work)
        return await body.answered(Deferred.fromCoroutine(reading))

    async def _read_alone(
        self,
        name: str,
        session: str,
        body: ArrivingBody,
        most: int,
        work: Callable[[Iterator[bytes]], T],
    ) -> T:
        """Read a body when an earlier one of the same name has ended."""
        stream, earlier = body.stream, self._bodies.get(name)
        self._bodies[name] = body
        try:
            if earlier is not None:
                # Its connection may be half open, and not be heard of for minutes.
                earlier.stop(MoveResumeNeeded("the request was sent again"))
                if not await fires_within(earlier.over, TURN, self._extraction.reactor):
                    raise MoveBusy("an earlier request with it is still being worked for")
            return await self._read_in_turn(session, body, most, work)
        except WingsdError as error:
            stream.stop(error)
            raise
        finally:
            if earlier is None or earlier.over.called:
                self._ended(name, body)
            else:  # both are over when the earlier one is
                when_fired(earlier.over).addCallback(lambda _: self._ended(name, body))

    def _ended(self, name: str, body: ArrivingBody) -> None:
        """Note that a body, and all before it of the same name, are worked for no more."""
        if self._bodies.get(name) is body:
            del self._bodies[name]
        body.over.callback(None)

    async def _read_in_turn(
        self, session: str, body: ArrivingBody, most: int, work: Callable[[Iterator[bytes]], T]
    ) -> T:
        async def read() -> T:
            self._check(session)
            feed = Feed(self._extraction.reactor)
            body.stream.deliver(BoundedFeed(feed, most, body.arrived))
            try:
                return await self._extraction.workers.run(work, feed.blocks())
            finally:
                feed.close()  # what still arrives after an error is discarded

        return await self._in_turn(read, body=body)

    async def _end_bodies(self, error: WingsdError) -> None:
        while self._bodies:
            body = next(iter(self._bodies.values()))
            body.stop(error)
            await when_fired(body.over)

    def _count(self, size: int) -> None:
        # In several threads.
        with self._counting:
            self._held += size
            self.arrived += size

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._count(len(piece))
            yield piece

    def _attached(self) -> int:
        attachments = self.attachments
        return sum(map(attachments.offset, attachments.names))

    # Checks

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _check(self, session: str) -> None:
        self._check_open()
        if self._is_committing:
            raise MoveCommitted
        if not session:
            raise MoveResumeNeeded(
                "the request has no session; see whether a proxy in front of this node drops what "
                "follows the ? of an address"
            )
        if session != self.session:
            raise MoveResumeNeeded
        if self._committed is not None:
            raise MoveCommitted

    async def _work(self, work: Callable[..., T], *args: object) -> T:
        """Do work on what has arrived, in a thread; it may wait for other work on that."""
        return await self._disk.run(work, *args)

    async def _long_work(self, work: Callable[..., T], *args: object) -> T:
        """Do work that may take long, when there is a slot. Raises `MoveBusy`."""
        return await self._in_turn(lambda: self._extraction.workers.run(work, *args))

    async def _in_turn(
        self,
        begin: Callable[[], Awaitable[T]],
        within: float | None = TURN,
        body: ArrivingBody | None = None,
    ) -> T:
        slots = self._extraction.slots
        turn = slots.acquire(self._server)
        if body is not None:
            body.turn = turn
        if within is not None:
            turn.addTimeout(within, self._extraction.reactor)
        try:
            await turn
        except CancelledError:
            if body is None:
                raise
            raise MoveResumeNeeded from None
        except defer.TimeoutError:
            raise MoveBusy(
                f"other servers arrive, and no turn came within {within:g} s; send it again"
            ) from None
        try:
            return await begin()
        finally:
            slots.release(self._server)

    def _read_back(self) -> None:
        """Have what is durable read back meanwhile; at the end `verify` does that."""
        if self._behind is not None and self._closed is None and self._committed is None:
            self._behind.go_on()

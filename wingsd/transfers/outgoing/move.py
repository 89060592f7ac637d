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
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
    FinalPassStalled,
    SourceFileChanged,
    StorageError,
    WingsdError,
)
from wingsd.filesystem.attributes import AttributesKept
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.moves.source import LiveSource, MoveSource, SourceStopped
from wingsd.threadio import relayed
from wingsd.transfers.outgoing.move_round import (
    BatchSize,
    ClosedRound,
    PlannedRound,
    RoundSender,
    asking,
)
from wingsd.transfers.outgoing.source import SourceStorage, Subject
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.moves import (
    ASKED_AT_MOST,
    ASKED_WITHIN,
    LOST,
    MOST,
    PREPARE_PAUSE,
    PREPARED_WITHIN,
    REHEARSE_EVERY,
    RESUME_AFTER,
    Cause,
    MoveClient,
    MoveResumed,
    MoveSmaller,
    ResumeNeeded,
    failure_of,
)
from wingsd.util.retry import Budget, Watch
from wingsd.util.text import readable_size

__all__ = [
    "AttachedFile",
    "AttachmentReader",
    "MoveOrder",
    "MoveSending",
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
#: The most seconds that a destination is believed to need to make a container.
LONGEST_MAKING = 600.0
#: Answers after which there is no move any more that could be prepared.
_ENDED_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
T = TypeVar("T")

#: Seconds between two looks whether a stopped server's last round makes progress.
LOOK_EVERY = 1.0
#: Bytes of a piece of an attachment.
PIECE = 4 << 20
LEAST_PIECE = 64 << 10


@attrs.frozen(eq=False, repr=False)
class MoveOrder:
    """The terms of a move: at most `streams` batches of at most `batch` bytes at once.

    `total` are the bytes of the server's files, 0 where they were not measured.

    `running` is whether the server ran before the move, `is_resumed` whether an earlier daemon
    began it, `is_asked` whether that may have asked for the commit. After the commit a destination
    may be silent for `lost_after` seconds; what does not get on is tried for `patience` seconds.
    If the move fails, the destination is told so for `discard_within` seconds. Of extended
    attributes those are sent that the destination keeps, `attributes`.
    """

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


#: Bytes to read of a round before which the room for it is looked for.
MUCH = 64 << 20
#: What it says where there is none any more.
_ENDED_CODES = frozenset({"move-not-found", "move-key-invalid", "move-over"})


@attrs.define(eq=False, repr=False, slots=False)
class MoveSending:
    """Sends a server by a move: it goes on after each break, with what the destination lacks.

    While the server runs, `plan_round` and `send_round` follow it; `send` sends what is there when
    it has ended, as of a server that does not run. Only from the commit on, which `answered` asks
    for, the destination may have the server. `connect` returns a new client of the move. With
    `live` the server may be followed. Methods raise `StorageError`, `DestinationError`, and
    `CancelledError` after `abort`. `close` must be called.
    """

    _log = Logger()
    is_move = True

    _order: MoveOrder
    _connect: Callable[[], MoveClient]
    _subject: Subject
    _uploader: Uploader
    _storage: SourceStorage
    _live: LiveSource | None

    def __attrs_post_init__(self) -> None:
        order = self._order
        #: How often the destination was asked what it holds.
        self._sessions = 0
        #: Whether the server ran when it was asked to stop.
        self.running = order.running
        #: Whether the commit was asked for: only then the destination can have the server.
        self.body_sent = order.is_asked
        #: Whether a commit was asked for that may still come.
        self.is_asked = order.is_asked
        self._server = self._subject.server.uuid
        self._directory = self._storage.directory(self._server)
        self._client = self._connect()
        self._clock = self._uploader.reactor
        self._say = self._subject.steps.announcer.say
        #: Gets a line for each file that is left out or sent otherwise, from any thread.
        self._warn: Callable[[str], None] = relayed(self._uploader.reactor, self._say)
        self._budget = Budget(self._clock, most=MOST)
        #: Seconds that making its container takes at the destination; 0 until it was rehearsed.
        self.container_seconds = 0.0
        #: Until when the answers to the last rehearsal count; when it is reported next that there
        #: are none; and the budget of rehearsals that fail.
        self._good_until = -inf
        self._next_line = 0.0
        self._rehearsals: Budget[Cause] | None = None
        self._source = self._kept = self._subject.kept
        self._sender: RoundSender | None = None
        self._size = BatchSize(order.batch)
        self._piece = BatchSize(min(PIECE, order.batch), first=PIECE, least=LEAST_PIECE)
        #: The last round that was closed, and whether the next one is planned.
        self._closed: ClosedRound | None = None
        self._is_planned = False
        #: Whether the destination has what was closed last, and nothing has happened since.
        self._is_in_session = False
        #: Bytes of the files beside the server that are there, and whether all are.
        self._attached = 0
        self._is_attached = False
        #: What the destination held at the last resumption, and what it had taken before that.
        self._held = self._taken_before = 0
        #: Bytes that had arrived, and had to be sent again.
        self._lost = 0
        #: Why the last round is given up: there was no progress.
        self._stalled: FinalPassStalled | None = None
        #: Whether the destination is silent since a commit was asked for.
        self._is_lost = False

    # How far it is

    @property
    def begun(self) -> bool:
        """True if the destination may have any of it."""
        return self._sessions > 0

    @property
    def is_live(self) -> bool:
        """True if the server ran while it was moved."""
        return self._live is not None and self.running

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return self._client.bytes_out

    @property
    def bytes_again(self) -> int:
        """The number of them that had to be sent again."""
        return self._client.bytes_again + self._lost

    @property
    def read(self) -> int:
        """The bytes of files and attachments that were read, or that were there already."""
        return self._attached + (self._source.read if self._source is not None else 0)

    @property
    def files(self) -> int:
        """The number of files that have been read."""
        return self._source.files if self._source is not None else 0

    # A server that runs

    async def may_be_stopped(self, ask_panel: Callable[[], Awaitable[None]]) -> bool:
        """Return whether a running server may be stopped now: it could run at the destination.

        `ask_panel` asks this node's Panel. Where not, the server runs on, people are told why, and
        this is to be called again later: after the next round, or some seconds. That both have
        answered counts for a minute. Raises the reason once it has not changed for the patience
        of the move, or where the destination has ended the move.
        """
        if self._clock.seconds() < self._good_until:
            return True
        patience = self._order.patience
        budget = self._rehearsals = self._rehearsals or Budget(self._clock, patience, MOST)
        try:
            await self._rehearse(Budget(self._clock, patience))
            await ask_panel()
        except WingsdError as error:
            if isinstance(error, DestinationRefused) and error.response_status in _ENDED_STATUSES:
                raise
            if error.is_final:
                budget.spend(Cause.REHEARSAL_FAILED, error)
            else:
                budget.restore(Cause.REHEARSAL_FAILED)
            if budget.is_over:
                raise
            now: float = self._clock.seconds()
            if now >= self._next_line:
                self._next_line = now + LINE_EVERY
                self._say(f"the server is not stopped yet, and runs on: {error}")
            return False
        self._rehearsals, self._next_line = None, 0.0
        self._good_until = self._clock.seconds() + GOOD_FOR
        return True

    async def _rehearse(self, budget: Budget[Cause]) -> None:
        measured = await self._storage.figures(self._server, may_be_known=True)
        await self._client.prepare(measured, PREPARED_WITHIN)
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
                refused = _not_ready(why, detail)
                refused.is_final = found is not None and found.final
                raise refused
            if found.state == "ready":
                self.container_seconds = min(max(found.container_seconds, 0.0), LONGEST_MAKING)
                return
            if budget.is_over:
                advice = "see its log, and whether it can pull the image"
                raise _not_ready("it prepares without an end", advice)
            if progress.tag == tag:
                await deferLater(self._clock, PREPARE_PAUSE)
            tag = progress.tag

    async def rehearse(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Return when a running server may be stopped. Raises as `may_be_stopped`."""
        while not await self.may_be_stopped(ask_panel):
            await deferLater(self._clock, REHEARSE_EVERY)

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        """Find out what the destination lacks of a server that runs.

        A later round with much to send raises why there is no room for it.
        """
        planned = await self._persist(partial(self._plan_followed, leave_hot=leave_hot))
        if self._closed is not None and (more := planned.unread + planned.left) >= MUCH:
            await self._require_room(more)
        return planned

    async def _require_room(self, more: int) -> None:
        """Raise why the destination has no room for a round with `more` bytes to read.

        A server that takes long to measure is not measured again where there is room even if all
        of these are new.
        """
        if known := self._storage.known_figures(self._server):
            try:
                await self._client.require_room(known | {"disk_bytes": known["disk_bytes"] + more})
            except DestinationRefused:
                pass  # they are in the place of others, perhaps
            else:
                return
        await self._client.require_room(await self._storage.figures(self._server))

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send what was planned; after a break what it is then."""

        async def send() -> ClosedRound:
            if self._sender is None or not self._is_planned:
                await self._plan(running=True, leave_hot=leave_hot)
            return await self._send_planned()

        return await self._persist(send)

    def wait_for(self, seconds: float | None) -> None:
        """Repeat each request for so many seconds; None for the usual patience."""
        self._client.patience = self._order.patience if seconds is None else seconds

    async def look_again(self, *, has_failed: bool, starts_over: bool = False) -> None:
        """Read another directory from here on, where one is in the server's place now.

        If something `has_failed`, go on as if nothing had: the destination is asked what it holds.
        With `starts_over` all files are read again.
        """
        if has_failed:
            self._budget, self._is_in_session = Budget(self._clock, most=MOST), False
        source, run = self._source, self._uploader.packers.run
        if source and (starts_over or not await run(source.is_of, self._directory)):
            self._sender, self._kept, self._is_in_session = None, None, False
            await self._close_source()

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
        """Return what was read so far, for a later move of the server, once nothing is under way.

        It is not closed here then.
        """
        source, self._source = self._source, None
        return source

    def was_started(self) -> None:
        """Note that the server was started after `send` had begun."""
        self._is_in_session = False
        if self._source is not None:
            self._source.was_started()

    # A server that has ended

    async def send(self, warn: Callable[[str], None], patience: float) -> None:
        """Send all of a server that has ended; return when only the commit is missing.

        `warn` gets a line for each file that is left out or sent otherwise, from any thread.
        Raises `FinalPassStalled` where it makes no progress for `patience` seconds; 0 is without
        an end.
        """
        self._warn = warn
        await self._deliver(patience)

    async def answered(self, has_moved: Callable[[], Awaitable[bool]], patience: float) -> None:
        """Ask for the commit; return when the destination has the server.

        While it gives no answer, `has_moved` is asked whether it has, too. Raises the reason why
        it has not, or that this is not known. After `FinalPassStalled` it has not, and cannot get
        it by what was asked so far: the commit came to nothing, the destination has begun a
        session since, and taken nothing for so many seconds of `patience`.
        """
        self.body_sent = True
        answer: Budget[Cause] = Budget(self._clock, self._uploader.answer_timeout or inf)
        silence: Budget[Cause] = Budget(self._clock, self._order.lost_after)
        while not await self._is_committed(answer, silence):
            if self._is_lost:
                if await has_moved():
                    self._say("moved: only the destination's answer was lost")
                    return
                continue
            # One of the nodes was started again before that: nothing is committed until it is
            # asked again.
            self._budget.spend(Cause.SENT_AFTER_COMMIT, _not_committed())
            self._is_in_session = False
            try:
                await self._deliver(patience, reopens=True)
            except FinalPassStalled:
                self.body_sent = self.is_asked = False
                raise

    def abort(self) -> None:
        """End it at once."""
        if self._source is not None:
            self._source.stop()
        self._client.abort()

    def log_sent(self) -> None:
        """Log how much was sent, and record it."""
        sent, seconds = self.bytes_out, self._subject.meter.seconds
        self._subject.steps.set_figures(sent, self.files)
        self._log.info(
            "{server}: sent {bytes} bytes, {again} of them twice, {files} files, {seconds:.1f} s, "
            "{rate}/s",
            server=self._server,
            bytes=sent,
            again=self.bytes_again,
            files=self.files,
            seconds=seconds,
            rate=readable_size(sent / max(seconds, 0.001)),
        )

    async def close(self) -> None:
        """Close connections and files."""
        self._client.abort()
        self._subject.steps.observer.sent_again(self.bytes_again)
        await self._close_source()

    async def discard(self, *, keep: bool) -> None:
        """Tell the destination that the move has failed; `keep` what it has for the next one."""
        client = self._connect()
        try:
            await client.delete(keep=keep, patience=self._order.discard_within)
        except (DestinationError, ResumeNeeded, CancelledError) as error:
            self._log.info(
                "{server}: the destination was not told that the move has failed: {error}",
                server=self._server,
                error=error,
            )
        finally:
            client.abort()

    # The commit

    async def _is_committed(self, answer: Budget[Cause], silence: Budget[Cause]) -> bool:
        """Return whether the destination has the server.

        False where that is not known, or it has to be asked what it holds.
        """
        try:
            return await self._commit(answer, silence)
        except ResumeNeeded as needed:
            self._is_lost = False
            self._count(needed)
        except DestinationError as error:
            if not (error.may_complete or _is_temporary(error)):
                raise
            self._is_lost = True
            if silence.is_over:
                raise DestinationDisconnected(str(error), body_sent=True) from error
        return False

    async def _commit(self, answer: Budget[Cause], silence: Budget[Cause]) -> bool:
        """Return whether it was committed; False where it came to nothing."""
        closed = self._closed
        # Without one the destination commits what an earlier daemon has asked for.
        if not self.is_asked and closed is not None:
            await self._client.commit(
                closed.number, closed.root, running=self.running, patience=LOST
            )
        self.is_asked = True
        tag = ""
        while True:
            progress = await self._client.progress(tag, LOST)
            self._is_lost = False
            silence.progressed()
            if progress.outcome == "success":
                return True
            if progress.outcome:
                raise failure_of(progress)
            if progress.phase == "open":
                self.is_asked = False
                self._budget.spend(Cause.NOT_COMMITTED, failure_of(progress))
                return False
            if answer.is_over:
                raise DestinationTimeout(answer.seconds)
            if progress.tag == tag:
                await deferLater(self._clock, RESUME_AFTER)
            tag = progress.tag

    # Rounds

    async def _deliver(self, patience: float, *, reopens: bool = False) -> None:
        """Send what the destination lacks, until both nodes have the same.

        Raises `FinalPassStalled` where it makes no progress for `patience` seconds; 0 is without
        an end. Where a commit was asked for before, and this `reopens` the move, it does so only
        when the destination has begun a session since: it takes no commit of an earlier one then.
        """
        if not patience:
            await self._persist(self._deliver_once)
            return
        before = self._sessions
        progress: Budget[Cause] = Budget(self._clock, patience)

        def mark() -> Hashable:
            return self._clock.seconds() if reopens and self._sessions == before else self._mark

        def look() -> None:
            if self._stalled is None:
                progress.compare(mark())
            if progress.is_over:
                self._stalled = FinalPassStalled(progress.seconds)
                # again and again: what is interrupted may go on with something else
                self._client.interrupt()

        progress.compare(mark())
        try:
            with Watch(self._clock, LOOK_EVERY, look, "watching a move failed"):
                await self._persist(self._deliver_once)
        finally:
            self._stalled = None

    @property
    def _mark(self) -> Hashable:
        """A value that changes whenever this node or the destination makes progress."""
        source, sender = self._source, self._sender
        return (
            self.read,
            self.files,
            self._sessions,
            sender.done if sender is not None else 0,
            source.steps if source is not None else (),
            self._client.steps,
        )

    async def _persist(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Do some work until it succeeds."""
        while True:
            try:
                if self._stalled is not None:
                    raise self._stalled
                return await work()
            except ResumeNeeded as needed:
                self._is_in_session = False
                self._count(needed)
                await deferLater(self._clock, RESUME_AFTER)
            except MoveSmaller:  # of a batch: its size was noted
                self._budget.spend(Cause.NO_ROUND_CLOSED, _resumed_too_often())
            except SourceFileChanged as changed:
                self._budget.spend(Cause.FILE_CHANGED, changed)
                await deferLater(self._clock, RESUME_AFTER)
            except SourceStopped:
                raise CancelledError from None
            except DestinationRefused as error:
                raise await _explained(error, self._client) from error
            except CancelledError:
                if self._stalled is None:
                    raise

    def _count(self, needed: ResumeNeeded) -> None:
        """Count a resumption. Raises an error where there were too many."""
        self._budget.spend(Cause.NOTHING_TAKEN, needed.error)
        if needed.code == "move-root-mismatch":
            self._budget.spend(Cause.ROOT_DIFFERS, needed.error)
        self._budget.spend(Cause.NO_ROUND_CLOSED, _resumed_too_often())

    async def _deliver_once(self) -> None:
        if await self._plan(running=False) is None:
            return
        closed = await self._send_planned()
        if closed.unproven:
            raise SourceFileChanged(closed.unproven)

    async def _plan_followed(self, *, leave_hot: bool) -> PlannedRound:
        planned = await self._plan(running=True, leave_hot=leave_hot)
        if planned is None:
            raise DestinationRefused(
                "the destination node's answer is not one to a move",
                "it commits a server whose commit was not asked for",
                409,
            )
        return planned

    async def _plan(self, *, running: bool, leave_hot: bool = False) -> PlannedRound | None:
        """Plan a round; None where the destination puts the server into place already."""
        await self.look_again(has_failed=False)
        sender = await self._open()
        self._is_planned = False
        resumed = None
        if not self._is_in_session or not sender.can_go_on:
            with asking(self._client, self._clock):
                resumed = await self._client.resume()
            if resumed is None:
                return None
            self._note(resumed, sender)
        planned = await sender.plan(resumed, running=running, leave_hot=leave_hot)
        self._is_planned = True
        meter, there = self._subject.meter, 0
        if resumed is not None:
            there = meter.resumed = resumed.bytes
        meter.skip(there)
        return planned

    async def _open(self) -> RoundSender:
        """Return the sender of rounds, of the files that an earlier move has read, if any."""
        if self._sender is not None:
            return self._sender
        run, order, kept, self._kept = self._uploader.packers.run, self._order, self._kept, None

        def tell(line: str) -> None:
            self._warn(line)  # as it is then

        if kept is not None and kept.kept != order.attributes:
            await run(kept.close)  # all is read again, for others than it has
            kept = None
        if kept is not None:
            await run(kept.hand_over, tell, self._live.log if self._live else None)
        else:
            kept = await run(
                MoveSource,
                self._directory,
                tell,
                self._live,
                scratch=self._storage.scratch(),
                kept=order.attributes,
            )
        self._source = kept
        self._sender = RoundSender(
            self._client,
            kept,
            self._uploader.packers,
            self._uploader.followers,
            self._clock,
            self._size,
            order.streams,
            zstd=order.zstd,
        )
        return self._sender

    async def _close_source(self) -> None:
        source = self.hand_over()
        if source is not None:
            await self._uploader.packers.run(source.close)

    async def _send_planned(self) -> ClosedRound:
        sender = self._sender
        assert sender is not None  # noqa: S101 - by `_plan`
        self._is_planned = False
        try:
            closed = await sender.send()
        finally:
            if sender.taken > self._taken_before:
                self._budget.restore(Cause.NOTHING_TAKEN)
        self._closed, self._is_in_session = closed, True
        self._budget.restore(Cause.NO_ROUND_CLOSED)
        if not self._is_attached:
            self._attached = 0
            for file in self._order.attachments:
                await self._attach(file)
            self._is_attached = True
        return closed

    def _note(self, resumed: MoveResumed, sender: RoundSender) -> None:
        """Note what the destination holds, and tell it where the move goes on."""
        is_first = self._sessions == 0
        self._sessions += 1
        self._is_attached = False
        if not is_first:
            missing = self._held + sender.taken - self._taken_before - resumed.bytes
            # The rest has come in place of what was there before.
            self._lost += min(max(missing, 0), sender.undurable)
        self._held, self._taken_before = resumed.bytes, sender.taken
        if self._order.is_resumed or not is_first:
            self._subject.steps.observer.move_resumed()
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
            size, began = len(data), self._clock.seconds()
            smaller = partial(self._piece.cut, size)
            try:
                reached = await self._client.patch(file.name, offset, data, smaller, sha256)
            except MoveSmaller as refused:
                if not refused.was_cut:
                    self._piece.refused(size, refused.error)
                continue
            self._piece.taken(size, self._clock.seconds() - began)
            if reached < offset or (data and reached == offset):  # it did not arrive as sent
                self._budget.spend(Cause.FILE_CHANGED, _damaged(file))
            elif reached >= offset + size:
                self._budget.refund(Cause.PIECE_IN_PART)
            else:
                self._budget.spend(Cause.PIECE_IN_PART, _taken_in_part(file))
            offset = reached
            self._attached = before + offset
            if sha256 and offset == file.size:
                return


def _not_ready(why: str, detail: str) -> DestinationRefused:
    return DestinationRefused(
        f"the destination node is not ready for the server: {why}",
        detail,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )


def _resumed_too_often() -> DestinationRefused:
    return DestinationRefused(
        "the destination node had the move resumed too often",
        f"{MOST[Cause.NO_ROUND_CLOSED]} times, and no round was completed; see that node's log "
        "and its disk",
        HTTPStatus.BAD_GATEWAY,
    )


def _not_committed() -> DestinationRefused:
    return DestinationRefused(
        "the destination node does not commit the move",
        f"the commit was asked for {MOST[Cause.SENT_AFTER_COMMIT]} times, and it needed something "
        "else each time; see that node's log",
        HTTPStatus.BAD_GATEWAY,
    )


def _taken_in_part(file: AttachedFile) -> DestinationRefused:
    return DestinationRefused(
        "the destination node takes backups or the log only in small pieces",
        f"of most pieces of {file.name} it took a part; see its log, and whether a proxy in front "
        "of it cuts requests",
        HTTPStatus.BAD_GATEWAY,
    )


def _damaged(file: AttachedFile) -> StorageError:
    return StorageError(
        f"{file.path} arrives damaged again and again; check both nodes' disks and memory"
    )


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


def _is_temporary(error: DestinationError) -> bool:
    """Return whether it says nothing about the server, and may do so when it is asked again."""
    is_not_now = isinstance(error, DestinationRefused) and error.is_temporary
    return is_not_now or isinstance(error, DestinationUnreachable)

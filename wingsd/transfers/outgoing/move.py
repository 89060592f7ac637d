"""The move of one server in batches, which goes on after each break: see docs/protocol.md.

`Mover` begins moves, and goes on with those of an earlier daemon. A move is in the state database
before its first request, with the key that it alone has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.auth.tokens import expiry_of
from wingsd.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
    FinalPassStalled,
    InvalidData,
    SourceFileChanged,
    StorageError,
    WingsdError,
)
from wingsd.filesystem.attributes import AttributesKept
from wingsd.moves.source import LiveSource, MoveSource, SourceStopped
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Direction, MoveRecord
from wingsd.threadio import relayed
from wingsd.transfers.outgoing.attached import (
    LEAST_PIECE,
    PIECE,
    AttachedFile,
    BatchSize,
    PieceSender,
)
from wingsd.transfers.outgoing.move_round import (
    ClosedRound,
    PlannedRound,
    RoundSender,
    asking,
)
from wingsd.transfers.outgoing.source import (
    MOVES_ATTRIBUTES,
    OutgoingParts,
    Subject,
    TransferRequest,
    seed_of,
)
from wingsd.transfers.peer.client import PeerAddress
from wingsd.transfers.peer.moves import (
    ASKED_AT_MOST,
    ASKED_WITHIN,
    BEGIN_WITHIN,
    DISCARD_WITHIN,
    LOST,
    MOST,
    PREPARE_PAUSE,
    PREPARED_WITHIN,
    REHEARSE_EVERY,
    RESUME_AFTER,
    WITHDRAW_WITHIN,
    BegunAnswer,
    Cause,
    MoveClient,
    MoveResumed,
    MoveSmaller,
    MoveTrouble,
    ResumeNeeded,
    failure_of,
    unusable,
)
from wingsd.transfers.steps import SendStep, StepLog
from wingsd.util.retry import Budget, Watch
from wingsd.util.serialization import structure
from wingsd.util.text import readable_size

#: The version of moves without extended attributes, and the one with them.
VERSION, WITH_ATTRIBUTES = 1, 2
_MIB = 1 << 20
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
#: Bytes to read of a round before which the room for it is looked for.
MUCH = 64 << 20
#: What it says where there is none any more.
_ENDED_CODES = frozenset({"move-not-found", "move-key-invalid", "move-over"})


@attrs.define(eq=False, repr=False, slots=False)
class MoveSending:
    """Sends a server by a move: it goes on after each break, with what the destination lacks.

    While the server runs, `plan_round` and `send_round` follow it; `send` sends what is there when
    it has ended, as of a server that does not run. Only from the commit on, which `answered` asks
    for, the destination may have the server. Methods raise `StorageError`, `DestinationError`, and
    `CancelledError` after `abort`. `close` must be called.
    """

    _log = Logger()

    _subject: Subject
    _parts: OutgoingParts
    _record: MoveRecord
    _begun: BegunAnswer
    _attachments: Sequence[AttachedFile]
    _is_resumed: bool
    #: Whether a commit was asked for that may still come.
    is_asked: bool

    def __attrs_post_init__(self) -> None:
        parts, begun = self._parts, self._begun
        order, state = json.loads(self._record.request)["order"], json.loads(self._record.state)
        #: The bytes of the server's files when the move began, 0 where they were not measured.
        self._total: int = order["bytes"]
        #: How often the destination was asked what it holds.
        self._sessions = 0
        #: Whether the server ran when it was asked to stop.
        self.running = state.get("running") is True
        #: Whether the commit was asked for: only then the destination can have the server.
        self.body_sent = self.is_asked
        self._server = self._subject.server.uuid
        self._directory = parts.servers.directory(self._server)
        self._client = _client(parts, self._record, self._subject.steps)
        self._clock = parts.reactor
        self._workers = parts.packers
        self._run = parts.packers.run
        self._say = self._subject.steps.say
        #: Gets a line for each file that is left out or sent otherwise, from any thread.
        self._warn: Callable[[str], None] = relayed(parts.reactor, self._say)
        is_live = state.get("live") is True
        self._live = LiveSource(parts.file_systems, self._warn) if is_live else None
        #: Whether it goes on with a copy that has followed the server.
        self._is_adopting = state.get(_ADOPTS) is True
        #: Seconds without success after which a request, or a rehearsal, is given up.
        self._patience = float(parts.config.moves.patience)
        #: The extended attributes that the destination keeps.
        self._attributes = AttributesKept.named(
            begun.attributes if order["version"] == WITH_ATTRIBUTES else ()
        )
        self._budget = Budget(self._clock, most=MOST)
        #: Seconds that making its container takes at the destination; 0 until it was rehearsed.
        self.container_seconds = 0.0
        #: Until when the answers to the last rehearsal count; when their absence is
        #: reported next; and the budget of rehearsals that fail.
        self._good_until = -inf
        self._next_line = 0.0
        self._rehearsals: Budget[Cause] | None = None
        self._source = self._kept = self._subject.kept
        self._sender: RoundSender | None = None
        batch = min(begun.batch, parts.config.moves.batch * _MIB)
        self._size = BatchSize(batch)
        self._piece = BatchSize(min(PIECE, batch), first=PIECE, least=LEAST_PIECE)
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
    def takes_backups(self) -> bool:
        """True if the destination takes the backups that follow the server."""
        return self._begun.takes_backups

    @property
    def takes_history(self) -> bool:
        """True if the destination takes the history that follows the server."""
        return self._begun.takes_history

    @property
    def takes_points(self) -> bool:
        """True if the destination takes backups that are points, with the history."""
        return self._begun.takes_points

    @property
    def keeps_files(self) -> bool:
        """True if the server's files are kept here: it ran, or a copy has followed it before."""
        return (self._live is not None and self.running) or self._is_adopting

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

        `ask_panel` asks this node's Panel. Where not, the server runs on, the console says why,
        and this is to be called again later: after the next round, or some seconds. That both have
        answered counts for a minute. Raises the reason once it has not changed for the patience
        of the move, or where the destination has ended the move.
        """
        if self._clock.seconds() < self._good_until:
            return True
        patience = self._patience
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
        measured = await self._parts.figures(self._server, may_be_known=True)
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
                why = found.error if found is not None else "it was started again"
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
        planned = await self._persist(partial(self._plan, running=True, leave_hot=leave_hot))
        if planned is None:
            raise unusable("it commits a server whose commit was not asked for", 409)
        if self._closed is not None and (more := planned.unread + planned.left) >= MUCH:
            await self._require_room(more)
        return planned

    async def _require_room(self, more: int) -> None:
        """Raise why the destination has no room for a round with `more` bytes to read.

        A server that takes long to measure is not measured again where there is room even if all
        of these are new.
        """
        if known := self._parts.known_figures(self._server):
            try:
                await self._client.require_room(known | {"disk_bytes": known["disk_bytes"] + more})
            except DestinationRefused:
                pass  # they are in the place of others, perhaps
            else:
                return
        await self._client.require_room(await self._parts.figures(self._server))

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send what was planned; after a break what it is then."""

        async def send() -> ClosedRound:
            if self._sender is None or not self._is_planned:
                await self._plan(running=True, leave_hot=leave_hot)
            return await self._send_planned()

        return await self._persist(send)

    async def rest(self) -> None:
        """Take little memory until the next round of a server that runs, which comes later."""
        self._client.rest()
        if self._source is not None:
            await self._parts.followers.run(self._source.rest)

    def wait_for(self, seconds: float | None) -> None:
        """Repeat each request for so many seconds; None for the usual patience."""
        self._client.patience = self._patience if seconds is None else seconds

    async def look_again(self, *, has_failed: bool, starts_over: bool = False) -> None:
        """Read another directory from here on, where one is in the server's place now.

        If something `has_failed`, go on as if nothing had: the destination is asked what it holds.
        With `starts_over` all files are read again.
        """
        if has_failed:
            self._budget, self._is_in_session = Budget(self._clock, most=MOST), False
        source = self._source
        if source and (starts_over or not await self._run(source.is_of, self._directory)):
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
        config = self._parts.config
        answer: Budget[Cause] = Budget(self._clock, config.answer_timeout or inf)
        # for so long a destination may be silent
        lost_after = float(config.answer_grace or config.stall_timeout)
        silence: Budget[Cause] = Budget(self._clock, lost_after)
        while not await self._is_committed(answer, silence):
            if self._is_lost:
                if await has_moved():
                    self._say("moved: only the destination's answer was lost")
                    return
                continue
            # One of the nodes was started again before that: nothing is committed until it is
            # asked again.
            not_committed = DestinationRefused(
                "the destination node does not commit the move",
                f"the commit was asked for {MOST[Cause.SENT_AFTER_COMMIT]} times, and it needed "
                "something else each time; see that node's log",
                HTTPStatus.BAD_GATEWAY,
            )
            self._budget.spend(Cause.SENT_AFTER_COMMIT, not_committed)
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
        client = _client(self._parts, self._record)
        try:
            await client.delete(keep=keep, patience=_discard_within(self._parts, self._record))
        except (DestinationError, ResumeNeeded, CancelledError) as error:
            self._log.info(
                "{server}: the failure of the move was not reported to the destination: {error}",
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
            # Else it says nothing about the server, and may do so when it is asked again.
            is_not_now = isinstance(error, DestinationRefused) and error.is_temporary
            is_away = isinstance(error, DestinationUnreachable)
            if not (error.may_complete or is_not_now or is_away):
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
                closed.number,
                closed.root,
                running=self.running,
                patience=LOST,
                backups=await self._parts.left_backups.announced(self._record.transfer),
                history=await self._parts.left_backups.announced_history(self._record.transfer),
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
            """Return what changes whenever this node or the destination makes progress."""
            if reopens and self._sessions == before:
                return self._clock.seconds()
            source, sender = self._source, self._sender
            return (
                self.read,
                self.files,
                self._sessions,
                sender.done if sender is not None else 0,
                source.steps if source is not None else (),
                self._client.steps,
            )

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
        if needed.error.answer_code == "move-root-mismatch":
            self._budget.spend(Cause.ROOT_DIFFERS, needed.error)
        self._budget.spend(Cause.NO_ROUND_CLOSED, _resumed_too_often())

    async def _deliver_once(self) -> None:
        if await self._plan(running=False) is None:
            return
        closed = await self._send_planned()
        if closed.unproven:
            raise SourceFileChanged(closed.unproven)

    async def _plan(self, *, running: bool, leave_hot: bool = False) -> PlannedRound | None:
        """Plan a round; None where the destination puts the server into place already."""
        await self.look_again(has_failed=False)
        sender = await self._open()
        # Those of a seed: the transfer that goes on with it has rounds of its own.
        sender.source.shares_flushes = self._subject.steps.before(SendStep.FOLLOW)
        self._is_planned = False
        resumed = None
        if not self._is_in_session or not sender.source.can_go_on:
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
        run, parts, kept, self._kept = self._run, self._parts, self._kept, None

        def tell(line: str) -> None:
            self._warn(line)  # as it is then

        if kept is not None and kept.kept != self._attributes:
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
                scratch=parts.scratch(),
                kept=self._attributes,
            )
        self._source = kept
        self._sender = RoundSender(
            self._client,
            kept,
            parts,
            self._size,
            min(self._begun.streams, parts.config.moves.streams),
            zstd="zstd" in self._begun.encodings,
        )
        return self._sender

    async def _close_source(self) -> None:
        source = self.hand_over()
        if source is not None:
            await self._run(source.close)

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
            for file in self._attachments:
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
            self._lost += min(max(missing, 0), sum(sender.undurable.values()))
        self._held, self._taken_before = resumed.bytes, sender.taken
        if self._is_resumed or not is_first:
            self._subject.steps.observer.move_resumed()
        if resumed.bytes:
            there = readable_size(resumed.bytes)
            if self._total:
                there += f" of {readable_size(max(self._total, resumed.bytes))}"
            self._say(f"resumed: {there} were there")

    async def _attach(self, file: AttachedFile) -> None:
        """Send what the destination lacks of a file beside the server."""
        before = self._attached

        def reached(offset: int) -> None:
            self._attached = before + offset

        pieces = PieceSender(self._client, self._clock, self._workers, self._piece, self._budget)
        await pieces.send(file, await self._client.offset(file.name), reached)


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


def _client(
    parts: OutgoingParts, record: MoveRecord, steps: StepLog[SendStep] | None = None
) -> MoveClient:
    """Return a client of a recorded move, which is to be begun where it has no id yet.

    `steps` show that the destination is waited for.
    """
    trouble = MoveTrouble(parts.reactor)
    if steps is not None:
        trouble = MoveTrouble(parts.reactor, steps.say, steps.show_trouble)
    return MoveClient(
        PeerAddress(record.url, parts.reactor, parts.config.ca_file),
        parts.reactor,
        parts.config.stall_timeout,
        parts.bucket,
        record,
        trouble,
        parts.config.moves.patience,
    )


def _discard_within(parts: OutgoingParts, record: MoveRecord) -> float:
    """Return for how long a failure is sent to a destination: one of a seed waits for days."""
    return DISCARD_WITHIN if seed_of(record) is None else float(parts.config.moves.patience)


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


#: The name that the installation log is sent by.
LOG = "install.log"
#: Where the state of a move has what the destination has answered to the first request, and
#: whether it goes on with a copy that has followed the server.
_BEGUN, _ADOPTS = "begun", "adopts"


@attrs.frozen(eq=False, repr=False)
class Mover:
    """Begins the move of a server, or goes on with one from before the daemon's restart."""

    parts: OutgoingParts
    _subject: Subject

    async def begin(self, *, follows: bool) -> MoveSending | None:
        """Begin a move; return None where the destination does not know any, or not this version.

        `follows` is whether the server is sent while it runs. Raises `DestinationError` where it
        refuses the server, and `StorageError`.
        """
        subject = self._subject
        entry = subject.steps.entry
        assert entry is not None  # noqa: S101 - it was recorded
        request = subject.request
        asked = attrs.asdict(request, filter=lambda field, _: field.name not in ("url", "token"))
        seed = subject.seed.state() if subject.seed is not None else {}
        was_running = subject.server.state is not PowerState.OFFLINE
        adopts = {_ADOPTS: subject.kept is not None}
        record = MoveRecord(
            transfer=entry,
            server=subject.server.uuid,
            direction=Direction.OUT,
            move="",
            key=secrets.token_hex(32),
            token=request.token,
            url=request.url,
            family=request.family,
            request=json.dumps({"asked": asked, "order": await self._order()}),
            state=json.dumps({"running": was_running, "live": follows} | adopts | seed),
            pair=subject.seed.pair if subject.seed is not None else "",
        )
        database = self.parts.database
        await database.add_move(record)
        left = (expiry_of(request.token) or 0.0) - database.now()
        patience = min(max(BEGIN_WITHIN, left), self.parts.config.moves.patience)
        return await self._begin(record, patience, is_resumed=False)

    async def go_on(self, record: MoveRecord) -> MoveSending:
        """Go on with the move of an earlier daemon. Raises as `begin`."""
        found = await self._begin(record, self.parts.config.moves.patience, is_resumed=True)
        assert found is not None  # noqa: S101 - by `is_resumed`
        return found

    async def go_on_waiting(self, record: MoveRecord, *, is_asked: bool = True) -> MoveSending:
        """Go on with a move whose commit an earlier daemon may have asked for, with `is_asked`.

        The destination is not asked yet. Raises `StorageError`.
        """
        begun = begun_of(record)
        assert begun is not None  # noqa: S101 - the caller has seen
        return await self._made(record, begun, is_resumed=True, is_asked=is_asked)

    async def withdraw(self, *, keep: bool) -> None:
        """End a move whose beginning was not answered: the destination may have begun it.

        With `keep` what it has of an earlier one stays there.
        """
        entry = self._subject.steps.entry
        record = None if entry is None else await self.parts.database.move(entry)
        if record is None:
            return
        client = _client(self.parts, attrs.evolve(record, move=""))
        # An earlier version begins it again, to have it deleted.
        order = {**json.loads(record.request)["order"], "only_known": True}
        try:
            await client.begin(record.token, order, WITHDRAW_WITHIN, may_differ=True)
            await client.delete(keep=keep, patience=WITHDRAW_WITHIN)
        except (DestinationError, CancelledError, ResumeNeeded):
            pass  # it has not begun it, or gives it up in time
        finally:
            client.abort()

    async def _begin(
        self, record: MoveRecord, patience: float, *, is_resumed: bool
    ) -> MoveSending | None:
        order, database = json.loads(record.request)["order"], self.parts.database
        client = _client(self.parts, record, self._subject.steps)
        try:
            begun = await client.begin(record.token, order, patience, may_differ=not is_resumed)
        finally:
            client.abort()
        if begun is None:
            await database.drop_move(record.transfer)
            return None
        await database.set_move(record.transfer, begun.id)
        await database.change_move_state(record.transfer, {_BEGUN: attrs.asdict(begun)})
        return await self._made(record, begun, is_resumed=is_resumed)

    async def _made(
        self, record: MoveRecord, begun: BegunAnswer, *, is_resumed: bool, is_asked: bool = False
    ) -> MoveSending:
        subject, record = self._subject, attrs.evolve(record, move=begun.id)
        # The files beside the server, with the sizes that were announced to the destination.
        found = [AttachedFile(each.backup.uuid, each.path, each.size) for each in subject.backups]
        log_size = json.loads(record.request)["order"]["log"]
        log = await self._log() if log_size is not None else None
        if log is not None:
            found.append(attrs.evolve(log, size=log_size))
        return MoveSending(subject, self.parts, record, begun, found, is_resumed, is_asked)

    async def _order(self) -> dict[str, Any]:
        """Return what the first request tells of the server. Raises `StorageError`."""
        subject, server = self._subject, self._subject.server
        figures = await self.parts.figures(server.uuid)
        backups = [
            {
                "uuid": each.backup.uuid,
                "path": each.backup.path(server.uuid),
                "bytes": each.size,
            }
            for each in subject.backups
        ]
        goes_alone = subject.seed is not None and subject.seed.pair != ""
        log = None if goes_alone else await self._log()
        return {
            "version": WITH_ATTRIBUTES if MOVES_ATTRIBUTES in subject.features else VERSION,
            "family": subject.request.family,
            "bytes": server.disk_bytes or 0,
            **figures,
            "backups": backups,
            "log": None if log is None else log.size,
            "encodings": ["zstd"],
            "running": server.state is not PowerState.OFFLINE,
            "follow": subject.seed is not None,
        }

    async def _log(self) -> AttachedFile | None:
        """Return the installation log; None where it cannot be read: no move fails by that."""
        parts, subject = self.parts, self._subject
        try:
            found = await parts.disk.run(parts.logs.measure, subject.server.uuid)
        except StorageError as error:
            subject.steps.warn(error.detail)
            return None
        return None if found is None else AttachedFile(LOG, *found, may_grow=True)


async def give_up(parts: OutgoingParts, record: MoveRecord) -> None:
    """Send the failure of an earlier daemon's move to the destination, if it is there."""
    with suppress(DestinationError, CancelledError, StorageError):  # sent again after a restart
        if record.move:
            await end_move(parts, record, _discard_within(parts, record))
        await parts.database.drop_move(record.transfer)


async def end_move(parts: OutgoingParts, record: MoveRecord, patience: float) -> None:
    """Ask the destination to end a move, and keep what has arrived, unless it is past that.

    It is asked again for so many seconds of `patience`. Raises `DestinationError` without an
    answer of it by then.
    """
    client = _client(parts, record)
    try:
        await client.delete(keep=True, patience=patience)
    except DestinationRefused as error:
        if error.is_temporary or error.response_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
    except ResumeNeeded as error:
        raise error.error from error
    finally:
        client.abort()


def begun_of(record: MoveRecord) -> BegunAnswer | None:
    """Return what the destination has answered to the first request; None where it has not.

    Earlier versions have not recorded that.
    """
    try:
        return structure(json.loads(record.state)[_BEGUN], BegunAnswer)
    except (KeyError, InvalidData):
        return None


def request_of(record: MoveRecord) -> TransferRequest:
    """Return what was requested of an earlier daemon."""
    asked = json.loads(record.request)["asked"]
    asked["backups"] = tuple(asked["backups"])
    return TransferRequest(url=record.url, token=record.token, **asked)

"""The move of one server in batches, which goes on after each break: see docs/moves.md.

Like `OutgoingStreams`, it sends all and then waits for the answer. Only from the commit on, which
`answered` asks for, the destination may have the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.moves.source import LiveSource, MoveSource
from wingsd.threadio import relayed
from wingsd.transfers.errors import (
    DestinationDisconnected,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
    FinalPassStalled,
)
from wingsd.transfers.outgoing.delivery import Delivery, MoveOrder
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.transfers.outgoing.rehearsal import Rehearsal
from wingsd.transfers.outgoing.source import SourceStorage
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.move_answers import ResumeNeeded, failure_of
from wingsd.transfers.peer.moves import MoveClient
from wingsd.util.observer import Observer

__all__ = ["OutgoingMove"]

#: Seconds for which a request is repeated after the commit, before others are asked as well.
LOST = 3.0
#: Bytes to read of a round before which the room for it is looked for.
MUCH = 64 << 20
#: Seconds after which it is tried again whether the server may be stopped.
REHEARSE_EVERY = 10.0
#: What it says where there is none any more.
_ENDED = frozenset({"move-not-found", "move-key-invalid", "move-over"})


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
            return error if error.answer_code in _ENDED else None
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

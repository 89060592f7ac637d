"""The coordinators of transfers: they describe a server, and decide which node has it.

Usually that is the Panel; `wingsd.direct_transfers` has the coordinators of transfers without one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.backups.store import Backup
from wingsd.callbacks import COMMITS_WITHIN, CallbackQueue, FirstMinute, PendingReport
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    PanelError,
    ServerAlreadyExists,
    ServerNotAssigned,
    TransferNotCommitted,
    WingsdError,
)
from wingsd.panel.client import Panel
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server
from wingsd.statedb import MoveRecord, Outcome, TransferRecord
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.steps import Coordinator, ReceiveStep, SendStep
from wingsd.util.retry import Backoff

T = TypeVar("T")

#: Seconds between two questions to a Panel, or a destination, that does not answer.
OWNERSHIP_BACKOFF = Backoff(1.0, 60.0)
#: Seconds between two questions while the destination may still be at work.
GRACE_BACKOFF = Backoff(0.5, 5.0, factor=1.5, jitter=True)


class ReceivingCoordinator(Coordinator[ReceiveStep], ABC):
    """The coordinator of one incoming transfer."""

    #: Whether the last answer to a report was that there is no such transfer.
    is_denied = False
    #: Whether an earlier daemon has queued the success, and it is not answered yet.
    is_success_queued = False
    #: The identity of the pair by which a seed comes; empty for any other transfer.
    pair_identity = ""

    def room(self) -> int | None:
        """Return the bytes that the copy may take by its pair; None for any other transfer."""
        return None

    def brings(self, charge: Callable[[], int], over: Deferred[None]) -> None:
        """Note a move that takes so many bytes by `charge` here, until it is `over`."""

    @abstractmethod
    async def admit(self) -> Configuration:
        """Return the configuration. Raises `ServerAlreadyExists`, or why it is refused."""

    @abstractmethod
    async def begin(self) -> None:
        """Drop the reports of earlier transfers, where there may be any.

        Save what the daemon needs after a restart, and cannot ask for. Raises `StorageError`.
        """

    @abstractmethod
    async def recheck(self) -> tuple[bool, Configuration]:
        """Return, after a restart, whether the server has moved here, and its configuration.

        Raises `PanelError` when that is not known yet, and `ServerNotFound`.
        """

    @abstractmethod
    async def report_success(self, backups: Sequence[Backup]) -> PendingReport:
        """Record that the server is here, durably, and report it.

        `backups` have come with it. Raises `StorageError` where it cannot be recorded: nothing is
        reported then.
        """

    @abstractmethod
    async def report_failure(self, *, is_known: bool) -> None:
        """Report that the server stays at its source.

        `is_known` is whether the Panel or the source has ended the transfer, which report it too.
        """

    @abstractmethod
    async def complete(self, server: Server) -> None:
        """Called when the success was accepted, and the server is this node's."""


class SendingCoordinator(Coordinator[SendStep], ABC):
    """The coordinator of one outgoing transfer. A direct one deletes what has moved by itself."""

    _log = Logger()
    _server: str
    #: Seconds for which a destination whose answer was lost may still be at work.
    answer_grace = 0.0
    #: What a seed is ordered by: a copy that follows its server until then. None without one.
    seed: SeedOrder | None = None
    #: The report of the failure that was queued; None without one.
    failure: PendingReport | None = None

    def begin(self) -> None:
        """Drop the reports of earlier transfers, where there may be any."""

    async def save(self, entry: int) -> None:
        """Save what the daemon needs after a restart, for `entry` of the state database.

        Raises `StorageError`.
        """

    async def announce(self) -> None:
        """Send the server's description to the destination, if it does not get it otherwise."""

    async def check(self) -> None:
        """Return when the Panel has answered something. Raises `PanelError`, `ServerNotFound`."""

    async def report_failure(self) -> None:
        """Report that the server stays here, where the destination does not see it."""

    @abstractmethod
    async def has_moved(self, *, lost: bool = False, refused: bool = False) -> bool | None:
        """Return whether a server that was sent whole has moved; ask until that is known.

        None where a person has cancelled that before: the server may run at the other node. With
        `lost` the connection to the destination was lost, and it may still be at work; with
        `refused` the destination itself has said that it does not have the server.
        """

    async def seems_moved(self) -> bool:
        """Ask the Panel once whether a server has moved; return False if that is not known."""
        return False

    @abstractmethod
    def stop_waiting(self, reason: WingsdError) -> None:
        """Let `has_moved` return as soon as possible."""

    async def clean_up(self, server: Server) -> None:
        """Delete or keep a server that has moved, unless the Panel orders its deletion."""

    def _log_unknown(self, error: WingsdError, pause: float) -> None:
        self._log.warn(
            "{server}: not known yet whether it has moved, asking again in {pause:.0f} s: {error}",
            server=self._server,
            pause=pause,
            error=error,
        )


class Initiator(ABC):
    """The initiator of unfinished transfers after a restart: the Panel, or an operator.

    It knows how such a transfer goes on, or what has become of it.
    """

    #: Why a server cannot be started until it is known whether it has moved.
    hold: str

    @abstractmethod
    def receiving(self, server: str, pair: str = "") -> ReceivingCoordinator:
        """Return the coordinator of a transfer to this node, which has come by a `pair`, if so."""

    @abstractmethod
    async def resumed(
        self, entry: TransferRecord, record: MoveRecord
    ) -> tuple[Server, SendingCoordinator] | None:
        """Return the server and the coordinator of a move that goes on; None if it does not.

        Raises `WingsdError`, `ValueError`.
        """

    @abstractmethod
    async def has_moved(self, entry: TransferRecord) -> bool | None:
        """Return whether a server that may have been sent whole has moved.

        None where a person has cancelled that before it was known.
        """

    async def report_failure(self, entry: TransferRecord) -> None:  # noqa: B027 - of the Panel
        """Report that a server stays here which was not sent whole."""

    @abstractmethod
    async def clean_up(self, entry: TransferRecord) -> None:
        """Remove a server that has moved."""


@attrs.define(eq=False, repr=False, slots=False)
class PanelReceiving(ReceivingCoordinator):
    """The Panel as the coordinator of an incoming transfer.

    It was `ordered` at that time of the Panel's clock; None where that is not known.
    """

    _log = Logger()

    _server: str
    _parts: PanelCoordinators
    _ordered: float | None = None

    async def admit(self) -> Configuration:
        """Return the Panel's description. Raises `ServerAlreadyExists`, and what asking it raises.

        A Panel that grants it only to the two nodes of a transfer is asked again for a minute,
        since it may not have committed the transfer yet.
        """
        if await self._parts.panel.owns(self._server):
            raise ServerAlreadyExists(
                "this server is already on this node",
                "a transfer would overwrite it; in the Panel, see which node it belongs to",
            )
        first_minute = FirstMinute(self._parts.reactor)
        while True:
            try:
                return await self._parts.panel.describe(self._server)
            except ServerNotAssigned:
                pause = first_minute.next_pause()
                if not pause:
                    raise
            await deferLater(self._parts.reactor, pause)

    async def begin(self) -> None:
        """Drop the reports of earlier transfers: the Panel has begun another one."""
        self._parts.callbacks.drop(self._server)

    async def recheck(self) -> tuple[bool, Configuration]:
        """Return whether the Panel has the server here, and its description."""
        panel = self._parts.panel
        return await panel.owns(self._server), await panel.describe(self._server)

    @property
    def is_denied(self) -> bool:  # type: ignore[override]
        """True while the Panel does not know the transfer; it is sent the report again."""
        return self._parts.callbacks.is_denied(self._server)

    @property
    def is_success_queued(self) -> bool:  # type: ignore[override]
        """True while the success is queued and not answered yet."""
        return self._parts.callbacks.success_of(self._server) is not None

    async def report_success(self, backups: Sequence[Backup]) -> PendingReport:
        """Queue the report, unless it is queued already.

        Calagopus' Panel is also sent which backups have come. Where one Panel has nodes of several
        families, the form of the backups shows that it is Calagopus'.
        """
        queued = self._parts.callbacks.success_of(self._server)
        if queued is not None:
            return queued
        families = {self._parts.family, *(backup.family for backup in backups)}
        uuids = tuple(backup.uuid for backup in backups) if CALAGOPUS in families else None
        return await self._parts.callbacks.add(
            self._server, Outcome.SUCCESS, uuids, commits_within=self._commits_within
        )

    async def report_failure(self, *, is_known: bool) -> None:
        """Queue the report. One that the Panel denies is final where the failure `is_known`."""
        within = 0.0 if is_known else self._commits_within
        await self._parts.callbacks.add(self._server, Outcome.FAILURE, commits_within=within)

    @property
    def _commits_within(self) -> float:
        """Return for how many seconds the Panel may deny a transfer that it still commits.

        By the Panel's own clock, which has dated the order and its last answer.
        """
        ordered, now = self._ordered, self._parts.panel.date
        is_over = ordered is not None and now is not None and now - ordered >= COMMITS_WITHIN
        return 0.0 if is_over else COMMITS_WITHIN

    async def complete(self, server: Server) -> None:
        """Fetch the settings again: only now the Panel gives its addresses on this node."""
        try:
            await server.sync()
        except WingsdError as error:
            # They are fetched again before it is started.
            self._log.warn(
                "{server}: its new settings could not be fetched: {error}",
                server=self._server,
                error=error,
            )


class PanelSending(SendingCoordinator):
    """The Panel as the coordinator of an outgoing transfer, which began `age` seconds ago.

    Only the Panel decides whether a server that was sent whole has moved. Nothing is ever
    concluded from silence.
    """

    _log = Logger()

    def __init__(
        self, server: str, parts: PanelCoordinators, answer_grace: float, age: float = 0.0
    ) -> None:
        self.answer_grace = answer_grace
        self._server = server
        self._parts = parts
        self._first_minute = FirstMinute(parts.reactor, age)
        self._is_hurried = False
        self._waiting: Deferred[Any] | None = None

    def begin(self) -> None:
        """Drop the reports of earlier transfers: the Panel has begun another one."""
        self._parts.callbacks.drop(self._server)

    async def check(self) -> None:
        """Ask the Panel for the server's description."""
        await self._parts.panel.describe(self._server)

    async def report_failure(self) -> None:
        """Queue the report."""
        self.failure = await self._parts.callbacks.add(self._server, Outcome.FAILURE)

    def stop_waiting(self, reason: WingsdError) -> None:
        """Wait no longer for a destination that may still be at work.

        The Panel decides then, and nothing else may, nor before it has committed the transfer.
        """
        self._is_hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def has_moved(self, *, lost: bool = False, refused: bool = False) -> bool:
        """Ask the Panel until it answers; first for the grace, where the destination is `lost`.

        Unless the Panel says that the server has moved, a failure is reported, and the answer
        counts: of a success and a failure the Panel takes the first. Where the destination has not
        `refused` it, and may succeed, that is repeated until the Panel must have committed the
        transfer: also after a cancel, which the destination may not have heard of.
        """
        if lost and self.answer_grace and await self._moves_within(self.answer_grace):
            return True
        pauses = iter(OWNERSHIP_BACKOFF)
        while True:
            try:
                return await self._report_and_ask(refused=refused)
            except PanelError as error:
                pause = error.pause if isinstance(error, TransferNotCommitted) else next(pauses)
                self._log_unknown(error, pause)
                await deferLater(self._parts.reactor, pause)

    async def seems_moved(self) -> bool:
        """Ask the Panel."""
        try:
            return not await self._parts.panel.owns(self._server)
        except PanelError as error:
            self._log.info("{server}: not known yet: {error}", server=self._server, error=error)
            return False

    async def _moves_within(self, grace: float) -> bool:
        """Ask the Panel for `grace` seconds; return True as soon as the server has moved.

        False does not mean that it has not. `stop_waiting` ends it early.
        """
        end, pauses = self._parts.reactor.seconds() + grace, iter(GRACE_BACKOFF)
        while not self._is_hurried:
            asking = Deferred.fromCoroutine(self._parts.panel.owns(self._server))
            pause = next(pauses)
            try:
                if await self._wait(asking) is False:
                    return True
            except PanelError as error:
                self._log_unknown(error, pause)
            left = end - self._parts.reactor.seconds()
            if left <= 0:
                return False
            await self._wait(deferLater(self._parts.reactor, min(pause, left)))
        return False

    async def _report_and_ask(self, *, refused: bool) -> bool:
        if not await self._parts.panel.owns(self._server):
            return True
        if await self._parts.panel.transfer_failed(self._server):
            return False
        # The transfer was not open any more: the destination had reported its end. Or not yet.
        if not await self._parts.panel.owns(self._server):
            return True
        pause = self._first_minute.next_pause()
        if pause and not refused:
            raise TransferNotCommitted(pause)
        if pause:
            # The Panel denies a transfer that it may still commit, and must hear of the failure.
            await self.report_failure()
        return False

    async def _wait(self, waiting: Deferred[T]) -> T | None:
        """Return the result, or None when `stop_waiting` has cancelled it."""
        self._waiting = waiting
        if self._is_hurried:
            waiting.cancel()
        try:
            return await waiting
        except CancelledError:
            if not self._is_hurried:
                raise
            return None
        finally:
            self._waiting = None


@attrs.frozen(eq=False, repr=False)
class PanelCoordinators:
    """Makes the coordinator of each transfer that the Panel has begun.

    `family` is the node's. `answer_grace` is the seconds for which the Panel is asked whether a
    server has moved, when the answer of a destination that has everything is lost; 0 for none.
    """

    panel: Panel
    callbacks: CallbackQueue
    reactor: IReactorTime
    family: str
    answer_grace: float = 0.0

    def receiving(self, server: str, ordered: float | None = None) -> PanelReceiving:
        """Return the coordinator of a transfer to this node, `ordered` then by the Panel's clock.

        None is for one that an earlier daemon began.
        """
        return PanelReceiving(server, self, ordered)

    def sending(
        self, server: str, age: float = 0.0, grace_age: float | None = 0.0
    ) -> PanelSending:
        """Return the coordinator of a transfer from this node which began `age` seconds ago.

        Its grace began `grace_age` seconds ago; None where it had not begun.
        """
        grace = 0.0 if grace_age is None else self.answer_grace - max(grace_age, 0.0)
        return PanelSending(server, self, max(grace, 0.0), age)

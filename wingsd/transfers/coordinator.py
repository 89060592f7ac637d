"""Whose word counts in a transfer: who knows the server, and is told what becomes of it.

That is the Panel; `wingsd.direct_transfers` has the others, for servers moved without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import ServerAlreadyExists, WingsdError
from wingsd.panel.client import Panel
from wingsd.panel.errors import ServerNotAssigned
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server
from wingsd.statedb import Outcome
from wingsd.transfers.ownership import OwnershipCheck
from wingsd.transfers.panel_callbacks import CallbackQueue, FirstMinute
from wingsd.transfers.steps import ReceiveStep, SendStep

__all__ = ["PanelReceiving", "PanelSending", "ReceivingCoordinator", "SendingCoordinator"]


class ReceivingCoordinator(Protocol):
    """Whose word counts for one server that comes."""

    @property
    def by_hand(self) -> bool:
        """Whether people move it, and no Panel is asked."""

    @property
    def words(self) -> Mapping[ReceiveStep, str]:
        """What is done in steps whose usual words do not fit."""

    async def admit(self) -> Configuration:
        """Return what the server is. Raises `ServerAlreadyExists`, and why it may not come."""

    def begin(self) -> None:
        """The transfer begins."""

    async def write_down(self) -> None:
        """Write down what a daemon that dies must not forget. Raises `StorageError`."""

    async def ask_again(self) -> tuple[bool, Configuration]:
        """Return, after a restart, whether it has moved here, and what it is.

        Raises `PanelError` when that cannot be told yet, and `ServerNotFound`.
        """

    async def tell_success(self, backups: Sequence[str] | None) -> Deferred[bool]:
        """Have it told, for certain, that the server is here; return whether it is wanted.

        `backups` are the UUIDs of those that came with it, None where nobody asks.
        Raises `StorageError` where that is not certain, and nothing is told.
        """

    async def tell_failure(self) -> None:
        """Have it told that the server stays where it was."""

    async def welcome(self, server: Server) -> None:
        """The success was told, and the server is this node's."""


class SendingCoordinator(Protocol):
    """Whose word counts for one server that goes."""

    @property
    def by_hand(self) -> bool:
        """Whether people move it, and no Panel is asked."""

    @property
    def deletes(self) -> bool:
        """Whether it orders the deletion of a server that has moved, which is its word for that.

        Otherwise `part` does what is to be done with it.
        """

    @property
    def grace(self) -> float:
        """The seconds for which a destination whose answer is lost may go on with its work."""

    @property
    def words(self) -> Mapping[SendStep, str]:
        """What is done in steps whose usual words do not fit."""

    def begin(self) -> None:
        """The transfer begins."""

    async def write_down(self, entry: int) -> None:
        """Write down what a daemon that dies must not forget; in the journal it is `entry`.

        Raises `StorageError`.
        """

    async def introduce(self) -> None:
        """Tell the destination of the server, where it does not learn of it otherwise."""

    async def tell_failure(self) -> None:
        """Have it told that the server stays here."""

    async def has_moved(self, *, lost: bool = False) -> bool:
        """Return what became of a server that was sent whole; ask until that is known.

        Of a destination that is `lost` it is not known whether it goes on.
        """

    def give_up(self, reason: WingsdError) -> None:
        """Ask no longer, where somebody may decide that."""

    async def part(self, server: Server) -> None:
        """Do with a server that has moved what is to be done here."""


class PanelReceiving:
    """The Panel's word for a server that comes."""

    by_hand = False
    words: ClassVar[Mapping[ReceiveStep, str]] = {}
    _log = Logger()

    def __init__(self, server: str, panel: Panel, outbox: CallbackQueue, reactor: Any) -> None:
        self._server = server
        self._panel = panel
        self._outbox = outbox
        self._reactor = reactor

    async def admit(self) -> Configuration:
        """Return the Panel's description. Raises `ServerAlreadyExists`, and what asking it raises.

        A Panel that grants it to a transfer's two nodes alone is asked again for a minute, since
        it may not have committed the transfer yet.
        """
        if await self._panel.owns(self._server):
            raise ServerAlreadyExists(
                "this server is already on this node",
                "a transfer would overwrite it; in the Panel, see which node it belongs to",
            )
        first_minute = FirstMinute(self._reactor)
        while True:
            try:
                return await self._panel.describe(self._server)
            except ServerNotAssigned:
                pause = first_minute.next_pause()
                if not pause:
                    raise
            await deferLater(self._reactor, pause)

    def begin(self) -> None:
        """The Panel has begun another transfer: what was to be told of the last one is moot."""
        self._outbox.drop(self._server)

    async def write_down(self) -> None:
        """Do nothing: the Panel can be asked again."""

    async def ask_again(self) -> tuple[bool, Configuration]:
        """Return whether the Panel has the server here, and its description."""
        return await self._panel.owns(self._server), await self._panel.describe(self._server)

    async def tell_success(self, backups: Sequence[str] | None) -> Deferred[bool]:
        """Have the outbox tell it, unless it does so already."""
        success = self._outbox.success_of(self._server)
        return success or await self._outbox.tell(self._server, Outcome.SUCCESS, backups)

    async def tell_failure(self) -> None:
        """Have the outbox tell it."""
        await self._outbox.tell(self._server, Outcome.FAILURE)

    async def welcome(self, server: Server) -> None:
        """Fetch the settings anew: only now the Panel tells its addresses on this node."""
        try:
            await server.sync()
        except WingsdError as error:
            # They are asked for again before it is started.
            self._log.warn(
                "{server}: its new settings were not to be had: {error}",
                server=self._server,
                error=error,
            )


class PanelSending:
    """The Panel's word for a server that goes."""

    by_hand = False
    deletes = True
    words: ClassVar[Mapping[SendStep, str]] = {}

    def __init__(
        self, server: str, panel: Panel, outbox: CallbackQueue, reactor: Any, grace: float = 0.0
    ) -> None:
        self.grace = grace
        self._server = server
        self._outbox = outbox
        self._verdict = OwnershipCheck(server, panel, reactor)

    def begin(self) -> None:
        """The Panel has begun another transfer: what was to be told of the last one is moot."""
        self._outbox.drop(self._server)

    async def write_down(self, entry: int) -> None:
        """Do nothing: the Panel can be asked again."""

    async def introduce(self) -> None:
        """Do nothing: the destination asks the Panel itself."""

    async def tell_failure(self) -> None:
        """Have the outbox tell it."""
        await self._outbox.tell(self._server, Outcome.FAILURE)

    async def has_moved(self, *, lost: bool = False) -> bool:
        """Ask the Panel until it answers; first for the grace, where the destination is `lost`."""
        if lost and self.grace and await self._verdict.moves_within(self.grace):
            return True
        moved = await self._verdict.has_moved(lost=lost)
        if self._verdict.is_denied and not moved:
            await self.tell_failure()
        return moved

    def give_up(self, reason: WingsdError) -> None:
        """Have the Panel decide now: nobody else may."""
        self._verdict.hurry()

    async def part(self, server: Server) -> None:
        """Do nothing: the Panel has it deleted."""

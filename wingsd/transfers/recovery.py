"""After a start: each transfer that an earlier daemon left unfinished is finished or undone.

What was being received and is whole and durable goes on where it stood; anything else of it is
gone by now, or is removed, and told to have failed. Of what was being sent the Panel says whose it
is; where it stays it has its container again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.backups.local import Removal
from wingsd.backups.received import ReceivedBackups
from wingsd.errors import ServerNotFound, StorageError
from wingsd.panel.client import Panel
from wingsd.servers import Servers
from wingsd.statedb import Direction, Outcome, StateDatabase, TransferRecord, TransferResult
from wingsd.threadio import Workers
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import DaemonRestarted
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.ownership import OwnershipCheck
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.steps import ReceiveStep, SendStep
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Quarantine, Staging
from wingsd.util.observer import Observer

__all__ = ["Recovery", "clear_leftovers", "durable", "reached"]

_log = Logger()

#: Why a server cannot be started that was being sent when the daemon ended.
HOLD = "the server was being transferred when this node ended, and the Panel is asked about it"

_RECEIVING = tuple(ReceiveStep)
_SENDING = tuple(SendStep)


def durable(entries: Sequence[TransferRecord]) -> set[str]:
    """Return the servers that were received whole, and whose files must not be cleared away."""
    first, last = map(_RECEIVING.index, (ReceiveStep.SWAP, ReceiveStep.REPORT))
    names = {step.name for step in _RECEIVING[first : last + 1]}
    received = (entry for entry in entries if entry.direction is Direction.IN)
    return {entry.server for entry in received if entry.step in names}


def clear_leftovers(
    entries: Sequence[TransferRecord], staging: Staging, backups: ReceivedBackups
) -> None:
    """Delete what is staged of transfers that were not whole, and log it. Raises `StorageError`.

    Of backups that cannot be looked for it is only logged: most nodes never get any.
    """
    whole = durable(entries)
    leftovers = set(staging.clear(whole))
    try:
        leftovers.update(backups.clear(whole))
    except StorageError as error:
        _log.error("{error}", error=error)
    for name in sorted(leftovers):
        _log.warn("{server}: removed an unfinished transfer of before", server=name)


class _ByHand(Protocol):
    """What takes up the moves for which no Panel is asked."""

    def receiving(self, server: str) -> ReceivingCoordinator:
        """Return the word for a server that was on its way here."""

    def settle(self, entry: TransferRecord) -> None:
        """Find out what became of what was being sent."""


@attrs.frozen
class Recovery:
    """Takes up the unfinished `entries` of the journal."""

    _log: ClassVar[Logger] = Logger()

    entries: Sequence[TransferRecord]
    receiver: IncomingTransfers
    sender: OutgoingTransfers
    servers: Servers
    journal: StateDatabase
    outbox: CallbackQueue
    panel: Panel
    attic: Quarantine
    by_hand: _ByHand
    removal: Removal
    volume: Volume
    disk: Workers
    reactor: Any
    #: Seconds for which a destination whose answer was lost may go on with its work.
    answer_grace: float = 0
    observer: Observer = attrs.field(factory=Observer)

    def begin(self) -> None:
        """Go on with what was being received; hold what was being sent."""
        for entry in self.entries:
            self._log.warn(
                "{server}: a transfer of before is unfinished: {way}, at {step}",
                server=entry.server,
                way=entry.direction.value,
                step=entry.step.lower(),
            )
            if entry.direction is Direction.IN:
                authority = self.by_hand.receiving(entry.server) if entry.direct else None
                self.receiver.resume(entry, authority)
            elif entry.direct:
                self.by_hand.settle(entry)
            else:
                self.servers.reserve(entry.server, HOLD)
                if entry.pool:
                    self.servers.share(entry.server, entry.pool)

    def settle(self) -> None:
        """Find out what became of what was being sent, once the servers are loaded."""
        for entry in self.entries:
            if entry.direction is Direction.OUT and not entry.direct:
                settling = Deferred.fromCoroutine(self._settle(entry))
                settling.addErrback(self._unsettled, entry.server)

    def _unsettled(self, failure: Any, server: str) -> None:
        self._log.failure("{server}: its transfer stays unsettled", failure, server=server)

    async def _settle(self, entry: TransferRecord) -> None:
        await self.disk.run(self.volume.unmark, entry.server)
        await self.disk.run(self.volume.unmark_backups, entry.server)
        # A step is written down before it is taken: of SEND nobody knows how far it came.
        if not reached(entry, SendStep.SEND):
            await self.outbox.tell(entry.server, Outcome.FAILURE)
            moved = False
        else:
            moved = await self._has_moved(entry)
        way = entry.direction.value
        self.observer.transfer_over(way, None if moved else DaemonRestarted())
        await self._release(entry, moved)
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        account = (
            TransferResult() if moved else TransferResult("this node was restarted meanwhile")
        )
        await self.journal.end(entry.id, outcome, account)

    async def _has_moved(self, entry: TransferRecord) -> bool:
        age = self.journal.seconds_since(entry.begun)
        verdict = OwnershipCheck(entry.server, self.panel, self.reactor, age)
        if reached(entry, SendStep.SETTLE):
            # Entered with the grace alone; of that, the rest is left.
            grace = self.answer_grace - max(self.journal.seconds_since(entry.changed), 0)
            if grace > 0 and await self.sender.moves_within(grace, entry.server, verdict):
                return True
        return await verdict.has_moved(lost=True)

    async def _release(self, entry: TransferRecord, moved: bool) -> None:
        uuid = entry.server
        if moved and self.receiver.find(uuid) is not None:
            return  # It comes back already: all that is here is that transfer's.
        if moved:
            self.servers.forget(uuid)
            await self.attic.store_away(uuid, pooled=entry.pool != "", inode=entry.inode)
            await self.removal.remove(uuid, entry.removals)
            if entry.pool:
                # Its files stay in sight: they do not make it one that is here by hand.
                await self.journal.delete_description(uuid)
            return
        self.servers.unshare(uuid)
        self._log.info("{server}: its transfer failed, it is still here", server=uuid)
        with suppress(ServerNotFound):  # The Panel may have deleted it meanwhile.
            server = self.servers.get(uuid)
            server.release()
            if reached(entry, SendStep.RETIRE):
                await server.restore_environment()


def reached(entry: TransferRecord, step: SendStep) -> bool:
    """Return whether what was being sent had come to that step."""
    return _SENDING.index(SendStep[entry.step]) >= _SENDING.index(step)

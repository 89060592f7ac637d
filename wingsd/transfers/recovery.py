"""Recovery at the daemon's start: completes unfinished transfers, or rolls them back.

A received server that is complete and durable continues from its step; anything else of an
incoming transfer is removed, and reported as a failure. For an outgoing one, the coordinator is
asked whether the server has moved; where it stays, its container is made again, and it is started
if it ran until it was stopped for a move, or until the former daemon ended. A move goes on, unless
the coordinator was being asked already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.backups.received import ReceivedBackups
from wingsd.errors import ServerNotFound, ServersNotLoaded, StorageError, WingsdError
from wingsd.servers import Server
from wingsd.servers.operations import Operation
from wingsd.servers.running import RunningServers
from wingsd.statedb import Direction, MoveRecord, TransferRecord
from wingsd.transfers.coordinator import (
    Initiator,
    PanelCoordinators,
    ReceivingCoordinator,
    SendingCoordinator,
)
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.transfers.manager import IncomingMoves, IncomingTransfers, OutgoingTransfers
from wingsd.transfers.outgoing.source import is_seed
from wingsd.transfers.steps import ReceiveStep, SendStep
from wingsd.transfers.storage.staging import Staging

_log = Logger()

#: When a server ran that is started again here, for its console.
_BEFORE = "before its transfer"
#: The steps in which a server may be running which was asked to end.
_STOPPING = (SendStep.STOP.name, SendStep.FAILED.name)


def durable(entries: Sequence[TransferRecord]) -> set[str]:
    """Return the servers that were received whole, and whose files must not be removed."""
    # by names: a later version may have recorded other steps
    names = {each.name for each in ReceiveStep if ReceiveStep.SWAP <= each <= ReceiveStep.REPORT}
    received = (entry for entry in entries if entry.direction is Direction.IN)
    return {entry.server for entry in received if entry.step in names}


def open_moves(
    entries: Sequence[TransferRecord], moves: Sequence[MoveRecord]
) -> dict[int, MoveRecord]:
    """Return the moves to this node that go on where they were, by the ids of their transfers."""
    records = {move.transfer: move for move in moves if move.direction is Direction.IN}
    names = {each.name for each in ReceiveStep if each < ReceiveStep.SWAP}
    return {
        entry.id: records[entry.id]
        for entry in entries
        if entry.id in records and entry.step in names
    }


def clear_leftovers(
    entries: Sequence[TransferRecord],
    staging: Staging,
    backups: ReceivedBackups,
    others: Sequence[str] = (),
    moves: Sequence[MoveRecord] = (),
) -> None:
    """Delete what is staged of transfers that were not whole, and log it. Raises `StorageError`.

    What has the name of one of the `others` stays as well, and what has arrived by `moves`.
    If the staged backups cannot be listed, that is only logged: most nodes never have any.
    """
    whole = durable(entries)
    moving = {move.server for move in open_moves(entries, moves).values()}
    leftovers = set(staging.clear({*whole, *others}, moving))
    try:
        leftovers.update(backups.clear({*whole, *moving, *staging.kept_servers()}))
    except StorageError as error:
        _log.error("{error}", error=error)
    for name in sorted(leftovers):
        _log.warn("{server}: removed the files of an interrupted transfer or restore", server=name)


@attrs.define(eq=False, repr=False, slots=False)
class PanelInitiator(Initiator):
    """The Panel, which has ordered transfers."""

    hold = "the server was being transferred when this node ended, and the Panel is asked about it"

    _coordinators: PanelCoordinators
    _receiver: IncomingTransfers
    _sender: OutgoingTransfers

    def __attrs_post_init__(self) -> None:
        self._parts = self._sender.parts
        self._database = self._parts.database

    def receiving(self, server: str, pair: str = "") -> ReceivingCoordinator:
        """Return the coordinator of a transfer to this node."""
        return self._coordinators.receiving(server)

    async def resumed(
        self, entry: TransferRecord, record: MoveRecord
    ) -> tuple[Server, SendingCoordinator] | None:
        """Return the server, and a coordinator; None if the Panel was being asked already."""
        if reached(entry, SendStep.SETTLE):
            return None
        age = self._database.seconds_since(entry.begun)
        coordinator = self._coordinators.sending(entry.server, age, 0.0)
        return self._parts.servers.get(entry.server), coordinator

    async def has_moved(self, entry: TransferRecord) -> bool | None:
        """Ask the Panel, first for the rest of the grace, where that had begun."""
        age = self._database.seconds_since(entry.begun)
        # The step SETTLE is recorded only with a grace.
        in_grace = reached(entry, SendStep.SETTLE)
        grace_age = self._database.seconds_since(entry.changed) if in_grace else None
        coordinator = self._coordinators.sending(entry.server, age, grace_age)
        moved = await self._sender.has_moved(entry.server, coordinator)
        if not moved:
            # The destination may not have heard of the commit, and would wait for its source.
            await self._sender.give_up_move(entry)
        return moved

    async def report_failure(self, entry: TransferRecord) -> None:
        """Report it to the Panel.

        Once only: meanwhile the Panel may have begun another transfer, which it would end.
        """
        if not await self._database.is_failure_reported(entry.server, entry.begun):
            await self._coordinators.sending(entry.server).report_failure()

    async def clean_up(self, entry: TransferRecord) -> None:
        """Put the server into quarantine, and remove its backups."""
        if self._receiver.find(entry.server) is not None:
            return  # It is coming back already: what is here belongs to that transfer.
        await self._parts.store_away(entry.server, entry.pool, entry.inode)
        await self._parts.remove_attachments(entry.server, entry.pool, entry.removals)


@attrs.define(eq=False, repr=False, slots=False)
class Recovery:
    """The recovery of the unfinished `entries` of the state database, and their `moves`.

    `moves` has also those that have failed: their destinations hear of it. `starter` starts a
    server again that was stopped for its move, and stays; first it is stopped, where it has not
    ended yet.
    """

    _log = Logger()

    _entries: Sequence[TransferRecord]
    _moves: Sequence[MoveRecord]
    _panel: Initiator = attrs.field(kw_only=True)
    _direct: Initiator = attrs.field(kw_only=True)
    _receiver: IncomingTransfers = attrs.field(kw_only=True)
    _incoming_moves: IncomingMoves = attrs.field(kw_only=True)
    _sender: OutgoingTransfers = attrs.field(kw_only=True)
    _starter: RunningServers = attrs.field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        sent = {move.transfer: move for move in self._moves if move.direction is Direction.OUT}
        self._sent_moves = sent
        states = {transfer: json.loads(move.state) for transfer, move in sent.items()}
        #: The transfers whose servers ran until they were stopped, and not since.
        self._were_stopped = {
            transfer
            for transfer, state in states.items()
            if state.get("live") is True and state.get("stopped") is True
        }
        #: Those whose servers are used as ever: their ends were not due yet.
        self._seeds = {
            entry.id
            for entry in self._entries
            if entry.id in sent and is_seed(entry, sent[entry.id])
        }
        self._superseded = superseded(self._entries)
        self._open_moves = open_moves(self._entries, self._moves)
        #: Those that wait for the servers to be loaded.
        self._waiting: list[TransferRecord] = []
        self._parts = self._sender.parts
        self._servers = self._sender.parts.servers

    def begin(self) -> None:
        """Resume incoming transfers, and hold the servers of outgoing ones.

        Direct ones are completed at once, the others, and those that have failed, by
        `resume_outgoing`.
        """
        unfinished = {entry.id for entry in self._entries}
        for transfer, record in self._sent_moves.items():
            if transfer not in unfinished:
                self._sender.give_up(record)
        for entry in self._entries:
            self._log.warn(
                "{server}: resuming an unfinished transfer: {way}, at {step}",
                server=entry.server,
                way=entry.direction.value,
                step=entry.step.lower(),
            )
            if entry.direction is Direction.IN:
                self._receive(entry)
            elif self._hold(entry):
                self._resume(entry)
            else:
                self._waiting.append(entry)

    def resume_outgoing(self) -> None:
        """Find out what became of outgoing transfers, once the servers are loaded."""
        for entry in self._waiting:
            self._resume(entry)

    def _initiator(self, entry: TransferRecord) -> Initiator:
        return self._direct if entry.direct else self._panel

    def _receive(self, entry: TransferRecord) -> None:
        record = self._open_moves.get(entry.id)
        pair = record.pair if record is not None else ""
        coordinator = self._initiator(entry).receiving(entry.server, pair)
        if record is not None:
            self._incoming_moves.resume(entry, record, coordinator)
        else:
            self._receiver.resume(UploadTransfer, entry, coordinator)

    def _hold(self, entry: TransferRecord) -> bool:
        """Hold the server of an outgoing transfer; return whether it is resumed at once."""
        if entry.id in self._seeds:
            return self._servers.knows(entry.server)  # where no Panel need list it
        if entry.id in self._superseded or entry.step == SendStep.WAIT.name:
            return False  # the later transfer holds the server, or it is used as ever
        self._servers.reserve(entry.server, self._initiator(entry).hold)
        if entry.pool:
            self._servers.share(entry.server, entry.pool)
        return entry.direct and not has_failed(entry)

    def _resume(self, entry: TransferRecord) -> None:
        resuming = Deferred.fromCoroutine(self._resume_with(entry, self._initiator(entry)))
        resuming.addErrback(
            lambda failure: self._log.failure(
                "{server}: resuming its unfinished transfer failed", failure, server=entry.server
            )
        )

    async def _resume_with(self, entry: TransferRecord, initiator: Initiator) -> None:
        step_logs = self._parts.step_logs
        if entry.id in self._superseded:
            # What becomes of the server, and of its hold, is for the later transfer to say.
            await self._report_failure(entry, initiator)
            await step_logs.close_unfinished(entry, moved=False)
            return
        await self._parts.remove_marks(entry.server)
        if not has_failed(entry) and await self._go_on(entry, initiator):
            return
        # A step is recorded before it is taken: SEND may have been complete, or not begun.
        if reached(entry, SendStep.SEND) and not has_failed(entry):
            moved = await initiator.has_moved(entry)
        else:
            moved = False
            await self._report_failure(entry, initiator)
        if moved:
            await initiator.clean_up(entry)
        else:
            await self._stay(entry, starts=moved is not None)
        await step_logs.close_unfinished(entry, moved=moved is True)
        self._parts.left_backups.wake()

    async def _go_on(self, entry: TransferRecord, initiator: Initiator) -> bool:
        """Go on with a move; return whether it goes on."""
        record = await self._parts.database.move(entry.id)
        if record is None:
            return False
        try:
            found = await initiator.resumed(entry, record)
            return found is not None and self._sender.go_on(entry, record, *found)
        except (WingsdError, ValueError) as error:
            self._log.warn(
                "{server}: its move does not go on: {error}", server=entry.server, error=error
            )
            return False

    async def _report_failure(self, entry: TransferRecord, initiator: Initiator) -> None:
        """Report that a server stays here; the destination of a move hears of it, too."""
        await initiator.report_failure(entry)
        await self._sender.give_up_move(entry)

    async def _stay(self, entry: TransferRecord, *, starts: bool) -> None:
        """Release a server; one that ran until it was stopped for this is started, if it `starts`.

        It does not where another node may run it.
        """
        self._log.info("{server}: its transfer failed, it is still here", server=entry.server)
        if entry.step == SendStep.WAIT.name:
            return  # it has held nothing, and another transfer may by now
        self._servers.unshare(entry.server)
        if entry.id in self._seeds:
            return  # nothing has held it
        self._servers.reserve(entry.server, "")
        with suppress(
            ServersNotLoaded, ServerNotFound
        ):  # The Panel may have deleted it meanwhile.
            server = self._servers.get(entry.server)
            # an installation that was begun since the failure holds it for itself
            server.operations.release(Operation.TRANSFER_OUT)
            if reached(entry, SendStep.RETIRE):
                await server.restore_environment()
            if starts and (entry.id in self._were_stopped or server.starts_if_it_stays):
                # It may have been asked to end, and not have: also after a failure in its stop.
                is_stopping = entry.id in self._were_stopped and entry.step in _STOPPING
                stop = partial(server.stop_within, self._parts.config.stop_grace)
                await self._starter.start_in_turn(server, _BEFORE, stop if is_stopping else None)


def superseded(entries: Sequence[TransferRecord]) -> set[int]:
    """Return the seeds that have failed since later transfers took their places.

    `entries` are unfinished, oldest first. Anything else that has failed is closed when a later
    transfer of the server is recorded; a seed fails after that.
    """
    sent = [entry for entry in entries if entry.direction is Direction.OUT]
    latest = {entry.server: entry.id for entry in sent}
    return {
        entry.id
        for entry in sent
        if entry.direct and has_failed(entry) and latest[entry.server] != entry.id
    }


def reached(entry: TransferRecord, step: SendStep) -> bool:
    """Return whether an outgoing transfer had come to that step."""
    return step <= SendStep[entry.step]


def has_failed(entry: TransferRecord) -> bool:
    """Return whether the server stays here, where it may have been used since."""
    return entry.step == SendStep.FAILED.name

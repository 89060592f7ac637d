"""All transfers of this node: at most one for each server and direction.

`IncomingTransfers` decides which may begin here, and `IncomingMoves` finds those by many requests,
also when they have ended; `ArrivedServers` starts what ran. `OutgoingTransfers` begins those from
this node, and their seeds.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from wingsd.auth.tokens import TransferToken, token_was_used
from wingsd.errors import (
    DaemonStopping,
    MoveBusy,
    MoveKeyInvalid,
    MoveNotFound,
    MoveRequestInvalid,
    NodeInMaintenance,
    ServerAlreadyExists,
    ServerNotFound,
    TooManyTransfers,
    TransferCancelled,
    TransferInProgress,
    TransferNotActive,
    WingsdError,
)
from wingsd.filesystem.attributes import NOTHING, AttributesKept
from wingsd.servers import Server
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import AWAITED, Operation
from wingsd.servers.registry import Servers
from wingsd.servers.running import RunningServers
from wingsd.statedb import (
    Direction,
    Maintenance,
    MoveRecord,
    Outcome,
    StateDatabase,
    TransferRecord,
)
from wingsd.transfers.coordinator import (
    PanelCoordinators,
    ReceivingCoordinator,
    SendingCoordinator,
)
from wingsd.transfers.incoming.moves.inbox import MoveBeginning, check_announced
from wingsd.transfers.incoming.moves.transfer import (
    FOLLOWS,
    IncomingSeed,
    MoveTransfer,
    recorded_failure,
)
from wingsd.transfers.incoming.transfer import IncomingParts, IncomingTransfer
from wingsd.transfers.outgoing.move import begun_of, give_up, request_of
from wingsd.transfers.outgoing.source import OutgoingParts, TransferRequest
from wingsd.transfers.outgoing.transfer import OutgoingTransfer, SeedTransfer
from wingsd.transfers.steps import ProgressReport, SeedFigures, SendStep
from wingsd.util.deferreds import when_fired
from wingsd.util.serialization import structure

#: Where a server was running that is started here, for the console.
THERE = "at its former node"
#: Seconds for which a start that fails is tried again: a port may be in use by what ends soon, and
#: the engine be busy with other servers that arrive.
REPEAT_FOR = 300.0
#: Seconds that the Panel has to have a server deleted here that has moved, before it is asked.
DELETION_WITHIN = 600.0


Transfer = TypeVar("Transfer", bound="IncomingTransfer | OutgoingTransfer")
T = TypeVar("T", bound=IncomingTransfer)
#: Makes a transfer of a server.
MakeTransfer = Callable[[str, ReceivingCoordinator, IncomingParts], T]


@attrs.define(eq=False, repr=False, slots=False)
class TransferTable(Generic[Transfer]):
    """The transfers under way by their servers' UUIDs; each is removed when it is over."""

    _open: dict[str, Transfer] = attrs.field(factory=dict, init=False)
    _stopping: bool = attrs.field(default=False, init=False)

    def find(self, server: str) -> Transfer | None:
        """Return the server's transfer, if there is one."""
        return self._open.get(server)

    @property
    def progress(self) -> list[ProgressReport]:
        """The progress of each transfer, also of failed ones that are still being cleaned up."""
        return [transfer.progress for transfer in self._open.values()]

    @property
    def servers(self) -> tuple[str, ...]:
        """The UUIDs of the servers that are being transferred."""
        return tuple(self._open)

    @property
    def waiting(self) -> int:
        """The number of transfers that wait for a slot."""
        return sum(transfer.is_waiting for transfer in self._open.values())

    def _add(self, server: str, transfer: Transfer) -> None:
        self._open[server] = transfer
        transfer.over.addCallback(self._remove, server, transfer)

    def _remove(self, _: None, server: str, transfer: Transfer) -> None:
        # A later transfer of the server may have been added while this one was cleaned up.
        if self._open.get(server) is transfer:
            del self._open[server]


def all_over(transfers: Iterable[IncomingTransfer | OutgoingTransfer]) -> Deferred[Any]:
    """Return a Deferred that fires when each of the transfers is over."""
    return DeferredList([when_fired(transfer.over) for transfer in transfers])


class ArrivedServers:
    """Starts servers that ran until they were moved here, once the Panel has accepted the success.

    Which ones is in the state database before their success is reported, and until the start was
    tried: the daemon after a restart starts those that this one does not.
    """

    def __init__(self, database: StateDatabase, starter: RunningServers, servers: Servers) -> None:
        self._database = database
        self._starter = starter
        self._servers = servers
        self._tasks = BackgroundTasks()
        self._left: Sequence[MoveRecord] = ()
        self._stopped = False

    async def load(self) -> None:
        """Load which ones an earlier daemon has left. Raises `StorageError`."""
        self._left = await self._database.arrived_to_start()

    def start_left(self) -> None:
        """Start these, in the background, when the servers are loaded."""
        left, self._left = self._left, ()
        for record in left:
            self.arrived(record.transfer, record.server)

    def arrived(self, transfer: int, server: str) -> None:
        """Start a server in the background, if that is recorded: its transfer has succeeded."""
        if not self._stopped:
            self._tasks.start("starting it after its move", self._start(transfer, server), server)

    def stop(self) -> None:
        """Start no more of them; the others are started after the restart of the daemon."""
        self._stopped = True
        self._tasks.stop()

    async def _start(self, transfer: int, uuid: str) -> None:
        if not await self._database.starts(transfer):
            return
        try:
            server = self._servers.get(uuid)
        except ServerNotFound:
            pass  # it was deleted meanwhile
        else:
            await self._starter.start_in_turn(server, THERE, repeat_for=REPEAT_FOR)
        await self._database.set_start(transfer, starts=False)


@attrs.define(eq=False, repr=False, slots=False)
class IncomingTransfers(TransferTable[IncomingTransfer]):
    """All transfers to this node, at most one for each server; `arrived` hears of successes."""

    _coordinators: PanelCoordinators
    parts: IncomingParts
    _arrived: ArrivedServers
    #: Since when the node takes no servers; None where it does.
    maintenance: Maintenance | None = attrs.field(default=None, init=False)

    def require_open(self) -> None:
        """Raise `NodeInMaintenance` where the node takes no servers."""
        if self.maintenance is not None:
            raise NodeInMaintenance(self.maintenance.why)

    def open(
        self,
        make: MakeTransfer[T],
        server: str,
        coordinator: ReceivingCoordinator | None = None,
        ordered: float | None = None,
    ) -> T:
        """Return a new transfer of the server with the UUID `server`, which `make` returns.

        The Panel coordinates it, which has `ordered` it then by its own clock, in seconds since
        the epoch, unless another `coordinator` is given. The transfer waits until
        an earlier one that has failed, or that gives way, is cleaned up. Raises
        `ServerAlreadyExists` while another is under way, `TooManyTransfers` while there are as
        many as may be, `NodeInMaintenance`, and `DaemonStopping` after `stop`.
        """
        if self._stopping:
            raise DaemonStopping
        self.require_open()
        previous = self._open.get(server)
        if previous is not None and _gives_way(previous, coordinator):
            previous.give_way()
        elif previous is not None and not previous.has_failed:
            # Not aborted for the next one, though that has a newer token: the failure of a
            # transfer is reported to the Panel by the server's UUID alone, and would end both.
            raise ServerAlreadyExists(
                "this server is already being received", self._prospects(previous)
            )
        most = self.parts.config.concurrent + self.parts.config.waiting
        if sum(transfer.takes_a_place for transfer in self._open.values()) >= most:
            raise TooManyTransfers(most)
        coordinator = coordinator or self._coordinators.receiving(server, ordered)
        transfer = self._begin(make, server, coordinator)
        if previous is not None:
            transfer.previous_over = when_fired(previous.over)
        return transfer

    def expect(self, server: str) -> None:
        """Note that the Panel has begun a transfer of the server to this node.

        The failure of an earlier one, which the Panel denies, would end it.
        """
        self._coordinators.callbacks.drop(server, denied=True)

    def pool_features(
        self, server: str, pool: str, mark: str, backups_mark: str
    ) -> Deferred[list[str]]:
        """Return what the sender of a server is answered about its storage pool and its marks."""
        parts = self.parts
        return parts.disk.run(parts.volume.features, server, pool, mark, backups_mark)

    def _prospects(self, transfer: IncomingTransfer) -> str:
        """Return since when a transfer is under way, and when it ends if its sender is gone."""
        now = transfer.progress
        so_far = f"the transfer under way began {now.seconds:.0f} s ago and is {now.step_text}"
        if not transfer.is_receiving:
            return f"{so_far}; wait for it to end"
        return (
            f"{so_far}; if its sender is gone, it ends after "
            f"{self.parts.config.stall_timeout:g} s of silence: send the server again then"
        )

    def resume(
        self, make: MakeTransfer[T], entry: TransferRecord, coordinator: ReceivingCoordinator
    ) -> None:
        """Complete or roll back what an earlier daemon has left, by what `make` returns."""
        transfer = self._begin(make, entry.server, coordinator)
        Deferred.fromCoroutine(transfer.resume(entry))

    def _begin(self, make: MakeTransfer[T], server: str, coordinator: ReceivingCoordinator) -> T:
        transfer = make(server, coordinator, self.parts)
        self._add(server, transfer)
        transfer.over.addCallback(self._note_success, transfer)
        return transfer

    def _note_success(self, _: None, transfer: IncomingTransfer) -> None:
        if transfer.number is not None:
            self._arrived.arrived(transfer.number, transfer.server)

    def cancel(self, server: str) -> None:
        """End the server's transfer, in any step; nothing of it stays.

        Raises `Conflict` when there is none that can still be ended: not once success is reported.
        """
        transfer = self._open.get(server)
        if transfer is None or not transfer.abort(TransferCancelled(), verified=True):
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer to this node that could still be cancelled",
            )

    def forget(self, server: str) -> bool:
        """End the seed of a server and remove its copy; return whether there was one."""
        transfer = self._open.get(server)
        return transfer is not None and transfer.forget()

    async def release(self, server: str, *, keeps: bool = False) -> None:
        """End the server's transfer, since the server is to be deleted; return when it is over.

        One whose success may have been reported is not waited for: the Panel knows what it
        deletes. With `keeps` the Panel deletes servers at the destination of each transfer that
        has failed: what has arrived of a move stays for the next one.
        """
        transfer = self._open.get(server)
        if transfer is not None and transfer.release(keeps=keeps):
            await when_fired(transfer.over)

    def stop(self) -> Deferred[Any]:
        """Abort what is not verified yet; the Deferred fires when the rest is at its end.

        A server that has arrived, and of which the Panel has not heard, is left to the
        recovery.
        """
        self._stopping = True
        transfers = [transfer for transfer in self._open.values() if not transfer.has_arrived]
        over = all_over(transfers)
        for transfer in transfers:
            transfer.abort(DaemonStopping())
        return over

    def concluded(self) -> Deferred[Any]:
        """Return a Deferred that fires when the transfers that the Panel has answered are over."""
        return all_over(transfer for transfer in self._open.values() if transfer.is_answered)

    def abort_all(self) -> None:
        """Abort what is verified as well, where its success has not been reported."""
        for transfer in tuple(self._open.values()):
            transfer.abort(DaemonStopping(), verified=True)


def _gives_way(previous: IncomingTransfer, coordinator: ReceivingCoordinator | None) -> bool:
    """Return whether a transfer ends for the next one, of which that is the coordinator.

    What the Panel has ordered does not for a direct one, whose request may have come late; nor
    anything for the seed of a pair but one of the same pair.
    """
    if coordinator is not None and coordinator.pair_identity:
        return (
            previous.gives_way and previous.coordinator.pair_identity == coordinator.pair_identity
        )
    ordered = coordinator is None or not coordinator.is_direct
    return previous.gives_way and (ordered or previous.coordinator.is_direct)


def key_digest(key: str) -> str:
    """Return the SHA-256 of a move's key, as it is kept."""
    return sha256(key.encode()).hexdigest()


@attrs.frozen(eq=False, repr=False)
class EndedMove:
    """The end of a move; the texts and the code are empty after a success.

    `entry` is the transfer that has succeeded.
    """

    outcome: Outcome
    error: str = ""
    detail: str = ""
    code: str = ""
    entry: TransferRecord | None = None


@attrs.define(eq=False, repr=False, slots=False)
class IncomingMoves:
    """The moves to this node."""

    _receiver: IncomingTransfers

    def __attrs_post_init__(self) -> None:
        self.settings = self._receiver.parts.config.moves
        self._database = self._receiver.parts.step_logs.database
        #: Moves that are being admitted, by the digests of their tokens: the digest of the key,
        #: and a Deferred that fires when that has ended.
        self._beginning: dict[str, tuple[str, Deferred[None]]] = {}

    async def begun(self, token: TransferToken, key: str) -> str | None:
        """Return the id of the move that was begun with a token and a key, None without.

        The source may have lost the answer to the first request, which may still be under way.
        Raises `TokenUsed` for another key.
        """
        digest = key_digest(key)
        first = self._beginning.get(token.digest)
        if first is not None:
            key_of_first, over = first
            _check_key(digest, key_of_first)
            await when_fired(over)
        known = await self._database.find_admitted(token.digest)
        if known is None:
            return None
        _check_key(digest, known.key)
        return known.move

    async def attributes_kept(self, version: int) -> AttributesKept:
        """Return which extended attributes servers keep in moves of a version.

        The file system is asked each time: it may have been full before.
        """
        parts = self._receiver.parts
        return NOTHING if version == 1 else await parts.disk.run(parts.staging.attributes_kept)

    async def begin(
        self,
        token: TransferToken,
        key: str,
        beginning: MoveBeginning,
        coordinator: Callable[[], ReceivingCoordinator | None],
    ) -> str:
        """Begin a move; return its id.

        Raises `MoveRequestInvalid`, `TokenUsed`, and why the server is not admitted.
        """
        check_announced(beginning.backups, beginning.log)
        if await self._database.was_used(token.digest, token.expires):
            raise token_was_used()
        if token.digest in self._beginning:
            raise ServerAlreadyExists(
                "this move is being begun already", "it was asked for by several requests at once"
            )
        initiator = coordinator()
        pair = "" if initiator is None else initiator.pair_identity
        if pair and (beginning.backups or beginning.log is not None):
            raise MoveRequestInvalid("a seed of a pair comes without backups and log")
        record = MoveRecord(
            transfer=0,
            server=token.server,
            direction=Direction.IN,
            move=secrets.token_hex(16),
            key=key_digest(key),
            token=token.digest,
            family=beginning.family,
            request=json.dumps(attrs.asdict(beginning)),
            pair=pair,
        )
        over: Deferred[None] = Deferred()
        self._beginning[token.digest] = record.key, over
        try:
            make = _maker(record, beginning, expires=token.expires)
            transfer = self._receiver.open(make, token.server, initiator, token.issued)
            await transfer.begin()
        except TransferCancelled:
            # The source may have sent the request twice: the second one must not begin it again.
            await self._database.use_token(token.digest, token.expires)
            raise
        finally:
            del self._beginning[token.digest]
            over.callback(None)
        return record.move

    async def withdraw(self, token: TransferToken, key: str) -> str:
        """Use up a token, so that no move can be begun with it; return the id of one that was.

        Raises `MoveNotFound` without one, and `TokenUsed` for another key.
        """
        if not await self._database.use_token(token.digest, token.expires):
            known = await self.begun(token, key)
            if known is not None:
                return known
        raise MoveNotFound

    def resume(
        self, entry: TransferRecord, record: MoveRecord, coordinator: ReceivingCoordinator
    ) -> None:
        """Go on with a move that an earlier daemon has left open."""
        # what an unknown version has written is left out
        beginning = structure(json.loads(record.request), MoveBeginning)
        make = _maker(
            record,
            beginning,
            is_following=json.loads(record.state).get(FOLLOWS) is True,
            failure=recorded_failure(record.state),
        )
        self._receiver.resume(make, entry, coordinator)

    def find(self, server: str, move: str) -> MoveTransfer | None:
        """Return a move that has not ended."""
        transfer = self._receiver.find(server)
        if isinstance(transfer, MoveTransfer) and transfer.record.move == move:
            return transfer
        return None

    def authorized(self, server: str, move: str, key: str) -> MoveTransfer | None:
        """Return a move that has not ended, for its source. Raises `MoveKeyInvalid`."""
        transfer = self.find(server, move)
        if transfer is not None:
            if not compare_digest(key_digest(key), transfer.record.key):
                raise MoveKeyInvalid
            transfer.silence.progressed()
        return transfer

    async def ended(self, server: str, move: str, key: str) -> EndedMove:
        """Return how a move has ended, for its source.

        Raises `MoveNotFound`, `MoveKeyInvalid`, and `MoveBusy` for one that an earlier daemon has
        left open.
        """
        record = await self._database.find_move(Direction.IN, move)
        if record is None or record.server != server:
            raise MoveNotFound
        if not compare_digest(key_digest(key), record.key):
            raise MoveKeyInvalid
        entry = await self._database.transfer(record.transfer)
        if entry is None:
            raise MoveNotFound
        if entry.outcome is Outcome.SUCCESS:
            return EndedMove(Outcome.SUCCESS, entry=entry)
        if entry.outcome is None:
            transfer = self.find(server, move)
            # It may have been resumed since the request came, while the database was asked.
            if transfer is None or not transfer.has_failed:
                raise MoveBusy("this node is still starting; send it again")
        error = recorded_failure(record.state) or WingsdError("the transfer failed", entry.reason)
        return EndedMove(Outcome.FAILURE, error.message, error.detail, error.code)


def _maker(
    record: MoveRecord, beginning: MoveBeginning, **state: Any
) -> MakeTransfer[MoveTransfer]:
    kind = IncomingSeed if beginning.follow else MoveTransfer
    return partial(kind, record=record, beginning=beginning, **state)


def _check_key(found: str, expected: str) -> None:
    if not compare_digest(found, expected):
        raise token_was_used()


@attrs.define(eq=False, repr=False, slots=False)
class OutgoingTransfers(TransferTable[OutgoingTransfer]):
    """All transfers from this node, at most one for each server."""

    _coordinators: PanelCoordinators
    parts: OutgoingParts

    def __attrs_post_init__(self) -> None:
        self._left_behind: dict[str, OutgoingTransfer] = {}
        #: Those that keep copies up to date, which are among the others.
        self._seeds: dict[str, SeedTransfer] = {}
        self._checks: set[Deferred[None]] = set()
        #: Those whose servers have moved and are being deleted here.
        self._deleting: dict[str, OutgoingTransfer] = {}
        #: Those of an earlier daemon about which the Panel or the destination is asked.
        self._asked: dict[str, SendingCoordinator] = {}

    def start(
        self,
        server: Server,
        request: TransferRequest,
        coordinator: SendingCoordinator | None = None,
    ) -> Deferred[None]:
        """Begin to send `server`; its progress and outcome are events.

        The Deferred fires when the transfer is recorded. Answer the order then, not before: a
        daemon that dies earlier forgets the transfer, and the Panel gets no report.

        Without a `coordinator` it is the Panel, whose order ends a seed of the server. One of a
        seed has a copy of it kept up to date at its destination, while the server is used as ever.
        One that the Panel orders waits for the end of a backup, an installation or a restore.
        Raises `Conflict` while another transfer of it is in progress, `ServerBusy` where something
        else has its files for itself, `BadRequest` when the URL of `request` is invalid, or where
        this node does not send servers that run, and `DaemonStopping` after `stop`.
        """
        seed = self._seeds.get(server.uuid) if coordinator is None else None
        gives_way = seed is not None and seed.gives_way and self.find(server.uuid) is seed
        if self._stopping:
            raise DaemonStopping
        if not gives_way and self._in_progress(server.uuid) is not None:
            advice = "see wingsctl transfers; wingsctl cancel ends a copy that follows the server"
            raise TransferInProgress(
                "A transfer is already in progress for this server.", server.hold or advice
            )
        coordinator = coordinator or self._coordinators.sending(server.uuid)
        is_seed = coordinator.seed is not None
        operation = Operation.CHANGE_FILES if is_seed else Operation.TRANSFER_OUT
        # Pelican's Panel does not look at the answer: a refused order would leave it locked.
        awaited = () if coordinator.is_direct else AWAITED
        server.operations.check(operation, awaited=awaited)
        transfer = self._make(server, request, coordinator)
        if server.operations.runs(*awaited):
            transfer.wait()
        else:
            transfer.take()
        # Recorded at once; a seed goes on until the destination has answered.
        self._begin_after(seed, transfer)
        return transfer.recorded

    def _begin_after(
        self,
        seed: SeedTransfer | None,
        transfer: OutgoingTransfer,
        resumed: tuple[TransferRecord, MoveRecord] | None = None,
    ) -> None:
        """Begin a transfer, or go on with it, which takes the place of a seed."""
        self._begin(transfer, transfer.run(resumed, None if seed is None else seed.hand_over))
        if seed is not None:
            transfer.over.addCallback(seed.drop_left)
            transfer.over.addCallback(self._put_back, seed)

    def go_on(
        self,
        entry: TransferRecord,
        record: MoveRecord,
        server: Server,
        coordinator: SendingCoordinator,
    ) -> bool:
        """Go on with the move of an earlier daemon, which holds the server already.

        Return False where its commit may have been asked for, and it is not known how to go on.
        Raises the errors of `start`.
        """
        if self._stopping:
            raise DaemonStopping
        if entry.step == SendStep.AWAIT.name and begun_of(record) is None:
            return False
        if coordinator.seed is not None and self._in_progress(server.uuid) is not None:
            return False  # a transfer of it was ordered before this
        transfer, seed = self._make(server, request_of(record), coordinator), None
        if isinstance(transfer, SeedTransfer):
            transfer.take()  # any other holds it already
        elif entry.step == SendStep.WAIT.name:
            server.operations.check(Operation.TRANSFER_OUT, awaited=AWAITED)
            seed = self._seeds.get(server.uuid)
            transfer.wait()
        self._begin_after(seed, transfer, (entry, record))
        return True

    def _make(
        self, server: Server, request: TransferRequest, coordinator: SendingCoordinator
    ) -> OutgoingTransfer:
        """Return a transfer that has not begun, or a seed. Raises `BadRequest`, see `start`."""
        kind = OutgoingTransfer if coordinator.seed is None else SeedTransfer
        return kind(server, request, coordinator, self.parts)

    def _put_back(self, _: None, seed: SeedTransfer) -> None:
        """Look for a seed to resume after its server's transfer has failed."""
        if self._seeds.get(seed.server.uuid) is seed and seed.gives_way:
            self._open.setdefault(seed.server.uuid, seed)

    def _begin(self, transfer: OutgoingTransfer, run: Coroutine[Deferred[Any], Any, None]) -> None:
        uuid = transfer.server.uuid
        if isinstance(transfer, SeedTransfer):
            self._seeds[uuid] = transfer
        self._add(uuid, transfer)
        transfer.over.addCallback(self._note_end, transfer)
        Deferred.fromCoroutine(run)

    def _note_end(self, _: None, transfer: OutgoingTransfer) -> None:
        if self._seeds.get(transfer.server.uuid) is transfer:
            del self._seeds[transfer.server.uuid]
        if transfer.is_left_behind and not self._stopping:
            self._left_behind[transfer.server.uuid] = transfer
            checking = Deferred.fromCoroutine(self._check_left_behind(transfer))
            self._checks.add(checking)
            checking.addErrback(transfer.log_failure)
            checking.addBoth(lambda _: self._checks.discard(checking))

    async def _check_left_behind(self, transfer: OutgoingTransfer) -> None:
        await deferLater(self.parts.reactor, DELETION_WITHIN)
        if transfer.is_left_behind:
            try:
                await transfer.check_left_behind()
            finally:
                self._left_behind.pop(transfer.server.uuid, None)

    def _in_progress(self, server: str) -> OutgoingTransfer | None:
        transfer = self._open.get(server)
        return None if transfer is None or transfer.is_over else transfer

    def cancel(self, server: str) -> None:
        """Cancel the server's transfer in any step; the server stays.

        Raises `Conflict` when there is no transfer, or none any more: not once it has moved.
        """
        if self.stop_asking(server, is_direct=False):
            return
        transfer = self._in_progress(server)
        if transfer is None:
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer from this node that could still be cancelled",
            )
        transfer.cancel()

    def stop_asking(self, server: str, *, is_direct: bool) -> bool:
        """End the wait for whether a server has moved that an earlier daemon was sending.

        Return whether there was one of that kind. Only an operator ends that of a direct transfer.
        """
        coordinator = self._asked.get(server)
        if coordinator is None or coordinator.is_direct is not is_direct:
            return False
        del self._asked[server]
        coordinator.stop_waiting(TransferCancelled())
        return True

    async def has_moved(self, server: str, coordinator: SendingCoordinator) -> bool | None:
        """Return whether a server has moved that an earlier daemon was sending.

        Until that is known, `stop_asking` ends its grace, or the question itself.
        """
        self._asked[server] = coordinator
        try:
            return await coordinator.has_moved(lost=True)
        finally:
            self._asked.pop(server, None)

    def give_up(self, record: MoveRecord) -> None:
        """Report to the destination of an earlier daemon's move that it has failed."""
        Deferred.fromCoroutine(give_up(self.parts, record))

    async def give_up_move(self, entry: TransferRecord) -> None:
        """Do that for the move of `entry`, if it is one."""
        record = await self.parts.database.move(entry.id)
        if record is not None and record.move:
            self.give_up(record)

    async def release(self, server: str) -> None:
        """End the server's transfer before its deletion, which the Panel has ordered.

        When everything was sent by the Panel's order, the deletion confirms that the server has
        moved, and comes while the destination still waits for it: it is not delayed here. Any
        other transfer is cancelled, and over when this returns. When the server's files are out
        of place, `deleted` is to be called.
        """
        left_behind = self._left_behind.pop(server, None)
        if left_behind is not None:
            self._confirm(left_behind)
        while (transfer := self._in_progress(server)) is not None:
            if transfer.is_sent and not transfer.coordinator.is_direct:
                self._confirm(transfer)
                return
            transfer.cancel(is_deleted=True)
            await when_fired(transfer.over)  # after one that has failed a seed may go on

    def _confirm(self, transfer: OutgoingTransfer) -> None:
        transfer.confirm()
        self._deleting[transfer.server.uuid] = transfer

    def put_away(self, server: str) -> Callable[[], Awaitable[None]] | None:
        """Return what puts the files of a server away that has moved, and is being deleted here.

        None where they are to be deleted.
        """
        transfer = self._deleting.get(server)
        return None if transfer is None else transfer.put_away

    def deleted(self, server: str) -> None:
        """Finish the transfer of a server that has been deleted.

        When the daemon dies before this, the next one finishes it.
        """
        transfer = self._deleting.pop(server, None)
        if transfer is not None:
            transfer.finish()

    def stop(self) -> Deferred[Any]:
        """Abort what is not sent yet; the Deferred fires when all transfers are over.

        Moves go on after the restart of the daemon.
        """
        self._stopping = True
        # The recovery asks about these.
        for checking in tuple(self._checks):
            checking.cancel()
        transfers = {*self._open.values(), *self._seeds.values()}
        over = all_over(transfers)
        for transfer in transfers:
            transfer.abort(DaemonStopping())
        return over

    @property
    def waiting_orders(self) -> int:
        """The number of transfers that wait for the end of another action on their servers."""
        return sum(each.waits_for_turn for each in self._open.values())

    def end_seed(self, server: str) -> None:
        """End the copy that follows a server, unless a transfer has taken its place.

        Also while such a transfer waits: it begins without the copy then.
        """
        seed = self._seeds.get(server)
        if seed is not None and (seed.gives_way or self._in_progress(server) is seed):
            seed.cancel()

    def seeds_of(self) -> Iterator[tuple[str, SeedFigures | None]]:
        """Yield the servers that copies follow, and how far these are, once that is known."""
        return ((uuid, seed.progress.seed) for uuid, seed in self._seeds.items())

    def seeds_by(self, pair: str) -> list[str]:
        """Return the servers of which seeds go by a pair."""
        return [uuid for uuid, seed in self._seeds.items() if seed.pair == pair]

    @property
    def seeds(self) -> list[SeedFigures]:
        """The progress of the copies that follow servers."""
        found = (seed.progress.seed for seed in self._seeds.values())
        return [each for each in found if each is not None]

    @property
    def progress(self) -> list[ProgressReport]:
        """The progress of each, also of those that the Panel is still to have deleted here."""
        transfers = self._left_behind | self._open
        return [transfer.progress for transfer in transfers.values()]

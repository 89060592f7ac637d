"""Begins moves that resume, and goes on with those of an earlier daemon.

A move is in the state database before its first request, with the key that it alone has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, DeferredLock

from wingsd.auth.tokens import expiry_of
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.errors import DestinationError, DestinationRefused, InvalidData, StorageError
from wingsd.filesystem.attributes import AttributesKept
from wingsd.moves.source import LiveSource
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Direction, MoveRecord, StateDatabase, TransferRecord
from wingsd.threadio import relayed
from wingsd.transfers.outgoing.move import AttachedFile, MoveOrder, MoveSending
from wingsd.transfers.outgoing.source import (
    FOLLOWS,
    MOVES,
    MOVES_ATTRIBUTES,
    SourceStorage,
    Subject,
    TransferRequest,
    seed_of,
)
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.client import PeerAddress, Peers
from wingsd.transfers.peer.moves import (
    BEGIN_WITHIN,
    DISCARD_WITHIN,
    WITHDRAW_WITHIN,
    BegunAnswer,
    MoveClient,
    MoveTrouble,
    ResumeNeeded,
)
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import SendStep
from wingsd.util.serialization import structure

__all__ = ["LiveMoves", "Mover", "ResumedMove", "begun_of", "request_of"]

#: The version of moves without extended attributes, and the one with them.
VERSION, WITH_ATTRIBUTES = 1, 2
#: The name that the installation log is sent by.
LOG = "install.log"
_MIB = 1 << 20
#: Where the state of a move has what the destination has answered to the first request.
_BEGUN = "begun"


@attrs.frozen(eq=False, repr=False)
class LiveMoves:
    """Moves of servers that run: where files prove to be unchanged, measured in `directory`."""

    config: LiveMovesConfig
    file_systems: MeasuredFileSystems
    directory: str
    measuring: DeferredLock = attrs.field(factory=DeferredLock)


@attrs.frozen(eq=False, repr=False)
class ResumedMove:
    """A transfer of an earlier daemon, and its move."""

    entry: TransferRecord
    record: MoveRecord


@attrs.frozen(eq=False, repr=False)
class Mover:
    """Makes moves from this node.

    After the commit a destination may be silent for `lost_after` seconds.
    """

    config: MovesConfig
    peers: Peers
    uploader: Uploader
    database: StateDatabase
    storage: SourceStorage
    lost_after: float
    live: LiveMoves

    @property
    def may_follow(self) -> bool:
        """True if servers may be sent while they run."""
        return self.config.enabled and self.live.config.enabled

    async def measure_file_system(self) -> None:
        """Find out whether the file system shows changes of files."""
        live = self.live
        async with live.measuring:  # of which there is one file at a time
            await self.uploader.packers.run(live.file_systems.measure_in, live.directory)

    def is_for(self, subject: Subject) -> bool:
        """Return whether the destination gets a move, or can have a seed."""
        needed = {MOVES} if subject.seed is None else {MOVES, FOLLOWS}
        return self.config.enabled and needed <= subject.features

    async def begin(self, subject: Subject, *, follows: bool) -> MoveSending | None:
        """Begin a move; return None where the destination does not know any, or not this version.

        `follows` is whether the server is sent while it runs. Raises `DestinationError` where it
        refuses the server, and `StorageError`.
        """
        entry = subject.steps.entry
        assert entry is not None  # noqa: S101 - it was recorded
        request = subject.request
        asked = attrs.asdict(request, filter=lambda field, _: field.name not in ("url", "token"))
        seed = subject.seed.state() if subject.seed is not None else {}
        was_running = subject.server.state is not PowerState.OFFLINE
        record = MoveRecord(
            transfer=entry,
            server=subject.server.uuid,
            direction=Direction.OUT,
            move="",
            key=secrets.token_hex(32),
            token=request.token,
            url=request.url,
            family=request.family,
            request=json.dumps({"asked": asked, "order": await self._order(subject)}),
            state=json.dumps({"running": was_running, "live": follows} | seed),
        )
        await self.database.add_move(record)
        left = (expiry_of(request.token) or 0.0) - self.database.now()
        patience = min(max(BEGIN_WITHIN, left), self.config.patience)
        return await self._begin(record, subject, patience, is_resumed=False)

    async def go_on(self, record: MoveRecord, subject: Subject) -> MoveSending:
        """Go on with the move of an earlier daemon. Raises as `begin`."""
        found = await self._begin(record, subject, self.config.patience, is_resumed=True)
        assert found is not None  # noqa: S101 - by `is_resumed`
        return found

    async def go_on_waiting(
        self, record: MoveRecord, subject: Subject, *, is_asked: bool = True
    ) -> MoveSending:
        """Go on with a move whose commit an earlier daemon may have asked for, with `is_asked`.

        The destination is not asked yet. Raises `StorageError`.
        """
        begun = begun_of(record)
        assert begun is not None  # noqa: S101 - the caller has seen
        trouble = self._trouble(subject.steps)
        return await self._made(
            record, subject, begun, trouble, is_resumed=True, is_asked=is_asked
        )

    async def withdraw(self, subject: Subject, *, keep: bool) -> None:
        """End a move whose beginning was not answered: the destination may have begun it.

        With `keep` what it has of an earlier one stays there.
        """
        entry = subject.steps.entry
        record = None if entry is None else await self.database.move(entry)
        if record is None:
            return
        client = self._client(record, MoveTrouble(self.uploader.reactor, lambda line: None))
        # An earlier version begins it again, to have it deleted.
        order = {**json.loads(record.request)["order"], "only_known": True}
        try:
            await client.begin(record.token, order, WITHDRAW_WITHIN, may_differ=True)
            await client.delete(keep=keep, patience=WITHDRAW_WITHIN)
        except (DestinationError, CancelledError, ResumeNeeded):
            pass  # it has not begun it, or gives it up in time
        finally:
            client.abort()

    async def give_up(self, record: MoveRecord) -> None:
        """Tell the destination that the move of an earlier daemon has failed, if it is there."""
        with suppress(DestinationError, CancelledError, StorageError):  # the next daemon tells it
            if record.move:
                await self.end(record, self._discard_within(record))
            await self.database.drop_move(record.transfer)

    def _discard_within(self, record: MoveRecord) -> float:
        """Return for how long a destination is told of a failure: for a seed it waits for days."""
        return DISCARD_WITHIN if seed_of(record) is None else float(self.config.patience)

    async def end(self, record: MoveRecord, patience: float) -> None:
        """Ask the destination to end a move, and keep what has arrived, unless it is past that.

        Raises `DestinationError` without an answer of it in so many seconds of `patience`.
        """
        client = self._client(record, MoveTrouble(self.uploader.reactor, lambda line: None))
        client.go_on(record.move)
        try:
            await client.delete(keep=True, patience=patience)
        except DestinationRefused as error:
            if error.is_temporary or error.response_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
        except ResumeNeeded as error:
            raise error.error from error
        finally:
            client.abort()

    async def _begin(
        self, record: MoveRecord, subject: Subject, patience: float, *, is_resumed: bool
    ) -> MoveSending | None:
        order = json.loads(record.request)["order"]
        trouble = self._trouble(subject.steps)
        client = self._client(record, trouble)
        try:
            begun = await client.begin(record.token, order, patience, may_differ=not is_resumed)
        finally:
            client.abort()
        if begun is None:
            await self.database.drop_move(record.transfer)
            return None
        await self.database.set_move(record.transfer, begun.id)
        await self.database.change_move_state(record.transfer, {_BEGUN: attrs.asdict(begun)})
        return await self._made(record, subject, begun, trouble, is_resumed=is_resumed)

    async def _made(
        self,
        record: MoveRecord,
        subject: Subject,
        begun: BegunAnswer,
        trouble: MoveTrouble,
        *,
        is_resumed: bool,
        is_asked: bool = False,
    ) -> MoveSending:
        order, state = json.loads(record.request)["order"], json.loads(record.state)

        def connect() -> MoveClient:
            made = self._client(record, trouble)
            made.go_on(begun.id)
            return made

        return MoveSending(
            MoveOrder(
                total=order["bytes"],
                attachments=await self._attachments(subject, order),
                batch=min(begun.batch, self.config.batch * _MIB),
                streams=min(begun.streams, self.config.streams),
                zstd="zstd" in begun.encodings,
                attributes=AttributesKept.named(
                    begun.attributes if order["version"] == WITH_ATTRIBUTES else ()
                ),
                running=state.get("running") is True,
                is_resumed=is_resumed,
                is_asked=is_asked,
                lost_after=self.lost_after,
                patience=float(self.config.patience),
                discard_within=self._discard_within(record),
            ),
            connect,
            subject,
            self.uploader,
            self.storage,
            self._live_source(subject) if state.get("live") is True else None,
        )

    def _trouble(self, steps: StepLog[SendStep]) -> MoveTrouble:
        return MoveTrouble(self.uploader.reactor, steps.announcer.say, steps.show_trouble)

    def _live_source(self, subject: Subject) -> LiveSource:
        log = relayed(self.uploader.reactor, subject.steps.announcer.say)
        return LiveSource(self.live.file_systems, log)

    def _client(self, record: MoveRecord, trouble: MoveTrouble) -> MoveClient:
        return MoveClient(
            PeerAddress(record.url, self.peers.reactor, self.peers.tls, "in the Panel"),
            self.uploader.reactor,
            self.uploader.stall_timeout,
            self.uploader.bucket,
            record.server,
            record.key,
            trouble,
            self.config.patience,
        )

    async def _order(self, subject: Subject) -> dict[str, Any]:
        """Return what the first request tells of the server. Raises `StorageError`."""
        server = subject.server
        figures = await self.storage.figures(server.uuid)
        backups = [
            {
                "uuid": each.backup.uuid,
                "path": each.backup.path(server.uuid),
                "bytes": each.size,
            }
            for each in subject.backups
        ]
        log = await self._log(subject)
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

    async def _log(self, subject: Subject) -> AttachedFile | None:
        """Return the installation log; None where it cannot be read: no move fails by that."""
        try:
            found = await self.storage.disk.run(self.storage.logs.measure, subject.server.uuid)
        except StorageError as error:
            subject.steps.announcer.warn(error.detail)
            return None
        return None if found is None else AttachedFile(LOG, *found, may_grow=True)

    async def _attachments(
        self, subject: Subject, order: Mapping[str, Any]
    ) -> tuple[AttachedFile, ...]:
        """Return the files beside the server, with the sizes that the destination was told."""
        found = [AttachedFile(each.backup.uuid, each.path, each.size) for each in subject.backups]
        log = await self._log(subject) if order["log"] is not None else None
        if log is not None:
            found.append(attrs.evolve(log, size=order["log"]))
        return tuple(found)


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

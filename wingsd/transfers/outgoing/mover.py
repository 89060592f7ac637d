"""Begins moves that resume, and goes on with those of an earlier daemon.

A move is in the state database before its first request, with the key that it alone has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError

from wingsd.backups.local import LocalBackup
from wingsd.config import MovesConfig
from wingsd.errors import StorageError
from wingsd.servers import Server
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Direction, MoveRecord, StateDatabase
from wingsd.transfers.errors import DestinationError
from wingsd.transfers.outgoing.attached import AttachedFile
from wingsd.transfers.outgoing.move import MoveOrder, OutgoingMove
from wingsd.transfers.outgoing.request import MOVES, TransferRequest
from wingsd.transfers.outgoing.source import SourceStorage
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.peer.move_answers import MoveSmaller, ResumeNeeded
from wingsd.transfers.peer.moves import MoveClient, MoveTrouble
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import SendStep
from wingsd.util.observer import Observer

__all__ = ["MoveSubject", "Mover", "request_of"]

VERSION = 1
#: The name that the installation log is sent by.
LOG = "install.log"
#: Seconds for which the first request is repeated that gets no answer.
BEGIN_WITHIN = 30.0
#: Seconds for each of the requests that end a move which may have begun.
WITHDRAW_WITHIN = 10.0
_MIB = 1 << 20


@attrs.frozen(eq=False, repr=False)
class MoveSubject:
    """What is moved, as it was requested, and the log of its transfer."""

    server: Server
    request: TransferRequest
    backups: Sequence[LocalBackup]
    steps: StepLog[SendStep]


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
    observer: Observer
    lost_after: float

    def is_for(self, features: Collection[str]) -> bool:
        """Return whether a destination with these features gets a move."""
        return self.config.enabled and MOVES in features

    async def begin(self, subject: MoveSubject) -> OutgoingMove | None:
        """Begin a move; return None where the destination does not know any, or not this version.

        Raises `DestinationError` where it refuses the server, and `StorageError`.
        """
        entry = subject.steps.entry
        assert entry is not None  # noqa: S101 - it was recorded
        request = subject.request
        asked = attrs.asdict(request, filter=lambda field, _: field.name not in ("url", "token"))
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
            state=json.dumps({"running": was_running}),
        )
        await self.database.add_move(record)
        patience = min(BEGIN_WITHIN, self.config.patience)
        return await self._begin(record, subject, patience, is_resumed=False)

    async def go_on(self, record: MoveRecord, subject: MoveSubject) -> OutgoingMove:
        """Go on with the move of an earlier daemon. Raises as `begin`."""
        found = await self._begin(record, subject, self.config.patience, is_resumed=True)
        assert found is not None  # noqa: S101 - by `is_resumed`
        return found

    async def withdraw(self, subject: MoveSubject) -> None:
        """End a move whose beginning was not answered: the destination may have begun it."""
        entry = subject.steps.entry
        record = None if entry is None else await self.database.move(entry)
        if record is None:
            return
        client = self._client(record, MoveTrouble(self.uploader.reactor, lambda line: None))
        order = json.loads(record.request)["order"]
        try:
            await client.begin(record.token, order, WITHDRAW_WITHIN, may_differ=True)
            await client.delete(keep=False, patience=WITHDRAW_WITHIN)
        except (DestinationError, CancelledError, ResumeNeeded, MoveSmaller):
            pass  # it has not begun it, or gives it up in time
        finally:
            client.abort()

    async def give_up(self, record: MoveRecord) -> None:
        """Tell the destination that the move of an earlier daemon has failed, if it is there."""
        client = self._client(record, MoveTrouble(self.uploader.reactor, lambda line: None))
        client.go_on(record.move)
        try:
            await client.delete(keep=True, patience=WITHDRAW_WITHIN)
        except (DestinationError, CancelledError, ResumeNeeded, MoveSmaller):
            pass  # it is past that, or gives it up in time
        finally:
            client.abort()

    async def _begin(
        self, record: MoveRecord, subject: MoveSubject, patience: float, *, is_resumed: bool
    ) -> OutgoingMove | None:
        say = subject.steps.announcer.say
        order = json.loads(record.request)["order"]
        trouble = MoveTrouble(self.uploader.reactor, say)
        client = self._client(record, trouble)
        try:
            begun = await client.begin(record.token, order, patience, may_differ=not is_resumed)
        finally:
            client.abort()
        if begun is None:
            await self.database.drop_move(record.transfer)
            return None
        await self.database.set_move(record.transfer, begun.id)

        def connect() -> MoveClient:
            made = self._client(record, trouble)
            made.go_on(begun.id)
            return made

        state = json.loads(record.state)
        return OutgoingMove(
            MoveOrder(
                server=record.server,
                directory=self.storage.directory(record.server),
                total=order["bytes"],
                attachments=await self._attachments(subject, order),
                batch=min(begun.batch, self.config.batch * _MIB),
                streams=min(begun.streams, self.config.streams),
                zstd="zstd" in begun.encodings,
                running=state.get("running") is True,
                is_resumed=is_resumed,
                lost_after=self.lost_after,
            ),
            connect,
            self.uploader,
            say,
            self.observer,
        )

    def _client(self, record: MoveRecord, trouble: MoveTrouble) -> MoveClient:
        requests = self.peers.move_requests(
            record.url, self.uploader.stall_timeout, self.uploader.bucket
        )
        return MoveClient(
            requests,
            record.server,
            record.key,
            self.uploader.reactor,
            trouble,
            self.config.patience,
        )

    async def _order(self, subject: MoveSubject) -> dict[str, Any]:
        """Return what the first request tells of the server."""
        server = subject.server
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
            "version": VERSION,
            "family": subject.request.family,
            "bytes": server.disk_bytes or 0,
            "files": 0,
            "backups": backups,
            "log": None if log is None else log.size,
            "encodings": ["zstd"],
        }

    async def _log(self, subject: MoveSubject) -> AttachedFile | None:
        """Return the installation log; None where it cannot be read: no move fails by that."""
        try:
            found = await self.storage.disk.run(self.storage.logs.measure, subject.server.uuid)
        except StorageError as error:
            subject.steps.announcer.warn(error.detail)
            return None
        return None if found is None else AttachedFile(LOG, *found, may_grow=True)

    async def _attachments(
        self, subject: MoveSubject, order: Mapping[str, Any]
    ) -> tuple[AttachedFile, ...]:
        """Return the files beside the server, with the sizes that the destination was told."""
        found = [AttachedFile(each.backup.uuid, each.path, each.size) for each in subject.backups]
        log = await self._log(subject) if order["log"] is not None else None
        if log is not None:
            found.append(attrs.evolve(log, size=order["log"]))
        return tuple(found)


def request_of(record: MoveRecord) -> TransferRequest:
    """Return what was requested of an earlier daemon."""
    asked = json.loads(record.request)["asked"]
    asked["backups"] = tuple(asked["backups"])
    return TransferRequest(url=record.url, token=record.token, **asked)

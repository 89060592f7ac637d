"""Local backups that arrive after their servers, from the node that these have left.

Which ones are to come is recorded before the success of a transfer is reported, so that none is
called missing meanwhile. A backup grows in pieces, as an attachment of a move. It has its
name when it is whole and on stable storage, and the source removes its own when it has heard that.
A file that was here before is first compared with the source's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger

from wingsd.backups.catalogue import DAMAGED
from wingsd.backups.points import PointBackups
from wingsd.backups.received import FollowingFiles
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.errors import (
    AttachmentMissing,
    BackupConflict,
    MoveBusy,
    MoveRequestInvalid,
    PanelError,
)
from wingsd.histories import SILENT_DAYS
from wingsd.history.names import PointName
from wingsd.panel.client import BackupRecordState, Panel
from wingsd.servers.registry import Servers
from wingsd.statedb import ArrivingBackup, ArrivingState, LeftBackup, StateDatabase, TransferRecord
from wingsd.threadio import Workers
from wingsd.transfers.incoming.moves.inbox import (
    TURN,
    ArrivingBody,
    Attachment,
)
from wingsd.transfers.incoming.transfer import IncomingUpload
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.peer.moves import Following, FollowingStatus
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.util.reactor import ThreadedReactor
from wingsd.util.text import readable_size

#: The answers about backups that are not to come any more.
_SETTLED: Mapping[ArrivingState, Following] = MappingProxyType(
    {
        ArrivingState.HERE: Following.HERE,
        ArrivingState.DELETED: Following.DELETED,
        ArrivingState.STAYS: Following.UNKNOWN,
        ArrivingState.PASSED: Following.CONFLICT,
    }
)
#: Pieces that are received at a time.
AT_ONCE = 2
#: Seconds after which a Panel that has not answered is not asked for so many seconds.
SLOW, SILENCE = 5.0, 60.0
_DAY = 24 * 3600

T = TypeVar("T")


class ArrivingPieces:
    """The pieces of what follows servers, as they are received; `workers` read the bodies.

    A body has at most `most` bytes.
    """

    def __init__(self, workers: Workers, reactor: ThreadedReactor, most: int) -> None:
        self._workers = workers
        self._reactor = reactor
        self._most = most
        self._slots = DeferredSemaphore(AT_ONCE)
        #: Those of which a piece is being received.
        self._bodies: dict[tuple[str, str], ArrivingBody] = {}

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._bodies

    async def receive(
        self,
        key: tuple[str, str],
        stream: IncomingUpload,
        append: Callable[[Iterator[bytes]], T],
        arrived: Callable[[T], Awaitable[int]],
    ) -> int:
        """Receive a piece of what has a server and a name: `append` it in a thread, in its turn.

        Return what `arrived` does with the result. Raises `MoveBusy` while another piece is
        received.
        """
        busy = MoveBusy("another piece of it is being received; send it again")
        if (earlier := self._bodies.get(key)) is not None:
            earlier.stop(busy)  # its connection may be half open
            raise busy
        body = self._bodies[key] = ArrivingBody(stream, self._most, self._reactor)
        return await body.answered(Deferred.fromCoroutine(self._read(key, body, append, arrived)))

    async def _read(
        self,
        key: tuple[str, str],
        body: ArrivingBody,
        append: Callable[[Iterator[bytes]], T],
        arrived: Callable[[T], Awaitable[int]],
    ) -> int:
        try:
            body.turn = self._slots.acquire().addTimeout(TURN, self._reactor)
            try:
                await body.turn
            except (CancelledError, defer.TimeoutError):
                raise MoveBusy("other backups arrive; send it again") from None
            try:
                found = await body.read(self._workers, append)
            finally:
                self._slots.release()
            return await arrived(found)
        finally:
            del self._bodies[key]


@attrs.define(eq=False, repr=False, slots=False)
class ArrivingBackups:
    """The backups that follow servers to this node, in `pieces`.

    `reserve` bytes of the disk are left free. Methods raise `StorageError`, and
    `AttachmentMissing` for a backup that was not announced.
    """

    _log = Logger()

    _database: StateDatabase
    _store: BackupStore
    _points: PointBackups
    _panel: Panel
    _servers: Servers
    _left_backups: LeftBackups
    _volume: Volume
    _pieces: ArrivingPieces
    _disk: Workers
    _reactor: ThreadedReactor
    _reserve: int

    def __attrs_post_init__(self) -> None:
        self.files = FollowingFiles(self._store)
        #: Those of which something has arrived in this daemon, by their servers and UUIDs; the
        #: hash is with them.
        self._growing: dict[tuple[str, str], Attachment] = {}
        #: Those of which another file is here.
        self._differing: set[tuple[str, str]] = set()
        self._silent_until = 0.0
        #: The transfers after which the source of a backup has asked since the last `clear`.
        self._asked: set[int] = set()

    async def status(
        self, entry: TransferRecord, backup: str, mark: str, *, is_ordered: bool
    ) -> FollowingStatus:
        """Return what the source of a backup is to do; it `is_ordered` by an operator there.

        `entry` is the transfer that has brought the server.
        """
        self._asked.add(entry.id)
        if is_ordered:
            await self._database.order_arriving(entry.id, backup)
        arriving = await self._known(entry, backup)
        if arriving.is_point:
            return FollowingStatus((await self._state_now(entry, arriving, is_ordered)).value)
        found = await self._disk.run(self._store.find, arriving.server, backup)
        is_marked = await self._disk.run(self._volume.backup_marks.has, backup, mark)
        if found is not None and is_marked:
            await self._database.end_coming(ArrivingState.HERE, backup, entry.server)
            return FollowingStatus(Following.SHARED.value)
        state = await self._state_now(entry, arriving, is_ordered)
        offset = 0
        if state in (Following.SEND, Following.FOUND):
            attachment = self._attachment(arriving)
            offset = await self._disk.run(lambda: attachment.offset)
        return FollowingStatus(state.value, offset)

    async def _state_now(
        self, entry: TransferRecord, arriving: ArrivingBackup, is_ordered: bool
    ) -> Following:
        """Return the state of a backup, also if it has changed while the Panel was asked."""
        state = await self._state(arriving, entry, is_ordered=is_ordered)
        arriving = await self._known(entry, arriving.backup)
        if arriving.is_point and arriving.state is ArrivingState.PASSED:
            return Following.HERE  # the next node has that point, and no other
        return state if arriving.state is ArrivingState.COMING else _SETTLED[arriving.state]

    async def _state(
        self, arriving: ArrivingBackup, entry: TransferRecord, *, is_ordered: bool
    ) -> Following:
        if arriving.state is not ArrivingState.COMING:
            return _SETTLED[arriving.state]
        key = _key(arriving)
        if key in self._pieces:
            return Following.UNKNOWN  # it may have its name, and not be on stable storage yet
        # Else what an earlier move has left to be removed would be taken for this one.
        await self._left_backups.removed()
        if arriving.is_point:
            is_here = await self._points.find(arriving.server, arriving.backup) is not None
            found = None
        else:
            found = await self._disk.run(self._store.find, arriving.server, arriving.backup)
            is_here = found is not None
        if not is_here:
            self._differing.discard(key)
            return await self._wanted(arriving, entry, is_ordered=is_ordered)
        return Following.FOUND if found is None else self._compared(arriving, found)

    def _compared(self, arriving: ArrivingBackup, found: StoredBackup) -> Following:
        """Return whether a file that is here may be that of a backup."""
        is_damaged = found.catalogue is not None and found.catalogue.state == DAMAGED
        is_another = found.size != arriving.bytes or _key(arriving) in self._differing
        if is_damaged or is_another:
            return Following.CONFLICT
        return Following.FOUND

    async def _wanted(
        self, arriving: ArrivingBackup, entry: TransferRecord, *, is_ordered: bool
    ) -> Following:
        """Return whether a backup that is not here is wanted."""
        left = await self._left(arriving)
        is_wanted = is_ordered or (entry.direct and self._servers.knows(entry.server))
        if left is not None:  # the server has moved on, and its node is asked
            is_wanted = is_ordered or left.place in self._left_backups.wanted
        if is_wanted:
            return Following.SEND
        if left is not None:
            return Following.UNKNOWN if left.missed is None else Following.MISSING
        return Following.UNKNOWN if entry.direct else await self._ask_panel(arriving.backup)

    async def _left(self, arriving: ArrivingBackup) -> LeftBackup | None:
        found = await self._database.left(arriving.backup)
        return next((each for each in found if each.server == arriving.server), None)

    async def _ask_panel(self, backup: str) -> Following:
        clock = self._reactor
        began = clock.seconds()
        if began < self._silent_until:
            return Following.UNKNOWN
        try:
            found = await self._panel.backup_record(backup)
        except PanelError:
            if clock.seconds() - began > SLOW:
                self._silent_until = clock.seconds() + SILENCE
            return Following.UNKNOWN
        return {
            BackupRecordState.THERE: Following.SEND,
            BackupRecordState.MISSING: Following.MISSING,
            BackupRecordState.UNKNOWN: Following.UNKNOWN,
        }[found]

    async def receive_piece(
        self,
        entry: TransferRecord,
        backup: str,
        offset: int,
        sha256: str,
        stream: IncomingUpload,
    ) -> int:
        """Receive a piece; return how many bytes are here. See `Attachment.append`.

        Raises `MoveBusy` while another one is received, and `BackupConflict` where another file of
        the backup was here before.
        """
        arriving = await self._known(entry, backup)
        if arriving.state is ArrivingState.HERE:
            return arriving.bytes  # the answer to the last piece was lost
        if arriving.state is not ArrivingState.COMING or arriving.is_point:
            raise AttachmentMissing(_NOT_TO_COME)
        attachment, key = self._attachment(arriving), _key(arriving)

        def append(pieces: Iterator[bytes]) -> tuple[int, bool]:
            was_here = attachment.whole() is not None
            attachment.require_room(self._reserve)
            try:
                here = attachment.append(offset, sha256, pieces, self._reserve)
            except BackupConflict:
                self._differing.add(key)
                raise
            if sha256:
                self.files.sync(arriving)
            return here, was_here

        async def arrived(found: tuple[int, bool]) -> int:
            here, was_here = found
            if sha256:
                await self._arrived(arriving, was_here=was_here)
            return here

        return await self._pieces.receive(key, stream, append, arrived)

    async def _arrived(self, arriving: ArrivingBackup, *, was_here: bool) -> None:
        """Note that a backup is whole and in its place; `was_here` says that nothing was sent.

        Raises `AttachmentMissing` where it was deleted meanwhile, or stays at its source.
        """
        self._growing.pop(_key(arriving), None)
        server, backup = arriving.server, arriving.backup
        if await self._database.end_coming(ArrivingState.HERE, backup, server):
            self._log.info(
                "{server}: backup {backup} ({size}) has followed the server to this node",
                server=server,
                backup=backup,
                size=readable_size(arriving.bytes),
            )
            self._left_backups.wake()  # the server may have moved on
            return
        now = await self._database.arriving(arriving.transfer, backup)
        if now is None or now.state is not ArrivingState.HERE:
            found = await self._disk.run(self._store.at, self.files.place(arriving))
            if found is not None and not was_here:
                await self._disk.run(self._store.remove, found)
            raise AttachmentMissing(_NOT_TO_COME)

    async def name_point(self, entry: TransferRecord, name: PointName) -> None:
        """Give a backup that is a point its name: then it is here, on stable storage.

        Raises `NoSuchPoint` where its point has not come yet, and `AttachmentMissing` also where
        the backup was deleted meanwhile.
        """
        arriving = await self._known(entry, name.name)
        if arriving.state is ArrivingState.HERE:
            return
        if arriving.state is not ArrivingState.COMING or not arriving.is_point:
            raise AttachmentMissing(_NOT_TO_COME)
        if arriving.newest != name.number:
            raise MoveRequestInvalid("another point of the backup was announced")
        server, backup, database = arriving.server, name.name, self._database
        await self._points.take(server, name)
        if await database.end_coming(ArrivingState.HERE, backup, server):
            self._log.info(
                "{server}: backup {backup}, point {number}, has followed the server to this node",
                server=server,
                backup=backup,
                number=name.number,
            )
            self._left_backups.wake()  # the server may have moved on
            return
        now = await database.arriving(arriving.transfer, backup)
        if now is None or now.state is not ArrivingState.HERE:
            await self._delete_point(arriving)
            raise AttachmentMissing(_NOT_TO_COME)

    async def _delete_point(self, arriving: ArrivingBackup) -> None:
        found = await self._points.find(arriving.server, arriving.backup)
        if found is not None:
            await self._points.delete(found)

    async def forget(self, entry: TransferRecord, backup: str) -> None:
        """Note that a backup stays at its source, or forget one that is here or deleted."""
        arriving = await self._database.arriving(entry.id, backup)
        if arriving is None:
            return
        await self._database.forget_arriving(entry.id, backup)
        self._growing.pop(_key(arriving), None)
        if arriving.state is ArrivingState.HERE or await self._database.coming("", backup):
            return
        if arriving.is_point:
            if arriving.state is ArrivingState.DELETED:
                await self._delete_point(arriving)
            return
        await self._disk.run(self.files.drop_part, arriving)
        if arriving.state is ArrivingState.DELETED:  # a kill may have come before its removal
            found = await self._disk.run(self._store.find, arriving.server, backup)
            if found is not None:
                await self._disk.run(self._store.remove, found)

    async def clear(self) -> None:
        """Report the backups whose sources have not asked for long. To be called daily."""
        silent: defaultdict[str, list[ArrivingBackup]] = defaultdict(list)
        for each in await self._database.coming():
            if each.transfer not in self._asked:
                silent[str(each.transfer)].append(each)
        self._asked.clear()
        for transfer, seconds in (await self._database.ages([*silent], "backups")).items():
            if seconds > SILENT_DAYS * _DAY:
                self._log.warn(
                    "{server}: {count} backups are on their way to this node, such as {backup}, "
                    "but the node that has them has not asked for {days} days; "
                    "`wingsctl backups delete` removes them from the list",
                    server=silent[transfer][0].server,
                    count=len(silent[transfer]),
                    backup=silent[transfer][0].backup,
                    days=SILENT_DAYS,
                )

    async def _known(self, entry: TransferRecord, backup: str) -> ArrivingBackup:
        arriving = await self._database.arriving(entry.id, backup)
        if arriving is None:
            raise AttachmentMissing
        return arriving

    def _attachment(self, arriving: ArrivingBackup) -> Attachment:
        known = self._growing.get(_key(arriving))
        if known is None or known.key != (arriving,):
            known = Attachment(arriving.backup, arriving.bytes, self.files, arriving)
            self._growing[_key(arriving)] = known
        return known


_NOT_TO_COME = "it is not to come any more"


def _key(arriving: ArrivingBackup) -> tuple[str, str]:
    return arriving.server, arriving.backup

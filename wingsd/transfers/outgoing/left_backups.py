"""Backups and histories of servers that have moved away: they follow, or are deleted here.

Histories are sent by `LeftHistories`; all else is the same for both. A backup whose server moved
to a node that takes it is sent in the background, one at a time, by the key of the move. Its
destination says first what is to be done: it may have it already, its user may have deleted it
there, or the Panel have no record of it. Here it stays until the destination has it on stable
storage. Then its row in the state database says so, the file is removed, and the row last:
whatever breaks off is done again.

What the Panel has no record of is deleted after the days that moved servers are kept, and after
two such answers on different days. Where the destination takes no backups, those that Pelican's
page drops with its order are deleted in the same way; this node asks the Panel about these.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from wingsd.backups.catalogue import DAMAGED
from wingsd.backups.points import PointBackup, PointBackups
from wingsd.backups.store import BackupStore, StoredBackup, backup_at
from wingsd.config import TransfersConfig
from wingsd.errors import (
    AttachmentMissing,
    BackupCannotFollow,
    BackupNotLeft,
    Conflict,
    DestinationError,
    DestinationRefused,
    DestinationTimeout,
    NoSuchPoint,
    PanelError,
    ServerBusy,
    StorageError,
    WingsdError,
)
from wingsd.history.names import PointName
from wingsd.panel.client import BackupRecordState, Panel
from wingsd.servers.registry import Servers
from wingsd.statedb import (
    HISTORY,
    POINT,
    TO_SEND,
    ArrivingBackup,
    ArrivingState,
    LeavingBackup,
    LeftBackup,
    LeftState,
    MoveRecord,
    ReportKind,
    StateDatabase,
    point_place,
)
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.outgoing.attached import (
    LEAST_PIECE,
    PIECE,
    AttachedFile,
    BatchSize,
    PieceSender,
)
from wingsd.transfers.outgoing.left_histories import LeftHistories
from wingsd.transfers.peer.client import PeerAddress
from wingsd.transfers.peer.moves import (
    MOST,
    ROUND_PATIENCE,
    ROUND_PAUSES,
    Following,
    FollowingStatus,
    MoveClient,
    MoveTrouble,
    ResumeNeeded,
)
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.util.deferreds import failure_logger
from wingsd.util.reactor import Reactor, Timer
from wingsd.util.retry import Budget
from wingsd.util.text import readable_size

_DAY = 24 * 3600.0
#: Seconds between two answers that the Panel has no record of a backup.
_APART = _DAY / 2
#: Seconds in which a destination is to hear of an order.
_TOLD_WITHIN = 20.0
#: Statuses of a destination that is busy, or whose disk is full.
_TAKES_NONE = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE)
#: Why a backup waits.
_NO_KEY = "the key of the move is lost"
_UNKNOWN = "its server's node does not take it yet"
_CONFLICT = (
    "its server's node has a file of it already, with other bytes or damaged: remove that by "
    "hand. If that node has the directory of backups of this one, `wingsctl backups keep` it here"
)
#: Answers that may be about the same file, in a directory that both nodes have.
_NEEDS_MARK = (Following.HERE, Following.FOUND, Following.CONFLICT)
_NO_POINT = "its server's node does not have its point of the history yet"
_HAS_BACKUPS = (
    "it has backups that have not followed the server: `wingsctl backups delete` deletes each of "
    "them here, or `wingsctl history delete --all` all with the history"
)
_IN_USE = "its server is coming back, or it is being removed"


@attrs.define(eq=False, repr=False, slots=False)
class LeftBackups:
    """The local backups that servers have left on this node.

    `lock` is held by what verifies or rewrites a backup: none is deleted meanwhile that the Panel
    has no record of. `deletes` is whether those are.
    """

    _log = Logger()

    _config: TransfersConfig
    _database: StateDatabase
    _store: BackupStore
    _points: PointBackups
    _panel: Panel
    _servers: Servers
    _volume: Volume
    _histories: LeftHistories
    _lock: DeferredLock
    _long: Workers
    _readers: Workers
    _bucket: TokenBucket | None
    _reactor: Reactor
    _deletes: bool

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self._reactor)
        self._pauses = iter(ROUND_PAUSES)
        self._under_way: Deferred[None] | None = None
        self._removing = DeferredLock()
        self._is_started = self._is_woken = self._is_untold = False
        #: Those that the Panel had no record of, and that are asked about again in the next turn.
        self._due: set[str] = set()
        #: As the last turn has seen them.
        self.rows: list[LeftBackup] = []
        #: Why one was not sent, and how many bytes of it are at its destination, by its place.
        self.troubles: dict[str, str] = {}
        self.reached: dict[str, int] = {}
        #: When one has followed its server last.
        self._arrived = 0.0
        #: Those that are wanted at their destinations, and have not come here themselves.
        self.wanted: set[str] = set()

    # What a transfer asks

    async def leaving(
        self,
        server: str,
        state: LeftState,
        without: Collection[str] = (),
        *,
        points: bool = True,
    ) -> list[LeavingBackup]:
        """Return the backups of a server that are here, or to come, without those of some UUIDs.

        Not those whose completion the Panel has not confirmed: it would not show them. Without
        `points` only archives.
        """
        found = await self._long.run(self._store.all, server)
        named = await self._points_of(server, is_taken=points)
        reports = await self._database.unsettled()
        unknown = {each.backup for each in reports if each.kind is ReportKind.BACKUP}
        unknown.update(without)
        by_uuid = {
            coming.backup: LeavingBackup(
                place, state, coming.bytes, coming.made, newest=coming.newest
            )
            for place, coming in (await self._coming(server)).items()
            if points or not coming.is_point
        }
        for name in named:
            place = point_place(name.name)
            by_uuid[name.name] = LeavingBackup(
                place, state, name.size, name.made, newest=name.number
            )
        for each in found:
            made = each.modified if each.catalogue is None else each.catalogue.made
            by_uuid[each.uuid] = LeavingBackup(each.place, state, each.size, made)
        return [by_uuid[uuid] for uuid in sorted(by_uuid.keys() - unknown)]

    async def _points_of(self, server: str, *, is_taken: bool) -> Collection[PointName]:
        """Return the backups of a server that are points, where they may follow it.

        Others, and those that cannot be read, stay here, which is logged.
        """
        try:
            named = [each.name for each in await self._points.all(server)]
        except StorageError as error:
            why = str(error)
        else:
            if is_taken or not named:
                return named
            why = "the destination node does not take such backups"
        self._log.warn(
            "{server}: its backups that are points of its history do not follow it, and stay "
            "here: {why}",
            server=server,
            why=why,
        )
        return []

    async def announced(self, transfer: int) -> list[dict[str, Any]]:
        """Return what the destination of a move is sent about the archives that follow."""
        return [
            {
                "uuid": _uuid(each.place),
                "path": each.place,
                "bytes": each.bytes,
                "made": each.made,
            }
            for each in await self._database.announced(transfer)
            if not (each.is_history or each.is_point)
        ]

    async def announced_history(self, transfer: int) -> dict[str, Any] | None:
        """Return what the destination of a move is sent about the history that follows, if any."""
        announced = await self._database.announced(transfer)
        points = [
            {
                "uuid": _uuid(each.place),
                "number": each.newest,
                "bytes": each.bytes,
                "made": each.made,
            }
            for each in announced
            if each.is_point
        ]
        for each in announced:
            if each.is_history:
                history = {"newest": each.newest, "bytes": each.bytes}
                return history | ({"backups": points} if points else {})
        return None

    async def _coming(self, server: str) -> dict[str, ArrivingBackup]:
        """Return the backups that are to come here themselves, by their places."""
        coming = await self._database.coming(server)
        return {self._store.place(server, each.backup, each.suffix): each for each in coming}

    # Turns

    def start(self) -> None:
        """Begin to send what is to be sent."""
        self._is_started = True
        self.wake()

    def stop(self) -> None:
        """End what is under way; the daemon goes on with it after its restart."""
        self._is_started = False
        self._timer.cancel()
        if self._under_way is not None:
            self._under_way.cancel()

    def wake(self) -> None:
        """Look soon: a server has moved, or an operator has ordered something."""
        if not self._is_started:
            return
        self._pauses = iter(ROUND_PAUSES)
        self._is_woken = True
        if self._under_way is None:
            self._timer.cancel()
            self._look()

    def _look(self) -> None:
        self._is_woken = False
        looking = self._under_way = Deferred.fromCoroutine(self._run())
        looking.addErrback(failure_logger(self._log, "backups do not follow their servers"))
        looking.addCallback(self._looked)

    def _looked(self, _: object) -> None:
        self._under_way = None
        if not self._is_started:
            return
        if self._is_woken:
            self._look()
        elif self._is_untold or any(map(_waits, self.rows)):
            self._timer.start(next(self._pauses), self._look)

    async def _run(self) -> None:
        try:
            await self._withdraw()
            await self._send_all()
            await self._note()
        except StorageError as error:
            self._log.warn("backups do not follow their servers now: {error}", error=error)

    async def _withdraw(self) -> None:
        """Report to their destinations that the histories of servers that are back stay here."""
        for left in await self._database.histories_back():
            record = await self._move(left.transfer)
            if record is not None:
                try:
                    client = self._client(record, {})
                    try:
                        await client.forget_history(is_there=False)
                    finally:
                        client.abort()
                except DestinationError as error:
                    if _is_away(error):
                        self._log.warn(
                            "{server}: the node that it has left has not heard yet that its "
                            "history stays here: {error}",
                            server=left.server,
                            error=error,
                        )
                        continue
            await self._database.forget_left(left)

    async def _note(self) -> None:
        self.rows = await self._database.left()
        # The nodes of these wait for what does not come any more.
        untold = [each for each in self.rows if each.is_history and each.state is LeftState.DONE]
        self._is_untold = bool(untold or await self._database.histories_back())
        known = {each.place for each in self.rows}
        self.troubles = {key: text for key, text in self.troubles.items() if key in known}
        self.reached = {key: there for key, there in self.reached.items() if key in known}

    async def _send_all(self) -> None:
        self.rows = await self._database.left()
        for each in self.rows:
            if each.state is LeftState.DONE and not await self._goes_with_history(each):
                # its destination need not be there
                with suppress(StorageError):  # tried again below
                    await self._remove(each)
        due, self._due = self._due, set()
        by_transfer: defaultdict[int, list[LeftBackup]] = defaultdict(list)
        for each in self.rows:
            if _waits(each) or each.state is LeftState.DONE or each.place in due:
                by_transfer[each.transfer].append(each)
        #: The destinations of this turn, and why they take nothing more in it, by their addresses.
        addresses: dict[str, PeerAddress] = {}
        away: dict[str, str] = {}
        for transfer, rows in by_transfer.items():
            record = await self._move(transfer)
            if record is None:
                await self._send_to(None, rows)
            elif why := away.get(record.url) or await self._send_by(record, rows, addresses):
                away[record.url] = why
                for each in rows:
                    self.troubles.setdefault(each.place, why)

    async def _send_by(
        self, record: MoveRecord, rows: Iterable[LeftBackup], addresses: dict[str, PeerAddress]
    ) -> str:
        try:
            client = self._client(record, addresses)
        except DestinationError as error:  # its address cannot be used
            return str(error)
        try:
            return await self._send_to(client, rows)
        finally:
            client.abort()

    async def _send_to(self, client: MoveClient | None, rows: Iterable[LeftBackup]) -> str:
        """Send the backups of one transfer; return why its destination takes no more now.

        First its history: only with that come the points that backups are.
        """
        for each in sorted(rows, key=lambda each: not each.is_history):
            if why := await self._attempt(each, client):
                return why
        return ""

    async def _attempt(self, left: LeftBackup, client: MoveClient | None) -> str:
        """Do what is to be done about a backup; return why its destination takes no more now."""
        try:
            now = await self._now(left)
            found = None if now is None else await self._settle(now, client)
        except (StorageError, ServerBusy) as error:
            self._set_trouble(left, error)
        except ResumeNeeded as needed:
            self._set_trouble(left, needed.error)
        except DestinationError as error:
            self._set_trouble(left, error)
            if _is_away(error):
                return str(error)
        else:
            if found is None:
                self.troubles.pop(left.place, None)
            else:
                self.troubles[left.place] = found
        return ""

    async def _now(self, left: LeftBackup) -> LeftBackup | None:
        """Return a backup as it is now; None where nothing is to be done about it any more."""
        named = left.server if left.is_history else _uuid(left.place)
        for each in await self._database.left(named):
            if (each.place, each.transfer) == (left.place, left.transfer):
                return each if _is_asked(each) or each.state is LeftState.DONE else None
        return None

    def _set_trouble(self, left: LeftBackup, error: WingsdError) -> None:
        text = str(error)
        if self.troubles.get(left.place) != text:
            self._log.warn(
                "{server}: the {what} stays here for now, it is tried again: {error}",
                server=left.server,
                what=_what(left),
                error=text,
            )
        self.troubles[left.place] = text

    async def _move(self, transfer: int) -> MoveRecord | None:
        """Return the record of a transfer that has the key for its backups, None without one."""
        record = await self._database.move(transfer)
        return record if record is not None and record.move and record.url else None

    def _client(self, record: MoveRecord, addresses: dict[str, PeerAddress]) -> MoveClient:
        """Return a client of a destination. Raises `DestinationError` for a bad address."""
        if record.url not in addresses:
            address = PeerAddress(record.url, self._reactor, self._config.ca_file)
            addresses[record.url] = address
        client = MoveClient(
            addresses[record.url],
            self._reactor,
            self._config.stall_timeout,
            self._bucket,
            record,
            MoveTrouble(self._reactor),
            ROUND_PATIENCE,
        )
        client.yields = True
        return client

    # One backup

    async def _ask(self, left: LeftBackup, client: MoveClient) -> tuple[Following, int]:
        """Return what the destination says of a backup, and how many bytes of it it has."""
        backup, marks = _uuid(left.place), self._volume.backup_marks
        is_ordered = left.state is LeftState.ORDERED
        if left.is_point:
            return _following(await client.backup(backup, "", is_ordered=is_ordered)), 0
        mark = client.mark(backup)

        def put() -> None:
            # Without the directory there is nothing that could be removed from it.
            if os.path.isdir(self._store.directory):
                marks.put(backup, mark)

        unmarked = None
        try:
            await self._long.run(put)
        except StorageError as error:  # what is sent may leave a disk that takes nothing any more
            unmarked = error
        try:
            found = await client.backup(backup, mark, is_ordered=is_ordered)
        finally:
            await self._long.run(marks.remove, backup, mark)
        state = _following(found)
        if unmarked is not None and state in _NEEDS_MARK:
            raise unmarked
        return state, found.offset

    async def _settle(self, left: LeftBackup, client: MoveClient | None) -> str | None:
        """Do what is to be done about a backup; return why it waits, None if it does not."""
        if left.state is LeftState.DONE:
            stays = await self._goes_with_history(left)
            if not stays or await self._is_deleted_there(left, client):
                if stays:  # the node that the server was at before this one asks, too
                    await self._database.note_deleted(left.server, _uuid(left.place))
                await self._remove(left)
                await self._tell(left, client)
            return None
        if client is None or left.is_history:
            return _NO_KEY if client is None else await self._settle_history(left, client)
        try:
            asked, offset = await self._ask(left, client)
        except DestinationRefused as error:
            if error.answer_code != AttachmentMissing.code or await self._is_expected(left):
                raise
            await self._database.forget_left(left)
            return None
        self.wanted.discard(left.place)
        if asked is Following.UNKNOWN:
            return _UNKNOWN
        if asked is Following.MISSING:
            await self._note_missed(left, client)
            return None
        if left.missed is not None:
            await self._database.set_missed(left, is_missed=False)
        return await self._offer(left, client, asked, offset)

    async def _settle_history(self, left: LeftBackup, client: MoveClient) -> str | None:
        try:
            reached = partial(self._reached, left)
            come = partial(self._settle_points, left, client)
            asked, why = await self._histories.follow(left, client, reached, come)
        except DestinationRefused as error:
            if error.answer_code != AttachmentMissing.code:
                raise
            asked, why = Following.MISSING, ""  # it is not expected any more
        if asked is Following.HERE:
            await self._settle_points(left, client)
            waiting = [each for each in await self._points_left(left) if _waits(each)]
            if waiting:
                return (
                    f"{len(waiting)} backups that are points of it have not followed, such as "
                    f"{_uuid(waiting[0].place)}"
                )
        if asked in (Following.HERE, Following.DELETED):
            self._arrived = self._database.now()
            await self._end(left, client, asked)
            await self._settle_points(left, client)
            return None
        if asked not in (Following.MISSING, Following.CONFLICT):
            return why
        self._log.warn(
            "{server}: its history cannot follow it, and stays here for {days} days",
            server=left.server,
            days=self._days,
        )
        with suppress(DestinationRefused):
            await client.forget_history(is_there=False)
        await self._database.forget_left(left)
        return None

    async def _points_left(self, history: LeftBackup) -> list[LeftBackup]:
        """Return the backups that are points of a history, and were left with it."""
        return [
            each
            for each in await self._database.left()
            if each.is_point and each.transfer == history.transfer
        ]

    async def _settle_points(self, history: LeftBackup, client: MoveClient, base: int = 0) -> None:
        """Do what is to be done about the backups whose points are there: those from `base` on."""
        names = await self._points.names(history.server) if base else {}
        for each in await self._points_left(history):
            name = names.get(_uuid(each.place))
            if not base or (name is not None and name.number >= base and _waits(each)):
                await self._attempt(each, client)

    async def _goes_with_history(self, left: LeftBackup) -> bool:
        """Return whether a backup that has followed is a point, and stays until its history goes.

        Where the server comes back before that, it has its backups.
        """
        if not left.is_point or await self._find(left) is None:
            return False
        rows = await self._database.left(left.server)
        return any(each.is_history for each in rows)

    async def _is_deleted_there(self, left: LeftBackup, client: MoveClient | None) -> bool:
        """Return whether a backup that has followed was deleted at its destination since."""
        with suppress(DestinationRefused):  # it is forgotten there
            return client is not None and (await self._ask(left, client))[0] is Following.DELETED
        return False

    async def _find(self, left: LeftBackup) -> StoredBackup | PointBackup | None:
        """Return a backup that is here, None without one."""
        if left.is_point:
            return await self._points.find(left.server, _uuid(left.place))
        found: StoredBackup | None = await self._long.run(self._store.at, left.place)
        return found

    def _reached(self, left: LeftBackup, there: int) -> None:
        if there > self.reached.get(left.place, 0):
            self.reached[left.place] = there
            self._pauses = iter(ROUND_PAUSES)

    @property
    def _days(self) -> int:
        """For how many days backups and histories stay here that no node takes."""
        return max(self._config.live.keep_source_days, 1)

    async def _offer(
        self, left: LeftBackup, client: MoveClient, asked: Following, offset: int
    ) -> str | None:
        """Send what the destination lacks, if it is here, or end it; return as `_settle`."""
        if asked not in (Following.SEND, Following.FOUND, Following.CONFLICT):
            await self._end(left, client, asked)
            return None
        found = await self._find(left)
        if isinstance(found, PointBackup):
            return await self._name(left, found.name, client)
        if found is not None:
            is_another = asked is Following.CONFLICT
            return _CONFLICT if is_another else await self._send(left, found, client, offset)
        if asked is not Following.SEND:  # it is there
            await self._end(left, client, Following.HERE)
        elif left.place in await self._coming(left.server):
            self.wanted.add(left.place)
            return "it has not come to this node yet"
        else:
            self._log.warn(
                "{server}: the backup {place} is not here any more, and cannot follow the server",
                server=left.server,
                place=left.place,
            )
            await self._tell(left, client)
        return None

    async def _is_expected(self, left: LeftBackup) -> bool:
        """Return whether a backup is here, or is to come here."""
        found = await self._find(left)
        return found is not None or left.place in await self._coming(left.server)

    async def _name(self, left: LeftBackup, name: PointName, client: MoveClient) -> str | None:
        """Give a backup its name at the destination, if its point is there."""
        try:
            await client.name_point(name)
        except DestinationRefused as error:
            if error.answer_code != NoSuchPoint.code:
                raise
            return _NO_POINT
        # Only what the destination says of the whole counts.
        asked, _ = await self._ask(left, client)
        if asked is not Following.HERE:
            return _UNKNOWN
        await self._end(left, client, asked)
        return None

    async def _send(
        self, left: LeftBackup, found: StoredBackup, client: MoveClient, offset: int
    ) -> str | None:
        made = found.catalogue
        if made is not None and made.state == DAMAGED:
            return f"it is damaged: {made.fault}"
        budget: Budget[Any] = Budget(self._reactor, most=MOST)
        size = BatchSize(PIECE, first=PIECE, least=LEAST_PIECE)
        target = f"/backups/{found.uuid}?"
        sender = PieceSender(client, self._reactor, self._readers, size, budget, target)
        file = AttachedFile(found.uuid, self._store.path(found.place), found.size)
        sha256 = "" if made is None else made.sha256
        await sender.send(file, offset, partial(self._reached, left), sha256)
        # Only what the destination says of the whole counts.
        asked, _ = await self._ask(left, client)
        if asked is not Following.HERE:
            return _UNKNOWN
        self._arrived = self._database.now()
        await self._end(left, client, asked)
        return None

    async def _end(self, left: LeftBackup, client: MoveClient, asked: Following) -> None:
        """Remove a backup that is not needed here any more, unless its server is coming back."""
        if asked is Following.SHARED:
            await self._database.forget_left(left)
            return
        is_deleted = asked is Following.DELETED
        if is_deleted and left.state is LeftState.ORDERED:
            self._log.warn(
                "{server}: the {what} is kept here: it was deleted at its server's node",
                server=left.server,
                what=_what(left),
            )
            await self._database.set_left_state(left, LeftState.KEPT)
            return
        # Of one that has not come here itself, another node has a file.
        state = ArrivingState.DELETED if is_deleted else ArrivingState.PASSED
        if await self._database.begin_removal(left, _uuid(left.place), state):
            if not is_deleted and await self._goes_with_history(left):
                return
            await self._remove(left)
            await self._tell(left, client, is_there=not is_deleted)

    async def _tell(
        self, left: LeftBackup, client: MoveClient | None, *, is_there: bool = False
    ) -> None:
        """Report to the destination that a backup is not here any more, then forget it.

        All of a history `is_there` that is to be.
        """
        if client is not None:
            try:
                await _forget(client, left, is_there=is_there)
            except DestinationError as error:
                if _is_away(error):
                    raise
        await self._database.forget_left(left)

    async def removed(self) -> None:
        """Return when no file is being removed: another copy may come to its place then."""
        async with self._removing:
            return

    async def _remove(self, left: LeftBackup) -> None:
        """Remove the file of a backup, if its removal has begun, and its server is not back."""
        async with self._removing:
            if await self._database.is_being_removed(left):
                if left.is_history:
                    points = await self._points_left(left)
                    done = {_uuid(each.place) for each in points if each.state is LeftState.DONE}
                    await self._histories.remove(left, done)
                    return
                if left.is_point:
                    await self._remove_point(left)
                    return
                await self._remove_file(left)
                backup = _uuid(left.place)
                if not await self._database.coming("", backup):
                    await self._long.run(self._store.remove_leftovers, left.place, backup)

    async def _remove_file(self, left: LeftBackup) -> None:
        found = await self._long.run(self._store.at, left.place)
        if found is not None:
            await self._long.run(self._store.remove, found)
            self._log.info(
                "{server}: backup {place} ({size}) removed, it is not needed here any more",
                server=left.server,
                place=left.place,
                size=readable_size(found.size),
            )

    async def _remove_point(self, left: LeftBackup) -> None:
        found = await self._find(left)
        if isinstance(found, PointBackup):
            await self._points.delete(found)
            self._log.info(
                "{server}: backup {backup}, point {number} of its history, removed, it is not "
                "needed here any more",
                server=left.server,
                backup=found.name.name,
                number=found.name.number,
            )

    # Each day

    async def clear(self) -> None:
        """Delete those that the Panel has no record of, when it is time.

        To be called daily, and at a start.
        """
        try:
            rows = await self._database.age_left() if self._servers.loaded else []
            # Their destinations are asked, in the next turn.
            self._due.update(each.place for each in rows if _is_asked(each))
            for each in rows:
                try:
                    await self._check(each)
                except StorageError as error:
                    # The others do not wait for it.
                    self._log.warn(
                        "{server}: the backup {place} of a server that has moved is not deleted "
                        "today: {error}",
                        server=each.server,
                        place=each.place,
                        error=error,
                    )
            await self._note()
        except (PanelError, StorageError) as error:
            self._log.warn(
                "backups of servers that have moved are not deleted today: {error}", error=error
            )
        self.wake()

    async def _check(self, left: LeftBackup) -> None:
        if left.state is LeftState.DROPPED and self._deletes:
            found = await self._find(left)
            if found is None or self._servers.knows(left.server):
                await self._database.forget_left(left)
            elif await self._panel.backup_record(_uuid(left.place)) is BackupRecordState.MISSING:
                await self._note_missed(left)
            else:
                await self._database.set_missed(left, is_missed=False)

    async def _note_missed(self, left: LeftBackup, client: MoveClient | None = None) -> None:
        """Note that the Panel has no record of a backup; delete it when the days are over."""
        await self._database.set_missed(left, is_missed=True)
        if left.missed is None or not self._deletes:
            return
        if left.age < self._days * _DAY or left.age - left.missed < _APART:
            return
        async with self._lock:
            # Not of a server that is coming back since, or is here again.
            if self._servers.knows(left.server):
                return
            state = ArrivingState.DELETED
            if not await self._database.begin_removal(left, _uuid(left.place), state):
                return
            self._log.warn(
                "{server}: the backup {place} is deleted: the server has moved to another node "
                "without it, and the Panel has no record of it",
                server=left.server,
                place=left.place,
            )
            await self._remove(left)
        await self._tell(left, client)

    # Orders of an operator

    async def send(self, backup: str) -> LeftBackup:
        """Send a backup whatever the Panel says of it.

        Raises `BackupNotLeft`, `BackupCannotFollow`, `StorageError`.
        """
        left = await self._found(backup)
        if await self._move(left.transfer) is None:
            raise BackupCannotFollow(backup)
        await self._order(left, LeftState.ORDERED)
        self.wake()
        return attrs.evolve(left, state=LeftState.ORDERED)

    async def keep(self, backup: str) -> LeftBackup:
        """Keep a backup here.

        Raises `BackupNotLeft`, `StorageError`, and `DestinationError` where its destination has
        not heard of it: then it is to be ordered again.
        """
        left = await self._found(backup)
        await self._order(left, LeftState.KEPT)
        if (record := await self._move(left.transfer)) is not None:
            client = self._client(record, {})
            telling = Deferred.fromCoroutine(_forget(client, left, is_there=False))
            try:
                await telling.addTimeout(_TOLD_WITHIN, self._reactor)
            except defer.TimeoutError:
                raise DestinationTimeout(_TOLD_WITHIN) from None
            finally:
                client.abort()
        return attrs.evolve(left, state=LeftState.KEPT)

    async def delete(self, backup: str) -> LeftBackup:
        """Delete a backup here now. Raises `BackupNotLeft`, `StorageError`."""
        left = await self._found(backup)
        if left.is_history and any(map(_waits, await self._points_left(left))):
            raise Conflict("the history is not deleted", _HAS_BACKUPS)
        # A node that was sending it here keeps its own.
        if not await self._database.begin_removal(left, _uuid(left.place), ArrivingState.STAYS):
            raise BackupNotLeft(backup, _IN_USE)
        await self._remove(left)
        await self._note()
        self.wake()  # its destination hears of it
        return attrs.evolve(left, state=LeftState.DONE)

    async def _order(self, left: LeftBackup, state: LeftState) -> None:
        is_done = left.state is LeftState.DONE
        if is_done or not await self._database.set_left_state(left, state):
            raise BackupNotLeft(_uuid(left.place), _IN_USE)
        await self._note()

    async def _found(self, backup: str) -> LeftBackup:
        for each in await self._database.left(backup):
            return each
        raise BackupNotLeft(backup)

    # How many there are

    @property
    def oldest(self) -> float:
        """For how many seconds the one has waited that waits for longest; 0 without any.

        Those do not count in which others have followed their servers.
        """
        waiting = (self._database.seconds_since(each.since) for each in self.rows if _waits(each))
        longest = max(waiting, default=0.0)
        return min(longest, self._database.seconds_since(self._arrived))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there are of each state; those that the Panel has no record of are dropped."""
        found = dict.fromkeys((each.value for each in LeftState), 0)
        for each in self.rows:
            is_dropped = _is_asked(each) and not _waits(each)
            found[LeftState.DROPPED.value if is_dropped else each.state.value] += 1
        return found


def _is_away(error: DestinationError) -> bool:
    """Return whether a destination takes no backup at all now."""
    if isinstance(error, DestinationRefused) and not error.is_foreign:
        return error.response_status in _TAKES_NONE
    return True


def _following(found: FollowingStatus) -> Following:
    try:
        return Following(found.state)
    except ValueError:
        return Following.UNKNOWN  # of a later version


def _uuid(place: str) -> str:
    if f".{HISTORY}" in place:
        return HISTORY
    if place.endswith(f".{POINT}"):
        return place.removesuffix(f".{POINT}")
    backup = backup_at(place)
    return place if backup is None else backup.uuid


def _what(left: LeftBackup) -> str:
    return "history of the server" if left.is_history else f"backup {left.place}"


async def _forget(client: MoveClient, left: LeftBackup, *, is_there: bool) -> None:
    if left.is_history:
        await client.forget_history(is_there=is_there)
    else:
        await client.forget_backup(_uuid(left.place))


def _is_asked(left: LeftBackup) -> bool:
    return left.state in TO_SEND


def _waits(left: LeftBackup) -> bool:
    """Return whether a backup is still to be sent, as far as is known."""
    return _is_asked(left) and left.missed is None

"""Histories that arrive after their servers, from the node that these have left.

That one is to come is recorded before the success of a transfer is reported, with the number of
its newest point: the points that are made here have higher ones. When the first of them is made,
the deltas come one by one, the newest first, and each is taken in when it is whole: what has come
can be used at once, and does not come again. `wingsd.histories.following` has what is done with
the disk; it is imported where it is used, since a node without histories saves its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.logger import Logger

from wingsd.errors import (
    AttachmentMissing,
    DaemonStopping,
    HistoryBaseChanged,
    MoveBusy,
    ServerBusy,
)
from wingsd.histories import HistoriesOnDemand
from wingsd.servers.registry import Servers
from wingsd.statedb import HISTORY, ArrivingBackup, ArrivingState, StateDatabase, TransferRecord
from wingsd.transfers.incoming.following import ArrivingPieces
from wingsd.transfers.incoming.moves.inbox import Attachment, KeptWork
from wingsd.transfers.incoming.transfer import IncomingUpload
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.peer.moves import Following, HistoryStatus, WantedBlocks

if TYPE_CHECKING:
    from wingsd.history.store import HistoryStore

T = TypeVar("T")


@attrs.define(eq=False, repr=False, slots=False)
class ArrivingHistories:
    """The histories that follow servers to this node, whose deltas come in `pieces`.

    `reserve` bytes of the disk are left free. Methods raise `StorageError`, and
    `AttachmentMissing` for a history that was not announced.
    """

    _log = Logger()

    _database: StateDatabase
    _histories: HistoriesOnDemand
    _servers: Servers
    _left_backups: LeftBackups
    _pieces: ArrivingPieces
    _reserve: int

    def __attrs_post_init__(self) -> None:
        #: The delta that grows of each server, in this daemon; the hash is with it.
        self._growing: dict[str, Attachment] = {}
        #: What is done with the history of each server for a request of its source.
        self._works: dict[str, KeptWork[Any]] = {}

    def takes(self, server: str) -> bool:
        """Return whether a history may follow a server to this node."""
        return self._histories.takes(server)

    async def status(
        self, entry: TransferRecord, newer: int, size: int, *, is_ordered: bool
    ) -> HistoryStatus:
        """Return what the source is to send next; it `is_ordered` by an operator there.

        `entry` is the transfer that has brought the server. With `newer` the answer has how much
        is here of the delta that goes before that point, and has so many bytes.
        """
        self._histories.asked.add(str(entry.id))
        if is_ordered:
            await self._database.order_arriving(entry.id, HISTORY)
        coming = await self._known(entry)
        if (entry.server, HISTORY) in self._pieces:
            raise MoveBusy("a piece of it is being received; ask again")
        state, base = await self._state(coming)
        if (await self._known(entry)).state is ArrivingState.DELETED:
            state = Following.DELETED
        offset = 0
        if state is Following.SEND and newer == base:
            attachment = self._attachment(coming, newer, size)
            offset = await self._histories.disk.run(lambda: attachment.offset)
        return HistoryStatus(state.value, base, coming.floor, offset)

    async def _state(self, coming: ArrivingBackup) -> tuple[Following, int]:
        if coming.state is not ArrivingState.COMING:
            return Following.UNKNOWN, 0
        if coming.newest <= coming.floor:
            return Following.CONFLICT, 0
        from wingsd.histories import following  # noqa: PLC0415

        server, histories = coming.server, self._histories.get()
        histories.note_coming(coming)  # an operator may have ordered it again
        is_here = self._servers.knows(server)
        if is_here and not self.takes(server):
            return Following.UNKNOWN, 0
        base = 0
        if await histories.has(server):
            taking = partial(following.base_of, newest=coming.newest, floor=coming.floor)
            base = await self._use(server, "base", taking)
        if base:
            return Following.SEND, base
        if is_here and not histories.makes_points(server):
            with suppress(ServerBusy, DaemonStopping):  # it is asked again
                histories.begin_make(self._servers.get(server))
        # A server that has moved on without a point here gets none any more.
        return Following.UNKNOWN if is_here else Following.MISSING, 0

    async def base_page(self, entry: TransferRecord, point: int, offset: int) -> bytes:
        """Return a page of the catalogue of a point here. Raises `HistoryBaseChanged`."""
        from wingsd.histories import following  # noqa: PLC0415

        coming = await self._expected(entry)
        reading = partial(following.base_page, number=point, offset=offset, floor=coming.floor)
        return await self._use(coming.server, ("page", point, offset), reading)

    async def digests(
        self, entry: TransferRecord, point: int, wanted: Sequence[WantedBlocks]
    ) -> bytes:
        """Return the digests of blocks at a point here. Raises `HistoryBaseChanged`."""
        from wingsd.histories import following  # noqa: PLC0415

        coming, ranges = await self._expected(entry), following.ranges_of(wanted)
        reading = partial(following.digests_of, number=point, wanted=ranges, floor=coming.floor)
        return await self._use(coming.server, ("digests", point, ranges), reading)

    async def _use(self, server: str, asked: object, work: Callable[[HistoryStore], T]) -> T:
        """Do some work with a history, one at a time, which goes on after the request for it.

        Raises `MoveBusy` where it takes long: the source asks again, and for the same work.
        """
        kept = self._works.get(server)
        if kept is None:
            kept = self._works[server] = KeptWork(self._histories.reactor)
        histories = self._histories.get()
        found: T = await kept.result(asked, lambda: histories.use(server, work))
        kept.forget()
        return found

    async def receive_piece(
        self,
        entry: TransferRecord,
        newer: int,
        size: int,
        offset: int,
        sha256: str,
        stream: IncomingUpload,
    ) -> int:
        """Receive a piece of the delta that goes before the point `newer`; it has `size` bytes.

        Return how many of them are here; see `Attachment.append`. Raises `MoveBusy` while another
        piece is received, `HistoryBaseChanged` where no delta goes there, and `HistoryTakesNoMore`
        where the history would become too large.
        """
        from wingsd.histories import following  # noqa: PLC0415

        coming = await self._expected(entry)
        server, histories = coming.server, self._histories.get()
        if not offset and not await self._histories.disk.run(self._is_begun, server, newer, size):
            await self._require_room(coming, newer, size)
        attachment = self._attachment(coming, newer, size)

        def append(pieces: Iterator[bytes]) -> int:
            attachment.require_room(self._reserve)
            return attachment.append(offset, sha256, pieces, self._reserve)

        async def arrived(here: int) -> int:
            if sha256:
                self._growing.pop(server, None)
                taking = partial(following.base_of, newest=coming.newest, floor=coming.floor)
                await histories.use(server, taking)
                self._left_backups.wake()  # the server may have moved on
            return here

        return await self._pieces.receive((server, HISTORY), stream, append, arrived)

    def _is_begun(self, server: str, newer: int, size: int) -> bool:
        from wingsd.histories import following  # noqa: PLC0415

        files = following.DeltaFiles(self._histories.path(server))
        return files.part(newer, size).exists()

    async def _require_room(self, coming: ArrivingBackup, newer: int, size: int) -> None:
        from wingsd.histories import following  # noqa: PLC0415

        most = self._histories.config.system.history.terms(coming.server).max_bytes
        checking = partial(
            following.require_room, newer=newer, size=size, floor=coming.floor, most=most
        )
        await self._histories.get().use(coming.server, checking)

    async def forget(self, entry: TransferRecord, *, is_whole: bool) -> None:
        """Note that no more comes of a history; with `is_whole` all that was to come is here."""
        from wingsd.histories import following  # noqa: PLC0415

        coming = await self._database.arriving(entry.id, HISTORY)
        if coming is None or coming.state is not ArrivingState.COMING:
            await self._database.forget_arriving(entry.id, HISTORY)
            return
        server, histories = coming.server, self._histories.get()
        await self._database.forget_arriving(entry.id, HISTORY)
        histories.note_come(coming)
        self._growing.pop(server, None)
        self._works.pop(server, None)
        others = await self._database.coming_histories(server)
        is_last = not any(each.state is ArrivingState.COMING for each in others)
        if is_last and await histories.has(server):
            await histories.use(server, following.drop_arriving)
        if is_whole:
            self._log.info("{server}: its history has followed it to this node", server=server)
        self._left_backups.wake()  # the server may have moved on

    async def _known(self, entry: TransferRecord) -> ArrivingBackup:
        coming = await self._database.arriving(entry.id, HISTORY)
        if coming is None:
            raise AttachmentMissing("its history is not to come")
        if coming.state is ArrivingState.COMING and coming.floor < 0:
            return await self._with_floor(coming)
        return coming

    async def _with_floor(self, coming: ArrivingBackup) -> ArrivingBackup:
        """Find out which points are from an earlier stay: the disk was not there before."""
        from wingsd.histories import following  # noqa: PLC0415

        histories, floor = self._histories.get(), 0
        if await histories.has(coming.server):
            finding = partial(following.floor_of, newest=coming.newest)
            floor = await histories.use(coming.server, finding)
        await self._database.set_floor(coming, floor)
        histories.note_come(coming)
        return attrs.evolve(coming, floor=floor)

    async def _expected(self, entry: TransferRecord) -> ArrivingBackup:
        coming = await self._known(entry)
        if coming.state is not ArrivingState.COMING:
            raise AttachmentMissing("its history is not to come any more")
        if not await self._histories.get().has(coming.server):
            raise HistoryBaseChanged
        return coming

    def _attachment(self, coming: ArrivingBackup, newer: int, size: int) -> Attachment:
        from wingsd.histories import following  # noqa: PLC0415

        known = self._growing.get(coming.server)
        if known is None or known.key != (newer, size):
            files = following.DeltaFiles(self._histories.path(coming.server))
            known = Attachment(f"the delta before point {newer}", size, files, newer, size)
            self._growing[coming.server] = known
        return known

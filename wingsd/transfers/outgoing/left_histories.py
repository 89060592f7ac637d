"""Histories of servers that have moved away: they follow their servers, as local backups do.

The destination says before which of its points the next delta goes. Before its own first one that
is the bridge, which is made here of what differs; then come the deltas of older points. So the
points are there one after the other, the newest first, and what breaks off goes on where it was.
`LeftBackups` has when a history is sent, and when it is removed. `wingsd.histories.following` is
imported where it is used, since a node without histories saves its memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.logger import Logger

from wingsd.errors import (
    DestinationRefused,
    HistoryBaseChanged,
    HistoryTakesNoMore,
    StorageError,
)
from wingsd.histories import HistoriesOnDemand
from wingsd.moves.digests import DIGEST
from wingsd.statedb import (
    HISTORY,
    ArrivingState,
    LeavingBackup,
    LeftBackup,
    LeftState,
    StateDatabase,
    history_place,
)
from wingsd.threadio import Workers
from wingsd.transfers.outgoing.attached import (
    LEAST_PIECE,
    PIECE,
    AttachedFile,
    BatchSize,
    PieceSender,
)
from wingsd.transfers.peer.moves import MOST, Following, MoveClient, WantedBlocks, unusable
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Budget
from wingsd.util.text import display_all

if TYPE_CHECKING:
    from wingsd.histories.following import NextDelta

#: Seconds in which the figures of a history are read, while its server is being stopped.
FOUND_WITHIN = 10.0
#: How often in a turn the point that deltas go before may change.
_CHANGES = 10
#: Why a history waits.
_NOT_TAKEN = "its server's node has no point of its own yet, or makes none"
_TO_COME = "its older points have not come to this node yet"


@attrs.define(eq=False, repr=False, slots=False)
class LeftHistories:
    """The histories that servers have left on this node; `readers` read what is sent."""

    _log = Logger()

    _database: StateDatabase
    _histories: HistoriesOnDemand
    _readers: Workers
    _reactor: Reactor

    async def leaving(self, server: str, *, is_taken: bool) -> list[LeavingBackup]:
        """Return the history that follows a server, if there is one, and it `is_taken` there.

        Any other stays for the days that moved servers are kept. The server does not wait for a
        disk.
        """
        try:
            finding = Deferred.fromCoroutine(self._histories.figures(server))
            figures = await finding.addTimeout(FOUND_WITHIN, self._reactor)
        except (StorageError, TimedOut) as error:
            is_slow = isinstance(error, TimedOut)
            self._log_stays(server, "its disk does not answer" if is_slow else str(error))
            return []
        if not is_taken:
            if figures is not None:
                await self._log_not_taken(server)
            return []
        coming = await self._database.coming_histories(server)
        # A point that is being made is undone, or has the next number.
        own = [] if figures is None else [figures.newest + 1]
        newest = max([each.newest for each in coming] + own, default=0)
        if not newest:
            return []
        size = 0 if figures is None else figures.bytes
        place = history_place(server)
        return [LeavingBackup(place, LeftState.FOLLOWS, size, newest=newest)]

    async def _log_not_taken(self, server: str) -> None:
        why = "the destination node takes none"
        with suppress(StorageError):
            if names := await self._histories.names(server):
                why += f"; {len(names)} backups are points of it, and stay until they are deleted"
        self._log_stays(server, why)

    def _log_stays(self, server: str, why: str) -> None:
        self._log.warn(
            "{server}: its history does not follow it, and stays here for some days: {why}",
            server=server,
            why=why,
        )

    async def remove(self, left: LeftBackup, followed: Collection[str]) -> None:
        """Remove the history of a server that is not coming back. Raises `StorageError`.

        It stays if it has other backups than those that have `followed` the server.
        """
        await self._histories.get().remove(left.server, left, followed)

    async def follow(
        self,
        left: LeftBackup,
        client: MoveClient,
        reached: Callable[[int], None],
        come: Callable[[int], Awaitable[None]],
    ) -> tuple[Following, str]:
        """Send what the destination lacks; return its state there, and why it waits.

        `reached` gets how many bytes were sent, `come` after each delta the number from which on
        all points are there. Raises `StorageError`, and what the client raises.
        """
        sent = changes = 0
        is_ordered = left.state is LeftState.ORDERED
        while True:
            asked = await client.history(is_ordered=is_ordered)
            if asked.state != Following.SEND.value:
                return _state(asked.state), _NOT_TAKEN
            if not 0 <= asked.floor < asked.base:
                raise unusable(f"its base {asked.base} is not above {asked.floor}")
            await come(asked.base)
            found = await self._next(left, asked.base, asked.floor)
            if found is None:
                return await self._last(left, asked.floor)
            try:
                if not found.path:
                    await self._make_bridge(left.server, client, asked.base)
                    continue
                here = await client.history(asked.base, found.bytes, is_ordered=is_ordered)
                if here.base != asked.base:
                    continue
                file = AttachedFile(HISTORY, found.path, found.bytes)
                await self._send(file, asked.base, here.offset, client, sent, reached)
                sent += found.bytes
            except DestinationRefused as error:
                if error.answer_code == HistoryTakesNoMore.code:
                    self._log.warn(
                        "{server}: the points of its history up to {number} are left out: its "
                        "server's node does not take more",
                        server=left.server,
                        number=found.number,
                    )
                    return Following.HERE, ""
                changes += 1
                if error.answer_code != HistoryBaseChanged.code or changes > _CHANGES:
                    raise

    async def _next(self, left: LeftBackup, base: int, floor: int) -> NextDelta | None:
        from wingsd.histories import following  # noqa: PLC0415

        histories = self._histories.get()
        figures = await self._histories.figures(left.server)
        if figures is not None and figures.newest > left.newest:
            raise StorageError(
                f"another node makes points in {histories.path(left.server)}: let each have a "
                "system.history.directory of its own"
            )
        if await histories.has(left.server):
            finding = partial(following.next_delta, base=base, floor=floor)
            return await histories.use(left.server, finding)
        if not await self._database.coming_histories(left.server):  # one has left, then
            raise StorageError(
                f"{histories.path(left.server)} is missing: mount the file system of histories; "
                f"if it was removed, use `wingsctl backups delete {left.server}`"
            )
        return None

    async def _last(self, left: LeftBackup, floor: int) -> tuple[Following, str]:
        """Return the state of a history of which nothing more is here."""
        for each in await self._database.coming_histories(left.server):
            is_to_come = each.state is ArrivingState.COMING and each.transfer < left.transfer
            if is_to_come and each.newest > floor:
                return Following.UNKNOWN, _TO_COME
        return Following.HERE, ""

    async def _make_bridge(self, server: str, client: MoveClient, base: int) -> None:
        """Write the bridge to a point of the destination."""
        from wingsd.histories import following  # noqa: PLC0415

        histories, run = self._histories.get(), self._readers.run
        work = await run(following.BridgeWork, histories.path(server))
        try:
            offset = 0
            while True:
                page = await client.history_base(base, offset)
                await run(work.add_base, page)
                offset += len(page)
                if len(page) < following.PAGE:
                    break
            await histories.use(server, work.plan)
            while wanted := await run(work.wanted):
                named = [
                    WantedBlocks(each.path.decode("latin-1"), each.first, each.blocks)
                    for each in wanted
                ]
                digests = await client.history_blocks(base, named)
                if len(digests) != DIGEST * sum(each.blocks for each in named):
                    raise unusable("it has another number of digests")
                await run(work.add_digests, digests)
            if damaged := await histories.use(server, work.write):
                self._log.error(
                    "{server}: its history is damaged in its newest point: {files}",
                    server=server,
                    files=display_all(damaged),
                )
        finally:
            await run(work.close)

    async def _send(
        self,
        file: AttachedFile,
        base: int,
        offset: int,
        client: MoveClient,
        before: int,
        reached: Callable[[int], None],
    ) -> None:
        """Send a delta, after so many bytes of others."""
        budget: Budget[Any] = Budget(self._reactor, most=MOST)
        size = BatchSize(PIECE, first=PIECE, least=LEAST_PIECE)
        target = f"/history?newer={base}&bytes={file.size}&"
        sender = PieceSender(client, self._reactor, self._readers, size, budget, target)
        await sender.send(file, offset, lambda there: reached(before + there))


def _state(text: str) -> Following:
    try:
        return Following(text)
    except ValueError:  # of a later version
        return Following.UNKNOWN

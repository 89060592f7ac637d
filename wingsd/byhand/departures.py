"""The source's part: sending a server where an operator says, and what becomes of it."""

from __future__ import annotations

import os
from contextlib import suppress
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.byhand.description import Description, describe, read
from wingsd.byhand.means import HandMeans
from wingsd.byhand.sending import HandSending
from wingsd.errors import (
    BadRequest,
    Conflict,
    Interrupted,
    NotLoaded,
    TransferCancelled,
    UnknownServer,
    WingsdError,
)
from wingsd.journal import Account, Entry, Order, Outcome
from wingsd.model import Configuration, Settings
from wingsd.servers import Server
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.order import TransferOrder
from wingsd.transfers.outgoing import MOVED
from wingsd.transfers.recovery import reached

__all__ = ["Departures"]

#: Where a node takes uploads, below its address.
UPLOADS = "/api/transfers"
#: Why a server cannot be started that was being sent when the daemon ended.
HOLD = "the server was being moved when this node ended, and its destination is asked about it"


class Departures:
    """Servers that are moved from this node."""

    _log = Logger()

    def __init__(self, means: HandMeans) -> None:
        self._means = means
        self._settling: dict[str, HandSending] = {}

    async def send(
        self,
        server: str,
        url: str,
        token: str,
        *,
        description: Description | None = None,
        remove: bool = False,
    ) -> None:
        """Begin to send a server to the node at `url` by its `token`; the rest is told by events.

        `description` replaces what this node knows of it. When it has moved it stays, or with
        `remove` it is deleted here. Raises `UnknownServer` where there is nothing of that name,
        `Conflict` where that is in a storage pool and may be another node's, `BadRequest`, and
        what `Sender.start` raises.
        """
        order = Order(_uploads_at(url), f"Bearer {token}", remove)
        if description is not None:
            read(description, server)
        known = await self._find(server, description)
        authority = HandSending(
            server, order, self._means, description or describe(known.configuration)
        )
        self._means.sender.start(known, TransferOrder(order.url, order.token), authority)

    async def _find(self, server: str, description: Description | None) -> Server:
        servers = self._means.servers
        try:
            return servers.get(server)
        except (NotLoaded, UnknownServer) as error:
            if not await self._means.disk.run(os.path.isdir, servers.directory(server)):
                raise
            why = (
                "its Panel has not told it"
                if isinstance(error, NotLoaded)
                else "its Panel does not have it here"
            )
            if pool := self._means.config.system.transfers.storage_pool.name:
                raise Conflict(
                    "the server may be another node's",
                    f"{why}, and its files are in the storage pool {pool}; send it from the node "
                    "that has it",
                ) from error
            if description is None:
                raise BadRequest(
                    "this node has the server's files, and does not know what it is",
                    f"{why}; give the server's settings with --settings FILE",
                ) from error
        return servers.known(read(description, server))

    def cancel(self, server: str) -> bool:
        """Ask no longer what became of a server sent before a restart; return whether it was."""
        settling = self._settling.get(server)
        if settling is None:
            return False
        settling.give_up(TransferCancelled())
        return True

    # After a restart

    def resume(self, entry: Entry) -> None:
        """Find out what became of a server that an earlier daemon was sending."""
        try:
            self._means.servers.get(entry.server).hold = HOLD
        except WingsdError:
            self._means.servers.reserve(entry.server, HOLD)
        settling = Deferred.fromCoroutine(self._settle(entry))
        settling.addErrback(
            lambda failure: self._log.failure(
                "{server}: its move stays unsettled", failure, server=entry.server
            )
        )

    async def _settle(self, entry: Entry) -> None:
        uuid, moved = entry.server, False
        order = await self._means.journal.ordered(entry.id)
        # A step is written down before it is taken: of SEND nobody knows how far it came.
        if order is not None and reached(entry, SendStep.SEND):
            sending = self._settling[uuid] = HandSending(uuid, order, self._means)
            moved = await sending.has_moved()
            if moved:
                await self._part(sending, uuid)
            del self._settling[uuid]
        if not moved:
            await self._stays(entry)
        way = entry.direction.value
        self._means.observer.transfer_over(way, None if moved else Interrupted())
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        account = Account() if moved else Account("this node was restarted meanwhile")
        await self._means.journal.end(entry.id, outcome, account)

    async def _part(self, sending: HandSending, uuid: str) -> None:
        # Known or not: what is here can be deleted without its settings.
        server = self._means.servers.known(Configuration(Settings(uuid)))
        server.disown(MOVED)
        await sending.part(server)

    async def _stays(self, entry: Entry) -> None:
        self._log.info("{server}: its move failed, it is still here", server=entry.server)
        self._means.servers.reserve(entry.server, "")
        with suppress(NotLoaded, UnknownServer):
            server = self._means.servers.get(entry.server)
            server.let_go()
            if reached(entry, SendStep.RETIRE):
                await server.restore_environment()


def _uploads_at(url: str) -> str:
    """Return where the node at an address takes uploads; it may be named already."""
    address = url.rstrip("/")
    try:
        path = urlsplit(address).path
    except ValueError:
        return url  # which is told by whoever sends there
    return address if path else f"{address}{UPLOADS}"

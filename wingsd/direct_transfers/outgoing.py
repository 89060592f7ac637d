"""Outgoing direct transfers: sending a server where an operator says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.direct_transfers.collaborators import DirectTransferCollaborators
from wingsd.direct_transfers.description import Description, describe, read
from wingsd.errors import (
    BadRequest,
    Conflict,
    ServerNotFound,
    ServersNotLoaded,
    StorageError,
    TransferCancelled,
    WingsdError,
)
from wingsd.panel.schemas import Configuration, Settings
from wingsd.servers import Server
from wingsd.statedb import DirectOrder, Outcome, TransferRecord, TransferResult
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.errors import DaemonRestarted, DestinationError, DestinationRefused
from wingsd.transfers.outgoing.request import TransferOrder
from wingsd.transfers.outgoing.transfer import MOVED
from wingsd.transfers.ownership import BACKOFF
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.recovery import reached
from wingsd.transfers.steps import SendStep
from wingsd.util.serialization import structure

__all__ = ["HandSending", "OutgoingDirectTransfers"]

#: The least status of an answer that says nothing about what was asked.
_NO_WORD = 500


@attrs.frozen
class _Word:
    """What a destination answers when it is asked."""

    moved: bool


class HandSending:
    """The word for one server that goes as `order` says.

    Raises `BadRequest` for an address that is none, `DestinationUnreachable` when the certificates
    to trust cannot be read.
    """

    by_hand = True
    deletes = False
    #: To be asked calls off what a destination has not finished.
    grace = 0.0
    words: ClassVar[Mapping[SendStep, str]] = {
        SendStep.ASK: "telling the destination what the server is",
        SendStep.SETTLE: "asking the destination whether it has the server",
    }
    _log = Logger()

    def __init__(
        self,
        server: str,
        order: DirectOrder,
        means: DirectTransferCollaborators,
        description: Description | None = None,
    ) -> None:
        self._server = server
        self._order = order
        self._means = means
        self._description = description
        self._peer = PeerClient(
            f"{order.url}/{server}/by-hand", order.token, means.reactor, means.trust, "after --to"
        )
        self._asking: CancelScope | None = None

    def begin(self) -> None:
        """Nothing is to be told of an earlier transfer."""

    async def write_down(self, entry: int) -> None:
        """Keep where it goes, to ask there after a restart."""
        await self._means.journal.add_order(entry, self._order)

    async def introduce(self) -> None:
        """Tell the destination what the server is; it refuses early what it cannot take.

        Raises what asking a `PeerClient` does.
        """
        await self._peer.ask("PUT", json.dumps(self._description).encode())

    async def tell_failure(self) -> None:
        """The destination has seen it, or does when it is asked next."""

    async def has_moved(self, *, lost: bool = False) -> bool:
        """Ask the destination until it answers, or `give_up` is called: then it has not.

        The question itself calls the transfer off: no server arrives after it was answered.
        """
        self._asking = asking = CancelScope()
        pauses = iter(BACKOFF)
        while asking.reason is None:
            pause = next(pauses)
            try:
                return await asking.wait(Deferred.fromCoroutine(self._ask()))
            except DestinationRefused as error:
                if error.response_status < _NO_WORD:
                    self._log.warn(
                        "{server}: its destination does not say that it has it: {error}",
                        server=self._server,
                        error=error,
                    )
                    return False
                self._say_unknown(error, pause)
            except DestinationError as error:
                self._say_unknown(error, pause)
            except WingsdError:
                break
            try:
                await asking.wait(deferLater(self._means.reactor, pause))
            except WingsdError:
                break
        self._log.warn(
            "{server}: it stays here by the operator's word; see whether {url} has it too, and "
            "delete one of them",
            server=self._server,
            url=self._order.url,
        )
        return False

    def give_up(self, reason: WingsdError) -> None:
        """Ask no longer whether it has moved."""
        if self._asking is not None:
            self._asking.interrupt(reason)

    async def part(self, server: Server) -> None:
        """Delete it here, if that was asked for; else leave its files where they are."""
        try:
            await self._means.journal.delete_description(self._server)
            if self._order.remove:
                await self._means.servers.delete(self._server)
                return
        except StorageError as error:
            self._log.error("{server}: {error}", server=self._server, error=error)
        except WingsdError as error:
            self._log.error(
                "{server}: it has moved, and could not be deleted here: {error}",
                server=self._server,
                error=error,
            )
        self._log.info("{server}: its files here stay", server=self._server)

    async def _ask(self) -> bool:
        answer = await self._peer.ask("DELETE")
        try:
            return structure(json.loads(answer.body), _Word).moved
        except (ValueError, RecursionError) as error:
            raise DestinationRefused(
                "the destination node's answer makes no sense", str(error), answer.code
            ) from error

    def _say_unknown(self, error: WingsdError, pause: float) -> None:
        self._log.warn(
            "{server}: whether it has moved is not known yet, asking again in {pause:.0f} s: "
            "{error}",
            server=self._server,
            pause=pause,
            error=error,
        )


#: Where a node takes uploads, below its address.
UPLOADS = "/api/transfers"
#: Why a server cannot be started that was being sent when the daemon ended.
HOLD = "the server was being moved when this node ended, and its destination is asked about it"


class OutgoingDirectTransfers:
    """Servers that are moved from this node."""

    _log = Logger()

    def __init__(self, means: DirectTransferCollaborators) -> None:
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
        `remove` it is deleted here. Raises `ServerNotFound` where there is nothing of that name,
        `Conflict` where that is in a storage pool and may be another node's, `BadRequest`, and
        what `Sender.start` raises.
        """
        order = DirectOrder(_uploads_at(url), f"Bearer {token}", remove)
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
        except (ServersNotLoaded, ServerNotFound) as error:
            if not await self._means.disk.run(os.path.isdir, servers.directory(server)):
                raise
            why = (
                "its Panel has not told it"
                if isinstance(error, ServersNotLoaded)
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
        return servers.get_or_add(read(description, server))

    def cancel(self, server: str) -> bool:
        """Ask no longer what became of a server sent before a restart; return whether it was."""
        settling = self._settling.get(server)
        if settling is None:
            return False
        settling.give_up(TransferCancelled())
        return True

    # After a restart

    def resume(self, entry: TransferRecord) -> None:
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

    async def _settle(self, entry: TransferRecord) -> None:
        uuid, moved = entry.server, False
        order = await self._means.journal.order(entry.id)
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
        self._means.observer.transfer_over(way, None if moved else DaemonRestarted())
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        account = (
            TransferResult() if moved else TransferResult("this node was restarted meanwhile")
        )
        await self._means.journal.end(entry.id, outcome, account)

    async def _part(self, sending: HandSending, uuid: str) -> None:
        # Known or not: what is here can be deleted without its settings.
        server = self._means.servers.get_or_add(Configuration(Settings(uuid)))
        server.disown(MOVED)
        await sending.part(server)

    async def _stays(self, entry: TransferRecord) -> None:
        self._log.info("{server}: its move failed, it is still here", server=entry.server)
        self._means.servers.reserve(entry.server, "")
        with suppress(ServersNotLoaded, ServerNotFound):
            server = self._means.servers.get(entry.server)
            server.release()
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

"""Direct transfers from this node, to the one that an operator names, and all of this node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.direct_transfers.incoming import DirectReceiving, IncomingDirectTransfers
from wingsd.direct_transfers.servers import (
    Description,
    DirectServers,
    describe,
    read,
    read_text,
)
from wingsd.errors import (
    BadRequest,
    Conflict,
    DestinationError,
    DestinationRefused,
    ServerNotFound,
    ServersNotLoaded,
    StorageError,
    TransferCancelled,
    WingsdError,
)
from wingsd.http_client.exchange import Answer, plain
from wingsd.panel.schemas import Configuration, Settings
from wingsd.servers import Server
from wingsd.statedb import DirectDestination, MoveRecord, TransferRecord
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.coordinator import OWNERSHIP_BACKOFF, Initiator, SendingCoordinator
from wingsd.transfers.manager import OutgoingTransfers
from wingsd.transfers.outgoing.source import MOVED, SeedOrder, TransferRequest, is_seed, seed_of
from wingsd.transfers.steps import SendStep
from wingsd.util.serialization import structure

__all__ = ["DirectSending", "DirectTransfers"]


@attrs.frozen(eq=False, repr=False)
class _Conclusion:
    """The destination's answer to whether a server has moved there."""

    moved: bool


def _moved_in(answer: Answer) -> bool:
    """Return what the node says. Raises `ValueError`, `RecursionError` for another answer."""
    kind = plain(answer.header("content-type").partition(";")[0].lower())
    if (answer.code, kind) != (HTTPStatus.OK, "application/json"):
        raise ValueError(f"{answer.code}, {kind or 'no content type'}")
    return structure(json.loads(answer.body), _Conclusion).moved


class DirectSending(SendingCoordinator):
    """The coordinator of an outgoing direct transfer, by `destination`.

    `transfer` is the number of one that an earlier daemon has recorded. With `seed` a copy follows
    the server first.
    """

    is_direct = True
    # There is no `answer_grace`: the question itself cancels what the destination has not
    # finished.
    step_texts: Mapping[SendStep, str] = {
        SendStep.ASK: "sending the server's settings to the destination",
        SendStep.SETTLE: "asking the destination whether it has the server",
    }
    _log = Logger()

    def __init__(
        self,
        server: str,
        destination: DirectDestination,
        sender: OutgoingTransfers,
        transfer: int | None = None,
        seed: SeedOrder | None = None,
    ) -> None:
        self.seed = seed
        parts = sender.parts
        self._server = server
        self._destination = destination
        self._client = parts.peers.client(
            f"{destination.url}/{server}/by-hand", destination.token, "after --to"
        )
        self._sender = sender
        self._database, self._servers = parts.servers.database, parts.servers.servers
        self._reactor = parts.uploader.reactor
        self._transfer = transfer
        self._asking: CancelScope | None = None
        #: Whether a person has cancelled it: nothing of it is kept then.
        self._is_cancelled = False

    async def save(self, entry: int) -> None:
        """Record the destination and the server's description, to go on after a restart."""
        self._transfer = entry
        await self._database.add_destination(entry, self._destination)

    async def announce(self) -> None:
        """Send the description; the destination refuses early what it cannot accept.

        Raises the errors of `PeerClient.ask`.
        """
        await self._client.ask("PUT", self._destination.description.encode())

    async def has_moved(self, *, lost: bool = False, refused: bool = False) -> bool | None:
        """Ask the destination until it answers, or `stop_waiting` is called: then return None.

        The question itself cancels the transfer: no server arrives after it was answered. Nothing
        but its own answer decides: not a refusal, which may be a proxy's, nor silence.
        """
        self._asking = asking = CancelScope()
        pauses = iter(OWNERSHIP_BACKOFF)
        while asking.reason is None:
            pause = next(pauses)
            try:
                return await asking.wait(Deferred.fromCoroutine(self._ask()))
            except (DestinationError, StorageError) as error:
                self._log_unknown(error, pause)
            except WingsdError:
                break
            try:
                await asking.wait(deferLater(self._reactor, pause))
            except WingsdError:
                break
        self._servers.leave_off(self._server)
        self._log.warn(
            "{server}: it stays here and is not started, since its transfer was cancelled before "
            "it was known whether it has moved; before you start it, see whether {url} has it, "
            "and delete one of them",
            server=self._server,
            url=self._destination.url,
        )
        return None

    def stop_waiting(self, reason: WingsdError) -> None:
        """Ask no longer whether it has moved."""
        self._is_cancelled = isinstance(reason, TransferCancelled)
        if self._asking is not None:
            self._asking.cancel(reason)

    async def clean_up(self, server: Server) -> None:
        """Delete it here, if that was requested; else leave its files where they are."""
        self._servers.leave_off(self._server)
        try:
            await self._database.delete_description(self._server)
            if self._destination.remove:
                await self._servers.delete(self._server)
                return
        except WingsdError as error:
            self._log.error(
                "{server}: it has moved, and was not deleted here: {error}",
                server=self._server,
                error=error,
            )
        self._log.info("{server}: its files here are kept", server=self._server)

    async def _ask(self) -> bool:
        """Return whether the destination has the server.

        The question ends the transfer where it has not: no server arrives after the answer. What
        has arrived by a move stays there for the next one, unless a person has cancelled it. Any
        other answer than the node's own, as a proxy's page, raises `DestinationRefused`. Raises
        the errors of `PeerClient.ask`, and `StorageError`.
        """
        if self._transfer is not None and not self._is_cancelled:
            record = await self._database.move(self._transfer)
            if record is not None and record.move:
                await self._sender.end_move(record)
        answer = await self._client.ask("DELETE")
        try:
            return _moved_in(answer)
        except (ValueError, RecursionError) as error:
            raise DestinationRefused(
                "the destination node's answer is invalid",
                f"{error}; see whether a proxy in front of it answers in its place",
                answer.code,
            ) from error


#: The path of a node's uploads, below its address.
UPLOADS = "/api/transfers"


class DirectTransfers(Initiator):
    """The direct transfers of this node: those to it are `incoming`."""

    _log = Logger()
    hold = "the server was being moved when this node ended, and its destination is asked about it"

    def __init__(
        self,
        direct_servers: DirectServers,
        incoming: IncomingDirectTransfers,
        sender: OutgoingTransfers,
    ) -> None:
        self.servers = direct_servers
        self.incoming = incoming
        self._servers = sender.parts.servers.servers
        self._sender = sender
        self._database = sender.parts.servers.database
        #: Those of an earlier daemon whose destinations are asked.
        self._asked: dict[str, DirectSending] = {}

    async def send(
        self,
        server: str,
        url: str,
        token: str,
        *,
        description: Description | None = None,
        remove: bool = False,
        seed: SeedOrder | None = None,
    ) -> None:
        """Begin to send a server to the node at `url` by its `token`.

        With `seed` a copy is kept up to date there first, while the server is used as ever.

        `description` replaces the one that this node has. When the server has moved its files
        stay, or with `remove` they are deleted here. Raises `ServerNotFound`, `Conflict` where the
        server is in a storage pool and may be another node's, `BadRequest`,
        `DestinationUnreachable` where the certificates to trust cannot be read, and the errors of
        `OutgoingTransfers.start`.
        """
        if description is not None:
            read(description, server)
        known = await self._find(server, description)
        destination = DirectDestination(
            _upload_url(url),
            f"Bearer {token}",
            remove,
            json.dumps(description or describe(known.configuration)),
        )
        request = TransferRequest(destination.url, destination.token)
        self._sender.start(
            known, request, DirectSending(server, destination, self._sender, seed=seed)
        )

    async def _find(self, server: str, description: Description | None) -> Server:
        try:
            return self._servers.get(server)
        except (ServersNotLoaded, ServerNotFound) as error:
            if not await self.servers.has_files(server):
                if isinstance(error, ServersNotLoaded):
                    raise
                raise ServerNotFound(
                    "this node has no such server, and no files of it",
                    "compare the UUID with the Panel's, and run wingsctl send on the node that "
                    "has the server",
                ) from error
            why = (
                "its Panel has not listed its servers yet"
                if isinstance(error, ServersNotLoaded)
                else "its Panel does not have it here"
            )
            if pool := self.servers.pool:
                raise Conflict(
                    "the server may belong to another node",
                    f"{why}, and its files are in the storage pool {pool}; send it from the node "
                    "that has it",
                ) from error
            if description is None:
                raise BadRequest(
                    "this node has the server's files, but not its settings",
                    f"{why}; give the server's settings with --settings FILE",
                ) from error
        return self._servers.get_or_add(read(description, server))

    # After a restart

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that direct transfers have brought, and hold those sent away.

        Raises `StorageError`.
        """
        await self.servers.load({entry.server for entry in unfinished if entry.direct})
        await self.servers.hold_moved({entry.server for entry in unfinished})

    def cancel(self, server: str) -> bool:
        """Expect a server no longer, nor ask whether one has moved; return whether either was so.

        The one asked about is one that an earlier daemon was sending.
        """
        was_expected = self.incoming.cancel(server)
        coordinator = self._asked.get(server)
        if coordinator is not None:
            coordinator.stop_waiting(TransferCancelled())
        return was_expected or coordinator is not None

    def receiving(self, server: str) -> DirectReceiving:
        """Return the coordinator of a transfer to this node that an earlier daemon left."""
        return DirectReceiving(server, self.incoming)

    async def resumed(
        self, entry: TransferRecord, record: MoveRecord
    ) -> tuple[Server, DirectSending] | None:
        """Return the server, without a Panel as it was recorded, and a coordinator."""
        destination = await self._database.destination(entry.id)
        if destination is None or not destination.description:
            return None
        if is_seed(entry, record):
            server, seed = self._servers.get(entry.server), seed_of(record)  # as users have it
        else:
            described = read_text(destination.description, entry.server)
            server, seed = self._servers.get_or_add(described), None
        return server, DirectSending(entry.server, destination, self._sender, entry.id, seed)

    async def has_moved(self, entry: TransferRecord) -> bool | None:
        """Ask the destination; see `Initiator`."""
        destination = await self._database.destination(entry.id)
        if destination is None:
            return False
        coordinator = DirectSending(entry.server, destination, self._sender, entry.id)
        self._asked[entry.server] = coordinator
        try:
            return await coordinator.has_moved()
        finally:
            del self._asked[entry.server]

    async def clean_up(self, entry: TransferRecord) -> None:
        """Delete or keep a server that has moved, as it was ordered."""
        destination = await self._database.destination(entry.id)
        if destination is None:
            return
        # A server that is not known, too, can be deleted: that needs no settings.
        server = self._servers.get_or_add(Configuration(Settings(entry.server)))
        server.disown(MOVED)
        await DirectSending(entry.server, destination, self._sender).clean_up(server)


def _upload_url(url: str) -> str:
    """Return where the node at an address takes uploads; the path may be in it already."""
    address = url.rstrip("/")
    try:
        path = urlsplit(address).path
    except ValueError:
        return url  # The client that is made with it raises the error.
    return address if path else f"{address}{UPLOADS}"

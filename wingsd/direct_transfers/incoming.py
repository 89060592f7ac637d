"""Incoming direct transfers: which servers are expected, and which have arrived."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from wingsd.auth.tokens import TokenInvalid, TransferToken, direct_token, transfer_token
from wingsd.direct_transfers.collaborators import DirectTransferCollaborators
from wingsd.direct_transfers.description import (
    Description,
    mounts_in,
    read,
    read_text,
    with_addresses,
)
from wingsd.errors import (
    BadRequest,
    ServerAlreadyExists,
    ServerNotFound,
    StorageError,
    TransferCancelled,
    WingsdError,
)
from wingsd.events import DELETED, Event
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server
from wingsd.statedb import Direction, ServerDescription
from wingsd.transfers.steps import ReceiveStep

__all__ = [
    "HandReceiving",
    "IncomingDirectTransfers",
    "Invitation",
    "TryAgain",
    "check_place",
    "row_of",
]


class TryAgain(WingsdError):
    """The answer is not decided yet (503)."""

    code = "try-again"
    status = 503
    retry_after = 1.0


async def row_of(server: str, means: DirectTransferCollaborators) -> ServerDescription | None:
    """Return what the journal has of a server that is moved here. Raises `StorageError`."""
    rows = await means.journal.descriptions()
    return next((row for row in rows if row.server == server), None)


async def check_place(server: str, means: DirectTransferCollaborators) -> None:
    """Raise `ServerAlreadyExists` where something of that name is on this node.

    A Panel says whether that is a server; here nobody does, so nothing is ever put aside.
    """
    try:
        known = means.servers.get(server)
    except WingsdError:
        known = None
    if known is not None and not known.disowned:
        raise ServerAlreadyExists("this server is already on this node", known.hold)
    place = means.servers.directory(server)
    if await means.disk.run(os.path.lexists, place):
        pool = means.config.system.transfers.storage_pool.name
        raise ServerAlreadyExists(
            "there are files of a server of that name already",
            f"{place} is in the storage pool {pool}: where the other node has that too, it is the "
            "server itself, which only the Panel can move; if it is only left over, move it away"
            if pool
            else f"see what {place} is, and move it away or delete it",
        )


class HandReceiving:
    """The word for one server that comes by the token with that `digest`, empty after a restart.

    `describe` returns what is known of it by then; `over` is told whether it has come, or failed.
    """

    by_hand = True
    words: ClassVar[Mapping[ReceiveStep, str]] = {
        ReceiveStep.REPORT: "writing down that the server is here"
    }
    _log = Logger()

    def __init__(
        self,
        server: str,
        means: DirectTransferCollaborators,
        digest: str = "",
        describe: Callable[[], Description | None] = lambda: None,
        over: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.digest = digest
        self._server = server
        self._means = means
        self._describe = describe
        self._over = over
        self._description: Description | None = None

    async def admit(self) -> Configuration:
        """Return the configuration. Raises `ServerAlreadyExists`, `BadRequest` without one."""
        await check_place(self._server, self._means)
        self._description = self._describe()
        if self._description is None:
            raise BadRequest(
                "this node does not know what the server is",
                "run wingsctl receive with --settings FILE, or send it with wingsctl send, which "
                "tells its settings",
            )
        configuration = read(self._description, self._server)
        left_out = mounts_in(self._description)
        if left_out:
            self._log.warn(
                "{server}: {count} mounts of its settings are left out: a move by hand brings "
                "none",
                server=self._server,
                count=left_out,
            )
        return configuration

    def begin(self) -> None:
        """Nothing is to be told of an earlier transfer."""

    async def write_down(self) -> None:
        """Keep what it is: a daemon that dies has nobody to ask. Raises `StorageError`."""
        text = json.dumps(self._description)
        await self._means.journal.add_description(self._server, self.digest, text)

    async def ask_again(self) -> tuple[bool, Configuration]:
        """Return whether it was written down that it is here, and what it is."""
        row = await row_of(self._server, self._means)
        if row is None:
            raise ServerNotFound("it is not written down what the server is")
        return row.arrived is not None, read_text(row.description, self._server)

    async def tell_success(self, backups: Sequence[str] | None) -> Deferred[bool]:
        """Write down that it is here: from now on it is. Raises `StorageError`."""
        await self._means.journal.mark_arrived(self._server)
        self._over(True)
        return succeed(True)

    async def tell_failure(self) -> None:
        """Forget it. The source reads it in the answer, or asks."""
        self._over(False)
        try:
            await self._means.journal.delete_description(self._server)
        except StorageError as error:
            self._log.error("{server}: {error}", server=self._server, error=error)

    async def welcome(self, server: Server) -> None:
        """Have it keep the settings that came with it."""
        server.by_hand = True


@attrs.frozen
class Invitation:
    """What a source needs to send a server here. `expires` is in seconds since the epoch."""

    server: str
    token: str = attrs.field(repr=False)
    expires: float


@attrs.define
class _Expected:
    """A server that may come: by which token, and what is known of it."""

    digest: str
    expires: float
    addresses: tuple[str, ...]
    description: Description | None
    #: Whether that was given here, and counts more than what its source says.
    is_settled: bool


class IncomingDirectTransfers:
    """Servers that are moved to this node. What is expected is known to this daemon alone."""

    _log = Logger()

    def __init__(self, means: DirectTransferCollaborators) -> None:
        self._means = means
        self._expected: dict[str, _Expected] = {}

    # What the operator asks for

    async def expect(
        self,
        server: str,
        *,
        seconds: float,
        description: Description | None = None,
        addresses: Sequence[str] = (),
    ) -> Invitation:
        """Expect a server for so many seconds; an earlier invitation for it is void.

        `addresses` replace those of its settings, see `with_addresses`. Raises
        `ServerAlreadyExists`, and `BadRequest` where settings or addresses make no sense.
        """
        means = self._means
        with_addresses({"settings": {}}, addresses)
        if description is not None:
            read(description, server)
            description = with_addresses(description, addresses)
        under_way = means.receiver.find(server)
        if under_way is not None and not under_way.has_failed:
            raise ServerAlreadyExists("this server is being received", under_way.progress.words)
        await check_place(server, means)
        key, public_url = means.config.token, means.config.api.public_url
        now = means.now()
        token = direct_token(server, key, now, now + seconds, public_url)
        known = transfer_token(f"Bearer {token}", key, public_url, expired_too=True)
        self._expected[server] = _Expected(
            known.digest, known.expires, tuple(addresses), description, description is not None
        )
        self._log.info("{server}: expected, to be moved here by hand", server=server)
        return Invitation(server, token, known.expires)

    def cancel(self, server: str) -> bool:
        """Expect a server no longer; return whether it was."""
        return self._expected.pop(server, None) is not None

    @property
    def expected(self) -> dict[str, float]:
        """Until when each server is expected that does not come yet: seconds since the epoch."""
        now = self._means.now()
        return {
            uuid: each.expires
            for uuid, each in self._expected.items()
            if each.expires > now and not self._comes(uuid, each.digest)
        }

    def _comes(self, server: str, digest: str) -> bool:
        """Return whether it comes just now by the token with that digest."""
        transfer = self._means.receiver.find(server)
        if transfer is None or transfer.has_failed:
            return False
        return getattr(transfer.authority, "digest", None) == digest

    # What its source does

    def describe(self, token: TransferToken, description: Description) -> None:
        """Take its source's word for what a server is. Raises `Unauthorized`, `BadRequest`."""
        expected = self._find(token)
        read(description, token.server)
        if not expected.is_settled:
            expected.description = with_addresses(description, expected.addresses)

    def authority(self, token: TransferToken) -> HandReceiving:
        """Return the word for a server that comes by that token. Raises `Unauthorized`."""
        expected, server = self._find(token), token.server
        return HandReceiving(
            server,
            self._means,
            token.digest,
            lambda: expected.description,
            lambda arrived: self._over(server, expected, arrived=arrived),
        )

    async def conclude(self, token: TransferToken) -> bool:
        """Return whether the server has moved here by that token; from now on it never will.

        Raises `TryAgain` while that cannot be told yet, `StorageError`.
        """
        means, server = self._means, token.server
        # First, so that nothing begins any more that is still on its way.
        await means.journal.use_token(token.digest, token.expires)
        expected = self._expected.get(server)
        if expected is not None and expected.digest == token.digest:
            self.cancel(server)
        if await self._goes_on(token):
            raise TryAgain("the server is just arriving")
        row = await row_of(server, means)
        if row is None or row.digest != token.digest:
            return False
        if row.arrived is not None:
            return await self._is_there(row)
        if await self._is_to_be_resumed(server):
            raise TryAgain("this node has just been started")
        return False

    async def _goes_on(self, token: TransferToken) -> bool:
        """Call off the transfer by that token; return whether it may come to its end still."""
        transfer = self._means.receiver.find(token.server)
        if transfer is None or transfer.has_failed or transfer.has_arrived:
            return False
        digest = getattr(transfer.authority, "digest", None)
        if digest == "":  # of before a restart
            row = await row_of(token.server, self._means)
            digest = row.digest if row is not None else None
        if digest != token.digest:
            return False
        return not transfer.give_up(TransferCancelled(), verified=True)

    async def _is_to_be_resumed(self, server: str) -> bool:
        """Return whether an earlier daemon left it unfinished, and it is not taken up yet."""
        unfinished = await self._means.journal.unfinished()
        ours = (each for each in unfinished if each.direction is Direction.IN and each.direct)
        left = any(each.server == server for each in ours)
        return left and self._means.receiver.find(server) is None

    def _find(self, token: TransferToken) -> _Expected:
        expected = self._expected.get(token.server)
        if expected is None or expected.digest != token.digest:
            raise TokenInvalid(
                "The token is not valid",
                "this node does not expect the server by it any more: run wingsctl receive there "
                "again",
            )
        return expected

    def _over(self, server: str, expected: _Expected | None = None, *, arrived: bool) -> None:
        if expected is not None and self._expected.get(server) is expected:
            del self._expected[server]
        if arrived:
            self._watch(server)

    # After a restart

    def resume(self, server: str) -> HandReceiving:
        """Return the word for a server that was on its way when an earlier daemon ended."""
        return HandReceiving(
            server, self._means, over=lambda arrived: self._over(server, arrived=arrived)
        )

    async def load(self, unfinished: Collection[str]) -> None:
        """Make the servers known that are here by hand.

        Those of which an unfinished transfer is still to be taken up are left to that. Raises
        `StorageError`.
        """
        configurations = []
        for row in await self._means.journal.descriptions():
            if row.arrived is None and row.server in unfinished:
                continue
            if row.arrived is None or not await self._is_there(row):
                await self._means.journal.delete_description(row.server)
                continue
            self._watch(row.server)
            configurations += self._configuration(row)
        self._means.servers.add_moved(configurations)

    async def _is_there(self, row: ServerDescription) -> bool:
        place = self._means.servers.directory(row.server)
        return await self._means.disk.run(os.path.isdir, place)

    def _configuration(self, row: ServerDescription) -> list[Configuration]:
        """Return what the server is, nothing where the Panel tells that."""
        if not row.description:
            return []
        try:
            return [read_text(row.description, row.server)]
        except (BadRequest, ValueError) as error:
            self._log.error("{server}: not loaded: {error}", server=row.server, error=error)
            return []

    async def hand_over(self) -> None:
        """Note which servers the Panel has here now. Raises `StorageError`."""
        for row in await self._means.journal.descriptions():
            try:
                known = self._means.servers.get(row.server)
            except ServerNotFound:
                continue
            if row.description and row.arrived is not None and not known.by_hand:
                await self._means.journal.clear_description(row.server)

    def _watch(self, server: str) -> None:
        """Forget what came with a server when that is deleted."""

        def hear(event: Event) -> None:
            if event.name == DELETED:
                unsubscribe()
                Deferred.fromCoroutine(self._forget(server))

        unsubscribe = self._means.bus.subscribe(server, hear)

    async def _forget(self, server: str) -> None:
        try:
            await self._means.journal.delete_description(server)
        except StorageError as error:
            self._log.error("{server}: {error}", server=server, error=error)

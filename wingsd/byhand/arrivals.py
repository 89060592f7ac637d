"""The destination's part: which servers are expected, and which of them are here."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.byhand.description import Description, read, read_text, with_addresses
from wingsd.byhand.means import HandMeans
from wingsd.byhand.receiving import HandReceiving, check_place, row_of
from wingsd.errors import (
    AlreadyHere,
    BadRequest,
    NotAuthorized,
    StorageError,
    TransferCancelled,
    TryAgain,
    UnknownServer,
)
from wingsd.events import DELETED, Event
from wingsd.journal import Described, Direction
from wingsd.model import Configuration
from wingsd.tokens import TransferToken, hand_token, transfer_token

__all__ = ["Arrivals", "Invitation"]


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


class Arrivals:
    """Servers that are moved to this node. What is expected is known to this daemon alone."""

    _log = Logger()

    def __init__(self, means: HandMeans) -> None:
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

        `addresses` replace those of its settings, see `with_addresses`. Raises `AlreadyHere`, and
        `BadRequest` where settings or addresses make no sense.
        """
        means = self._means
        with_addresses({"settings": {}}, addresses)
        if description is not None:
            read(description, server)
            description = with_addresses(description, addresses)
        under_way = means.receiver.find(server)
        if under_way is not None and not under_way.has_failed:
            raise AlreadyHere("this server is being received", under_way.progress.words)
        await check_place(server, means)
        key, public_url = means.config.token, means.config.api.public_url
        now = means.now()
        token = hand_token(server, key, now, now + seconds, public_url)
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
        """Take its source's word for what a server is. Raises `NotAuthorized`, `BadRequest`."""
        expected = self._find(token)
        read(description, token.server)
        if not expected.is_settled:
            expected.description = with_addresses(description, expected.addresses)

    def authority(self, token: TransferToken) -> HandReceiving:
        """Return the word for a server that comes by that token. Raises `NotAuthorized`."""
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
        ours = (each for each in unfinished if each.direction is Direction.IN and each.by_hand)
        left = any(each.server == server for each in ours)
        return left and self._means.receiver.find(server) is None

    def _find(self, token: TransferToken) -> _Expected:
        expected = self._expected.get(token.server)
        if expected is None or expected.digest != token.digest:
            raise NotAuthorized(
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
        for row in await self._means.journal.described():
            if row.arrived is None and row.server in unfinished:
                continue
            if row.arrived is None or not await self._is_there(row):
                await self._means.journal.undescribe(row.server)
                continue
            self._watch(row.server)
            configurations += self._configuration(row)
        self._means.servers.settle(configurations)

    async def _is_there(self, row: Described) -> bool:
        place = self._means.servers.directory(row.server)
        return await self._means.disk.run(os.path.isdir, place)

    def _configuration(self, row: Described) -> list[Configuration]:
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
        for row in await self._means.journal.described():
            try:
                known = self._means.servers.get(row.server)
            except UnknownServer:
                continue
            if row.description and row.arrived is not None and not known.by_hand:
                await self._means.journal.hand_over(row.server)

    def _watch(self, server: str) -> None:
        """Forget what came with a server when that is deleted."""

        def hear(event: Event) -> None:
            if event.name == DELETED:
                unsubscribe()
                Deferred.fromCoroutine(self._forget(server))

        unsubscribe = self._means.bus.subscribe(server, hear)

    async def _forget(self, server: str) -> None:
        try:
            await self._means.journal.undescribe(server)
        except StorageError as error:
            self._log.error("{server}: {error}", server=server, error=error)

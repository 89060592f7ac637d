"""The use of a pair by another node: its copies here that follow servers, and kept ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

from wingsd.errors import PairInvalid, PairLimitReached
from wingsd.statedb import PairRecord
from wingsd.threadio import Workers
from wingsd.transfers.storage.staging import PartialCopies
from wingsd.util.deferreds import when_fired
from wingsd.util.text import readable_size


class PairUse:
    """The use of a pair, `record`: its seeds, and its copies among those that are kept."""

    def __init__(self, record: PairRecord, copies: PartialCopies, long: Workers) -> None:
        self.record = record
        self._copies, self._long = copies, long
        #: By server, what its seed takes.
        self._seeds: dict[str, Callable[[], int]] = {}
        #: By server, the bytes of its kept copy.
        self._kept: dict[str, int] = {}

    @property
    def seeds(self) -> tuple[str, ...]:
        """The servers of which a copy follows."""
        return tuple(self._seeds)

    @property
    def servers(self) -> set[str]:
        """The servers of which it has a copy here."""
        return {*self._seeds, *self._kept}

    @property
    def bytes(self) -> int:
        """The bytes that all of them take at most."""
        return self.record.bytes - self.room("")

    def room(self, server: str) -> int:
        """Return the bytes that the copy of a server may take. From any thread."""
        charges = {**self._kept, **{name: each() for name, each in tuple(self._seeds.items())}}
        charges.pop(server, None)
        return self.record.bytes - sum(charges.values())

    def check(self, server: str, now: float, expected: Iterable[str] = ()) -> None:
        """Raise where it may not begin a seed of a server, while those of others are `expected`.

        `PairInvalid` once the pair has ended, in seconds since the epoch, and `PairLimitReached`.
        """
        name, limit = self.record.name, self.record.servers
        if self.record.expires <= now:
            raise PairInvalid
        if len(self.servers.union(expected, (server,))) > limit:
            raise PairLimitReached(
                f"the pair {name} has copies of as many servers here as it may",
                f"{limit} are allowed; remove some with wingsctl forget, or make a pair with more "
                "--servers",
            )
        if self.room(server) <= 0:
            raise PairLimitReached(
                f"the pair {name} has as much here as it may",
                f"{readable_size(self.record.bytes)} are allowed; remove copies with wingsctl "
                "forget, or make a pair with more --bytes",
            )

    def add(self, server: str, charge: Callable[[], int], over: Deferred[None]) -> None:
        """Count what the seed of a server takes until it is over, and what it leaves."""
        self._seeds[server] = charge
        ended = when_fired(over)
        ended.addCallback(lambda _: Deferred.fromCoroutine(self.refresh()))
        ended.addBoth(lambda _: self._drop(server, charge))

    async def refresh(self) -> None:
        """Look again what is kept. Raises `StorageError`."""
        kept = await self._long.run(self._copies.kept)
        own = self.record.identity
        self._kept = {each.server: each.bytes for each in kept if each.pair == own}

    async def remove_kept(self) -> None:
        """Remove what is kept. Raises `StorageError`."""
        await self._long.run(self._copies.forget, "", self.record.identity)
        await self.refresh()

    def _drop(self, server: str, charge: Callable[[], int]) -> None:
        if self._seeds.get(server) == charge:
            del self._seeds[server]

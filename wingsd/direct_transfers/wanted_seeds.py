"""The copies of this node's servers that are wanted at other nodes, by pairs: begun and ended.

They are in the state database until they have moved or were deleted, or the copy is ended. One
look every few seconds begins what lacks a copy: the smallest first, and so many first rounds at
once. So a copy that failed, by whatever, or a transfer that failed after it had taken the copy's
place, needs no more than the next look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.direct_transfers.pairs import Pairs
from wingsd.errors import (
    PairInvalid,
    PairNotFound,
    ServerNotFound,
    ServersNotLoaded,
    StorageError,
    TryAgain,
    WingsdError,
)
from wingsd.servers.registry import Servers
from wingsd.statedb import Direction, StateDatabase, WantedSeed
from wingsd.transfers.manager import OutgoingTransfers
from wingsd.util.reactor import Timer
from wingsd.util.retry import Backoff

#: Seconds between two looks, and while a copy waits for the end of another one's first round.
LOOK_EVERY, LOOK_SOON = 2.0, 0.25
#: Pauses after a copy could not be begun, or has ended before it was whole.
PAUSES = Backoff(5.0, 600.0)


class _Attempt:
    """The attempts at one server's copy: the next pauses, and why the last one has failed."""

    def __init__(self) -> None:
        self.pauses: Iterator[float] = iter(PAUSES)
        self.not_before = -math.inf
        self.trouble = ""
        self.is_beginning = False


class WantedSeeds:
    """Begins and ends the copies that are wanted of this node's servers by pairs."""

    _log = Logger()

    def __init__(
        self, pairs: Pairs, sender: OutgoingTransfers, servers: Servers, database: StateDatabase
    ) -> None:
        self._pairs, self._sender, self._servers = pairs, sender, servers
        self._database = database
        self._clock = sender.parts.reactor
        self._timer = Timer(self._clock)
        #: What is wanted, by server.
        self.wanted: dict[str, WantedSeed] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._is_stopped = False

    async def load(self) -> None:
        """Load what is wanted, and begin it as it is due. Raises `StorageError`."""
        self.wanted = {each.server: each for each in await self._database.wanted_seeds()}
        self._look_soon()

    def stop(self) -> None:
        """Begin nothing any more."""
        self._is_stopped = True
        self._timer.cancel()

    async def want(self, pair: str, servers: Sequence[str], at_once: int) -> None:
        """Want copies of servers by a pair; those of which one is wanted already stay as they are.

        Raises `PairNotFound`, `ServersNotLoaded`, `ServerNotFound`, `StorageError`: then of none.
        """
        self._pairs.require(pair)
        for server in servers:
            self._servers.get(server)
        added = [
            WantedSeed(each, pair, at_once)
            for each in dict.fromkeys(servers)
            if each not in self.wanted
        ]
        await self._database.want_seeds(added)
        self.wanted |= {each.server: each for each in added}
        self._look_soon(0.0)

    async def end(self, server: str) -> None:
        """Want no copy of a server any more, and end it.

        Raises `ServerNotFound`, `StorageError`.
        """
        if server not in self.wanted:
            raise ServerNotFound(
                "no copy of this server is wanted", "wingsctl transfers lists those that follow"
            )
        await self._end(server)

    async def end_all(self, pair: str = "") -> None:
        """End all copies that are wanted, or those by a pair. Raises `StorageError`."""
        for each in [each for each in self.wanted.values() if pair in ("", each.pair)]:
            await self._end(each.server)

    async def _end(self, server: str) -> None:
        await self._drop(server)
        self._sender.end_seed(server)

    def trouble(self, server: str) -> str:
        """Return why the last attempt at a server's copy has failed; empty if it has not."""
        attempt = self._attempts.get(server)
        return "" if attempt is None else attempt.trouble

    async def _drop(self, server: str) -> None:
        await self._database.drop_seed(server)
        self.wanted.pop(server, None)
        self._attempts.pop(server, None)

    def _look_soon(self, seconds: float = LOOK_EVERY) -> None:
        if self.wanted and not self._is_stopped:
            self._timer.start(seconds, self._look)

    def _look(self) -> None:
        looking = Deferred.fromCoroutine(self._begin_due())
        looking.addErrback(
            lambda failure: self._log.failure("looking after wanted copies failed", failure)
        )
        looking.addBoth(lambda waits: self._look_soon(LOOK_SOON if waits else LOOK_EVERY))

    async def _begin_due(self) -> bool:
        """Begin what is due, the smallest first; return whether some wait for others."""
        if not self._servers.loaded:
            return False
        following = dict(self._sender.seeds_of())
        busy = sum(each.is_beginning for each in self._attempts.values())
        for uuid, figures in following.items():
            is_whole = figures is not None and figures.age is not None
            if uuid in self.wanted and is_whole:
                self._attempts.pop(uuid, None)
            busy += uuid in self.wanted and not is_whole
        sizes = await self._lacking()
        now: float = self._clock.seconds()
        waits = False
        # Some may have been ended while others were dropped.
        for uuid in sorted(self.wanted.keys() & sizes, key=lambda each: (sizes[each], each)):
            attempt, wanted = self._attempts.setdefault(uuid, _Attempt()), self.wanted[uuid]
            if attempt.is_beginning or attempt.not_before > now:
                continue
            if busy >= wanted.at_once:
                waits = True
                continue
            busy += 1
            attempt.is_beginning = True
            attempt.not_before = now + next(attempt.pauses)
            Deferred.fromCoroutine(self._begin(wanted, attempt))
        return waits

    async def _lacking(self) -> dict[str, float]:
        """Return the bytes of servers without a wanted copy; forget those that are gone."""
        sizes: dict[str, float] = {}
        for uuid in tuple(self.wanted):
            try:
                server = self._servers.get(uuid)
            except (ServerNotFound, ServersNotLoaded):
                await self._drop(uuid)
                continue
            server.files.measure_if_stale()
            if server.disowned:
                await self._drop(uuid)
            elif self._sender.find(uuid) is None:
                sizes[uuid] = math.inf if server.disk_bytes is None else server.disk_bytes
        return sizes

    async def _begin(self, wanted: WantedSeed, attempt: _Attempt) -> None:
        try:
            await self._pairs.begin_seed(wanted.pair, wanted.server)
            attempt.trouble = ""
            if self.wanted.get(wanted.server) is not wanted:  # it was ended meanwhile
                self._sender.end_seed(wanted.server)
        except WingsdError as error:
            if getattr(error, "answer_code", "") == PairInvalid.code:
                await self._end_pair(wanted.pair)
                return
            if getattr(error, "answer_code", "") == TryAgain.code:
                attempt.pauses = iter(PAUSES)  # it makes something ready
            attempt.trouble = f"{error} ({error.code})"
            self._log.warn(
                "{server}: no copy of it is begun by the pair {pair}, it is tried again: {error}",
                server=wanted.server,
                pair=wanted.pair,
                error=error,
            )
        except Exception:
            attempt.trouble = "internal error; see the log of this node"
            self._log.failure("{server}: beginning its copy failed", server=wanted.server)
        finally:
            attempt.is_beginning = False

    async def _end_pair(self, pair: str) -> None:
        """End a pair that has ended at its destination, and all copies that are wanted by it."""
        self._log.warn(
            "pair {pair}: has ended at the other node, which gets no more copies; for more, run "
            "wingsctl pair there again",
            pair=pair,
        )
        try:
            await self.end_all(pair)
            with suppress(PairNotFound):  # two copies may be refused at a time
                await self._pairs.revoke(pair, Direction.OUT)
        except StorageError as error:
            self._log.error("pair {pair}: {error}", pair=pair, error=error)

"""The running daemon: how its parts are started, taken up again, and ended."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from wingsd import __version__
from wingsd.app.capabilities import shortcomings, survey
from wingsd.app.wiring import Wiring
from wingsd.config import Config, Ssl
from wingsd.docker.runtime import engine_address
from wingsd.errors import StorageError
from wingsd.metrics import DIRECTIONS
from wingsd.statedb import TransferRecord
from wingsd.transfers.formatting import summary
from wingsd.transfers.recovery import clear_leftovers

__all__ = ["Node"]

# Seconds, when the daemon has to go: until a transfer past its verification is given up as well,
# for the Panel to hear the last reports (the next daemon tells what it has not), for clients to
# read their answers, until the end whatever goes on, and then for the journal to be closed.
ABANDON_AFTER = 6.0
TELL_WITHIN = 2.0
DRAIN_WITHIN = 2.0
STOP_WITHIN = 9.0
CLOSE_WITHIN = 1.0
#: Seconds between two looks for what has been kept long enough.
DAY = 24 * 3600.0


class Node(Service):
    """The running daemon: its servers, its transfers under way, its threads, and its doors."""

    #: From its start: fires once it has its servers and has taken up its transfers, with True.
    booted: Deferred[bool]
    _log = Logger()

    def __init__(self, config: Config, endpoint: str, reactor: Any) -> None:
        """Raise `ConfigError` where the configuration names files that are no good."""
        self._config = config
        self._reactor = reactor
        self._parts = Wiring(config, endpoint, reactor)
        self._daily = LoopingCall(self._begin_day)
        self._daily.clock = reactor

    # Its start

    def startService(self) -> None:
        """Clean up, listen, load the servers. Exits with one line when the first two fail."""
        super().startService()
        self._tell_shortcomings()
        unfinished = self._prepare_disk()
        parts = self._parts
        parts.pools.start()
        parts.door.open()
        parts.metrics_door.open()
        parts.control_door.open()
        self._log.info(
            "wingsd {version} listens on {where}, for the Panel {remote}",
            version=__version__,
            where=parts.door.address,
            remote=self._config.remote,
        )
        self._daily.start(DAY)
        self.booted = Deferred.fromCoroutine(self._boot(unfinished))
        # The node's end cancels it.
        self.booted.addErrback(lambda failure: not failure.trap(CancelledError))
        self.booted.addErrback(lambda failure: self._log.failure("booting failed", failure))

    def _tell_shortcomings(self) -> None:
        docker = self._config.docker
        address = engine_address(docker.socket, os.environ) if docker.enabled else None
        for line in shortcomings(survey(self._config, self._parts.owner, address)):
            self._log.warn("this node may not do all that a node does: {line}", line=line)

    def _prepare_disk(self) -> list[TransferRecord]:
        """Open staging area and journal; return the transfers that are not finished."""
        parts = self._parts
        try:
            parts.staging.prepare()
            parts.store.open()
            parts.denied.restore(parts.store.denied())
            parts.denied.refuse_before(parts.store.denied_before())
            unfinished = parts.store.unfinished()
            clear_leftovers(unfinished, parts.staging, parts.backups)
        except StorageError as error:
            raise SystemExit(f"wingsd: {error.detail}") from error
        return unfinished

    async def _boot(self, unfinished: list[TransferRecord]) -> bool:
        parts = self._parts
        recovery = parts.make_recovery(unfinished)
        await parts.outbox.load()
        await parts.by_hand.load(unfinished)
        recovery.begin()
        await parts.servers.boot()
        recovery.settle()
        await parts.by_hand.hand_over()
        return True

    # Its life

    @property
    def doing(self) -> str:
        """What it does, in a line for people."""
        parts = self._parts
        count = len(parts.servers.all()) if parts.servers.loaded else None
        moved = map(parts.observer.moving, DIRECTIONS)
        return summary(count, parts.receiver.servers, parts.sender.servers, *moved)

    def renew_certificate(self, ssl: Ssl) -> bool:
        """Read it anew; return whether one is used. On `ConfigError` the old one stays."""
        return self._parts.door.reload(ssl)

    def pulse(self) -> Deferred[None]:
        """Return what fires when the journal's thread has come to it, behind all its work."""
        return self._parts.pools.journal.run(lambda: None)

    def _begin_day(self) -> Deferred[None]:
        forgetting = Deferred.fromCoroutine(self._forget_the_old())
        # A day that goes wrong is not the last one: the node's end relies on it as well.
        return forgetting.addErrback(lambda failure: self._log.failure("daily", failure))

    async def _forget_the_old(self) -> None:
        try:
            await self._parts.journal.prune()
        except StorageError as error:
            self._log.error("{error}", error=error)
        await self._parts.attic.clear()

    # Its end

    def stopService(self) -> Deferred[None]:
        """Give up unverified transfers, finish the others, and end the threads."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        parts = self._parts
        abandoning = self._reactor.callLater(ABANDON_AFTER, parts.receiver.abandon)
        limit: Deferred[None] = deferLater(self._reactor, STOP_WITHIN)
        # Not a cancellation at the limit: what still goes on may as well go on to the very end.
        done = Deferred.fromCoroutine(self._wind_up())
        done.addErrback(lambda failure: self._log.failure("winding up failed", failure))
        await DeferredList([done, limit], fireOnOneCallback=True, consumeErrors=True)
        for server in (*parts.receiver.servers, *parts.sender.servers):
            self._log.critical("{server}: not finished in time", server=server)
        if abandoning.active():
            abandoning.cancel()
        limit.addErrback(lambda _: None)
        limit.cancel()
        # When this returns, all connections are cut: not while one of them is still being read.
        await deferLater(self._reactor, 0)
        # A disk that hangs is not waited for.
        closed = parts.journal.close()
        await closed.addTimeout(CLOSE_WITHIN, self._reactor, lambda result, within: None)
        parts.pools.stop()
        parts.staging.close()

    async def _wind_up(self) -> None:
        parts = self._parts
        self._daily.stop()
        self.booted.cancel()
        # The door is open meanwhile: of a server that was sent, the Panel says there that it has
        # moved, and nobody else would ever delete what is left of it here.
        parts.streams.stop()
        await DeferredList([parts.receiver.stop(), parts.sender.stop()])
        await parts.control_door.close()
        await parts.door.close()
        await parts.outbox.drain(TELL_WITHIN)
        parts.outbox.stop()
        await parts.servers.stop()
        # The answers must be out before the process is gone.
        await parts.door.drain(DRAIN_WITHIN)
        await parts.metrics_door.close()

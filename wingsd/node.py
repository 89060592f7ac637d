"""The running daemon: everything is made and wired together here, started, and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from wingsd import __version__
from wingsd.archive import Compression, Limits
from wingsd.bridge import TokenBucket
from wingsd.byhand import ByHand, HandMeans
from wingsd.config import Config
from wingsd.control import ControlDoor, Rooms
from wingsd.environment import DockerEnvironment, Environment, NoEnvironment, engine, information
from wingsd.errors import ConfigError, StorageError
from wingsd.events import EventBus
from wingsd.journal import Entry, Journal
from wingsd.journal.store import Store
from wingsd.panel import Panel
from wingsd.pools import PACKERS, Pools
from wingsd.privileges import shortcomings, survey
from wingsd.servers import Means as ServerMeans
from wingsd.servers import Servers
from wingsd.tokens import DenyList
from wingsd.transfers.attic import Attic
from wingsd.transfers.means import ReceivingMeans, SendingMeans
from wingsd.transfers.outbox import Outbox
from wingsd.transfers.receiver import Receiver
from wingsd.transfers.recovery import Recovery, durable
from wingsd.transfers.sender import Sender
from wingsd.transfers.staging import Staging
from wingsd.transfers.trust import checked
from wingsd.transfers.writeback import WriteBack
from wingsd.web.api import Api
from wingsd.web.door import Door
from wingsd.web.services import Services
from wingsd.web.site import NodeSite, NotFound
from wingsd.web.websocket import ConsoleSockets

__all__ = ["Node"]

# Seconds, when the daemon has to go: until a transfer past its verification is given up as well,
# for the Panel to hear the last reports (the next daemon tells what it has not), for clients to
# read their answers, and until the end whatever goes on.
ABANDON_AFTER = 6.0
TELL_WITHIN = 2.0
DRAIN_WITHIN = 2.0
STOP_WITHIN = 9.0
#: Bytes.
MIB = 1024 * 1024
#: Seconds between two looks for what has been kept long enough.
DAY = 24 * 3600.0


class Node(Service):
    """The running daemon: its servers, its transfers under way, its threads, and its door."""

    _log = Logger()

    def __init__(self, config: Config, endpoint: str, reactor: Any) -> None:
        """Raise `ConfigError` where the configuration names files that are no good."""
        self._config = config
        self._reactor = reactor
        self._owner = (config.system.user.uid, config.system.user.gid)
        transfers = config.system.transfers
        self._pools = Pools(reactor, transfers)
        self._staging = Staging(config.system.data, self._owner, durable=transfers.durable)
        self._bus = EventBus()
        self._panel = Panel(config, reactor)
        self._store = Store(config.system.root_directory)
        self._journal = Journal(self._store, self._pools.journal, time.time)
        self._attic = Attic(
            self._staging, self._pools.disk, self._journal, transfers.quarantine_days
        )
        self._outbox = Outbox(self._panel, self._journal, reactor)
        self._denied = DenyList(time.time())
        self._environment = self._make_environment()
        self._servers = self._make_servers()
        self._trust = checked(transfers.ca_file)
        self.receiver = self._make_receiver()
        self.sender = self._make_sender()
        self._by_hand = self._make_by_hand()
        self._daily = LoopingCall(lambda: Deferred.fromCoroutine(self._forget_the_old()))
        self._daily.clock = reactor
        self._services = self._make_services()
        self._door = Door(config, endpoint, self._make_site(), reactor)
        self._control = ControlDoor(self._make_rooms())

    # What it is made of

    def _make_environment(self) -> Environment:
        if not self._config.docker.enabled:
            return NoEnvironment()
        return DockerEnvironment(self._config, self._pools.engine, self._reactor)

    def _make_servers(self) -> Servers:
        return Servers(
            ServerMeans(
                reactor=self._reactor,
                config=self._config,
                panel=self._panel,
                environment=self._environment,
                bus=self._bus,
                disk=self._pools.disk,
                rewriters=self._pools.rewriters,
                owner=self._owner,
            )
        )

    def _make_receiver(self) -> Receiver:
        transfers = self._config.system.transfers
        return Receiver(
            ReceivingMeans(
                reactor=self._reactor,
                panel=self._panel,
                journal=self._journal,
                outbox=self._outbox,
                environment=self._environment,
                servers=self._servers,
                staging=self._staging,
                write_back=WriteBack(
                    lambda: self._pools.disk.run(self._staging.write_back), self._reactor
                ),
                bus=self._bus,
                owner=self._owner,
                limits=Limits.configured(transfers),
                attic=self._attic,
                form=transfers.form,
                extractors=self._pools.extractors,
                slots=DeferredSemaphore(transfers.concurrent),
                disk=self._pools.disk,
            ),
            places=transfers.concurrent + transfers.waiting,
            stall_timeout=transfers.stall_timeout,
        )

    def _make_sender(self) -> Sender:
        system = self._config.system
        return Sender(
            SendingMeans(
                reactor=self._reactor,
                panel=self._panel,
                journal=self._journal,
                outbox=self._outbox,
                environment=self._environment,
                servers=self._servers,
                attic=self._attic,
                bus=self._bus,
                trust=self._trust,
                compression=Compression(system.backups.compression_level),
                stop_grace=system.transfers.stop_grace,
                stall_timeout=system.transfers.stall_timeout,
                packers=self._pools.packers,
                slots=DeferredSemaphore(PACKERS),
                bucket=self._bucket(system.transfers.upload_limit),
            )
        )

    def _make_by_hand(self) -> ByHand:
        return ByHand(
            HandMeans(
                reactor=self._reactor,
                config=self._config,
                servers=self._servers,
                receiver=self.receiver,
                sender=self.sender,
                journal=self._journal,
                bus=self._bus,
                trust=self._trust,
                disk=self._pools.disk,
                now=time.time,
            )
        )

    def _make_services(self) -> Services:
        sockets = ConsoleSockets(self._config, self._bus, self._denied, self._reactor)
        return Services(
            config=self._config,
            servers=self._servers,
            sender=self.sender,
            receiver=self.receiver,
            journal=self._journal,
            by_hand=self._by_hand,
            denied=self._denied,
            websocket=sockets.resource,
            engine=self._ask_engine(),
            download_bucket=self._bucket(self._config.system.transfers.download_limit),
        )

    def _make_site(self) -> NodeSite:
        root = NotFound()
        root.putChild(b"api", Api(self._services))
        transfers = self._config.system.transfers
        return NodeSite(
            root,
            reactor=self._reactor,
            timeout=transfers.stall_timeout,
            least_rate=transfers.least_rate,
            limits=self._config.api.limits,
        )

    def _make_rooms(self) -> Rooms:
        return Rooms(
            reactor=self._reactor,
            services=self._services,
            panel=self._panel,
            outbox=self._outbox,
            staging=self._staging,
            disk=self._pools.disk,
            address=lambda: self._door.address,
        )

    def _bucket(self, limit: int) -> TokenBucket | None:
        return TokenBucket(self._reactor, limit * MIB) if limit > 0 else None

    def _ask_engine(self) -> Callable[[], Awaitable[information.EngineInformation]] | None:
        if not self._config.docker.enabled:
            return None
        address = engine.address(self._config.docker.socket, os.environ)
        return lambda: self._pools.engine.run(information.ask, address)

    # Its life

    def startService(self) -> None:
        """Clean up, listen, load the servers. Exits with one line when the first two fail."""
        super().startService()
        self._tell_shortcomings()
        unfinished = self._prepare_disk()
        self._pools.start()
        signal.signal(signal.SIGHUP, self._on_hangup)
        self._door.open()
        self._control.open()
        self._log.info(
            "wingsd {version} listens on {where}, for the Panel {remote}",
            version=__version__,
            where=self._door.address,
            remote=self._config.remote,
        )
        self._daily.start(DAY).addErrback(lambda failure: self._log.failure("daily", failure))
        self._booting = Deferred.fromCoroutine(self._boot(unfinished))
        # The node's end cancels it.
        self._booting.addErrback(lambda failure: failure.trap(CancelledError))
        self._booting.addErrback(lambda failure: self._log.failure("booting failed", failure))

    async def _boot(self, unfinished: list[Entry]) -> None:
        recovery = Recovery(
            entries=unfinished,
            receiver=self.receiver,
            servers=self._servers,
            journal=self._journal,
            outbox=self._outbox,
            panel=self._panel,
            attic=self._attic,
            by_hand=self._by_hand,
            reactor=self._reactor,
        )
        await self._outbox.load()
        await self._by_hand.load(unfinished)
        recovery.begin()
        await self._servers.boot()
        recovery.settle()
        await self._by_hand.hand_over()

    def stopService(self) -> Deferred[None]:
        """Give up unverified transfers, finish the others, and end the threads."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        abandoning = self._reactor.callLater(ABANDON_AFTER, self.receiver.abandon)
        limit: Deferred[None] = deferLater(self._reactor, STOP_WITHIN)
        # Not a cancellation at the limit: what still goes on may as well go on to the very end.
        done = Deferred.fromCoroutine(self._wind_up())
        done.addErrback(lambda failure: self._log.failure("winding up failed", failure))
        await DeferredList([done, limit], fireOnOneCallback=True, consumeErrors=True)
        for server in (*self.receiver.servers, *self.sender.servers):
            self._log.critical("{server}: not finished in time", server=server)
        if abandoning.active():
            abandoning.cancel()
        limit.addErrback(lambda _: None)
        limit.cancel()
        # When this returns, all connections are cut: not while one of them is still being read.
        await deferLater(self._reactor, 0)
        self._pools.stop()
        self._store.close()
        self._staging.close()

    async def _wind_up(self) -> None:
        self._daily.stop()
        self._booting.cancel()
        # The door is open meanwhile: of a server that was sent, the Panel says there that it has
        # moved, and nobody else would ever delete what is left of it here.
        await DeferredList([self.receiver.stop(), self.sender.stop()])
        await self._control.close()
        await self._door.close()
        await self._outbox.drain(TELL_WITHIN)
        self._outbox.stop()
        await self._servers.stop()
        # The answers must be out before the process is gone.
        await self._door.drain(DRAIN_WITHIN)

    def _prepare_disk(self) -> list[Entry]:
        """Open staging area and journal; return the transfers that are not finished."""
        try:
            self._staging.prepare()
            self._store.open()
            self._denied.restore(self._store.denied())
            self._denied.refuse_before(self._store.denied_before())
            unfinished = self._store.transfers(unfinished=True)
            leftovers = self._staging.clear(durable(unfinished))
        except StorageError as error:
            raise SystemExit(f"wingsd: {error.detail}") from error
        for name in leftovers:
            self._log.warn("{server}: removed an unfinished transfer of before", server=name)
        return unfinished

    async def _forget_the_old(self) -> None:
        try:
            await self._journal.forget()
        except StorageError as error:
            self._log.error("{error}", error=error)
        await self._attic.clear()

    def _tell_shortcomings(self) -> None:
        docker = self._config.docker
        address = engine.address(docker.socket, os.environ) if docker.enabled else None
        for line in shortcomings(survey(self._config, self._owner, address)):
            self._log.warn("this node may not do all that a node does: {line}", line=line)

    def _on_hangup(self, *_: object) -> None:
        # A signal handler may interrupt anything; the reactor does it when it is safe.
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        try:
            read = self._door.reload()
        except ConfigError as error:
            self._log.error("the certificate in use stays: {error}", error=error)
        else:
            if read:
                self._log.info("the certificate was read anew")

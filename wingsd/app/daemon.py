"""The running daemon: how its parts are started, resumed after a restart, and stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd import __version__
from wingsd.app.capabilities import shortcomings, survey
from wingsd.app.process import Pools
from wingsd.app.reports import PanelReports
from wingsd.auth.tokens import DenyList
from wingsd.backups.checks import BackupChecks
from wingsd.backups.creation import Backups
from wingsd.backups.deletion import DroppedBackups
from wingsd.backups.for_wings import BackupRewrites
from wingsd.backups.received import ReceivedBackups
from wingsd.callbacks import CallbackQueue
from wingsd.config import Config, Ssl
from wingsd.control import ControlListener
from wingsd.direct_transfers.outgoing import DirectTransfers
from wingsd.docker.runtime import engine_address
from wingsd.errors import MethodNotAllowed, StateDatabaseError, StorageError
from wingsd.files.pulls import Pulls
from wingsd.http.listener import HttpListener, tcp_endpoint
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite, NotFound
from wingsd.restores.manager import Restores
from wingsd.servers import Servers
from wingsd.servers.quotas import ProjectQuotas
from wingsd.servers.running import RunningServers
from wingsd.sftp.listener import SftpListener
from wingsd.statedb import MoveRecord, RestoreRecord, StateDatabase, TransferRecord
from wingsd.statedb.store import Store
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.manager import ArrivedServers, IncomingTransfers, OutgoingTransfers
from wingsd.transfers.recovery import Recovery, clear_leftovers
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.staging import Staging
from wingsd.util.deferreds import fires_within
from wingsd.util.observer import DIRECTIONS, MovedBytes
from wingsd.util.reactor import Reactor
from wingsd.util.text import host_and_port, readable_size

if TYPE_CHECKING:
    from wingsd.metrics.exposition import Exposition
    from wingsd.node.engine import OrphanedContainers

__all__ = [
    "Listeners",
    "MetricsListener",
    "Node",
    "NodeServers",
    "NodeStorage",
    "NodeTransfers",
    "summary",
]

# Seconds at the daemon's end: until verified transfers are aborted as well, so that reports reach
# the Panel (the next daemon sends the others); for these reports; for clients to read answers;
# until the end regardless of what is in progress; and for the state database to be closed.
ABORT_AFTER = 6.0
REPORT_TIMEOUT = 2.0
DRAIN_TIMEOUT = 2.0
STOP_TIMEOUT = 9.0
CLOSE_TIMEOUT = 1.0
#: Seconds that the disk of backups has at the start.
SETTLE_TIMEOUT = 10.0
#: Seconds between two cleanups of what was kept long enough.
DAY = 24 * 3600.0


class MetricsListener:
    """Serves `GET /metrics` for Prometheus at `metrics.address`; closed when that is empty."""

    _log = Logger()

    def __init__(self, config: Config, exposition: Exposition | None, reactor: Reactor) -> None:
        """`exposition` is None without an address."""
        self._listener: HttpListener | None = None
        if exposition is None:
            return
        root = NotFound()
        root.putChild(b"metrics", _MetricsResource(exposition))
        limits = config.api.limits
        site = NodeSite(root, reactor=reactor, timeout=limits.request_timeout, limits=limits)
        endpoint = tcp_endpoint(*host_and_port(config.metrics.address))
        # Without TLS: access is limited by the address.
        self._listener = HttpListener(Ssl(), endpoint, site, reactor)

    def open(self) -> None:
        """Listen. Raises `SystemExit` with one line when that fails."""
        if self._listener is not None:
            self._listener.open()
            self._log.info("metrics: listening at {where}/metrics", where=self._listener.address)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._listener is not None:
            await self._listener.close()
            await self._listener.drain(0)


class _MetricsResource(Resource):
    """`/metrics`."""

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()
        self._exposition = exposition

    def render(self, request: Any) -> int:
        """Answer GET and HEAD with the exposition."""
        if request.method not in (b"GET", b"HEAD"):
            request.refuse(MethodNotAllowed("metrics are read-only"), {"Allow": "GET, HEAD"})
            return NOT_DONE_YET
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            body, content_type = await self._exposition.render(request.header("Accept"))
            request.answer(HTTPStatus.OK, body, {"Content-Type": content_type})
        except Exception:
            request.fail(Failure())


@attrs.frozen(eq=False, repr=False)
class Listeners:
    """The listening sockets: for Panel, browsers and nodes; for Prometheus, wingsctl, and SFTP."""

    http: HttpListener
    metrics: MetricsListener
    control: ControlListener
    sftp: SftpListener

    def open(self) -> None:
        """Listen. Raises `SystemExit` with one line when that fails."""
        self.http.open()
        self.metrics.open()
        self.control.open()
        self.sftp.open()


@attrs.frozen(eq=False, repr=False)
class Unfinished:
    """What an earlier daemon has not finished."""

    transfers: list[TransferRecord]
    moves: list[MoveRecord]
    restores: list[RestoreRecord]


@attrs.frozen(eq=False, repr=False)
class NodeStorage:
    """What the node keeps across restarts: its state database and its staging area.

    `store` is the database for the reactor's thread at the start, `database` its asynchronous
    interface. `denied` are console tokens.
    """

    store: Store
    database: StateDatabase
    running: RunningServers
    quotas: ProjectQuotas
    staging: Staging
    backups: ReceivedBackups
    quarantine: Quarantine
    restores: Restores
    denied: DenyList

    def open(self) -> Unfinished:
        """Open all of it and return what an earlier daemon left. Raises `StorageError`.

        Restores whose content is whole are put into place.
        """
        self.staging.prepare()
        self.quotas.open(self.staging.path)
        self.store.open()
        self.denied.restore(self.store.denied())
        self.denied.refuse_before(self.store.denied_before())
        left = Unfinished(self.store.unfinished(), self.store.open_moves(), self.store.restores())
        names = self.restores.names(left.restores) if left.restores else []
        clear_leftovers(left.transfers, self.staging, self.backups, names, left.moves)
        if left.restores:
            self.restores.recover(left.restores)
        return left


@attrs.frozen(eq=False, repr=False)
class NodeServers:
    """The servers of the node, what is reported of them, their downloads, and their backups.

    `orphans` are containers without a server; None on a node without an engine.
    """

    registry: Servers
    reports: PanelReports
    pulls: Pulls
    backups: Backups
    checks: BackupChecks
    rewrites: BackupRewrites
    dropped_backups: DroppedBackups
    orphans: OrphanedContainers | None


@attrs.frozen(eq=False, repr=False)
class NodeTransfers:
    """The transfers to and from the node, and their reports to the Panel.

    `recovery` makes what resumes the unfinished transfers of an earlier daemon.
    """

    receiver: IncomingTransfers
    arrived: ArrivedServers
    sender: OutgoingTransfers
    streams: StreamGroups
    direct: DirectTransfers
    callbacks: CallbackQueue
    recovery: Callable[[list[TransferRecord], list[MoveRecord]], Recovery]

    @property
    def servers(self) -> list[str]:
        """The UUIDs of the servers that are being transferred."""
        return [*self.receiver.servers, *self.sender.servers]


class Node(Service):
    """The running daemon: its servers, transfers, threads and listening sockets."""

    #: Fires with True when the servers are loaded and the transfers resumed.
    booted: Deferred[bool]
    _log = Logger()

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        storage: NodeStorage,
        servers: NodeServers,
        transfers: NodeTransfers,
        pools: Pools,
        moved: MovedBytes,
        reactor: Reactor,
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._storage = storage
        self._servers = servers.registry
        self._reports = servers.reports
        self._pulls = servers.pulls
        self._backups = servers.backups
        self._checks, self._rewrites = servers.checks, servers.rewrites
        self._dropped_backups = servers.dropped_backups
        self._orphans = servers.orphans
        self._transfers = transfers
        self._pools = pools
        self._moved = moved
        self._reactor = reactor
        self._clearing: Deferred[None] = succeed(None)
        self._daily = LoopingCall(self._clean_daily)
        self._daily.clock = reactor

    # Start

    def startService(self) -> None:
        """Open the storage, listen, load the servers.

        Raises `SystemExit` with one line when one of the first two fails.
        """
        super().startService()
        self._log_shortcomings()
        try:
            unfinished = self._storage.open()
        except StateDatabaseError as error:
            raise SystemExit(f"wingsd: {error}") from error
        except StorageError as error:
            raise SystemExit(f"wingsd: {error.detail}") from error
        self._pools.start()
        self._listeners.open()
        self._log.info(
            "wingsd {version} listens on {where}, for the Panel {remote}",
            version=__version__,
            where=self._listeners.http.address,
            remote=self._config.remote,
        )
        self._daily.start(DAY)
        if self._config.system.backups.check_interval:
            self._checks.start()
        self.booted = Deferred.fromCoroutine(self._boot(unfinished))
        # Cancelled when the node stops.
        self.booted.addErrback(lambda failure: not failure.trap(CancelledError))
        self.booted.addErrback(lambda failure: self._log.failure("startup failed", failure))

    def _log_shortcomings(self) -> None:
        docker, user = self._config.docker, self._config.system.user
        address = engine_address(docker.socket, os.environ) if docker.enabled else None
        for line in shortcomings(survey(self._config, (user.uid, user.gid), address)):
            self._log.warn("the daemon is limited: {line}", line=line)

    async def _boot(self, left: Unfinished) -> bool:
        transfers, restores = self._transfers, self._storage.restores
        recovery = transfers.recovery(left.transfers, left.moves)
        await transfers.callbacks.load()
        await self._settle_backups()
        await self._reports.load()
        ran = await self._storage.running.load()
        stopped = await restores.settle(left.restores) if left.restores else []
        await transfers.direct.load(left.transfers)
        await transfers.arrived.load()
        recovery.begin()
        await self._servers.boot()
        recovery.resume_outgoing()
        if left.restores:
            restores.announce_settled()
        self._storage.running.start({*ran, *stopped}, self._servers, stopped)
        transfers.arrived.start_left()
        self._reports.report_states(self._servers)
        await transfers.direct.servers.release_to_panel()
        if self._orphans is not None:
            self._orphans.start()
        # The cleanup at the start did not know the servers. The Panel is asked: nothing waits.
        self._clearing = Deferred.fromCoroutine(self._clear_dropped())
        self._clearing.addErrback(self._note_cleanup)
        return True

    async def _settle_backups(self) -> None:
        """Settle what was being made, before the Panel hears of the restart, unless disks hang."""
        settling = Deferred.fromCoroutine(self._backups.settle())
        settling.addErrback(lambda failure: self._log.failure("backups not settled", failure))
        await fires_within(settling, SETTLE_TIMEOUT, self._reactor)

    # Operation

    @property
    def status(self) -> str:
        """What the node is doing, in one line."""
        count = len(self._servers.all()) if self._servers.loaded else None
        receiver, sender = self._transfers.receiver, self._transfers.sender
        moved = map(self._moved.moving, DIRECTIONS)
        return summary(count, receiver.servers, sender.servers, *moved)

    def ping_database(self) -> Deferred[None]:
        """Return a Deferred that fires when the database's thread has done its present work."""
        return self._pools.database.run(lambda: None)

    def _clean_daily(self) -> Deferred[None]:
        cleaning = Deferred.fromCoroutine(self._clean())
        # An error must not end the loop, which the end of the node relies on.
        return cleaning.addErrback(self._note_cleanup)

    def _note_cleanup(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("cleanup failed", failure)

    async def _clean(self) -> None:
        try:
            await self._storage.database.prune()
            await self._pools.long.run(self._storage.staging.delete_cleared)
        except StorageError as error:
            self._log.error("cleanup failed: {error}", error=error)
        await self._storage.quarantine.clear()
        await self._clear_dropped()

    async def _clear_dropped(self) -> None:
        try:
            if await self._storage.database.dropped():
                await self._dropped_backups.clear()
        except StorageError as error:
            self._log.error("cleanup failed: {error}", error=error)

    # End

    def stopService(self) -> Deferred[None]:
        """Abort unverified transfers, complete the others, and end the threads."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        abort = self._reactor.callLater(ABORT_AFTER, self._transfers.receiver.abort_all)
        limit: Deferred[None] = deferLater(self._reactor, STOP_TIMEOUT)
        # Not cancelled at the limit: what is in progress may continue until the process ends.
        done = Deferred.fromCoroutine(self._shut_down())
        done.addErrback(lambda failure: self._log.failure("shutdown failed", failure))
        await DeferredList([done, limit], fireOnOneCallback=True, consumeErrors=True)
        for server in self._transfers.servers:
            self._log.critical("{server}: transfer not finished in time", server=server)
        if abort.active():
            abort.cancel()
        limit.addErrback(lambda _: None)
        limit.cancel()
        # All connections are cut when this returns: not while one of them is still being read.
        await deferLater(self._reactor, 0)
        # After the last request of a browser, and before the database is closed.
        self._reports.activity.stop()
        # With a limit, in case the disk hangs.
        closed = self._storage.database.close()
        await closed.addTimeout(CLOSE_TIMEOUT, self._reactor, lambda result, within: None)
        self._pools.stop()
        self._storage.staging.close()

    async def _shut_down(self) -> None:
        listeners, transfers = self._listeners, self._transfers
        self._daily.stop()
        self.booted.cancel()
        self._clearing.cancel()
        transfers.arrived.stop()
        if self._orphans is not None:
            self._orphans.stop()
        self._backups.stop()
        self._checks.stop()
        self._rewrites.stop()
        sftp = Deferred.fromCoroutine(listeners.sftp.stop())
        # The site listens meanwhile: when a sent server has moved, the Panel has it deleted here
        # by a request, and nothing else would delete its files.
        transfers.streams.stop()
        ending = [transfers.receiver.stop(), transfers.sender.stop(), sftp]
        ending.append(Deferred.fromCoroutine(self._storage.restores.stop()))
        ending.append(Deferred.fromCoroutine(self._pulls.stop()))
        await DeferredList(ending)
        await listeners.control.close()
        await listeners.http.close()
        stopping = Deferred.fromCoroutine(self._reports.stop(REPORT_TIMEOUT))
        await transfers.callbacks.drain(REPORT_TIMEOUT)
        await stopping
        transfers.callbacks.stop()
        # Those that were answered meanwhile still need the state database.
        await transfers.receiver.concluded()
        await self._storage.running.stop()
        await self._servers.stop()
        # Answers must be sent before the process ends.
        await listeners.http.drain(DRAIN_TIMEOUT)
        await listeners.metrics.close()


def summary(
    count: int | None,
    receiving: Sequence[str],
    sending: Sequence[str],
    received: int = 0,
    sent: int = 0,
) -> str:
    """Return a line about a node with `count` servers, None while the Panel has not listed them.

    `receiving` and `sending` are the UUIDs of the servers in transfer, `received` and `sent` the
    bytes so far.
    """
    if count is None:
        servers = "waits for the Panel to tell which servers it has"
    else:
        servers = _counted(count)
    ways = [
        f"{way} {uuids[0] if len(uuids) == 1 else _counted(len(uuids))}{_so_far(moved)}"
        for way, uuids, moved in (("receiving", receiving, received), ("sending", sending, sent))
        if uuids
    ]
    return f"{servers}; {', '.join(ways) or 'no transfer under way'}"


def _so_far(moved: int) -> str:
    return f" ({readable_size(moved)} so far)" if moved else ""


def _counted(count: int) -> str:
    return f"{count} server{'' if count == 1 else 's'}"

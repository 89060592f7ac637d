"""Starts, resumes and stops the parts of the daemon, and checks its privileges."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from wingsd import __version__
from wingsd.api.context import NodeContext
from wingsd.app.process import Pools
from wingsd.app.reload import Reload
from wingsd.config import Config, Ssl, unusable_directories
from wingsd.control import ControlListener
from wingsd.docker.runtime import engine_address
from wingsd.errors import MethodNotAllowed, StateDatabaseError, StorageError
from wingsd.http.listener import HttpListener, tcp_endpoint
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite, NotFound
from wingsd.restores.storage import RestoreStorage
from wingsd.statedb import MoveRecord, RestoreRecord, TransferRecord
from wingsd.transfers.recovery import PanelInitiator, Recovery, clear_leftovers
from wingsd.util.deferreds import failure_logger, fires_within
from wingsd.util.observer import DIRECTIONS, Observer
from wingsd.util.reactor import Periodic, Reactor
from wingsd.util.text import host_and_port, readable_size

if TYPE_CHECKING:
    from wingsd.metrics import Exposition

# Seconds at the daemon's end: until verified transfers are aborted as well, so that reports reach
# the Panel (the others are sent after a restart); for these reports; for clients to read answers;
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
            await self._listener.site.drain(0)


class _MetricsResource(Resource):
    """`/metrics`."""

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()
        self._exposition = exposition

    def render(self, request: Any) -> None:
        """Answer GET and HEAD with the exposition."""
        if request.method in (b"GET", b"HEAD"):
            Deferred.fromCoroutine(self._respond(request))
        else:
            request.refuse(MethodNotAllowed("metrics are read-only"), {"Allow": "GET, HEAD"})

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            body, content_type = await self._exposition.render(request.header("Accept"))
            request.answer(HTTPStatus.OK, body, {"Content-Type": content_type})
        except Exception:
            request.fail(Failure())


#: What an earlier daemon has not finished.
Left = tuple[list[TransferRecord], list[MoveRecord], list[RestoreRecord], list[str]]


class Node(Service):
    """The running daemon: its servers, transfers, threads and listening sockets.

    `http` listens for Panel, browsers and nodes, `metrics` for Prometheus, `control` for wingsctl.
    `reload` reads the configuration again.
    """

    #: Fires with True when the servers are loaded and the transfers resumed.
    booted: Deferred[bool]
    _log = Logger()

    def __init__(
        self,
        context: NodeContext,
        *,
        http: HttpListener,
        metrics: MetricsListener,
        control: ControlListener,
        pools: Pools,
        moved: Observer,
        reload: Reload,
    ) -> None:
        self.context = context
        self.http = http
        self.metrics = metrics
        self.control = control
        self.reload = reload
        self._pools = pools
        self._moved = moved
        self._clearing: Deferred[None] = succeed(None)
        self._daily = Periodic(context.reactor, self._clean_daily)

    # Start

    def startService(self) -> None:
        """Open the storage, listen, load the servers.

        Raises `SystemExit` with one line when one of the first two fails.
        """
        super().startService()
        self._log_shortcomings()
        try:
            left = self._open_storage()
        except StateDatabaseError as error:
            raise SystemExit(f"wingsd: {error}") from error
        except StorageError as error:
            raise SystemExit(f"wingsd: {error.detail}") from error
        self._pools.start()
        for listener in (self.http, self.metrics, self.control, self.context.sftp):
            listener.open()
        config = self.context.config
        self._log.info(
            "wingsd {version} listens on {where}, for the Panel {remote}",
            version=__version__,
            where=self.http.address,
            remote=config.remote,
        )
        self._daily.start(DAY)
        if config.system.backups.check_interval:
            self.context.backup_checks.start()
        self.booted = Deferred.fromCoroutine(self._boot(left))
        # Cancelled when the node stops.
        self.booted.addErrback(lambda failure: not failure.trap(CancelledError))
        self.booted.addErrback(lambda failure: self._log.failure("startup failed", failure))

    def _log_shortcomings(self) -> None:
        config = self.context.config
        docker, user = config.docker, config.system.user
        address = engine_address(docker.socket, os.environ) if docker.enabled else None
        for line in shortcomings(survey(config, (user.uid, user.gid), address)):
            self._log.warn("the daemon is limited: {line}", line=line)

    def _open_storage(self) -> Left:
        """Open what is kept across restarts, and return what an earlier daemon has not finished.

        Restores whose content is whole are put into place, and so are rewinds. Raises
        `StorageError`.
        """
        node, store = self.context, self.context.store
        node.staging.prepare()
        node.quotas.open(node.staging.path)
        store.open()
        node.denied.restore(store.denied())
        node.denied.refuse_before(store.denied_before())
        node.receiver.maintenance = store.maintenance()
        transfers, moves, restores = store.unfinished(), store.open_moves(), store.restores()
        rewinds = store.rewinds()
        names = RestoreStorage.names(restores, rewinds)
        clear_leftovers(transfers, node.staging, node.received_backups, names, moves)
        if restores:
            node.restores.recover(restores)
        return transfers, moves, restores, node.rewinds.recover(rewinds)

    def recovery(
        self, unfinished: list[TransferRecord], moves: Sequence[MoveRecord] = ()
    ) -> Recovery:
        """Return what resumes the unfinished transfers of an earlier daemon."""
        node = self.context
        return Recovery(
            unfinished,
            moves,
            panel=PanelInitiator(node.coordinators, node.receiver, node.sender),
            direct=node.direct_transfers,
            receiver=node.receiver,
            incoming_moves=node.moves,
            sender=node.sender,
            starter=node.running,
        )

    async def _boot(self, left: Left) -> bool:
        transfers, moves, restores, stopped = left
        node, recovery = self.context, self.recovery(transfers, moves)
        await node.callbacks.load()
        await self._settle_backups()
        await node.activity.start()
        ran = await node.running.load()
        if restores:
            stopped += await node.restores.settle(restores)
        await node.pairs.load()
        await node.direct_transfers.load(transfers)
        await node.arrived.load()
        recovery.begin()
        await node.servers.boot()
        recovery.resume_outgoing()
        if restores:
            node.restores.announce_settled()
        # A rewind that is completed starts its server itself.
        rewound = await node.rewinds.settle() if node.servers.loaded else set()
        node.running.start({*ran, *stopped} - rewound, node.servers, stopped)
        node.arrived.start_left()
        await node.wanted_seeds.load()
        if node.statuses is not None and node.servers.loaded:
            node.statuses.start([(each.uuid, each.state.value) for each in node.servers.all()])
        await node.direct_transfers.release_to_panel()
        if node.orphans is not None:
            node.orphans.start()
        node.left_backups.start()
        if node.servers.loaded:
            await node.histories.load_coming()
            node.histories.start()
        # The cleanup at the start did not know the servers. The Panel is asked: nothing waits.
        self._clearing = Deferred.fromCoroutine(self._clear_left())
        self._clearing.addErrback(failure_logger(self._log, "cleanup failed"))
        return True

    async def _settle_backups(self) -> None:
        """Settle what was being made, before the Panel hears of the restart, unless disks hang."""
        settling = Deferred.fromCoroutine(self.context.backups.settle())
        settling.addErrback(
            lambda failure: self._log.failure(
                "interrupted backups are neither completed nor reported", failure
            )
        )
        await fires_within(settling, SETTLE_TIMEOUT, self.context.reactor)

    # Operation

    @property
    def status(self) -> str:
        """The node's present work, in one line."""
        node = self.context
        count = len(node.servers.all()) if node.servers.loaded else None
        moved = map(self._moved.moving, DIRECTIONS)
        return summary(count, node.receiver.servers, node.sender.servers, *moved)

    def ping_database(self) -> Deferred[None]:
        """Return a Deferred that fires when the database's thread has done its present work."""
        return self._pools.database.run(lambda: None)

    def _clean_daily(self) -> Deferred[None]:
        cleaning = Deferred.fromCoroutine(self._clean())
        # An error must not end the loop, which the end of the node relies on.
        return cleaning.addErrback(failure_logger(self._log, "cleanup failed"))

    async def _clean(self) -> None:
        try:
            await self.context.database.prune()
            await self._pools.long.run(self.context.staging.delete_cleared)
        except StorageError as error:
            self._log.error("cleanup failed: {error}", error=error)
        await self.context.quarantine.clear()
        await self._clear_left()

    async def _clear_left(self) -> None:
        try:
            if await self.context.database.left():
                await self.context.left_backups.clear()
            await self.context.arriving_backups.clear()
            if self.context.servers.loaded:
                await self.context.histories.clear()
        except StorageError as error:
            self._log.error("cleanup failed: {error}", error=error)

    # End

    def stopService(self) -> Deferred[None]:
        """Abort unverified transfers, complete the others, and end the threads."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        node, reactor = self.context, self.context.reactor
        abort = reactor.callLater(ABORT_AFTER, node.receiver.abort_all)
        # Not cancelled at the limit: what is in progress may continue until the process ends.
        done = Deferred.fromCoroutine(self._shut_down())
        done.addErrback(lambda failure: self._log.failure("shutdown failed", failure))
        await fires_within(done, STOP_TIMEOUT, reactor)
        for server in (*node.receiver.servers, *node.sender.servers):
            self._log.critical("{server}: transfer not finished in time", server=server)
        if abort.active():
            abort.cancel()
        # All connections are cut when this returns: not while one of them is still being read.
        await deferLater(reactor, 0)
        # After the last request of a browser, and before the database is closed.
        node.activity.stop()
        # With a limit, in case the disk hangs.
        closed = node.database.close()
        await closed.addTimeout(CLOSE_TIMEOUT, reactor, lambda result, within: None)
        self._pools.stop()
        node.staging.close()

    async def _shut_down(self) -> None:
        node = self.context
        self._daily.stop()
        self.booted.cancel()
        self._clearing.cancel()
        node.arrived.stop()
        node.pairs.stop()
        node.wanted_seeds.stop()
        if node.orphans is not None:
            node.orphans.stop()
        node.left_backups.stop()
        node.backups.stop()
        node.backup_checks.stop()
        node.backup_rewrites.stop()
        sftp = Deferred.fromCoroutine(node.sftp.stop())
        # The site listens meanwhile: when a sent server has moved, the Panel has it deleted here
        # by a request, and nothing else would delete its files.
        node.streams.stop()
        ending = [node.receiver.stop(), node.sender.stop(), sftp]
        ending.append(Deferred.fromCoroutine(node.restores.stop()))
        ending.append(Deferred.fromCoroutine(node.rewinds.stop()))
        ending.append(Deferred.fromCoroutine(node.pulls.stop()))
        ending.append(Deferred.fromCoroutine(node.histories.stop()))
        await DeferredList(ending)
        await self.control.close()
        await self.http.close()
        if node.statuses is not None:
            node.statuses.stop()
        stopping = Deferred.fromCoroutine(node.activity.stop_sending(REPORT_TIMEOUT))
        await node.callbacks.drain(REPORT_TIMEOUT)
        await stopping
        node.callbacks.stop()
        # Those that were answered meanwhile still need the state database.
        await node.receiver.concluded()
        await node.running.stop()
        await node.servers.stop()
        # Answers must be sent before the process ends.
        await self.http.site.drain(DRAIN_TIMEOUT)
        await self.metrics.close()


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


CHOWN = "CAP_CHOWN"
DAC_OVERRIDE = "CAP_DAC_OVERRIDE"
FOWNER = "CAP_FOWNER"


@attrs.frozen(repr=False)
class Facts:
    """The identity and the privileges of a process.

    `owner` is the user and group id of the servers' files. `effective` are the capabilities of
    the process itself, `inherited` those of the programs that it starts. `directories` and
    `engine` have the reason why something cannot be used, by key and path, or by address.
    """

    uid: int
    groups: frozenset[int]
    owner: tuple[int, int]
    effective: frozenset[str]
    inherited: frozenset[str]
    directories: dict[str, str] = attrs.field(factory=dict)
    engine: dict[str, str] = attrs.field(factory=dict)

    @property
    def is_owner(self) -> bool:
        """True if the process is the servers' own user."""
        uid, gid = self.owner
        return self.uid == uid and gid in self.groups


def shortcomings(facts: Facts) -> list[str]:
    """Return a line for each thing that the node cannot do, with advice."""
    return [*_owning(facts), *_deleting(facts), *_unusable(facts)]


def _owning(facts: Facts) -> Iterator[str]:
    uid, gid = facts.owner
    user = f"system.user ({uid}:{gid})"
    if not facts.is_owner:
        run_as = f"run it with {{}}, or as {user} itself"
        if CHOWN not in facts.effective:
            yield (
                f"cannot give files to {user}, so servers cannot be created or received: "
                f"{run_as.format(CHOWN)}"
            )
        if FOWNER not in facts.effective:
            yield (
                f"cannot set modes and times of files of {user}, so servers cannot be received: "
                f"{run_as.format(FOWNER)}"
            )
    if DAC_OVERRIDE in facts.effective:
        return
    if facts.is_owner:
        yield (
            "cannot read or delete files of mode 0: "
            f"run it with {DAC_OVERRIDE} if servers have such files"
        )
    else:
        yield (
            f"cannot write below directories of {user}, nor read all of its files, so servers "
            f"cannot be received, sent or deleted: run it with {DAC_OVERRIDE}, or as {user} "
            "itself"
        )


def _deleting(facts: Facts) -> Iterator[str]:
    lost = {FOWNER, DAC_OVERRIDE} & facts.effective - facts.inherited
    if lost and not facts.is_owner:
        names = " and ".join(sorted(lost))
        yield (
            "cannot delete servers: rm, which deletes them, does not inherit the daemon's "
            "capabilities; give it "
            f"{names} as ambient capabilities (AmbientCapabilities= in a systemd unit)"
        )


def _unusable(facts: Facts) -> Iterator[str]:
    for directory, why in facts.directories.items():
        yield (
            f"cannot write to {directory}: {why}; the daemon's user must own that directory, and "
            "a systemd service needs it in ReadWritePaths="
        )
    for address, why in facts.engine.items():
        yield (
            f"cannot reach the Docker engine at {address}: {why}; check that it runs, and "
            "that the daemon's user is in the group of its socket (docker)"
        )


# By their numbers in linux/capability.h.
_NUMBERS = {CHOWN: 0, DAC_OVERRIDE: 1, FOWNER: 3}
_PREFIX = "unix://"
#: Seconds to wait for a busy engine.
_TIMEOUT = 1.0


def survey(config: Config, owner: tuple[int, int], engine: str | None) -> Facts:
    """Return the facts of this process; `engine` is the engine's address, None if unused.

    Only a Unix socket is tried.
    """
    uid = os.geteuid()
    effective = _capabilities("CapEff")
    return Facts(
        uid=uid,
        groups=frozenset({os.getegid(), *os.getgroups()}),
        owner=owner,
        effective=effective,
        # Programs that root starts run as root.
        inherited=effective if uid == 0 else _capabilities("CapAmb"),
        directories=unusable_directories(config),
        engine=dict(_engine(engine)),
    )


def _capabilities(line: str) -> frozenset[str]:
    """Return the capabilities in a line of /proc/self/status; without it, root has all."""
    mask = -1 if os.geteuid() == 0 else 0
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for key, _, value in (text.partition(":") for text in status):
            if key == line:
                mask = int(value, 16)
    return frozenset(name for name, number in _NUMBERS.items() if mask >> number & 1)


def _engine(address: str | None) -> Mapping[str, str]:
    if address is None or not address.startswith(_PREFIX):
        return {}
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.connect(address.removeprefix(_PREFIX))
        except OSError as error:
            return {address: error.strerror or str(error)}
    return {}

"""The registry of the servers of this node: lookup, creation, arrival and deletion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredSemaphore,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import (
    EnvironmentFailed,
    PanelError,
    ServerAlreadyExists,
    ServerBusy,
    ServerNotFound,
    ServersNotLoaded,
    StateDatabaseError,
    WingsdError,
)
from wingsd.events import DELETED, STAYS_OFF, Event
from wingsd.panel.schemas import Configuration
from wingsd.servers.files import Presence
from wingsd.servers.installations import INSTALLING, Installations, InstallOptions
from wingsd.servers.operations import Hold, Operation, refusal
from wingsd.servers.power_states import PowerState
from wingsd.servers.server import Server, ServerParts
from wingsd.statedb import InstallationRecord
from wingsd.util.retry import Backoff

T = TypeVar("T")

#: Servers that the engine is asked about at a time.
CONCURRENT_LOOKUPS = 4

#: Seconds between two questions to an engine, or a Panel, that does not answer.
BACKOFF = Backoff(1.0, 60.0, jitter=True)


DELETING = "the server is being deleted"


class Servers:
    """The servers of a node. `loaded` says whether the Panel has listed them."""

    _log = Logger()

    def __init__(self, parts: ServerParts, installations: Installations) -> None:
        self.loaded = False
        self._parts = parts
        self._panel = parts.panel
        self._bus = parts.bus
        self._installations = installations
        self._storage = parts.storage
        self._reactor = parts.reactor
        self._servers: dict[str, Server] = {}
        self._reserved: dict[str, Hold] = {}
        self._shared: dict[str, str] = {}
        self._tasks = parts.storage.tasks
        self._booting: Deferred[None] | None = None
        self._stopped = False
        self._creating: dict[str, Deferred[None]] = {}
        self._deleting: set[str] = set()

    # The node's start and end

    async def boot(self) -> None:
        """Load the servers, report the restart to the Panel, and watch the programs that run.

        Requests to the Panel are repeated until they succeed. Programs that the engine fails for
        are looked up again in the background. Returns early when the node ends.
        """
        self._booting = Deferred.fromCoroutine(self._boot())
        try:
            await self._booting
        except CancelledError:
            if not self._stopped:
                raise

    async def _boot(self) -> None:
        self._tasks.start("finishing previous deletions", self._storage.finish_deletions())
        installing = await self._installations.recorded()
        for record in installing:
            self._reserved[record.server] = Hold(Operation.INSTALL, INSTALLING)
        request = "list the servers of this node"
        for configuration in await self._retry(request, self._panel.servers):
            server = self.get_or_add(configuration)
            server.configuration = configuration
            server.moved_directly = False
        # First: the sizes of the servers do not depend on an engine that may not answer.
        for server in self._servers.values():
            # One that is being installed is counted then, and may have no directory yet.
            if not server.operations.runs(Operation.INSTALL):
                server.files.measure()
                server.files.apply_limit()
        self.loaded = True
        self._log.info("{count} servers loaded", count=len(self._servers))
        if installing:
            self._log.info(
                "{count} installations go on; the restart is reported to the Panel when they have "
                "ended",
                count=len(installing),
            )
        for record in installing:
            uuid = record.server
            if uuid in self._servers:
                self._installations.begin(self._servers[uuid], record)
            else:
                removing = self._installations.give_up(uuid, report=False)
                self._tasks.start("removing what its installation has left", removing, uuid)
        self._tasks.start("reporting the restart to the Panel", self._report_restart())
        unknown = await self._adopt(tuple(self._servers.values()))
        if unknown:
            self._tasks.start("finding out which servers run", self._adopt_later(unknown))

    async def _adopt(self, servers: Sequence[Server]) -> list[Server]:
        """Watch the programs of servers that run; return the servers the engine failed for."""
        slots = DeferredSemaphore(CONCURRENT_LOOKUPS)
        failed: list[Server] = []
        errors: list[EnvironmentFailed] = []

        async def adopt(server: Server) -> None:
            try:
                await server.adopt()
            except EnvironmentFailed as error:
                failed.append(server)
                errors.append(error)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("{server}: its state is unknown", server=server.uuid)

        lookups = [slots.run(adopt, server) for server in servers]
        results: list[tuple[bool, Any]] = await DeferredList(lookups, consumeErrors=True)
        for succeeded, failure in results:
            if not succeeded:
                failure.raiseException()
        if failed:
            self._log.error(
                "{count} servers are in an unknown state, asking again: {error}",
                count=len(failed),
                error=errors[0],
            )
        return failed

    async def _adopt_later(self, servers: Sequence[Server]) -> None:
        """Repeat `_adopt` for servers that are still known, until the engine has answered."""
        pauses = iter(BACKOFF)
        while servers:
            await deferLater(self._reactor, next(pauses))
            known = [each for each in servers if self._servers.get(each.uuid) is each]
            servers = await self._adopt(known)

    async def _retry(self, request: str, call: Callable[[], Awaitable[T]]) -> T:
        pauses = iter(BACKOFF)
        while True:
            try:
                return await call()
            except PanelError as error:
                self._log.error(
                    "the request to {request} failed and is repeated: {error}",
                    request=request,
                    error=error,
                )
            await deferLater(self._reactor, next(pauses))

    async def _report_restart(self) -> None:
        # The report ends the Panel's state "installing", also of what Wings was installing.
        await self._installations.settle_unrecorded(self._servers.get)
        # And that of a server whose backup is restored, as an earlier daemon has begun.
        for server in tuple(self._servers.values()):
            await server.operations.ended(Operation.RESTORE)
        await self._retry(
            "note the restart of this node",
            lambda: self._installations.when_idle(self._panel.reset),
        )

    async def stop(self) -> None:
        """Detach from all consoles and end background work. Containers continue to run."""
        self._stopped = True
        if self._booting is not None:
            self._booting.cancel()
        self._tasks.stop()
        self._installations.stop()
        for server in self._servers.values():
            server.operations.cancel(Operation.DELETE)
            server.detach()

    # Lookup

    def get(self, uuid: str) -> Server:
        """Return a server. Raises `ServerNotFound`, or `ServersNotLoaded` before `loaded`."""
        if uuid in self._servers:
            return self._servers[uuid]
        if not self.loaded:
            raise ServersNotLoaded
        raise ServerNotFound("The requested resource does not exist on this instance.")

    def knows(self, uuid: str) -> bool:
        """Return whether the server is known already."""
        return uuid in self._servers

    def all(self) -> list[Server]:
        """Return every server. Raises `ServersNotLoaded`."""
        if not self.loaded:
            raise ServersNotLoaded
        return list(self._servers.values())

    def directory(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return self._storage.directories.path(uuid)

    def admit(self, configuration: Configuration, hold: str) -> Server:
        """Add a server that a transfer brings, held for the reason `hold`.

        A known server of that UUID is replaced if it is offline, and disowned or not held: the
        Panel has assigned it to another node, and it is a remainder. Raises `ServerAlreadyExists`
        for any other.
        """
        uuid = configuration.settings.uuid
        known = self._servers.get(uuid)
        if known is not None:
            held = known.operations.hold and not known.disowned
            if held or known.state is not PowerState.OFFLINE:
                why = known.hold or "it is running"
                raise ServerAlreadyExists("this server is already on this node", why)
            known.close()
            known.disown(hold)  # WebSockets that watch it must not start it beside the new one.
        server = self._add(configuration)
        server.operations.hold = Hold(Operation.TRANSFER_IN, hold)
        server.files.presence = Presence.ABSENT
        self.unshare(uuid)
        return server

    def reserve(self, uuid: str, why: str) -> None:
        """Hold a server that a transfer takes away, as soon as it is added, until it is released.

        An empty `why` ends that.
        """
        hold = Hold(Operation.TRANSFER_OUT, why)
        if not why:
            self._reserved.pop(uuid, None)
        elif uuid in self._servers:
            self._servers[uuid].operations.hold = hold
        else:
            self._reserved[uuid] = hold

    def hold_later(self, uuid: str, hold: Hold) -> None:
        """Hold a server when it is added, until that is released."""
        self._reserved[uuid] = hold

    def leave_off(self, uuid: str) -> None:
        """Cancel any automatic start of a server, also after a restart of the daemon."""
        if uuid in self._servers:
            self._servers[uuid].leave_off()
        self._bus.publish(Event(uuid, STAYS_OFF))

    def get_or_add(self, configuration: Configuration) -> Server:
        """Return the server of this node; add it if it is not known."""
        return self._servers.get(configuration.settings.uuid) or self._add(configuration)

    def share(self, uuid: str, pool: str) -> None:
        """Keep a server's files when it is deleted, as another node of `pool` may use them.

        Ends with `unshare`, and when the server is admitted again.
        """
        self._shared[uuid] = pool

    def unshare(self, uuid: str) -> None:
        """End `share`: the server's files are this node's alone."""
        self._shared.pop(uuid, None)

    def add_moved(self, configurations: Sequence[Configuration]) -> None:
        """Add servers that direct transfers moved here, and watch those that run."""
        servers = [self.get_or_add(configuration) for configuration in configurations]
        for server in servers:
            server.moved_directly = True
            server.files.measure()
            server.files.apply_limit()
        if servers:
            self._tasks.start("finding out which servers run", self._adopt_moved(servers))

    async def _adopt_moved(self, servers: Sequence[Server]) -> None:
        await self._adopt_later(await self._adopt(servers))

    def discard(self, uuid: str) -> None:
        """Remove a server from the registry; its files and environment stay."""
        server = self._servers.pop(uuid, None)
        if server is not None:
            server.close()

    def _add(self, configuration: Configuration) -> Server:
        server = Server(configuration, self._parts)
        uuid = server.uuid
        server.operations.hold = self._reserved.pop(uuid, None)
        self._servers[uuid] = server
        return server

    # Creation and deletion

    async def create(
        self,
        uuid: str,
        *,
        start_on_completion: bool = False,
        options: InstallOptions = InstallOptions(),
    ) -> None:
        """Record a new server of this node, and install it in the background.

        The Panel has its settings, and gets the report of its installation. Raises
        `ServersNotLoaded`, `StorageError`, and `Conflict` for a server that is here.
        """
        if not self.loaded:
            raise ServersNotLoaded
        if uuid in self._servers or uuid in self._creating or uuid in self._deleting:
            raise ServerAlreadyExists("this server is already on this node", "delete it first")
        recorded: Deferred[None] = Deferred()
        recording = self._installations.record(uuid, options, start=start_on_completion)
        # A deletion, or a second request, must see it from now on.
        creating = Deferred.fromCoroutine(self._create(recording, recorded))
        self._creating[uuid] = creating
        creating.addErrback(self._not_created, uuid)
        creating.addCallback(lambda _: self._creating.__delitem__(uuid))
        await recorded

    async def _create(
        self, recording: Coroutine[Any, Any, InstallationRecord], recorded: Deferred[None]
    ) -> None:
        try:
            record = await recording
        except CancelledError:
            recorded.errback(ServerBusy(refusal(Operation.DELETE, Operation.INSTALL), DELETING))
            raise
        except BaseException:
            recorded.errback(Failure())
            raise
        recorded.callback(None)
        server = self._add(await self._panel.describe(record.server))
        server.files.presence = Presence.ABSENT
        self._installations.begin(server, record)

    def _not_created(self, failure: Failure, uuid: str) -> None:
        if failure.check(CancelledError):
            return
        if not failure.check(WingsdError):
            self._log.failure("{server}: its creation failed", failure, server=uuid)
        else:
            self._log.error("{server}: not created: {why}", server=uuid, why=failure.value)
        # Of a request that was refused the Panel knows.
        if not failure.check(StateDatabaseError, ServerBusy):
            reporting = self._installations.give_up(uuid, report=not failure.check(ServerNotFound))
            self._tasks.start("reporting that it was not created", reporting, uuid)

    async def delete(
        self, uuid: str, put_away: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Kill a server and remove its container, then delete its files in the background.

        Files that `share` was called for are kept; `put_away` puts those of others away instead of
        their deletion.

        Raises `ServersNotLoaded`, `ServerNotFound`, `Conflict` while it is being deleted already,
        and `EnvironmentFailed`, after which it is still there.
        """
        if uuid in self._deleting:
            raise ServerBusy(refusal(Operation.DELETE, Operation.DELETE), DELETING)
        self._deleting.add(uuid)
        try:
            await self._delete(uuid, put_away)
        finally:
            self._deleting.discard(uuid)

    async def _delete(self, uuid: str, put_away: Callable[[], Awaitable[None]] | None) -> None:
        creating = self._creating.get(uuid)
        if creating is not None:
            creating.cancel()
            await self._installations.give_up(uuid, report=False)
        elif self.get(uuid).disowned:
            # Its container was removed before the transfer. The Panel answers the other node after
            # this call, so the call must not wait for the engine.
            removing = self.get(uuid).remove_environment()
            self.discard(uuid)
            self._tasks.start("removing its container", removing, uuid)
        else:
            server = self.get(uuid)
            held = server.operations.hold
            server.operations.hold = Hold(Operation.DELETE, DELETING)
            try:
                await server.remove_environment()
            except BaseException:
                server.operations.hold = held
                raise
            await self._installations.discard(uuid)
            self.discard(uuid)
        self._bus.publish(Event(uuid, DELETED))
        await self._installations.remove_log(uuid)
        pool = self._shared.pop(uuid, "")
        if not pool and put_away is not None:
            quotas = self._storage.directories.quotas
            await self._storage.disk.run(quotas.release, uuid, self.directory(uuid))
            await put_away()
            return
        if not pool:
            await self._storage.delete(uuid)
            return
        self._log.info(
            "{server}: its files stay in {directory} for another node of the storage pool {pool}",
            server=uuid,
            directory=self.directory(uuid),
            pool=pool,
        )

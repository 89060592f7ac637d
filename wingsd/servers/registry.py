"""All servers of this node: which there are, and how they come and go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from wingsd.errors import (
    Conflict,
    ServerAlreadyExists,
    ServerNotFound,
    ServersNotLoaded,
    WingsdError,
)
from wingsd.events import DELETED, Event
from wingsd.panel.schemas import Configuration
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.creation import Creation
from wingsd.servers.loader import Boot
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.servers.storage import DiskUsage, Disposal, ServerDirectories, Tasks

__all__ = ["Servers"]

INSTALLING = "the server is being installed"
DELETING = "the server is being deleted"


class Servers:
    """The servers. `loaded` tells whether the Panel has said which there are."""

    _log = Logger()

    def __init__(self, means: ServerCollaborators) -> None:
        self.loaded = False
        self._means = means
        self._servers: dict[str, Server] = {}
        self._reserved: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._tasks = Tasks()
        self._disk_usage = DiskUsage(means.disk, self._tasks)
        config = means.config
        # As the staging area does, on a volume that others have.
        node = config.uuid if config.system.transfers.storage_pool.name else ""
        self._directories = ServerDirectories(config.system.data, means.owner, node)
        self._boot = Boot(means)
        self._disposal = Disposal(means.disk, self._directories, self._tasks)
        self._booting: Deferred[None] | None = None
        self._stopped = False
        self._creating: dict[str, Deferred[Server]] = {}
        self._deleting: set[str] = set()

    # The node's start and end

    async def boot(self) -> None:
        """Load the servers, tell the Panel of the restart, and take up what runs already.

        Goes on asking for as long as it takes. What an engine does not tell at once is found out
        later in the background. Returns early when the node ends.
        """
        self._booting = Deferred.fromCoroutine(self._boot_up())
        try:
            await self._booting
        except CancelledError:
            if not self._stopped:
                raise

    async def _boot_up(self) -> None:
        self._tasks.start("finishing deletions of before", self._disposal.finish())
        for configuration in await self._boot.load():
            self._take_in(configuration)
        # First: an engine that is silent keeps nobody from knowing how large the servers are.
        for server in self._servers.values():
            server.measure()
        self.loaded = True
        self._log.info("{count} servers loaded", count=len(self._servers))
        self._tasks.start("telling the Panel of the restart", self._boot.reset())
        unknown = await self._boot.adopt(tuple(self._servers.values()))
        if unknown:
            retrying = self._boot.adopt_later(unknown, self._has)
            self._tasks.start("finding out which servers run", retrying)

    def _take_in(self, configuration: Configuration) -> None:
        """The Panel says that a server is this node's, and what it is."""
        known = self.known(configuration)
        known.configuration = configuration
        known.by_hand = False

    async def stop(self) -> None:
        """Let go of all consoles and background work. Containers go on."""
        self._stopped = True
        if self._booting is not None:
            self._booting.cancel()
        self._tasks.stop()
        for server in self._servers.values():
            server.detach()

    # Which there are

    def get(self, uuid: str) -> Server:
        """Return a server. Raises `ServersNotLoaded` while that is not known, `ServerNotFound`."""
        if uuid in self._servers:
            return self._servers[uuid]
        if not self.loaded:
            raise ServersNotLoaded
        raise ServerNotFound("The requested resource was not found on this instance.")

    def all(self) -> list[Server]:
        """Return every server. Raises `ServersNotLoaded`."""
        if not self.loaded:
            raise ServersNotLoaded
        return list(self._servers.values())

    def directory(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return self._directories.path(uuid)

    def admit(self, configuration: Configuration, hold: str) -> Server:
        """Make a server known that a transfer brings, held for the reason `hold`.

        One of that name that is known, offline, and disowned or not held is a leftover, since the
        Panel says that it is not here: it is taken over. Raises `ServerAlreadyExists` for any
        other.
        """
        uuid = configuration.settings.uuid
        known = self._servers.get(uuid)
        if known is not None:
            held = known.hold and not known.disowned
            if held or known.state is not PowerState.OFFLINE:
                why = known.hold or "it is running"
                raise ServerAlreadyExists("this server is already on this node", why)
            known.close()
            known.disown(hold)  # Browsers that watch it may not start it in the new one's place.
        server = self._add(configuration)
        server.hold, server.has_directory = hold, False
        self.unshare(uuid)
        return server

    def reserve(self, uuid: str, why: str) -> None:
        """Hold a server from the moment on that it becomes known, until it is let go."""
        self._reserved[uuid] = why

    def known(self, configuration: Configuration) -> Server:
        """Return the server, which is on this node; it is made known where it is not yet."""
        return self._servers.get(configuration.settings.uuid) or self._add(configuration)

    def share(self, uuid: str, pool: str) -> None:
        """Keep a server's files when it is deleted: by `pool`, another node may have them.

        That is so until `unshare`, or until it is admitted anew.
        """
        self._shared[uuid] = pool

    def unshare(self, uuid: str) -> None:
        """The server's files are this node's alone."""
        self._shared.pop(uuid, None)

    def settle(self, configurations: Sequence[Configuration]) -> None:
        """Make servers known that people moved here; take up in the background what runs."""
        settled = [self.known(configuration) for configuration in configurations]
        for server in settled:
            server.by_hand = True
            server.measure()
        if settled:
            self._tasks.start("finding out which servers run", self._adopt(settled))

    async def _adopt(self, servers: Sequence[Server]) -> None:
        unknown = await self._boot.adopt(servers)
        await self._boot.adopt_later(unknown, self._has)

    def forget(self, uuid: str) -> None:
        """Make a server unknown, and touch nothing of it."""
        server = self._servers.pop(uuid, None)
        if server is not None:
            server.close()

    def _add(self, configuration: Configuration) -> Server:
        uuid = configuration.settings.uuid
        server = Server(
            configuration, self._directories, self._means, self._tasks, self._disk_usage
        )
        server.hold = self._reserved.pop(uuid, "")
        self._servers[uuid] = server
        return server

    def _has(self, server: Server) -> bool:
        return self._servers.get(server.uuid) is server

    # How they come and go

    async def create(self, uuid: str, *, start_on_completion: bool) -> Server:
        """Make a new server of this node, and tell the Panel how its installation ended.

        The egg's installation script is not run. A server whose directory or container cannot be
        made is here all the same, offline, and the first start makes them. A start that fails
        fails no creation. Raises `ServersNotLoaded`, `Conflict` for a server that is here or was
        deleted meanwhile, and `PanelError` where the Panel does not tell what the server is: then
        it is not here.
        """
        if not self.loaded:
            raise ServersNotLoaded
        if uuid in self._servers or uuid in self._creating or uuid in self._deleting:
            raise Conflict("this server is already on this node", "delete it first")
        creation = Creation(self._means)
        creating = self._creating[uuid] = Deferred.fromCoroutine(self._create(uuid, creation))
        try:
            server = await creating
        except CancelledError:
            if uuid not in self._deleting:
                raise
            raise Conflict("the server was deleted while it was being created") from None
        finally:
            del self._creating[uuid]
        if start_on_completion and creation.succeeded:
            with suppress(WingsdError):  # It is told where people see it.
                await server.power(PowerAction.START)
        return server

    async def _create(self, uuid: str, creation: Creation) -> Server:
        try:
            server = self._add(await self._means.panel.describe(uuid))
            server.has_directory = False
            server.take(INSTALLING)
            await creation.make(server)
        except BaseException as error:
            self.forget(uuid)
            await creation.fail(uuid, error)
            raise
        server.let_go()
        return server

    async def delete(self, uuid: str) -> None:
        """Kill a server and remove its container, then forget it; its files go in the background.

        Those that `share` was told of stay.

        Raises `ServersNotLoaded`, `ServerNotFound`, `Conflict` while it is being deleted already,
        and `EnvironmentFailed`, after which it is still there.
        """
        if uuid in self._deleting:
            raise Conflict(DELETING, "wait for that to end")
        self._deleting.add(uuid)
        try:
            await self._delete(uuid)
        finally:
            self._deleting.discard(uuid)

    async def _delete(self, uuid: str) -> None:
        creating = self._creating.get(uuid)
        if creating is not None:
            creating.cancel()
            await DeferredList([creating], consumeErrors=True)
        elif self.get(uuid).disowned:
            # Its container went before it did. The Panel waits for this call with its own answer
            # to the other node, so no engine may keep it waiting.
            removing = self.get(uuid).remove_environment()
            self.forget(uuid)
            self._tasks.start("removing its container", removing, uuid)
        else:
            server = self.get(uuid)
            held, server.hold = server.hold, DELETING
            try:
                await server.remove_environment()
            except BaseException:
                server.hold = held
                raise
            self.forget(uuid)
        self._means.bus.publish(Event(uuid, DELETED))
        pool = self._shared.pop(uuid, "")
        if not pool:
            await self._disposal.dispose(uuid)
            return
        self._log.info(
            "{server}: its files stay in {directory}, where the storage pool {pool} has them for "
            "another node",
            server=uuid,
            directory=self.directory(uuid),
            pool=pool,
        )

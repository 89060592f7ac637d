"""Questions to the Docker engine about the node, and its containers that have no server.

Each question is asked once at a time, for all who wait for its answer.

Import it only on a node with an engine: docker-py takes 8 MiB.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.engine import (
    DockerClient,
    engine_disk,
    engine_report,
    image_names,
    prune_images,
    running_containers,
    server_containers,
)
from wingsd.docker.runtime import EngineDisk, RunningContainer, ServerContainer
from wingsd.errors import (
    EngineUnavailable,
    EnvironmentFailed,
    PanelError,
    PruneInProgress,
    StorageError,
)
from wingsd.node.answers import SharedAnswer
from wingsd.panel.client import Panel
from wingsd.servers.registry import Servers
from wingsd.statedb import StateDatabase
from wingsd.util.deferreds import failure_logger
from wingsd.util.reactor import Periodic
from wingsd.util.text import canonical_uuid

T = TypeVar("T")

#: Seconds that a question may take: a Panel waits for 15.
PATIENCE = 12.0
#: Seconds for which the sizes on the engine's disk are kept.
KEPT = 5.0
#: Seconds for which the result of a removal is kept that was not reported.
UNTOLD = 600.0
#: Seconds between two looks for containers that have no server.
HOUR = 3600.0


class NodeEngine:
    """The Docker engine, asked about the node. All raise `EngineUnavailable`."""

    _log = Logger()

    def __init__(self, engine: AsyncEngine, reactor: IReactorTime) -> None:
        self._engine = engine
        self._reactor = reactor
        self._disk = SharedAnswer(lambda: self._ask(engine_disk), reactor, keep=KEPT)
        self._containers = SharedAnswer(lambda: self._ask(running_containers), reactor)
        self._of_servers = SharedAnswer(lambda: self._ask(server_containers), reactor)
        self._report = SharedAnswer(lambda: self._ask(engine_report), reactor)
        self._images = SharedAnswer(lambda: self._ask(image_names), reactor, keep=KEPT)
        self._pruning = SharedAnswer(lambda: self._ask(prune_images), reactor)
        self._untold: tuple[float, dict[str, Any]] | None = None

    async def disk(self) -> EngineDisk:
        """Return what the engine keeps on its disk."""
        return await self._within(self._disk.get(), PATIENCE)

    async def containers(self, patience: float) -> list[RunningContainer]:
        """Return the containers that run."""
        return await self._within(self._containers.get(), patience)

    async def server_containers(self, patience: float) -> list[ServerContainer]:
        """Return the containers of servers, of any node on this engine."""
        return await self._within(self._of_servers.get(), patience)

    async def images(self) -> set[str]:
        """Return the names of all images, with tags or digests."""
        return await self._within(self._images.get(), PATIENCE)

    async def report(self, patience: float) -> dict[str, Any]:
        """Return what the engine reports about itself."""
        return await self._within(self._report.get(), patience)

    async def prune(self) -> dict[str, Any]:
        """Remove unused images; return what the engine says of it.

        Raises `PruneInProgress` when that takes longer than a Panel waits. It goes on, and the
        next call gets its result.
        """
        if self._untold is not None:
            (ended, result), self._untold = self._untold, None
            if self._reactor.seconds() - ended < UNTOLD:
                return result
        try:
            result = await self._pruning.get().addTimeout(PATIENCE, self._reactor)
        except TimedOut as error:
            self._pruning.get().addCallbacks(self._keep, self._log_failure)
            raise PruneInProgress from error
        self._untold = None
        return result

    def _keep(self, result: dict[str, Any]) -> None:
        self._untold = (self._reactor.seconds(), result)
        self._log.info(
            "unused images are removed: {freed} bytes are free again",
            freed=result.get("SpaceReclaimed", 0),
        )

    def _log_failure(self, failure: Failure) -> None:
        self._log.warn("unused images could not be removed: {error}", error=failure.value)

    async def _within(self, asking: Deferred[T], patience: float) -> T:
        try:
            return await asking.addTimeout(patience, self._reactor)
        except TimedOut as error:
            raise EngineUnavailable(
                f"the Docker engine has not answered within {patience:g} s"
            ) from error

    async def _ask(self, work: Callable[[DockerClient], T]) -> T:
        async with self._engine.session() as session:
            try:
                return await session.call(work)
            except EnvironmentFailed as error:
                raise EngineUnavailable(error.detail) from error


@attrs.define(eq=False, repr=False, slots=False)
class OrphanedContainers:
    """The containers of this node that have no server: not here, and not in the Panel's list.

    Such as those of servers that were deleted in the Panel while this node was away. They are
    named in the log at the start and once an hour; nothing is removed. A container is this node's
    where the files that it shows are below `system.data`, and in a storage pool, whose nodes have
    that in common, where it has the label of this node.
    """

    _log = Logger()

    _engine: NodeEngine
    _config: Config
    _servers: Servers
    _database: StateDatabase
    _panel: Panel
    _reactor: IReactorTime

    def __attrs_post_init__(self) -> None:
        self._found: set[str] = set()
        self._looking: Deferred[None] | None = None
        self._hourly = Periodic(self._reactor, self._look)

    def start(self) -> None:
        """Look now and once an hour."""
        self._hourly.start(HOUR)

    def stop(self) -> None:
        """Look no more."""
        self._hourly.stop()
        if self._looking is not None:
            self._looking.cancel()

    async def left(self, patience: float) -> list[ServerContainer]:
        """Return those that the last look has found, as far as they are still there.

        Raises `EngineUnavailable`, `StorageError`.
        """
        if not self._found:
            return []
        return [each for each in await self._unknown(patience) if each.name in self._found]

    def _look(self) -> Deferred[None]:
        self._looking = Deferred.fromCoroutine(self.look())
        text = "containers without a server were not looked for"
        return self._looking.addErrback(failure_logger(self._log, text))

    async def look(self) -> None:
        """Look for them, and name them in the log.

        Where the engine or the Panel does not answer, nothing new is known until the next look.
        """
        if not self._servers.loaded:
            return
        try:
            names = [
                each.name
                for each in await self._unknown(PATIENCE)
                if not await self._panel.owns(each.server)
            ]
            # Once more: one whose server was being added, moved or deleted at that moment is gone
            # by now, or has a server.
            again = await self._unknown(PATIENCE) if names else []
        except (EngineUnavailable, PanelError, StorageError):
            return
        found = [each for each in again if each.name in names]
        self._found = {each.name for each in found}
        for each in found:
            self._log.warn(
                "the container {name} has no server: neither this node nor the Panel's list of "
                "its servers has {server}; it is not removed by itself ({status}, {image}): to "
                "remove it, run `{removal}`",
                name=each.name,
                server=each.server,
                status=each.status,
                image=each.image,
                removal=each.removal,
            )

    async def _unknown(self, patience: float) -> list[ServerContainer]:
        """Return this node's containers whose server it neither has nor is moving."""
        found = await self._engine.server_containers(patience)
        moving = {each.server for each in await self._database.unfinished()}
        return [
            each
            for each in found
            if self._is_own(each)
            and each.server not in moving
            and not self._servers.knows(each.server)
        ]

    def _is_own(self, container: ServerContainer) -> bool:
        directory, name = posixpath.split(container.home)
        is_here = directory == self._config.system.data and canonical_uuid(name) == name
        is_shared = self._config.system.transfers.storage_pool.name
        return is_here and (not is_shared or container.node == self._config.uuid)

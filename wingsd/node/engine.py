"""Questions to the Docker engine about the node. Each is asked once at a time, whoever asks.

Import it only on a node with an engine: docker-py takes 8 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.engine import DockerClient
from wingsd.docker.runtime import EngineDisk, RunningContainer
from wingsd.docker.usage import engine_disk, engine_report, prune_images, running_containers
from wingsd.errors import EnvironmentFailed
from wingsd.node.answers import SharedAnswer
from wingsd.node.errors import EngineUnavailable, PruneInProgress

__all__ = ["NodeEngine"]

T = TypeVar("T")

#: Seconds that a question may take: a Panel waits for 15.
PATIENCE = 12.0
#: Seconds for which the sizes on the engine's disk are kept.
KEPT = 5.0
#: Seconds for which the result of a removal is kept that nobody was told.
UNTOLD = 600.0


class NodeEngine:
    """The Docker engine, asked about the node. All raise `EngineUnavailable`."""

    _log = Logger()

    def __init__(self, engine: AsyncEngine, reactor: IReactorTime) -> None:
        self._engine = engine
        self._reactor = reactor
        self._disk = SharedAnswer(lambda: self._ask(engine_disk), reactor, keep=KEPT)
        self._containers = SharedAnswer(lambda: self._ask(running_containers), reactor)
        self._report = SharedAnswer(lambda: self._ask(engine_report), reactor)
        self._pruning = SharedAnswer(lambda: self._ask(prune_images), reactor)
        self._untold: tuple[float, dict[str, Any]] | None = None

    async def disk(self) -> EngineDisk:
        """Return what the engine keeps on its disk."""
        return await self._within(self._disk.get(), PATIENCE)

    async def containers(self, patience: float) -> list[RunningContainer]:
        """Return the containers that run."""
        return await self._within(self._containers.get(), patience)

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

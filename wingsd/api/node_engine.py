"""The disk of the node's Docker engine, and the removal of unused images from it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from wingsd.api.resource import Endpoint
from wingsd.docker.runtime import EngineDisk
from wingsd.errors import EngineUnavailable
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine

__all__ = ["EngineDiskEndpoint", "EngineEndpoint", "PruneEndpoint"]


class EngineEndpoint(Endpoint):
    """A path about the Docker engine."""

    topic = Topic.NODE
    fails = (HTTPStatus.CONFLICT,)

    @property
    def engine(self) -> NodeEngine:
        """The engine. Raises `EngineUnavailable` on a node without one."""
        if self._node.engine is None:
            raise EngineUnavailable("docker.enabled is false in its configuration")
        return self._node.engine


class EngineDiskEndpoint(EngineEndpoint):
    """`/api/system/docker/disk`."""

    @call("GET", Success(HTTPStatus.OK, "The sizes."))
    async def get_engine_disk(self, request: StreamingRequest) -> EngineDisk:
        """Return what the Docker engine keeps on its disk."""
        return await self.engine.disk()


class PruneEndpoint(EngineEndpoint):
    """`/api/system/docker/image/prune`."""

    @call("DELETE", Success(HTTPStatus.OK, "What Docker says of it."))
    async def prune_images(
        self, request: StreamingRequest
    ) -> Annotated[dict[str, Any], "`ImagesDeleted` and `SpaceReclaimed`, in bytes."]:
        """Remove images without a name that no container uses.

        When that takes longer than a Panel waits, the answer is 409. The removal goes on, a second
        call does not begin another, and the next one after its end gets the result.
        """
        return await self.engine.prune()

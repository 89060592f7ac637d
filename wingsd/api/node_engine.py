"""The disk of the node's Docker engine, and the removal of unused images from it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from wingsd.api.resource import Endpoint
from wingsd.config import Config
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

    def __init__(
        self, config: Config, engine: NodeEngine | None, parts: Mapping[str, bytes] = {}
    ) -> None:
        super().__init__(config, parts)
        self._asked = engine

    @property
    def engine(self) -> NodeEngine:
        """The engine. Raises `EngineUnavailable` on a node without one."""
        if self._asked is None:
            raise EngineUnavailable("docker.enabled is false in its configuration")
        return self._asked


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

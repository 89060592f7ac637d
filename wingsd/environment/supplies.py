"""What must be on the engine before a container can be made: its network and its image."""

from __future__ import annotations

from time import monotonic

import attrs
from twisted.logger import Logger

from wingsd.config import Config
from wingsd.environment import engine
from wingsd.environment.calls import Talk
from wingsd.environment.container import image_source, registry_for
from wingsd.environment.network import network_spec
from wingsd.environment.pull import PullProgress, follow
from wingsd.errors import EnvironmentFailed
from wingsd.model import Settings

__all__ = ["Supplies"]


class Supplies:
    """The networks and images of the node's containers."""

    _log = Logger()

    def __init__(self, config: Config) -> None:
        self._config = config

    async def ensure(self, talk: Talk, server: Settings) -> None:
        """Make the network if it is missing, and get the newest image, else the one at hand.

        Raises `EnvironmentFailed`.
        """
        await self._ensure_network(talk, server)
        await self._ensure_image(talk, server)

    async def _ensure_network(self, talk: Talk, server: Settings) -> None:
        spec = network_spec(self._config, server)
        if spec is not None and await talk.ask(engine.ensure_network, spec):
            self._log.info("network {network} created", network=spec.name)

    async def _ensure_image(self, talk: Talk, server: Settings) -> None:
        image = image_source(server)
        if image.local_only:
            if not await talk.ask(engine.image_exists, image.name):
                raise EnvironmentFailed(
                    f"there is no image {image.name} on this node, and it is never pulled since "
                    "the Panel names it with a leading ~: load or build it here under that name, "
                    "or remove the ~ to have it pulled"
                )
            return
        why = await self._pull(talk, server.uuid, image.name)
        if not why:
            return
        if not await talk.ask(engine.image_exists, image.name):
            raise EnvironmentFailed(
                f"the image {image.name} could not be pulled, and there is none of that name on "
                f"this node: {why}"
            )
        self._log.warn(
            "{server}: {image} could not be pulled, the one on this node is used: {why}",
            server=server.uuid,
            image=image.name,
            why=why,
        )

    async def _pull(self, talk: Talk, uuid: str, image: str) -> str:
        """Pull `image`; return why that failed, empty when it did not."""
        names = {"server": uuid, "image": image}
        self._log.info("{server}: pulling {image}", **names)
        registry = registry_for(self._config.docker.registries, image)
        auth = attrs.asdict(registry) if registry else None
        progress = PullProgress()

        def follow_pull(_: object) -> bool:
            return follow(progress, lines, monotonic)

        try:
            lines = await talk.run(engine.pull_lines, image, auth)
            # Some seconds at a time, so that no thread has to log.
            while await talk.run(follow_pull):
                so_far = str(progress)
                self._log.info("{server}: pulling {image}: {progress}", progress=so_far, **names)
        except engine.FAILURES as error:
            return engine.explain(error)
        if progress.error:
            return progress.error
        self._log.info("{server}: {image} is up to date", **names)
        return ""

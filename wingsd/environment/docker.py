"""The container engine: makes and removes the containers that `container` describes.

docker-py blocks, so each of its calls runs in a thread of a `Workers`; what is decided and what
is logged happens on the reactor, between the calls. Whatever goes wrong comes out as
`EnvironmentFailed`, with the engine's own explanation in its detail.

Settings that a kernel does not support (block I/O weight, the out-of-memory killer) need no care
here: the engine discards them by itself and says so in warnings, which are logged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import ParamSpec, Protocol, TypeVar

import attrs
from docker.errors import APIError
from twisted.logger import Logger

from wingsd.bridge import Workers
from wingsd.config import Config
from wingsd.environment import engine
from wingsd.environment.container import ContainerSpec, container_spec, image_source, registry_for
from wingsd.environment.network import network_spec
from wingsd.errors import EnvironmentFailed
from wingsd.model import Settings

__all__ = ["DockerEnvironment", "Environment", "NoEnvironment"]

P = ParamSpec("P")
T = TypeVar("T")


class Environment(Protocol):
    """What a server runs in."""

    async def create(self, server: Settings) -> bool:
        """Make the environment of `server`; return whether this call made it.

        One that is there already is kept. Raises `EnvironmentFailed`.
        """

    async def remove(self, uuid: str) -> None:
        """Remove the environment of a server, stopped or not; a missing one is fine.

        Raises `EnvironmentFailed`.
        """


class NoEnvironment:
    """The environment of a node that keeps files only (`docker.enabled: false`)."""

    async def create(self, server: Settings) -> bool:
        """Do nothing; return False."""
        return False

    async def remove(self, uuid: str) -> None:
        """Do nothing."""


class DockerEnvironment:
    """Containers of the Docker engine named by `config.docker.socket`.

    Each operation has a client of its own: a pull may keep one busy for long while other servers
    come and go, a requests session is not made for several threads, and an engine that was
    restarted or upgraded is met afresh. The price is one small request.
    """

    _log = Logger()

    def __init__(self, config: Config, workers: Workers) -> None:
        self._config = config
        self._workers = workers
        self._address = engine.address(config.docker.socket, os.environ)

    async def create(self, server: Settings) -> bool:
        """Create the container of `server`, with the network and the image that it needs.

        Return whether this call created it: a container of that name is kept. Raises
        `EnvironmentFailed`.
        """
        spec = container_spec(self._config, server)
        client = await self._ask(engine.Client, self._address)
        try:
            if await self._ask(engine.container_exists, client, spec.name):
                self._log.info("{server}: its container exists and is kept", server=spec.name)
                return False
            await self._ensure_network(client, server)
            await self._ensure_image(client, server)
            return await self._create(client, spec)
        finally:
            client.close()

    async def remove(self, uuid: str) -> None:
        """Remove the container of a server, killing it if it runs; a missing one is fine.

        Raises `EnvironmentFailed`.
        """
        client = await self._ask(engine.Client, self._address)
        try:
            if await self._ask(engine.remove_container, client, uuid):
                self._log.info("{server}: container removed", server=uuid)
        finally:
            client.close()

    async def _ensure_network(self, client: engine.Client, server: Settings) -> None:
        spec = network_spec(self._config, server)
        if spec is not None and await self._ask(engine.ensure_network, client, spec):
            self._log.info("network {network} created", network=spec.name)

    async def _ensure_image(self, client: engine.Client, server: Settings) -> None:
        image = image_source(server)
        if image.local_only:
            if not await self._ask(engine.image_exists, client, image.name):
                raise EnvironmentFailed(
                    f"there is no image {image.name} on this node, and it is never pulled since "
                    "the Panel names it with a leading ~: load or build it here under that name, "
                    "or remove the ~ to have it pulled"
                )
            return
        why = await self._pull(client, server.uuid, image.name)
        if not why:
            return
        if not await self._ask(engine.image_exists, client, image.name):
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

    async def _pull(self, client: engine.Client, uuid: str, image: str) -> str:
        """Pull `image`; return why that failed, empty when it did not."""
        names = {"server": uuid, "image": image}
        self._log.info("{server}: pulling {image}", **names)
        registry = registry_for(self._config.docker.registries, image)
        auth = attrs.asdict(registry) if registry else None
        progress = engine.PullProgress()
        try:
            lines = await self._workers.run(client.pull_lines, image, auth)
            # Some seconds at a time, so that no thread has to log.
            while await self._workers.run(engine.follow, progress, lines, monotonic):
                so_far = str(progress)
                self._log.info("{server}: pulling {image}: {progress}", progress=so_far, **names)
        except engine.FAILURES as error:
            return engine.explain(error)
        if progress.error:
            return progress.error
        self._log.info("{server}: {image} is up to date", **names)
        return ""

    async def _create(self, client: engine.Client, spec: ContainerSpec) -> bool:
        for mount in spec.refused_mounts:
            self._log.warn(
                "{server}: mount of {source} left out, it is not below one of allowed_mounts",
                server=spec.name,
                source=mount.source,
            )
        warnings = await self._ask(engine.create_container, client, spec)
        if warnings is None:
            self._log.info("{server}: its container exists and is kept", server=spec.name)
            return False
        for warning in warnings:
            self._log.info("{server}: Docker: {warning}", server=spec.name, warning=warning)
        self._log.info("{server}: container created", server=spec.name)
        return True

    async def _ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns from a thread, its failures as `EnvironmentFailed`."""
        try:
            return await self._workers.run(work, *args, **kwargs)
        except APIError as error:
            raise EnvironmentFailed(f"Docker refuses: {engine.explain(error)}") from error
        except engine.FAILURES as error:
            raise EnvironmentFailed(
                f"the Docker engine at {self._address} does not answer: {engine.explain(error)}; "
                "start it, or correct docker.socket in the configuration"
            ) from error

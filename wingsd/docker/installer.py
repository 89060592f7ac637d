"""Installers on a Docker engine: containers that run an egg's script in a server's directory.

Calls to the engine run in threads (`async_engine`). Failures are `EnvironmentFailed`, with the
engine's explanation in the detail. Operations on the installer of one server run in the order of
their calls, and after a cancelled one the next begins when the engine has finished it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import Config
from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine, EngineSession
from wingsd.docker.container import home_directory, image_named, with_network
from wingsd.docker.engine import ContainerState, foreign_container
from wingsd.docker.images import ImagesAndNetworks
from wingsd.docker.installer_spec import (
    INSTALLER_LABELS,
    OWN_LABELS,
    installer_name,
    installer_spec,
)
from wingsd.docker.process import ContainerProcess
from wingsd.docker.runtime import InstallerState, PullListener, Running, Watcher, engine_address
from wingsd.docker.streams import ContainerStreams
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import InstallScript, Settings
from wingsd.threadio import Workers
from wingsd.util.observer import Observer
from wingsd.util.reactor import Reactor
from wingsd.util.text import canonical_uuid

__all__ = ["DockerInstaller"]

#: Seconds to wait for a name that the engine still uses for a request of a daemon that died, and
#: between two attempts.
NAME_TIMEOUT = 30.0
PAUSE = 0.1


class DockerInstaller:
    """The `Installer` of containers on the engine named by `config.docker.socket`."""

    enabled = True
    _log = Logger()

    def __init__(
        self, config: Config, workers: Workers, reactor: Reactor, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._images = ImagesAndNetworks(config)
        self._reactor = reactor
        address = engine_address(config.docker.socket, os.environ)
        self._engine = AsyncEngine(workers, address, observer)
        self._streams = ContainerStreams(reactor, address)

    async def create(
        self, settings: Settings, script: InstallScript, directory: str, listener: PullListener
    ) -> None:
        """Pull the image and create the container, in place of one that is left over.

        `directory` has the script. Raises `EnvironmentFailed`.
        """
        spec = installer_spec(self._config, settings, script, directory)
        async with self._engine.exclusive_session(spec.name) as session:
            await self._check_name(session, settings.uuid)
            await self._remove(session, settings.uuid)
            image = image_named(script.container_image)
            network = await self._images.ensure(session, settings, image, listener)
            spec = with_network(spec, network)
            deadline = self._reactor.seconds() + NAME_TIMEOUT
            while (warnings := await session.call(engine.create_container, spec)) is None:
                if self._reactor.seconds() > deadline:
                    raise EnvironmentFailed(
                        f"the name {spec.name} is taken on this Docker engine; see the engine's "
                        "log, and restart it"
                    )
                await deferLater(self._reactor, PAUSE)
                await self._remove(session, settings.uuid)
        for warning in warnings:
            self._log.info("{server}: Docker: {warning}", server=spec.name, warning=warning)

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Start the created container; `watcher` gets its output from the first byte.

        Raises `EnvironmentFailed`.
        """
        name = installer_name(uuid)
        async with self._engine.exclusive_session(name) as session:
            state = await self._own(session, uuid)
            if state is None:
                raise EnvironmentFailed(f"there is no container {name} that could be started")
            process = self._process(uuid, state, watcher)
            await process.start(session)
        process.follow()
        return process

    async def find(self, uuid: str) -> InstallerState | None:
        """Return the state of the server's installer, None when this node has none.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            state = await self._own(session, uuid)
        if state is None:
            return None
        return InstallerState(
            has_started=state.started is not None,
            is_running=state.running,
            exit_status=state.exit_status,
            out_of_memory=state.out_of_memory,
            is_foreign=not OWN_LABELS.items() <= state.labels.items(),
            image=state.image,
            entrypoint=next(iter(state.command), ""),
            environment=dict(map(_variable, state.environment)),
        )

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch the server's installer from now on, None when it does not run.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            state = await self._own(session, uuid)
            if state is None or not state.running:
                return None
            process = self._process(uuid, state, watcher)
            if not await process.join(session):
                return None
        process.follow()
        return process

    async def copy_output(self, uuid: str, write: Callable[[bytes], object]) -> None:
        """Call `write`, in a thread, with all that the installer has written so far.

        Raises `EnvironmentFailed`, and what `write` raises.
        """
        async with self._engine.session() as session:
            state = await self._own(session, uuid)
            if state is not None:
                await session.call(engine.copy_output, state.id, write)

    async def remove(self, uuid: str) -> None:
        """Remove the server's installer with its volumes, killing it if it runs.

        A missing one is ignored, and another node's stays. Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            await self._remove(session, uuid)

    async def all(self) -> list[str]:
        """Return the servers of this node that have an installer. Raises `EnvironmentFailed`."""
        async with self._engine.session() as session:
            names = await session.call(engine.names_with_labels, INSTALLER_LABELS)
            found = [canonical_uuid(name.removesuffix("_installer")) for name in names]
            own = []
            for uuid in filter(None, found):
                state = await session.call(engine.look, installer_name(uuid))
                if state is not None and not self._foreign_reason(state, uuid):
                    own.append(uuid)
        return own

    async def _remove(self, session: EngineSession, uuid: str) -> None:
        state = await self._own(session, uuid)
        if state is not None:
            await session.call(engine.remove_container, state.id, force=True)
            self._log.info("{server}: installer removed", server=uuid)

    async def _own(self, session: EngineSession, uuid: str) -> ContainerState | None:
        """Return the installer of a server, None where this node has none."""
        state = await session.call(engine.look, installer_name(uuid))
        return None if state is None or self._foreign_reason(state, uuid) else state

    async def _check_name(self, session: EngineSession, uuid: str) -> None:
        """Raise `EnvironmentFailed` where another node's container has the installer's name."""
        state = await session.call(engine.look, installer_name(uuid))
        why_not = state and self._foreign_reason(state, uuid)
        if why_not:
            raise EnvironmentFailed(f"{why_not}; give each node an engine of its own")

    def _foreign_reason(self, state: ContainerState, uuid: str) -> str:
        home = home_directory(self._config, uuid)
        return foreign_container(state, installer_name(uuid), home)

    def _process(self, uuid: str, state: ContainerState, watcher: Watcher) -> ContainerProcess:
        return ContainerProcess(
            uuid, state.id, watcher, self._engine, self._streams, self._reactor
        )


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value

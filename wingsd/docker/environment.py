"""The servers' containers on a Docker engine: made, renewed, removed, started and found again.

docker-py blocks, so its calls run in threads (`calls`); what is decided and what is logged happens
on the reactor, between the calls. Whatever goes wrong comes out as `EnvironmentFailed`, with the
engine's own explanation in its detail.

Settings that a kernel does not support (block I/O weight, the out-of-memory killer) need no care
here: the engine discards them by itself and says so in warnings, which are logged.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import Config
from wingsd.docker import engine
from wingsd.docker.async_engine import Engine, Talk
from wingsd.docker.container import (
    ContainerSpec,
    container_spec,
    home_directory,
    judge_mounts,
    with_mounts,
)
from wingsd.docker.engine import ContainerState, console_lines, in_the_way
from wingsd.docker.images import ImagesAndNetworks
from wingsd.docker.process import ContainerProcess
from wingsd.docker.runtime import Running, Watcher
from wingsd.docker.streams import ContainerStreams
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings
from wingsd.threadio import Workers
from wingsd.util.observer import Observer

__all__ = ["DockerEnvironment"]

#: Seconds until a container must be there, or gone, that the engine makes or removes for somebody
#: else; and between two looks at it.
MADE_WITHIN = 30.0
PAUSE = 0.1


class DockerEnvironment:
    """The `Environment` of containers on the engine named by `config.docker.socket`.

    What is done to one server is done in the order it was asked for. An operation that is
    cancelled lets the next begin when the engine has finished what it was told; so `remove` after
    a cancelled `create` leaves nothing, and what a cancelled `start` started can be adopted.
    """

    _log = Logger()

    def __init__(
        self, config: Config, workers: Workers, reactor: Any, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._workers = workers
        self._supplies = ImagesAndNetworks(config)
        self._reactor = reactor
        address = engine.address(config.docker.socket, os.environ)
        self._engine = Engine(workers, address, observer)
        self._streams = ContainerStreams(reactor, address)

    async def create(self, settings: Settings) -> bool:
        """Create the container of a server, with the network and the image that it needs.

        Return whether this call created it: one of this node is kept. Raises `EnvironmentFailed`,
        also when another node's is in the way.
        """
        spec = container_spec(self._config, settings)
        async with self._engine.turn(spec.name) as talk:
            if await self._own(talk, spec.name):
                self._log.info("{server}: its container exists and is kept", server=spec.name)
                return False
            await self._supplies.ensure(talk, settings)
            return await self._create(talk, await self._with_mounts(spec, settings))

    async def name_conflict(self, uuid: str) -> str:
        """Return which container of another node's has the server's name; empty for none.

        Raises `EnvironmentFailed` when the engine does not tell.
        """
        async with self._engine.talk() as talk:
            state = await talk.ask(engine.look, uuid)
        return "" if state is None else self._in_the_way(state, uuid)

    async def recreate(self, settings: Settings) -> None:
        """Create the container anew from fresh settings, and remove the one there is.

        It is removed at the last moment: when the image cannot be had, it stays. Raises
        `EnvironmentFailed`, also when it runs, and when another node's is in the way.
        """
        spec = container_spec(self._config, settings)
        async with self._engine.turn(spec.name) as talk:
            self._check_stopped(await self._own(talk, spec.name), spec.name)
            await self._supplies.ensure(talk, settings)
            spec = await self._with_mounts(spec, settings)
            own = await self._own(talk, spec.name)
            if own is not None:
                await talk.ask(engine.remove_container, own.id, force=False)
            await self._create(talk, spec)

    async def remove(self, uuid: str) -> None:
        """Remove the container of a server, killing it if it runs.

        A missing one is fine, and another node's stays. Raises `EnvironmentFailed`.
        """
        async with self._engine.turn(uuid) as talk:
            state = await talk.ask(engine.look, uuid)
            if state is None:
                return
            why_not = self._in_the_way(state, uuid)
            if why_not:
                self._log.info("{server}: not removed: {why}", server=uuid, why=why_not)
            elif await talk.ask(engine.remove_container, state.id, force=True):
                self._log.info("{server}: container removed", server=uuid)

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Start the container of a server; `watcher` is told from its first byte on.

        Raises `EnvironmentFailed`, also when there is none, when it runs already, and when it is
        another node's.
        """
        async with self._engine.turn(uuid) as talk:
            own = await self._own(talk, uuid)
            self._check_stopped(own, uuid)
            if own is None:
                raise EnvironmentFailed(f"there is no container {uuid} that could be started")
            process = self._process(own, uuid, watcher)
            await process.attach()
            try:
                await talk.ask(engine.start_container, own.id)
            except BaseException:
                process.detach()
                raise
        process.follow()
        self._log.info("{server}: container started", server=uuid)
        return process

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch the container of a server from now on, if it is this node's and runs.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.turn(uuid) as talk:
            state = await talk.ask(engine.look, uuid)
            if state is None or not state.running or self._in_the_way(state, uuid):
                return None
            process = self._process(state, uuid, watcher)
            await process.attach()
            try:
                # It may have ended before, and would not be seen to end any more.
                now = await talk.ask(engine.look, state.id)
            except BaseException:
                process.detach()
                raise
        if now is None or not now.running:
            process.detach()
            return None
        process.follow()
        self._log.info("{server}: its container runs already and is watched", server=uuid)
        return process

    async def logs(self, uuid: str, lines: int) -> list[str]:
        """Return the last lines of a container's console, as far as the engine has kept them.

        Empty when this node has no container of that name. Raises `EnvironmentFailed`.
        """
        if lines <= 0:
            return []
        async with self._engine.talk() as talk:
            state = await talk.ask(engine.look, uuid)
            if state is None or self._in_the_way(state, uuid):
                return []
            return console_lines(await talk.ask(engine.console, state.id, lines))

    # Whose it is

    def _in_the_way(self, state: ContainerState, uuid: str) -> str:
        return in_the_way(state, uuid, home_directory(self._config, uuid))

    async def _own(self, talk: Talk, uuid: str) -> ContainerState | None:
        """Return the server's container, None for none; another node's is a failure."""
        state = await talk.ask(engine.look, uuid)
        why_not = state and self._in_the_way(state, uuid)
        if why_not:
            raise EnvironmentFailed(
                f"{why_not}; two nodes that share an engine cannot both have a server: delete it "
                "on the other node first, or give each node an engine of its own"
            )
        return state

    def _check_stopped(self, state: ContainerState | None, uuid: str) -> None:
        if state is not None and state.running:
            raise EnvironmentFailed(f"the container {uuid} is running; stop the server first")

    def _process(self, state: ContainerState, uuid: str, watcher: Watcher) -> ContainerProcess:
        return ContainerProcess(
            uuid, state.id, watcher, self._engine, self._streams, self._reactor
        )

    async def _with_mounts(self, spec: ContainerSpec, settings: Settings) -> ContainerSpec:
        """Add the mounts that are allowed, as late as can be: links may be changed meanwhile."""
        if not settings.mounts:
            return spec
        judged = await self._workers.run(
            judge_mounts, self._config.allowed_mounts, settings.mounts
        )
        for source in judged.refused:
            self._log.warn(
                "{server}: mount of {source} left out, it is not below one of allowed_mounts",
                server=spec.name,
                source=source,
            )
        return with_mounts(spec, judged.allowed)

    async def _create(self, talk: Talk, spec: ContainerSpec) -> bool:
        warnings = await self._create_unless_there(talk, spec)
        if warnings is None:
            self._log.info("{server}: its container exists and is kept", server=spec.name)
            return False
        for warning in warnings:
            self._log.info("{server}: Docker: {warning}", server=spec.name, warning=warning)
        self._log.info("{server}: container created", server=spec.name)
        return True

    async def _create_unless_there(self, talk: Talk, spec: ContainerSpec) -> list[str] | None:
        """Return the engine's warnings, None where the container is there already."""
        deadline = self._reactor.seconds() + MADE_WITHIN
        while self._reactor.seconds() < deadline:
            warnings = await talk.ask(engine.create_container, spec)
            if warnings is not None or await self._own(talk, spec.name):
                return warnings
            # The name is taken, and nobody has it yet, or any more: another node, or a daemon
            # that died, has asked the engine for something that it is still busy with.
            await deferLater(self._reactor, PAUSE)
        raise EnvironmentFailed(
            f"the name {spec.name} is taken on this Docker engine, which in {MADE_WITHIN:g} s has "
            "neither made nor removed a container of it: see the engine's log, and restart it"
        )

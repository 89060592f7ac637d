"""The servers of a node: their containers, installations and directories."""

from __future__ import annotations

import os
from functools import partial

from twisted.internet.defer import Deferred

from wingsd.api.system import AskEngine
from wingsd.app.wiring.base import BaseWiring
from wingsd.config import CALAGOPUS, Config
from wingsd.docker.installer_spec import installer_environment
from wingsd.docker.runtime import (
    EngineInformation,
    Environment,
    Installer,
    NoEnvironment,
    NoInstaller,
    engine_address,
)
from wingsd.node.answers import SharedAnswer
from wingsd.servers import Servers
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.install_files import InstallLog, ScriptDirectories
from wingsd.servers.installation import InstallParts
from wingsd.servers.installations import Installations
from wingsd.servers.running import RunningServers
from wingsd.servers.states_file import StatesFile
from wingsd.servers.taken_over import TakenOver
from wingsd.util.reactor import Reactor

__all__ = ["ServersWiring"]

#: Seconds for which the engine's version and its numbers of containers are kept.
INFORMATION_KEPT = 1.0


class ServersWiring(BaseWiring):
    """The objects of a node's servers."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self._directories = ServerDirectories.configured(config, self.owner, self.quotas)
        self._environment = self._make_environment()
        self._engine = self._ask_engine()
        self.installations = self._make_installations()
        self.servers = self._make_servers()
        states = StatesFile(config.system.root_directory, self.pools.database)
        self.running = RunningServers(states, self.database, self._bus, reactor)

    def _make_environment(self) -> Environment:
        if not self._config.docker.enabled:
            return NoEnvironment()
        # Here, since docker-py and its libraries take 8 MiB, which a node without Docker saves.
        from wingsd.docker.environment import DockerEnvironment  # noqa: PLC0415

        environment = DockerEnvironment(
            self._config, self.pools.engine, self._reactor, self.observer
        )
        self.live.follow(environment.use)
        return environment

    def _make_installer(self) -> Installer:
        if not self._config.docker.enabled:
            return NoInstaller()
        from wingsd.docker.installer import DockerInstaller  # noqa: PLC0415 (see above)

        return DockerInstaller(self._config, self.pools.engine, self._reactor, self.observer)

    def _make_installations(self) -> Installations:
        config = self._config
        parts = InstallParts(
            panel=self.panel,
            installer=self._make_installer(),
            scripts=ScriptDirectories(config.system.tmp_directory),
            log=partial(InstallLog.configured, config),
            variables=partial(installer_environment, config),
            database=self.database,
            disk=self.pools.disk,
            reactor=self._reactor,
            throttles=config.throttles,
            limit=config.docker.installer_limits.timeout,
        )
        shows_outcome = config.family == CALAGOPUS
        taken_over = TakenOver(parts, config.system.root_directory)
        return Installations(parts, self.callbacks, taken_over, shows_outcome=shows_outcome)

    def _make_servers(self) -> Servers:
        return Servers(
            self._config,
            self.panel,
            self._environment,
            self._bus,
            self.installations,
            storage=ServerStorage(self._directories, self.pools.disk, self.pools.long),
            rewriters=self.pools.rewriters,
            reactor=self._reactor,
        )

    def _ask_engine(self) -> AskEngine | None:
        if not self._config.docker.enabled:
            return None
        from wingsd.docker import engine  # noqa: PLC0415 (see _make_environment)

        address = engine_address(self._config.docker.socket, os.environ)

        def ask() -> Deferred[EngineInformation]:
            return self.pools.engine.run(engine.information, address, self.observer)

        return SharedAnswer(ask, self._reactor, keep=INFORMATION_KEPT).get

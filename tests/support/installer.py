"""Installations of a node in memory: for tests without an engine."""

from __future__ import annotations

from functools import partial
from typing import Any

from wingsd.callbacks import CallbackQueue
from wingsd.config import Config
from wingsd.docker.container import installer_environment
from wingsd.docker.runtime import Containers
from wingsd.servers.install_files import InstallLog, ScriptDirectories
from wingsd.servers.installation import InstallParts
from wingsd.servers.installations import Installations
from wingsd.servers.taken_over import TakenOver
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers

__all__ = ["fake_installations"]


def fake_installations(
    config: Config,
    panel: Any,
    database: StateDatabase,
    disk: Workers,
    reactor: Any,
    containers: Containers,
    *,
    shows_outcome: bool = False,
) -> Installations:
    """Return installations of a node, whose installers are among `containers`."""
    parts = InstallParts(
        panel=panel,
        containers=containers,
        scripts=ScriptDirectories(config.system.tmp_directory),
        log=partial(InstallLog.configured, config),
        variables=partial(installer_environment, config),
        database=database,
        disk=disk,
        reactor=reactor,
        throttles=config.throttles,
        limit=config.docker.installer_limits.timeout,
    )
    callbacks = CallbackQueue(panel, database, reactor)
    taken_over = TakenOver(parts, config.system.root_directory)
    return Installations(parts, callbacks, taken_over, shows_outcome=shows_outcome)

"""Installations of a node in memory: for tests without an engine."""

from __future__ import annotations

from typing import Any

from wingsd.callbacks import CallbackQueue
from wingsd.config import Config
from wingsd.docker.runtime import ContainerRuntime
from wingsd.servers.installations import Installations, InstallParts
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers

__all__ = ["fake_installations"]


def fake_installations(
    config: Config,
    panel: Any,
    database: StateDatabase,
    disk: Workers,
    reactor: Any,
    containers: ContainerRuntime,
) -> Installations:
    """Return installations of a node, whose installers are among `containers`."""
    parts = InstallParts(config, panel, containers, database, disk, reactor)
    return Installations(parts, CallbackQueue(panel, database, reactor))

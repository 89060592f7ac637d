"""The endpoints of the calls about the node itself, with their collaborators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.api.resource import LaterEndpoint
from wingsd.api.system import AskEngine, SystemEndpoint
from wingsd.config import Config
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.figures import NodeFigures
from wingsd.servers.registry import Servers
from wingsd.threadio import Workers

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine

__all__ = ["NodeParts", "endpoints"]

DIAGNOSTICS = LaterEndpoint("diagnostics", "DiagnosticsEndpoint")
ENGINE_DISK = LaterEndpoint("node_engine", "EngineDiskEndpoint")
PRUNE = LaterEndpoint("node_engine", "PruneEndpoint")
ADDRESSES = LaterEndpoint("node_figures", "AddressesEndpoint")
USED_PORTS = LaterEndpoint("node_figures", "UsedPortsEndpoint")
UTILIZATION = LaterEndpoint("node_figures", "UtilizationEndpoint")
LOG_FILE = LaterEndpoint("node_logs", "LogFileEndpoint")
LOG_FILES = LaterEndpoint("node_logs", "LogFilesEndpoint")
CONFIG = LaterEndpoint("node_overview", "ConfigEndpoint")
OVERVIEW = LaterEndpoint("node_overview", "OverviewEndpoint")
SERVERS_UTILIZATION = LaterEndpoint("node_overview", "ServersUtilizationEndpoint")
STATS = LaterEndpoint("node_overview", "StatsEndpoint")
UPGRADE = LaterEndpoint("node_overview", "UpgradeEndpoint")


@attrs.frozen(eq=False, repr=False)
class NodeParts:
    """What the node is asked of: its figures, its diagnostics, and its engine, if it has one.

    `ask_engine` asks the engine for its version. `workers` are
    threads that no disk blocks. `current` returns the configuration in force, `path` is its file,
    empty without one.
    """

    figures: NodeFigures
    workers: Workers
    diagnostics: Diagnostics
    log: OwnLog
    disk: Workers
    current: Callable[[], Config]
    path: str = ""
    engine: NodeEngine | None = None
    ask_engine: AskEngine | None = None


def endpoints(
    config: Config, node: NodeParts, servers: Servers, reactor: IReactorTime
) -> list[partial[Any]]:
    """Return the endpoints of the node itself."""
    return [
        partial(SystemEndpoint, config, node.ask_engine, reactor),
        partial(UTILIZATION, config, node.figures),
        partial(ADDRESSES, config, node.workers),
        partial(USED_PORTS, config, node.workers, servers),
        partial(ENGINE_DISK, config, node.engine),
        partial(PRUNE, config, node.engine),
        partial(DIAGNOSTICS, config, node.diagnostics),
        partial(OVERVIEW, config, node.figures, servers),
        partial(STATS, config, node.figures),
        partial(SERVERS_UTILIZATION, config, servers),
        partial(CONFIG, config, node.current, node.path, node.disk),
        partial(LOG_FILES, config, node.log, node.disk),
        partial(LOG_FILE, config, node.log, node.disk),
        partial(UPGRADE, config),
    ]

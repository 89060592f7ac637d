"""The endpoints of the calls about the node itself, with their collaborators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.api.diagnostics import DiagnosticsEndpoint
from wingsd.api.node_engine import EngineDiskEndpoint, PruneEndpoint
from wingsd.api.node_figures import AddressesEndpoint, UtilizationEndpoint
from wingsd.api.node_logs import LogFileEndpoint, LogFilesEndpoint
from wingsd.api.node_overview import (
    ConfigEndpoint,
    OverviewEndpoint,
    ServersUtilizationEndpoint,
    StatsEndpoint,
    UpgradeEndpoint,
)
from wingsd.api.system import AskEngine, SystemEndpoint
from wingsd.config import Config
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.figures import NodeFigures
from wingsd.servers.registry import Servers
from wingsd.threadio import Workers

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine

__all__ = ["NodeParts", "endpoints"]


@attrs.frozen(eq=False, repr=False)
class NodeParts:
    """What the node is asked of: its figures, its diagnostics, and its engine, if it has one.

    `ask_engine` asks the engine for its version. `workers` are threads that no disk blocks.
    `current` returns the configuration in force, `path` is its file, empty without one.
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
        partial(UtilizationEndpoint, config, node.figures),
        partial(AddressesEndpoint, config, node.workers),
        partial(EngineDiskEndpoint, config, node.engine),
        partial(PruneEndpoint, config, node.engine),
        partial(DiagnosticsEndpoint, config, node.diagnostics),
        partial(OverviewEndpoint, config, node.figures, servers),
        partial(StatsEndpoint, config, node.figures),
        partial(ServersUtilizationEndpoint, config, servers),
        partial(ConfigEndpoint, config, node.current, node.path, node.disk),
        partial(LogFilesEndpoint, config, node.log, node.disk),
        partial(LogFileEndpoint, config, node.log, node.disk),
        partial(UpgradeEndpoint, config),
    ]

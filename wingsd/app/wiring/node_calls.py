"""What a node is asked about itself: its figures, its engine's disk and its diagnostics."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from wingsd.api.node import NodeParts
from wingsd.app.wiring.backups import BackupsWiring
from wingsd.config import Config
from wingsd.docker.runtime import engine_address
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine, OrphanedContainers
    from wingsd.node.figures import NodeFigures

__all__ = ["NodeCallsWiring"]


class NodeCallsWiring(BackupsWiring):
    """The objects that a node is asked about itself."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        engine = self._make_node_engine()
        self.orphans = self._make_orphans(engine)
        self.own_log = OwnLog(self.pools.disk, reactor)
        self.diagnostics = Diagnostics(
            lambda: self.live.current, engine, self.own_log, self.orphans
        )
        self.node_parts = NodeParts(
            figures=lambda: self.node_figures,
            workers=self.pools.figures,
            diagnostics=self.diagnostics,
            log=self.own_log,
            disk=self.pools.disk,
            current=lambda: self.live.current,
            path=path,
            engine=engine,
            ask_engine=self._engine,
        )

    @cached_property
    def node_figures(self) -> NodeFigures:
        """The figures of the machine."""
        # Here, since a node that nobody asks for them saves a quarter of a MiB and 5 ms.
        from wingsd.node.figures import NodeFigures  # noqa: PLC0415

        pools = self.pools
        return NodeFigures(self._config, pools.figures, pools.filesystems, self._reactor)

    def _make_node_engine(self) -> NodeEngine | None:
        if not self._config.docker.enabled:
            return None
        # Here, since docker-py takes 8 MiB, which a node without Docker saves.
        from wingsd.docker.async_engine import AsyncEngine  # noqa: PLC0415
        from wingsd.node.engine import NodeEngine  # noqa: PLC0415

        address = engine_address(self._config.docker.socket, os.environ)
        engine = AsyncEngine(self.pools.engine, address, self.observer)
        return NodeEngine(engine, self._reactor)

    def _make_orphans(self, engine: NodeEngine | None) -> OrphanedContainers | None:
        if engine is None:
            return None
        from wingsd.node.engine import OrphanedContainers  # noqa: PLC0415 (see above)

        return OrphanedContainers(
            engine, self._config, self.servers, self.database, self.panel, self._reactor
        )

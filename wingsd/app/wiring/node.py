"""The whole node, and its last objects: what starts and stops the others."""

from __future__ import annotations

from wingsd.app.daemon import Listeners, Node, NodeServers, NodeStorage, NodeTransfers
from wingsd.app.wiring.control import ControlWiring
from wingsd.config import Config
from wingsd.util.reactor import Reactor

__all__ = ["Wiring", "make_node"]


def make_node(config: Config, endpoint: str, reactor: Reactor) -> Node:
    """Return the node of a configuration, which listens at an endpoint description.

    Raises `ConfigError` when the configuration names invalid files.
    """
    return Wiring(config, endpoint, reactor).node()


class Wiring(ControlWiring):
    """The objects of a node, each made once."""

    def node(self) -> Node:
        """Return the node."""
        return Node(
            self._config,
            Listeners(self._http, self._metrics, self._control, self.sftp),
            NodeStorage(
                self.store,
                self.database,
                self.running,
                self.quotas,
                self.staging,
                self.backups,
                self.quarantine,
                self.restores,
                self.denied,
            ),
            NodeServers(
                self.servers,
                self.reports,
                self.pulls,
                self.made_backups,
                self.backup_checks,
                self.backup_rewrites,
                self.left_backups,
                self.orphans,
            ),
            NodeTransfers(
                self.receiver,
                self.arrived,
                self.sender,
                self.streams,
                self.direct_transfers,
                self.callbacks,
                self.make_recovery,
            ),
            self.pools,
            self.observer,
            self._reactor,
        )

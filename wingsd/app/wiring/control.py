"""The control socket of a node, by which `wingsctl` asks it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from wingsd.app.wiring.http import HttpWiring
from wingsd.config import Config
from wingsd.control import ControlApi, ControlListener
from wingsd.control.backups import ControlBackupsEndpoint, VerifyEndpoint
from wingsd.control.diagnostics import ControlDiagnosticsEndpoint
from wingsd.control.status import Activity, Probes, StatusEndpoint
from wingsd.control.transfers import (
    ControlTransfersEndpoint,
    ReceiveEndpoint,
    SendEndpoint,
    TransferEndpoint,
    TransferList,
)
from wingsd.util.reactor import Reactor

__all__ = ["ControlWiring"]


class ControlWiring(HttpWiring):
    """The objects of a node's control socket."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self._control = self._make_control()

    def _make_control(self) -> ControlListener:
        config, database, direct = self._config, self.database, self.direct_transfers
        transfers = TransferList(database, self.receiver, self.sender, direct, time.time())
        endpoints: list[partial[Any]] = [
            self._make_status_endpoint(),
            partial(
                ControlBackupsEndpoint,
                config,
                self.backup_store,
                self.made_backups,
                self.pools.disk,
            ),
            partial(VerifyEndpoint, config, self.backup_checks),
            partial(ControlDiagnosticsEndpoint, config, self.diagnostics),
            partial(ControlTransfersEndpoint, config, transfers),
            partial(TransferEndpoint, config, transfers, self.servers),
            partial(ReceiveEndpoint, config, direct, database, self.pools.disk, self._address),
            partial(SendEndpoint, config, direct, database),
        ]
        return ControlListener(config.control, ControlApi(endpoints), self._reactor)

    def _make_status_endpoint(self) -> partial[StatusEndpoint]:
        start = self._reactor.seconds()
        probes = Probes(
            self._config, self.panel, self._engine, self.pools.disk, self.staging, self._reactor
        )
        self.live.follow(probes.use)
        incoming = self.direct_transfers.incoming
        activity = Activity(self.servers, self.receiver, self.sender, incoming, self.callbacks)

        def uptime() -> float:
            return self._reactor.seconds() - start

        return partial(StatusEndpoint, self._config, self._address, uptime, probes, activity)

    def _address(self) -> str:
        return self._http.address

"""The control socket of a node, by which `wingsctl` asks it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wingsd.app.wiring.http import HttpWiring
from wingsd.config import Config
from wingsd.control import ControlApi, ControlListener
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.control.status import Activity, Probes
    from wingsd.control.transfers import TransferList

__all__ = ["ControlWiring"]


class ControlWiring(HttpWiring):
    """The objects of a node's control socket."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self._control = self._make_control()

    def _make_control(self) -> ControlListener:
        config, database, direct = self._config, self.database, self.direct_transfers
        transfers = self._transfer_list()
        api = ControlApi(
            {
                "/v1/status": self._status_collaborators(),
                "/v1/backups": (config, self.backup_store, self.made_backups, self.pools.disk),
                "/v1/backups/{backup}/verify": (config, self.backup_checks),
                "/v1/backups/{backup}/for-wings": (config, self.backup_rewrites),
                "/v1/diagnostics": (config, self.diagnostics),
                "/v1/servers": (config, self.servers),
                "/v1/transfers": (config, transfers),
                "/v1/transfers/{uuid}": (config, transfers, self.servers),
                "/v1/kept/{uuid}": (config, transfers),
                "/v1/receive": (config, direct, database, self.pools.disk, self._address),
                "/v1/send": (config, direct, database),
            }
        )
        return ControlListener(config.control, api, self._reactor)

    def _transfer_list(self) -> Later[TransferList]:
        started = time.time()

        def make() -> TransferList:
            # Here, like those below, since a node that nobody asks saves what they import.
            from wingsd.control.transfers import KeptCopies, TransferList  # noqa: PLC0415

            direct = self.direct_transfers
            kept = KeptCopies(self.partial_copies, self.backups, self.pools.long)
            return TransferList(self.database, self.receiver, self.sender, direct, kept, started)

        return Later(make)

    def _status_collaborators(self) -> Sequence[Any]:
        start = self._reactor.seconds()
        probes, activity = Later(self._probes), Later(self._status_activity)

        def use(config: Config) -> None:
            if probes.made is not None:
                probes.made.use(config)

        self.live.follow(use)

        def uptime() -> float:
            return self._reactor.seconds() - start

        return (self._config, self._address, uptime, probes, activity)

    def _probes(self) -> Probes:
        from wingsd.control.status import Probes  # noqa: PLC0415

        config, disk = self.live.current, self.pools.disk
        return Probes(
            config, self.panel, self._engine, self.orphans, disk, self.staging, self._reactor
        )

    def _status_activity(self) -> Activity:
        from wingsd.control.status import Activity  # noqa: PLC0415

        incoming = self.direct_transfers.incoming
        return Activity(self.servers, self.receiver, self.sender, incoming, self.callbacks)

    def _address(self) -> str:
        return self._http.address

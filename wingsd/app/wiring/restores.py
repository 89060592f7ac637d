"""The restoring of backups on a node."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.defer import DeferredSemaphore

from wingsd import __version__
from wingsd.app.process import RESTORERS
from wingsd.app.wiring.transfers import TransfersWiring
from wingsd.archive.quota import ArchiveLimits
from wingsd.config import CALAGOPUS, Config
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.restores.links import RestoreLinks
    from wingsd.restores.manager import Restores

__all__ = ["RestoresWiring"]


class RestoresWiring(TransfersWiring):
    """The objects that restore backups."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self.restores = Later(self._make_restores)

    def _make_restores(self) -> Restores:
        # Here, since a node without restores saves what they import.
        from wingsd.restores.content import ContentParts  # noqa: PLC0415
        from wingsd.restores.leftovers import RestoreLeftovers  # noqa: PLC0415
        from wingsd.restores.manager import Restores  # noqa: PLC0415
        from wingsd.restores.restore import RestoreReporting  # noqa: PLC0415
        from wingsd.restores.storage import RestoreStorage  # noqa: PLC0415

        config, pools = self._config, self.pools
        system = config.system
        storage = RestoreStorage(
            self.staging, Path(system.data), self.owner, self.quotas, system.transfers.durable
        )
        parts = ContentParts(
            storage=storage,
            workers=pools.restorers,
            slots=DeferredSemaphore(RESTORERS),
            disk=pools.disk,
            long=pools.long,
            limits=ArchiveLimits.configured(system.transfers),
        )
        return Restores(
            self.servers,
            parts,
            RestoreLeftovers(storage, pools.long, system.backups.quarantine_days),
            RestoreReporting(self.database, self.callbacks, self.running, self._reactor),
            for_calagopus=config.family == CALAGOPUS,
        )

    @cached_property
    def restore_links(self) -> RestoreLinks:
        """What opens links to backups in S3."""
        # Here, since a node without backups in S3 saves what its libraries take.
        from wingsd.restores.links import RestoreLinks  # noqa: PLC0415

        allowlist = self._config.system.backups.restore_host_allowlist
        return RestoreLinks.configured(
            self._reactor,
            allowlist,
            f"wingsd/{__version__}",
            self.resolve,
            trusts_panel=not self._config.is_pelican,
        )

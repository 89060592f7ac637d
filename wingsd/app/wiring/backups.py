"""The backups of a node's servers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wingsd.app.wiring.base import MIB
from wingsd.app.wiring.restores import RestoresWiring
from wingsd.archive import ArchiveFormat, ArchiveLimits, Compression
from wingsd.backups.adapters import Adapter, LocalAdapter
from wingsd.backups.checks import BackupChecks, CheckSchedule
from wingsd.backups.creation import BackupParts, Backups
from wingsd.backups.deletion import BackupDeletion
from wingsd.backups.dialect import checksum_type_of
from wingsd.backups.making import ArchiveTerms
from wingsd.backups.recovery import BackupRecovery
from wingsd.backups.store import BackupStore
from wingsd.config import CALAGOPUS, Config
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.backups.s3.adapter import S3Adapter

__all__ = ["BackupsWiring"]


class BackupsWiring(RestoresWiring):
    """The objects of a node's backups."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self.backup_store = BackupStore(config.system.backup_directory, config.family)
        parts, adapters = self._backup_parts(), self._backup_adapters()
        concurrent = config.system.backups.concurrent
        self.made_backups = Backups(parts, adapters, concurrent)
        self.backup_recovery = BackupRecovery(parts, adapters, self.made_backups)
        self.backup_deletion = BackupDeletion(
            self.backup_store,
            self.made_backups,
            self.pools.disk,
            self.callbacks,
            self._bus,
        )
        self.backup_checks = self._make_checks()

    def _backup_parts(self) -> BackupParts:
        config, pools = self._config, self.pools
        return BackupParts(
            family=config.family,
            store=self.backup_store,
            terms=self._archive_terms(),
            database=self.database,
            callbacks=self.callbacks,
            bus=self._bus,
            workers=pools.backups,
            disk=pools.disk,
            reactor=self._reactor,
        )

    def _make_checks(self) -> BackupChecks:
        settings, pools = self._config.system.backups, self.pools
        schedule = CheckSchedule(settings.check_interval, settings.check_limit * MIB)
        return BackupChecks(
            self.backup_store, schedule, pools.backups, pools.disk, self._reactor, time.time
        )

    def _backup_adapters(self) -> dict[str, Later[Adapter]]:
        """Return what keeps backups, by the kind that a Panel asks for."""
        local = LocalAdapter(self.backup_store, self.pools.disk)
        return {"wings": Later(lambda: local), "s3": Later(self._s3_adapter)}

    def _s3_adapter(self) -> S3Adapter:
        # Here, since a node without backups in S3 saves what they import.
        from wingsd.backups.s3.adapter import S3Adapter, S3Terms  # noqa: PLC0415
        from wingsd.backups.s3.parts import StoreLimits  # noqa: PLC0415

        config, settings = self._config, self._config.system.backups.s3
        limits = StoreLimits(part=settings.part_upload_timeout)
        return S3Adapter(
            self.panel,
            self.backup_store,
            self.pools.uploads,
            self._reactor,
            S3Terms(config.family, settings.retry_limit, limits),
        )

    def _archive_terms(self) -> ArchiveTerms:
        system, family = self._config.system, self._config.family
        form = ArchiveFormat.TAR_GZ
        if family == CALAGOPUS:
            wanted = system.backups.wings.archive_format
            form = next((each for each in ArchiveFormat if each.value == wanted), form)
        return ArchiveTerms(
            form=form,
            compression=Compression(system.backups.compression_level),
            checksum_type=checksum_type_of(family),
            write_limit=system.backups.write_limit * MIB,
            reserve=ArchiveLimits.configured(system.transfers).reserve,
        )
